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

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use foreign::Foreign;
use gaio::sim::Fault;
use script::Swarm;

const USUAL: Range<u64> = 0..10_000;
const THREADS: u64 = 2;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("GAIO_SWARM_SEEDS") else { return USUAL };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("GAIO_SWARM_SEEDS is a range, as in 10..20")
}

type Tally = BTreeMap<String, (Fault, u64)>;

/// One seed. Adds up what happened.
fn run(seed: u64, foreign: &Foreign, tally: &mut Tally) {
    let mut swarm = Swarm::new(seed, foreign);
    let failed = catch_unwind(AssertUnwindSafe(|| swarm.run())).is_err();
    if failed {
        // Its drops could wait for ever for what has gone wrong.
        std::mem::forget(swarm);
        let next = seed + 1;
        panic!(
            "seed {seed} failed; once more, with a trace: GAIO_SIM_TRACE=1 GAIO_SWARM_SEEDS={seed}..{next} ci/sim.sh swarm"
        );
    }
    for (fault, times) in swarm.floor.world.faults() {
        tally.entry(format!("{fault:?}")).or_insert((fault, 0)).1 += times;
    }
}

#[test]
fn random_scripts() {
    let (seeds, begin) = (seeds(), Instant::now());
    let next = AtomicU64::new(seeds.start);
    let mut total = Tally::new();
    thread::scope(|scope| {
        let work = || {
            let (foreign, mut tally) = (Foreign::new(), Tally::new());
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return tally;
                }
                run(seed, &foreign, &mut tally);
            }
        };
        let threads: Vec<_> = (0..THREADS.min(seeds.end - seeds.start)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let tally = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (name, (fault, times)) in tally {
                total.entry(name).or_insert((fault, 0)).1 += times;
            }
        }
    });
    let (count, time) = (seeds.end - seeds.start, begin.elapsed());
    println!("{count} seeds in {time:.1?}, {:.0} a second; faults:", count as f64 / time.as_secs_f64());
    for (name, (_, times)) in &total {
        println!("{times:>10} {name}");
    }
    // A few seeds cannot have met everything.
    let missing: Vec<_> = total.values().filter(|(_, times)| *times == 0).collect();
    assert!(count < 1_000 || missing.is_empty(), "never happened: {missing:?}");
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
