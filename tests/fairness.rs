//! Fairness (G8): a quiet connection beside sixty-four greedy ones. Counted in completions and turns, not in time.

mod support;

use std::io::{Read, Write};

use gaio::{Conn, EmbeddedWatcher, Event, Outcome};
use support::{Drive, Got, Net, Peer, Rig, both_drives, check};

const GREEDY: u64 = 64;
const QUIET: u64 = 1_000;
const OPS_PER_TURN: u64 = 16;
const BATCH: u64 = 256;
/// Operations each greedy connection keeps queued.
const DEEP: usize = 64;

/// Greedy connections have input for many thousand reads of 8 bytes in the kernel, and always some queued.
fn crowd<D: Drive>() -> (Rig<D>, Vec<(Conn<u64>, Peer)>) {
    let rig = Rig::<D>::with(|limits| {
        limits.ops_per_turn = u32::try_from(OPS_PER_TURN).unwrap();
        limits.batch = usize::try_from(BATCH).unwrap();
    });
    let ends: Vec<_> = (0..GREEDY).map(|_| rig.connect(Net::Unix)).collect();
    for (i, (conn, peer)) in ends.iter().enumerate() {
        let mut peer = peer;
        // In pieces, as a Unix socket charges each by the page; 40 of them fit its default buffer.
        for _ in 0..40 {
            peer.write_all(&[7; 2_000]).unwrap();
        }
        for _ in 0..DEEP {
            conn.read(Vec::with_capacity(8)).submit_with(i as u64).unwrap();
        }
    }
    (rig, ends)
}

/// What may complete before the quiet one does: everybody's share of three turns (the one that is under way, one that leaves
/// the selector out, and the one that serves it, behind all those who had work before), and what was on its way to us in
/// full batches: one being filled, one in the cell, one in hand.
const BOUND: u64 = 3 * GREEDY * OPS_PER_TURN + 3 * (BATCH + OPS_PER_TURN);

/// Serves the crowd until the quiet connection's operation completes; says how many others did before.
fn overtaken<D: Drive>(rig: &mut Rig<D>) -> u64 {
    let mut others = 0;
    loop {
        let mut found = false;
        for event in rig.watcher.wait().unwrap() {
            let Event::Done { conn, context, outcome } = event else { panic!() };
            match outcome {
                Outcome::Read(bytes) if context < GREEDY => {
                    others += u64::from(!found);
                    conn.read(bytes).submit_with(context).unwrap();
                }
                Outcome::Read(_) | Outcome::Wrote(_) => found = true,
                other => panic!("{other:?}"),
            }
        }
        if found {
            return others;
        }
    }
}

/// Lets the crowd warm up, so that the ready list is long, and proves that it is still hungry.
fn warm_up<D: Drive>(rig: &mut Rig<D>) {
    let mut served = 0;
    while served < 4 * BATCH {
        for event in rig.watcher.wait().unwrap() {
            let Event::Done { conn, context, outcome: Outcome::Read(bytes) } = event else { panic!() };
            conn.read(bytes).submit_with(context).unwrap();
            served += 1;
        }
    }
}

fn a_quiet_connection_is_read_beside_greedy_ones<D: Drive>() {
    let (mut rig, ends) = crowd::<D>();
    let (quiet, mut peer) = rig.connect(Net::Unix);
    quiet.read(Vec::with_capacity(64)).submit_with(QUIET).unwrap();
    warm_up(&mut rig);
    for round in 0..8 {
        peer.write_all(b"me too").unwrap();
        let others = overtaken(&mut rig);
        assert!(others <= BOUND, "round {round}: {others} operations of others came first, {BOUND} at most should");
        quiet.read(Vec::with_capacity(64)).submit_with(QUIET).unwrap();
    }
    assert_hungry(&mut rig, &ends);
}

fn a_quiet_connection_is_written_beside_greedy_ones<D: Drive>() {
    let (mut rig, ends) = crowd::<D>();
    let (quiet, mut peer) = rig.connect(Net::Unix);
    warm_up(&mut rig);
    for round in 0..8 {
        quiet.write(b"ping").submit_with(QUIET).unwrap();
        let others = overtaken(&mut rig);
        assert!(others <= BOUND, "round {round}: {others} operations of others came first, {BOUND} at most should");
        assert_eq!(support::read_some(&mut peer, 4), b"ping");
    }
    assert_hungry(&mut rig, &ends);
}

/// The crowd was not done: otherwise there was nobody to be unfair for, and the test has shown nothing.
fn assert_hungry<D: Drive>(rig: &mut Rig<D>, ends: &[(Conn<u64>, Peer)]) {
    warm_up(rig);
    assert_eq!(ends.len() as u64, GREEDY);
}

/// A connection with a thousand operations and the input for them takes its budget in one turn, and no more: the other
/// one, whose input came at the same moment, is served in that turn, too.
fn one_turn_serves_everyone_once<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_turn = 4);
    let (greedy, mut feeder) = rig.connect(Net::Unix);
    let (quiet, mut peer) = rig.connect(Net::Unix);
    for _ in 0..1_000 {
        greedy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    quiet.read(Vec::with_capacity(8)).submit_with(2).unwrap();
    rig.assert_quiet();
    feeder.write_all(&[7; 1_000]).unwrap();
    peer.write_all(b"x").unwrap();
    let mut before = 0;
    loop {
        let (_, context, got) = rig.done();
        let Got::Read(_) = got else { panic!() };
        if context == 2 {
            break;
        }
        before += 1;
    }
    // Spawned, the loop may have taken some turns before the quiet one's byte was there.
    assert!(D::SPAWNED || before <= 8, "{before} reads of the other came first");
    for _ in before..1_000 {
        assert_eq!(rig.done().1, 1);
    }
}

/// G8, G10: `ops_per_turn` holds for operations that find their input waiting, too: each is tried as it is submitted, and
/// all of these tries are one turn's.
fn operations_tried_as_they_are_submitted_share_one_budget<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops_per_turn = 4);
    let (greedy, mut feeder) = rig.connect(Net::Unix);
    feeder.write_all(&[7; 500]).unwrap();
    rig.assert_quiet();
    let before = rig.counters().turns;
    for _ in 0..500 {
        greedy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    for _ in 0..500 {
        rig.outcome().read();
    }
    let turns = rig.counters().turns - before;
    // Four of a step, and one as it was submitted.
    assert!(turns >= 500 / 5, "500 operations of one connection in {turns} turns");
}

/// A bulk transfer moves its bytes in portions; a ping beside it goes through after a bounded number of turns.
fn a_ping_beside_a_bulk_write<D: Drive>() {
    const PORTION: usize = 16 << 10;
    let mut rig = Rig::<D>::with(|limits| limits.bytes_per_turn = PORTION);
    let (bulk, mut sink) = rig.connect(Net::Unix);
    let (quiet, mut peer) = rig.connect(Net::Unix);
    std::thread::scope(|scope| {
        bulk.write(vec![1; 8 << 20]).submit_with(1).unwrap();
        scope.spawn(move || assert_eq!(support::read_some(&mut sink, 8 << 20).len(), 8 << 20));
        let mut bulk_is_out = false;
        for _ in 0..10 {
            quiet.write(b"ping").submit_with(2).unwrap();
            let before = rig.counters().turns;
            loop {
                match rig.done() {
                    (_, 2, Got::Wrote(_)) => break,
                    (_, 1, Got::Wrote(_)) => bulk_is_out = true,
                    other => panic!("{other:?}"),
                }
            }
            // A turn on which it is taken up, one that serves it, one that hands it over; and as many without a poll.
            // Spawned, the loop goes on while we are asleep, so there is nothing to count.
            let turns = rig.counters().turns - before;
            assert!(D::SPAWNED || turns <= 6, "{turns} turns for one ping");
            assert_eq!(support::read_some(&mut peer, 4), b"ping");
        }
        while !bulk_is_out {
            bulk_is_out = matches!(rig.done(), (_, 1, Got::Wrote(_)));
        }
    });
}

both_drives!(
    a_quiet_connection_is_read_beside_greedy_ones,
    a_quiet_connection_is_written_beside_greedy_ones,
    one_turn_serves_everyone_once,
    operations_tried_as_they_are_submitted_share_one_budget,
    a_ping_beside_a_bulk_write,
);

/// Connections that ask again as soon as they are served must not be served again in front of those that wait: with
/// their new reads tried as they are submitted, they would fill each batch before the ready list is looked at.
#[test]
fn new_work_goes_behind_those_that_wait() {
    check(|| {
        const BUSY: u64 = 8;
        let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| (limits.batch, limits.ops_per_turn) = (4, 1));
        let ends: Vec<_> = (0..BUSY).map(|_| rig.connect(Net::Unix)).collect();
        let (quiet, mut peer) = rig.connect(Net::Unix);
        for (conn, _) in &ends {
            conn.read(Vec::with_capacity(1)).submit_with(0).unwrap();
        }
        quiet.read(Vec::with_capacity(1)).submit_with(QUIET).unwrap();
        rig.assert_quiet();
        for (_, peer) in &ends {
            let mut peer = peer;
            peer.write_all(&[7; 500]).unwrap();
        }
        // The last event of many: the batch is full before it is looked at, so it waits on the ready list.
        peer.write_all(b"x").unwrap();
        let others = overtaken(&mut rig);
        assert!(others <= 2 * BUSY, "{others} reads of {BUSY} others came first");
    });
}

/// Everybody is served in the order of their input, over batches that hold some of them only: what came while the batch
/// was full goes before what comes when there is room again.
#[test]
fn nobody_overtakes_those_that_found_the_batch_full() {
    check(|| {
        for batch in [1, 3, 4, 10, 100] {
            let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| limits.batch = batch);
            let mut ends: Vec<_> = (0..10).map(|_| rig.connect(Net::Tcp)).collect();
            for (i, (conn, _)) in (0..).zip(&ends) {
                conn.read(Vec::with_capacity(8)).submit_with(i).unwrap();
            }
            rig.assert_quiet();
            for (_, peer) in &mut ends {
                peer.write_all(b"x").unwrap();
            }
            let mut order = Vec::new();
            while order.len() < 100 {
                for event in rig.watcher.turn(None).unwrap() {
                    let Event::Done { conn, context: i, outcome: Outcome::Read(mut bytes) } = event else { panic!() };
                    order.push(i);
                    bytes.clear();
                    conn.read(bytes).submit_with(i).unwrap();
                    // It has something to say again, behind all the others.
                    ends[usize::try_from(i).unwrap()].1.write_all(b"x").unwrap();
                }
            }
            assert_eq!(order[..100], (0..10).cycle().take(100).collect::<Vec<_>>(), "in batches of {batch}");
        }
    });
}

/// G2, G8: reads and writes are independent. A peer that takes all that we send, turn for turn, must not keep us from
/// reading what it sent.
#[test]
fn a_connection_is_read_while_it_has_more_to_write_than_a_turn_may() {
    check(|| {
        for (ops, bytes) in [(64, 1_000), (1, 1_000), (1, 1)] {
            let mut rig = Rig::<EmbeddedWatcher<u64>>::with(|limits| {
                (limits.ops_per_turn, limits.bytes_per_turn) = (ops, bytes);
            });
            let (conn, mut peer) = rig.connect(Net::Unix);
            peer.set_nonblocking(true).unwrap();
            peer.write_all(b"hello").unwrap();
            rig.assert_quiet();
            conn.write(vec![7; 100_000]).submit_with(0).unwrap();
            conn.read_exact(Vec::new(), 5).submit_with(1).unwrap();
            let (mut turns, mut sink) = (0, vec![0; 100_000]);
            loop {
                let next = rig.watcher.turn(Some(std::time::Duration::ZERO)).unwrap().next().map(support::Taken::from);
                match next {
                    Some(support::Taken::Done(_, 1, got)) => break assert_eq!(got.bytes(), b"hello"),
                    Some(_) => panic!("the read waited for the write"),
                    None => turns += 1,
                }
                let _ = peer.read(&mut sink);
            }
            assert!(turns <= 10, "{turns} turns");
        }
    });
}
