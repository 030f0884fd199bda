#!/usr/bin/env bash
# The models of loom-tests/ and of the simulated system, and the mutants that they must catch. Optimised, or it takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" cargo test --profile models --lib --test 'loom_*'
