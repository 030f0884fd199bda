//! One seed's run: a world with faults, a loop in it, and random things done to both; then a calm in which everything that
//! can come to an end must, and the end itself.

use std::time::Duration;

use gaio::sim::{Config, Dice, World};
use gaio::{EmbeddedWatcher, Limits, Options, WaitError};

use crate::floor::Floor;
use crate::foreign::Foreign;
use crate::model::{Ticket, Verb};
use crate::ops::{self, Body, Spec};
use crate::seeds;

const HOUR: Duration = Duration::from_secs(3_600);

/// The things that may be done, and how often each is tried, before a seed changes that.
#[derive(Clone, Copy, Debug)]
enum Act {
    Delegate,
    DelegateAgain,
    Listen,
    DropListener,
    Knock,
    PeerSends,
    PeerReceives,
    PeerMarks,
    PeerEnds,
    PeerCloses,
    PeerResets,
    Read,
    Write,
    ShutDownWrite,
    Close,
    Release,
    Abort,
    IntoFd,
    CloneHandle,
    DropHandle,
    Cancel,
    Timer,
    CancelTimer,
    Connect,
    Answer,
    CancelConnect,
    Post,
    PostAndWait,
    Turn,
    PartOfATurn,
    Sleep,
    Advance,
    Lull,
    Shutdown,
}

const ACTS: [(Act, usize); 34] = [
    (Act::Delegate, 8),
    (Act::DelegateAgain, 4),
    (Act::Listen, 2),
    (Act::DropListener, 1),
    (Act::Knock, 6),
    (Act::PeerSends, 30),
    (Act::PeerReceives, 30),
    (Act::PeerMarks, 3),
    (Act::PeerEnds, 2),
    (Act::PeerCloses, 2),
    (Act::PeerResets, 1),
    (Act::Read, 40),
    (Act::Write, 30),
    (Act::ShutDownWrite, 2),
    (Act::Close, 3),
    (Act::Release, 2),
    (Act::Abort, 1),
    (Act::IntoFd, 2),
    (Act::CloneHandle, 4),
    (Act::DropHandle, 4),
    (Act::Cancel, 6),
    (Act::Timer, 4),
    (Act::CancelTimer, 2),
    (Act::Connect, 8),
    (Act::Answer, 8),
    (Act::CancelConnect, 2),
    (Act::Post, 4),
    (Act::PostAndWait, 1),
    (Act::Turn, 40),
    (Act::PartOfATurn, 10),
    (Act::Sleep, 4),
    (Act::Advance, 8),
    (Act::Lull, 1),
    (Act::Shutdown, 1),
];

pub(crate) struct Swarm<'f> {
    pub(crate) floor: Floor,
    watcher: Option<EmbeddedWatcher<Ticket>>,
    /// The last batch was left before its end.
    left: bool,
    over: bool,
    foreign: Option<&'f Foreign>,
    /// How much may be in one operation.
    most: usize,
    weights: Vec<usize>,
}

fn random_limits(dice: &mut Dice) -> Limits {
    let mut limits = Limits::default();
    (limits.ring_slots, limits.arena, limits.read_cap) = (64, 4_096, 4_096);
    limits.close_within = Duration::from_millis(dice.roll(3_000) as u64);
    let small = |dice: &mut Dice| dice.roll(4) == 0;
    if small(dice) {
        limits.sessions = 1 + dice.roll(8);
    }
    if small(dice) {
        limits.ops_per_conn = 1 + dice.roll(8) as u32;
    }
    if small(dice) {
        limits.ops = 1 + dice.roll(40);
    }
    if small(dice) {
        limits.write_bytes = 1 + dice.roll(1_000) as u64;
    }
    if small(dice) {
        limits.ring_slots = 2 + dice.roll(6);
    }
    if small(dice) {
        limits.batch = 1 + dice.roll(8);
    }
    if small(dice) {
        limits.batch_bytes = 1 + dice.roll(100);
    }
    if small(dice) {
        (limits.arena, limits.read_cap) = (1 + dice.roll(100), 1 + dice.roll(100));
    }
    if small(dice) {
        limits.bytes_per_turn = 1 + dice.roll(100);
    }
    if small(dice) {
        limits.ops_per_turn = 1 + dice.roll(4) as u32;
    }
    if small(dice) {
        (limits.accepts_per_turn, limits.listen_credit) = (1 + dice.roll(3) as u32, 1 + dice.roll(3));
    }
    if small(dice) {
        limits.close_drain = dice.roll(3_000);
    }
    limits
}

impl<'f> Swarm<'f> {
    pub(crate) fn new(seed: u64, foreign: &'f Foreign) -> Self {
        let mut dice = Dice::new(seed);
        let buffer = if dice.roll(2) == 0 { 1 + dice.roll(100) } else { 4_096 + dice.roll(60_000) };
        let pending_first = dice.roll(6) == 0;
        let faults = seeds::random_faults(&mut dice);
        let world = World::enter();
        let mut config = Config::default();
        (config.buffer, config.pending_first, config.alone) = (buffer, pending_first, true);
        let limits = random_limits(&mut dice);
        let options = Options::default().limits(limits.clone());
        let (watcher, submitter) = EmbeddedWatcher::new_for(options).expect("good limits, and descriptors");
        config.faults = faults;
        world.configure(|own| *own = config);
        let for_world = world.clone();
        foreign.run(move || for_world.join());
        let foreign = (dice.roll(2) == 0).then_some(foreign);
        let most = if dice.roll(4) == 0 { 10_000 } else { 60 };
        let weights = ACTS.map(|(_, weight)| weight * [0, 1, 1, 1, 3][dice.roll(5)]).to_vec();
        let floor = Floor::new(world, submitter, limits, dice);
        Self { floor, watcher: Some(watcher), left: false, over: false, foreign, most, weights }
    }

    /// All of it. Panics if something is not as it must be.
    pub(crate) fn run(&mut self) {
        for _ in 0..3 {
            self.floor.delegate(false, 0);
        }
        let steps = 20 + self.floor.dice.roll(200);
        for _ in 0..steps {
            if self.over {
                break;
            }
            self.step();
        }
        if !self.over && self.floor.dice.roll(4) > 0 {
            self.calm_down();
        }
        self.end();
    }

    // --- the script ---

    fn step(&mut self) {
        let all: usize = self.weights.iter().sum::<usize>() + 1;
        let mut at = self.floor.dice.roll(all);
        for (n, (act, _)) in ACTS.iter().enumerate() {
            if at < self.weights[n] {
                return self.act(*act);
            }
            at -= self.weights[n];
        }
        self.turn(Duration::ZERO, usize::MAX);
    }

    fn act(&mut self, act: Act) {
        let line = self.some_line();
        let foreign = self.foreign.filter(|_| self.floor.dice.roll(3) == 0);
        let most = self.most;
        let floor = &mut self.floor;
        floor.say(|| format!("{act:?}, line {line}"));
        match act {
            Act::Delegate => {
                let leftover = if floor.dice.roll(4) == 0 { floor.dice.roll(50) } else { 0 };
                let unix = floor.dice.roll(3) == 0;
                floor.delegate(unix, leftover);
            }
            Act::DelegateAgain => floor.delegate_again(line),
            Act::Listen if floor.doors.len() < 3 => floor.listen(),
            Act::Listen => {}
            Act::DropListener | Act::Knock if floor.doors.is_empty() => {}
            Act::DropListener => {
                let door = floor.dice.roll(floor.doors.len());
                floor.doors[door].handle = None;
            }
            Act::Knock => {
                let door = floor.dice.roll(floor.doors.len());
                floor.knock(door);
            }
            Act::Read => {
                let body = ops::random_read(&mut floor.dice, most);
                self.submit(line, body, foreign);
            }
            Act::Write => {
                let lease = if floor.dice.roll(3) == 0 { floor.leases.pop() } else { None };
                let body = ops::random_write(&mut floor.dice, most, lease);
                self.submit(line, body, foreign);
            }
            Act::ShutDownWrite => self.submit(line, Body::ShutDown, foreign),
            Act::Close => self.submit(line, Body::Close, foreign),
            Act::Release => self.submit(line, Body::Release, foreign),
            Act::Abort => self.submit(line, Body::Abort, foreign),
            Act::IntoFd => self.submit(line, Body::IntoFd, foreign),
            Act::CloneHandle => {
                if let Some(conn) = floor.lines[line].handles.first().cloned() {
                    floor.lines[line].handles.push(conn);
                }
            }
            Act::DropHandle => match (floor.lines[line].handles.pop(), foreign) {
                (Some(conn), Some(foreign)) => foreign.run(move || drop(conn)),
                (conn, _) => drop(conn),
            },
            Act::Cancel => floor.cancel(),
            Act::Timer => {
                let time = Duration::from_micros(floor.dice.roll(20_000_000) as u64 >> floor.dice.roll(20));
                let named = floor.dice.roll(2) == 0;
                floor.timer(time, named);
            }
            Act::CancelTimer => floor.cancel_timer(),
            Act::Connect => floor.connect(foreign),
            Act::Answer => drop(floor.answer()),
            Act::CancelConnect => floor.cancel_connect(),
            Act::Post => floor.post(foreign),
            Act::PostAndWait => self.post_and_wait(foreign),
            Act::Turn => self.turn(Duration::ZERO, usize::MAX),
            Act::PartOfATurn => {
                let events = floor.dice.roll(4);
                self.turn(Duration::ZERO, events);
            }
            Act::Sleep => {
                let time = Duration::from_micros(floor.dice.roll(2_000_000) as u64 >> floor.dice.roll(20));
                self.turn(time, usize::MAX);
            }
            Act::Advance => {
                let time = Duration::from_micros(floor.dice.roll(2_000_000) as u64 >> floor.dice.roll(20));
                floor.world.advance(time);
            }
            Act::Lull => self.turns_until_quiet(),
            Act::Shutdown => {
                // In one run of a few.
                if floor.dice.roll(8) == 0 {
                    self.shut_down(foreign);
                }
            }
            _ => self.act_as_peer(act, line),
        }
    }

    fn act_as_peer(&mut self, act: Act, line: usize) {
        let (most, floor) = (self.most, &mut self.floor);
        let line = &mut floor.lines[line];
        match act {
            Act::PeerSends => line.peer_sends(1 + floor.dice.roll(most)),
            Act::PeerReceives => drop(line.peer_receives(1 + floor.dice.roll(most))),
            Act::PeerMarks => {
                let Some(peer) = &line.peer else { return };
                if !line.unix {
                    peer.send_urgent();
                } else {
                    let sent = peer.send_with_descriptor(&[crate::model::input(line.index, line.sent)]);
                    line.peer_has_sent(sent);
                }
            }
            Act::PeerEnds => {
                line.peer_ended |= line.peer.as_ref().is_some_and(|peer| peer.shutdown_write().is_ok());
            }
            Act::PeerCloses | Act::PeerResets => {
                let Some(peer) = line.peer.take() else { return };
                line.peer_gone = true;
                if matches!(act, Act::PeerResets) && !line.unix {
                    return peer.reset();
                }
                line.peer_ended = true;
                peer.close();
            }
            _ => unreachable!("{act:?} is not a peer's"),
        }
    }

    fn some_line(&mut self) -> usize {
        // Mostly one of the last.
        let lines = self.floor.lines.len();
        let dice = &mut self.floor.dice;
        let among = if dice.roll(4) == 0 { lines } else { lines.min(4) };
        let back = dice.roll(among);
        lines - 1 - back
    }

    fn submit(&mut self, line: usize, body: Body, foreign: Option<&Foreign>) {
        let dice = &mut self.floor.dice;
        let within = (dice.roll(4) == 0).then(|| Duration::from_micros(dice.roll(4_000_000) as u64 >> dice.roll(22)));
        let named = dice.roll(4) == 0;
        let handle = dice.roll(3);
        self.floor.submit(line, handle, Spec { body, within, named }, foreign);
    }

    /// What was posted must come, and nothing may have to happen for it.
    fn post_and_wait(&mut self, foreign: Option<&Foreign>) {
        if self.floor.shut_down {
            return;
        }
        self.floor.post(foreign);
        let mut turns = 0;
        while !self.floor.has_no_posts() {
            self.turn_for(None, usize::MAX);
            turns += 1;
            assert!(turns < 1_000, "a post does not come");
        }
    }

    fn shut_down(&mut self, foreign: Option<&Foreign>) {
        let grace = Duration::from_micros(self.floor.dice.roll(2_000_000) as u64 >> self.floor.dice.roll(22));
        let submitter = self.floor.submitter().clone();
        self.floor.shut_down = true;
        match foreign {
            Some(foreign) => foreign.run(move || submitter.shutdown(grace)),
            None => submitter.shutdown(grace),
        }
    }

    // --- turns ---

    fn turn(&mut self, time: Duration, most: usize) {
        self.turn_for(Some(time), most);
    }

    /// Takes a turn, and of its events so many.
    fn turn_for(&mut self, time: Option<Duration>, most: usize) {
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.turn(time) {
            Ok(mut batch) => {
                for _ in 0..most {
                    let Some(event) = batch.next() else { break };
                    self.floor.on_event(event);
                }
                self.left = batch.len() > 0;
            }
            Err(error) => {
                assert_eq!(error, WaitError::Closed);
                assert!(self.floor.shut_down, "closed, though nobody has asked for it");
                self.over = true;
            }
        }
        self.check_limits();
    }

    fn check_limits(&self) {
        let floor = &self.floor;
        let (load, outstanding) = (floor.submitter().load() as usize, floor.outstanding());
        let right = if self.left { load <= outstanding } else { load == outstanding };
        assert!(right, "{load} in flight, {outstanding} not completed");
        let endings = floor.ops.values().filter(|op| op.verb.ends()).count();
        assert!(load <= floor.limits.ops + endings, "{load} in flight");
        assert!(floor.submitter().counters().sessions as usize <= floor.limits.sessions);
    }

    /// Turns until two in a row bring nothing, without time passing.
    fn turns_until_quiet(&mut self) {
        let (mut quiet, mut turns) = (0, 0);
        while quiet < 3 && !self.over {
            let before = self.floor.events;
            self.turn(Duration::ZERO, usize::MAX);
            quiet = if self.floor.events == before { quiet + 1 } else { 0 };
            turns += 1;
            assert!(turns < 100_000, "turns without end");
        }
    }

    // --- the calm ---

    /// Nothing goes wrong any more, and all peers listen: what can be done is done, and nobody is forgotten.
    fn calm_down(&mut self) {
        self.floor.calm = true;
        self.floor.world.configure(|config| {
            config.faults.calm();
            config.pending_first = false;
        });
        let mut quiet = 0;
        while quiet < 3 && !self.over {
            let before = self.floor.events;
            self.turns_until_quiet();
            let mut heard = self.floor.answer();
            for line in &mut self.floor.lines {
                while line.peer_receives(4_096) {
                    heard = true;
                }
            }
            // Sends and accepts that failed are tried again after a while.
            self.turn(Duration::from_millis(50), usize::MAX);
            quiet = if self.floor.events == before && !heard { quiet + 1 } else { 0 };
        }
        if self.over {
            return;
        }
        self.check_that_all_are_served();
        let mut idle = 0;
        while idle < 2 && !self.over {
            let (events, polls) = (self.floor.events, self.polls());
            self.turn(HOUR, usize::MAX);
            idle = if self.floor.events == events { idle + 1 } else { 0 };
            assert!(idle < 2 || self.polls() <= polls + 2, "idle, it polled {} times", self.polls() - polls);
        }
        if !self.over {
            self.check_that_nothing_is_left();
        }
    }

    fn polls(&self) -> u64 {
        self.floor.submitter().counters().polls
    }

    /// Of what still waits: does it wait for a peer, or for an instant?
    fn check_that_all_are_served(&self) {
        let floor = &self.floor;
        for line in &floor.lines {
            let ops: Vec<_> = floor.ops.values().filter(|op| op.line == line.index).collect();
            for op in &ops {
                let right = match op.verb {
                    Verb::Close => true,
                    Verb::Read | Verb::Exact(_) | Verb::Pooled | Verb::Leased | Verb::Readable | Verb::Linked => {
                        line.may_wait(&ops)
                    }
                    Verb::Write | Verb::ShutDown | Verb::IntoFd | Verb::Release | Verb::Abort => false,
                };
                assert!(right, "line {} is forgotten: {op:?} waits, {line:?}", line.index);
            }
            let door = line.listener.map(|door| &floor.doors[door]);
            let open = !floor.shut_down && door.is_some_and(|door| !door.ended && door.handle.is_some());
            let waits = open && !line.accepted;
            assert!(!waits || line.end_seen.is_some() || line.peer_gone, "line {} stands at the door", line.index);
        }
    }

    /// An hour later.
    fn check_that_nothing_is_left(&self) {
        let floor = &self.floor;
        for op in floor.ops.values() {
            let right = (op.verb.is_pure_read() || op.verb == Verb::Linked) && op.deadline.is_none();
            assert!(right, "it never ends: {op:?}, {:?}", floor.lines[op.line]);
        }
        assert!(!floor.has_timers(), "a timer never came");
        let sessions = floor.submitter().counters().sessions as usize;
        let connecting = floor.check_connects();
        let alive = floor.lines.iter().filter(|line| !line.over && line.has_handles()).count();
        let right = sessions <= alive + connecting;
        assert!(right, "{sessions} sessions, {alive} connections with handles, {connecting} to be");
        let doors = floor.doors.iter().filter(|door| !door.ended).count();
        let detached = floor.lines.iter().filter(|line| line.detached.is_some()).count();
        // A selector, a waker, and the reserve for bad times.
        assert_eq!(floor.world.open_descriptors(), 3 + sessions + doors + detached, "descriptors");
    }

    // --- the end ---

    fn end(&mut self) {
        if !self.over && self.floor.dice.roll(2) == 0 {
            if !self.floor.shut_down {
                self.shut_down(None);
            }
            let mut turns = 0;
            while !self.over {
                self.turn(Duration::from_millis(10), usize::MAX);
                turns += 1;
                assert!(turns < 10_000, "a shutdown without end");
            }
        }
        if self.over {
            assert_eq!(self.floor.outstanding(), 0, "closed, with something not completed: {:?}", self.floor.ops);
            assert!(self.floor.doors.iter().all(|door| door.ended));
        }
        let peers_saw_all = self.over;
        self.watcher = None;
        let floor = &mut self.floor;
        floor.let_go();
        floor.world.configure(|config| config.faults.calm());
        assert_eq!(floor.world.open_descriptors(), 0, "descriptors are left");
        assert_eq!(floor.live.load(std::sync::atomic::Ordering::Relaxed), 0, "contexts are left");
        if peers_saw_all {
            floor.lines.iter_mut().for_each(crate::model::Line::check_output);
        }
    }
}
