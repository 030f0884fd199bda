//! Listeners that the loop makes: where they are, what their connections are born with, and what cannot be had.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use gaio::{Conn, DelegateErrorKind, ListenOptions};
use rustix::net::sockopt;
use support::{Drive, Got, Rig, Taken, both_drives};

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn accepted<D: Drive>(rig: &mut Rig<D>) -> Conn<u64> {
    match rig.next() {
        Taken::Accepted(conn, _) => conn,
        other => panic!("not accepted: {other:?}"),
    }
}

/// The socket of an accepted connection, taken out of the loop to be looked at.
fn socket<D: Drive>(rig: &mut Rig<D>, conn: &Conn<u64>) -> OwnedFd {
    conn.into_fd().submit_with(1).unwrap();
    match rig.outcome() {
        Got::Detached(detached) => detached.socket,
        other => panic!("not detached: {other:?}"),
    }
}

fn kind(error: DelegateErrorKind) -> io::ErrorKind {
    match error {
        DelegateErrorKind::Os(error) => error.kind(),
        other => panic!("{other}"),
    }
}

fn it_tells_its_port_and_accepts<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for any in [local(), "[::1]:0".parse().unwrap()] {
        let listener = rig.submitter.listen_on(any, &ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(addr.ip() == any.ip() && addr.port() != 0, "{addr}");
        let peer = TcpStream::connect(addr).unwrap();
        let conn = accepted(&mut rig);
        assert_eq!((conn.peer_addr(), conn.local_addr()), (peer.local_addr().ok(), Some(addr)));
        drop(listener);
        let ended = rig.next();
        assert!(matches!(ended, Taken::Ended(_, None)), "{ended:?}");
        assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

fn what_it_accepts_is_born_with_the_options<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let bytes = 20_000;
    for (nodelay, keepalive, buffer) in [(true, None, None), (false, Some(Duration::from_secs(77)), Some(bytes))] {
        let mut options = ListenOptions::default();
        assert_eq!((options.streams.nodelay, options.reuse_addr, options.reuse_port), (true, true, false));
        options.streams.nodelay = nodelay;
        options.streams.keepalive = keepalive;
        (options.streams.recv_buffer, options.streams.send_buffer) = (buffer, buffer);
        let listener = rig.submitter.listen_on(local(), &options).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let conn = accepted(&mut rig);
        let socket = socket(&mut rig, &conn);
        assert_eq!(sockopt::tcp_nodelay(&socket), Ok(nodelay));
        assert_eq!(sockopt::socket_keepalive(&socket), Ok(keepalive.is_some()));
        if let Some(idle) = keepalive {
            assert_eq!(sockopt::tcp_keepidle(&socket), Ok(idle));
        }
        // The kernel doubles what it is given.
        let doubled = buffer.map_or(0, |bytes| 2 * bytes);
        assert_eq!(sockopt::socket_recv_buffer_size(&socket).unwrap() == doubled, buffer.is_some());
        assert_eq!(sockopt::socket_send_buffer_size(&socket).unwrap() == doubled, buffer.is_some());
        drop(listener);
        let ended = rig.next();
        assert!(matches!(ended, Taken::Ended(_, None)), "{ended:?}");
    }
}

fn a_port_is_taken_shared_or_taken_again<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let usual = ListenOptions::default();
    let mut shared = usual;
    shared.reuse_port = true;
    let alone = rig.submitter.listen_on(local(), &usual).unwrap();
    let addr = alone.local_addr().unwrap();
    for second in [&usual, &shared] {
        assert_eq!(kind(rig.submitter.listen_on(addr, second).unwrap_err()), io::ErrorKind::AddrInUse);
    }
    let first = rig.submitter.listen_on(local(), &shared).unwrap();
    let second = rig.submitter.listen_on(first.local_addr().unwrap(), &shared).unwrap();
    assert_eq!(first.local_addr(), second.local_addr());
    assert_ne!(first.id(), second.id());

    // Who closes first stays behind for a while, and is no reason not to listen again.
    let client = TcpStream::connect(addr).unwrap();
    accepted(&mut rig).release().submit_with(1).unwrap();
    rig.outcome().closed();
    drop(client);
    drop(alone);
    let ended = rig.next();
    assert!(matches!(ended, Taken::Ended(_, None)), "{ended:?}");
    let mut strict = usual;
    strict.reuse_addr = false;
    assert_eq!(kind(rig.submitter.listen_on(addr, &strict).unwrap_err()), io::ErrorKind::AddrInUse);
    drop(rig.submitter.listen_on(addr, &usual).unwrap());
}

fn at_a_path_each_connection_is_given_its_buffers<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let path: PathBuf = std::env::temp_dir().join(format!("gaio-listen-options-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let bytes = 20_000;
    let mut options = ListenOptions::default();
    options.streams.send_buffer = Some(bytes);
    let listener = rig.submitter.listen_unix(&path, &options).unwrap();
    assert_eq!(listener.local_addr(), None);
    let again = rig.submitter.listen_unix(&path, &options).unwrap_err();
    let peer = UnixStream::connect(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(again), io::ErrorKind::AddrInUse);
    let _peer = peer.unwrap();
    let conn = accepted(&mut rig);
    let socket = socket(&mut rig, &conn);
    assert_eq!(sockopt::socket_send_buffer_size(&socket), Ok(2 * bytes));
    assert_ne!(sockopt::socket_recv_buffer_size(&socket), Ok(2 * bytes));
}

fn what_cannot_be_had_is_said<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let usual = ListenOptions::default();
    let foreign = rig.submitter.listen_on("192.0.2.1:0".parse().unwrap(), &usual).unwrap_err();
    assert!(foreign.to_string().contains("refused"), "{foreign}");
    assert_eq!(kind(foreign), io::ErrorKind::AddrNotAvailable);
    assert_eq!(kind(rig.submitter.listen_unix("no/such/folder", &usual).unwrap_err()), io::ErrorKind::NotFound);
    rig.submitter.shutdown(Duration::ZERO);
    assert!(rig.rest().is_empty());
    let closed = rig.submitter.listen_on(local(), &usual).unwrap_err();
    assert!(matches!(closed, DelegateErrorKind::Closed), "{closed}");
}

both_drives!(
    it_tells_its_port_and_accepts,
    what_it_accepts_is_born_with_the_options,
    a_port_is_taken_shared_or_taken_again,
    at_a_path_each_connection_is_given_its_buffers,
    what_cannot_be_had_is_said,
);
