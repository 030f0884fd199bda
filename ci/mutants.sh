#!/usr/bin/env bash
# Small changes to the core, by cargo-mutants, each of which must make a test fail. The judges need no socket: the unit
# tests; for what they do not notice some seeds of the swarm; for what is left the tests on the simulated system. What
# survives all of them and may is in mutants-accepted.txt, with the reason.
#
#   ci/mutants.sh                                    all of the core, 1 700 mutants: hours
#   ci/mutants.sh -f src/event_loop/slab.rs          this file; or anything else that `cargo mutants` takes
#   ci/mutants.sh -f 'src/typed/*.rs' --shard 0/4    every fourth of these
#
# Needs `cargo install cargo-mutants --locked`. A mutant takes 3 to 8 s on an idle core and a judge, nearly all of it to
# build: so only one test binary is built at a time, in one copy of the tree, over and over. (cargo-mutants would begin each
# run with a new target directory, and build for minutes what does not change.) The results stay in the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${CARGO_TARGET_DIR:-target}/mutants"
work=$(cd "${CARGO_TARGET_DIR:-target}/mutants" && pwd)
tree=$work/tree accepted=$PWD/ci/mutants-accepted.txt
rm -rf "$tree" "$work/mutants.out" "$work/mutants.out.old"
mkdir "$tree"
git ls-files -z | xargs -0 tar -cf - | tar -xmf - -C "$tree"
[ ! -f Cargo.lock ] || cp Cargo.lock "$tree"
cd "$tree"

export RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR="$work/target" RUST_BACKTRACE=0
export CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0
export GAIO_SWARM_SEEDS=${GAIO_SWARM_SEEDS:-0..150}
core=()
for file in 'event_loop/*' 'handoff/**/*' watcher/{flow,queue,proactor,closing,giving_up,ending,outbox,turn,accepting} \
    watcher/{datagrams,alarm,bounds,leftover,connecting} typed/{step,machine,transport,output,expect,face}; do
    core+=(-f "src/$file.rs")
done
[ $# -eq 0 ] || core=("$@")

judge() {
    cargo mutants --in-place -o "$work" --no-shuffle --baseline=skip --build-timeout 300 --colors never \
        -e '**/*tests.rs' -E 'impl (fmt::)?(Debug|Display)' "${core[@]}" "$@"
}

# What did not end was caught: the next judge need not try it. A failure that is not about mutants ends the script.
next() {
    cat "$work/mutants.out/timeout.txt" >> "$work/timed-out.txt"
    cat "$work/mutants.out/timeout.txt" >> "$work/mutants.out/caught.txt"
    [ -s "$work/mutants.out/missed.txt" ]
}
ask() {
    local code=0
    judge "$@" || code=$?
    case $code in 0 | 2 | 3) ;; *) exit "$code" ;; esac
}
ask --timeout 20 -C=--lib -- -- --skip sys::
! next || ask --timeout 60 --iterate -C=--test=swarm -- -- random
! next || ask --timeout 90 --iterate '-C=--test=simulated*' -C=--test=testkit
echo '--- survivors that are not accepted:'
! sed 's/:[0-9]*:[0-9]*:/:/' "$work/mutants.out/missed.txt" | grep -vxFf <(grep '^src/' "$accepted")
