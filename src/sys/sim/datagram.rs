//! Datagrams between two ends: whole messages, no end, no reset.
//!
//! | | Unix | UDP |
//! |---|---|---|
//! | the other end is full | EAGAIN, and room is an edge | the message is lost |
//! | the other end is closed | ECONNREFUSED at once; what was unread is lost; from then on ENOTCONN | it goes out, and ECONNREFUSED comes back: an edge, told to the next call of any sort, once, in front of what is unread |
//! | the other end closes | nothing | nothing |
//! | more than ever fits | EMSGSIZE | EMSGSIZE |

use std::io::IoSlice;

use super::super::{Bits, Datagram, Errno};
use super::connection::{Connection, End, Side};

/// What fits into one UDP datagram over IPv4.
const MAX_UDP: usize = 65_507;

impl Connection {
    pub(super) fn recv_datagram(&mut self, side: Side, room: usize, out: &mut Vec<u8>) -> Result<Datagram, Errno> {
        let whole = self.next_datagram(side)?;
        let (end, other) = self.both(side);
        end.lengths.pop_front();
        let len = room.min(whole);
        out.extend(end.inbox.drain(..whole).take(len));
        other.edge |= std::mem::take(&mut other.wants_room);
        Ok(Datagram { len, whole })
    }

    /// The length of the next message, which stays.
    pub(super) fn next_datagram(&mut self, side: Side) -> Result<usize, Errno> {
        assert!(self.datagrams, "a receive of datagrams on a stream: a kernel would throw its bytes away");
        let end = self.end(side);
        if let Some(errno) = end.error.take() {
            return Err(errno);
        }
        end.lengths.front().copied().ok_or(Errno::AGAIN)
    }

    pub(super) fn send_datagram(&mut self, side: Side, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let (capacity, unix) = (self.capacity, self.unix);
        let (end, other) = self.both(side);
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        if end.alone {
            return Err(Errno::NOTCONN);
        }
        if len > if unix { capacity } else { MAX_UDP } {
            return Err(Errno::MSGSIZE);
        }
        if let Some(errno) = end.error.take() {
            return Err(errno);
        }
        if end.shut {
            return Err(Errno::PIPE);
        }
        if other.closed {
            return if unix { Err(end.lose_peer()) } else { Ok(end.be_refused(len)) };
        }
        if other.has_room(len, capacity) {
            other.inbox.extend(bufs.iter().flat_map(|buf| buf.iter()));
            other.lengths.push_back(len);
            other.edge = true;
        } else if unix {
            end.wants_room = true;
            return Err(Errno::AGAIN);
        }
        Ok(len)
    }

    pub(super) fn close_datagrams(&mut self, side: Side) {
        let (end, other) = self.both(side);
        end.closed = true;
        end.holder = None;
        end.inbox.clear();
        end.lengths.clear();
        // The messages are gone, and with them what they took up; that is all there is to be seen.
        other.edge |= std::mem::take(&mut other.wants_room);
    }

    pub(super) fn mask_datagrams(&self, end: &End, other: &End) -> Bits {
        let mut bits = Bits::NONE;
        if !end.lengths.is_empty() {
            bits |= Bits::READABLE;
        }
        if !self.unix || other.closed || other.has_room(1, self.capacity) {
            bits |= Bits::WRITABLE;
        }
        if end.error.is_some() {
            bits |= Bits::READABLE | Bits::WRITABLE | Bits::HANGUP;
        }
        bits
    }
}

impl End {
    /// Each message takes up a little more than its bytes, so that empty ones cannot be without number.
    fn has_room(&self, len: usize, capacity: usize) -> bool {
        self.lengths.is_empty() || self.inbox.len() + self.lengths.len() + len <= capacity
    }

    /// A Unix socket finds its peer dead.
    fn lose_peer(&mut self) -> Errno {
        self.alone = true;
        self.inbox.clear();
        self.lengths.clear();
        Errno::CONNREFUSED
    }

    /// UDP: the message has gone out, and the answer is that nobody is there.
    fn be_refused(&mut self, len: usize) -> usize {
        self.error = Some(Errno::CONNREFUSED);
        self.edge = true;
        len
    }
}
