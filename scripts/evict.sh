#!/usr/bin/env bash
# Measures what eviction costs in keyloom, redis-server and Valkey: SETs that each evict, beside the same SETs without a
# limit, and resident memory beside maxmemory. How: scripts/bench/evict.py. Options: scripts/evict.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom evict.py "$@"
