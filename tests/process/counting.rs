//! An allocator that counts, over all threads: calls, bytes alive, and bytes that were to be zero.

#![allow(dead_code, reason = "one test counts calls, another bytes")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// As often is work done that always allocated more than it may.
const RUNS: usize = 20;

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static ZEROED: AtomicU64 = AtomicU64::new(0);

fn count(calls: u64, bytes: usize, sign: i64) {
    CALLS.fetch_add(calls, Ordering::Relaxed);
    LIVE.fetch_add(sign * i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; counting touches
// nothing but two atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 1);
        ZEROED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(0, layout.size(), -1);
        count(1, size, 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size(), -1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations so far, of the whole process.
pub(crate) fn allocations() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

/// The fewest allocations that a run of `work` makes, of several runs; it is enough when one makes no more than `enough`.
/// What work allocates each time is in every run. What happens once, whenever it happens, is in one of them: a pool that
/// learns of a new most of buffers under way, a thread preempted inside of it, the harness telling that the test is slow.
pub(crate) fn least(enough: u64, mut work: impl FnMut()) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..RUNS {
        let before = allocations();
        work();
        least = least.min(allocations() - before);
        if least <= enough {
            break;
        }
    }
    least
}

/// Bytes allocated and not freed, of the whole process.
pub(crate) fn live_bytes() -> i64 {
    LIVE.load(Ordering::SeqCst)
}

/// Bytes asked for as zeroes so far, of the whole process.
pub(crate) fn zeroed_bytes() -> u64 {
    ZEROED.load(Ordering::SeqCst)
}
