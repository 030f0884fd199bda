//! The far end of a connection, in a test's hand.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::Errno;
use super::connection::{Connection, Side};
use super::faults::Fault;
use super::state::EndId;
use super::world::Shared;

/// The far end of a connection. Its drop is a close.
///
/// Nothing here blocks, but [`Peer::recv_blocking`]. `pending_first` does not apply: it is a test of the near end.
pub struct Peer {
    shared: Arc<Shared>,
    end: EndId,
    deaf: bool,
}

impl Peer {
    pub(super) fn new(shared: &Arc<Shared>, (end, deaf): (EndId, bool)) -> Self {
        Self { shared: Arc::clone(shared), end, deaf }
    }

    fn act<R>(&self, act: impl FnOnce(&mut Connection, Side) -> R) -> R {
        self.shared.call(|state| state.on_end(self.end, act))
    }

    /// Its own address; none of a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.act(|connection, side| connection.end(side).addr)
    }

    /// That of the other end; none of a Unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.act(|connection, side| connection.both(side).1.addr)
    }

    /// Sends as much as there is room for, and says how much that was. Of datagrams: one, whole or not at all.
    ///
    /// # Errors
    ///
    /// `WouldBlock` without room; `BrokenPipe` or `ConnectionReset` when nobody reads any more.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.act(|connection, side| connection.send(side, &[IoSlice::new(bytes)], usize::MAX))?)
    }

    /// Receives what is there; 0 is the end. Of datagrams: the next, cut if there is no room, and 0 is an empty one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is nothing; `ConnectionReset` once after a reset, `ConnectionRefused` once after a UDP send
    /// to the closed.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let len = self.shared.call(|state| {
            if self.deaf && state.may_befall(Fault::DeafPeer) {
                return Err(Errno::AGAIN);
            }
            state.on_end(self.end, |connection, side| connection.recv(side, buf.len(), &mut bytes))
        })?;
        buf[..len].copy_from_slice(&bytes);
        Ok(len)
    }

    /// Receives what is there, and waits for it if need be. For tests in which another thread runs the loop; under
    /// loom, waiting costs far fewer executions than asking again and again.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` once after a reset.
    pub fn recv_blocking(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let mut state = self.shared.lock();
        let len = loop {
            match state.on_end(self.end, |connection, side| connection.recv(side, buf.len(), &mut bytes)) {
                Err(Errno::AGAIN) => state = self.shared.wait_change(state),
                answer => break answer,
            }
        };
        // Reading may have made room: whoever waits for it must hear of it.
        self.shared.release(state);
        let len = len?;
        buf[..len].copy_from_slice(&bytes);
        Ok(len)
    }

    /// Sends bytes with a descriptor attached, as SCM_RIGHTS does: a read of them stops behind the last one.
    ///
    /// # Errors
    ///
    /// As [`Peer::send`].
    pub fn send_with_descriptor(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.act(|connection, side| {
            let len = connection.send(side, &[IoSlice::new(bytes)], usize::MAX)?;
            connection.mark(side, len);
            Ok::<_, Errno>(len)
        })?)
    }

    /// Sends an urgent byte, as MSG_OOB does: a read stops in front of it, and the byte itself is passed over.
    pub fn send_urgent(&self) {
        self.act(|connection, side| connection.mark(side, 0));
    }

    /// Sends the FIN. What comes can still be read.
    ///
    /// # Errors
    ///
    /// `NotConnected` after a reset.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(self.act(Connection::shutdown_write)?)
    }

    /// Closes: a FIN, or an RST if something was left unread.
    pub fn close(self) {}

    /// Closes with an RST.
    pub fn reset(self) {
        self.act(|connection, side| connection.end(side).linger = Some(Duration::ZERO));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.drop_call(|state| state.close_end(self.end));
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}
