//! One session, without a socket: state, input that is no whole frame yet, output that is not out yet, time limits.
//!
//! The loop and the test bench drive the same machine, so what a protocol does in a test it does on a loop.
//!
//! ```text
//!             bytes                          frames
//!   transport ─────► feed ── Expect::find ──► on_frame ──► Next ──► Become: on with the rest of the input
//!                     ▲                          │                  Close, Abort, Leave, a failure: `Fate`
//!        rest of the input is kept               └── Io: output (scratch, or the backlog), effects
//! ```
//!
//! A panic of a callback passes through here: the loop catches it, and ends the session; in a test it is the test's.
//!
//! Invariants:
//! - T1: `state` is `None` only while a callback runs, after one has panicked, and once `on_end` has it.
//! - T2: With a fate decided no callback follows but `on_end`, which is called once.
//! - T4, T7: Input is consumed only by frames; while reading is paused (output above the high-water mark, or a state that
//!   expects nothing) it waits here or in the system.
//! - T9: `due` is when the time limit of the frame or of the state is over, if there is one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::event_loop::inbox::nanos;
use crate::typed::address::Post;
use crate::typed::expect::{Expect, Found, Seen, What};
use crate::typed::io::{Effect, Io};
use crate::typed::limits::SessionLimits;
use crate::typed::output::Output;
use crate::typed::protocol::{End, Next, Protocol, TimeLimit};
use crate::typed::spares::Spares;
use crate::watcher::Detached;
use std::sync::Arc;

pub(crate) type Farewell = Box<dyn FnOnce(Detached) + Send>;

/// How a session is to end.
pub(crate) enum Fate {
    /// Output first, then the end.
    Close,
    /// The same, for this reason: the last word of a protocol whose peer has sent no frame.
    CloseAs(End),
    Leave(Farewell),
    /// At once.
    End(End),
}

/// A fate that is decided. Boxed: it is rare, and would make every result large.
pub(crate) type Doom = Box<Fate>;

impl From<End> for Doom {
    fn from(end: End) -> Self {
        Self::new(Fate::End(end))
    }
}

/// Input that is no whole frame yet.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    pub(crate) bytes: Vec<u8>,
    pub(crate) seen: Seen,
}

/// What all sessions of one loop use while they are served.
pub(crate) struct Bench<P: Protocol> {
    pub(crate) scratch: Output,
    pub(crate) effects: Vec<Effect<P>>,
    pub(crate) post: Arc<dyn Post<P::Message>>,
    /// For input that is no whole frame yet.
    pub(crate) spare: Spares<Partial>,
    /// For output that waits.
    pub(crate) outputs: Spares<Output>,
    pub(crate) limits: SessionLimits,
    /// The instant at which this turn began, in nanoseconds of the loop's clock.
    pub(crate) now: u64,
}

pub(crate) struct Machine<P> {
    state: Option<P>,
    pub(crate) partial: Option<Box<Partial>>,
    pub(crate) backlog: Option<Box<Output>>,
    due: u64,
    /// A frame has begun.
    in_frame: bool,
    /// The input that was kept may hold whole frames: feeding stopped for another reason than want of bytes.
    unfed: bool,
    /// Output went above the high-water mark, and has not been below the low one since.
    high: bool,
    pub(crate) end_output: bool,
    /// `on_eof` was called.
    pub(crate) eof_told: bool,
}

/// What of the budget of a step is left, in frames.
pub(crate) type Budget = u32;

impl<P: Protocol> Machine<P> {
    pub(crate) const fn new(state: P) -> Self {
        Self {
            state: Some(state),
            partial: None,
            backlog: None,
            due: 0,
            in_frame: false,
            unfed: false,
            high: false,
            end_output: false,
            eof_told: false,
        }
    }

    pub(crate) const fn state(&self) -> Option<&P> {
        self.state.as_ref()
    }

    pub(crate) fn expects(&self) -> Option<Expect> {
        self.state.as_ref().map(P::expects)
    }

    /// The instant by which a frame has to be there, or to have begun.
    pub(crate) const fn due(&self) -> Option<u64> {
        if self.due == 0 { None } else { Some(self.due) }
    }

    /// Is there output that waits, or that waited and was above the high-water mark?
    pub(crate) const fn has_output(&self) -> bool {
        self.backlog.is_some() || self.high || self.end_output
    }

    /// May input be taken in?
    pub(crate) fn wants_input(&self) -> bool {
        !self.high && self.expects().is_some_and(|expect| expect.what != What::Nothing)
    }

    /// Is there input that was taken in and not looked at to its end?
    pub(crate) const fn is_unfed(&self) -> bool {
        self.unfed && self.partial.is_some()
    }

    pub(crate) fn queued(&self, bench: &Bench<P>) -> usize {
        self.backlog.as_deref().unwrap_or(&bench.scratch).queued()
    }

    /// What the next callback writes waits for the session's step.
    pub(crate) fn write_later(&mut self, bench: &mut Bench<P>) {
        if self.backlog.is_none() {
            self.backlog = Some(bench.outputs.draw());
        }
    }

    /// Runs a callback. Whoever calls this has no fate decided.
    #[inline(always)]
    fn call(
        &mut self,
        bench: &mut Bench<P>,
        token: u64,
        input: &[u8],
        callback: impl FnOnce(P, &mut Io<'_, P>) -> Next<P>,
    ) -> Result<(), Doom> {
        let Some(state) = self.state.take() else { return Err(End::Panicked.into()) };
        let (output, input) = match &mut self.backlog {
            Some(backlog) => (&mut **backlog, &[][..]),
            None => (&mut bench.scratch, input),
        };
        let end_output = &mut self.end_output;
        let mut io = Io { output, input, effects: &mut bench.effects, end_output, post: &bench.post, token };
        let (state, fate) = match callback(state, &mut io) {
            Next::Become(state) => (state, Ok(())),
            Next::Close(state) => (state, Err(Box::new(Fate::Close))),
            Next::Abort(state) => (state, Err(End::Aborted.into())),
            Next::Leave(state, farewell) => (state, Err(Box::new(Fate::Leave(farewell)))),
        };
        self.state = Some(state);
        let queued = self.queued(bench);
        if queued > bench.limits.output {
            return Err(End::Overflow.into());
        }
        self.high |= queued > bench.limits.high_water;
        fate
    }

    /// Runs a callback. The time limit goes on, unless something else is expected now.
    pub(crate) fn guarded(
        &mut self,
        bench: &mut Bench<P>,
        token: u64,
        callback: impl FnOnce(P, &mut Io<'_, P>) -> Next<P>,
    ) -> Result<(), Doom> {
        let before = self.expects();
        let fate = self.call(bench, token, &[], callback);
        let now = self.expects();
        if now != before || now.is_some_and(|expect| expect.what == What::Custom) {
            self.look_again();
        }
        self.limit_anew(bench, now != before);
        fate
    }

    /// What was found out about the input that was kept holds no longer: it may be a frame by now. (A decoder may look at
    /// the state, so for it that is after each callback.)
    pub(crate) fn look_again(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.seen = Seen::default();
            self.unfed = true;
        }
    }

    /// Hands over the frames of the input, as far as the budget and the output allow, and says how many bytes of it they
    /// were.
    #[inline(always)]
    pub(crate) fn feed(
        &mut self,
        bench: &mut Bench<P>,
        token: u64,
        input: &[u8],
        seen: &mut Seen,
        budget: &mut Budget,
    ) -> (usize, Result<(), Doom>) {
        let mut at = 0;
        self.unfed = true;
        let fate = self.frames(bench, token, input, &mut at, seen, budget);
        let rest = at < input.len();
        // A frame's beginning and its end start a limit anew; bytes that arrive in its middle do not.
        let anew = at > 0 || rest != self.in_frame;
        self.in_frame = rest;
        self.limit_anew(bench, anew);
        (at, fate)
    }

    #[inline(always)]
    fn frames(
        &mut self,
        bench: &mut Bench<P>,
        token: u64,
        input: &[u8],
        at: &mut usize,
        seen: &mut Seen,
        budget: &mut Budget,
    ) -> Result<(), Doom> {
        while *budget > 0 && !self.high {
            let rest = &input[*at..];
            if rest.is_empty() {
                self.unfed = false;
                break;
            }
            let Some(state) = &self.state else { return Err(End::Panicked.into()) };
            let expect = state.expects();
            match expect.find(rest, seen, |input| state.decode(input)) {
                Found::Frame { skip, len, total } => {
                    *budget -= 1;
                    *seen = Seen::default();
                    *at += total;
                    self.call(bench, token, input, |state, io| state.on_frame(&rest[skip..skip + len], io))?;
                }
                Found::More => {
                    self.unfed = expect.what == What::Nothing;
                    break;
                }
                Found::TooLong => return Err(self.refuse(bench, token, End::TooLong { at_most: expect.at_most })),
                Found::Refused(why) => return Err(self.refuse(bench, token, End::Refused(why))),
            }
        }
        Ok(())
    }

    /// The input cannot become a frame: the session ends, but may have a last word.
    #[cold]
    fn refuse(&mut self, bench: &mut Bench<P>, token: u64, why: End) -> Doom {
        let before = self.queued(bench);
        let Some(state) = &mut self.state else { return End::Panicked.into() };
        let output = self.backlog.as_deref_mut().unwrap_or(&mut bench.scratch);
        let (effects, end_output) = (&mut bench.effects, &mut self.end_output);
        state.on_bad_frame(&why, &mut Io { output, input: &[], effects, end_output, post: &bench.post, token });
        match self.queued(bench) {
            queued if queued > bench.limits.output => End::Overflow.into(),
            queued if queued > before => Box::new(Fate::CloseAs(why)),
            _ => why.into(),
        }
    }

    /// Puts back what is left of input that was kept, fed so far.
    pub(crate) fn put_back(&mut self, bench: &mut Bench<P>, mut partial: Box<Partial>, consumed: usize) {
        if consumed < partial.bytes.len() {
            partial.bytes.drain(..consumed);
            self.partial = Some(partial);
        } else {
            partial.bytes.clear();
            bench.spare.give(partial);
        }
    }

    /// Keeps what is left of the input.
    pub(crate) fn keep(&mut self, bench: &mut Bench<P>, rest: &[u8], seen: Seen) {
        let mut partial = bench.spare.draw();
        partial.bytes.extend_from_slice(rest);
        partial.seen = seen;
        self.partial = Some(partial);
    }

    /// The peer's end of stream, with all frames handed over.
    pub(crate) fn eof(&mut self, bench: &mut Bench<P>, token: u64) -> Result<(), Doom> {
        match &self.partial {
            Some(partial) => {
                let got = partial.bytes.len();
                Err(self.refuse(bench, token, End::CutShort { got }))
            }
            None => self.guarded(bench, token, P::on_eof),
        }
    }

    pub(crate) const fn is_overdue(&self, bench: &Bench<P>) -> bool {
        self.due != 0 && self.due <= bench.now
    }

    /// A time limit is over, if it is.
    pub(crate) fn overdue(&mut self, bench: &mut Bench<P>, token: u64) -> Result<(), Doom> {
        if !self.is_overdue(bench) {
            return Ok(());
        }
        self.due = 0;
        let limit = match self.expects().map(|expect| self.limit(&expect)) {
            Some((true, Some(time))) => TimeLimit::Frame(time),
            Some((false, Some(time))) => TimeLimit::Idle(time),
            _ => return Ok(()),
        };
        self.guarded(bench, token, |state, io| state.on_timeout(limit, io)).map_err(|doom| match *doom {
            Fate::Close => Box::new(Fate::CloseAs(End::TimedOut(limit))),
            other => Box::new(other),
        })
    }

    /// Output was above the high-water mark, and is below the low one now.
    pub(crate) fn is_drained(&self, bench: &Bench<P>) -> bool {
        self.high && self.queued(bench) <= bench.limits.low_water
    }

    /// There is room to produce more.
    pub(crate) fn drained(&mut self, bench: &mut Bench<P>, token: u64) -> Result<(), Doom> {
        self.high = false;
        let fate = self.guarded(bench, token, P::on_drained);
        // Nothing was read meanwhile, so the peer could not keep to the limit.
        self.limit_anew(bench, true);
        fate
    }

    /// The time limit that runs, if any: of a frame that has begun (true), or of the wait for one. A state that expects
    /// nothing waits, whatever has arrived.
    #[inline]
    fn limit(&self, expect: &Expect) -> (bool, Option<Duration>) {
        if self.in_frame && expect.what != What::Nothing { (true, expect.within) } else { (false, expect.idle_within) }
    }

    /// Sets the time limit for what is expected now.
    #[inline(always)]
    fn limit_anew(&mut self, bench: &Bench<P>, anew: bool) {
        let Some(state) = &self.state else { return };
        let expect = state.expects();
        match self.limit(&expect).1 {
            None => self.due = 0,
            Some(time) if anew || self.due == 0 => self.due = bench.now.saturating_add(nanos(time)).max(1),
            Some(_) => {}
        }
    }

    /// The last callback.
    pub(crate) fn end(&mut self, end: &End) {
        let state = self.state.take();
        let _ = catch_unwind(AssertUnwindSafe(|| P::on_end(state, end)));
    }
}

/// Both have happened: the failure counts.
#[inline(always)]
pub(crate) fn worse(one: Result<(), Doom>, other: Result<(), Doom>) -> Result<(), Doom> {
    match (one, other) {
        (Ok(()), other) => other,
        (one, Ok(())) => one,
        (Err(one), Err(other)) => Err(match *one {
            Fate::CloseAs(end) | Fate::End(end) => end.into(),
            Fate::Close | Fate::Leave(_) => other,
        }),
    }
}
