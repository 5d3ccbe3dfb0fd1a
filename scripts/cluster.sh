#!/usr/bin/env bash
# A cluster on this machine, to try things out.
#
#   scripts/cluster.sh up N [--directive value ...]   starts N nodes and makes a cluster of them; prints for each
#                                                     N HOST:PORT PID DIR, and returns when every slot is served
#   scripts/cluster.sh status [--json]                what the nodes say of it
#   scripts/cluster.sh kill N                         SIGKILL
#   scripts/cluster.sh start N                        starts a node again that has ended
#   scripts/cluster.sh partition N                    cuts a node off from the others, not from this machine's clients
#   scripts/cluster.sh heal                           undoes that, for all nodes
#   scripts/cluster.sh down                           ends all nodes, and removes what they have left
#
# With the rights of root each node gets a network namespace, which is what 'partition' needs; without, or with
# KEYLOOM_CLUSTER_NET=loopback, all listen on 127.0.0.1. The binary is $KEYLOOM_BIN, otherwise the release build of this
# tree. Everything is kept in $KEYLOOM_CLUSTER_DIR (/tmp/keyloom-cluster-UID).
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

home=${KEYLOOM_CLUSTER_DIR:-/tmp/keyloom-cluster-$(id -u)}
table=$home/nodes     # one line for each node: N HOST PORT
net=10.214.97
bridge=keyloom-lan
port=7000

die() {
    echo "cluster.sh: $*" >&2
    exit 1
}

binary() {
    if [[ -z ${KEYLOOM_BIN:-} ]]; then
        cargo build --release --quiet --manifest-path "$repo/Cargo.toml"
        KEYLOOM_BIN=${CARGO_TARGET_DIR:-$repo/target}/release/keyloom
    fi
}

# The line of a node, as variables.
node() {
    [[ -f $table ]] || die "there is no cluster in $home"
    local line
    line=$(grep "^$1 " "$table") || die "there is no node $1"
    read -r number host port <<<"$line"
    dir=$home/node-$number
    pid=$(cat "$dir/keyloom.pid" 2>/dev/null || true)
}

alive() {
    [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null
}

in_namespaces() {
    [[ -f $home/namespaces ]]
}

launch() {
    node "$1"
    ! alive || die "node $number runs already"
    local command=("$KEYLOOM_BIN" --cluster-enabled yes --bind "$host" --port "$port" --dir "$dir" --pidfile "$dir/keyloom.pid"
        --logfile "$dir/log" --protected-mode no --cluster-secret "$(cat "$home/secret")")
    mapfile -t -O ${#command[@]} command <"$home/directives"
    if in_namespaces; then
        command=(ip netns exec "keyloom-node-$number" "${command[@]}")
    fi
    setsid "${command[@]}" </dev/null >>"$dir/output" 2>&1 &
    local look
    for look in {1..200}; do
        pid=$(cat "$dir/keyloom.pid" 2>/dev/null || true)
        if alive && (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
            return
        fi
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    tail -n 5 "$dir/output" "$dir/log" >&2 || true
    die "node $number does not start"
}

make_namespaces() {
    ip link add "$bridge" type bridge
    ip addr add "$net.254/24" dev "$bridge"
    ip link set "$bridge" up
    local n
    for ((n = 1; n <= $1; n++)); do
        ip netns add "keyloom-node-$n"
        ip link add "keyloom-$n" type veth peer name inside netns "keyloom-node-$n"
        ip link set "keyloom-$n" master "$bridge" up
        ip -n "keyloom-node-$n" addr add "$net.$n/24" dev inside
        ip -n "keyloom-node-$n" link set inside up
        ip -n "keyloom-node-$n" link set lo up
    done
    touch "$home/namespaces"
}

remove_namespaces() {
    local name
    for name in $(ip netns list 2>/dev/null | grep -o '^keyloom-node-[0-9]*' || true); do
        ip netns del "$name"
    done
    ip link del "$bridge" 2>/dev/null || true
}

up() {
    local count=${1:?how many nodes?} n
    shift
    [[ $count =~ ^[1-9][0-9]?$ ]] || die "'$count' is no number of nodes"
    [[ ! -e $table ]] || die "there is a cluster in $home: 'down' ends it"
    binary
    mkdir -p "$home"
    chmod 700 "$home"
    head -c 24 /dev/urandom | base64 >"$home/secret"
    printf '%s\n' --save '' "$@" >"$home/directives"
    if [[ $(id -u) = 0 && ${KEYLOOM_CLUSTER_NET:-} != loopback ]]; then
        remove_namespaces
        make_namespaces "$count"
    fi
    for ((n = 1; n <= count; n++)); do
        mkdir -p "$home/node-$n"
        if in_namespaces; then
            echo "$n $net.$n $port"
        else
            echo "$n 127.0.0.1 $((port + n - 1))"
        fi
    done >"$table"
    local addresses=()
    for ((n = 1; n <= count; n++)); do
        launch "$n"
        addresses+=("$host:$port")
    done
    "$KEYLOOM_BIN" cluster create "${addresses[@]}" >/dev/null
    for ((n = 1; n <= count; n++)); do
        node "$n"
        echo "$number $host:$port $pid $dir"
    done
}

status() {
    binary
    local line
    while read -r line; do
        node "${line%% *}"
        if alive && "$KEYLOOM_BIN" cluster status "$host:$port" "$@"; then
            return
        fi
    done <"$table"
    die "no node answers"
}

partition() {
    node "$1"
    in_namespaces || die "nodes on 127.0.0.1 cannot be cut off: it takes the rights of root"
    local nft=(ip netns exec "keyloom-node-$number" nft)
    "${nft[@]}" add table ip cut
    local hook side
    for hook in input output; do
        if [[ $hook = input ]]; then side=saddr; else side=daddr; fi
        "${nft[@]}" add chain ip cut "$hook" "{ type filter hook $hook priority 0 ; }"
        "${nft[@]}" add rule ip cut "$hook" ip "$side" "$net.254" accept
        "${nft[@]}" add rule ip cut "$hook" ip "$side" "$net.0/24" ip "$side" != "$host" drop
    done
}

heal() {
    in_namespaces || return 0
    local line
    while read -r line; do
        ip netns exec "keyloom-node-${line%% *}" nft delete table ip cut 2>/dev/null || true
    done <"$table"
}

down() {
    [[ -d $home ]] || return 0
    local line look
    if [[ -f $table ]]; then
        while read -r line; do
            node "${line%% *}"
            if alive; then
                kill -CONT "$pid"
                kill -KILL "$pid"
                for look in {1..100}; do
                    alive || break
                    sleep 0.02
                done
            fi
        done <"$table"
    fi
    if in_namespaces; then
        remove_namespaces
    fi
    rm -rf "$home"
}

case ${1:-} in
    up) shift && up "$@" ;;
    status) shift && status "$@" ;;
    kill)
        node "${2:?which node?}"
        alive || die "node $number does not run"
        kill -KILL "$pid"
        ;;
    start)
        binary
        launch "${2:?which node?}"
        echo "$number $host:$port $pid $dir"
        ;;
    partition) partition "${2:?which node?}" ;;
    heal) heal ;;
    down) down ;;
    *) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \?//' >&2 && exit 1 ;;
esac
