#!/usr/bin/env bash
# Measures how late a million expired keys are removed, and how long other requests wait meanwhile, in keyloom,
# redis-server and Valkey. How: scripts/bench/expiry.py. Options: scripts/expiry.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom expiry.py "$@"
