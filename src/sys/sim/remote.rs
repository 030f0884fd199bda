//! The far end of connects, in a test's hand: whether, when and how they are answered.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::Errno;
use super::connection::Connection;
use super::peer::Peer;
use super::state::EndId;
use super::world::Shared;

/// An address to which the code under test may connect. Nothing is answered unless the test does it; the drop refuses
/// all who still wait.
pub struct Remote {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

impl Remote {
    pub(super) fn new(shared: &Arc<Shared>, addr: SocketAddr) -> Self {
        Self { shared: Arc::clone(shared), addr }
    }

    /// Where to connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connect that waits, oldest first.
    #[must_use]
    pub fn attempt(&self) -> Option<Attempt> {
        let end = self.shared.call(|state| state.next_attempt(self.addr))?;
        Some(Attempt { shared: Arc::clone(&self.shared), end: Some(end) })
    }

    /// Like [`Remote::attempt`], but waits for one. For tests in which another thread runs the loop.
    pub fn attempt_blocking(&self) -> Attempt {
        let mut state = self.shared.lock();
        let end = loop {
            match state.next_attempt(self.addr) {
                Some(end) => break end,
                None => state = self.shared.wait_change(state),
            }
        };
        self.shared.release(state);
        Attempt { shared: Arc::clone(&self.shared), end: Some(end) }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.drop_call(|state| state.close_remote(self.addr));
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// One connect that waits for its answer. If this is dropped, it waits for ever.
#[must_use]
pub struct Attempt {
    shared: Arc<Shared>,
    /// The end that was asked for; `None` once it is answered.
    end: Option<EndId>,
}

impl Attempt {
    fn answer(&mut self) -> EndId {
        self.end.take().expect("an attempt is answered once: its answers consume it")
    }

    /// Answers it: the connection stands. If whoever asked has given up, the peer finds it closed.
    pub fn accept(mut self) -> Peer {
        let end = self.answer();
        let peer = self.shared.call(|state| {
            state.on_end(end.other(), Connection::establish);
            state.peer_of(end)
        });
        Peer::new(&self.shared, peer)
    }

    /// Nobody is there.
    pub fn refuse(self) {
        self.fail(io::ErrorKind::ConnectionRefused);
    }

    /// It comes to nothing.
    ///
    /// # Panics
    ///
    /// If `error` is none of `ConnectionRefused`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`.
    pub fn fail(mut self, error: io::ErrorKind) {
        let errno = match error {
            io::ErrorKind::ConnectionRefused => Errno::CONNREFUSED,
            io::ErrorKind::TimedOut => Errno::TIMEDOUT,
            io::ErrorKind::HostUnreachable => Errno::HOSTUNREACH,
            io::ErrorKind::NetworkUnreachable => Errno::NETUNREACH,
            other => panic!("no connect fails with {other:?}"),
        };
        let end = self.answer();
        self.shared.call(|state| state.refuse(end.other(), errno));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // Nothing is sent, and nothing is to be seen.
            self.shared.drop_call(|state| state.end_with(end, |connection, side| connection.end(side).closed = true));
        }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}
