//! What connections cost: bytes of the heap, by the allocator. Deterministic, so a bound can be tight.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

#[path = "process/counting.rs"]
mod counting;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gaio::{Conn, Driver, EmbeddedWatcher, Event, Limits, Options, Outcome, Submitter, Watcher};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 2_000;
/// A buffer of the loop's pool, with what belongs to it.
const LEASE: i64 = (16 << 10) + 256;

/// The counts are of the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    alone
}

/// Which read is pending on each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reads {
    Leased,
    Pooled,
}

fn start_read(conn: &Conn, reads: Reads) {
    let op = if reads == Reads::Leased { conn.read_leased() } else { conn.read_pooled() };
    op.submit().unwrap();
}

/// Delegates one end of each pair with a read, and keeps no handle: the read is one.
fn delegate_all(submitter: &Submitter, reads: Reads, settle: &mut dyn FnMut(usize)) -> f64 {
    let mut peers = Vec::with_capacity(CONNECTIONS);
    let before = counting::live_bytes();
    for i in 0..CONNECTIONS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        peers.push(theirs);
        let conn = submitter.delegate(ours).unwrap();
        start_read(&conn, reads);
        drop(conn);
        if i % 500 == 499 {
            settle(i + 1);
        }
    }
    let each = counting::live_bytes() - before;
    assert_eq!(submitter.counters().sessions, CONNECTIONS as u64);
    #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
    return each as f64 / CONNECTIONS as f64;
}

fn embedded(reads: Reads) -> f64 {
    let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
    delegate_all(&submitter, reads, &mut |_| {
        // Twice: the first takes them up, the second sees their first edges.
        for _ in 0..2 {
            submitter.post(()).unwrap();
            assert_eq!(watcher.turn(None).unwrap().count(), 1);
        }
    })
}

fn spawned(reads: Reads) -> f64 {
    let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
    delegate_all(&submitter, reads, &mut |_| {
        for _ in 0..2 {
            submitter.post(()).unwrap();
            assert_eq!(watcher.wait().unwrap().count(), 1);
        }
    })
}

#[test]
fn an_idle_connection_costs_little() {
    let _alone = alone();
    let mut failures = Vec::new();
    for (drive, reads, most) in [
        ("embedded", Reads::Leased, 256.0),
        ("embedded", Reads::Pooled, 192.0),
        ("spawned", Reads::Leased, 320.0),
        ("spawned", Reads::Pooled, 256.0),
    ] {
        let each = if drive == "embedded" { embedded(reads) } else { spawned(reads) };
        println!("{drive} {reads:?}: {each:.1} bytes per idle connection, at most {most}");
        if each > most {
            failures.push(format!("{drive} {reads:?}: {each:.1} > {most}"));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// Everybody says something at once, and is answered: there were as many buffers as a batch holds reads, which are kept, and
/// nothing has touched of them but what was received.
#[test]
fn a_message_from_everybody_leaves_one_batch_of_buffers() {
    let _alone = alone();
    let most = LEASE * i64::try_from(Limits::default().batch).unwrap();
    let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
    let mut peers = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let (ours, theirs) = UnixStream::pair().unwrap();
        peers.push(theirs);
        submitter.delegate(ours).unwrap().read_leased().submit().unwrap();
    }
    // Twice: their first edges are seen, and the tables they are in are as large as they will be.
    for _ in 0..2 {
        submitter.post(()).unwrap();
        assert_eq!(watcher.turn(None).unwrap().count(), 1);
    }
    let before = (counting::live_bytes(), counting::zeroed_bytes());
    for peer in &mut peers {
        peer.write_all(b"hello").unwrap();
    }
    let mut answered = 0;
    while answered < CONNECTIONS {
        for event in watcher.turn(None).unwrap() {
            let Event::Done { conn, outcome: Outcome::Leased(lease), .. } = event else { panic!("{event:?}") };
            conn.write(lease).then_read_leased().submit().unwrap();
            answered += 1;
        }
    }
    let (kept, zeroed) = (counting::live_bytes() - before.0, counting::zeroed_bytes() - before.1);
    println!("{kept} bytes kept, of which {zeroed} were zeroed");
    assert!(kept <= most, "{kept} bytes kept, at most {most}");
    assert_eq!(zeroed, 0, "what is zeroed is touched");
}

/// What fifty writes of borrowed bytes hold while they are under way, on a loop whose pool is empty.
fn held_by_borrowed(submitter: &Submitter, mut take: impl FnMut() -> usize) -> i64 {
    const CONNS: usize = 50;
    let (mut conns, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..CONNS {
        let (ours, peer) = UnixStream::pair().unwrap();
        peers.push(peer);
        conns.push(submitter.delegate(ours).unwrap());
    }
    let mut held = 0;
    // The first rounds register them, and bring a consumer to drive.
    for round in 0..4 {
        let before = counting::live_bytes();
        for conn in &conns {
            if round < 3 {
                conn.write(&[7; 1_000]).submit().unwrap();
            } else {
                conn.write_copied(&[7; 1_000]).submit().unwrap();
            }
        }
        held = counting::live_bytes() - before;
        let mut taken = 0;
        while taken < CONNS {
            taken += take();
        }
    }
    held
}

/// Whoever submits where the loop is at hand copies nothing that is sent at once: else there would be a lease for each.
#[test]
fn what_is_borrowed_and_sent_at_once_is_not_copied() {
    let _alone = alone();
    let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
    let held = held_by_borrowed(&submitter, || watcher.turn(None).unwrap().count());
    assert!(held < LEASE, "{held} bytes held");
    // A consumer that the machine kept away for long finds its loop with the loop's thread.
    let in_vain = (0..20).take_while(|_| {
        let (mut watcher, submitter) = Watcher::spawn(Options::default().driver(Driver::Consumer)).unwrap();
        held_by_borrowed(&submitter, || watcher.wait().unwrap().count()) >= LEASE
    });
    assert!(in_vain.count() < 20, "each was copied");
}
