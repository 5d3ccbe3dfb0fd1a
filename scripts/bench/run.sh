# shellcheck shell=bash
# Runs a Python program of this directory with keyloom's binary: the one given with --keyloom, otherwise the release
# build of this tree, made now. Sourced by the scripts that people call.

# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

run_with_keyloom() {
    local program=$1 word own_binary=yes
    shift
    for word in "$@"; do
        case $word in
            -h | --help) exec python3 "$repo/scripts/bench/$program" "$@" ;;
            --keyloom | --keyloom=*) own_binary=no ;;
        esac
    done
    "$repo/scripts/install-peers.sh"
    if [[ $own_binary = yes ]]; then
        cargo build --release --quiet --manifest-path "$repo/Cargo.toml"
        set -- --keyloom "${CARGO_TARGET_DIR:-$repo/target}/release/keyloom" "$@"
    fi
    exec python3 "$repo/scripts/bench/$program" "$@"
}
