//! What a callback may do besides choosing the next state: write, set timers, name itself, open connections.
//!
//! Everything here is only noted down. The loop (or the test bench) carries it out when the callback has returned, so a
//! callback never runs inside another (T3), and a protocol that is driven by hand behaves as it does on a loop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::typed::address::{Address, Post};
use crate::typed::connecting::To;
use crate::typed::output::Output;
use crate::typed::protocol::Protocol;
use std::sync::Arc;

/// Something a callback asked for, to be done when it has returned.
pub(crate) enum Effect<P: Protocol> {
    Timer { name: u64, time: Duration },
    CancelTimer { name: u64 },
    Connect { to: To, state: P },
    Join { group: u64 },
    Leave { group: u64 },
}

/// A session's side of the world, for the time of one callback.
pub struct Io<'a, P: Protocol> {
    pub(crate) output: &'a mut Output,
    /// What is being handed over: a slice of it is written without a copy. Empty if the output is a backlog.
    pub(crate) input: &'a [u8],
    pub(crate) effects: &'a mut Vec<Effect<P>>,
    pub(crate) end_output: &'a mut bool,
    pub(crate) post: &'a Arc<dyn Post<P::Message>>,
    pub(crate) token: u64,
}

impl<P: Protocol> Io<'_, P> {
    /// Writes bytes that are only borrowed. They go out, with all else that this step writes, by one system call.
    ///
    /// Copied, unless they are a part of the frame at hand. Never fails: a peer that does not take its output makes the
    /// session pause reading above the high-water mark, and ends it above the cap (see
    /// [`SessionLimits`](crate::SessionLimits)).
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        if !*self.end_output {
            self.output.write(bytes, self.input);
        }
    }

    /// Writes shared bytes, without a copy: one line to a thousand members, say. (A few, less than 64, are copied: that
    /// costs less than to share them.) The bound on output counts these bytes, and not what they are a slice of, which
    /// stays in memory until they are out.
    pub fn write_bytes(&mut self, bytes: Bytes) {
        if !*self.end_output {
            self.output.write_bytes(bytes);
        }
    }

    /// Bytes written and not yet taken by the system.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.output.queued()
    }

    /// Ends the sending side behind what was written: the peer reads the end of the stream, and may go on sending. What is
    /// written after this is dropped.
    pub fn end_output(&mut self) {
        *self.end_output = true;
    }

    /// Where messages to this session are sent, by anybody, from any thread.
    #[must_use]
    pub fn address(&self) -> Address<P::Message> {
        Address::new(self.post.clone(), self.token)
    }

    /// Calls [`on_timer`](Protocol::on_timer) with this name in so long a time; one of the same name is replaced. Ends with
    /// the session.
    pub fn timer(&mut self, name: u64, time: Duration) {
        self.effects.push(Effect::Timer { name, time });
    }

    /// Takes a timer back. It may be gone already: then nothing happens.
    pub fn cancel_timer(&mut self, name: u64) {
        self.effects.push(Effect::CancelTimer { name });
    }

    /// Opens a connection, as another session of this loop. Its `on_open` is called when it stands; if it cannot be had
    /// its `on_end` is, with the reason.
    pub fn connect(&mut self, address: SocketAddr, state: P) {
        self.effects.push(Effect::Connect { to: To::Tcp(address), state });
    }

    /// Opens a connection to the Unix listener at this path; all else as [`connect`](Self::connect) does it. If the
    /// listener's backlog is full it is tried again and again, with pauses of up to 64 ms, for as long as a connect may take.
    ///
    /// ```
    /// use gaio::{End, Expect, Io, Next, Protocol};
    ///
    /// /// Hands every line on to a service of this machine.
    /// enum Half {
    ///     Client,
    ///     Service,
    /// }
    ///
    /// impl Protocol for Half {
    ///     type Message = ();
    ///     fn expects(&self) -> Expect {
    ///         Expect::until(b"\n").at_most(1024)
    ///     }
    ///     fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
    ///         if let Self::Client = self {
    ///             io.connect_unix("/run/service.sock", Self::Service);
    ///         }
    ///         Next::Become(self)
    ///     }
    ///     fn on_frame(self, _line: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
    ///         Next::Become(self)
    ///     }
    /// }
    ///
    /// let mut test = gaio::testkit::Bench::new(Half::Client);
    /// assert!(matches!(&test.unix_connects()[..], [(path, Half::Service)] if path.ends_with("service.sock")));
    /// ```
    pub fn connect_unix(&mut self, path: impl Into<PathBuf>, state: P) {
        self.effects.push(Effect::Connect { to: To::Unix(path.into()), state });
    }

    /// Joins a group: messages that are [broadcast](crate::Server::broadcast) to it arrive here, too.
    pub fn join(&mut self, group: u64) {
        self.effects.push(Effect::Join { group });
    }

    /// Leaves a group. A session that ends leaves all of its groups.
    pub fn leave(&mut self, group: u64) {
        self.effects.push(Effect::Leave { group });
    }
}

impl<P: Protocol> std::fmt::Debug for Io<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("queued", &self.queued()).finish_non_exhaustive()
    }
}
