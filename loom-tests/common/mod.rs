//! What the models share: a run that cannot be cut short unseen, and children that must fail.

#![allow(dead_code, unreachable_pub, reason = "each model is a crate of its own, and uses a part of this")]
#![allow(clippy::print_stdout, reason = "the number of executions is the result of a model")]

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Whether this process has a deliberate fault or a weakened ordering in it. Then the floor says nothing.
fn is_faulty() -> bool {
    env::var_os("GAIO_MUTANT").is_some() || env::var_os("GAIO_WEAKEN").is_some()
}

/// Explores `model` with at most `bound` preemptions (`None`: any number; `LOOM_MAX_PREEMPTIONS` overrides it), prints
/// the number of executions, and fails below `floor`.
///
/// Nothing can end it early and leave it green: loom's own limits on time and permutations are switched off, and the
/// model panics when it exceeds `20 * floor` executions, so that it cannot grow unnoticed either.
pub fn explore(name: &str, bound: impl Into<Option<usize>>, floor: usize, model: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut builder = loom::model::Builder::new();
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.checkpoint_file = None;
    // A whole life of a watcher has about a thousand; a thread that spins has any number.
    builder.max_branches = 2_000;
    let default_bound = builder.preemption_bound.is_none();
    builder.preemption_bound = builder.preemption_bound.or_else(|| bound.into());
    let bound = builder.preemption_bound.map_or_else(|| "none".to_owned(), |bound| bound.to_string());
    builder.check({
        let executions = Arc::clone(&executions);
        move || {
            let count = executions.fetch_add(1, Ordering::Relaxed);
            assert!(!default_bound || is_faulty() || count < 20 * floor, "more executions than expected: not finished");
            model();
        }
    });
    let count = executions.load(Ordering::Relaxed);
    println!("{name}: bound {bound}, {count} executions, {:.2} s", start.elapsed().as_secs_f64());
    assert!(is_faulty() || !default_bound || count >= floor, "{name}: {count} executions, the floor is {floor}");
}

/// Runs the model `test` of this binary once more, in a process of its own, with the fault `mutant` in it, and
/// fails unless that process does. A deadlock that loom finds may abort; hence the process.
pub fn must_fail(test: &str, mutant: &str) {
    let output = Command::new(env::current_exe().expect("the path of this binary"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("GAIO_MUTANT", mutant)
        .env_remove("GAIO_WEAKEN")
        .output()
        .expect("this binary can be run again");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(text.contains("running 1 test"), "there is no model called {test}:\n{text}");
    assert!(!output.status.success(), "{test} did not notice the fault {mutant}:\n{text}");
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    println!("{mutant}: {test} fails: {}", lines.next().unwrap_or("no message").trim());
}

/// Whether the deliberate fault `name` is on, for faults in a model's own code. (The crate's ask for it themselves.)
pub fn mutant(name: &str) -> bool {
    env::var("GAIO_MUTANT").is_ok_and(|mutant| mutant == name)
}

/// Whether the faults themselves are to be tried: not in a process that has one already.
pub fn tries_mutants() -> bool {
    !is_faulty()
}
