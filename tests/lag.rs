//! A consumer that lags (G3): it stops waiting for a while with thousands of completions pending, and then gets all of
//! them, each exactly once (G1), in order (G2), with their own bytes (G5). `backpressure` has what it costs meanwhile.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use gaio::{Conn, Event, Outcome, Submitter, Watcher};
use support::{Got, Net, Pattern, Peer, Rig, Taken, check, doze, until};

const CONNS: usize = 40;
/// Operations of each kind per connection.
const EACH: usize = 100;

/// Contexts say which connection, what was asked for, and which one of those it is.
const READ: usize = 0;
const POOLED: usize = 1;
const LEASED: usize = 2;
const WRITE: usize = 3;
const KINDS: usize = 4;
const POSTS: u64 = 1 << 32;

fn context(conn: usize, kind: usize, i: usize) -> u64 {
    ((conn * KINDS + kind) * EACH + i) as u64
}

/// What has been seen so far.
struct Account {
    pattern: Pattern,
    /// The next one expected, by connection and kind.
    next: Vec<usize>,
    /// Bytes of the stream read so far, by connection.
    at: Vec<usize>,
    posted: u64,
    accepted: usize,
}

impl Account {
    fn new() -> Self {
        let (next, at) = (vec![0; CONNS * KINDS], vec![0; CONNS]);
        Self { pattern: Pattern::new(), next, at, posted: 0, accepted: 0 }
    }

    fn completed(&self) -> usize {
        self.next.iter().sum()
    }

    fn enter(&mut self, event: Event<'_, u64>) {
        let (conn, which, outcome) = match event {
            Event::Posted(context) => {
                assert_eq!(context, POSTS + self.posted, "posts come once and in order");
                self.posted += 1;
                return;
            }
            Event::Accepted { .. } => return self.accepted += 1,
            Event::Done { context, outcome, .. } => {
                let context = usize::try_from(context).unwrap();
                let (group, i) = (context / EACH, context % EACH);
                assert_eq!(i, self.next[group], "operations of one kind come once and in order");
                self.next[group] += 1;
                (group / KINDS, group % KINDS, outcome)
            }
            other => panic!("{other:?}"),
        };
        let bytes = match (which, &outcome) {
            (READ, Outcome::Read(bytes)) => &bytes[..],
            (POOLED, Outcome::Pooled(bytes)) => bytes,
            (LEASED, Outcome::Leased(lease)) => lease,
            (WRITE, Outcome::Wrote(_)) => return,
            other => panic!("{other:?}"),
        };
        assert!(!bytes.is_empty() && bytes == self.pattern.at(conn * 1_000 + self.at[conn], bytes.len()));
        self.at[conn] += bytes.len();
    }
}

/// Everything that a consumer may find when it comes back.
fn submit(submitter: &Submitter<u64>, ends: &[(Conn<u64>, Peer)]) {
    for i in 0..EACH {
        for (number, (conn, _)) in ends.iter().enumerate() {
            conn.read(Vec::with_capacity(7)).submit_with(context(number, READ, i)).unwrap();
            conn.read_pooled().submit_with(context(number, POOLED, i)).unwrap();
            conn.read_leased().submit_with(context(number, LEASED, i)).unwrap();
            conn.write(b"w").submit_with(context(number, WRITE, i)).unwrap();
            submitter.post(POSTS + (i * CONNS + number) as u64).unwrap();
        }
    }
}

/// Batches of one, a few and the default; an arena for one read and for many.
#[test]
fn thousands_pending_come_once_each_when_the_consumer_returns() {
    check(|| {
        for (batch, arena) in [(1, 7), (7, 1 << 20), (256, 4_096), (256, 1 << 20)] {
            let mut rig = Rig::<Watcher<u64>>::with(|limits| {
                (limits.batch, limits.arena, limits.read_cap, limits.ring_slots) = (batch, arena, 7, 64);
            });
            let listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
            let mut account = Account::new();
            let ends: Vec<(Conn<u64>, Peer)> = (0..CONNS).map(|_| rig.connect(Net::Unix)).collect();
            for (i, (_, peer)) in ends.iter().enumerate() {
                let mut peer = peer;
                peer.write_all(account.pattern.at(i * 1_000, 3 * EACH * 7)).unwrap();
            }
            submit(&rig.submitter, &ends);
            let address = listener.local_addr().unwrap();
            let _clients: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
            until(|| rig.counters().residues > 0);
            doze();
            let pending = rig.submitter.load();
            assert_eq!(pending, (CONNS * EACH * (KINDS + 1)) as u64, "all in flight, none was taken");

            let mut batches = 0;
            while rig.submitter.load() > 0 || account.accepted < 20 {
                rig.watcher.wait().unwrap().for_each(|event| account.enter(event));
                batches += 1;
                // Away again, and back.
                if batches % 50 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
            }
            assert_eq!((account.completed(), account.posted), (CONNS * EACH * KINDS, (CONNS * EACH) as u64));
            assert_eq!(account.at, [3 * EACH * 7; CONNS]);
            rig.assert_quiet();
        }
    });
}

/// An echo server whose consumer goes away in the middle of everything, again and again: its clients get every byte.
#[test]
fn an_echo_survives_a_consumer_that_comes_and_goes() {
    check(|| {
        const CLIENTS: usize = 12;
        const TOTAL: usize = 200_003;
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.batch = 16);
        let pattern = Pattern::new();
        thread::scope(|scope| {
            for i in 0..CLIENTS {
                let (conn, peer) = rig.connect(if i % 2 == 0 { Net::Unix } else { Net::Tcp });
                conn.read_pooled().submit_with(0).unwrap();
                let (mut sender, mut receiver) = (peer.try_clone().unwrap(), peer);
                let pattern = &pattern;
                scope.spawn(move || {
                    pattern.send(&mut sender, TOTAL);
                    support::finish(&sender);
                });
                scope.spawn(move || {
                    pattern.receive(&mut receiver, TOTAL);
                    assert_eq!(receiver.read(&mut [0]).unwrap(), 0, "and no more");
                });
            }
            let (mut ended, mut batches) = (0, 0);
            while ended < CLIENTS {
                for event in rig.watcher.wait().unwrap() {
                    let Event::Done { conn, context, outcome } = event else { panic!("{event:?}") };
                    let next = context + 1;
                    match outcome {
                        Outcome::Pooled(bytes) => conn.write_copied(bytes).then_read_leased().submit_with(next),
                        Outcome::Leased(lease) => conn.write(lease.to_vec()).then_read().submit_with(next),
                        Outcome::Read(bytes) => conn.write_copied(&bytes).then_read_pooled().submit_with(next),
                        Outcome::Eof(_) => {
                            ended += 1;
                            Ok(())
                        }
                        other => panic!("{other:?}"),
                    }
                    .unwrap();
                }
                batches += 1;
                if batches % 20 == 0 {
                    thread::sleep(Duration::from_millis(3));
                }
            }
        });
    });
}

/// The loop ends while nobody waits: what is left is handed out then, however late the consumer comes.
#[test]
fn a_consumer_that_comes_after_the_end() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.batch = 8);
        let (conn, mut peer) = rig.connect(Net::Unix);
        for i in 0..1_000 {
            rig.submitter.post(i).unwrap();
            conn.read(Vec::with_capacity(1)).submit_with(1_000 + i).unwrap();
        }
        rig.submitter.shutdown(Duration::ZERO);
        until(|| rig.counters().sessions == 0);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        doze();
        let mut seen: Vec<u64> = rig
            .rest()
            .into_iter()
            .map(|taken| match taken {
                Taken::Posted(context) | Taken::Done(_, context, Got::Failed(_)) => context,
                other => panic!("{other:?}"),
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..2_000).collect::<Vec<_>>());
    });
}
