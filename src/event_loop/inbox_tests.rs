//! Tests of the way in, on the simulated system: room, order, and what is left at the end.

use super::*;
use crate::handoff::{gate, ring};
use crate::sync::stall;
use crate::sync::thread;
use crate::sys::Selector;
use crate::sys::sim::World;
use std::sync::mpsc::channel;

const WAKER: u64 = 7;

struct Bed {
    world: World,
    _selector: Selector,
    inbox: std::sync::Arc<Inbox<u32>>,
    intake: Intake<u32>,
}

/// With room for two.
fn bed() -> Bed {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let waker = Waker::new(&selector, WAKER).unwrap();
    let ((producer, consumer), (raiser, _keeper)) = (ring(2), gate());
    let inbox = std::sync::Arc::new(Inbox::new(producer, raiser, waker, Arc::default()));
    Bed { world, _selector: selector, inbox, intake: Intake::new(consumer) }
}

impl Bed {
    /// From another thread, which is done when this returns.
    fn foreign(&self, numbers: impl IntoIterator<Item = u32>) {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        self.aside(|inbox| numbers.into_iter().for_each(|n| inbox.submit(n, Patience::None).unwrap()));
    }

    fn aside<R: Send>(&self, act: impl FnOnce(&Inbox<u32>) -> R + Send) -> R {
        let (inbox, world) = (&*self.inbox, &self.world);
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                world.join();
                act(inbox)
            });
            there.join().unwrap()
        })
    }

    /// Starts a submission that waits for room; it is asleep, or about to be, when this returns.
    fn parked(&self, n: u32, patience: Patience) -> thread::JoinHandle<Result<(), (SubmitErrorKind, u32)>> {
        let (inbox, world) = (self.inbox.clone(), self.world.clone());
        let waiting = thread::spawn(move || {
            world.join();
            inbox.submit(n, patience)
        });
        while self.inbox.room.waiting.load(Ordering::Relaxed) == 0 && !waiting.is_finished() {
            thread::yield_now();
        }
        waiting
    }

    /// A whole drain.
    fn drain(&mut self) -> Vec<u32> {
        self.intake.begin(&self.inbox);
        let all = std::iter::from_fn(|| self.intake.next(|_| true)).collect();
        self.intake.end(&self.inbox);
        all
    }
}

#[test]
fn whoever_waits_for_room_has_it_once_the_ring_is_drained() {
    for patience in [Patience::Forever, Patience::For(Duration::MAX)] {
        let mut bed = bed();
        bed.foreign([1, 2]);
        let waiting = bed.parked(3, patience);
        assert_eq!(bed.drain(), [1, 2]);
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert_eq!(bed.drain(), [3]);
    }
}

/// A panic of the user's may cut a drain short: who waits is told as the next begins.
#[test]
fn a_drain_that_was_cut_short_has_made_room_all_the_same() {
    let mut bed = bed();
    bed.foreign([1, 2]);
    let waiting = bed.parked(3, Patience::Forever);
    bed.intake.begin(&bed.inbox);
    assert_eq!(bed.intake.next(|_| true), Some(1));
    bed.intake.begin(&bed.inbox);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(bed.drain(), [2, 3]);
}

#[test]
fn whoever_waits_for_room_is_told_of_the_end() {
    let bed = bed();
    bed.foreign([1, 2]);
    let waiting = bed.parked(3, Patience::Forever);
    bed.inbox.shut_down(Duration::ZERO);
    assert_eq!(waiting.join().unwrap(), Err((SubmitErrorKind::Closed, 3)));
}

#[test]
fn without_room_a_submission_comes_back_when_its_patience_is_over() {
    let bed = bed();
    bed.foreign([1, 2]);
    for patience in [Patience::None, Patience::For(Duration::ZERO)] {
        assert_eq!(bed.aside(|inbox| inbox.submit(3, patience)), Err((SubmitErrorKind::Full, 3)));
    }
    // A thread that is a loop's does not wait, whichever loop's it is.
    let on_a_loops = bed.aside(|inbox| {
        let other = ThreadBound::new(());
        other.bind();
        inbox.submit(3, Patience::Forever)
    });
    assert_eq!(on_a_loops, Err((SubmitErrorKind::Full, 3)));
}

/// G2: a submission of the loop's own thread goes behind those that were in the ring before it, and before those that came
/// later.
#[test]
fn the_own_submissions_have_their_place_among_the_others() {
    let mut bed = bed();
    bed.inbox.local.bind();
    for n in [1, 3] {
        bed.foreign([n]);
        bed.inbox.submit(n + 1, Patience::None).unwrap();
    }
    assert_eq!(bed.drain(), [1, 2, 3, 4]);
    bed.inbox.submit(5, Patience::None).unwrap();
    bed.foreign([6]);
    assert_eq!(bed.drain(), [5, 6]);
    bed.inbox.local.unbind();
}

#[test]
fn behind_a_push_that_stands_still_wait_those_that_rely_on_it() {
    let mut bed = bed();
    bed.inbox.local.bind();
    let ((stands, standing), (go_on, told_to)) = (channel(), channel::<()>());
    let (inbox, world) = (bed.inbox.clone(), bed.world.clone());
    let pushing = thread::spawn(move || {
        world.join();
        stall::stall_next_push(move || {
            stands.send(()).unwrap();
            told_to.recv().unwrap();
        });
        inbox.submit(1, Patience::None).unwrap();
    });
    standing.recv().unwrap();
    bed.inbox.submit(2, Patience::None).unwrap();
    bed.inbox.submit(3, Patience::None).unwrap();
    bed.intake.begin(&bed.inbox);
    let mut next = || bed.intake.next(|n| *n == 3);
    assert_eq!((next(), next(), next()), (Some(2), None, None));
    assert!(!bed.intake.has_no_local(), "it is taken up, and not handed out");
    bed.intake.end(&bed.inbox);
    go_on.send(()).unwrap();
    pushing.join().unwrap();
    assert_eq!(bed.drain(), [1, 3]);
    assert!(bed.intake.has_no_local());
    bed.inbox.local.unbind();
}

#[test]
fn at_the_end_whatever_is_left_is_found_wherever_it_is() {
    let mut bed = bed();
    bed.inbox.local.bind();
    bed.foreign([1]);
    bed.inbox.submit(2, Patience::None).unwrap();
    assert!(bed.inbox.has_local());
    bed.intake.begin(&bed.inbox);
    assert!(!bed.inbox.has_local());
    bed.inbox.shut_down(Duration::ZERO);
    assert_eq!(bed.inbox.submit(9, Patience::None), Err((SubmitErrorKind::Closed, 9)));
    bed.inbox.submit_inside(3).unwrap();
    assert!(!bed.intake.is_finished());
    let mut left: Vec<u32> = std::iter::from_fn(|| bed.intake.take_any(&bed.inbox)).collect();
    left.sort_unstable();
    assert_eq!(left, [1, 2, 3]);
    assert!(bed.intake.is_finished() && bed.intake.has_no_local());
    bed.inbox.local.unbind();
}
