//! A protocol in ten minutes: typed sessions, from an echo to a server with states, messages and tests.
//!
//! This is a guide, and has no items. Each step is a program that runs.
//!
//! 1. [One state](#1-one-state) · 2. [More states](#2-more-states) · 3. [Frames](#3-frames) ·
//!    4. [Time](#4-time) · 5. [Output](#5-output) · 6. [Messages](#6-messages) · 7. [The end](#7-the-end) ·
//!    8. [Tests](#8-tests) · 9. [Serving](#9-serving) · 10. [Which face?](#10-which-face)
//!
//! # 1. One state
//!
//! A connection is a value that implements [`Protocol`]: it says what it waits for, and the loop calls it when that is
//! there. It never sees a socket.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::time::Duration;
//!
//! use gaio::{Expect, Io, Next, Protocol, Server};
//!
//! struct Upper;
//!
//! impl Protocol for Upper {
//!     type Message = (); // what others may send to it: nothing yet
//!
//!     fn expects(&self) -> Expect {
//!         Expect::until(b"\n").at_most(1_000)
//!     }
//!
//!     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(&line.to_ascii_uppercase());
//!         io.write(b"\n");
//!         Next::Become(self)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?.serve(|_peer| Upper)?;
//!
//! let mut peer = std::net::TcpStream::connect(server.local_addr().unwrap())?;
//! peer.write_all(b"hello\n")?;
//! let mut answer = String::new();
//! BufReader::new(&peer).read_line(&mut answer)?;
//! assert_eq!(answer, "HELLO\n");
//! # drop(peer);
//!
//! server.shutdown(Duration::from_secs(1));
//! server.join()?;
//! # Ok(()) }
//! ```
//!
//! `on_frame` is called with a whole line, however the bytes came. The two writes go out by one system call. A line of
//! more than 1 000 bytes ends the session, and no more than that is ever kept of it.
//!
//! # 2. More states
//!
//! A state is a variant of an enum, and owns what is known in it. A callback consumes the state and returns the next one:
//! what has been left cannot be used again, and what is not there yet cannot be used too early.
//!
//! ```
//! use gaio::{Expect, Io, Next, Protocol};
//!
//! /// ```text
//! ///            a name                 a number
//! ///   Asking ──────────► Counting ────────────► Counting, with a new sum
//! ///                         │ an empty line
//! ///                         └──────────────► closed
//! /// ```
//! enum Adder {
//!     Asking,
//!     Counting { name: String, sum: i64 },
//! }
//!
//! impl Protocol for Adder {
//!     type Message = ();
//!
//!     fn expects(&self) -> Expect {
//!         match self {
//!             Self::Asking => Expect::until(b"\n").at_most(40),
//!             Self::Counting { .. } => Expect::until(b"\n").at_most(20),
//!         }
//!     }
//!
//!     fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(b"your name?\n"); // the server may speak first
//!         Next::Become(self)
//!     }
//!
//!     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         let text = String::from_utf8_lossy(line);
//!         match self {
//!             Self::Asking => Next::Become(Self::Counting { name: text.into_owned(), sum: 0 }),
//!             Self::Counting { name, sum } if text.is_empty() => {
//!                 io.write(format!("{sum} for {name}\n").as_bytes());
//!                 Next::Close(Self::Counting { name, sum }) // all output goes out first
//!             }
//!             Self::Counting { name, sum } => match text.parse::<i64>() {
//!                 Ok(number) => Next::Become(Self::Counting { name, sum: sum.saturating_add(number) }),
//!                 Err(error) => {
//!                     io.write(format!("{error}\n").as_bytes());
//!                     Next::Become(Self::Counting { name, sum })
//!                 }
//!             },
//!         }
//!     }
//! }
//!
//! let mut bench = gaio::testkit::Bench::new(Adder::Asking);
//! bench.receive(b"Ann\n20\n22\n\n");
//! assert_eq!(bench.written(), b"your name?\n42 for Ann\n");
//! assert!(matches!(bench.ended(), Some(gaio::End::Closed)));
//! ```
//!
//! # 3. Frames
//!
//! What a state waits for is an [`Expect`], asked anew after every callback. So a protocol may switch from lines to
//! lengths to raw bytes in the middle of what has been received.
//!
//! | it waits for | by | a frame is |
//! |---|---|---|
//! | whatever comes | [`Expect::any`] | one byte at least |
//! | so many bytes | [`Expect::exactly`] | those |
//! | a line, a NUL, … | [`Expect::until`] | what is before the delimiter |
//! | a length, then a body | [`Expect::length`], with a [`LengthField`] | the body, or all of it |
//! | something else | [`Expect::custom`] | what [`Protocol::decode`] finds |
//! | nothing | [`Expect::nothing`] | nothing is read, and the peer is held back |
//!
//! [`at_most`](Expect::at_most) bounds it (1 MiB, if it says nothing), and an announced length is believed only up to
//! there. A frame is borrowed from the loop's buffer; what is to outlive the callback is copied. A frame that comes byte
//! by byte is scanned once.
//!
//! Beware of `Expect::exactly(0)`: it waits for one byte. After a header that announces a body of `n` bytes, go to the
//! state of the body only if `n > 0`, or it eats the first byte of what follows. ([`Expect::length`] knows empty frames.)
//!
//! To *answer* a frame that is too long write in [`Protocol::on_bad_frame`]: that goes out before the session ends. To go on
//! behind it let `at_most` be larger than what you accept, and look at the length yourself.
//!
//! # 4. Time
//!
//! | | from | to | then |
//! |---|---|---|---|
//! | [`within`](Expect::within) | a frame's first byte | its last | [`on_timeout`](Protocol::on_timeout) |
//! | [`idle_within`](Expect::idle_within) | the state is entered | a frame's first byte | [`on_timeout`](Protocol::on_timeout) |
//! | [`Io::timer`] | now | so much later | [`on_timer`](Protocol::on_timer) |
//!
//! A limit on a frame is not put off by bytes that trickle in. By default `on_timeout` closes.
//!
//! What begins a limit anew: a frame, a time-out that the session survives, output that has fallen from above the
//! high-water mark to below the low one, and a state that expects something else. A message or a timer that leads to a
//! state with an *equal* [`Expect`] does not: the limit goes on. It also goes on while output is above the high-water
//! mark and nothing is read: then it is the time that the peer has to take it.
//!
//! ```
//! # use gaio::{Expect, Io, Next, Protocol, TimeLimit};
//! use std::time::Duration;
//!
//! struct Heartbeat;
//!
//! impl Protocol for Heartbeat {
//!     type Message = ();
//!
//!     fn expects(&self) -> Expect {
//!         Expect::exactly(4).within(Duration::from_secs(1)).idle_within(Duration::from_secs(30))
//!     }
//!
//!     fn on_frame(self, _ping: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(b"pong");
//!         Next::Become(self)
//!     }
//!
//!     fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
//!         match limit {
//!             TimeLimit::Idle(_) => io.write(b"are you there?"), // and the limit begins anew
//!             TimeLimit::Frame(_) => return Next::Abort(self),
//!         }
//!         Next::Become(self)
//!     }
//! }
//!
//! let mut bench = gaio::testkit::Bench::new(Heartbeat);
//! bench.advance(Duration::from_secs(30));
//! assert_eq!(bench.written(), b"are you there?");
//! bench.receive(b"pi");
//! bench.advance(Duration::from_secs(1));
//! assert!(matches!(bench.ended(), Some(gaio::End::Aborted)));
//! ```
//!
//! # 5. Output
//!
//! [`Io::write`] copies, unless the bytes are a part of the frame at hand; [`Io::write_bytes`] shares. Neither fails nor
//! waits. What a peer does not take is queued, and bounded by [`SessionLimits`]:
//!
//! ```text
//!   0 ─────────── low_water ─────────── high_water ───────────────────────── output
//!      on_drained: there is room │          │ input is not read any more        │ the session ends, as Overflow
//! ```
//!
//! So an answer to each frame needs no thought: a peer that does not read is not read from. Who *produces* (a download)
//! writes until [`Io::queued`] is above a bound of its own, and goes on in [`on_drained`](Protocol::on_drained). Who is
//! *sent* to (a member of a chat) looks at [`Io::queued`] in [`on_message`](Protocol::on_message), and says what is to
//! become of the slow.
//!
//! # 6. Messages
//!
//! A session is an actor: [`Io::address`] is where others send to, from any session and any thread. `send` never waits;
//! with the other loop's ring full the message comes back. One sender's messages arrive in its order.
//!
//! Groups are for many: a session [joins](Io::join) a number, and a [broadcast](Server::broadcast) to it is one submission
//! per loop, whoever is in it.
//!
//! ```
//! use std::io::Read;
//! use std::net::TcpStream;
//!
//! use bytes::Bytes;
//! use gaio::{Expect, Io, Next, Protocol, Server};
//!
//! const ALL: u64 = 0;
//!
//! struct Listener;
//!
//! impl Protocol for Listener {
//!     type Message = Bytes; // cloned for each, which copies no byte
//!
//!     fn expects(&self) -> Expect {
//!         Expect::any()
//!     }
//!
//!     fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.join(ALL);
//!         io.write(b"!");
//!         Next::Become(self)
//!     }
//!
//!     fn on_frame(self, _: &[u8], _: &mut Io<'_, Self>) -> Next<Self> {
//!         Next::Become(self)
//!     }
//!
//!     fn on_message(self, news: Bytes, io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write_bytes(news);
//!         Next::Close(self)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind("127.0.0.1:0")?.loops(2).serve(|_peer| Listener)?;
//! let mut peers = Vec::new();
//! for _ in 0..4 {
//!     let mut peer = TcpStream::connect(server.local_addr().unwrap())?;
//!     peer.read_exact(&mut [0])?; // it has joined
//!     peers.push(peer);
//! }
//! assert!(server.broadcast(ALL, &Bytes::from_static(b"news")).is_ok());
//! for mut peer in peers {
//!     let mut all = String::new();
//!     peer.read_to_string(&mut all)?;
//!     assert_eq!(all, "news");
//! }
//! # Ok(()) }
//! ```
//!
//! A message to a session that has ended is dropped, and [counted](crate::Snapshot::undelivered). `examples/chat.rs` is
//! all of this on several loops: rooms, names, slow members, and a loop that is behind.
//!
//! # 7. The end
//!
//! | it ends because | by | the peer sees |
//! |---|---|---|
//! | it is done | [`Next::Close`] | all output, then a clean end |
//! | something is wrong | [`Next::Abort`] | a reset (but see below) |
//! | the peer has ended | [`on_eof`](Protocol::on_eof); by default `Close` | all output, then a clean end |
//! | the server ends | [`on_shutdown`](Protocol::on_shutdown); by default `Close` | the same, within the grace |
//! | a frame is too long, or can be none | [`Expect::at_most`], [`Decode::Refuse`] | a reset; the last word of [`Protocol::on_bad_frame`], if there is one, and the end |
//! | a time limit is over | [`on_timeout`](Protocol::on_timeout); by default `Close` | all output, then a clean end |
//! | too much output is queued | [`SessionLimits::output`] | a reset |
//! | a callback has panicked | – | a reset; the other sessions go on |
//!
//! A close has [`close_within`](SessionLimits::close_within) (5 s) for everything: the output, the peer's end. That is
//! in total, so a peer that reads steadily but slowly is cut off, too, and the session ends as [`End::CloseTimedOut`].
//! [`Next::Leave`] has the same time for its output, and does not leave if that is not enough.
//!
//! A reset is one over TCP. A Unix socket has none: there the peer reads an end of the stream, whatever the reason, so
//! a protocol that has to tell them apart says in its frames that all was sent.
//!
//! [`on_end`](Protocol::on_end) comes once, always, with the last state and the [`End`]. A state may also own what gives
//! itself back when it is dropped: a name, a place in a room. That is sure even after a panic.
//!
//! # 8. Tests
//!
//! A protocol needs no socket, so neither does its test. [`testkit::Bench`](crate::testkit::Bench) is one session by
//! hand: bytes, messages and time go in, output and the state come out; the peer may block, end or reset, and the
//! address refuse. [`testkit::Wire`](crate::testkit::Wire) is two that talk to each other in virtual time. And the
//! first rule of framing is one call:
//!
//! ```
//! # use gaio::{Expect, Io, LengthField, Next, Protocol};
//! # struct Packets;
//! # impl Protocol for Packets {
//! #     type Message = ();
//! #     fn expects(&self) -> Expect { Expect::length(LengthField::be16()).at_most(100) }
//! #     fn on_frame(self, body: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//! #         io.write(body);
//! #         io.write(b".");
//! #         Next::Become(self)
//! #     }
//! # }
//! // Cut in every way it can be cut on its way, the same input has the same output.
//! let output = gaio::testkit::fragmentations(|| Packets, b"\0\x02ab\0\0\0\x03cde");
//! assert_eq!(output, b"ab..cde.");
//! ```
//!
//! `examples/line-protocol.rs` is a tutorial of it: a picture of the states, and a test for each of its arrows.
//!
//! # 9. Serving
//!
//! | | |
//! |---|---|
//! | [`Server::bind`], [`bind_unix`](Server::bind_unix), [`on`](Server::on) | an address, a path, a listener of yours |
//! | [`loops`](crate::ServerBuilder::loops), [`per_core`](crate::ServerBuilder::per_core) | threads; over TCP each has a listener of its own on the same port |
//! | [`limits`](crate::ServerBuilder::limits), [`admit`](crate::ServerBuilder::admit) | bounds of each loop; who may come in |
//! | [`hubs`](Server::hubs) | a handle to each loop: [`adopt`](crate::Hub::adopt) or [`connect`](crate::Hub::connect) connections, broadcast, counters |
//! | [`shutdown`](Server::shutdown), [`join`](Server::join) | the end, in order |
//!
//! A [`SessionLoop`](crate::SessionLoop) is one of these loops on a thread of yours, turned by you. One loop runs one
//! protocol: several kinds of connections are an enum of them.
//!
//! # 10. Which face?
//!
//! | take typed sessions | take the proactor ([`Watcher`](crate::Watcher)) |
//! |---|---|
//! | you write a server, and can say what each state waits for | you relay, push, or measure: bytes are bytes |
//! | a connection's state is its own | your state is in one place, and a thread of yours owns it |
//! | work per frame is short; what is long goes to other threads and comes back as a message | work is done where completions are taken, on any number of threads |
//! | you want tests without sockets | you come from Go's gaio: see [`migration`](crate::migration) |
//!
//! Both stand on the same loop and give the same [guarantees](crate#guarantees). A callback of a typed session runs on the
//! loop's thread, so one that blocks holds up all sessions of its loop. A completion is taken on a thread of yours.
//!
//! A connection may change sides. [`Next::Leave`] hands the socket and the input that was not consumed to a function:
//! after a handshake that is a protocol, say, a watcher takes over. [`Conn::into_fd`](crate::Conn::into_fd) and
//! [`Hub::adopt_with`](crate::Hub::adopt_with) are the way back.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::sync::mpsc;
//!
//! use gaio::{Detached, Event, Expect, Io, Next, Options, Outcome, Protocol, SessionLimits, SessionLoop, Watcher};
//!
//! struct Handshake(mpsc::Sender<Detached>);
//!
//! impl Protocol for Handshake {
//!     type Message = ();
//!
//!     fn expects(&self) -> Expect {
//!         Expect::until(b"\n").at_most(100)
//!     }
//!
//!     fn on_frame(self, _line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(b"switching\n");
//!         let Self(relay) = &self;
//!         let relay = relay.clone();
//!         Next::Leave(self, Box::new(move |detached| drop(relay.send(detached))))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (sender, detached) = mpsc::channel();
//! let (mut sessions, hub) = SessionLoop::new(SessionLimits::default(), |_peer| None)?;
//! let (ours, mut peer) = std::os::unix::net::UnixStream::pair()?;
//! hub.adopt(ours, Handshake(sender)).map_err(|(error, _)| error)?;
//! peer.write_all(b"upgrade\nbytes of another protocol")?;
//! let Detached { socket, leftover, .. } = loop {
//!     sessions.turn(None)?;
//!     if let Ok(detached) = detached.try_recv() {
//!         break detached;
//!     }
//! };
//!
//! let (mut watcher, submitter) = Watcher::spawn(Options::default())?;
//! let conn = submitter.delegate_with(socket, leftover)?;
//! conn.read(Vec::with_capacity(100)).submit()?;
//! let event = watcher.wait()?.next();
//! let Some(Event::Done { outcome: Outcome::Read(bytes), .. }) = event else { panic!() };
//! assert_eq!(bytes, b"bytes of another protocol");
//! # let mut answer = [0; 10];
//! # peer.read_exact(&mut answer)?;
//! # assert_eq!(&answer, b"switching\n");
//! # Ok(()) }
//! ```

#[cfg(doc)]
use crate::{Decode, End, Expect, Io, LengthField, Next, Protocol, Server, SessionLimits};
