//! From Go's gaio to this crate, call by call.
//!
//! This is a guide, and has no items. It is for people who have a server on [gaio](https://github.com/xtaci/gaio) and
//! know its API; what is here is what each call becomes, what is different then, and why.
//!
//! The shape stays: connections are delegated, requests are submitted from anywhere with a context, results come in
//! batches from one call that waits. So a server moves over loop by loop, not line by line. What changes is what Go cannot
//! express: a buffer *belongs* to the loop while it is read into, results cannot be used after the next wait, a connection
//! closes when its last handle is dropped, and an operation that is pending counts as one.
//!
//! - [At a glance](#at-a-glance)
//! - [A watcher](#a-watcher), [contexts](#contexts), [delegating](#delegating)
//! - [Reading](#reading), [swap buffers](#swap-buffers), [writing](#writing), [deadlines](#deadlines)
//! - [Waiting](#waiting), [results and errors](#results-and-errors)
//! - [`Free` and the ends of a connection](#free-and-the-ends-of-a-connection), [`Close`](#close)
//! - [Affinity](#affinity), [limits](#limits), [habits to give up](#habits-to-give-up), [new here](#new-here)
//!
//! # At a glance
//!
//! | gaio | here | different |
//! |---|---|---|
//! | `NewWatcher()` | [`Watcher::spawn`] | one thread and no channel; or none, [`EmbeddedWatcher`] |
//! | `NewWatcherSize(n)` | [`Limits::arena`] | the size of one batch's arena; a read that finds it full waits |
//! | the first request on a connection | [`Submitter::delegate`] | explicit; ownership moves, nothing is dup'd |
//! | `net.Listener`, `Accept` | [`Submitter::listen`], or the same by hand | accepting can be the loop's |
//! | `net.Dial`, and then a request | [`Submitter::connect`], or the same by hand | connecting can be the loop's |
//! | `Read(ctx, conn, buf)` | [`conn.read(buf)`](Conn::read)`.submit_with(ctx)` | the buffer moves in, and back |
//! | `Read(ctx, conn, nil)` | [`read_pooled`](Conn::read_pooled), [`read_leased`](Conn::read_leased) | bounded per read; nobody gets crumbs |
//! | `ReadTimeout(…, deadline)` | [`.by(instant)`](Op::by), [`.within(time)`](Op::within) | on every operation |
//! | `ReadFull(ctx, conn, buf, deadline)` | [`read_exact(buf, n)`](Conn::read_exact) | an early end says how much came, and never hangs |
//! | `Write`, `WriteTimeout` | [`write(buf)`](Conn::write) | after a torn write nothing follows |
//! | `Free(conn)` | drop the last handle with nothing pending, or [`close`](Conn::close), [`release`](Conn::release), [`abort`](Conn::abort) | graceful by default, and it completes |
//! | `WaitIO()` | [`wait`](Watcher::wait), [`try_wait`](Watcher::try_wait), [`wait_timeout`](Watcher::wait_timeout) | a batch borrows the watcher |
//! | `Close()` | drop the watcher, or [`Submitter::shutdown`] | nothing is lost |
//! | `SetLoopAffinity`, `SetPollerAffinity` | [`Options::pin_to`] | one thread; errors are told |
//! | `GetGC()` | [`Submitter::counters`] | there is no collector to wait for |
//! | `OpResult` | [`Event::Done`] | an enum: only what is there can be read |
//! | `ErrDeadline` and the others | [`OpError`], [`SubmitErrorKind`] | refused, failed and ended are different types |
//!
//! # A watcher
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // w, err := gaio.NewWatcher()
//! let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let _ = (&mut watcher, &submitter); Ok(()) }
//! ```
//!
//! There are two halves, since they have different rules: one thread waits (`&mut Watcher`), any number submit
//! ([`Submitter`] and [`Conn`] are cloned and sent as you like). In gaio that only one goroutine calls `WaitIO` is for you
//! to see to.
//!
//! gaio runs a poller and a loop, and a channel between them and you. Here it is one loop thread and a mailbox; or, with
//! [`EmbeddedWatcher`], no thread at all: [`turn`](EmbeddedWatcher::turn) is `WaitIO` and the loop in one. Several
//! watchers with a dispatch of your own work as before; [`Submitter::load`] helps to choose.
//!
//! # Contexts
//!
//! gaio's context is an `interface{}` per request. Here it is a type of yours, chosen once per watcher, by value:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (ours, _peer) = std::os::unix::net::UnixStream::pair()?;
//! #[derive(Debug, PartialEq)]
//! enum Step {
//!     Header,
//!     Body { request: u64 },
//! }
//!
//! let (mut watcher, submitter) = gaio::Watcher::<Step>::spawn_for(gaio::Options::default())?;
//! let conn = submitter.delegate(ours)?;
//! // w.Write(step, conn, buf)
//! conn.write(vec![1, 2, 3]).submit_with(Step::Body { request: 7 })?;
//! for event in watcher.wait()? {
//!     let gaio::Event::Done { context, .. } = event else { panic!() };
//!     assert_eq!(context, Step::Body { request: 7 }); // res.Context.(Step)
//! }
//! # let _ = Step::Header; Ok(()) }
//! ```
//!
//! No allocation, no type assertion. Up to 16 bytes travel best; box what is large. With contexts of type `()` there is
//! plain [`submit`](Op::submit). A map from `net.Conn` to state becomes a map from [`Conn`], which is a key
//! ([`Eq`], [`Hash`](std::hash::Hash)); but mind that a handle in a map keeps the connection open.
//!
//! # Delegating
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let _peer = std::net::TcpStream::connect(listener.local_addr()?)?;
//! // conn, err := listener.Accept(); w.Read(nil, conn, buf)
//! let (stream, _) = listener.accept()?;
//! stream.set_nodelay(true)?; // options set before stay, as in gaio
//! let conn = submitter.delegate(stream)?;
//! conn.read(Vec::with_capacity(4096)).submit()?;
//! # Ok(()) }
//! ```
//!
//! gaio dups the descriptor at the first request, and closes yours. Here the socket *moves*: there is no second
//! descriptor, and no use of the first by mistake. What cannot be delegated (a file, a listener, a socket that is not
//! connected) is refused at once, and comes back in the error; gaio's `ErrUnsupported` arrives later, by `WaitIO`. The
//! descriptor is close-on-exec.
//!
//! Or let the loop accept: [`Submitter::listen`] makes each connection an [`Event::Accepted`], and deals with running out
//! of descriptors. A connection comes back out by [`Conn::into_fd`], and one with bytes that were read already goes in by
//! [`Submitter::delegate_with`].
//!
//! # Reading
//!
//! ```
//! use gaio::{Event, Outcome};
//! # use std::io::Write;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::<&str>::spawn_for(gaio::Options::default())?;
//! # let (ours, mut peer) = std::os::unix::net::UnixStream::pair()?;
//! # peer.write_all(b"\0\x05hello, and more")?;
//! # let conn = submitter.delegate(ours)?;
//! conn.read_exact(Vec::new(), 2).submit_with("header")?; // w.ReadFull(ctx, conn, buf[:2], time.Time{})
//!
//! 'serving: loop {
//!     for event in watcher.wait()? {
//!         let Event::Done { conn, context, outcome } = event else { continue };
//!         match outcome {
//!             // The buffer that went in comes out: res.Buffer[:res.Size] is just `bytes`.
//!             Outcome::Read(bytes) if context == "header" => {
//!                 let n = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
//!                 conn.read_exact(bytes, n).submit_with("body")?;
//!             }
//!             Outcome::Read(bytes) => {
//!                 assert_eq!(bytes, b"hello");
//!                 break 'serving;
//!             }
//!             Outcome::Eof(partial) => println!("ended, after {:?}", partial.map(|bytes| bytes.len())),
//!             other => println!("{other:?}"),
//!         }
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! | gaio | here |
//! |---|---|
//! | do not touch the buffer until the result is there | you cannot: it has moved |
//! | `len(buf)` is what may come | the vector's *capacity* is; it is cleared first |
//! | `len(buf) == 0` reads a false EOF | refused, as [`SubmitErrorKind::EmptyBuffer`] |
//! | EOF: `Error == io.EOF` | [`Outcome::Eof`]; what a `ReadFull` has got so far is in it |
//! | `ReadFull` hangs if the last bytes and the FIN come together | it ends as `Eof` |
//!
//! Reads of one connection are served in their order, reads and writes are independent of each other: as in gaio.
//!
//! # Swap buffers
//!
//! `Read(ctx, conn, nil)` reads into memory of the watcher, good until the next `WaitIO`. There are two of that kind here.
//!
//! ```
//! use gaio::{Event, Outcome};
//! # use std::io::{Read, Write};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let (ours, mut peer) = std::os::unix::net::UnixStream::pair()?;
//! # peer.write_all(b"hello")?;
//! # let conn = submitter.delegate(ours)?;
//! conn.read_pooled().submit()?; // w.Read(nil, conn, nil)
//! for event in watcher.wait()? {
//!     let Event::Done { conn, outcome: Outcome::Pooled(bytes), .. } = event else { panic!() };
//!     // A slice of the batch. To keep it past the next wait does not compile, so copy what you keep.
//!     conn.write_copied(bytes).then_read_leased().submit()?;
//! }
//! # peer.read_exact(&mut [0; 5])?;
//! # peer.write_all(b"again")?;
//! for event in watcher.wait()? {
//!     let Event::Done { conn, outcome: Outcome::Leased(lease), .. } = event else { panic!() };
//!     // Owned: keep it, send it to another thread, or write it back without a copy.
//!     conn.write(lease).then_read_leased().submit()?;
//! }
//! # let mut answer = [0; 5];
//! # peer.read_exact(&mut answer)?;
//! # assert_eq!(&answer, b"again");
//! # Ok(()) }
//! ```
//!
//! gaio has three swap buffers that rotate, 64 KiB each by default; one busy connection may take a whole one, and the
//! others get 16 bytes each until the next `WaitIO`. Here the arena belongs to its batch, and [`Limits::read_cap`] bounds what
//! one read takes of it. A read that finds it full waits for the next one, with its bytes in the kernel. `IsSwapBuffer`
//! is the variant: `Pooled` borrows, `Leased` and `Read` are yours.
//!
//! # Writing
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let (ours, _peer) = std::os::unix::net::UnixStream::pair()?;
//! # let conn = submitter.delegate(ours)?;
//! conn.write(b"static bytes").submit()?; // w.Write(nil, conn, buf)
//! conn.write(bytes::Bytes::from("shared by many")).submit()?;
//! conn.write(vec![1, 2, 3]).then_read().submit()?; // both, with one completion
//! # let _ = watcher.wait()?; Ok(()) }
//! ```
//!
//! All of it is written, as in gaio, and the same allocation comes back in [`Outcome::Wrote`]. Writing the answer and then
//! submitting the next read, two calls and two results in gaio, is one operation here if it is linked: it is cheaper, and
//! it holds back a peer that does not read.
//!
//! After a write that went out in part and then failed, gaio sends the next one behind the torn half. Here everything
//! behind it fails as [`OpError::Broken`], and the connection is reset in the end, so that the peer cannot take it for a
//! clean one.
//!
//! # Deadlines
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use gaio::{Event, OpError, Outcome};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let (ours, _silent) = std::os::unix::net::UnixStream::pair()?;
//! # let conn = submitter.delegate(ours)?;
//! // w.ReadTimeout(nil, conn, buf, time.Now().Add(5 * time.Millisecond))
//! conn.read(Vec::with_capacity(64)).by(Instant::now() + Duration::from_millis(5)).submit()?;
//! for event in watcher.wait()? {
//!     let Event::Done { outcome: Outcome::Failed(failure), .. } = event else { panic!() };
//!     assert!(matches!(failure.error, OpError::TimedOut)); // res.Error == gaio.ErrDeadline
//!     assert!(failure.buffer.is_some());
//! }
//! # Ok(()) }
//! ```
//!
//! As in gaio, an operation is tried before its deadline is looked at: one in the past succeeds if the data is there. No
//! deadline at all is the operation without `by`; there is no zero time. A timer of its own is [`Submitter::timer`].
//!
//! # Waiting
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, _submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! // for { results, err := w.WaitIO(); if err != nil { return err }; for _, res := range results { … } }
//! loop {
//!     for event in watcher.wait()? {
//!         # let _ = event;
//!         // …
//!     }
//! }
//! # }
//! ```
//!
//! Results are valid until the next wait, as in gaio; here the compiler holds you to it. A batch that you leave early keeps
//! the rest for the next wait. Submitting from inside of the loop is fine, and cannot lock up. If you are slow, the loop
//! goes on for everybody and what waits for you is bounded, where gaio blocks behind 16 384 unread results. Another thread
//! ends a wait by [`Submitter::post`].
//!
//! # Results and errors
//!
//! | `OpResult` | [`Event::Done`] |
//! |---|---|
//! | `Operation` | the variant of [`Outcome`], and your context |
//! | `Context` | `context` |
//! | `Conn` | `conn`: a handle, which may be the last |
//! | `Buffer[:Size]` | the bytes in the outcome; of a failure [`Failure::buffer`](crate::Failure::buffer) and [`transferred`](crate::Failure::transferred) |
//! | `IsSwapBuffer` | [`Outcome::Pooled`] |
//! | `Error` | [`Outcome::Eof`], [`Outcome::Failed`] |
//!
//! | gaio's error | when | here |
//! |---|---|---|
//! | `io.EOF` | in a result | [`Outcome::Eof`] |
//! | `ErrDeadline` | in a result | [`OpError::TimedOut`] |
//! | `io.ErrClosedPipe` | in a result, after `Free` | [`OpError::Released`] |
//! | "use of closed network connection" | in a result | [`OpError::Closed`] |
//! | a `syscall.Errno` | in a result | [`OpError::Os`] |
//! | `ErrUnsupported` | in a result | [`DelegateErrorKind::Unsupported`](crate::DelegateErrorKind::Unsupported), from `delegate` |
//! | `ErrEmptyBuffer` | from the call | [`SubmitErrorKind::EmptyBuffer`], with the buffer |
//! | `ErrWatcherClosed` | from the call | [`SubmitErrorKind::Closed`], with buffer and context |
//! | `ErrWatcherClosed` | from `WaitIO` | [`WaitError::Closed`](crate::WaitError::Closed), after the last result |
//! | `ErrPollerClosed`, `ErrConnClosed` | from the affinity calls | – |
//! | `ErrCPUID` | from the affinity calls | an [`io::Error`](std::io::Error) when the watcher is made |
//! | – | from the call | [`SubmitErrorKind::TooMany`], `Full`: there are bounds now |
//!
//! # `Free` and the ends of a connection
//!
//! An EOF or an error does not free a connection by itself, as in gaio. But you need not call anything either:
//!
//! ```
//! use gaio::{Event, OpError, Outcome};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::<&str>::spawn_for(gaio::Options::default())?;
//! # let (ours, _peer) = std::os::unix::net::UnixStream::pair()?;
//! # let conn = submitter.delegate(ours)?;
//! conn.read_leased().submit_with("pending")?;
//! conn.release().submit_with("free")?; // w.Free(conn)
//! drop(conn);
//! let mut seen = Vec::new();
//! while seen.len() < 2 {
//!     for event in watcher.wait()? {
//!         let Event::Done { context, outcome, .. } = event else { panic!() };
//!         match outcome {
//!             Outcome::Failed(failure) => assert!(matches!(failure.error, OpError::Released)),
//!             Outcome::Closed => {} // the descriptor is gone: new, gaio does not tell
//!             other => panic!("{other:?}"),
//!         }
//!         seen.push(context);
//!     }
//! }
//! assert_eq!(seen, ["pending", "free"]);
//! # Ok(()) }
//! ```
//!
//! | | queued writes | the peer sees |
//! |---|---|---|
//! | the last handle is dropped with nothing pending, or [`Conn::close`] | go out, within [`Limits::close_within`] | a clean end, even with input unread |
//! | [`Conn::release`] (`Free`) | fail as `Released` | what had been sent, then the end; a reset, if input was unread |
//! | [`Conn::abort`] | fail as `Released` | a reset |
//!
//! A connection that is forgotten is closed when its last handle goes, not when a collector comes by. An operation that is
//! pending has a handle: to drop yours while a read waits, and the peer is silent, closes nothing. Then `release`, or give
//! the read a deadline. A positive
//! `SO_LINGER`, which blocks gaio's whole loop in `Free`, is read at delegation and becomes the bound of the graceful
//! close. Freeing twice is harmless.
//!
//! # `Close`
//!
//! ```
//! use std::time::Duration;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
//! # let (ours, _peer) = std::os::unix::net::UnixStream::pair()?;
//! # let conn = submitter.delegate(ours)?;
//! # conn.read_leased().submit()?;
//! submitter.shutdown(Duration::from_secs(1)); // w.Close(), with a grace for what is queued
//! let mut left = 0;
//! let end = loop {
//!     match watcher.wait() {
//!         Ok(batch) => left += batch.count(), // the read that was pending, as Aborted
//!         Err(end) => break end,
//!     }
//! };
//! assert_eq!((left, end), (1, gaio::WaitError::Closed));
//! # Ok(()) }
//! ```
//!
//! Whatever was accepted completes before `wait` says `Closed`; in gaio results may vanish in `Close`. Dropping the watcher
//! is the short way: everything is aborted, the thread joined, every buffer dropped once. Both may be called as often as
//! you like.
//!
//! # Affinity
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // w.SetLoopAffinity(2), w.SetPollerAffinity(2)
//! let options = gaio::Options::default().name("loop-2").pin_to(2);
//! match gaio::Watcher::spawn(options) {
//!     Ok((watcher, _submitter)) => drop(watcher),
//!     Err(error) => println!("CPU 2 is not ours: {error}"),
//! }
//! # Ok(()) }
//! ```
//!
//! Set when the watcher is made. A CPU that this process may not use is an error; gaio looks only whether the machine has
//! it, and ignores what the kernel says.
//!
//! # Limits
//!
//! gaio's queues grow. Here everything has a bound, in [`Limits`], and what is beyond comes back with its buffer: take
//! completions and try again. `submit` waits while the ring is full (never on a loop's own thread);
//! [`try_submit`](Op::try_submit) does not.
//!
//! # Habits to give up
//!
//! | in gaio one … | here |
//! |---|---|
//! | keeps a `sync.Pool` of buffers | leases are one: [`Conn::read_leased`] |
//! | copies a result before the next `WaitIO`, to be safe | only what is kept of a `Pooled`; the compiler knows |
//! | calls `Free` on every path | drops the handle, with nothing pending; or calls [`release`](Conn::release): what is pending is a handle, too |
//! | waits for a `Free` to have happened by sleeping | takes its `Closed` |
//! | starts a goroutine per accept loop | [`Submitter::listen`] |
//! | keeps a table of partial frames | reads exactly what comes next, or writes a [`Protocol`](crate::Protocol) |
//! | makes a result channel, to leave `WaitIO` | [`Submitter::post`], [`Watcher::wait_timeout`] |
//!
//! # New here
//!
//! For these gaio has no counterpart: half-close ([`Conn::shutdown_write`]), cancelling one operation ([`Conn::cancel`]),
//! knowing that there is something to read and no more ([`Conn::readable`]), vectored and linked writes, timers, posts,
//! accepting, connecting, taking a socket back out, limits that change while the loop runs ([`Submitter::set_limits`]), and
//! a watcher that another poll loop can wait for ([`Watcher::pollable`]). Datagrams are messages here: an empty one is no end. A loop in your own thread is
//! [`EmbeddedWatcher`]; and a server whose connections are state machines is the other face of the crate: see
//! [`guide`](crate::guide).

#[cfg(doc)]
use crate::{Conn, EmbeddedWatcher, Event, Limits, Op, OpError, Options, Outcome, SubmitErrorKind, Submitter, Watcher};
