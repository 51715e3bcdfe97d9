# What the Linux guest of linux_guest.sh does while it is moved: counts, checks a pattern in its memory, writes
# its disk with fsync and reads it back, watches its clocks, and serves a file and its own state over HTTP.
# A fault is told on the console and in the state. Nothing runs at full speed: an emulated processor is needed for the
# migration as well.
mkdir -p /www /run/load
cd /run/load
: >faults
fault() {
  echo "guest: fault $*"
  echo "$*" >>faults
}
hundredths() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}"; }

ip addr add 10.9.0.2/24 dev eth0
ip link set eth0 up
dd if=/dev/urandom of=/www/file bs=64k count=96 2>/dev/null
md5sum </www/file | cut -d' ' -f1 >/www/sum
mkdir /www/cgi-bin
printf '#!/bin/sh\necho\ndate +%%s\n' >/www/cgi-bin/date
chmod +x /www/cgi-bin/date
httpd -h /www

count() {
  n=0
  while :; do
    n=$((n + 1))
    echo $n >count
    usleep 50000
  done
}
memory() {
  dd if=/dev/urandom of=pattern bs=64k count=256 2>/dev/null
  sum=$(md5sum <pattern)
  n=0
  while :; do
    [ "$(md5sum <pattern)" = "$sum" ] || fault "the pattern in memory has changed"
    n=$((n + 1))
    echo $n >passes
    usleep 1000000
  done
}
disk() {
  n=0
  while :; do
    n=$((n + 1))
    at=$((n % 1000))
    record=$(printf '%08d' $n)
    echo "$record" | dd of=/dev/vda bs=4096 seek=$at conv=notrunc,fsync 2>/dev/null || fault "the disk was not written"
    back=$(dd if=/dev/vda bs=4096 skip=$at count=1 iflag=direct 2>/dev/null | head -n 1)
    [ "$back" = "$record" ] || fault "the disk has '$back' where '$record' was written"
    echo $n >writes
    usleep 200000
  done
}
clocks() {
  last=$(hundredths) wall=$(date +%s)
  while :; do
    now=$(hundredths)
    [ "$now" -ge "$last" ] || fault "the monotonic clock went from $last to $now"
    last=$now now=$(date +%s)
    [ "$now" -ge "$wall" ] || fault "the date went from $wall to $now"
    wall=$now
    usleep 100000
  done
}
for load in count memory disk clocks; do $load & done

# A file that is being written reads as empty.
figure() {
  value=
  while [ -z "$value" ]; do value=$(cat "$1" 2>/dev/null); done
  echo "$value"
}
while :; do
  state="$(figure count) $(figure passes) $(figure writes) $(hundredths) $(wc -l <faults)"
  echo "$state" >/www/state.new
  mv /www/state.new /www/state
  usleep 200000
done
