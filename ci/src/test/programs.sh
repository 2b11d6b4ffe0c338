set -e
exec 2> /dev/null
mkdir t; cd t
seq 1 500 > a; wc -l < a; md5sum a
sort -rn a | head -n 3
awk '{ s += $1 } END { print s }' a
sed -n '5,7p' a; grep -c 7 a
tr 0-9 a-j < a | tail -n 1
tar c a | tar t
gzip -c a | gunzip | cmp - a && echo same
i=0; while [ $i -lt 10 ]; do i=$((i+1)); echo $i; done | paste -s -d +
(echo one; echo two >&2) 2>&1 | sort
x=$(echo inner | cat); echo "$x"
sh -c 'kill -TERM $$' || echo status $?
sleep 0.05 & wait $!; echo waited $?
trap 'echo trapped' USR1; kill -USR1 $$
yes | head -c 100000 | wc -c
dd if=/dev/zero bs=4096 count=64 2>/dev/null | sha256sum
printf '%s\n' b a c | sort | xargs echo
ln -s a l; readlink l; mv a b; ls -1
find . -type f; cat < /dev/null; echo "$0" "$#"
cd ..; rm -r t; ls -d t 2>/dev/null || echo gone
