//! Random scripts on the proactor, in a simulated world with faults: one seed decides everything.
//!
//! Each run makes a world, a loop and some connections, and does random things to all of them: operations of every kind, with
//! deadlines and names, from the loop's thread and from up to three others that take turns with it, and may stand still in
//! the middle of a push; peers that send, listen, end and vanish; cancels, timers, posts, handles dropped, batches left
//! half-way, a consumer that stays away, a shutdown at any point. The loop is embedded, or has a thread of its own, or
//! both: then the consumer drives, until that thread takes over.
//!
//! | checked | when | in |
//! |---|---|---|
//! | bytes, order, outcomes | at every event | `swarm/model.rs`, `swarm/messages.rs` |
//! | each completion once, refusals | at every event | `swarm/floor.rs`, `swarm/doors.rs`, `swarm/connects.rs` |
//! | limits, asleep only without work, a cause for each wake | at every turn | `swarm/drive.rs` |
//! | everybody with work is served | at every turn of a good world | `swarm/fairness.rs` |
//! | nobody forgotten, idle means asleep, nothing left | at rest, at the end | `swarm/calm.rs` |
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

#[path = "swarm/calm.rs"]
mod calm;
#[path = "swarm/connects.rs"]
mod connects;
#[path = "swarm/doors.rs"]
mod doors;
#[path = "swarm/drive.rs"]
mod drive;
#[path = "swarm/fairness.rs"]
mod fairness;
#[path = "swarm/floor.rs"]
mod floor;
#[path = "swarm/foreign.rs"]
mod foreign;
#[path = "swarm/messages.rs"]
mod messages;
#[path = "swarm/model.rs"]
mod model;
#[path = "swarm/ops.rs"]
mod ops;
#[path = "swarm/script.rs"]
mod script;
#[path = "support/swarm.rs"]
mod seeds;

use script::Swarm;

/// What happens beside the world's own faults.
const OF_THREADS: [&str; 6] = ["StalledProducer", "ConsumerAway", "Residue", "ConsumerDrives", "Nap", "TakenOver"];

#[test]
fn random_scripts() {
    seeds::run_all("swarm", 0..10_000, |seed, foreign, tally| {
        let Some(swarm) = seeds::survives(Swarm::new(seed, foreign), Swarm::run) else { return false };
        seeds::add(tally, swarm.floor.world.faults());
        for kind in OF_THREADS {
            *tally.entry(kind.into()).or_insert(0) += swarm.floor.tally.get(kind).copied().unwrap_or(0);
        }
        true
    });
}

/// Otherwise a seed would be of no use.
#[test]
fn the_same_seed_does_the_same() {
    if std::env::var_os("GAIO_SIM_TRACE").is_some() {
        return; // Its traces would mix with that of the script which is looked at.
    }
    let foreign = seeds::others();
    let once = |seed| {
        let mut swarm = Swarm::new(seed, &foreign);
        swarm.run();
        (swarm.floor.events, swarm.floor.world.now(), swarm.floor.world.faults())
    };
    for seed in 0..20 {
        assert_eq!(once(seed), once(seed), "seed {seed}");
    }
}
