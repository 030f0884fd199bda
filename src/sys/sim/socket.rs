//! The simulated socket and its verbs.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Errno, Inspected, Kind, MAX_SLICES};
use super::connection::{Connection, Side};
use super::state::{Descriptor, Direction, Object};
use super::world::{Shared, World};

/// One owned descriptor of a simulated system, closed by its drop.
pub struct Socket {
    shared: Arc<Shared>,
    pub(super) descriptor: Descriptor,
}

impl Socket {
    pub(super) fn new(shared: &Arc<Shared>, descriptor: Descriptor) -> Self {
        Self { shared: Arc::clone(shared), descriptor }
    }

    /// Its number: the lowest that was free.
    #[must_use]
    pub fn number(&self) -> usize {
        self.descriptor
    }

    /// Sets SO_LINGER, as a user may have done before the delegation.
    pub fn set_linger(&self, linger: Option<Duration>) {
        let _ = self.on_stream(|connection, side| connection.end(side).linger = linger);
    }

    fn on_stream<R>(&self, act: impl FnOnce(&mut Connection, Side) -> R) -> Result<R, Errno> {
        self.shared.call(|state| state.on_stream(self.descriptor, act))
    }

    /// Like `on_stream`, for what may be answered EAGAIN.
    fn attempt<R>(
        &self,
        direction: Direction,
        act: impl FnOnce(&mut Connection, Side) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.shared.call(|state| {
            if state.holds_back(self.descriptor, direction) {
                return Err(Errno::AGAIN);
            }
            state.on_stream(self.descriptor, act)?
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shared.close(self.descriptor);
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

pub(crate) fn recv_vec(socket: &Socket, buf: &mut Vec<u8>) -> Result<usize, Errno> {
    let room = buf.capacity() - buf.len();
    if room == 0 {
        return Err(Errno::INVAL);
    }
    socket.attempt(Direction::In, |connection, side| connection.recv(side, room, buf))
}

pub(crate) fn recv_slice(socket: &Socket, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut bytes = Vec::with_capacity(buf.len());
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    let len = socket.attempt(Direction::In, |connection, side| connection.recv(side, buf.len(), &mut bytes))?;
    buf[..len].copy_from_slice(&bytes);
    Ok(len)
}

pub(crate) fn peek(socket: &Socket) -> Result<usize, Errno> {
    socket.attempt(Direction::In, Connection::peek)
}

pub(crate) fn send(socket: &Socket, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
    if bufs.len() > MAX_SLICES {
        return Err(Errno::MSGSIZE);
    }
    socket.attempt(Direction::Out, |connection, side| connection.send(side, bufs))
}

pub(crate) fn shutdown_write(socket: &Socket) -> Result<(), Errno> {
    socket.on_stream(Connection::shutdown_write)?
}

pub(crate) fn reset_on_close(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO));
}

pub(crate) fn set_nodelay(socket: &Socket, on: bool) -> Result<(), Errno> {
    socket.on_stream(|connection, side| {
        if connection.unix {
            return Err(Errno::OPNOTSUPP);
        }
        connection.end(side).nodelay = on;
        Ok(())
    })?
}

pub(crate) fn peer_addr(socket: &Socket) -> Option<SocketAddr> {
    socket.on_stream(|connection, side| connection.end(side.other()).addr).ok().flatten()
}

pub(crate) fn local_addr(socket: &Socket) -> Option<SocketAddr> {
    socket.shared.call(|state| match state.object(socket.descriptor) {
        Object::Listener { addr, .. } => Some(*addr),
        Object::Stream(end) => {
            let end = *end;
            state.on_end(end, |connection, side| connection.end(side).addr)
        }
        _ => None,
    })
}

pub(crate) fn adopt(socket: &Socket) -> Result<Inspected, Errno> {
    let stream = socket.on_stream(|connection, side| {
        let kind = if connection.unix { Kind::UnixStream } else { Kind::TcpStream };
        let linger = connection.end(side).linger.take_if(|linger| !linger.is_zero());
        Inspected { kind, linger, peer: connection.end(side.other()).addr }
    });
    stream.or_else(|_| adopt_listener(socket))
}

#[allow(clippy::unnecessary_wraps, reason = "the contract: a kernel may refuse")]
pub(crate) fn linger_off(socket: &Socket) -> Result<(), Errno> {
    socket.set_linger(None);
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "the contract: a kernel may refuse")]
pub(crate) fn adopt_listener(socket: &Socket) -> Result<Inspected, Errno> {
    let kind = socket.shared.call(|state| match state.object(socket.descriptor) {
        Object::Listener { .. } => Kind::TcpListener,
        Object::Stream(end) => {
            let end = *end;
            let unix = state.on_end(end, |connection, _| connection.unix);
            if unix { Kind::UnixStream } else { Kind::TcpStream }
        }
        _ => Kind::Other("not a socket"),
    });
    Ok(Inspected { kind, linger: None, peer: None })
}

pub(crate) fn accept(listener: &Socket) -> Result<(Socket, Option<SocketAddr>), Errno> {
    let (descriptor, peer) = listener.shared.call(|state| {
        if state.holds_back(listener.descriptor, Direction::In) {
            return Err(Errno::AGAIN);
        }
        state.accept(listener.descriptor)
    })?;
    Ok((Socket::new(&listener.shared, descriptor), peer))
}

pub(crate) fn listen_tcp(addr: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let limit = usize::try_from(backlog).unwrap_or(0);
    let (shared, (descriptor, _)) = World::open(|state| state.listen(addr, limit))?;
    Ok(Socket { shared, descriptor })
}

/// The descriptor kept back for EMFILE.
pub(crate) struct Reserve {
    shared: Arc<Shared>,
    held: Option<Descriptor>,
}

impl Reserve {
    pub(crate) fn new() -> io::Result<Self> {
        let (shared, descriptor) = World::open(|state| state.open(Object::Reserve))?;
        Ok(Self { shared, held: Some(descriptor) })
    }

    pub(crate) fn release(&mut self) {
        if let Some(descriptor) = self.held.take() {
            self.shared.close(descriptor);
        }
    }

    pub(crate) fn restore(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.shared.call(|state| state.open(Object::Reserve).ok());
        }
        self.held.is_some()
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("held", &self.held).finish_non_exhaustive()
    }
}
