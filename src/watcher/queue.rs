//! Pending operations: one slab per loop, one queue per connection and direction, linked through it.
//!
//! O(1) at both ends, nothing for an idle session. An operation is put into the slab when it comes out of the ring and
//! stays at its place until it completes: tried there, queued by its link, turned from a write into the read it is
//! linked to without being moved. It is in one queue at a time, and taking it out is the only way to complete it (G1).

use crate::event_loop::slab::Slab;
use crate::watcher::Conn;
use crate::watcher::op::Body;

const NIL: u32 = u32::MAX;

/// An operation that the loop has taken up and not completed yet.
#[derive(Debug)]
pub(crate) struct Pending<C> {
    pub(crate) op: Operation<C>,
    /// Bytes moved so far.
    pub(crate) done: usize,
    next: u32,
}

impl<C> Pending<C> {
    #[inline]
    pub(crate) const fn new(op: Operation<C>) -> Self {
        Self { op, done: 0, next: NIL }
    }
}

/// What was submitted: a handle, the caller's context, a verb with its buffer.
#[derive(Debug)]
pub(crate) struct Operation<C> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) body: Body,
}

/// First in, first out: the order in which operations touch the stream (G2).
#[derive(Debug)]
pub(crate) struct Fifo {
    head: u32,
    tail: u32,
}

impl Fifo {
    pub(crate) const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
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
}

/// All pending operations of one loop.
#[derive(Debug)]
pub(crate) struct Ops<C>(Slab<Pending<C>>);

impl<C> Ops<C> {
    pub(crate) const fn new() -> Self {
        Self(Slab::new())
    }

    /// Takes an operation in, at the end of a queue.
    #[inline(always)]
    pub(crate) fn push(&mut self, fifo: &mut Fifo, op: Operation<C>) {
        let index = self.0.insert(Pending::new(op)).index;
        self.link(fifo, index);
    }

    #[inline(always)]
    fn link(&mut self, fifo: &mut Fifo, index: u32) {
        if fifo.head == NIL {
            fifo.head = index;
        } else if let Some(last) = self.0.at_mut(fifo.tail) {
            last.next = index;
        }
        fifo.tail = index;
    }

    #[inline]
    pub(crate) fn head(&mut self, fifo: &Fifo) -> Option<&mut Pending<C>> {
        if fifo.head == NIL { None } else { self.0.at_mut(fifo.head) }
    }

    /// Takes the head out of the queue and of the slab.
    #[inline]
    pub(crate) fn pop(&mut self, fifo: &mut Fifo) -> Option<Pending<C>> {
        let op = self.0.remove_at(fifo.head)?;
        fifo.head = op.next;
        Some(op)
    }

    /// Moves the head of one queue to the end of another.
    #[inline]
    pub(crate) fn relink(&mut self, from: &mut Fifo, to: &mut Fifo) {
        let index = from.head;
        let Some(pending) = self.0.at_mut(index) else { return };
        from.head = std::mem::replace(&mut pending.next, NIL);
        self.link(to, index);
    }
}
