//! Leased buffers: owned memory that comes from a loop's pool and finds its way back.
//!
//! The loop draws a lease when there is something to read, the user owns it, and the write it is sent with (or its
//! drop, on any thread) gives it back. So an idle connection holds no buffer, and a read and its answer copy nothing.
//! A lease is one word, since operations and completions that carry it are moved often.

use std::ops::{Deref, DerefMut};

use crate::sync::Arc;
use crate::watcher::aligned::AlignedVec;
use crate::watcher::pool::Pool;

/// An owned buffer from a loop's pool, filled by a leased read; or the bytes that a failed
/// [`Conn::write_copied`](crate::Conn::write_copied) brings along.
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
pub struct Lease(pub(super) Option<Box<Buffer>>);

/// What a lease points at, so that it is one word wherever it is moved.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub(super) memory: AlignedVec,
    /// None on a shelf of the pool itself.
    home: Option<Arc<Pool>>,
}

impl Lease {
    pub(crate) const NONE: Self = Self(None);

    pub(super) fn new(size: usize) -> Self {
        Self(Some(Box::new(Buffer { memory: AlignedVec::new(size), home: None })))
    }

    /// Empty, and able to find home by itself.
    pub(super) fn out(mut self, home: &Arc<Pool>) -> Self {
        if let Some(buffer) = &mut self.0 {
            buffer.memory.truncate(0);
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
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if let Some(buffer) = &mut self.0 {
            buffer.memory.truncate(len);
        }
    }

    /// Replaces the content by `bytes`. Allocates if they do not fit; a buffer that grew is not kept by the pool.
    #[inline]
    pub fn replace(&mut self, bytes: &[u8]) {
        let Some(buffer) = &mut self.0 else { return };
        if bytes.len() > buffer.memory.size() {
            buffer.memory = AlignedVec::new(bytes.len());
        }
        buffer.memory.truncate(0);
        buffer.memory.append(bytes);
    }

    /// What to receive into: it is appended to the content.
    #[inline]
    pub(crate) fn vec(&mut self) -> &mut Vec<u8> {
        self.0.get_or_insert_default().memory.vec()
    }

    /// How much fits.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.0.as_ref().map_or(0, |buffer| buffer.memory.size())
    }
}

impl Deref for Lease {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |buffer| &buffer.memory)
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], |buffer| &mut buffer.memory)
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
