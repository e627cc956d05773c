#!/usr/bin/env bash
# Instructions per turn of each hot function, under callgrind, against bench/budget.toml.
#   ci/bench-check.sh            fails when one needs over 5 % more than its budget
#   ci/bench-check.sh --update   writes the budgets anew
set -euo pipefail
cd "$(dirname "$0")/.."
# valgrind counts "rep movsb" as one instruction a byte; glibc copies long runs without it then.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x7fffffff
micro=${CARGO_TARGET_DIR:-target}/release/tetrarch-micro
budget=bench/budget.toml
tolerance=105 # per cent of the budget

count() { # case, turns, function to count inside or -: instructions
    local only=()
    [ "$3" = - ] || only=(--toggle-collect="*$3*")
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "${only[@]}" "$micro" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

[ -x "$micro" ] || { echo "bench-check: $micro is missing: cargo build --release -p tetrarch-bench" >&2; exit 1; }
passed=0 failed=0 lines=
while read -r name few many inside what; do
    per_turn=$((($(count "$name" "$many" "$inside") - $(count "$name" "$few" "$inside")) / (many - few)))
    lines+="$name = $per_turn # $what"$'\n'
    allowed=$(sed -n "s/^$name = \([0-9]*\).*/\1/p" "$budget" 2>/dev/null || true)
    if [ "${1:-}" = --update ]; then
        echo "  $name $per_turn"
    elif [ -z "$allowed" ]; then
        echo "  FAIL $name has no budget: ci/bench-check.sh --update"
        failed=$((failed + 1))
    elif [ $((per_turn * 100)) -gt $((allowed * tolerance)) ]; then
        echo "  FAIL $name: $per_turn instructions a turn, the budget is $allowed. If that is the" \
            "price of something worth it, say so in the commit and run ci/bench-check.sh --update"
        failed=$((failed + 1))
    else
        echo "  ok   $name: $per_turn of $allowed instructions a turn"
        passed=$((passed + 1))
    fi
done < <("$micro" --list)
if [ "${1:-}" = --update ]; then
    { echo "# Instructions per turn of each hot function under callgrind, x86-64 baseline release build."
      echo "# Written by ci/bench-check.sh --update; checked by ci/run bench --check."
      printf '%s' "$lines"; } >"$budget"
    exit 0
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
