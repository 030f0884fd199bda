//! Socket verbs: what a connection can be asked to do.
//!
//! Each is one syscall on a non-blocking socket. EINTR is retried here, and nowhere else; SIGPIPE is never raised.
//! When a short read means that nothing is left: see the contract in `sys`.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, sockopt};

use super::Errno;
use super::epoll::Socket;

/// Receives into the spare capacity of `buf`, which is never reallocated; 0 is the end of the stream.
///
/// A buffer without room is refused (EINVAL): the kernel would answer 0, which reads like an end.
pub(crate) fn recv_vec(socket: &Socket, buf: &mut Vec<u8>) -> Result<usize, Errno> {
    if buf.len() == buf.capacity() {
        return Err(Errno::INVAL);
    }
    retry_on_intr(|| rustix::net::recv(socket, spare_capacity(buf), RecvFlags::empty())).map(|(_, len)| len)
}

/// Receives into `buf`, which must not be empty; 0 is the end of the stream.
pub(crate) fn recv_slice(socket: &Socket, buf: &mut [u8]) -> Result<usize, Errno> {
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    retry_on_intr(|| rustix::net::recv(socket, &mut *buf, RecvFlags::empty())).map(|(_, len)| len)
}

/// Sends the slices as one run of bytes (on a datagram socket: as one datagram) and says how many went.
///
/// At most [`super::MAX_SLICES`] slices. MSG_NOSIGNAL is why this is never a `writev`: a broken connection must not
/// kill the process of a user who kept the default SIGPIPE.
pub(crate) fn send(socket: &Socket, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
    retry_on_intr(|| match bufs {
        // A plain send spares the kernel a copy of the header and of the list.
        [one] => rustix::net::send(socket, one, SendFlags::NOSIGNAL),
        many => rustix::net::sendmsg(socket, many, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL),
    })
}

/// Sends the FIN behind what was sent.
pub(crate) fn shutdown_write(socket: &Socket) -> Result<(), Errno> {
    rustix::net::shutdown(socket, Shutdown::Write)
}

/// Makes the coming close an RST: at once, unsent bytes dropped.
pub(crate) fn reset_on_close(socket: &Socket) {
    // It can fail only on what is no socket, and then there is nobody to send an RST to.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Switches Nagle's delay off (`on`) or back on. Unix sockets answer EOPNOTSUPP.
pub(crate) fn set_nodelay(socket: &Socket, on: bool) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, on)
}

/// The peer's address, if it is an IP address and the connection still stands.
pub(crate) fn peer_addr(socket: &Socket) -> Option<SocketAddr> {
    rustix::net::getpeername(socket).ok().flatten().and_then(ip_addr)
}

/// Our own address, if it is an IP address.
pub(crate) fn local_addr(socket: &Socket) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok().and_then(ip_addr)
}

/// The address, if it is an IP address.
pub(super) fn ip_addr(addr: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(addr).ok()
}
