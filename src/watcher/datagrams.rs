//! Messages in motion: reads and writes of a datagram socket.
//!
//! ```text
//! write:   head ──one send──► all of it is out: completed, or relinked as the read
//!                    ├── EAGAIN, no memory ──► waits, whole
//!                    └── error ──► this one fails; the next is tried as if nothing had been (nothing is torn: I11)
//! read:    head ──one receive──► completed, with 0 bytes, too
//!                    ├── its end found no room ──► `Truncated`, with what did fit
//!                    ├── EAGAIN ──► waits for an edge (I9)
//!                    └── error ──► this one fails, once
//! ```
//!
//! What has no room when it is received is lost. So memory of the loop's choosing is of the largest size that one read
//! may bring ([`Limits::read_cap`](crate::Limits::read_cap)), unless the next message is known to need less.

use std::io::IoSlice;

use crate::error::OpError;
use crate::event_loop::session::Verb;
use crate::sys::{Datagram, Errno, MAX_SLICES};
use crate::watcher::body::Body;
use crate::watcher::flow::Tried;
use crate::watcher::outcome::{Failure, Half, Outcome, Payload};
use crate::watcher::pool::{Class, SMALL};
use crate::watcher::proactor::Proactor;
use crate::watcher::turn::Turn;

impl<C> Proactor<C> {
    /// Sends the message at the head, all or nothing. `None`: it is out, and to be completed.
    pub(crate) fn send_datagram(&mut self, turn: &mut Turn<'_>) -> Option<Tried> {
        let Some(pending) = self.ops.head(&turn.session.state.write) else { return Some(Tried::Waits) };
        if !pending.body.is_write() {
            return Some(Tried::Waits); // An end of the session: `advance_close` sees to it.
        }
        if turn.budget.is_spent() {
            return Some(Tried::Spent);
        }
        let verb = match &pending.body {
            // Half of a message is none: pieces that are too many for one send are put together first.
            Body::WriteMany { pieces, .. } if pieces.iter().filter(|piece| !piece.is_empty()).count() > MAX_SLICES => {
                turn.session.send_datagram(&[IoSlice::new(&pieces.concat())])
            }
            body @ Body::WriteMany { .. } => turn.session.send_datagram(&body.slices(usize::MAX)),
            body => turn.session.send_datagram(&[IoSlice::new(body.bytes())]),
        };
        match verb {
            Verb::Pending => return Some(Tried::Waits),
            Verb::Failed(Errno::NOBUFS | Errno::NOMEM) => {
                turn.session.retry_soon(turn.key.token(), turn.timers);
                return Some(Tried::Waits);
            }
            Verb::Failed(errno) => {
                self.fail_write(turn, OpError::Os(errno.into()));
                return Some(Tried::Gone);
            }
            Verb::Moved(_) | Verb::Eof => {}
        }
        pending.done = pending.body.len();
        pending.body.advance(pending.done);
        turn.budget.moved(pending.done);
        None
    }

    /// Receives one message for the read at the head.
    pub(crate) fn read_datagram(&mut self, turn: &mut Turn<'_>) -> Tried {
        let Some(pending) = self.ops.head(&turn.session.state.read) else { return Tried::Waits };
        match &mut pending.body {
            Body::ReadLeased => self.lease_datagram(turn),
            Body::ReadPooled => self.pool_datagram(turn),
            Body::Read(buffer) => {
                let datagram = match turn.session.recv_datagram_vec(buffer) {
                    Ok(datagram) => datagram,
                    Err(verb) => return self.not_bytes(turn, verb),
                };
                let bytes = std::mem::take(buffer);
                if datagram.is_cut() {
                    return self.cut_off(turn, datagram, Payload::Vec(bytes));
                }
                self.finish_read(turn, datagram.len, Outcome::Read(bytes))
            }
            // `Readable`: an exact read was refused when it was submitted. An error is told once, and this look has taken it.
            _ => match turn.session.next_datagram() {
                Ok(_) => self.finish_read(turn, 0, Outcome::Readable),
                Err(verb) => self.not_bytes(turn, verb),
            },
        }
    }

    /// Completes a read whose message was larger than its room: as failed, so that nobody takes it for the whole.
    #[cold]
    fn cut_off(&mut self, turn: &mut Turn<'_>, datagram: Datagram, buffer: Payload) -> Tried {
        let Datagram { len, whole } = datagram;
        let error = OpError::Truncated { whole };
        let failure = Failure { error, half: Half::Read, transferred: len, buffer: Some(buffer) };
        self.finish_read(turn, len, Outcome::Failed(Box::new(failure)))
    }

    fn lease_datagram(&mut self, turn: &mut Turn<'_>) -> Tried {
        // Asking for the length first would be a system call per message. A large lease has room for all that may come,
        // and what fits into a small one is copied there: few messages are large, and few large leases are kept.
        let mut lease = self.stash.draw(Class::Large);
        let datagram = match turn.session.recv_datagram_vec(lease.vec()) {
            Ok(datagram) => datagram,
            Err(verb) => {
                self.stash.give(lease);
                return self.not_bytes(turn, verb);
            }
        };
        if datagram.is_cut() {
            return self.cut_off(turn, datagram, Payload::Lease(lease));
        }
        if datagram.len <= SMALL && lease.size() > SMALL {
            let mut small = self.stash.draw(Class::Small);
            small.replace(&lease);
            self.stash.give(std::mem::replace(&mut lease, small));
        }
        self.finish_read(turn, datagram.len, Outcome::Leased(lease))
    }

    fn pool_datagram(&mut self, turn: &mut Turn<'_>) -> Tried {
        let cap = self.limits.read_cap;
        let counters = &self.shared.counters;
        let Some(place) = self.starving.comes_up(turn.session, turn.key, counters) else { return Tried::Waits };
        let (room, short) = self.outbox.filling().arena.rest(cap);
        if short {
            // Not room for any message: is there for this one? If not, there is more of it in the next arena.
            match turn.session.next_datagram() {
                Ok(whole) if whole <= room.len() && !room.is_empty() => {}
                Ok(_) => {
                    self.starving.starve(turn.session, turn.key, place, counters);
                    return Tried::Waits;
                }
                Err(verb) => return self.not_bytes(turn, verb),
            }
        }
        match turn.session.recv_datagram_slice(room) {
            Ok(datagram) if datagram.is_cut() => {
                // Larger than any arena or the cap allows. A failure does not borrow from the batch: its bytes move out.
                let mut lease = self.stash.draw(Class::Large);
                lease.replace(&room[..datagram.len]);
                self.cut_off(turn, datagram, Payload::Lease(lease))
            }
            Ok(datagram) => {
                let bytes = self.outbox.filling().arena.keep(datagram.len);
                self.finish_read(turn, datagram.len, bytes)
            }
            Err(verb) => self.not_bytes(turn, verb),
        }
    }
}

#[cfg(all(test, gaio_sim, not(loom)))]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::sys::sim::World;
    use crate::watcher::{EmbeddedWatcher, Event, Options, Outcome};

    /// A message that fits into a small lease comes in one: who keeps it does not keep what might have come.
    #[test]
    fn a_message_comes_in_a_lease_of_its_size() {
        let world = World::enter();
        world.configure(|config| config.buffer = 1 << 20);
        for (cap, small) in [(4 * SMALL, SMALL), (SMALL, SMALL), (100, 100)] {
            let limits = Limits { read_cap: cap, ..Limits::default() };
            let (mut watcher, submitter) = EmbeddedWatcher::<()>::new(Options::default().limits(limits)).unwrap();
            let (socket, peer) = world.unix_datagram_pair();
            let conn = submitter.delegate(socket).unwrap();
            for len in [0, 1, small - 1, small, small + 1, cap, 3].into_iter().filter(|len| *len <= cap) {
                peer.send(&vec![7; len]).unwrap();
                conn.read_leased().submit().unwrap();
                let lease = loop {
                    if let Some(Event::Done { outcome: Outcome::Leased(lease), .. }) =
                        watcher.turn(None).unwrap().next()
                    {
                        break lease;
                    }
                };
                let size = if len <= small { small } else { cap };
                assert_eq!((lease.len(), lease.size()), (len, size), "with at most {cap}");
            }
        }
    }
}
