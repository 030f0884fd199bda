#!/bin/sh
# Weakens every named ordering of the hand-off to Relaxed, one at a time, and asks the models to notice.
#
# The names are those in `order!(NAME, Ordering)`; loom looks GAIO_WEAKEN up at run time, so one build serves all.
# For each name the models of its own piece run first, then the others. Prints a table: ordering, and the model that
# fails, with the first line of why. Fails if a weakening goes unnoticed that is not in the list below, or if one in
# the list is noticed after all (then the list is wrong).
#
# Takes 15 s on 2 cores, beside the build (40 s).

set -eu
cd "$(dirname "$0")/.."

# Unnoticed, and needed all the same. NAME|why it is needed, and why loom cannot see it.
ALLOWED='
'

target="${CARGO_TARGET_DIR:-target/loom}"
export RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" CARGO_TARGET_DIR="$target" RUST_BACKTRACE=0
unset GAIO_WEAKEN GAIO_MUTANT LOOM_MAX_PREEMPTIONS || true
begin=$(date +%s)
out=$(mktemp -d)
trap 'rm -r "$out"' EXIT

pieces="ring gate mailbox handles local try_lock"
# shellcheck disable=SC2046 # one word per piece is what we want
cargo test --profile models --no-run --message-format=json $(printf -- '--test loom_%s ' $pieces) >"$out/build.json" || {
    echo "the models do not build"
    exit 1
}
for piece in $pieces; do
    sed -n "s/.*\"name\":\"loom_$piece\".*\"executable\":\"\([^\"]*\)\".*/\1/p" "$out/build.json" >"$out/$piece"
    [ -s "$out/$piece" ] || {
        echo "no binary for loom_$piece"
        exit 1
    }
done

# Runs the models of piece $1 with ordering $2 weakened. True if one of them fails.
notices() {
    ! GAIO_WEAKEN="$2" timeout 300 "$(cat "$out/$1")" --skip mutants --test-threads=2 >"$out/log" 2>&1
}

names=$(grep -rhoE 'order!\([A-Z_]+,' src/handoff | sed 's/order!(//; s/,//' | sort -u)
bad=0
printf '%-22s %-34s %s\n' ordering 'model that fails' why
for name in $names; do
    case $name in
        RING_*) own=ring ;;
        GATE_*) own=gate ;;
        MAIL_*) own=mailbox ;;
        HANDLE_* | RETURN_*) own=handles ;;
        LOCAL_*) own=local ;;
        TRY_*) own=try_lock ;;
        *)
            echo "$name belongs to no piece: teach this script"
            exit 1
            ;;
    esac
    found=
    for piece in $own $pieces; do
        if notices "$piece" "$name"; then
            model=$(sed -n "s/^thread '\([a-z_]*\)'.* panicked at .*/\1/p" "$out/log" | head -n 1)
            why=$(grep -A1 'panicked at' "$out/log" | sed -n 2p | cut -c1-70)
            found="$piece ${model:-(no panic)}"
            break
        fi
    done
    allowed=$(printf '%s' "$ALLOWED" | sed -n "s/^$name|//p")
    if [ -n "$found" ]; then
        printf '%-22s %-34s %s\n' "$name" "$found" "$why"
        [ -z "$allowed" ] || {
            bad=1
            echo "    ^ is in the list of unnoticed ones: take it out"
        }
    elif [ -n "$allowed" ]; then
        printf '%-22s %-34s %s\n' "$name" '(allowed)' "$allowed"
    else
        bad=1
        printf '%-22s %-34s\n' "$name" 'NOT CAUGHT'
    fi
done
echo "$(($(date +%s) - begin)) s"
exit $bad
