//! What typed sessions cost the heap: nothing per message (G9), and little while they are idle.
//!
//! Counted over the whole process, hence one test, on one thread.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

#[path = "process/counting.rs"]
mod counting;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use gaio::testkit::Bench;
use gaio::{Address, Expect, Hub, Io, LengthField, Next, Protocol, SessionLimits, SessionLoop};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 8;
const WARM_UP: usize = 50;
const ROUNDS: usize = 250;
const SIZE: usize = 512;

/// How the answer is made.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    /// From where the message lies.
    Slice,
    /// The same, with limits on time that begin and end with each message.
    Limited,
    Copied,
    Shared,
    /// By a message to itself.
    Message,
    /// By a timer.
    Timer,
    /// From a message that came in two pieces.
    Pieces,
}

const WAYS: [Way; 7] = [Way::Slice, Way::Limited, Way::Copied, Way::Shared, Way::Message, Way::Timer, Way::Pieces];

struct Echo {
    way: Way,
    shared: Bytes,
    own: Option<Address<()>>,
}

impl Protocol for Echo {
    type Message = ();

    fn expects(&self) -> Expect {
        match self.way {
            Way::Limited => Expect::exactly(SIZE).within(Duration::from_secs(9)).idle_within(Duration::from_secs(8)),
            Way::Pieces => Expect::length(LengthField::be16().with_header()),
            _ => Expect::exactly(SIZE),
        }
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        let own = Some(io.address());
        Next::Become(Self { own, ..self })
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        match self.way {
            Way::Slice | Way::Limited | Way::Pieces => io.write(frame),
            Way::Copied => {
                let mut copy = [0; SIZE];
                copy.copy_from_slice(frame);
                io.write(&copy);
            }
            Way::Shared => io.write_bytes(self.shared.clone()),
            Way::Message => self.own.iter().for_each(|own| own.send(()).unwrap()),
            Way::Timer => io.timer(1, Duration::ZERO),
        }
        Next::Become(self)
    }

    fn on_message(self, (): (), io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(&self.shared);
        Next::Become(self)
    }

    fn on_timer(self, _name: u64, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(&self.shared);
        Next::Become(self)
    }
}

/// Serves until so many frames were handed over, and then what they have left to do.
fn serve(sessions: &mut SessionLoop<Echo>, hub: &Hub<Echo>, frames: u64) {
    while hub.counters().frames < frames {
        sessions.turn(None).unwrap();
    }
    // Messages and timers come in the turns behind; the latter within ticks of the clock.
    for _ in 0..3 {
        sessions.turn(Some(Duration::ZERO)).unwrap();
    }
}

fn allocations_of(way: Way) -> u64 {
    let mut message = [7; SIZE];
    message[..2].copy_from_slice(&u16::try_from(SIZE - 2).unwrap().to_be_bytes());
    let (mut sessions, hub) = SessionLoop::new(SessionLimits::default(), |_| None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        peers.push(peer);
        let state = Echo { way, shared: Bytes::from(message.to_vec()), own: None };
        hub.adopt(listener.accept().unwrap().0, state).map_err(|(error, _)| error).unwrap();
    }
    sessions.turn(None).unwrap();
    let (mut answer, mut frames) = ([0; SIZE], 0);
    let mut rounds = |n| {
        for _ in 0..n {
            for peer in &mut peers {
                peer.write_all(&message[..SIZE / 2]).unwrap();
            }
            if way == Way::Pieces {
                sessions.turn(None).unwrap();
            }
            for peer in &mut peers {
                peer.write_all(&message[SIZE / 2..]).unwrap();
            }
            frames += CONNECTIONS as u64;
            serve(&mut sessions, &hub, frames);
            for peer in &mut peers {
                peer.set_nonblocking(true).unwrap();
                let mut got = 0;
                while got < SIZE {
                    match peer.read(&mut answer[got..]) {
                        Ok(n) => got += n,
                        Err(_) => sessions.turn(Some(Duration::from_millis(1))).unwrap(),
                    }
                }
                peer.set_nonblocking(false).unwrap();
                assert!(answer == message, "{way:?}");
            }
        }
    };
    rounds(WARM_UP);
    counting::least(0, || rounds(ROUNDS))
}

/// Of a broadcast: to a crowd that has output waiting all at once.
fn allocations_of_a_broadcast() -> u64 {
    const MEMBERS: usize = 400;
    let (mut sessions, hub) = SessionLoop::new(SessionLimits::default(), |_| None).unwrap();
    let mut peers = Vec::new();
    for _ in 0..MEMBERS {
        let (ours, peer) = UnixStream::pair().unwrap();
        hub.adopt(ours, Member).map_err(|(error, _)| error).unwrap();
        peers.push(peer);
    }
    sessions.turn(None).unwrap();
    let (line, mut heard) = (Bytes::from_static(&[7; SIZE]), [0; SIZE]);
    let mut rounds = |n| {
        for _ in 0..n {
            hub.broadcast(1, line.clone()).map_err(|(kind, _)| kind).unwrap();
            sessions.turn(None).unwrap();
            for peer in &mut peers {
                peer.read_exact(&mut heard).unwrap();
                assert_eq!(heard, [7; SIZE]);
            }
        }
    };
    rounds(3);
    counting::least(0, || rounds(5))
}

struct Member;

impl Protocol for Member {
    type Message = Bytes;

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.join(1);
        Next::Become(self)
    }

    fn on_frame(self, _: &[u8], _: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(self)
    }

    fn on_message(self, line: Bytes, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write_bytes(line);
        Next::Become(self)
    }
}

/// A state of no size: what is counted is ours.
struct Idle;

impl Protocol for Idle {
    type Message = Bytes;

    fn expects(&self) -> Expect {
        Expect::until(b"\n")
    }

    fn on_frame(self, _frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        Next::Become(self)
    }

    fn on_message(self, shared: Bytes, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write_bytes(shared);
        Next::Become(self)
    }
}

fn bytes_per_idle_session() -> f64 {
    const SESSIONS: usize = 2_000;
    let (mut sessions, hub) = SessionLoop::new(SessionLimits::default(), |_| None).unwrap();
    let mut peers = Vec::with_capacity(SESSIONS);
    let before = counting::live_bytes();
    for i in 0..SESSIONS {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // It has been busy before: nothing of that is kept.
        theirs.write_all(b"hello\nhello\n").unwrap();
        peers.push(theirs);
        hub.adopt(ours, Idle).map_err(|(error, _)| error).unwrap();
        if i % 100 == 99 {
            while hub.counters().frames < 2 * (i as u64 + 1) {
                sessions.turn(None).unwrap();
            }
        }
    }
    let each = counting::live_bytes() - before;
    assert_eq!(hub.sessions(), SESSIONS);
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    return each as f64 / SESSIONS as f64;
}

/// What a session holds for each byte that a peer does not take, if it writes so many at a time.
fn heap_per_queued_byte(size: usize) -> f64 {
    let (mut bench, all) = (Bench::new(Idle), Bytes::from(vec![b'x'; 1 << 20]));
    bench.block(true);
    let before = counting::live_bytes();
    for at in (0..all.len()).step_by(size) {
        bench.message(all.slice(at..at + size));
    }
    assert_eq!(bench.queued(), all.len());
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    return (counting::live_bytes() - before) as f64 / all.len() as f64;
}

#[test]
fn messages_allocate_nothing_and_idle_sessions_hold_little() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let each = bytes_per_idle_session();
    println!("{each:.1} bytes per idle session");
    assert!(each <= 80.0, "{each:.1} bytes per idle session");
    let count = allocations_of_a_broadcast();
    assert_eq!(count, 0, "G9: of five broadcasts");
    // What `SessionLimits::output` counts is what is held, but for a factor: however small the pieces are.
    for size in [1, 16, 64, 512] {
        let held = heap_per_queued_byte(size);
        println!("{held:.2} bytes held for each that is queued in pieces of {size}");
        assert!(held < 2.0, "{held:.2} bytes held for each that is queued in pieces of {size}");
    }
    let mut failures = Vec::new();
    for way in WAYS {
        let count = allocations_of(way);
        println!("{way:?}: {count} allocations in {} messages", ROUNDS * CONNECTIONS);
        if count > 0 {
            failures.push((way, count));
        }
    }
    assert!(failures.is_empty(), "G9: allocations per {} messages: {failures:#?}", ROUNDS * CONNECTIONS);
}
