#!/usr/bin/env bash
# Rust as rustfmt writes it, and shell scripts that at least parse.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
for script in .ci/run ci/*.sh; do
    bash -n "$script"
    [ -x "$script" ] || { echo "$script is not executable" && exit 1; }
done
