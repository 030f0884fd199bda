//! The only switch between `std` and loom.
//!
//! Everything that two threads share is built from these names, so that `--cfg loom` turns the whole crate into a
//! model. [`order`] adds a second switch for the models alone: the ordering of each atomic access of the hand-off
//! has a name, and under loom the environment can weaken one of them (`GAIO_WEAKEN=NAME`) or turn on one deliberate
//! fault (`GAIO_MUTANT=name`). In every other build both are constants, and cost nothing.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::cell::UnsafeCell;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread;
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread;
}

pub(crate) use imp::*;
