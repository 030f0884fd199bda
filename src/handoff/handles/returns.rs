//! The way home: the list of blocks without handles, and what comes out of it.

use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;

use super::{Block, Counted, HANDLE, Handle};
use crate::sync::{AtomicPtr, mutant, order};

/// The list of blocks that came home, with the last first. Lives in [`Counted::Home`].
///
/// Any thread may push (by dropping a last handle) while any other drains or closes; usually the loop does that. Each
/// block holds the home, and so the list that it is on: drain or close it, or they keep each other for ever.
pub struct Returns<T: Counted> {
    /// Null: empty. [`closed`]: closed, and empty for ever.
    head: AtomicPtr<Block<T>>,
    /// Blocks move from the thread that pushes to the one that drains: shared by threads only if `T: Send`.
    moves: PhantomData<std::sync::Mutex<T>>,
}

/// The head of a closed list: no address that a block could have.
fn closed<T>() -> *mut Block<T> {
    const { assert!(align_of::<Block<T>>() > 1) };
    ptr::without_provenance_mut(1)
}

impl<T: Counted> Returns<T> {
    /// An open, empty list. Cost: none.
    #[must_use]
    pub fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()), moves: PhantomData }
    }

    /// Whether nothing is there: a hint, one relaxed load. What was announced by a gate that the caller has opened
    /// since is not overlooked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Relaxed);
        head.is_null() || head == closed()
    }

    /// `false`: the list is closed, and the block still the caller's.
    pub(super) fn push(&self, block: NonNull<Block<T>>) -> bool {
        let mut head = self.head.load(Relaxed);
        while head != closed() {
            // SAFETY: the block is the caller's, who has its last handle: it lives, and nobody else looks at it.
            let next = unsafe { &block.as_ref().next };
            next.with_mut(|next| {
                // SAFETY: ours alone until the compare-exchange below succeeds. Breaks if a block were pushed twice.
                unsafe { *next = head };
            });
            // Release: pairs with `drain` and `close`: who takes the block sees the link, and what we acquired of
            // the other handles (H2). Those deeper in the list published by an earlier link of the same chain.
            match self.head.compare_exchange_weak(head, block.as_ptr(), order!(RETURN_PUSH, Release), Relaxed) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
        false
    }

    /// Takes everything that is there, the last that came first. Others may push meanwhile, for the next drain.
    ///
    /// The iterator owns the blocks; what is not iterated is freed with it. Cost: one load, and if there is something
    /// a compare-exchange, repeated only when somebody else pushed or drained.
    ///
    /// See [`Handle`] for an example.
    pub fn drain(&self) -> Drain<T> {
        let mut head = self.head.load(Relaxed);
        while !head.is_null() && head != closed() {
            if mutant("drain_by_store") {
                head = self.head.load(order!(RETURN_DRAIN, Acquire));
                self.head.store(ptr::null_mut(), Relaxed);
                return Drain { head, owned: PhantomData };
            }
            // Acquire: pairs with the push. A compare-exchange, so that a closed list stays closed. The head may
            // have left and come back meanwhile, which does no harm: its link is read only once it is ours.
            match self.head.compare_exchange_weak(head, ptr::null_mut(), order!(RETURN_DRAIN, Acquire), Relaxed) {
                Ok(_) => return Drain { head, owned: PhantomData },
                Err(now) => head = now,
            }
        }
        Drain { head: ptr::null_mut(), owned: PhantomData }
    }

    /// Takes everything, and closes the list for good: from now on the dropper of a last handle frees the block
    /// itself, without an announcement. A second close finds nothing. Cost: one swap.
    ///
    /// ```
    /// # use gaio::handoff::{Counted, Handle, Returns};
    /// # use std::sync::Arc;
    /// # struct Loop { returns: Returns<Conn> }
    /// # struct Conn { home: Arc<Loop> }
    /// # impl AsRef<Returns<Conn>> for Loop { fn as_ref(&self) -> &Returns<Conn> { &self.returns } }
    /// # impl Counted for Conn {
    /// #     type Home = Loop;
    /// #     fn home(&self) -> &Arc<Loop> { &self.home }
    /// #     fn announce(_home: &Loop) { unreachable!() }
    /// # }
    /// let home = Arc::new(Loop { returns: Returns::new() });
    /// let conn = Handle::new(Conn { home: Arc::clone(&home) });
    /// assert_eq!(home.returns.close().count(), 0);
    /// drop(conn); // freed at once
    /// assert_eq!(Arc::strong_count(&home), 1);
    /// ```
    pub fn close(&self) -> Drain<T> {
        // Acquire: pairs with the push, as in `drain`. A pusher that finds the list closed takes nothing from us.
        let head = self.head.swap(closed(), order!(RETURN_CLOSE, Acquire));
        Drain { head: if head == closed() { ptr::null_mut() } else { head }, owned: PhantomData }
    }
}

impl<T: Counted> Default for Returns<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Counted> fmt::Debug for Returns<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Returns").field("is_empty", &self.is_empty()).finish_non_exhaustive()
    }
}

/// Blocks that came home, of [`Returns::drain`] or [`Returns::close`]. Holds no borrow of the list.
pub struct Drain<T: Counted> {
    head: *mut Block<T>,
    owned: PhantomData<Block<T>>,
}

// SAFETY: it owns its blocks as a list of boxes would, and nobody else can reach them.
unsafe impl<T: Counted + Send> Send for Drain<T> {}
// SAFETY: a shared drain shows nothing of the blocks.
unsafe impl<T: Counted> Sync for Drain<T> {}

impl<T: Counted> Iterator for Drain<T> {
    type Item = Returned<T>;

    fn next(&mut self) -> Option<Returned<T>> {
        let block = NonNull::new(self.head)?;
        // SAFETY: the whole chain left the list when we took its head, with acquire: it is ours, and lives.
        let next = unsafe { &block.as_ref().next };
        // SAFETY: as above: the push that wrote the link happens before, and nobody writes it again.
        self.head = next.with(|next| unsafe { *next });
        Some(Returned::new(block))
    }
}

impl<T: Counted> Drop for Drain<T> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

impl<T: Counted> fmt::Debug for Drain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("is_empty", &self.head.is_null()).finish_non_exhaustive()
    }
}

/// A block that came home: the value, owned. Dropping it frees the block.
pub struct Returned<T: Counted> {
    block: NonNull<Block<T>>,
    owned: PhantomData<Block<T>>,
}

// SAFETY: it owns its block as a box would.
unsafe impl<T: Counted + Send> Send for Returned<T> {}
// SAFETY: as a box: `&Returned` gives `&T`.
unsafe impl<T: Counted + Sync> Sync for Returned<T> {}

impl<T: Counted> Returned<T> {
    /// The block must be the caller's alone: without a handle, and on no list.
    pub(super) fn new(block: NonNull<Block<T>>) -> Self {
        Self { block, owned: PhantomData }
    }

    /// A handle again, the only one: the block is in use as before. Cost: one store.
    #[must_use]
    pub fn revive(self) -> Handle<T> {
        // SAFETY: the block is ours, and lives until we drop it, which we don't: see below.
        let word = unsafe { &self.block.as_ref().word };
        // Relaxed: the block is ours alone; whoever gets a handle gets it from us.
        word.store(HANDLE, Relaxed);
        let block = self.block;
        mem::forget(self);
        Handle { block, owned: PhantomData }
    }
}

impl<T: Counted> Deref for Returned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the block is ours, off the list and without a handle, and lives as long as `self`.
        unsafe { &self.block.as_ref().value }
    }
}

impl<T: Counted> Drop for Returned<T> {
    fn drop(&mut self) {
        // SAFETY: it came out of a box in `Handle::new`, and is freed once: the block was handed to one `Returned`
        // only (H1, H3), whose last moment this is.
        drop(unsafe { Box::from_raw(self.block.as_ptr()) });
    }
}

impl<T: Counted + fmt::Debug> fmt::Debug for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Returned").field(&**self).finish()
    }
}
