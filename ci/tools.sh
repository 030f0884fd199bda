#!/usr/bin/env bash
# Installs what the checks call and the machine lacks. Does nothing, and needs no rights, if all is there.
set -euo pipefail

missing=()
for tool in python3 strace taskset valgrind; do
    command -v "$tool" >/dev/null || missing+=("${tool/taskset/util-linux}")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
for component in rustfmt clippy; do
    cargo "${component#rust}" --version >/dev/null 2>&1 || rustup component add "$component"
done
cargo --version
rustc --version
cargo fmt --version
cargo clippy --version
