//! Leased buffers: owned memory that comes from a loop's pool and finds its way back.
//!
//! The loop draws a lease when there is something to read, the user owns it, and the write it is sent with (or its
//! drop, on any thread) gives it back. So an idle connection holds no buffer, and a read and its answer copy nothing.
//!
//! Two stores: the loop's `Stash` (only the loop itself) and the `Pool` that every thread can reach. The pool has shelves
//! for the loop's thread, where an embedded loop's user drops most leases (no lock), and others for everybody else:
//! those are behind a mutex that is only ever *tried*, a bounded number of times: who finds it taken all the same
//! allocates or frees instead, so no drop ever waits.
//! Memory: all are bounded, and the stash gives up what a window of draws never needed.

use std::ops::{Deref, DerefMut};

use crate::handoff::ThreadBound;
use crate::sync::figures::AtomicUsize;
use crate::sync::{Arc, Mutex, Ordering};
use crate::watcher::aligned::Aligned;

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
pub struct Lease(Option<Box<Buffer>>);

/// What a lease points at, so that it is one word wherever it is moved.
#[derive(Debug)]
struct Buffer {
    memory: Aligned,
    len: usize,
    /// None on a shelf of the pool itself.
    home: Option<Arc<Pool>>,
}

impl Lease {
    fn new(size: usize) -> Self {
        Self(Some(Box::new(Buffer { memory: Aligned::new(size), len: 0, home: None })))
    }

    /// Empty, and able to find home by itself.
    fn out(mut self, home: &Arc<Pool>) -> Self {
        if let Some(buffer) = &mut self.0 {
            buffer.len = 0;
            buffer.home = Some(home.clone());
        }
        self
    }

    /// Leaves nothing behind: as good as dropped.
    #[inline]
    pub(crate) const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Shortens it to `len` bytes; does nothing if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.keep(len.min(self.kept()));
    }

    /// Replaces the content by `bytes`. Allocates if they do not fit; a buffer that grew is not kept by the pool.
    pub fn replace(&mut self, bytes: &[u8]) {
        let Some(buffer) = &mut self.0 else { return };
        if bytes.len() > buffer.memory.size() {
            buffer.memory = Aligned::new(bytes.len());
        }
        buffer.memory[..bytes.len()].copy_from_slice(bytes);
        buffer.len = bytes.len();
    }

    /// The memory to receive into.
    #[inline]
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |buffer| &mut buffer.memory)
    }

    /// How much fits.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.memory.size())
    }

    /// How much is in it.
    #[inline]
    pub(crate) fn kept(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.len)
    }

    /// The first `len` bytes of the memory are the content.
    #[inline]
    pub(crate) fn keep(&mut self, len: usize) {
        if let Some(buffer) = &mut self.0 {
            buffer.len = len;
        }
    }
}

impl Deref for Lease {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |buffer| buffer.memory.first(buffer.len))
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |buffer| &mut buffer.memory[..buffer.len])
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
    #[inline]
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            go_home(buffer);
        }
    }
}

#[inline(never)]
fn go_home(mut buffer: Box<Buffer>) {
    if let Some(home) = buffer.home.take() {
        home.give(buffer);
    }
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

    fn give(&self, buffer: Box<Buffer>) {
        let Some(class) = Self::class_of(buffer.memory.size(), self.large()) else { return };
        let near = self.near.pass(buffer, |near, buffer| near.put(class, buffer));
        let Err(buffer) = near.unwrap_or_else(Err) else { return };
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
        let Some(class) = Pool::class_of(lease.size(), self.pool.large()) else { return };
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
                drop(surplus.0.take());
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
        let mut again = Pool::draw(&pool, Class::Small);
        assert!(again.is_empty());
        assert_eq!(again.space().as_ptr(), at);
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
        assert_eq!(lease.size(), 100);
        drop(lease);
        assert_eq!(pool.far.lock().unwrap().large.len(), 1);
    }
}
