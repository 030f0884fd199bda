#!/usr/bin/env bash
# The library type-checks with the oldest compiler it promises to work with (`rust-version`), its dependencies too.
#
# The compiler is Debian's rustc-web of that version, unpacked into a folder of its own: nothing is installed, and no
# other toolchain is touched. With RUSTC_MSRV set, that compiler is used instead.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/msrv
if [ -z "${RUSTC_MSRV:-}" ]; then
    root=$target/rustc-$version
    RUSTC_MSRV=$root/usr/bin/rustc
    if [ ! -x "$RUSTC_MSRV" ]; then
        rm -rf "$root" && mkdir -p "$root/deb"
        package() { apt-cache madison rustc-web | awk -v v="$version" 'index($3, v ".") == 1 { print $3; exit }'; }
        exact=$(package)
        if [ -z "$exact" ]; then
            apt-get update -q
            exact=$(package)
        fi
        [ -n "$exact" ] || { echo "there is no package rustc-web of version $version" && exit 1; }
        llvm=$(apt-cache depends "libstd-rust-web-$version=$exact" | sed -n 's/.*Depends: \(libllvm.*\)/\1/p')
        # LLVM's own needs that a slim machine may lack; the others belong to any system with a linker.
        (cd "$root/deb" && apt-get download -q "rustc-web=$exact" "libstd-rust-web-dev=$exact" \
            "libstd-rust-web-$version=$exact" "$llvm" libedit2 libz3-4)
        for deb in "$root"/deb/*.deb; do
            dpkg -x "$deb" "$root"
        done
        rm -r "$root/deb"
    fi
    LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu "$root"/usr/lib/llvm-*/lib | tr ' ' ':')
    export LD_LIBRARY_PATH
fi
"$RUSTC_MSRV" --version
case $("$RUSTC_MSRV" --version) in
    "rustc $version."*) ;;
    *) echo "expected rustc $version" && exit 1 ;;
esac
RUSTC=$RUSTC_MSRV CARGO_TARGET_DIR=$target cargo check --lib
