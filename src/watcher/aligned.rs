//! Memory to receive into that begins at a cache line.
//!
//! The kernel copies with `rep movsb`, and on some processors (AMD EPYC among them) that takes more than three times as
//! long when the destination is not aligned: 64 KiB messages cost a hand-written echo loop 68 µs instead of 42 µs with
//! its buffer 16 bytes off, which is where an allocator puts a large one. Safe code cannot ask `Vec` for an alignment,
//! so the memory is a line longer than it is said to be, and its first bytes are skipped.

use std::ops::{Deref, DerefMut, Range};

/// A cache line, and the alignment.
pub(crate) const LINE: usize = 64;

/// Zeroed by the allocator once; pages that are never written are never touched.
#[derive(Debug, Default)]
pub(crate) struct Aligned(Box<[u8]>);

impl Aligned {
    pub(crate) fn new(size: usize) -> Self {
        Self(vec![0; size + LINE].into_boxed_slice())
    }

    /// The size of the useful part.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.0.len().saturating_sub(LINE)
    }

    /// Where the useful part is.
    #[inline]
    fn range(&self) -> Range<usize> {
        // `align_offset` may answer "cannot be aligned", by `usize::MAX`: then it is not, but for the remainder.
        let start = self.0.as_ptr().align_offset(LINE) % LINE;
        start..start + self.size()
    }
}

impl Deref for Aligned {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // Only the default has no line to spare; it has no bytes either.
        self.0.get(self.range()).unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        self.0.get_mut(range).unwrap_or_default()
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
