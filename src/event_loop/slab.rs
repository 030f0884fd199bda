//! A slab that grows in chunks, with generations.
//!
//! Sessions live here. An entry is named by index and generation, so a stale name finds
//! nothing instead of somebody else's entry (I6). Chunks are never moved or doubled: growing by one entry costs at
//! most one chunk, whatever the size.
//!
//! | entry   | is on          | may be given out again      |
//! |---------|----------------|-----------------------------|
//! | used    | nothing        | no                          |
//! | retired | retired list   | after the next `recycle`    |
//! | free    | free list      | at once                     |
//!
//! A session's entry is *retired* rather than freed: readiness fetched before it ended may still name its index in
//! this turn, and the generation alone would not tell two sessions of one turn apart if it wrapped.

const CHUNK_BITS: u32 = 7;
const CHUNK: usize = 1 << CHUNK_BITS;
const NIL: u32 = u32::MAX;

/// Index and generation: the name of one use of one entry. Never zero, so zero can mean "none yet".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    pub(crate) index: u32,
    generation: u32,
}

impl Key {
    pub(crate) fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_token(token: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the token are taken apart")]
        Self { index: token as u32, generation: (token >> 32) as u32 }
    }
}

#[derive(Debug)]
enum Body<T> {
    Vacant { next: u32 },
    Used(T),
}

#[derive(Debug)]
struct Entry<T> {
    /// At least 1 and at most `GENERATIONS`; counted up when the entry is vacated.
    generation: u32,
    body: Body<T>,
}

/// Generations stay below this, so no token looks like the reserved ones (listeners, the waker).
const GENERATIONS: u32 = 1 << 30;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Entry<T>; CHUNK]>>,
    free: u32,
    retired: u32,
    /// The retired entry that was added first: where the free list is hooked on.
    retired_last: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, retired: NIL, retired_last: NIL }
    }

    #[inline(always)]
    pub(crate) fn insert(&mut self, value: T) -> Key {
        if self.free == NIL {
            self.grow();
        }
        let index = self.free;
        let entry = &mut self.chunks[index as usize >> CHUNK_BITS][index as usize & (CHUNK - 1)];
        let Body::Vacant { next } = entry.body else { unreachable!("the free list holds vacant entries only") };
        self.free = next;
        entry.body = Body::Used(value);
        Key { index, generation: entry.generation }
    }

    #[cold]
    fn grow(&mut self) {
        #[expect(clippy::cast_possible_truncation, reason = "Limits bounds sessions and operations below 2^24")]
        let base = (self.chunks.len() * CHUNK) as u32;
        let last = base + (1 << CHUNK_BITS) - 1;
        let entries = (base..=last)
            .map(|i| Entry { generation: 1, body: Body::Vacant { next: if i == last { self.free } else { i + 1 } } });
        let Ok(chunk) = entries.collect::<Box<[_]>>().try_into() else { unreachable!("a chunk has CHUNK entries") };
        self.chunks.push(chunk);
        self.free = base;
    }

    #[inline]
    fn entry(&mut self, index: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(index as usize >> CHUNK_BITS).map(|chunk| &mut chunk[index as usize & (CHUNK - 1)])
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entry(key.index)? {
            Entry { generation, body: Body::Used(value) } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    fn vacate(&mut self, index: u32, next: u32) -> Option<T> {
        let entry = self.entry(index)?;
        if matches!(entry.body, Body::Vacant { .. }) {
            return None;
        }
        let Body::Used(value) = std::mem::replace(&mut entry.body, Body::Vacant { next }) else { return None };
        entry.generation = if entry.generation + 1 < GENERATIONS { entry.generation + 1 } else { 1 };
        Some(value)
    }

    /// Takes the value out; the entry is used again only after [`Slab::recycle`].
    pub(crate) fn retire(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let value = self.vacate(key.index, self.retired)?;
        if self.retired == NIL {
            self.retired_last = key.index;
        }
        self.retired = key.index;
        Some(value)
    }

    /// Makes retired entries free. Called once per turn, before any event of that turn is fetched.
    pub(crate) fn recycle(&mut self) {
        if self.retired == NIL {
            return;
        }
        let (first, last, free) = (self.retired, self.retired_last, self.free);
        if let Some(Entry { body: Body::Vacant { next }, .. }) = self.entry(last) {
            *next = free;
        }
        self.free = first;
        self.retired = NIL;
    }

    /// Is no entry used? Looks until it finds one.
    pub(crate) fn is_empty(&self) -> bool {
        let mut all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.all(|entry| matches!(entry.body, Body::Vacant { .. }))
    }

    /// Indices of all used entries, lowest first. O(capacity).
    pub(crate) fn keys(&self) -> Vec<Key> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter()).zip(0u32..);
        all.filter(|(entry, _)| matches!(entry.body, Body::Used(_)))
            .map(|(entry, index)| Key { index, generation: entry.generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.retire(old), Some("old"));
        slab.recycle();
        let new = slab.insert("new");
        assert_eq!(new.index, old.index);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut "new"));
        assert_eq!(Key::from_token(new.token()), new);
    }

    #[test]
    fn a_retired_entry_is_not_reused_before_recycle() {
        let mut slab = Slab::new();
        let a = slab.insert(1);
        let b = slab.insert(2);
        slab.retire(a);
        slab.retire(b);
        assert_eq!(slab.retire(b), None);
        let c = slab.insert(3);
        assert!(c.index != a.index && c.index != b.index);
        slab.recycle();
        let again = [slab.insert(4).index, slab.insert(5).index];
        assert!(again.contains(&a.index) && again.contains(&b.index));
        assert_eq!(slab.keys().len(), 3);
        assert!(!slab.is_empty() && Slab::<()>::new().is_empty());
    }

    #[test]
    fn grows_by_chunks_and_every_index_is_given_once() {
        let mut slab = Slab::new();
        let n = 3 * CHUNK + 1;
        let mut seen: Vec<u32> = (0..n).map(|i| slab.insert(i).index).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n);
        assert_eq!((slab.keys().len(), slab.chunks.len()), (n, 4), "no chunk is begun before the last is full");
    }

    #[test]
    fn a_generation_wraps_without_reaching_zero() {
        let mut slab = Slab::new();
        let key = slab.insert(());
        slab.entry(key.index).unwrap().generation = GENERATIONS - 1;
        slab.retire(Key { generation: GENERATIONS - 1, ..key });
        slab.recycle();
        assert_eq!(slab.insert(()).generation, 1);
    }
}
