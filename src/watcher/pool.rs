//! Where leased buffers come from, and what they come back to.
//!
//! | store          | who gives                                   | who draws                              | lock |
//! |----------------|---------------------------------------------|----------------------------------------|------|
//! | [`Stash`]      | the loop, by a write that became a read     | the loop, for reads                    | none |
//! | [`Pool`], near | the loop's thread, by drops                 | the loop's thread                      | none |
//! | [`Pool`], far  | all others, and what finds no place there   | all others; the loop's thread, at need | only ever tried |
//!
//! The lock is tried a bounded number of times: who finds it taken all the same allocates or frees instead, so no drop
//! ever waits. Memory: all stores are bounded, and the stash gives up what a window of draws never needed.

use crate::handoff::ThreadBound;
use crate::sync::figures::AtomicUsize;
use crate::sync::{Arc, Mutex, Ordering};
use crate::watcher::lease::{Buffer, Lease};

/// Capacity of a small lease; a connection whose reads fill it gets large ones.
pub(crate) const SMALL: usize = 16 << 10;
/// Small buffers a store keeps at most (16 MiB), and large ones.
const KEEP_SMALL: usize = 1_024;
const KEEP_LARGE: usize = 16;
/// As many are kept for the loop's thread alone. What it gives back beyond is for everybody.
const NEAR_SMALL: usize = 64;
const NEAR_LARGE: usize = 4;
/// How often a pool that is taken is tried. Its holder is through after a few instructions; if it still is not after
/// these, it has been preempted, and nobody waits for that.
const TRIES: u32 = if cfg!(loom) { 1 } else { 128 };
/// Draws between two looks at what was never needed.
const WINDOW: u32 = 4_096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Small,
    Large,
}

/// What has come back. A shelf never grows.
#[derive(Debug)]
struct Shelves {
    small: Vec<Lease>,
    large: Vec<Lease>,
}

impl Shelves {
    fn new(small: usize, large: usize) -> Self {
        Self { small: Vec::with_capacity(small), large: Vec::with_capacity(large) }
    }

    const fn of(&mut self, class: Class) -> &mut Vec<Lease> {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    /// Gives it back if there is no place.
    fn put(&mut self, class: Class, buffer: Box<Buffer>) -> Result<(), Box<Buffer>> {
        let shelf = self.of(class);
        if shelf.len() == shelf.capacity() {
            return Err(buffer);
        }
        shelf.push(Lease(Some(buffer)));
        Ok(())
    }
}

/// What every thread can reach: where dropped leases go, and where copies for writing come from.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The loop thread's own: no lock.
    near: ThreadBound<Shelves>,
    /// Everybody else's, and where the loop's thread fetches more.
    far: Mutex<Shelves>,
    /// The capacity of a large buffer. The loop changes it; one of another size is freed by whoever meets it.
    large: AtomicUsize,
}

impl Pool {
    /// `large` is the capacity of a large buffer: the most a leased read brings.
    pub(crate) fn new(large: usize) -> Self {
        let (near, far) = (Shelves::new(NEAR_SMALL, NEAR_LARGE), Shelves::new(KEEP_SMALL, KEEP_LARGE));
        Self { near: ThreadBound::new(near), far: Mutex::new(far), large: AtomicUsize::new(large) }
    }

    /// This thread is the loop's, until [`unbind`](Self::unbind).
    pub(crate) fn bind(&self) {
        self.near.bind();
    }

    pub(crate) fn unbind(&self) {
        self.near.unbind();
    }

    /// `None`: somebody is inside, and stays.
    fn try_with<R>(&self, access: impl FnOnce(&mut Shelves) -> R) -> Option<R> {
        let mut left = TRIES;
        loop {
            if let Ok(mut shelves) = self.far.try_lock() {
                return Some(access(&mut shelves));
            }
            left -= 1;
            if left == 0 {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    #[inline]
    fn large(&self) -> usize {
        self.large.load(Ordering::Relaxed)
    }

    const fn class_of(capacity: usize, large: usize) -> Option<Class> {
        if capacity == large {
            Some(Class::Large)
        } else if capacity == SMALL {
            Some(Class::Small)
        } else {
            None
        }
    }

    /// Takes a buffer back, or frees it. Never waits.
    pub(super) fn give(&self, buffer: Box<Buffer>) {
        let Some(class) = Self::class_of(buffer.memory.size(), self.large()) else { return };
        let kept = match self.near.enter() {
            Some(mut near) => near.put(class, buffer),
            None => Err(buffer),
        };
        let Err(buffer) = kept else { return };
        // What finds no place is freed outside of the lock.
        let _surplus = self.try_with(|far| far.put(class, buffer));
    }

    fn find(&self, class: Class) -> Option<Lease> {
        let near = self.near.with(|near| {
            let shelf = near.of(class);
            if shelf.is_empty() {
                // At most half of what is there: one lock for many draws, and something left for the others.
                self.try_with(|far| {
                    let far = far.of(class);
                    shelf.extend(far.drain(far.len().saturating_sub(shelf.capacity()).max(far.len() / 2)..));
                });
            }
            shelf.pop()
        });
        near.unwrap_or_else(|| self.try_with(|far| far.of(class).pop()).flatten())
    }

    /// An empty lease of the class's capacity.
    pub(crate) fn draw(pool: &Arc<Self>, class: Class) -> Lease {
        Self::draw_of(pool, class, pool.large())
    }

    #[inline(always)]
    fn draw_of(pool: &Arc<Self>, class: Class, large: usize) -> Lease {
        let (class, size) =
            if class == Class::Large || large <= SMALL { (Class::Large, large) } else { (class, SMALL) };
        let found = pool.find(class).filter(|lease| lease.size() == size);
        found.unwrap_or_else(|| Lease::new(size)).out(pool)
    }

    /// A lease that holds a copy of `bytes`; one that fits no class is allocated to size and not kept.
    pub(crate) fn copy(pool: &Arc<Self>, bytes: &[u8]) -> Lease {
        let large = pool.large();
        let class = if bytes.len() > SMALL.min(large) { Class::Large } else { Class::Small };
        let fits = bytes.len() <= large.max(SMALL);
        let mut lease = if fits { Self::draw_of(pool, class, large) } else { Lease::new(bytes.len()).out(pool) };
        lease.replace(bytes);
        lease
    }
}

#[derive(Debug)]
struct Shelf {
    /// First the free ones, then nothing: places that were needed before.
    places: Vec<Lease>,
    free: usize,
    keep: usize,
    /// Fewest free ones since the last trim: those were never needed.
    unused: usize,
}

impl Shelf {
    const fn new(keep: usize) -> Self {
        Self { places: Vec::new(), free: 0, keep, unused: 0 }
    }

    #[inline(always)]
    fn draw(&mut self) -> Option<Lease> {
        let last = self.free.checked_sub(1)?;
        self.free = last;
        self.unused = self.unused.min(last);
        self.places.get_mut(last).map(Lease::take)
    }

    #[inline(always)]
    fn give(&mut self, lease: Lease) {
        match self.places.get_mut(self.free) {
            Some(place) => {
                // There is nothing to drop.
                std::mem::forget(std::mem::replace(place, lease));
                self.free += 1;
            }
            None => self.widen(lease),
        }
    }

    /// What goes beyond what is kept is freed.
    #[cold]
    fn widen(&mut self, lease: Lease) {
        if self.free < self.keep {
            self.places.push(lease);
            self.free += 1;
        }
    }

    fn clear(&mut self) {
        self.places.clear();
        (self.free, self.unused) = (0, 0);
    }
}

/// The loop's own store. Leases come back here from writes; drops on other threads go to the pool.
#[derive(Debug)]
pub(crate) struct Stash {
    pool: Arc<Pool>,
    small: Shelf,
    large: Shelf,
    draws: u32,
}

impl Stash {
    pub(crate) const fn new(pool: Arc<Pool>) -> Self {
        Self { pool, small: Shelf::new(KEEP_SMALL), large: Shelf::new(KEEP_LARGE), draws: 0 }
    }

    fn shelf(&mut self, class: Class) -> &mut Shelf {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    #[inline]
    pub(crate) fn draw(&mut self, class: Class) -> Lease {
        self.draws += 1;
        if self.draws >= WINDOW {
            self.trim();
        }
        let Some(mut lease) = self.shelf(class).draw() else { return Pool::draw(&self.pool, class) };
        lease.truncate(0);
        lease
    }

    #[inline(always)]
    pub(crate) fn give(&mut self, lease: Lease) {
        let Some(class) = Pool::class_of(lease.size(), self.pool.large()) else { return };
        self.shelf(class).give(lease);
    }

    /// Changes the capacity of large buffers; those there are go, of both classes, since a small one may be too large now.
    pub(crate) fn set_large(&mut self, large: usize) {
        self.pool.large.store(large, Ordering::Relaxed);
        self.small.clear();
        self.large.clear();
    }

    /// Frees half of what the window of draws never touched.
    fn trim(&mut self) {
        self.draws = 0;
        for shelf in [&mut self.small, &mut self.large] {
            let surplus = shelf.unused.div_ceil(2);
            shelf.free -= surplus;
            for mut surplus in shelf.places.drain(..surplus) {
                // Freed, not passed on: the pool would only hand it back.
                drop(surplus.0.take());
            }
            shelf.unused = shelf.free;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lease_is_drawn_again() {
        let pool = Arc::new(Pool::new(256 << 10));
        let lease = Pool::copy(&pool, b"abc");
        assert_eq!(&*lease, b"abc");
        let at = lease.as_ptr();
        drop(lease);
        let mut again = Pool::draw(&pool, Class::Small);
        assert!(again.is_empty());
        again.replace(b"de");
        assert_eq!(again.as_ptr(), at);
    }

    #[test]
    fn an_odd_size_is_not_kept() {
        let pool = Arc::new(Pool::new(32 << 10));
        drop(Pool::copy(&pool, &vec![1; 100_000]));
        let shelves = pool.far.lock().unwrap();
        assert!(shelves.small.is_empty() && shelves.large.is_empty());
    }

    #[test]
    fn the_stash_gives_up_what_is_never_needed() {
        let pool = Arc::new(Pool::new(256 << 10));
        let mut stash = Stash::new(pool);
        let burst: Vec<Lease> = (0..100).map(|_| stash.draw(Class::Small)).collect();
        burst.into_iter().for_each(|lease| stash.give(lease));
        assert_eq!(stash.small.free, 100);
        for _ in 0..20 * WINDOW {
            let lease = stash.draw(Class::Small);
            stash.give(lease);
        }
        assert!(stash.small.free <= 2, "{} kept", stash.small.free);
    }

    #[test]
    fn a_read_cap_below_the_small_class_still_pools() {
        let pool = Arc::new(Pool::new(100));
        let mut stash = Stash::new(pool.clone());
        let lease = stash.draw(Class::Small);
        assert_eq!(lease.size(), 100);
        drop(lease);
        assert_eq!(pool.far.lock().unwrap().large.len(), 1);
    }

    #[test]
    fn the_pool_keeps_so_many_and_no_more() {
        let pool = Arc::new(Pool::new(256 << 10));
        for (class, keep) in [(Class::Small, KEEP_SMALL), (Class::Large, KEEP_LARGE)] {
            let all: Vec<Lease> = (0..keep + 5).map(|_| Pool::draw(&pool, class)).collect();
            drop(all);
            let shelves = pool.far.lock().unwrap();
            assert_eq!(if class == Class::Small { shelves.small.len() } else { shelves.large.len() }, keep);
        }
    }

    #[test]
    fn what_a_lease_is_filled_with_is_all_there_is() {
        let pool = Arc::new(Pool::new(256 << 10));
        let mut lease = Pool::copy(&pool, b"longer");
        lease.replace(b"new");
        lease.truncate(9);
        assert_eq!(&*lease, b"new");
        lease.truncate(1);
        assert_eq!(&*lease, b"n");
        lease.replace(&[7; 2 * SMALL]);
        assert_eq!(&*lease, [7; 2 * SMALL]);
    }
}
