//! Typed sessions: frames come once, whole and in order, however their bytes come, and whatever happens in between.

#![cfg(not(any(loom, gaio_sim)))]

#[path = "support/sessions.rs"]
mod scripted;
mod support;

use std::io::Write;
use std::thread;

use gaio::{Expect, LengthField, SessionLimits};
use scripted::{Log, Rig, Scripted, Seen, Then, account, frame, note, order, usual};
use support::{NETS, Net, Pattern, Peer, check, finish, read_some};

fn test(body: impl FnOnce()) {
    check(|| account(body));
}

/// A session that notes frames down, and its peer.
fn adopt(rig: &Rig, net: Net, state: Scripted) -> Peer {
    let (ours, peer) = net.pair();
    rig.hub.adopt(ours, state).map_err(|(error, _)| error).unwrap();
    peer
}

fn quiet(rig: &mut Rig, net: Net, expect: Expect) -> (Log, Peer) {
    let (state, log) = Scripted::quiet(expect);
    let peer = adopt(rig, net, state);
    rig.until(|| log.has(&Seen::Open));
    (log, peer)
}

#[test]
fn each_kind_of_frame_comes_whole() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            for (expect, input, frames) in [
                (Expect::exactly(3), &b"abcdef"[..], [&b"abc"[..], b"def"]),
                (Expect::until(b"\r\n"), b"one\r\n\r\n", [b"one", b""]),
                (Expect::length(LengthField::be16()), b"\0\x02hi\0\0", [b"hi", b""]),
                (Expect::length(LengthField::varint().with_header()), b"\x01a\x02bc", [b"\x01a", b"\x02bc"]),
                (Expect::custom(), b"2xy.1z.", [b"xy", b"z"]),
            ] {
                // At once, and byte by byte.
                for step in [input.len(), 1] {
                    let (log, mut peer) = quiet(&mut rig, net, expect);
                    for piece in input.chunks(step) {
                        peer.write_all(piece).unwrap();
                        rig.settle();
                    }
                    finish(&peer);
                    assert_eq!(rig.end_of(&log), "closed");
                    let expected = [Seen::Open, frame(frames[0]), frame(frames[1]), Seen::Eof];
                    assert_eq!(log.all()[..4], expected, "{net:?} {expect:?} by {step}");
                }
            }
        }
    });
}

#[test]
fn large_frames_come_whole_whatever_the_limits() {
    test(|| {
        for net in NETS {
            // A receive buffer that is nearly none, and the usual one; a byte and a frame per turn, and the usual.
            for (receive, bytes, frames) in [(64, 1, 1), (4_096, 100_000, 7), (64 << 10, 256 << 10, 1_024)] {
                let mut rig = Rig::with(|limits| {
                    (limits.receive, limits.bytes_per_turn, limits.frames_per_turn) = (receive, bytes, frames);
                });
                let (log, mut peer) = quiet(&mut rig, net, Expect::length(LengthField::be32()));
                let pattern = Pattern::new();
                let sizes = [300_000, 1, 0, 65_536, 64, 3, 70_000];
                let sender = thread::spawn(move || {
                    for size in sizes {
                        peer.write_all(&u32::try_from(size).unwrap().to_be_bytes()).unwrap();
                        peer.write_all(pattern.at(size, size)).unwrap();
                    }
                    peer.shutdown(std::net::Shutdown::Write).unwrap();
                    peer
                });
                assert_eq!(rig.end_of(&log), "closed");
                drop(sender.join().unwrap());
                let (got, pattern) = (log.frames(), Pattern::new());
                assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
                assert!(got.iter().all(|frame| frame == pattern.at(frame.len(), frame.len())), "{net:?} {receive}");
            }
        }
    });
}

#[test]
fn a_budget_leaves_the_rest_for_the_next_turn_without_an_edge() {
    test(|| {
        let mut rig = Rig::with(|limits| limits.frames_per_turn = 2);
        let (log, mut peer) = quiet(&mut rig, Net::Tcp, Expect::exactly(1));
        let (other, mut neighbour) = quiet(&mut rig, Net::Tcp, Expect::exactly(1));
        peer.write_all(b"abcdefghij").unwrap();
        finish(&peer);
        rig.until(|| !log.frames().is_empty());
        // One step for the event, and one from the ready list.
        assert!(log.frames().len() <= 4, "each step has its budget");
        neighbour.write_all(b"!").unwrap();
        rig.until(|| !other.frames().is_empty());
        assert!(log.frames().len() < 10, "others have their turn in between");
        assert_eq!(rig.end_of(&log), "closed");
        assert_eq!(log.frames().concat(), b"abcdefghij");
        assert_eq!(log.all().iter().position(|seen| *seen == Seen::Eof), Some(11), "the end comes behind all frames");
    });
}

#[test]
fn a_state_that_expects_nothing_reads_nothing_until_a_message() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let line = Expect::until(b"\n");
            let (state, log) = Scripted::new(line, |seen, _| match seen {
                Seen::Frame(_) => Then::Expect(Expect::nothing()),
                Seen::Message("go on") => Then::Expect(Expect::until(b"\n")),
                other => usual(other),
            });
            let mut peer = adopt(&rig, net, state);
            // The second is taken in with the first, and waits; then the end does, too.
            peer.write_all(b"one\ntwo\nthree\n").unwrap();
            finish(&peer);
            rig.until(|| log.frames().len() == 1);
            for n in 2..=3 {
                rig.settle();
                assert_eq!(log.frames().len(), n - 1);
                log.send(note("go on"));
                rig.until(|| log.frames().len() == n);
            }
            rig.settle();
            assert!(log.end().is_none(), "the end of the stream waits, too");
            log.send(note("go on"));
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(log.frames(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        }
    });
}

#[test]
fn what_was_kept_is_looked_at_anew_when_something_else_is_expected() {
    test(|| {
        let mut rig = Rig::new();
        // A longer frame was waited for; what is there is one now, and nothing more will come.
        let (log, mut peer) = quiet(&mut rig, Net::Tcp, Expect::exactly(10));
        peer.write_all(b"abc").unwrap();
        rig.settle();
        log.send(order(|_| Then::Expect(Expect::any())));
        rig.until(|| !log.frames().is_empty());
        assert_eq!(log.frames(), [b"abc".to_vec()]);
        // A delimiter in what was searched for another one.
        let (log, mut peer) = quiet(&mut rig, Net::Tcp, Expect::until(b"\n"));
        peer.write_all(b"ab;cd").unwrap();
        rig.settle();
        log.send(order(|_| Then::Expect(Expect::until(b";"))));
        peer.write_all(b";").unwrap();
        rig.until(|| log.frames().len() == 2);
        assert_eq!(log.frames(), [b"ab".to_vec(), b"cd".to_vec()]);
        // The peer's end behind it.
        let (log, mut peer) = quiet(&mut rig, Net::Tcp, Expect::exactly(10));
        peer.write_all(b"xyz").unwrap();
        rig.settle();
        log.send(order(|_| Then::Expect(Expect::exactly(3))));
        rig.until(|| !log.frames().is_empty());
        finish(&peer);
        assert_eq!(rig.end_of(&log), "closed");
        assert_eq!(log.frames(), [b"xyz".to_vec()]);
    });
}

#[test]
fn bytes_that_come_with_the_socket_come_first() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let (state, log) = Scripted::quiet(Expect::until(b"\n"));
            let (ours, mut peer) = net.pair();
            rig.hub.adopt_with(ours, &b"one\ntw"[..], state).map_err(|(error, _)| error).unwrap();
            rig.until(|| log.frames().len() == 1); // though the peer has sent nothing yet
            peer.write_all(b"o\n").unwrap();
            finish(&peer);
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(log.frames(), [b"one".to_vec(), b"two".to_vec()]);
            // Nothing but those.
            let (state, log) = Scripted::quiet(Expect::until(b"\n"));
            let (ours, peer) = net.pair();
            finish(&peer);
            rig.hub.adopt_with(ours, &b"all\n"[..], state).map_err(|(error, _)| error).unwrap();
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(log.all()[..3], [Seen::Open, frame(b"all"), Seen::Eof]);
        }
    });
}

#[test]
fn what_cannot_become_a_frame_ends_the_session() {
    test(|| {
        let mut rig = Rig::new();
        for (expect, input, end) in [
            (Expect::until(b"\n").at_most(4), &b"abcdef"[..], "a frame of more than 4 bytes"),
            (Expect::until(b"\n").at_most(4), b"abcde\n", "a frame of more than 4 bytes"),
            (Expect::length(LengthField::be32()), b"\xff\xff\xff\xff", "a frame of more than 1048576 bytes"),
            (Expect::exactly(5).at_most(4), b"a", "a frame of more than 4 bytes"),
            (Expect::custom(), b"0", "no frame: a nought"),
            (Expect::custom(), b"9", "a frame of more than 1048576 bytes"),
            (Expect::custom().at_most(3), b"4abcd.", "a frame of more than 3 bytes"),
        ] {
            let (log, mut peer) = quiet(&mut rig, Net::Tcp, expect);
            peer.write_all(input).unwrap();
            assert_eq!(rig.end_of(&log), end);
            assert_eq!(log.frames(), Vec::<Vec<u8>>::new());
        }
        // Frames before it are served, and answered.
        let (state, log) = Scripted::new(Expect::custom(), |seen, io| {
            if let Seen::Frame(bytes) = seen {
                io.write(bytes);
            }
            usual(seen)
        });
        let mut peer = adopt(&rig, Net::Tcp, state);
        peer.write_all(b"2ok.0").unwrap();
        assert_eq!(rig.end_of(&log), "no frame: a nought");
        assert_eq!(read_some(&mut peer, 2), b"ok");
        assert_eq!(rig.hub.counters().ended_by_input, 8);
    });
}

#[test]
fn an_end_in_the_middle_of_a_frame_is_told_with_what_was_there() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::new();
            let (log, mut peer) = quiet(&mut rig, net, Expect::until(b"\n"));
            peer.write_all(b"one\ntwo").unwrap();
            finish(&peer);
            assert_eq!(rig.end_of(&log), "the peer ended after 3 bytes of a frame");
            assert_eq!(log.all()[..2], [Seen::Open, frame(b"one")]);
            assert_eq!(log.all().len(), 3, "and no on_eof");
        }
    });
}

#[test]
fn a_slice_of_the_input_is_echoed_unchanged_whatever_becomes_of_the_buffer() {
    test(|| {
        for net in NETS {
            let mut rig = Rig::with(|limits: &mut SessionLimits| limits.output = 64 << 20);
            let (state, log) = Scripted::quiet(Expect::any());
            let mut peer = adopt(&rig, net, state.echoing());
            let total = 4 << 20;
            let mut other = peer.try_clone().unwrap();
            let sender = thread::spawn(move || Pattern::new().send(&mut other, total));
            let receiver = thread::spawn(move || {
                Pattern::new().receive(&mut peer, total);
                peer
            });
            rig.until(|| receiver.is_finished());
            sender.join().unwrap();
            drop(receiver.join().unwrap());
            assert_eq!(rig.end_of(&log), "closed");
            assert_eq!(log.frames().concat().len(), total);
        }
    });
}
