//! Typed sessions: what is written goes out whole and in order, waits where the peer does not take it, and is bounded.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{Expect, SessionLimits};
use scripted::{Log, Rig, Scripted, Seen, Then, account, note, order, usual};
use support::{NETS, Net, Pattern, Peer, check, finish, read_all, read_some, read_to_its_end, reset};

fn test(body: impl FnOnce()) {
    check(|| account(body));
}

fn adopt(rig: &mut Rig, net: Net, (state, log): (Scripted, Log)) -> (Log, Peer) {
    let (ours, peer) = net.pair();
    rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
    rig.until(|| log.has(&Seen::Open));
    (log, peer)
}

fn write(bytes: impl Into<Bytes>) -> scripted::Note {
    let bytes = bytes.into();
    order(move |io| {
        io.write_bytes(bytes.clone());
        Then::Stay
    })
}

#[test]
fn everything_written_comes_out_in_order() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let shared = Bytes::from(Pattern::new().first(200_000));
            let answer = shared.clone();
            let react = move |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| {
                match seen {
                    Seen::Open => io.write(b"hello "),
                    Seen::Frame(line) => {
                        io.write(b"<");
                        io.write_bytes(answer.clone());
                        io.write(line);
                        io.write(b">");
                    }
                    _ => {}
                }
                usual(seen)
            };
            let (log, mut peer) = adopt(&mut rig, net, Scripted::new(Expect::until(b"\n"), react));
            let mut reader = peer.try_clone().unwrap();
            let reader = thread::spawn(move || read_all(&mut reader));
            for line in ["one\n", "two\nthree\n", "four\n"] {
                peer.write_all(line.as_bytes()).unwrap();
                rig.settle();
            }
            finish(&peer);
            assert_eq!(rig.end_of(&log), "closed");
            let mut expected = b"hello ".to_vec();
            for line in ["one", "two", "three", "four"] {
                expected.extend([b"<", &shared[..], line.as_bytes(), b">"].concat());
            }
            assert!(reader.join().unwrap() == expected, "{net:?}");
        }
    });
}

#[test]
fn an_answer_above_the_high_water_mark_that_the_system_takes_at_once_holds_nothing_up() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::with(|limits| (limits.high_water, limits.low_water) = (1_000, 100));
            let react = |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| {
                if let Seen::Frame(_) = seen {
                    io.write(&[b'x'; 5_000]);
                }
                usual(seen)
            };
            // All at once: no edge comes after the first.
            let (log, mut peer) = adopt(&mut rig, net, Scripted::new(Expect::exactly(1), react));
            peer.write_all(b"abcd").unwrap();
            rig.until(|| log.frames().len() == 4);
            let drained = log.all().iter().filter(|seen| **seen == Seen::Drained).count();
            assert_eq!(drained, 4, "each time it is told that there is room");
            // As a message's answer, too.
            log.send(write(vec![b'y'; 5_000]));
            rig.settle();
            assert_eq!(read_some(&mut peer, 25_000)[20_000], b'y');
            peer.write_all(b"e").unwrap();
            rig.until(|| log.frames().len() == 5);
        }
    });
}

#[test]
fn above_the_high_water_mark_nothing_is_read_until_there_is_room() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let (log, mut peer) = adopt(&mut rig, net, Scripted::quiet(Expect::exactly(1)));
            let much = Bytes::from(Pattern::new().first(8 << 20));
            log.send(write(much.clone()));
            rig.settle();
            peer.write_all(b"abc").unwrap();
            rig.settle();
            assert_eq!(log.frames().len(), 0, "{net:?}: it is not read while output waits");
            assert!(!log.has(&Seen::Drained));
            let mut reader = peer.try_clone().unwrap();
            let reader = thread::spawn(move || read_some(&mut reader, 8 << 20));
            rig.until(|| log.frames().len() == 3);
            assert_eq!(log.all().iter().filter(|seen| **seen == Seen::Drained).count(), 1);
            assert!(log.all().iter().position(|seen| *seen == Seen::Drained) < Some(4), "room first, then frames");
            assert!(reader.join().unwrap() == much);
        }
    });
}

#[test]
fn too_much_output_ends_the_session() {
    test(|| {
        let mut rig = Rig::with(|limits| limits.output = 1 << 20);
        let (log, _peer) = adopt(&mut rig, Net::Tcp, Scripted::quiet(Expect::any()));
        // More than the socket takes; then as much again, until it is too much.
        for _ in 0..100 {
            if log.address().send(write(vec![0; 1_000_000])).is_err() {
                break;
            }
            rig.settle();
        }
        assert_eq!(rig.end_of(&log), "too much output queued");
        assert!(rig.hub.counters().undelivered > 0);
        assert_eq!(rig.hub.counters().ended_by_output, 1);
    });
}

/// Produces so much in pieces, one whenever there is room.
fn producer(total: usize, piece: usize, most: Arc<AtomicUsize>) -> (Scripted, Log) {
    let left = AtomicUsize::new(total);
    let bytes = Bytes::from(vec![b'.'; piece]);
    Scripted::new(Expect::any(), move |seen, io| {
        if let Seen::Open | Seen::Drained = seen {
            // Above the mark, so that the next room is told of.
            while left.load(Ordering::Relaxed) > 0 && io.queued() <= SessionLimits::default().high_water {
                left.fetch_sub(piece, Ordering::Relaxed);
                io.write_bytes(bytes.clone());
                most.fetch_max(io.queued(), Ordering::Relaxed);
            }
            if left.load(Ordering::Relaxed) == 0 {
                return Then::Close;
            }
        }
        usual(seen)
    })
}

#[test]
fn a_download_holds_no_more_than_the_high_water_mark_and_a_piece() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let most = Arc::new(AtomicUsize::new(0));
            let (total, piece) = (10 << 20, 16 << 10);
            let (log, mut peer) = adopt(&mut rig, net, producer(total, piece, most.clone()));
            rig.settle();
            assert!(log.end().is_none(), "the peer reads nothing yet");
            let reader = thread::spawn(move || read_all(&mut peer).len());
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(reader.join().unwrap(), total);
            assert!(most.load(Ordering::Relaxed) <= (64 << 10) + piece, "{}", most.load(Ordering::Relaxed));
        }
    });
}

#[test]
fn a_producer_whose_output_is_always_taken_does_not_starve_its_neighbours() {
    test(|| {
        let mut rig = Rig::with(|limits| limits.bytes_per_turn = 256 << 10);
        let most = Arc::new(AtomicUsize::new(0));
        let (log, mut peer) = adopt(&mut rig, Net::Tcp, producer(1 << 30, 16 << 10, most));
        let (other, mut neighbour) = adopt(&mut rig, Net::Tcp, Scripted::quiet(Expect::any()));
        let reader = thread::spawn(move || {
            let mut sink = vec![0; 1 << 20];
            while peer.read(&mut sink).is_ok_and(|n| n > 0) {}
        });
        for n in 1..=20 {
            neighbour.write_all(b"?").unwrap();
            rig.until(|| other.frames().len() >= n);
        }
        assert!(log.end().is_none(), "it is not through yet");
        log.send(order(|_| Then::Abort));
        rig.end_of(&log);
        reader.join().unwrap();
    });
}

#[test]
fn the_output_may_end_before_the_input() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let react = |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| {
                if let Seen::Message("end") = seen {
                    io.write(b"last words");
                    io.end_output();
                    io.write(b", not heard");
                }
                usual(seen)
            };
            let (log, mut peer) = adopt(&mut rig, net, Scripted::new(Expect::until(b"\n"), react));
            log.send(note("end"));
            rig.settle();
            assert_eq!(read_all(&mut peer), b"last words");
            peer.write_all(b"one\ntwo\n").unwrap();
            rig.until(|| log.frames().len() == 2);
            finish(&peer);
            assert_eq!(rig.end_of(&log), "closed");
        }
    });
}

#[test]
fn a_close_loses_no_output_though_there_is_unread_input() {
    test(|| {
        for net in NETS {
            for _ in 0..5 {
                let mut rig = Rig::new();
                let answer = Bytes::from(Pattern::new().first(2 << 20));
                let last = answer.clone();
                let react = move |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| match seen {
                    Seen::Frame(_) => {
                        io.write_bytes(last.clone());
                        Then::Close
                    }
                    seen => usual(seen),
                };
                let (log, mut peer) = adopt(&mut rig, net, Scripted::new(Expect::exactly(1), react));
                peer.write_all(&[b'?'; 100_000]).unwrap();
                let reader = thread::spawn(move || read_to_its_end(&mut peer));
                assert_eq!(rig.end_of(&log), "closed");
                assert_eq!(reader.join().unwrap(), (2 << 20, None), "all of it, and a clean end");
                assert_eq!(log.frames().len(), 1, "no callback follows the decision");
            }
        }
    });
}

#[test]
fn an_abort_is_a_reset() {
    test(|| {
        let mut rig = Rig::new();
        let (log, mut peer) = adopt(&mut rig, Net::Tcp, Scripted::quiet(Expect::any()));
        log.send(order(|io| {
            io.write(&vec![0; 10 << 20]);
            Then::Abort
        }));
        assert_eq!(rig.end_of(&log), "aborted by the protocol");
        assert_eq!(read_to_its_end(&mut peer).1, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_close_whose_output_the_peer_does_not_take_is_bounded() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::with(|limits| limits.close_within = Duration::from_millis(30));
            let (log, mut peer) = adopt(&mut rig, net, Scripted::quiet(Expect::any()));
            log.send(order(|io| {
                io.write(&vec![0; 10 << 20]);
                Then::Close
            }));
            assert_eq!(rig.end_of(&log), "the peer did not take the output in time");
            let (got, end) = read_to_its_end(&mut peer);
            assert!(got < 10 << 20);
            assert_eq!(end, (net == Net::Tcp).then_some(ErrorKind::ConnectionReset));
            // All taken, but the peer does not end: then it is just closed.
            let (log, mut peer) = adopt(&mut rig, net, Scripted::quiet(Expect::any()));
            log.send(order(|io| {
                io.write(b"bye");
                Then::Close
            }));
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(read_to_its_end(&mut peer), (3, None));
            assert_eq!(rig.hub.counters().closed_hard, 2);
        }
    });
}

#[test]
fn a_write_to_a_peer_that_is_gone_ends_the_session_with_the_systems_reason() {
    test(|| {
        let mut rig = Rig::new();
        let (log, peer) = adopt(&mut rig, Net::Tcp, Scripted::quiet(Expect::nothing()));
        reset(peer);
        log.send(write(vec![0; 10]));
        let end = rig.end_of(&log);
        assert!(end.contains("reset") || end.contains("Broken pipe"), "{end}");
        assert_eq!(rig.hub.counters().ended_by_system, 1);
        // One that reads is told at once.
        let (log, peer) = adopt(&mut rig, Net::Tcp, Scripted::quiet(Expect::any()));
        reset(peer);
        assert!(rig.end_of(&log).contains("reset"));
    });
}

#[test]
fn many_small_writes_go_out_together() {
    test(|| {
        let mut rig = Rig::new();
        let (log, mut peer) = adopt(&mut rig, Net::Unix, Scripted::quiet(Expect::any()));
        for _ in 0..3 {
            for i in 0..3_000u16 {
                // More pieces than one system call takes.
                let shared = Bytes::from(i.to_be_bytes().to_vec());
                log.send(write(shared));
            }
            rig.settle();
            let got = read_some(&mut peer, 6_000);
            assert!(got.chunks(2).zip(0u16..).all(|(two, i)| two == i.to_be_bytes()));
        }
    });
}
