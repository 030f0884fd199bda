#!/usr/bin/env bash
# Builds the examples as the README says, and lets the echo server echo, in every mode it has. The others have tests of
# their own.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --example echo-server
server=${CARGO_TARGET_DIR:-target}/release/examples/echo-server
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# echoes OPTION...: one line to the echo server and back.
echoes() {
    # Emptied here: the server's own redirection may come after our first look.
    : >"$log"
    "$server" --listen 127.0.0.1:0 "$@" >>"$log" &
    pid=$!
    port=
    for _ in $(seq 200); do
        port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$log")
        [ -n "$port" ] && break
        sleep 0.05
    done
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    echo "$*, and back" >&3
    IFS= read -r -t 10 answer <&3
    exec 3>&-
    kill -TERM "$pid"
    wait "$pid"
    echo "$answer"
    [ "$answer" = "$*, and back" ]
}

for mode in spawned embedded; do
    for read in vec pooled leased; do
        for ops in linked separate; do
            echoes --mode "$mode" --read "$read" --ops "$ops"
        done
    done
done
for cores in 1 2; do
    echoes --mode typed --cores "$cores"
done
