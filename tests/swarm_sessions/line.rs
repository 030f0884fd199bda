//! One connection from both sides: what the peer has said and seen, what sessions have heard and written.

use std::net::SocketAddr;

use bytes::Bytes;
use gaio::sim::{Dice, Peer, Socket};

use crate::spec::{Spec, noise};

/// How the peer saw the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) index: usize,
    pub(crate) unix: bool,
    /// The other side, while it is in the test's hand.
    pub(crate) peer: Option<Peer>,
    /// It was, or is to be, from the first byte on. (Not so where a session has connected to a listener of its own loop.)
    pub(crate) tracked: bool,
    /// The peer's name, where a listener has to be told.
    pub(crate) name: Option<SocketAddr>,
    /// What the peer has sent, how much of it was consumed as frames, and what it has yet to say.
    pub(crate) sent: Vec<u8>,
    pub(crate) heard: usize,
    pub(crate) to_say: Vec<u8>,
    pub(crate) peer_ended: bool,
    pub(crate) peer_gone: bool,
    /// What sessions have written, and what the peer has seen of it.
    pub(crate) written: Vec<u8>,
    seen: Vec<u8>,
    pub(crate) end_seen: Option<End>,
    peer_told: bool,
    /// A session has ended the sending side.
    pub(crate) shut: bool,
    /// The most that the peer takes at once; 0: nothing, while things are not calm.
    pub(crate) appetite: usize,
    /// Out of the loop, with what was not consumed; and in it once more.
    pub(crate) detached: Option<(Socket, Bytes)>,
    pub(crate) again: bool,
    /// A connect that is bound to fail.
    pub(crate) refused: bool,
    /// Its last session has ended, with all its output handed to the system.
    pub(crate) whole: bool,
    /// The session on it.
    pub(crate) actor: Option<usize>,
}

/// The byte that sessions write at this place.
pub(crate) fn output(line: usize, at: usize) -> u8 {
    (line.wrapping_mul(97) ^ at.wrapping_mul(151) ^ (at / 256)) as u8
}

impl Line {
    pub(crate) fn new(index: usize, unix: bool, peer: Option<Peer>, appetite: usize) -> Self {
        let name = peer.as_ref().and_then(Peer::local_addr);
        Self {
            index,
            unix,
            tracked: peer.is_some(),
            peer,
            name,
            sent: Vec::new(),
            heard: 0,
            to_say: Vec::new(),
            peer_ended: false,
            peer_gone: false,
            written: Vec::new(),
            seen: Vec::new(),
            end_seen: None,
            peer_told: false,
            shut: false,
            appetite,
            detached: None,
            again: false,
            refused: false,
            whole: false,
            actor: None,
        }
    }

    // --- the peer's side ---

    /// Says a part of what it has to say, which is made up first if it is nothing.
    pub(crate) fn peer_speaks(&mut self, spec: Option<Spec>, dice: &mut Dice, most: usize) {
        let Some(peer) = &self.peer else { return };
        if self.to_say.is_empty() {
            for _ in 0..1 + dice.roll(4) {
                let speech = match spec {
                    Some(spec) => spec.speech(dice, most),
                    None => {
                        let len = 1 + dice.roll(most);
                        noise(dice, len)
                    }
                };
                self.to_say.extend(speech);
            }
        }
        let len = self.to_say.len();
        if len == 0 {
            return;
        }
        let part = if dice.roll(3) == 0 { len } else { 1 + dice.roll(len) };
        match peer.send(&self.to_say[..part]) {
            Ok(sent) => self.sent.extend(self.to_say.drain(..sent)),
            Err(error) => self.peer_told |= error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Says whether anything was there.
    pub(crate) fn peer_receives(&mut self, most: usize) -> bool {
        let Some(peer) = &self.peer else { return false };
        let mut buf = [0; 4_096];
        match peer.recv(&mut buf[..most.min(4_096)]) {
            // A send may have been told of a reset; then a receive is not.
            Ok(0) => self.peer_sees(if self.peer_told { End::Reset } else { End::Clean }),
            Ok(len) => {
                assert_eq!(self.end_seen, None, "line {}: bytes behind the end", self.index);
                let (index, at) = (self.index, self.seen.len());
                self.seen.extend(&buf[..len]);
                let wrong = (at..at + len).find(|at| self.written.get(*at) != self.seen.get(*at));
                let all = self.written.len();
                let near = |bytes: &[u8]| bytes[wrong.unwrap_or(0)..].iter().take(20).copied().collect::<Vec<_>>();
                assert_eq!(
                    wrong,
                    None,
                    "line {index}: of {all} bytes the peer has seen {:?}, for {:?}",
                    near(&self.seen),
                    near(&self.written)
                );
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

    // --- the session's side ---

    /// What was sent and is not consumed.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.sent[self.heard..]
    }

    pub(crate) fn has_written(&mut self, bytes: &[u8]) {
        if !self.shut {
            self.written.extend(bytes);
        }
    }

    // --- at the end ---

    /// All sessions have ended, and all sockets are closed.
    pub(crate) fn check_output(&mut self) {
        if self.peer.is_none() || !self.tracked {
            return;
        }
        while self.peer_receives(4096) {}
        let (index, all) = (self.index, self.seen.len() == self.written.len());
        assert!(self.end_seen.is_some(), "line {index}: the peer is not told of the end");
        let (seen, written) = (self.seen.len(), self.written.len());
        assert!(all || !self.whole, "line {index}: a graceful end after {seen} of {written} bytes");
        let clean = self.end_seen == Some(End::Clean) && !self.unix;
        assert!(all || !clean, "line {index}: a clean end after {seen} of {written} bytes");
    }
}
