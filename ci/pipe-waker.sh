#!/usr/bin/env bash
# The whole suite with the waker of systems that have no eventfd; and on one processor, where the consumer drives.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTFLAGS='--cfg gaio_pipe_waker' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/pipe-waker"
cargo test --lib --tests --no-run
processor=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*\([0-9]*\).*/\1/p' /proc/self/status)
# As many at a time as with two: most of a test is waiting.
RUST_TEST_THREADS=2 taskset -c "$processor" cargo test --lib --tests
