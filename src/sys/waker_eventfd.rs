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
    super::super::waker_tests::waker_tests!();
}
