//! What all swarms share: which seeds are run, on how many threads, what is printed, and what a failure looks like.
//!
//! A seed that fails prints the line that repeats it, and the others are run all the same, unless ten have failed. What never
//! happened in as many seeds as a gate runs fails the test.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::foreign::Foreign;

const THREADS: u64 = 2;
/// After so many the rest would say nothing new.
const MOST_FAILURES: u64 = 10;
/// In so many seeds everything happens.
const ENOUGH: u64 = 10_000;
/// Other threads that submit, at most.
const FOREIGN: usize = 3;

/// What has happened, and how often.
pub(crate) type Tally = BTreeMap<String, u64>;

/// Counts what was counted in one run.
pub(crate) fn add<K: Debug>(tally: &mut Tally, counted: impl IntoIterator<Item = (K, u64)>) {
    for (kind, times) in counted {
        *tally.entry(format!("{kind:?}")).or_insert(0) += times;
    }
}

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("GAIO_SWARM_SEEDS") else { return usual };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("GAIO_SWARM_SEEDS is a range, as in 10..20")
}

/// The threads that one runner's scripts submit from.
pub(crate) fn others() -> Vec<Foreign> {
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

/// Does it, and gives the swarm back if nothing has failed.
pub(crate) fn survives<S>(mut swarm: S, run: impl FnOnce(&mut S)) -> Option<S> {
    match catch_unwind(AssertUnwindSafe(|| run(&mut swarm))) {
        Ok(()) => Some(swarm),
        Err(_) => {
            // Its drops could wait for ever for what has gone wrong.
            std::mem::forget(swarm);
            None
        }
    }
}

/// Runs the seeds, these unless the environment names others. `one` runs one of them, adds up what happened, and says whether
/// it went well.
pub(crate) fn run_all(test: &str, usual: Range<u64>, one: impl Fn(u64, &[Foreign], &mut Tally) -> bool + Sync) {
    let (seeds, begin) = (seeds(usual), Instant::now());
    let (next, failures) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let work = |thread: usize| {
        stay_on(thread);
        let (mut foreign, mut tally) = (others(), Tally::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.load(Ordering::Relaxed) >= MOST_FAILURES {
                return tally;
            }
            if !one(seed, &foreign, &mut tally) {
                println!(
                    "seed {seed} failed; once more, with a trace: \
                     GAIO_SIM_TRACE=1 GAIO_SWARM_SEEDS={seed}..{} ci/sim.sh swarm {test}",
                    seed + 1
                );
                failures.fetch_add(1, Ordering::Relaxed);
                // Those may be stuck in what has failed.
                foreign = others();
            }
        }
    };
    let mut total = Tally::new();
    thread::scope(|scope| {
        let work = &work;
        let threads = 0..THREADS.min(seeds.end - seeds.start) as usize;
        let threads: Vec<_> = threads.map(|thread| scope.spawn(move || work(thread))).collect();
        for thread in threads {
            let tally = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            tally.into_iter().for_each(|(name, times)| *total.entry(name).or_insert(0) += times);
        }
    });
    let (count, time) = (seeds.end - seeds.start, begin.elapsed());
    println!("{count} seeds in {time:.1?}, {:.0} a second; faults:", count as f64 / time.as_secs_f64());
    for (name, times) in &total {
        println!("{times:>10} {name}");
    }
    assert_eq!(failures.into_inner(), 0, "scripts failed");
    // Fewer may not have met what is rare: a late connect comes about once in 400.
    let missing: Vec<_> = total.iter().filter(|(_, times)| **times == 0).collect();
    assert!(count < ENOUGH || missing.is_empty(), "never happened: {missing:?}");
}
