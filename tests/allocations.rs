//! G9: no heap allocation per operation in the steady state.
//!
//! Counted over all threads of the process: the loop's, the one that waits, and the client, which therefore works in
//! fixed buffers. One test, since another one beside it would be counted too.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

#[path = "process/counting.rs"]
mod counting;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{
    Batch, Conn, EmbeddedWatcher, Event, Limits, Op, OpError, Options, Outcome, Payload, SubmitError, Submitter,
    WaitError, Watcher,
};

const CONNECTIONS: usize = 8;
/// Rounds of one message on each connection: 400 messages to warm up, and 800 that are counted, again if need be. A
/// warm-up that is shorter than a store of buffers is long: one that only fills must not pass for one that is full.
const WARM_UP: usize = 50;
const ROUNDS: usize = 100;
const AN_HOUR: Duration = Duration::from_secs(3_600);
static MESSAGE: [u8; 512] = [7; 512];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Drive {
    Spawned,
    Embedded,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    Vec,
    Pooled,
    Leased,
}

/// What the answer is written from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writes {
    /// The buffer that was read into: a vector or a lease.
    Same,
    /// A vector that is kept for it.
    Vec,
    Bytes,
    Static,
    Copied,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    reads: Reads,
    writes: Writes,
    linked: bool,
    /// With a deadline and a name on each operation, and a timer for each message that is cancelled at once.
    bounded: bool,
}

fn ways() -> Vec<Way> {
    let all = [Writes::Same, Writes::Vec, Writes::Bytes, Writes::Static, Writes::Copied];
    let mut ways = Vec::new();
    for reads in [Reads::Vec, Reads::Pooled, Reads::Leased] {
        for writes in all {
            for linked in [true, false] {
                let exists = match (reads, writes, linked) {
                    (Reads::Pooled, Writes::Same, _) | (_, Writes::Vec, true) => false,
                    (Reads::Vec, other, true) => other == Writes::Same,
                    _ => true,
                };
                if exists {
                    ways.push(Way { reads, writes, linked, bounded: false });
                    ways.push(Way { reads, writes, linked, bounded: true });
                }
            }
        }
    }
    ways
}

#[allow(clippy::large_enum_variant, reason = "there is one of them")]
enum Server {
    Spawned(Watcher<usize>),
    Embedded(EmbeddedWatcher<usize>),
}

impl Server {
    fn start(drive: Drive) -> (Self, Submitter<usize>) {
        Self::with_arena(drive, Limits::default().arena)
    }

    fn with_arena(drive: Drive, arena: usize) -> (Self, Submitter<usize>) {
        let mut limits = Limits::default();
        limits.arena = arena;
        let options = Options::default().limits(limits);
        match drive {
            Drive::Spawned => {
                let (watcher, submitter) = Watcher::spawn_for(options).unwrap();
                (Self::Spawned(watcher), submitter)
            }
            Drive::Embedded => {
                let (watcher, submitter) = EmbeddedWatcher::new_for(options).unwrap();
                (Self::Embedded(watcher), submitter)
            }
        }
    }

    fn wait(&mut self) -> Result<Batch<'_, usize>, WaitError> {
        match self {
            Self::Spawned(watcher) => watcher.wait(),
            Self::Embedded(watcher) => watcher.turn(None),
        }
    }
}

/// One connection's buffers, while they are not under way.
struct Spare {
    read: Option<Vec<u8>>,
    write: Option<Vec<u8>>,
}

fn go<K>(way: Way, op: Op<'_, usize, K>, i: usize) -> Result<(), SubmitError<usize>> {
    if way.bounded { op.within(AN_HOUR).named().0.submit_with(i) } else { op.submit_with(i) }
}

struct Echo {
    way: Way,
    submitter: Submitter<usize>,
    bytes: Bytes,
    spares: Vec<Spare>,
}

impl Echo {
    fn read(&mut self, conn: &Conn<usize>, i: usize) -> Result<(), SubmitError<usize>> {
        let way = self.way;
        match way.reads {
            Reads::Vec => go(way, conn.read(self.spares[i].read.take().unwrap()), i),
            Reads::Pooled => go(way, conn.read_pooled(), i),
            Reads::Leased => go(way, conn.read_leased(), i),
        }
    }

    /// Answers from something that is not the buffer of the read.
    fn answer(&mut self, conn: &Conn<usize>, i: usize, read: &[u8]) -> Result<(), SubmitError<usize>> {
        let way = self.way;
        let Way { reads, writes, linked, .. } = way;
        let pooled = reads == Reads::Pooled;
        match writes {
            Writes::Bytes if linked && pooled => go(way, conn.write(self.bytes.clone()).then_read_pooled(), i),
            Writes::Bytes if linked => go(way, conn.write(self.bytes.clone()).then_read_leased(), i),
            Writes::Bytes => go(way, conn.write(self.bytes.clone()), i),
            Writes::Static if linked && pooled => go(way, conn.write(&MESSAGE).then_read_pooled(), i),
            Writes::Static if linked => go(way, conn.write(&MESSAGE).then_read_leased(), i),
            Writes::Static => go(way, conn.write(&MESSAGE), i),
            Writes::Copied if linked && pooled => go(way, conn.write_copied(read).then_read_pooled(), i),
            Writes::Copied if linked => go(way, conn.write_copied(read).then_read_leased(), i),
            Writes::Copied => go(way, conn.write_copied(read), i),
            Writes::Vec => {
                let mut bytes = self.spares[i].write.take().unwrap();
                bytes.clear();
                bytes.extend_from_slice(read);
                go(way, conn.write(bytes), i)
            }
            Writes::Same => unreachable!("the buffer of the read is at hand there"),
        }
    }

    /// False: this connection has ended.
    fn serve(&mut self, event: Event<'_, usize>) -> bool {
        let (conn, i, outcome) = match event {
            Event::Done { conn, context, outcome } => (conn, context, outcome),
            Event::Timer { result: Err(OpError::Cancelled), .. } => return true,
            other => panic!("nothing else was asked for: {other:?}"),
        };
        if self.way.bounded {
            let (timer, id) = self.submitter.timer(AN_HOUR).named();
            timer.submit_with(i).unwrap();
            self.submitter.cancel_timer(id).unwrap();
        }
        let (way, same) = (self.way, self.way.writes == Writes::Same);
        let submitted = match outcome {
            Outcome::Read(bytes) if bytes.is_empty() => return false,
            Outcome::Leased(lease) if lease.is_empty() => return false,
            Outcome::Pooled([]) => return false,
            Outcome::Read(bytes) if same && self.way.linked => go(way, conn.write(bytes).then_read(), i),
            Outcome::Read(bytes) if same => go(way, conn.write(bytes), i),
            Outcome::Read(bytes) => {
                let submitted = self.answer(&conn, i, &bytes);
                self.spares[i].read = Some(bytes);
                submitted
            }
            Outcome::Leased(lease) if same && self.way.linked => go(way, conn.write(lease).then_read_leased(), i),
            Outcome::Leased(lease) if same => go(way, conn.write(lease), i),
            Outcome::Leased(lease) => self.answer(&conn, i, &lease),
            Outcome::Pooled(bytes) => self.answer(&conn, i, bytes),
            Outcome::Wrote(payload) => {
                let spare = &mut self.spares[i];
                match payload {
                    Payload::Vec(bytes) if same => spare.read = Some(bytes),
                    Payload::Vec(bytes) => spare.write = Some(bytes),
                    _ => {}
                }
                self.read(&conn, i)
            }
            Outcome::Eof(_) => return false,
            other => panic!("{other:?}"),
        };
        submitted.unwrap();
        true
    }
}

/// Exchanges messages, and returns what was allocated for as many, after the warm-up. How many leases are under way at
/// once depends on how the steps interleave, so the pool may learn of a new most late; hence the fewest of several runs.
fn client(mut peers: Vec<TcpStream>) -> u64 {
    let mut answer = [0; MESSAGE.len()];
    let mut rounds = |n| {
        for _ in 0..n {
            for peer in &mut peers {
                peer.write_all(&MESSAGE).unwrap();
            }
            for peer in &mut peers {
                peer.read_exact(&mut answer).unwrap();
                assert_eq!(answer, MESSAGE);
            }
        }
    };
    rounds(WARM_UP);
    let allocations = counting::least(0, || rounds(ROUNDS));
    for peer in &mut peers {
        // What tells the end of datagrams: an empty one. Of a stream it is nothing.
        let _ = peer.write(&[]).unwrap();
    }
    allocations
}

/// Two ends: streams, or datagrams, which are sent and received by the same calls.
fn pair(listener: &TcpListener, datagrams: bool) -> (OwnedFd, TcpStream) {
    if datagrams {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        return (ours.into(), OwnedFd::from(theirs).into());
    }
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nodelay(true).unwrap();
    (listener.accept().unwrap().0.into(), peer)
}

fn allocations_of(drive: Drive, way: Way, datagrams: bool, arena: usize) -> u64 {
    let (mut server, submitter) = Server::with_arena(drive, arena);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spare = || Spare { read: Some(Vec::with_capacity(1024)), write: Some(Vec::with_capacity(1024)) };
    let spares = std::iter::repeat_with(spare).take(CONNECTIONS).collect();
    let mut echo = Echo { way, submitter: submitter.clone(), bytes: Bytes::from(MESSAGE.to_vec()), spares };
    let mut peers = Vec::new();
    for i in 0..CONNECTIONS {
        let (ours, peer) = pair(&listener, datagrams);
        peers.push(peer);
        let conn = submitter.delegate(ours).unwrap();
        echo.read(&conn, i).unwrap();
    }
    let client = thread::spawn(move || client(peers));
    let mut open = CONNECTIONS;
    while open > 0 {
        for event in server.wait().unwrap() {
            if !echo.serve(event) {
                open -= 1;
            }
        }
    }
    if arena < Limits::default().arena {
        assert!(submitter.counters().starved > 0, "nobody was out of room");
    }
    client.join().unwrap()
}

/// Allocations of operations that are cancelled, or time out, and of timers that ring. Whatever does not succeed is told by
/// a failure, which is boxed: that is one.
fn given_up(drive: Drive, late: bool) -> u64 {
    let (mut server, submitter) = Server::start(drive);
    let (ours, _silent) = UnixStream::pair().unwrap();
    let conn = submitter.delegate(ours).unwrap();
    let mut rounds = |n| {
        for round in 0..n {
            let (read, id) = conn.read_pooled().within(if late { Duration::ZERO } else { AN_HOUR }).named();
            read.submit_with(round).unwrap();
            submitter.timer(Duration::ZERO).submit_with(round).unwrap();
            if !late {
                conn.cancel(id).unwrap();
            }
            let mut seen = 0;
            while seen < 2 {
                for event in server.wait().unwrap() {
                    seen += 1;
                    match event {
                        Event::Done { outcome: Outcome::Failed(failure), .. } if late => {
                            assert!(matches!(failure.error, OpError::TimedOut));
                        }
                        Event::Done { outcome: Outcome::Failed(failure), .. } => {
                            assert!(matches!(failure.error, OpError::Cancelled));
                        }
                        Event::Timer { result: Ok(()), .. } => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    };
    rounds(WARM_UP);
    counting::least(ROUNDS as u64, || rounds(ROUNDS))
}

#[test]
fn no_operation_allocates_in_the_steady_state() {
    let mut failures = Vec::new();
    for drive in [Drive::Embedded, Drive::Spawned] {
        let all = ways().into_iter().flat_map(|way| [(way, false), (way, true)]);
        let usual = all.map(|(way, datagrams)| (way, datagrams, Limits::default().arena));
        // And with an arena in which most pooled reads find no room.
        let narrow = Way { reads: Reads::Pooled, writes: Writes::Copied, linked: true, bounded: false };
        for (way, datagrams, arena) in usual.chain([(narrow, false, 1_024)]) {
            let count = allocations_of(drive, way, datagrams, arena);
            let sort = if datagrams { "datagrams" } else { "streams" };
            println!("{drive:?} {way:?} {sort}: {count} allocations in {} messages", ROUNDS * CONNECTIONS);
            if count > 0 {
                failures.push((drive, way, sort, count));
            }
        }
    }
    for (drive, late) in [Drive::Embedded, Drive::Spawned].into_iter().flat_map(|drive| [(drive, false), (drive, true)])
    {
        let count = given_up(drive, late);
        println!("{drive:?}, {}: {count} allocations in {ROUNDS} rounds", if late { "late" } else { "cancelled" });
        assert!(count <= ROUNDS as u64, "{drive:?} late: {late}: more than the failure itself: {count}");
    }
    assert!(failures.is_empty(), "G9: allocations per {} messages: {failures:#?}", ROUNDS * CONNECTIONS);
}
