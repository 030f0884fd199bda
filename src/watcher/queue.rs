//! Pending operations: one slab per loop, one queue per connection and direction, linked through it.
//!
//! O(1) at both ends, nothing for an idle session, and an operation is a value that is moved in and out: it can be in
//! one place only (I1).

use crate::event_loop::slab::Slab;
use crate::watcher::Conn;
use crate::watcher::op::Body;

const NIL: u32 = u32::MAX;

/// An operation that the loop has taken up and not completed yet.
#[derive(Debug)]
pub(crate) struct Pending<C> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) body: Body,
    /// Bytes moved so far.
    pub(crate) done: usize,
    next: u32,
}

impl<C> Pending<C> {
    pub(crate) const fn new(conn: Conn<C>, context: C, body: Body) -> Self {
        Self { conn, context, body, done: 0, next: NIL }
    }
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

    pub(crate) fn push_back(&mut self, fifo: &mut Fifo, mut op: Pending<C>) {
        op.next = NIL;
        let index = self.0.insert(op).index;
        match self.0.at_mut(fifo.tail) {
            Some(last) => last.next = index,
            None => fifo.head = index,
        }
        fifo.tail = index;
    }

    pub(crate) fn push_front(&mut self, fifo: &mut Fifo, mut op: Pending<C>) {
        op.next = fifo.head;
        let index = self.0.insert(op).index;
        fifo.head = index;
        if fifo.tail == NIL {
            fifo.tail = index;
        }
    }

    pub(crate) fn pop_front(&mut self, fifo: &mut Fifo) -> Option<Pending<C>> {
        let op = self.0.remove_at(fifo.head)?;
        fifo.head = op.next;
        if fifo.head == NIL {
            fifo.tail = NIL;
        }
        Some(op)
    }

    pub(crate) fn head(&mut self, fifo: &Fifo) -> Option<&mut Pending<C>> {
        self.0.at_mut(fifo.head)
    }
}
