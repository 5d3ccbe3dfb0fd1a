#!/usr/bin/env bash
# Measures what clients and memory notice of a snapshot. What is measured and how: scripts/bench/snapshot.py.
# Options: scripts/snapshot.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom snapshot.py "$@"
