//! A watcher in somebody else's poll: a descriptor that says when there is a batch.
//!
//! The loop rings a bell, which is that descriptor, after each publish that fills the empty mailbox (M4); the watcher
//! silences it, *then* looks. In the other order it would silence the ring for a batch that came in between. Nothing
//! comes after the last batch, so the take that finds it rings once more: whoever waits for the end must hear of it.
//!
//! Model: loom-tests/polled.rs. Mutants that must fail: `silenced_late`, `end_unrung`.

use std::io;
#[cfg(not(any(loom, gaio_sim)))]
use std::os::fd::{AsFd, BorrowedFd};

use crate::sync::{Arc, mutant};
use crate::sys::Bell;
use crate::watcher::Watcher;

/// A descriptor that is readable when a watcher has a batch; of [`Watcher::pollable`].
///
/// It stays open as long as it or the watcher is there. Only poll it: reading from it, or writing to it, is the watcher's.
#[derive(Clone, Debug)]
pub struct Pollable(Arc<Bell>);

#[cfg(not(any(loom, gaio_sim)))]
impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(any(loom, gaio_sim))]
impl Pollable {
    /// Waits until it is readable: what stands for a foreign poll on the simulated system, which has no descriptors.
    pub fn until_readable(&self) {
        self.0.until_readable();
    }

    /// Is it readable, on the simulated system?
    #[cfg(gaio_sim)]
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.0.is_readable()
    }
}

impl<C: Send + 'static> Watcher<C> {
    /// Makes it possible to wait for this watcher by another loop: a descriptor that is readable when there is a batch
    /// to take, or the loop has ended. It can be polled in any way there is, level-triggered or edge-triggered.
    ///
    /// It may be readable without a batch. It says nothing about what is left of a batch that was dropped before its
    /// end: iterate to the end, or call [`Watcher::try_wait`] until it brings nothing. The other waits work as before.
    ///
    /// From now on the loop's thread drives ([`Driver`](crate::Driver)).
    ///
    /// Cost: a descriptor (two where there is no eventfd), made at the first call; from then on a write on the loop's
    /// thread for each batch that is handed over, and a read for each wait.
    ///
    /// ```
    /// use std::os::fd::AsFd;
    /// use rustix::event::{PollFd, PollFlags, poll};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::<u32>::spawn_for(gaio::Options::default())?;
    /// let pollable = watcher.pollable()?;
    /// let posting = std::thread::spawn(move || (0..3).try_for_each(|n| submitter.post(n)));
    /// let mut next = 0;
    /// while next < 3 {
    ///     // Beside descriptors of your own.
    ///     poll(&mut [PollFd::new(&pollable, PollFlags::IN)], None)?;
    ///     for event in watcher.try_wait()? {
    ///         assert!(matches!(event, gaio::Event::Posted(n) if n == next));
    ///         next += 1;
    ///     }
    /// }
    /// # posting.join().unwrap()?;
    /// # let _ = pollable.as_fd();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn pollable(&mut self) -> io::Result<Pollable> {
        if let Some(bell) = &self.bell {
            return Ok(Pollable(bell.clone()));
        }
        let bell = Arc::new(Bell::new()?);
        // Who sleeps in a poll of its own cannot drive.
        if std::mem::replace(&mut self.drives, false) {
            self.shared.place.leave_for_good();
        }
        self.bell = Some(bell.clone());
        let remote = bell.clone();
        self.taker.set_bell(move || remote.ring());
        self.ring_at_the_end();
        Ok(Pollable(bell))
    }

    /// Before a look at the mailbox.
    pub(crate) fn silence(&self, now: bool) {
        if let (Some(bell), true) = (&self.bell, now) {
            bell.silence();
        }
    }

    /// After a take: the batch that says that there will be no other announces that itself.
    pub(crate) fn ring_at_the_end(&mut self) {
        if let (Some(bell), Some(_)) = (&self.bell, self.taker.taken().end) {
            if !mutant("end_unrung") {
                bell.ring();
            }
        }
    }
}
