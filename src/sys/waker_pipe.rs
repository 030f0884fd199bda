//! Waker and bell over a pipe, for systems without an eventfd; on Linux with `--cfg gaio_pipe_waker`.
//!
//! A pipe must be emptied. A full one takes no further byte, and without a byte there is no edge: the wake would be
//! lost. So [`Waker::drain`] comes after the waker's event and before one looks at the work: a wake that found the
//! pipe full is then covered by the drain that is still to come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};

use super::epoll::Selector;

/// A descriptor that becomes readable when it is rung, from any thread.
#[derive(Debug)]
pub(crate) struct Bell {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    /// Makes it readable. Never blocks.
    pub(crate) fn ring(&self) {
        // EAGAIN is success: a full pipe is readable, and has an event that is not yet fetched, or a drain that is not
        // yet done. EPIPE, and with it SIGPIPE, can't be: the reader is ours.
        let _ = retry_on_intr(|| write(&self.writer, &[1]));
    }

    /// Makes it unreadable: empties the pipe.
    pub(crate) fn silence(&self) {
        // Usually one byte, since a gate lets one wake through per park: one read tells, because it comes back short.
        let mut sink = [0_u8; 64];
        while let Ok(sink_len) = retry_on_intr(|| read(&self.reader, &mut sink)) {
            if sink_len < sink.len() {
                return;
            }
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
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

    /// Empties the pipe.
    pub(crate) fn drain(&self) {
        self.0.silence();
    }
}

#[cfg(test)]
mod tests {
    super::super::waker_tests::waker_tests!();

    #[test]
    fn a_full_pipe_takes_wakes_and_wakes_again_once_drained() {
        let selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 9).unwrap();
        // A pipe holds 64 KiB here; what matters is that it is more than full.
        (0..100_000).for_each(|_| waker.wake());
        assert_eq!(write(&waker.0.writer, &[1]), Err(rustix::io::Errno::AGAIN), "the pipe is full");
        assert_eq!(poll(&selector), [EVENT]);
        waker.drain();
        assert_eq!(read(&waker.0.reader, &mut [0; 1]), Err(rustix::io::Errno::AGAIN), "the pipe is empty");
        waker.wake();
        assert_eq!(poll(&selector), [EVENT]);
    }
}
