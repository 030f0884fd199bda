#!/bin/sh
# User instructions per echoed message: exact and repeatable where CPU time is noise.
#
# Runs the echo server under callgrind, twice per way, with N and 2N messages (64 connections, 128 B): the difference,
# divided by N, is free of start-up, accepts and shutdown. The server is stopped while a round of 64 is sent, so that
# each turn finds all of them, however slow the machine. Both threads of a spawned server count. Fails when a way needs
# more than its bound.
#
# Takes about 30 s after the build, on 2 cores. Needs valgrind and python3.
#
#   ci/instructions.sh                                  the gate
#   ci/instructions.sh profile embedded leased linked   where one way spends them, by function (what is inlined counts
#                                                       for the function it is inlined into)
set -eu
cd "$(dirname "$0")/.."

rounds=100
target=${CARGO_TARGET_DIR:-target}
cargo build --release --quiet --example echo-server
server=$target/release/examples/echo-server
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# client ROUNDS SERVER...: starts the server, exchanges the messages, ends it by SIGTERM.
cat > "$work/client.py" <<'PYTHON'
import signal, socket, subprocess, sys

CONNECTIONS, MESSAGE = 64, b"x" * 128
rounds = int(sys.argv[1])
server = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, text=True)
try:
    said = server.stdout.readline().split()
    assert said[:2] == ["listening", "on"], said
    host, port = said[2].rsplit(":", 1)
    peers = [socket.create_connection((host, int(port)), timeout=60) for _ in range(CONNECTIONS)]
    for peer in peers:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(rounds):
        server.send_signal(signal.SIGSTOP)
        for peer in peers:
            peer.sendall(MESSAGE)
        server.send_signal(signal.SIGCONT)
        for peer in peers:
            left = len(MESSAGE)
            while left:
                got = len(peer.recv(left))
                assert got, "the server closed"
                left -= got
finally:
    server.send_signal(signal.SIGTERM)
    code = server.wait(60)
assert code == 0, f"the server ended with {code}"
PYTHON

# measure ROUNDS MODE READ OPS: one run; leaves its profile in $out. Mode "spawned" is driven by the loop's thread, mode
# "consumer" is the same driven by the consumer; mode "deadline" is embedded, with a deadline on every operation.
out=$work/callgrind.out
measure() {
    timeout=
    case $2 in
        spawned) driver=thread mode=spawned ;;
        deadline) driver=auto mode=embedded timeout='--timeout 60000' ;;
        consumer) driver=consumer mode=spawned ;;
        *) driver=auto mode=$2 ;;
    esac
    python3 "$work/client.py" "$1" valgrind --quiet --tool=callgrind --callgrind-out-file="$out" \
        "$server" --listen 127.0.0.1:0 --mode "$mode" --driver "$driver" --read "$3" --ops "$4" $timeout >&2
}

total() {
    awk '/^totals:/ { print $2 }' "$out"
}

if [ "${1:-}" = profile ]; then
    shift
    measure 400 "$@"
    # One line per file and function: "count (share%) file:function [object]". The functions' own figures are summed.
    callgrind_annotate --auto=no --show=Ir --threshold=100 "$out" 2>/dev/null | sed -n 's/ \[\/.*//; s/^ *\([0-9,]*\) ( *[0-9.]*%)  [^:]*:/\1 /p' |
        awk '{ n = $1; gsub(",", "", n); sub(/^[^ ]* /, ""); own[$0] += n }
             END { for (f in own) printf "%8.1f  %s\n", own[f] / 25600, f }' | sort -rn | head -40
    exit
fi

failed=0
# way MODE READ OPS BOUND
way() {
    measure "$rounds" "$1" "$2" "$3"
    once=$(total)
    measure $((2 * rounds)) "$1" "$2" "$3"
    each=$((($(total) - once) / (rounds * 64)))
    verdict=
    if [ "$each" -gt "$4" ]; then
        verdict=': TOO MANY'
        failed=1
    fi
    printf '%-8s %-6s %-8s %5d instructions per message, at most %d%s\n' "$1" "$2" "$3" "$each" "$4" "$verdict"
}

# What holds now; a change that costs more has to say why. (The goals: 900 embedded, 750 linked; 1 200 spawned, 900 linked.
# Of the separate ways the one that reads into a vector is the cheapest: what was written is what is read into next.)
# Of what a deadline costs, a third is the clock's.
way embedded vec separate 885
way embedded leased separate 1075
way embedded leased linked 710
way embedded pooled separate 900
way deadline leased linked 1030
way spawned vec separate 1180
way spawned leased separate 1400
way spawned leased linked 840
way consumer leased linked 760
way consumer pooled separate 1010
way typed leased linked 450
exit $failed
