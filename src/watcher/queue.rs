//! Pending operations: one store per loop, one queue per connection and direction, linked through it.
//!
//! O(1) at both ends and in the middle, nothing for an idle session. An operation that was not done as it was taken up
//! (`starting.rs`) is put into the store and stays at its place until it completes: tried there, queued by its links, turned
//! from a write into the read it is linked to without being moved. It is in one queue at a time, and taking it out is the
//! only way to complete it (G1); taking it out disarms its deadline.
//!
//! Models: loom-tests/giving_up.rs. Mutant that must fail: `deadline_kept`.

use std::num::NonZeroU32;

use crate::event_loop::arena::{Arena, NIL};
use crate::event_loop::timers::{Armed, Timer, Timers};
use crate::sync::mutant;
use crate::watcher::Conn;
use crate::watcher::body::Body;
use crate::watcher::submission::Operation;

/// An operation that the loop has taken up and not completed yet.
#[derive(Debug)]
pub(crate) struct Pending<C> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) body: Body,
    /// Bytes moved so far.
    pub(crate) done: usize,
    name: Option<NonZeroU32>,
    deadline: Armed,
    next: u32,
    prev: u32,
}

impl<C> Pending<C> {
    #[inline(always)]
    pub(crate) fn new(op: Operation<C>) -> Self {
        let Operation { conn, context, body, bounds } = op;
        let (name, deadline) = (bounds.name(), Armed::NONE);
        Self { conn, context, body, done: 0, name, deadline, next: NIL, prev: NIL }
    }
}

/// First in, first out: the order in which operations touch the stream (G2).
#[derive(Debug)]
pub(crate) struct Fifo {
    head: u32,
    /// `NIL`, too, if it is empty.
    tail: u32,
}

impl Fifo {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub(crate) const fn starts_with(&self, index: u32) -> bool {
        self.head == index
    }
}

/// The state machine of one connection: what waits in each direction.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) read: Fifo,
    pub(crate) write: Fifo,
    /// A positive SO_LINGER in seconds: the time bound of the graceful close. 0: the default.
    pub(crate) linger: u16,
    /// Input thrown away by a graceful close, in KiB.
    pub(crate) drained: u16,
}

impl Queues {
    pub(crate) const fn new(linger: u16) -> Self {
        Self { read: Fifo::EMPTY, write: Fifo::EMPTY, linger, drained: 0 }
    }

    /// Is the operation, which was the last to be queued, still in a queue?
    #[inline]
    const fn waits(&self, index: u32) -> bool {
        self.write.tail == index || self.read.tail == index
    }
}

/// All pending operations of one loop.
#[derive(Debug)]
pub(crate) struct Ops<C>(Arena<Pending<C>>);

impl<C> Ops<C> {
    pub(crate) fn new() -> Self {
        Self(Arena::default())
    }

    /// Takes an operation in, at the end of a queue.
    #[inline(always)]
    pub(crate) fn push(&mut self, fifo: &mut Fifo, op: Operation<C>) -> u32 {
        let index = self.0.insert(|| Pending::new(op));
        self.link(fifo, index);
        index
    }

    #[inline(always)]
    fn link(&mut self, fifo: &mut Fifo, index: u32) {
        let last = std::mem::replace(&mut fifo.tail, index);
        if last == NIL {
            fifo.head = index;
            return;
        }
        if let Some(last) = self.0.get_mut(last) {
            last.next = index;
        }
        if let Some(pending) = self.0.get_mut(index) {
            pending.prev = last;
        }
    }

    #[inline]
    fn unlink(&mut self, fifo: &mut Fifo, index: u32) {
        let Some(pending) = self.0.get_mut(index) else { return };
        let (next, prev) = (std::mem::replace(&mut pending.next, NIL), std::mem::replace(&mut pending.prev, NIL));
        match self.0.get_mut(prev) {
            Some(before) => before.next = next,
            None => fifo.head = next,
        }
        match self.0.get_mut(next) {
            Some(behind) => behind.prev = prev,
            None => fifo.tail = prev,
        }
    }

    #[inline]
    pub(crate) fn head(&mut self, fifo: &Fifo) -> Option<&mut Pending<C>> {
        if fifo.head == NIL { None } else { self.0.get_mut(fifo.head) }
    }

    /// Takes the head out of the queue and of the store.
    #[inline]
    pub(crate) fn pop(&mut self, fifo: &mut Fifo, timers: &mut Timers) -> Option<Pending<C>> {
        let mut pending = self.0.remove(fifo.head)?;
        self.advance(fifo, pending.next);
        timers.disarm(&mut pending.deadline);
        Some(pending)
    }

    /// Takes out the head, of which only the handle and the context are left: its body holds nothing any more.
    #[inline(always)]
    pub(crate) fn pop_spent(&mut self, fifo: &mut Fifo, timers: &mut Timers) -> Option<(Conn<C>, C)> {
        let Pending { conn, context, body, mut deadline, next, .. } = self.0.remove(fifo.head)?;
        // Nothing to drop, and so nothing to move.
        std::mem::forget(body);
        self.advance(fifo, next);
        timers.disarm(&mut deadline);
        Some((conn, context))
    }

    /// Takes one out of the queue it is in and of the store.
    pub(crate) fn remove(&mut self, queues: &mut Queues, index: u32, timers: &mut Timers) -> Option<Pending<C>> {
        let fifo = if self.get(index)?.body.goes_out() { &mut queues.write } else { &mut queues.read };
        self.unlink(fifo, index);
        let mut pending = self.0.remove(index)?;
        if !mutant("deadline_kept") {
            timers.disarm(&mut pending.deadline);
        }
        Some(pending)
    }

    /// Moves the head of one queue to the end of another.
    #[inline]
    pub(crate) fn relink(&mut self, from: &mut Fifo, to: &mut Fifo) {
        let index = from.head;
        let Some(pending) = self.0.get_mut(index) else { return };
        let next = std::mem::replace(&mut pending.next, NIL);
        self.advance(from, next);
        self.link(to, index);
    }

    /// The head is gone; this one follows.
    #[inline(always)]
    fn advance(&mut self, fifo: &mut Fifo, next: u32) {
        fifo.head = next;
        if next == NIL {
            fifo.tail = NIL;
        } else if let Some(head) = self.0.get_mut(next) {
            head.prev = NIL;
        }
    }

    pub(crate) fn get(&mut self, index: u32) -> Option<&mut Pending<C>> {
        self.0.get_mut(index)
    }

    /// Arms the deadline of an operation, which was the last to be queued, if it still waits.
    pub(crate) fn arm(&mut self, queues: &Queues, index: u32, at: u64, timers: &mut Timers) {
        if !queues.waits(index) {
            return;
        }
        if let Some(pending) = self.0.get_mut(index) {
            pending.deadline = timers.arm(at, Timer::Op(index));
        }
    }

    /// The deadline of this one is over, and no longer armed.
    pub(crate) fn expired(&mut self, index: u32) -> Option<&mut Pending<C>> {
        let pending = self.0.get_mut(index)?;
        pending.deadline = Armed::NONE;
        Some(pending)
    }

    /// Looks for a named operation. O(what is pending on the connection), which is bounded.
    pub(crate) fn find(&mut self, queues: &Queues, name: NonZeroU32) -> Option<u32> {
        for head in [queues.read.head, queues.write.head] {
            let mut index = head;
            while let Some(pending) = self.0.get_mut(index) {
                if pending.name == Some(name) && !pending.body.is_ending() {
                    return Some(index);
                }
                index = pending.next;
            }
        }
        None
    }
}
