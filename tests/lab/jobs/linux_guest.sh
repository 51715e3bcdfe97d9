# Moves a Linux guest (2 vCPUs, 256 MiB, a disk, a network card) back and forth between two hosts: network
# namespaces, each with a bridge for the guest, joined by a link for migrations and one to the guests' network,
# where a client downloads all the time.
#   linux_guest.sh COMMAND IP TC TIMES
set -eu
migrate=$1 ip=$2 tc=$3 times=$4
lan=10.9.0
say() { echo "linux_guest: $*"; }
inside() { "$ip" netns exec "$@"; }
on() { MIGRATE_RUNTIME_DIR=/run/$1 "$migrate" "${@:2}"; }

# within CONDITION...: waits for it, 120 s at most.
within() {
  local left=1200
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || { say "waited too long for: $*"; show; exit 1; }
    usleep 100000
  done
}
show() {
  for file in a.console b.console former.log former.out recv.log recv.out send.log send.json; do
    [ ! -s $file ] || { say "$file:"; tail -n 30 $file; }
  done
}

network() {
  "$ip" netns add lan
  inside lan "$ip" link add bridge type bridge
  inside lan "$ip" addr add $lan.1/24 dev bridge
  inside lan "$ip" link set dev bridge up
  for host in a b; do
    mkdir -m 700 /run/$host
    "$ip" netns add $host
    inside $host "$ip" link set dev lo up
    inside $host "$ip" link add bridge type bridge
    inside $host "$ip" link add out type veth peer name $host netns lan
    inside $host "$ip" tuntap add guest mode tap
    for port in out guest; do inside $host "$ip" link set dev $port master bridge up; done
    inside $host "$ip" link set dev bridge up
    inside lan "$ip" link set dev $host master bridge up
    # Slow enough that a download takes longer than a move.
    inside $host "$tc" qdisc add dev out root tbf rate 8mbit burst 64k latency 200ms
  done
  inside a "$ip" link add peer type veth peer name peer netns b
  inside a "$ip" addr add 10.8.0.1/24 dev peer
  inside b "$ip" addr add 10.8.0.2/24 dev peer
  for host in a b; do inside $host "$ip" link set dev peer up; done
}
address() { if [ "$1" = a ]; then echo 10.8.0.1; else echo 10.8.0.2; fi; }

# The guest's own figures: counted, memory checks, disk writes, uptime in 1/100 s, faults.
state() { inside lan wget -q -T 5 -O - http://$lan.2/state 2>/dev/null; }
figure() { echo "$state_now" | cut -d' ' -f"$1"; }
refresh() { state_now=$(state) && [ -n "$state_now" ]; }
# goes_on STATE: each figure is higher than in STATE, and there is no fault.
goes_on() {
  refresh || return 1
  for field in 1 2 3 4; do
    [ "$(figure $field)" -gt "$(echo "$1" | cut -d' ' -f$field)" ] || return 1
  done
}
check() {
  [ "$(figure 5)" = 0 ] || { say "the guest found faults: $state_now"; show; exit 1; }
  local lost
  lost=$(clock_behind)
  [ -n "$lost" ] || { say "the guest does not answer any more"; show; exit 1; }
  lost=$((lost - behind))
  [ $lost -ge -2 ] && [ $lost -le 2 ] || { say "the guest has lost $lost s of the date"; exit 1; }
}
# How many seconds the guest's date is behind the host's: the answer that came fastest says it best.
clock_behind() {
  local apart best=
  for _ in 1 2 3 4; do
    apart=$(inside lan wget -q -T 20 -O - http://$lan.2/cgi-bin/date) || continue
    apart=$(($(date +%s) - apart))
    if [ -z "$best" ] || [ $apart -lt $best ]; then best=$apart; fi
  done
  echo "$best"
}

# Downloads until told to stop: a line for each, with how many moves were over before and after it.
downloads() {
  local before got
  while [ ! -e stop ]; do
    before=$(cat moves)
    got=$(inside lan wget -q -O - http://$lan.2/file | md5sum | cut -d' ' -f1) || true
    [ "$got" = "$sum" ] && got=good
    echo "$got $before $(cat moves)" >>downloads.log
  done
}

listening() { grep -q '^listening on ' recv.log; }
move() {
  local from=$1 to=$2 was=$state_now
  for file in log out; do [ ! -e recv.$file ] || mv recv.$file former.$file; done
  : >recv.log
  MIGRATE_RUNTIME_DIR=/run/$to inside "$to" "$migrate" recv --listen "$(address "$to")":0 --insecure --once \
    --disk /run/disk --net tap=guest --console file:$to.console >recv.out 2>recv.log &
  within listening
  on "$from" send vm:web "$(sed -n 's/^listening on //p' recv.log)" --insecure --max-downtime 2s --verify full \
    --json >send.json 2>send.log || { show; exit 1; }
  jq -Mc '[.outcome, .total_ms, .downtime_ms, (.rounds | length), .phases_ms]' send.json
  [ "$(jq -r .integrity.full send.json)" = equal ]
  within goes_on "$was"
  check
  echo $(($(cat moves) + 1)) >moves.new
  mv moves.new moves
}

network
dd if=/dev/zero of=/run/disk bs=1M count=16 2>/dev/null
begin=$(cut -d' ' -f1 /proc/uptime)
MIGRATE_RUNTIME_DIR=/run/a inside a "$migrate" run web --memory 256M --vcpus 2 --kernel /guest/vmlinuz \
  --initrd /guest/initrd --append "console=ttyS0 panic=-1 quiet" --disk /run/disk --net tap=guest --console file:a.console --detach
within refresh
say "up: runs began at $begin s, the guest serves at $(cut -d' ' -f1 /proc/uptime) s"
# While it boots, an emulated machine's clocks do not agree to the second.
behind=$(clock_behind)
sum=$(inside lan wget -q -O - http://$lan.2/sum)
echo 0 >moves
downloads &
downloader=$!
from=a to=b
for _ in $(seq "$times"); do
  move $from $to
  swap=$from from=$to to=$swap
done
: >stop
wait "$downloader" || true
finished() { [ "$(wc -l <downloads.log)" -gt 0 ]; }
within finished
! grep -v '^good ' downloads.log || { say "a download came out wrong"; exit 1; }
across=$(awk '$3 > $2' downloads.log | wc -l)
say "$(wc -l <downloads.log) downloads, $across of them across moves"
[ "$across" -gt 0 ]

# What the guest has said is on its disk, is.
refresh
written=$(figure 3)
found=$(dd if=/run/disk bs=4096 skip=$((written % 1000)) count=1 2>/dev/null | head -n 1)
[ "$(echo "$found" | sed 's/^0*//')" -ge "$written" ] || { say "the disk has $found, not $written"; exit 1; }
on "$from" stop web
say "moved $times times: $state_now"
