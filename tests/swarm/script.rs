//! One seed's run: a world with faults, a loop in it, and random things done to both; then a calm in which everything that
//! can come to an end must, and the end itself.

use std::time::Duration;

use gaio::sim::{Config, Dice, Fault, Faults, World};
use gaio::{Limits, Options};

use crate::drive::Drive;
use crate::fairness::Served;
use crate::floor::Floor;
use crate::foreign::{Foreign, Who};
use crate::model::Kind;
use crate::ops::{self, Body, Spec};

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
    /// The consumer leaves, or comes back.
    Leave,
    Resume,
    SetLimits,
    Shutdown,
}

const ACTS: [(Act, usize); 37] = [
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
    (Act::Leave, 6),
    (Act::Resume, 12),
    (Act::SetLimits, 1),
    (Act::Shutdown, 1),
];

pub(crate) struct Swarm<'f> {
    pub(crate) floor: Floor,
    pub(crate) drive: Option<Drive>,
    /// The last batch was left before its end.
    pub(crate) left: bool,
    pub(crate) over: bool,
    pub(crate) served: Served,
    /// Other threads that submit.
    foreign: &'f [Foreign],
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
    pub(crate) fn new(seed: u64, foreign: &'f [Foreign]) -> Self {
        let mut dice = Dice::new(seed);
        let buffer = if dice.roll(2) == 0 { 1 + dice.roll(100) } else { 4_096 + dice.roll(60_000) };
        let pending_first = dice.roll(6) == 0;
        let faults = Faults::random(&mut dice);
        let any = Fault::ALL.iter().any(|fault| faults.chance_of(*fault) > 0);
        let world = World::enter();
        let mut config = Config::default();
        (config.buffer, config.pending_first, config.alone) = (buffer, pending_first, true);
        let limits = random_limits(&mut dice);
        let options = Options::default().limits(limits.clone());
        let (drive, submitter) = Drive::new(&world, options, &mut dice);
        config.faults = faults;
        world.configure(|own| *own = config);
        let foreign = &foreign[..dice.roll(foreign.len() + 1)];
        for one in foreign {
            let for_world = world.clone();
            one.run(move || for_world.join());
        }
        let most = if dice.roll(4) == 0 { 10_000 } else { 60 };
        let weights = ACTS.map(|(_, weight)| weight * [0, 1, 1, 1, 3][dice.roll(5)]).to_vec();
        let local = matches!(drive, Drive::Embedded(_));
        let floor = Floor::new(world, submitter, local, limits, dice);
        let mut served = Served::default();
        served.possible = !any && !pending_first && most < 100;
        Self { floor, drive: Some(drive), left: false, over: false, served, foreign, most, weights }
    }

    /// All of it. Panics if something is not as it must be.
    pub(crate) fn run(&mut self) {
        for _ in 0..3 {
            self.make_room();
            self.floor.delegate(Who::Script, Kind::Tcp, 0);
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

    // --- who does it ---

    /// Mostly the script's own thread; otherwise one that does not stand still somewhere.
    fn who(&mut self) -> Who<'f> {
        let free: Vec<&Foreign> = self.foreign.iter().filter(|foreign| !foreign.is_stalled()).collect();
        if free.is_empty() || self.floor.dice.roll(3) > 0 {
            return Who::Script;
        }
        let one = free[self.floor.dice.roll(free.len())];
        if self.floor.dice.roll(8) == 0 { Who::Stalls(one) } else { Who::Other(one) }
    }

    /// Those who stand still in the middle of a push go on: one of them, or all.
    pub(crate) fn resume(&mut self, all: bool) {
        for foreign in self.foreign {
            if foreign.resume() {
                self.floor.say(|| String::from("a push goes on"));
                self.floor.resumed();
                if !all {
                    return;
                }
            }
        }
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
        self.make_room();
        let line = self.some_line();
        let who = self.who();
        let most = self.most;
        let floor = &mut self.floor;
        floor.say(|| format!("{act:?}, line {line}"));
        match act {
            Act::Delegate => {
                let leftover = if floor.dice.roll(4) == 0 { floor.dice.roll(50) } else { 0 };
                let kind = [Kind::Unix, Kind::Unix, Kind::Udp, Kind::UnixDatagram].get(floor.dice.roll(9));
                floor.delegate(who, kind.copied().unwrap_or(Kind::Tcp), leftover);
            }
            Act::DelegateAgain => floor.delegate_again(who, line),
            Act::Listen if floor.doors.len() < 3 => floor.listen(who),
            Act::Listen => {}
            Act::DropListener | Act::Knock if floor.doors.is_empty() => {}
            Act::DropListener => {
                let door = floor.dice.roll(floor.doors.len());
                let handle = floor.doors[door].handle.take();
                floor.owes_wake |= handle.is_some();
                who.run_whole(move || drop(handle));
            }
            Act::Knock => {
                let door = floor.dice.roll(floor.doors.len());
                floor.knock(door);
            }
            Act::Read => {
                let body = ops::random_read(&mut floor.dice, most);
                self.submit(line, body, who);
            }
            Act::Write => {
                let lease = if floor.dice.roll(3) == 0 { floor.leases.pop() } else { None };
                let body = ops::random_write(&mut floor.dice, most, lease, floor.lines[line].messages.is_some());
                self.submit(line, body, who);
            }
            Act::ShutDownWrite => self.submit(line, Body::ShutDown, who),
            Act::Close => self.submit(line, Body::Close, who),
            Act::Release => self.submit(line, Body::Release, who),
            Act::Abort => self.submit(line, Body::Abort, who),
            Act::IntoFd => self.submit(line, Body::IntoFd, who),
            Act::CloneHandle => {
                if let Some(conn) = floor.lines[line].handles.first().cloned() {
                    floor.lines[line].handles.push(conn);
                }
            }
            Act::DropHandle => {
                if let Some(conn) = floor.lines[line].handles.pop() {
                    who.run_whole(move || drop(conn));
                    floor.dropped_one(who, line);
                }
            }
            Act::Cancel => floor.cancel(who),
            Act::Timer => {
                let time = Duration::from_micros(floor.dice.roll(20_000_000) as u64 >> floor.dice.roll(20));
                let named = floor.dice.roll(2) == 0;
                floor.timer(who, time, named);
            }
            Act::CancelTimer => floor.cancel_timer(who),
            Act::Connect => floor.connect(who),
            Act::Answer => drop(floor.answer()),
            Act::CancelConnect => floor.cancel_connect(who),
            Act::Post => floor.post(who),
            Act::PostAndWait => self.post_and_wait(who),
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
            Act::Leave => self.leave(),
            Act::Resume => self.resume(false),
            Act::SetLimits => {
                let limits = random_limits(&mut floor.dice);
                floor.set_limits(who, limits);
            }
            Act::Shutdown => {
                // In one run of a few.
                if floor.dice.roll(8) == 0 {
                    self.shut_down(who);
                }
            }
            _ => self.act_as_peer(act, line),
        }
    }

    fn act_as_peer(&mut self, act: Act, line: usize) {
        let (most, floor) = (self.most, &mut self.floor);
        let line = &mut floor.lines[line];
        match act {
            // Messages have no marks and no end.
            Act::PeerMarks | Act::PeerEnds if line.messages.is_some() => {}
            Act::PeerSends => line.peer_sends(1 + floor.dice.roll(most)),
            Act::PeerReceives => drop(line.peer_receives(1 + floor.dice.roll(most))),
            Act::PeerMarks => {
                let Some(peer) = &line.peer else { return };
                if line.kind == Kind::Tcp {
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
                if matches!(act, Act::PeerResets) && line.kind == Kind::Tcp {
                    return peer.reset();
                }
                line.peer_ended = line.messages.is_none();
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

    fn submit(&mut self, line: usize, body: Body, who: Who<'_>) {
        let dice = &mut self.floor.dice;
        let within = (dice.roll(4) == 0).then(|| Duration::from_micros(dice.roll(4_000_000) as u64 >> dice.roll(22)));
        let named = dice.roll(4) == 0;
        let handle = dice.roll(3);
        self.floor.submit(line, handle, Spec { body, within, named }, who);
    }

    /// What was posted must come, and nothing may have to happen for it.
    fn post_and_wait(&mut self, who: Who<'_>) {
        if self.floor.shut_down {
            return;
        }
        self.floor.post(who);
        self.resume(true);
        self.come_back();
        let mut turns = 0;
        while !self.floor.has_no_posts() {
            self.turn_for(None, usize::MAX);
            turns += 1;
            assert!(turns < 1_000, "a post does not come");
        }
    }

    pub(crate) fn shut_down(&mut self, who: Who<'_>) {
        let grace = Duration::from_micros(self.floor.dice.roll(2_000_000) as u64 >> self.floor.dice.roll(22));
        let submitter = self.floor.submitter().clone();
        self.floor.shut_down = true;
        self.floor.owes_wake = true;
        who.run_whole(move || submitter.shutdown(grace));
    }
}
