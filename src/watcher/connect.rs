//! Connecting, as users ask for it: where to, how, and by when. What becomes of it is up to `connecting.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{SubmitError, SubmitErrorKind};
use crate::event_loop::inbox::{Patience, nanos};
use crate::sync::Ordering;
use crate::sys::{self, StreamOptions};
use crate::watcher::connecting::{Connect, Plan};
use crate::watcher::shared::Shared;
use crate::watcher::submission::Submission;
use crate::watcher::submitter::Submitter;

/// How long one address is left alone with its attempt before the next one joins in: what RFC 8305 recommends.
const STAGGER: Duration = Duration::from_millis(250);

/// Where to connect to: an address, several of which one is enough, or the path of a Unix listener.
///
/// Made by `From` wherever [`Submitter::connect`] is given a `SocketAddr`, a `Vec` or slice of them, a `Path` or a
/// `PathBuf`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination(pub(crate) To);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum To {
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl From<SocketAddr> for Destination {
    fn from(addr: SocketAddr) -> Self {
        Self(To::Tcp(vec![addr]))
    }
}

impl From<Vec<SocketAddr>> for Destination {
    fn from(addrs: Vec<SocketAddr>) -> Self {
        Self(To::Tcp(addrs))
    }
}

impl From<&[SocketAddr]> for Destination {
    fn from(addrs: &[SocketAddr]) -> Self {
        Self(To::Tcp(addrs.to_vec()))
    }
}

impl From<PathBuf> for Destination {
    fn from(path: PathBuf) -> Self {
        Self(To::Unix(path))
    }
}

impl From<&Path> for Destination {
    fn from(path: &Path) -> Self {
        Self(To::Unix(path.into()))
    }
}

/// Names one connect, to [cancel](Submitter::cancel_connect) it by. Never given twice by one loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectId(pub(crate) u64);

/// A connect that has not been submitted yet; of [`Submitter::connect`].
#[must_use = "nothing happens until it is submitted"]
#[derive(Debug)]
pub struct NewConnect<'s, C> {
    shared: &'s Shared<C>,
    plan: Plan,
}

impl<C> Submitter<C> {
    /// Connects, and completes as [`Event::Connected`](crate::Event::Connected): with a connection that the loop has
    /// already, or with why there is none.
    ///
    /// Of several addresses the first to connect wins, and the others are closed. They are tried in the order given: the
    /// next one as soon as one fails, or after a [stagger](NewConnect::stagger) beside those that have not answered yet.
    /// If the families of a host's addresses are to take turns, give them in that order.
    ///
    /// Without a [deadline](NewConnect::within) it takes as long as the system tries, which for TCP is minutes, and for a
    /// Unix listener whose backlog is full as long as that lasts: there it is tried again and again, with pauses of up to
    /// 64 ms, in no particular order among those who wait.
    ///
    /// It counts as an operation in flight, and as a session from its submission on; an address that is tried beside
    /// others as another one, if there is a place for it. Cost: three system calls and some small allocations for each
    /// attempt, two more calls for the winner.
    ///
    /// Names are not resolved here: that blocks, for seconds if it likes. Do it on a thread of yours, by `to_socket_addrs`
    /// say, and hand all the addresses over.
    ///
    /// ```
    /// use gaio::{Event, Outcome};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut watcher, submitter) = gaio::Watcher::<&str>::spawn_for(gaio::Options::default())?;
    /// let listener = submitter.listen_on("127.0.0.1:0".parse()?, &gaio::ListenOptions::default())?;
    /// submitter.connect(listener.local_addr().unwrap()).submit_with("to myself")?;
    /// let mut greeted = false;
    /// while !greeted {
    ///     for event in watcher.wait()? {
    ///         match event {
    ///             Event::Connected { context: "to myself", result } => result?.write(b"hello").submit_with("greeting")?,
    ///             Event::Accepted { conn, .. } => conn.read_exact(Vec::new(), 5).submit_with("reading")?,
    ///             Event::Done { context: "reading", outcome: Outcome::Read(bytes), .. } => greeted = bytes == b"hello",
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn connect(&self, to: impl Into<Destination>) -> NewConnect<'_, C> {
        let Destination(to) = to.into();
        let plan = Plan { to, options: StreamOptions::default(), stagger: nanos(STAGGER), by: u64::MAX, id: 0 };
        NewConnect { shared: &self.0, plan }
    }

    /// Cancels a connect that was [named](NewConnect::named): it completes as
    /// [`OpError::Cancelled`](crate::OpError::Cancelled), unless it has completed already; a cancel that finds nothing is
    /// counted.
    ///
    /// # Errors
    /// `Closed`, and on the thread of another loop `Full`.
    pub fn cancel_connect(&self, id: ConnectId) -> Result<(), SubmitErrorKind> {
        self.0.submit(Submission::CancelConnect { id: id.0 }, Patience::Forever).map_err(|(kind, _)| kind)
    }
}

impl<C> NewConnect<'_, C> {
    /// Gives it a deadline, over all attempts: if there is no connection by then, it completes as
    /// [`OpError::TimedOut`](crate::OpError::TimedOut). Rounded up, see [`Op::within`](crate::Op::within).
    ///
    /// ```
    /// # use std::{net::ToSocketAddrs, time::Duration};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let addresses: Vec<_> = "127.0.0.1:0".to_socket_addrs()?.collect(); // blocks: not on the loop's thread
    /// # let addresses = [addresses, vec![free]].concat();
    /// submitter.connect(addresses).within(Duration::from_secs(3)).submit()?;
    /// let event = watcher.wait()?.next();
    /// let Some(gaio::Event::Connected { result: Err(failure), .. }) = event else { panic!() };
    /// for (address, error) in failure.failed {
    ///     println!("{address}: {error}"); // nobody listens there
    /// }
    /// # Ok(()) }
    /// ```
    pub fn within(mut self, time: Duration) -> Self {
        self.plan.by = sys::now().saturating_add(nanos(time));
        self
    }

    /// As [`within`](Self::within), with an instant.
    pub fn by(mut self, instant: Instant) -> Self {
        self.plan.by = sys::at(instant);
        self
    }

    /// How long an address has to itself before the next one is tried beside it. Default 250 ms; zero tries all at once.
    pub fn stagger(mut self, time: Duration) -> Self {
        self.plan.stagger = nanos(time);
        self
    }

    /// What the connection is to have from its beginning; for Unix only the sizes of its buffers.
    pub const fn options(mut self, options: &StreamOptions) -> Self {
        self.plan.options = *options;
        self
    }

    /// Gives it a name, to cancel it by.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (mut watcher, submitter) = gaio::Watcher::spawn(gaio::Options::default())?;
    /// # let address: std::net::SocketAddr = "127.0.0.1:9".parse()?;
    /// let (connect, id) = submitter.connect(address).named();
    /// connect.submit()?;
    /// submitter.cancel_connect(id)?; // or it has failed before
    /// assert!(matches!(watcher.wait()?.next(), Some(gaio::Event::Connected { result: Err(_), .. })));
    /// # Ok(()) }
    /// ```
    pub fn named(mut self) -> (Self, ConnectId) {
        self.plan.id = self.next_id();
        let id = ConnectId(self.plan.id);
        (self, id)
    }

    fn next_id(&self) -> u64 {
        self.shared.timers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Hands it to the loop, with the context that its completion will carry.
    ///
    /// # Errors
    /// `NoAddress`, `TooMany` (operations in flight, or sessions), `Closed`, and on the thread of another loop `Full`; the
    /// context comes back.
    pub fn submit_with(mut self, context: C) -> Result<(), SubmitError<C>> {
        let refused = |kind, context| Err(SubmitError { kind, context, buffer: None });
        if matches!(&self.plan.to, To::Tcp(addrs) if addrs.is_empty()) {
            return refused(SubmitErrorKind::NoAddress, context);
        }
        if !self.shared.admit() {
            return refused(SubmitErrorKind::TooMany, context);
        }
        if self.plan.id == 0 {
            self.plan.id = self.next_id();
        }
        let submission = Submission::Connect(Box::new(Connect::new(context, self.plan)));
        self.shared.submit_unbound(submission).inspect_err(|_| self.shared.left())
    }

    /// [`submit_with`](Self::submit_with) a default context.
    ///
    /// # Errors
    /// As [`submit_with`](Self::submit_with).
    pub fn submit(self) -> Result<(), SubmitError<C>>
    where
        C: Default,
    {
        self.submit_with(C::default())
    }
}
