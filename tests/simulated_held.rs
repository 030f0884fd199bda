//! A loop with a thread of its own that the simulated system holds: it goes on step by step, so that what happens between two
//! of its steps is the test's to say, the same every time.

#![cfg(gaio_sim)]

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use gaio::sim::{Clock, Config, Fault, Faults, Rest, World, stall_next_push, stall_no_push};
use gaio::{EmbeddedWatcher, Event, Limits, NextTurn, Options, SubmitErrorKind, Submitter, WaitError, Watcher};

/// More turns than any of it takes.
const MANY: usize = 100;

fn held() -> (World, Watcher<u32>, Submitter<u32>) {
    held_with(Limits::default())
}

fn held_with(limits: Limits) -> (World, Watcher<u32>, Submitter<u32>) {
    let world = World::enter_with({
        let mut config = Config::default();
        config.clock = Clock::Manual;
        config
    });
    world.hold();
    let (watcher, submitter) = Watcher::spawn_for(Options::default().limits(limits)).unwrap();
    (world, watcher, submitter)
}

fn posts(watcher: &mut Watcher<u32>) -> Vec<u32> {
    let batch = watcher.try_wait().unwrap();
    batch
        .map(|event| match event {
            Event::Posted(n) => n,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Starts a post whose push stands still, on a thread of its own. What comes back lets it go on, to its end.
fn stalled_post(submitter: &Submitter<u32>, n: u32) -> impl FnOnce() + use<> {
    let ((stands, standing), (go_on, told_to)) = (channel(), channel::<()>());
    let submitter = submitter.clone();
    let world = World::current();
    let thread = thread::spawn(move || {
        world.join();
        stall_next_push(move || {
            stands.send(()).unwrap();
            told_to.recv().unwrap();
        });
        submitter.post(n).unwrap();
    });
    standing.recv().unwrap();
    move || {
        go_on.send(()).unwrap();
        thread.join().unwrap();
    }
}

#[test]
fn it_goes_on_turn_by_turn_and_to_its_end() {
    let (world, mut watcher, submitter) = held();
    submitter.post(1).unwrap();
    assert_eq!(posts(&mut watcher), [0; 0], "it stands still from the beginning");
    assert_eq!(world.go_on(1), Rest::Between, "it looks for events: there is one, of the waker");
    assert_eq!(posts(&mut watcher), [0; 0]);
    assert_eq!(world.go_on(1), Rest::Asleep(None), "it took a turn, and looks for events: there are none");
    assert_eq!(posts(&mut watcher), [1]);
    submitter.timer(Duration::from_secs(1)).submit_with(2).unwrap();
    let Rest::Asleep(Some(due)) = world.go_on(MANY) else { panic!() };
    assert_eq!(world.go_on(MANY), Rest::Asleep(Some(due)), "nothing has happened");
    world.advance(Duration::from_millis(1_002));
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert!(matches!(watcher.try_wait().unwrap().next(), Some(Event::Timer { context: 2, .. })));
    submitter.shutdown(Duration::ZERO);
    assert_eq!(world.go_on(MANY), Rest::Over);
    assert_eq!(watcher.try_wait().unwrap_err(), WaitError::Closed);
    drop((watcher, submitter));
    assert_eq!(world.open_descriptors(), 0);
}

#[test]
fn it_can_be_held_in_the_middle_of_a_turn() {
    let (world, mut watcher, submitter) = held();
    let (socket, peer) = world.pair();
    let conn = submitter.delegate(socket).unwrap();
    conn.read_leased().submit_with(0).unwrap();
    peer.send(b"text").unwrap();
    world.configure(|config| config.faults = Faults::default().with(Fault::Preempted, 1_024));
    let mut stops = 0;
    while world.go_on(MANY) == Rest::Within {
        stops += 1;
        // Behind the tail that this drain has seen, if it has begun: the gate is open, nobody writes the waker.
        submitter.post(stops).unwrap();
    }
    assert!(stops > 2, "in front of each call: {stops}");
    world.configure(|config| config.faults.calm());
    let mut got = Vec::new();
    // What was residue comes with the next turn.
    for _ in 0..3 {
        for event in watcher.try_wait().unwrap() {
            match event {
                Event::Posted(n) => got.push(n),
                Event::Done { context: 0, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    }
    assert!(got.iter().copied().eq(1..=stops), "none is lost: {got:?} of {stops}");
    world.let_go();
}

/// I10: those in line for a fresh arena are no work until there is one, which comes with a take.
#[test]
fn it_sleeps_while_the_arena_is_full() {
    let mut limits = Limits::default();
    (limits.arena, limits.read_cap) = (64, 64);
    let (world, mut watcher, submitter) = held_with(limits);
    let conns: Vec<_> = (0..100)
        .map(|n| {
            let (socket, peer) = world.pair();
            let conn = submitter.delegate(socket).unwrap();
            peer.send(&[7; 64]).unwrap();
            conn.read_pooled().submit_with(n).unwrap();
            (conn, peer)
        })
        .collect();
    let mut order = Vec::new();
    while order.len() < conns.len() {
        assert_eq!(world.go_on(MANY), Rest::Asleep(None), "one in the cell, one in the residue, and nobody has room");
        let batch = watcher.try_wait().unwrap();
        assert!(batch.len() <= 1, "an arena holds one of them");
        order.extend(batch.map(|event| match event {
            Event::Done { context, .. } => context,
            other => panic!("{other:?}"),
        }));
    }
    assert!(order.is_sorted(), "they were fed in line: {order:?}");
    world.let_go();
}

/// The batch is full in the middle of a turn, and taken there.
#[test]
fn bytes_whose_write_is_told_as_done_are_not_queued_any_more() {
    let mut limits = Limits::default();
    (limits.batch, limits.write_bytes) = (1, 10);
    let (world, mut watcher, submitter) = held_with(limits);
    let ((one, _peer), (other, other_peer)) = (world.pair(), world.pair());
    let (one, other) = (submitter.delegate(one).unwrap(), submitter.delegate(other).unwrap());
    other_peer.send(b"text").unwrap();
    other.readable().submit_with(0).unwrap();
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert_eq!(watcher.try_wait().unwrap().count(), 1);
    one.write(b"0123456789").submit_with(1).unwrap();
    assert_eq!(one.write(b"x").submit_with(2).unwrap_err().kind, SubmitErrorKind::TooMany);
    other.read_leased().submit_with(3).unwrap();
    world.configure(|config| config.faults = Faults::default().with(Fault::Preempted, 1_024));
    loop {
        assert_eq!(world.go_on(MANY), Rest::Within, "the turn goes on with the read");
        if let Some(Event::Done { context: 1, .. }) = watcher.try_wait().unwrap().next() {
            break;
        }
    }
    one.write(b"0123456789").submit_with(4).unwrap();
    world.let_go();
}

/// It looks how long a message is, then receives it; and that everything is pending first is no reason to do so for ever.
#[test]
fn a_message_that_may_not_fit_into_the_rest_of_an_arena_is_received_at_last() {
    let mut limits = Limits::default();
    (limits.arena, limits.read_cap) = (256, 200);
    let (world, mut watcher, submitter) = held_with(limits);
    world.configure(|config| config.pending_first = true);
    let ((one, peer), (other, other_peer)) = (world.unix_datagram_pair(), world.unix_datagram_pair());
    let (one, other) = (submitter.delegate(one).unwrap(), submitter.delegate(other).unwrap());
    for n in 1..3 {
        one.read_pooled().submit_with(n).unwrap();
        peer.send(&[7; 100]).unwrap();
        assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    }
    // Nobody takes the first batch, so this one goes to the second, of whose arena a part is used.
    other.read_pooled().submit_with(3).unwrap();
    other_peer.send(&[7; 10]).unwrap();
    assert_eq!(world.go_on(MANY), Rest::Asleep(None), "it does not spin");
    assert_eq!(watcher.try_wait().unwrap().count(), 1);
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert_eq!(watcher.try_wait().unwrap().count(), 2);
    world.let_go();
}

#[test]
fn a_consumer_that_stays_away_finds_everything() {
    let (world, mut watcher, submitter) = held();
    for n in 0..50 {
        submitter.post(n).unwrap();
        // However full the mailbox is: the ring is emptied, and the loop sleeps.
        assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    }
    let polls = submitter.counters().polls;
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert_eq!(submitter.counters().polls, polls);
    assert!(submitter.counters().residues > 0);
    assert_eq!(posts(&mut watcher), [0], "the first batch; with it the loop hears that there is room");
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert_eq!(posts(&mut watcher), Vec::from_iter(1..50));
    world.let_go();
}

/// A full batch is looked at by whatever would go into it; what is counted is the turns that end with it.
#[test]
fn a_residue_is_counted_once_a_turn() {
    let mut limits = Limits::default();
    limits.batch = 1;
    let (world, mut watcher, submitter) = held_with(limits);
    let all: Vec<_> = (0..50)
        .map(|_| {
            let (socket, peer) = world.pair();
            let conn = submitter.delegate(socket).unwrap();
            conn.read(Vec::with_capacity(1)).submit_with(1).unwrap();
            (conn, peer)
        })
        .collect();
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    let before = submitter.counters();
    all.iter().for_each(|(_, peer)| assert_eq!(peer.send(b"x").unwrap(), 1));
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    let after = submitter.counters();
    let (turns, residues) = (after.turns - before.turns, after.residues - before.residues);
    assert!((1..=turns).contains(&residues), "{residues} residues in {turns} turns");
    world.let_go();
    let mut n = 0;
    while n < 50 {
        n += watcher.wait().unwrap().count();
    }
}

#[test]
fn a_push_that_stands_still_holds_up_no_sleep_and_no_wake_up() {
    let (world, mut watcher, submitter) = held();
    let resume = stalled_post(&submitter, 1);
    assert_eq!(world.go_on(MANY), Rest::Asleep(None), "nobody spins on it");
    let writes = submitter.counters().waker_writes;
    submitter.post(2).unwrap();
    assert_eq!(submitter.counters().waker_writes, writes + 1, "whoever comes behind it wakes the loop");
    let turns = submitter.counters().turns;
    assert_eq!(world.go_on(MANY), Rest::Asleep(None));
    assert_eq!(submitter.counters().turns, turns + 1);
    assert_eq!(posts(&mut watcher), [0; 0]);
    submitter.timer(Duration::from_secs(1)).submit_with(3).unwrap();
    submitter.shutdown(Duration::ZERO);
    assert_eq!(world.go_on(MANY), Rest::Asleep(None), "it was accepted: the loop does not end without it");
    resume();
    assert_eq!(world.go_on(MANY), Rest::Over);
    let batch = watcher.try_wait().unwrap();
    let all: Vec<_> = batch
        .map(|event| match event {
            Event::Posted(n) | Event::Timer { context: n, .. } => n,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(all, [1, 2, 3], "in the order of the slots");
}

#[test]
fn a_loop_in_this_thread_goes_on_beside_a_push_that_stands_still() {
    let _world = World::enter();
    let (mut watcher, submitter) = EmbeddedWatcher::<u32>::new_for(Options::default()).unwrap();
    let resume = stalled_post(&submitter, 1);
    submitter.post(2).unwrap();
    assert_eq!(watcher.next_turn(), NextTurn::Now);
    assert!(
        matches!(watcher.turn(Some(Duration::ZERO)).unwrap().next(), Some(Event::Posted(2))),
        "it relies on nothing"
    );
    assert_eq!(watcher.turn(Some(Duration::ZERO)).unwrap().len(), 0);
    assert_eq!((watcher.next_turn(), watcher.is_readable()), (NextTurn::WhenReadable, false), "it may sleep");
    resume();
    assert!(watcher.is_readable());
    assert!(matches!(watcher.turn(None).unwrap().next(), Some(Event::Posted(1))));
    stall_next_push(|| panic!("nothing is pushed any more"));
    submitter.post(3).unwrap(); // by the local queue
    stall_no_push();
}
