//! A session: what the loop knows of one connection, and the state machine that lives on it.
//!
//! ```text
//!   (none) ─connect─► Connecting
//!      │                  │ edge: connected (failed: retired)
//!      │   delegate       ▼    close, last handle          all written
//!      └───────────► Open ─────────────────────► Flushing ─────────────► Draining ──► (retired)
//!                     │                             │    deadline, torn, reset   │ EOF, bound, deadline
//!                     └── release, abort ───────────┴────────────────────────────┴──► (retired)
//! ```
//!
//! Readiness is remembered, not asked for: a bit is set by an edge and cleared only by proof that the kernel has
//! nothing left. For reading that is EAGAIN, or a short read where a short read proves it (see the contract of
//! `sys`); after a hang-up or at an urgent mark it never does. For writing it is EAGAIN alone, since only then an edge
//! will come (I9). Of datagrams only EAGAIN says so, in both directions.

use std::io::IoSlice;

use crate::event_loop::timers::{Timer, Timers};
use crate::sys::{self, Bits, Datagram, Errno, Socket};

/// Pause before a send is tried again for which memory was short: no edge announces memory.
const RETRY: u64 = 5_000_000;
/// Reads of input that a graceful close throws away, per step.
pub(crate) const DRAINS_PER_STEP: usize = 4;

/// One-bit facts of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flags(u16);

impl Flags {
    /// On the ready list.
    pub(crate) const QUEUED: Self = Self(1);
    /// A read returned 0: there is no need to ask again.
    pub(crate) const EOF: Self = Self(2);
    /// The peer reset the connection; a later end of stream is not a clean one.
    pub(crate) const RESET: Self = Self(4);
    /// A write failed: nothing may follow it.
    pub(crate) const BROKEN: Self = Self(8);
    /// AF_UNIX: a short read proves nothing.
    pub(crate) const UNIX: Self = Self(16);
    /// Graceful close has begun.
    pub(crate) const CLOSING: Self = Self(32);
    /// The sending side has been shut down.
    pub(crate) const SHUT: Self = Self(64);
    /// The last leased read filled a small buffer: draw a large one.
    pub(crate) const BULK: Self = Self(128);
    /// A pooled read waits for room in the arena.
    pub(crate) const STARVED: Self = Self(256);
    /// Bytes that came with the socket have not all been read.
    pub(crate) const LEFTOVER: Self = Self(512);
    /// There may be room now, for it before others.
    pub(crate) const CALLED: Self = Self(1024);
    /// One message per read and write: no end of stream, nothing torn, and an error concerns one call.
    pub(crate) const DATAGRAM: Self = Self(2048);
    /// No connection yet: an edge says that it is decided.
    pub(crate) const CONNECTING: Self = Self(4096);
    /// On its way in or out.
    pub(crate) const NOT_OPEN: Self = Self(Self::CLOSING.0 | Self::CONNECTING.0);
    /// Nothing may be sent any more.
    pub(crate) const MUTE: Self = Self(Self::BROKEN.0 | Self::SHUT.0);
    /// Does not write as an open stream does.
    pub(crate) const WRITES_APART: Self = Self(Self::MUTE.0 | Self::DATAGRAM.0);
    /// Does not read from a stream.
    pub(crate) const READS_APART: Self = Self(Self::LEFTOVER.0 | Self::DATAGRAM.0);
    /// Once all is written a graceful close has no end to send.
    pub(crate) const OVER: Self = Self(Self::BROKEN.0 | Self::RESET.0 | Self::DATAGRAM.0);
}

#[derive(Debug)]
pub(crate) struct Session<S> {
    pub(crate) socket: Socket,
    ready: u8,
    /// The turn, in its low bits, in which an operation was last tried as it was submitted.
    tried: u8,
    flags: u16,
    pub(crate) state: S,
}

/// What a transport verb says. The buffer went in by value and is here again: on a pending it waits in the operation,
/// so no borrow of it ever outlives the call.
#[derive(Debug)]
pub(crate) enum Verb {
    Moved(usize),
    Eof,
    Pending,
    Failed(Errno),
}

impl<S> Session<S> {
    pub(crate) const fn new(socket: Socket, unix: bool, state: S) -> Self {
        // Writable until proved otherwise: a new socket has room. Not readable: registration brings the first edge.
        let flags = if unix { Flags::UNIX.0 } else { 0 };
        Self { socket, ready: Bits::WRITABLE.to_byte(), tried: 0, flags, state }
    }

    /// Any of them, if there are several in one.
    pub(crate) const fn has(&self, flag: Flags) -> bool {
        self.flags & flag.0 != 0
    }

    pub(crate) const fn set(&mut self, flag: Flags) {
        self.flags |= flag.0;
    }

    pub(crate) const fn clear(&mut self, flag: Flags) {
        self.flags &= !flag.0;
    }

    /// Is this the first operation to be tried as it is submitted, in this turn? Those after it go to the ready list,
    /// where the budget is: or a connection with a thousand submissions would do them all in one turn (G8). Of two
    /// turns that look alike the later one only sends an operation there without need.
    #[inline]
    pub(crate) const fn first_in(&mut self, turn: u8) -> bool {
        let first = self.tried != turn;
        self.tried = turn;
        first
    }

    /// An edge came.
    pub(crate) const fn note(&mut self, bits: Bits) {
        self.ready |= bits.to_byte();
    }

    pub(crate) const fn readable(&self) -> bool {
        self.ready & Bits::READABLE.to_byte() != 0 || self.flags & (Flags::EOF.0 | Flags::LEFTOVER.0) != 0
    }

    pub(crate) const fn writable(&self) -> bool {
        self.ready & Bits::WRITABLE.to_byte() != 0
    }

    const fn not_readable(&mut self) {
        self.ready &= !Bits::READABLE.to_byte();
        // The urgent mark has been passed once nothing is left; the next one raises the bit anew.
        self.ready &= !Bits::PRIORITY.to_byte();
    }

    const fn not_writable(&mut self) {
        self.ready &= !Bits::WRITABLE.to_byte();
    }

    /// May a short read be taken for an empty queue?
    const fn short_means_drained(&self) -> bool {
        self.ready & (Bits::HANGUP.to_byte() | Bits::PRIORITY.to_byte()) == 0 && !self.has(Flags::UNIX)
    }

    #[inline]
    fn received(&mut self, offered: usize, result: Result<usize, Errno>) -> Verb {
        match result {
            Ok(0) => {
                self.set(Flags::EOF);
                if self.has(Flags::RESET) { Verb::Failed(Errno::CONNRESET) } else { Verb::Eof }
            }
            Ok(n) => {
                if n < offered && self.short_means_drained() {
                    self.not_readable();
                }
                Verb::Moved(n)
            }
            Err(Errno::AGAIN) => {
                self.not_readable();
                Verb::Pending
            }
            Err(errno) => {
                self.set(Flags::RESET);
                Verb::Failed(errno)
            }
        }
    }

    /// Has the end of the stream been seen? Then there is no need for a syscall.
    fn at_end(&self) -> Option<Verb> {
        self.has(Flags::EOF).then(|| self.received_end())
    }

    const fn received_end(&self) -> Verb {
        if self.has(Flags::RESET) { Verb::Failed(Errno::CONNRESET) } else { Verb::Eof }
    }

    /// Appends to the vector, up to its capacity.
    #[inline]
    pub(crate) fn recv_vec(&mut self, mut buffer: Vec<u8>) -> (Vec<u8>, Verb) {
        let verb = self.recv_append(&mut buffer);
        (buffer, verb)
    }

    /// The same, into a vector of the loop's.
    #[inline]
    pub(crate) fn recv_append(&mut self, buffer: &mut Vec<u8>) -> Verb {
        if let Some(end) = self.at_end() {
            return end;
        }
        let offered = buffer.capacity() - buffer.len();
        let result = sys::recv_vec(&self.socket, buffer);
        self.received(offered, result)
    }

    /// Appends to the vector at most `most` bytes. Zeroes that much of it first, unless it is just what there is room for.
    pub(crate) fn recv_exact(&mut self, mut buffer: Vec<u8>, most: usize) -> (Vec<u8>, Verb) {
        if buffer.capacity() - buffer.len() <= most {
            return self.recv_vec(buffer);
        }
        if let Some(end) = self.at_end() {
            return (buffer, end);
        }
        let have = buffer.len();
        buffer.resize(have + most, 0);
        let result = sys::recv_slice(&self.socket, &mut buffer[have..]);
        buffer.truncate(have + result.unwrap_or(0));
        (buffer, self.received(most, result))
    }

    /// Receives into memory of the loop's choosing.
    #[inline]
    pub(crate) fn recv_slice(&mut self, memory: &mut [u8]) -> Verb {
        if let Some(end) = self.at_end() {
            return end;
        }
        let result = sys::recv_slice(&self.socket, memory);
        self.received(memory.len(), result)
    }

    /// Is there something to read? Asks the kernel, since the bit may be left over from a read that filled its buffer.
    pub(crate) fn peek(&mut self) -> Verb {
        if let Some(end) = self.at_end() {
            return end;
        }
        match sys::peek(&self.socket) {
            // The verdict on the end of the stream is left to the read.
            Ok(_) => Verb::Moved(0),
            Err(errno) => self.received(1, Err(errno)),
        }
    }

    /// Sends what the system takes.
    #[inline]
    pub(crate) fn send(&mut self, slices: &[IoSlice<'_>]) -> Verb {
        match sys::send(&self.socket, slices) {
            Ok(n) => Verb::Moved(n),
            Err(Errno::AGAIN) => {
                self.not_writable();
                Verb::Pending
            }
            Err(errno) => {
                // The kernel tells an error once. If the send was told, a read would see a clean end (EPIPE says no more
                // than that nothing can be sent).
                if !matches!(errno, Errno::PIPE | Errno::NOBUFS | Errno::NOMEM) {
                    self.set(Flags::RESET);
                }
                Verb::Failed(errno)
            }
        }
    }

    /// What a call on a datagram socket came to. Only EAGAIN says that nothing is left, and an error says nothing of the
    /// next call.
    fn answered<T>(&mut self, result: Result<T, Errno>) -> Result<T, Verb> {
        result.map_err(|errno| match errno {
            Errno::AGAIN => {
                self.not_readable();
                Verb::Pending
            }
            errno => Verb::Failed(errno),
        })
    }

    /// One message, appended to the vector, up to its capacity.
    pub(crate) fn recv_datagram_vec(&mut self, buffer: &mut Vec<u8>) -> Result<Datagram, Verb> {
        let result = sys::recv_datagram_vec(&self.socket, buffer);
        self.answered(result)
    }

    /// One message, into memory of the loop's choosing.
    pub(crate) fn recv_datagram_slice(&mut self, memory: &mut [u8]) -> Result<Datagram, Verb> {
        let result = sys::recv_datagram_slice(&self.socket, memory);
        self.answered(result)
    }

    /// The length of the next message, which stays. An error that waits is told, and taken.
    pub(crate) fn next_datagram(&mut self) -> Result<usize, Verb> {
        let result = sys::next_datagram(&self.socket);
        self.answered(result)
    }

    /// Sends one message, all or nothing.
    pub(crate) fn send_datagram(&mut self, slices: &[IoSlice<'_>]) -> Verb {
        match sys::send(&self.socket, slices) {
            Ok(n) => Verb::Moved(n),
            Err(Errno::AGAIN) => {
                self.not_writable();
                Verb::Pending
            }
            Err(errno) => Verb::Failed(errno),
        }
    }

    /// Waits for the edge that says that a connect is decided.
    pub(crate) const fn wait_for_edge(&mut self) {
        self.not_writable();
    }

    /// Memory was short. Sending is tried again in a moment, although no edge will announce it.
    #[cold]
    pub(crate) fn retry_soon(&mut self, token: u64, timers: &mut Timers) {
        self.not_writable();
        timers.arm(sys::now() + RETRY, Timer::Retry(token));
    }

    pub(crate) const fn retry_now(&mut self) {
        self.ready |= Bits::WRITABLE.to_byte();
    }
}
