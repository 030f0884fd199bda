//! Memory to receive into that begins at a cache line.
//!
//! The kernel copies with `rep movsb`, and on some processors (AMD EPYC among them) that takes more than three times as
//! long when the destination is not aligned: 64 KiB messages cost a hand-written echo loop 68 µs instead of 42 µs with
//! its buffer 16 bytes off, which is where an allocator puts a large one. Safe code cannot ask `Vec` for an alignment,
//! so the memory is a line longer than it is said to be, and its first bytes are skipped.

use std::ops::{Deref, DerefMut};

/// A cache line, and the alignment.
pub(crate) const LINE: usize = 64;

/// Zeroed by the allocator once. Pages that are never written are never touched if it is large enough to be mapped, as an
/// arena is by default; what is smaller may be cut from memory that was in use, and is zeroed by hand.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    memory: Box<[u8]>,
    /// Where the useful part begins, and its size.
    start: usize,
    size: usize,
}

impl Aligned {
    pub(crate) fn new(size: usize) -> Self {
        let memory = vec![0; size + LINE].into_boxed_slice();
        // `align_offset` may answer "cannot be aligned", by `usize::MAX`: then it is not, but for the remainder.
        let start = memory.as_ptr().align_offset(LINE) % LINE;
        Self { memory, start, size }
    }

    /// The size of the useful part.
    #[inline]
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// The first `len` bytes; `len` is at most the size.
    #[inline]
    pub(crate) fn first(&self, len: usize) -> &[u8] {
        debug_assert!(len <= self.size(), "the line to spare is not to be seen");
        self.memory.get(self.start..self.start + len).unwrap_or_default()
    }

    /// `len` bytes from `at` on; both together are at most the size.
    #[inline]
    pub(crate) fn part(&mut self, at: usize, len: usize) -> &mut [u8] {
        debug_assert!(at + len <= self.size(), "the line to spare is not to be seen");
        self.memory.get_mut(self.start + at..self.start + at + len).unwrap_or_default()
    }
}

impl Deref for Aligned {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.first(self.size)
    }
}

/// The same for what comes and goes: as the allocator gives it, so no page is touched that nothing is received into.
/// (An allocator zeroes what it hands out again, and a thousand new buffers of 16 KiB are 16 MiB of that.)
///
/// A vector that begins with padding up to the line, and has exactly its size as capacity beyond that.
#[derive(Debug, Default)]
pub(crate) struct AlignedVec {
    memory: Vec<u8>,
    /// Where the content begins.
    start: usize,
}

impl AlignedVec {
    pub(crate) fn new(size: usize) -> Self {
        let mut memory = Vec::<u8>::with_capacity(size + LINE);
        let start = memory.as_ptr().align_offset(LINE) % LINE;
        // Less than a line: an allocator that moved it for that would cost the alignment, and nothing else.
        memory.shrink_to(start + size);
        memory.resize(start, 0);
        Self { memory, start }
    }

    /// How much content there may be.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.memory.capacity() - self.start
    }

    /// Shortens the content to `len` bytes, if it is longer.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.memory.truncate(self.start.saturating_add(len));
    }

    /// Appends. What is more than the size grows it.
    #[inline]
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.memory.extend_from_slice(bytes);
    }

    /// To append to, up to its capacity.
    #[inline]
    pub(crate) const fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }
}

impl Deref for AlignedVec {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..).unwrap_or_default()
    }
}

impl DerefMut for AlignedVec {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_size_and_begins_at_a_line() {
        for size in [0, 1, 100, 16 << 10, 1 << 20] {
            let memory = Aligned::new(size);
            assert_eq!(memory.len(), size);
            assert_eq!(memory.as_ptr().align_offset(LINE), 0);
        }
        assert!(Aligned::default().is_empty());
    }

    #[test]
    fn a_vector_begins_at_a_line_and_holds_its_size() {
        for size in [0, 1, 100, 16 << 10, 256 << 10] {
            let mut memory = AlignedVec::new(size);
            assert_eq!((memory.size(), memory.len()), (size, 0));
            let bytes = vec![7; size];
            memory.append(&bytes);
            assert_eq!((memory.size(), &*memory), (size, &*bytes));
            assert!(size == 0 || memory.as_ptr().align_offset(LINE) == 0, "nothing begins nowhere");
            memory.truncate(usize::MAX);
            assert_eq!(memory.len(), size);
            memory.truncate(size / 2);
            assert_eq!((memory.size(), &*memory), (size, &bytes[..size / 2]));
        }
        assert_eq!((AlignedVec::default().size(), AlignedVec::default().len()), (0, 0));
    }
}
