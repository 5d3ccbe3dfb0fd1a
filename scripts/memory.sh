#!/usr/bin/env bash
# Measures the memory that a key takes in keyloom, redis-server, Valkey and memcached: filled, with expiries, after
# evictions, after removals, after a shift of the sizes. How: scripts/bench/memory.py. Options: scripts/memory.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom memory.py "$@"
