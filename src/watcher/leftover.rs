//! Bytes that came with a socket: read before it was delegated, and given to the reads that come first.
//!
//! They are kept beside the session, by its token, since few sessions have any. While there are some the session is
//! readable; what is left when it leaves the loop goes with it (`Detached`).

use crate::event_loop::session::Flags;
use crate::watcher::batch::Stored;
use crate::watcher::body::Body;
use crate::watcher::flow::{Tried, Turn};
use crate::watcher::lease::Class;
use crate::watcher::proactor::Proactor;

impl<C> Proactor<C> {
    /// Serves a read from the bytes that came with the socket, before any that the kernel has.
    #[cold]
    pub(crate) fn read_leftover(&mut self, turn: &mut Turn<'_>) -> Tried {
        let token = turn.key.token();
        let Some(pending) = self.ops.head(&turn.session.state.read) else { return Tried::Waits };
        let Some(leftover) = self.leftovers.get_mut(&token) else { return Tried::Waits };
        let stored = match &mut pending.body {
            Body::Read(buffer) => {
                let piece = leftover.split_to(leftover.len().min(buffer.capacity()));
                buffer.extend_from_slice(&piece);
                Some(Stored::Read(std::mem::take(buffer)))
            }
            Body::ReadExact(buffer, n) => {
                let piece = leftover.split_to(leftover.len().min(*n - pending.done));
                buffer.extend_from_slice(&piece);
                pending.done += piece.len();
                (pending.done == *n).then(|| Stored::Read(std::mem::take(buffer)))
            }
            Body::ReadPooled => {
                let Some(room) = self.outbox.filling().arena.room(self.limits.read_cap) else {
                    self.starve(turn.session, turn.key);
                    return Tried::Waits;
                };
                let piece = leftover.split_to(leftover.len().min(room.len()));
                room[..piece.len()].copy_from_slice(&piece);
                Some(self.outbox.filling().arena.keep(piece.len()))
            }
            Body::ReadLeased => {
                let mut lease = self.stash.draw(Class::Small);
                let piece = leftover.split_to(leftover.len().min(lease.size()));
                lease.space()[..piece.len()].copy_from_slice(&piece);
                lease.keep(piece.len());
                Some(Stored::Leased(lease))
            }
            _ => Some(Stored::Readable),
        };
        if leftover.is_empty() {
            self.leftovers.remove(&token);
            turn.session.clear(Flags::LEFTOVER);
        }
        match stored {
            Some(stored) => self.finish_read(turn, 0, stored),
            None => self.try_read(turn),
        }
    }
}
