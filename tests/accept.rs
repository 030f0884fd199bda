//! Listening: what is accepted, at which pace, and what a shortage of descriptors does to it (G3, G10).

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use gaio::{Batch, Conn, Event, Limits, Listener, Options, Outcome, Submitter, Watcher};
use process::{PATIENCE, in_child, is_child, strace, until};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn start(change: impl FnOnce(&mut Limits)) -> (Watcher, Submitter) {
    let mut limits = Limits::default();
    change(&mut limits);
    Watcher::spawn(Options::default().limits(limits)).unwrap()
}

fn listen(submitter: &Submitter) -> (Listener, SocketAddr) {
    let listener = submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// The next batch that holds something.
fn batch(watcher: &mut Watcher) -> Batch<'_> {
    let batch = watcher.wait_timeout(PATIENCE).unwrap();
    assert!(batch.len() > 0, "nothing came");
    batch
}

/// Takes accepted connections until there are `n`.
fn accepted(watcher: &mut Watcher, n: usize) -> Vec<(Conn, Option<SocketAddr>)> {
    let mut taken = Vec::new();
    while taken.len() < n {
        for event in batch(watcher) {
            match event {
                Event::Accepted { conn, peer, .. } => taken.push((conn, peer)),
                other => panic!("{other:?}"),
            }
        }
    }
    taken
}

/// Does the connection carry bytes both ways?
fn assert_served(watcher: &mut Watcher, submitter: &Submitter, address: SocketAddr) {
    let mut peer = connect(address);
    peer.write_all(b"ping").unwrap();
    let mut answered = false;
    while !answered {
        for event in batch(watcher) {
            match event {
                Event::Accepted { conn, .. } => conn.read_leased().submit().unwrap(),
                Event::Done { conn, outcome: Outcome::Leased(bytes), .. } => conn.write(bytes).submit().unwrap(),
                Event::Done { outcome: Outcome::Wrote(_), .. } => answered = true,
                _ => {}
            }
        }
    }
    let mut answer = [0; 4];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping", "{:?}", submitter.counters());
}

#[test]
fn an_accepted_connection_comes_with_its_peer_and_its_listener() {
    let (mut watcher, submitter) = start(|_| {});
    let (one, address) = listen(&submitter);
    let (other, _) = listen(&submitter);
    assert_ne!(one.id(), other.id());
    let peer = connect(address);
    let event = batch(&mut watcher).next();
    let Some(Event::Accepted { conn, peer: seen, listener }) = event else { panic!("{event:?}") };
    assert_eq!(listener, one.id());
    assert_eq!(seen, Some(peer.local_addr().unwrap()));
    assert_eq!(conn.peer_addr(), seen);
    assert_eq!(conn.local_addr(), Some(address));
    assert_eq!(submitter.counters().accepted, 1);
}

#[test]
fn a_listener_on_all_addresses_tells_which_one_was_meant() {
    let (mut watcher, submitter) = start(|_| {});
    let listener = submitter.listen(TcpListener::bind("0.0.0.0:0").unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _peer = connect(SocketAddr::from(([127, 0, 0, 2], port)));
    let (conn, _) = accepted(&mut watcher, 1).remove(0);
    assert_eq!(conn.local_addr(), Some(SocketAddr::from(([127, 0, 0, 2], port))));
}

#[test]
fn a_unix_listener_accepts_too() {
    let (mut watcher, submitter) = start(|_| {});
    let path = std::env::temp_dir().join(format!("gaio-accept-{}", std::process::id()));
    let listener = submitter.listen(UnixListener::bind(&path).unwrap()).unwrap();
    let peer = UnixStream::connect(&path);
    std::fs::remove_file(&path).unwrap();
    let mut peer = peer.unwrap();
    assert_eq!(listener.local_addr(), None);
    let (conn, address) = accepted(&mut watcher, 1).remove(0);
    assert_eq!((address, conn.peer_addr()), (None, None));
    conn.write(b"hello").submit().unwrap();
    let mut said = [0; 5];
    peer.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hello");
}

#[test]
fn connections_that_came_before_the_listener_was_given_are_accepted() {
    let (mut watcher, submitter) = start(|_| {});
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let _peers: Vec<_> = (0..10).map(|_| connect(address)).collect();
    let _listener = submitter.listen(socket).unwrap();
    accepted(&mut watcher, 10);
}

#[test]
fn what_is_no_listener_comes_back() {
    let (_watcher, submitter) = start(|_| {});
    let (one, _other) = UnixStream::pair().unwrap();
    let refused = submitter.listen(one).unwrap_err();
    assert!(refused.to_string().contains("listen"), "{refused}");
}

/// The credit: accepting pauses while that many wait to be taken, and goes on when they are. Nothing is lost.
#[test]
fn accepting_pauses_at_the_credit_and_goes_on_with_the_takes() {
    const CREDIT: usize = 8;
    const PEERS: usize = 100;
    let (mut watcher, submitter) = start(|limits| limits.listen_credit = CREDIT);
    let (_listener, address) = listen(&submitter);
    let peers: Vec<_> = (0..PEERS).map(|_| connect(address)).collect();
    until("the first ones are accepted", || submitter.counters().accepted > 0);
    // The mailbox's cell, full and untaken, and the batch behind it are counted together.
    thread::sleep(Duration::from_millis(50));
    let waiting = submitter.counters().accepted;
    assert!(waiting <= CREDIT as u64, "{waiting} accepted and not taken, the credit is {CREDIT}");
    let mut addresses: Vec<_> = accepted(&mut watcher, PEERS).into_iter().filter_map(|(_, peer)| peer).collect();
    let mut expected: Vec<_> = peers.iter().map(|peer| peer.local_addr().unwrap()).collect();
    addresses.sort();
    expected.sort();
    assert_eq!(addresses, expected, "each once");
}

/// A credit that is used up is no work: the loop sleeps until a batch is taken.
#[test]
fn a_loop_without_credit_sleeps() {
    let (mut watcher, submitter) = start(|limits| limits.listen_credit = 1);
    let (_listener, address) = listen(&submitter);
    let _peers: Vec<_> = (0..5).map(|_| connect(address)).collect();
    until("one is accepted", || submitter.counters().accepted == 1);
    thread::sleep(Duration::from_millis(20));
    let before = submitter.counters().polls;
    thread::sleep(Duration::from_millis(200));
    let polls = submitter.counters().polls - before;
    assert!(polls < 20, "{polls} polls with nothing to do (G4)");
    accepted(&mut watcher, 5);
}

#[test]
fn beyond_the_limit_on_sessions_a_peer_is_refused_and_counted() {
    let (mut watcher, submitter) = start(|limits| limits.sessions = 2);
    let (_listener, address) = listen(&submitter);
    let mut peers: Vec<_> = (0..5).map(|_| connect(address)).collect();
    until("the others are refused", || submitter.counters().refused == 3);
    let kept = accepted(&mut watcher, 2);
    assert_eq!(submitter.counters().sessions, 2);
    let mut ended = 0;
    for peer in &mut peers {
        let taken = kept.iter().any(|(_, address)| *address == Some(peer.local_addr().unwrap()));
        if !taken {
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "closed, not left hanging");
            ended += 1;
        }
    }
    assert_eq!(ended, 3);
    drop((kept, peers));
    until("their places are free", || submitter.counters().sessions == 0);
    assert_served(&mut watcher, &submitter, address);
}

/// A subscription: any number of items, then exactly one terminal (G1).
#[test]
fn a_dropped_handle_ends_the_listener_once_and_nothing_follows() {
    let (mut watcher, submitter) = start(|_| {});
    let (listener, address) = listen(&submitter);
    let id = listener.id();
    let _peers: Vec<_> = (0..20).map(|_| connect(address)).collect();
    drop(listener);
    let mut ended = 0;
    while ended == 0 {
        for event in batch(&mut watcher) {
            match event {
                Event::ListenerEnded { listener, error } => {
                    assert_eq!(listener, id);
                    assert!(error.is_none(), "{error:?}");
                    ended += 1;
                }
                Event::Accepted { .. } => assert_eq!(ended, 0, "an item behind the terminal"),
                other => panic!("{other:?}"),
            }
        }
    }
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    submitter.post(()).unwrap();
    let mut posted = false;
    while !posted {
        for event in batch(&mut watcher) {
            match event {
                Event::Posted(()) => posted = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(ended, 1);
}

#[test]
fn a_listener_without_credit_can_be_ended() {
    let (mut watcher, submitter) = start(|limits| limits.listen_credit = 1);
    let (listener, address) = listen(&submitter);
    let _peers: Vec<_> = (0..3).map(|_| connect(address)).collect();
    until("one is accepted", || submitter.counters().accepted == 1);
    drop(listener);
    let mut ended = false;
    while !ended {
        ended = batch(&mut watcher).any(|event| matches!(event, Event::ListenerEnded { .. }));
    }
}

/// Somebody else holds it too, and shuts it down: no accept will ever succeed again. The event says so, with the error, and
/// others go on.
#[test]
fn a_listener_that_is_shut_down_under_the_loop_ends_with_an_error() {
    let (mut watcher, submitter) = start(|_| {});
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = socket.try_clone().unwrap();
    let listener = submitter.listen(socket).unwrap();
    let (_other, address) = listen(&submitter);
    let _peer = connect(address);
    accepted(&mut watcher, 1);
    rustix::net::shutdown(&shared, rustix::net::Shutdown::Both).unwrap();
    let mut ended = None;
    while ended.is_none() {
        for event in batch(&mut watcher) {
            let Event::ListenerEnded { listener, error } = event else { panic!("{event:?}") };
            ended = Some((listener, error.map(|error| error.kind())));
        }
    }
    assert_eq!(ended, Some((listener.id(), Some(ErrorKind::InvalidInput))));
    let _late = connect(address);
    accepted(&mut watcher, 1);
    drop(listener);
    submitter.post(()).unwrap();
    let rest: Vec<_> = batch(&mut watcher).collect();
    assert!(matches!(rest[..], [Event::Posted(())]), "told once: {rest:?}");
}

/// A client that is gone before it was accepted, by a reset: ECONNABORTED elsewhere, a dead connection on Linux.
#[test]
fn a_peer_that_resets_before_it_was_accepted_harms_nobody() {
    let (mut watcher, submitter) = start(|_| {});
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    for _ in 0..20 {
        let peer = connect(address);
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
    }
    let _listener = submitter.listen(socket).unwrap();
    assert_served(&mut watcher, &submitter, address);
}

// --- shortages: each in a process of its own -----------------------------------------------------------------------

/// With every descriptor taken, peers are told so by a close, the loop neither dies nor spins, and with descriptors
/// back the service goes on.
#[test]
fn out_of_descriptors_the_loop_sheds_backs_off_and_recovers() {
    if !is_child() {
        return in_child(Command::new("env"), "out_of_descriptors_the_loop_sheds_backs_off_and_recovers");
    }
    const CLIENTS: usize = 120;
    let old = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: old.maximum }).unwrap();
    let (mut watcher, submitter) = start(|_| {});
    let (_listener, address) = listen(&submitter);
    let peers: Vec<_> = (0..10).map(|_| connect(address)).collect();
    let kept = accepted(&mut watcher, 10);
    // The clients' descriptors are made before there are none; they connect afterwards.
    let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let clients: Vec<_> = std::iter::repeat_with(socket).take(CLIENTS).collect();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    for client in &clients {
        rustix::net::connect(client, &address).unwrap();
    }
    let before = submitter.counters();
    thread::sleep(Duration::from_secs(1));
    let after = submitter.counters();
    let polls = after.polls - before.polls;
    assert!(after.shed > 0, "peers are told: {after:?}");
    assert!(polls < 200, "{polls} polls in a second of starvation: {after:?}");
    assert_eq!(after.accepted, 10, "none was accepted for want of descriptors");
    until("all are told", || submitter.counters().shed == CLIENTS as u64);
    for client in clients {
        let end = TcpStream::from(client).read(&mut [0; 1]);
        assert!(matches!(end, Ok(0) | Err(_)), "told that nobody serves it: {end:?}");
    }
    drop((hoard, peers, kept));
    assert_served(&mut watcher, &submitter, address);
}

/// Accepts that fail without a shortage, by strace.
fn injected(error: &str, when: &str, name: &str) {
    if !is_child() {
        let mut command = strace();
        let inject = format!("inject=accept4:error={error}:when={when}");
        // Only what is traced can be injected into; the trace itself is thrown away.
        command.args(["-o", "/dev/null", "-e", "trace=accept4", "-e", &inject]);
        return in_child(command, name);
    }
    let (mut watcher, submitter) = start(|_| {});
    let (_listener, address) = listen(&submitter);
    for _ in 0..3 {
        assert_served(&mut watcher, &submitter, address);
    }
    let counters = submitter.counters();
    assert!(counters.accept_errors > 0, "nothing was injected: {counters:?}");
    assert!(counters.polls < 2_000, "it spins: {counters:?}");
}

#[test]
fn emfile_passes() {
    injected("EMFILE", "1..2", "emfile_passes");
}

#[test]
fn enfile_passes() {
    injected("ENFILE", "1..2", "enfile_passes");
}

#[test]
fn econnaborted_passes() {
    injected("ECONNABORTED", "1..3", "econnaborted_passes");
}

#[test]
fn eproto_passes() {
    injected("EPROTO", "1..3", "eproto_passes");
}

#[test]
fn enobufs_passes() {
    injected("ENOBUFS", "1..2", "enobufs_passes");
}

#[test]
fn an_error_that_stays_long_is_no_spin() {
    injected("ECONNABORTED", "1..40", "an_error_that_stays_long_is_no_spin");
}

/// G3: accepted connections inherit the listener's linger, and a close with unsent bytes would block the loop for as
/// long. It is switched off for each.
#[test]
fn an_accepted_connection_does_not_linger_though_its_listener_does() {
    let (mut watcher, submitter) = start(|_| {});
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let an_hour = Some(Duration::from_secs(3_600));
    rustix::net::sockopt::set_socket_linger(&socket, an_hour).unwrap();
    let address = socket.local_addr().unwrap();
    let early = connect(address); // in the queue before the loop has the listener
    let listener = submitter.listen(socket).unwrap();
    let late = connect(address);
    for (conn, _) in accepted(&mut watcher, 2) {
        conn.into_fd().submit().unwrap();
        let mut linger = None;
        while linger.is_none() {
            for event in batch(&mut watcher) {
                if let Event::Done { outcome: Outcome::Detached(detached), .. } = event {
                    linger = Some(rustix::net::sockopt::socket_linger(&detached.socket));
                }
            }
        }
        assert_eq!(linger, Some(Ok(None)));
    }
    drop((early, late, listener));
}
