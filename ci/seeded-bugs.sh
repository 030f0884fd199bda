#!/usr/bin/env bash
# Deliberate faults in the core, one at a time, in a copy of the tree: each must be caught, without a socket. They are in
# seeded-bugs.txt, each with the promise that it breaks.
#
#   ci/seeded-bugs.sh            all of them
#   ci/seeded-bugs.sh NAME …     these
#   ci/seeded-bugs.sh fit        only whether each still fits the code, in a second
#
# Prints for each what caught it, and after how long: the first seed of the swarm, a test on the simulated system, a unit
# test, a model. Stops asking at the first. Fails if a fault is caught by nothing, does not build, or does not fit.
#
# Takes 10 to 15 s a fault on 2 idle cores, nearly all of it to build: 15 minutes. What was built stays in the target
# directory for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p "${CARGO_TARGET_DIR:-target}/seeded"
work=$(cd "${CARGO_TARGET_DIR:-target}/seeded" && pwd)
tree=$work/tree log=$work/log faults=ci/seeded-bugs.txt
# Slices of seeds: a run stops at the end of the first in which a seed has failed.
SLICES='0..20 20..80 80..300 300..1000'

# All files as if they were new, or cargo would not see that a fault has gone.
rm -rf "$tree"
mkdir "$tree"
git ls-files -z | xargs -0 tar -cf - | tar -xmf - -C "$tree"
[ ! -f Cargo.lock ] || cp Cargo.lock "$tree"

plant() { awk -v root="$tree" -v name="$1" -f ci/seeded-bugs.awk "$faults"; }
heal() { for file in $1; do cp "$file" "$tree/$file"; done; }

# Builds these tests for one cfg, and prints the paths of the binaries.
build() {
    local cfg=$1
    shift
    local options=()
    # Optimised a little where seeds are counted.
    [ "$*" != '--test swarm' ] || options=(--config 'profile.dev.package.gaio.opt-level=1')
    [ "$cfg" != loom ] || options=(--profile models)
    (cd "$tree" && RUSTFLAGS="--cfg $cfg" CARGO_TARGET_DIR="$work/$cfg" \
        cargo test "${options[@]}" --no-run --message-format=json "$@" 2>"$log.build") |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

# Runs a binary. True if it fails, or does not end; says how in $caught.
fails() {
    local code=0 first
    (ulimit -v 8000000 && timeout "$limit" "$@" >"$log" 2>&1) || code=$?
    [ "$code" -ne 0 ] || return 1
    first=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | head -n 1)
    caught=$first
    [ -z "$first" ] || return 0
    # It hangs, or has crashed: by one of those that have not ended.
    sed -n 's/^test \(.*\) \.\.\. .*/\1: test/p' "$log" | sort >"$log.ended"
    first=$("$1" --list 2>/dev/null | sed -n '/: test$/p' | sort | comm -23 - "$log.ended" | head -n 1)
    first=${first%: test}
    case $code in
        124) caught="$first, which does not end" ;;
        *) caught="$first, by a crash" ;;
    esac
}

why() { grep -aA1 'panicked at' "$log" | sed -n 2p | cut -c1-60; }

# Asks one oracle about the fault that is planted. True if it is caught.
asks() {
    local binaries binary slice seed of limit=90
    case $1 in
        swarm) limit=40 binaries=$(build gaio_sim --test swarm) ;;
        sim) binaries=$(build gaio_sim --test 'simulated*' --test testkit) ;;
        unit) binaries=$(build gaio_sim --lib) ;;
        loom_*) limit=300 binaries=$(build loom --test "$1") ;;
        *) binaries=$(build gaio_sim --test "$1") ;;
    esac || return 2
    [ "$1" = swarm ] || {
        for binary in $binaries; do
            of=$(basename "$binary")
            case $1 in
                loom_*) fails "$binary" --skip mutants --test-threads=2 && caught="${of%-*}: $caught" && return ;;
                *) fails "$binary" --test-threads=2 && caught="${of%-*}: $caught" && return ;;
            esac
        done
        return 1
    }
    for slice in $SLICES; do
        GAIO_SWARM_SEEDS=$slice fails "$binaries" random_scripts || continue
        seed=$(sed -n 's/^seed \([0-9]*\) failed.*/\1/p' "$log" | sort -n | head -n 1)
        caught="swarm, seed ${seed:-$slice${caught#random_scripts}}"
        return
    done
    return 1
}

names=$(sed -n 's/^=== \([a-z_0-9]*\).*/\1/p' "$faults")
for name in $names; do
    changed=$(plant "$name")
    heal "$changed"
done
echo "$(wc -w <<<"$names") faults fit"
[ "${1:-}" != fit ] || exit 0
[ $# -eq 0 ] || names="$*"

begin=$SECONDS bad=0 count=0
printf '%-40s %5s  %-50s %s\n' fault s 'caught by' why
for name in $names; do
    from=$SECONDS count=$((count + 1)) by=
    changed=$(plant "$name")
    oracles=$(sed -n "s/^=== $name: //p" "$faults")
    for oracle in ${oracles:-swarm sim unit}; do
        code=0
        asks "$oracle" || code=$?
        case $code in
            0) by=$caught && break ;;
            2) by= && break ;;
        esac
    done
    heal "$changed"
    if [ -n "$by" ]; then
        printf '%-40s %5d  %-50s %s\n' "$name" $((SECONDS - from)) "$by" "$(why)"
    elif [ "$code" -eq 2 ]; then
        bad=$((bad + 1))
        printf '%-40s %5d  DOES NOT BUILD: %s\n' "$name" $((SECONDS - from)) "$(grep -m1 '^error' "$log.build")"
    else
        bad=$((bad + 1))
        printf '%-40s %5d  NOT CAUGHT\n' "$name" $((SECONDS - from))
    fi
done
echo "$((count - bad)) of $count faults caught, in $((SECONDS - begin)) s"
[ "$bad" -eq 0 ]
