//! Random scripts on the proactor, in a simulated world with faults: one seed decides everything.
//!
//! Each run makes a world, a loop and some connections, and does random things to all of them: operations of every kind, with
//! deadlines and names, from the loop's thread and from up to three others that take turns with it, and may stand still in
//! the middle of a push; peers that send, listen, end and vanish; cancels, timers, posts, handles dropped, batches left
//! half-way, a consumer that stays away, a shutdown at any point. The loop is embedded or has a thread of its own.
//!
//! | checked | when | in |
//! |---|---|---|
//! | bytes, order, outcomes | at every event | `swarm/model.rs` |
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

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use foreign::Foreign;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use script::Swarm;

const USUAL: Range<u64> = 0..10_000;
const THREADS: u64 = 2;
/// After so many the rest would say nothing new.
const MOST_FAILURES: u64 = 10;
/// Other threads that submit, at most.
const FOREIGN: usize = 3;
/// What happens beside the world's own faults.
const OF_THREADS: [&str; 3] = ["StalledProducer", "ConsumerAway", "Residue"];

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("GAIO_SWARM_SEEDS") else { return USUAL };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("GAIO_SWARM_SEEDS is a range, as in 10..20")
}

type Tally = BTreeMap<String, u64>;

fn add(tally: &mut Tally, name: String, times: u64) {
    *tally.entry(name).or_insert(0) += times;
}

fn others() -> Vec<Foreign> {
    (0..FOREIGN).map(|_| Foreign::new()).collect()
}

/// Keeps a script and the threads that it hands over to on one processor: there a hand-over is cheap.
fn stay_on(thread: usize) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let mut one = CpuSet::new();
    one.set(all[thread % all.len()]);
    let _ = sched_setaffinity(None, &one);
}

/// One seed. Adds up what happened; says whether it went well.
fn run(seed: u64, foreign: &[Foreign], tally: &mut Tally) -> bool {
    let mut swarm = Swarm::new(seed, foreign);
    let failed = catch_unwind(AssertUnwindSafe(|| swarm.run())).is_err();
    if failed {
        // Its drops could wait for ever for what has gone wrong.
        std::mem::forget(swarm);
        let next = seed + 1;
        println!(
            "seed {seed} failed; once more, with a trace: GAIO_SIM_TRACE=1 GAIO_SWARM_SEEDS={seed}..{next} ci/sim.sh swarm"
        );
        return false;
    }
    for (fault, times) in swarm.floor.world.faults() {
        add(tally, format!("{fault:?}"), times);
    }
    for kind in OF_THREADS {
        add(tally, kind.into(), swarm.floor.tally.get(kind).copied().unwrap_or(0));
    }
    true
}

#[test]
fn random_scripts() {
    let (seeds, begin) = (seeds(), Instant::now());
    let (next, failures) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let mut total = Tally::new();
    let work = |thread: usize| {
        stay_on(thread);
        let (mut foreign, mut tally) = (others(), Tally::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.load(Ordering::Relaxed) >= MOST_FAILURES {
                return tally;
            }
            if !run(seed, &foreign, &mut tally) {
                failures.fetch_add(1, Ordering::Relaxed);
                foreign = others();
            }
        }
    };
    thread::scope(|scope| {
        let work = &work;
        let threads = 0..THREADS.min(seeds.end - seeds.start) as usize;
        let threads: Vec<_> = threads.map(|thread| scope.spawn(move || work(thread))).collect();
        for thread in threads {
            let tally = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            tally.into_iter().for_each(|(name, times)| add(&mut total, name, times));
        }
    });
    let (count, time) = (seeds.end - seeds.start, begin.elapsed());
    println!("{count} seeds in {time:.1?}, {:.0} a second; faults:", count as f64 / time.as_secs_f64());
    for (name, times) in &total {
        println!("{times:>10} {name}");
    }
    assert_eq!(failures.into_inner(), 0, "scripts failed");
    // A few seeds cannot have met everything.
    let missing: Vec<_> = total.iter().filter(|(_, times)| **times == 0).collect();
    assert!(count < 1_000 || missing.is_empty(), "never happened: {missing:?}");
}

/// Otherwise a seed would be of no use.
#[test]
fn the_same_seed_does_the_same() {
    let foreign = others();
    let once = |seed| {
        let mut swarm = Swarm::new(seed, &foreign);
        swarm.run();
        (swarm.floor.events, swarm.floor.world.now(), swarm.floor.world.faults())
    };
    for seed in 0..20 {
        assert_eq!(once(seed), once(seed), "seed {seed}");
    }
}
