//! Listening: accept, a bound listener, and the descriptor that is kept back for bad times.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::Errno;
use super::epoll::Socket;
use super::net::ip_addr;

/// Takes one connection, non-blocking and closed on exec, with its peer's address (`None` for Unix sockets).
///
/// An error may belong to one connection that is already gone (ECONNABORTED, EPROTO, and whatever the network had to
/// say about it), to the process (EMFILE, ENFILE, ENOBUFS, ENOMEM), or, rarely, to the listener. The caller tells
/// them apart; none of them is retried here.
pub(crate) fn accept(listener: &Socket) -> Result<(Socket, Option<SocketAddr>), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = retry_on_intr(|| rustix::net::acceptfrom_with(listener, flags))?;
    Ok((socket, peer.and_then(ip_addr)))
}

/// A listener bound to `addr`, non-blocking, whose connections are born without Nagle's delay.
pub(crate) fn listen_tcp(addr: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let listener = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    // Or a restarted server could not have its port back for the minute that old connections stay in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&listener, true)?;
    // Linux lets accepted sockets inherit it, which saves one syscall each.
    sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::net::bind(&listener, &addr)?;
    rustix::net::listen(&listener, backlog)?;
    Ok(listener)
}

/// A descriptor kept back for EMFILE.
///
/// With no descriptor left, a connection can be neither accepted nor refused: it stays in the backlog, the peer hangs,
/// and no new edge comes. So: release, accept, close what was accepted, restore; the peer at least learns of it.
#[derive(Debug)]
pub(crate) struct Reserve {
    // An unbound Unix socket: it needs no path, so it works in an empty chroot where /dev/null does not.
    held: Option<OwnedFd>,
}

impl Reserve {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { held: Some(placeholder()?) })
    }

    /// Gives the descriptor up. Twice is once.
    pub(crate) fn release(&mut self) {
        self.held = None;
    }

    /// Takes one again; says whether one is held now. Another thread may have been quicker: try again later.
    pub(crate) fn restore(&mut self) -> bool {
        if self.held.is_none() {
            self.held = placeholder().ok();
        }
        self.held.is_some()
    }
}

fn placeholder() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::super::net::{local_addr, peer_addr};
    use super::*;

    #[test]
    fn what_is_accepted_is_born_non_blocking_closed_on_exec_and_without_delay() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        assert_eq!(accept(&listener).err(), Some(Errno::AGAIN));
        let client = TcpStream::connect(local_addr(&listener).unwrap()).unwrap();
        let (socket, peer) = accept(&listener).unwrap();
        assert_eq!(peer, client.local_addr().ok());
        assert_eq!(peer, peer_addr(&socket));
        for fd in [&listener, &socket] {
            assert!(fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
            assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
            assert!(sockopt::tcp_nodelay(fd).unwrap());
        }
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let listener = listen_tcp("[::1]:0".parse().unwrap(), 16).unwrap();
        let taken = listen_tcp(local_addr(&listener).unwrap(), 16).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_reserve_is_given_up_and_taken_again() {
        let mut reserve = Reserve::new().unwrap();
        assert!(reserve.restore());
        reserve.release();
        reserve.release();
        assert!(reserve.held.is_none());
        assert!(reserve.restore());
        assert!(fcntl_getfd(reserve.held.as_ref().unwrap()).unwrap().contains(FdFlags::CLOEXEC));
    }
}
