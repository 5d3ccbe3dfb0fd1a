#!/usr/bin/env bash
# Measures what a second core costs clients of a cluster, with and without ports of the cores. How: scripts/bench/cores.py.
# Options: scripts/cores.sh --help
set -euo pipefail
# shellcheck source=scripts/bench/run.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench/run.sh"
run_with_keyloom cores.py "$@"
