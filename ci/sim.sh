#!/usr/bin/env bash
# The tests on the simulated system: those of the crate itself, and tests/simulated.rs. They come out the same every time.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sim" cargo test --lib --test simulated "$@"
