# What a test runs as the first process, on the kernel and on Linux: its parts each behind a line `== NAME`.
[ -e /proc/self ] || {
    mount -t devtmpfs dev /dev
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mkdir -p /dev/pts
    mount -t devpts pts /dev/pts
}
export PATH=/bin HOME=/root TERM=linux
mkdir -p /etc /root /tmp
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd
echo root:x:0: > /etc/group
echo "== calls"
calls cases < /dev/null
echo "== threads"
threads one two
echo "-- $?"
echo "== go"
[ ! -e /bin/esbuild ] || sh /go.sh < /dev/null
echo "== commands"
sh /commands.sh < /dev/null
sh /applets.sh
echo end of script
