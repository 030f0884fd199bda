//! Where the world interferes with a call: every one that it may answer in the connection's place passes here.

use super::super::{Bits, Errno, Readiness};
use super::config::Clock;
use super::connection::{Connection, Side};
use super::faults::Fault;
use super::state::{Descriptor, EndId, State};

/// The most by which the clock jumps.
const FARTHEST_JUMP: u64 = 10_000_000_000;
/// So many waits in vain are a spin.
const SPIN: u32 = 10_000;

/// What is on its way, and comes before anybody sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Edge(Descriptor),
    /// Those who wait at this listener, and for whom it has room.
    Answers(Descriptor),
}

/// A call whose answer is not up to its caller alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Recv,
    Peek,
    Send,
    Accept,
    /// To begin to connect: there is no descriptor yet, and how it comes out is `addresses.rs`'s to say.
    Connect,
    /// To ask how that came out.
    Connected,
    Register,
    Wait,
}

/// System calls that were made on sockets, each try counted: what costs most on a real system.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Calls {
    /// Receives.
    pub receives: u64,
    /// Looks at what there is to receive, which leave it there.
    pub looks: u64,
    /// Sends.
    pub sends: u64,
    /// Accepts.
    pub accepts: u64,
}

impl Calls {
    const fn count(&mut self, verb: Verb) {
        match verb {
            Verb::Recv => self.receives += 1,
            Verb::Peek => self.looks += 1,
            Verb::Send => self.sends += 1,
            Verb::Accept => self.accepts += 1,
            Verb::Connect | Verb::Connected | Verb::Register | Verb::Wait => {}
        }
    }
}

impl State {
    /// Does this fault happen now? Then it counts.
    pub(super) fn befalls(&mut self, fault: Fault) -> bool {
        let chance = self.config.faults.chance_of(fault);
        let happens = self.config.faults.dice.chance(chance);
        if happens {
            self.count(fault);
        }
        happens
    }

    pub(super) const fn count(&mut self, fault: Fault) {
        self.tally[fault as usize] += 1;
    }

    /// An end in a test's hand, and whether it is deaf.
    pub(super) fn peer_of(&mut self, end: EndId) -> (EndId, bool) {
        (end, self.befalls(Fault::DeafPeer))
    }

    pub(super) const fn may_befall(&self, fault: Fault) -> bool {
        self.config.faults.chance_of(fault) > 0
    }

    /// Does something that the world may do in its own way: `act` is told how many of the `wanted` bytes it may move.
    pub(super) fn attempt<R: std::fmt::Debug>(
        &mut self,
        verb: Verb,
        descriptor: Option<Descriptor>,
        wanted: usize,
        act: impl FnOnce(&mut Self, usize) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.calls.count(verb);
        let answer = self.permit(verb, descriptor, wanted).and_then(|most| {
            let answer = act(self, most);
            if verb == Verb::Recv && most < wanted && answer.is_ok() {
                // The rest arrives just now.
                descriptor.into_iter().for_each(|descriptor| self.raise(descriptor));
            }
            answer
        });
        if answer.is_ok() {
            self.waits_in_vain = 0;
        }
        self.trace(verb, descriptor, &answer);
        answer
    }

    /// Every call asks here whether it may go on, and is answered with this error if not; or else with how many of the
    /// bytes it wants it may move. The one place where the world interferes. Whoever is answered EAGAIN although it could
    /// succeed has its edge.
    pub(super) fn permit(&mut self, verb: Verb, descriptor: Option<Descriptor>, wanted: usize) -> Result<usize, Errno> {
        self.fail(verb)?;
        let (index, bit) = match verb {
            Verb::Recv | Verb::Accept => (0, Bits::READABLE),
            Verb::Send | Verb::Connected => (1, Bits::WRITABLE),
            // Counted by itself: who looks before each receive would else be held back at one of the two for ever.
            Verb::Peek => (2, Bits::READABLE),
            Verb::Connect | Verb::Register | Verb::Wait => return Ok(wanted),
        };
        let Some(descriptor) = descriptor else { return Ok(wanted) };
        if verb == Verb::Accept {
            self.abort_first(descriptor)?;
        } else {
            self.cut(descriptor);
        }
        if !self.mask(descriptor).contains(bit) {
            return Ok(wanted);
        }
        if self.holds_back(descriptor, index) || self.befalls(Fault::Pending) {
            self.raise(descriptor);
            return Err(Errno::AGAIN);
        }
        Ok(self.shorten(verb, descriptor, wanted))
    }

    /// Answers that depend on nothing.
    fn fail(&mut self, verb: Verb) -> Result<(), Errno> {
        let ways: &[(Fault, Errno)] = match verb {
            Verb::Send => &[(Fault::NoBuffers, Errno::NOBUFS), (Fault::NoMemory, Errno::NOMEM)],
            Verb::Accept => &[(Fault::ProcessFull, Errno::MFILE), (Fault::SystemFull, Errno::NFILE)],
            Verb::Register => &[(Fault::NotRegistered, Errno::NOMEM)],
            Verb::Wait => &[(Fault::Interrupted, Errno::INTR)],
            Verb::Recv | Verb::Peek | Verb::Connect | Verb::Connected => &[],
        };
        if verb == Verb::Wait && self.befalls(Fault::ClockJump) {
            let ahead = 1 + self.config.faults.dice.next() % FARTHEST_JUMP;
            // Short ones are as likely as long ones.
            let ahead = ahead >> self.config.faults.dice.roll(32);
            self.advance_to(self.clock.saturating_add(ahead));
        }
        match ways.iter().find(|(fault, _)| self.befalls(*fault)) {
            Some((_, errno)) => Err(*errno),
            None => Ok(()),
        }
    }

    /// `pending_first`: every other attempt that could succeed.
    fn holds_back(&mut self, descriptor: Descriptor, index: usize) -> bool {
        if !self.config.pending_first {
            return false;
        }
        let pended = self.pended(descriptor, index);
        *pended = !*pended;
        let held_back = *pended;
        if held_back {
            self.count(Fault::PendingFirst);
        }
        held_back
    }

    /// An RST from nowhere.
    fn cut(&mut self, descriptor: Descriptor) {
        let unread = self.on_connection(descriptor, |connection, side| connection.can_be_cut(side)).ok().flatten();
        let fault = match unread {
            Some(true) => Fault::ResetBehindData,
            Some(false) => Fault::Reset,
            None => return,
        };
        if self.befalls(fault) {
            let _ = self.on_connection(descriptor, |connection, _| connection.cut());
        }
    }

    /// The first in the backlog goes before it is accepted.
    fn abort_first(&mut self, listener: Descriptor) -> Result<(), Errno> {
        if !self.has_backlog(listener) || !self.befalls(Fault::Aborted) {
            return Ok(());
        }
        self.drop_first(listener);
        Err(Errno::CONNABORTED)
    }

    fn shorten(&mut self, verb: Verb, descriptor: Descriptor, wanted: usize) -> usize {
        let (fault, most) = match verb {
            Verb::Recv => (Fault::ShortRead, self.on_connection(descriptor, Connection::unread)),
            Verb::Send => (Fault::ShortWrite, self.on_connection(descriptor, Connection::room)),
            _ => return wanted,
        };
        let most = most.unwrap_or(0).min(wanted);
        if most < 2 || !self.befalls(fault) {
            return wanted;
        }
        1 + self.config.faults.dice.roll(most - 1)
    }
}

/// What a connection has to offer to a fault.
impl Connection {
    /// May an RST come from nowhere? Says whether something is unread then.
    fn can_be_cut(&mut self, side: Side) -> Option<bool> {
        let plain = !self.unix && !self.datagrams;
        let open = Side::BOTH.iter().all(|side| !self.end(*side).closed && !self.end(*side).has_no_peer());
        (plain && open).then(|| !self.end(side).inbox.is_empty())
    }

    fn cut(&mut self) {
        Side::BOTH.iter().for_each(|side| self.end(*side).reset(false));
    }

    /// Bytes of which a read may bring a part: of a stream, up to the first mark, where it would stop anyway.
    fn unread(&mut self, side: Side) -> usize {
        let stream = !self.datagrams;
        let end = self.end(side);
        if stream { end.inbox.len().min(end.to_mark()) } else { 0 }
    }

    /// Bytes of which a send may take a part.
    fn room(&mut self, side: Side) -> usize {
        let (stream, capacity) = (!self.datagrams, self.capacity);
        let (_, other) = self.both(side);
        if stream { capacity.saturating_sub(other.inbox.len()) } else { 0 }
    }

    pub(super) fn has_fin_behind_data(&mut self, side: Side) -> bool {
        let end = self.end(side);
        end.eof && !end.inbox.is_empty()
    }
}

/// What is late.
impl State {
    /// Is this edge put off?
    pub(super) fn puts_off(&mut self, late: Late) -> bool {
        if self.late.contains(&late) {
            return true;
        }
        let fault = if matches!(late, Late::Edge(_)) { Fault::LateEdge } else { Fault::ConnectLate };
        let put_off = self.befalls(fault);
        if put_off {
            self.late.push_back(late);
            self.stir();
        }
        put_off
    }

    /// May anything still be late? If not, nothing stays so.
    const fn may_be_late(&self) -> bool {
        self.may_befall(Fault::LateEdge) || self.may_befall(Fault::ConnectLate)
    }

    /// What is late comes now. Says whether there was anything.
    pub(super) fn deliver(&mut self) -> bool {
        let late = std::mem::take(&mut self.late);
        for one in &late {
            match *one {
                Late::Edge(descriptor) => self.raise_now(descriptor),
                Late::Answers(listener) => self.answer_waiting(listener),
            }
        }
        !late.is_empty()
    }
}

/// What a wait has to do with it.
impl State {
    pub(super) fn begin_wait(&mut self, selector: Descriptor) -> Result<(), Errno> {
        let answer = self.permit(Verb::Wait, Some(selector), 0).map(drop);
        if answer.is_err() {
            self.trace(Verb::Wait, Some(selector), answer);
        } else if !self.late.is_empty() && (!self.may_be_late() || self.config.faults.dice.chance(512)) {
            self.deliver();
        }
        answer
    }

    pub(super) fn end_wait(&mut self, selector: Descriptor, events: &[Readiness]) {
        self.trace(Verb::Wait, Some(selector), events);
        if events.is_empty() {
            self.waits_in_vain += 1;
            let spins = self.config.alone && self.waits_in_vain > SPIN;
            assert!(!spins, "a loop that spins: {SPIN} waits had nothing to tell, and nothing was done in between");
        }
    }

    /// In a world with one thread nobody is there to end a sleep but the clock.
    pub(super) fn may_sleep(&self, deadline: Option<u64>) {
        let for_ever = deadline.is_none() || self.config.clock == Clock::Manual;
        assert!(!(self.config.alone && for_ever), "asleep for ever: nobody is there to wake it");
    }
}

/// What the world did, for whoever asks by `GAIO_SIM_TRACE`.
impl State {
    pub(super) fn trace(
        &self,
        what: impl std::fmt::Debug,
        descriptor: Option<Descriptor>,
        result: impl std::fmt::Debug,
    ) {
        if self.traced {
            let on = descriptor.map_or_else(String::new, |descriptor| format!(" {descriptor}"));
            eprintln!("{:>14} ns  {what:?}{on}: {result:?}", self.clock);
        }
    }
}
