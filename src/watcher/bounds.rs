//! The deadline and the name of an operation, in one word.
//!
//! ```text
//!   63                24 23         0
//!   deadline, in ticks  │   name        0: none, either of them
//! ```
//!
//! One word, so that a slot of the ring stays a cache line. A tick is what the wheel can tell apart (2^20 ns, 1.05 ms),
//! rounded up: nothing expires early. 40 bits of them are 36 years of the loop's clock; what is beyond is never.
//! Names count the operations of one connection that were given one, modulo 2^24.

use std::num::NonZeroU32;

const NAME_BITS: u32 = 24;
const TICK_BITS: u32 = 20;
/// A deadline that no clock reaches. (It is one all the same: a close that has it has no bound.)
const NEVER: u64 = (1 << (u64::BITS - NAME_BITS)) - 1;
/// Names there are: one bit pattern says "none".
pub(crate) const NAMES: u32 = (1 << NAME_BITS) - 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds(u64);

impl Bounds {
    pub(crate) const NONE: Self = Self(0);

    /// The instant, in nanoseconds of the loop's clock, by which the operation is to be over.
    #[inline]
    pub(crate) const fn deadline(self) -> Option<u64> {
        match self.0 >> NAME_BITS {
            0 => None,
            NEVER => Some(u64::MAX),
            ticks => Some(ticks << TICK_BITS),
        }
    }

    pub(crate) const fn with_deadline(self, at: u64) -> Self {
        let ticks = at.div_ceil(1 << TICK_BITS);
        // The first tick is as good as "at once".
        let ticks = if ticks == 0 { 1 } else { ticks };
        let ticks = if ticks < NEVER { ticks } else { NEVER };
        Self(ticks << NAME_BITS | self.0 & NAMES as u64)
    }

    #[inline]
    pub(crate) const fn name(self) -> Option<NonZeroU32> {
        #[expect(clippy::cast_possible_truncation, reason = "the name's bits are masked")]
        NonZeroU32::new((self.0 & NAMES as u64) as u32)
    }

    pub(crate) const fn with_name(self, name: NonZeroU32) -> Self {
        Self(self.0 >> NAME_BITS << NAME_BITS | name.get() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_rounded_up_and_never_lost() {
        const TICK: u64 = 1 << TICK_BITS;
        let at = |at| Bounds::NONE.with_deadline(at).deadline();
        assert_eq!([at(0), at(1), at(TICK), at(TICK + 1)], [Some(TICK), Some(TICK), Some(TICK), Some(2 * TICK)]);
        let years = 30 * 365 * 86_400 * 1_000_000_000;
        assert_eq!(at(years), Some(years.next_multiple_of(TICK)));
        assert_eq!(at(NEVER << TICK_BITS), Some(u64::MAX), "decades ahead is never");
        assert_eq!(at(((NEVER - 1) << TICK_BITS) - 1), Some((NEVER - 1) << TICK_BITS));
        assert_eq!(at(u64::MAX), Some(u64::MAX));
        assert_eq!(Bounds::NONE.deadline(), None);
    }

    #[test]
    fn both_fit_and_neither_disturbs_the_other() {
        let name = |name| NonZeroU32::new(name).unwrap();
        for both in [
            Bounds::NONE.with_name(name(NAMES)).with_deadline(1 << 40),
            Bounds::NONE.with_deadline(1 << 40).with_name(name(5)).with_name(name(NAMES)),
        ] {
            assert_eq!((both.name(), both.deadline()), (NonZeroU32::new(NAMES), Some(1 << 40)));
        }
        assert_eq!(Bounds::NONE.with_deadline(7).name(), None);
        assert_eq!(Bounds::NONE.with_name(name(7)).deadline(), None);
    }
}
