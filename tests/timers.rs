//! Timers of one's own: each completes once, in order, never early, and counts as in flight until it is taken.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gaio::{EmbeddedWatcher, OpError, SubmitErrorKind, Watcher};
use support::{Drive, LONG, Net, Rig, Taken, both_drives, check, doze, until};

const SOON: Duration = Duration::from_millis(20);

impl<D: Drive> Rig<D> {
    /// The next event, which is a timer's.
    #[track_caller]
    fn timer(&mut self) -> (u64, Result<(), OpError>) {
        match self.next() {
            Taken::Timer(context, result) => (context, result),
            other => panic!("not a timer: {other:?}"),
        }
    }

    #[track_caller]
    fn rings(&mut self) -> u64 {
        let (context, result) = self.timer();
        assert!(result.is_ok(), "{context}: {result:?}");
        context
    }

    #[track_caller]
    fn cancelled(&mut self) -> u64 {
        let (context, result) = self.timer();
        assert!(matches!(result, Err(OpError::Cancelled)), "{context}: {result:?}");
        context
    }
}

fn the_earlier_one_goes_first<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let begun = Instant::now();
    for context in [3, 1, 2] {
        let time = SOON * 10 * u32::try_from(context).unwrap();
        rig.submitter.timer_at(begun + time).submit_with(context).unwrap();
    }
    for expected in [1, 2, 3] {
        assert_eq!(rig.rings(), expected);
        assert!(begun.elapsed() >= SOON * 10 * u32::try_from(expected).unwrap(), "early");
    }
    rig.assert_quiet();
    assert_eq!((rig.counters().expired, rig.submitter.load()), (3, 0));
}

fn those_of_one_instant_go_in_the_order_of_their_submission<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let instant = Instant::now() + SOON;
    for context in 0..1_000 {
        rig.submitter.timer_at(instant).submit_with(context).unwrap();
    }
    for expected in 0..1_000 {
        assert_eq!(rig.rings(), expected);
        assert!(Instant::now() >= instant, "early");
    }
}

fn in_the_past<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let past = Instant::now();
    thread::sleep(SOON);
    rig.submitter.timer_at(past).submit_with(1).unwrap();
    rig.submitter.timer_at(past).submit_with(2).unwrap();
    rig.submitter.timer(Duration::ZERO).submit_with(3).unwrap();
    for expected in 1..=3 {
        assert_eq!(rig.rings(), expected);
    }
}

fn in_the_far_future<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let times = [LONG, Duration::from_millis(1 << 31), Duration::from_millis(1 << 33), LONG * 1_000_000, Duration::MAX];
    let mut ids = Vec::new();
    for (context, time) in (0..).zip(times) {
        let (timer, id) = rig.submitter.timer(time).named();
        timer.submit_with(context).unwrap();
        ids.push(id);
    }
    rig.assert_quiet();
    let before = rig.counters().polls;
    doze();
    assert!(rig.counters().polls <= before + 12, "a far instant keeps the loop awake");
    rig.assert_quiet();
    for (expected, id) in (0..).zip(ids) {
        rig.submitter.cancel_timer(id).unwrap();
        assert_eq!(rig.cancelled(), expected);
    }
}

fn cancelled_before_its_time_or_too_late<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (second, second_id) = rig.submitter.timer(LONG).named();
    second.submit_with(2).unwrap();
    rig.submitter.cancel_timer(second_id).unwrap();
    rig.submitter.cancel_timer(second_id).unwrap();
    assert_eq!(rig.cancelled(), 2);
    let (first, first_id) = rig.submitter.timer(SOON).named();
    assert_ne!(first_id, second_id);
    first.submit_with(1).unwrap();
    rig.submitter.timer(SOON * 2).submit_with(3).unwrap();
    assert_eq!((rig.rings(), rig.rings()), (1, 3));
    rig.submitter.cancel_timer(first_id).unwrap();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 2);
    // A name that was never submitted under.
    let (never, id) = rig.submitter.timer(SOON).named();
    drop(never);
    rig.submitter.cancel_timer(id).unwrap();
    rig.assert_quiet();
    assert_eq!(rig.counters().cancels_missed, 3);
}

fn cancelled_by_another_thread_right_after_the_submit<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ring_slots = 8);
    let rounds = 300;
    thread::scope(|scope| {
        for thread in 0..2 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for round in 0..rounds {
                    let (timer, id) = submitter.timer(LONG).named();
                    timer.submit_with(thread * rounds + round).unwrap();
                    submitter.cancel_timer(id).unwrap();
                }
            });
        }
        let mut seen: Vec<u64> = (0..2 * rounds).map(|_| rig.cancelled()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..2 * rounds));
    });
    assert_eq!(rig.counters().cancels_missed, 0, "each of them is found");
}

fn a_new_earliest_one_wakes_a_sleeping_loop<D: Drive>() {
    let mut rig = Rig::<D>::new();
    rig.submitter.timer(LONG).submit_with(1).unwrap();
    rig.assert_quiet();
    thread::scope(|scope| {
        let submitter = rig.submitter.clone();
        scope.spawn(move || {
            for context in [2, 3] {
                doze();
                submitter.timer(SOON).submit_with(context).unwrap();
            }
        });
        assert_eq!((rig.rings(), rig.rings()), (2, 3));
    });
}

/// G1: each once, cancelled or not, from several threads, more than expire in one turn.
fn very_many<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (threads, each) = (4, 10_000);
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for i in 0..each {
                    let time = SOON + Duration::from_micros(i * 7_919 % 100_000);
                    let (timer, id) = submitter.timer(time).named();
                    timer.submit_with(thread * each + i).unwrap();
                    if i % 2 == 0 {
                        submitter.cancel_timer(id).unwrap();
                    }
                }
            });
        }
        let mut seen = HashMap::new();
        for _ in 0..threads * each {
            let (context, result) = rig.timer();
            assert!(seen.insert(context, result.is_ok()).is_none(), "twice");
            match result {
                Ok(()) => assert!(begun.elapsed() >= SOON + Duration::from_micros(context % each * 7_919 % 100_000)),
                Err(error) => assert!(context % 2 == 0 && matches!(error, OpError::Cancelled), "{error:?}"),
            }
        }
        assert!(seen.iter().all(|(context, rang)| *rang || context % 2 == 0));
    });
    rig.assert_quiet();
    assert_eq!(rig.submitter.load(), 0);
}

/// G3: what waits for the consumer is bounded; what is refused comes back.
fn they_count_as_in_flight<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.ops = 4);
    let mut ids = Vec::new();
    for context in 0..4 {
        let (timer, id) = rig.submitter.timer(LONG).named();
        timer.submit_with(context).unwrap();
        ids.push(id);
    }
    assert_eq!(rig.submitter.load(), 4);
    let refused = rig.submitter.timer(LONG).submit_with(77).unwrap_err();
    assert!(refused.kind == SubmitErrorKind::TooMany && refused.context == 77 && refused.buffer.is_none());
    let (conn, _peer) = rig.connect(Net::Unix);
    assert_eq!(conn.read_leased().submit_with(78).unwrap_err().kind, SubmitErrorKind::TooMany);
    // A cancel is always let through, and its completion makes room when it is taken.
    rig.submitter.cancel_timer(ids[2]).unwrap();
    assert_eq!(rig.cancelled(), 2);
    rig.submitter.timer(SOON).submit_with(4).unwrap();
    assert_eq!(rig.rings(), 4);
    assert_eq!(rig.submitter.load(), 3);
}

/// They are not waited for, whatever the grace.
fn shutdown_aborts_them<D: Drive>() {
    let mut rig = Rig::<D>::new();
    for context in 0..3 {
        rig.submitter.timer(LONG).submit_with(context).unwrap();
    }
    let (timer, id) = rig.submitter.timer(LONG).named();
    timer.submit_with(3).unwrap();
    rig.submitter.shutdown(LONG);
    let refused = rig.submitter.timer(SOON).submit_with(9).unwrap_err();
    assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 9));
    assert_eq!(rig.submitter.cancel_timer(id), Err(SubmitErrorKind::Closed));
    let mut seen: Vec<u64> = Vec::new();
    for taken in rig.rest() {
        let Taken::Timer(context, Err(OpError::Aborted)) = taken else { panic!("{taken:?}") };
        seen.push(context);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(rig.submitter.load(), 0);
}

/// In a shutdown's grace, while a write goes on, they ring as ever.
fn during_the_grace_of_a_shutdown<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, _peer) = rig.connect(Net::Tcp);
    conn.write(vec![7; 16 << 20]).submit_with(1).unwrap();
    rig.submitter.timer(SOON).submit_with(2).unwrap();
    rig.submitter.timer(LONG).submit_with(3).unwrap();
    rig.submitter.shutdown(SOON * 10);
    let rest = rig.rest();
    assert!(
        matches!(&rest[..], [Taken::Timer(2, Ok(())), Taken::Done(_, 1, _), Taken::Timer(3, Err(OpError::Aborted))]),
        "{rest:?}"
    );
}

both_drives!(
    the_earlier_one_goes_first,
    those_of_one_instant_go_in_the_order_of_their_submission,
    in_the_past,
    in_the_far_future,
    cancelled_before_its_time_or_too_late,
    cancelled_by_another_thread_right_after_the_submit,
    a_new_earliest_one_wakes_a_sleeping_loop,
    very_many,
    they_count_as_in_flight,
    shutdown_aborts_them,
    during_the_grace_of_a_shutdown,
);

/// A context that is counted when it goes.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// G7: the drop of a watcher drops each context once, of timers that are pending, that rang, and that are on their way.
#[test]
fn a_watcher_that_goes_drops_each_context_once() {
    fn run<D: Drive<Counted>>() {
        let mut rig = Rig::<D, Counted>::new();
        let gone = Arc::new(AtomicUsize::new(0));
        for i in 0..100 {
            let time = if i % 2 == 0 { LONG } else { SOON };
            rig.submitter.timer(time).submit_with(Counted(gone.clone())).unwrap();
        }
        for _ in 0..10 {
            rig.next();
        }
        if D::SPAWNED {
            until(|| rig.counters().expired == 50);
        }
        rig.submitter.timer(SOON).submit_with(Counted(gone.clone())).unwrap();
        drop(rig);
        assert_eq!(gone.load(Ordering::Relaxed), 101);
    }
    check(run::<Watcher<Counted>>);
    check(run::<EmbeddedWatcher<Counted>>);
}
