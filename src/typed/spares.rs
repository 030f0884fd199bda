//! Emptied buffers of sessions, kept for the next session that needs one.
//!
//! Bounded by the memory they hold, not by their number: a crowd that has output waiting all at once, as after a broadcast,
//! finds its buffers again the next time (G9).

use crate::typed::machine::Partial;
use crate::typed::output::Output;

/// Memory kept, of each kind.
const KEPT: usize = 4 << 20;
/// What holds more than this alone is not kept.
const LARGEST: usize = 64 << 10;

pub(crate) trait Spare: Default {
    /// Bytes of heap. An emptied one holds the same until it is used again.
    fn holds(&self) -> usize;
}

impl Spare for Partial {
    fn holds(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }
}

impl Spare for Output {
    fn holds(&self) -> usize {
        size_of::<Self>() + self.capacity()
    }
}

#[derive(Debug)]
pub(crate) struct Spares<T> {
    kept: Vec<Box<T>>,
    bytes: usize,
}

impl<T: Spare> Spares<T> {
    pub(crate) const fn new() -> Self {
        Self { kept: Vec::new(), bytes: 0 }
    }

    pub(crate) fn draw(&mut self) -> Box<T> {
        let Some(spare) = self.kept.pop() else { return Box::default() };
        self.bytes -= spare.holds();
        spare
    }

    /// `spare` is empty.
    pub(crate) fn give(&mut self, spare: Box<T>) {
        let bytes = spare.holds();
        if bytes <= LARGEST && self.bytes + bytes <= KEPT {
            self.bytes += bytes;
            self.kept.push(spare);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_by_what_it_holds() {
        let mut spares = Spares::new();
        let of = |capacity| Box::new(Partial { bytes: Vec::with_capacity(capacity), ..Partial::default() });
        spares.give(of(LARGEST));
        assert_eq!((spares.kept.len(), spares.bytes), (0, 0), "too large a one");
        let each = 10_000 + size_of::<Partial>();
        for _ in 0..1_000 {
            spares.give(of(10_000));
        }
        assert_eq!((spares.kept.len(), spares.bytes), (KEPT / each, KEPT / each * each));
        while !spares.kept.is_empty() {
            spares.draw();
        }
        assert_eq!((spares.bytes, spares.draw().bytes.capacity()), (0, 0));
        (0..KEPT / 64).for_each(|_| spares.give(Box::default()));
        assert!(spares.kept.len() > 10_000, "many small ones");
    }
}
