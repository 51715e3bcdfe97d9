#!/usr/bin/env bash
# Migrates a guest again and again between two network namespaces joined by a shaped veth pair, by
# the `migrate` command in processes of their own, and prints a line for each run: rounds, downtime,
# total time, wire bytes, what the checks said, and the peak memory of both sides beside its limit.
#
#   bench/experiments/shaped_link.sh MIGRATE [--memory 1G] [--vcpus 2] [--guest WORKLOAD]
#       [--rate 10gbit] [--repeats 5] [-- OPTIONS OF send]
#
# MIGRATE is the command's path. Needs root, ip, tc, jq and GNU time. Ends all that it starts.
set -euo pipefail

memory=1G vcpus=2 rate=10gbit repeats=5
guest="writer:rate=200M,set=256M+reader:set=64M,fill=mixed,seed=1"
[ $# -ge 1 ] && [ -x "$1" ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
migrate=$(realpath "$1"); shift
while [ $# -gt 0 ]; do
  case "$1" in
    --memory) memory=$2; shift ;;
    --vcpus) vcpus=$2; shift ;;
    --guest) guest=$2; shift ;;
    --rate) rate=$2; shift ;;
    --repeats) repeats=$2; shift ;;
    --) shift; break ;;
    *) echo "shaped_link: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done

a=mig-la-$$ b=mig-lb-$$
work=$(mktemp -d /dev/shm/shaped-link.XXXXXX)
source_pid="" target_pid=""
# ends PID...: asks it to end, and waits for it. `time` passes no signal on: its child is asked.
ends() {
  local pid child
  for pid in "$@"; do
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || continue
    for child in $(ps -o pid= --ppid "$pid"); do kill "$child" 2>/dev/null || true; done
    wait "$pid" 2>/dev/null || true
  done
}
cleanup() {
  trap - EXIT INT TERM
  ends "$source_pid" "$target_pid"
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

until_true() {
  local deadline=$((SECONDS + 60))
  while ! "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { echo "shaped_link: waited too long for: $*" >&2; return 1; }
    read -rt 0.05 <> <(:) || true
  done
}
on_a() { MIGRATE_RUNTIME_DIR=$work/a ip netns exec "$a" "$migrate" "$@"; }
on_b() { MIGRATE_RUNTIME_DIR=$work/b ip netns exec "$b" "$migrate" "$@"; }

install -d -m 700 "$work/a" "$work/b"
ip netns add "$a"; ip netns add "$b"
ip link add veth0 netns "$a" type veth peer name veth0 netns "$b"
for side in "$a 10.78.0.1" "$b 10.78.0.2"; do
  read -r name address <<<"$side"
  ip -n "$name" link set lo up
  ip -n "$name" address add "$address/30" dev veth0
  ip -n "$name" link set veth0 up
  # 4 MB pass in 3 ms at 10 Gbit/s, about a timer tick.
  tc -n "$name" qdisc add dev veth0 root tbf rate "$rate" burst 4mb latency 20ms
done

# One guest, there and gone.
run_once() {
  MIGRATE_RUNTIME_DIR=$work/a /usr/bin/time -f %M -o "$work/peak_a" ip netns exec "$a" \
    "$migrate" run g --memory "$memory" --vcpus "$vcpus" --guest "$guest" >"$work/run.log" 2>&1 &
  source_pid=$!
  until_true on_a stats g --json
  : >"$work/recv.log"
  MIGRATE_RUNTIME_DIR=$work/b /usr/bin/time -f %M -o "$work/peak_b" ip netns exec "$b" \
    "$migrate" recv --listen 10.78.0.2:0 --once --insecure >"$work/recv.out" 2>"$work/recv.log" &
  target_pid=$!
  until_true grep -q '^listening on ' "$work/recv.log"
  local address
  address=$(sed -n 's/^listening on //p' "$work/recv.log" | head -1)
  written() { [ "$(on_a stats g --json | jq '.uptime_ms | floor')" -ge 2000 ]; }
  until_true written
  on_a stats g --json >"$work/before.json"
  if ! on_a send vm:g "$address" --insecure --verify full --json "$@" >"$work/send.json"; then
    jq -c .error "$work/send.json" >&2 || true
    return 1
  fi
  wait "$source_pid" || true
  # All of its memory has been checked once more since it left.
  passed() {
    on_b stats g --json >"$work/after.json" &&
      jq -e --slurpfile old "$work/before.json" \
        '.verify_errors > 0 or .verify_passes > $old[0].verify_passes + 1' "$work/after.json"
  }
  until_true passed
  on_b stop g >/dev/null
  wait "$target_pid" || true
  source_pid="" target_pid=""
}

printf '%-4s %6s %11s %9s %9s %8s %-7s %-6s %7s %8s %8s %8s\n' run rounds downtime total wire cpu \
  digest full errors peak-a peak-b limit
for i in $(seq "$repeats"); do
  run_once "$@"
  jq -r --arg run "$i" --arg a "$(tail -1 "$work/peak_a")" --arg b "$(tail -1 "$work/peak_b")" \
    --slurpfile after "$work/after.json" '
    def pad(n): tostring | . + " " * ([n - length, 0] | max);
    def left(n): tostring | " " * ([n - length, 0] | max) + .;
    # In KiB: the guest, 64 MiB, 16 bytes a page.
    (.guest.memory_bytes / 1024 + 65536 + .pages.total * 16 / 1024) as $limit |
    [($run | pad(4)), (.rounds | length | left(6)),
     ((.downtime_ms * 100 | round / 100 | tostring) + " ms" | left(11)),
     ((.total_ms | round | tostring) + " ms" | left(9)),
     ((.bytes.wire / 1e6 | round | tostring) + " MB" | left(9)),
     ((.cpu_s * 100 | round / 100 | tostring) + " s" | left(8)),
     (.integrity.digest | pad(7)), (.integrity.full | pad(6)), ($after[0].verify_errors | left(7)),
     (($a | tonumber) / 1024 | round | tostring + "M" | left(8)),
     (($b | tonumber) / 1024 | round | tostring + "M" | left(8)),
     ($limit / 1024 | round | tostring + "M" | left(8))] | join(" ")' "$work/send.json"
done
