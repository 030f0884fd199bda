//! Panics of the user's drops while a watcher is dropped.
//!
//! The loop has to be brought to its end whatever they do: descriptors close, the thread is joined, every context and
//! buffer is dropped (G7, G11). So each is put off until that is done, and then the first of them goes on.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::watcher::{Batch, Event, Outcome, Payload};

#[derive(Default)]
pub(crate) struct Panics(Cell<Option<Box<dyn Any + Send>>>);

impl Panics {
    /// Runs what may run user code; `None` if it panicked. In a model a panic is a finding, and goes on at once.
    pub(crate) fn put_off<R>(&self, act: impl FnOnce() -> R) -> Option<R> {
        if cfg!(loom) {
            return Some(act());
        }
        let caught = catch_unwind(AssertUnwindSafe(act));
        caught.map_err(|panic| self.0.set(self.0.take().or(Some(panic)))).ok()
    }

    /// Drops what nobody has taken, part by part.
    pub(crate) fn discard<C>(&self, batch: Batch<'_, C>) {
        for event in batch {
            let Event::Done { context, outcome, .. } = event else {
                self.put_off(|| drop(event));
                continue;
            };
            self.put_off(|| drop(context));
            let payload = match outcome {
                Outcome::Wrote(payload) => Some(payload),
                Outcome::Failed(failure) => failure.buffer,
                other => {
                    self.put_off(|| drop(other));
                    None
                }
            };
            match payload {
                Some(Payload::Many(pieces)) => pieces.into_iter().for_each(|piece| _ = self.put_off(|| drop(piece))),
                other => _ = self.put_off(|| drop(other)),
            }
        }
    }

    /// Lets the first one go on, unless there is another already: two at once abort the process.
    pub(crate) fn pass_on(self) {
        match self.0.into_inner() {
            Some(panic) if !std::thread::panicking() => resume_unwind(panic),
            _ => {}
        }
    }
}
