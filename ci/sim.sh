#!/usr/bin/env bash
# The watcher on the simulated system: what a kernel does rarely, the same every time.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sim" cargo test --lib --test 'simulated*'
