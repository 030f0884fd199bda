//! Connecting: where one gets to, what one is told if one does not, and that nothing is left of what did not win
//! (G1, G7, G10).

#![cfg(not(any(loom, gaio_sim)))]

mod process;
mod support;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gaio::{
    Conn, ConnectError, EmbeddedWatcher, ListenOptions, NewConnect, OpError, StreamOptions, SubmitErrorKind, Watcher,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Drive, Got, LONG, Rig, Taken, both_drives, check, until};

const SHORT: Duration = Duration::from_millis(5);

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// An address that refuses, for as long as the socket that has it lives.
fn nobody() -> (OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = rustix::net::getsockname(&socket).unwrap();
    (socket, addr.try_into().unwrap())
}

/// An address that does not answer: a listener whose backlog is full. The connection that fills it lives as long.
fn deaf() -> (TcpListener, TcpStream, SocketAddr) {
    let (socket, addr) = nobody();
    rustix::net::listen(&socket, 0).unwrap();
    (socket.into(), TcpStream::connect(addr).unwrap(), addr)
}

/// A path in a folder of the test's own, gone with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gaio-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn listener(&self) -> UnixListener {
        UnixListener::bind(&self.0).unwrap()
    }

    /// With room for one connection, which is taken.
    fn full(&self) -> (UnixListener, UnixStream) {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&self.0).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        (socket.into(), UnixStream::connect(&self.0).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How the next event says that a connect came out.
fn connected<D: Drive>(rig: &mut Rig<D>) -> (u64, Result<Conn<u64>, ConnectError>) {
    match rig.next() {
        Taken::Connected(context, result) => (context, result),
        other => panic!("not a connect: {other:?}"),
    }
}

/// Submits, and waits for the outcome.
fn outcome<D: Drive>(
    rig: &mut Rig<D>,
    connect: impl FnOnce(&gaio::Submitter<u64>) -> NewConnect<'_, u64>,
) -> Result<Conn<u64>, ConnectError> {
    connect(&rig.submitter).submit_with(7).unwrap();
    let (context, result) = connected(rig);
    assert_eq!(context, 7);
    result
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn refused(failure: &ConnectError) {
    assert_eq!(failure.error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::CONNREFUSED), "{failure}");
}

/// Nothing is under way any more, and every place is free.
fn assert_over<D: Drive>(rig: &mut Rig<D>) {
    rig.assert_quiet();
    assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
}

/// A connection carries bytes both ways.
fn assert_carries<D: Drive>(rig: &mut Rig<D>, conn: &Conn<u64>, mut peer: impl Read + Write) {
    conn.write(b"ping").submit_with(1).unwrap();
    assert_eq!(rig.outcome().wrote().len(), 4);
    let mut said = [0; 4];
    peer.read_exact(&mut said).unwrap();
    peer.write_all(&said).unwrap();
    conn.read_leased().submit_with(2).unwrap();
    assert_eq!(rig.outcome().bytes(), b"ping");
}

fn over_tcp_it_is_a_connection_like_any_other<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (listener, addr) = listener();
    let conn = outcome(&mut rig, |submitter| submitter.connect(addr).within(LONG)).unwrap();
    let (peer, from) = listener.accept().unwrap();
    assert_eq!((conn.peer_addr(), conn.local_addr()), (Some(addr), Some(from)));
    assert_eq!(rig.counters().sessions, 1);
    assert_carries(&mut rig, &conn, &peer);
    drop((conn, peer));
    until(|| rig.barrier().is_empty() && rig.counters().sessions == 0);
    assert_over(&mut rig);
}

fn over_unix_too<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let place = Place::new("connect");
    let listener = place.listener();
    let conn = outcome(&mut rig, |submitter| submitter.connect(place.0.as_path())).unwrap();
    let (peer, _) = listener.accept().unwrap();
    assert_eq!((conn.peer_addr(), conn.local_addr()), (None, None));
    assert_carries(&mut rig, &conn, &peer);
    drop((conn, peer));
    until(|| rig.barrier().is_empty() && rig.counters().sessions == 0);
}

fn whom_nobody_answers_is_refused<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (_nobody, addr) = nobody();
    let failure = outcome(&mut rig, |submitter| submitter.connect(addr)).unwrap_err();
    refused(&failure);
    assert_eq!(failure.failed.len(), 1);
    assert_eq!((failure.failed[0].0, errno(&failure.failed[0].1)), (addr, Some(Errno::CONNREFUSED)));
    let text = failure.to_string();
    assert!(text.contains(&addr.to_string()) && text.contains("refused"), "{text}");
    assert_eq!(io::Error::from(failure).kind(), io::ErrorKind::ConnectionRefused);

    let missing = Place::new("missing");
    let failure = outcome(&mut rig, |submitter| submitter.connect(missing.0.as_path())).unwrap_err();
    assert_eq!(failure.error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT));
    assert!(failure.failed.is_empty());
    drop(missing.listener());
    refused(&outcome(&mut rig, |submitter| submitter.connect(missing.0.clone())).unwrap_err());
    assert_over(&mut rig);
}

fn an_address_that_cannot_even_be_tried_fails<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let broadcast = SocketAddr::from(([255, 255, 255, 255], 9));
    let failure = outcome(&mut rig, |submitter| submitter.connect(broadcast)).unwrap_err();
    assert!(matches!(failure.error, OpError::Os(_)), "{failure}");
    let too_long = PathBuf::from("x".repeat(200));
    let failure = outcome(&mut rig, |submitter| submitter.connect(too_long)).unwrap_err();
    assert_eq!(failure.error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NAMETOOLONG));
    assert_over(&mut rig);
}

fn of_several_addresses_the_next_is_tried_when_one_refuses<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let ((_nobody, first), (listener, second)) = (nobody(), listener());
    let addrs = [first, first, second];
    let conn = outcome(&mut rig, |submitter| submitter.connect(&addrs[..]).stagger(LONG)).unwrap();
    assert_eq!(conn.peer_addr(), Some(second));
    assert_eq!(rig.counters().sessions, 1);
    drop((conn, listener));
    until(|| rig.barrier().is_empty() && rig.counters().sessions == 0);

    let failure = outcome(&mut rig, |submitter| submitter.connect(vec![first; 3])).unwrap_err();
    refused(&failure);
    assert!(failure.failed.iter().map(|(addr, _)| *addr).eq([first; 3]), "each was tried: {failure}");
    assert_over(&mut rig);
}

fn the_next_joins_in_when_one_does_not_answer<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let ((_deaf, _full, first), (listener, second)) = (deaf(), listener());
    let conn = outcome(&mut rig, |submitter| submitter.connect(vec![first, second]).stagger(SHORT)).unwrap();
    assert_eq!(conn.peer_addr(), Some(second));
    assert_eq!(rig.counters().sessions, 1, "the loser's place is free again");
    drop((conn, listener));
    until(|| rig.barrier().is_empty() && rig.counters().sessions == 0);
}

/// With no place for a second socket there is no race, and the next address waits until the first has failed.
fn without_a_place_for_a_race_there_is_none<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.sessions = 1);
    let ((_deaf, _full, first), (listener, second)) = (deaf(), listener());
    listener.set_nonblocking(true).unwrap();
    let (connect, id) = rig.submitter.connect(vec![first, second]).stagger(SHORT).named();
    connect.submit_with(1).unwrap();
    rig.assert_quiet();
    thread::sleep(10 * SHORT);
    rig.assert_quiet();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let error = rig.submitter.connect(second).submit_with(2).unwrap_err();
    assert_eq!((error.kind, error.context), (SubmitErrorKind::TooMany, 2));
    rig.submitter.cancel_connect(id).unwrap();
    assert!(matches!(connected(&mut rig).1.unwrap_err().error, OpError::Cancelled));
    assert_over(&mut rig);

    let ((_nobody, first), places) = (nobody(), rig.counters().sessions);
    let conn = outcome(&mut rig, |submitter| submitter.connect(vec![first, second]).stagger(Duration::ZERO)).unwrap();
    assert_eq!((conn.peer_addr(), places), (Some(second), 0));
}

fn a_deadline_covers_all_attempts<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let ((_nobody, first), (_deaf, _full, second)) = (nobody(), deaf());
    let failure = outcome(&mut rig, |submitter| submitter.connect(vec![first, second, second]).within(10 * SHORT));
    let failure = failure.unwrap_err();
    assert!(matches!(failure.error, OpError::TimedOut), "{failure}");
    assert!(failure.failed.iter().all(|(addr, _)| *addr == first), "the other has said nothing: {failure}");
    let over = outcome(&mut rig, |submitter| submitter.connect(second).by(Instant::now())).unwrap_err();
    assert_eq!(io::Error::from(over).kind(), io::ErrorKind::TimedOut);
    assert_eq!(rig.counters().expired, 2);
    assert_over(&mut rig);
}

/// A TCP client whose SYN found a full backlog tries again by itself: the answer is late, and is one.
fn an_answer_may_be_late<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (listener, _full, addr) = deaf();
    rig.submitter.connect(addr).within(LONG).submit_with(1).unwrap();
    rig.assert_quiet();
    drop(listener.accept().unwrap());
    let conn = connected(&mut rig).1.unwrap();
    let (peer, _) = listener.accept().unwrap();
    assert_carries(&mut rig, &conn, &peer);
}

fn a_full_unix_backlog_is_tried_again<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let place = Place::new("full");
    let (listener, _full) = place.full();
    let failure = outcome(&mut rig, |submitter| submitter.connect(place.0.as_path()).within(10 * SHORT)).unwrap_err();
    assert!(matches!(failure.error, OpError::TimedOut), "{failure}");
    rig.submitter.connect(place.0.as_path()).submit_with(1).unwrap();
    rig.assert_quiet();
    drop(listener.accept().unwrap());
    let conn = connected(&mut rig).1.unwrap();
    let (peer, _) = listener.accept().unwrap();
    assert_carries(&mut rig, &conn, &peer);
    drop((conn, peer));
    until(|| rig.barrier().is_empty() && rig.counters().sessions == 0);

    // One that waits hears of the end of the listener.
    let _other = UnixStream::connect(&place.0).unwrap();
    rig.submitter.connect(place.0.as_path()).submit_with(2).unwrap();
    rig.assert_quiet();
    drop(listener);
    refused(&connected(&mut rig).1.unwrap_err());
    assert_over(&mut rig);
}

fn a_cancel_ends_it_once<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (_deaf, _full, addr) = deaf();
    let place = Place::new("cancelled");
    let (_listener, _too) = place.full();
    let connects = [rig.submitter.connect(addr).named(), rig.submitter.connect(place.0.as_path()).named()];
    let mut ids = Vec::new();
    for (connect, id) in connects {
        connect.stagger(SHORT).within(LONG).submit_with(1).unwrap();
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    rig.assert_quiet();
    assert_eq!(rig.submitter.load(), 2);
    for id in ids {
        for _ in 0..2 {
            rig.submitter.cancel_connect(id).unwrap();
        }
        let failure = connected(&mut rig).1.unwrap_err();
        assert!(matches!(failure.error, OpError::Cancelled), "{failure}");
    }
    assert_over(&mut rig);
    assert_eq!(rig.counters().cancels_missed, 2);
}

fn a_shutdown_aborts_what_is_under_way_and_refuses_what_comes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (_deaf, _full, addr) = deaf();
    let place = Place::new("aborted");
    let (_listener, _too) = place.full();
    rig.submitter.connect(vec![addr, addr]).stagger(Duration::ZERO).within(LONG).submit_with(1).unwrap();
    rig.submitter.connect(place.0.as_path()).submit_with(2).unwrap();
    rig.assert_quiet();
    thread::sleep(SHORT);
    rig.assert_quiet();
    rig.submitter.shutdown(LONG);
    let refused = rig.submitter.connect(addr).submit_with(3).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 3));
    let (mut rest, submitter) = (rig.rest().into_iter(), rig.submitter.clone());
    for expected in [1, 2] {
        let Some(Taken::Connected(context, Err(failure))) = rest.next() else { panic!("{rest:?}") };
        assert_eq!(context, expected);
        assert!(matches!(failure.error, OpError::Aborted), "{failure}");
    }
    assert!(rest.next().is_none());
    assert_eq!((submitter.counters().sessions, submitter.load()), (0, 0));
}

/// What a batch that nobody takes holds, and what has not even begun, is closed with the watcher, too.
fn a_dropped_watcher_leaves_nothing_of_a_connect<D: Drive>() {
    let ((_deaf, _full, pending), (listener, addr), (_nobody, none)) = (deaf(), listener(), nobody());
    let place = Place::new("dropped");
    let (_listener, _too) = place.full();
    for moment in 0..3 {
        let mut rig = Rig::<D>::new();
        let connects = || {
            for to in [pending, addr, none] {
                rig.submitter.connect(vec![to, pending]).stagger(Duration::ZERO).submit_with(1).unwrap();
            }
            rig.submitter.connect(place.0.as_path()).submit_with(2).unwrap();
        };
        connects();
        match moment {
            0 => {}
            1 => drop(listener.accept().unwrap()),
            _ => {
                let won = rig.next();
                assert!(matches!(won, Taken::Connected(1, Ok(_))), "{won:?}");
            }
        }
        let submitter = rig.submitter.clone();
        drop(rig);
        assert_eq!(submitter.counters().sessions, 0);
    }
}

fn what_cannot_be_is_refused_at_once<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops = 1);
    let (_deaf, _full, addr) = deaf();
    let empty = rig.submitter.connect(Vec::new()).submit_with(1).unwrap_err();
    assert_eq!((empty.kind, empty.context), (SubmitErrorKind::NoAddress, 1));
    let (connect, id) = rig.submitter.connect(addr).named();
    connect.submit_with(2).unwrap();
    let second = rig.submitter.connect(addr).submit_with(3).unwrap_err();
    assert_eq!((second.kind, second.context), (SubmitErrorKind::TooMany, 3));
    assert_eq!(rig.counters().sessions, 1, "what was refused takes no place");
    rig.submitter.cancel_connect(id).unwrap();
    assert!(connected(&mut rig).1.is_err());
    assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
}

fn options_are_in_force<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (_listener, addr) = listener();
    for nodelay in [true, false] {
        let mut options = StreamOptions::default();
        assert!(options.nodelay, "the default");
        options.nodelay = nodelay;
        options.keepalive = Some(Duration::from_secs(77));
        let conn = outcome(&mut rig, |submitter| submitter.connect(addr).options(&options)).unwrap();
        conn.into_fd().submit_with(1).unwrap();
        let Got::Detached(detached) = rig.outcome() else { panic!("not detached") };
        let socket: OwnedFd = detached.socket;
        assert_eq!((sockopt::tcp_nodelay(&socket), sockopt::socket_keepalive(&socket)), (Ok(nodelay), Ok(true)));
        assert_eq!(sockopt::tcp_keepidle(&socket), Ok(Duration::from_secs(77)));
    }
}

/// Two loops: one connects, the other accepts. Each connect completes once.
fn a_thousand_at_once<D: Drive>() {
    const N: u64 = 1_000;
    process::raise_descriptor_limit();
    let (mut clients, mut server) = (Rig::<D>::new(), Rig::<Watcher<u64>>::new());
    let listener = server.submitter.listen_on("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    let submitter = clients.submitter.clone();
    let submits = thread::spawn(move || {
        for context in 0..N {
            submitter.connect(addr).within(LONG).submit_with(context).unwrap();
        }
    });
    let mut conns = HashMap::new();
    for _ in 0..N {
        let (context, result) = connected(&mut clients);
        assert!(conns.insert(context, result.unwrap()).is_none(), "{context} completed twice");
    }
    submits.join().unwrap();
    let mut accepted = Vec::new();
    while accepted.len() < conns.len() {
        match server.next() {
            Taken::Accepted(conn, _) => accepted.push(conn),
            other => panic!("{other:?}"),
        }
    }
    clients.assert_quiet();
    assert_eq!((clients.counters().sessions, server.counters().sessions), (N, N));
    drop(conns);
    drop(accepted);
    until(|| clients.barrier().is_empty() && clients.counters().sessions == 0);
}

/// A loop without a descriptor to spare says so, and connects again when there are some.
fn out_of_descriptors_it_fails_and_the_next_works<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (_listener, addr) = listener();
    let place = Place::new("emfile");
    let _other = place.listener();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
    let tcp = outcome(&mut rig, |submitter| submitter.connect(vec![addr, addr]));
    let unix = outcome(&mut rig, |submitter| submitter.connect(place.0.as_path()));
    setrlimit(Resource::Nofile, limit).unwrap();
    let (tcp, unix) = (tcp.unwrap_err(), unix.unwrap_err());
    for failure in [&tcp, &unix] {
        assert_eq!(failure.error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::MFILE), "{failure}");
    }
    assert_eq!((tcp.failed.len(), unix.failed.len()), (2, 0));
    assert_over(&mut rig);
    outcome(&mut rig, |submitter| submitter.connect(addr)).unwrap();
}

both_drives!(
    over_tcp_it_is_a_connection_like_any_other,
    over_unix_too,
    whom_nobody_answers_is_refused,
    an_address_that_cannot_even_be_tried_fails,
    of_several_addresses_the_next_is_tried_when_one_refuses,
    the_next_joins_in_when_one_does_not_answer,
    without_a_place_for_a_race_there_is_none,
    a_deadline_covers_all_attempts,
    an_answer_may_be_late,
    a_full_unix_backlog_is_tried_again,
    a_cancel_ends_it_once,
    a_shutdown_aborts_what_is_under_way_and_refuses_what_comes,
    a_dropped_watcher_leaves_nothing_of_a_connect,
    what_cannot_be_is_refused_at_once,
    options_are_in_force,
    a_thousand_at_once,
    out_of_descriptors_it_fails_and_the_next_works,
);

/// Each context comes back, or is dropped with the watcher: once.
#[test]
fn a_context_is_dropped_once() {
    check(|| {
        let (_deaf, _full, addr) = deaf();
        let context = Arc::new(());
        let rig = Rig::<EmbeddedWatcher<Arc<()>>, Arc<()>>::new();
        for _ in 0..3 {
            rig.submitter.connect(addr).submit_with(context.clone()).unwrap();
        }
        assert_eq!(Arc::strong_count(&context), 4);
        drop(rig);
        assert_eq!(Arc::strong_count(&context), 1);
    });
}

/// While it waits for an answer an idle loop sleeps, and is not woken but by the stagger (G4).
#[test]
fn a_connect_under_way_costs_no_turns() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::new();
        let (_deaf, _full, addr) = deaf();
        rig.submitter.connect(addr).within(LONG).submit_with(1).unwrap();
        rig.assert_quiet();
        let before = rig.counters().polls;
        support::doze();
        assert!(rig.counters().polls - before < 20, "{:?}", rig.counters());
    });
}
