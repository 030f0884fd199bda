//! How to test a server that runs on gaio: from a bench without sockets to every interleaving of its threads.
//!
//! This is a guide, and has no items. What the crate itself was put through is in `RELIABILITY.md`; the same tools are
//! here for you.
//!
//! | | what it shows | what it needs | time |
//! |---|---|---|---|
//! | [1. A bench](#1-one-protocol-a-bench) | a protocol's states, frames, time limits | nothing | microseconds |
//! | [2. A simulated system](#2-a-simulated-system) | a server, with its peers in the test's hand, in virtual time | `--cfg gaio_sim` | microseconds |
//! | [3. Faults, by seeds](#3-faults-by-seeds) | the same, with what a kernel does rarely | `--cfg gaio_sim` | a thousand runs a second |
//! | [4. Threads: loom](#4-threads-loom) | what two threads do to each other, in every order | `--cfg loom` | seconds to minutes |
//! | [5. The real system](#5-the-real-system) | that the simulation is no dream | sockets on loopback | milliseconds |
//!
//! Each finds what the one before cannot, and is dearer to write. Begin at the top.
//!
//! # 1. One protocol: a bench
//!
//! A [`Protocol`](crate::Protocol) never sees a socket or a clock, so its test needs none: [`testkit`](crate::testkit)
//! hands it bytes, messages and time. "However these bytes are cut, the answer is the same" is one call.
//!
//! ```
//! use gaio::testkit::{Bench, fragmentations};
//! use gaio::{Expect, Io, Next, Protocol};
//!
//! struct Upper;
//!
//! impl Protocol for Upper {
//!     type Message = ();
//!     fn expects(&self) -> Expect {
//!         Expect::until(b"\n").at_most(100)
//!     }
//!     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
//!         io.write(&line.to_ascii_uppercase());
//!         io.write(b"\n");
//!         Next::Become(self)
//!     }
//! }
//!
//! let mut bench = Bench::new(Upper);
//! bench.receive(b"he");
//! assert_eq!(bench.written(), b"");
//! bench.receive(b"llo\n");
//! assert_eq!(bench.written(), b"HELLO\n");
//!
//! assert_eq!(fragmentations(|| Upper, b"a\nbc\n"), b"A\nBC\n");
//! ```
//!
//! The [guide](crate::guide#8-tests) has more of it.
//!
//! # 2. A simulated system
//!
//! With `--cfg gaio_sim` the whole crate runs on [`sim`](crate::sim), a system in memory: a loop, its connections and
//! its listeners are the real ones, the kernel is not. A test makes a [`World`](crate::sim::World), a loop in it, and
//! plays the peers itself, on one thread: it turns the loop when it wants something to happen. An hour passes at once.
//!
//! ```text
//! // tests/simulated.rs
//! #![cfg(gaio_sim)]
//!
//! let world = gaio::sim::World::enter();
//! let (mut sessions, hub) = SessionLoop::new(SessionLimits::default(), |_peer| Some(MyProtocol::new()))?;
//! let (listener, address) = world.listener();
//! hub.listen(listener)?;
//! let peer = world.connect(address)?;
//! peer.send(b"hello\n")?;
//! // A turn is one round: begins to listen, accepts, reads, answers. Time passes only if there is nothing to do.
//! for _ in 0..10 {
//!     sessions.turn(Some(Duration::from_millis(1)))?;
//! }
//! assert_eq!(peer.recv(&mut [0; 16])?, 6);
//! ```
//!
//! ```text
//! RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR=target/sim cargo test --test simulated
//! ```
//!
//! A server of several loops runs there as well ([`Server::bind`](crate::Server::bind) to an address of the world), but
//! how its threads take turns is up to the real machine, and no seed repeats it.
//!
//! What cannot be built with the cfg: anything that makes a [`Socket`](crate::Socket) from a `TcpStream` or a
//! `TcpListener`. ([`Server::bind`](crate::Server::bind) and [`Submitter::listen_on`](crate::Submitter::listen_on) take
//! addresses, and can.) cargo builds your binaries along with your tests, so a `main` of that kind says
//! `#[cfg(not(gaio_sim))]`, with an empty one for the other case; so do tests that need the network.
//!
//! # 3. Faults, by seeds
//!
//! [`sim::seeds`](crate::sim::seeds) runs a scenario once per seed, with [faults](crate::sim::Fault) by chance: reads
//! and writes cut short, edges that come late, signals, no memory, no descriptors, resets, refusals, a clock that
//! jumps. The recipe that works:
//!
//! 1. **Let the dice decide everything**: who comes, what is said, in which pieces, who does not listen, who vanishes;
//!    the sizes of buffers; the mixture of faults ([`Faults::random`](crate::sim::Faults::random)).
//! 2. **Keep a model beside it**, as simple as can be: what each peer has sent, what it may have been answered.
//! 3. **Say what must hold at each step** (an order, a bound), **and what must hold once all is calm**: end the faults,
//!    let all peers talk and listen until nothing moves, and then nobody may be waiting for anything. That is how one
//!    finds who was forgotten.
//! 4. **End it**: hang up, drop the loop, and look for what is left: descriptors, entries in your tables.
//! 5. **Break your server on purpose**, once, and see that a seed finds it. A scenario that has never failed may be
//!    blind.
//!
//! `examples/simulated.rs` does all five; with `-- forgetful` its server has the bug. A seed that fails prints the line
//! that repeats it, with a trace of every call. Put that seed into a test of its own when the bug is fixed; it may stop
//! meaning the same when the scenario changes.
//!
//! What a seed promises, and what it does not, is in [`sim`](crate::sim#what-is-promised-of-a-seed).
//!
//! # 4. Threads: loom
//!
//! Connections are used from any thread, and so is what your threads share. loom runs a piece of code in every order in
//! which its threads can be interleaved (up to a number of preemptions), with every value that the memory model allows
//! each load to see, and finds deadlocks. Under `--cfg loom` the *whole crate* is made of loom's atomics, on the
//! simulated system. So a model of your server has your code, our ring, gate, mailbox and loop, and a kernel.
//!
//! ## Step by step
//!
//! **`Cargo.toml`**: loom for that build alone, of the same major version as gaio's; a profile, for models run for
//! minutes without optimisation; and the name of the cfg.
//!
//! ```text
//! [target.'cfg(loom)'.dependencies]
//! loom = "0.7.2"
//!
//! [profile.models]
//! inherits = "release"
//!
//! [lints.rust]
//! unexpected_cfgs = { level = "warn", check-cfg = ['cfg(loom)'] }
//! ```
//!
//! **Your server**: what its threads share must be loom's, or loom does not know of it. One module makes the switch:
//!
//! ```text
//! #[cfg(not(loom))]
//! pub use std::{sync::{Arc, Mutex}, thread};
//! #[cfg(loom)]
//! pub use loom::{sync::{Arc, Mutex}, thread};
//! ```
//!
//! **The model**, below: as few threads and steps as show the answer.
//!
//! **Run it**:
//!
//! ```text
//! RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test --profile models --test my_model
//! ```
//!
//! ## What there is
//!
//! The whole proactor, spawned and embedded, with sockets from a [`World`](crate::sim::World); each execution has a new
//! world, and every thread is in it. Peers that wait ([`Peer::recv_blocking`](crate::sim::Peer::recv_blocking)) cost
//! far fewer executions than peers that ask again and again. [`SessionLoop`](crate::SessionLoop) works; a
//! [`Server`](crate::Server) does not, since it makes threads of the real system, and [`sim::seeds`](crate::sim) is not
//! there: chance and exploring every order do not go together. The world's clock is
//! [`Patient`](crate::sim::Clock::Patient), as always; `Manual` turns what needs a deadline to get on into a deadlock,
//! which loom reports: a good choice unless deadlines are the question.
//!
//! ## What it costs
//!
//! Executions grow exponentially with threads and steps, and loom allows five threads (a spawned watcher's is one of
//! them).
//!
//! - Bound the preemptions: `Builder::preemption_bound` of 2 or 3. Most bugs need one or two.
//! - Make the loop as small as it can be: two slots in the ring, batches of one.
//! - Set up between `loom::stop_exploring()` and `loom::explore()`, wind down behind `loom::skip_branch()`.
//! - Do not spin: wait, or try a bounded number of times.
//! - **Count the executions and demand a floor.** A model that is cut short, or whose threads were never really at
//!   odds, is green too. Here `common::explore` does so: a counter in the closure is all there is to it.
//! - **Break your code on purpose and see the model fail.** The example does: two faults in the user's server, one in
//!   gaio.
//!
//! ## What loom does not see
//!
//! - Anything shared that is not loom's: `std` atomics and mutexes, other crates' channels, `arc-swap`. They work, but
//!   are never interleaved; a `std` mutex that is contended *blocks* the model.
//! - The kernel's part: a simulated system stands there. All of its calls go through one lock, so they order memory
//!   accesses more than they need; what must not rely on that is modelled without it (`loom-tests/ring.rs` and others).
//! - `SeqCst`, which loom takes for `AcqRel`; fences are modelled.
//! - Anything beyond the bound of preemptions.
//! - **A blind spot of loom 0.7.2**: it remembers of each atomic only the last access and the last write. If one thread
//!   loads, and another *loads and then writes* (a compare-exchange loop, "set it unless it is set"), that second load
//!   hides the first: "written before the first load" is never tried, and a model of just these two has one execution.
//!   gaio's own atomics have a cure (`src/sync/probed.rs`): in front of each load a relaxed `swap` on a neighbour that
//!   nobody reads, which loom orders both ways. In your code use a mutex, or a read-modify-write without a load in
//!   front, or the same cure. How one notices: too few executions, and a fault on purpose that passes.
//!
//! ## The example
//!
//! `loom-tests/users_server.rs`, run by `ci/loom.sh` in every gate:
//!
//! ```text
#![doc = include_str!("../loom-tests/users_server.rs")]
//! ```
//!
//! What it calls, in `loom-tests/common/mod.rs`, is small and may be copied:
//!
//! ```text
#![doc = include_str!("../loom-tests/common/mod.rs")]
//! ```
//!
//! # 5. The real system
//!
//! The simulated system was held against the kernel by random calls, and what may differ is [written
//! down](crate::sim#held-against-the-kernel). It is a system all the same that nobody runs servers on. Keep a few tests
//! on loopback: one per kind of socket and way to end, many connections at once, a peer that does not read.
