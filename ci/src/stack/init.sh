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

# save [OPTION] DOMID FILE: saves a domain, without the lines that draw how far it is.
save() {
    xl save "$@" > /tmp/said 2>&1
    saved=$?
    tr '\r' '\n' < /tmp/said | grep -v '^xc: Frames'
    echo
    return $saved
}

# filler MIB: has a domain, which never runs, take the place of what was freed last; the one before goes.
filler() {
    xl list filler > /dev/null 2>&1 && xl destroy filler
    xl create -pq /repo/xen-cfg/guest.cfg 'name="filler"' "memory=$1" 2>&1
}

# restore FILE: begins a domain that was saved, and reports likewise. What it said before stays.
restore() {
    { xl restore -F "$1" 2>&1; echo "exit $?"; } | while read -r line; do
        echo "xl: $line" >&3
    done &
}

# follow DOMID: reports until a domain is gone that was suspended and goes on: xl does so no longer. A
# suspend is no end.
follow() {
    {
        said=
        while state=$(xl list -v "$1" 2>/dev/null); do
            code=$(echo "$state" | awk 'END { print $5 ~ /s/ ? $8 : 2 }')
            if [ "$code" != 2 ] && [ "$code" != "$said" ]; then
                said=$code
                echo "xl: Domain $1 has shut down, reason code $code" >&3
            fi
            usleep 200000
        done
        echo "xl: exit 0" >&3
    } &
    follower=$!
}

# unfollow: reports no more.
unfollow() {
    if [ "$follower" ]; then
        kill $follower
        wait $follower
    fi
    follower=
} 2>/dev/null

# ended DOMID: says so if a domain has shut down, as `follow` does; for who waits for xl to say it.
ended() {
    xl list -v "$1" 2>/dev/null | awk '$5 ~ /s/ && $8 ~ /^[0-9]+$/ && $8 != 2 {
        print "Domain " $2 " has shut down, reason code " $8 }'
}

# attach DOMID: joins the domain's console and the guest port.
attach() {
    looks=0
    until tty=$(xenstore-read "/local/domain/$1/console/tty" 2>/dev/null); do
        looks=$((looks + 1))
        [ $looks -lt 1000 ] || { echo "domain $1 has no console"; return 1; }
        usleep 20000
    done
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

# hush: stops xenstored, for a while at most. xenconsoled waits for work then, in poll (7) or ppoll (271),
# and goes on serving consoles: one that is stopped in the middle of a request to xenstored, or has an event
# of it to work on, would serve none before xenstored goes on.
hush() {
    store=$(cat /var/run/xenstored.pid)
    { sleep 25; kill -CONT $store; } & guard=$!
    for i in $(seq 100); do
        kill -STOP $store
        usleep 50000
        read -r call rest < /proc/$(cat /var/run/xenconsoled.pid)/syscall
        case $call in 7 | 271) return ;; esac
        kill -CONT $store
        usleep 50000
    done
    speak
    echo "xenconsoled is at work all the time, in system call $call"
    return 1
}

# speak: has xenstored go on.
speak() {
    kill $guard
    kill -CONT $store
}

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
