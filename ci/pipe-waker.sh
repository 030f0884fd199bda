#!/usr/bin/env bash
# The whole suite with the waker of systems that have no eventfd.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTFLAGS='--cfg gaio_pipe_waker' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/pipe-waker" cargo test --lib --tests
