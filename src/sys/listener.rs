//! Listening: accept, bound listeners, and the descriptor that is kept back for bad times.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::retry_on_intr;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

use super::connect::{apply_tcp, family_of, stream_socket};
use super::epoll::Socket;
use super::net::ip_addr;
use super::{Errno, ListenOptions};

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

/// A listener bound to `addr`, non-blocking and closed on exec. What its connections are to be born with is set on it:
/// Linux lets accepted TCP sockets inherit it, which saves the syscalls for each of them.
pub(crate) fn listen_tcp(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let listener = stream_socket(family_of(addr))?;
    // Without it a restarted server cannot have its port back while old connections stay in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&listener, options.reuse_addr)?;
    if options.reuse_port {
        sockopt::set_socket_reuseport(&listener, true)?;
    }
    // Before the listen: the receive buffer decides on the window that a connection's first answer announces.
    apply_tcp(&listener, &options.streams)?;
    rustix::net::bind(&listener, &addr)?;
    rustix::net::listen(&listener, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(listener)
}

/// A listener at `path`, which must not exist yet: not even as what a listener that is gone has left behind. To remove
/// that, or this one's when it is done, is up to whoever knows whose it is.
///
/// Of `options` the backlog counts, and nothing else: accepted Unix sockets inherit nothing, so [`apply_buffers`] is
/// the caller's, for each; and there is no delay to switch off, and no wire to keep alive.
///
/// [`apply_buffers`]: super::connect::apply_buffers
pub(crate) fn listen_unix(path: &Path, options: &ListenOptions) -> io::Result<Socket> {
    let addr = SocketAddrUnix::new(path)?;
    let listener = stream_socket(AddressFamily::UNIX)?;
    rustix::net::bind(&listener, &addr)?;
    rustix::net::listen(&listener, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
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
pub(super) mod tests {
    use std::net::TcpStream;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl};
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::super::connect::{apply_buffers, connect_unix};
    use super::super::net::{local_addr, peer_addr};
    use super::super::{Kind, StreamOptions};
    use super::*;

    /// A folder of a test's own, gone with it.
    pub(in crate::sys) struct Folder(PathBuf);

    impl Folder {
        pub(in crate::sys) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("gaio-sys-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        pub(in crate::sys) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn options() -> ListenOptions {
        ListenOptions { backlog: 16, ..ListenOptions::default() }
    }

    fn assert_fit(fd: &Socket) {
        assert!(fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK));
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn what_is_accepted_is_born_non_blocking_closed_on_exec_and_without_delay() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &options()).unwrap();
        assert_eq!(accept(&listener).err(), Some(Errno::AGAIN));
        let client = TcpStream::connect(local_addr(&listener).unwrap()).unwrap();
        let (socket, peer) = accept(&listener).unwrap();
        assert_eq!(peer, client.local_addr().ok());
        assert_eq!(peer, peer_addr(&socket));
        for fd in [&listener, &socket] {
            assert_fit(fd);
            assert!(sockopt::tcp_nodelay(fd).unwrap());
            assert!(!sockopt::socket_keepalive(fd).unwrap());
        }
    }

    #[test]
    fn what_is_accepted_inherits_what_the_listener_was_given() {
        let (idle, bytes) = (Duration::from_secs(77), 20_000);
        let streams =
            StreamOptions { nodelay: false, keepalive: Some(idle), recv_buffer: Some(bytes), send_buffer: Some(bytes) };
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &ListenOptions { streams, ..options() }).unwrap();
        let _client = TcpStream::connect(local_addr(&listener).unwrap()).unwrap();
        let (socket, _) = accept(&listener).unwrap();
        assert_eq!((sockopt::tcp_nodelay(&socket), sockopt::socket_keepalive(&socket)), (Ok(false), Ok(true)));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(idle));
        assert_eq!(sockopt::socket_recv_buffer_size(&socket), Ok(2 * bytes));
        assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(2 * bytes));
    }

    #[test]
    fn a_port_in_use_is_refused_unless_both_share_it() {
        let listener = listen_tcp("[::1]:0".parse().unwrap(), &options()).unwrap();
        let addr = local_addr(&listener).unwrap();
        let shared = ListenOptions { reuse_port: true, ..options() };
        for second in [&options(), &shared] {
            assert_eq!(listen_tcp(addr, second).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        let first = listen_tcp("[::1]:0".parse().unwrap(), &shared).unwrap();
        let second = listen_tcp(local_addr(&first).unwrap(), &shared).unwrap();
        assert_eq!(local_addr(&first), local_addr(&second));
    }

    #[test]
    fn a_port_is_free_again_though_old_connections_linger_on() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &options()).unwrap();
        let addr = local_addr(&listener).unwrap();
        let client = TcpStream::connect(addr).unwrap();
        // Who closes first stays in TIME_WAIT.
        drop(accept(&listener).unwrap());
        drop((listener, client));
        let strict = ListenOptions { reuse_addr: false, ..options() };
        assert_eq!(listen_tcp(addr, &strict).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(listen_tcp(addr, &options()).is_ok());
    }

    #[test]
    fn unix_a_listener_has_its_path_to_itself_and_its_connections_inherit_nothing() {
        let folder = Folder::new();
        let path = folder.path("listener");
        let bytes = 20_000;
        let streams = StreamOptions { recv_buffer: Some(bytes), send_buffer: Some(bytes), ..StreamOptions::default() };
        let listener = listen_unix(&path, &ListenOptions { streams, ..options() }).unwrap();
        assert_fit(&listener);
        assert_eq!(super::super::adopt::adopt(&listener).unwrap().kind, Kind::UnixListener);
        assert_eq!(accept(&listener).err(), Some(Errno::AGAIN));
        let _client = connect_unix(&path, &streams).unwrap();
        let (socket, peer) = accept(&listener).unwrap();
        assert_fit(&socket);
        assert_eq!((peer, local_addr(&listener)), (None, None));
        assert_ne!(sockopt::socket_send_buffer_size(&socket), Ok(2 * bytes));
        apply_buffers(&socket, &streams).unwrap();
        assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(2 * bytes));
        assert_eq!(listen_unix(&path, &options()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert_eq!(listen_unix(&path, &options()).unwrap_err().kind(), io::ErrorKind::AddrInUse, "the file is left");
        std::fs::remove_file(&path).unwrap();
        assert!(listen_unix(&path, &options()).is_ok());
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
