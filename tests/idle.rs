//! A loop with nothing to do sleeps, one that is wanted is woken, and a wake-up costs one write at most (G4).

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gaio::{Driver, EmbeddedWatcher, Options, Snapshot, Watcher};
use support::{Drive, Net, Rig, Taken, both_drives, check, doze, finish, until};

/// Polls and turns that a loop may still take between "nothing is left to do" and its sleep.
const LAST_LOOKS: u64 = 4;

/// The loop is asleep, whatever the state it was left in.
fn assert_asleep(before: Snapshot, after: Snapshot) {
    let (turns, polls) = (after.turns - before.turns, after.polls - before.polls);
    assert!(turns <= LAST_LOOKS && polls <= LAST_LOOKS, "{turns} turns, {polls} polls with nothing to do");
}

/// Lets time pass. A spawned loop is on its own; an embedded one is given the turn.
fn idle<D: Drive>(rig: &mut Rig<D>) {
    let before = rig.counters();
    if D::SPAWNED {
        doze();
    } else {
        assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(300)).unwrap().len(), 0);
    }
    assert_asleep(before, rig.counters());
}

fn nothing_at_all<D: Drive>() {
    idle(&mut Rig::<D>::new());
}

/// Connections in every state in which nothing is to be done.
fn idle_connections<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    // One that waits for input, one whose input nobody wants, one whose peer has gone, one that is blocked, one that has
    // read up to the end, one that closes and waits for its peer.
    let (waiting, _p1) = rig.connect(Net::Tcp);
    waiting.read_leased().submit().unwrap();
    let (_unwanted, mut p2) = rig.connect(Net::Tcp);
    p2.write_all(&[1; 10_000]).unwrap();
    let (_gone, p3) = rig.connect(Net::Tcp);
    drop(p3);
    let (blocked, _p4) = rig.connect(Net::Unix);
    blocked.write(vec![1; 4 << 20]).submit().unwrap();
    let (ended, p5) = rig.connect(Net::Tcp);
    finish(&p5);
    ended.read(Vec::with_capacity(8)).submit().unwrap();
    rig.outcome().eof();
    let (closing, _p6) = rig.connect(Net::Tcp);
    closing.close().submit().unwrap();
    let (half, p7) = rig.connect(Net::Unix);
    half.readable().submit().unwrap();
    finish(&p7);
    assert!(matches!(rig.outcome(), support::Got::Readable));
    rig.assert_quiet();
    idle(&mut rig);
    drop(listener);
}

fn a_post_interrupts_a_wait<D: Drive>() {
    let mut rig = Rig::<D>::new();
    thread::scope(|scope| {
        for context in 0..20 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(2));
                submitter.post(context).unwrap();
            });
            assert!(matches!(rig.next(), Taken::Posted(got) if got == context));
        }
    });
}

/// G4 as a stress: at the end of every wait somebody submits. A lost wake-up would hang it.
fn every_wait_is_ended_by_somebody<D: Drive>() {
    const ROUNDS: u64 = 3_000;
    let mut rig = Rig::<D>::new();
    let turn = &std::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..2 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for round in (worker..ROUNDS).step_by(2) {
                    while turn.load(Ordering::Acquire) < round {
                        thread::yield_now();
                    }
                    submitter.post(round).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            assert!(matches!(rig.next(), Taken::Posted(got) if got == round));
            turn.store(round + 1, Ordering::Release);
        }
    });
    assert_one_write_per_turn(rig.counters());
}

fn a_wake_up_under_load_costs_at_most_one_write<D: Drive>() {
    const EACH: u64 = 5_000;
    let mut rig = Rig::<D>::with(|limits| limits.ring_slots = 64);
    thread::scope(|scope| {
        for worker in 0..4 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || (0..EACH).for_each(|_| submitter.post(worker).unwrap()));
        }
        for _ in 0..4 * EACH {
            assert!(matches!(rig.next(), Taken::Posted(_)));
        }
    });
    rig.assert_quiet();
    assert_one_write_per_turn(rig.counters());
}

/// Each turn closes the gate once, and each closing admits one write; one more for the gate that is born closed. (Turns
/// and not polls: a raiser that comes between two turns without a poll in between writes, too, as the gate's own
/// documentation says.) A write per submission, or two per park, would be far beyond.
fn assert_one_write_per_turn(counters: Snapshot) {
    assert!(counters.waker_writes <= counters.turns + 1, "{counters:?}");
}

both_drives!(
    nothing_at_all,
    idle_connections,
    a_post_interrupts_a_wait,
    every_wait_is_ended_by_somebody,
    a_wake_up_under_load_costs_at_most_one_write,
);

/// G4: between two turns an embedded loop counts as parked, so the first submission writes, and only that one.
#[test]
fn a_thousand_submissions_to_a_parked_loop_write_once() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        rig.assert_quiet();
        for round in 1..4 {
            let before = rig.counters().waker_writes;
            thread::scope(|scope| {
                let submitter = &rig.submitter;
                for _ in 0..2 {
                    scope.spawn(|| (0..500).for_each(|_| submitter.post(round).unwrap()));
                }
            });
            assert_eq!(rig.counters().waker_writes - before, 1);
            for _ in 0..1_000 {
                assert!(matches!(rig.next(), Taken::Posted(got) if got == round));
            }
        }
    });
}

/// Submissions from the loop's own thread need no waker.
#[test]
fn submissions_of_the_loops_own_thread_write_nothing() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        for context in 0..1_000 {
            rig.submitter.post(context).unwrap();
            assert!(matches!(rig.next(), Taken::Posted(got) if got == context));
        }
        let (conn, _peer) = rig.connect(Net::Unix);
        drop(conn);
        rig.assert_quiet();
        assert_eq!(rig.counters().waker_writes, 0);
    });
}

/// A ready list behind a full batch and a consumer that is busy elsewhere: the loop must not spin until it comes (a
/// prototype did, and took the CPU from the very thread it waited for).
#[test]
fn a_full_batch_is_not_work() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| (limits.batch, limits.ops_per_turn) = (2, 2));
        let ends: Vec<_> = (0..8).map(|_| rig.connect(Net::Unix)).collect();
        for (conn, peer) in &ends {
            let mut peer = peer;
            peer.write_all(&[1; 100]).unwrap();
            for context in 0..100 {
                conn.read(Vec::with_capacity(1)).submit_with(context).unwrap();
            }
        }
        until(|| rig.counters().residues > 0);
        // One more of everything that wakes it, while it is full.
        let mut peer = &ends[0].1;
        peer.write_all(&[1]).unwrap();
        thread::sleep(Duration::from_millis(50));
        let before = rig.counters();
        doze();
        assert_asleep(before, rig.counters());
        for _ in 0..800 {
            rig.outcome().read();
        }
        rig.assert_quiet();
    });
}

/// The same for pooled reads that wait for room in the arena.
#[test]
fn a_full_arena_is_not_work() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| (limits.arena, limits.read_cap) = (4_096, 4_096));
        let ends: Vec<_> = (0..8).map(|_| rig.connect(Net::Unix)).collect();
        for (conn, peer) in &ends {
            let mut peer = peer;
            peer.write_all(&[1; 4_096]).unwrap();
            conn.read_pooled().submit().unwrap();
        }
        until(|| rig.counters().starved >= 6);
        thread::sleep(Duration::from_millis(50));
        let before = rig.counters();
        doze();
        assert_asleep(before, rig.counters());
        for _ in 0..8 {
            assert_eq!(rig.outcome().bytes().len(), 4_096);
        }
    });
}

/// The same for a listener out of credit.
#[test]
fn a_listener_out_of_credit_is_not_work() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.listen_credit = 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _listener = rig.submitter.listen(listener).unwrap();
        let _peers: Vec<_> = (0..8).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        until(|| rig.counters().accepted >= 1);
        thread::sleep(Duration::from_millis(50));
        let before = rig.counters();
        doze();
        assert_asleep(before, rig.counters());
        for _ in 0..8 {
            assert!(matches!(rig.next(), Taken::Accepted(..)));
        }
    });
}

/// A consumer that polls instead of waiting wakes nobody.
#[test]
fn a_consumer_that_only_looks() {
    check(|| {
        let options = Options::default().driver(Driver::LoopThread); // Else to look would be to take a turn.
        let mut rig = Rig::<Watcher<u64>>::of(options);
        rig.assert_quiet();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                doze();
                over.store(true, Ordering::Release);
            });
            thread::sleep(Duration::from_millis(20));
            let before = rig.counters();
            while !over.load(Ordering::Acquire) {
                assert_eq!(rig.watcher.try_wait().unwrap().len(), 0);
                assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(1)).unwrap().len(), 0);
            }
            assert_asleep(before, rig.counters());
        });
    });
}
