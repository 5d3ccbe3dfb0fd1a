#!/usr/bin/env bash
# Measures what it costs clients that a node joins a cluster with data, and leaves it again. How: scripts/bench/members.py.
# Options: scripts/members.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom members.py "$@"
