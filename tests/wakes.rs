//! Wake races (G4): many threads, each with a single submission that nothing else would announce, against a loop and a
//! consumer that keep falling asleep. A wake-up that is lost hangs the test, and the watchdog names it.
//!
//! What is raced: the submitter's raise against the closing of the gate, and the publish against the parking consumer.
//! Pauses of changing length, with no system call in them, sweep the submission over both.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use gaio::{Conn, Submitter, Watcher};
use support::{Drive, Got, Net, Peer, Rig, Taken, both_drives, check, finish, until};

/// Burns up to some ten microseconds, differently each time.
fn spin(seed: u64) {
    for _ in 0..seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52 {
        std::hint::spin_loop();
    }
}

/// A thread's own means of submitting one thing.
struct Worker {
    number: u64,
    submitter: Submitter<u64>,
    conn: Conn<u64>,
    peer: Peer,
}

impl Worker {
    fn crowd<D: Drive>(rig: &Rig<D>, n: u64) -> Vec<Self> {
        let one = |number| {
            let (conn, peer) = rig.connect(Net::Unix);
            Self { number, submitter: rig.submitter.clone(), conn, peer }
        };
        (0..n).map(one).collect()
    }

    /// One submission, of a kind that depends on `round`, whose completion has this worker's number.
    fn submit(&mut self, round: u64) {
        let context = self.number;
        match (round + context) % 6 {
            0 => self.submitter.post(context).unwrap(),
            1 => {
                self.peer.write_all(b"x").unwrap();
                self.conn.read(Vec::with_capacity(1)).submit_with(context).unwrap();
            }
            // The bytes come last: then it is the selector that has to wake the loop, beside all the raises.
            2 => {
                self.conn.read_leased().submit_with(context).unwrap();
                spin(round);
                self.peer.write_all(b"x").unwrap();
            }
            3 => {
                self.conn.write(b"y").submit_with(context).unwrap();
                self.peer.read_exact(&mut [0]).unwrap();
            }
            4 => {
                self.conn.write(b"z".to_vec()).then_read().submit_with(context).unwrap();
                self.peer.read_exact(&mut [0]).unwrap();
                self.peer.write_all(b"x").unwrap();
            }
            _ => {
                // A connection of its own: a delegation, and a release that is answered.
                let (ours, _peer) = Net::Unix.pair();
                self.submitter.delegate(ours).unwrap().release().submit_with(context).unwrap();
            }
        }
    }
}

/// Takes the next completion: whose it is.
fn next_worker<D: Drive>(rig: &mut Rig<D>) -> usize {
    let context = match rig.next() {
        Taken::Posted(context) => context,
        Taken::Done(_, context, Got::Read(_) | Got::Leased(_) | Got::Wrote(_) | Got::Closed) => context,
        other => panic!("{other:?}"),
    };
    usize::try_from(context).unwrap()
}

/// One submission in the whole system at a time, by another thread each time: everybody else is asleep, or about to be.
fn one_at_a_time<D: Drive>() {
    const ROUNDS: u64 = 2_400;
    const WORKERS: u64 = 8;
    let mut rig = Rig::<D>::new();
    let turn = &AtomicU64::new(0);
    let workers = Worker::crowd(&rig, WORKERS);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for mut worker in workers {
            threads.push(scope.spawn(move || {
                for round in (worker.number..ROUNDS).step_by(8) {
                    while turn.load(Ordering::Acquire) < round {
                        thread::park();
                    }
                    spin(round);
                    worker.submit(round);
                }
            }));
        }
        for round in 0..ROUNDS {
            assert_eq!(next_worker(&mut rig) as u64, round % WORKERS);
            turn.store(round + 1, Ordering::Release);
            threads[usize::try_from((round + 1) % WORKERS).unwrap()].thread().unpark();
        }
    });
    assert_eq!(rig.submitter.load(), 0);
}

/// Everybody at once, each with one submission, and the next only when that was answered; the consumer dawdles, so that
/// the loop publishes before it waits as often as while it does.
fn each_with_one<D: Drive>() {
    const EACH: u64 = 300;
    let mut rig = Rig::<D>::new();
    let workers = Worker::crowd(&rig, 8);
    thread::scope(|scope| {
        let mut answers = Vec::new();
        for mut worker in workers {
            let (answer, answered) = channel();
            answers.push(answer);
            scope.spawn(move || {
                for round in 0..EACH {
                    worker.submit(round);
                    answered.recv().unwrap();
                    spin(round);
                }
            });
        }
        for round in 0..8 * EACH {
            answers[next_worker(&mut rig)].send(()).unwrap();
            spin(round);
            if round % 64 == 0 {
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    assert_eq!(rig.submitter.load(), 0);
}

/// Rings of two slots: the submitter parks, too, and three sleepers wait for each other's wake-ups.
fn each_with_one_through_a_tiny_ring<D: Drive>() {
    const EACH: u64 = 500;
    let mut rig = Rig::<D>::with(|limits| (limits.ring_slots, limits.batch) = (2, 1));
    thread::scope(|scope| {
        for worker in 0..8 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for round in 0..EACH {
                    submitter.post(worker).unwrap();
                    spin(round);
                }
            });
        }
        let mut counts = [0; 8];
        for round in 0..8 * EACH {
            counts[next_worker(&mut rig)] += 1;
            spin(round);
        }
        assert_eq!(counts, [EACH; 8]);
    });
}

both_drives!(one_at_a_time, each_with_one, each_with_one_through_a_tiny_ring);

/// What has no completion must wake the loop as well, with nobody waiting for anything: a dropped handle, a listener's.
#[test]
fn drops_wake_a_loop_that_nobody_waits_for() {
    check(|| {
        let rig = Rig::<Watcher<u64>>::new();
        thread::scope(|scope| {
            for worker in 0..4 {
                let submitter = rig.submitter.clone();
                scope.spawn(move || {
                    for round in 0..200 {
                        let (ours, mut peer) = Net::Unix.pair();
                        let conn = submitter.delegate(ours).unwrap();
                        spin(worker * 1_000 + round);
                        drop(conn);
                        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
                    }
                });
            }
        });
        for round in 0..50 {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let listener = rig.submitter.listen(socket).unwrap();
            spin(round);
            drop(listener);
            until(|| TcpStream::connect(address).is_err());
        }
    });
}

/// A consumer whose thread is another each time: the one that waited last must not be the one that is woken.
#[test]
fn a_watcher_that_moves_between_threads_is_woken_where_it_waits() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::new();
        let submitter = rig.submitter.clone();
        let (conn, mut peer) = rig.connect(Net::Unix);
        for round in 0..300 {
            rig = thread::scope(|scope| {
                let waiting = scope.spawn(move || {
                    assert!(matches!(rig.next(), Taken::Posted(context) if context == round));
                    rig
                });
                spin(round);
                submitter.post(round).unwrap();
                waiting.join().unwrap()
            });
        }
        conn.read(Vec::with_capacity(8)).submit().unwrap();
        peer.write_all(b"still").unwrap();
        assert_eq!(rig.outcome().read(), b"still");
        finish(&peer);
    });
}
