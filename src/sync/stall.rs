//! A producer that stands still between reserving a slot of a ring and publishing it, as one does that is preempted there.
//!
//! Of the simulated system's tests alone: in every other build there is no such place in a push (R5). What happens there
//! must not panic, since the slot is still to be published.

use std::cell::RefCell;

type Stand = Box<dyn FnOnce()>;

std::thread_local! {
    static NEXT: RefCell<Option<Stand>> = const { RefCell::new(None) };
}

/// The calling thread's next push to a [`ring`](crate::handoff::ring()) stands still in its middle, for as long as `stand`
/// takes. A push that is refused does not get there.
pub fn stall_next_push(stand: impl FnOnce() + 'static) {
    NEXT.set(Some(Box::new(stand)));
}

/// Takes it back, if there was no push.
pub fn stall_no_push() {
    NEXT.set(None);
}

pub(crate) fn here() {
    if let Some(stand) = NEXT.take() {
        stand();
    }
}
