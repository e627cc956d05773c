#!/usr/bin/env bash
# Every benchmark once, in small, to see that each still runs and that a page comes out. Figures of runs this
# short say nothing; none is compared with anything.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${CARGO_TARGET_DIR:-target}/release/tetrarch-bench
[ -x "$bench" ] || { echo "bench-small: $bench is missing: cargo build --release -p tetrarch-bench" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$bench" hash
"$bench" roofline --duration 0.5 --round-trips 200 --sessions 100 --json >"$out/roofline.jsonl"
"$bench" cluster --crash 0 --payloads 0/0 --sessions 1,100 --duration 0.5 --warmup 0.2 --json >"$out/closed.jsonl"
"$bench" cluster --crash 0 --payloads 0/0 --sessions 100 --rate '50%,200%' --saturation 0.5 --duration 1 \
    --warmup 0.2 --json >"$out/open.jsonl"
"$bench" compare --layout fused,spread --replicas 1 --signed --payloads 0/0 --sessions 10 --rounds 1 \
    --duration 0.5 --warmup 0.2
# Only wrong answers fail here; `--check` is for machines that do nothing else.
"$bench" timeline --script '2:add 4,6:kill leader,11:restart killed,16:remove 3,20:end' --svg "$out/timeline.svg"
for event in 'added replica 4' 'killed the leader' 'removed replica 3'; do
    grep -q "$event" "$out/timeline.svg" || { echo "bench-small: the figure lacks \"$event\"" >&2; exit 1; }
done
"$bench" transfer --state-mib 16 --checkpoint-every 64 --before 0.5 --durable --json >"$out/transfer.jsonl"
"$bench" durable --sessions 100 --rounds 1 --duration 0.5 --warmup 0.2 --json >"$out/durable.jsonl"
"$bench" report "$out"/*.jsonl -o "$out/report.html"
grep -q '</html>' "$out/report.html"
for title in 'Latency against throughput' 'Latency percentiles' 'Time of a request by stage' Roofline; do
    grep -q "$title" "$out/report.html" || { echo "bench-small: the page lacks \"$title\"" >&2; exit 1; }
done
echo "bench-small: all ran"
