#!/usr/bin/env bash
# Everything that must hold before a change is accepted: format, lints, all tests, the model checks of loom.
# The last line is the sum over all test programs: "N passed, N failed".
#
#   scripts/check.sh [--no-install]     --no-install: the peers (scripts/install-peers.sh) are there already
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$repo"

# What is built once gains nothing from what the next build could use: the library and its tests took 858 s of CPU with it, 490 without.
if [[ -n ${CI-} ]]; then
    export CARGO_INCREMENTAL=0
fi

results=$(mktemp)
trap 'rm -f "$results"' EXIT

stage() {
    printf '== %s (%d s)\n' "$1" "$SECONDS"
}

print_sum() {
    awk '/^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
        }
    }
    END { printf "%d passed, %d failed\n", passed, failed }' "$results"
}

# Runs tests, adds what they print to the results, and stops after a failure: with the sum, because tests did run.
tests() {
    if ! "$@" 2>&1 | tee -a "$results"; then
        print_sum
        exit 1
    fi
}

case ${1-} in
    --no-install) ;;
    '')
        stage 'Peers'
        scripts/install-peers.sh
        ;;
    *)
        echo "usage: scripts/check.sh [--no-install]" >&2
        exit 2
        ;;
esac

stage 'Format'
cargo fmt --all --check

stage 'Lints'
cargo clippy --workspace --all-targets --quiet -- -D warnings

# Loom explores thousands of interleavings: an optimised build of that small crate alone saves more than it costs.
stage 'Tests'
tests cargo test --workspace --exclude loom-tests --no-fail-fast
stage 'Loom'
tests cargo test --package loom-tests --release --no-fail-fast

stage 'Done'
print_sum
