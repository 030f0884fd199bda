//! The properties of a world.

use super::faults::Faults;

/// What happens when a selector has nothing to report and waits for a deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The others go first, then the clock jumps to the deadline. With one thread: at once.
    #[default]
    Patient,
    /// The clock jumps to the deadline, whatever the others are about to do. Under loom this explores deadlines that
    /// expire at every point; a loop that always arms another would never end.
    Eager,
    /// Time passes by [`World::advance`](super::World::advance) alone.
    Manual,
}

/// The properties of a world. They may change while it runs: [`World::configure`](super::World::configure).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Bytes that fit into one direction of a connection; one more is EAGAIN. A connection keeps what it was made with.
    pub buffer: usize,
    /// Answers EAGAIN to each attempt that could succeed, then gives an edge, then lets it succeed.
    pub pending_first: bool,
    /// Descriptors that may be open at once; one more is EMFILE.
    pub descriptors: usize,
    /// A TCP connect to a listener of this world with room is done at once; otherwise an edge tells, as on Linux.
    pub connect_at_once: bool,
    /// What happens to the time.
    pub clock: Clock,
    /// What may go wrong.
    pub faults: Faults,
    /// Only one thread at a time does anything here. A wait that nothing can end then panics, as does a loop that spins.
    pub alone: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: 64 * 1024,
            pending_first: false,
            descriptors: usize::MAX,
            connect_at_once: false,
            clock: Clock::default(),
            faults: Faults::default(),
            alone: false,
        }
    }
}
