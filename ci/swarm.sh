#!/usr/bin/env bash
# So many random scripts on the simulated system, of each kind: prints seeds per second, and each kind of fault that happened
# with its number. Fails if a script fails, after the others were run (or ten have failed), and if some kind of fault never
# happened.
#
#   ci/swarm.sh 1000000                     seeds 0 to 999 999
#   ci/swarm.sh 1000000 5000000             as many, from 5 000 000 on
#   ci/swarm.sh 1000000 0 swarm_sessions    of one kind: swarm (the proactor), swarm_sessions (typed sessions)
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:?how many seeds}
from=${2:-0}
GAIO_SWARM_SEEDS="$from..$((from + count))" exec ci/sim.sh swarm "${3:-}"
