//! Adoption: what is this descriptor, and is it fit for the loop?
//!
//! Only a socket of the wanted sort is changed. What is refused goes back to its owner as it came: a listener that
//! turned non-blocking by a mistaken `delegate` would make its owner's accept fail.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::{AddressFamily, SocketType, getpeername, sockopt};

use super::epoll::Socket;
use super::net::ip_addr;
use super::{Errno, Inspected, Kind};

/// Looks at a socket that is to become a connection, and makes it one: non-blocking, closed on exec, its linger off.
///
/// Five syscalls for a connected stream or datagram socket, whose flags are changed. Of any other kind only the kind
/// is told; an error means that the kernel refused one of the changes.
pub(crate) fn adopt(socket: &Socket) -> Result<Inspected, Errno> {
    let (kind, peer) = inspect(socket)?;
    if !matches!(kind, Kind::TcpStream | Kind::UnixStream | Kind::Datagram) {
        return Ok(Inspected { kind, linger: None, peer });
    }
    make_fit(socket)?;
    let linger = positive_linger(socket)?;
    if linger.is_some() {
        linger_off(socket)?;
    }
    Ok(Inspected { kind, linger, peer })
}

fn positive_linger(socket: &Socket) -> Result<Option<Duration>, Errno> {
    Ok(sockopt::socket_linger(socket)?.filter(|time| !time.is_zero()))
}

/// A close with time to linger blocks, and O_NONBLOCK does not help: the loop would stand still with it.
pub(crate) fn linger_off(socket: &Socket) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, None)
}

/// Looks at a socket that is to be listened on, and makes it fit for that. Any other kind is left alone. A positive
/// linger is told and stays: connections inherit it, those that wait in the queue already, too.
pub(crate) fn adopt_listener(socket: &Socket) -> Result<Inspected, Errno> {
    let (kind, peer) = inspect(socket)?;
    if matches!(kind, Kind::TcpListener | Kind::UnixListener) {
        make_fit(socket)?;
        return Ok(Inspected { kind, linger: positive_linger(socket)?, peer });
    }
    Ok(Inspected { kind, linger: None, peer })
}

fn make_fit(socket: &Socket) -> Result<(), Errno> {
    // One syscall where F_GETFL and F_SETFL are two, and no other flag can be lost between them.
    ioctl_fionbio(socket, true)?;
    // FD_CLOEXEC is the only flag there is, so there is nothing to read first.
    fcntl_setfd(socket, FdFlags::CLOEXEC)
}

fn inspect(socket: &Socket) -> Result<(Kind, Option<SocketAddr>), Errno> {
    let socket_type = match sockopt::socket_type(socket) {
        Ok(socket_type) => socket_type,
        Err(Errno::NOTSOCK) => return Ok((Kind::Other(not_a_socket(socket)), None)),
        Err(errno) => return Err(errno),
    };
    let stream = match socket_type {
        SocketType::STREAM => true,
        SocketType::DGRAM => false,
        SocketType::SEQPACKET => return Ok((Kind::Other("a sequenced-packet socket"), None)),
        _ => return Ok((Kind::Other("a raw socket"), None)),
    };
    match getpeername(socket) {
        Ok(peer) => {
            // The peer's family spares the question for the socket's own.
            let family = match &peer {
                Some(addr) => addr.address_family(),
                None => sockopt::socket_domain(socket)?,
            };
            Ok((connected(family, stream), peer.and_then(ip_addr)))
        }
        Err(Errno::NOTCONN) => Ok((without_peer(socket, stream)?, None)),
        Err(errno) => Err(errno),
    }
}

fn connected(family: AddressFamily, stream: bool) -> Kind {
    match family {
        AddressFamily::INET | AddressFamily::INET6 if stream => Kind::TcpStream,
        AddressFamily::UNIX if stream => Kind::UnixStream,
        AddressFamily::INET | AddressFamily::INET6 | AddressFamily::UNIX => Kind::Datagram,
        _ => Kind::Other("a socket of an unsupported family"),
    }
}

fn without_peer(socket: &Socket, stream: bool) -> Result<Kind, Errno> {
    let family = sockopt::socket_domain(socket)?;
    if let Kind::Other(what) = connected(family, stream) {
        return Ok(Kind::Other(what));
    }
    if !stream {
        return Ok(Kind::UnconnectedDatagram);
    }
    let listening = sockopt::socket_acceptconn(socket)?;
    Ok(match (listening, family) {
        (true, AddressFamily::UNIX) => Kind::UnixListener,
        (true, _) => Kind::TcpListener,
        (false, AddressFamily::UNIX) => Kind::UnconnectedStream,
        (false, _) if has_failed(socket)? => Kind::TcpStream,
        (false, _) => Kind::UnconnectedStream,
    })
}

/// Whether a TCP stream without a peer had one once.
///
/// A connection that the peer reset between accept and delegate has no peer any more. To refuse it would let any
/// client end an accept loop that treats a refusal as fatal; taken in, it fails with its first operation, like every
/// other. A stream that was never connected hangs up too, but without an error and with its reading side open. The
/// error itself stays where it is: SO_ERROR would take it.
fn has_failed(socket: &Socket) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().intersects(PollFlags::ERR | PollFlags::RDHUP))
}

fn not_a_socket(fd: &Socket) -> &'static str {
    let Ok(stat) = fstat(fd) else { return "not a socket" };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "not a socket",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::fcntl_getfd;
    use rustix::net::{SocketFlags, socket_with};

    use super::super::net::tests::tcp_pair;
    use super::super::net::{recv_slice, reset_on_close};
    use super::*;

    fn flags(socket: &Socket) -> (bool, bool) {
        let non_blocking = fcntl_getfl(socket).unwrap().contains(OFlags::NONBLOCK);
        (non_blocking, fcntl_getfd(socket).unwrap().contains(FdFlags::CLOEXEC))
    }

    /// A socket as it comes from code that cares for no flag.
    fn bare(family: AddressFamily, socket_type: SocketType) -> Socket {
        socket_with(family, socket_type, SocketFlags::empty(), None).unwrap()
    }

    fn assert_left_alone(socket: &Socket, expected: Kind) {
        fcntl_setfd(socket, FdFlags::empty()).unwrap();
        assert_eq!(adopt(socket).unwrap().kind, expected);
        assert_eq!(flags(socket), (false, false), "{expected:?}");
    }

    #[test]
    fn connections_are_made_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let tcp = bare(AddressFamily::INET, SocketType::STREAM);
        rustix::net::connect(&tcp, &addr).unwrap();
        let udp = bare(AddressFamily::INET, SocketType::DGRAM);
        let udp_peer = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        rustix::net::connect(&udp, &udp_peer).unwrap();
        let (unix, _theirs) = UnixStream::pair().unwrap();
        let (datagram, _theirs) = UnixDatagram::pair().unwrap();
        for (socket, kind, peer) in [
            (tcp, Kind::TcpStream, Some(addr)),
            (udp, Kind::Datagram, Some(udp_peer)),
            (unix.into(), Kind::UnixStream, None),
            (datagram.into(), Kind::Datagram, None),
        ] {
            fcntl_setfd(&socket, FdFlags::empty()).unwrap();
            assert_eq!(flags(&socket), (false, false));
            let inspected = adopt(&socket).unwrap();
            assert_eq!((inspected.kind, inspected.peer, inspected.linger), (kind, peer, None));
            assert_eq!(flags(&socket), (true, true), "{kind:?}");
        }
    }

    #[test]
    fn what_is_no_connection_is_told_and_left_alone() {
        let file = std::fs::File::open("Cargo.toml").unwrap();
        assert_left_alone(&file.into(), Kind::Other("a regular file"));
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        assert_left_alone(&pipe, Kind::Other("a pipe"));
        assert_left_alone(&std::fs::File::open("/").unwrap().into(), Kind::Other("a directory"));
        let sequenced = bare(AddressFamily::UNIX, SocketType::SEQPACKET);
        assert_left_alone(&sequenced, Kind::Other("a sequenced-packet socket"));
        assert_left_alone(&TcpListener::bind("127.0.0.1:0").unwrap().into(), Kind::TcpListener);
        assert_left_alone(&UdpSocket::bind("127.0.0.1:0").unwrap().into(), Kind::UnconnectedDatagram);
        assert_left_alone(&UnixDatagram::unbound().unwrap().into(), Kind::UnconnectedDatagram);
        assert_left_alone(&bare(AddressFamily::INET6, SocketType::STREAM), Kind::UnconnectedStream);
        assert_left_alone(&bare(AddressFamily::UNIX, SocketType::STREAM), Kind::UnconnectedStream);
    }

    #[test]
    fn listeners_are_made_fit_where_they_are_wanted() {
        let tcp = Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
        let unix = bare(AddressFamily::UNIX, SocketType::STREAM);
        rustix::net::bind(&unix, &rustix::net::SocketAddrUnix::new_unnamed()).unwrap();
        rustix::net::listen(&unix, 1).unwrap();
        for (socket, kind) in [(tcp, Kind::TcpListener), (unix, Kind::UnixListener)] {
            assert_left_alone(&socket, kind);
            assert_eq!(adopt_listener(&socket).unwrap().kind, kind);
            assert_eq!(flags(&socket), (true, true));
        }
        let (stream, _theirs) = UnixStream::pair().unwrap();
        let stream = Socket::from(stream);
        assert_eq!(adopt_listener(&stream).unwrap().kind, Kind::UnixStream);
        assert_eq!(flags(&stream), (false, true), "a stream is none of its business");
    }

    #[test]
    fn a_positive_linger_is_told_and_switched_off() {
        let (socket, _theirs) = tcp_pair();
        let half_a_minute = Duration::from_secs(30);
        sockopt::set_socket_linger(&socket, Some(half_a_minute)).unwrap();
        assert_eq!(adopt(&socket).unwrap().linger, Some(half_a_minute));
        assert_eq!(sockopt::socket_linger(&socket), Ok(None));
        assert_eq!(adopt(&socket).unwrap().linger, None);
        // Zero means that its owner wants an RST at the close, and a close with it does not wait.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        assert_eq!(adopt(&socket).unwrap().linger, None);
        assert_eq!(sockopt::socket_linger(&socket), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn a_connection_that_was_reset_before_is_still_one() {
        let (ours, theirs) = tcp_pair();
        reset_on_close(&theirs);
        drop(theirs);
        // The RST is there when the read side hangs up.
        poll(&mut [PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::RDHUP)], None).unwrap();
        assert_eq!(getpeername(&ours).err(), Some(Errno::NOTCONN));
        assert_eq!(adopt(&ours).unwrap().kind, Kind::TcpStream);
        assert_eq!(recv_slice(&ours, &mut [0; 1]), Err(Errno::CONNRESET), "the error is still to be told");
    }
}
