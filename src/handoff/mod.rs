//! The hand-off: what two threads share, and nothing else.
//!
//! Six small pieces, each usable alone. None of them does I/O, knows an operating system, or allocates after it was
//! made; each hand-over is a read-modify-write on one word, so that no wake-up hides between two.
//!
//! | piece       | from → to                          | what it decides                                    |
//! |-------------|------------------------------------|----------------------------------------------------|
//! | [`ring()`]    | many producers → one consumer      | the order of submissions; full; closed             |
//! | [`gate()`]    | many raisers → one keeper          | who pays for a wake-up, so that none is lost       |
//! | [`mailbox()`] | one publisher → one taker          | whole batches, by swapping buffers                 |
//! | [`Handle`]  | the last of many handles → an owner | who takes a counted block apart, and when          |
//! | [`ThreadBound`] | a thread → itself              | whether a caller is on the thread that owns a cell |
//! | [`TryLock`] | whoever comes → whoever comes next  | who has a value, when nobody waits for it          |
//!
//! A producer pushes, then raises; the consumer opens its gate, drains, closes the gate, and blocks only if `close`
//! says so:
//!
//! ```
//! use gaio::handoff::{Pop, gate, ring};
//!
//! let (producer, mut consumer) = ring(8);
//! let (raiser, mut keeper) = gate();
//!
//! producer.push("a submission").unwrap();
//! assert!(raiser.raise()); // parked: this raiser writes the waker
//!
//! keeper.open();
//! assert_eq!(consumer.pop(), Pop::Item("a submission"));
//! assert_eq!(consumer.pop(), Pop::Empty);
//! assert!(keeper.close()); // nothing came meanwhile: the loop may block
//! ```
//!
//! Each piece has a model in `loom-tests/`; the faults that those models must find are listed in the header of each
//! file, and `ci/mutants-loom.sh` weakens every named ordering in turn.

mod gate;
mod handles;
mod local;
mod mailbox;
mod ring;
mod try_lock;

pub use gate::{Keeper, Raiser, gate};
pub use handles::{Counted, Drain, Handle, Returned, Returns};
pub(crate) use local::this_thread;
pub use local::{Inside, ThreadBound, on_loop_thread};
pub use mailbox::{Published, Publisher, Taken, Taker, mailbox};
pub use ring::{Consumer, Pop, Position, Producer, PushError, ring};
pub use try_lock::{Held, TryLock};
