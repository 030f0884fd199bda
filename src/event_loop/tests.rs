//! The loop alone, on the simulated system, with a face that does what it is told and notes down what it is asked.

use super::*;
use crate::event_loop::listener::Phase;
use crate::handoff::{Raiser, gate};
use crate::sys::Waker;
use crate::sys::sim::{Clock, Fault, Faults, Peer, World};

#[path = "accept_tests.rs"]
mod accepting;
#[path = "next_turn_tests.rs"]
mod next_turns;

const MILLISECOND: u64 = 1_000_000;
/// What a timer may be late by.
const TICK: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Woken,
    Step(u32),
    WindUp(u32),
    Accepted(usize),
    Dead(usize),
    Timer(Timer),
}

type Hook = Box<dyn FnOnce(&mut Core<u32, ()>)>;

/// Sessions are numbers.
struct Script {
    seen: Vec<Seen>,
    step: Step,
    wound_up: Step,
    full: bool,
    busy: bool,
    credit: usize,
    /// The session whose next step panics.
    trap: Option<u32>,
    /// What is done instead of taking up submissions.
    collect: Option<Hook>,
    /// What was said of the gate then.
    raised: Vec<bool>,
}

impl Face for Script {
    type Session = u32;
    type Tag = ();

    fn woken(&mut self) {
        self.seen.push(Seen::Woken);
    }

    fn collect(&mut self, core: &mut Core<u32, ()>, raised: bool) {
        self.raised.push(raised);
        if let Some(hook) = self.collect.take() {
            hook(core);
        }
    }

    fn step(&mut self, _: Key, session: &mut Session<u32>, _: &mut Timers) -> Step {
        self.seen.push(Seen::Step(session.state));
        assert_ne!(self.trap.take_if(|trap| *trap == session.state), Some(session.state), "on purpose");
        self.step
    }

    fn wind_up(&mut self, core: &mut Core<u32, ()>, key: Key) -> Step {
        self.seen.extend(core.sessions.get_mut(key).map(|session| Seen::WindUp(session.state)));
        self.wound_up
    }

    fn may_accept(&mut self) -> bool {
        self.credit > 0
    }

    fn accepted(&mut self, _: &mut Core<u32, ()>, listener: usize, _: Socket, _: Option<std::net::SocketAddr>) {
        self.credit -= 1;
        self.seen.push(Seen::Accepted(listener));
    }

    fn listener_dead(&mut self, core: &mut Core<u32, ()>, listener: usize, errno: Errno) {
        assert_eq!(errno, Errno::INVAL);
        core.remove_listener(listener);
        self.seen.push(Seen::Dead(listener));
    }

    fn timer(&mut self, _: &mut Core<u32, ()>, timer: Timer) {
        self.seen.push(Seen::Timer(timer));
    }

    fn full(&mut self) -> bool {
        self.full
    }

    fn publish(&mut self, _: &mut Core<u32, ()>) -> bool {
        false
    }

    fn busy(&mut self) -> bool {
        self.busy
    }
}

struct Bed {
    world: World,
    event_loop: EventLoop<Script>,
    raiser: Raiser,
    waker: Waker,
    sessions: u32,
}

fn bed_with(limits: Limits) -> Bed {
    let world = World::enter();
    world.configure(|config| (config.clock, config.alone) = (Clock::Patient, true));
    let selector = Selector::new().unwrap();
    let waker = Waker::new(&selector, WAKER).unwrap();
    let core = Core::new(selector, limits, Arc::default()).unwrap();
    let (raiser, keeper) = gate();
    let face = Script {
        seen: Vec::new(),
        step: Step::Idle,
        wound_up: Step::Idle,
        full: false,
        busy: false,
        credit: usize::MAX,
        trap: None,
        collect: None,
        raised: Vec::new(),
    };
    Bed { world, event_loop: EventLoop::new(core, face, keeper), raiser, waker, sessions: 0 }
}

fn bed() -> Bed {
    bed_with(Limits::default())
}

impl Bed {
    fn core(&mut self) -> &mut Core<u32, ()> {
        &mut self.event_loop.core
    }

    fn face(&mut self) -> &mut Script {
        &mut self.event_loop.face
    }

    fn session(&mut self) -> (Key, Peer) {
        let (socket, peer) = self.world.pair();
        let Ok(key) = self.event_loop.core.register(Session::new(socket, false, self.sessions)) else { panic!() };
        self.sessions += 1;
        (key, peer)
    }

    /// So many sessions, whose first edges have been told.
    fn sessions<const N: usize>(&mut self) -> [(Key, Peer); N] {
        let all = [(); N].map(|()| self.session());
        assert_eq!(self.turn(), steps(0..self.sessions));
        all
    }

    fn listening(&mut self, socket: Socket) {
        let listening = Listening { socket, phase: Phase::Ready, unix: false, tag: () };
        assert!(self.core().add_listener(listening).is_ok());
    }

    /// A turn that does not sleep.
    fn turn(&mut self) -> Vec<Seen> {
        self.event_loop.park(Some(0)).unwrap();
        self.pass()
    }

    fn pass(&mut self) -> Vec<Seen> {
        self.event_loop.pass();
        std::mem::take(&mut self.event_loop.face.seen)
    }

    /// Sleeps; says until when.
    fn sleep(&mut self, until: Option<u64>) -> u64 {
        self.event_loop.park(until).unwrap();
        sys::now()
    }

    fn is_busy(&mut self) -> bool {
        self.event_loop.is_busy()
    }
}

fn steps(numbers: impl IntoIterator<Item = u32>) -> Vec<Seen> {
    numbers.into_iter().map(Seen::Step).collect()
}

// --- the ready list ----------------------------------------------------------------------------------------------

#[test]
fn everyone_on_the_ready_list_is_served_once_a_turn() {
    let mut bed = bed();
    let all = bed.sessions::<3>();
    assert!(!bed.is_busy() && !bed.core().others_wait());
    bed.face().step = Step::Again;
    for (key, _) in all.iter().rev().chain(&all) {
        bed.core().enqueue(*key);
    }
    assert!(bed.is_busy() && bed.core().others_wait());
    for _ in 0..3 {
        assert_eq!(bed.turn(), steps([2, 1, 0]));
    }
    bed.face().step = Step::Idle;
    assert_eq!(bed.turn(), steps([2, 1, 0]));
    assert_eq!(bed.turn(), []);
    assert!(!bed.is_busy());
}

#[test]
fn an_event_goes_behind_those_that_wait_and_one_of_theirs_has_its_turn_already() {
    let mut bed = bed();
    let [(one, peer), (_, other)] = bed.sessions();
    bed.core().enqueue(one);
    peer.send(b"x").unwrap();
    other.send(b"x").unwrap();
    assert_eq!(bed.turn(), steps([0, 1]), "once each");
    assert!(bed.core().sessions.get_mut(one).unwrap().readable(), "it was noted all the same");
    bed.face().step = Step::Again;
    peer.send(b"x").unwrap();
    assert_eq!(bed.turn(), steps([0, 0]), "by the event, and behind the others once more");
    bed.face().step = Step::Idle;
    assert_eq!(bed.turn(), steps([0]));
    assert_eq!(bed.turn(), []);
}

/// I10: it is not work, and nothing is lost meanwhile.
#[test]
fn with_the_output_full_nobody_is_served_and_nobody_forgotten() {
    let mut bed = bed();
    let [(one, _peer), (_, other)] = bed.sessions();
    bed.core().enqueue(one);
    other.send(b"x").unwrap();
    bed.face().full = true;
    assert!(!bed.is_busy());
    for _ in 0..3 {
        assert_eq!(bed.turn(), []);
    }
    assert!(!bed.is_busy(), "it would spin");
    assert_eq!(bed.sleep(Some(MILLISECOND)), MILLISECOND, "it sleeps");
    bed.face().full = false;
    assert!(bed.is_busy());
    assert_eq!(bed.turn(), steps([0, 1]));
    bed.face().busy = true;
    assert!(bed.is_busy());
}

#[test]
fn an_end_is_the_faces_to_wind_up() {
    let mut bed = bed();
    let [(key, peer)] = bed.sessions();
    (bed.face().step, bed.face().wound_up) = (Step::Ending, Step::Again);
    peer.send(b"x").unwrap();
    let both = [Seen::Step(0), Seen::WindUp(0)];
    assert_eq!(bed.turn(), [both, both].concat(), "by the event, and from the list");
    bed.face().wound_up = Step::Idle;
    assert_eq!(bed.turn(), both);
    assert_eq!(bed.turn(), []);
    bed.core().enqueue(key);
    drop(bed.core().retire(key));
    assert_eq!(bed.turn(), [], "who is gone is passed over");
}

// --- names -------------------------------------------------------------------------------------------------------

/// I6: in its own turn nobody has the place of a session that has ended, and its events are nobody's.
#[test]
fn events_of_the_dead_are_nobodys() {
    let mut bed = bed();
    let [(one, peer), (other, _peer)] = bed.sessions();
    peer.send(b"x").unwrap();
    bed.event_loop.park(Some(0)).unwrap();
    assert!(bed.core().retire(one).is_some());
    assert!(bed.core().retire(one).is_none());
    let (third, _third_peer) = bed.session();
    assert!(third.index != one.index && third.index != other.index);
    assert_eq!(bed.pass(), []);
    assert_eq!(bed.turn(), steps([2]), "its first edge");
    let (fourth, _fourth_peer) = bed.session();
    assert_eq!(fourth.index, one.index);
    assert!(bed.core().sessions.get_mut(one).is_none());
    peer.send(b"x").unwrap_err();
    assert_eq!(bed.turn(), steps([3]), "its first edge");
}

#[test]
fn what_the_system_does_not_register_comes_back() {
    let mut bed = bed();
    let before = bed.world.open_descriptors();
    bed.world.configure(|config| config.faults = Faults::seeded(1).with(Fault::NotRegistered, 1024));
    let (socket, _peer) = bed.world.pair();
    let Err((session, errno)) = bed.core().register(Session::new(socket, false, 7)) else { panic!() };
    assert_eq!((session.state, errno), (7, Errno::NOMEM));
    assert!(bed.core().sessions.is_empty());
    let listening = Listening { socket: bed.world.listener().0, phase: Phase::Ready, unix: false, tag: () };
    assert!(bed.core().add_listener(listening).is_err());
    drop(session);
    assert!(bed.core().listeners.is_empty());
    assert_eq!(bed.world.open_descriptors(), before);
}

// --- time, wake-ups ----------------------------------------------------------------------------------------------

#[test]
fn it_sleeps_to_the_earliest_instant() {
    let mut bed = bed();
    assert_eq!(bed.sleep(Some(5 * MILLISECOND)), 5 * MILLISECOND);
    assert_eq!(bed.pass(), []);
    bed.core().timers.arm(8 * TICK, Timer::Grace);
    bed.core().timers.arm(10 * TICK, Timer::Close(1));
    assert_eq!(bed.sleep(Some(7 * TICK)), 7 * TICK);
    assert_eq!(bed.pass(), [], "nothing is early");
    assert_eq!(bed.sleep(None), 8 * TICK);
    assert_eq!(bed.pass(), [Seen::Timer(Timer::Grace)]);
    let mut armed = bed.core().timers.arm(9 * TICK, Timer::Grace);
    bed.core().timers.disarm(&mut armed);
    assert_eq!(bed.sleep(None), 10 * TICK);
    assert_eq!(bed.pass(), [Seen::Timer(Timer::Close(1))]);
    bed.face().busy = true;
    assert_eq!(bed.sleep(Some(20 * TICK)), 10 * TICK, "not while there is work");
    let snapshot = bed.core().counters().snapshot(0);
    assert_eq!((snapshot.turns, snapshot.polls), (4, 5));
}

#[test]
fn of_many_timers_a_turn_tells_so_many_and_the_next_does_not_sleep() {
    let mut bed = bed();
    let all = EXPIRIES_PER_TURN + 3;
    for i in 0..all {
        bed.core().timers.arm(TICK, Timer::Op(i));
    }
    let now = bed.sleep(None);
    let first = bed.pass();
    assert_eq!(first.len(), EXPIRIES_PER_TURN as usize);
    assert_eq!(bed.sleep(None), now);
    let second = bed.pass();
    let expected: Vec<_> = (0..all).map(|i| Seen::Timer(Timer::Op(i))).collect();
    assert_eq!([first, second].concat(), expected);
}

#[test]
fn a_send_that_found_no_memory_is_tried_again_in_a_moment() {
    let mut bed = bed();
    let [(key, _peer)] = bed.sessions();
    let Core { sessions, timers, .. } = bed.core();
    let session = sessions.get_mut(key).unwrap();
    assert!(session.writable());
    session.retry_soon(key.token(), timers);
    assert!(!session.writable());
    let (gone, _other) = bed.session();
    bed.core().timers.arm(5 * MILLISECOND, Timer::Retry(gone.token()));
    assert_eq!(bed.turn(), steps([1]));
    drop(bed.core().retire(gone));
    assert!(bed.sleep(None) >= 5 * MILLISECOND);
    assert_eq!(bed.pass(), []);
    assert!(bed.is_busy() && bed.core().sessions.get_mut(key).unwrap().writable());
    assert_eq!(bed.turn(), steps([0]));
}

#[test]
fn a_raise_within_the_turn_is_owed_another_look() {
    let mut bed = bed();
    assert!(bed.raiser.raise(), "it sleeps");
    assert_eq!(bed.pass(), []);
    assert!(!bed.event_loop.owed, "this was the turn for that");
    let raiser = bed.raiser.clone();
    bed.face().collect = Some(Box::new(move |_| assert!(!raiser.raise(), "it is awake")));
    assert_eq!(bed.turn(), []);
    assert!(bed.event_loop.owed && bed.raiser.raise());
    let turn = bed.core().turn();
    assert_eq!(bed.sleep(Some(MILLISECOND)), 0, "a look");
    bed.pass();
    assert!(!bed.event_loop.owed && bed.core().turn() != turn);
    assert_eq!(bed.sleep(Some(MILLISECOND)), MILLISECOND);
    bed.waker.wake();
    assert_eq!(bed.turn(), [Seen::Woken]);
}

/// A panic of the user's cuts a turn short: what was fetched and not told is told in the next, and nothing twice.
#[test]
fn events_behind_a_panic_are_told_in_the_next_turn() {
    let mut bed = bed();
    let all = bed.sessions::<3>();
    for (_, peer) in &all {
        peer.send(b"x").unwrap();
    }
    bed.face().trap = Some(1);
    bed.event_loop.park(Some(0)).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bed.event_loop.pass()));
    assert!(caught.is_err() && bed.event_loop.owed, "the gate is open: a raise writes no waker");
    assert_eq!(std::mem::take(&mut bed.face().seen), steps([0, 1]));
    all[0].1.send(b"x").unwrap();
    assert_eq!(bed.turn(), steps([2]));
    assert_eq!(bed.turn(), steps([0]));
}
