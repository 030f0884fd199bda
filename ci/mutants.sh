#!/usr/bin/env bash
# Small changes to the core, by cargo-mutants, each of which must make a test fail. The judges need no socket: unit tests,
# tests on the simulated system, some seeds of the swarms. Each part of the core is tried first by those that know it best;
# what they do not notice, by the others. What survives all and may is in mutants-accepted.txt, with the reason.
#
#   ci/mutants.sh                                    all of the core, 1 800 mutants: 3 hours on one core
#   ci/mutants.sh loop proactor typed                the same, part by part: these
#   ci/mutants.sh loop -- -f src/event_loop/slab.rs  of a part this file; or anything else that `cargo mutants` takes
#
# Needs `cargo install cargo-mutants --locked`. A mutant takes 3 to 8 s on an idle core and a judge, nearly all of it to
# build: so few test binaries are built at a time, in one copy of the tree, over and over. (cargo-mutants would begin each
# run with a new target directory, and build for minutes what does not change.) The results stay in the target directory;
# parts may run beside each other. RESUME=1 goes on after an interruption: what was caught is not tried again.
set -euo pipefail
cd "$(dirname "$0")/.."

parts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do parts+=("$1") && shift; done
[ $# -eq 0 ] || shift
[ ${#parts[@]} -gt 0 ] || parts=(loop proactor typed)
options=("$@")

mkdir -p "${CARGO_TARGET_DIR:-target}/mutants"
all=$(cd "${CARGO_TARGET_DIR:-target}/mutants" && pwd)
accepted=$PWD/ci/mutants-accepted.txt root=$PWD
export RUSTFLAGS='--cfg gaio_sim' RUST_BACKTRACE=0 CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0
export GAIO_SWARM_SEEDS=${GAIO_SWARM_SEEDS:-0..150}

# The files of a part.
files() {
    case $1 in
        loop) echo 'event_loop/*' 'handoff/**/*' ;;
        proactor) echo watcher/{flow,queue,proactor,closing,giving_up,ending,outbox,turn,accepting,datagrams,alarm} \
            watcher/{bounds,leftover,connecting,starting,starving,between_turns,driving,embedded} ;;
        typed) echo typed/{step,machine,transport,output,expect,face} ;;
        *) echo "no such part: $1" >&2 && exit 2 ;;
    esac
}

judge() {
    local code=0
    CARGO_TARGET_DIR="$work/target" cargo mutants --in-place -o "$work" --no-shuffle --baseline=skip --build-timeout 300 \
        --colors never -e '**/*tests.rs' -E 'impl ((std::)?fmt::)?(Debug|Display)' "${core[@]}" "$@" || code=$?
    case $code in 0 | 2 | 3) ;; *) exit "$code" ;; esac
    # What did not end was caught: the next judge need not try it.
    cat "$work/mutants.out/timeout.txt" >>"$work/timed-out.txt"
    cat "$work/mutants.out/timeout.txt" >>"$work/mutants.out/caught.txt"
}
missed() { [ -s "$work/mutants.out/missed.txt" ]; }
units() { judge --timeout 8 "$@" -C=--lib -- -- --skip sys::; }
scripts() { judge --timeout 40 "$@" "-C=--test=$swarm" -- -- random; }
simulated() { judge --timeout 60 "$@" "${tests[@]/#/-C=--test=}"; }

try() {
    local judges swarm=swarm file core=() again=
    local tests=(simulated simulated_{at_once,calls,connects,datagrams,driving,ends,held,ops,turns})
    case $1 in
        loop) judges='units scripts simulated' tests+=(simulated_sessions testkit) ;;
        proactor) judges='scripts units simulated' ;;
        typed) judges='units simulated scripts' swarm=swarm_sessions tests=(simulated_{sessions,panics} testkit) ;;
    esac
    work=$all/$1
    rm -rf "$work/tree"
    if [ -n "${RESUME:-}" ]; then again=--iterate; else rm -rf "$work"/mutants.out* "$work/timed-out.txt"; fi
    mkdir -p "$work/tree"
    git ls-files -z | xargs -0 tar -cf - | tar -xmf - -C "$work/tree"
    [ ! -f Cargo.lock ] || cp Cargo.lock "$work/tree"
    set -f
    for file in $(files "$1"); do core+=(-f "src/$file.rs"); done
    set +f
    [ ${#options[@]} -eq 0 ] || core=("${options[@]}")
    cd "$work/tree"
    for judge in $judges; do
        $judge $again
        missed || break
        again=--iterate
    done
    cd "$root"
    echo "--- survivors of $1 that are not accepted:"
    ! sed 's/:[0-9]*:[0-9]*:/:/' "$work/mutants.out/missed.txt" | grep -vxFf <(grep '^src/' "$accepted")
}

failed=0
for part in "${parts[@]}"; do
    files "$part" >/dev/null
    try "$part" || failed=1
done
exit $failed
