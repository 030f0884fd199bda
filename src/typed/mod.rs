//! The second face: typed sessions. Each connection is a state machine, an actor owned by the loop.
//!
//! ```text
//!   protocol.rs   what a user writes: states, callbacks          expect.rs   what a state waits for; finding frames
//!   io.rs         what a callback may do besides                 output.rs   what is written, until it is out
//!                         │                                          │
//!                         └──────────► machine.rs ◄─────────────────┘        one session, without a socket
//!                                          ▲
//!                     testkit.rs ──────────┴────────── face.rs               by hand; or on a loop
//!   address.rs, mail.rs, delivery.rs: messages         server.rs, sessions.rs: loops, threads, listeners
//!   connecting.rs, ending.rs: how sessions begin by a connect, and how the loop ends
//! ```

pub(crate) mod address;
pub(crate) mod connecting;
mod delivery;
mod ending;
pub(crate) mod expect;
pub(crate) mod face;
pub(crate) mod io;
pub(crate) mod limits;
mod live;
pub(crate) mod machine;
pub(crate) mod mail;
pub(crate) mod output;
pub(crate) mod protocol;
mod server;
mod sessions;
pub(crate) mod spares;
mod step;
mod transport;

pub use address::{Address, SendError, SendErrorKind};
pub use expect::{Decode, Expect, LengthField};
pub use io::Io;
pub use limits::SessionLimits;
pub use protocol::{End, Next, Protocol, TimeLimit};
pub use server::{Server, ServerBuilder, Unserved};
pub use sessions::{Hub, SessionLoop};
