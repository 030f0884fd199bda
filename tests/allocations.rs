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
use std::os::unix::net::UnixDatagram;
use std::thread;

use bytes::Bytes;
use gaio::{
    Batch, Conn, EmbeddedWatcher, Event, Options, Outcome, Payload, SubmitError, Submitter, WaitError, Watcher,
};

const CONNECTIONS: usize = 8;
/// Rounds of one message on each connection: 400 messages to warm up, and 2 000 that are counted. A warm-up that is
/// shorter than a store of buffers is long: one that only fills must not pass for one that is full.
const WARM_UP: usize = 50;
const ROUNDS: usize = 250;
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
                    ways.push(Way { reads, writes, linked });
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
        match drive {
            Drive::Spawned => {
                let (watcher, submitter) = Watcher::spawn_for(Options::default()).unwrap();
                (Self::Spawned(watcher), submitter)
            }
            Drive::Embedded => {
                let (watcher, submitter) = EmbeddedWatcher::new_for(Options::default()).unwrap();
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

struct Echo {
    way: Way,
    bytes: Bytes,
    spares: Vec<Spare>,
}

impl Echo {
    fn read(&mut self, conn: &Conn<usize>, i: usize) -> Result<(), SubmitError<usize>> {
        match self.way.reads {
            Reads::Vec => conn.read(self.spares[i].read.take().unwrap()).submit_with(i),
            Reads::Pooled => conn.read_pooled().submit_with(i),
            Reads::Leased => conn.read_leased().submit_with(i),
        }
    }

    /// Answers from something that is not the buffer of the read.
    fn answer(&mut self, conn: &Conn<usize>, i: usize, read: &[u8]) -> Result<(), SubmitError<usize>> {
        let Way { reads, writes, linked } = self.way;
        let pooled = reads == Reads::Pooled;
        match writes {
            Writes::Bytes if linked && pooled => conn.write(self.bytes.clone()).then_read_pooled().submit_with(i),
            Writes::Bytes if linked => conn.write(self.bytes.clone()).then_read_leased().submit_with(i),
            Writes::Bytes => conn.write(self.bytes.clone()).submit_with(i),
            Writes::Static if linked && pooled => conn.write(&MESSAGE).then_read_pooled().submit_with(i),
            Writes::Static if linked => conn.write(&MESSAGE).then_read_leased().submit_with(i),
            Writes::Static => conn.write(&MESSAGE).submit_with(i),
            Writes::Copied if linked && pooled => conn.write_copied(read).then_read_pooled().submit_with(i),
            Writes::Copied if linked => conn.write_copied(read).then_read_leased().submit_with(i),
            Writes::Copied => conn.write_copied(read).submit_with(i),
            Writes::Vec => {
                let mut bytes = self.spares[i].write.take().unwrap();
                bytes.clear();
                bytes.extend_from_slice(read);
                conn.write(bytes).submit_with(i)
            }
            Writes::Same => unreachable!("the buffer of the read is at hand there"),
        }
    }

    /// False: this connection has ended.
    fn serve(&mut self, event: Event<'_, usize>) -> bool {
        let Event::Done { conn, context: i, outcome } = event else { panic!("nothing else was asked for: {event:?}") };
        let same = self.way.writes == Writes::Same;
        let submitted = match outcome {
            Outcome::Read(bytes) if bytes.is_empty() => return false,
            Outcome::Leased(lease) if lease.is_empty() => return false,
            Outcome::Pooled([]) => return false,
            Outcome::Read(bytes) if same && self.way.linked => conn.write(bytes).then_read().submit_with(i),
            Outcome::Read(bytes) if same => conn.write(bytes).submit_with(i),
            Outcome::Read(bytes) => {
                let submitted = self.answer(&conn, i, &bytes);
                self.spares[i].read = Some(bytes);
                submitted
            }
            Outcome::Leased(lease) if same && self.way.linked => conn.write(lease).then_read_leased().submit_with(i),
            Outcome::Leased(lease) if same => conn.write(lease).submit_with(i),
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

/// Exchanges messages, and returns what was allocated after the warm-up.
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
    let before = counting::allocations();
    rounds(ROUNDS);
    let allocations = counting::allocations() - before;
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

fn allocations_of(drive: Drive, way: Way, datagrams: bool) -> u64 {
    let (mut server, submitter) = Server::start(drive);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let spare = || Spare { read: Some(Vec::with_capacity(1024)), write: Some(Vec::with_capacity(1024)) };
    let spares = std::iter::repeat_with(spare).take(CONNECTIONS).collect();
    let mut echo = Echo { way, bytes: Bytes::from(MESSAGE.to_vec()), spares };
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
    client.join().unwrap()
}

/// None, where the number of buffers under way is fixed. How many leases are under way at once depends on how the steps
/// interleave (one being written while the next is being read), so the pool may learn of a new most after the warm-up
/// too: at most one more per connection, however many messages there are.
fn allowed(way: Way) -> u64 {
    let leases = way.reads == Reads::Leased || way.writes == Writes::Copied;
    if leases { CONNECTIONS as u64 } else { 0 }
}

#[test]
fn no_operation_allocates_in_the_steady_state() {
    let mut failures = Vec::new();
    for drive in [Drive::Embedded, Drive::Spawned] {
        for (way, datagrams) in ways().into_iter().flat_map(|way| [(way, false), (way, true)]) {
            let count = allocations_of(drive, way, datagrams);
            let sort = if datagrams { "datagrams" } else { "streams" };
            println!("{drive:?} {way:?} {sort}: {count} allocations in {} messages", ROUNDS * CONNECTIONS);
            if count > allowed(way) {
                failures.push((drive, way, sort, count));
            }
        }
    }
    assert!(failures.is_empty(), "G9: allocations per {} messages: {failures:#?}", ROUNDS * CONNECTIONS);
}
