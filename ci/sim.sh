#!/usr/bin/env bash
# The simulator: fixed seeds that every change must survive, then fresh seeds for the rest of the time.
#
#   ci/sim.sh SECONDS
#
# SIM_BINARY names another binary than target/release/tetrarch-sim, SIM_FIXED another number of fixed
# seeds of each kind (default 200 at level 1, a tenth of it at level 2). A failure prints the command
# that repeats it, and the exit code is not 0. The fixed seeds run whatever SECONDS says.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: ci/sim.sh SECONDS}
binary=${SIM_BINARY:-${CARGO_TARGET_DIR:-target}/release/tetrarch-sim}
fixed=${SIM_FIXED:-200}
jobs=$(nproc)
if [ ! -x "$binary" ]; then
    echo "sim: $binary is missing: cargo build --release -p tetrarch-sim" >&2
    exit 2
fi

end=$((SECONDS + seconds))
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# run WHAT ARGUMENT...: one call of the simulator; its last line sums it up.
run() {
    local what=$1
    shift
    if "$binary" --jobs "$jobs" "$@" >"$output" 2>&1; then
        printf '%-34s %s\n' "$what" "$(tail -n 1 "$output")"
        return 0
    fi
    cat "$output"
    echo "sim: FAILED: $what; all of it again: $binary $*" >&2
    echo "sim: the one seed: see the lines \"repeat:\" above" >&2
    exit 1
}

level2=$((fixed / 10))
[ "$level2" -gt 0 ] || level2=1
for n in 4 7; do
    run "level 1, n = $n, byzantine" --level 1 --n "$n" --model byzantine --seeds "0..$fixed"
    run "level 2, n = $n, byzantine" --level 2 --n "$n" --model byzantine --seeds "0..$level2"
done
for n in 3 5; do
    run "level 1, n = $n, crash" --level 1 --n "$n" --model crash --seeds "0..$fixed"
    run "level 2, n = $n, crash" --level 2 --n "$n" --model crash --seeds "0..$level2"
done
# Any number of members goes down at once, and comes back with its records.
run "level 1, disks" --level 1 --disks honest --seeds "0..$fixed"
# Besides, disks are full, fail, and lie for up to f members.
run "level 1, bad disks" --level 1 --disks faulty --seeds "0..$fixed"
run "level 2, bad disks" --level 2 --disks faulty --seeds "0..$level2"
# The same seed must be the same run.
run "level 1, every run twice" --level 1 --seeds 0..20 --twice

# Fresh seeds: 2^40 places to begin, printed, so that the same stretch can be run again. Two thirds of
# the time for the level that finds more in the same time.
left=$((end - SECONDS))
if [ "$left" -lt 3 ]; then
    echo "sim: the fixed seeds took all of $seconds s; no fresh ones"
    exit 0
fi
start=$(od -An -N5 -tu8 /dev/urandom | tr -d ' ')
last=$((start + 1000000000))
for level in 1 2; do
    share=$((level == 1 ? left * 2 / 3 : end - SECONDS))
    [ "$share" -ge 1 ] || continue
    echo "fresh seeds from $start at level $level for $share s"
    run "level $level, fresh" --level "$level" --seeds "$start..$last" --time "$share"
done
