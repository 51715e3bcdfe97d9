# Moves a demo guest between two hosts (runtime folders) of this machine, there and back, under each
# of KVM's trackers. Its memory is compared in full, and it goes on without an error of its own.
#   demo_guest.sh COMMAND
set -eu
migrate=$1
mkdir -m 700 /run/a /run/b
on() {
  MIGRATE_RUNTIME_DIR=/run/$1 "$migrate" "${@:2}"
}
say() { echo "demo_guest: $*"; }

# within CONDITION...: waits for it, 30 s at most.
within() {
  local left=300
  until "$@"; do
    left=$((left - 1))
    [ $left -gt 0 ] || { say "waited too long for: $*"; exit 1; }
    usleep 100000
  done
}
figure() { on "$1" stats web --json | jq "$2"; }
more_than() { [ "$(figure "$1" "$2")" -gt "$3" ]; }
listening() { grep -q '^listening on ' recv.log; }

# The guest moves from one host to the other, and goes on there.
move() {
  : >recv.log
  on "$2" recv --listen 127.0.0.1:0 --once --tracker "$3" >recv.out 2>recv.log &
  within listening
  address=$(sed -n 's/^listening on //p' recv.log)
  on "$1" send vm:web "$address" --max-downtime 2s --verify full --json >send.json || {
    cat send.json recv.log
    exit 1
  }
  jq -c '{outcome, downtime_ms, total_ms, rounds: (.rounds | length), integrity}' send.json
  [ "$(jq -r .integrity.full send.json)" = equal ]
  local passes
  passes=$(figure "$2" .verify_passes)
  within more_than "$2" .pages_written "$(figure "$2" .pages_written)"
  within more_than "$2" .verify_passes "$passes"
  [ "$(figure "$2" .verify_errors)" = 0 ]
}

on a run web --memory 48M --vcpus 2 --guest writer:rate=4M,set=4M+reader:set=4M,fill=mixed,seed=1 \
  --tracker log --detach
for tracker in ring log write-protect; do
  say "by a tracker, to a host that has $tracker"
  move a b "$tracker"
  move b a "$tracker"
done
on a stop web
say "moved six times, no error"
