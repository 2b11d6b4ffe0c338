# Two hundred commands, one after the other in one shell: what they say is compared byte for byte.
export PATH=/bin HOME=/root TERM=linux LC_ALL=C
mkdir -p /commands; cd /commands
exec 2>&1
umask 022
echo "one two three"
printf '%s-%d-%x\n' abc 42 255
seq 1 1000 > numbers
wc numbers
md5sum numbers
head -n 3 numbers; tail -n 2 numbers
sort -rn numbers | head -n 2
shuf numbers | sort -n | cmp - numbers && echo sorted back
awk '{ s += $1 } END { print s, NR, s / NR }' numbers
awk 'BEGIN { for (i = 0; i < 5; i++) printf "%c", 97 + i; print "" }'
awk '{ a[$1 % 7]++ } END { for (i = 0; i < 7; i++) print i, a[i] }' numbers
awk -v n=3 'NR % 333 == n { print substr($0, 1, 2) length($0) }' numbers
sed -n '10,12p;500{s/0/o/g;p}' numbers
sed 's/\(.\)\(.\)$/\2\1/' numbers | sed -n '98,102p'
sed -e '1,995d' -e 's/^/line /' numbers
sed '/5/!d;/55/d' numbers | wc -l
grep -c 7 numbers; grep -v '[0-4]' numbers | head -n 4
grep -n '^99' numbers | cut -d : -f 1 | tr '\n' ' '; echo
tr 0-9 a-j < numbers | tail -n 1
cut -c 1 numbers | sort | uniq -c
paste -s -d + numbers | bc
paste -s -d ' ' numbers | fold -s -w 60 | tail -n 1
rev numbers | sort -n | tail -n 1
tac numbers | head -n 1
od -A d -t x1 numbers | sed -n '3p'
hexdump -C numbers | tail -n 2
cat numbers numbers | uniq -d | wc -l
split -l 300 numbers part. 2> /dev/null || true; ls
nl -w 3 -s : numbers | sed -n 7p
expr 12 \* 12 - 4; expr length "a string"
echo $((16#ff + 010 - 0x10)) $((7 / 2)) $((7 % 3)) $((1 << 20))
x=hello; echo "${x}world" "${x#he}" "${x%lo}" "${#x}" "${y:-unset}" "${x:+set}"
x=path/to/file.tar.gz; echo "${x##*/}" "${x%%.*}" "${x%.*}" "${x#*/}"
set -- a 'b c' d; echo $# "$2"; shift; echo "$@"; for i; do echo "<$i>"; done
for i in 1 2 3; do echo $i; done | tr '\n' ,; echo
i=0; while [ $i -lt 5 ]; do i=$((i + 1)); [ $i = 3 ] && continue; echo $i; done
i=5; until [ $i = 0 ]; do i=$((i - 1)); done; echo $i
case foo.c in *.h) echo header ;; *.c) echo source ;; esac
f() { local v=$1; echo "in f: $v"; return 4; }; f 1; echo $?
if true; then echo yes; else echo no; fi; false || echo or; true && echo and
! true; echo $?
(exit 9); echo $?
{ echo group; echo of two; } | wc -l
(cd /; pwd); pwd
echo `echo back` $(echo new $(echo nested))
sh -c 'echo "$0 $1 $#"' name arg
sh -c 'exit 3' || echo status $?
sh -c 'kill -TERM $$'; echo $?
sh -c 'trap "echo left" EXIT; echo stays'
sh -c 'set -e; false; echo not reached'; echo $?
sh -c 'set -u; echo $nothing_there' 2> /dev/null; echo $?
echo to a file > out; cat out; echo more >> out; cat out
cat < out > copy; cmp out copy && echo same
echo error >&2 2> /dev/null; ls /missing 2> err; cat err
ls /missing /commands/out > both 2>&1; cat both
exec 5> five; echo through five >&5; exec 5>&-; cat five
exec 6< out; read line <&6; echo "$line"; read line <&6; echo "$line"; exec 6<&-
cat << END
here is $x and $((2 + 3))
END
cat << 'END'
here is $x and no more
END
read a b c << END
first second third fourth
END
echo "$a|$b|$c"
echo a b c | (read one rest; echo "$rest $one")
IFS=:; set -- $(echo 1:2:3); echo $2; unset IFS
printf 'a b\nc d\n' | while read one two; do echo "$two $one"; done
echo a > p1; echo b > p2; cat p1 - p2 < out | wc -l
mkfifo pipe; (echo through the pipe > pipe &) ; cat pipe; rm pipe
sleep 0.2 & wait $!; echo waited $?
(sleep 0.1; exit 7) & wait $!; echo $?
{ sleep 5 & sleep 0.3; kill $!; wait $!; echo $?; } 2> /dev/null
(sleep 0.3; echo slow) & (sleep 0.1; echo quick) & wait
for i in 3 1 2; do (sleep 0.$i; echo job $i) & done; wait
true | false; echo $?
false | true; echo $?
yes | head -n 3
yes | head -c 100000 | wc -c
yes | head -c 4194304 | wc -c
dd if=/dev/zero bs=1M count=16 2> /dev/null | md5sum
dd if=/dev/zero bs=1M count=16 of=sixteen 2> /dev/null; md5sum sixteen; ls -l sixteen | awk '{ print $5 }'
dd if=sixteen bs=4096 skip=4095 count=2 2> /dev/null | wc -c
rm sixteen
dd if=numbers bs=10 skip=2 count=1 2> /dev/null; echo
dd if=/dev/zero of=sparse bs=1 count=1 seek=100000 2> /dev/null; stat -c %s sparse; du -k sparse | cut -f 1
truncate -s 10 sparse; od -c sparse
head -c 1000 /dev/urandom > random; gzip -c random | gunzip | cmp - random && echo survived
gzip -k -f numbers; gzip -t numbers.gz && echo whole; zcat numbers.gz | md5sum
bzip2 -c numbers | bunzip2 | md5sum
tar cf t.tar numbers out copy; tar tf t.tar; tar xOf t.tar out
mkdir x; tar xf t.tar -C x; ls x; rm -r x
tar czf t.tgz numbers; tar tzvf t.tgz | awk '{ print $1, $3, $6 }'
echo numbers | cpio -o -H newc 2> /dev/null | cpio -t 2> /dev/null
printf '!<arch>\nname/           0           0     0     644     4         `\nabc\n' > lib.a; ar -t lib.a; ar -p lib.a name
sha1sum out; sha256sum out; sha512sum out | cut -c 1-20; crc32 out
base64 out; uuencode out name | uudecode -o /dev/stdout
echo abc | xxd; echo 68690a | xxd -r -p
mkdir -p d/e/f d/g; touch d/1 d/e/2 d/e/f/3 d/g/4; find d | sort
find d -type f -name '[13]' | sort; find d -maxdepth 1 -type d | sort
find d -type f -exec basename {} \; | sort; find d -type f | sort | xargs -n 2 echo
find d -name 2 -exec rm {} +; find d -type f | wc -l; find d -empty | sort
find . -maxdepth 1 -size +100k; find . -maxdepth 1 -name 'n*' -newer d -print | wc -l
ls -a d; ls -p d; ls -R d; ls -1 -d d/*
ln out hard; ln -s out soft; readlink soft; stat -c '%h %F' hard soft; cat soft
rm out; cat hard; cat soft || echo broken; mv hard out; cat soft
ln -s loop loop; cat loop; rm loop
cp -r d d2; diff -r d d2 && echo alike; rm -r d2
chmod 600 out; stat -c %a out; chmod a+x,g-r out; stat -c %A out; chmod 644 out
touch -d '2002-03-04 05:06:07' out; stat -c %y out; date -u -r out
chown 1:2 out; stat -c '%u %g' out; chown 0:0 out
mv out renamed; ls out renamed; mv renamed out
mkdir gone; cd gone; rmdir ../gone; pwd; ls; cd ..
rmdir d; rm d; rm -r d; ls -d d
cp numbers a; sed -i 5d a; diff numbers a; cmp numbers a; comm -23 numbers a 2> /dev/null | head -n 1
diff -u numbers a | tail -n +3 > patch; patch a patch > /dev/null; cmp numbers a && echo patched
printf 'b 2\na 1\nc 3\n' > t; sort t; sort -k 2 -r t; cut -d ' ' -f 2 t | sort -n
printf 'x\ty\n' | expand | od -c | head -n 1; printf 'a,b;c\n' | tr ',;' '\n\n'
printf '3\n1\n2\n' | sort | head -n 1; printf '1\n1\n2\n' | uniq -u
echo 'The Cat' | tr '[:upper:]' '[:lower:]'; echo 'aabbcc' | tr -s a-c
echo 'scale=10; sqrt(2); 2^64' | bc; echo '3 4 + p' | dc; factor 123456789
echo hello | sed 'y/el/ip/;s/$/!/'; echo hello | sed -n '/l/{s/l/L/2p}'
printf '1\n2\n3\n' | sed -e ':a' -e 'N;$!ba' -e 's/\n/,/g'
printf 'k=v\nn=m\n' | awk -F= '{ print $2 "=" $1 }'; awk 'BEGIN { print length("four"), index("abc", "c"), toupper("up") }'
awk 'BEGIN { "echo piped" | getline x; print x; print "sorted" | "cat" }'
awk 'BEGIN { printf "%5.2f|%-6s|%06d\n", 3.14159, "ab", 42; print 10 % 3, 2 * 10, 1e6 }'
awk '/^1/ && !/0/ { n++ } END { print n }' numbers
seq 10 | xargs -n 3; seq 3 | xargs -I % echo item %; echo a b | xargs -n 1 sh -c 'echo $0'
time -p true 2> /dev/null; timeout 0.2 sleep 3; echo $?
env -i A=1 sh -c 'echo $A $HOME'; A=2 sh -c 'echo $A'; export B=3; sh -c 'echo $B'
id -u; whoami; groups; tty; test -t 0; echo $?
cat /proc/self/comm; cat /proc/self/cmdline | tr '\0' ' '; echo; readlink /proc/self/cwd; readlink /proc/self/exe
ls /proc/self/fd | wc -l; grep -c heap /proc/self/maps; cat /proc/version | cut -d ' ' -f 1
ls -l /dev/null /dev/zero | awk '{ print $1, $5, $6 }'
cat /dev/null; head -c 4 /dev/zero | od -t x1; head -c 10 /dev/urandom | wc -c; echo gone > /dev/null
echo x > /dev/full; echo $?
[ -f numbers ] && [ ! -d numbers ] && [ -s numbers ] && [ -r numbers ] && echo tests; [ numbers -nt a ] || echo older
[ 3 -gt 2 -a 2 -gt 1 ] && echo both; [ abc \< abd ] && echo before; [ -z "" ] && echo empty
trap 'echo got USR1' USR1; kill -USR1 $$; trap - USR1
trap 'echo got TERM' TERM; sh -c 'kill $PPID'; trap - TERM
(trap 'echo child ends; exit 3' HUP; kill -HUP $(exec sh -c 'echo $PPID')) ; echo $?
ulimit -n; ulimit -s; umask; umask 077; touch private; stat -c %a private; umask 022
sh -c 'ulimit -n 8; exec 3< /dev/null 4< /dev/null 5< /dev/null 6< /dev/null 7< /dev/null; cat < /dev/null' ; echo $?
alias ll='ls -l'; type ll; type cd; type cat; command -v grep; hash -r
eval 'echo evaluated $((1 + 1))'; . /dev/null; :; times > /dev/null
getopts ab: opt -b value; echo "$opt $OPTARG"; printf '%b\n' 'a\tb\0101'; printf '%q\n' x 2> /dev/null | head -c 0
echo *; echo n[u]mbers; echo '*'; echo "$(echo *.tar)"; echo ~ | head -c 5; echo
cd /commands; echo a{b,c}; echo $'tab\there'; echo "quote\"in"; echo 'single'\''quote'
for i in $(seq 1 50); do sh -c "exit $i" || true; done; echo fifty shells
for i in $(seq 1 20); do echo $i | cat | cat | cat | cat; done | paste -s -d ' '
seq 1 20000 | sort -n | tail -n 1; seq 1 20000 | md5sum; seq 1 20000 | awk '{ x = x $1 } END { print length(x) }'
seq 1 3000 | while read n; do echo $n; done | tail -n 1
find /bin -type l | wc -l | grep -c '^2[67]'; ls /bin | sort | head -n 3
ls /bin | while read n; do [ -x /bin/$n ] || echo $n; done | wc -l
echo done | tee t1 t2 | cat; cat t1 t2; wc -c < t1
strings /bin/busybox | grep -c 'BusyBox v'; cmp -n 4 /bin/busybox /bin/sh && echo one program
cp /bin/busybox copied; md5sum < copied > m1; md5sum < /bin/busybox | cmp - m1 && echo whole; ./copied; mv copied echo; ./echo runs; mv echo copied; rm copied
printf '#!/bin/sh\necho script $0 $1\n' > script; chmod +x script; ./script with; sh script without
printf '#!/bin/awk -f\nBEGIN { print "awk runs" }\n' > script; ./script
printf '#!/bin/none\n' > script; ./script; echo $?; printf 'echo plain\n' > script; ./script
chmod -x script; ./script; echo $?; /missing/program; echo $?
cp numbers v; calls type ':%s/^1$/first^M:2,999d^MGolast line^[ZZ' /bin/vi v > screen; tail -n 1 screen; cat v
calls type 'ihello^M  world^[kx:wq! w^M' /bin/vi > screen; tail -n 1 screen; cat w
calls type 'echo typed^Mstty size^Mexit 5^M' /bin/sh
calls type 'sleep 9^M^Cecho after^Mexit^M' /bin/sh
calls type 'cat^Mecho^M^Decho end^Mexit 3^M' /bin/sh
calls type 'sleep 9^M^Zjobs^Mkill %1^Mwait^Mexit^M' /bin/sh | sed 's/[0-9][0-9]* //'
calls type '^D' /bin/cat
calls type ' ^Mq' /bin/less numbers | tail -n 1
echo end of commands
