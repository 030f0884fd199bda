//! What must be true of sessions: of each callback whether it may come now, of each end whether it has its reason, of each
//! message and timer whether it has come, once and in order.
//!
//! Callbacks look things up here and write them down. A check that fails inside of one is noted: the loop would take its
//! panic for one of the protocol's. The script asks after each turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaio::sim::{Dice, Fault, Peer, Remote, World};
use gaio::{Address, Detached, End, SessionLimits, TimeLimit};

use crate::line::Line;
use crate::puppet::{Call, Note, To};
use crate::spec::{Next, Spec, What};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Close,
    Abort,
    Leave,
    Overflow,
    Panic,
    /// It has had a last word, or none.
    BadFrame {
        answered: bool,
    },
}

/// One session, from its state's making to its end.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) line: usize,
    pub(crate) spec: Spec,
    /// It is to be opened by a connect; since when.
    pub(crate) connecting: Option<Duration>,
    pub(crate) opened: bool,
    pub(crate) told_shutdown: bool,
    pub(crate) told_eof: bool,
    pub(crate) address: Option<Address<Note>>,
    pub(crate) groups: BTreeSet<u64>,
    pub(crate) timers: BTreeMap<u64, Duration>,
    /// Since when a time limit may run.
    since: Duration,
    /// Output went above the high-water mark, and has not been told to have fallen.
    pub(crate) high: bool,
    pub(crate) fate: Option<Fate>,
    fated: Duration,
    /// Its last call was of this time limit.
    timed: Option<TimeLimit>,
    /// Its state was lost to a panic.
    pub(crate) lost: bool,
    pub(crate) over: bool,
    /// Frames in this turn.
    frames: (u64, u32),
}

pub(crate) struct Book {
    pub(crate) world: World,
    pub(crate) limits: SessionLimits,
    pub(crate) dice: Dice,
    pub(crate) lines: Vec<Line>,
    pub(crate) actors: Vec<Actor>,
    /// Whose connects are to be answered.
    pub(crate) remotes: Vec<(Remote, usize)>,
    pub(crate) doors: Vec<To>,
    /// Peers of connections that cannot be told from each other.
    pub(crate) strangers: Vec<Peer>,
    /// How much may be in one write, or frame.
    pub(crate) most: usize,
    /// Of what callbacks do by themselves there is an end.
    pub(crate) energy: u32,
    pub(crate) calm: bool,
    /// The end of the grace.
    pub(crate) shut_down: Option<Duration>,
    pub(crate) turn: u64,
    pub(crate) events: u64,
    pub(crate) live: Arc<AtomicUsize>,
    // Messages: their number, and to whom.
    pub(crate) next: u64,
    last: u64,
    pub(crate) messages: BTreeMap<u64, usize>,
    /// Who must still get a broadcast, and who has got it.
    pub(crate) broadcasts: BTreeMap<u64, (BTreeSet<usize>, BTreeSet<usize>)>,
    pub(crate) told_messages: u64,
    /// Panics where the protocol is only asked: perhaps in front of a message.
    pub(crate) trapped: u64,
    pub(crate) ends: u64,
    /// Farewells that panicked.
    pub(crate) spilt: u64,
    pub(crate) welcomes: (u64, u32),
    pub(crate) wrong: Option<String>,
    traced: bool,
}

/// The turns of the loop's drop: there are several, which nobody counts.
pub(crate) const LAST: u64 = u64::MAX;

#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Book>>);

impl Shared {
    pub(crate) fn new(book: Book) -> Self {
        Self(Arc::new(Mutex::new(book)))
    }

    pub(crate) fn open(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    pub(crate) fn new(world: World, limits: SessionLimits, dice: Dice, most: usize) -> Self {
        Self {
            world,
            limits,
            dice,
            lines: Vec::new(),
            actors: Vec::new(),
            remotes: Vec::new(),
            doors: Vec::new(),
            strangers: Vec::new(),
            most,
            energy: 400,
            calm: false,
            shut_down: None,
            turn: 0,
            events: 0,
            live: Arc::new(AtomicUsize::new(0)),
            next: 0,
            last: 0,
            messages: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            told_messages: 0,
            ends: 0,
            spilt: 0,
            trapped: 0,
            welcomes: (0, 0),
            wrong: None,
            traced: std::env::var_os("GAIO_SIM_TRACE").is_some(),
        }
    }

    /// Beside what the world says, if it is asked to.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>20} {}", "", what());
        }
    }

    pub(crate) fn check(&mut self, right: bool, otherwise: impl FnOnce(&Self) -> String) {
        if !right && self.wrong.is_none() {
            let wrong = otherwise(self);
            self.say(|| format!("WRONG: {wrong}"));
            self.wrong = Some(wrong);
        }
    }

    pub(crate) fn happened(&self, faults: &[Fault]) -> bool {
        self.world.faults().iter().any(|(fault, times)| *times > 0 && faults.contains(fault))
    }

    fn cuts(&self) -> bool {
        self.happened(&[Fault::Reset, Fault::ResetBehindData])
    }

    // --- beginnings ---

    pub(crate) fn add_line(&mut self, unix: bool, peer: Option<Peer>) -> usize {
        let index = self.lines.len();
        let appetite = [0, 3, 100, 100_000, 100_000][self.dice.roll(5)];
        self.lines.push(Line::new(index, unix, peer, appetite));
        index
    }

    /// Makes the model of a session to be.
    pub(crate) fn add_actor(&mut self, line: usize, connecting: bool) -> usize {
        let (now, most) = (self.world.now(), self.most);
        let spec = Spec::random(&mut self.dice, most);
        let id = self.actors.len();
        self.lines[line].actor = Some(id);
        self.lines[line].whole = false;
        self.actors.push(Actor {
            line,
            spec,
            connecting: connecting.then_some(now),
            opened: false,
            told_shutdown: false,
            told_eof: false,
            address: None,
            groups: BTreeSet::new(),
            timers: BTreeMap::new(),
            since: now,
            high: false,
            fate: None,
            fated: now,
            timed: None,
            lost: false,
            over: false,
            frames: (0, 0),
        });
        self.say(|| format!("session {id}, line {line}: {spec:?}"));
        id
    }

    /// It was refused: it is told no end.
    pub(crate) fn strike(&mut self, id: usize) {
        self.actors[id].over = true;
        let line = self.actors[id].line;
        self.lines[line].actor = None;
    }

    /// Sessions there are, or are to be.
    pub(crate) fn alive(&self) -> usize {
        self.actors.iter().filter(|actor| !actor.over).count()
    }

    // --- callbacks ---

    /// May this callback come now?
    pub(crate) fn called(&mut self, id: usize, call: &Call<'_>, queued: usize) {
        self.events += 1;
        self.say(|| format!("session {id}: {call:?}, {queued} queued"));
        let (now, actor) = (self.world.now(), &mut self.actors[id]);
        let alive = actor.fate.is_none() && !actor.over;
        let open = actor.opened != matches!(call, Call::Open);
        actor.opened = true;
        actor.connecting = None;
        actor.timed = if let Call::Timeout(limit) = call { Some(*limit) } else { None };
        let actor = &self.actors[id];
        let right = match call {
            Call::Open => true,
            Call::Frame(frame) => return self.on_frame(id, frame, queued, alive && open),
            Call::Message(note) => return self.on_message(id, note, alive && open),
            Call::Eof => {
                let line = &self.lines[actor.line];
                let told = line.again && (line.peer_gone || self.cuts());
                let there = line.heard == line.sent.len() && (line.peer_ended || told);
                !actor.told_eof && (!line.tracked || there) && !actor.high
            }
            Call::Timeout(TimeLimit::Frame(time)) => {
                let line = &self.lines[actor.line];
                let begun = !line.tracked || !line.rest().is_empty();
                let waits = actor.spec.within == Some(*time) && actor.spec.what != What::Nothing;
                waits && begun && actor.since + *time <= now
            }
            Call::Timeout(TimeLimit::Idle(time)) => actor.spec.idle == Some(*time) && actor.since + *time <= now,
            Call::Timer(name) => actor.timers.get(name).is_some_and(|at| *at <= now),
            Call::Drained => actor.high && queued <= self.limits.low_water,
            Call::Shutdown => self.shut_down.is_some() && !actor.told_shutdown,
        };
        self.check(right && alive && open, |book| format!("session {id}: {call:?}, {:?}", book.actors[id]));
        let actor = &mut self.actors[id];
        match call {
            Call::Eof => actor.told_eof = true,
            Call::Timer(name) => drop(actor.timers.remove(name)),
            Call::Drained => actor.high = false,
            Call::Shutdown => actor.told_shutdown = true,
            _ => {}
        }
        if matches!(call, Call::Open | Call::Timeout(_) | Call::Drained) {
            actor.since = now;
        }
    }

    fn on_frame(&mut self, id: usize, frame: &[u8], queued: usize, open: bool) {
        let (now, turn) = (self.world.now(), self.turn);
        let most = self.limits.frames_per_turn;
        let actor = &mut self.actors[id];
        if actor.frames.0 != turn {
            actor.frames = (turn, 0);
        }
        actor.frames.1 += 1;
        actor.since = now;
        // A session may have two steps in a turn: one for its edge, one from the ready list.
        let right = open && !actor.high && (actor.frames.1 <= 2 * most || self.turn == LAST);
        let (line, spec) = (actor.line, actor.spec);
        self.check(right, |book| format!("session {id}: a frame, {queued} queued: {:?}", book.actors[id]));
        if !self.lines[line].tracked {
            return;
        }
        let rest = self.lines[line].rest();
        let (expected, total) = match spec.next(rest) {
            Next::Some(most) if (1..=most).contains(&frame.len()) => (&rest[..frame.len()], frame.len()),
            Next::Frame { skip, len, total } => (&rest[skip..skip + len], total),
            next => {
                let wrong = format!("session {id}: a frame of {} bytes, and {next:?} by {spec:?}", frame.len());
                return self.check(false, |_| wrong);
            }
        };
        let right = frame == expected;
        self.lines[line].heard += total;
        self.check(right, |_| format!("session {id}: another frame than was sent, by {spec:?}"));
    }

    fn on_message(&mut self, id: usize, note: &Note, open: bool) {
        self.told_messages += 1;
        let in_order = if note.group.is_some() { self.last <= note.number } else { self.last < note.number };
        self.last = note.number;
        let mine = match note.group {
            None => self.messages.remove(&note.number) == Some(id),
            Some(group) => {
                let once = self.broadcasts.get_mut(&note.number).is_some_and(|(due, got)| {
                    due.remove(&id);
                    got.insert(id)
                });
                once && self.actors[id].groups.contains(&group)
            }
        };
        self.check(open && in_order && mine, |book| format!("session {id}: {note:?}, {:?}", book.actors[id]));
    }

    /// A decoder is asked.
    pub(crate) fn asked(&mut self, id: usize, input: &[u8]) {
        let actor = &self.actors[id];
        let line = &self.lines[actor.line];
        let right = !line.tracked || line.rest().starts_with(input);
        let alive = !actor.over && actor.fate.is_none() && !input.is_empty();
        self.check(right && alive, |_| format!("session {id}: another input to its decoder than was sent"));
    }

    /// The input cannot become a frame.
    pub(crate) fn bad_frame(&mut self, id: usize, end: &End) {
        self.events += 1;
        self.say(|| format!("session {id}: no frame: {end}"));
        let input = matches!(end, End::TooLong { .. } | End::Refused(_) | End::CutShort { .. });
        let actor = &self.actors[id];
        let right = input && self.may_be_bad(id, end) && actor.fate.is_none() && !actor.high;
        self.check(right, |book| format!("session {id}: no frame: {end}; {:?}", book.actors[id]));
    }

    /// What a callback has led to.
    pub(crate) fn decided(&mut self, id: usize, fate: Option<Fate>, spec: Spec, queued: usize) {
        let now = self.world.now();
        let overflow = queued > self.limits.output && fate != Some(Fate::Panic);
        let fate = if overflow { Some(Fate::Overflow) } else { fate };
        let actor = &mut self.actors[id];
        actor.high |= queued > self.limits.high_water;
        if actor.spec.expect() != spec.expect() {
            actor.since = now;
        }
        actor.spec = spec;
        if let Some(fate) = fate {
            (actor.fate, actor.fated) = (Some(fate), now);
            self.forget(id);
            self.say(|| format!("session {id}: {fate:?}"));
        }
    }

    /// It gets no messages any more.
    fn forget(&mut self, id: usize) {
        self.messages.retain(|_, to| *to != id);
        for (due, _) in self.broadcasts.values_mut() {
            due.remove(&id);
        }
    }

    // --- ends ---

    /// A session is told its end; one that has lost its state has no name.
    pub(crate) fn ended(&mut self, id: Option<usize>, end: &End) {
        self.events += 1;
        self.ends += 1;
        self.say(|| format!("session {id:?} ends: {end}"));
        let Some(id) = id else {
            // The first of those that are due.
            let due = self.actors.iter().position(|actor| actor.lost && !actor.over);
            self.check(due.is_some() && matches!(end, End::Panicked), |_| format!("without a state: {end}"));
            due.into_iter().for_each(|id| self.strike(id));
            return;
        };
        let right = self.may_end(id, end);
        self.check(right, |book| {
            let actor = &book.actors[id];
            let line = &book.lines[actor.line];
            let (rest, next) = (line.rest().len(), actor.spec.next(line.rest()));
            let peer = (line.peer_ended, line.peer_gone);
            format!("session {id} ends: {end}; {actor:?}, {rest} bytes left, {next:?}, {peer:?}")
        });
        self.forget(id);
        let actor = &mut self.actors[id];
        actor.over = true;
        actor.timers.clear();
        actor.groups.clear();
        let line = &mut self.lines[actor.line];
        line.actor = None;
        line.whole = matches!(end, End::Closed | End::Left);
    }

    fn may_end(&self, id: usize, end: &End) -> bool {
        let (now, actor) = (self.world.now(), &self.actors[id]);
        let (line, fate) = (&self.lines[actor.line], actor.fate);
        let alive = !actor.over;
        let closes = fate == Some(Fate::Close) && actor.timed.is_none();
        let slow = closes || fate == Some(Fate::Leave);
        let free = actor.opened && fate.is_none();
        let bad = matches!(fate, Some(Fate::BadFrame { .. }));
        let right = match end {
            End::Closed => closes,
            // However its close went.
            End::TimedOut(limit) => fate == Some(Fate::Close) && actor.timed == Some(*limit),
            End::Left => fate == Some(Fate::Leave),
            End::CloseTimedOut => slow && actor.fated + self.limits.close_within <= now,
            End::Aborted => fate == Some(Fate::Abort),
            End::Overflow => fate == Some(Fate::Overflow),
            End::Panicked => fate == Some(Fate::Panic) && !actor.lost,
            End::TooLong { .. } | End::Refused(_) | End::CutShort { .. } => bad && self.may_be_bad(id, end),
            End::TooMany => !actor.opened && self.alive() > self.limits.sessions,
            End::Os(error) if !actor.opened => self.may_not_begin(actor, line, error),
            End::Os(_) => (free || slow) && (!line.tracked || line.peer_gone || self.cuts() || line.again),
            // What has begun has until the end of the grace.
            End::Shutdown => {
                (fate.is_none() || slow) && self.shut_down.is_some_and(|until| !actor.opened || until <= now)
            }
            _ => false,
        };
        alive && right
    }

    fn may_be_bad(&self, id: usize, end: &End) -> bool {
        let actor = &self.actors[id];
        let line = &self.lines[actor.line];
        let (next, left) = (actor.spec.next(line.rest()), line.rest().len());
        let ended = line.peer_ended || line.again && (line.peer_gone || self.cuts());
        let right = match end {
            End::TooLong { at_most } => next == Next::TooLong && *at_most == actor.spec.at_most(),
            End::Refused(_) => next == Next::Refused,
            End::CutShort { got } => ended && *got == left && next == Next::More && *got > 0,
            _ => false,
        };
        actor.opened && !actor.over && (right || !line.tracked)
    }

    fn may_not_begin(&self, actor: &Actor, line: &Line, error: &std::io::Error) -> bool {
        let now = self.world.now();
        let connect = actor.connecting.is_some_and(|since| {
            let timed_out = error.kind() == std::io::ErrorKind::TimedOut;
            let given_up = timed_out && since + self.limits.connect_within <= now;
            given_up || line.refused || line.peer_gone || !line.tracked || self.happened(&[Fault::ConnectRefused])
        });
        self.happened(&[Fault::NotRegistered]) || self.cuts() || connect
    }

    /// A connection has left the loop.
    pub(crate) fn has_left(&mut self, line: usize, detached: Detached) {
        let right = !self.lines[line].tracked || self.lines[line].rest().starts_with(&detached.leftover);
        self.check(right, |_| format!("line {line} leaves with other bytes than were sent"));
        self.lines[line].detached = Some((detached.socket, detached.leftover));
    }

    // --- at rest ---

    /// Of what still waits: does it wait for a peer, or for an instant?
    pub(crate) fn check_that_all_are_served(&self) {
        let due = self.actors.iter().any(|actor| actor.fate == Some(Fate::Panic) && !actor.over);
        assert!(!due, "a session that panicked is not told its end");
        assert!(self.messages.is_empty(), "messages are forgotten: {:?}", self.messages);
        assert!(self.broadcasts.values().all(|(due, _)| due.is_empty()), "broadcasts are forgotten");
        for (id, actor) in self.actors.iter().enumerate().filter(|(_, actor)| !actor.over) {
            let line = &self.lines[actor.line];
            if actor.fate.is_some() || !actor.opened || !line.tracked {
                continue;
            }
            let listens = actor.spec.what != What::Nothing && !actor.told_eof;
            let silent = !line.peer_ended && !line.peer_gone;
            let right = !listens || silent && actor.spec.next(line.rest()) == Next::More;
            assert!(right, "session {id} is forgotten: {actor:?}, {} bytes", line.rest().len());
            assert!(!actor.high, "session {id} is not told that it has drained: {actor:?}");
            assert!(self.shut_down.is_none() || actor.told_shutdown, "session {id} is not told of the shutdown");
        }
    }

    /// An hour later.
    pub(crate) fn check_that_nothing_is_left(&self) {
        for (id, actor) in self.actors.iter().enumerate().filter(|(_, actor)| !actor.over) {
            assert!(actor.opened && actor.fate.is_none(), "session {id} never ends, or begins: {actor:?}");
            assert!(actor.timers.is_empty(), "session {id}: a timer never came: {actor:?}");
            let line = &self.lines[actor.line];
            let in_frame = !line.rest().is_empty() && actor.spec.what != What::Nothing;
            let limit = if in_frame { actor.spec.within } else { actor.spec.idle };
            assert!(!line.tracked || limit.is_none(), "session {id}: its time is over: {actor:?}");
        }
        let detached = self.lines.iter().filter(|line| line.detached.is_some()).count();
        let doors = if self.shut_down.is_none() { self.doors.len() } else { 0 };
        let refused = if self.happened(&[Fault::NotRegistered]) { doors } else { 0 };
        // A selector, a waker, and the reserve for bad times.
        let most = 3 + self.alive() + doors + detached;
        let open = self.world.open_descriptors();
        assert!((most - refused..=most).contains(&open), "{open} descriptors, of {most}");
    }
}
