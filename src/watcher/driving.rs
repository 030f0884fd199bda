//! Who drives the loop of a watcher that has a thread for it: that thread, or the consumer.
//!
//! With two processors the loop's thread works beside the consumer. On one it can only change places with it, and each
//! hand-over costs a wake-up and two switches. There the consumer drives: in `wait` it takes the turns itself. While it is
//! away with a batch the loop is at rest, and what the consumer submits is taken up at once, as in `between_turns.rs`. If it
//! stays away, the loop's thread drives.
//!
//! ```text
//!            wait: takes it                          wait: wants it
//!         ┌──────────────────┐                    ┌───────────────────┐
//!         ▼                  │                    ▼                   │
//!   consumer drives ──────► at rest ◄──────── given back ◄──── loop thread drives
//!                a batch     │                                        ▲
//!                            └──── the consumer stays away ───────────┘
//! ```
//!
//! | word          | written by                               | what it decides                                      |
//! |---------------|------------------------------------------|------------------------------------------------------|
//! | `event_loop`  | whoever tries it, and lets go of it      | who drives, or takes a submission up                 |
//! | `whereabouts` | both, under its lock, held for an instant | whether the thread takes the loop, watches or sleeps |
//! | `wanted`      | the consumer, before it raises the gate  | whether the loop's thread gives the loop back        |
//! | `consumer`    | the consumer                             | whose submissions may be taken up at once            |
//!
//! - **D1**, one driver: the loop is in its place, or held by one [`Driving`]. A submission that is taken up at once holds it
//!   meanwhile; where it finds it held it goes through the ring.
//! - **D2**, never without one: a consumer that waits drives, or has told the one who does, who looks after each turn (W1),
//!   and lets go of the loop before taking the lock, under which the consumer tries for it and goes to sleep.
//!   A loop at rest is taken after two [`Watch`]es, or after the first later one that meets no submission being taken up.
//! - **D3**, no watch that nobody needs: while the consumer is inside, the thread sleeps until it leaves. Who says so, and
//!   who leaves, does it under the lock.
//!
//! A panic of the user's ends the loop as it ends on a thread of its own, whoever drives.
//!
//! Model: loom-tests/driving.rs. Mutants that must fail: `wanted_unraised`, `wanted_overlooked`, `given_back_unseen`,
//! `doze_unseen`, `doze_unasked`, `output_kept`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use crate::error::SubmitErrorKind;
use crate::event_loop::EventLoop;
use crate::event_loop::inbox::{Patience, nanos};
use crate::handoff::{Held, TryLock, this_thread};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, mutant, thread};
use crate::sys;
use crate::watcher::between_turns::BetweenTurns;
use crate::watcher::panics::Panics;
use crate::watcher::proactor::Proactor;
use crate::watcher::shared::Shared;
use crate::watcher::submission::Submission;

/// How long the loop's thread sleeps before it looks again whether the consumer stays away: twice as long each time that it
/// finds it coming and going, since each look is two switches in the midst of work.
#[derive(Clone, Copy)]
struct Watch(Duration);

impl Watch {
    /// On one processor the thread would wait for about as long to be let in by a consumer that computes.
    const SHORTEST: Self = Self(Duration::from_millis(2));
    const LONGEST: Duration = Duration::from_millis(16);

    fn longer(self) -> Self {
        Self((2 * self.0).min(Self::LONGEST))
    }

    /// A model knows no time: a watch is over whenever another thread has had its turn.
    fn keep(self) {
        #[cfg(loom)]
        thread::yield_now();
        #[cfg(not(loom))]
        thread::park_timeout(self.0);
    }
}

/// Where the consumer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consumer {
    /// In `wait`, and drives.
    Inside,
    Away,
    /// It drives no more.
    AwayForGood,
}

/// Who is about: what the loop's thread goes by.
struct Whereabouts {
    consumer: Consumer,
    /// Counts its comings and goings.
    moves: u64,
    /// The loop's thread sleeps, and has to be told when the consumer leaves.
    dozing: bool,
}

/// Where the loop is while nobody drives it.
pub(crate) struct Place<C> {
    /// Held by whoever drives, and by the consumer for as long as a submission is taken up at rest. Empty: the loop is over.
    event_loop: TryLock<BetweenTurns<C>>,
    whereabouts: Mutex<Whereabouts>,
    /// The loop was given back to a consumer that wants it, or is over.
    given_back: Condvar,
    wanted: AtomicBool,
    /// The thread that has driven in `wait` last; 0: none.
    consumer: AtomicU64,
    loop_thread: OnceLock<thread::Thread>,
}

impl<C> Place<C> {
    pub(crate) fn new() -> Self {
        Self {
            event_loop: TryLock::new(BetweenTurns::NONE),
            whereabouts: Mutex::new(Whereabouts { consumer: Consumer::Away, moves: 0, dozing: false }),
            given_back: Condvar::new(),
            wanted: AtomicBool::new(false),
            consumer: AtomicU64::new(0),
            loop_thread: OnceLock::new(),
        }
    }

    fn whereabouts(&self) -> MutexGuard<'_, Whereabouts> {
        self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this the thread that has driven in `wait` last? Only it is worth a try.
    #[inline(always)]
    pub(crate) fn is_consumers(&self) -> bool {
        let consumer = self.consumer.load(Ordering::Relaxed);
        consumer != 0 && consumer == this_thread()
    }

    /// The loop at rest, on the consumer's thread. Never waits.
    #[inline(always)]
    pub(crate) fn at_rest_here(&self) -> Option<Held<'_, BetweenTurns<C>>> {
        if self.is_consumers() { self.event_loop.try_lock() } else { None }
    }

    /// Is this the consumer's thread, and the loop at rest? Then nobody sleeps who would have to be woken.
    pub(crate) fn is_at_rest_here(&self) -> bool {
        self.at_rest_here().is_some_and(|between| between.is_there())
    }

    /// From now on the loop's thread drives: it takes the loop at once, if that is at rest.
    pub(crate) fn leave_for_good(&self) {
        self.consumer.store(0, Ordering::Relaxed);
        self.leave(Consumer::AwayForGood);
    }

    /// The consumer goes away. If it had the loop, it has put that back.
    fn leave(&self, to: Consumer) {
        let mut whereabouts = self.whereabouts();
        whereabouts.consumer = to;
        whereabouts.moves += 1;
        let dozing = std::mem::replace(&mut whereabouts.dozing, false) && !mutant("doze_unseen");
        drop(whereabouts);
        if dozing || to == Consumer::AwayForGood {
            self.wake_loop_thread();
        }
    }

    fn wake_loop_thread(&self) {
        if let Some(thread) = self.loop_thread.get() {
            thread.unpark();
        }
    }

    /// The loop's thread waits until it should drive, and the loop is there for it.
    fn stand_by(&self) -> Held<'_, BetweenTurns<C>> {
        let (mut seen, mut watch) = (None, Watch::SHORTEST);
        loop {
            let mut whereabouts = self.whereabouts();
            let before = seen.replace(whereabouts.moves);
            let stays = before == Some(whereabouts.moves);
            let ours = match whereabouts.consumer {
                Consumer::AwayForGood => true,
                Consumer::Away => stays,
                Consumer::Inside => false,
            };
            if let Some(held) = ours.then(|| self.event_loop.try_lock()).flatten() {
                return held;
            }
            whereabouts.dozing = stays && whereabouts.consumer == Consumer::Inside || mutant("doze_unasked");
            let dozing = whereabouts.dozing;
            drop(whereabouts);
            if dozing {
                thread::park();
                (seen, watch) = (None, Watch::SHORTEST);
                continue;
            }
            if before.is_some() {
                watch = watch.longer();
            }
            watch.keep();
        }
    }
}

impl<C> Shared<C> {
    /// Puts a new loop where its thread finds it.
    pub(crate) fn place(&self, event_loop: EventLoop<Proactor<C>>) {
        if let Some(mut held) = self.place.event_loop.try_lock() {
            *held = BetweenTurns::after_turn(Box::new(event_loop), self);
        }
    }

    /// Takes it out again: there is no thread for it.
    pub(crate) fn displace(&self) {
        drop(self.place.event_loop.try_lock().and_then(|mut held| held.take()));
    }

    fn drive<'s>(&'s self, held: Held<'s, BetweenTurns<C>>, inside: bool) -> Driving<'s, C> {
        let mut driving = Driving { shared: self, held: Some(held), inside };
        let event_loop = driving.event_loop();
        // What was taken up at rest may have completed.
        event_loop.owed |= event_loop.face.outbox.has_output() && !mutant("output_kept");
        event_loop.face.outbox.make_room();
        event_loop.face.outbox.beside = !inside;
        self.inbox.local.bind();
        self.pool.bind();
        driving
    }

    /// The consumer takes the loop, from its thread if that drives: within `time` (`None` is for ever), if at all.
    pub(crate) fn drive_inside(&self, time: Option<Duration>) -> Option<Driving<'_, C>> {
        let place = &self.place;
        let mut held = place.event_loop.try_lock();
        let mut whereabouts = place.whereabouts();
        if held.is_none() && time != Some(Duration::ZERO) {
            // Relaxed: the raise that follows publishes it (W1).
            place.wanted.store(true, Ordering::Relaxed);
            if !mutant("wanted_unraised") {
                self.inbox.raise();
            }
            let until = time.map(|time| sys::now().saturating_add(nanos(time)));
            loop {
                held = place.event_loop.try_lock();
                if held.is_some() {
                    break;
                }
                let Some(until) = until else {
                    whereabouts = place.given_back.wait(whereabouts).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                let left = until.saturating_sub(sys::now());
                if left == 0 {
                    break;
                }
                let waited = place.given_back.wait_timeout(whereabouts, Duration::from_nanos(left));
                whereabouts = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            place.wanted.store(false, Ordering::Relaxed);
        }
        let held = held.filter(|between| between.is_there())?;
        whereabouts.consumer = Consumer::Inside;
        whereabouts.moves += 1;
        drop(whereabouts);
        place.consumer.store(this_thread(), Ordering::Relaxed);
        Some(self.drive(held, true))
    }

    /// The body of a loop's thread. At first it drives: nobody has waited yet.
    pub(crate) fn run(&self) {
        let _ = self.place.loop_thread.set(thread::current());
        let mut held = self.place.event_loop.try_lock();
        loop {
            let mut driving = self.drive(held.take().unwrap_or_else(|| self.place.stand_by()), false);
            while !driving.is_gone() && !driving.is_wanted() {
                driving.turn(None);
            }
            if driving.is_gone() {
                return driving.end();
            }
        }
    }

    /// Hands a submission in on the consumer's thread: to the loop at rest, or else by the way in. A function of its own, so
    /// that it costs those nothing who never come here.
    #[cold]
    #[inline(never)]
    pub(crate) fn submit_as_consumer(
        &self,
        submission: Submission<C>,
        patience: Patience,
    ) -> Result<(), (SubmitErrorKind, Submission<C>)> {
        if let Some(mut between) = self.place.event_loop.try_lock() {
            if let Some(EventLoop { core, face, .. }) = between.at_hand() {
                match submission {
                    Submission::Op(op) if !op.body.goes_out() => face.start(core, op),
                    submission => face.take_up(core, submission),
                }
                return Ok(());
            }
        }
        self.inbox.submit(submission, patience)
    }
}

/// The loop, while somebody drives it. Goes back to its place when this is dropped.
pub(crate) struct Driving<'s, C> {
    shared: &'s Shared<C>,
    held: Option<Held<'s, BetweenTurns<C>>>,
    /// It is the consumer who drives.
    inside: bool,
}

impl<C> Driving<'_, C> {
    fn event_loop(&mut self) -> &mut EventLoop<Proactor<C>> {
        let held = self.held.as_mut().and_then(|between| between.get());
        held.unwrap_or_else(|| unreachable!("it is here until the end"))
    }

    fn is_gone(&mut self) -> bool {
        self.event_loop().face.is_gone()
    }

    fn is_wanted(&self) -> bool {
        self.shared.place.wanted.load(Ordering::Relaxed) && !mutant("wanted_overlooked")
    }

    /// One turn, which sleeps at most until that instant.
    ///
    /// A panic can only come from user code: the `Drop` of a context or buffer. Everything that was accepted is completed
    /// as failed, and the watcher is told.
    pub(crate) fn turn(&mut self, until: Option<u64>) {
        let unharmed = if cfg!(loom) {
            // In a model a panic is a finding, also one of loom's own: it must not be taken for the user's.
            self.try_turn(until).is_ok()
        } else {
            matches!(catch_unwind(AssertUnwindSafe(|| self.try_turn(until))), Ok(Ok(())))
        };
        if !unharmed {
            let event_loop = self.event_loop();
            event_loop.face.fail_all(&mut event_loop.core);
        }
    }

    fn try_turn(&mut self, until: Option<u64>) -> io::Result<()> {
        let event_loop = self.event_loop();
        // There is something to take up, or to hand out: the selector can wait for one turn, not for two.
        event_loop.skipped = event_loop.owed && !event_loop.skipped;
        if !event_loop.skipped {
            match event_loop.park(until) {
                // All that is left is the last batch: without a selector, room for it is looked for now and then.
                Err(_) if event_loop.face.is_ending() => std::thread::sleep(Duration::from_millis(1)),
                parked => parked?,
            }
        }
        event_loop.pass();
        Ok(())
    }

    /// The loop is over.
    fn end(mut self) {
        if let Some(mut event_loop) = self.held.as_mut().and_then(|between| between.take()) {
            event_loop.face.drop_last(&Panics::default());
        }
    }
}

impl<C> Drop for Driving<'_, C> {
    fn drop(&mut self) {
        let Some(mut between) = self.held.take() else { return };
        let gone = between.get().is_none_or(|event_loop| {
            event_loop.core.count_turn();
            event_loop.face.is_gone()
        });
        between.look_behind(self.shared);
        self.shared.pool.unbind();
        self.shared.inbox.local.unbind();
        drop(between);
        let place = &self.shared.place;
        if self.inside {
            return place.leave(if gone { Consumer::AwayForGood } else { Consumer::Away });
        }
        if !mutant("given_back_unseen") {
            drop(place.whereabouts());
        }
        place.given_back.notify_one();
    }
}

impl<C> std::fmt::Debug for Place<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_watch_becomes_longer_up_to_a_bound() {
        let watches = std::iter::successors(Some(Watch::SHORTEST), |watch| Some(watch.longer()));
        let millis: Vec<_> = watches.take(6).map(|watch| watch.0.as_millis()).collect();
        assert_eq!(millis, [2, 4, 8, 16, 16, 16]);
    }
}
