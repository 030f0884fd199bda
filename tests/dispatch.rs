//! Several watchers in one process, and a dispatch of one's own: `Submitter::load` says who has least to do.

mod support;

use std::io::{Read, Write};
use std::thread;

use gaio::{Event, Options, Outcome, Submitter, WaitError, Watcher};
use support::{Net, Peer, check, until};

const WATCHERS: usize = 3;

/// The watcher with the least in flight.
fn least(submitters: &[Submitter<usize>]) -> usize {
    (0..submitters.len()).min_by_key(|i| submitters[*i].load()).unwrap()
}

/// Echoes until the end, with two operations in flight for each connection, and the watcher's number for a context.
fn serve(mut watcher: Watcher<usize>) -> WaitError {
    loop {
        let batch = match watcher.wait() {
            Ok(batch) => batch,
            Err(end) => return end,
        };
        for event in batch {
            match event {
                Event::Done { conn, context, outcome: Outcome::Leased(bytes) } => {
                    // Refused while the loop ends.
                    let _ = conn.write(bytes).then_read_leased().submit_with(context);
                }
                Event::Done { outcome: Outcome::Eof(_) | Outcome::Failed(_), .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn echoes(peer: &mut Peer, message: &[u8]) {
    peer.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(answer, message);
}

#[test]
fn connections_go_where_the_load_is_least() {
    check(|| {
        let (watchers, submitters): (Vec<_>, Vec<_>) =
            (0..WATCHERS).map(|_| Watcher::spawn_for(Options::default()).unwrap()).unzip();
        let serving: Vec<_> = watchers.into_iter().map(|watcher| thread::spawn(|| serve(watcher))).collect();
        let mut peers: Vec<Vec<Peer>> = (0..WATCHERS).map(|_| Vec::new()).collect();
        let connect = |peers: &mut Vec<Vec<Peer>>| {
            let to = least(&submitters);
            let (ours, peer) = Net::Tcp.pair();
            let conn = submitters[to].delegate(ours).unwrap();
            conn.read_leased().submit_with(to).unwrap();
            peers[to].push(peer);
            to
        };
        for _ in 0..10 * WATCHERS {
            connect(&mut peers);
        }
        assert_eq!(peers.iter().map(Vec::len).collect::<Vec<_>>(), [10; WATCHERS], "each has its share");
        for (i, peer) in peers.iter_mut().flatten().enumerate() {
            echoes(peer, format!("to and fro, {i}").as_bytes());
        }
        // One of them loses its connections, and gets all new ones until it has as many as the others.
        for idle in [1, 0] {
            peers[idle].clear();
            until(|| submitters[idle].load() == 0);
            let to: Vec<_> = (0..10).map(|_| connect(&mut peers)).collect();
            assert_eq!(to, [idle; 10]);
        }
        for peer in peers.iter_mut().flatten() {
            echoes(peer, b"still");
        }
        assert!(submitters.iter().all(|submitter| submitter.counters().sessions == 10));
        // One ends; the others go on without it.
        submitters[2].shutdown(std::time::Duration::ZERO);
        until(|| submitters[2].load() == 0);
        for peers in &mut peers[..2] {
            peers.iter_mut().for_each(|peer| echoes(peer, b"and still"));
        }
        for submitter in &submitters {
            submitter.shutdown(std::time::Duration::ZERO);
        }
        for server in serving {
            assert_eq!(server.join().unwrap(), WaitError::Closed);
        }
    });
}
