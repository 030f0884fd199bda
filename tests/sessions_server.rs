//! Servers of typed sessions: several loops, listeners, limits, the end; and connections that they open.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use gaio::{End, Expect, Io, Next, Protocol, Server, SessionLimits};
use scripted::{Rig, Scripted, Seen, account};
use support::{check, until};

fn test(body: impl FnOnce()) {
    check(|| account(body));
}

/// Echoes, and says on which thread: the first line is its name.
struct Echo;

static OPEN: AtomicUsize = AtomicUsize::new(0);

impl Protocol for Echo {
    type Message = String;

    fn expects(&self) -> Expect {
        Expect::until(b"\n").at_most(1_000)
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        OPEN.fetch_add(1, Ordering::SeqCst);
        io.join(1);
        io.write(thread::current().name().unwrap_or("?").as_bytes());
        io.write(b"\n");
        Next::Become(self)
    }

    fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(line);
        io.write(b"\n");
        Next::Become(self)
    }

    fn on_message(self, message: String, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(message.as_bytes());
        Next::Become(self)
    }

    fn on_end(state: Option<Self>, _end: &End) {
        assert!(state.is_some());
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

fn line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn echo(stream: &mut (impl Read + Write), text: &str) {
    stream.write_all(format!("{text}\n").as_bytes()).unwrap();
    assert_eq!(line(stream), text);
}

#[test]
fn several_loops_share_a_port() {
    test(|| {
        let server = Server::bind("127.0.0.1:0").unwrap().loops(3).serve(|_| Echo).unwrap();
        let address = server.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        let mut peers: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        let names: std::collections::HashSet<_> = peers.iter_mut().map(line).collect();
        assert!(names.len() > 1 && names.iter().all(|name| name.starts_with("gaio-")), "{names:?}");
        peers.iter_mut().for_each(|peer| echo(peer, "hello"));
        assert_eq!(server.hubs().iter().map(gaio::Hub::sessions).sum::<usize>(), 60);
        server.broadcast(1, &"all of you\n".to_owned()).unwrap();
        peers.iter_mut().for_each(|peer| assert_eq!(line(peer), "all of you"));
        // Nobody else may have the port.
        assert!(TcpListener::bind(address).is_err());
        drop(peers);
        until(|| server.hubs().iter().all(|hub| hub.sessions() == 0));
        let frames: u64 = server.hubs().iter().map(|hub| hub.counters().frames).sum();
        let ended: u64 = server.hubs().iter().map(|hub| hub.counters().ended_themselves).sum();
        assert_eq!((frames, ended), (60, 60));
        server.shutdown(Duration::ZERO);
        server.join().unwrap();
        assert_eq!(OPEN.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn of_several_addresses_the_first_that_can_be_had_is_taken() {
    test(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        for loops in [1, 2] {
            let addresses = [taken.local_addr().unwrap(), free];
            let server = Server::bind(&addresses[..]).unwrap().loops(loops).serve(|_peer| Echo).unwrap();
            let address = server.local_addr().unwrap();
            assert!(address.port() != 0 && address != addresses[0]);
            drop(TcpStream::connect(address).unwrap());
            drop(server);
            let refused = Server::bind(&addresses[..1]).unwrap().loops(loops).serve(|_peer| Echo).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        }
        let none: &[SocketAddr] = &[];
        assert_eq!(Server::bind(none).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

/// As the docs of `loops` warn: only one loop finds out that somebody else has the port.
#[test]
fn servers_of_several_loops_share_a_port_with_each_other() {
    test(|| {
        let first = Server::bind("127.0.0.1:0").unwrap().loops(2).serve(|_peer| Echo).unwrap();
        let address = first.local_addr().unwrap();
        let second = Server::bind(address).unwrap().loops(2).serve(|_peer| Echo).unwrap();
        assert_eq!(second.local_addr(), Some(address));
        let refused = Server::bind(address).unwrap().serve(|_peer| Echo).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn one_loop_accepts_for_all_where_a_port_cannot_be_shared() {
    test(|| {
        let path = std::env::temp_dir().join(format!("gaio-sessions-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        for bound in [true, false] {
            let server =
                if bound { Server::bind_unix(&path).unwrap() } else { Server::on(UnixListener::bind(&path).unwrap()) };
            let server = server.loops(3).serve(|peer| {
                assert!(peer.is_none());
                Echo
            });
            let server = server.unwrap();
            assert_eq!(server.local_addr(), None);
            let mut peers = Vec::new();
            for n in 1..=30 {
                let mut peer = UnixStream::connect(&path).unwrap();
                line(&mut peer);
                echo(&mut peer, "hello");
                peers.push(peer);
                let loads: Vec<_> = server.hubs().iter().map(gaio::Hub::sessions).collect();
                assert_eq!(loads.iter().sum::<usize>(), n);
                assert!(
                    loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1,
                    "to the least loaded: {loads:?}"
                );
            }
            drop(server);
            peers.iter_mut().for_each(|peer| assert_eq!(line(peer), "", "everything has ended"));
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(OPEN.load(Ordering::SeqCst), 0);
    });
}

/// A loop that has no place, or is at its end, is none of those that are chosen from: be it the one that accepts.
#[test]
fn connections_go_to_loops_that_can_take_them() {
    test(|| {
        let path = std::env::temp_dir().join(format!("gaio-sessions-places-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let server = Server::bind_unix(&path).unwrap().loops(3).serve(|_peer| Echo).unwrap();
        let hubs = server.hubs();
        let set_places = |hub: &gaio::Hub<Echo>, sessions| {
            let mut limits = hub.limits();
            limits.sessions = sessions;
            hub.set_limits(limits).unwrap();
        };
        let mut peers = Vec::new();
        let mut connect = |n| {
            for _ in 0..n {
                let mut peer = UnixStream::connect(&path).unwrap();
                assert_ne!(line(&mut peer), "", "it is served");
                peers.push(peer);
            }
            hubs.iter().map(gaio::Hub::sessions).collect::<Vec<_>>()
        };
        hubs[2].shutdown(Duration::ZERO);
        assert_eq!(connect(6), [3, 3, 0], "there are two left");
        set_places(&hubs[1], 4);
        assert_eq!(connect(6), [8, 4, 0]);
        set_places(&hubs[0], 8);
        set_places(&hubs[1], 100);
        assert_eq!(connect(6), [8, 10, 0]);
        set_places(&hubs[1], 10);
        let mut refused = UnixStream::connect(&path).unwrap();
        assert_eq!(line(&mut refused), "");
        assert_eq!(hubs.iter().map(|hub| hub.counters().refused).collect::<Vec<_>>(), [1, 0, 0]);
        drop(server);
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn who_is_not_admitted_and_who_is_too_many_is_turned_away_and_counted() {
    test(|| {
        let open = Arc::new(AtomicBool::new(false));
        let mut limits = SessionLimits::default();
        limits.sessions = 2;
        let admit = open.clone();
        let server = Server::bind("127.0.0.1:0").unwrap().limits(limits);
        let server = server.admit(move |peer| peer.is_some() && admit.load(Ordering::SeqCst)).serve(|_| Echo).unwrap();
        let connect = || TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(line(&mut connect()), "");
        open.store(true, Ordering::SeqCst);
        let (mut one, mut two) = (connect(), connect());
        assert_eq!((line(&mut one), line(&mut two)), ("gaio-0".into(), "gaio-0".into()));
        assert_eq!(line(&mut connect()), "");
        let counters = server.hubs()[0].counters();
        assert_eq!((counters.accepted, counters.refused, counters.sessions), (4, 2, 2));
        drop(one);
        until(|| server.hubs()[0].sessions() == 1);
        assert_eq!(line(&mut connect()), "gaio-0", "there is a place again");
    });
}

#[test]
fn a_welcome_that_panics_turns_its_connection_away() {
    test(|| {
        let server = Server::bind("127.0.0.1:0").unwrap().serve(|peer: Option<SocketAddr>| {
            static FIRST: AtomicBool = AtomicBool::new(true);
            assert!(!FIRST.swap(false, Ordering::SeqCst), "on purpose: {peer:?}");
            Echo
        });
        let server = server.unwrap();
        let connect = || TcpStream::connect(server.local_addr().unwrap()).unwrap();
        assert_eq!(line(&mut connect()), "");
        assert_eq!(line(&mut connect()), "gaio-0");
    });
}

#[test]
fn a_server_that_cannot_be_had_leaves_nothing_behind() {
    test(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Server::bind(taken.local_addr().unwrap()).unwrap().serve(|_| Echo).is_err());
        assert!(Server::bind("127.0.0.1:0").unwrap().pin_from(100_000).loops(2).serve(|_| Echo).is_err());
        let mut limits = SessionLimits::default();
        limits.low_water = limits.high_water + 1;
        assert!(Server::bind("127.0.0.1:0").unwrap().limits(limits).serve(|_| Echo).is_err());
        let no_listener = UnixStream::pair().unwrap().0;
        assert!(Server::on(std::os::fd::OwnedFd::from(no_listener)).serve(|_| Echo).is_err());
    });
}

/// The last CPU that this process may run on.
fn last_cpu() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    list.trim().rsplit([',', '-']).next().unwrap().parse().unwrap()
}

#[test]
fn a_server_pins_its_loops_whatever_is_said_first() {
    test(|| {
        let builder = || Server::bind("127.0.0.1:0").unwrap();
        let last = last_cpu();
        for builder in [builder().per_core(), builder().pin_from(last).loops(1), builder().loops(1).pin_from(last)] {
            let server = builder.serve(|_| Echo).unwrap();
            assert_eq!(line(&mut TcpStream::connect(server.local_addr().unwrap()).unwrap())[..5], *"gaio-");
        }
        // The second would need one behind the last.
        assert!(builder().pin_from(last).loops(2).serve(|_| Echo).is_err());
        assert!(builder().loops(2).pin_from(last).serve(|_| Echo).is_err());
    });
}

/// Ends its server from within: by dropping the last handle, or by waiting for it.
struct Within;

type Handle = Arc<std::sync::Mutex<Option<Server<Within>>>>;

impl Protocol for Within {
    type Message = (Handle, bool);

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.join(1);
        io.write(b"\n");
        Next::Become(self)
    }

    fn on_frame(self, _frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(self)
    }

    fn on_message(self, (server, joins): (Handle, bool), _io: &mut Io<'_, Self>) -> Next<Self> {
        let server = server.lock().unwrap().take();
        match server {
            Some(server) if joins => assert_eq!(server.join().unwrap_err().kind(), ErrorKind::Deadlock),
            server => drop(server),
        }
        Next::Become(self)
    }

    fn on_shutdown(self, _io: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(self)
    }
}

/// Nobody can wait for the thread that he is on. It ends all the same, and so do the others.
#[test]
fn a_server_can_be_dropped_by_its_own_session() {
    test(|| {
        for (loops, joins) in [(1, false), (3, false), (2, true)] {
            let server = Server::bind("127.0.0.1:0").unwrap().loops(loops).serve(|_peer| Within).unwrap();
            let mut peer = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            line(&mut peer);
            let hubs = server.hubs().to_vec();
            let handle = Arc::new(std::sync::Mutex::new(None));
            let mut locked = handle.lock().unwrap();
            for hub in &hubs {
                hub.broadcast(1, (handle.clone(), joins)).map_err(|(kind, _)| kind).unwrap();
            }
            *locked = Some(server);
            drop(locked);
            until(|| hubs.iter().all(|hub| hub.sessions() == 0));
            assert!(handle.lock().unwrap().is_none());
            assert!(hubs.iter().all(|hub| hub.counters().panics == 0));
        }
    });
}

#[test]
fn a_graceful_shutdown_lets_answers_out() {
    test(|| {
        let server = Server::bind("127.0.0.1:0").unwrap().loops(2).serve(|_| Echo).unwrap();
        let mut peers: Vec<_> = (0..10).map(|_| TcpStream::connect(server.local_addr().unwrap()).unwrap()).collect();
        peers.iter_mut().for_each(|peer| drop(line(peer)));
        server.broadcast(1, &"last words\n".to_owned()).unwrap();
        server.shutdown(Duration::from_secs(60));
        for mut peer in peers {
            assert_eq!(line(&mut peer), "last words");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0, "and a clean end");
        }
        assert!(server.broadcast(1, &String::new()).is_err());
        server.join().unwrap();
    });
}

#[test]
fn connects_come_to_something_or_say_why_not() {
    test(|| {
        let mut rig = Rig::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, log) = Scripted::quiet(Expect::any());
        rig.hub.connect(address, state).map_err(|_| ()).unwrap();
        rig.settle();
        let (mut peer, _) = listener.accept().unwrap();
        rig.until(|| log.has(&Seen::Open));
        peer.write_all(b"hello").unwrap();
        rig.until(|| log.frames().concat() == b"hello");
        // From inside of a session.
        let (inner, second) = Scripted::quiet(Expect::any());
        let inner = std::sync::Mutex::new(Some(inner));
        log.send(scripted::order(move |io| {
            io.connect(address, inner.lock().unwrap().take().unwrap());
            scripted::Then::Stay
        }));
        rig.until(|| second.has(&Seen::Open));
        drop((peer, listener));
        assert!(rig.end_of(&second).contains("reset"), "it was never accepted");
        assert_eq!(rig.end_of(&log), "closed");
        let (state, log) = Scripted::quiet(Expect::any());
        rig.hub.connect(address, state).map_err(|_| ()).unwrap();
        assert!(rig.end_of(&log).contains("refused"));
        assert_eq!(log.all().len(), 1, "it never began");
        assert_eq!(rig.hub.sessions(), 0);
    });
}

/// The limit on sessions holds whichever way they come.
#[test]
fn given_and_opened_connections_count_among_the_sessions() {
    test(|| {
        let mut rig = Rig::with(|limits| limits.sessions = 1);
        let (ours, peer) = UnixStream::pair().unwrap();
        let (state, first) = Scripted::quiet(Expect::any());
        rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
        rig.until(|| first.has(&Seen::Open));
        let (another, _its_peer) = UnixStream::pair().unwrap();
        let (state, third) = Scripted::quiet(Expect::any());
        let (refused, state) = rig.hub.adopt(another, state).unwrap_err();
        assert!(matches!(refused.kind, gaio::DelegateErrorKind::TooMany), "{refused}");
        let (to_open, second) = Scripted::quiet(Expect::any());
        rig.hub.connect(SocketAddr::from(([127, 0, 0, 1], 1)), to_open).map_err(|_| ()).unwrap();
        assert_eq!(rig.end_of(&second), End::TooMany.to_string());
        assert_eq!(rig.hub.sessions(), 1);
        drop(peer);
        rig.end_of(&first);
        rig.hub.adopt(refused.socket, state).map_err(|(error, _)| error).unwrap();
        rig.until(|| third.has(&Seen::Open));
    });
}

#[test]
fn an_accepted_session_does_not_linger_though_its_listener_does() {
    test(|| {
        // A close that lingers stands still, and its loop with it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_linger(&listener, Some(Duration::from_secs(50))).unwrap();
        let address = listener.local_addr().unwrap();
        let (farewell, left) = std::sync::mpsc::channel();
        let mut rig = Rig::welcoming(
            |_| {},
            move || {
                let farewell = farewell.clone();
                Scripted::new(Expect::any(), move |_, _| {
                    let farewell = farewell.clone();
                    scripted::Then::Leave(Box::new(move |detached| farewell.send(detached).unwrap()))
                })
            },
        );
        rig.hub.listen(listener).unwrap();
        let _peer = TcpStream::connect(address).unwrap();
        let welcomed = rig.welcomed.clone();
        rig.until(|| welcomed.lock().unwrap().first().is_some_and(|log| log.end().is_some()));
        let detached = left.recv().unwrap();
        assert_eq!(rustix::net::sockopt::socket_linger(&detached.socket), Ok(None));
    });
}
