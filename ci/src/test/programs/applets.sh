# Runs each line of `applets` in a shell of its own: what its applet says and how it ends.
export PATH=/bin HOME=/root TERM=linux
mkdir -p /etc /uses /usr /lib /var/run /var/log
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd
echo user:x:1000:1000::/tmp:/bin/sh >> /etc/passwd
echo root:x:0: > /etc/group
echo users:x:100:user >> /etc/group
echo 'root:*:19000:0:99999:7:::' > /etc/shadow
echo 127.0.0.1 localhost > /etc/hosts
cd /uses
umask 022
printf 'the quick brown fox\njumps over\tthe lazy dog\n\nlast line\n' > words
seq 1 20 > numbers
mkdir tree tree/inner
echo one > tree/one
echo two > tree/inner/two
ln -s inner/two tree/link
touch -d '2001-02-03 04:05:06' words numbers tree/one tree/inner/two
while IFS= read -r line; do
    case $line in ''|'#'*) continue ;; esac
    echo "== ${line%%: *}"
    timeout -s KILL 20 sh -c "${line#*: }" < /dev/null 2>&1
    echo "-- $?"
done < /applets
