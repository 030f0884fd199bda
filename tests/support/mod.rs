//! What all integration tests share: the frame of a test, pairs of sockets, and the two drives behind one face.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gaio::{
    Batch, Conn, ConnectError, Detached, EmbeddedWatcher, Event, Failure, Lease, Limits, ListenerId, OpError, Options,
    Outcome, Payload, Snapshot, Submitter, WaitError, Watcher,
};

/// Longest life of a test. One that hangs is aborted, with its name.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Descriptors of this process, as soon as their number stands: when the harness starts the next test's thread, one more
/// may be open for a moment.
pub(crate) fn descriptors() -> usize {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (mut last, mut same) = (count(), 0);
    while same < 3 {
        thread::sleep(Duration::from_millis(1));
        let now = count();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// The frame of every test: one at a time within a binary (descriptors are counted per process), none longer than the
/// watchdog allows, none that leaves a descriptor behind.
pub(crate) fn check(body: impl FnOnce()) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, over) = mpsc::channel::<()>();
    let before = descriptors();
    let watchdog = thread::spawn(move || {
        if over.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not `eprintln`: what the harness has captured dies with the process.
            let _ = writeln!(io::stderr(), "\n{name}: still running after {WATCHDOG:?}, aborted");
            std::process::abort();
        }
    });
    body();
    assert_eq!(descriptors(), before, "descriptors were left open");
    drop(done);
    watchdog.join().unwrap();
}

/// Waits for something that will come by itself. The watchdog bounds it.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Makes a `#[test]` of each generic function, once per drive.
macro_rules! both_drives {
    ($($name:ident),* $(,)?) => {
        mod spawned {
            $(#[test] fn $name() { crate::support::check(super::$name::<gaio::Watcher<u64>>); })*
        }
        mod embedded {
            $(#[test] fn $name() { crate::support::check(super::$name::<gaio::EmbeddedWatcher<u64>>); })*
        }
    };
}
pub(crate) use both_drives;

// --- sockets --------------------------------------------------------------------------------------------------------

/// Which kind of stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Net {
    Tcp,
    Unix,
}

pub(crate) const NETS: [Net; 2] = [Net::Tcp, Net::Unix];

/// The other end of a delegated connection. std's `UnixStream` only reads, writes and shuts down, and does so with
/// calls that are the same for TCP; so one type serves for both.
pub(crate) type Peer = UnixStream;

impl Net {
    /// Two connected ends: the one to delegate, and the peer.
    pub(crate) fn pair(self) -> (OwnedFd, Peer) {
        match self {
            Self::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (ours, _) = listener.accept().unwrap();
                for end in [&ours, &theirs] {
                    end.set_nodelay(true).unwrap();
                }
                (ours.into(), OwnedFd::from(theirs).into())
            }
            Self::Unix => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (ours.into(), theirs)
            }
        }
    }
}

/// Closes with an RST (TCP).
pub(crate) fn reset(peer: Peer) {
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
}

/// Writes into a socket that was not delegated yet until the system takes no more. Says how much that was. A Unix socket
/// stays full until its peer reads; of a TCP socket something may move on to the peer, and make room.
pub(crate) fn stuff(socket: &OwnedFd) -> usize {
    rustix::io::ioctl_fionbio(socket, true).unwrap();
    let junk = vec![0xEE; 64 << 10];
    let mut sent = 0;
    // Down to single bytes: a stream that refuses many may still take a few.
    for piece in [junk.len(), 1] {
        while let Ok(n) = rustix::io::write(socket, &junk[..piece]) {
            sent += n;
        }
    }
    sent
}

/// Ends the peer's sending side.
pub(crate) fn finish(peer: &Peer) {
    peer.shutdown(Shutdown::Write).unwrap();
}

/// Waits until that many bytes lie ready to be read at the socket's other end, so that what follows meets them there.
pub(crate) fn read_some(peer: &mut Peer, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

/// Everything until the end of the stream.
pub(crate) fn read_all(peer: &mut Peer) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads on until the stream ends in an error (its kind) or cleanly (`None`); and how much came before.
pub(crate) fn read_to_its_end(peer: &mut Peer) -> (usize, Option<io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = peer.read_to_end(&mut bytes).err().map(|error| error.kind());
    (bytes.len(), end)
}

/// A stream of bytes in which every position within 8 MB looks different from its neighbours.
pub(crate) struct Pattern(Vec<u8>);

const PERIOD: usize = 65_521;
const WIDEST: usize = 1 << 20;

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9E37_79B9_u32;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        Self(period.iter().copied().cycle().take(PERIOD + WIDEST).collect())
    }

    /// The `n` bytes from position `at` on; `n` is at most 1 MiB.
    pub(crate) fn at(&self, at: usize, n: usize) -> &[u8] {
        &self.0[at % PERIOD..][..n]
    }

    /// The first `n` bytes, as many as you like.
    pub(crate) fn first(&self, n: usize) -> Vec<u8> {
        self.0[..PERIOD].iter().copied().cycle().take(n).collect()
    }

    /// Sends `total` bytes in fragments of odd sizes.
    pub(crate) fn send(&self, peer: &mut Peer, total: usize) {
        let mut sizes = [1, 11, 1_447, 4_099, 16_411, 65_537, 262_147, 999_983, 7].iter().cycle();
        let mut sent = 0;
        while sent < total {
            let n = (total - sent).min(*sizes.next().unwrap());
            peer.write_all(self.at(sent, n)).unwrap();
            sent += n;
        }
    }

    /// Reads `total` bytes and compares each.
    pub(crate) fn receive(&self, peer: &mut Peer, total: usize) {
        let mut buffer = vec![0; 300_007];
        let mut got = 0;
        while got < total {
            let most = buffer.len().min(total - got);
            let n = peer.read(&mut buffer[..most]).unwrap();
            assert_ne!(n, 0, "the stream ended after {got} of {total} bytes");
            assert!(self.at(got, n) == &buffer[..n], "wrong bytes between {got} and {}", got + n);
            got += n;
        }
    }
}

// --- the two drives -------------------------------------------------------------------------------------------------

/// A loop on a thread of its own, or on ours.
pub(crate) trait Drive<C: Send + 'static = u64>: Sized {
    const SPAWNED: bool;
    fn start(options: Options) -> (Self, Submitter<C>);
    fn wait(&mut self) -> Result<Batch<'_, C>, WaitError>;
    fn wait_timeout(&mut self, timeout: Duration) -> Result<Batch<'_, C>, WaitError>;
}

impl<C: Send + 'static> Drive<C> for Watcher<C> {
    const SPAWNED: bool = true;

    fn start(options: Options) -> (Self, Submitter<C>) {
        Self::spawn_for(options).unwrap()
    }

    fn wait(&mut self) -> Result<Batch<'_, C>, WaitError> {
        Self::wait(self)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> Result<Batch<'_, C>, WaitError> {
        Self::wait_timeout(self, timeout)
    }
}

impl<C: Send + 'static> Drive<C> for EmbeddedWatcher<C> {
    const SPAWNED: bool = false;

    fn start(options: Options) -> (Self, Submitter<C>) {
        Self::new_for(options).unwrap()
    }

    fn wait(&mut self) -> Result<Batch<'_, C>, WaitError> {
        self.turn(None)
    }

    fn wait_timeout(&mut self, timeout: Duration) -> Result<Batch<'_, C>, WaitError> {
        self.turn(Some(timeout))
    }
}

/// An outcome that has left its batch.
#[derive(Debug)]
pub(crate) enum Got {
    Read(Vec<u8>),
    Pooled(Vec<u8>),
    Leased(Lease),
    Readable,
    Wrote(Payload),
    ShutDown,
    Closed,
    Detached(Detached),
    Eof(Option<Vec<u8>>),
    Failed(Failure),
}

impl Got {
    /// The bytes of a read of any kind.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) | Self::Pooled(bytes) => bytes,
            Self::Leased(lease) => lease,
            other => panic!("not bytes: {other:?}"),
        }
    }

    pub(crate) fn read(self) -> Vec<u8> {
        match self {
            Self::Read(bytes) => bytes,
            other => panic!("not a read: {other:?}"),
        }
    }

    pub(crate) fn wrote(self) -> Payload {
        match self {
            Self::Wrote(payload) => payload,
            other => panic!("not a write: {other:?}"),
        }
    }

    pub(crate) fn eof(self) -> Option<Vec<u8>> {
        match self {
            Self::Eof(buffer) => buffer,
            other => panic!("not an end of stream: {other:?}"),
        }
    }

    pub(crate) fn failed(self) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            other => panic!("not a failure: {other:?}"),
        }
    }

    pub(crate) fn closed(self) {
        assert!(matches!(self, Self::Closed), "not a close: {self:?}");
    }

    pub(crate) fn shut_down(self) {
        assert!(matches!(self, Self::ShutDown), "not the end of the output: {self:?}");
    }

    pub(crate) fn detached(self) -> Detached {
        match self {
            Self::Detached(detached) => detached,
            other => panic!("not a connection handed back: {other:?}"),
        }
    }
}

impl From<Outcome<'_>> for Got {
    fn from(outcome: Outcome<'_>) -> Self {
        match outcome {
            Outcome::Read(bytes) => Self::Read(bytes),
            Outcome::Pooled(bytes) => Self::Pooled(bytes.to_vec()),
            Outcome::Leased(lease) => Self::Leased(lease),
            Outcome::Readable => Self::Readable,
            Outcome::Wrote(payload) => Self::Wrote(payload),
            Outcome::ShutDown => Self::ShutDown,
            Outcome::Closed => Self::Closed,
            Outcome::Detached(detached) => Self::Detached(*detached),
            Outcome::Eof(bytes) => Self::Eof(bytes),
            Outcome::Failed(failure) => Self::Failed(*failure),
        }
    }
}

/// An event that has left its batch.
#[derive(Debug)]
pub(crate) enum Taken<C = u64> {
    Done(Conn<C>, C, Got),
    Accepted(Conn<C>, ListenerId),
    Ended(ListenerId, Option<io::Error>),
    Posted(C),
    Timer(C, Result<(), OpError>),
    Connected(C, Result<Conn<C>, ConnectError>),
}

impl<C> From<Event<'_, C>> for Taken<C> {
    fn from(event: Event<'_, C>) -> Self {
        match event {
            Event::Done { conn, context, outcome } => Self::Done(conn, context, outcome.into()),
            Event::Accepted { conn, listener, .. } => Self::Accepted(conn, listener),
            Event::ListenerEnded { listener, error } => Self::Ended(listener, error),
            Event::Posted(context) => Self::Posted(context),
            Event::Timer { context, result } => Self::Timer(context, result),
            Event::Connected { context, result } => Self::Connected(context, result),
            other => panic!("an event these tests do not know: {}", std::any::type_name_of_val(&other)),
        }
    }
}

/// A watcher and its submitter, with the small steps that tests are made of.
pub(crate) struct Rig<D, C = u64> {
    pub(crate) watcher: D,
    pub(crate) submitter: Submitter<C>,
    marker: std::marker::PhantomData<C>,
}

/// The context of [`Rig::barrier`]'s posts.
pub(crate) const MARK: u64 = u64::MAX;

impl<D: Drive<C>, C: Send + 'static> Rig<D, C> {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::of(Options::default().limits(limits))
    }

    pub(crate) fn of(options: Options) -> Self {
        let (watcher, submitter) = D::start(options);
        Self { watcher, submitter, marker: std::marker::PhantomData }
    }

    /// A connection given to the loop, and its peer.
    pub(crate) fn connect(&self, net: Net) -> (Conn<C>, Peer) {
        let (ours, peer) = net.pair();
        (self.submitter.delegate(ours).unwrap(), peer)
    }

    /// The next event. The batch it comes from is dropped with the rest in it, which the next call finds first (G1).
    pub(crate) fn next(&mut self) -> Taken<C> {
        loop {
            if let Some(event) = self.watcher.wait().unwrap().next() {
                return event.into();
            }
        }
    }

    /// The next event, which is a completion.
    pub(crate) fn done(&mut self) -> (Conn<C>, C, Got) {
        match self.next() {
            Taken::Done(conn, context, got) => (conn, context, got),
            other => panic!("not a completion: {}", std::any::type_name_of_val(&other)),
        }
    }

    /// The outcome of the next event, which is a completion.
    pub(crate) fn outcome(&mut self) -> Got {
        self.done().2
    }

    /// The next `n` completions, by their contexts.
    pub(crate) fn outcomes(&mut self, n: usize) -> HashMap<C, Got>
    where
        C: Eq + Hash,
    {
        let mut all = HashMap::new();
        for _ in 0..n {
            let (_, context, got) = self.done();
            assert!(all.insert(context, got).is_none(), "an operation completed twice");
        }
        all
    }

    /// Everything until the loop has ended.
    pub(crate) fn rest(&mut self) -> Vec<Taken<C>> {
        let mut rest = Vec::new();
        loop {
            match self.watcher.wait() {
                Ok(batch) => rest.extend(batch.map(Taken::from)),
                Err(end) => {
                    assert_eq!(end, WaitError::Closed);
                    return rest;
                }
            }
        }
    }

    pub(crate) fn counters(&self) -> Snapshot {
        self.submitter.counters()
    }
}

impl<D: Drive> Rig<D> {
    /// Lets the loop catch up with everything that has happened so far, and hands over what it completed by that.
    /// Three rounds, since a turn may leave the selector out once in a row.
    pub(crate) fn barrier(&mut self) -> Vec<Taken> {
        let mut seen = Vec::new();
        for _ in 0..3 {
            self.submitter.post(MARK).unwrap();
            loop {
                match self.next() {
                    Taken::Posted(MARK) => break,
                    other => seen.push(other),
                }
            }
        }
        seen
    }

    /// Nothing completes, although the loop has seen everything that happened so far.
    pub(crate) fn assert_quiet(&mut self) {
        let seen = self.barrier();
        assert!(seen.is_empty(), "{seen:?}");
    }
}

/// More than both kernels take between them.
pub(crate) const HUGE: usize = 16 << 20;

/// Refused, since nothing may follow what went before; not begun.
#[track_caller]
pub(crate) fn broken(got: Got) {
    let failure = got.failed();
    assert!(matches!(failure.error, OpError::Broken) && failure.transferred == 0, "{failure:?}");
}

/// A deadline far enough away never to be the reason of anything.
pub(crate) const LONG: Duration = Duration::from_secs(3_600);

/// Time that passes while nothing should happen.
pub(crate) fn doze() {
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(50));
    }
}

/// The code of the system's error, if that is what it was.
pub(crate) fn os_error(failure: &Failure) -> Option<rustix::io::Errno> {
    failure.error.raw_os_error().map(rustix::io::Errno::from_raw_os_error)
}
