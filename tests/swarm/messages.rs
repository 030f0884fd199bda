//! What must be true of a connection whose reads and writes are messages: each comes whole or, if it found too little room, as
//! its beginning; in the order in which it was sent; to a Unix socket none is lost, while both ends are there.

use gaio::sim::Peer;

use crate::model::{Written, input};

/// More than fits into any.
const LARGEST: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Messages {
    /// A full receiver is waited for.
    pub(crate) lossless: bool,
    /// What the peer has sent, and the first of them that no read has brought.
    sent: Vec<Vec<u8>>,
    read: usize,
    /// What the peer has got.
    seen: Vec<Vec<u8>>,
    /// It was told that nobody is here any more. With that it loses what it has not read.
    peer_lost: bool,
}

impl Messages {
    pub(crate) const fn new(lossless: bool) -> Self {
        Self { lossless, sent: Vec::new(), read: 0, seen: Vec::new(), peer_lost: false }
    }

    pub(crate) fn peer_sends(&mut self, peer: &Peer, line: usize, len: usize) {
        let from = self.sent.len() * 31;
        let message: Vec<u8> = (from..from + len).map(|at| input(line, at)).collect();
        match peer.send(&message) {
            Ok(_) => self.sent.push(message),
            Err(error) => self.peer_lost |= error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Says whether there was one.
    pub(crate) fn peer_receives(&mut self, peer: &Peer) -> bool {
        let mut buf = vec![0; LARGEST];
        let received = peer.recv(&mut buf);
        self.seen.extend(received.iter().map(|len| buf[..*len].to_vec()));
        received.is_ok()
    }

    /// A read has brought this, of a message that was so long.
    pub(crate) fn got(&mut self, bytes: &[u8], whole: usize) {
        let it_is = |message: &Vec<u8>| message.len() == whole && message.starts_with(bytes);
        let at = self.sent[self.read..].iter().position(it_is).expect("a message that the peer has sent");
        assert!(at == 0 || !self.lossless, "{at} messages are lost");
        self.read += at + 1;
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.read < self.sent.len()
    }

    /// Compares what the peer has seen with what went out.
    pub(crate) fn check_output(&self, line: usize, writes: &[Written]) {
        let mut out = writes.iter().filter(|written| written.done.is_some());
        for (n, message) in self.seen.iter().enumerate() {
            let mut skipped = 0;
            let found = out.by_ref().any(|written| {
                skipped += 1;
                written.bytes == *message
            });
            assert!(found, "line {line}: message {n} was not written, or before others");
            assert!(skipped == 1 || !self.lossless, "line {line}: messages are lost in front of {n}");
        }
        assert!(!self.lossless || self.peer_lost || out.next().is_none(), "line {line}: the last messages are lost");
    }
}
