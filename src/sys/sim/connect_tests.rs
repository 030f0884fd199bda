//! The simulated system's connects and listeners, each rule by the situation in which it matters.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::super::{Bits, Connecting, Errno, Kind, ListenOptions, StreamOptions};
use super::*;
use crate::sync::thread;

const ALL: Bits = Bits::READABLE.union(Bits::WRITABLE).union(Bits::HANGUP);

fn options() -> StreamOptions {
    StreamOptions::default()
}

/// Begins to connect, and registers.
fn begin(selector: &Selector, addr: SocketAddr) -> Socket {
    let (socket, connecting) = connect_tcp(addr, &options()).unwrap();
    assert_eq!(connecting, Connecting::Pending);
    selector.register(&socket, 1).unwrap();
    socket
}

fn bits(selector: &Selector) -> Bits {
    let mut out = Vec::new();
    selector.wait(&mut out, Some(0)).unwrap();
    assert!(out.len() <= 1, "{out:?}");
    out.first().map_or(Bits::NONE, |event| event.bits)
}

#[test]
fn a_remote_answers_when_the_test_does() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let remote = world.remote();
    assert!(remote.attempt().is_none());
    let socket = begin(&selector, remote.addr());
    assert_eq!((bits(&selector), connected(&socket), peer_addr(&socket)), (Bits::NONE, Err(Errno::AGAIN), None));
    assert_eq!(adopt(&socket).unwrap().kind, Kind::UnconnectedStream);
    assert_eq!(recv_slice(&socket, &mut [0; 8]), Err(Errno::AGAIN));
    assert_eq!(send(&socket, &[IoSlice::new(b"x")]), Err(Errno::AGAIN));
    let peer = remote.attempt().unwrap().accept();
    assert_eq!((bits(&selector), connected(&socket)), (Bits::WRITABLE, Ok(Some(remote.addr()))));
    assert_eq!((peer_addr(&socket), adopt(&socket).unwrap().kind), (Some(remote.addr()), Kind::TcpStream));
    peer.send(b"hello").unwrap();
    assert_eq!((bits(&selector), recv_slice(&socket, &mut [0; 8])), (Bits::READABLE | Bits::WRITABLE, Ok(5)));
    assert_eq!(send(&socket, &[IoSlice::new(b"hello")]), Ok(5));
    assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn a_remote_refuses_or_fails_and_says_it_once() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let remote = world.remote();
    for (kind, errno) in [
        (ErrorKind::ConnectionRefused, Errno::CONNREFUSED),
        (ErrorKind::TimedOut, Errno::TIMEDOUT),
        (ErrorKind::HostUnreachable, Errno::HOSTUNREACH),
        (ErrorKind::NetworkUnreachable, Errno::NETUNREACH),
    ] {
        let socket = begin(&selector, remote.addr());
        remote.attempt().unwrap().fail(kind);
        assert_eq!((bits(&selector), connected(&socket)), (ALL, Err(errno)));
        assert_eq!((so_error(&socket), recv_slice(&socket, &mut [0; 8])), (Ok(()), Ok(0)));
    }
    let socket = begin(&selector, remote.addr());
    remote.attempt().unwrap().refuse();
    assert_eq!((bits(&selector), so_error(&socket)), (ALL, Err(Errno::CONNREFUSED)));
}

#[test]
fn an_attempt_may_wait_for_ever_and_either_side_may_give_up() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let remote = world.remote();
    let ignored = begin(&selector, remote.addr());
    drop(remote.attempt().unwrap());
    assert_eq!((bits(&selector), connected(&ignored)), (Bits::NONE, Err(Errno::AGAIN)));
    drop(ignored);

    drop(begin(&selector, remote.addr()));
    let peer = remote.attempt().unwrap().accept();
    assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 0, "who has asked is gone");

    let waiting = begin(&selector, remote.addr());
    let addr = remote.addr();
    drop(remote);
    assert_eq!((bits(&selector), connected(&waiting)), (ALL, Err(Errno::CONNREFUSED)));
    drop(waiting);
    assert_eq!(connected(&begin(&selector, addr)), Err(Errno::CONNREFUSED), "nobody is there any more");
}

#[test]
fn a_remote_waits_for_another_threads_attempt() {
    let world = World::enter();
    let remote = world.remote();
    let addr = remote.addr();
    let other = thread::spawn(carry(move || {
        let selector = Selector::new().unwrap();
        let socket = begin(&selector, addr);
        let mut out = Vec::new();
        selector.wait(&mut out, None).unwrap();
        connected(&socket)
    }));
    let _peer = remote.attempt_blocking().accept();
    assert_eq!(other.join().unwrap(), Ok(Some(addr)));
}

#[test]
fn a_listener_of_the_same_world_is_reached_by_an_edge_or_at_once() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let (listener, addr) = world.listener();
    let socket = begin(&selector, addr);
    assert_eq!((bits(&selector), connected(&socket)), (Bits::WRITABLE, Ok(Some(addr))));
    let (accepted, peer) = accept(&listener).unwrap();
    assert_eq!((peer, peer_addr(&accepted)), (local_addr(&socket), local_addr(&socket)));
    assert_eq!(send(&accepted, &[IoSlice::new(b"hello")]), Ok(5));
    assert_eq!(recv_slice(&socket, &mut [0; 8]), Ok(5));

    world.configure(|config| config.connect_at_once = true);
    let (socket, connecting) = connect_tcp(addr, &options()).unwrap();
    assert_eq!((connecting, connected(&socket)), (Connecting::Done, Ok(Some(addr))));
}

#[test]
fn pending_first_holds_the_outcome_of_a_connect_back_too() {
    let world = World::enter();
    world.configure(|config| config.pending_first = true);
    let selector = Selector::new().unwrap();
    let (_listener, addr) = world.listener();
    let socket = begin(&selector, addr);
    assert_eq!((bits(&selector), connected(&socket)), (Bits::WRITABLE, Err(Errno::AGAIN)));
    assert_eq!((bits(&selector), connected(&socket)), (Bits::WRITABLE, Ok(Some(addr))));
}

#[test]
fn a_full_backlog_lets_tcp_wait_for_an_accept() {
    let _world = World::enter();
    let selector = Selector::new().unwrap();
    let one = ListenOptions { backlog: 0, ..ListenOptions::default() };
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &one).unwrap();
    let addr = local_addr(&listener).unwrap();
    let _first = connect_tcp(addr, &options()).unwrap();
    let second = begin(&selector, addr);
    let (third, _) = connect_tcp(addr, &options()).unwrap();
    assert_eq!((bits(&selector), connected(&second)), (Bits::NONE, Err(Errno::AGAIN)));
    let _accepted = accept(&listener).unwrap();
    assert_eq!((bits(&selector), connected(&second)), (Bits::WRITABLE, Ok(Some(addr))));
    drop(listener);
    assert_eq!(bits(&selector), ALL, "it stood, and was never accepted");
    assert_eq!(recv_slice(&second, &mut [0; 8]), Err(Errno::CONNRESET));
    assert_eq!(connected(&third), Err(Errno::CONNREFUSED), "it did not stand yet");
}

#[test]
fn unix_listeners_have_paths_that_outlive_them() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let path = Path::new("here");
    assert_eq!(connect_unix(path, &options()).err(), Some(Errno::NOENT));
    assert_eq!(world.connect_unix(path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let listener = listen_unix(path, &ListenOptions { backlog: 1, ..ListenOptions::default() }).unwrap();
    assert_eq!(world.unix_listener(path).unwrap_err().kind(), ErrorKind::AddrInUse);
    selector.register(&listener, 7).unwrap();
    let socket = connect_unix(path, &options()).unwrap();
    assert_eq!(bits(&selector), Bits::READABLE);
    let peer = world.connect_unix(path).unwrap();
    assert_eq!(connect_unix(path, &options()).err(), Some(Errno::AGAIN));
    assert_eq!((connected(&socket), local_addr(&listener)), (Ok(None), None));
    let (accepted, from) = accept(&listener).unwrap();
    assert_eq!((from, adopt(&accepted).unwrap().kind), (None, Kind::UnixStream));
    assert_eq!(adopt_listener(&listener).unwrap().kind, Kind::UnixListener);
    assert!(world.unlink(path) && !world.unlink(path));
    let second = world.unix_listener(path).unwrap();
    drop(listener);
    assert_eq!(peer.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(connect_unix(path, &options()).is_ok(), "the new one has the path");
    drop(second);
    assert_eq!(connect_unix(path, &options()).err(), Some(Errno::CONNREFUSED));
}

#[test]
fn a_port_is_shared_by_those_who_all_say_so_and_in_turns() {
    let world = World::enter();
    let any = "127.0.0.1:0".parse().unwrap();
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::default() };
    let first = listen_tcp(any, &shared).unwrap();
    let addr = local_addr(&first).unwrap();
    assert_eq!(listen_tcp(addr, &ListenOptions::default()).unwrap_err().kind(), ErrorKind::AddrInUse);
    let second = listen_tcp(addr, &shared).unwrap();
    let _peers = [world.connect(addr).unwrap(), world.connect(addr).unwrap()];
    assert!(accept(&first).is_ok() && accept(&second).is_ok());
    let remote = world.remote();
    assert_eq!(listen_tcp(remote.addr(), &shared).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn accepted_tcp_sockets_inherit_and_unix_ones_do_not() {
    let world = World::enter();
    let streams = StreamOptions {
        nodelay: false,
        keepalive: Some(Duration::from_secs(77)),
        recv_buffer: Some(20_000),
        send_buffer: None,
    };
    let own = |socket: &Socket| socket.on_connection(|connection, side| connection.end(side).options).unwrap();
    let listening = ListenOptions { streams, ..ListenOptions::default() };
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &listening).unwrap();
    let _peer = world.connect(local_addr(&listener).unwrap()).unwrap();
    assert_eq!(own(&accept(&listener).unwrap().0), streams);
    let (socket, _) = connect_tcp(local_addr(&listener).unwrap(), &streams).unwrap();
    assert_eq!(own(&socket), streams);

    let listener = listen_unix(Path::new("here"), &listening).unwrap();
    let _peer = world.connect_unix("here").unwrap();
    let (accepted, _) = accept(&listener).unwrap();
    assert_eq!(own(&accepted), options());
    apply_buffers(&accepted, &streams).unwrap();
    assert_eq!(own(&accepted).recv_buffer, Some(20_000));
}

#[test]
fn without_a_descriptor_no_connect_begins_and_nobody_hears_of_it() {
    let world = World::enter();
    let (listener, addr) = world.listener();
    let unix = world.unix_listener("here").unwrap();
    let remote = world.remote();
    world.configure(|config| config.descriptors = 2);
    for addr in [addr, remote.addr()] {
        assert_eq!(connect_tcp(addr, &options()).err(), Some(Errno::MFILE));
    }
    assert_eq!(connect_unix(Path::new("here"), &options()).err(), Some(Errno::MFILE));
    world.configure(|config| config.descriptors = usize::MAX);
    assert_eq!((accept(&listener).err(), accept(&unix).err()), (Some(Errno::AGAIN), Some(Errno::AGAIN)));
    assert!(remote.attempt().is_none());
    drop((listener, unix, remote));
    assert_eq!(world.open_descriptors(), 0);
}
