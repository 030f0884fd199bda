//! Random typed sessions, in a simulated world with faults: one seed decides everything.
//!
//! Each run makes a world, a loop of sessions and some connections. The protocol rolls the dice in each callback: it writes,
//! expects something else, closes, aborts, leaves, panics, sets timers, joins groups, sends messages, connects. Its peers
//! know what it waits for, and say it in pieces, or say something else; they end, vanish, and listen or not. Messages and
//! broadcasts come from other sessions, from the loop's thread and from another that takes turns with it; connections are
//! given, given again, accepted, and opened; a shutdown comes at any point. What is checked:
//!
//! | in | what |
//! |---|---|
//! | `swarm_sessions/spec.rs` | each frame is the one that a framer of the test's own finds in all that the peer has sent |
//! | `swarm_sessions/book.rs` | callbacks come when they may, each end has its reason, messages come in order, once |
//! | `swarm_sessions/line.rs` | the peer sees what was written, all of it if the end was graceful, and no clean end if not |
//! | `swarm_sessions/script.rs` | limits, nobody forgotten, asleep when idle, nothing left |
//!
//! | variable | |
//! |---|---|
//! | `GAIO_SWARM_SEEDS=10..20` | these seeds |
//! | `GAIO_SIM_TRACE=1` | what the world did, on standard error |
//!
//! A run that fails prints the line that repeats it. A kind of fault that never happened fails the test as well.

#![cfg(gaio_sim)]
#![allow(clippy::print_stdout, reason = "the figures are the result")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers; a test of the simulated system runs on 64 bits")]

#[path = "swarm_sessions/book.rs"]
mod book;
#[path = "swarm/foreign.rs"]
#[allow(dead_code, reason = "producers that stand still belong to the other swarm")]
mod foreign;
#[path = "swarm_sessions/line.rs"]
mod line;
#[path = "swarm_sessions/puppet.rs"]
mod puppet;
#[path = "swarm_sessions/script.rs"]
mod script;
#[path = "support/swarm.rs"]
mod seeds;
#[path = "swarm_sessions/spec.rs"]
mod spec;

use gaio::sim::Fault;
use script::Swarm;

#[test]
fn random_sessions() {
    seeds::run_all("swarm_sessions", 0..10_000, |seed, foreign, tally| {
        let swarm = seeds::survives(Swarm::new(seed, &foreign[0]), Swarm::run);
        // The loop here is never held in the middle of a turn: it has no thread of its own.
        let applies = |(fault, _): &(Fault, u64)| *fault != Fault::Preempted;
        seeds::add(tally, swarm.iter().flat_map(|swarm| swarm.world.faults()).filter(applies));
        swarm.is_some()
    });
}

/// Otherwise a seed would be of no use.
#[test]
fn the_same_seed_does_the_same() {
    let foreign = seeds::others();
    let once = |seed| {
        let mut swarm = Swarm::new(seed, &foreign[0]);
        swarm.run();
        let events = swarm.book.open().events;
        (events, swarm.world.now(), swarm.world.faults())
    };
    for seed in 0..20 {
        assert_eq!(once(seed), once(seed), "seed {seed}");
    }
}
