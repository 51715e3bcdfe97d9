# A Linux guest with four processors, three disks, two network cards and a terminal restarts, moves to another command
# on the same machine, and then switches itself off; a second one panics instead.
#   linux_machine.sh COMMAND IP
set -eu
migrate=$1 ip=$2
say() { echo "linux_machine: $*"; }
on() { MIGRATE_RUNTIME_DIR=/run/$1 "$migrate" "${@:2}"; }
show() {
  for host in a b; do on $host console web --log 2>/dev/null | tail -n 40; done
  for file in run.log run.out recv.log recv.out send.log send.json; do
    [ ! -s $file ] || { say "$file:"; tail -n 20 $file; }
  done
}
fail() {
  say "$*"
  show
  exit 1
}
# within CONDITION...: waits for it, 300 s at most.
within() {
  local left=3000
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "waited too long for: $*"
    usleep 100000
  done
}
printed() { on "$1" console web --log 2>/dev/null | grep -q "$2"; }
type_in() { echo "$2" >"$(on "$1" console web --json | jq -r .terminal)"; }
listening() { grep -q '^listening on ' recv.log; }

devices() {
  local words=
  for disk in one two; do words="$words --disk /run/disk.$disk"; done
  words="$words --disk /run/disk.three,ro"
  for card in 0 1; do words="$words --net tap=$1$card"; done
  echo "$words --console pty"
}

# A guest's whole life; it ends as it is told to.
life() {
  local end=$1 code=0
  for disk in one two three; do dd if=/dev/zero of=/run/disk.$disk bs=1M count=2 2>/dev/null; done
  dd if=/dev/zero of=/run/disk.two bs=1M count=3 2>/dev/null
  printf '%-511s\nto be read\n' '' >/run/disk.three
  truncate -s 1M /run/disk.three
  rm -f run.log recv.log recv.out
  MIGRATE_RUNTIME_DIR=/run/a "$migrate" run web --memory 512M --vcpus 4 --kernel /guest/vmlinuz --initrd /guest/initrd \
    --append "console=ttyS0 panic=-1 quiet" $(devices a) >run.out 2>run.log &
  local runs=$!
  within printed a "guest: came up 2 times"
  printed a "came up 2 times, 4 processors, disks 4096 6144, 2 cards" || fail "the machine is not what was asked for"
  printed a "guest: read to be read" || fail "the third disk was not read"
  : >recv.log
  MIGRATE_RUNTIME_DIR=/run/b "$migrate" recv --listen 127.0.0.1:0 --insecure --once --json $(devices b) >recv.out 2>recv.log &
  local receives=$!
  within listening
  on a send vm:web "$(sed -n 's/^listening on //p' recv.log)" --insecure --max-downtime 2s --verify full --json \
    >send.json 2>send.log || fail "send ended with $?"
  [ "$(jq -r .integrity.full send.json)" = equal ] || fail "memory differs"
  wait $runs || fail "run ended with $?"
  type_in b moved
  within printed b "processors after the move"
  printed b "guest: heard moved" || fail "the terminal was not heard"
  for card in 0 1; do printed b "reaches its host by eth$card" || fail "card $card has lost its network"; done
  printed b "4 processors after the move" || fail "processors were lost"
  ! printed b "guest: fault" || fail "the guest found a fault"
  [ "$(dd if=/run/disk.two bs=512 skip=2 count=1 2>/dev/null | head -n 1)" = after ] || fail "what was written after the move is not there"
  type_in b $end
  wait $receives || code=$?
  say "$end: the guest's command ended with $code"
  case $end in
    panic) [ $code = 6 ] && grep -qi panic recv.log || fail "no panic was told" ;;
    *) [ $code = 0 ] || fail "a guest that switches itself off is no failure" ;;
  esac
}

"$ip" link set dev lo up
for host in a b; do
  mkdir -m 700 /run/$host
  for card in 0 1; do
    "$ip" tuntap add $host$card mode tap
    "$ip" link set dev $host$card up
  done
done
for card in 0 1; do
  "$ip" link add lan$card type bridge
  "$ip" addr add 10.7.$card.1/24 dev lan$card
  "$ip" link set dev lan$card up
  for host in a b; do "$ip" link set dev $host$card master lan$card; done
done
life off
life panic
