//! Two protocols that talk to each other, in virtual time.

use std::time::Duration;

use crate::testkit::Bench;
use crate::typed::protocol::Protocol;

/// Two sessions that talk to each other in virtual time.
///
/// What one writes arrives at the other after the latency. Runs until nothing is under way any more.
pub struct Wire<A: Protocol, B: Protocol> {
    /// One end.
    pub a: Bench<A>,
    /// The other.
    pub b: Bench<B>,
    latency: Duration,
    /// Bytes each way that have been sent and not arrived, with the instants at which they will.
    to_a: Vec<(Duration, Vec<u8>)>,
    to_b: Vec<(Duration, Vec<u8>)>,
    ended: [bool; 2],
    now: Duration,
}

impl<A: Protocol, B: Protocol> Wire<A, B> {
    /// Connects two sessions.
    #[must_use]
    pub fn new(a: A, b: B, latency: Duration) -> Self {
        let (a, b) = (Bench::new(a), Bench::new(b));
        Self { a, b, latency, to_a: Vec::new(), to_b: Vec::new(), ended: [false; 2], now: Duration::ZERO }
    }

    /// Lets so much time pass, or less if both have nothing more to do.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.carry();
            let arrivals = self.to_a.iter().chain(&self.to_b).map(|(at, _)| *at);
            let (a, b) = (self.a.next_instant(), self.b.next_instant());
            let limits = [a, b].into_iter().flatten().map(|nanos| Duration::from_nanos(nanos - 1).max(self.now));
            let Some(next) = arrivals.chain(limits).min().filter(|next| *next <= until) else { break };
            let step = next - self.now;
            self.now = next;
            self.a.advance(step);
            self.b.advance(step);
            for (queue, is_a) in [(&mut self.to_a, true), (&mut self.to_b, false)] {
                while queue.first().is_some_and(|(at, _)| *at <= next) {
                    let (_, bytes) = queue.remove(0);
                    match (is_a, bytes.is_empty()) {
                        (true, false) => self.a.receive(&bytes),
                        (true, true) => self.a.eof(),
                        (false, false) => self.b.receive(&bytes),
                        (false, true) => self.b.eof(),
                    }
                }
            }
        }
        let rest = until - self.now;
        self.now = until;
        self.a.advance(rest);
        self.b.advance(rest);
        self.carry();
    }

    /// Puts what was written on its way; an empty run of bytes is the end of the stream.
    fn carry(&mut self) {
        let at = self.now + self.latency;
        for (i, (bytes, over, queue)) in [
            (self.a.written(), self.a.has_ended_output() || self.a.ended().is_some(), &mut self.to_b),
            (self.b.written(), self.b.has_ended_output() || self.b.ended().is_some(), &mut self.to_a),
        ]
        .into_iter()
        .enumerate()
        {
            if !bytes.is_empty() {
                queue.push((at, bytes));
            }
            if over && !self.ended[i] {
                self.ended[i] = true;
                queue.push((at, Vec::new()));
            }
        }
    }
}

impl<A: Protocol, B: Protocol> std::fmt::Debug for Wire<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("now", &self.now).finish_non_exhaustive()
    }
}
