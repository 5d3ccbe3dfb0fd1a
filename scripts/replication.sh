#!/usr/bin/env bash
# Measures how far replicas are behind, and what clients of a primary notice of a full copy. What is measured and how:
# scripts/bench/replication.py. Options: scripts/replication.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom replication.py "$@"
