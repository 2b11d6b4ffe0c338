#!/bin/busybox sh
# The first program of the Linux dom0: starts Xen's daemons, then obeys the control port.
#
# Ports: the console hvc0 is Xen's log; ttyS1 carries the guest's console both ways, byte for
# byte; ttyS2 is the control port, where each line is a number, the length of a command and the
# command, which this shell evaluates. Lines that come by themselves, such as what xl reports of a
# domain, start with "xl: ", but for the sign of life.

/bin/busybox --install -s /bin
export PATH=/usr/lib/xen/bin:/bin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts

for module in $(cat /modules/order); do
    case $module in
        *.xz) xzcat "/modules/$module" > /tmp/module; insmod /tmp/module ;;
        *) insmod "/modules/$module" ;;
    esac
done
mount -t xenfs xenfs /proc/xen

xenstored --pid-file /var/run/xenstored.pid
xen-init-dom0
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/var/run/xenconsoled.pid

stty -F /dev/ttyS1 raw -echo 115200
# The control port hands over whole lines: a child that ends while the shell is in the middle of one
# makes it forget the beginning.
stty -F /dev/ttyS2 raw -echo icanon 115200
exec 3<>/dev/ttyS2

# create CONFIG [key=value]...: starts a domain and reports until it is gone.
create() {
    rm -f /var/log/xen/console/*
    { xl create -F "$@" 2>&1; echo "exit $?"; } | while read -r line; do
        echo "xl: $line" >&3
    done &
}

# attach DOMID: joins the domain's console and the guest port.
attach() {
    until tty=$(xenstore-read "/local/domain/$1/console/tty" 2>/dev/null); do usleep 20000; done
    cat "$tty" > /dev/ttyS1 & out=$!
    cat /dev/ttyS1 > "$tty" & in=$!
}

# detach: parts them again, if they were joined: without numbers, `wait` would wait for everything.
detach() {
    if [ "$in" ]; then
        kill $in $out
        wait $in $out
    fi
    in= out=
} 2>/dev/null

# console_size: how many bytes the domain has written to its console.
console_size() {
    cat /var/log/xen/console/* 2>/dev/null | wc -c
}

# piece FILE OFFSET BYTES: a part of a file, packed, in hexadecimal digits.
piece() {
    tail -c +$(($2 + 1)) "$1" | head -c "$3" | gzip | xxd -p
}

# A sign of life every second: by it a dom0 that is stuck is told from one that is slow. It makes
# the port interrupt as well, which has Linux look at a line whose interrupt was lost.
while sleep 1; do echo alive; done >&3 &

# A line that is not as long as it says is asked for again, and one that was carried out is not carried
# out twice: half a line may be a syntax error, which ends this shell, and Linux with it.
last=
echo ready >&3
while read -r number length command <&3; do
    if [ "${#command}" != "$length" ]; then
        echo "again: $number $length $command" >&3
        continue
    fi
    if [ "$number" != "$last" ]; then
        last=$number
        eval "$command" >&3 2>&1
    fi
    echo "done $number" >&3
done
