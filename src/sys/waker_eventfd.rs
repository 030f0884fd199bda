//! Waker and bell over an eventfd: one descriptor, one write per wake.
//!
//! The waker's counter is never drained. Registered edge-triggered, each write is an edge of its own, whatever the count;
//! this saves a syscall per wake-up. A bell is for a poll that is not ours, so it is what a poll expects: readable from
//! a ring until it is silenced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, retry_on_intr, write};

use super::epoll::Selector;

/// A descriptor that becomes readable when it is rung, from any thread.
#[derive(Debug)]
pub(crate) struct Bell {
    counter: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { counter: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes it readable. Never blocks.
    pub(crate) fn ring(&self) {
        // EAGAIN would mean a full counter: 2^64 rings, 584 years of one per nanosecond. No other error is possible
        // on a descriptor that we own, so a debug build may as well say so.
        let written = retry_on_intr(|| write(&self.counter, &1_u64.to_ne_bytes()));
        debug_assert!(written.is_ok(), "an eventfd refused a write: {written:?}");
    }

    /// Makes it unreadable: one read takes the whole count.
    pub(crate) fn silence(&self) {
        let _ = retry_on_intr(|| read(&self.counter, &mut [0_u8; 8]));
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}

/// Ends the selector's sleep from any thread.
#[derive(Debug)]
pub(crate) struct Waker(Bell);

impl Waker {
    /// Registers with `selector` under `token`.
    pub(crate) fn new(selector: &Selector, token: u64) -> io::Result<Self> {
        let bell = Bell::new()?;
        selector.register_waker(bell.as_fd(), token)?;
        Ok(Self(bell))
    }

    /// Ends the current sleep, or the next one. Never blocks.
    pub(crate) fn wake(&self) {
        self.0.ring();
    }

    /// Nothing to do here: the next write is an edge, read or not.
    #[allow(clippy::unused_self, reason = "the contract: a pipe has something to read here")]
    pub(crate) fn drain(&self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::super::{Bits, Readiness};
    use super::*;

    const EVENT: Readiness = Readiness { token: 9, bits: Bits::READABLE };

    fn poll(selector: &mut Selector) -> Vec<Readiness> {
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        out
    }

    #[test]
    fn a_wake_from_another_thread_ends_a_sleep_for_ever() {
        let mut selector = Selector::new().unwrap();
        let waker = Arc::new(Waker::new(&selector, 9).unwrap());
        let mut out = Vec::new();
        for _ in 0..100 {
            let remote = Arc::clone(&waker);
            let thread = thread::spawn(move || remote.wake());
            selector.wait(&mut out, None).unwrap();
            assert_eq!(out, [EVENT]);
            waker.drain();
            thread.join().unwrap();
        }
        assert_eq!(poll(&mut selector), []);
    }

    #[test]
    fn wakes_before_the_wait_are_one_event_and_the_next_one_another() {
        let mut selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 9).unwrap();
        assert_eq!(poll(&mut selector), []);
        (0..3).for_each(|_| waker.wake());
        assert_eq!(poll(&mut selector), [EVENT]);
        waker.drain();
        assert_eq!(poll(&mut selector), []);
        waker.wake();
        assert_eq!(poll(&mut selector), [EVENT]);
    }

    #[test]
    fn a_bell_is_readable_from_a_ring_until_it_is_silenced() {
        let bell = Bell::new().unwrap();
        let readable = || {
            let mut fds = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
        };
        assert!(!readable());
        bell.silence();
        for rings in [1, 3, 200] {
            (0..rings).for_each(|_| bell.ring());
            assert!(readable() && readable());
            bell.silence();
            assert!(!readable(), "{rings} rings are silenced at once");
        }
    }
}
