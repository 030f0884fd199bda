//! Where the event loop of an embedded watcher is between two turns: in reach of whoever submits on its thread.
//!
//! Between turns the thread is the user's, and the loop stands still. A submission of that thread finds it here, and is taken
//! up by it at once, as the next turn would take it up first of all: a message is sent while it is still at hand, and
//! goes through no queue. Only what there is a reason for goes by the local queue:
//!
//! | what is submitted                                              | because                                      |
//! |----------------------------------------------------------------|----------------------------------------------|
//! | in a turn, by the `Drop` of a payload                          | the turn has the loop                        |
//! | while the ring holds something                                 | it might rely on that, and would overtake it |
//! | behind what the last turn has left in the local queue          | it would overtake that                       |
//!
//! Taking up runs no code of the user's: payloads that are done with are dropped at the end of a turn. So none of this
//! is ever entered twice.
//!
//! A turn has the loop to itself, however it ends. The loop holds the [`Shared`] that holds it, so the
//! watcher takes it out for good when it is dropped.
//!
//! Model: loom-tests/turn.rs. Mutants that must fail: `at_once_overtakes`.

use crate::error::SubmitErrorKind;
use crate::event_loop::EventLoop;
use crate::event_loop::inbox::Patience;
use crate::handoff::Inside;
use crate::sync::mutant;
use crate::watcher::proactor::Proactor;
use crate::watcher::shared::Shared;
use crate::watcher::submission::Submission;

/// The loop, if it is in reach. Its thread's alone.
pub(crate) struct BetweenTurns<C> {
    event_loop: Option<Box<EventLoop<Proactor<C>>>>,
    /// The last turn has left something in the local queue.
    behind: bool,
}

impl<C> BetweenTurns<C> {
    pub(crate) const NONE: Self = Self { event_loop: None, behind: false };

    /// The loop after a turn, on the thread that has taken it.
    pub(crate) fn after_turn(event_loop: Box<EventLoop<Proactor<C>>>, shared: &Shared<C>) -> Self {
        let mut between = Self { event_loop: Some(event_loop), behind: false };
        between.look_behind(shared);
        between
    }

    pub(crate) fn look_behind(&mut self, shared: &Shared<C>) {
        let in_hand = self.event_loop.as_ref().is_some_and(|event_loop| !event_loop.face.intake.has_no_local());
        self.behind = in_hand || shared.inbox.has_local();
    }

    pub(crate) const fn is_there(&self) -> bool {
        self.event_loop.is_some()
    }

    pub(crate) fn get(&mut self) -> Option<&mut EventLoop<Proactor<C>>> {
        self.event_loop.as_deref_mut()
    }

    pub(crate) const fn take(&mut self) -> Option<Box<EventLoop<Proactor<C>>>> {
        self.event_loop.take()
    }

    /// The loop, if it may take up a submission at once.
    #[inline(always)]
    pub(crate) fn at_hand(&mut self) -> Option<&mut EventLoop<Proactor<C>>> {
        let event_loop = self.event_loop.as_deref_mut()?;
        // Only a turn empties the ring: what finds it so, and all behind that, waits.
        let clear = event_loop.face.intake.is_idle() || mutant("at_once_overtakes");
        (clear && !self.behind).then_some(event_loop)
    }
}

/// The loop of this thread, which takes up at once what is submitted.
pub(crate) struct AtHand<'s, C>(Inside<'s, BetweenTurns<C>>);

impl<C> AtHand<'_, C> {
    #[inline(always)]
    pub(crate) fn event_loop(&mut self) -> &mut EventLoop<Proactor<C>> {
        let Some(event_loop) = &mut self.0.event_loop else { unreachable!("it was there when this was made") };
        event_loop
    }
}

impl<C> Shared<C> {
    /// The embedded loop of this thread, if a submission may be taken up by it at once.
    #[inline(always)]
    pub(crate) fn at_hand(&self) -> Option<AtHand<'_, C>> {
        let mut between = self.between_turns.enter()?;
        if between.at_hand().is_some() { Some(AtHand(between)) } else { None }
    }

    /// Hands a submission in. On the thread of an embedded loop that is between two turns it is taken up at once.
    pub(crate) fn submit(
        &self,
        submission: Submission<C>,
        patience: Patience,
    ) -> Result<(), (SubmitErrorKind, Submission<C>)> {
        if let Some(mut at_hand) = self.at_hand() {
            let event_loop = at_hand.event_loop();
            event_loop.face.take_up(&mut event_loop.core, submission);
            return Ok(());
        }
        if self.place.is_consumers() {
            return self.submit_as_consumer(submission, patience);
        }
        self.inbox.submit(submission, patience)
    }

    /// Puts a new loop where this thread's submissions reach it.
    pub(crate) fn set_loop(&self, event_loop: EventLoop<Proactor<C>>) {
        self.between_turns.with(|between| *between = BetweenTurns::after_turn(Box::new(event_loop), self));
    }

    /// Takes the loop out of reach for a turn.
    pub(crate) fn turn(&self) -> InTurn<'_, C> {
        let Some(inside) = self.between_turns.enter() else { unreachable!("one watcher takes one turn at a time") };
        InTurn { shared: self, inside }
    }
}

/// The loop in its turn, or in whatever the watcher has to do with it. In reach again when this is dropped.
pub(crate) struct InTurn<'s, C> {
    shared: &'s Shared<C>,
    inside: Inside<'s, BetweenTurns<C>>,
}

impl<C> InTurn<'_, C> {
    pub(crate) fn event_loop(&mut self) -> &mut EventLoop<Proactor<C>> {
        let Some(event_loop) = &mut self.inside.event_loop else { unreachable!("it is here until the end") };
        event_loop
    }

    /// Takes it for good.
    pub(crate) fn end(mut self) -> Option<Box<EventLoop<Proactor<C>>>> {
        self.inside.take()
    }
}

impl<C> Drop for InTurn<'_, C> {
    fn drop(&mut self) {
        self.inside.look_behind(self.shared);
    }
}
