//! An event loop for Linux sockets, with two faces.
//!
//! | face | a connection is | your code | begin with |
//! |---|---|---|---|
//! | **proactor** | a handle, [`Conn`], for any thread | takes completions in batches | this page; from Go's gaio: [`migration`] |
//! | **typed sessions** | a state machine, a [`Protocol`] | is called with whole frames and messages | the [`guide`] |
//!
//! Both stand on one loop. The proactor: hand a connection to it for good, submit reads and writes from any thread, take
//! their completions in batches.
//!
//! ```text
//!   your threads                         the loop thread
//!   ────────────                         ───────────────────────────────────
//!   Submitter::delegate ──┐              owns every descriptor
//!   Conn::read, write …   ├─► ring ────► tries operations, keeps what must wait
//!   Submitter::post ──────┘              for an edge of the selector
//!   Watcher::wait ◄──────── mailbox ◄─── publishes completions in batches
//! ```
//!
//! No thread, no stack and no read buffer per connection; no async runtime. A completion is a value, and what to do about
//! it is up to a loop of yours.
//!
//! # An echo server, spawned
//!
//! The loop has a thread of its own, and any thread of yours waits for it.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//! use std::time::Duration;
//!
//! use gaio::{Event, Options, Outcome, SubmitError, WaitError, Watcher};
//!
//! fn serve(event: Event<'_>) -> Result<(), SubmitError> {
//!     match event {
//!         Event::Accepted { conn, .. } => conn.read_leased().submit(),
//!         Event::Done { conn, outcome, .. } => match outcome {
//!             // Writes all of it, then reads again: one submission, one completion.
//!             Outcome::Leased(bytes) => conn.write(bytes).then_read_leased().submit(),
//!             // Here the last handle is dropped, and that closes the connection.
//!             Outcome::Eof(_) | Outcome::Failed(_) => Ok(()),
//!             other => unreachable!("nothing else was submitted: {other:?}"),
//!         },
//!         Event::ListenerEnded { .. } => Ok(()),
//!         other => unreachable!("nothing else was asked for: {other:?}"),
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut watcher, submitter) = Watcher::spawn(Options::default())?;
//! let listener = submitter.listen(TcpListener::bind("127.0.0.1:0")?)?;
//! let address = listener.local_addr().unwrap();
//! let server = std::thread::spawn(move || {
//!     loop {
//!         match watcher.wait() {
//!             Ok(batch) => batch.for_each(|event| drop(serve(event))),
//!             Err(ended) => return ended,
//!         }
//!     }
//! });
//!
//! let mut peer = TcpStream::connect(address)?;
//! peer.write_all(b"hello")?;
//! let mut answer = [0; 5];
//! peer.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"hello");
//!
//! submitter.shutdown(Duration::from_secs(1));
//! assert_eq!(server.join().unwrap(), WaitError::Closed);
//! # Ok(()) }
//! ```
//!
//! # An echo server, embedded
//!
//! The loop runs in your thread, inside of [`EmbeddedWatcher::turn`]: one per core, say. Nothing is handed over: what that
//! thread submits is begun within the call, and an answer is sent before the next event of the batch is looked at.
//!
//! Either drive can be part of a poll loop of your own, with descriptors of yours beside: see [`Watcher::pollable`], and
//! [`EmbeddedWatcher::next_turn`].
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use gaio::{EmbeddedWatcher, Event, Options, Outcome};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut peer = TcpStream::connect(listener.local_addr()?)?;
//! let client = std::thread::spawn(move || {
//!     let mut answer = [0; 5];
//!     peer.write_all(b"hello").and_then(|()| peer.read_exact(&mut answer)).map(|()| answer)
//! });
//!
//! let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default())?;
//! let _listener = submitter.listen(listener)?;
//! 'serving: loop {
//!     for event in watcher.turn(None)? {
//!         match event {
//!             Event::Accepted { conn, .. } => conn.read_pooled().submit()?,
//!             Event::Done { conn, outcome: Outcome::Pooled(bytes), .. } => {
//!                 conn.write_copied(bytes).then_read_pooled().submit()?;
//!             }
//!             Event::Done { outcome: Outcome::Eof(_), .. } => break 'serving,
//!             other => unreachable!("nothing else was asked for: {other:?}"),
//!         }
//!     }
//! }
//! assert_eq!(&client.join().unwrap()?, b"hello");
//! # Ok(()) }
//! ```
//!
//! # A server of typed sessions
//!
//! One loop per thread; each connection is a value that says what it waits for, and becomes the next state when that has
//! come. The [`guide`] goes on from here.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::time::Duration;
//!
//! use gaio::{Expect, Io, Next, Protocol, Server};
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     type Message = ();
//!
//!     fn expects(&self) -> Expect {
//!         Expect::any().idle_within(Duration::from_secs(60))
//!     }
//!
//!     fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(bytes);
//!         Next::Become(self)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?.loops(2).serve(|_peer| Echo)?;
//! let mut peer = std::net::TcpStream::connect(server.local_addr().unwrap())?;
//! peer.write_all(b"hello")?;
//! let mut answer = [0; 5];
//! peer.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"hello");
//! # drop(peer);
//!
//! server.shutdown(Duration::from_secs(1));
//! server.join()?;
//! # Ok(()) }
//! ```
//!
//! # Words
//!
//! | word | what it is |
//! |---|---|
//! | watcher | the user's end of one loop: [`Watcher`] (spawned) or [`EmbeddedWatcher`] |
//! | loop thread | the only thread that touches descriptors: the watcher's own, or the caller of `turn` |
//! | consumer | the thread that waits. It [drives](Driver) a spawned loop itself where the two share one processor |
//! | turn | one pass of the loop, from a park to a publish |
//! | delegate | to give a connection to a loop, for good: [`Submitter::delegate`], or [`Submitter::listen`] for many |
//! | connect, listen | to let the loop make them: [`Submitter::connect`], [`Submitter::listen_on`] |
//! | session | the loop's state of one connection |
//! | conn | a handle to it, [`Conn`]: cloneable, usable from any thread |
//! | operation | something to be done on a connection: [`Op`]. Submitted and accepted, it is *in flight* |
//! | context | a value of yours, of type `C`, that travels with an operation and comes back unchanged |
//! | completion | the one [`Outcome`] of an operation, in an [`Event::Done`] |
//! | batch | completions published together: [`Batch`] |
//! | arena | the memory of a batch's pooled reads |
//! | release, close | to end a session now, or gracefully |
//! | protocol, state | a typed session's state machine, [`Protocol`]; a value of that type |
//! | frame | what a state waits for, whole: [`Expect`] |
//! | message | what others send to a typed session, by its [`Address`] or its group |
//! | shutdown | to end the loop |
//!
//! # Guarantees
//!
//! 1. An accepted operation completes exactly once, whatever happens, with its context and its buffer. What is refused
//!    comes back in the error. A batch that is dropped early keeps the rest for the next wait.
//! 2. Per connection and direction, operations are done in the order of their submission. Reads and writes are
//!    independent of each other.
//! 3. The loop never blocks: not on a consumer that does not wait, not on a peer, not on a close. What waits for the
//!    consumer is bounded, since what is in flight is.
//! 4. No wake-up is lost, and an idle loop sleeps.
//! 5. A batch, and the pooled bytes in it, are valid until the next wait or turn. The compiler sees to it:
//!
//!    ```compile_fail,E0499
//!    # fn f(watcher: &mut gaio::Watcher) -> Result<(), gaio::WaitError> {
//!    let first = watcher.wait()?;
//!    let second = watcher.wait()?; // the first batch is still borrowed
//!    # drop((first, second)); Ok(()) }
//!    ```
//!
//! 6. A handle whose connection is gone is answered with [`OpError::Closed`], never with another connection's data.
//! 7. Dropping the last handle of a connection with nothing in flight closes it gracefully. No drop blocks, allocates
//!    or fails, but a watcher's, which ends the loop and waits for its thread.
//! 8. One busy connection cannot starve the others: a step of a session has a budget, and then it is the next one's
//!    turn.
//! 9. No allocation per operation in the steady state.
//! 10. Everything has a limit, and most of them can be changed while the loop runs: see [`Limits`].
//! 11. A panic in user code on a loop's thread (the `Drop` of a payload) ends a spawned loop in order, as
//!     [`WaitError::LoopFailed`]; from an embedded loop it unwinds through `turn`, at whose end it comes, and the next turn
//!     goes on. A panic in a callback of a typed session ends that session alone, as [`End::Panicked`].
//!
//! What is said of operations holds for typed sessions in their terms: [`Protocol::on_end`] is called once, frames and one
//! sender's messages come in order, a peer that does not read is not read from, an idle session holds no buffer, and the
//! limits are [`SessionLimits`].
//!
//! # Which read?
//!
//! | read | memory | copies | take it if |
//! |---|---|---|---|
//! | [`Conn::read_leased`] | the loop's pool, when there are bytes | none | in doubt; the answer can go out in the same buffer |
//! | [`Conn::read_pooled`] | the batch's arena, when there are bytes | what you keep | you parse the bytes at once and drop them |
//! | [`Conn::read`] | a `Vec` of yours, all the time | none | connections are few or always busy, or the bytes stay with you |
//! | [`Conn::read_exact`] | a `Vec` of yours, all the time | none | you know the length, as after a header |
//! | [`Conn::readable`] | none | – | you only want to know |
//!
//! A write takes a `Vec<u8>`, [`bytes::Bytes`], `&'static [u8]` or a [`Lease`], and gives back the same allocation; a
//! borrowed slice goes by [`Conn::write_copied`], which copies what is not sent at once. A write may be linked to the
//! read that follows it ([`Op::then_read`], [`Op::then_read_leased`], [`Op::then_read_pooled`]): one submission, one
//! completion. The read must be able to keep the buffer, so this does not compile, as the vector would be lost:
//!
//! ```compile_fail,E0277
//! # fn f(conn: gaio::Conn) {
//! let _ = conn.write(vec![1, 2, 3]).then_read_pooled();
//! # }
//! ```
//!
//! Connected datagram sockets (UDP, Unix) can be delegated like streams: each read then takes one message, and each write
//! sends one. An empty message is data, and one that found too little room is a failure, with what did fit:
//! see [`Conn`](Conn#datagrams).
//!
//! # Back-pressure
//!
//! Nothing is read but what was asked for. So the peer is held back by not submitting the next read: submit it when the
//! answer was written, or link it to the write, and a peer that does not read is not read from. A connection that
//! writes without reading has no such brake; the caps on operations and bytes in flight stop it in the end, by
//! refusing what is beyond as [`SubmitErrorKind::TooMany`].
//!
//! When the *loop* is behind, its ring fills up: [`Op::submit`] then parks until there is room, [`Op::try_submit`]
//! returns the operation as [`SubmitErrorKind::Full`], and [`Op::submit_timeout`] waits for a while. On a thread that
//! runs a loop nothing waits, and `submit` returns `Full` as well if it is meant for another one. The thread that waits
//! for completions may always submit: a spawned loop makes room in its ring whether completions are taken or not (by its
//! thread, if that thread would have to do so itself).
//!
//! When *you* are behind, completions wait in the loop, and no more work is begun than the batch has places for.
//!
//! # Ending
//!
//! | what | how | pending operations |
//! |---|---|---|
//! | a connection, gracefully | drop the last handle, or [`Conn::close`] | reads: [`OpError::Released`]; queued writes go out |
//! | a connection, now | [`Conn::release`] | complete as `Released` |
//! | accepting | drop the [`Listener`] | connections accepted before are still handed out |
//! | a connect | [`Submitter::cancel_connect`] | [`OpError::Cancelled`] |
//! | a loop | [`Submitter::shutdown`] | queued writes go out within the grace; the rest: [`OpError::Aborted`] |
//! | a loop, now | drop the watcher | dropped, buffers and contexts once each |
//!
//! An end of stream, or an error, does not end the connection by itself: it is yours until its last handle is gone. The
//! graceful close sends what is queued, then a FIN, and then throws input away until the peer has ended too, so that the
//! tail of an answer is not lost to a reset; [`Limits::close_within`] bounds it. A connection whose write was torn is
//! always reset.
//!
//! # Limits
//!
//! One type, [`Limits`], checked when the loop is built.
//!
//! | limit | unit | default | beyond it |
//! |---|---|---|---|
//! | [`sessions`](Limits::sessions) | connections per loop | 65 536 | `delegate` and `connect` are refused, an accepted one closed |
//! | [`ops_per_conn`](Limits::ops_per_conn) | operations in flight per connection | 1 024 | `TooMany` |
//! | [`ops`](Limits::ops) | operations in flight per loop | 1 048 576 | `TooMany` |
//! | [`write_bytes`](Limits::write_bytes) | bytes queued before this write, per loop | 256 MiB | `TooMany` |
//! | [`ring_slots`](Limits::ring_slots) | submissions not taken up yet | 4 096 | `submit` parks, or `Full` |
//! | [`batch`](Limits::batch) | completions per batch | 128 | the loop begins no more work until it is taken |
//! | [`batch_bytes`](Limits::batch_bytes) | bytes that reads bring, per batch | 32 KiB | as above |
//! | [`arena`](Limits::arena) | bytes of pooled reads per batch | 1 MiB | pooled reads wait for the next batch |
//! | [`read_cap`](Limits::read_cap) | bytes per pooled or leased read | 256 KiB | the rest comes with the next read |
//! | [`bytes_per_turn`](Limits::bytes_per_turn) | bytes per step of a session | 512 KiB | the others first |
//! | [`ops_per_turn`](Limits::ops_per_turn) | operations per step of a session | 64 | the others first |
//! | [`accepts_per_turn`](Limits::accepts_per_turn) | connections per listener and turn | 1 024 | the next turn |
//! | [`listen_credit`](Limits::listen_credit) | connections accepted, not yet taken | 1 024 | accepting pauses |
//! | [`close_within`](Limits::close_within) | time of a graceful close | 5 s | what is unsent fails, the peer sees a reset |
//! | [`close_drain`](Limits::close_drain) | bytes of input thrown away by a close | 1 MiB | it is closed at once |
//!
//! # Errors
//!
//! | when | type | what is in it |
//! |---|---|---|
//! | building a loop | [`std::io::Error`] | a bad limit by name, a CPU that is not allowed, or the system's |
//! | submitting | [`SubmitError`] | why, the context, the buffer |
//! | delegating, listening | [`DelegateError`] | why, the socket |
//! | in a completion | [`Failure`], with an [`OpError`] | why, which half of a linked one, bytes moved, the buffer |
//! | listening at an address | [`DelegateErrorKind`] | why |
//! | in an [`Event::Connected`] | [`ConnectError`] | why, and what each address said |
//! | waiting | [`WaitError`] | there will be no more batches, and why |
//! | sending a message | [`SendError`] | why, the message |
//! | the end of a typed session | [`End`] | why |
//!
//! An end of stream is no error: it is [`Outcome::Eof`].
//!
//! # Testing a server
//!
//! [`verification`] leads from a bench for one protocol, without sockets and clocks ([`testkit`]), by a simulated system
//! with faults from a seed ([`sim`]) to models that loom explores. What this crate itself promises, and how each promise
//! was tested, is in `RELIABILITY.md`.
//!
//! # The parts
//!
//! What two threads share is in [`handoff`], public and usable alone: a ring, a gate, a mailbox, counted handles, a
//! cell for one thread, and a lock that is only tried. How it all fits together, with every invariant, is in
//! `ARCHITECTURE.md`.

#![deny(unsafe_code)]

pub mod guide;
pub mod handoff;

mod error;
mod event_loop;
mod limits;
pub mod migration;
mod sync;
mod sys;
pub mod testkit;
mod typed;
pub mod verification;
mod watcher;

pub use error::{ConnectError, DelegateError, DelegateErrorKind, OpError, SubmitError, SubmitErrorKind, WaitError};
pub use event_loop::counters::Snapshot;
pub use event_loop::next_turn::NextTurn;
pub use limits::{Driver, Limits, LimitsError, Options};
#[cfg(any(loom, gaio_sim, all(doc, not(doctest))))]
#[doc(inline)]
pub use sys::sim;
pub use sys::{ListenOptions, Socket, StreamOptions};
pub use typed::{
    Address, Decode, End, Expect, Hub, Io, LengthField, Next, Protocol, SendError, SendErrorKind, Server,
    ServerBuilder, SessionLimits, SessionLoop, TimeLimit, Unserved,
};
pub use watcher::{
    Batch, Conn, ConnectId, Copied, Destination, Detached, EmbeddedWatcher, Event, Failure, Half, Lease, Listener,
    ListenerId, NewConnect, NewTimer, Op, OpId, Outcome, Payload, Pollable, Single, Spendable, Submitter, TimerId,
    Watcher, Write,
};

/// The README's example has to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
