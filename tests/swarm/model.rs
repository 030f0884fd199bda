//! What must be true: of each connection the bytes that each side gave and got, of each operation what it may end as.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gaio::sim::{Peer, Socket};
use gaio::{Conn, Failure, Half, OpError, OpId, Outcome, Payload};

use crate::messages::Messages;

/// A context. All that ever were are counted until they are dropped, so one that is lost is missed, and one that is dropped
/// twice as well.
pub(crate) struct Ticket {
    pub(crate) id: usize,
    live: Arc<AtomicUsize>,
}

impl Ticket {
    pub(crate) fn new(id: usize, live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::Relaxed);
        Self { id, live: live.clone() }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of a message: that no socket takes it.
fn is_too_large(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
}

/// The byte that the peer of this connection sends at this place.
pub(crate) fn input(line: usize, at: usize) -> u8 {
    (line.wrapping_mul(97) ^ at.wrapping_mul(151) ^ (at / 256)) as u8
}

/// Where a payload's memory is: it must come back.
pub(crate) fn identity(payload: &Payload) -> Vec<usize> {
    match payload {
        Payload::Vec(bytes) => vec![bytes.as_ptr() as usize, bytes.capacity()],
        Payload::Many(pieces) => {
            let pieces_at = pieces.iter().map(|piece| piece.as_ptr() as usize);
            [pieces.as_ptr() as usize].into_iter().chain(pieces_at).collect()
        }
        other => other.as_slice().map(|bytes| bytes.as_ptr() as usize).into_iter().collect(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Read,
    Exact(usize),
    Pooled,
    Leased,
    Readable,
    Write,
    /// A write linked to a read of some kind.
    Linked,
    ShutDown,
    Close,
    Release,
    Abort,
    IntoFd,
}

impl Verb {
    pub(crate) fn is_pure_read(self) -> bool {
        matches!(self, Self::Read | Self::Exact(_) | Self::Pooled | Self::Leased | Self::Readable)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Linked)
    }

    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::Close | Self::Release | Self::Abort | Self::IntoFd)
    }
}

/// An operation that was accepted, until it completes.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) line: usize,
    pub(crate) verb: Verb,
    /// Bytes to write.
    pub(crate) len: usize,
    pub(crate) deadline: Option<Duration>,
    pub(crate) name: Option<OpId>,
    pub(crate) cancelled: bool,
    /// Of its buffer; empty if it cannot be known.
    pub(crate) identity: Vec<usize>,
    /// It writes what was only borrowed.
    pub(crate) borrowed: bool,
}

/// What was to be written by one operation, and how much of it went out.
#[derive(Debug)]
pub(crate) struct Written {
    id: usize,
    pub(crate) bytes: Vec<u8>,
    /// Of a message: if it did.
    pub(crate) done: Option<usize>,
}

/// How the peer saw the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Reset,
}

/// What the world and the loop have been through, for judging an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) now: Duration,
    pub(crate) shut_down: bool,
    pub(crate) cuts: bool,
    pub(crate) refusals: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
    Udp,
    UnixDatagram,
}

/// One connection, from both sides.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) index: usize,
    pub(crate) kind: Kind,
    /// If that is what it carries.
    pub(crate) messages: Option<Messages>,
    pub(crate) handles: Vec<Conn<Ticket>>,
    pub(crate) peer: Option<Peer>,
    /// It came through the listener of this number, and may not be accepted yet.
    pub(crate) listener: Option<usize>,
    pub(crate) accepted: bool,
    /// Out of the loop.
    pub(crate) detached: Option<(Socket, bytes::Bytes)>,
    /// It was delegated more than once.
    pub(crate) again: bool,
    /// Bytes the peer has sent, and how many of them reads have brought.
    pub(crate) sent: usize,
    pub(crate) read: usize,
    /// The peer has ended its side.
    pub(crate) peer_ended: bool,
    pub(crate) peer_gone: bool,
    writes: Vec<Written>,
    seen: Vec<u8>,
    pub(crate) end_seen: Option<End>,
    peer_told: bool,
    last_read: usize,
    last_write: usize,
    write_failed: bool,
    shut: bool,
    /// The first ending that was submitted; its completion has been handed out.
    pub(crate) ending: Option<usize>,
    pub(crate) over: bool,
    pub(crate) outstanding: usize,
}

impl Line {
    pub(crate) fn new(index: usize, kind: Kind, peer: Peer) -> Self {
        let messages = match kind {
            Kind::Tcp | Kind::Unix => None,
            Kind::Udp => Some(Messages::new(false)),
            Kind::UnixDatagram => Some(Messages::new(true)),
        };
        Self {
            index,
            kind,
            messages,
            handles: Vec::new(),
            peer: Some(peer),
            listener: None,
            accepted: true,
            detached: None,
            again: false,
            sent: 0,
            read: 0,
            peer_ended: false,
            peer_gone: false,
            writes: Vec::new(),
            seen: Vec::new(),
            end_seen: None,
            peer_told: false,
            last_read: 0,
            last_write: 0,
            write_failed: false,
            shut: false,
            ending: None,
            over: false,
            outstanding: 0,
        }
    }

    // --- the peer's side ---

    pub(crate) fn peer_sends(&mut self, most: usize) {
        let Some(peer) = &self.peer else { return };
        if let Some(messages) = &mut self.messages {
            return messages.peer_sends(peer, self.index, most - 1);
        }
        let bytes: Vec<u8> = (self.sent..self.sent + most).map(|at| input(self.index, at)).collect();
        let sent = peer.send(&bytes);
        self.peer_has_sent(sent);
    }

    /// A send may be told of a reset; then a receive is not.
    pub(crate) fn peer_has_sent(&mut self, sent: std::io::Result<usize>) {
        match sent {
            Ok(sent) => self.sent += sent,
            Err(error) => self.peer_told |= error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Says whether anything was there.
    pub(crate) fn peer_receives(&mut self, most: usize) -> bool {
        let Some(peer) = &self.peer else { return false };
        if let Some(messages) = &mut self.messages {
            return messages.peer_receives(peer);
        }
        let mut buf = vec![0; most];
        match peer.recv(&mut buf) {
            Ok(0) => self.peer_sees(if self.peer_told { End::Reset } else { End::Clean }),
            Ok(len) => {
                self.seen.extend(&buf[..len]);
                assert_eq!(self.end_seen, None, "line {}: bytes behind the end", self.index);
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.peer_sees(End::Reset),
        }
        false
    }

    fn peer_sees(&mut self, end: End) {
        self.end_seen.get_or_insert(end);
    }

    // --- ours ---

    pub(crate) fn submitted(&mut self, id: usize, verb: Verb, bytes: Vec<u8>) {
        self.outstanding += 1;
        if verb.ends() {
            self.ending.get_or_insert(id);
        }
        self.shut |= verb == Verb::ShutDown;
        if verb.writes() {
            self.writes.push(Written { id, bytes, done: None });
        }
    }

    fn wrote(&mut self, id: usize, done: usize) {
        let index = self.index;
        let written = self.writes.iter_mut().find(|written| written.id == id).expect("a write");
        assert!(done <= written.bytes.len(), "line {index}: more was written than there was");
        written.done = Some(done);
    }

    fn got(&mut self, bytes: &[u8]) {
        if let Some(messages) = &mut self.messages {
            return messages.got(bytes, bytes.len());
        }
        for byte in bytes {
            assert_eq!(*byte, input(self.index, self.read), "line {}: byte {}", self.index, self.read);
            self.read += 1;
        }
        assert!(self.read <= self.sent, "line {}: more was read than sent", self.index);
    }

    /// An operation has completed. Panics if not as it may.
    pub(crate) fn completed(&mut self, id: usize, op: &Op, outcome: &Outcome<'_>, times: Times) {
        let index = self.index;
        self.outstanding -= 1;
        let late = matches!(outcome, Outcome::Closed)
            || matches!(outcome, Outcome::Failed(failure) if matches!(failure.error, OpError::Closed | OpError::NotRegistered));
        assert!(!self.over || late, "line {index}: {op:?} came to {outcome:?} behind the end");
        if op.verb == Verb::Linked && !matches!(outcome, Outcome::Failed(failure) if failure.half == Half::Write) {
            self.wrote(id, op.len);
        }
        match (op.verb, outcome) {
            (Verb::Read | Verb::Linked, Outcome::Read(bytes)) => {
                assert!(!bytes.is_empty() || self.messages.is_some());
                self.check_vec(op, bytes);
                self.got(bytes);
            }
            (Verb::Exact(n), Outcome::Read(bytes)) => {
                assert_eq!(bytes.len(), n);
                self.check_vec(op, bytes);
                self.got(bytes);
            }
            (Verb::Pooled | Verb::Linked, Outcome::Pooled(bytes)) => self.got(bytes),
            (Verb::Leased | Verb::Linked, Outcome::Leased(bytes)) => self.got(bytes),
            (Verb::Readable, Outcome::Readable) => {
                let cause = match &self.messages {
                    Some(messages) => messages.has_unread(),
                    None => self.read < self.sent || self.peer_ended || self.peer_gone || times.cuts,
                };
                assert!(cause, "line {index}: readable, of nothing");
            }
            (Verb::Write, Outcome::Wrote(payload)) => {
                let same = op.identity.is_empty() || identity(payload) == op.identity;
                assert!(same, "line {index}: another buffer");
                assert_eq!(
                    (payload.len(), matches!(payload, Payload::Copied(_))),
                    (op.len, op.borrowed),
                    "line {index}"
                );
                self.wrote(id, op.len);
            }
            (Verb::ShutDown, Outcome::ShutDown) => {}
            (Verb::Close | Verb::Release | Verb::Abort, Outcome::Closed) => {}
            (Verb::IntoFd, Outcome::Detached(_)) => {}
            (verb, Outcome::Eof(buffer)) if verb.is_pure_read() || verb == Verb::Linked => {
                assert!(self.messages.is_none(), "line {index}: an end of what has none");
                if let Some(bytes) = buffer {
                    self.check_vec(op, bytes);
                    let partial = matches!(verb, Verb::Exact(n) if bytes.len() < n);
                    assert!(partial || bytes.is_empty(), "line {index}: bytes with the end");
                    self.got(bytes);
                }
                // A socket tells its error once, perhaps before it was delegated again; then it is at its end.
                let told = self.again && (self.peer_gone || times.cuts);
                assert!(self.peer_ended || told, "line {index}: an end that the peer has not sent");
                assert_eq!(self.read, self.sent, "line {index}: the end in front of the last bytes");
            }
            (_, Outcome::Failed(failure)) => self.failed(id, op, failure, times),
            (verb, outcome) => panic!("line {index}: {verb:?} came to {outcome:?}"),
        }
        self.keeps_order(id, op, outcome);
        self.over |= matches!(outcome, Outcome::Closed | Outcome::Detached(_));
    }

    fn keeps_order(&mut self, id: usize, op: &Op, outcome: &Outcome<'_>) {
        if matches!(outcome, Outcome::Failed(_)) || op.verb == Verb::Linked {
            return;
        }
        let last = match op.verb {
            verb if verb.is_pure_read() => &mut self.last_read,
            Verb::Write | Verb::ShutDown | Verb::Close | Verb::IntoFd => &mut self.last_write,
            _ => return,
        };
        assert!(*last < id, "line {}: operation {id} after {last}", self.index);
        *last = id;
    }

    fn check_vec(&self, op: &Op, bytes: &Vec<u8>) {
        let found = [bytes.as_ptr() as usize, bytes.capacity()];
        assert!(op.identity.is_empty() || op.identity == found, "line {}: another buffer", self.index);
    }

    fn failed(&mut self, id: usize, op: &Op, failure: &Failure, times: Times) {
        let (index, writing) = (self.index, failure.half == Half::Write);
        if op.borrowed && writing {
            let whole = failure.buffer.as_ref().and_then(Payload::as_slice).is_some_and(|bytes| bytes.len() == op.len);
            assert!(whole, "line {index}: the bytes do not come along: {failure:?}");
        }
        match &failure.buffer {
            Some(payload) if op.verb != Verb::Linked || writing => {
                assert!(op.identity.is_empty() || identity(payload) == op.identity, "line {index}: another buffer");
            }
            Some(_) => {}
            None => assert!(op.identity.is_empty() || op.verb == Verb::Linked, "line {index}: the buffer is gone"),
        }
        if let Verb::Exact(n) = op.verb {
            let Some(Payload::Vec(bytes)) = &failure.buffer else { panic!("line {index}: {failure:?}") };
            assert!(bytes.len() == failure.transferred && bytes.len() < n, "line {index}: {failure:?}");
            self.got(bytes);
        } else if let OpError::Truncated { whole } = failure.error {
            let bytes = failure.buffer.as_ref().and_then(Payload::as_slice).expect("what did fit");
            assert!(bytes.len() == failure.transferred && bytes.len() < whole, "line {index}: {failure:?}");
            self.messages.as_mut().expect("messages").got(bytes, whole);
        } else if op.verb.writes() && writing && self.messages.is_none() {
            self.wrote(id, failure.transferred);
            self.write_failed = true;
        } else {
            assert_eq!(failure.transferred, 0, "line {index}");
        }
        let other_end = self.peer_ended || self.peer_gone || times.cuts && self.messages.is_none();
        let cause = match &failure.error {
            // The bound of any close is that of its writes, too.
            OpError::TimedOut if op.verb == Verb::IntoFd => true,
            OpError::TimedOut => op.deadline.is_some_and(|deadline| deadline <= times.now),
            OpError::Cancelled => op.cancelled,
            OpError::Released => self.ending.is_some(),
            // What was submitted before the end goes before it.
            OpError::Closed => self.ending.is_some_and(|ending| id > ending),
            OpError::Aborted => times.shut_down,
            OpError::Broken => self.write_failed || self.shut || self.ending.is_some() || other_end,
            OpError::NotRegistered => times.refusals,
            OpError::Os(error) => other_end || self.shut || self.messages.is_some() && is_too_large(error),
            OpError::Truncated { .. } => self.messages.is_some() && !writing,
            _ => false,
        };
        assert!(cause, "line {index}: {op:?} failed for no reason: {failure:?}, {times:?}");
    }

    // --- at the end ---

    /// A handle, or an operation that is one.
    pub(crate) fn has_handles(&self) -> bool {
        !self.handles.is_empty() || self.outstanding > 0
    }

    /// Is an operation that reads, and is pending although nothing is under way, right to wait?
    pub(crate) fn may_wait(&self, ops: &[&Op]) -> bool {
        if let Some(messages) = &self.messages {
            return !messages.lossless || !messages.has_unread() || self.peer_gone;
        }
        let exact = |op: &&Op| matches!(op.verb, Verb::Exact(n) if n > self.sent - self.read);
        let silent = !self.peer_ended && !self.peer_gone && self.end_seen != Some(End::Reset);
        silent && (self.read == self.sent || ops.iter().any(exact))
    }

    /// Compares what the peer has seen with what went out, once all of it is told.
    pub(crate) fn check_output(&mut self) {
        if self.peer.is_none() {
            return;
        }
        while self.peer_receives(4096) {}
        let index = self.index;
        if let Some(messages) = &self.messages {
            return messages.check_output(index, &self.writes);
        }
        let mut out = Vec::new();
        let mut torn = false;
        for written in &self.writes {
            let done = written.done.unwrap_or(0);
            out.extend(&written.bytes[..done]);
            torn |= done > 0 && done < written.bytes.len();
        }
        assert_eq!(self.seen.len(), out.len(), "line {index}: so many bytes were seen, and so many went out");
        assert!(self.seen == out, "line {index}: the peer has seen something else");
        let told = self.kind == Kind::Unix || !torn || self.end_seen != Some(End::Clean);
        assert!(told, "line {index}: a clean end behind a torn message, {self:?}");
    }
}
