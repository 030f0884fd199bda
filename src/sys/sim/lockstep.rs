//! One thread at a time: a loop thread that runs only while the test lets it, so that two real threads do the same each
//! time for the same seed.
//!
//! After [`World::hold`] a loop that is spawned stands still wherever another thread could come first: before it begins,
//! after so many turns, where it sleeps, and by chance (`Fault::Preempted`) in front of any call in the middle of a turn.
//! [`World::go_on`] lets it run until it stands still again, and says where. Meanwhile the test waits; while the loop stands,
//! the test may do what it likes, also on other threads that it waits for.
//!
//! | whose turn | the loop's thread | the test |
//! |---|---|---|
//! | `Anyones` | runs | runs |
//! | `Tests` | stands still | runs |
//! | `Loops` | runs until it stands still | is in `go_on` |
//!
//! The lock and the condition are the standard ones: there is nothing here for loom, which decides itself who runs.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::faults::Fault;
use super::world::{Shared, World};

/// Where a loop stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "tests match on all of it")]
pub enum Rest {
    /// Between two turns: it is about to look for events, and will not sleep.
    Between,
    /// In the middle of a turn.
    Within,
    /// It sleeps: there is no event for it, until an instant of the world's clock or for ever.
    Asleep(Option<Duration>),
    /// Its thread has come to its end.
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Anyones,
    Tests,
    Loops,
}

struct Step {
    turn: Turn,
    /// Where the loop stood last.
    rest: Rest,
    /// Looks for events at which it does not stand still.
    passes: usize,
}

pub(super) struct Lockstep {
    step: Mutex<Step>,
    passed_on: Condvar,
}

std::thread_local! {
    /// Is this the thread that is held?
    static HELD: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn is_held() -> bool {
    HELD.try_with(Cell::get).unwrap_or(false)
}

impl Lockstep {
    pub(super) const fn new() -> Self {
        let step = Step { turn: Turn::Anyones, rest: Rest::Between, passes: 0 };
        Self { step: Mutex::new(step), passed_on: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets another go on: told without the lock, which it wants first.
    fn pass_on(&self, change: impl FnOnce(&mut Step)) {
        change(&mut self.lock());
        self.passed_on.notify_all();
    }

    fn let_go(&self) {
        self.pass_on(|step| (step.turn, step.passes) = (Turn::Anyones, 0));
    }

    /// Waits while it is that one's turn.
    fn wait_out(&self, turn: Turn) -> MutexGuard<'_, Step> {
        let mut step = self.lock();
        while step.turn == turn {
            step = self.passed_on.wait(step).unwrap_or_else(PoisonError::into_inner);
        }
        step
    }

    /// Lets the test go on, and waits until it lets us go on.
    pub(super) fn stand_still(&self, rest: Rest) {
        let mut step = self.lock();
        if rest == Rest::Between && step.passes > 0 {
            step.passes -= 1;
            return;
        }
        if step.turn == Turn::Anyones {
            return HELD.set(false);
        }
        drop(step);
        self.pass_on(|step| (step.turn, step.rest) = (Turn::Tests, rest));
        if self.wait_out(Turn::Tests).turn == Turn::Anyones {
            HELD.set(false);
        }
    }
}

impl Shared {
    /// In front of every call: the thread of a loop that is held may have to stand still here.
    pub(super) fn before_call(&self) {
        if is_held() {
            let happens = self.lock().befalls(Fault::Preempted);
            if happens {
                self.lockstep.stand_still(Rest::Within);
            }
        }
    }

    /// A test that fails lets go of its loop: what it drops now may wait for it.
    pub(super) fn mind_failure(&self) {
        if !cfg!(loom) && std::thread::panicking() && !is_held() {
            self.lockstep.let_go();
        }
    }
}

/// The calling thread is held; until this is dropped.
#[cfg(not(loom))]
pub(super) struct Held(World);

#[cfg(not(loom))]
impl Held {
    /// If the world holds loops. Waits to be let go on.
    pub(super) fn begin(world: &World) -> Option<Self> {
        let lockstep = &world.shared.lockstep;
        if lockstep.lock().turn == Turn::Anyones {
            return None;
        }
        HELD.set(true);
        drop(lockstep.wait_out(Turn::Tests));
        Some(Self(world.clone()))
    }
}

#[cfg(not(loom))]
impl Drop for Held {
    fn drop(&mut self) {
        let _ = HELD.try_with(|held| held.set(false));
        self.0.shared.lockstep.pass_on(|step| {
            step.rest = Rest::Over;
            if step.turn == Turn::Loops {
                step.turn = Turn::Tests;
            }
        });
    }
}

impl World {
    /// The next loop that is spawned in this world stands still before it begins, and runs only in [`World::go_on`].
    pub fn hold(&self) {
        *self.shared.lockstep.lock() = Step { turn: Turn::Tests, rest: Rest::Between, passes: 0 };
    }

    /// Lets the loop that is held run until it stands still again: after that many turns at the latest. A loop that sleeps
    /// sleeps on, if nothing has happened.
    ///
    /// # Panics
    ///
    /// If there is none: the world was not told to hold it, or has let go of it.
    pub fn go_on(&self, turns: usize) -> Rest {
        let lockstep = &self.shared.lockstep;
        {
            let step = lockstep.lock();
            if step.rest == Rest::Over {
                return Rest::Over;
            }
            assert!(step.turn == Turn::Tests, "no loop is held");
        }
        lockstep.pass_on(|step| (step.turn, step.passes) = (Turn::Loops, turns.saturating_sub(1)));
        lockstep.wait_out(Turn::Loops).rest
    }

    /// From now on the loop runs as it likes: to wait for it, and to drop its watcher.
    pub fn let_go(&self) {
        self.configure(|config| config.alone = false);
        self.shared.lockstep.let_go();
    }
}
