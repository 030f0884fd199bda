//! Counted handles to one block, the last of which does not free it but sends it home.
//!
//! A connection's block is used from any thread, and taken apart by its loop alone. So the thread that drops the last
//! handle puts the block on a list of its home and announces it: no lock, no allocation, nothing that can fail.
//!
//! The word of a block, 64 bits:
//!
//! | bits   | what they count                                                                       |
//! |--------|---------------------------------------------------------------------------------------|
//! | 0..32  | handles, those of operations in flight included                                       |
//! | 32..64 | how many of them are operations in flight, between [`Handle::begin`] and [`Handle::settle`] |
//!
//! | handles | where the block is                      | who may touch it                               |
//! |---------|-----------------------------------------|------------------------------------------------|
//! | ≥ 1     | in use                                  | everybody with a handle, by `&T`               |
//! | 0       | with the dropper of the last handle     | that thread: writes the link, then pushes      |
//! | 0       | on the list                             | nobody                                         |
//! | 0       | drained                                 | the drainer, alone, until it frees it          |
//!
//! - **H1** Exactly one drop finds the count at one; nobody can make a handle out of none.
//! - **H2** Everything done through any handle happens before the block is taken from the list.
//! - **H3** Each block goes home once, or is freed by its dropper if the home is closed.
//! - **H4** After the push the dropper touches only the home, which it holds by a reference of its own.
//!
//! The list is a Treiber stack (R. K. Treiber, 1986) that is emptied whole: nobody follows a link of a block that
//! somebody else could take, so there is no ABA.
//!
//! Model: loom-tests/handles.rs. Mutants that must fail: `drop_by_load`, `home_after_push`, `drain_by_store`.

#![expect(unsafe_code, reason = "a reference count and an intrusive list are raw pointers")]

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use crate::sync::{Arc, AtomicU64, UnsafeCell, mutant, order};

mod returns;
pub use returns::{Drain, Returned, Returns};

const HANDLE: u64 = 1;
const HANDLES: u64 = u32::MAX as u64;
const OPERATION: u64 = 1 << 32;
/// More handles than this abort the process, as with `Arc`: half of what fits, so that no race gets past the rest.
const MOST: u64 = HANDLES / 2;

struct Block<T> {
    word: AtomicU64,
    /// The next block on the list. Written by the dropper of the last handle, read by the drainer.
    next: UnsafeCell<*mut Self>,
    value: T,
}

/// A value that knows its home: where its block goes when the last handle is dropped.
pub trait Counted: Sized {
    /// What the owner of the list shares with all its blocks. It has the list: `AsRef<Returns<Self>>`.
    type Home: AsRef<Returns<Self>>;

    /// The home. Called once, by the drop of the last handle. Must not panic.
    fn home(&self) -> &Arc<Self::Home>;

    /// Tells the owner that a block came home: raises its gate, say. Called by the drop of the last handle, after the
    /// block is on the list; it may be gone from there already. Must not block, and not panic.
    fn announce(home: &Self::Home);
}

/// A handle to a counted block: `Clone`, 8 bytes, and `Deref` to the value.
///
/// `Send` and `Sync` like an `Arc`. Dropping one is one atomic subtraction; the last sends the block home, by which
/// everything done through any handle happens before the owner sees it. A drop never blocks, allocates or fails.
///
/// ```
/// use gaio::handoff::{Counted, Handle, Returns};
/// use std::sync::Arc;
///
/// #[derive(Default)]
/// struct Loop { returns: Returns<Conn> }
/// struct Conn { home: Arc<Loop>, token: u32 }
///
/// impl AsRef<Returns<Conn>> for Loop {
///     fn as_ref(&self) -> &Returns<Conn> { &self.returns }
/// }
/// impl Counted for Conn {
///     type Home = Loop;
///     fn home(&self) -> &Arc<Loop> { &self.home }
///     fn announce(_home: &Loop) { /* raise the gate */ }
/// }
///
/// let home = Arc::new(Loop::default());
/// let conn = Handle::new(Conn { home: Arc::clone(&home), token: 7 });
/// let operation = conn.begin(16).unwrap(); // in flight: it keeps the connection
/// drop(conn);
/// assert!(home.returns.is_empty());
/// operation.settle();
/// drop(operation);
/// assert_eq!(home.returns.drain().map(|conn| conn.token).collect::<Vec<_>>(), [7]);
/// ```
pub struct Handle<T: Counted> {
    block: NonNull<Block<T>>,
    owned: PhantomData<Block<T>>,
}

// SAFETY: as for `Arc`: a handle gives `&T` to its thread (`T: Sync`), and the last may drop the value on any thread
// (`T: Send`). The link is touched only by one thread at a time (the table above).
unsafe impl<T: Counted + Send + Sync> Send for Handle<T> {}
// SAFETY: as above: `&Handle` gives `&T`, and by `Clone` a handle.
unsafe impl<T: Counted + Send + Sync> Sync for Handle<T> {}

impl<T: Counted> Handle<T> {
    /// Moves the value into a block of its own, with one handle. Cost: one allocation.
    ///
    /// See [`Handle`] for an example.
    #[must_use]
    pub fn new(value: T) -> Self {
        let block = Block { word: AtomicU64::new(HANDLE), next: UnsafeCell::new(ptr::null_mut()), value };
        Self { block: NonNull::from(Box::leak(Box::new(block))), owned: PhantomData }
    }

    #[inline]
    fn block(&self) -> &Block<T> {
        // SAFETY: `self` is counted, so the block is in use: shared, and not freed before this borrow ends (H1).
        // Breaks if a handle is made without counting it.
        unsafe { self.block.as_ref() }
    }

    /// A further handle that counts as an operation in flight, unless there are `cap` of those already.
    ///
    /// Guaranteed: never more than `cap` at once, if everybody says the same `cap`. A refusal may be early by a hair:
    /// another thread's attempt counts until it has been taken back. Call [`settle`](Self::settle) once on the handle
    /// it returns. Cost: one atomic addition; refused, one more.
    ///
    /// See [`Handle`] for an example.
    #[inline]
    #[must_use]
    pub fn begin(&self, cap: u32) -> Option<Self> {
        // Relaxed: as for a clone. The cap guards no data.
        let before = self.block().word.fetch_add(OPERATION + HANDLE, Relaxed);
        abort_beyond(before & HANDLES);
        if before / OPERATION >= u64::from(cap) {
            // Relaxed: nothing was done through the handle that we take back, and we keep another.
            self.block().word.fetch_sub(OPERATION + HANDLE, Relaxed);
            return None;
        }
        Some(Self { block: self.block, owned: PhantomData })
    }

    /// This handle is no longer an operation in flight; it stays a handle. Once for each handle of
    /// [`begin`](Self::begin), before it is dropped. Cost: one atomic subtraction. Orders nothing.
    ///
    /// # Panics
    ///
    /// In debug builds, if no operation was in flight.
    #[inline]
    pub fn settle(&self) {
        let before = self.block().word.fetch_sub(OPERATION, Relaxed);
        debug_assert!(before >= OPERATION, "settled more often than begun");
    }

    /// How many operations are in flight, as of some moment: others begin and settle meanwhile. Cost: one load.
    #[must_use]
    pub fn operations(&self) -> u32 {
        (self.block().word.load(Relaxed) / OPERATION) as u32
    }

    /// Whether both are handles of one block.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        self.block == other.block
    }
}

fn abort_beyond(handles: u64) {
    if handles > MOST {
        std::process::abort();
    }
}

impl<T: Counted> Clone for Handle<T> {
    /// One atomic addition. Aborts the process beyond 2³¹ handles of one block (leaked ones, then).
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: whoever gets the clone gets it from us, and by that sees what we see.
        let before = self.block().word.fetch_add(HANDLE, Relaxed);
        abort_beyond(before & HANDLES);
        Self { block: self.block, owned: PhantomData }
    }
}

impl<T: Counted> Deref for Handle<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.block().value
    }
}

impl<T: Counted> Drop for Handle<T> {
    #[inline]
    fn drop(&mut self) {
        let word = &self.block().word;
        // Release: pairs with the load below, in the thread that drops the last: it sees what we did (H2). One
        // subtraction decides who is last (H1): load, then subtract, would let two both or neither be it.
        let before = if mutant("drop_by_load") {
            let before = word.load(Relaxed);
            word.fetch_sub(HANDLE, Relaxed);
            before
        } else {
            word.fetch_sub(HANDLE, order!(HANDLE_DROP, Release))
        };
        if before & HANDLES == HANDLE {
            // Acquire, by a load and not a fence, because ThreadSanitizer knows no fences. It reads what our own
            // subtraction wrote, the end of a chain of read-modify-writes with every other handle's release in it.
            let left = word.load(order!(HANDLE_LAST, Acquire));
            debug_assert_eq!(left, 0, "an operation was dropped unsettled");
            send_home(self.block);
        }
    }
}

impl<T: Counted + fmt::Debug> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&**self).finish()
    }
}

/// The end of the last handle: the block is the caller's alone.
#[cold]
#[inline(never)]
fn send_home<T: Counted>(block: NonNull<Block<T>>) {
    // SAFETY: no handle is left, and the block is not on the list yet: it is ours, and lives (H1).
    let value = unsafe { &block.as_ref().value };
    // A reference of our own, before the push: the owner may free the block right after it, and the block's
    // reference to the home with it; that one may be the last (H4).
    let home = Arc::clone(value.home());
    if !home.as_ref().as_ref().push(block) {
        drop(Returned::new(block));
        return;
    }
    if mutant("home_after_push") {
        // What a push that keeps no reference would do: read the block's own, too late. The model sees the access.
        // SAFETY: none; it is the fault that the model must find.
        unsafe { block.as_ref() }.next.with_mut(|_| ());
    }
    T::announce(&home);
}

#[cfg(all(test, not(loom)))]
mod tests;
