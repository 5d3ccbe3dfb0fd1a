#!/usr/bin/env bash
# Measures how long nobody takes writes when a node of a cluster is killed, ends, or gives its roles away. How:
# scripts/bench/failover.py. Options: scripts/failover.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom failover.py "$@"
