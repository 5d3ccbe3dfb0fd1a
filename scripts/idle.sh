#!/usr/bin/env bash
# Measures what 10,000 idle connections cost keyloom. How: scripts/bench/idle.py. Options: scripts/idle.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom idle.py "$@"
