//! Entries with plain indices, in chunks that are never moved.
//!
//! For what is named only by its owner, who takes the name back before it takes the entry out: pending operations,
//! armed deadlines. (What the kernel or a user names wants generations: the slab.) Growing by one entry costs at most
//! one chunk, whatever the size; an index that is free is given out again at once, the last one first.

const CHUNK_BITS: u32 = 7;
const CHUNK: usize = 1 << CHUNK_BITS;

/// No entry.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Debug)]
enum Entry<T> {
    Free { next: u32 },
    Used(T),
}

#[derive(Debug)]
pub(crate) struct Arena<T> {
    chunks: Vec<Box<[Entry<T>; CHUNK]>>,
    free: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NIL }
    }
}

impl<T> Arena<T> {
    /// Takes in what `value` makes: it is put together at its place, and not moved there.
    #[inline(always)]
    pub(crate) fn insert(&mut self, value: impl FnOnce() -> T) -> u32 {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let entry = &mut self.chunks[index as usize >> CHUNK_BITS][index as usize & (CHUNK - 1)];
        let Entry::Free { next } = *entry else { unreachable!("the free list holds free entries only") };
        self.free = next;
        // A free entry has nothing to drop.
        std::mem::forget(std::mem::replace(entry, Entry::Used(value())));
        index
    }

    #[cold]
    fn grow(&mut self) {
        #[expect(clippy::cast_possible_truncation, reason = "Limits bounds what is pending below 2^24")]
        let base = (self.chunks.len() * CHUNK) as u32;
        let last = base + (1 << CHUNK_BITS) - 1;
        let entries = (base..=last).map(|i| Entry::Free { next: if i == last { NIL } else { i + 1 } });
        let Ok(chunk) = entries.collect::<Box<[_]>>().try_into() else { unreachable!("a chunk has CHUNK entries") };
        self.chunks.push(chunk);
        self.free = base;
    }

    #[inline]
    fn entry(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(index as usize >> CHUNK_BITS).map(|chunk| &mut chunk[index as usize & (CHUNK - 1)])
    }

    /// The entry at `index`; `None` if that is free, or `NIL`.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.entry(index)? {
            Entry::Used(value) => Some(value),
            Entry::Free { .. } => None,
        }
    }

    /// Takes the value out; the entry may be used again at once.
    #[inline]
    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let next = self.free;
        let entry = self.entry(index)?;
        if matches!(entry, Entry::Free { .. }) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(entry, Entry::Free { next }) else { return None };
        self.free = index;
        Some(value)
    }

    /// Indices of all used entries, lowest first. O(capacity).
    pub(crate) fn indices(&self) -> Vec<u32> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter()).zip(0u32..);
        all.filter(|(entry, _)| matches!(entry, Entry::Used(_))).map(|(_, index)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_given_once_until_it_comes_back() {
        let mut arena = Arena::default();
        let n = 3 * CHUNK + 1;
        let mut seen: Vec<u32> = (0..n).map(|i| arena.insert(|| i)).collect();
        assert_eq!(arena.indices(), seen, "the first of each chunk first");
        assert_eq!(arena.chunks.len(), 4, "none is begun before the last is full");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n);
        assert_eq!(arena.remove(seen[7]), Some(7));
        assert_eq!(arena.remove(seen[7]), None);
        assert_eq!(arena.get_mut(seen[7]), None);
        assert_eq!(arena.get_mut(NIL), None);
        assert_eq!(arena.insert(|| 99), seen[7], "the last to come back is the first to go out");
        assert_eq!(arena.get_mut(seen[7]), Some(&mut 99));
    }
}
