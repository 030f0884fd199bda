//! The only switch between `std` and loom.
//!
//! Everything that two threads share is built from these names, so that `--cfg loom` turns the whole crate into a
//! model. [`order!`] adds a second switch for the models alone: each ordering that the hand-off depends on has a
//! name, and under loom the environment can weaken one of them (`GAIO_WEAKEN=NAME`) or turn on one deliberate fault
//! (`GAIO_MUTANT=name`). In every other build both are constants, and cost nothing.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::cell::Cell;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread;

    /// `std`'s cell with loom's interface: the pointer is lent to a closure, so that a model can see both ends of
    /// each access.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[inline(always)]
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Lends a pointer to read through. A model fails if somebody writes meanwhile.
        #[inline(always)]
        pub(crate) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        /// Lends a pointer to write through. A model fails if anybody else accesses the cell meanwhile.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }

    macro_rules! thread_cell {
        ($(#[$meta:meta])* static $name:ident: $type:ty = $value:expr;) => {
            std::thread_local! {
                $(#[$meta])* static $name: $crate::sync::Cell<$type> =
                    const { $crate::sync::Cell::new($value) }
            }
        };
    }

    macro_rules! order {
        ($name:ident, $order:ident) => {
            core::sync::atomic::Ordering::$order
        };
    }

    /// Whether the deliberate fault `name` is on: never, outside of the models.
    #[inline(always)]
    pub(crate) const fn mutant(_name: &str) -> bool {
        false
    }

    pub(crate) use {order, thread_cell};
}

#[cfg(loom)]
mod probed;
#[cfg(gaio_sim)]
pub(crate) mod stall;

#[cfg(loom)]
mod imp {
    use std::env;
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;

    pub(crate) use super::probed::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};
    pub(crate) use loom::cell::{Cell, UnsafeCell};
    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread;

    macro_rules! thread_cell {
        ($(#[$meta:meta])* static $name:ident: $type:ty = $value:expr;) => {
            loom::thread_local! {
                $(#[$meta])* static $name: $crate::sync::Cell<$type> =
                    $crate::sync::Cell::new($value)
            }
        };
    }

    macro_rules! order {
        ($name:ident, $order:ident) => {
            $crate::sync::ordering(stringify!($name), core::sync::atomic::Ordering::$order)
        };
    }

    /// The ordering called `name`: as written, unless `GAIO_WEAKEN` says `name` (then it is `Relaxed`).
    pub(crate) fn ordering(name: &str, written: Ordering) -> Ordering {
        static WEAKEN: OnceLock<Option<String>> = OnceLock::new();
        match WEAKEN.get_or_init(|| env::var("GAIO_WEAKEN").ok()) {
            Some(weakened) if weakened == name => Ordering::Relaxed,
            _ => written,
        }
    }

    /// Whether the deliberate fault `name` is on: if `GAIO_MUTANT` says so.
    pub(crate) fn mutant(name: &str) -> bool {
        static MUTANT: OnceLock<Option<String>> = OnceLock::new();
        MUTANT.get_or_init(|| env::var("GAIO_MUTANT").ok()).as_deref() == Some(name)
    }

    pub(crate) use {order, thread_cell};
}

pub(crate) use core::sync::atomic::Ordering;
pub(crate) use imp::*;

/// Atomics that loom does not see: for figures that order nothing and guard nothing, where each access a model had
/// to interleave would only multiply its executions.
pub(crate) mod figures {
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
}
