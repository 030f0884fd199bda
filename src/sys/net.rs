//! Socket verbs: what a connection can be asked to do.
//!
//! Each is one syscall on a non-blocking socket. EINTR is retried here, and nowhere else; SIGPIPE is never raised.
//! When a short read means that nothing is left: see the contract in `sys`.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, sockopt};

use super::Errno;
use super::epoll::Socket;

/// Calls until it is not a signal that ends the call. As `retry_on_intr`, which is left a function of its own: 25 instructions a
/// message.
#[inline(always)]
fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Receives into the spare capacity of `buf`, which is never reallocated; 0 is the end of the stream.
///
/// A buffer without room is refused (EINVAL): the kernel would answer 0, which reads like an end.
#[inline]
pub(crate) fn recv_vec(socket: &Socket, buf: &mut Vec<u8>) -> Result<usize, Errno> {
    if buf.len() == buf.capacity() {
        return Err(Errno::INVAL);
    }
    uninterrupted(|| rustix::net::recv(socket, spare_capacity(buf), RecvFlags::empty())).map(|(_, len)| len)
}

/// Receives into `buf`, which must not be empty; 0 is the end of the stream.
#[inline]
pub(crate) fn recv_slice(socket: &Socket, buf: &mut [u8]) -> Result<usize, Errno> {
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    uninterrupted(|| rustix::net::recv(socket, &mut *buf, RecvFlags::empty())).map(|(_, len)| len)
}

/// Is there something to receive? How many bytes of a small look, 0 at the end of the stream; nothing is taken.
pub(crate) fn peek(socket: &Socket) -> Result<usize, Errno> {
    let mut look = [0; 1];
    uninterrupted(|| rustix::net::recv(socket, &mut look, RecvFlags::PEEK)).map(|(_, len)| len)
}

/// Sends the slices as one run of bytes (on a datagram socket: as one datagram) and says how many went.
///
/// At most [`super::MAX_SLICES`] slices. MSG_NOSIGNAL is why this is never a `writev`: a broken connection must not
/// kill the process of a user who kept the default SIGPIPE.
#[inline]
pub(crate) fn send(socket: &Socket, bufs: &[IoSlice<'_>]) -> Result<usize, Errno> {
    uninterrupted(|| match bufs {
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

#[cfg(test)]
pub(super) mod tests {
    use std::mem::MaybeUninit;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use rustix::net::SendAncillaryMessage;

    use super::super::epoll::Selector;
    use super::super::{Bits, Readiness};
    use super::*;

    /// Two ends of a non-blocking Unix connection.
    pub(in crate::sys) fn pair() -> (Socket, Socket) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        (ours.into(), theirs.into())
    }

    /// Two ends of a non-blocking TCP connection over loopback.
    pub(in crate::sys) fn tcp_pair() -> (Socket, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        (ours.into(), theirs.into())
    }

    fn bytes(socket: &Socket, text: &[u8]) {
        assert_eq!(send(socket, &[IoSlice::new(text)]), Ok(text.len()));
    }

    /// Waits until a bit has come, and gives back all that came until then.
    fn until(selector: &Selector, wanted: Bits) -> Bits {
        let (mut out, mut seen) = (Vec::new(), Bits::NONE);
        while !seen.contains(wanted) {
            selector.wait(&mut out, None).unwrap();
            seen = out.iter().fold(seen, |bits, event: &Readiness| bits | event.bits);
        }
        seen
    }

    fn assert_no_edge(selector: &Selector) {
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        assert_eq!(out, []);
    }

    #[test]
    fn a_read_fills_the_spare_capacity_and_keeps_what_was_there() {
        let (ours, theirs) = pair();
        bytes(&theirs, b"0123456789");
        let mut buf = Vec::with_capacity(8);
        buf.extend_from_slice(b"ab");
        let (place, room) = (buf.as_ptr(), buf.capacity() - 2);
        assert_eq!(recv_vec(&ours, &mut buf), Ok(room));
        assert_eq!(buf, [b"ab", &b"0123456789"[..room]].concat());
        assert_eq!(buf.as_ptr(), place);
        assert_eq!(recv_vec(&ours, &mut buf), Err(Errno::INVAL), "no room is not the end");
        assert_eq!(recv_slice(&ours, &mut []), Err(Errno::INVAL));
        assert_eq!(recv_slice(&ours, &mut [0; 64]), Ok(10 - room));
        assert_eq!(recv_slice(&ours, &mut [0; 64]), Err(Errno::AGAIN));
        shutdown_write(&theirs).unwrap();
        assert_eq!(recv_slice(&ours, &mut [0; 64]), Ok(0));
    }

    #[test]
    fn several_slices_go_out_as_one_run() {
        let (ours, theirs) = tcp_pair();
        let slices = [IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"body")];
        assert_eq!(send(&ours, &slices), Ok(8));
        shutdown_write(&ours).unwrap();
        let selector = Selector::new().unwrap();
        selector.register(&theirs, 1).unwrap();
        until(&selector, Bits::HANGUP);
        let mut buf = Vec::with_capacity(16);
        assert_eq!(recv_vec(&theirs, &mut buf), Ok(8));
        assert_eq!(buf, b"headbody");
    }

    #[test]
    fn more_slices_than_the_kernel_takes_are_refused() {
        let (ours, _theirs) = pair();
        let slices = vec![IoSlice::new(b"x"); super::super::MAX_SLICES + 1];
        assert_eq!(send(&ours, &slices), Err(Errno::MSGSIZE));
        assert_eq!(send(&ours, &slices[1..]), Ok(super::super::MAX_SLICES));
    }

    #[test]
    fn a_send_to_nobody_is_an_error_and_no_more() {
        // The test runner ignores SIGPIPE, so this alone would not show a missing MSG_NOSIGNAL; strace does.
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(send(&ours, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
        assert_eq!(send(&ours, &[IoSlice::new(b"x"), IoSlice::new(b"y")]), Err(Errno::PIPE));
    }

    #[test]
    fn an_abort_is_a_reset_and_drops_what_was_not_sent() {
        let (ours, theirs) = tcp_pair();
        let selector = Selector::new().unwrap();
        selector.register(&theirs, 1).unwrap();
        reset_on_close(&ours);
        drop(ours);
        until(&selector, Bits::HANGUP);
        assert_eq!(recv_slice(&theirs, &mut [0; 8]), Err(Errno::CONNRESET));
        assert_eq!(recv_slice(&theirs, &mut [0; 8]), Ok(0), "the error is told once, then it is an end");
    }

    #[test]
    fn addresses_and_delay() {
        let (ours, theirs) = tcp_pair();
        assert_eq!(peer_addr(&ours), local_addr(&theirs));
        assert!(peer_addr(&ours).unwrap().ip().is_loopback());
        set_nodelay(&ours, true).unwrap();
        assert!(sockopt::tcp_nodelay(&ours).unwrap());
        set_nodelay(&ours, false).unwrap();
        assert!(!sockopt::tcp_nodelay(&ours).unwrap());

        let (unix, _theirs) = pair();
        assert_eq!((peer_addr(&unix), local_addr(&unix)), (None, None));
        assert_eq!(set_nodelay(&unix, true), Err(Errno::OPNOTSUPP));
    }

    #[test]
    fn tcp_a_short_read_has_drained_and_later_bytes_are_a_new_edge() {
        let (ours, theirs) = tcp_pair();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        bytes(&theirs, b"first");
        until(&selector, Bits::READABLE);
        let mut buf = [0; 64];
        assert_eq!(recv_slice(&ours, &mut buf), Ok(5), "short: the queue is empty, no EAGAIN needed");
        bytes(&theirs, b"second");
        until(&selector, Bits::READABLE);
        assert_eq!(recv_slice(&ours, &mut buf), Ok(6));
    }

    #[test]
    fn tcp_a_read_stops_at_the_urgent_mark_and_no_edge_tells_of_the_rest() {
        let (ours, theirs) = tcp_pair();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        bytes(&theirs, b"abc");
        assert_eq!(rustix::net::send(&theirs, b"!", SendFlags::OOB), Ok(1));
        bytes(&theirs, b"def");
        // Once the FIN is here, so is all in front of it.
        shutdown_write(&theirs).unwrap();
        assert!(until(&selector, Bits::HANGUP).contains(Bits::PRIORITY));
        let mut buf = [0; 64];
        assert_eq!(recv_slice(&ours, &mut buf), Ok(3));
        assert_eq!(&buf[..3], b"abc", "short, and yet not drained");
        assert_no_edge(&selector);
        assert_eq!(recv_slice(&ours, &mut buf), Ok(3));
        assert_eq!(&buf[..3], b"def", "the urgent byte itself is passed over");
        assert_eq!(recv_slice(&ours, &mut buf), Ok(0));
    }

    #[test]
    fn unix_a_read_stops_behind_passed_descriptors_and_no_edge_tells_of_the_rest() {
        let (ours, theirs) = pair();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        bytes(&theirs, b"abc");
        let passed = [ours.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let sent = rustix::net::sendmsg(&theirs, &[IoSlice::new(b"def")], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(3));
        bytes(&theirs, b"ghi");
        until(&selector, Bits::READABLE);
        let mut buf = [0; 64];
        assert_eq!(recv_slice(&ours, &mut buf), Ok(6));
        assert_eq!(&buf[..6], b"abcdef", "short, and yet not drained");
        assert_no_edge(&selector);
        assert_eq!(recv_slice(&ours, &mut buf), Ok(3));
        assert_eq!(&buf[..3], b"ghi");
    }
}
