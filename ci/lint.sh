#!/usr/bin/env bash
# Clippy on every target, for each way the crate can be built; a warning is an error. And whether the deliberate faults of
# seeded-bugs.txt still fit the code.
#
# The cfgs go to this crate alone (behind `--`), so that its dependencies are checked once. That does not do for loom,
# which is a dependency by cfg: it has a target directory of its own, shared with ci/loom.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

echo '--- seeded bugs fit'
ci/seeded-bugs.sh fit
echo '--- clippy'
cargo clippy --all-targets -- -D warnings
# The tests are the same ones.
echo '--- clippy gaio_pipe_waker'
cargo clippy --lib -- -D warnings --cfg gaio_pipe_waker
# A simulated socket is made from no real one, so what uses real ones cannot be built with it.
echo '--- clippy gaio_sim'
cargo clippy --lib --example simulated --test 'simulated*' --test 'swarm*' -- -D warnings --cfg gaio_sim
echo '--- clippy loom'
RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" \
    cargo clippy --profile models --lib --test 'loom_*' -- -D warnings
