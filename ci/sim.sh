#!/bin/sh
# The tests on the simulated system: those of the crate itself, and tests/simulated.rs. The same every time.

set -eu
cd "$(dirname "$0")/.."
export RUSTFLAGS="${RUSTFLAGS:-} --cfg gaio_sim"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/sim}"
exec cargo test --lib --test simulated "$@"
