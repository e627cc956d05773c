#!/usr/bin/env bash
# What replicas ask of the kernel under load: the entries of their transport, and nothing else.
#   ci/syscalls.sh [SECONDS]    how long to watch each transport (default 5)
# Needs strace and the right to trace own processes; says so and succeeds where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
bin=${CARGO_TARGET_DIR:-target}/release
work=$(mktemp -d)
children=()
stop() {
    for child in "${children[@]}"; do kill "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
    children=()
}
trap 'stop; rm -rf "$work"' EXIT

if ! strace -c -o "$work/try" true 2>/dev/null; then
    echo "syscalls: strace is missing or may not trace here: skipped"
    exit 0
fi

# fail TEXT: says it, with what the replicas said.
fail() {
    echo "syscalls: $*" >&2
    tail -n 3 "$work"/*/replica-*.log >&2 || true
    exit 1
}

# threads PID: the threads that move messages. Not the main thread, which writes the log ten times a
# second, nor the one that serves metrics.
threads() {
    local task
    for task in /proc/"$1"/task/*; do
        case $(cat "$task/comm") in r[0-9]*) echo "${task##*/}" ;; esac
    done
}

# watch TRANSPORT ALLOWED: loads a cluster of its own, counts what its cores call.
watch() {
    local transport=$1 allowed=$2 dir=$work/$1 port=$3 id tasks=() traced
    "$bin/tetrarch" init "$dir" --service null --base-port "$port" --transport "$transport" >/dev/null
    for id in 0 1 2 3; do
        "$bin/tetrarch" replica "$dir" --id "$id" >/dev/null 2>"$dir/replica-$id.log" &
        children+=($!)
    done
    local replicas=("${children[@]}")
    for id in 0 1 2 3; do
        for _ in $(seq 200); do
            grep -q "transport: $transport" "$dir/replica-$id.log" && break
            sleep 0.1
        done
        grep -q "transport: $transport" "$dir/replica-$id.log" || fail "$transport: replica $id does not start"
    done
    "$bin/tetrarch-bench" load "$dir" --sessions 100 --duration $((seconds + 3)) --warmup 2 \
        >"$dir/load.txt" 2>"$dir/load.log" &
    local load=$!
    children+=("$load")
    sleep 3
    for id in "${replicas[@]}"; do
        while read -r traced; do tasks+=(-p "$traced"); done < <(threads "$id")
    done
    [ ${#tasks[@]} -ge 8 ] || fail "$transport: no core's thread is named r0..."
    timeout -s INT "$seconds" strace -c -U name,calls -o "$dir/calls.txt" "${tasks[@]}" 2>/dev/null || true
    wait "$load" || fail "$transport: the load failed: $(tail -n 1 "$dir/load.log")"
    stop
    # Lines of the table, without its head, rules and sum.
    awk '$2 ~ /^[0-9]+$/ && $1 != "total" { print $1, $2 }' "$dir/calls.txt" >"$dir/calls"
    [ -s "$dir/calls" ] || fail "$transport: nothing was counted"
    echo "syscalls: $transport: $(tr '\n' ';' <"$dir/calls") $(grep -m 1 -o '[0-9,]* /s' "$dir/load.txt" || true)"
    # Interrupted by the tracer itself: restart_syscall.
    local others
    others=$(grep -vE "^($allowed|restart_syscall) " "$dir/calls" || true)
    [ -z "$others" ] || fail "$transport: cores also call: $others"
}

port=$((20000 + RANDOM % 20000))
watch tcp 'epoll_wait|epoll_pwait|ppoll|read|readv|recvfrom|write|writev|sendto' "$port"
if "$bin/tetrarch-bench" ping --transport io_uring --sizes 64 --count 10 >/dev/null 2>&1; then
    watch io_uring 'io_uring_enter' "$((port + 10))"
else
    echo "syscalls: no io_uring here: TCP only"
fi
