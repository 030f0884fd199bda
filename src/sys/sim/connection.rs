//! A connection: two ends, and the rules by which bytes, FIN and RST pass between them. Those of datagrams are next
//! door, in `datagram.rs`.
//!
//! ```text
//!            FIN (shutdown, close)              RST (abort, unread at close, sent to the closed)
//!   open ───────────────────────────► half-closed ───────────────────────────► dead
//!     └────────────────────────────────── RST ──────────────────────────────────▲
//! ```
//!
//! That is one end's view of its reading side. The end that connects starts in front of it, as *connecting*: it becomes
//! open when it is answered, and dead when it is refused. Nothing here knows of descriptors: an operation marks the ends for
//! which it was an edge, and the state tells whoever holds them.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::{Bits, Errno, Kind, StreamOptions};

/// One of the two ends. The near one is accepted or given to the code under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Near,
    Far,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Near, Self::Far];

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

#[derive(Default)]
pub(super) struct End {
    /// Bytes that have arrived and are not read.
    pub(super) inbox: VecDeque<u8>,
    /// Where the messages among them end, as lengths: of datagrams alone.
    pub(super) lengths: VecDeque<usize>,
    /// How many bytes were ever read: the position of the inbox's front in the stream.
    read: u64,
    /// Positions at which a read stops although there is more: an urgent mark, or the end of a message with descriptors.
    /// With each where that message begins: a part of it, once read, takes the descriptors along.
    marks: VecDeque<(u64, u64)>,
    /// The FIN has arrived; it counts once the inbox is empty.
    pub(super) eof: bool,
    /// An RST has arrived.
    dead: bool,
    /// What an RST or a refusal has left to be told, once.
    pub(super) error: Option<Errno>,
    /// Our FIN is sent.
    pub(super) shut: bool,
    /// A send was answered EAGAIN: room is an edge. Nothing else makes it one.
    pub(super) wants_room: bool,
    pub(super) closed: bool,
    /// It has asked for the connection, and is not answered yet.
    connecting: bool,
    /// Of Unix datagrams: the peer was found dead, and is forgotten.
    pub(super) alone: bool,
    /// An operation was an edge for this end, and its holder is not told yet.
    pub(super) edge: bool,
    /// Who holds it; `None` for an end in a test's hand, or in a backlog.
    pub(super) holder: Option<usize>,
    pub(super) addr: Option<SocketAddr>,
    pub(super) linger: Option<Duration>,
    /// Remembered, and told; nothing here depends on them.
    pub(super) options: StreamOptions,
}

pub(super) struct Connection {
    near: End,
    far: End,
    pub(super) capacity: usize,
    pub(super) unix: bool,
    pub(super) datagrams: bool,
}

impl Connection {
    pub(super) fn new(capacity: usize, unix: bool) -> Self {
        Self { near: End::default(), far: End::default(), capacity, unix, datagrams: false }
    }

    pub(super) fn of_datagrams(capacity: usize, unix: bool) -> Self {
        Self { datagrams: true, ..Self::new(capacity, unix) }
    }

    /// A TCP connection that `side` has asked for, and that is not answered yet.
    pub(super) fn asked_for(capacity: usize, side: Side) -> Self {
        let mut connection = Self::new(capacity, false);
        connection.end(side).connecting = true;
        connection
    }

    pub(super) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Near => &mut self.near,
            Side::Far => &mut self.far,
        }
    }

    pub(super) fn both(&mut self, side: Side) -> (&mut End, &mut End) {
        match side {
            Side::Near => (&mut self.near, &mut self.far),
            Side::Far => (&mut self.far, &mut self.near),
        }
    }

    /// Takes note that the edge of `side` is being told.
    pub(super) fn take_edge(&mut self, side: Side) -> bool {
        std::mem::take(&mut self.end(side).edge)
    }

    pub(super) fn is_over(&self) -> bool {
        self.near.closed && self.far.closed
    }

    pub(super) fn recv(&mut self, side: Side, room: usize, out: &mut Vec<u8>) -> Result<usize, Errno> {
        if self.datagrams {
            return self.recv_datagram(side, room, out).map(|datagram| datagram.len);
        }
        let unix = self.unix;
        let (end, other) = self.both(side);
        if end.inbox.is_empty() {
            return end.recv_nothing(unix);
        }
        let len = room.min(end.inbox.len()).min(end.to_mark());
        out.extend(end.inbox.drain(..len));
        end.read += len as u64;
        // There may be several at one place.
        while end.marks.front().is_some_and(|(from, to)| *from < end.read || *to == end.read) {
            end.marks.pop_front();
        }
        other.edge |= std::mem::take(&mut other.wants_room);
        Ok(len)
    }

    /// As `recv` of one byte, but nothing is taken; an error is, as the kernel does it.
    pub(super) fn peek(&mut self, side: Side) -> Result<usize, Errno> {
        if self.datagrams {
            return self.next_datagram(side).map(|whole| whole.min(1));
        }
        let unix = self.unix;
        let end = self.end(side);
        if end.inbox.is_empty() { end.recv_nothing(unix) } else { Ok(1) }
    }

    /// Sends at most so many bytes; a datagram is sent whole.
    pub(super) fn send(&mut self, side: Side, bufs: &[IoSlice<'_>], most: usize) -> Result<usize, Errno> {
        if self.datagrams {
            return self.send_datagram(side, bufs);
        }
        let (capacity, unix) = (self.capacity, self.unix);
        let (end, other) = self.both(side);
        // A Unix socket sees at once that its peer is gone, and keeps the error for a read. TCP tells whoever asks.
        if unix && (end.shut || other.closed) {
            return Err(Errno::PIPE);
        }
        if end.connecting {
            return Err(Errno::AGAIN);
        }
        if let Some(errno) = end.error.take() {
            return Err(errno);
        }
        if end.shut || end.dead {
            return Err(Errno::PIPE);
        }
        let wanted = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(most);
        if wanted == 0 {
            return Ok(0);
        }
        if other.closed {
            // TCP learns only by sending: the bytes go out, and an RST comes back.
            end.reset(unix);
            return Ok(wanted);
        }
        let room = capacity.saturating_sub(other.inbox.len());
        if room == 0 {
            end.wants_room = true;
            return Err(Errno::AGAIN);
        }
        other.inbox.extend(bufs.iter().flat_map(|buf| buf.iter()).take(room.min(wanted)));
        other.edge = true;
        Ok(wanted.min(room))
    }

    /// Makes a read of the other end stop behind what was sent so far, the last `len` bytes of which are one message.
    pub(super) fn mark(&mut self, side: Side, len: usize) {
        let (_, other) = self.both(side);
        if !other.inbox.is_empty() {
            let to = other.read + other.inbox.len() as u64;
            other.marks.push_back((to - len as u64, to));
        }
        other.edge = true;
    }

    pub(super) fn shutdown_write(&mut self, side: Side) -> Result<(), Errno> {
        let (unix, datagrams) = (self.unix, self.datagrams);
        let (end, other) = self.both(side);
        if !unix && end.has_no_peer() {
            return Err(Errno::NOTCONN);
        }
        if !std::mem::replace(&mut end.shut, true) && !datagrams {
            other.finish();
        }
        Ok(())
    }

    pub(super) fn close(&mut self, side: Side) {
        if self.datagrams {
            return self.close_datagrams(side);
        }
        let unix = self.unix;
        let (end, other) = self.both(side);
        end.closed = true;
        end.holder = None;
        let abort = !unix && end.linger == Some(Duration::ZERO);
        // Once both FINs have passed, TCP is done with it and has no RST left to send.
        if (abort || !end.inbox.is_empty()) && (unix || !end.is_finished()) {
            // Unread bytes are lost, and the peer must learn of it: a FIN would say that all was well.
            other.reset(unix);
        } else {
            other.finish();
        }
        // A Unix socket sees its peer's end even after the FIN; TCP has nothing more to see.
        other.edge |= unix;
        end.inbox.clear();
    }

    /// Closes an end that was never accepted: its peer is reset, whatever has passed between them.
    pub(super) fn abandon(&mut self, side: Side) {
        let unix = self.unix;
        let (end, other) = self.both(side);
        end.closed = true;
        other.reset(unix);
    }

    /// Answers the end that has asked for this connection.
    pub(super) fn establish(&mut self, side: Side) {
        let end = self.end(side);
        end.edge |= std::mem::take(&mut end.connecting);
    }

    /// Refuses it, and closes the end that it asked for.
    pub(super) fn refuse(&mut self, side: Side, errno: Errno) {
        let (end, other) = self.both(side);
        other.closed = true;
        if std::mem::take(&mut end.connecting) {
            end.dead = true;
            end.error = Some(errno);
            end.edge = true;
        }
    }

    /// How a connect has come out: the peer's address, EAGAIN for not yet, or why not.
    pub(super) fn connected(&mut self, side: Side) -> Result<Option<SocketAddr>, Errno> {
        let unix = self.unix;
        let (end, other) = self.both(side);
        if !unix && end.has_no_peer() {
            return Err(end.error.take().unwrap_or(Errno::AGAIN));
        }
        Ok(other.addr)
    }

    pub(super) fn kind(&mut self, side: Side) -> Kind {
        let (unix, datagrams) = (self.unix, self.datagrams);
        let end = self.end(side);
        match (datagrams, unix) {
            (true, _) if end.alone => Kind::UnconnectedDatagram,
            (true, _) => Kind::Datagram,
            (false, true) => Kind::UnixStream,
            (false, false) if end.connecting => Kind::UnconnectedStream,
            (false, false) => Kind::TcpStream,
        }
    }

    /// The address of the other end, as long as this one knows it.
    pub(super) fn peer_addr(&mut self, side: Side) -> Option<SocketAddr> {
        let (end, other) = self.both(side);
        other.addr.filter(|_| !end.has_no_peer())
    }

    pub(super) fn mask(&self, side: Side) -> Bits {
        let (end, other) = match side {
            Side::Near => (&self.near, &self.far),
            Side::Far => (&self.far, &self.near),
        };
        if self.datagrams {
            return self.mask_datagrams(end, other);
        }
        if end.connecting {
            return Bits::NONE;
        }
        let mut bits = Bits::NONE;
        if !end.inbox.is_empty() || end.eof || end.dead {
            bits |= Bits::READABLE;
        }
        if end.shut || end.dead || other.closed || other.inbox.len() < self.capacity {
            bits |= Bits::WRITABLE;
        }
        if end.eof || end.dead {
            bits |= Bits::HANGUP;
        }
        if !end.marks.is_empty() && !self.unix {
            bits |= Bits::READABLE | Bits::PRIORITY;
        }
        bits
    }
}

impl End {
    /// What an empty inbox means. After a FIN TCP says that it is the end, even if an RST followed, and keeps the
    /// error for a send; a Unix socket tells the error first.
    fn recv_nothing(&mut self, unix: bool) -> Result<usize, Errno> {
        if self.eof && !unix {
            return Ok(0);
        }
        match self.error.take() {
            Some(errno) => Err(errno),
            None if self.dead || self.eof => Ok(0),
            None => Err(Errno::AGAIN),
        }
    }

    /// It has none yet, or none any more.
    pub(super) fn has_no_peer(&self) -> bool {
        self.connecting || self.alone || self.dead || self.is_finished()
    }

    /// Bytes to the mark at which a read stops.
    pub(super) fn to_mark(&self) -> usize {
        self.marks.front().map_or(usize::MAX, |(_, to)| usize::try_from(to - self.read).unwrap_or(usize::MAX))
    }

    /// Both FINs have passed.
    fn is_finished(&self) -> bool {
        self.shut && self.eof
    }

    /// A FIN arrives.
    fn finish(&mut self) {
        if !self.closed && !self.dead && !std::mem::replace(&mut self.eof, true) {
            self.edge = true;
        }
    }

    /// An RST arrives.
    pub(super) fn reset(&mut self, unix: bool) {
        if self.closed || std::mem::replace(&mut self.dead, true) {
            return;
        }
        // TCP: whoever has seen the FIN already was told the truth; only its sends were in vain.
        self.error = Some(if self.eof && !unix { Errno::PIPE } else { Errno::CONNRESET });
        self.wants_room = false;
        self.edge = true;
    }
}
