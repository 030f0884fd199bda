//! What one turn does, and no more, on the simulated system: budgets, fairness, full batches, what is in flight (G3, G8).
//!
//! As `simulated.rs`: one thread, an embedded loop. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, bytes, desk, desk_with, of_context, received};
use gaio::{Conn, Event, Half, NextTurn, OpError, Outcome, SubmitErrorKind};

const SECOND: Duration = Duration::from_secs(1);

/// What one call brings, which may take two turns: how many it took.
fn turns(desk: &mut Desk) -> (Vec<(u32, Got)>, usize) {
    let before = desk.submitter.counters().turns;
    let events = desk.turn();
    (events, usize::try_from(desk.submitter.counters().turns - before).unwrap())
}

// --- budgets -----------------------------------------------------------------------------------------------------

/// Forty reads and the input for them: so many by the event and so many from the ready list, and everybody has had a turn.
#[test]
fn one_step_takes_its_share_of_operations() {
    let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 4);
    let ((greedy, feeder), (quiet, peer)) = (desk.conn(), desk.conn());
    for _ in 0..40 {
        greedy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    quiet.read_pooled().submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    feeder.send(&[7; 40]).unwrap();
    peer.send(b"x").unwrap();
    let (first, took) = turns(&mut desk);
    assert_eq!((took, of_context(&first, 1), of_context(&first, 2)), (1, 8, 1));
    let mut left = 32;
    while left > 0 {
        let (events, took) = turns(&mut desk);
        assert_eq!(of_context(&events, 1), (4 * took).min(left));
        left -= events.len();
    }
    assert_eq!(desk.events(), []);
}

#[test]
fn one_step_takes_its_share_of_bytes() {
    let mut desk = desk_with(|_| (), |limits| limits.bytes_per_turn = 10);
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    conn.write(vec![7; 100]).submit_with(1).unwrap();
    conn.write_vectored(vec![vec![8; 50].into(), vec![9; 50].into()]).submit_with(2).unwrap();
    let mut all = Vec::new();
    let mut done = Vec::new();
    while done.len() < 2 {
        let (events, took) = turns(&mut desk);
        done.extend(events);
        let got = received(&peer).unwrap_or_default();
        // As it was submitted, and from the list.
        assert!(got.len() <= 20 * took, "{} bytes in {took} turns", got.len());
        all.extend(got);
    }
    assert_eq!(done, [(1, Got::Wrote), (2, Got::Wrote)]);
    assert_eq!(all, [vec![7; 100], vec![8; 50], vec![9; 50]].concat());
    conn.read_exact(Vec::new(), 100).submit_with(3).unwrap();
    peer.send(&[1; 100]).unwrap();
    let mut all_turns = 0;
    let events = loop {
        let (events, took) = turns(&mut desk);
        all_turns += took;
        if !events.is_empty() {
            break events;
        }
    };
    assert_eq!(events, [(3, bytes(&[1; 100]))]);
    assert!(all_turns >= 5, "an exact read, too, goes on in the next turn: {all_turns}");
}

/// A write of very many small pieces costs a system call more than it moves: each piece counts, and others have their turn.
#[test]
fn very_many_pieces_are_not_one_step() {
    const PIECES: usize = 100_000;
    let mut desk = desk_with(|config| config.buffer = 1 << 20, |_| ());
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    let pieces = (0..PIECES).map(|i| if i % 3 == 0 { Bytes::new() } else { Bytes::from_static(b"x") }).collect();
    conn.write_vectored(pieces).submit_with(1).unwrap();
    let (mut sent, mut buf) = (0, vec![0; PIECES]);
    while sent < PIECES * 2 / 3 {
        let (events, took) = turns(&mut desk);
        let n = peer.recv(&mut buf).unwrap();
        assert!(n <= 20_000 * took, "{n} pieces in {took} turns");
        sent += n;
        assert_eq!(events.len(), usize::from(sent == PIECES * 2 / 3));
    }
}

/// Of the operations of one connection only the first is tried as it is submitted; the others share its step.
#[test]
fn what_one_connection_submits_at_once_is_not_done_at_once() {
    let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 4);
    let (conn, peer) = desk.conn();
    peer.send(&[7; 50]).unwrap();
    assert_eq!(desk.events(), []);
    for _ in 0..50 {
        conn.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    shared_out(&mut desk, 1);
    for _ in 0..50 {
        conn.write(b"x").submit_with(2).unwrap();
    }
    shared_out(&mut desk, 2);
}

/// Fifty operations: one as it was submitted, four in each turn.
fn shared_out(desk: &mut Desk, context: u32) {
    let mut left = 50;
    while left > 0 {
        let (events, took) = turns(desk);
        assert_eq!(of_context(&events, context), (4 * took + usize::from(left == 50)).min(left));
        left -= events.len();
    }
    assert_eq!(desk.events(), []);
}

/// Half of a step is for reads if there is something to read, however much there is to write; and the other way round.
#[test]
fn reads_and_writes_share_a_step() {
    let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 4);
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    for _ in 0..20 {
        conn.read(Vec::with_capacity(1)).submit_with(1).unwrap();
        conn.write(b"x").submit_with(2).unwrap();
    }
    let (first, took) = turns(&mut desk);
    assert_eq!((took, of_context(&first, 1), of_context(&first, 2)), (1, 0, 5));
    peer.send(&[7; 50]).unwrap();
    let (events, _) = turns(&mut desk);
    let (reads, writes) = (of_context(&events, 1), of_context(&events, 2));
    // The turn in front of which nobody had looked for events was the writes' own.
    assert!((2..=4).contains(&reads) && writes <= 4 + reads, "{events:?}");
    let (events, took) = turns(&mut desk);
    assert_eq!((of_context(&events, 1), of_context(&events, 2)), (2 * took, 2 * took));
    assert_eq!(desk.events().len(), 40 - 5 - reads - writes - 4 * took);
}

/// And of bytes, though a write has more than a step may send.
#[test]
fn reads_and_writes_share_the_bytes_of_a_step() {
    let mut desk = desk_with(|_| (), |limits| limits.bytes_per_turn = 8);
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    for _ in 0..5 {
        conn.read(Vec::with_capacity(4)).submit_with(1).unwrap();
    }
    conn.write(vec![7; 1_000]).submit_with(2).unwrap();
    peer.send(&[8; 20]).unwrap();
    let (mut reads, mut steps) = (0, 0);
    while reads < 5 {
        let (events, took) = turns(&mut desk);
        assert_eq!(of_context(&events, 2), 0, "the write is far from its end");
        reads += of_context(&events, 1);
        // In a turn in which something was submitted, or an edge has come, a session may have two steps.
        steps += 2 * took;
        assert!(steps / 2 - 1 <= reads && reads <= steps, "{reads} reads in {steps} steps at most");
    }
}

/// While anyone is on the ready list, a new read goes behind it.
#[test]
fn a_new_read_does_not_overtake_those_that_wait() {
    let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 1);
    let ((busy, feeder), (new, peer)) = (desk.conn(), desk.conn());
    for _ in 0..10 {
        busy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    assert_eq!(desk.events(), []);
    peer.send(b"x").unwrap();
    assert_eq!(desk.events(), []);
    feeder.send(&[7; 10]).unwrap();
    assert_eq!(desk.turn().len(), 2);
    new.read_pooled().submit_with(2).unwrap();
    let contexts: Vec<u32> = desk.turn().iter().map(|event| event.0).collect();
    assert_eq!(contexts, [1, 2], "in its turn, behind the one that was there before");
    assert_eq!(desk.events().len(), 7);
}

/// Nor does the read of a linked operation: its write goes out at once, since nobody waits for that.
#[test]
fn a_linked_read_does_not_overtake_those_that_wait() {
    for others_wait in [true, false] {
        let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 2);
        let ((busy, feeder), (new, peer)) = (desk.conn(), desk.conn());
        for _ in 0..12 {
            busy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
        }
        assert_eq!(desk.events(), []);
        peer.send(b"x").unwrap();
        assert_eq!(desk.events(), []);
        if others_wait {
            feeder.send(&[7; 12]).unwrap();
            assert_eq!(desk.turn().len(), 4);
        }
        new.write(b"ask").then_read_pooled().submit_with(2).unwrap();
        let (events, took) = turns(&mut desk);
        assert_eq!(received(&peer).unwrap(), b"ask");
        let contexts: Vec<u32> = events.iter().map(|event| event.0).collect();
        // If nobody waits it is done already, and only handed over.
        assert_eq!((took, &contexts[..]), if others_wait { (1, &[1, 1, 2][..]) } else { (0, &[2][..]) });
    }
}

/// Though others wait, what of a write exceeds the budget goes out in the turns that follow.
#[test]
fn a_long_write_goes_on_though_others_wait() {
    let mut desk = desk_with(|_| (), |limits| (limits.ops_per_turn, limits.bytes_per_turn) = (1, 4));
    let ((busy, feeder), (new, peer)) = (desk.conn(), desk.conn());
    for _ in 0..10 {
        busy.read(Vec::with_capacity(1)).submit_with(1).unwrap();
    }
    assert_eq!(desk.events(), []);
    feeder.send(&[7; 10]).unwrap();
    assert_eq!(desk.turn().len(), 2);
    new.write(b"longer than a turn").submit_with(2).unwrap();
    assert_eq!(of_context(&desk.events(), 2), 1);
    assert_eq!(received(&peer).unwrap(), b"longer than a turn");
}

/// An exact read that has all its bytes completes in that turn, though they are the last of the budget; one that lacks some
/// leaves nothing to do.
#[test]
fn an_exact_read_ends_with_its_bytes() {
    let mut desk = desk_with(|_| (), |limits| limits.bytes_per_turn = 10);
    let (conn, peer) = desk.conn();
    conn.read_exact(Vec::new(), 10).submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(&[7; 10]).unwrap();
    assert_eq!(turns(&mut desk), (vec![(1, bytes(&[7; 10]))], 1));
    conn.read_exact(Vec::new(), 10).submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(&[8; 9]).unwrap();
    assert_eq!(turns(&mut desk), (vec![], 1));
    assert!(matches!(desk.watcher.next_turn(), NextTurn::WhenReadable), "it waits for the last byte");
    peer.send(&[8]).unwrap();
    assert_eq!(turns(&mut desk), (vec![(2, bytes(&[8; 10]))], 1));
}

// --- the batch ---------------------------------------------------------------------------------------------------

#[test]
fn a_batch_has_its_size_and_whatever_finds_it_full_comes_later() {
    for by_bytes in [false, true] {
        let mut desk = desk_with(|_| (), |limits| if by_bytes { limits.batch_bytes = 3 } else { limits.batch = 1 });
        let all: Vec<_> = (0..4).map(|_| desk.conn()).collect();
        for (context, (conn, _)) in (0..).zip(&all) {
            conn.read_pooled().submit_with(context).unwrap();
        }
        assert_eq!(desk.events(), []);
        for (_, peer) in &all {
            peer.send(b"abc").unwrap();
        }
        for context in 0..4 {
            assert_eq!(desk.turn(), [(context, bytes(b"abc"))]);
        }
        // As they are submitted, too.
        for (context, (conn, peer)) in (0..).zip(&all) {
            peer.send(b"def").unwrap();
            conn.write(b"x").submit_with(10 + context).unwrap();
        }
        assert_eq!(desk.events().len(), 4);
        for (context, (conn, _)) in (0..).zip(&all) {
            conn.read_pooled().submit_with(context).unwrap();
        }
        for context in 0..4 {
            assert_eq!(desk.turn(), [(context, bytes(b"def"))]);
        }
        assert_eq!(desk.events(), []);
    }
}

/// From the next turn on; what is pending stays, and what has been read is in the batch it is in.
#[test]
fn a_batch_has_the_size_that_it_is_given_while_the_loop_runs() {
    let mut desk = desk_with(|_| (), |_| ());
    let all: Vec<_> = (0..6).map(|_| desk.conn()).collect();
    for (batch, batches) in [(100, &[6][..]), (1, &[1; 6]), (4, &[4, 2])] {
        let mut limits = desk.submitter.limits();
        limits.batch = batch;
        desk.submitter.set_limits(limits).unwrap();
        for (conn, _) in &all {
            conn.read_pooled().submit_with(1).unwrap();
        }
        assert_eq!(desk.events(), []);
        for (_, peer) in &all {
            peer.send(b"abc").unwrap();
        }
        let sizes: Vec<usize> = batches.iter().map(|_| desk.turn().len()).collect();
        assert_eq!(sizes, batches);
    }
}

#[test]
fn a_listener_stops_while_too_many_wait_to_be_taken() {
    let mut desk = desk_with(|_| (), |limits| limits.listen_credit = 2);
    let (socket, addr) = desk.world.listener();
    let _listener = desk.submitter.listen(socket).unwrap();
    assert_eq!(desk.events(), []);
    let _peers = [(); 5].map(|()| desk.world.connect(addr).unwrap());
    for expected in [2, 2, 1] {
        assert_eq!(desk.turn(), [(); 2].map(|()| (u32::MAX, Got::Accepted))[..expected]);
    }
}

/// A pooled read that found no room is given up: who comes next may need none, and does not wait for any.
#[test]
fn behind_a_starved_read_that_was_given_up_nobody_waits() {
    let mut desk = desk_with(|_| (), |limits| (limits.arena, limits.read_cap) = (8, 8));
    let ((eater, eaters_peer), (conn, peer)) = (desk.conn(), desk.conn());
    eaters_peer.send(b"all of it").unwrap();
    peer.send(b"hello").unwrap();
    assert_eq!(desk.events(), []);
    eater.read_pooled().submit_with(1).unwrap();
    let (op, id) = conn.read_pooled().named();
    op.submit_with(2).unwrap();
    conn.cancel(id).unwrap();
    conn.read(Vec::with_capacity(8)).submit_with(3).unwrap();
    let cancelled = Got::Failed(Half::Read, 0, "Cancelled".into());
    assert_eq!(desk.turn(), [(1, bytes(b"all of i")), (2, cancelled), (3, bytes(b"hello"))]);
    assert_eq!(desk.submitter.counters().starved, 1);
}

/// Who found the arena full has room before those who never did, and before those who have had some since: a busy
/// connection that takes a whole arena each time, at its beginning or with many reads, keeps nobody waiting.
#[test]
fn whoever_found_no_room_is_served_first() {
    // The arena, what one read may bring, what is sent at a time, how many reads the busy ones keep pending, and how many of
    // them there are.
    let ways = [
        (64, 64, 64, 1, 1),
        (64, 64, 64, 2, 1),
        (64, 64, 64, 2, 3),
        (256, 64, 64, 8, 1),
        (256, 64, 64, 1, 4),
        (16_384, 262_144, 16_384, 1, 1),
        (16_384, 262_144, 16_000, 2, 2),
        (16_384, 262_144, 15_000, 1, 1),
        (16_384, 262_144, 1_000, 1, 4),
    ];
    for (way, datagrams) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let (arena, cap, chunk, deep, busy) = way;
        let mut desk = desk_with(|_| (), |limits| (limits.arena, limits.read_cap) = (arena, cap));
        let conn = |desk: &Desk| {
            let (socket, peer) = if datagrams { desk.world.unix_datagram_pair() } else { desk.world.pair() };
            (desk.submitter.delegate(socket).unwrap(), peer)
        };
        let (quiet, peer) = conn(&desk);
        let greedy: Vec<_> = (0..busy).map(|_| conn(&desk)).collect();
        quiet.read_pooled().submit_with(0).unwrap();
        for (conn, _) in &greedy {
            (0..deep).for_each(|_| conn.read_pooled().submit_with(1).unwrap());
        }
        let message = vec![7; chunk];
        for answer in 0..5 {
            let mut waited = 0;
            peer.send(b"hello").unwrap();
            let mut answered = false;
            while !answered {
                for (_, feeder) in &greedy {
                    while feeder.send(&message).is_ok_and(|n| n == chunk) {}
                }
                for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
                    let Event::Done { conn, context, outcome: Outcome::Pooled(got) } = event else {
                        panic!("{event:?}")
                    };
                    answered |= context == 0 && got == b"hello";
                    conn.read_pooled().submit_with(context).unwrap();
                }
                waited += 1;
                let most = 4 + 2 * busy;
                assert!(waited <= most, "{way:?}, datagrams: {datagrams}: no answer {answer} in {most} turns");
            }
        }
        assert!(datagrams || desk.submitter.counters().starved > 0, "{way:?}");
    }
}

/// A fresh arena feeds a few: not all of a crowd are tried for that, each time.
#[test]
fn a_fresh_arena_is_offered_to_a_few_of_a_crowd() {
    const CROWD: usize = 400;
    const FED_AT_ONCE: usize = 4;
    let mut desk = desk_with(|_| (), |limits| (limits.arena, limits.read_cap) = (64 * FED_AT_ONCE, 64));
    let all: Vec<_> = (0..CROWD).map(|_| desk.conn()).collect();
    // Their first edges are more than one wait tells of, which are 32.
    for _ in 0..=CROWD.div_ceil(32) {
        assert_eq!(desk.events(), []);
    }
    for ((conn, peer), context) in all.iter().zip(0..) {
        peer.send(&[7; 64]).unwrap();
        conn.read_pooled().submit_with(context).unwrap();
    }
    let mut order: Vec<u32> = Vec::new();
    while order.len() < CROWD {
        let batch = desk.turn();
        assert!((1..=FED_AT_ONCE).contains(&batch.len()), "{} of {FED_AT_ONCE}", batch.len());
        order.extend(batch.into_iter().map(|(context, _)| context));
    }
    assert!(order.is_sorted(), "they were fed in line: {order:?}");
    let starved = desk.submitter.counters().starved;
    let arenas = (CROWD / FED_AT_ONCE) as u64;
    assert!(starved <= CROWD as u64 + 32 * arenas, "{arenas} arenas were offered {starved} times");
    // With nobody in line the next one need not queue.
    let (conn, peer) = &all[0];
    peer.send(b"x").unwrap();
    conn.read_pooled().submit_with(7).unwrap();
    assert_eq!((desk.events(), desk.submitter.counters().starved), (vec![(7, bytes(b"x"))], starved));
}

/// Neither those that wait for room in the arena nor those that wait for their turn fill every batch alone.
#[test]
fn those_without_room_and_those_on_the_ready_list_take_turns() {
    let mut desk = desk_with(|_| (), |limits| (limits.arena, limits.read_cap, limits.batch) = (1_024, 64, 4));
    let all: Vec<_> = (0..6).map(|_| desk.conn()).collect();
    let fill = || all.iter().for_each(|(_, peer)| while peer.send(&[7; 64]).is_ok_and(|n| n == 64) {});
    let read = |conn: &Conn<u32>, context: u32| match context {
        0..3 => conn.read_pooled().submit_with(context).unwrap(),
        _ => conn.read(Vec::with_capacity(64)).submit_with(context).unwrap(),
    };
    for ((conn, _), context) in all.iter().zip(0..) {
        (0..40).for_each(|_| read(conn, context));
    }
    let mut last = [0; 6];
    for call in 1..100 {
        fill();
        for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
            let Event::Done { conn, context, .. } = event else { panic!("{event:?}") };
            last[context as usize] = call;
            read(&conn, context);
        }
        assert!(last.iter().all(|last| call - last <= 16), "in call {call} these were served last in {last:?}");
    }
    assert!(desk.submitter.counters().starved > 0);
}

// --- in flight ---------------------------------------------------------------------------------------------------

#[test]
fn what_is_in_flight_is_bounded_and_given_back_however_it_ends() {
    let mut desk = desk_with(
        |config| config.buffer = 4,
        |limits| (limits.ops, limits.ops_per_conn, limits.write_bytes) = (6, 3, 10),
    );
    for round in 0..5 {
        let ((one, peer), (two, _other)) = (desk.conn(), desk.conn());
        for conn in [&one, &two] {
            for _ in 0..3 {
                conn.read_pooled().submit_with(1).unwrap();
            }
            let refused = conn.read_pooled().submit_with(2).unwrap_err();
            assert_eq!((refused.kind, refused.context), (SubmitErrorKind::TooMany, 2), "round {round}");
        }
        assert_eq!(desk.submitter.post(3).unwrap_err().kind, SubmitErrorKind::TooMany);
        assert_eq!(desk.submitter.load(), 6);
        // What ends is never one too many.
        two.release().submit_with(4).unwrap();
        assert_eq!(desk.events().len(), 4);
        peer.send(b"x").unwrap();
        assert_eq!(desk.events(), [(1, bytes(b"x"))]);
        peer.send(b"x").unwrap();
        assert_eq!(desk.events(), [(1, bytes(b"x"))]);
        // Of bytes one write may go beyond. Its end gives them back: all out, torn, and never begun.
        one.write(vec![7; 10]).submit_with(5).unwrap();
        assert_eq!(one.write(b"y").submit_with(6).unwrap_err().kind, SubmitErrorKind::TooMany);
        assert_eq!(desk.events(), []);
        if round % 2 == 0 {
            for (part, done) in [(4, 0), (4, 1), (2, 0)] {
                assert_eq!(received(&peer).unwrap(), vec![7; part]);
                assert_eq!(desk.events().len(), done);
            }
            one.write(vec![7; 10]).submit_with(5).unwrap();
        }
        one.abort().submit_with(7).unwrap();
        let ends = desk.events();
        let torn = Got::Failed(Half::Write, 4, "Released".into());
        assert!(ends.contains(&(5, torn)) && ends.last() == Some(&(7, Got::Closed)), "{ends:?}");
        assert_eq!(desk.submitter.load(), 0);
        one.write(vec![7; 10]).submit_with(8).unwrap();
        assert_eq!(desk.events(), [(8, Got::Failed(Half::Write, 0, "Closed".into()))]);
    }
}

/// The selector tells of so many connections at a time. What the others have got while the loop was stopped has come in time: an
/// operation is tried before its deadline is looked at, and so are those that a connect has under way.
#[test]
fn what_has_come_in_time_is_not_late_though_the_loop_was() {
    let mut desk = desk();
    let crowd: Vec<_> = (0..1_100).map(|_| desk.conn()).collect();
    for (conn, _) in &crowd {
        conn.read_leased().within(SECOND).submit_with(1).unwrap();
    }
    let (slow, peer) = desk.conn();
    slow.read_exact(Vec::new(), 4).within(SECOND).submit_with(2).unwrap();
    let remote = desk.world.remote();
    desk.submitter.connect(remote.addr()).within(SECOND).submit_with(3).unwrap();
    assert_eq!(desk.events(), []);
    crowd.iter().for_each(|(_, peer)| _ = peer.send(b"x").unwrap());
    peer.send(b"two").unwrap();
    let _accepted = remote.attempt().unwrap().accept();
    desk.world.advance(2 * SECOND);
    let (mut got, mut late, mut connected) = (0, 0, 0);
    for _ in 0..20 {
        for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
            match event {
                Event::Done { context: 1, outcome: Outcome::Leased(_), .. } => got += 1,
                Event::Done { context: 2, outcome: Outcome::Failed(failure), .. } => {
                    assert!(matches!((failure.error, failure.transferred), (OpError::TimedOut, 3)));
                    late += 1;
                }
                Event::Connected { result: Ok(_), .. } => connected += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((got, late, connected), (1_100, 1, 1));
}

/// Who turns a loop by hand is away between turns, and may submit something before the next: that is taken up without a look at
/// the selector, which would say that the bytes are there.
#[test]
fn what_has_come_between_two_turns_has_come_in_time() {
    let mut desk = desk();
    let ((conn, peer), (full, reader)) = (desk.conn(), desk.conn());
    conn.read_leased().within(SECOND).submit_with(1).unwrap();
    full.write(vec![7; 100_000]).within(SECOND).submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(b"in time").unwrap();
    let mut buffer = vec![0; 100_000];
    assert!(reader.recv(&mut buffer).unwrap() > 50_000);
    desk.world.advance(2 * SECOND);
    desk.submitter.post(3).unwrap();
    let mut got = desk.events();
    got.sort_by_key(|(context, _)| *context);
    assert_eq!(got, [(1, bytes(b"in time")), (2, Got::Wrote), (3, Got::Posted)]);
}

#[test]
fn batches_and_what_is_in_them_are_counted() {
    let mut desk = desk_with(|_| (), |_| ());
    let counted = |desk: &Desk| {
        let counters = desk.submitter.counters();
        (counters.batches, counters.completed)
    };
    for (posts, expected) in [(3, (1, 3)), (0, (1, 3)), (1, (2, 4))] {
        (0..posts).for_each(|n| desk.submitter.post(n).unwrap());
        assert_eq!(desk.events().len(), usize::try_from(posts).unwrap());
        assert_eq!(counted(&desk), expected);
    }
}
