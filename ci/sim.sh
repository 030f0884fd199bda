#!/usr/bin/env bash
# The watcher on the simulated system: what a kernel does rarely, the same every time. Then random scripts with faults.
#
#   ci/sim.sh          all of it
#   ci/sim.sh swarm    the random scripts alone; GAIO_SWARM_SEEDS=10..20 for those seeds
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sim"
if [ "${1:-}" != swarm ]; then
    cargo test --lib --test 'simulated*'
fi
# Optimised a little, with its assertions: a tenth of the time is worth another build.
cargo test --config 'profile.dev.package.gaio.opt-level=1' --test swarm -- --nocapture
