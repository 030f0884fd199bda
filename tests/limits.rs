//! Limits that change while the loop runs (G10): each that can does, lowered and raised; the others say so.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use gaio::{EmbeddedWatcher, Limits, SubmitErrorKind, Watcher};
use support::{Drive, Got, Net, Rig, Taken, both_drives, check, doze, until};

impl<D: Drive> Rig<D> {
    /// Changes limits, and lets the loop take them up.
    fn change(&mut self, change: impl FnOnce(&mut Limits)) {
        let mut limits = self.submitter.limits();
        change(&mut limits);
        self.submitter.set_limits(limits.clone()).unwrap();
        assert_eq!(self.submitter.limits(), limits);
        self.assert_quiet();
    }

    /// Posts until one is refused; how many were not. They are taken again.
    fn posts(&mut self) -> u64 {
        let accepted = (0..).find(|i| self.submitter.post(*i).is_err()).unwrap();
        for context in 0..accepted {
            assert!(matches!(self.next(), Taken::Posted(got) if got == context));
        }
        accepted
    }
}

// --- what submissions are held against: counts as soon as it is set -------------------------------------------------

fn operations_of_the_loop<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for ops in [3, 1, 1_000, 2] {
        // Without a turn in between: submitters look for themselves.
        let mut limits = rig.submitter.limits();
        limits.ops = ops;
        rig.submitter.set_limits(limits).unwrap();
        assert_eq!(rig.posts(), ops as u64);
    }
}

fn operations_of_a_connection<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    let mut pending = 0;
    for (ops, sent) in [(2, 0), (5, 4), (3, 1), (4, 4)] {
        rig.change(|limits| limits.ops_per_conn = ops);
        // Those there are stay, whatever the limit is now.
        while conn.read(Vec::with_capacity(1)).submit().is_ok() {
            pending += 1;
        }
        assert_eq!(pending, ops, "pending operations");
        peer.write_all(&[1; 4][..sent]).unwrap();
        for _ in 0..sent {
            rig.outcome().read();
            pending -= 1;
        }
    }
}

fn queued_bytes<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    let huge = 4 << 20;
    conn.write(vec![1; huge]).submit().unwrap();
    conn.write(vec![1; 10]).submit().unwrap();
    rig.change(|limits| limits.write_bytes = 1_000);
    assert_eq!(conn.write(vec![1; 10]).submit().unwrap_err().kind, SubmitErrorKind::TooMany);
    rig.change(|limits| limits.write_bytes = 5 << 20);
    conn.write(vec![1; 10]).submit().unwrap();
    let reading = thread::spawn(move || peer.read_exact(&mut vec![0; huge + 20]).map(|()| peer));
    (0..3).for_each(|_| drop(rig.outcome().wrote()));
    let _peer = reading.join().unwrap().unwrap();
}

fn sessions<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (first, _p1) = rig.connect(Net::Unix);
    let (_second, _p2) = rig.connect(Net::Unix);
    rig.change(|limits| limits.sessions = 1);
    let refused = rig.submitter.delegate(Net::Unix.pair().0).unwrap_err();
    assert!(matches!(refused.kind, gaio::DelegateErrorKind::TooMany), "{refused}");
    // One less is not yet less than the limit.
    first.release().submit().unwrap();
    rig.outcome().closed();
    let refused = rig.submitter.delegate(refused.socket).unwrap_err();
    rig.change(|limits| limits.sessions = 2);
    let _third = rig.submitter.delegate(refused.socket).unwrap();
    // Accepted ones are held against it, too.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _listener = rig.submitter.listen(listener).unwrap();
    let mut peer = TcpStream::connect(address).unwrap();
    let posting = rig.submitter.clone();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            until(|| posting.counters().refused == 1);
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            rig.assert_quiet();
        }
    });
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0);
    rig.change(|limits| limits.sessions = 3);
    let _peer = TcpStream::connect(address).unwrap();
    assert!(matches!(rig.next(), Taken::Accepted(..)));
}

// --- what the loop goes by: counts from its next turn on ------------------------------------------------------------

type Embedded = Rig<EmbeddedWatcher<u64>>;

/// The largest batch of twenty connections with five reads of a hundred bytes each. A turn may be two passes of the loop,
/// with two steps of each connection.
fn largest_batch(rig: &mut Embedded) -> usize {
    let ends: Vec<_> = (0..20).map(|_| rig.connect(Net::Unix)).collect();
    for (conn, _) in &ends {
        (0..5).for_each(|_| conn.read(Vec::with_capacity(100)).submit().unwrap());
    }
    rig.assert_quiet();
    for (_, peer) in &ends {
        let mut peer = peer;
        peer.write_all(&[1; 500]).unwrap();
    }
    let (mut left, mut largest) = (100, 0);
    while left > 0 {
        let batch = rig.watcher.wait().unwrap();
        largest = largest.max(batch.len());
        left -= batch.count();
    }
    largest
}

/// Budgets and batches, on a loop that does nothing until it is asked.
#[test]
fn what_a_turn_brings() {
    check(|| {
        let mut rig = Embedded::new();
        assert_eq!(largest_batch(&mut rig), 100);
        rig.change(|limits| limits.ops_per_turn = 1);
        assert!((20..=80).contains(&largest_batch(&mut rig)));
        rig.change(|limits| (limits.ops_per_turn, limits.bytes_per_turn) = (64, 1));
        assert!((20..=80).contains(&largest_batch(&mut rig)));
        rig.change(|limits| (limits.bytes_per_turn, limits.batch) = (1 << 20, 3));
        assert!((1..=7).contains(&largest_batch(&mut rig)), "3, and the step that filled it");
        rig.change(|limits| (limits.batch, limits.batch_bytes) = (256, 300));
        assert!((1..=7).contains(&largest_batch(&mut rig)), "3 times 100, and the step that filled it");
        rig.change(|limits| limits.batch_bytes = 64 << 10);
        assert_eq!(largest_batch(&mut rig), 100);
    });
}

fn the_cap_of_a_read<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    for cap in [100, 400, 10, 16 << 10, 30_000, 20_000] {
        peer.write_all(&vec![1; 5 * cap]).unwrap();
        rig.change(|limits| limits.read_cap = cap);
        conn.read_pooled().submit().unwrap();
        assert_eq!(rig.outcome().bytes().len(), cap);
        // The first one may draw a small lease, and fills it; the second is as large as may be.
        let leased = [(); 2].map(|()| {
            conn.read_leased().submit().unwrap();
            rig.outcome().bytes().len()
        });
        assert!(leased[0] == cap || leased[0] == cap.min(16 << 10), "{leased:?}");
        assert_eq!(leased[1], cap);
        // A lease of the old size is no way round it.
        conn.read_leased().submit().unwrap();
        let Got::Leased(old) = rig.outcome() else { panic!() };
        assert_eq!(old.len(), cap);
        rig.change(|limits| limits.read_cap = cap / 2);
        conn.write(old).submit().unwrap();
        drop(rig.outcome().wrote());
        conn.read_leased().submit().unwrap();
        assert!(rig.outcome().bytes().len() <= cap / 2);
    }
}

fn bounds_of_a_close<D: Drive>() {
    let day = Duration::from_secs(86_400);
    let mut rig = Rig::<D>::with(|limits| (limits.close_within, limits.close_drain) = (day, 1 << 25));
    // The peer neither closes nor reads to the end: only a bound ends these.
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.close().submit().unwrap();
    rig.change(|limits| limits.close_drain = 0);
    peer.write_all(&[1; 10]).unwrap();
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 1);

    rig.change(|limits| (limits.close_within, limits.close_drain) = (Duration::from_millis(5), 1 << 25));
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.close().submit().unwrap();
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 2);
    // And back: this one waits for its peer.
    rig.change(|limits| limits.close_within = day);
    let (conn, peer) = rig.connect(Net::Tcp);
    conn.close().submit().unwrap();
    rig.assert_quiet();
    drop(peer);
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 2);
}

fn accepting<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.listen_credit = 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _listener = rig.submitter.listen(listener).unwrap();
    // What limits a batch of accepted connections: the credit, then the budget of a pass. A turn may be two.
    for (credit, budget, most) in [(2, 1_024, 2), (7, 1_024, 7), (1, 1_024, 1), (1_024, 3, 6)] {
        rig.change(|limits| (limits.listen_credit, limits.accepts_per_turn) = (credit, budget));
        let _peers: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (mut left, mut largest) = (20, 0);
        while left > 0 {
            let batch = rig.watcher.wait().unwrap();
            largest = largest.max(batch.len());
            left -= batch.count();
        }
        // A spawned loop takes other turns until its batch is taken.
        let sure = !D::SPAWNED || most == credit;
        assert!(largest <= most || !sure, "{largest} in a batch, {most} may be");
    }
}

// --- a raise of what somebody waits for -----------------------------------------------------------------------------

/// The loop sleeps over a full batch, and its consumer does not come.
#[test]
fn a_larger_batch_lets_go_on_what_waited_for_a_place() {
    check(|| {
        const WRITES: usize = 200;
        let mut rig = Rig::<Watcher<u64>>::new();
        rig.change(|limits| (limits.batch, limits.ops_per_turn) = (2, 2));
        let (conn, mut peer) = rig.connect(Net::Unix);
        (0..WRITES).for_each(|_| conn.write(b"x").submit().unwrap());
        until(|| rig.counters().residues > 0);
        doze();
        peer.set_nonblocking(true).unwrap();
        let written = peer.read(&mut [0; WRITES]).unwrap();
        assert!(written < WRITES / 2, "{written} writes in two batches of 2");
        peer.set_nonblocking(false).unwrap();
        let mut limits = rig.submitter.limits();
        limits.batch = 1_000;
        rig.submitter.set_limits(limits).unwrap();
        peer.read_exact(&mut vec![0; WRITES - written]).unwrap();
    });
}

/// The listener waits for its credit, and the consumer does not come.
#[test]
fn more_credit_lets_a_listener_go_on() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.listen_credit = 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _listener = rig.submitter.listen(listener).unwrap();
        let _peers: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        until(|| rig.counters().accepted == 1);
        for credit in [2, 5, 3, 8] {
            let before = rig.counters().accepted;
            let mut limits = rig.submitter.limits();
            limits.listen_credit = credit;
            rig.submitter.set_limits(limits).unwrap();
            until(|| rig.counters().accepted >= credit as u64);
            doze();
            assert_eq!(rig.counters().accepted, before.max(credit as u64));
        }
        for _ in 0..8 {
            assert!(matches!(rig.next(), Taken::Accepted(..)));
        }
    });
}

/// An embedded loop that sleeps hears of it, too.
#[test]
fn an_embedded_turn_takes_it_up_while_it_sleeps() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        rig.assert_quiet();
        let (submitter, turns) = (rig.submitter.clone(), rig.counters().turns);
        let changing = thread::spawn(move || {
            submitter.set_limits(submitter.limits()).unwrap();
            until(|| submitter.counters().turns > turns);
            submitter.post(1).unwrap();
        });
        assert!(matches!(rig.next(), Taken::Posted(1)));
        changing.join().unwrap();
    });
}

// --- what cannot be -------------------------------------------------------------------------------------------------

fn what_is_refused_changes_nothing<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.ops, limits.ring_slots) = (4, 100));
    let before = rig.submitter.limits();
    assert_eq!((before.ops, before.ring_slots), (4, 100));
    let refused = |change: fn(&mut Limits)| {
        let mut limits = before.clone();
        limits.ops = 9;
        change(&mut limits);
        let error = rig.submitter.set_limits(limits).unwrap_err();
        assert!(error.to_string().contains(&format!("`{}", error.limit())), "{error}");
        assert_eq!(rig.submitter.limits(), before);
        (error.limit(), error.is_fixed())
    };
    assert_eq!(refused(|limits| limits.ring_slots = 128), ("ring_slots", true));
    assert_eq!(refused(|limits| limits.arena /= 2), ("arena", true));
    assert_eq!(refused(|limits| limits.arena = 0), ("arena", false));
    assert_eq!(refused(|limits| limits.batch = 0), ("batch", false));
    assert_eq!(refused(|limits| limits.close_within = Duration::MAX), ("close_within", false));
    assert_eq!(rig.posts(), 4);
}

// --- from other threads ---------------------------------------------------------------------------------------------

/// Two threads change all at a time: what is in force is what was set last, whole.
fn changes_do_not_mix<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    for _ in 0..20 {
        thread::scope(|scope| {
            for n in [3, 8] {
                let submitter = rig.submitter.clone();
                scope.spawn(move || {
                    for i in 0..50 {
                        let mut limits = submitter.limits();
                        let n = n + i % 3;
                        (limits.ops, limits.ops_per_conn, limits.batch) = (n + 1, u32::try_from(n).unwrap(), n);
                        submitter.set_limits(limits).unwrap();
                    }
                });
            }
        });
        let limits = rig.submitter.limits();
        assert_eq!((limits.ops, limits.ops_per_conn as usize), (limits.batch + 1, limits.batch));
        assert_eq!(rig.posts(), limits.ops as u64);
        let reads = (0..100).take_while(|_| conn.read(Vec::with_capacity(1)).submit().is_ok()).count();
        assert_eq!(reads, limits.batch);
        peer.write_all(&vec![1; reads]).unwrap();
        (0..reads).for_each(|_| drop(rig.outcome().read()));
    }
}

/// Under load nothing is lost, whatever is in force meanwhile.
fn changes_under_load<D: Drive>() {
    const EACH: u64 = 3_000;
    let mut rig = Rig::<D>::with(|limits| limits.ops = 1);
    rig.submitter.post(2 * EACH).unwrap();
    let refused = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..2 {
            let (submitter, refused) = (rig.submitter.clone(), &refused);
            scope.spawn(move || {
                for i in 0..EACH {
                    while let Err(error) = submitter.post(worker * EACH + i) {
                        assert_eq!(error.kind, SubmitErrorKind::TooMany);
                        refused.fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                    }
                }
            });
        }
        // The first one is in the way, and not taken yet.
        until(|| refused.load(Ordering::Relaxed) > 0);
        assert!(matches!(rig.next(), Taken::Posted(context) if context == 2 * EACH));
        let (submitter, over) = (rig.submitter.clone(), &over);
        scope.spawn(move || {
            for n in [1, 100, 2, 1_000, 7].into_iter().cycle() {
                let mut limits = submitter.limits();
                (limits.ops, limits.batch, limits.ops_per_turn) = (n, n, u32::try_from(n).unwrap());
                submitter.set_limits(limits).unwrap();
                if over.load(Ordering::Relaxed) {
                    return;
                }
                thread::yield_now();
            }
        });
        let mut next = [0; 2];
        while next != [EACH; 2] {
            let Taken::Posted(context) = rig.next() else { panic!() };
            let worker = usize::try_from(context / EACH).unwrap();
            assert_eq!(context % EACH, next[worker]);
            next[worker] += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(rig.submitter.load(), 0);
}

both_drives!(
    operations_of_the_loop,
    operations_of_a_connection,
    queued_bytes,
    sessions,
    the_cap_of_a_read,
    bounds_of_a_close,
    accepting,
    what_is_refused_changes_nothing,
    changes_do_not_mix,
    changes_under_load,
);
