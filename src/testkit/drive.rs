//! What a bench does by itself: it carries out, goes on, and ends, as the loop does.

use std::collections::BTreeMap;

use crate::event_loop::inbox::nanos;
use crate::sys::Errno;
use crate::testkit::Bench;
use crate::typed::connecting::To;
use crate::typed::io::Effect;
use crate::typed::machine::{self, Doom, Fate, Machine};
use crate::typed::protocol::{End, Protocol};

/// Who asks for time limits and timers at once, again and again, has them so far apart: as on a loop, about a
/// millisecond.
pub(super) const TICK: u64 = 1 << 20;

/// What is around the session: its peer, its timers, its end.
#[derive(Default)]
pub(super) struct World {
    /// Output that the peer has taken.
    pub(super) written: Vec<u8>,
    /// The peer takes none.
    pub(super) blocked: bool,
    /// Bytes have arrived that were not looked at.
    pub(super) news: bool,
    /// The peer has ended its output.
    pub(super) eof: bool,
    /// The peer has reset the connection.
    pub(super) torn: bool,
    /// When each is due, by its name; and which of all that were set it is.
    pub(super) timers: BTreeMap<u64, (u64, u64)>,
    timers_set: u64,
    /// A timer that is set now is for so long at least.
    pub(super) timer_least: u64,
    /// A time limit does not pass before this.
    pub(super) limit_from: u64,
    pub(super) groups: Vec<u64>,
    /// How it is to end, and when the time for that is over.
    pub(super) closing: Option<(Fate, u64)>,
    pub(super) end: Option<End>,
    /// It has ended by a reset.
    resets: bool,
    /// What its peer was told of its end.
    signed: Option<bool>,
}

impl World {
    /// Moves output to where it is read, or to the backlog.
    fn take<P: Protocol>(&mut self, machine: &mut Machine<P>, bench: &mut machine::Bench<P>, input: &[u8]) {
        if !self.blocked && !self.torn {
            self.written.extend(machine.backlog.take().map_or_else(Vec::new, |mut backlog| backlog.take(&[])));
            self.written.extend(bench.scratch.take(input));
        } else if bench.scratch.queued() > 0 {
            machine.backlog = Some(Box::new(bench.scratch.keep(input)));
        }
    }
}

impl<P: Protocol> Bench<P> {
    /// What comes next, and when: a timer, by its name, or a time limit.
    pub(super) fn next(&self) -> Option<(u64, Option<u64>)> {
        if self.world.end.is_some() {
            return None;
        }
        if let Some((_, until)) = &self.world.closing {
            return Some((*until, None));
        }
        // Of one instant in the order in which they were set, as on a loop.
        let timers = self.world.timers.iter().map(|(name, (at, number))| (*at, *number, *name));
        let timer = timers.min().map(|(at, _, name)| (at, Some(name)));
        let limit = self.machine.due().map(|due| (due.max(self.world.limit_from), None));
        [timer, limit].into_iter().flatten().min()
    }

    pub(super) const fn is_open(&self) -> bool {
        self.world.end.is_none() && self.world.closing.is_none()
    }

    /// Carries out what callbacks asked for, and goes on as far as it goes, in the loop's order: output, room for more
    /// of it, input, its end.
    pub(super) fn after(&mut self, mut called: Result<(), Doom>) {
        while self.world.end.is_none() {
            self.carry_out();
            if let Err(doom) = called {
                let until = self.bench.now.saturating_add(nanos(self.bench.limits.close_within));
                self.world.closing = Some((*doom, until));
            }
            if matches!(self.world.closing, Some((Fate::End(_), _))) {
                self.bench.scratch.clear();
            }
            let Self { machine, bench, world, .. } = self;
            world.take(machine, bench, &[]);
            called = if world.closing.is_some() {
                return self.close();
            } else if world.torn && machine.queued(bench) > 0 {
                Err(End::Os(Errno::CONNRESET.into()).into())
            } else if machine.is_drained(bench) {
                machine.drained(bench, 1)
            } else if !machine.wants_input() || machine.eof_told {
                return;
            } else if (world.news || machine.is_unfed()) && machine.partial.is_some() {
                self.feed()
            } else if world.torn {
                Err(End::Os(Errno::CONNRESET.into()).into())
            } else if world.eof {
                machine.eof_told = true;
                machine.eof(bench, 1)
            } else {
                return;
            };
        }
    }

    /// Hands over the frames that are there.
    fn feed(&mut self) -> Result<(), Doom> {
        let Self { machine, bench, world, .. } = self;
        world.news = false;
        let Some(mut partial) = machine.partial.take() else { return Ok(()) };
        let (consumed, fed) = machine.feed(bench, 1, &partial.bytes, &mut partial.seen, &mut { u32::MAX });
        world.take(machine, bench, &partial.bytes);
        machine.put_back(bench, partial, consumed);
        fed
    }

    fn carry_out(&mut self) {
        let Self { bench, world, .. } = self;
        for effect in bench.effects.drain(..) {
            match effect {
                Effect::Timer { name, time } => {
                    world.timers_set += 1;
                    let at = bench.now.saturating_add(nanos(time).max(world.timer_least));
                    world.timers.insert(name, (at, world.timers_set));
                }
                Effect::CancelTimer { name } => {
                    world.timers.remove(&name);
                }
                Effect::Connect { to: To::Tcp(address), state } => self.connects.push((address, state)),
                Effect::Connect { to: To::Unix(path), state } => self.unix_connects.push((path, state)),
                Effect::Join { group } if !world.groups.contains(&group) => world.groups.push(group),
                Effect::Join { .. } => {}
                Effect::Leave { group } => world.groups.retain(|joined| *joined != group),
            }
        }
    }

    /// Ends it, unless it waits for output that is to go out first. What makes a reset of the end is as on a loop.
    fn close(&mut self) {
        let (unsent, torn) = (self.queued() > 0, self.world.torn);
        let Some((fate, until)) = self.world.closing.take() else { return };
        let at_once = matches!(fate, Fate::End(_));
        if unsent && !torn && !at_once && self.bench.now < until {
            self.world.closing = Some((fate, until));
            return;
        }
        let end = match fate {
            Fate::CloseAs(end) | Fate::End(end) => end,
            _ if unsent && torn => End::Os(Errno::CONNRESET.into()),
            _ if unsent => End::CloseTimedOut,
            Fate::Close => End::Closed,
            Fate::Leave(_) => End::Left,
        };
        self.world.resets = unsent || at_once && !matches!(end, End::CutShort { .. });
        self.world.groups.clear();
        self.machine.end(&end);
        self.world.end = Some(end);
    }

    pub(super) fn has_letters(&self) -> bool {
        self.is_open() && !self.letters.open().0.is_empty()
    }

    /// Behind what it has written its peer sees a clean end now, or a reset (true). Told once; not of who leaves the loop, since
    /// the socket lives on.
    pub(super) fn sign(&mut self) -> Option<bool> {
        let ended = self.world.end.as_ref().is_some_and(|end| !matches!(end, End::Left));
        let ends = ended || self.machine.end_output && self.queued() == 0;
        let news = ends.then_some(self.world.resets).filter(|sign| self.world.signed != Some(*sign));
        self.world.signed = news.or(self.world.signed);
        news
    }
}
