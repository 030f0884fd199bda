//! What an idle connection costs: bytes of the heap, by the allocator. Deterministic, so a bound can be tight.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

#[path = "process/counting.rs"]
mod counting;

use std::os::unix::net::UnixStream;

use gaio::{Conn, EmbeddedWatcher, Options, Submitter, Watcher};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CONNECTIONS: usize = 2_000;

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
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
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
