//! loom's atomics, with a cure for a blind spot of loom 0.7.2.
//!
//! loom explores another order of two accesses only if it finds them dependent, and it remembers of each atomic
//! nothing but the last access and the last write. So when one thread loads, and another loads and then writes, that
//! second load hides the first: the write is compared with its own thread's load, and the order "write before the
//! first load" is never tried. Load, then compare-exchange is what every lock-free loop does; two of our models had
//! exactly one execution, and let their faults pass.
//!
//! Here each load is preceded by a write to a neighbour that nobody reads: of two such writes loom tries both orders.
//! They are relaxed, so they order nothing; and the load itself is still free to return an old value, which it would
//! not be if it were made a read-modify-write. Everything but `load` is loom's own.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering::{self, Relaxed};

use loom::sync::atomic;

macro_rules! probed {
    ($name:ident $(<$param:ident>)?, $value:ty) => {
        pub(crate) struct $name $(<$param>)? {
            word: atomic::$name $(<$param>)?,
            probe: atomic::AtomicBool,
        }

        impl $(<$param>)? $name $(<$param>)? {
            pub(crate) fn new(value: $value) -> Self {
                Self { word: atomic::$name::new(value), probe: atomic::AtomicBool::new(false) }
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.probe.swap(false, Relaxed);
                self.word.load(order)
            }
        }

        impl $(<$param>)? Deref for $name $(<$param>)? {
            type Target = atomic::$name $(<$param>)?;

            fn deref(&self) -> &Self::Target {
                &self.word
            }
        }

        impl $(<$param>)? Default for $name $(<$param>)?
        where
            $value: Default,
        {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }

        impl $(<$param>)? fmt::Debug for $name $(<$param>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.word.fmt(f)
            }
        }
    };
}

probed!(AtomicBool, bool);
probed!(AtomicU32, u32);
probed!(AtomicU64, u64);
probed!(AtomicPtr<T>, *mut T);
