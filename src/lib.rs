//! `gaio`: a lock-free proactor.

#![deny(unsafe_code)]

pub mod handoff;

mod error;
mod event_loop;
mod limits;
mod sync;
mod sys;
mod watcher;

pub use error::{DelegateError, DelegateErrorKind, OpError, SubmitError, SubmitErrorKind, WaitError};
pub use event_loop::counters::Snapshot;
pub use limits::{Limits, LimitsError, Options};
pub use sys::Socket;
#[cfg(any(loom, gaio_sim))]
pub use sys::sim;
pub use watcher::{
    Batch, Conn, EmbeddedWatcher, Event, Failure, Half, Lease, Listener, ListenerId, Op, Outcome, Payload, Single,
    Spendable, Submitter, Watcher, Write,
};
