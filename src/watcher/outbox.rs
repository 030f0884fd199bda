//! The way out: the batch that is being filled, and how it reaches the consumer.
//!
//! | drive    | filled by | handed over                                   | full means                            |
//! |----------|-----------|-----------------------------------------------|---------------------------------------|
//! | spawned  | the loop  | by `publish`, if the batch before was taken   | at its cap, and the cell not taken    |
//! | embedded | the turn  | by the return of the turn                     | at its cap                            |
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
    filling: Buffer<C>,
    /// Spawned only. What it holds itself is a stand-in, and changes places with what was filled for a hand-over.
    publisher: Option<Publisher<Buffer<C>>>,
    /// Accepted connections in the mailbox's cell: with those in the filling batch, what the credit counts.
    in_cell: usize,
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
        filling: Buffer<C>,
        publisher: Option<Publisher<Buffer<C>>>,
        limits: &Limits,
        shared: Arc<Shared<C>>,
    ) -> Self {
        Self {
            filling,
            publisher,
            in_cell: 0,
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
        (self.filling.len() >= self.cap || self.filling.bytes >= self.cap_bytes) && !self.hand_over()
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
    fn hand_over(&mut self) -> bool {
        let Some(publisher) = &mut self.publisher else { return false };
        let Buffer { accepted, ops, end, .. } = self.filling;
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
        self.shared.in_flight.written(std::mem::take(&mut self.written));
        let (ops, end) = (self.filling.ops, self.filling.end.is_some());
        if self.filling.is_empty() && !end {
            return;
        }
        if self.publisher.is_some() {
            if !self.hand_over() {
                count(&self.shared.counters.residues);
            }
        } else {
            self.ended |= end;
            self.shared.counters.batch(ops);
        }
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
