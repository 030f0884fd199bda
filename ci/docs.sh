#!/usr/bin/env bash
# The manual builds, every link in it leads somewhere. Its examples are run by `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
