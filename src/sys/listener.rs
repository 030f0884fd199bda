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
