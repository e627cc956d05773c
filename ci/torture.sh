#!/usr/bin/env bash
# Real replicas, killed with SIGKILL under load over files that lose what was not synced, and started again.
#
#   ci/torture.sh ROUNDS [ARGUMENT...]    further arguments go to `tetrarch-torture run`
#
# First careless replicas, which have to be found out; then honest ones, at two depths, and with one disk that
# is emptied and put back to older states; then one whose disk becomes full, where a small file system can be
# mounted. TORTURE_BINARY names another binary than target/release/tetrarch-torture, TMPDIR where the files
# are. A failure leaves them there.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${1:?usage: ci/torture.sh ROUNDS [ARGUMENT...]}
shift
binary=${TORTURE_BINARY:-${CARGO_TARGET_DIR:-target}/release/tetrarch-torture}
if [ ! -x "$binary" ]; then
    echo "torture: $binary is missing: cargo build --release -p tetrarch-torture" >&2
    exit 2
fi
for careless in sync tail; do
    echo "careless replicas ($careless):"
    "$binary" run --rounds 100 --careless "$careless" --must-fail
done
third=$(((rounds + 2) / 3))
for arguments in "--depth 4" "--depth 1" "--depth 4 --bad-disk"; do
    echo "honest replicas, $arguments:"
    # shellcheck disable=SC2086
    "$binary" run --rounds "$third" $arguments "$@"
done

small=$(mktemp -d)
trap 'rmdir "$small"' EXIT
if unshare -m true 2>/dev/null; then
    echo "a full disk:"
    unshare -m sh -c 'mount -t tmpfs -o size=40m tmpfs "$1" && "$2" full-disk "$1"' sh "$small" "$binary"
else
    echo "torture: no file system can be mounted here (needs root): the full disk is skipped"
fi
