# shellcheck shell=bash
# Where the clients that tests and benchmarks use are kept. Sourced by the other scripts.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
clients=${CARGO_TARGET_DIR:-$repo/target}/clients
# Python packages that the machine does not have itself; node finds its own in $clients/node_modules.
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$clients/python${PYTHONPATH:+:$PYTHONPATH}"
