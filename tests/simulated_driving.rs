//! A loop that the consumer drives in its waits, on the simulated system.
//!
//! The loop's thread is held before it begins: so the loop is at rest between the waits, the test drives it, and all is
//! the same every time. The world is `alone`: a sleep that nothing can end panics. Last, the thread is let in, takes
//! the loop over, and gives it back. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use desk::{Got, MILLISECOND, TICK, bytes, failed, of, owned, received};
use gaio::sim::{Config, Peer, Rest, World};
use gaio::{Conn, Driver, Event, Half, Limits, OpError, Options, SubmitErrorKind, Submitter, WaitError, Watcher};

const HOUR: Duration = Duration::from_secs(3_600);
/// More turns than any of it takes.
const MANY: usize = 100;

/// A world, and a loop in it whose thread has not begun. This thread is the consumer.
struct Rig<C: Send + 'static = u32> {
    /// First: the drop of a watcher waits for its thread.
    held: Held,
    world: World,
    watcher: Watcher<C>,
    submitter: Submitter<C>,
}

fn rig<C: Send + 'static>() -> Rig<C> {
    rig_of(true, Limits::default())
}

fn rig_of<C: Send + 'static>(alone: bool, limits: Limits) -> Rig<C> {
    let world = World::enter_with({
        let mut config = Config::default();
        config.alone = alone;
        config
    });
    world.hold();
    let options = Options::default().limits(limits).driver(Driver::Consumer);
    let (mut watcher, submitter) = Watcher::spawn_for(options).unwrap();
    assert_eq!(watcher.try_wait().unwrap().len(), 0, "with its first wait it is known as the one who drives");
    Rig { held: Held(world.clone()), world, watcher, submitter }
}

struct Held(World);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl<C: Send + 'static> Rig<C> {
    fn conn(&self) -> (Conn<C>, Peer) {
        let (socket, peer) = self.world.pair();
        (self.submitter.delegate(socket).unwrap(), peer)
    }

    fn waker_writes(&self) -> u64 {
        self.submitter.counters().waker_writes
    }

    fn turns(&self) -> u64 {
        self.submitter.counters().turns
    }
}

impl Rig {
    fn wait(&mut self) -> Vec<(u32, Got)> {
        self.watcher.wait().unwrap().map(of).collect()
    }

    fn wait_timeout(&mut self, time: Duration) -> Vec<(u32, Got)> {
        self.watcher.wait_timeout(time).unwrap().map(of).collect()
    }

    fn try_wait(&mut self) -> Vec<(u32, Got)> {
        self.watcher.try_wait().unwrap().map(of).collect()
    }

    fn post_from_elsewhere(&self, context: u32) {
        let submitter = self.submitter.clone();
        thread::spawn(move || submitter.post(context).unwrap()).join().unwrap();
    }
}

/// Each time: a turn may leave the selector out, and the next one then must not sleep with a completion in hand.
#[test]
fn a_write_is_out_before_the_next_wait_and_completes_with_it() {
    let mut rig = rig();
    let (conn, peer) = rig.conn();
    for context in 0..6 {
        conn.write(b"ping").submit_with(context).unwrap();
        assert_eq!(received(&peer).unwrap(), b"ping", "{context}");
        let turns = rig.turns();
        assert_eq!(rig.wait(), [(context, Got::Wrote)]);
        assert_eq!(rig.turns(), turns + 1);
    }
    assert_eq!(rig.waker_writes(), 0);
}

/// What was sent at rest is in flight no more when the consumer sleeps: another thread finds room.
#[test]
fn what_is_out_makes_room_for_others_while_the_consumer_sleeps() {
    let mut limits = Limits::default();
    limits.write_bytes = 100;
    let mut rig: Rig = rig_of(false, limits);
    let (conn, peer) = rig.conn();
    assert_eq!(rig.try_wait(), []);
    conn.write(vec![7; 100]).then_read().submit_with(1).unwrap();
    assert_eq!(received(&peer).unwrap(), [7; 100]);
    let submitter = rig.submitter.clone();
    let other = thread::spawn(move || {
        let fits = (0..2_000).any(|_| {
            thread::sleep(MILLISECOND);
            conn.write(b"x").submit_with(2).is_ok()
        });
        submitter.post(3).unwrap(); // It ends in any case.
        (fits, conn)
    });
    assert!(!rig.wait().is_empty());
    assert!(other.join().unwrap().0);
}

/// A batch that is full ends the turn: nothing is read that the consumer cannot take next, and would get cold.
#[test]
fn nothing_is_read_ahead_of_the_batch() {
    let mut limits = Limits::default();
    limits.batch = 1;
    let mut rig: Rig = rig_of(true, limits);
    let all: Vec<_> = (0..3).map(|_| rig.conn()).collect();
    let ids: Vec<_> = (0..)
        .zip(&all)
        .map(|(context, (conn, _))| {
            let (read, id) = conn.read_pooled().named();
            read.submit_with(context).unwrap();
            id
        })
        .collect();
    assert_eq!(rig.try_wait(), []);
    all.iter().for_each(|(_, peer)| assert_eq!(peer.send(b"here").unwrap(), 4));
    let mut got = rig.wait();
    let first = got[0].0;
    assert_eq!(got, [(first, bytes(b"here"))]);
    for other in (0..3).filter(|other| *other != first) {
        all[other as usize].0.cancel(ids[other as usize]).unwrap();
    }
    got = rig.wait(); // Both: what is given up takes no room.
    got.sort_by_key(|(context, _)| *context);
    let cancelled = |context| (context, failed(Half::Read, 0, &OpError::Cancelled));
    assert_eq!(got, (0..3).filter(|other| *other != first).map(cancelled).collect::<Vec<_>>());
}

/// The answer to a message is on its way before the next event of the batch is looked at.
#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_batch() {
    let mut rig = rig();
    let all: Vec<_> = (0..3).map(|_| rig.conn()).collect();
    for ((conn, peer), context) in all.iter().zip(0..) {
        conn.read_pooled().submit_with(context).unwrap();
        peer.send(b"ping").unwrap();
    }
    let mut served = 0;
    for event in rig.watcher.wait().unwrap() {
        let Event::Done { conn, context, outcome: gaio::Outcome::Pooled(ping) } = event else { panic!() };
        // The bytes of the batch stay while those of later reads arrive, in the arena of the next.
        conn.write_copied(ping).then_read_pooled().submit_with(context).unwrap();
        let peer = &all[context as usize].1;
        assert_eq!((ping, received(peer).unwrap()), (&b"ping"[..], b"ping".to_vec()));
        peer.send(b"next").unwrap();
        served += 1;
    }
    assert_eq!(served, 3);
    let mut next = rig.wait();
    next.sort_by_key(|(context, _)| *context);
    assert_eq!(next, [(0, bytes(b"next")), (1, bytes(b"next")), (2, bytes(b"next"))]);
}

/// G2: what others have handed in goes before. The first of it writes the waker, and that is all.
#[test]
fn nothing_overtakes_what_the_ring_holds() {
    let mut rig = rig();
    let (conn, peer) = rig.conn();
    assert_eq!(rig.waker_writes(), 0);
    (1..3).for_each(|context| rig.post_from_elsewhere(context));
    conn.write(b"third").submit_with(3).unwrap();
    rig.submitter.post(4).unwrap();
    assert!(received(&peer).is_err(), "it waits for the next turn");
    assert_eq!(rig.waker_writes(), 1);
    assert_eq!(rig.wait(), [(1, Got::Posted), (2, Got::Posted), (3, Got::Wrote), (4, Got::Posted)]);
    assert_eq!(received(&peer).unwrap(), b"third");
    // From here on at once again.
    conn.write(b"fifth").submit_with(5).unwrap();
    assert_eq!((received(&peer).unwrap(), rig.wait()), (b"fifth".to_vec(), vec![(5, Got::Wrote)]));
    assert_eq!(rig.waker_writes(), 1);
}

/// Submits on the consumer's thread as it is dropped, at the end of a turn.
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

/// G2: nor what was submitted in the turn itself, which goes by the local queue.
#[test]
fn nothing_overtakes_what_was_submitted_in_the_turn() {
    let mut rig = rig();
    let (conn, peer) = rig.conn();
    let payload = Bytes::from_owner(Submits(rig.submitter.clone()));
    conn.write(payload).then_read_pooled().submit_with(1).unwrap();
    assert_eq!((received(&peer).unwrap(), rig.try_wait()), (b"payload".to_vec(), vec![]));
    assert_eq!(rig.waker_writes(), 0);
    rig.submitter.post(3).unwrap();
    assert_eq!(rig.wait(), [(2, Got::Posted), (3, Got::Posted)]);
}

/// One turn, however long the loop would sleep.
#[test]
fn a_look_takes_a_turn_and_no_time() {
    let mut rig = rig();
    rig.submitter.timer(HOUR).submit_with(1).unwrap();
    rig.post_from_elsewhere(2);
    let (now, turns) = (rig.world.now(), rig.turns());
    assert_eq!(rig.try_wait(), [(2, Got::Posted)]);
    assert_eq!(rig.try_wait(), []);
    assert_eq!(rig.wait_timeout(Duration::ZERO), []);
    assert_eq!((rig.world.now(), rig.turns()), (now, turns + 3));
}

#[test]
fn a_wait_sleeps_until_its_time_or_something_is_due() {
    let mut rig = rig();
    let (conn, _peer) = rig.conn();
    let begin = rig.world.now();
    let since = |rig: &Rig| rig.world.now() - begin;
    assert_eq!((rig.wait_timeout(MILLISECOND), since(&rig)), (vec![], MILLISECOND));
    rig.submitter.timer(10 * MILLISECOND).submit_with(1).unwrap();
    conn.read_pooled().within(20 * MILLISECOND).submit_with(2).unwrap();
    assert_eq!((rig.wait_timeout(4 * MILLISECOND), since(&rig)), (vec![], 5 * MILLISECOND));
    assert_eq!(rig.wait_timeout(HOUR), [(1, Got::Rang)]);
    assert!((11 * MILLISECOND..=11 * MILLISECOND + TICK).contains(&since(&rig)));
    assert_eq!(rig.wait(), [(2, failed(Half::Read, 0, &OpError::TimedOut))]);
    assert!((21 * MILLISECOND..=21 * MILLISECOND + TICK).contains(&since(&rig)));
}

/// I7: nobody sleeps who would have to hear of it. On another thread somebody could.
#[test]
fn a_last_handle_that_is_dropped_at_rest_wakes_nobody() {
    let mut rig = rig();
    let ((one, peer), (other, others)) = (rig.conn(), rig.conn());
    drop(one);
    assert_eq!(rig.waker_writes(), 0);
    assert_eq!(rig.try_wait(), []);
    assert_eq!(received(&peer).unwrap(), b"", "the end");
    thread::spawn(move || drop(other)).join().unwrap();
    assert_eq!(rig.waker_writes(), 1);
    assert_eq!(rig.try_wait(), []);
    assert_eq!(received(&others).unwrap(), b"");
}

/// What panics as it is dropped.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

/// G11: it ends the loop as it would on a thread of its own, and unwinds through no wait.
#[test]
fn a_panic_in_a_turn_of_the_consumers_fails_the_loop() {
    let mut rig: Rig<Arc<u32>> = rig();
    let contexts: Vec<_> = (0..6).map(Arc::new).collect();
    let ((one, _peer), (other, others)) = (rig.conn(), rig.conn());
    one.read(Vec::with_capacity(4)).submit_with(contexts[0].clone()).unwrap();
    rig.submitter.timer(HOUR).submit_with(contexts[1].clone()).unwrap();
    other.write(Bytes::from_owner(Bomb)).then_read_pooled().submit_with(contexts[2].clone()).unwrap();
    assert_eq!(received(&others).unwrap(), b"bomb");
    let (submitter, context) = (rig.submitter.clone(), contexts[3].clone());
    thread::spawn(move || submitter.post(context).unwrap()).join().unwrap();
    // Behind that, by the ring.
    one.write(b"late").submit_with(contexts[4].clone()).unwrap();

    let mut seen = Vec::new();
    let end = loop {
        match rig.watcher.wait() {
            Ok(batch) => seen.extend(batch.map(|event| match event {
                Event::Done { context, outcome, .. } => (*context, owned(outcome)),
                Event::Posted(context) => (*context, Got::Posted),
                Event::Timer { context, result } => (*context, Got::Silenced(format!("{result:?}"))),
                other => panic!("{other:?}"),
            })),
            Err(end) => break end,
        }
    };
    assert_eq!((end, rig.watcher.try_wait().unwrap_err()), (WaitError::LoopFailed, WaitError::LoopFailed));
    seen.sort_by_key(|(context, _)| *context);
    let unread = || failed(Half::Read, 0, &OpError::LoopFailed);
    let silenced = Got::Silenced(String::from("Err(LoopFailed)"));
    // The turn itself went well: the panic came at its end.
    assert_eq!(seen, [(0, unread()), (1, silenced), (2, unread()), (3, Got::Posted), (4, Got::Wrote)]);
    let refused = one.write(b"x").submit_with(contexts[5].clone()).unwrap_err();
    assert_eq!((refused.kind, *refused.context), (SubmitErrorKind::Closed, 5));
    drop(refused);
    assert!(contexts.iter().all(|context| Arc::strong_count(context) == 1), "each came back once");
}

#[test]
fn after_a_shutdown_at_rest_all_completes_and_nothing_is_left() {
    let mut rig = rig();
    let (conn, peer) = rig.conn();
    let (idle, _idle_peer) = rig.conn();
    idle.read_pooled().submit_with(1).unwrap();
    conn.write(b"in time").submit_with(2).unwrap();
    rig.submitter.timer(HOUR).submit_with(3).unwrap();
    rig.submitter.shutdown(Duration::ZERO);
    let refused = conn.write(Vec::from(*b"late")).submit_with(4).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 4));
    let mut all = rig.wait();
    all.sort_by_key(|(context, _)| *context);
    let silenced = Got::Silenced(String::from("Aborted"));
    assert_eq!(all, [(1, failed(Half::Read, 0, &OpError::Aborted)), (2, Got::Wrote), (3, silenced)]);
    assert_eq!(received(&peer).unwrap(), b"in time");
    for _ in 0..2 {
        assert_eq!(rig.watcher.wait().unwrap_err(), WaitError::Closed);
        assert_eq!(rig.watcher.wait_timeout(HOUR).unwrap_err(), WaitError::Closed);
    }
    // Its thread only has to come to its end.
    assert_eq!(rig.world.go_on(1), Rest::Over);
    let world = rig.world.clone();
    drop((rig, conn, idle, refused));
    assert_eq!(world.open_descriptors(), 0);
}

/// G7: the drop of the watcher drives the loop to its end.
#[test]
fn a_watcher_that_is_dropped_at_rest_takes_all_with_it() {
    let mut rig: Rig<Arc<()>> = rig();
    let context = Arc::new(());
    let (conn, _peer) = rig.conn();
    (0..3).for_each(|_| rig.submitter.post(context.clone()).unwrap());
    drop(rig.watcher.wait().unwrap().next());
    conn.write(b"done").submit_with(context.clone()).unwrap();
    conn.read_leased().submit_with(context.clone()).unwrap();
    assert_eq!(Arc::strong_count(&context), 1 + 2 + 2);
    let Rig { held, world, watcher, submitter } = rig;
    let watched = Arc::downgrade(&context);
    let letting_go = thread::spawn(move || {
        // Until then the loop's thread is held: it is not the one who does it.
        let done = comes_true(|| watched.strong_count() == 1);
        drop(held);
        done
    });
    drop(watcher);
    assert!(letting_go.join().unwrap(), "everything was dropped before the loop's thread began");
    assert_eq!(conn.write(b"x").submit_with(context).unwrap_err().kind, SubmitErrorKind::Closed);
    drop((submitter, conn));
    assert_eq!(world.open_descriptors(), 0);
}

/// Of what another thread does, in real time.
fn comes_true(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(MILLISECOND);
    }
    true
}

/// Bytes that say when they are gone.
struct Counted(#[expect(dead_code, reason = "to be dropped")] Arc<()>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        b"counted"
    }
}

/// It does not sleep with what the consumer has submitted at rest: no wait may come, only looks.
#[test]
fn the_loops_thread_hands_out_what_it_finds_done() {
    for completes in [true, false] {
        let (mut rig, count) = (rig(), Arc::new(()));
        let (conn, _peer) = rig.conn();
        assert_eq!(rig.try_wait(), [], "no event is left that would bring a turn");
        conn.write(Bytes::from_owner(Counted(count.clone()))).then_read_pooled().submit_with(1).unwrap();
        if completes {
            rig.submitter.post(2).unwrap();
        }
        assert_eq!(rig.world.go_on(MANY), Rest::Asleep(None));
        assert_eq!(Arc::strong_count(&count), 1, "the payload was dropped");
        assert_eq!(rig.try_wait().len(), usize::from(completes));
    }
}

/// Only the consumer knows of its own time-out, and only the loop's thread is there while that is away.
#[test]
fn the_loops_thread_takes_over_and_gives_back() {
    let mut rig = rig();
    let (conn, peer) = rig.conn();
    assert_eq!(rig.world.go_on(MANY), Rest::Asleep(None), "it has taken the loop, and sleeps");
    conn.write(b"one").submit_with(1).unwrap();
    assert!(received(&peer).is_err(), "the loop is not at rest");
    assert_eq!((rig.try_wait(), rig.waker_writes()), (vec![], 1));
    assert_eq!(rig.world.go_on(MANY), Rest::Asleep(None));
    assert_eq!((received(&peer).unwrap(), rig.try_wait()), (b"one".to_vec(), vec![(1, Got::Wrote)]));
    // It is given back at once, and the world's clock jumps by the consumer's sleep.
    let now = rig.world.now();
    rig.world.let_go();
    assert_eq!((rig.wait_timeout(HOUR), rig.world.now()), (vec![], now + HOUR));
    for context in 0..3 {
        thread::scope(|scope| _ = scope.spawn(|| conn.write(b"two").submit_with(context).unwrap()));
        assert!(comes_true(|| received(&peer).is_ok()), "without a wait");
        assert_eq!(rig.wait(), [(context, Got::Wrote)]);
    }
}

/// Who sleeps in a poll of its own does not drive.
#[test]
fn a_watcher_that_is_polled_leaves_the_loop_to_its_thread() {
    let mut rig = rig();
    let pollable = rig.watcher.pollable().unwrap();
    rig.submitter.post(1).unwrap();
    assert_eq!(rig.try_wait(), []);
    assert!(!pollable.is_readable());
    assert_eq!(rig.world.go_on(MANY), Rest::Asleep(None));
    assert!(pollable.is_readable());
    assert_eq!(rig.try_wait(), [(1, Got::Posted)]);
}
