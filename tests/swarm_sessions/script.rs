//! One seed's run: a world with faults, a loop of puppets in it, and random things done to both; then a calm in which
//! everything that can come to an end must, and the end itself.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gaio::sim::{Config, Dice, Faults, World};
use gaio::{DelegateErrorKind, Hub, NextTurn, SendErrorKind, SessionLimits, SessionLoop, WaitError};

use crate::book::{Book, LAST, Shared};
use crate::foreign::Foreign;
use crate::puppet::{LOST, Puppet, To};

const HOUR: Duration = Duration::from_secs(3_600);

/// The things that may be done, and how often each is tried, before a seed changes that.
#[derive(Clone, Copy, Debug)]
enum Act {
    Adopt,
    AdoptAgain,
    Listen,
    Knock,
    Connect,
    Answer,
    PeerSpeaks,
    PeerReceives,
    PeerMarks,
    PeerEnds,
    PeerSpeaksAndEnds,
    PeerCloses,
    PeerResets,
    Message,
    Broadcast,
    Turn,
    Sleep,
    Advance,
    Lull,
    Limits,
    Shutdown,
}

const ACTS: [(Act, usize); 21] = [
    (Act::Adopt, 10),
    (Act::AdoptAgain, 6),
    (Act::Listen, 2),
    (Act::Knock, 8),
    (Act::Connect, 6),
    (Act::Answer, 8),
    (Act::PeerSpeaks, 70),
    (Act::PeerReceives, 30),
    (Act::PeerMarks, 3),
    (Act::PeerEnds, 2),
    (Act::PeerSpeaksAndEnds, 2),
    (Act::PeerCloses, 2),
    (Act::PeerResets, 1),
    (Act::Message, 16),
    (Act::Broadcast, 6),
    (Act::Turn, 60),
    (Act::Sleep, 4),
    (Act::Advance, 8),
    (Act::Lull, 1),
    (Act::Limits, 2),
    (Act::Shutdown, 1),
];

pub(crate) struct Swarm<'f> {
    pub(crate) book: Shared,
    pub(crate) world: World,
    /// `None` at the end: it holds the waker.
    hub: Option<Hub<Puppet>>,
    sessions: Option<SessionLoop<Puppet>>,
    over: bool,
    foreign: Option<&'f Foreign>,
    weights: Vec<usize>,
}

fn random_limits(dice: &mut Dice) -> SessionLimits {
    let mut limits = SessionLimits::default();
    (limits.ring_slots, limits.receive) = (64, 4_096);
    limits.close_within = Duration::from_millis(dice.roll(3_000) as u64);
    limits.connect_within = Duration::from_millis(1 + dice.roll(20_000) as u64);
    let small = |dice: &mut Dice| dice.roll(4) == 0;
    if small(dice) {
        limits.sessions = 1 + dice.roll(8);
    }
    if small(dice) {
        limits.high_water = 1 + dice.roll(200);
        limits.low_water = dice.roll(limits.high_water + 1);
    }
    if small(dice) {
        limits.output = limits.high_water + dice.roll(1_000);
    }
    if small(dice) {
        limits.receive = 64 + dice.roll(100);
    }
    if small(dice) {
        limits.bytes_per_turn = 1 + dice.roll(100);
    }
    if small(dice) {
        limits.frames_per_turn = 1 + dice.roll(4) as u32;
    }
    if small(dice) {
        limits.messages_per_turn = 1 + dice.roll(4) as u32;
    }
    if small(dice) {
        limits.accepts_per_turn = 1 + dice.roll(3) as u32;
    }
    if small(dice) {
        limits.ring_slots = 2 + dice.roll(6);
    }
    if small(dice) {
        limits.close_drain = dice.roll(3_000);
    }
    limits
}

/// Makes the session of an accepted connection, or turns it away.
fn welcome(shared: &Shared, peer: Option<SocketAddr>) -> Option<Puppet> {
    let mut book = shared.open();
    let turn = book.turn;
    if book.welcomes.0 != turn {
        book.welcomes = (turn, 0);
    }
    book.welcomes.1 += 1;
    let most = book.limits.accepts_per_turn * book.doors.len() as u32;
    let right = book.welcomes.1 <= most || turn == LAST;
    book.check(right, |book| format!("accepted in one turn: {:?}", book.welcomes));
    match book.dice.roll(32) {
        0 => return None,
        1 => {
            drop(book);
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        _ => {}
    }
    // Its peer may be another session.
    let line = book.lines.iter().position(|line| line.name.is_some() && line.name == peer);
    let line = line.unwrap_or_else(|| book.add_line(false, None));
    let id = book.add_actor(line, false);
    Some(Puppet { id, book: shared.clone() })
}

impl<'f> Swarm<'f> {
    pub(crate) fn new(seed: u64, foreign: &'f Foreign) -> Self {
        let mut dice = Dice::new(seed);
        let buffer = if dice.roll(2) == 0 { 1 + dice.roll(100) } else { 4_096 + dice.roll(60_000) };
        let mut config = Config::default();
        (config.buffer, config.pending_first, config.alone) = (buffer, dice.roll(6) == 0, true);
        config.connect_at_once = dice.roll(4) == 0;
        config.faults = Faults::random(&mut dice);
        let limits = random_limits(&mut dice);
        let most = [8, 60, 60, if buffer > 100 { 4_000 } else { 200 }][dice.roll(4)];
        let world = World::enter();
        let weights = ACTS.map(|(_, weight)| weight * [0, 1, 1, 1, 3][dice.roll(5)]).to_vec();
        let with_foreign = dice.roll(2) == 0;
        let book = Shared::new(Book::new(world.clone(), limits.clone(), dice, most));
        LOST.set(Some(book.clone()));
        let for_welcome = book.clone();
        let (sessions, hub) =
            SessionLoop::new(limits, move |peer| welcome(&for_welcome, peer)).expect("good limits, and descriptors");
        world.configure(|own| *own = config);
        let for_world = world.clone();
        foreign.run(move || for_world.join());
        let foreign = with_foreign.then_some(foreign);
        Self { book, world, hub: Some(hub), sessions: Some(sessions), over: false, foreign, weights }
    }

    const fn hub(&self) -> &Hub<Puppet> {
        self.hub.as_ref().expect("until the end")
    }

    fn roll(&self, sides: usize) -> usize {
        self.book.open().dice.roll(sides)
    }

    /// All of it. Panics if something is not as it must be.
    pub(crate) fn run(&mut self) {
        for _ in 0..3 {
            self.adopt(false, 0);
        }
        for _ in 0..20 + self.roll(250) {
            if self.over {
                break;
            }
            self.step();
        }
        if !self.over && self.roll(4) > 0 {
            self.calm_down();
        }
        self.end();
    }

    // --- the script ---

    fn step(&mut self) {
        let all: usize = self.weights.iter().sum::<usize>() + 1;
        let mut at = self.roll(all);
        for (n, (act, _)) in ACTS.iter().enumerate() {
            if at < self.weights[n] {
                return self.act(*act);
            }
            at -= self.weights[n];
        }
        self.turn(Duration::ZERO);
    }

    fn act(&mut self, act: Act) {
        let foreign = self.foreign.filter(|_| self.roll(3) == 0);
        self.book.open().say(|| format!("{act:?}"));
        match act {
            Act::Adopt => {
                let leftover = if self.roll(4) == 0 { self.roll(50) } else { 0 };
                let unix = self.roll(3) == 0;
                self.adopt(unix, leftover);
            }
            Act::AdoptAgain => self.adopt_again(),
            Act::Listen => self.listen(),
            Act::Knock => self.knock(),
            Act::Connect => self.connect(foreign),
            Act::Answer => drop(self.answer()),
            Act::Message => self.message(foreign),
            Act::Broadcast => self.broadcast(foreign),
            Act::Turn => self.turn(Duration::ZERO),
            Act::Sleep => {
                let time = self.some_time();
                self.turn(time);
            }
            Act::Advance => self.world.advance(self.some_time()),
            Act::Lull => (0..10).for_each(|_| self.turn(Duration::ZERO)),
            Act::Limits => self.change_limits(foreign),
            Act::Shutdown => {
                // In one run of a few.
                if self.roll(8) == 0 {
                    self.shut_down(foreign);
                }
            }
            _ => self.act_as_peer(act),
        }
    }

    fn some_time(&self) -> Duration {
        let mut book = self.book.open();
        Duration::from_micros(book.dice.roll(2_000_000) as u64 >> book.dice.roll(20))
    }

    fn act_as_peer(&self, act: Act) {
        let mut book = self.book.open();
        let book = &mut *book;
        // Mostly one of the last.
        let lines = book.lines.len();
        let among = if book.dice.roll(4) == 0 { lines } else { lines.min(4) };
        let line = &mut book.lines[lines - 1 - book.dice.roll(among)];
        let spec = line.actor.map(|id| book.actors[id].spec);
        match act {
            Act::PeerSpeaks => line.peer_speaks(spec, &mut book.dice, book.most),
            Act::PeerReceives => {
                let most = line.appetite.min(1 + book.dice.roll(10 * book.most));
                if most > 0 {
                    line.peer_receives(most);
                }
            }
            Act::PeerMarks => {
                // Out of band: no part of the stream.
                line.peer.iter().filter(|_| !line.unix).for_each(gaio::sim::Peer::send_urgent);
            }
            Act::PeerEnds | Act::PeerSpeaksAndEnds => {
                if matches!(act, Act::PeerSpeaksAndEnds) {
                    line.peer_speaks(spec, &mut book.dice, book.most);
                }
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

    // --- connections ---

    fn adopt(&self, unix: bool, leftover: usize) {
        let (socket, peer) = if unix { self.world.unix_pair() } else { self.world.pair() };
        let mut book = self.book.open();
        let line = book.add_line(unix, Some(peer));
        let bytes = crate::spec::noise(&mut book.dice, leftover);
        book.lines[line].sent.extend(&bytes);
        let id = book.add_actor(line, false);
        drop(book);
        self.hand_over(id, socket, bytes.into());
    }

    fn adopt_again(&self) {
        let mut book = self.book.open();
        let ready = |line: &crate::line::Line| line.detached.is_some() && line.actor.is_none();
        let Some(line) = book.lines.iter().position(ready) else { return };
        let Some((socket, leftover)) = book.lines[line].detached.take() else { return };
        if book.lines[line].shut {
            return;
        }
        book.lines[line].again = true;
        let id = book.add_actor(line, false);
        drop(book);
        self.hand_over(id, socket, leftover);
    }

    fn hand_over(&self, id: usize, socket: gaio::sim::Socket, leftover: bytes::Bytes) {
        let state = Puppet { id, book: self.book.clone() };
        let Err((error, state)) = self.hub().adopt_with(socket, leftover, state) else { return };
        let mut book = self.book.open();
        let right = match error.kind {
            DelegateErrorKind::Closed => book.shut_down.is_some(),
            DelegateErrorKind::TooMany => book.alive() > book.limits.sessions,
            _ => false,
        };
        assert!(right && state.id == id, "refused: {error:?}");
        book.strike(id);
    }

    fn listen(&self) {
        let mut book = self.book.open();
        if book.doors.len() >= 3 {
            return;
        }
        let (socket, door) = if book.dice.roll(3) == 0 {
            let path = format!("door {}", book.doors.len());
            let Ok(socket) = self.world.unix_listener(&path) else { return };
            (socket, To::Unix(path))
        } else {
            let (socket, address) = self.world.listener();
            (socket, To::Tcp(address))
        };
        match self.hub().listen(socket) {
            Ok(()) => book.doors.push(door),
            Err(error) => {
                assert!(book.shut_down.is_some() && matches!(error.kind, DelegateErrorKind::Closed), "{error:?}");
            }
        }
    }

    /// Somebody connects to a listener.
    fn knock(&self) {
        let mut book = self.book.open();
        if book.doors.is_empty() {
            return;
        }
        let doors = book.doors.len();
        let door = book.dice.roll(doors);
        match book.doors[door].clone() {
            To::Tcp(address) => {
                if let Ok(peer) = self.world.connect(address) {
                    book.add_line(false, Some(peer));
                }
            }
            // Nobody knows whose connection that is; it stands for a while.
            To::Unix(path) => book.strangers.extend(self.world.connect_unix(path)),
        }
    }

    fn connect(&self, foreign: Option<&Foreign>) {
        let mut book = self.book.open();
        let (to, id) = book.destination();
        drop(book);
        let (hub, state) = (self.hub().clone(), Puppet { id, book: self.book.clone() });
        let connect = move || match to {
            To::Tcp(address) => hub.connect(address, state),
            To::Unix(path) => hub.connect_unix(path, state),
        };
        let answer = match foreign {
            Some(foreign) => foreign.run(connect),
            None => connect(),
        };
        if let Err((kind, state)) = answer {
            let mut book = self.book.open();
            assert!(self.may_refuse(&book, kind, foreign) && state.id == id, "a connect is refused: {kind:?}");
            book.strike(id);
        }
    }

    fn may_refuse(&self, book: &Book, kind: SendErrorKind, foreign: Option<&Foreign>) -> bool {
        match kind {
            SendErrorKind::Closed => book.shut_down.is_some(),
            SendErrorKind::Full => foreign.is_some(),
            _ => false,
        }
    }

    /// Answers who waits at a remote, in some way.
    fn answer(&self) -> bool {
        let mut book = self.book.open();
        let waiting = book.remotes.iter().find_map(|(remote, line)| Some((remote.attempt()?, *line)));
        let Some((attempt, line)) = waiting else { return false };
        let answer = if book.calm { 7 } else { book.dice.roll(8) };
        book.lines[line].refused = answer < 3;
        match answer {
            0 => attempt.refuse(),
            1 => attempt.fail(std::io::ErrorKind::NetworkUnreachable),
            2 => attempt.fail(std::io::ErrorKind::TimedOut),
            3 => drop(attempt),
            _ => book.lines[line].peer = Some(attempt.accept()),
        }
        true
    }

    // --- messages ---

    fn message(&self, foreign: Option<&Foreign>) {
        let mut book = self.book.open();
        let Some(to) = book.somebody() else { return };
        let address = book.actors[to].address.clone().expect("somebody has one");
        let note = book.note(None);
        let number = note.number;
        drop(book);
        let answer = match foreign {
            Some(foreign) => foreign.run(move || address.send(note)),
            None => address.send(note),
        };
        let mut book = self.book.open();
        match answer {
            Ok(()) => book.posted(number, to),
            Err(error) => {
                let right = self.may_refuse(&book, error.kind, foreign) && error.message.number == number;
                assert!(right, "a message is refused: {error:?}");
            }
        }
    }

    fn broadcast(&self, foreign: Option<&Foreign>) {
        let mut book = self.book.open();
        let group = book.dice.roll(3) as u64;
        let note = book.note(Some(group));
        let (number, hub) = (note.number, self.hub().clone());
        drop(book);
        let answer = match foreign {
            Some(foreign) => foreign.run(move || hub.broadcast(group, note)),
            None => hub.broadcast(group, note),
        };
        let mut book = self.book.open();
        match answer {
            Ok(()) => book.broadcast(number, group),
            Err((kind, note)) => {
                let right = self.may_refuse(&book, kind, foreign) && note.number == number;
                assert!(right, "a broadcast is refused: {kind:?}");
            }
        }
    }

    /// All but the number of sessions, which may be above a lower one, and the times, of which some run already.
    fn change_limits(&self, foreign: Option<&Foreign>) {
        let mut book = self.book.open();
        let old = self.hub().limits();
        assert_eq!(old, book.limits);
        let mut limits = random_limits(&mut book.dice);
        (limits.sessions, limits.ring_slots) = (old.sessions, old.ring_slots);
        (limits.close_within, limits.connect_within) = (old.close_within, old.connect_within);
        book.limits = limits.clone();
        drop(book);
        let hub = self.hub().clone();
        let answer = match foreign {
            Some(foreign) => foreign.run(move || hub.set_limits(limits)),
            None => hub.set_limits(limits),
        };
        assert_eq!(answer, Ok(()));
    }

    fn shut_down(&self, foreign: Option<&Foreign>) {
        let mut book = self.book.open();
        let grace = Duration::from_micros(book.dice.roll(2_000_000) as u64 >> book.dice.roll(22));
        let until = self.world.now() + grace;
        book.shut_down = Some(book.shut_down.map_or(until, |other| other.min(until)));
        drop(book);
        let hub = self.hub().clone();
        match foreign {
            Some(foreign) => foreign.run(move || hub.shutdown(grace)),
            None => hub.shutdown(grace),
        }
    }

    // --- turns ---

    fn turn(&mut self, time: Duration) {
        let Some(sessions) = &mut self.sessions else { return };
        self.book.open().turn += 1;
        let answer = sessions.turn(Some(time));
        let book = self.book.open();
        if let Some(wrong) = &book.wrong {
            panic!("{wrong}");
        }
        if let Err(error) = answer {
            assert_eq!(error, WaitError::Closed);
            assert!(book.shut_down.is_some(), "closed, though nobody has asked for it");
            self.over = true;
        }
        assert!(self.hub().sessions() <= book.limits.sessions);
    }

    /// Takes turns for so long.
    fn pass(&mut self, time: Duration) {
        let until = self.world.now() + time;
        while !self.over && self.world.now() < until {
            self.turn(until - self.world.now());
        }
    }

    fn events(&self) -> u64 {
        self.book.open().events
    }

    /// Turns until three in a row bring nothing, without time passing.
    fn turns_until_quiet(&mut self) {
        let (mut quiet, mut turns) = (0, 0);
        while quiet < 3 && !self.over {
            let before = self.events();
            self.turn(Duration::ZERO);
            quiet = if self.events() == before { quiet + 1 } else { 0 };
            turns += 1;
            assert!(turns < 100_000, "turns without end");
        }
    }

    // --- the calm ---

    /// Nothing goes wrong any more, and all peers listen: what can be done is done, and nobody is forgotten.
    fn calm_down(&mut self) {
        self.book.open().calm = true;
        self.world.configure(|config| {
            config.faults.calm();
            config.pending_first = false;
        });
        let mut quiet = 0;
        while quiet < 3 && !self.over {
            let before = self.events();
            self.turns_until_quiet();
            let mut heard = self.answer();
            for line in &mut self.book.open().lines {
                while line.peer_receives(4_096) {
                    heard = true;
                }
            }
            // Sends and accepts that failed are tried again after a while.
            self.pass(Duration::from_millis(50));
            quiet = if self.events() == before && !heard { quiet + 1 } else { 0 };
        }
        if self.over {
            return;
        }
        self.book.open().check_that_all_are_served();
        let mut idle = 0;
        while idle < 2 && !self.over {
            let (events, polls) = (self.events(), self.hub().counters().polls);
            self.pass(HOUR);
            idle = if self.events() == events { idle + 1 } else { 0 };
            // A timer that is not needed any more may still come, once.
            let more = self.hub().counters().polls - polls;
            assert!(idle < 2 || more <= 2, "idle, it polled {more} times");
            let next = self.sessions.as_mut().map(SessionLoop::next_turn);
            assert!(idle < 2 || next == Some(NextTurn::WhenReadable), "idle, its next turn is {next:?}");
        }
        if !self.over {
            let book = self.book.open();
            book.check_that_nothing_is_left();
            assert_eq!(self.hub().sessions(), book.alive());
        }
    }

    // --- the end ---

    fn end(&mut self) {
        if !self.over && self.roll(2) == 0 {
            if self.book.open().shut_down.is_none() {
                self.shut_down(None);
            }
            let mut turns = 0;
            while !self.over {
                self.turn(Duration::from_millis(10));
                turns += 1;
                assert!(turns < 10_000, "a shutdown without end");
            }
        }
        let now = self.world.now();
        let mut book = self.book.open();
        book.shut_down = Some(book.shut_down.map_or(now, |at| at.min(now)));
        book.turn = LAST;
        drop(book);
        self.sessions = None;
        let mut book = self.book.open();
        let book = &mut *book;
        if let Some(wrong) = &book.wrong {
            panic!("{wrong}");
        }
        assert_eq!(book.alive(), 0, "sessions were not told their ends");
        let counters = self.hub().counters();
        let ended = counters.ended_themselves + counters.ended_by_input + counters.ended_by_output;
        let ended =
            ended + counters.ended_by_time + counters.ended_by_system + counters.ended_by_shutdown + counters.panics;
        assert_eq!(ended, book.ends + book.spilt, "ends, as they were counted");
        let told = book.told_messages..=book.told_messages + book.trapped;
        assert!(told.contains(&counters.messages), "messages: {told:?}, and {} were counted", counters.messages);
        self.world.configure(|config| config.faults.calm());
        book.lines.iter_mut().for_each(|line| line.detached = None);
        book.strangers.clear();
        // They name the book, which names them; and their addresses the waker.
        book.actors.clear();
        self.hub = None;
        assert_eq!(self.world.open_descriptors(), 0, "descriptors are left");
        assert_eq!(book.live.load(Ordering::Relaxed), 0, "messages are left");
        book.lines.iter_mut().for_each(crate::line::Line::check_output);
    }
}
