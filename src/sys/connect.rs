//! Connecting: begun by one call, decided by another.
//!
//! ```text
//!                 in progress                  WRITABLE or HANGUP
//!   connect_tcp ───────────────► registered ───────────────────────► connected()
//!        │ done at once                         ▲                      │ EAGAIN: not yet
//!        ▼                                      └──────────────────────┘
//!   a connection                               Ok: a connection; any other error: the attempt has failed
//! ```
//!
//! Nothing here waits, and nothing here resolves a name.

use std::net::SocketAddr;
use std::path::Path;

use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, getpeername, socket_with, sockopt};

use super::epoll::Socket;
use super::net::ip_addr;
use super::{Connecting, Errno, StreamOptions};

/// A stream socket as the loop wants it.
pub(super) fn stream_socket(family: AddressFamily) -> Result<Socket, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

pub(super) fn family_of(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Begins to connect to `addr`. While it is [`Connecting::Pending`] the socket has no edge and no peer; the first edge
/// says that it is decided, and [`connected`] says how.
pub(crate) fn connect_tcp(addr: SocketAddr, options: &StreamOptions) -> Result<(Socket, Connecting), Errno> {
    let socket = stream_socket(family_of(addr))?;
    // Before the connect: the receive buffer decides on the window that the SYN announces.
    apply_tcp(&socket, options)?;
    match rustix::net::connect(&socket, &addr) {
        Ok(()) => Ok((socket, Connecting::Done)),
        // Interrupted, it goes on by itself; a second connect would only answer EALREADY.
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, Connecting::Pending)),
        Err(errno) => Err(errno),
    }
}

/// Connects to the listener at `path`: at once or not at all.
///
/// EAGAIN means that its backlog is full. No edge will tell of room, and the socket is gone: try again after a while.
/// ENOENT: there is no such path. ECONNREFUSED: there is, but nobody listens there any more.
pub(crate) fn connect_unix(path: &Path, options: &StreamOptions) -> Result<Socket, Errno> {
    let addr = SocketAddrUnix::new(path)?;
    let socket = stream_socket(AddressFamily::UNIX)?;
    apply_buffers(&socket, options)?;
    retry_on_intr(|| rustix::net::connect(&socket, &addr))?;
    Ok(socket)
}

/// How a connect that was in progress has come out: the peer's address (`None` for Unix), EAGAIN for not yet, or why
/// it failed, which is told once.
///
/// Any edge is a reason to ask, an ERR or HUP alone as well. A connection costs one syscall, and whatever has happened
/// to it since is left for its first operation to tell.
pub(crate) fn connected(socket: &Socket) -> Result<Option<SocketAddr>, Errno> {
    match getpeername(socket) {
        Ok(peer) => Ok(peer.and_then(ip_addr)),
        Err(Errno::NOTCONN) => so_error(socket).and(Err(Errno::AGAIN)),
        Err(errno) => Err(errno),
    }
}

/// The error that waits on a socket. To ask takes it away: nothing else will tell it.
pub(crate) fn so_error(socket: &Socket) -> Result<(), Errno> {
    sockopt::socket_error(socket)?
}

/// Sets what a TCP socket is to have before it connects or listens. Who accepts inherits it from the listener.
pub(super) fn apply_tcp(socket: &Socket, options: &StreamOptions) -> Result<(), Errno> {
    if options.nodelay {
        sockopt::set_tcp_nodelay(socket, true)?;
    }
    if let Some(idle) = options.keepalive {
        sockopt::set_tcp_keepidle(socket, idle)?;
        sockopt::set_socket_keepalive(socket, true)?;
    }
    apply_buffers(socket, options)
}

/// Sets the sizes of the buffers, as far as they are given. The kernel doubles them, and bounds them by its limits.
pub(crate) fn apply_buffers(socket: &Socket, options: &StreamOptions) -> Result<(), Errno> {
    if let Some(bytes) = options.recv_buffer {
        sockopt::set_socket_recv_buffer_size(socket, bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        sockopt::set_socket_send_buffer_size(socket, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::super::epoll::Selector;
    use super::super::listener::tests::Folder;
    use super::super::net::{local_addr, peer_addr, recv_slice, reset_on_close, send};
    use super::super::{Bits, Readiness};
    use super::*;

    fn options() -> StreamOptions {
        StreamOptions::default()
    }

    /// Connects, registers, and waits until it is decided; with the bits that came.
    fn decided(addr: SocketAddr) -> (Socket, Bits, Result<Option<SocketAddr>, Errno>) {
        let (socket, connecting) = connect_tcp(addr, &options()).unwrap();
        let selector = Selector::new().unwrap();
        selector.register(&socket, 1).unwrap();
        if connecting == Connecting::Done {
            return (socket, Bits::NONE, Ok(Some(addr)));
        }
        let mut out: Vec<Readiness> = Vec::new();
        while out.is_empty() {
            selector.wait(&mut out, None).unwrap();
        }
        let answer = connected(&socket);
        (socket, out[0].bits, answer)
    }

    #[test]
    fn a_connect_is_decided_by_an_edge_and_the_socket_is_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (socket, bits, answer) = decided(addr);
        assert_eq!((bits, answer), (Bits::WRITABLE, Ok(Some(addr))));
        assert!(fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
        assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
        let (theirs, from) = listener.accept().unwrap();
        assert_eq!((Some(from), peer_addr(&socket)), (local_addr(&socket), theirs.local_addr().ok()));
        assert_eq!(send(&socket, &[IoSlice::new(b"hello")]), Ok(5));
        assert_eq!((so_error(&socket), connected(&socket)), (Ok(()), Ok(Some(addr))), "asking twice does no harm");
    }

    #[test]
    fn a_refusal_is_an_edge_both_ways_and_told_once() {
        // Bound, so that nobody else gets the port, and not listening.
        let nobody = stream_socket(AddressFamily::INET).unwrap();
        rustix::net::bind(&nobody, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let (socket, bits, answer) = decided(local_addr(&nobody).unwrap());
        assert_eq!((bits, answer), (Bits::READABLE | Bits::WRITABLE | Bits::HANGUP, Err(Errno::CONNREFUSED)));
        assert_eq!(so_error(&socket), Ok(()));
        assert_eq!(recv_slice(&socket, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn an_attempt_that_is_not_answered_has_no_edge_and_no_outcome() {
        // With room for one connection in its backlog a listener lets further ones wait without an answer.
        let listener = stream_socket(AddressFamily::INET).unwrap();
        rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let addr = local_addr(&listener).unwrap();
        let (_first, _, answer) = decided(addr);
        assert_eq!(answer, Ok(Some(addr)));
        let (second, connecting) = connect_tcp(addr, &options()).unwrap();
        let selector = Selector::new().unwrap();
        selector.register(&second, 1).unwrap();
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        assert_eq!((connecting, out), (Connecting::Pending, vec![]));
        assert_eq!((connected(&second), peer_addr(&second)), (Err(Errno::AGAIN), None));
        assert_eq!(recv_slice(&second, &mut [0; 1]), Err(Errno::AGAIN), "nor do others take it for a connection");
        assert_eq!(send(&second, &[IoSlice::new(b"x")]), Err(Errno::AGAIN));
    }

    #[test]
    fn what_became_of_a_connection_since_is_left_for_its_operations() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (ended, _, answer) = decided(addr);
        assert_eq!(answer, Ok(Some(addr)));
        drop(listener.accept().unwrap());
        assert_eq!(connected(&ended), Ok(Some(addr)), "a peer that has said its all is a peer");
        let (reset, _, _) = decided(addr);
        let theirs = Socket::from(listener.accept().unwrap().0);
        reset_on_close(&theirs);
        drop(theirs);
        let selector = Selector::new().unwrap();
        selector.register(&reset, 1).unwrap();
        let mut out: Vec<Readiness> = Vec::new();
        while !out.iter().any(|event| event.bits.contains(Bits::HANGUP)) {
            selector.wait(&mut out, None).unwrap();
        }
        assert_eq!(connected(&reset), Err(Errno::CONNRESET), "gone before anybody looked");
    }

    #[test]
    fn what_cannot_begin_says_so_at_once() {
        let nowhere = SocketAddr::from(([255, 255, 255, 255], 9));
        assert!(connect_tcp(nowhere, &options()).is_err());
        let too_long = "x".repeat(200);
        assert_eq!(connect_unix(Path::new(&too_long), &options()).err(), Some(Errno::NAMETOOLONG));
        let too_late = StreamOptions { keepalive: Some(Duration::MAX), ..options() };
        assert!(connect_tcp(nowhere, &too_late).is_err());
    }

    #[test]
    fn unix_a_connect_is_there_at_once_and_a_full_backlog_is_an_error() {
        let folder = Folder::new();
        let path = folder.path("full");
        assert_eq!(connect_unix(&path, &options()).err(), Some(Errno::NOENT));
        let listener = stream_socket(AddressFamily::UNIX).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let first = connect_unix(&path, &options()).unwrap();
        let _second = connect_unix(&path, &options()).unwrap();
        assert_eq!(connect_unix(&path, &options()).err(), Some(Errno::AGAIN));
        assert_eq!((connected(&first), peer_addr(&first)), (Ok(None), None));
        assert_eq!(send(&first, &[IoSlice::new(b"hello")]), Ok(5));
        let theirs = rustix::net::accept(&listener).unwrap();
        assert_eq!(recv_slice(&theirs, &mut [0; 8]), Ok(5));
        assert!(connect_unix(&path, &options()).is_ok(), "there is room again");
        drop(listener);
        assert_eq!(connect_unix(&path, &options()).err(), Some(Errno::CONNREFUSED), "the file outlives its listener");
    }

    #[test]
    fn unix_a_path_of_another_kind_is_no_listener() {
        let folder = Folder::new();
        let path = folder.path("datagrams");
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(connect_unix(&path, &options()).err(), Some(Errno::PROTOTYPE));
        assert_eq!(connect_unix(Path::new("Cargo.toml"), &options()).err(), Some(Errno::CONNREFUSED));
        let _listener = UnixListener::bind(folder.path("streams")).unwrap();
        assert!(connect_unix(&folder.path("streams"), &options()).is_ok());
    }

    #[test]
    fn options_are_in_force_from_the_beginning() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (idle, bytes) = (Duration::from_secs(77), 20_000);
        let wanted =
            StreamOptions { nodelay: false, keepalive: Some(idle), recv_buffer: Some(bytes), send_buffer: Some(bytes) };
        let (socket, _) = connect_tcp(listener.local_addr().unwrap(), &wanted).unwrap();
        assert_eq!((sockopt::tcp_nodelay(&socket), sockopt::socket_keepalive(&socket)), (Ok(false), Ok(true)));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(idle));
        assert_eq!(sockopt::socket_recv_buffer_size(&socket), Ok(2 * bytes));
        assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(2 * bytes));
        let (usual, _) = connect_tcp(listener.local_addr().unwrap(), &options()).unwrap();
        assert_eq!((sockopt::tcp_nodelay(&usual), sockopt::socket_keepalive(&usual)), (Ok(true), Ok(false)));
    }
}
