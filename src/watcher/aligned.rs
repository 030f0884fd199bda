//! Memory to receive into that begins at a cache line.
//!
//! The kernel copies with `rep movsb`, and on some processors (AMD EPYC among them) that takes more than three times as
//! long when the destination is not aligned: 64 KiB messages cost a hand-written echo loop 68 µs instead of 42 µs with
//! its buffer 16 bytes off, which is where an allocator puts a large one. Safe code cannot ask `Vec` for an alignment,
//! so the memory is a line longer than it is said to be, and its first bytes are skipped.

use std::ops::{Deref, DerefMut};

/// A cache line, and the alignment.
pub(crate) const LINE: usize = 64;

/// Zeroed by the allocator once; pages that are never written are never touched.
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
}

impl Deref for Aligned {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.first(self.size)
    }
}

impl DerefMut for Aligned {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.size).unwrap_or_default()
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
}
