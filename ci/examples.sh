#!/usr/bin/env bash
# Builds and runs every example; each must end by itself, without an error, within EXAMPLE_SECONDS.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=${EXAMPLE_SECONDS:-120}
binaries=${CARGO_TARGET_DIR:-target}/debug
cargo build -q -p tetrarch-examples

failed=0
for source in examples/src/bin/*.rs; do
    name=$(basename "$source" .rs)
    echo "-- $name"
    if ! timeout "$limit" "$binaries/$name"; then
        echo "examples: $name failed, or took more than $limit s; repeat:" \
            "cargo run -p tetrarch-examples --bin $name" >&2
        failed=1
    fi
done
exit "$failed"
