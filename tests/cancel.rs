//! Cancelling one operation: it completes as cancelled with what did move, unless it had completed; and nobody else is
//! harmed but those that would follow a torn message.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gaio::{Conn, Failure, Half, OpError, OpId, SubmitErrorKind};
use support::{
    Drive, Got, HUGE, LONG, MARK, NETS, Net, Pattern, Rig, Taken, both_drives, broken, doze, finish, read_all,
    read_some, read_to_its_end, stuff, until,
};

#[track_caller]
fn cancelled(got: Got) -> Failure {
    let failure = got.failed();
    assert!(matches!(failure.error, OpError::Cancelled), "{failure:?}");
    failure
}

fn read(conn: &Conn<u64>, context: u64) -> OpId {
    let (read, id) = conn.read_exact(Vec::with_capacity(16), 4).named();
    read.submit_with(context).unwrap();
    id
}

fn write(conn: &Conn<u64>, context: u64, n: usize) -> OpId {
    let (write, id) = conn.write(vec![u8::try_from(context).unwrap(); n]).named();
    write.submit_with(context).unwrap();
    id
}

/// G2: those that stay keep their order, whichever goes.
fn the_head_the_middle_and_the_tail_of_the_reads<D: Drive>() {
    for net in NETS {
        for gone in 0..3 {
            let mut rig = Rig::<D>::new();
            let (conn, mut peer) = rig.connect(net);
            let ids: Vec<OpId> = (0..3).map(|context| read(&conn, context)).collect();
            rig.assert_quiet();
            conn.cancel(ids[gone]).unwrap();
            let (_, context, got) = rig.done();
            let failure = cancelled(got);
            assert_eq!((context, failure.half, failure.transferred), (gone as u64, Half::Read, 0));
            assert_eq!(failure.buffer.unwrap().into_vec().map(|back| back.capacity()), Some(16));
            // At the end, and behind whatever was relinked.
            read(&conn, 3);
            peer.write_all(b"aaaabbbbcccc").unwrap();
            let rest = (0..4).filter(|context| *context != gone as u64);
            for (expected, bytes) in rest.zip([b"aaaa", b"bbbb", b"cccc"]) {
                let (_, context, got) = rig.done();
                assert_eq!((context, got.bytes()), (expected, &bytes[..]));
            }
            rig.assert_quiet();
        }
    }
}

fn the_middle_and_the_tail_of_the_writes<D: Drive>() {
    for net in NETS {
        for gone in 1..4 {
            let mut rig = Rig::<D>::new();
            let (conn, mut peer) = rig.connect(net);
            let ids: Vec<OpId> = (0..4).map(|context| write(&conn, context, HUGE / 4 + 1)).collect();
            rig.assert_quiet();
            conn.cancel(ids[gone]).unwrap();
            let (_, context, got) = rig.done();
            let failure = cancelled(got);
            assert_eq!((context, failure.half, failure.transferred), (gone as u64, Half::Write, 0));
            assert_eq!(failure.buffer.unwrap().len(), HUGE / 4 + 1);
            write(&conn, 4, 7);
            let rest: Vec<u64> = (0..5).filter(|context| *context != gone as u64).collect();
            thread::scope(|scope| {
                let reading = scope.spawn(|| read_some(&mut peer, 3 * (HUGE / 4 + 1) + 7));
                for expected in &rest {
                    let (_, context, got) = rig.done();
                    got.wrote();
                    assert_eq!(context, *expected);
                }
                let mut order = reading.join().unwrap();
                order.dedup();
                assert!(order.iter().zip(&rest).all(|(byte, context)| u64::from(*byte) == *context), "{order:?}");
            });
        }
    }
}

/// I11: what was sent in part leaves nothing to follow.
fn a_write_that_was_sent_in_part<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let ids: Vec<OpId> = (0..3).map(|context| write(&conn, context, HUGE)).collect();
        rig.assert_quiet();
        conn.cancel(ids[0]).unwrap();
        let (_, context, got) = rig.done();
        let failure = cancelled(got);
        assert!(context == 0 && (1..HUGE).contains(&failure.transferred));
        for expected in 1..3 {
            let (_, context, got) = rig.done();
            broken(got);
            assert_eq!(context, expected);
        }
        write(&conn, 3, 1);
        broken(rig.outcome());
        peer.write_all(b"four").unwrap();
        read(&conn, 4);
        assert_eq!(rig.outcome().bytes(), b"four", "reads go on");
        drop(conn);
        rig.assert_quiet();
        assert!(read_to_its_end(&mut peer).0 <= failure.transferred);
    }
}

/// The head, but the system had no room for a byte of it: whoever is behind it goes on. The end of the output needs no
/// room, so it does not wait for any.
fn a_write_that_could_not_send_a_byte<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (ours, mut peer) = Net::Unix.pair();
    let stuffing = stuff(&ours);
    let conn = rig.submitter.delegate(ours).unwrap();
    let id = write(&conn, 1, 100);
    conn.shutdown_write().submit_with(2).unwrap();
    rig.assert_quiet();
    conn.cancel(id).unwrap();
    assert_eq!(cancelled(rig.outcome()).transferred, 0);
    let (_, context, got) = rig.done();
    got.shut_down();
    assert_eq!(context, 2);
    assert_eq!(read_all(&mut peer).len(), stuffing);
}

/// The same, with nobody behind it yet.
fn the_output_is_ended_behind_a_cancelled_write<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (ours, mut peer) = Net::Unix.pair();
    let stuffing = stuff(&ours);
    let conn = rig.submitter.delegate(ours).unwrap();
    let id = write(&conn, 1, 100);
    rig.assert_quiet();
    conn.cancel(id).unwrap();
    cancelled(rig.outcome());
    rig.assert_quiet();
    let id = write(&conn, 2, 100);
    rig.assert_quiet();
    conn.cancel(id).unwrap();
    cancelled(rig.outcome());
    rig.assert_quiet();
    conn.shutdown_write().submit_with(3).unwrap();
    rig.outcome().shut_down();
    assert_eq!(read_all(&mut peer).len(), stuffing);
}

fn a_linked_operation_in_either_half<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let buffer = b"question".to_vec();
        let at = buffer.as_ptr();
        let (op, id) = conn.write(buffer).then_read().named();
        op.submit_with(1).unwrap();
        rig.assert_quiet();
        assert_eq!(read_some(&mut peer, 8), b"question");
        conn.cancel(id).unwrap();
        let failure = cancelled(rig.outcome());
        assert_eq!((failure.half, failure.transferred), (Half::Read, 0));
        assert_eq!(failure.buffer.unwrap().into_vec().map(|back| (back.len(), back.as_ptr())), Some((0, at)));
        // The output is whole, and the next answer is for the next question.
        conn.write(b"again").then_read_leased().submit_with(2).unwrap();
        rig.assert_quiet();
        assert_eq!(read_some(&mut peer, 5), b"again");
        peer.write_all(b"yes").unwrap();
        assert_eq!(rig.outcome().bytes(), b"yes");

        let blocker = write(&conn, 3, HUGE);
        let (op, id) = conn.write(b"never begun".to_vec()).then_read().named();
        op.submit_with(4).unwrap();
        rig.assert_quiet();
        conn.cancel(id).unwrap();
        let (_, context, got) = rig.done();
        let failure = cancelled(got);
        assert_eq!((context, failure.half, failure.transferred), (4, Half::Write, 0));
        assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"never begun");
        conn.cancel(blocker).unwrap();
        assert!(cancelled(rig.outcome()).transferred > 0);
        rig.assert_quiet();
    }
}

fn the_bytes_of_an_exact_read_come_back<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (conn, mut peer) = rig.connect(net);
        let (op, id) = conn.read_exact(Vec::new(), 10).named();
        op.submit_with(1).unwrap();
        peer.write_all(b"seven b").unwrap();
        rig.assert_quiet();
        read(&conn, 2);
        conn.cancel(id).unwrap();
        let failure = cancelled(rig.outcome());
        assert_eq!(failure.transferred, 7);
        assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"seven b");
        peer.write_all(b"ytes").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.bytes()), (2, &b"ytes"[..]));
    }
}

/// Its bytes stay in the kernel, for whoever reads next.
fn a_pooled_read_that_found_no_room<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.arena, limits.read_cap) = (8, 8));
    let ends: Vec<_> = (0..3).map(|_| rig.connect(Net::Tcp)).collect();
    for (_, peer) in &ends {
        let mut peer = peer;
        peer.write_all(b"eight by").unwrap();
    }
    rig.assert_quiet();
    for (context, (conn, _)) in (0..).zip(&ends[..2]) {
        conn.read_pooled().submit_with(context).unwrap();
    }
    let (op, id) = ends[2].0.read_pooled().named();
    op.submit_with(2).unwrap();
    ends[2].0.cancel(id).unwrap();
    ends[2].0.read(Vec::with_capacity(8)).submit_with(3).unwrap();
    let mut all = rig.outcomes(4);
    for context in [0, 1, 3] {
        assert_eq!(all[&context].bytes(), b"eight by");
    }
    cancelled(all.remove(&2).unwrap());
}

/// G1: once, whoever comes first. A cancel that comes second finds nothing, whether the completion was taken or not.
fn one_that_has_completed<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let id = read(&conn, 1);
    rig.assert_quiet();
    peer.write_all(b"four").unwrap();
    assert_eq!(rig.outcome().bytes(), b"four");
    conn.cancel(id).unwrap();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 1);
    // A name is given once: it does not hit the operation in the same place.
    let next = read(&conn, 2);
    assert_ne!(next, id);
    conn.cancel(id).unwrap();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 2);
    conn.cancel(next).unwrap();
    cancelled(rig.outcome());
    // In the same breath as its bytes, and as another cancel.
    peer.write_all(b"more").unwrap();
    rig.assert_quiet();
    let id = read(&conn, 3);
    conn.cancel(id).unwrap();
    conn.cancel(id).unwrap();
    assert_eq!(rig.outcome().bytes(), b"more", "it looks behind the read, which was tried when it came");
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 4);
}

/// Against bytes that arrive meanwhile: one of the two, never both, and no byte is lost.
fn against_a_completion<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let (go, gone) = mpsc::channel::<()>();
    let rounds = 500;
    thread::scope(|scope| {
        scope.spawn(move || {
            while gone.recv().is_ok() {
                peer.write_all(b"four").unwrap();
            }
        });
        let (mut met, mut missed) = (0, 0);
        for round in 0..rounds {
            let id = read(&conn, round);
            go.send(()).unwrap();
            if round % 2 == 0 {
                thread::yield_now();
            }
            conn.cancel(id).unwrap();
            let (_, context, got) = rig.done();
            assert_eq!(context, round);
            match got {
                Got::Read(bytes) => {
                    assert_eq!(bytes, b"four");
                    missed += 1;
                }
                got => {
                    let part = cancelled(got).transferred;
                    conn.read_exact(Vec::new(), 4 - part).submit_with(MARK).unwrap();
                    assert_eq!(rig.outcome().bytes().len(), 4 - part);
                    met += 1;
                }
            }
        }
        drop(go);
        rig.assert_quiet();
        assert_eq!((met + missed, rig.counters().cancels_missed), (rounds, missed));
    });
}

/// It looks behind what its thread has submitted, through the ring.
fn from_another_thread_right_after_the_submit<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ring_slots = 8);
    let (conn, _peer) = rig.connect(Net::Tcp);
    let rounds = 300;
    thread::scope(|scope| {
        for thread in 0..2 {
            let conn = &conn;
            scope.spawn(move || {
                for round in 0..rounds {
                    let id = read(conn, thread * rounds + round);
                    conn.cancel(id).unwrap();
                }
            });
        }
        for (_, got) in rig.outcomes(2 * usize::try_from(rounds).unwrap()) {
            cancelled(got);
        }
    });
    assert_eq!(rig.counters().cancels_missed, 0, "each of them is found");
}

/// It looks behind what another thread has submitted before, whichever way that took.
fn of_an_operation_of_another_thread<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    for theirs in [true, false] {
        thread::scope(|scope| {
            let conn = &conn;
            if theirs {
                let id = scope.spawn(|| read(conn, 1)).join().unwrap();
                conn.cancel(id).unwrap();
            } else {
                let id = read(conn, 1);
                scope.spawn(move || conn.cancel(id).unwrap());
            }
            cancelled(rig.outcome());
        });
    }
    assert_eq!(rig.counters().cancels_missed, 0);
}

fn endings_cannot_be_cancelled<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let blocked = write(&conn, 1, HUGE);
    let (op, detaching) = conn.into_fd().named();
    op.submit_with(2).unwrap();
    let (op, closing) = conn.close().named();
    op.submit_with(3).unwrap();
    conn.cancel(detaching).unwrap();
    conn.cancel(closing).unwrap();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 2);
    // Under a close, too, a write can be.
    conn.cancel(blocked).unwrap();
    cancelled(rig.outcome());
    let failure = rig.outcome().failed();
    assert!(matches!(failure.error, OpError::Broken), "{failure:?}");
    rig.outcome().closed();
    read_to_its_end(&mut peer);
}

fn a_write_behind_which_a_close_waits<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.close_within = LONG);
    let (ours, mut peer) = Net::Unix.pair();
    let stuffing = stuff(&ours);
    let conn = rig.submitter.delegate(ours).unwrap();
    let id = write(&conn, 1, 100);
    conn.close().submit_with(2).unwrap();
    rig.assert_quiet();
    conn.cancel(id).unwrap();
    cancelled(rig.outcome());
    rig.assert_quiet();
    // A clean end: nothing was torn.
    assert_eq!(read_all(&mut peer).len(), stuffing);
    drop(peer);
    rig.outcome().closed();
    assert_eq!(rig.counters().closed_hard, 0);
}

/// A cancel on its way is a handle like any other, and no more than that.
fn the_last_handle_is_in_a_cancel<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let id = read(&conn, 1);
    conn.cancel(id).unwrap();
    drop(conn);
    cancelled(rig.outcome());
    rig.assert_quiet();
    finish(&peer);
    assert_eq!(read_all(&mut peer), b"");
    until(|| {
        let _ = rig.watcher.wait_timeout(Duration::from_millis(1)).unwrap().count();
        rig.counters().sessions == 0
    });
}

fn of_a_connection_that_is_gone_or_a_loop_that_ends<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    let id = read(&conn, 1);
    conn.release().submit_with(2).unwrap();
    conn.cancel(id).unwrap();
    assert!(matches!(rig.outcome().failed().error, OpError::Released));
    rig.outcome().closed();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 1);
    // The entry of the session is somebody else's by now.
    let (next, _next_peer) = rig.connect(Net::Tcp);
    read(&next, 3);
    conn.cancel(id).unwrap();
    rig.assert_quiet();
    rig.submitter.shutdown(Duration::ZERO);
    assert_eq!(conn.cancel(id), Err(SubmitErrorKind::Closed));
    let rest = rig.rest();
    assert!(matches!(&rest[..], [Taken::Done(_, 3, Got::Failed(_))]), "{rest:?}");
}

/// An unnamed operation is not found by any name.
fn what_has_no_name_is_left_alone<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    conn.read_leased().submit_with(1).unwrap();
    let id = read(&conn, 2);
    conn.cancel(id).unwrap();
    let (_, context, got) = rig.done();
    cancelled(got);
    assert_eq!(context, 2);
    doze();
    peer.write_all(b"x").unwrap();
    assert_eq!(rig.outcome().bytes(), b"x");
}

/// Everything at once, in every order that comes: each operation completes once, gives its buffer back, and the stream
/// has no hole and no repetition.
fn a_storm<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| (limits.batch, limits.ring_slots, limits.arena) = (8, 16, 64 << 10));
    let pattern = Pattern::new();
    let mut random = 0x2545_F491_u32;
    let mut dice = move |sides: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % sides
    };
    for round in 0..40 {
        let (conn, mut peer) = rig.connect(NETS[round % 2]);
        peer.set_nonblocking(true).unwrap();
        let (mut sent, mut got, mut pending) = (0, 0, HashMap::new());
        let (mut context, mut ids) = (0, Vec::new());
        let mut check = |taken: Taken, pending: &mut HashMap<u64, bool>| {
            let Taken::Done(_, context, outcome) = taken else { panic!("{taken:?}") };
            let is_exact = pending.remove(&context).expect("once, and asked for");
            let bytes = match outcome {
                Got::Failed(failure) => {
                    assert!(matches!(failure.error, OpError::Cancelled | OpError::TimedOut), "{failure:?}");
                    let buffer = failure.buffer.and_then(gaio::Payload::into_vec);
                    assert_eq!(buffer.is_some(), is_exact);
                    let buffer = buffer.unwrap_or_default();
                    assert_eq!(buffer.len(), failure.transferred);
                    buffer
                }
                Got::Read(bytes) | Got::Pooled(bytes) => bytes,
                Got::Leased(lease) => lease.to_vec(),
                other => panic!("{other:?}"),
            };
            assert!(bytes == pattern.at(got, bytes.len()), "round {round}, at {got}");
            got += bytes.len();
        };
        for _ in 0..300 {
            match dice(8) {
                0..=3 => {
                    let is_exact = dice(2) == 0;
                    let n = 1 + usize::try_from(dice(3_000)).unwrap();
                    let op = match dice(2) {
                        _ if is_exact => conn.read_exact(Vec::new(), n),
                        0 => conn.read_pooled(),
                        _ => conn.read_leased(),
                    };
                    let (op, id) = op.named();
                    let time = Duration::from_micros(u64::from(dice(4_000)));
                    let op = if dice(2) == 0 { op.within(time) } else { op };
                    op.submit_with(context).unwrap();
                    pending.insert(context, is_exact);
                    ids.push(id);
                    context += 1;
                }
                4 if !ids.is_empty() => {
                    let which = usize::try_from(dice(u32::try_from(ids.len()).unwrap())).unwrap();
                    conn.cancel(ids[which]).unwrap();
                }
                5 | 6 => {
                    let n = usize::try_from(dice(5_000)).unwrap();
                    sent += peer.write(pattern.at(sent, n)).unwrap_or(0);
                }
                _ => {
                    let taken = rig.watcher.wait_timeout(Duration::ZERO).unwrap().next().map(Taken::from);
                    taken.into_iter().for_each(|taken| check(taken, &mut pending));
                }
            }
        }
        for id in ids {
            conn.cancel(id).unwrap();
        }
        for taken in rig.barrier() {
            check(taken, &mut pending);
        }
        assert!(pending.is_empty(), "{pending:?}");
        assert!(got <= sent);
        conn.release().submit_with(0).unwrap();
        rig.outcome().closed();
        peer.set_nonblocking(false).unwrap();
        let _ = peer.read(&mut [0; 1]);
    }
    assert_eq!(rig.submitter.load(), 0);
}

both_drives!(
    the_head_the_middle_and_the_tail_of_the_reads,
    the_middle_and_the_tail_of_the_writes,
    a_write_that_was_sent_in_part,
    a_write_that_could_not_send_a_byte,
    the_output_is_ended_behind_a_cancelled_write,
    a_linked_operation_in_either_half,
    the_bytes_of_an_exact_read_come_back,
    a_pooled_read_that_found_no_room,
    one_that_has_completed,
    against_a_completion,
    from_another_thread_right_after_the_submit,
    of_an_operation_of_another_thread,
    endings_cannot_be_cancelled,
    a_write_behind_which_a_close_waits,
    the_last_handle_is_in_a_cancel,
    of_a_connection_that_is_gone_or_a_loop_that_ends,
    what_has_no_name_is_left_alone,
    a_storm,
);
