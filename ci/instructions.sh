#!/usr/bin/env bash
# Where the instructions of one ordered request go in one replica, under callgrind: 0/0 requests, full
# batches, memory transport. Tables by stage, by kind of work and by function.
#   ci/instructions.sh [leader|follower]      both when none is named; docs/PERFORMANCE.md has the last one
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
# valgrind counts "rep movsb" as one instruction a byte; glibc copies long runs without it then.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x7fffffff
micro=${CARGO_TARGET_DIR:-target}/release/tetrarch-micro
functions=${FUNCTIONS:-40} # lines of the last table

[ -x "$micro" ] || { echo "instructions: $micro is missing: cargo build --release -p tetrarch-bench" >&2; exit 1; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT

annotate() { callgrind_annotate --auto=no --show-percs=no --threshold=100 "$@" "$out" 2>/dev/null; }

# Lines of callgrind_annotate are "1,234  file:function [object]". A stage is what its poll costs with
# everything below it.
by_stage() {
    annotate --inclusive=yes | awk -v turns="$turns" '
        !/^ *[0-9,]+ +[^ ]+:/ { next }
        { cost = $1; gsub(",", "", cost) }
        /as tetrarch_dataplane::stage::Stage>::poll/ && match($0, /stage\/(network|ordering|execution)\.rs/) {
            stage = substr($0, RSTART + 6, RLENGTH - 9)
            if (cost > most[stage]) most[stage] = cost
        }
        END { for (stage in most) printf "%8.0f  %s\n", most[stage] / turns, stage }' | sort -rn
}

# The kind of work: by the library where that says more than the function.
by_kind() {
    annotate | awk -v turns="$turns" '
        !/^ *[0-9,]+ +[^ ]+:/ { next }
        { cost = $1; gsub(",", "", cost); kind = "everything else" }
        /tetrarch_consensus/ { kind = "protocol core" }
        /stage::ordering/ { kind = "ordering stage" }
        /stage::execution|tetrarch_services/ { kind = "execution stage, service" }
        /reply_cache/ { kind = "reply cache" }
        /stage::(network|ingress|egress)/ { kind = "network stage, ingress, egress" }
        /tetrarch_dataplane::(links|header|burst|ring)/ { kind = "links" }
        /tetrarch_dataplane::(arena|frame|free_list)/ { kind = "frames" }
        /transport::memory/ { kind = "memory transport" }
        /memcpy|memmove|memset|memcmp/ { kind = "copying and clearing" }
        /proofs|authenticator|cmac/ { kind = "proofs of clients" }
        /crypto::mac|gmac|hash_long|polyval|ghash|aes_gcm|universal.hash/ { kind = "link tags" }
        /blake3|crypto::hash/ { kind = "hashing" }
        { sum[kind] += cost; all += cost }
        END { for (kind in sum) printf "%8.0f  %s\n", sum[kind] / turns, kind
              printf "%8.0f  all\n", all / turns }' | sort -rn
}

by_function() {
    annotate | awk -v turns="$turns" '
        !/^ *[0-9,]+ +[^ ]+:/ { next }
        { cost = $1; gsub(",", "", cost); $1 = ""; sub(/ \[[^]]*\]$/, "")
          asm = /blake3.*\.S:/ ? "blake3, assembler: " : ""
          sub(/^ *[^ ]*\.[a-zA-Z]+:/, ""); gsub(/<impl [^>]*>+::/, "")
          sum[asm $0] += cost }
        END { for (name in sum) printf "%8.0f  %s\n", sum[name] / turns, name }' |
        sort -rn | sed -n "1,${functions}p" | cut -c1-140
}

for role in ${1:-leader follower}; do
    read -r name _ turns inside _ < <("$micro" --list | grep "^replica_${role}_request ") ||
        { echo "instructions: no role '$role': leader or follower" >&2; exit 2; }
    valgrind --tool=callgrind --callgrind-out-file="$out" --toggle-collect="*$inside*" \
        "$micro" "$name" "$turns" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p' |
        awk -v turns="$turns" -v role="$role" \
            '{ printf "== %s: %.0f instructions a request (%d requests)\n", role, $1 / turns, turns }'
    printf '\n     a request  by stage\n' && by_stage
    printf '\n     a request  by kind of work\n' && by_kind
    printf '\n     a request  by function\n' && by_function
    echo
done
