//! A simulated operating system: sockets, a selector and a clock in memory, with faults by chance from one seed.
//!
//! A server that runs on gaio runs on this, unchanged: its loops, its protocols, its connections. What a kernel does
//! once a month it does here in every tenth run, always the same way for the same seed, and an hour passes at once. The
//! whole way, from a bench for one protocol to a model of threads, is in [`verification`](crate::verification); this
//! page is the reference of the simulated system.
//!
//! # To have it
//!
//! It is chosen for the whole build, by a cfg:
//!
//! ```text
//! RUSTFLAGS='--cfg gaio_sim' CARGO_TARGET_DIR=target/sim cargo test --test my_simulated_tests
//! ```
//!
//! A cfg and not a feature, because it *replaces* the real system: [`gaio::Socket`](crate::Socket) is then this
//! module's [`Socket`], which is made by a [`World`] and from no `TcpStream`. Features are added up over a whole build,
//! so one crate that asked for it would take the network away from all others. (A target directory of its own saves
//! building everything anew at each change.) Code that is to exist only there says `#[cfg(gaio_sim)]`; so that the
//! compiler knows the name, the `Cargo.toml` says
//!
//! ```text
//! [lints.rust]
//! unexpected_cfgs = { level = "warn", check-cfg = ['cfg(gaio_sim)'] }
//! ```
//!
//! Under `--cfg loom` the same system is the ground of models.
//!
//! # A scenario, and its seeds
//!
//! [`seeds`] runs a scenario once for each seed, in a [`World`] of its own. The [`Dice`] decide what the scenario does,
//! and [`Faults`] what goes wrong; both come from the seed, and nothing else is left to chance.
//!
//! ```
//! use std::time::Duration;
//!
//! use gaio::sim::{self, Faults};
//! use gaio::{EmbeddedWatcher, Event, Options, Outcome};
//!
//! /// A server of one connection: it echoes until the peer has ended.
//! fn turn(watcher: &mut EmbeddedWatcher) -> bool {
//!     for event in watcher.turn(Some(Duration::from_millis(1))).unwrap() {
//!         match event {
//!             Event::Done { conn, outcome: Outcome::Leased(bytes), .. } => {
//!                 conn.write(bytes).then_read_leased().submit().unwrap();
//!             }
//!             Event::Done { outcome: Outcome::Eof(_) | Outcome::Failed(_), .. } => return false,
//!             other => unreachable!("{other:?}"),
//!         }
//!     }
//!     true
//! }
//!
//! let ran = sim::seeds(0..200, |world, dice| {
//!     world.configure(|config| {
//!         config.faults = Faults::random(dice);
//!         config.buffer = 1 + dice.roll(64);
//!     });
//!     let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
//!     let (socket, peer) = world.pair();
//!     submitter.delegate(socket).unwrap().read_leased().submit().unwrap();
//!
//!     let (mut sent, mut answer) = (Vec::new(), Vec::new());
//!     for _ in 0..50 {
//!         let byte = [dice.roll(256) as u8];
//!         // A full buffer takes nothing, a connection that was reset gives an error.
//!         if dice.roll(2) == 0 && peer.send(&byte).is_ok() {
//!             sent.extend(byte);
//!         }
//!         let mut buf = [0; 16];
//!         if let Ok(len) = peer.recv(&mut buf) {
//!             answer.extend_from_slice(&buf[..len]);
//!         }
//!         if !turn(&mut watcher) {
//!             break;
//!         }
//!     }
//!     // Whatever has happened, what came back is the beginning of what was sent.
//!     assert!(sent.starts_with(&answer), "{sent:?}, {answer:?}");
//! });
//! println!("{ran}"); // how often each fault has happened
//! ```
//!
//! A scenario that panics ends the run, and one line says how to have that seed again, with a trace:
//!
//! ```text
//! seed 7 failed; once more, with a trace: GAIO_SIM_SEEDS=7..8 GAIO_SIM_TRACE=1 target/sim/debug/deps/…
//! ```
//!
//! | variable | |
//! |---|---|
//! | `GAIO_SIM_SEEDS=7..8` | [`seeds`] runs these instead of its range |
//! | `GAIO_SIM_TRACE=1` | a world says on standard error what each call came to, and when; and what [`World::note`] says |
//!
//! `examples/simulated.rs` is a server of typed sessions with its scenario, its invariant, and a bug to be found.
//!
//! # What is in a world
//!
//! | | |
//! |---|---|
//! | [`World`] | a descriptor table, connections, addresses, one clock; makes sockets, peers, listeners |
//! | [`Socket`] | one descriptor, for the code under test: what [`delegate`](crate::Submitter::delegate), [`listen`](crate::Submitter::listen) and [`adopt`](crate::Hub::adopt) take |
//! | [`Peer`] | the other end of a connection, in the test's hand: sends, receives, ends, resets |
//! | [`Remote`], [`Attempt`] | an address to connect to, whose answers the test gives |
//! | [`World::hold`], [`World::go_on`], [`Rest`] | a loop with a thread of its own that runs only while the test lets it |
//! | [`Config`], [`Clock`], [`Faults`] | what fits into a buffer, how time passes, what goes wrong |
//!
//! A thread must be in a world to make a loop or to listen: [`seeds`] and [`World::enter`] put the calling one into a
//! new world, [`World::join`] puts it into that of another. The threads that gaio spawns are in the world of who
//! spawned them. A [`Server`](crate::Server) is bound to addresses of the world, and [`World::connect`] connects to it.
//! Dropping everything closes everything: [`World::open_descriptors`] is then zero, which is worth an assertion.
//!
//! # What is promised of a seed
//!
//! In a world every answer, edge, fault and instant depends on the calls, in the order in which they were made, and on
//! the seed of its faults; gaio's loops add nothing to that. So a run repeats exactly as long as
//!
//! - the same program runs: a change of gaio, or of the scenario, may make another run of the same seed;
//! - one thread at a time does anything in the world, in an order that the seed decides: an
//!   [`EmbeddedWatcher`](crate::EmbeddedWatcher) or a [`SessionLoop`](crate::SessionLoop) that is turned by the thread
//!   that plays the peers. A [`Watcher`](crate::Watcher) does so, too, if the world [holds](World::hold) its loop: then
//!   it runs only while the scenario waits in [`World::go_on`], and stands still wherever another thread could come
//!   first. Not held, a watcher works in a world as well, as does a [`Server`](crate::Server), but its threads are
//!   scheduled by the real system, and no seed decides that. What threads do to each other in every order is a question
//!   for [loom](crate::verification#4-threads-loom);
//! - nothing else depends on chance: no clock but the world's, no order of a `HashMap`, no address of memory. Of gaio,
//!   three things look at the real clock: deadlines given as an [`Instant`](std::time::Instant) (those given by
//!   `within` do not), [`EmbeddedWatcher::next_turn`](crate::EmbeddedWatcher::next_turn), and
//!   [`Watcher::wait_timeout`](crate::Watcher::wait_timeout).
//!
//! Tests hold this: `the_same_seed_does_the_same` of `tests/swarm.rs`, of `tests/swarm_sessions.rs` and of
//! `src/sys/sim/fault_tests.rs`, and `a_seed_repeats` of `tests/simulated_seeds.rs`.
//!
//! # Time
//!
//! Nothing here sleeps. When a selector has nothing to report and a deadline to wait for, [`Clock`] says what happens.
//! In a world that is [`alone`](Config::alone), as those of [`seeds`] are, the clock then jumps to the deadline; a wait
//! that nothing can end, and a loop that spins, are panics. Deadlines of a loop are rounded up by as much as 2²⁰ ns.
//!
//! # Held against the kernel
//!
//! It is strict where a kernel is kind: whoever gets along with it relies on nothing but the contract.
//!
//! | rule | here | Linux |
//! |---|---|---|
//! | edges | arrival, FIN, RST, room after an EAGAIN, the state at the registration | the same, and others |
//! | an event | carries all that holds when it is fetched; nothing if nothing holds any more | the same |
//! | room after a *short* send | no edge | an edge |
//! | a wake while one is not drained | no edge | an edge, until a pipe is full |
//! | closing with unread bytes | RST | the same |
//! | data in front of an RST | can be read; then ECONNRESET once; then EOF | the same on loopback |
//! | `pending_first` | every attempt that could succeed is first answered EAGAIN, and an edge follows | never |
//!
//! Random calls are made on the kernel (loopback) and here at the same time: streams (TCP, Unix), datagrams, listening,
//! connecting and accepting (`src/sys/sim/*against_kernel.rs`). Every answer must be the same, and every edge here one
//! of the kernel's, with the same bits. Within that the kernel is free, and the simulated system takes each of these
//! freedoms only as a fault:
//!
//! | a kernel may | here |
//! |---|---|
//! | have edges that nobody needs, and more bits on those that are | never: an edge that is relied on must be one of the above |
//! | answer EAGAIN while something is on its way | [`Fault::Pending`], [`Fault::PendingFirst`] |
//! | tell later, in another order, or several edges by one event | [`Fault::LateEdge`], [`Fault::FinWithData`], [`Fault::ConnectLate`] |
//! | hand out in parts, and take in parts | [`Fault::ShortRead`], [`Fault::ShortWrite`] |
//! | be out of memory, descriptors or patience | the other kinds of [`Fault`] |
//! | say how much fits, and tell of room only when there is a good deal of it | [`Config::buffer`] bytes fit, and one is room |
//!
//! Not compared: a TCP backlog or a datagram socket that is full, and a second urgent byte while the first is not
//! passed. There the kernel goes by timers, or by accounts of its own.
//!
//! Not simulated: loss, reordering and delay within a stream (TCP hides them), of a network more than the answers to a
//! connect, options of sockets beyond those that gaio sets, signals other than those that end a wait, `EPOLLEXCLUSIVE`
//! and SO_REUSEPORT's way to deal connections out, and the real cost of anything.

// Inside: every call that the world may answer in the connection's place asks `State::permit` first (`permit.rs`):
// `pending_first` lives there, and every fault. A world is one mutex and one condition variable, which are all that
// loom sees of it. Under loom each execution has a world of its own and every thread is in it; otherwise a thread-local
// says which one, and `carry` takes it along to a thread that is spawned. The rules of datagrams are in `datagram.rs`,
// those of connects in `addresses.rs`; a loop with a thread of its own runs when the scheduler likes, unless the world
// holds it: `lockstep.rs`.

mod addresses;
mod config;
mod connection;
mod datagram;
mod faults;
mod lockstep;
mod peer;
mod permit;
mod remote;
#[cfg(not(loom))]
mod seeds;
mod selector;
mod socket;
mod state;
mod world;

#[cfg(all(test, not(any(loom, gaio_sim))))]
mod against_kernel;
#[cfg(all(test, not(loom)))]
mod connect_tests;
#[cfg(all(test, not(any(loom, gaio_sim))))]
mod connects_against_kernel;
#[cfg(all(test, not(loom)))]
mod datagram_tests;
#[cfg(all(test, not(any(loom, gaio_sim))))]
mod datagrams_against_kernel;
#[cfg(all(test, not(loom)))]
mod fault_tests;
#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(gaio_sim)]
pub use crate::sync::stall::{stall_next_push, stall_no_push};
pub use config::{Clock, Config};
pub use faults::{Dice, Fault, Faults};
pub use lockstep::Rest;
pub use peer::Peer;
pub use permit::Calls;
pub use remote::{Attempt, Remote};
#[cfg(not(loom))]
pub use seeds::{Ran, seeds};
pub use socket::Socket;
pub use world::World;

pub(crate) use selector::{Bell, Selector, Waker, at, now};
pub(crate) use socket::{
    Reserve, accept, adopt, adopt_listener, apply_buffers, connect_tcp, connect_unix, connected, linger_off,
    listen_tcp, listen_unix, local_addr, next_datagram, peek, peer_addr, recv_datagram_slice, recv_datagram_vec,
    recv_slice, recv_vec, reset_on_close, send, set_nodelay, shutdown_write, so_error,
};
pub(crate) use world::carry;

/// One: simulated threads share it.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    vec![0]
}

/// Who drives a loop does not depend on the machine that simulates.
pub(crate) fn has_one_processor() -> bool {
    false
}

/// Does nothing: simulated threads run nowhere in particular.
#[allow(clippy::unnecessary_wraps, reason = "the contract: a real machine may refuse")]
pub(crate) fn pin_current_thread(_cpu: usize) -> std::io::Result<()> {
    Ok(())
}
