//! Two protocols that talk to each other, in virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::testkit::Bench;
use crate::typed::protocol::Protocol;

/// What is on its way from one end to the other.
enum Parcel {
    Bytes(Vec<u8>),
    /// The end of the stream; `true`: a reset.
    End {
        reset: bool,
    },
}

/// Parcels one way, with the instants at which they arrive.
type Way = VecDeque<(Duration, Parcel)>;

/// Rounds at one instant, above which two sessions are taken to go on for ever.
const MOST_ROUNDS: u32 = 100_000;

/// Two sessions that talk to each other in virtual time.
///
/// What one writes arrives at the other after the latency, and so does its end: as a clean one, or as a
/// [reset](Bench::reset), as on a loop. (Who leaves the loop takes the socket along, so that is no end.) Messages that
/// are sent to the [address](Bench::address) of either, by itself, by the other or by the test, are handed over at once,
/// whenever the wire [runs](Self::run).
///
/// ```
/// use std::time::Duration;
/// use gaio::testkit::Wire;
/// use gaio::{End, Expect, Io, Next, Protocol};
///
/// /// Says a line, and waits for one.
/// struct Caller(&'static [u8]);
///
/// impl Protocol for Caller {
///     type Message = ();
///     fn expects(&self) -> Expect {
///         Expect::until(b"\n").idle_within(Duration::from_secs(1))
///     }
///     fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
///         io.write(self.0);
///         Next::Become(self)
///     }
///     fn on_frame(self, _line: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
///         Next::Close(self)
///     }
/// }
///
/// let mut wire = Wire::new(Caller(b"hello\n"), Caller(b"hi\n"), Duration::from_millis(80));
/// wire.run(Duration::from_millis(79));
/// assert!(wire.a.ended().is_none(), "the other's line is on its way");
/// wire.run(Duration::from_millis(1));
/// assert!(matches!((wire.a.ended(), wire.b.ended()), (Some(End::Closed), Some(End::Closed))));
/// ```
pub struct Wire<A: Protocol, B: Protocol> {
    /// One end.
    pub a: Bench<A>,
    /// The other.
    pub b: Bench<B>,
    latency: Duration,
    to_a: Way,
    to_b: Way,
    now: Duration,
}

impl<A: Protocol, B: Protocol> Wire<A, B> {
    /// Connects two sessions. With a latency of zero a question and its answer are at the same instant.
    #[must_use]
    pub fn new(a: A, b: B, latency: Duration) -> Self {
        let (a, b) = (Bench::new(a), Bench::new(b));
        Self { a, b, latency, to_a: Way::new(), to_b: Way::new(), now: Duration::ZERO }
    }

    /// Lets so much time pass, all of it, and everything happen that is due in it, in its order: arrivals, messages,
    /// timers and time limits. With zero, what is due now.
    ///
    /// # Panics
    /// If time stands still: at one instant the two have answered each other (or sent messages) 100 000 times. Two
    /// echoes without a latency would do so for ever.
    pub fn run(&mut self, time: Duration) {
        let until = self.now.saturating_add(time);
        let mut rounds = 0;
        while let Some(next) = self.next_instant().filter(|next| *next <= until) {
            rounds = if next == self.now { rounds + 1 } else { 0 };
            assert!(rounds < MOST_ROUNDS, "the two sessions go on for ever at one instant: give the wire a latency");
            self.pass(next);
            arrive(&mut self.to_a, next, &mut self.a);
            arrive(&mut self.to_b, next, &mut self.b);
            self.a.deliver();
            self.b.deliver();
        }
        self.pass(until);
    }

    /// When the next thing happens, with all that was written on its way.
    fn next_instant(&mut self) -> Option<Duration> {
        let at = self.now.saturating_add(self.latency);
        send(&mut self.a, at, &mut self.to_b);
        send(&mut self.b, at, &mut self.to_a);
        if self.a.has_letters() || self.b.has_letters() {
            return Some(self.now);
        }
        let arrivals = self.to_a.front().into_iter().chain(self.to_b.front()).map(|(at, _)| *at);
        // A bench counts nanoseconds from 1.
        let dues = [self.a.next(), self.b.next()].into_iter().flatten().map(|(at, _)| Duration::from_nanos(at - 1));
        arrivals.chain(dues).min().map(|at| at.max(self.now))
    }

    /// Time passes on both sides.
    fn pass(&mut self, until: Duration) {
        let step = until.saturating_sub(self.now);
        self.now = until;
        self.a.advance(step);
        self.b.advance(step);
    }
}

/// Puts what was written on its way.
fn send<P: Protocol>(from: &mut Bench<P>, at: Duration, way: &mut Way) {
    let bytes = from.written();
    if !bytes.is_empty() {
        way.push_back((at, Parcel::Bytes(bytes)));
    }
    if let Some(reset) = from.sign() {
        way.push_back((at, Parcel::End { reset }));
    }
}

/// Hands over what has arrived by now.
fn arrive<P: Protocol>(way: &mut Way, now: Duration, to: &mut Bench<P>) {
    while way.front().is_some_and(|(at, _)| *at <= now) {
        match way.pop_front() {
            Some((_, Parcel::Bytes(bytes))) => to.receive(&bytes),
            Some((_, Parcel::End { reset: true })) => to.reset(),
            _ => to.eof(),
        }
    }
}

impl<A: Protocol, B: Protocol> std::fmt::Debug for Wire<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("now", &self.now).finish_non_exhaustive()
    }
}
