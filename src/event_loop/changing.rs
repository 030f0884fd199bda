//! Limits that change while a loop runs: how they reach it, for either face.
//!
//! | who                  | looks at                 | when              | cost          |
//! |----------------------|--------------------------|-------------------|---------------|
//! | the loop             | `changes`                | as a turn begins  | a load        |
//! | the loop, if changed | `whole`, which it copies | then              | a copy        |
//! | who changes them     | all, under a lock        |                   | an allocation |
//!
//! The loop never takes that lock: it is there for two changes at once, whose figures would mix. `whole` and `changes` travel
//! to the loop as any submission does: written first, then the gate is raised (W1), by whoever has set them. So a loop that
//! sleeps since it found a limit reached looks again.

use std::sync::PoisonError;

use arc_swap::ArcSwap;

use crate::limits::LimitsError;
use crate::sync::figures::AtomicU32;
use crate::sync::{Mutex, Ordering};

#[derive(Debug)]
pub(crate) struct Changing<L> {
    changes: AtomicU32,
    whole: ArcSwap<L>,
    changing: Mutex<()>,
}

impl<L: Clone> Changing<L> {
    pub(crate) fn new(limits: L) -> Self {
        Self { changes: AtomicU32::new(0), whole: ArcSwap::from_pointee(limits), changing: Mutex::new(()) }
    }

    /// As they were set last.
    #[inline(never)]
    pub(crate) fn whole(&self) -> L {
        L::clone(&self.whole.load())
    }

    /// Sets them, unless `prepare`, which gets these and those before, refuses. One change at a time.
    pub(crate) fn set(
        &self,
        limits: L,
        prepare: impl FnOnce(&L, &L) -> Result<(), LimitsError>,
    ) -> Result<(), LimitsError> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        prepare(&limits, &self.whole.load())?;
        self.whole.store(std::sync::Arc::new(limits));
        // Release pairs with the loop's look, so that it finds at least these.
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The limits, if they have changed since `seen`.
    #[inline]
    pub(crate) fn changed(&self, seen: &mut u32) -> Option<L> {
        let changes = self.changes.load(Ordering::Acquire);
        if std::mem::replace(seen, changes) == changes { None } else { Some(self.whole()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_one_that_is_refused_never() {
        let (changing, mut seen) = (Changing::new(1), 0);
        assert_eq!((changing.whole(), changing.changed(&mut seen)), (1, None));
        let refuse = |_: &i32, _: &i32| LimitsError::first(&[("size", 2, 3, 4)]);
        assert_eq!(changing.set(2, refuse).unwrap_err().limit(), "size");
        assert_eq!((changing.whole(), changing.changed(&mut seen)), (1, None));
        let see = |new: &i32, before: &i32| {
            assert_eq!((*new, *before), (3, 1));
            Ok(())
        };
        changing.set(3, see).unwrap();
        assert_eq!((changing.changed(&mut seen), changing.changed(&mut seen)), (Some(3), None));
        changing.set(4, |_, _| Ok(())).unwrap();
        changing.set(5, |_, _| Ok(())).unwrap();
        assert_eq!((changing.changed(&mut seen), changing.changed(&mut seen)), (Some(5), None));
    }
}
