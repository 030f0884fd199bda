//! The simulated socket and its verbs.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Connecting, Datagram, Errno, Inspected, Kind, ListenOptions, MAX_SLICES, StreamOptions};
use super::connection::{Connection, Side};
use super::permit::Verb;
use super::state::{Descriptor, Object};
use super::world::{Shared, World};

/// One owned descriptor of a simulated system, closed by its drop. A [`World`] makes it: connected, or listening.
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
        let _ = self.on_connection(|connection, side| connection.end(side).linger = linger);
    }

    pub(super) fn on_connection<R>(&self, act: impl FnOnce(&mut Connection, Side) -> R) -> Result<R, Errno> {
        self.shared.call(|state| state.on_connection(self.descriptor, act))
    }

    /// Like `on_connection`, for what the world may answer in the connection's place, or cut down to so many bytes.
    fn attempt<R: fmt::Debug>(
        &self,
        verb: Verb,
        wanted: usize,
        act: impl FnOnce(&mut Connection, Side, usize) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.shared.call(|state| {
            state.attempt(verb, Some(self.descriptor), wanted, |state, most| {
                state.on_connection(self.descriptor, |connection, side| act(connection, side, most))?
            })
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
    socket.attempt(Verb::Recv, room, |connection, side, room| connection.recv(side, room, buf))
}

pub(crate) fn recv_slice(socket: &Socket, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut bytes = Vec::with_capacity(buf.len());
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    let len =
        socket.attempt(Verb::Recv, buf.len(), |connection, side, room| connection.recv(side, room, &mut bytes))?;
    buf[..len].copy_from_slice(&bytes);
    Ok(len)
}

pub(crate) fn recv_datagram_vec(socket: &Socket, buf: &mut Vec<u8>) -> Result<Datagram, Errno> {
    let room = buf.capacity() - buf.len();
    if room == 0 {
        return Err(Errno::INVAL);
    }
    socket.attempt(Verb::Recv, room, |connection, side, room| connection.recv_datagram(side, room, buf))
}

pub(crate) fn recv_datagram_slice(socket: &Socket, buf: &mut [u8]) -> Result<Datagram, Errno> {
    let mut bytes = Vec::with_capacity(buf.len());
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    let take = |connection: &mut Connection, side, room| connection.recv_datagram(side, room, &mut bytes);
    let datagram = socket.attempt(Verb::Recv, buf.len(), take)?;
    buf[..datagram.len].copy_from_slice(&bytes);
    Ok(datagram)
}

pub(crate) fn next_datagram(socket: &Socket) -> Result<usize, Errno> {
    socket.attempt(Verb::Peek, 1, |connection, side, _| connection.next_datagram(side))
}

pub(crate) fn peek(socket: &Socket) -> Result<usize, Errno> {
    socket.attempt(Verb::Peek, 1, |connection, side, _| connection.peek(side))
}

pub(crate) fn send(socket: &Socket, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
    if bufs.len() > MAX_SLICES {
        return Err(Errno::MSGSIZE);
    }
    let wanted = bufs.iter().map(|buf| buf.len()).sum();
    socket.attempt(Verb::Send, wanted, |connection, side, most| connection.send(side, bufs, most))
}

pub(crate) fn shutdown_write(socket: &Socket) -> Result<(), Errno> {
    socket.on_connection(Connection::shutdown_write)?
}

pub(crate) fn reset_on_close(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO));
}

pub(crate) fn set_nodelay(socket: &Socket, on: bool) -> Result<(), Errno> {
    socket.on_connection(|connection, side| {
        if connection.unix || connection.datagrams {
            return Err(Errno::OPNOTSUPP);
        }
        connection.end(side).options.nodelay = on;
        Ok(())
    })?
}

pub(crate) fn peer_addr(socket: &Socket) -> Option<SocketAddr> {
    socket.on_connection(Connection::peer_addr).ok().flatten()
}

pub(crate) fn local_addr(socket: &Socket) -> Option<SocketAddr> {
    socket.shared.call(|state| match state.object(socket.descriptor) {
        Object::Listener(listener) => listener.name.ip(),
        Object::End(end) => {
            let end = *end;
            state.on_end(end, |connection, side| connection.end(side).addr)
        }
        _ => None,
    })
}

fn inspect(socket: &Socket) -> Inspected {
    let (kind, peer) = socket.shared.call(|state| match state.object(socket.descriptor) {
        Object::Listener(listener) if listener.name.ip().is_some() => (Kind::TcpListener, None),
        Object::Listener(_) => (Kind::UnixListener, None),
        Object::End(end) => {
            let end = *end;
            state.on_end(end, |connection, side| (connection.kind(side), connection.peer_addr(side)))
        }
        _ => (Kind::Other("not a socket"), None),
    });
    Inspected { kind, linger: None, peer }
}

#[allow(clippy::unnecessary_wraps, reason = "the contract: a kernel may refuse")]
pub(crate) fn adopt(socket: &Socket) -> Result<Inspected, Errno> {
    let mut inspected = inspect(socket);
    if matches!(inspected.kind, Kind::TcpStream | Kind::UnixStream | Kind::Datagram) {
        let positive = |linger: &mut Duration| !linger.is_zero();
        inspected.linger = socket.on_connection(|connection, side| connection.end(side).linger.take_if(positive))?;
    }
    Ok(inspected)
}

#[allow(clippy::unnecessary_wraps, reason = "the contract: a kernel may refuse")]
pub(crate) fn linger_off(socket: &Socket) -> Result<(), Errno> {
    socket.set_linger(None);
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "the contract: a kernel may refuse")]
pub(crate) fn adopt_listener(socket: &Socket) -> Result<Inspected, Errno> {
    Ok(inspect(socket))
}

pub(crate) fn accept(listener: &Socket) -> Result<(Socket, Option<SocketAddr>), Errno> {
    let (descriptor, peer) = listener.shared.call(|state| {
        state.attempt(Verb::Accept, Some(listener.descriptor), 1, |state, _| state.accept(listener.descriptor))
    })?;
    Ok((Socket::new(&listener.shared, descriptor), peer))
}

pub(crate) fn listen_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let (shared, descriptor) = World::open(|state| state.listen_tcp(addr, options))?;
    Ok(Socket { shared, descriptor })
}

pub(crate) fn listen_unix(path: &Path, options: &ListenOptions) -> io::Result<Socket> {
    let (shared, descriptor) = World::open(|state| state.listen_unix(path, options))?;
    Ok(Socket { shared, descriptor })
}

pub(crate) fn connect_tcp(addr: SocketAddr, options: &StreamOptions) -> Result<(Socket, Connecting), Errno> {
    let (shared, (descriptor, connecting)) =
        World::open(|state| state.attempt(Verb::Connect, None, 1, |state, _| state.connect_tcp(addr, options)))?;
    Ok((Socket { shared, descriptor }, connecting))
}

pub(crate) fn connect_unix(path: &Path, options: &StreamOptions) -> Result<Socket, Errno> {
    let (shared, descriptor) =
        World::open(|state| state.attempt(Verb::Connect, None, 1, |state, _| state.connect_unix(path, options)))?;
    Ok(Socket { shared, descriptor })
}

pub(crate) fn connected(socket: &Socket) -> Result<Option<SocketAddr>, Errno> {
    socket.attempt(Verb::Connected, 1, |connection, side, _| connection.connected(side))
}

pub(crate) fn so_error(socket: &Socket) -> Result<(), Errno> {
    socket.on_connection(|connection, side| connection.end(side).error.take().map_or(Ok(()), Err))?
}

pub(crate) fn apply_buffers(socket: &Socket, options: &StreamOptions) -> Result<(), Errno> {
    socket.on_connection(|connection, side| {
        let own = &mut connection.end(side).options;
        own.recv_buffer = options.recv_buffer.or(own.recv_buffer);
        own.send_buffer = options.send_buffer.or(own.send_buffer);
    })
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
