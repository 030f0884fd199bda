//! Batches: completions published together, with the bytes of the pooled reads among them.
//!
//! A `Buffer` is what the mailbox swaps: the loop fills it, the cell holds it, the taker empties it. It owns its
//! arena, so pooled bytes travel with their completions and are valid exactly as long as the batch (I5): the next
//! take gives the buffer back to the loop, and the borrow of [`Batch`] ends before it.

use crate::error::{ConnectError, OpError, WaitError};
use crate::event_loop::linear::{Linear, Vacant};
use crate::watcher::Conn;
use crate::watcher::aligned::{Aligned, LINE};
use crate::watcher::outcome::{Event, ListenerId, Outcome};
use crate::watcher::shared::Shared;

/// An [`Outcome`] as it lies in a batch: as it is handed out, but for pooled bytes, which are still a range.
#[derive(Debug)]
pub(crate) enum Stored {
    Outcome(Outcome<'static>),
    Pooled { at: u32, len: u32 },
}

impl From<Outcome<'static>> for Stored {
    #[inline(always)]
    fn from(outcome: Outcome<'static>) -> Self {
        Self::Outcome(outcome)
    }
}

/// What a batch is made of. `Nothing`: it was taken out.
#[derive(Debug)]
pub(crate) enum Item<C> {
    Nothing,
    Done { conn: Conn<C>, context: C, outcome: Stored },
    Accepted { conn: Conn<C>, listener: ListenerId },
    ListenerEnded { listener: ListenerId, error: Option<std::io::Error> },
    Posted(C),
    Timer { context: C, result: Result<(), OpError> },
    Connected { context: C, result: Result<Conn<C>, ConnectError> },
}

impl<C> Item<C> {
    /// What is no operation of a connection.
    #[inline(never)]
    fn into_event<'w>(self) -> Event<'w, C> {
        match self {
            Self::Nothing | Self::Done { .. } => unreachable!("there is an item, and those are taken apart elsewhere"),
            Self::Accepted { conn, listener } => Event::Accepted { peer: conn.peer_addr(), conn, listener },
            Self::ListenerEnded { listener, error } => Event::ListenerEnded { listener, error },
            Self::Posted(context) => Event::Posted(context),
            Self::Timer { context, result } => Event::Timer { context, result },
            Self::Connected { context, result } => Event::Connected { context, result },
        }
    }
}

impl<C> Vacant for Item<C> {
    #[inline(always)]
    fn vacant() -> Self {
        Self::Nothing
    }

    fn is_vacant(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// Memory for pooled reads. Zeroed once, by the allocator; of the default megabyte, pages never read into are never touched.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: Aligned,
    used: usize,
}

impl Arena {
    /// The next `cap` bytes, or what is left of them if that is worth a read.
    #[inline]
    pub(crate) fn room(&mut self, cap: usize) -> Option<&mut [u8]> {
        /// A read is not offered less than this, unless the whole arena or the cap is smaller.
        const FLOOR: usize = 2_048;
        let size = self.memory.size();
        let take = cap.min(size - self.used);
        (take >= FLOOR.min(cap).min(size)).then(|| self.memory.part(self.used, take))
    }

    /// The next `cap` bytes, or as much of them as is left; and whether a fresh arena would have more.
    pub(crate) fn rest(&mut self, cap: usize) -> (&mut [u8], bool) {
        let most = cap.min(self.memory.size());
        let take = most.min(self.memory.size() - self.used);
        (self.memory.part(self.used, take), take < most)
    }

    /// Nothing has been read into it yet.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.used == 0
    }

    /// Keeps `n` bytes of the room just filled.
    #[inline]
    pub(crate) fn keep(&mut self, n: usize) -> Stored {
        let at = self.used;
        // The next read begins at a line again.
        self.used = (self.used + n).next_multiple_of(LINE).min(self.memory.size());
        #[expect(clippy::cast_possible_truncation, reason = "Limits bounds the arena to 2^30")]
        Stored::Pooled { at: at as u32, len: n as u32 }
    }
}

#[derive(Debug)]
pub(crate) struct Buffer<C> {
    items: Linear<Item<C>>,
    pub(crate) arena: Arena,
    /// Operations among the items: what the taker subtracts from those in flight.
    pub(crate) ops: u32,
    /// Accepted connections among the items: what the listeners' credit counts.
    pub(crate) accepted: usize,
    /// Bytes that the reads among the items brought.
    pub(crate) bytes: usize,
    /// Set in the last batch of a loop, and only there.
    pub(crate) end: Option<WaitError>,
}

impl<C> Buffer<C> {
    /// Room for a full batch and the step that filled it; more only grows it once.
    ///
    /// In a box: buffers change places with every turn.
    pub(crate) fn new(batch: usize, step: usize, arena: usize) -> Box<Self> {
        let (items, arena) = (Linear::with_capacity(batch + step), Arena { memory: Aligned::new(arena), used: 0 });
        Box::new(Self { items, arena, ops: 0, accepted: 0, bytes: 0, end: None })
    }

    /// What stands for a buffer where none is.
    pub(crate) fn none() -> Box<Self> {
        Self::new(0, 0, 0)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[inline]
    pub(crate) fn push(&mut self, item: Item<C>) {
        match item {
            Item::Done { .. } | Item::Posted(_) | Item::Timer { .. } | Item::Connected { .. } => self.ops += 1,
            Item::Accepted { .. } => self.accepted += 1,
            Item::ListenerEnded { .. } | Item::Nothing => {}
        }
        self.items.push(item);
    }

    /// Makes an emptied buffer fit to be filled again.
    pub(crate) fn recycle(&mut self) {
        debug_assert!(self.items.is_empty(), "a batch is handed back empty, or completions would come twice (I1)");
        self.arena.used = 0;
        self.ops = 0;
        self.accepted = 0;
        self.bytes = 0;
    }

    /// Says that these completions are no longer in flight, nor the bytes that were written: they are being handed out.
    pub(crate) fn settle(&mut self, shared: &Shared<C>, written: u64) {
        shared.in_flight.end(std::mem::take(&mut self.ops), written);
        self.accepted = 0;
    }
}

/// A batch of events, borrowed until the next wait or turn.
///
/// Iterate over it to the end, or not: what is left when it is dropped is what the next wait hands out first. An event
/// that came out of it is yours; only pooled bytes still borrow it. While you hold a batch the loop's thread goes on, and
/// fills the next; a loop that you [drive](crate::Driver) rests until you come back, or have been away for long. Submitting
/// from within the iteration is fine, as is dropping handles.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut watcher, submitter) = gaio::Watcher::<u32>::spawn_for(gaio::Options::default())?;
/// submitter.post(1)?;
/// submitter.post(2)?;
/// for expected in [1, 2] {
///     // Only the first event of each batch: what is left comes again.
///     let event = watcher.wait()?.next();
///     assert!(matches!(event, Some(gaio::Event::Posted(n)) if n == expected));
/// }
/// # Ok(()) }
/// ```
///
/// Pooled bytes are valid as long as the batch may be, and the compiler sees to it (G5):
///
/// ```compile_fail,E0499
/// # fn f(mut watcher: gaio::Watcher) -> Result<(), gaio::WaitError> {
/// let mut kept: &[u8] = &[];
/// for event in watcher.wait()? {
///     if let gaio::Event::Done { outcome: gaio::Outcome::Pooled(bytes), .. } = event {
///         kept = bytes;
///     }
/// }
/// watcher.wait()?; // the arena goes back to the loop
/// assert!(kept.is_empty());
/// # Ok(()) }
/// ```
///
/// Nor does a batch outlive its watcher:
///
/// ```compile_fail,E0505
/// # fn f(mut watcher: gaio::Watcher) -> Result<(), gaio::WaitError> {
/// let batch = watcher.wait()?;
/// drop(watcher);
/// assert_eq!(batch.len(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Batch<'w, C = ()> {
    items: &'w mut Linear<Item<C>>,
    arena: &'w [u8],
}

impl<'w, C> Batch<'w, C> {
    pub(crate) fn new(buffer: &'w mut Buffer<C>) -> Self {
        Self { items: &mut buffer.items, arena: &buffer.arena.memory }
    }
}

impl<'w, C> Iterator for Batch<'w, C> {
    type Item = Event<'w, C>;

    // Into the caller's loop: an event that is matched at once need not be moved there first.
    #[inline(always)]
    fn next(&mut self) -> Option<Event<'w, C>> {
        if self.items.is_empty() {
            return None;
        }
        let (conn, context, outcome) = match self.items.take() {
            Item::Done { conn, context, outcome } => (conn, context, outcome),
            other => return Some(other.into_event()),
        };
        conn.settle();
        let outcome = match outcome {
            Stored::Outcome(outcome) => outcome,
            Stored::Pooled { at, len } => Outcome::Pooled(&self.arena[at as usize..][..len as usize]),
        };
        Some(Event::Done { conn, context, outcome })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.items.len(), Some(self.items.len()))
    }
}

impl<C> ExactSizeIterator for Batch<'_, C> {}
