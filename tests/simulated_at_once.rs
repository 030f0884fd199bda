//! What the loop's own thread submits between two turns is taken up at once, and overtakes nothing, on the simulated
//! system.
//!
//! As `simulated.rs`: one thread, an embedded loop, time in the test's hand. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, MILLISECOND, TICK, bytes, desk, desk_with, failed, of, received};
use gaio::{EmbeddedWatcher, Half, NextTurn, OpError, Options, SubmitErrorKind, Submitter, WaitError};

fn turns(desk: &Desk) -> u64 {
    desk.submitter.counters().turns
}

/// Something is in the ring: what is submitted here from now on waits for the next turn.
fn post_from_elsewhere(desk: &Desk, context: u32) {
    let submitter = desk.submitter.clone();
    thread::spawn(move || submitter.post(context).unwrap()).join().unwrap();
}

#[test]
fn a_write_is_out_before_the_next_turn_and_completes_with_it() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.write(b"hello").submit_with(1).unwrap();
    assert_eq!((received(&peer).unwrap(), turns(&desk)), (b"hello".to_vec(), 0));
    assert_eq!(desk.watcher.next_turn(), NextTurn::Now, "its completion is there to be taken");
    assert_eq!(desk.turn(), [(1, Got::Wrote)]);
    assert_eq!(desk.watcher.next_turn(), NextTurn::WhenReadable);
}

/// The echo of a message is on its way before the next event of the batch is looked at.
#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_batch() {
    let mut desk = desk();
    let all: Vec<_> = (0..3).map(|_| desk.conn()).collect();
    for ((conn, peer), context) in all.iter().zip(0..) {
        conn.read_pooled().submit_with(context).unwrap();
        peer.send(b"ping").unwrap();
    }
    let mut served = 0;
    for event in desk.watcher.turn(None).unwrap() {
        let gaio::Event::Done { conn, context, outcome: gaio::Outcome::Pooled(ping) } = event else { panic!() };
        // The bytes of the batch stay while those of later reads arrive, in the arena of the next.
        conn.write_copied(ping).then_read_pooled().submit_with(context).unwrap();
        assert_eq!((ping, received(&all[context as usize].1).unwrap()), (&b"ping"[..], b"ping".to_vec()));
        all[context as usize].1.send(b"next").unwrap();
        served += 1;
    }
    assert_eq!(served, 3);
    let mut next = desk.turn();
    next.sort_by_key(|(context, _)| *context);
    assert_eq!(next, [(0, bytes(b"next")), (1, bytes(b"next")), (2, bytes(b"next"))]);
}

/// What is done needs no event to be handed out. Who always has something that is done still hears of events.
#[test]
fn who_always_submits_hears_of_events() {
    let mut desk = desk();
    let ((quiet, sender), (busy, _peer)) = (desk.conn(), desk.conn());
    quiet.read_pooled().submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    for round in 0..5 {
        sender.send(&[round]).unwrap();
        let mut got = Vec::new();
        for _ in 0..2 {
            busy.write(b"x").submit_with(2).unwrap();
            got.extend(desk.turn());
        }
        got.sort_by_key(|(context, _)| *context);
        assert_eq!(got, [(1, bytes(&[round])), (2, Got::Wrote), (2, Got::Wrote)]);
        quiet.read_pooled().submit_with(1).unwrap();
    }
}

/// The bytes of a write are in flight until its turn is over, whether it has a completion of its own or not.
#[test]
fn what_is_out_makes_room_for_more() {
    for linked in [false, true] {
        let mut desk = desk_with(|_| (), |limits| limits.write_bytes = 100);
        let (conn, peer) = desk.conn();
        for _ in 0..5 {
            if linked {
                conn.write(vec![7; 100]).then_read().submit_with(1).unwrap();
            } else {
                conn.write(vec![7; 100]).submit_with(1).unwrap();
            }
            let refused = conn.write(b"x").submit_with(2).unwrap_err();
            assert_eq!(refused.kind, SubmitErrorKind::TooMany);
            assert_eq!(desk.turn().len(), usize::from(!linked));
            assert_eq!(received(&peer).unwrap(), [7; 100]);
        }
    }
}

/// Nor does it take a turn's end: another thread finds room while the loop sleeps, which has sent all of it before, or what
/// was left of it within the turn.
#[test]
fn what_is_out_makes_room_for_others_while_the_turn_goes_on() {
    for buffer in [100, 60] {
        let mut desk = desk_with(|config| config.buffer = buffer, |limits| limits.write_bytes = 100);
        let (conn, peer) = desk.conn();
        assert_eq!(desk.events(), []);
        conn.write(vec![7; 100]).then_read().submit_with(1).unwrap();
        let submitter = desk.submitter.clone();
        let other = thread::spawn(move || {
            let mut out = received(&peer).unwrap().len();
            let fits = (0..2_000).any(|_| {
                thread::sleep(MILLISECOND);
                out += received(&peer).map_or(0, |bytes| bytes.len());
                out == 100 && conn.write(b"x").submit_with(2).is_ok()
            });
            submitter.post(3).unwrap(); // It ends in any case.
            (fits, conn, peer)
        });
        assert!(!desk.watcher.turn(None).unwrap().map(of).collect::<Vec<_>>().is_empty());
        assert!(other.join().unwrap().0, "with room for {buffer}");
    }
}

/// A read of what has come already, a delegation, a release, a close, a timer: whatever it is.
#[test]
fn everything_is_taken_up_at_once() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    let before = desk.world.open_descriptors();
    peer.send(b"two and more").unwrap();
    conn.read(Vec::with_capacity(4)).submit_with(1).unwrap();
    assert_eq!(desk.turn(), [(1, bytes(b"two "))]);
    conn.read_exact(Vec::new(), 4).submit_with(2).unwrap();
    desk.submitter.timer(MILLISECOND).submit_with(3).unwrap();
    let NextTurn::Now = desk.watcher.next_turn() else { panic!("a read has completed") };
    assert_eq!(desk.turn(), [(2, bytes(b"and "))]);
    let NextTurn::At(_) = desk.watcher.next_turn() else { panic!("a timer was started") };
    conn.release().submit_with(4).unwrap();
    assert_eq!(desk.world.open_descriptors(), before - 1, "it is closed");
    assert_eq!(desk.turn(), [(4, Got::Closed)]);
    assert_eq!(desk.after(MILLISECOND + TICK), [(3, Got::Rang)]);
}

/// A connection that is begun, used and ended before the loop has taken its first turn.
#[test]
fn a_whole_life_without_a_turn() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.write(b"bye").submit_with(1).unwrap();
    conn.abort().submit_with(2).unwrap();
    conn.write(b"too late").submit_with(3).unwrap();
    assert_eq!((turns(&desk), desk.world.open_descriptors()), (0, desk.own));
    let closed = failed(Half::Write, 0, &OpError::Closed);
    assert_eq!(desk.turn(), [(1, Got::Wrote), (2, Got::Closed), (3, closed)]);
    drop(peer);
}

/// G2: what happened before on another thread goes before, and what comes behind it here stays behind.
#[test]
fn nothing_overtakes_what_the_ring_holds() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    post_from_elsewhere(&desk, 1);
    conn.write(b"second").submit_with(2).unwrap();
    desk.submitter.post(3).unwrap();
    assert!(received(&peer).is_err(), "it waits for the next turn");
    assert_eq!(desk.watcher.next_turn(), NextTurn::Now);
    assert_eq!(desk.turn(), [(1, Got::Posted), (2, Got::Wrote), (3, Got::Posted)]);
    assert_eq!(received(&peer).unwrap(), b"second");
    // From here on at once again.
    conn.write(b"fourth").submit_with(4).unwrap();
    assert_eq!(received(&peer).unwrap(), b"fourth");
}

/// A payload with other owners.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Submits on the loop's thread as it is dropped, at the end of a turn.
struct Submits(Submitter<u32>);

impl AsRef<[u8]> for Submits {
    fn as_ref(&self) -> &[u8] {
        b"payload"
    }
}

impl Drop for Submits {
    fn drop(&mut self) {
        self.0.post(2).unwrap();
    }
}

/// A loop that sleeps holds no payload that it has sent.
#[test]
fn a_payload_is_dropped_before_the_loop_sleeps() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    let owner = Arc::new(b"payload".to_vec());
    conn.write(Bytes::from_owner(Shared(owner.clone()))).then_read_pooled().submit_with(1).unwrap();
    assert_eq!((received(&peer).unwrap(), desk.watcher.next_turn()), (b"payload".to_vec(), NextTurn::Now));
    assert_eq!((desk.turn(), Arc::strong_count(&owner)), (vec![], 1));
    assert_eq!(desk.watcher.next_turn(), NextTurn::WhenReadable);
}

/// G2: nor what was submitted in the turn itself, which goes by the local queue.
#[test]
fn nothing_overtakes_what_was_submitted_in_the_turn() {
    let mut desk = desk_with(|config| config.buffer = 4, |_| ());
    let (conn, peer) = desk.conn();
    let payload = Bytes::from_owner(Submits(desk.submitter.clone()));
    conn.write(payload).then_read_pooled().submit_with(1).unwrap();
    assert_eq!(received(&peer).unwrap(), b"payl", "the rest is sent within a turn, and dropped at its end");
    assert_eq!((desk.turn(), received(&peer).unwrap()), (vec![], b"oad".to_vec()));
    desk.submitter.post(3).unwrap();
    assert_eq!(desk.events(), [(2, Got::Posted), (3, Got::Posted)]);
}

/// G8: of many operations of one connection one is begun at once, as in a turn; the budgets have the others.
#[test]
fn one_connection_is_not_served_alone() {
    let mut desk = desk_with(|_| (), |limits| limits.ops_per_turn = 4);
    let (conn, peer) = desk.conn();
    for context in 0..100 {
        conn.write(b".").submit_with(context).unwrap();
    }
    assert_eq!(received(&peer).unwrap(), b".");
    let mut left = 99;
    while left > 0 {
        let before = turns(&desk);
        let _ = desk.turn();
        let took = usize::try_from(turns(&desk) - before).unwrap();
        let sent = received(&peer).map_or(0, |bytes| bytes.len());
        assert!(sent <= 4 * took, "{sent} in {took} turns");
        left -= sent;
    }
}

/// I10: a batch is not filled beyond its limit; what has no place in it waits, and comes with the next.
#[test]
fn a_full_batch_takes_no_more() {
    let mut desk = desk_with(|_| (), |limits| limits.batch = 4);
    let all: Vec<_> = (0..10).map(|_| desk.conn()).collect();
    for ((conn, _), context) in all.iter().zip(0..) {
        conn.write(b".").submit_with(context).unwrap();
    }
    let sent = all.iter().filter(|(_, peer)| received(peer).is_ok()).count();
    assert_eq!(sent, 4);
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let batch = desk.turn();
        // And what one step brings beyond that.
        assert!((1..=5).contains(&batch.len()), "{}", batch.len());
        seen.extend(batch.into_iter().map(|(context, _)| context));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

/// What is left of a batch comes first, without a turn; what has completed meanwhile, behind it.
#[test]
fn what_is_left_of_a_batch_comes_first() {
    let mut desk = desk();
    (1..=3).for_each(|context| desk.submitter.post(context).unwrap());
    assert_eq!(desk.watcher.turn(None).unwrap().next().map(of), Some((1, Got::Posted)));
    desk.submitter.post(4).unwrap();
    assert_eq!(desk.submitter.load(), 1, "three were handed out");
    assert_eq!(desk.watcher.next_turn(), NextTurn::Now);
    assert_eq!(desk.turn(), [(2, Got::Posted), (3, Got::Posted)]);
    assert_eq!(desk.turn(), [(4, Got::Posted)]);
}

#[test]
fn after_the_shutdown_all_is_refused() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.write(b"in time").submit_with(1).unwrap();
    desk.submitter.shutdown(Duration::ZERO);
    let refused = conn.write(Vec::from(*b"late")).submit_with(2).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 2));
    assert!(refused.buffer.is_some());
    assert_eq!(desk.turn(), [(1, Got::Wrote)]);
    assert_eq!(desk.watcher.turn(None).unwrap_err(), WaitError::Closed);
    assert_eq!(received(&peer).unwrap(), b"in time");
}

/// Nothing was under way: the end comes as such, not behind an empty batch.
#[test]
fn the_end_alone_is_no_batch() {
    let mut desk = desk();
    desk.submitter.shutdown(Duration::ZERO);
    for _ in 0..2 {
        assert_eq!(desk.watcher.turn(None).unwrap_err(), WaitError::Closed);
    }
}

/// G7: completions that nobody has taken are dropped with the watcher, and the loop with them.
#[test]
fn a_watcher_that_is_dropped_takes_all_with_it() {
    let desk = desk();
    let (mut watcher, submitter) = EmbeddedWatcher::<Arc<()>>::new_for(Options::default()).unwrap();
    let context = Arc::new(());
    let (socket, _peer) = desk.world.pair();
    let conn = submitter.delegate(socket).unwrap();
    (0..3).for_each(|_| submitter.post(context.clone()).unwrap());
    drop(watcher.turn(None).unwrap().next());
    conn.write(b"done").submit_with(context.clone()).unwrap();
    conn.read_leased().submit_with(context.clone()).unwrap();
    assert_eq!(Arc::strong_count(&context), 1 + 2 + 2);
    drop(watcher);
    assert_eq!(Arc::strong_count(&context), 1);
    assert_eq!(conn.write(b"x").submit_with(context).unwrap_err().kind, SubmitErrorKind::Closed);
    drop((submitter, conn));
    assert_eq!(desk.world.open_descriptors(), desk.own, "nobody holds the loop any more");
}
