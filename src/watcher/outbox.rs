//! The way out: the batch that is being filled, and how it reaches the consumer.
//!
//! | drive    | filled by | handed over                                   | full means                            |
//! |----------|-----------|-----------------------------------------------|---------------------------------------|
//! | spawned  | the loop  | by `publish`, if the batch before was taken   | at its cap, and the cell not taken    |
//! | embedded | the turn  | by the return of the turn                     | at its cap                            |
//! | driven by the consumer | its turn | by `publish`, which it takes next  | at its cap                            |
//!
//! Full is not busy: the loop parks, and the take that empties the cell raises the gate. What may pile up in a batch
//! that cannot be handed over (the residue) is bounded by what may be in flight (G3), and by the listeners' credit.

use crate::event_loop::counters::count;
use crate::handoff::{Published, Publisher};
use crate::limits::Limits;
use crate::sync::Arc;
use crate::watcher::batch::Buffer;
use crate::watcher::shared::Shared;

#[derive(Debug)]
pub(crate) struct Outbox<C> {
    filling: Box<Buffer<C>>,
    /// Spawned only. What it holds itself is a stand-in, and changes places with what was filled for a hand-over.
    publisher: Option<Publisher<Box<Buffer<C>>>>,
    /// Accepted connections in the mailbox's cell: with those in the filling batch, what the credit counts.
    in_cell: usize,
    /// The consumer works beside the loop, and may take a batch while the next one is filled. When it drives itself, more
    /// than it can take at the end of the turn would only get cold.
    pub(crate) beside: bool,
    /// The last batch, the one with the end in it, is the consumer's.
    ended: bool,
    /// A consumer that waited was woken since this was last asked.
    woken: bool,
    /// Bytes of payloads dealt with that still count as queued: until the next hand-over, or the end of the turn.
    pub(crate) written: u64,
    cap: usize,
    cap_bytes: usize,
    credit: usize,
    shared: Arc<Shared<C>>,
}

impl<C> Outbox<C> {
    pub(crate) const fn new(
        filling: Box<Buffer<C>>,
        publisher: Option<Publisher<Box<Buffer<C>>>>,
        limits: &Limits,
        shared: Arc<Shared<C>>,
    ) -> Self {
        Self {
            filling,
            publisher,
            in_cell: 0,
            beside: true,
            ended: false,
            woken: false,
            written: 0,
            cap: limits.batch,
            cap_bytes: limits.batch_bytes,
            credit: limits.listen_credit,
            shared,
        }
    }

    pub(crate) const fn set_limits(&mut self, limits: &Limits) {
        (self.cap, self.cap_bytes, self.credit) = (limits.batch, limits.batch_bytes, limits.listen_credit);
    }

    #[inline]
    pub(crate) const fn filling(&mut self) -> &mut Buffer<C> {
        &mut self.filling
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.filling.is_empty() || self.filling.end.is_some()
    }

    /// No place for another completion, now.
    #[inline]
    pub(crate) fn is_full(&mut self) -> bool {
        (self.filling.len() >= self.cap || self.filling.bytes >= self.cap_bytes) && !(self.beside && self.hand_over())
    }

    /// May one more connection be accepted? If not, the take that makes it so raises the gate.
    pub(crate) fn has_credit(&mut self) -> bool {
        let filling = self.filling.accepted;
        if self.in_cell + filling < self.credit {
            return true;
        }
        if self.publisher.as_mut().is_some_and(Publisher::is_taken) {
            self.in_cell = 0;
        }
        self.in_cell + filling < self.credit
    }

    /// Gives the batch to the consumer, if the one before was taken. Otherwise it stays, and the next take raises the
    /// gate.
    #[inline(never)]
    fn hand_over(&mut self) -> bool {
        let Some(publisher) = &mut self.publisher else { return false };
        let Buffer { accepted, ops, end, .. } = *self.filling;
        if !publisher.is_taken() {
            return false;
        }
        // Before: whoever is told that a write is done may submit one that has no room beside it.
        self.shared.in_flight.written(std::mem::take(&mut self.written));
        std::mem::swap(publisher.filling(), &mut self.filling);
        let published = publisher.publish();
        std::mem::swap(publisher.filling(), &mut self.filling);
        debug_assert_eq!(published, Published::Handed, "a cell that was emptied is filled by the publisher alone");
        self.filling.recycle();
        self.in_cell = accepted;
        self.ended |= end.is_some();
        self.woken |= publisher.has_woken();
        self.shared.counters.batch(ops);
        true
    }

    /// The end of a turn.
    pub(crate) fn publish(&mut self) {
        let output = self.has_output();
        if output && self.publisher.is_none() {
            self.ended |= self.filling.end.is_some();
            return self.shared.counters.batch(self.filling.ops);
        }
        self.make_room();
        if output && !self.hand_over() {
            count(&self.shared.counters.residues);
        }
    }

    /// Says that what is written is no longer in flight: before a sleep, others may wait for that.
    #[inline]
    pub(crate) fn make_room(&mut self) {
        self.shared.in_flight.written(std::mem::take(&mut self.written));
    }

    /// The return of an embedded turn: what it has produced goes for what was taken to its end.
    pub(crate) fn exchange(&mut self, taken: &mut Box<Buffer<C>>) {
        std::mem::swap(&mut self.filling, taken);
        taken.settle(&self.shared, std::mem::take(&mut self.written));
    }

    /// Was a consumer woken since this was last asked?
    pub(crate) const fn take_woken(&mut self) -> bool {
        std::mem::replace(&mut self.woken, false)
    }

    /// Was the last batch handed over? Asked of the outbox, since any look for room may have done it.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }
}
