#!/usr/bin/env bash
# Small changes to the core, by cargo-mutants, each of which must make a test fail. The judges need no socket: the unit
# tests first, then for what they did not notice the tests on the simulated system and some seeds of the swarm. What is
# changed, and what is left out and why: mutants.toml. What survives all the same and may: mutants-accepted.txt.
#
#   ci/mutants.sh                            all of the core: some hours
#   ci/mutants.sh -f src/event_loop/slab.rs  this file; anything else that `cargo mutants` understands
#
# Needs `cargo install cargo-mutants --locked`. What was found stays in the target directory, below mutants/.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${CARGO_TARGET_DIR:-target}/mutants"
out=$(cd "${CARGO_TARGET_DIR:-target}/mutants" && pwd)
unset CARGO_TARGET_DIR
export RUSTFLAGS='--cfg gaio_sim' GAIO_SWARM_SEEDS=${GAIO_SWARM_SEEDS:-0..300} RUST_BACKTRACE=0
# Nobody debugs a mutant.
export CARGO_PROFILE_DEV_DEBUG=none CARGO_PROFILE_TEST_DEBUG=none
rm -rf "$out/mutants.out" "$out/mutants.out.old"

# The copies are built in, again and again: one for each job, with its own target directory.
run() { cargo mutants --config ci/mutants.toml -o "$out" --no-shuffle --baseline=skip --timeout 60 -j "${JOBS:-2}" "$@"; }

code=0
run "$@" -- --lib || code=$?
# 2: some were missed; 3: some did not end.
if [ "$code" -eq 2 ]; then
    code=0
    run --iterate "$@" -- --test 'simulated*' --test testkit --test swarm || code=$?
fi
[ "$code" -eq 2 ] || [ "$code" -eq 3 ] || exit "$code"
comm -23 <(sed 's/:[0-9]*:[0-9]*:/:/' "$out/mutants.out/missed.txt" | sort -u) \
    <(sed -n 's/^  //p' ci/mutants-accepted.txt | sort -u) >"$out/survivors.txt"
cat "$out/survivors.txt"
[ ! -s "$out/survivors.txt" ]
