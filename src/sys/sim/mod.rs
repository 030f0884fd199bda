//! A simulated operating system: sockets, a selector and a clock in memory.
//!
//! It stands behind the same contract as the real backends, for three uses: loom models of the whole crate, tests
//! that must come out the same every time, and tests of what a kernel does rarely. It is strict where a kernel is
//! kind: whoever gets along with it relies on nothing but the contract.
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
//! Those of datagrams are in `datagram.rs`, those of connects in `addresses.rs`. The files `*against_kernel.rs` run random
//! calls on both systems and compare.
//!
//! Every call that the world may answer in the connection's place asks `State::permit` first. `pending_first` lives
//! there, and every fault that happens by chance: `faults.rs` lists them. With `GAIO_SIM_TRACE` in the environment a world
//! says on standard error what each call came to, and when.
//!
//! # The world
//!
//! A [`World`] is one such system: a descriptor table, connections, one clock, behind one mutex and one condition
//! variable, which are all that loom sees of it. A thread must be in a world to make a selector or ask for the time.
//! Under loom each execution has a world of its own and every thread is in it. Otherwise [`World::enter`] makes a new
//! one for the calling thread, and `sys::carry` takes it along to a thread that is spawned.
//!
//! # Time
//!
//! Nothing here sleeps. When a selector has nothing to report and a deadline to wait for, [`Clock`] says what happens.
//!
//! # Threads
//!
//! A loop with a thread of its own runs when the scheduler likes, unless the world holds it: `lockstep.rs`.

mod addresses;
mod config;
mod connection;
mod datagram;
mod faults;
mod lockstep;
mod peer;
mod permit;
mod remote;
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
pub use remote::{Attempt, Remote};
pub use socket::Socket;
pub use world::World;

pub(crate) use selector::{Bell, Selector, Waker, now};
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

/// Does nothing: simulated threads run nowhere in particular.
#[allow(clippy::unnecessary_wraps, reason = "the contract: a real machine may refuse")]
pub(crate) fn pin_current_thread(_cpu: usize) -> std::io::Result<()> {
    Ok(())
}
