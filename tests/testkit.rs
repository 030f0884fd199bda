//! The test kit does what a loop does: it orders callbacks alike, holds limits to the instant, and its verdict on
//! fragments is to be trusted.

#![cfg(not(loom))]

#[path = "support/sessions.rs"]
mod scripted;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use gaio::testkit::{Bench, Wire, fragmentations};
use gaio::{Decode, End, Expect, Io, LengthField, Next, Protocol, SendErrorKind, SessionLimits, TimeLimit};
use scripted::{Books, Log, Scripted, Seen, Then, frame, note, order, usual};

const SECOND: Duration = Duration::from_secs(1);

/// Frames as they came, each in brackets, and what ended it.
struct Show(Expect);

impl Protocol for Show {
    type Message = ();

    fn expects(&self) -> Expect {
        self.0
    }

    fn decode(&self, input: &[u8]) -> Decode {
        match input {
            [b'!', ..] => Decode::Refuse("shouted at"),
            // A length in digits, a colon, as many bytes, a comma.
            _ => match input.iter().position(|byte| *byte == b':') {
                None => Decode::More(input.len() + 1),
                Some(at) => match std::str::from_utf8(&input[..at]).unwrap_or("").parse::<usize>() {
                    Err(_) => Decode::Refuse("no number"),
                    Ok(len) => Decode::Frame { skip: at + 1, len, total: at + len + 2 },
                },
            },
        }
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(b"[");
        io.write(frame);
        io.write_bytes(Bytes::from_static(b"]"));
        Next::Become(self)
    }

    fn on_eof(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(b".");
        Next::Close(self)
    }
}

#[test]
fn every_kind_of_frame_stands_every_fragmentation() {
    let long = [b"300:".to_vec(), vec![b'x'; 300], b",".to_vec()].concat();
    let shown = [b"[".to_vec(), vec![b'x'; 300], b"].".to_vec()].concat();
    let cases: [(Expect, &[u8], &[u8]); 15] = [
        (Expect::exactly(3), b"abcdef", b"[abc][def]."),
        (Expect::exactly(3), b"abcd", b"[abc]"),
        (Expect::until(b"\n"), b"a\n\nbc\n", b"[a][][bc]."),
        (Expect::until(b"\r\n"), b"\r\r\n\n\r\nab\r\n", b"[\r][\n][ab]."),
        (Expect::until(b"aab"), b"aaabaaab", b"[a][a]."),
        (Expect::until(b"\r\n").at_most(3), b"abc\r\nabcd\r\n", b"[abc]"),
        (Expect::length(LengthField::byte()), b"\x02ab\0\x01c", b"[ab][][c]."),
        (Expect::length(LengthField::le24().with_header()), b"\x01\0\0a\0\0\0", b"[\x01\0\0a][\0\0\0]."),
        (Expect::length(LengthField::be16().at(1).adjusted_by(-3)), b"x\0\x05aby\0\x03", b"[ab][]."),
        (Expect::length(LengthField::be16().adjusted_by(-3)), b"\0\x02ab", b""),
        (Expect::length(LengthField::varint()), b"\x81\x00a\x02bc", b"[a][bc]."),
        (Expect::length(LengthField::be64()), &[0xff; 12], b""),
        (Expect::custom(), b"2:ab,0:,1:c,", b"[ab][][c]."),
        (Expect::custom(), b"1:a,!", b"[a]"),
        (Expect::custom(), &long, &shown),
    ];
    for (expect, input, output) in cases {
        let got = fragmentations(|| Show(expect), input);
        assert!(got == output, "{expect:?}: {:?}", String::from_utf8_lossy(&got));
    }
}

/// Depends on how its input was cut, in the way that is asked for.
struct Wrong(fn(&[u8], &mut Io<'_, Self>) -> Next<Self>);

impl Protocol for Wrong {
    type Message = ();

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        (self.0)(bytes, io)
    }
}

#[test]
fn a_protocol_that_minds_fragments_is_found_out() {
    let output: fn(&[u8], &mut Io<'_, Wrong>) -> Next<Wrong> = |bytes, io| {
        io.write(bytes);
        io.write(b"|");
        Next::Become(Wrong(|_, _| unreachable!()))
    };
    let ending: fn(&[u8], &mut Io<'_, Wrong>) -> Next<Wrong> = |bytes, _| {
        if bytes.len() < 5 {
            Next::Abort(Wrong(|_, _| unreachable!()))
        } else {
            Next::Close(Wrong(|_, _| unreachable!()))
        }
    };
    for wrong in [output, ending] {
        for input in [&b"hello"[..], b"hello, this is a long one"] {
            assert!(catch_unwind(|| fragmentations(|| Wrong(wrong), input)).is_err());
        }
    }
}

/// A bench with a scripted session, and its log.
fn bench((state, log): (Scripted, Log), limits: impl FnOnce(&mut SessionLimits)) -> (Bench<Scripted>, Log) {
    let mut own = SessionLimits::default();
    limits(&mut own);
    (Bench::with(state, own), log)
}

#[test]
fn the_end_of_the_input_comes_behind_all_frames_also_where_the_session_pauses() {
    let _books = Books::open();
    let script = Scripted::new(Expect::exactly(1), |seen, _| match seen {
        Seen::Frame(_) => Then::Expect(Expect::nothing()),
        Seen::Message(_) => Then::Expect(Expect::exactly(1)),
        seen => usual(seen),
    });
    let (mut bench, log) = bench(script, |_| {});
    bench.receive(b"ab");
    bench.eof();
    bench.receive(b"");
    assert_eq!(log.take(), [Seen::Open, frame(b"a")]);
    assert_eq!(bench.unread(), b"b");
    bench.message(note("on"));
    assert_eq!(log.take(), [Seen::Message("on"), frame(b"b")]);
    assert!(bench.ended().is_none());
    bench.message(note("on"));
    assert_eq!(log.take(), [Seen::Message("on"), Seen::Eof, Seen::End("closed".into())]);
    // Bytes that arrive in the pause are looked at behind it.
    let script = Scripted::quiet(Expect::nothing());
    let (mut bench, log) = self::bench(script, |_| {});
    bench.receive(b"one");
    bench.receive(b"two");
    bench.message(order(|_| Then::Expect(Expect::any())));
    assert_eq!(log.frames(), [b"onetwo".to_vec()]);
    bench.shutdown();
    assert!(matches!(bench.ended(), Some(End::Closed)));
}

#[test]
fn water_marks_count_while_the_peer_is_blocked() {
    let _books = Books::open();
    let script = Scripted::new(Expect::exactly(1), |seen, io| match seen {
        Seen::Frame(_) => {
            io.write(&[b'x'; 60]);
            Then::Stay
        }
        Seen::Drained => {
            io.write(b"more");
            io.timer(1, SECOND);
            Then::Stay
        }
        seen => usual(seen),
    });
    let (mut bench, log) =
        bench(script, |limits| (limits.high_water, limits.low_water, limits.output) = (100, 10, 1_000));
    bench.block(true);
    bench.receive(b"abc");
    assert_eq!((log.frames().len(), bench.queued()), (2, 120), "the third waits");
    bench.eof();
    log.take();
    bench.block(false);
    let end = [Seen::Drained, frame(b"c"), Seen::Eof, Seen::End("closed".into())];
    assert_eq!(log.take(), end);
    assert_eq!(bench.written(), [&[b'x'; 120][..], b"more", &[b'x'; 60]].concat());
    // Not blocked: above the mark in one callback, and room at once.
    let script = Scripted::new(Expect::exactly(1), |seen, io| {
        if let Seen::Frame(_) = seen {
            io.write(&[b'x'; 200]);
        }
        usual(seen)
    });
    let (mut bench, log) = self::bench(script, |limits| (limits.high_water, limits.low_water) = (100, 10));
    bench.receive(b"ab");
    assert_eq!(log.take(), [Seen::Open, frame(b"a"), Seen::Drained, frame(b"b"), Seen::Drained]);
    assert_eq!(bench.written().len(), 400);
    bench.eof();
    // The hard cap.
    let script = Scripted::quiet(Expect::any());
    let (mut bench, _) =
        self::bench(script, |limits| (limits.high_water, limits.low_water, limits.output) = (100, 10, 100));
    bench.block(true);
    bench.message(order(|io| {
        io.write(&[0; 101]);
        Then::Stay
    }));
    assert!(matches!(bench.ended(), Some(End::Overflow)));
}

#[test]
fn limits_and_timers_come_in_their_order_and_to_the_instant() {
    let _books = Books::open();
    let line = Expect::until(b"\n").within(5 * SECOND).idle_within(10 * SECOND);
    let script = Scripted::new(line, |seen, _| if let Seen::Timeout(_) = seen { Then::Stay } else { usual(seen) });
    let (mut bench, log) = bench(script, |_| {});
    log.take();
    bench.message(order(|io| {
        io.timer(1, 12 * SECOND);
        io.timer(2, 10 * SECOND - Duration::from_nanos(1));
        io.timer(3, SECOND);
        io.cancel_timer(3);
        Then::Stay
    }));
    log.take();
    bench.advance(10 * SECOND - Duration::from_nanos(2));
    assert_eq!(log.take(), []);
    bench.advance(5 * SECOND);
    let idle = Seen::Timeout(TimeLimit::Idle(10 * SECOND));
    assert_eq!(log.take(), [Seen::Timer(2), idle, Seen::Timer(1)]);
    bench.receive(b"half");
    for _ in 0..4 {
        bench.advance(SECOND);
        bench.receive(b"x");
    }
    bench.message(note("hello"));
    assert_eq!(log.take(), [Seen::Message("hello")]);
    bench.advance(SECOND);
    assert_eq!(log.take(), [Seen::Timeout(TimeLimit::Frame(5 * SECOND))]);
    bench.eof();
    assert!(matches!(bench.ended(), Some(End::CutShort { got: 8 })));
    bench.advance(100 * SECOND);
    bench.receive(b"\n");
    bench.message(note("too late"));
    bench.shutdown();
    assert_eq!(log.take(), [Seen::End("the peer ended after 8 bytes of a frame".into())]);
    assert!(bench.state().is_none());
}

#[test]
fn what_callbacks_ask_for_is_there_to_be_looked_at() {
    let _books = Books::open();
    let (mut bench, log) = bench(Scripted::quiet(Expect::until(b"\n")), |_| {});
    let to = "127.0.0.1:7000".parse().unwrap();
    bench.message(order(move |io| {
        io.join(1);
        io.join(2);
        io.join(1);
        io.leave(2);
        io.connect(to, Scripted::quiet(Expect::any()).0);
        io.address().send(note("to myself")).unwrap();
        Then::Stay
    }));
    assert_eq!(bench.groups(), [1]);
    let connects = bench.connects();
    assert!(matches!(&connects[..], [(address, _)] if *address == to));
    connects.into_iter().for_each(|(_, state)| state.strike_off());
    assert!(!log.has(&Seen::Message("to myself")));
    bench.deliver();
    assert!(log.has(&Seen::Message("to myself")));
    assert_eq!(bench.state().map(|state| state.expect), bench.expects());
    assert_eq!(bench.expects(), Some(Expect::until(b"\n")));
    bench.receive(b"one\ntwo");
    bench.message(order(|io| {
        io.write(b"bye");
        Then::Leave(Box::new(|_| ()))
    }));
    assert!(matches!(bench.ended(), Some(End::Left)));
    assert_eq!((bench.written(), bench.unread()), (b"bye".to_vec(), &b"two"[..]));
    assert_eq!(bench.groups(), [0; 0], "who has ended is in no group");
    let (mut bench, _) = self::bench(Scripted::quiet(Expect::any()), |_| {});
    bench.message(order(|io| {
        io.end_output();
        io.write(b"not heard");
        Then::Stay
    }));
    assert!(bench.has_ended_output() && bench.written().is_empty());
    bench.eof();
}

/// Counts down with the other side, which adds a line to each of its own.
struct Caller(u32);

impl Protocol for Caller {
    type Message = ();

    fn expects(&self) -> Expect {
        Expect::until(b"\n").idle_within(Duration::from_millis(150))
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(b"call\n");
        Next::Become(self)
    }

    fn on_frame(self, _line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        if self.0 == 1 {
            return Next::Close(Self(0));
        }
        io.write(b"call\n");
        Next::Become(Self(self.0 - 1))
    }
}

#[test]
fn two_protocols_talk_in_virtual_time() {
    let mut wire = Wire::new(Caller(3), Caller(99), Duration::from_millis(50));
    // A call and its answer cross each other, so each latency brings one to each side.
    wire.run(Duration::from_millis(149));
    assert!(wire.a.ended().is_none(), "two have arrived");
    wire.run(Duration::from_millis(1));
    assert!(matches!(wire.a.ended(), Some(End::Closed)));
    assert!(wire.b.ended().is_none(), "the end is on its way");
    wire.run(Duration::from_millis(50));
    assert!(matches!(wire.b.ended(), Some(End::Closed)));
    // Too slow for the limit.
    let mut wire = Wire::new(Caller(3), Caller(3), Duration::from_millis(151));
    wire.run(Duration::from_millis(150));
    assert!(matches!((wire.a.ended(), wire.b.ended()), (Some(End::TimedOut(_)), Some(End::TimedOut(_)))));
}

// --- the kit and the loop -----------------------------------------------------------------------------------------

/// Passes what it hears on as messages to itself, and writes them.
struct Deferring;

impl Protocol for Deferring {
    type Message = Vec<u8>;

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.address().send(bytes.to_vec()).unwrap();
        Next::Become(self)
    }

    fn on_message(self, bytes: Vec<u8>, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(&bytes);
        Next::Become(self)
    }
}

#[test]
fn on_a_wire_messages_are_handed_over_on_both_sides() {
    let _books = Books::open();
    let (far, log) = Scripted::quiet(Expect::any());
    let mut wire = Wire::new(Deferring, far, SECOND);
    wire.b.message(order(|io| {
        io.write(b"back?");
        Then::Stay
    }));
    wire.b.address().send(note("from the test")).unwrap();
    wire.run(Duration::ZERO);
    assert!(log.has(&Seen::Message("from the test")), "due at once");
    wire.run(2 * SECOND);
    assert_eq!(log.frames(), [b"back?".to_vec()], "no later than by the latency there and back");
    wire.a.shutdown();
    wire.run(SECOND);
    assert!(matches!(wire.b.ended(), Some(End::Closed)));
}

/// As a loop does it: `end_session` in `src/typed/transport.rs`.
#[test]
fn on_a_wire_an_end_that_is_a_reset_arrives_as_one() {
    let _books = Books::open();
    let line = Expect::until(b"\n").at_most(3);
    let limit = |limits: &mut SessionLimits| limits.output = limits.high_water;
    let abort = order(|_| Then::Abort);
    let overflow = order(|io| {
        io.write(&[0; 65 << 10]);
        Then::Stay
    });
    let bye = order(|io| {
        io.write(b"bye");
        Then::Close
    });
    type Cause = Box<dyn Fn(&mut Bench<Scripted>)>;
    let causes: [(Cause, bool); 8] = [
        (Box::new(move |bench| bench.message(abort.clone())), true),
        (Box::new(|bench| bench.receive(b"long")), true),
        (Box::new(move |bench| bench.message(overflow.clone())), true),
        (Box::new(|bench| bench.receive(b"0")), true),
        (Box::new(move |bench| bench.message(bye.clone())), false),
        (Box::new(Bench::shutdown), false),
        (Box::new(|bench| (bench.receive(b"cut"), bench.eof()).1), false),
        // Closed with output that nobody took.
        (
            Box::new(|bench| {
                bench.block(true);
                bench.message(order(|io| {
                    io.write(b"lost");
                    Then::Close
                }));
                bench.advance(SessionLimits::default().close_within);
            }),
            true,
        ),
    ];
    for (i, (cause, resets)) in causes.into_iter().enumerate() {
        let (near, _) = Scripted::quiet(if i == 3 { Expect::custom() } else { line });
        let (far, log) = Scripted::quiet(Expect::any());
        let mut wire = Wire::new(near, far, SECOND);
        if i == 2 {
            let mut limits = SessionLimits::default();
            limit(&mut limits);
            let (near, _) = Scripted::quiet(line);
            std::mem::replace(&mut wire.a, Bench::with(near, limits)).eof();
        }
        cause(&mut wire.a);
        wire.run(SECOND);
        let end = log.all().pop();
        let reset = matches!(&end, Some(Seen::End(why)) if why.contains("reset"));
        assert_eq!((reset, log.has(&Seen::Eof)), (resets, !resets), "{i}: {:?} {end:?}", wire.a.ended());
        let told = matches!(wire.b.ended(), Some(End::Os(error)) if error.kind() == ErrorKind::ConnectionReset);
        assert_eq!(told, resets);
    }
}

/// Who leaves takes the socket along: its peer is told of no end, since there is none.
#[test]
fn a_session_that_leaves_ends_nothing() {
    let _books = Books::open();
    for ends_output in [false, true] {
        let (far, log) = Scripted::quiet(Expect::exactly(5));
        let mut wire = Wire::new(Scripted::quiet(Expect::any()).0, far, SECOND);
        wire.a.message(order(move |io| {
            io.write(b"go on");
            if ends_output {
                io.end_output();
            }
            Then::Leave(Box::new(|_| ()))
        }));
        wire.run(10 * SECOND);
        assert!(matches!(wire.a.ended(), Some(End::Left)));
        assert!(log.has(&frame(b"go on")));
        assert_eq!((log.has(&Seen::Eof), wire.b.ended().is_some()), (ends_output, ends_output));
        wire.b.eof();
    }
}

/// What has arrived comes first, and who does not look does not see it.
#[test]
fn a_reset_is_seen_when_the_session_looks() {
    let _books = Books::open();
    let reads_two = |seen: &Seen, _: &mut Io<'_, Scripted>| match seen {
        Seen::Frame(_) => Then::Expect(Expect::nothing()),
        Seen::Message(_) => Then::Expect(Expect::exactly(1)),
        seen => usual(seen),
    };
    let (mut bench, log) = bench(Scripted::new(Expect::exactly(1), reads_two), |_| {});
    bench.receive(b"ab");
    bench.reset();
    assert!(bench.ended().is_none(), "it pauses");
    bench.message(note("on"));
    assert!(bench.ended().is_none() && log.has(&frame(b"b")));
    bench.message(note("on"));
    assert!(matches!(bench.ended(), Some(End::Os(_))), "{:?}", log.all());
    // Who writes is told at once, and nothing of it has gone out.
    let (mut bench, _) = self::bench(Scripted::quiet(Expect::nothing()), |_| {});
    bench.reset();
    bench.message(order(|io| {
        io.write(b"hello?");
        Then::Close
    }));
    assert!(matches!(bench.ended(), Some(End::Os(_))) && bench.written().is_empty());
}

#[test]
fn what_is_asked_for_at_once_again_and_again_lets_time_go_on() {
    let _books = Books::open();
    let again = |seen: &Seen, io: &mut Io<'_, Scripted>| {
        if let Seen::Timer(name) = seen {
            io.timer(1 - name, Duration::ZERO);
        }
        Then::Stay
    };
    let (mut bench, log) = bench(Scripted::new(Expect::any(), again), |_| {});
    bench.message(order(|io| {
        io.timer(0, Duration::ZERO);
        Then::Stay
    }));
    log.take();
    bench.advance(Duration::ZERO);
    assert_eq!(log.take(), [Seen::Timer(0)]);
    bench.advance(SECOND);
    assert!((500..1_000).contains(&log.take().len()), "a loop's timers are about a millisecond apart");
    bench.message(order(|_| Then::Close));
    let patient = |seen: &Seen, _: &mut Io<'_, Scripted>| match seen {
        Seen::Timeout(_) => Then::Stay,
        seen => usual(seen),
    };
    let (mut bench, log) = self::bench(Scripted::new(Expect::any().idle_within(Duration::ZERO), patient), |_| {});
    bench.advance(SECOND);
    assert!((500..1_000).contains(&log.take().len()));
    bench.eof();
}

/// As on a loop: whatever their names.
#[test]
fn timers_of_one_instant_come_in_the_order_in_which_they_were_set() {
    let _books = Books::open();
    let (mut bench, log) = bench(Scripted::quiet(Expect::any()), |_| {});
    bench.message(order(|io| {
        [2, 3, 1, 2].into_iter().for_each(|name| io.timer(name, SECOND));
        Then::Stay
    }));
    log.take();
    bench.advance(SECOND);
    assert_eq!(log.take(), [Seen::Timer(3), Seen::Timer(1), Seen::Timer(2)]);
    bench.eof();
}

#[test]
fn two_that_answer_each_other_without_a_latency_are_told_from_a_test_that_hangs() {
    let echoes = || Wire::new(Deferring, Deferring, Duration::ZERO);
    let mut wire = echoes();
    wire.run(SECOND);
    wire.a.message(b"hello".to_vec());
    let panic = catch_unwind(AssertUnwindSafe(|| wire.run(SECOND))).unwrap_err();
    let text = panic.downcast_ref::<&str>().copied().map(str::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap();
    assert!(text.contains("give the wire a latency"), "{text}");
    // With one they go on for as long as they may.
    let mut wire = Wire::new(Deferring, Deferring, SECOND / 100);
    wire.a.message(b"hello".to_vec());
    wire.run(10 * SECOND);
    assert!(wire.a.ended().is_none() && wire.b.ended().is_none());
}

/// As on a loop: what is queued has so long to get out, then it is lost.
#[test]
fn a_close_waits_for_the_peer_to_take_the_output_and_not_for_ever() {
    let _books = Books::open();
    let closing = || {
        let (mut bench, log) = bench(Scripted::quiet(Expect::any()), |limits| limits.close_within = 3 * SECOND);
        bench.block(true);
        bench.message(order(|io| {
            io.write(b"bye");
            io.timer(1, SECOND);
            Then::Close
        }));
        bench.advance(3 * SECOND - Duration::from_nanos(1));
        bench.receive(b"late");
        bench.message(note("late"));
        bench.eof();
        assert_eq!(log.take(), [Seen::Open, Seen::Message("order")], "no callback comes after the close");
        assert!(bench.ended().is_none() && bench.written().is_empty());
        bench
    };
    let mut bench = closing();
    bench.block(false);
    assert!(matches!(bench.ended(), Some(End::Closed)) && bench.written() == b"bye");
    let mut bench = closing();
    bench.advance(Duration::from_nanos(1));
    assert!(matches!(bench.ended(), Some(End::CloseTimedOut)));
    bench.block(false);
    assert_eq!(bench.written(), b"");
    let mut bench = closing();
    bench.reset();
    assert!(matches!(bench.ended(), Some(End::Os(_))) && bench.written().is_empty());
    // Who leaves with output that nobody takes has not left.
    let (mut bench, _) = self::bench(Scripted::quiet(Expect::any()), |_| {});
    bench.block(true);
    bench.message(order(|io| {
        io.write(b"bye");
        Then::Leave(Box::new(|_| ()))
    }));
    bench.advance(60 * SECOND);
    assert!(matches!(bench.ended(), Some(End::CloseTimedOut)));
    // A last word that is not heard changes nothing about why.
    let script = Scripted::quiet(Expect::exactly(5).at_most(3)).0.with_last_word(b"no");
    let mut bench = Bench::new(script);
    bench.block(true);
    bench.receive(b"x");
    assert!(bench.ended().is_none());
    bench.advance(60 * SECOND);
    assert!(matches!(bench.ended(), Some(End::TooLong { at_most: 3 })) && bench.written().is_empty());
}

#[test]
fn an_address_may_be_told_to_refuse() {
    let _books = Books::open();
    let (mut bench, log) = bench(Scripted::quiet(Expect::any()), |_| {});
    let address = bench.address();
    for kind in [SendErrorKind::Full, SendErrorKind::Closed] {
        bench.refuse_messages(Some(kind));
        let refused = address.send(note("no")).unwrap_err();
        assert_eq!((refused.kind, refused.message.text), (kind, "no"));
    }
    bench.refuse_messages(None);
    address.send(note("yes")).unwrap();
    bench.deliver();
    assert_eq!(log.take(), [Seen::Open, Seen::Message("yes")]);
    bench.eof();
}

/// Its frames are what is there, from when it is told to look.
struct Told(bool);

impl Protocol for Told {
    type Message = ();

    fn expects(&self) -> Expect {
        Expect::custom()
    }

    fn decode(&self, input: &[u8]) -> Decode {
        if self.0 {
            Decode::Frame { skip: 0, len: input.len(), total: input.len() }
        } else {
            Decode::More(input.len() + 1)
        }
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(frame);
        Next::Become(Self(false))
    }

    fn on_message(self, (): (), _: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(Self(true))
    }
}

/// A decoder may look at the state, so it is asked again after each callback, with nothing new to look at.
#[test]
fn a_decoder_is_asked_again_when_the_state_has_changed() {
    let mut bench = Bench::new(Told(false));
    for text in [b"one", b"two"] {
        bench.receive(text);
        assert_eq!(bench.written(), b"");
        bench.message(());
        assert_eq!(bench.written(), text);
    }
}
