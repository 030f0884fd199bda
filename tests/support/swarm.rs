//! What all swarms share: which seeds are run, on how many threads, what is printed, and what a failure looks like.
//!
//! A run that fails prints the line that repeats it. A kind of fault that never happened in a thousand seeds fails the test.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use gaio::sim::{Dice, Fault, Faults};

use crate::foreign::Foreign;

const THREADS: u64 = 2;

/// How often each kind of fault happened.
pub(crate) type Faulted = [(Fault, u64); Fault::ALL.len()];

fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("GAIO_SWARM_SEEDS") else { return usual };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.expect("GAIO_SWARM_SEEDS is a range, as in 10..20")
}

type Tally = BTreeMap<String, (Fault, u64)>;

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

/// Runs the seeds, these unless the environment names others. `one` runs one of them: `None` if something was wrong.
pub(crate) fn run_all(test: &str, usual: Range<u64>, one: impl Fn(u64, &Foreign) -> Option<Faulted> + Sync) {
    let (seeds, begin) = (seeds(usual), Instant::now());
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
                let faults = one(seed, &foreign).unwrap_or_else(|| {
                    panic!(
                        "seed {seed} failed; once more, with a trace: \
                         GAIO_SIM_TRACE=1 GAIO_SWARM_SEEDS={seed}..{} ci/sim.sh swarm {test}",
                        seed + 1
                    )
                });
                for (fault, times) in faults {
                    tally.entry(format!("{fault:?}")).or_insert((fault, 0)).1 += times;
                }
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

/// One world in four is a good one.
pub(crate) fn random_faults(dice: &mut Dice) -> Faults {
    let mut faults = Faults::seeded(dice.next());
    if dice.roll(4) > 0 {
        for fault in Fault::ALL {
            let of_1024 = [0, 0, 4, 32, 256][dice.roll(5)];
            let rare = matches!(fault, Fault::Reset | Fault::ResetBehindData);
            faults = faults.with(fault, if rare { of_1024.min(32) } else { of_1024 });
        }
    }
    faults
}
