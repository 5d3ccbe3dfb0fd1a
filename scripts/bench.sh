#!/usr/bin/env bash
# Measures keyloom beside redis-server, Valkey, memcached and its own floor, in one alternated run, and prints medians
# and ratios. What is measured and how: scripts/bench/compare.py. Options: scripts/bench.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom compare.py "$@"
