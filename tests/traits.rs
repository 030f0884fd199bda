//! Which type may go where: proved by the compiler. Nothing here is about running; what compiles has passed.
//!
//! A negative proof is a method that exists once if the trait is missing, and twice, hence ambiguous, if it is there.

#![cfg(not(any(loom, gaio_sim)))]

use std::cell::Cell;

use gaio::handoff::{Consumer, Held, Keeper, Producer, Publisher, PushError, Raiser, Taker, ThreadBound, TryLock};
use gaio::{Batch, Conn, EmbeddedWatcher, Event, Failure, Lease, Limits, Listener, ListenerId, Op, Options, Outcome};
use gaio::{ConnectError, ConnectId, DelegateErrorKind, Destination, ListenOptions, NewConnect, StreamOptions};
use gaio::{DelegateError, LimitsError, NextTurn, OpError, Payload, Pollable, Snapshot, SubmitError, Submitter};
use gaio::{SendError, SendErrorKind, SubmitErrorKind, WaitError, Watcher};

macro_rules! is {
    ($type:ty: $($bound:path),+) => {
        const _: () = {
            const fn holds<T: $($bound +)+ ?Sized>() {}
            holds::<$type>()
        };
    };
}

macro_rules! is_not {
    ($type:ty: $($bound:path),+) => {
        $(const _: fn() = || {
            trait AmbiguousIf<Which> {
                fn holds() {}
            }
            impl<T: ?Sized> AmbiguousIf<()> for T {}
            #[allow(dead_code, reason = "it only has to exist")]
            struct There;
            impl<T: ?Sized + $bound> AmbiguousIf<There> for T {}
            let _ = <$type as AmbiguousIf<_>>::holds;
        };)+
    };
}

/// A context that may move between threads, and no more.
type Sendable = Cell<u8>;

// Handles: anywhere, as many as one likes.
is!(Conn: Send, Sync, Clone, Unpin, Eq, std::hash::Hash, std::fmt::Debug);
is!(Submitter: Send, Sync, Clone, Unpin, std::fmt::Debug);
is!(Conn<Sendable>: Send, Sync, Clone);
is!(Submitter<Sendable>: Send, Sync, Clone);
is!(Listener: Send, Sync, Unpin);
is_not!(Listener: Clone);
is!(ListenerId: Send, Sync, Copy, Eq, std::hash::Hash);

// The waiting end: one, and it moves.
is!(Watcher: Send, Unpin, std::fmt::Debug);
is!(Watcher<Sendable>: Send);
is_not!(Watcher: Clone);
is_not!(EmbeddedWatcher: Send, Sync, Clone);
is!(EmbeddedWatcher: Unpin, std::fmt::Debug);
is!(Pollable: Send, Sync, Clone, Unpin, std::os::fd::AsFd);
is!(NextTurn: Send, Sync, Copy, Eq);
is!(EmbeddedWatcher: std::os::fd::AsFd);

// What comes out of it.
is!(Batch<'static>: Send, Iterator, ExactSizeIterator);
is_not!(Batch<'static>: Clone);
is!(Event<'static>: Send, Sync);
is!(Outcome<'static>: Send, Sync);
is!(Failure: Send, Sync, std::error::Error);
is!(Payload: Send, Sync);
is!(Lease: Send, Sync, Unpin, AsRef<[u8]>);
is_not!(Lease: Clone);

// An operation is made and spent once.
is!(Op<'static, ()>: Send);
is_not!(Op<'static, ()>: Clone);
is!(NewConnect<'static, ()>: Send);
is_not!(NewConnect<'static, ()>: Clone);
is!(ConnectId: Send, Sync, Copy, Eq, std::hash::Hash);
is!(Destination: Send, Sync, Clone, Eq);
is!(StreamOptions: Send, Sync, Copy, Eq, Default);
is!(ListenOptions: Send, Sync, Copy, Eq, Default);

// Errors travel.
is!(SubmitError: Send, Sync, std::error::Error);
is!(SubmitErrorKind: Send, Sync, std::error::Error);
is!(SendError<Sendable>: Send, std::error::Error);
is!(SendErrorKind: Send, Sync, Copy, std::error::Error);
is!(PushError<Sendable>: Send, std::error::Error);
is!(DelegateError: Send, Sync, std::error::Error);
is!(DelegateErrorKind: Send, Sync, std::error::Error);
is!(ConnectError: Send, Sync, std::error::Error);
is!(OpError: Send, Sync, std::error::Error);
is!(WaitError: Send, Sync, Copy, std::error::Error);
is!(LimitsError: Send, Sync, Clone, std::error::Error);
is!(Limits: Send, Sync, Clone, Eq);
is!(Options: Send, Sync, Clone);
is!(Snapshot: Send, Sync, Copy);

// The hand-off: the single ends are the proof that there is one of them.
is!(Producer<Sendable>: Send, Sync, Clone);
is!(Raiser: Send, Sync, Clone);
is!(Consumer<u8>: Send);
is_not!(Consumer<u8>: Sync, Clone);
is!(Keeper: Send);
is_not!(Keeper: Clone);
is!(Publisher<u8>: Send);
is_not!(Publisher<u8>: Sync, Clone);
is!(Taker<u8>: Send);
is_not!(Taker<u8>: Sync, Clone);
is!(ThreadBound<Sendable>: Send, Sync);
is_not!(ThreadBound<u8>: Clone);
is!(TryLock<Cell<u8>>: Send, Sync);
is!(Held<'static, Cell<u8>>: Send);
is_not!(Held<'static, Cell<u8>>: Sync, Clone);
is!(Held<'static, Sendable>: Send);

// What may not cross threads does not with our help either.
type Bound = std::rc::Rc<u8>;
is_not!(Producer<Bound>: Send, Sync);
is_not!(Consumer<Bound>: Send);
is_not!(Publisher<Bound>: Send);
is_not!(Taker<Bound>: Send);
is_not!(ThreadBound<Bound>: Sync);
is_not!(TryLock<Bound>: Sync);
is_not!(Held<'static, Bound>: Send, Sync);
is_not!(Conn<Bound>: Send, Sync);
is_not!(Submitter<Bound>: Send, Sync);

/// A batch borrows its watcher: that pooled bytes do not outlive the next wait is shown to fail in the docs of `Batch`.
#[test]
fn a_batch_borrows_what_it_came_from() {
    fn wait<'w>(watcher: &'w mut Watcher) -> Batch<'w> {
        watcher.try_wait().unwrap()
    }
    let (mut watcher, _submitter) = Watcher::spawn(Options::default()).unwrap();
    assert_eq!(wait(&mut watcher).len(), 0);
}

/// Small enough to be passed around: a ring slot holds a whole submission.
#[test]
fn what_travels_is_small() {
    assert_eq!(size_of::<Conn>(), size_of::<usize>());
    assert_eq!(size_of::<Submitter>(), size_of::<usize>());
    assert!(size_of::<Lease>() <= 32, "{}", size_of::<Lease>());
    assert!(size_of::<Event<'_>>() <= 96, "{}", size_of::<Event<'_>>());
}
