//! A test bench for protocols: bytes, messages and time by hand, no socket and no thread.
//!
//! A [`Bench`] drives one session as a loop does, on a clock of its own. [`fragmentations`] holds a protocol to the first
//! rule of framing: how the bytes were cut on their way must not matter. [`Wire`] lets two protocols talk to each other
//! in virtual time.

mod fragments;
mod wire;

pub use fragments::fragmentations;
pub use wire::Wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::event_loop::inbox::nanos;
use crate::typed::address::{Address, Post, SendError};
use crate::typed::connecting::To;
use crate::typed::expect::{Expect, Seen};
use crate::typed::io::Effect;
use crate::typed::limits::SessionLimits;
use crate::typed::machine::{self, Doom, Fate, Machine};
use crate::typed::output::Output;
use crate::typed::protocol::{End, Protocol};
use crate::typed::spares::Spares;

/// Messages that were sent to the session, and that it has not been handed yet.
struct Letters<M>(Mutex<Vec<M>>);

impl<M: Send> Post<M> for Letters<M> {
    fn post(&self, _token: u64, message: M) -> Result<(), SendError<M>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(message);
        Ok(())
    }
}

/// One session under test.
///
/// ```
/// use gaio::testkit::Bench;
/// use gaio::{Expect, Io, Next, Protocol};
/// use std::time::Duration;
///
/// struct Echo;
/// impl Protocol for Echo {
///     type Message = ();
///     fn expects(&self) -> Expect {
///         Expect::until(b"\n").at_most(100).within(Duration::from_secs(5))
///     }
///     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
///         io.write(line);
///         io.write(b"!\n");
///         Next::Become(self)
///     }
/// }
///
/// let mut bench = Bench::new(Echo);
/// bench.receive(b"one\ntw");
/// assert_eq!(bench.written(), b"one!\n");
/// bench.advance(Duration::from_secs(6)); // the second line took too long
/// assert!(matches!(bench.ended(), Some(gaio::End::TimedOut(_))));
/// ```
pub struct Bench<P: Protocol> {
    machine: Machine<P>,
    bench: machine::Bench<P>,
    letters: Arc<Letters<P::Message>>,
    written: Vec<u8>,
    timers: BTreeMap<u64, u64>,
    connects: Vec<(SocketAddr, P)>,
    unix_connects: Vec<(PathBuf, P)>,
    groups: Vec<u64>,
    blocked: bool,
    /// Bytes have arrived that were not looked at.
    news: bool,
    /// The peer has ended its output.
    eof: bool,
    end: Option<End>,
}

impl<P: Protocol> Bench<P> {
    /// Begins a session in this state: `on_open` is called.
    #[must_use]
    pub fn new(state: P) -> Self {
        Self::with(state, SessionLimits::default())
    }

    /// As [`new`](Self::new), with limits.
    #[must_use]
    pub fn with(state: P, limits: SessionLimits) -> Self {
        let letters = Arc::new(Letters(Mutex::new(Vec::new())));
        let bench = machine::Bench {
            scratch: Output::default(),
            effects: Vec::new(),
            post: letters.clone(),
            spare: Spares::new(),
            outputs: Spares::new(),
            limits,
            now: 1,
        };
        let mut new = Self {
            machine: Machine::new(state),
            bench,
            letters,
            written: Vec::new(),
            timers: BTreeMap::new(),
            connects: Vec::new(),
            unix_connects: Vec::new(),
            groups: Vec::new(),
            blocked: false,
            news: false,
            eof: false,
            end: None,
        };
        let opened = new.machine.guarded(&mut new.bench, 1, P::on_open);
        new.after(opened);
        new
    }

    /// The session's state; `None` once it has ended.
    #[must_use]
    pub const fn state(&self) -> Option<&P> {
        if self.end.is_some() { None } else { self.machine.state() }
    }

    /// What it waits for.
    #[must_use]
    pub fn expects(&self) -> Option<Expect> {
        self.machine.expects()
    }

    /// How it has ended, if it has.
    #[must_use]
    pub const fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Takes what it has written since this was last asked.
    pub fn written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.written)
    }

    /// Bytes it has written that its peer has not taken; see [`block`](Self::block).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.machine.queued(&self.bench)
    }

    /// Has it ended its output?
    #[must_use]
    pub const fn has_ended_output(&self) -> bool {
        self.machine.end_output
    }

    /// The connections it has opened, with their states.
    pub fn connects(&mut self) -> Vec<(SocketAddr, P)> {
        std::mem::take(&mut self.connects)
    }

    /// Those to Unix listeners.
    pub fn unix_connects(&mut self) -> Vec<(PathBuf, P)> {
        std::mem::take(&mut self.unix_connects)
    }

    /// The groups it is in.
    #[must_use]
    pub fn groups(&self) -> &[u64] {
        &self.groups
    }

    /// Its address. What is sent there is handed over by [`deliver`](Self::deliver).
    #[must_use]
    pub fn address(&self) -> Address<P::Message> {
        Address::new(self.letters.clone(), 1)
    }

    /// Bytes arrive, in one piece. Where the session pauses they wait.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.end.is_some() || bytes.is_empty() {
            return;
        }
        if let Some(partial) = &mut self.machine.partial {
            partial.bytes.extend_from_slice(bytes);
        } else {
            self.machine.keep(&mut self.bench, bytes, Seen::default());
        }
        self.news = true;
        self.after(Ok(()));
    }

    /// Hands over the frames that are there.
    fn feed(&mut self) -> Result<(), Doom> {
        self.news = false;
        let Self { machine, bench, written, blocked, .. } = self;
        let Some(mut partial) = machine.partial.take() else { return Ok(()) };
        let (consumed, fed) = machine.feed(bench, 1, &partial.bytes, &mut partial.seen, &mut { u32::MAX });
        settle(machine, bench, &partial.bytes, *blocked, written);
        machine.put_back(bench, partial, consumed);
        fed
    }

    /// The peer ends its output. Told behind all frames: where the session pauses, it waits.
    pub fn eof(&mut self) {
        self.eof = true;
        self.after(Ok(()));
    }

    /// Input that has arrived and was not consumed: of a session that has left, what goes with the socket.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.machine.partial.as_ref().map_or(&[], |partial| &partial.bytes)
    }

    /// A message arrives.
    pub fn message(&mut self, message: P::Message) {
        if self.end.is_none() {
            let handed = self.machine.guarded(&mut self.bench, 1, |state, io| state.on_message(message, io));
            self.after(handed);
        }
    }

    /// Hands over the messages that were sent to its address.
    pub fn deliver(&mut self) {
        let letters = std::mem::take(&mut *self.letters.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        letters.into_iter().for_each(|message| self.message(message));
    }

    /// The server shuts down.
    pub fn shutdown(&mut self) {
        if self.end.is_none() {
            let told = self.machine.guarded(&mut self.bench, 1, P::on_shutdown);
            self.after(told);
        }
    }

    /// While blocked the peer takes no output: it is queued, and the water marks count.
    pub fn block(&mut self, blocked: bool) {
        self.blocked = blocked;
        self.after(Ok(()));
    }

    /// Time passes. Timers and time limits come in their order.
    pub fn advance(&mut self, time: Duration) {
        let until = self.bench.now.saturating_add(nanos(time));
        while self.end.is_none() {
            let timer = self.timers.iter().map(|(name, at)| (*at, Some(*name))).min();
            let next = [timer, self.machine.due().map(|due| (due, None))].into_iter().flatten().min();
            let Some((at, which)) = next.filter(|(at, _)| *at <= until) else { break };
            self.bench.now = self.bench.now.max(at);
            let called = match which {
                Some(name) => {
                    self.timers.remove(&name);
                    self.machine.guarded(&mut self.bench, 1, |state, io| state.on_timer(name, io))
                }
                None => self.machine.overdue(&mut self.bench, 1),
            };
            self.after(called);
        }
        self.bench.now = self.bench.now.max(until);
    }

    /// Carries out what callbacks asked for, and goes on as far as it goes, in the loop's order: output, room for more of
    /// it, input, its end.
    fn after(&mut self, mut called: Result<(), Doom>) {
        while self.end.is_none() {
            self.carry_out();
            if let Err(doom) = called {
                return self.finish(*doom);
            }
            let Self { machine, bench, written, blocked, .. } = self;
            settle(machine, bench, &[], *blocked, written);
            called = if machine.is_drained(bench) {
                machine.drained(bench, 1)
            } else if !machine.wants_input() || machine.eof_told {
                return;
            } else if (self.news || machine.is_unfed()) && machine.partial.is_some() {
                self.feed()
            } else if self.eof {
                machine.eof_told = true;
                machine.eof(bench, 1)
            } else {
                return;
            };
        }
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.bench.effects) {
            match effect {
                Effect::Timer { name, time } => {
                    self.timers.insert(name, self.bench.now.saturating_add(nanos(time)));
                }
                Effect::CancelTimer { name } => {
                    self.timers.remove(&name);
                }
                Effect::Connect { to: To::Tcp(address), state } => self.connects.push((address, state)),
                Effect::Connect { to: To::Unix(path), state } => self.unix_connects.push((path, state)),
                Effect::Join { group } if !self.groups.contains(&group) => self.groups.push(group),
                Effect::Join { .. } => {}
                Effect::Leave { group } => self.groups.retain(|joined| *joined != group),
            }
        }
    }

    fn finish(&mut self, fate: Fate) {
        let goes_out = !matches!(fate, Fate::End(_));
        let end = match fate {
            Fate::Close => End::Closed,
            Fate::Leave(_) => End::Left,
            Fate::CloseAs(end) | Fate::End(end) => end,
        };
        if goes_out {
            settle(&mut self.machine, &mut self.bench, &[], false, &mut self.written);
        }
        self.groups.clear();
        self.machine.end(&end);
        self.end = Some(end);
    }
}

/// Moves output to where it is read, or to the backlog.
fn settle<P: Protocol>(
    machine: &mut Machine<P>,
    bench: &mut machine::Bench<P>,
    input: &[u8],
    blocked: bool,
    written: &mut Vec<u8>,
) {
    if let (false, Some(mut backlog)) = (blocked, machine.backlog.take_if(|_| !blocked)) {
        written.extend(backlog.take(&[]));
    }
    if !blocked {
        written.extend(bench.scratch.take(input));
    } else if bench.scratch.queued() > 0 {
        machine.backlog = Some(Box::new(bench.scratch.keep(input)));
    }
}

impl<P: Protocol> std::fmt::Debug for Bench<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("written", &self.written.len()).field("end", &self.end).finish_non_exhaustive()
    }
}

impl<P: Protocol> Bench<P> {
    /// When something is due, in nanoseconds since the beginning, counted from 1.
    pub(super) fn next_instant(&self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        self.timers.values().copied().chain(self.machine.due()).min()
    }
}
