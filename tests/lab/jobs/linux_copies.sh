# A Linux guest is checkpointed and comes back: as it was, and twice as another, which its kernel hears of and whose card
# has another address.
#   linux_copies.sh COMMAND IP
set -eu
migrate=$1 ip=$2
export MIGRATE_RUNTIME_DIR=/run/guests
say() { echo "linux_copies: $*"; }
show() {
  for name in web same one two; do "$migrate" console $name --log 2>/dev/null | tail -n 20; done
  for file in run.log run.out restore.log restore.out; do
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
printed() { "$migrate" console "$1" --log 2>/dev/null | grep -q "$2"; }
type_in() { echo "$2" >"$("$migrate" console "$1" --json | jq -r .terminal)"; }
# ask NAME WORDS: what the guest says to them, once it has.
ask() {
  type_in "$1" "$2"
  within printed "$1" "guest: $2: .* card ..:..:..:..:..:.."
  "$migrate" console "$1" --log | sed -n "s/\r//; s/^guest: $2: //p" | tail -n 1
}
restore() {
  local name=$1
  shift
  "$migrate" restore image --name $name --net tap=card --console pty "$@" --detach >restore.out 2>restore.log ||
    fail "restore $* ended with $?"
}

mkdir -m 700 $MIGRATE_RUNTIME_DIR
"$ip" tuntap add card mode tap
"$migrate" run web --memory 256M --vcpus 2 --kernel /guest/vmlinuz --initrd /guest/initrd --append "console=ttyS0 panic=-1 quiet" \
  --net tap=card,mac=52:54:00:00:00:42 --console pty --detach >run.out 2>run.log || fail "run ended with $?"
within printed web "guest: came up, forks 0, card 52:54:00:00:00:42"
"$migrate" checkpoint vm:web image --stop >restore.out 2>restore.log || fail "checkpoint ended with $?"

restore same
now=$(ask same "look 1")
say "restored: $now"
[ "$now" = "forks 0, card 52:54:00:00:00:42" ] || fail "it is not as it was"
"$migrate" stop same

former=52:54:00:00:00:42
for copy in one two; do
  mode=
  [ $copy = one ] || mode=--lazy
  restore $copy --new-identity $mode
  forked() { ask $copy look | grep -q "forks 1, card 52:54:00:00:00:42"; }
  within forked
  now=$(ask $copy "bind $copy")
  say "copy $copy: $now"
  card=${now##* }
  [ "${now% *}" = "forks 1, card" ] || fail "it has heard of another number of forks"
  [ $card != 52:54:00:00:00:42 ] && [ $card != $former ] || fail "its card has an address that was another's"
  former=$card
  ! printed $copy "guest: fault" || fail "the guest found a fault"
  "$migrate" stop $copy
done
