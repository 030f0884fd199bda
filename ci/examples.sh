#!/usr/bin/env bash
# Builds the examples as the README says, and lets the echo server echo, in every mode it has.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --examples
server=${CARGO_TARGET_DIR:-target}/release/examples/echo-server
log=$(mktemp)
trap 'rm -f "$log"' EXIT

for mode in spawned embedded; do
    for read in vec pooled leased; do
        for ops in linked separate; do
            # Emptied here: the server's own redirection may come after our first look.
            : >"$log"
            "$server" --listen 127.0.0.1:0 --mode "$mode" --read "$read" --ops "$ops" >>"$log" &
            pid=$!
            port=
            for _ in $(seq 200); do
                port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$log")
                [ -n "$port" ] && break
                sleep 0.05
            done
            exec 3<>"/dev/tcp/127.0.0.1/$port"
            echo "$mode $read $ops, and back" >&3
            IFS= read -r -t 10 answer <&3
            exec 3>&-
            kill -TERM "$pid"
            wait "$pid"
            echo "$answer"
            [ "$answer" = "$mode $read $ops, and back" ]
        done
    done
done
