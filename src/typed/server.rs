//! Servers: a listener, and loops of sessions, each on a thread of its own.
//!
//! Over TCP each loop has a listener of its own on the same port (SO_REUSEPORT): the system deals the connections out, and
//! no loop waits for another. Where that cannot be had (Unix sockets, a listener that was made elsewhere) the first loop
//! accepts, and hands each connection to the loop with the fewest sessions of those that have a place.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::error::WaitError;
use crate::sys::{self, Socket};
use crate::typed::address::SendErrorKind;
use crate::typed::expect::Expect;
use crate::typed::face::Welcome;
use crate::typed::io::Io;
use crate::typed::limits::SessionLimits;
use crate::typed::protocol::{Next, Protocol};
use crate::typed::sessions::{Hub, Unbound};

enum Bound {
    Tcp(Vec<SocketAddr>),
    Adopted(Socket),
}

type Admit = Arc<dyn Fn(Option<SocketAddr>) -> bool + Send + Sync>;

/// A server that is being set up: [`Server::bind`] and its siblings make one.
#[must_use = "nothing happens until it serves"]
pub struct ServerBuilder {
    bound: Bound,
    loops: usize,
    /// Each loop's CPU, if it is to have one; dealt out in turn.
    cpus: Vec<usize>,
    pin_from: Option<usize>,
    limits: SessionLimits,
    admit: Option<Admit>,
}

/// A running server: loops of typed sessions, each on a thread of its own.
///
/// Dropping it ends everything at once, and waits for the threads; but not on one of them, where a session may drop it.
///
/// ```
/// use gaio::{Expect, Io, Next, Protocol, Server};
/// use std::io::{Read, Write};
/// use std::time::Duration;
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     type Message = ();
///
///     fn expects(&self) -> Expect {
///         Expect::any()
///     }
///
///     fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
///         io.write(bytes);
///         Next::Become(self)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::bind("127.0.0.1:0")?.loops(2).serve(|_peer| Echo)?;
/// let mut peer = std::net::TcpStream::connect(server.local_addr().unwrap())?;
/// peer.write_all(b"hello")?;
/// let mut answer = [0; 5];
/// peer.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// server.shutdown(Duration::from_secs(1));
/// server.join()?;
/// # Ok(()) }
/// ```
pub struct Server<P: Protocol> {
    hubs: Vec<Hub<P>>,
    threads: Vec<thread::JoinHandle<Result<(), WaitError>>>,
    address: Option<SocketAddr>,
}

/// Stands for the protocol of a server that has none yet.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "there is none")]
pub enum Unserved {}

impl Protocol for Unserved {
    type Message = ();

    fn expects(&self) -> Expect {
        match *self {}
    }

    fn on_frame(self, _frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        match self {}
    }
}

impl Server<Unserved> {
    /// A server on a TCP address; port 0 takes a free one, which [`local_addr`](Self::local_addr) tells. The address is
    /// taken when it serves; where a name has several, the first that can be had.
    ///
    /// # Errors
    /// If the address cannot be understood, or a name has none. It is resolved here, and blocks.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<ServerBuilder> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(no_address());
        }
        Ok(ServerBuilder::new(Bound::Tcp(addresses)))
    }

    /// A server on a Unix socket. The path must not exist; it is left there in the end.
    ///
    /// # Errors
    /// The system's.
    pub fn bind_unix(path: impl AsRef<Path>) -> io::Result<ServerBuilder> {
        let socket = sys::listen_unix(path.as_ref(), &sys::ListenOptions::default())?;
        Ok(ServerBuilder::new(Bound::Adopted(socket)))
    }

    /// A server on a listener that was made elsewhere: inherited, say, or with options of its own.
    pub fn on(listener: impl Into<Socket>) -> ServerBuilder {
        ServerBuilder::new(Bound::Adopted(listener.into()))
    }
}

impl ServerBuilder {
    fn new(bound: Bound) -> Self {
        Self { bound, loops: 1, cpus: Vec::new(), pin_from: None, limits: SessionLimits::default(), admit: None }
    }

    /// So many loops; 0 counts as 1. Default 1.
    ///
    /// Several share their TCP port by `SO_REUSEPORT`, and so would any other such listener of the same user: a second
    /// server that is started on this port by mistake is no error, but takes a part of the connections. With one loop
    /// it is (`AddrInUse`).
    pub fn loops(mut self, n: usize) -> Self {
        self.loops = if n == 0 { 1 } else { n };
        self
    }

    /// One loop for each CPU that this process may run on, each pinned to its own.
    pub fn per_core(mut self) -> Self {
        self.cpus = sys::allowed_cpus();
        self.pin_from = None;
        self.loops = self.cpus.len().max(1);
        self
    }

    /// Pins the first loop to this CPU, the next one to the next, and so on.
    pub fn pin_from(mut self, cpu: usize) -> Self {
        self.pin_from = Some(cpu);
        self
    }

    /// Sets the limits of each loop.
    pub fn limits(mut self, limits: SessionLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Asked for each connection before it becomes a session; `false` closes it, and counts it as refused.
    pub fn admit(mut self, admit: impl Fn(Option<SocketAddr>) -> bool + Send + Sync + 'static) -> Self {
        self.admit = Some(Arc::new(admit));
        self
    }

    /// Starts it. `first` makes the first state of each session, from the peer's address (none for Unix sockets).
    ///
    /// # Errors
    /// The system's: the address is taken (which several [`loops`](Self::loops) cannot tell), no descriptors or threads
    /// to be had, a CPU that cannot be pinned to; or limits that cannot work (`InvalidInput`). Nothing is left running.
    pub fn serve<P: Protocol>(
        self,
        first: impl Fn(Option<SocketAddr>) -> P + Send + Sync + 'static,
    ) -> io::Result<Server<P>> {
        let Self { bound, loops, cpus, pin_from, limits, admit } = self;
        let cpus = pin_from.map_or(cpus, |first| (first..first.saturating_add(loops)).collect());
        let first = Arc::new(first);
        let welcome = || -> Welcome<P> {
            let (admit, first) = (admit.clone(), first.clone());
            Box::new(move |peer| admit.as_ref().is_none_or(|admit| admit(peer)).then(|| first(peer)))
        };
        let (listeners, address) = match bound {
            Bound::Tcp(addresses) => {
                let mut bound = Err(no_address());
                for address in addresses {
                    bound = listen(address, loops);
                    if bound.is_ok() {
                        break;
                    }
                }
                let (listeners, address) = bound?;
                (listeners, Some(address))
            }
            Bound::Adopted(socket) => {
                let address = sys::local_addr(&socket);
                (vec![socket], address)
            }
        };
        // The last is made first: the first loop knows the others, if it accepts for them.
        let mut made: Vec<Unbound<P>> = Vec::new();
        let accepts_for_all = listeners.len() < loops;
        for i in (0..loops).rev() {
            let siblings: Vec<_> =
                if i == 0 && accepts_for_all { made.iter().map(|m| m.hub.clone()).collect() } else { Vec::new() };
            made.push(Unbound::new(limits.clone(), welcome(), &siblings)?);
        }
        made.reverse();
        for (unbound, listener) in made.iter().zip(listeners) {
            unbound.hub.listen(listener).map_err(io::Error::other)?;
        }
        Server::start(made, &cpus, address)
    }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to")
}

/// A listener for each loop, all on the same address, which has its port now.
fn listen(mut address: SocketAddr, loops: usize) -> io::Result<(Vec<Socket>, SocketAddr)> {
    let streams = sys::StreamOptions { nodelay: true, ..Default::default() };
    let options = sys::ListenOptions { reuse_port: loops > 1, streams, ..Default::default() };
    let mut listeners = Vec::new();
    for _ in 0..loops {
        let listener = sys::listen_tcp(address, &options)?;
        // Port 0 was resolved by the first; the others share what it got.
        address = sys::local_addr(&listener).unwrap_or(address);
        listeners.push(listener);
    }
    Ok((listeners, address))
}

impl<P: Protocol> Server<P> {
    fn start(made: Vec<Unbound<P>>, cpus: &[usize], address: Option<SocketAddr>) -> io::Result<Self> {
        let hubs = made.iter().map(|unbound| unbound.hub.clone()).collect();
        let mut server = Self { hubs, threads: Vec::new(), address };
        let (ready, answers) = mpsc::channel();
        for (i, unbound) in made.into_iter().enumerate() {
            let cpu = cpus.get(i % cpus.len().max(1)).copied();
            let ready = ready.clone();
            let body = move || {
                let mut sessions = unbound.bind();
                let _ = ready.send(cpu.map_or(Ok(()), sys::pin_current_thread));
                drop(ready);
                sessions.run()
            };
            server.threads.push(thread::Builder::new().name(format!("gaio-{i}")).spawn(sys::carry(body))?);
        }
        drop(ready);
        for answer in answers {
            answer?;
        }
        Ok(server)
    }

    /// Where it listens (the port, if it was bound to port 0); none for a Unix socket.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Handles to its loops: for statistics of each, and for connections of your own.
    #[must_use]
    pub fn hubs(&self) -> &[Hub<P>] {
        &self.hubs
    }

    /// Sends a message to every session of the server that has [joined](crate::Io::join) this group: one submission per
    /// loop.
    ///
    /// # Errors
    /// A loop has not taken it: `Full`, since it is behind, or `Closed`, since it is shutting down; of several, the
    /// last one's kind. All other loops have the message, so sending it here again would tell their members twice: who
    /// wants to try again does it loop by loop, by [`Hub::broadcast`].
    pub fn broadcast(&self, group: u64, message: &P::Message) -> Result<(), SendErrorKind>
    where
        P::Message: Clone,
    {
        let refused = self.hubs.iter().filter_map(|hub| hub.broadcast(group, message.clone()).err()).last();
        refused.map_or(Ok(()), |(kind, _)| Err(kind))
    }

    /// Ends it: it accepts no more, and tells every session by `on_shutdown`, after the messages that were sent before.
    /// What has not closed when the grace is over is ended. [`join`](Self::join) waits for it.
    pub fn shutdown(&self, grace: Duration) {
        self.hubs.iter().for_each(|hub| hub.shutdown(grace));
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If a loop's selector failed. `Deadlock`, if a session asks for it, on a thread of the server: nobody can wait for
    /// himself, so it is ended as by a drop.
    pub fn join(mut self) -> io::Result<()> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        let here = thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == here) {
            return Err(io::Error::new(io::ErrorKind::Deadlock, "a thread of the server cannot wait for its end"));
        }
        let mut ended = Ok(());
        for thread in self.threads.drain(..) {
            let result = thread.join().unwrap_or(Err(WaitError::LoopFailed));
            if let Err(failed) = result {
                ended = Err(failed.into());
            }
        }
        ended
    }
}

impl<P: Protocol> Drop for Server<P> {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        let _ = self.wait();
    }
}

impl<P: Protocol> std::fmt::Debug for Server<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).field("loops", &self.hubs.len()).finish()
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder").field("loops", &self.loops).finish_non_exhaustive()
    }
}
