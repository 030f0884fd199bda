//! Leased buffers: owned memory that comes from a loop's pool and finds its way back.
//!
//! The loop draws a lease when there is something to read, the user owns it, and the write it is sent with (or its
//! drop, on any thread) gives it back. So an idle connection holds no buffer, and a read and its answer copy nothing.
//!
//! Two stores: the loop's `Stash` (no lock, only the loop's thread) and the `Pool` that every thread can reach. The
//! pool is a mutex that is only ever *tried*, a bounded number of times: who finds it taken all the same allocates or
//! frees instead, so no drop ever waits.
//! Memory: both are bounded, and the stash gives up what a window of draws never needed.

use std::ops::{Deref, DerefMut};

use crate::sync::figures::AtomicUsize;
use crate::sync::{Arc, Mutex, Ordering};
use crate::watcher::aligned::Aligned;

/// Capacity of a small lease; a connection whose reads fill it gets large ones.
pub(crate) const SMALL: usize = 16 << 10;
/// Small buffers a store keeps at most (16 MiB), and large ones.
const KEEP_SMALL: usize = 1_024;
const KEEP_LARGE: usize = 16;
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

/// An owned buffer from a loop's pool, filled by a leased read or by [`Conn::write_copied`](crate::Conn::write_copied).
///
/// It reads as a slice, may be changed in place, and can be written as it is: `conn.write(lease)`. Dropping it on any
/// thread gives it back without waiting; while another thread is inside the pool, it is freed instead. Held, it keeps
/// the pool alive, but neither the loop nor its connection.
///
/// ```
/// # use std::{io::{Read, Write}, os::unix::net::UnixStream};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
/// # let (ours, mut peer) = UnixStream::pair()?;
/// # let conn = submitter.delegate(ours)?;
/// conn.read_leased().submit()?;
/// peer.write_all(b"shout")?;
/// for event in watcher.wait()? {
///     let gaio::Event::Done { conn, outcome: gaio::Outcome::Leased(mut lease), .. } = event else { panic!() };
///     lease.make_ascii_uppercase(); // in place
///     conn.write(lease).submit()?;
/// }
/// let mut answer = [0; 5];
/// peer.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"SHOUT");
/// # Ok(()) }
/// ```
pub struct Lease {
    memory: Aligned,
    len: usize,
    home: Arc<Pool>,
}

impl Lease {
    const fn new(memory: Aligned, home: Arc<Pool>) -> Self {
        Self { memory, len: 0, home }
    }

    /// Shortens it to `len` bytes; does nothing if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.keep(len.min(self.len));
    }

    /// Replaces the content by `bytes`. Allocates if they do not fit; a buffer that grew is not kept by the pool.
    pub fn replace(&mut self, bytes: &[u8]) {
        if bytes.len() > self.size() {
            self.memory = Aligned::new(bytes.len());
        }
        self.memory[..bytes.len()].copy_from_slice(bytes);
        self.keep(bytes.len());
    }

    /// The memory to receive into.
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// How much fits.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.memory.size()
    }

    /// How much is in it. (`len` of the slice would look for where that begins, first.)
    #[inline]
    pub(crate) const fn kept(&self) -> usize {
        self.len
    }

    /// The first `len` bytes of the memory are the content.
    #[inline]
    pub(crate) const fn keep(&mut self, len: usize) {
        self.len = len;
    }

    fn class(&self, large: usize) -> Option<Class> {
        Pool::class_of(self.memory.size(), large)
    }
}

impl Deref for Lease {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.memory));
    }
}

#[derive(Debug)]
struct Shelves {
    small: Vec<Aligned>,
    large: Vec<Aligned>,
}

/// What every thread can reach: where dropped leases go, and where copies for writing come from.
#[derive(Debug)]
pub(crate) struct Pool {
    shelves: Mutex<Shelves>,
    /// The capacity of a large buffer. The loop changes it; one of another size is freed by whoever meets it.
    large: AtomicUsize,
}

impl Pool {
    /// `large` is the capacity of a large buffer: the most a leased read brings.
    pub(crate) fn new(large: usize) -> Self {
        let shelves = Shelves { small: Vec::with_capacity(KEEP_SMALL), large: Vec::with_capacity(KEEP_LARGE) };
        Self { shelves: Mutex::new(shelves), large: AtomicUsize::new(large) }
    }

    /// `None`: somebody is inside, and stays.
    fn try_with<R>(&self, access: impl FnOnce(&mut Shelves) -> R) -> Option<R> {
        let mut left = TRIES;
        loop {
            if let Ok(mut shelves) = self.shelves.try_lock() {
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

    fn give(&self, memory: Aligned) {
        let Some(class) = Self::class_of(memory.size(), self.large()) else { return };
        // What finds no place is freed outside of the lock.
        let _surplus = self.try_with(|shelves| {
            let (shelf, keep) = match class {
                Class::Small => (&mut shelves.small, KEEP_SMALL),
                Class::Large => (&mut shelves.large, KEEP_LARGE),
            };
            if shelf.len() >= keep {
                return Some(memory);
            }
            shelf.push(memory);
            None
        });
    }

    fn find(&self, class: Class) -> Option<Aligned> {
        self.try_with(|shelves| match class {
            Class::Small => shelves.small.pop(),
            Class::Large => shelves.large.pop(),
        })?
    }

    /// An empty lease of the class's capacity.
    pub(crate) fn draw(pool: &Arc<Self>, class: Class) -> Lease {
        Self::draw_of(pool, class, pool.large())
    }

    fn draw_of(pool: &Arc<Self>, class: Class, large: usize) -> Lease {
        let (class, size) =
            if class == Class::Large || large <= SMALL { (Class::Large, large) } else { (class, SMALL) };
        let found = pool.find(class).filter(|memory| memory.size() == size);
        Lease::new(found.unwrap_or_else(|| Aligned::new(size)), pool.clone())
    }

    /// A lease that holds a copy of `bytes`; one that fits no class is allocated to size and not kept.
    pub(crate) fn copy(pool: &Arc<Self>, bytes: &[u8]) -> Lease {
        let large = pool.large();
        let class = if bytes.len() > SMALL.min(large) { Class::Large } else { Class::Small };
        let fits = bytes.len() <= large.max(SMALL);
        let mut lease =
            if fits { Self::draw_of(pool, class, large) } else { Lease::new(Aligned::default(), pool.clone()) };
        lease.replace(bytes);
        lease
    }
}

#[derive(Debug)]
struct Shelf {
    free: Vec<Lease>,
    keep: usize,
    /// Fewest free ones since the last trim: those were never needed.
    unused: usize,
}

impl Shelf {
    const fn new(keep: usize) -> Self {
        Self { free: Vec::new(), keep, unused: 0 }
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
        let shelf = self.shelf(class);
        let found = shelf.free.pop();
        shelf.unused = shelf.unused.min(shelf.free.len());
        found.unwrap_or_else(|| Pool::draw(&self.pool, class))
    }

    #[inline]
    pub(crate) fn give(&mut self, lease: Lease) {
        let class = lease.class(self.pool.large());
        let Some(class) = class else { return };
        let shelf = self.shelf(class);
        if shelf.free.len() < shelf.keep {
            shelf.free.push(lease);
        }
    }

    /// Changes the capacity of large buffers; those there are go, of both classes, since a small one may be too large now.
    pub(crate) fn set_large(&mut self, large: usize) {
        self.pool.large.store(large, Ordering::Relaxed);
        for shelf in [&mut self.small, &mut self.large] {
            shelf.free.clear();
            shelf.unused = 0;
        }
    }

    /// Frees half of what the window of draws never touched.
    fn trim(&mut self) {
        self.draws = 0;
        for shelf in [&mut self.small, &mut self.large] {
            for mut surplus in shelf.free.drain(..shelf.unused.div_ceil(2)) {
                // Freed, not passed on: the pool would only hand it back.
                drop(std::mem::take(&mut surplus.memory));
            }
            shelf.unused = shelf.free.len();
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
        let again = Pool::draw(&pool, Class::Small);
        assert!(again.is_empty());
        assert_eq!(again.memory.as_ptr(), at);
    }

    #[test]
    fn an_odd_size_is_not_kept() {
        let pool = Arc::new(Pool::new(32 << 10));
        drop(Pool::copy(&pool, &vec![1; 100_000]));
        let shelves = pool.shelves.lock().unwrap();
        assert!(shelves.small.is_empty() && shelves.large.is_empty());
    }

    #[test]
    fn the_stash_gives_up_what_is_never_needed() {
        let pool = Arc::new(Pool::new(256 << 10));
        let mut stash = Stash::new(pool);
        let burst: Vec<Lease> = (0..100).map(|_| stash.draw(Class::Small)).collect();
        burst.into_iter().for_each(|lease| stash.give(lease));
        assert_eq!(stash.small.free.len(), 100);
        for _ in 0..20 * WINDOW {
            let lease = stash.draw(Class::Small);
            stash.give(lease);
        }
        assert!(stash.small.free.len() <= 2, "{} kept", stash.small.free.len());
    }

    #[test]
    fn a_read_cap_below_the_small_class_still_pools() {
        let pool = Arc::new(Pool::new(100));
        let mut stash = Stash::new(pool.clone());
        let lease = stash.draw(Class::Small);
        assert_eq!(lease.memory.len(), 100);
        drop(lease);
        assert_eq!(pool.shelves.lock().unwrap().large.len(), 1);
    }

    #[test]
    fn the_pool_keeps_so_many_and_no_more() {
        let pool = Arc::new(Pool::new(256 << 10));
        for (class, keep) in [(Class::Small, KEEP_SMALL), (Class::Large, KEEP_LARGE)] {
            let all: Vec<Lease> = (0..keep + 5).map(|_| Pool::draw(&pool, class)).collect();
            drop(all);
            let shelves = pool.shelves.lock().unwrap();
            assert_eq!(if class == Class::Small { shelves.small.len() } else { shelves.large.len() }, keep);
        }
    }
}
