//! Typed sessions: each ends once, for one reason, and alone, also if its code panics; or leaves, with all that is its.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use gaio::{Detached, Event, Expect, Io, Options, Outcome, Watcher};
use rustix::net::sockopt;
use scripted::{Log, Rig, Scripted, Seen, Then, Trap, account, frame, lost, note, order, usual};
use support::{NETS, Net, Peer, check, finish, read_all, read_some, read_to_its_end, reset};

fn test(body: impl FnOnce()) {
    // Panics of the sessions are on purpose, and too many to read.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        let text = panic.payload().downcast_ref::<String>().map_or(text, String::as_str);
        if !text.contains("on purpose") {
            hook(panic);
        }
    }));
    check(|| account(body));
    drop(std::panic::take_hook());
}

fn adopt(rig: &Rig, net: Net, state: Scripted) -> Peer {
    let (ours, peer) = net.pair();
    rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
    peer
}

/// Panics in the callback for which that holds.
fn panics_at(at: impl Fn(&Seen) -> bool + Send + Sync + 'static, expect: Expect) -> (Scripted, Log) {
    Scripted::new(expect, move |seen, io| {
        if *seen == Seen::Message("fill") {
            io.write(&vec![0; 8 << 20]);
        }
        if *seen == Seen::Open {
            io.timer(7, Duration::ZERO);
        }
        io.write(b"never sent, or before it");
        assert!(!at(seen), "on purpose");
        usual(seen)
    })
}

#[test]
fn a_panic_in_any_callback_ends_that_session_alone() {
    type At = fn(&Seen) -> bool;
    let callbacks: [(At, &str); 8] = [
        (|seen| *seen == Seen::Open, "open"),
        (|seen| matches!(seen, Seen::Frame(_)), "frame"),
        (|seen| matches!(seen, Seen::Message(_)), "message"),
        (|seen| *seen == Seen::Eof, "eof"),
        (|seen| matches!(seen, Seen::Timeout(_)), "timeout"),
        (|seen| matches!(seen, Seen::Timer(_)), "timer"),
        (|seen| *seen == Seen::Drained, "drained"),
        (|seen| *seen == Seen::Shutdown, "shutdown"),
    ];
    test(|| {
        for (at, name) in callbacks {
            let mut rig = Rig::new();
            let (state, neighbour) = Scripted::quiet(Expect::any());
            let mut peer = adopt(&rig, Net::Tcp, state.echoing());
            let before = lost();
            let expect = Expect::any();
            let expect = if name == "timeout" { expect.idle_within(Duration::from_millis(5)) } else { expect };
            let (state, log) = panics_at(at, expect);
            let mut victim = adopt(&rig, Net::Tcp, state);
            match name {
                "frame" => victim.write_all(b"x").unwrap(),
                "message" | "drained" => {
                    rig.until(|| log.has(&Seen::Open));
                    log.send(note("fill"));
                    rig.settle();
                    let reader = std::thread::spawn(move || read_to_its_end(&mut victim));
                    rig.until(|| lost() > before);
                    reader.join().unwrap();
                    continue;
                }
                "eof" => finish(&victim),
                "shutdown" => {
                    rig.until(|| log.has(&Seen::Open));
                    drop(peer);
                    rig.finish(Duration::from_secs(60));
                    assert_eq!(lost(), before + 1);
                    assert_eq!(neighbour.end().as_deref(), Some("closed"));
                    continue;
                }
                _ => {}
            }
            rig.until(|| lost() > before);
            assert_eq!((rig.hub.counters().panics, rig.hub.sessions()), (1, 1), "{name}");
            assert!(read_to_its_end(&mut victim).1.is_some(), "{name}: the peer is not told that all is well");
            peer.write_all(b"still there").unwrap();
            rig.until(|| neighbour.frames().concat().len() == 11);
            assert_eq!(read_some(&mut peer, 11), b"still there", "{name}");
        }
    });
}

#[test]
fn a_panic_in_what_is_asked_of_a_state_ends_that_session_alone() {
    test(|| {
        let short = Expect::exactly(2).at_most(1);
        let traps = [(Trap::Expects, Expect::any()), (Trap::Decode, Expect::custom()), (Trap::BadFrame, short)];
        for (trap, expect) in traps {
            let mut rig = Rig::new();
            let before = lost();
            let (state, _) = Scripted::quiet(expect);
            let mut peer = adopt(&rig, Net::Tcp, state.trapped(trap));
            peer.write_all(b"x").unwrap();
            let hub = rig.hub.clone();
            rig.until(|| hub.sessions() == 0);
            // A state that panicked when it was looked at is still there to be told.
            assert!(lost() - before <= 1);
            assert_eq!(rig.hub.counters().panics, 1, "{trap:?}");
        }
        // In the last callback: nothing else suffers.
        let mut rig = Rig::new();
        let (state, log) = Scripted::quiet(Expect::any());
        let peer = adopt(&rig, Net::Tcp, state.trapped(Trap::End));
        finish(&peer);
        assert_eq!(rig.end_of(&log), "closed");
        let (state, log) = Scripted::quiet(Expect::any());
        let peer = adopt(&rig, Net::Tcp, state);
        finish(&peer);
        assert_eq!(rig.end_of(&log), "closed");
    });
}

#[test]
fn a_reset_ends_a_session_that_reads() {
    test(|| {
        let mut rig = Rig::new();
        for expect in [Expect::any(), Expect::exactly(10)] {
            let (state, log) = Scripted::quiet(expect);
            let mut peer = adopt(&rig, Net::Tcp, state);
            peer.write_all(b"half").unwrap();
            rig.until(|| log.has(&Seen::Open));
            rig.settle();
            reset(peer);
            assert!(rig.end_of(&log).contains("reset"), "{:?}", log.all());
            assert!(!log.has(&Seen::Eof));
        }
    });
}

#[test]
fn no_callback_follows_a_decision() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let (state, log) = Scripted::new(Expect::exactly(1), |seen, io: &mut Io<'_, Scripted>| match seen {
                Seen::Frame(_) => {
                    io.write(b"answer");
                    io.timer(1, Duration::ZERO);
                    io.join(5);
                    let _ = io.address().send(note("to myself"));
                    Then::Close
                }
                _ => Then::Stay,
            });
            let mut peer = adopt(&rig, net, state);
            peer.write_all(b"abc").unwrap();
            rig.until(|| !log.frames().is_empty());
            // It is closing while the peer does not end.
            rig.hub.broadcast(5, note("to its group")).unwrap();
            log.send(note("to itself"));
            rig.settle();
            rig.hub.shutdown(Duration::from_secs(60));
            rig.settle();
            assert_eq!(log.take(), [Seen::Open, frame(b"a")]);
            assert_eq!(read_all(&mut peer), b"answer");
            drop(peer);
            rig.finish(Duration::from_secs(60));
            assert_eq!(log.take(), [Seen::End("closed".into())]);
        }
    });
}

// --- leaving ------------------------------------------------------------------------------------------------------

/// Hands the socket to the channel, at the first frame.
fn leaver(expect: Expect) -> (Scripted, Log, mpsc::Receiver<Detached>) {
    let (farewell, left) = mpsc::channel();
    let (state, log) = Scripted::new(expect, move |seen, io| match seen {
        Seen::Frame(_) => {
            io.write(b"goodbye\n");
            let farewell = farewell.clone();
            Then::Leave(Box::new(move |detached| farewell.send(detached).unwrap()))
        }
        seen => usual(seen),
    });
    (state, log, left)
}

#[test]
fn a_session_goes_to_a_watcher_and_comes_back() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let (state, log, left) = leaver(Expect::until(b"\n"));
            let mut peer = adopt(&rig, net, state);
            peer.write_all(b"upgrade\nfor the watch").unwrap();
            assert_eq!(rig.end_of(&log), "left the loop");
            assert_eq!(log.all(), [Seen::Open, frame(b"upgrade"), Seen::End("left the loop".into())]);
            assert_eq!(rig.hub.sessions(), 0);
            let detached = left.recv().unwrap();
            assert_eq!(&detached.leftover[..], b"for the watch");
            assert_eq!(read_some(&mut peer, 8), b"goodbye\n");

            let (mut watcher, submitter) = Watcher::<()>::spawn_for(Options::default()).unwrap();
            let conn = submitter.delegate_with(detached.socket, detached.leftover).unwrap();
            conn.read_exact(Vec::new(), 15).submit().unwrap();
            peer.write_all(b"er and back\n").unwrap();
            let Some(Event::Done { outcome: Outcome::Read(bytes), .. }) = watcher.wait().unwrap().next() else {
                panic!()
            };
            assert_eq!(bytes, b"for the watcher");
            conn.into_fd().submit().unwrap();
            let Some(Event::Done { outcome: Outcome::Detached(detached), .. }) = watcher.wait().unwrap().next() else {
                panic!()
            };

            let (state, log) = Scripted::quiet(Expect::until(b"\n"));
            let Detached { socket, leftover, .. } = *detached;
            rig.hub.adopt_with(socket, leftover, state).map_err(|(error, _)| error).unwrap();
            rig.until(|| log.frames().len() == 1);
            assert_eq!(log.frames(), [b" and back".to_vec()]);
            finish(&peer);
            assert_eq!(rig.end_of(&log), "closed");
        }
    });
}

#[test]
fn a_session_goes_from_one_loop_to_another_with_its_output() {
    test(|| {
        let (mut one, mut other) = (Rig::new(), Rig::new());
        let (arrived, after) = Scripted::quiet(Expect::until(b"\n"));
        let arrived = std::sync::Mutex::new(Some(arrived));
        let hub = other.hub.clone();
        let (state, log) = Scripted::quiet(Expect::until(b"\n"));
        let mut peer = adopt(&one, Net::Tcp, state);
        one.until(|| log.has(&Seen::Open));
        peer.write_all(b"half of ").unwrap();
        one.settle();
        let arrived = std::sync::Arc::new(arrived);
        log.send(order(move |io| {
            io.write(&vec![b'x'; 4 << 20]); // more than the system takes
            let (hub, arrived) = (hub.clone(), arrived.clone());
            Then::Leave(Box::new(move |detached| {
                let state = arrived.lock().unwrap().take().unwrap();
                hub.adopt_with(detached.socket, detached.leftover, state).map_err(|(error, _)| error).unwrap();
            }))
        }));
        one.settle();
        assert!(log.end().is_none(), "it stays until its output is out");
        let mut reader = peer.try_clone().unwrap();
        let reader = std::thread::spawn(move || read_some(&mut reader, 4 << 20).len());
        assert_eq!(one.end_of(&log), "left the loop");
        assert_eq!(reader.join().unwrap(), 4 << 20);
        peer.write_all(b"a frame\n").unwrap();
        other.until(|| after.frames().len() == 1);
        assert_eq!(after.frames(), [b"half of a frame".to_vec()]);
        finish(&peer);
        assert_eq!(other.end_of(&after), "closed");
    });
}

/// G3: a close that lingers would hold the loop up. It bounds the graceful one instead, whether the socket came with it or
/// has it from its listener.
#[test]
fn a_linger_bounds_the_close_of_that_session() {
    test(|| {
        let second = Some(Duration::from_secs(1));
        let lazy = || {
            Scripted::new(Expect::any(), |seen, io| match seen {
                Seen::Open => {
                    io.write(&vec![1; 8 << 20]); // more than the system takes
                    Then::Close
                }
                _ => Then::Stay,
            })
        };
        let mut rig = Rig::welcoming(|limits| limits.close_within = Duration::from_secs(3_600), lazy);
        let (usual, other) = lazy();
        let _one = adopt(&rig, Net::Tcp, usual);
        let (ours, _two) = Net::Tcp.pair();
        sockopt::set_socket_linger(&ours, second).unwrap();
        let (lingers, given) = lazy();
        rig.hub.adopt(ours, lingers).map_err(|(error, _)| error).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_linger(&listener, second).unwrap();
        let _three = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        rig.hub.listen(listener).unwrap();
        let welcomed = rig.welcomed.clone();
        rig.until(|| welcomed.lock().unwrap().len() == 1);
        let accepted = welcomed.lock().unwrap()[0].clone();
        for log in [given, accepted] {
            assert_eq!(rig.end_of(&log), "the peer did not take the output in time");
        }
        assert_eq!(other.end(), None, "it has the usual time");
    });
}

#[test]
fn a_farewell_that_panics_harms_nobody() {
    test(|| {
        let mut rig = Rig::new();
        let (state, log) = Scripted::new(Expect::any(), |seen, _| match seen {
            Seen::Frame(_) => Then::Leave(Box::new(|_| panic!("on purpose"))),
            seen => usual(seen),
        });
        let mut peer = adopt(&rig, Net::Tcp, state);
        peer.write_all(b"x").unwrap();
        assert_eq!(rig.end_of(&log), "left the loop");
        assert_eq!(read_to_its_end(&mut peer), (0, None));
        assert_eq!(rig.hub.counters().panics, 1);
    });
}

#[test]
fn dropping_the_loop_tells_every_session() {
    test(|| {
        let rig = Rig::new();
        let (begun, log) = Scripted::quiet(Expect::any());
        let (waiting, late) = Scripted::quiet(Expect::any());
        let mut rig = rig;
        let mut peer = adopt(&rig, Net::Tcp, begun);
        rig.until(|| log.has(&Seen::Open));
        let _other = adopt(&rig, Net::Tcp, waiting);
        let hub = rig.hub.clone();
        let address = log.address();
        drop(rig);
        let end = Seen::End("the loop has ended".into());
        assert_eq!((log.all().last(), late.all().last()), (Some(&end), Some(&end)));
        assert_eq!(read_to_its_end(&mut peer), (0, None));
        let refused = address.send(note("too late")).unwrap_err();
        assert_eq!((refused.kind, refused.message.text), (gaio::SendErrorKind::Closed, "too late"));
        assert_eq!(hub.sessions(), 0);
    });
}
