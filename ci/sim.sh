#!/usr/bin/env bash
# The crate on the simulated system: what a kernel does rarely, the same every time; the kit as users have it, with its
# example, and the bug that this must find. Then random scripts with faults, for watchers and for typed sessions.
#
#   ci/sim.sh                         all of it
#   ci/sim.sh swarm                   the random scripts alone; GAIO_SWARM_SEEDS=10..20 for those seeds
#   ci/sim.sh swarm swarm_sessions    of one kind: swarm (the proactor), swarm_sessions (typed sessions)
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sim"
if [ "${1:-}" != swarm ]; then
    cargo test --lib --test 'simulated*'
    RUSTDOCFLAGS=$RUSTFLAGS cargo test --doc -- sys::sim

    cargo run --example simulated
    echo '--- the same server with a bug'
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    found="seats that are taken, and"
    if cargo run --example simulated -- forgetful 2>"$log" || ! grep -q "$found" "$log"; then
        cat "$log"
        echo 'the bug was not found'
        exit 1
    fi
    repeat=$(sed -n 's/^seed [0-9]* failed; once more, with a trace: //p' "$log")
    echo "$repeat"
    if [ -z "$repeat" ] || sh -c "$repeat" 2>"$log" || ! grep -q "$found" "$log"; then
        cat "$log"
        echo 'the line does not repeat it'
        exit 1
    fi
fi
swarms=(--test swarm --test swarm_sessions)
if [ -n "${2:-}" ]; then
    swarms=(--test "$2")
fi
# Optimised a little, with its assertions: a tenth of the time is worth another build.
cargo test --config 'profile.dev.package.gaio.opt-level=1' "${swarms[@]}" -- --nocapture
