//! Everything around the loop: connections, listeners, timers, what is in flight, and what each event must be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use gaio::sim::{Dice, Fault, Remote, Socket, World};
use gaio::{Conn, DelegateErrorKind, Event, Lease, Limits, OpError, Outcome, SubmitErrorKind, Submitter, TimerId};

use crate::connects::Connect;
use crate::doors::Door;
use crate::foreign::Who;
use crate::model::{Kind, Line, Op, Ticket, Times, Verb, input};
use crate::ops::{self, Spec};

/// A timer that was accepted.
#[derive(Debug)]
struct Alarm {
    at: Duration,
    name: Option<TimerId>,
    cancelled: bool,
}

pub(crate) struct Floor {
    pub(crate) world: World,
    submitter: Option<Submitter<Ticket>>,
    /// The loop is embedded: its thread is the script's.
    pub(crate) local: bool,
    /// The loop has a thread, and the consumer drives it, on the script's.
    pub(crate) driven: bool,
    pub(crate) limits: Limits,
    /// The largest that the limits on operations and sessions ever were.
    pub(crate) most_ops: usize,
    pub(crate) most_sessions: usize,
    pub(crate) dice: Dice,
    pub(crate) lines: Vec<Line>,
    pub(crate) doors: Vec<Door>,
    pub(crate) ops: BTreeMap<usize, Op>,
    alarms: BTreeMap<usize, Alarm>,
    posts: BTreeMap<usize, ()>,
    pub(crate) connects: BTreeMap<usize, Connect>,
    pub(crate) remotes: Vec<Remote>,
    next: usize,
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) shut_down: bool,
    /// Nothing is submitted any more.
    pub(crate) calm: bool,
    pub(crate) leases: Vec<Lease>,
    /// Handed out so far.
    pub(crate) events: usize,
    /// Submissions in the ring, at most.
    pub(crate) in_ring: usize,
    /// Pushes that stand still.
    pub(crate) stalls: usize,
    /// Connections with something in the ring behind them. What the loop's own thread submits may overtake that.
    held_up: BTreeSet<usize>,
    /// Something waits for a turn that was handed in on the loop's thread since the last one; by others.
    pub(crate) owes_turn: bool,
    pub(crate) owes_wake: bool,
    /// What other threads did to the loop: how often each.
    pub(crate) tally: BTreeMap<&'static str, u64>,
    traced: bool,
}

impl Floor {
    pub(crate) fn new(world: World, submitter: Submitter<Ticket>, local: bool, limits: Limits, dice: Dice) -> Self {
        Self {
            world,
            submitter: Some(submitter),
            local,
            driven: false,
            most_ops: limits.ops,
            most_sessions: limits.sessions,
            limits,
            dice,
            lines: Vec::new(),
            doors: Vec::new(),
            ops: BTreeMap::new(),
            alarms: BTreeMap::new(),
            posts: BTreeMap::new(),
            connects: BTreeMap::new(),
            remotes: Vec::new(),
            next: 0,
            live: Arc::new(AtomicUsize::new(0)),
            shut_down: false,
            calm: false,
            leases: Vec::new(),
            events: 0,
            in_ring: 0,
            stalls: 0,
            held_up: BTreeSet::new(),
            owes_turn: false,
            owes_wake: false,
            tally: BTreeMap::new(),
            traced: std::env::var_os("GAIO_SIM_TRACE").is_some(),
        }
    }

    pub(crate) const fn submitter(&self) -> &Submitter<Ticket> {
        self.submitter.as_ref().expect("until the end")
    }

    /// Lets go of everything of the loop's.
    pub(crate) fn let_go(&mut self) {
        self.submitter = None;
        self.doors.clear();
        self.leases.clear();
        for line in &mut self.lines {
            line.handles.clear();
            line.detached = None;
        }
    }

    /// Beside what the world says, if it is asked to.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>20} {}", "", what());
        }
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket::new(self.next, &self.live)
    }

    pub(crate) fn happened(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|fault| self.times(*fault) > 0)
    }

    pub(crate) fn times(&self, fault: Fault) -> u64 {
        self.world.faults()[fault as usize].1
    }

    fn history(&self) -> Times {
        Times {
            now: self.world.now(),
            shut_down: self.shut_down,
            cuts: self.happened(&[Fault::Reset, Fault::ResetBehindData]),
            refusals: self.happened(&[Fault::NotRegistered]),
        }
    }

    /// What was accepted and has not come back.
    pub(crate) fn outstanding(&self) -> usize {
        self.ops.len() + self.alarms.len() + self.posts.len() + self.connects.len()
    }

    pub(crate) fn has_timers(&self) -> bool {
        !self.alarms.is_empty() || !self.posts.is_empty()
    }

    pub(crate) fn has_no_posts(&self) -> bool {
        self.posts.is_empty()
    }

    pub(crate) fn count(&mut self, kind: &'static str, times: u64) {
        *self.tally.entry(kind).or_insert(0) += times;
    }

    // --- the way in ---

    /// Does what it hands in take no way through the ring? A consumer that drives has no local queue between its waits.
    pub(crate) const fn is_local(&self, who: Who<'_>) -> bool {
        (self.local || self.driven && self.in_ring == 0) && matches!(who, Who::Script)
    }

    /// Who may submit without waiting for room: nobody would make any meanwhile.
    pub(crate) fn with_room<'f>(&self, who: Who<'f>) -> Option<Who<'f>> {
        if self.is_local(who) || self.in_ring < self.limits.ring_slots {
            return Some(who);
        }
        self.local.then_some(Who::Script)
    }

    /// The loop was given something.
    pub(crate) fn handed_in(&mut self, who: Who<'_>, line: Option<usize>) {
        self.say(|| format!("handed in: {}", if self.is_local(who) { "here" } else { "through the ring" }));
        if self.is_local(who) {
            // Behind what is in the ring it waits for the next turn; otherwise it was taken up at once.
            self.owes_turn |= self.in_ring > 0;
            return;
        }
        self.in_ring += 1;
        if self.stalls > 0 {
            self.held_up.extend(line);
        } else {
            self.owes_wake = true;
        }
    }

    /// The same, with what came of it. A push that stands still has succeeded.
    pub(crate) fn accepted<T, E>(
        &mut self,
        who: Who<'_>,
        line: Option<usize>,
        answer: Option<Result<T, E>>,
    ) -> Result<Option<T>, E> {
        if answer.is_none() {
            self.stalls += 1;
            self.count("StalledProducer", 1);
        }
        let answer = answer.transpose()?;
        self.handed_in(who, line);
        Ok(answer)
    }

    /// One that stood still has gone on.
    pub(crate) fn resumed(&mut self) {
        self.stalls -= 1;
        self.owes_wake = true;
        if self.stalls == 0 {
            self.held_up.clear();
        }
    }

    /// The loop has taken up all that was there when this turn began.
    pub(crate) fn taken_up(&mut self) {
        (self.owes_turn, self.owes_wake) = (false, false);
        if self.stalls == 0 {
            self.in_ring = 0;
        }
    }

    /// Other limits, while it runs.
    pub(crate) fn set_limits(&mut self, who: Who<'_>, mut limits: Limits) {
        (limits.ring_slots, limits.arena) = (self.limits.ring_slots, self.limits.arena);
        let (submitter, new) = (self.submitter().clone(), limits.clone());
        who.run_whole(move || submitter.set_limits(new)).expect("good limits, and the fixed ones as they were");
        self.most_ops = self.most_ops.max(limits.ops);
        self.most_sessions = self.most_sessions.max(limits.sessions);
        self.limits = limits;
        self.owes_wake = true;
    }

    // --- connections ---

    /// Of what is not a stream nothing was read before.
    pub(crate) fn delegate(&mut self, who: Who<'_>, kind: Kind, leftover: usize) {
        let Some(who) = self.with_room(who) else { return };
        let (socket, peer) = match kind {
            Kind::Tcp => self.world.pair(),
            Kind::Unix => self.world.unix_pair(),
            Kind::Udp => self.world.udp_pair(),
            Kind::UnixDatagram => self.world.unix_datagram_pair(),
        };
        let index = self.lines.len();
        let mut line = Line::new(index, kind, peer);
        let leftover = if line.messages.is_some() { 0 } else { leftover };
        line.sent = leftover;
        self.lines.push(line);
        let leftover: Vec<u8> = (0..leftover).map(|at| input(index, at)).collect();
        self.hand_over(who, index, socket, leftover.into());
    }

    pub(crate) fn delegate_again(&mut self, who: Who<'_>, index: usize) {
        let Some(who) = self.with_room(who) else { return };
        let line = &mut self.lines[index];
        if line.outstanding > 0 {
            return;
        }
        if let Some((socket, leftover)) = line.detached.take() {
            (line.over, line.ending, line.again) = (false, None, true);
            self.hand_over(who, index, socket, leftover);
        }
    }

    fn hand_over(&mut self, who: Who<'_>, index: usize, socket: Socket, leftover: Bytes) {
        let submitter = self.submitter().clone();
        match who.run_whole(move || submitter.delegate_with(socket, leftover)) {
            Ok(conn) => {
                self.lines[index].handles.push(conn);
                self.handed_in(who, Some(index));
            }
            Err(error) => match error.kind {
                DelegateErrorKind::Closed => assert!(self.shut_down),
                DelegateErrorKind::TooMany => {
                    assert!(self.submitter().counters().sessions as usize >= self.limits.sessions);
                }
                // A datagram socket that has found its peer dead.
                DelegateErrorKind::Unsupported(_) => {
                    let line = &self.lines[index];
                    assert!(line.again && line.peer_gone && line.messages.is_some(), "refused: {line:?}");
                }
                kind => panic!("{kind:?}"),
            },
        }
    }

    // --- submissions ---

    /// Submits an operation on one of the line's handles, from the loop's thread or from another.
    pub(crate) fn submit(&mut self, index: usize, handle: usize, spec: Spec, who: Who<'_>) {
        let Some(conn) = self.lines[index].handles.get(handle).cloned() else { return };
        self.submit_on(index, conn, spec, who);
    }

    pub(crate) fn submit_on(&mut self, index: usize, conn: Conn<Ticket>, mut spec: Spec, who: Who<'_>) {
        if self.is_local(who) && self.held_up.contains(&index) && !spec.verb().ends() {
            return; // Whether it goes before or behind them would be nobody's promise.
        }
        spec.named &= !matches!(who, Who::Stalls(_));
        let (verb, bytes, identity) = (spec.verb(), spec.bytes(), spec.identity());
        let borrowed = spec.is_borrowed();
        let deadline = spec.within.map(|time| self.world.now() + time);
        let of_streams = matches!(verb, Verb::Exact(_) | Verb::ShutDown);
        let ticket = self.ticket();
        let id = ticket.id;
        self.say(|| format!("line {index}: {id} is {verb:?}, {} bytes, until {deadline:?}", bytes.len()));
        let answer = who.run(move || spec.submit(&conn, ticket));
        match self.accepted(who, Some(index), answer) {
            Ok(name) => {
                assert!(!of_streams || self.lines[index].messages.is_none(), "{verb:?} of messages");
                let name = name.flatten();
                let op =
                    Op { line: index, verb, len: bytes.len(), deadline, name, cancelled: false, identity, borrowed };
                self.lines[index].submitted(id, verb, bytes);
                self.ops.insert(id, op);
            }
            Err(error) => {
                assert_eq!(error.context.id, id);
                let back = error.buffer.as_ref().map(crate::model::identity).unwrap_or_default();
                assert!(identity.is_empty() || back == identity, "the buffer does not come back");
                assert!(!borrowed || error.buffer.is_none(), "a copy comes back");
                let right = match error.kind {
                    SubmitErrorKind::Closed => self.shut_down,
                    SubmitErrorKind::Full => !self.is_local(who) && self.in_ring >= self.limits.ring_slots,
                    SubmitErrorKind::NotAStream => of_streams && self.lines[index].messages.is_some(),
                    SubmitErrorKind::TooMany => !verb.ends() && self.is_at_a_limit(index),
                    _ => false,
                };
                assert!(right, "{verb:?} was refused: {error:?}");
            }
        }
    }

    fn is_at_a_limit(&self, index: usize) -> bool {
        let queued: usize = self.ops.values().map(|op| op.len).sum();
        self.lines[index].outstanding >= self.limits.ops_per_conn as usize
            || self.outstanding() >= self.limits.ops
            || queued as u64 >= self.limits.write_bytes
    }

    pub(crate) fn post(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let ticket = self.ticket();
        let (id, submitter) = (ticket.id, self.submitter().clone());
        let answer = who.run(move || submitter.post(ticket));
        match self.accepted(who, None, answer) {
            Ok(_) => drop(self.posts.insert(id, ())),
            Err(error) => self.refused(error.kind),
        }
    }

    pub(crate) fn timer(&mut self, who: Who<'_>, time: Duration, named: bool) {
        let Some(who) = self.with_room(who) else { return };
        let ticket = self.ticket();
        let (id, at, submitter) = (ticket.id, self.world.now() + time, self.submitter().clone());
        let named = named && !matches!(who, Who::Stalls(_));
        let answer = who.run(move || {
            let (mut timer, mut name) = (submitter.timer(time), None);
            if named {
                let (with_name, given) = timer.named();
                (timer, name) = (with_name, Some(given));
            }
            timer.submit_with(ticket).map(|()| name)
        });
        match self.accepted(who, None, answer) {
            Ok(name) => drop(self.alarms.insert(id, Alarm { at, name: name.flatten(), cancelled: false })),
            Err(error) => self.refused(error.kind),
        }
    }

    /// May what belongs to no connection be refused?
    pub(crate) fn may_refuse(&self, kind: SubmitErrorKind) -> bool {
        match kind {
            SubmitErrorKind::Closed => self.shut_down,
            SubmitErrorKind::TooMany => self.outstanding() >= self.limits.ops,
            _ => false,
        }
    }

    fn refused(&self, kind: SubmitErrorKind) {
        assert!(self.may_refuse(kind), "refused: {kind:?}");
    }

    /// Cancels some operation of those that have a name.
    pub(crate) fn cancel(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let named: Vec<usize> = self.ops.iter().filter(|(_, op)| op.name.is_some()).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&named) else { return };
        let op = self.ops.get_mut(&id).expect("it was in the list");
        let (Some(name), Some(conn)) = (op.name, self.lines[op.line].handles.first().cloned()) else { return };
        let line = op.line;
        if who.run_whole(move || conn.cancel(name)).is_ok() {
            op.cancelled = true;
            self.handed_in(who, Some(line));
        }
    }

    pub(crate) fn cancel_timer(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let named: Vec<usize> = self.alarms.iter().filter(|(_, a)| a.name.is_some()).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&named) else { return };
        let Some(name) = self.alarms[&id].name else { return };
        let submitter = self.submitter().clone();
        if who.run_whole(move || submitter.cancel_timer(name)).is_ok() {
            self.alarms.get_mut(&id).expect("it was in the list").cancelled = true;
            self.handed_in(who, None);
        }
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.dice.roll(of.len())]) }
    }

    // --- events ---

    pub(crate) fn on_event(&mut self, event: Event<'_, Ticket>) {
        self.events += 1;
        self.say(|| format!("{event:?}"));
        match event {
            Event::Done { conn, context, outcome } => self.on_done(conn, &context, outcome),
            Event::Accepted { conn, peer, listener } => self.on_accepted(conn, peer, listener),
            Event::ListenerEnded { listener, error } => self.on_listener_ended(listener, error.as_ref()),
            Event::Posted(context) => self.posts.remove(&context.id).expect("a post completes once"),
            Event::Timer { context, result } => {
                let alarm = self.alarms.remove(&context.id).expect("a timer completes once");
                let right = match result {
                    Ok(()) => alarm.at <= self.world.now(),
                    Err(OpError::Cancelled) => alarm.cancelled,
                    Err(OpError::Aborted) => self.shut_down,
                    Err(_) => false,
                };
                assert!(right, "a timer ended as {result:?}: {alarm:?}");
            }
            Event::Connected { context, result } => self.on_connected(&context, result),
            other => panic!("{other:?}"),
        }
    }

    fn on_done(&mut self, conn: Conn<Ticket>, context: &Ticket, outcome: Outcome<'_>) {
        let op = self.ops.remove(&context.id).expect("an operation completes once");
        let times = self.history();
        let line = &mut self.lines[op.line];
        line.completed(context.id, &op, &outcome, times);
        assert!(line.handles.iter().all(|handle| *handle == conn), "the handle of another connection");
        match outcome {
            Outcome::Detached(detached) => {
                let bytes: Vec<u8> = (0..detached.leftover.len()).map(|n| input(op.line, line.read + n)).collect();
                assert_eq!(detached.leftover, bytes);
                line.handles.clear();
                line.detached = Some((detached.socket, detached.leftover));
                drop(conn);
                return self.dropped_one(Who::Script, op.line);
            }
            Outcome::Leased(lease) if self.leases.len() < 4 && !lease.is_empty() => self.leases.push(lease),
            _ => {}
        }
        // From within the batch, as users do: something new, one more handle, or nothing.
        match self.dice.roll(4) {
            _ if self.calm => drop(conn),
            0 => {
                let body = match self.dice.roll(2) {
                    0 => ops::random_read(&mut self.dice, 40),
                    _ => ops::random_write(&mut self.dice, 40, None, false),
                };
                self.submit_on(op.line, conn, Spec { body, within: None, named: false }, Who::Script);
            }
            1 if !self.lines[op.line].over && self.lines[op.line].handles.len() < 3 => {
                self.lines[op.line].handles.push(conn);
            }
            _ => drop(conn),
        }
        self.dropped_one(Who::Script, op.line);
    }

    /// A handle was dropped: of the last one the loop must hear.
    pub(crate) fn dropped_one(&mut self, who: Who<'_>, line: usize) {
        // What is held up in the ring may have a handle, too.
        if self.lines[line].has_handles() || self.stalls > 0 {
            return;
        }
        if self.is_local(who) {
            self.owes_turn = true;
        } else {
            self.owes_wake = true;
        }
    }
}
