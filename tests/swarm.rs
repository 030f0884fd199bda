//! Random scripts on the proactor, in a simulated world with faults: one seed decides everything.
//!
//! Each run makes a world, a loop and some connections, and does random things to all of them: operations of every kind, with
//! deadlines and names, from the loop's thread and from another that takes turns with it; peers that send, listen, end and
//! vanish; cancels, timers, posts, handles dropped, batches left half-way, a shutdown at any point. What is checked, at every
//! step, at rest and at the end, is in `swarm/model.rs` (bytes, order, outcomes), `swarm/floor.rs` (each completion once,
//! refusals) and `swarm/script.rs` (limits, nobody forgotten, asleep when idle, nothing left).
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

#[path = "swarm/connects.rs"]
mod connects;
#[path = "swarm/floor.rs"]
mod floor;
#[path = "swarm/foreign.rs"]
mod foreign;
#[path = "swarm/model.rs"]
mod model;
#[path = "swarm/ops.rs"]
mod ops;
#[path = "swarm/script.rs"]
mod script;
#[path = "support/swarm.rs"]
mod seeds;

use foreign::Foreign;
use script::Swarm;

#[test]
fn random_scripts() {
    seeds::run_all("swarm", 0..10_000, |seed, foreign| {
        seeds::survives(Swarm::new(seed, foreign), Swarm::run).map(|swarm| swarm.floor.world.faults())
    });
}

/// Otherwise a seed would be of no use.
#[test]
fn the_same_seed_does_the_same() {
    let foreign = Foreign::new();
    let once = |seed| {
        let mut swarm = Swarm::new(seed, &foreign);
        swarm.run();
        (swarm.floor.events, swarm.floor.world.now(), swarm.floor.world.faults())
    };
    for seed in 0..20 {
        assert_eq!(once(seed), once(seed), "seed {seed}");
    }
}
