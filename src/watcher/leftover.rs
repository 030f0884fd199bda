//! Bytes that came with a socket: read before it was delegated, and given to the reads that come first.
//!
//! They are kept beside the session, by its token, since few sessions have any. While there are some the session is
//! readable; what is left when it leaves the loop goes with it (`Detached`).

use bytes::Buf;

use crate::event_loop::session::Flags;
use crate::watcher::batch::Stored;
use crate::watcher::body::Body;
use crate::watcher::flow::Tried;
use crate::watcher::outcome::Outcome;
use crate::watcher::pool::Class;
use crate::watcher::proactor::Proactor;
use crate::watcher::turn::Turn;

impl<C> Proactor<C> {
    /// Serves a read from the bytes that came with the socket, before any that the kernel has.
    #[cold]
    pub(crate) fn read_leftover(&mut self, turn: &mut Turn<'_>) -> Tried {
        let token = turn.key.token();
        let Some(pending) = self.ops.head(&turn.session.state.read) else { return Tried::Waits };
        let Some(leftover) = self.leftovers.get_mut(&token) else { return Tried::Waits };
        let most = leftover.len().min(turn.budget.bytes);
        let (n, stored): (_, Option<Stored>) = match &mut pending.body {
            Body::Read(buffer) => {
                let n = most.min(buffer.capacity());
                buffer.extend_from_slice(&leftover[..n]);
                (n, Some(Outcome::Read(std::mem::take(buffer)).into()))
            }
            Body::ReadExact(buffer, whole) => {
                let n = most.min(*whole - pending.done);
                buffer.extend_from_slice(&leftover[..n]);
                pending.done += n;
                (n, (pending.done == *whole).then(|| Outcome::Read(std::mem::take(buffer)).into()))
            }
            Body::ReadPooled => {
                let counters = &self.shared.counters;
                let Some(place) = self.starving.comes_up(turn.session, turn.key, counters) else { return Tried::Waits };
                let Some(room) = self.outbox.filling().arena.room(self.limits.read_cap) else {
                    self.starving.starve(turn.session, turn.key, place, counters);
                    return Tried::Waits;
                };
                let n = most.min(room.len());
                room[..n].copy_from_slice(&leftover[..n]);
                (n, Some(self.outbox.filling().arena.keep(n)))
            }
            Body::ReadLeased => {
                let mut lease = self.stash.draw(Class::Small);
                let n = most.min(lease.size());
                lease.replace(&leftover[..n]);
                (n, Some(Outcome::Leased(lease).into()))
            }
            _ => (0, Some(Outcome::Readable.into())),
        };
        leftover.advance(n);
        if leftover.is_empty() {
            if let Some(leftover) = self.leftovers.remove(&token) {
                self.spent.push(leftover);
            }
            turn.session.clear(Flags::LEFTOVER);
        }
        if let Some(stored) = stored {
            return self.finish_read(turn, n, stored);
        }
        turn.budget.moved(n);
        if turn.budget.bytes == 0 { Tried::Spent } else { self.try_read(turn) }
    }
}
