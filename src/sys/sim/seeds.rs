//! Many runs of one scenario, one seed each. The first that fails says how to have it again.

use std::env;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use super::{Dice, Fault, Faults, World};

/// Runs `scenario` once for each seed, in a new world that the calling thread is in.
///
/// The world is [`alone`](super::Config::alone), and its [faults](super::Config::faults) are seeded, but none can
/// happen until the scenario says which: [`World::configure`]. The dice are for everything that the scenario decides.
/// With `GAIO_SIM_SEEDS=7..8` in the environment those seeds are run instead.
///
/// ```
/// use gaio::sim;
///
/// let ran = sim::seeds(0..100, |world, dice| {
///     let (_socket, peer) = world.pair();
///     peer.send(&[0; 8][..dice.roll(9)]).unwrap();
/// });
/// assert_eq!(ran.seeds(), 100);
/// ```
///
/// # Panics
///
/// As the scenario does: its panic goes on, after a line on standard error that repeats this seed alone, with a trace.
/// In a test that line names the test, by the name of its thread. If something that the scenario owns panics in its
/// drop on top of that, the process is aborted, as always, and the line is missing: `GAIO_SIM_TRACE=1` tells the seed,
/// too.
///
/// Also if `GAIO_SIM_SEEDS` is not two numbers with `..` between.
pub fn seeds(range: Range<u64>, mut scenario: impl FnMut(&World, &mut Dice)) -> Ran {
    let mut ran = Ran { seeds: 0, faults: [0; Fault::ALL.len()] };
    for seed in asked_for().unwrap_or(range) {
        let mut dice = Dice::new(seed);
        let world = World::enter();
        let faults = Faults::seeded(dice.next());
        world.configure(|config| (config.alone, config.faults) = (true, faults));
        world.note(|| format!("seed {seed}"));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(&world, &mut dice))) {
            eprintln!("{}", to_repeat(seed));
            resume_unwind(panic);
        }
        ran.seeds += 1;
        ran.faults.iter_mut().zip(world.faults()).for_each(|(sum, (_, times))| *sum += times);
    }
    ran
}

fn asked_for() -> Option<Range<u64>> {
    let text = env::var("GAIO_SIM_SEEDS").ok()?;
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    Some(range.expect("GAIO_SIM_SEEDS is a range, as in 7..8"))
}

/// The line that repeats a seed: this program, and the test that runs in this thread, if it is one.
fn to_repeat(seed: u64) -> String {
    let program = env::current_exe().unwrap_or_else(|_| env::args_os().next().unwrap_or_default().into());
    let here = env::current_dir().ok();
    let program = here.and_then(|here| program.strip_prefix(here).ok().map(Into::into)).unwrap_or(program);
    let arguments = match thread::current().name() {
        Some(test) if test != "main" => format!(" --exact {test} --nocapture"),
        _ => env::args().skip(1).map(|argument| format!(" {argument}")).collect(),
    };
    let next = seed + 1;
    let program = program.display();
    format!(
        "seed {seed} failed; once more, with a trace: GAIO_SIM_SEEDS={seed}..{next} GAIO_SIM_TRACE=1 {program}{arguments}"
    )
}

/// What became of [`seeds`]: all of them passed. Printed, it is the number of seeds and a table of the faults.
#[derive(Clone, Debug)]
#[must_use = "a fault that never happened was not tested"]
pub struct Ran {
    seeds: u64,
    faults: [u64; Fault::ALL.len()],
}

impl Ran {
    /// How many seeds were run.
    #[must_use]
    pub const fn seeds(&self) -> u64 {
        self.seeds
    }

    /// How often each fault has happened, over all seeds. One that never did was not tested.
    #[must_use]
    pub fn faults(&self) -> [(Fault, u64); Fault::ALL.len()] {
        Fault::ALL.map(|fault| (fault, self.faults[fault as usize]))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seeds; faults:", self.seeds)?;
        self.faults().iter().try_for_each(|(fault, times)| write!(f, "\n{times:>10} {fault:?}"))
    }
}
