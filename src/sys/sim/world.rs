//! The world as a test sees it: made, entered, configured, populated.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::super::{Errno, ListenOptions};
use super::addresses::Name;
use super::config::Config;
use super::connection::{Connection, Side};
use super::faults::Fault;
#[cfg(not(loom))]
use super::lockstep::Held;
use super::lockstep::Lockstep;
use super::peer::Peer;
use super::permit::Calls;
use super::remote::Remote;
use super::socket::Socket;
use super::state::{Descriptor, State};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// One simulated system. A clone is another handle to the same one; all of it is freed with the last handle, socket and
/// peer.
///
/// Any thread may use a handle; each call is atomic, and returns at once. What is told to nobody stays told to nobody:
/// a world has no thread of its own, and nothing happens in it but by a call.
#[derive(Clone)]
pub struct World {
    pub(super) shared: Arc<Shared>,
}

/// What all handles share: the state, and one condition for everybody who waits for a change of it.
///
/// The `Arc` around it is the standard one, even under loom: a kernel's reference counts are no part of any model, and
/// each would be one more point where loom tries every order.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pub(super) lockstep: Lockstep,
}

impl Shared {
    fn new(config: Config) -> Self {
        Self { state: Mutex::new(State::new(config)), changed: Condvar::new(), lockstep: Lockstep::new() }
    }

    /// Runs one syscall. All who wait are told if it changed anything for anybody.
    pub(super) fn call<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        self.before_call();
        let mut state = self.lock();
        let answer = act(&mut state);
        self.release(state);
        answer
    }

    /// The bare state. Poison is passed over: a failed assertion elsewhere must not turn each drop into a second panic.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.mind_failure();
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the state back after a call by hand.
    pub(super) fn release(&self, mut state: MutexGuard<'_, State>) {
        if state.take_stir() {
            self.changed.notify_all();
        }
    }

    /// Lets the clock jump.
    pub(super) fn advance_to(&self, mut state: MutexGuard<'_, State>, time: u64) {
        state.advance_to(time);
        self.release(state);
    }

    /// A call from a drop: not once loom has given up.
    pub(super) fn drop_call(&self, act: impl FnOnce(&mut State)) {
        if !is_torn_down() {
            self.call(act);
        }
    }

    pub(super) fn close(&self, descriptor: Descriptor) {
        self.drop_call(|state| state.close(descriptor));
    }

    /// Sleeps until some call has changed something.
    pub(super) fn wait_change<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether loom has given this execution up. Its locks then panic again, and a second panic in a drop would abort the
/// test before it could say what failed.
fn is_torn_down() -> bool {
    cfg!(loom) && std::thread::panicking()
}

#[cfg(not(loom))]
mod current {
    use std::cell::RefCell;

    use super::{Held, World};

    std::thread_local! {
        static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
    }

    pub(super) fn get() -> World {
        let current = CURRENT.with_borrow(Clone::clone);
        current.expect("this thread is in no simulated world: call `World::enter` or `World::join` on it first")
    }

    pub(super) fn set(world: World) {
        CURRENT.set(Some(world));
    }

    pub(super) fn fresh() -> World {
        let world = World::bare();
        set(world.clone());
        world
    }

    /// Wraps the body of a thread, so that it runs in the world of the thread that spawns it.
    pub(crate) fn carry<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let world = CURRENT.with_borrow(Clone::clone);
        move || {
            let _held = world.as_ref().and_then(Held::begin);
            CURRENT.set(world);
            body()
        }
    }
}

#[cfg(loom)]
mod current {
    use super::World;

    // A static of loom lives as long as one execution: each begins with an empty world, and every thread is in it.
    loom::lazy_static! {
        static ref CURRENT: World = World::bare();
    }

    pub(super) fn get() -> World {
        CURRENT.clone()
    }

    pub(super) fn set(_world: World) {}

    pub(super) fn fresh() -> World {
        get()
    }

    /// Nothing to carry: an execution has one world.
    pub(crate) fn carry<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
        body
    }
}

pub(crate) use current::carry;

impl World {
    fn bare() -> Self {
        Self { shared: Arc::new(Shared::new(Config::default())) }
    }

    /// Makes a new world and puts the calling thread into it. Under loom: the world of this execution, new with it.
    #[must_use]
    pub fn enter() -> Self {
        current::fresh()
    }

    /// Like [`World::enter`], with properties other than the usual.
    #[must_use]
    pub fn enter_with(config: Config) -> Self {
        let world = Self::enter();
        world.configure(|own| *own = config);
        world
    }

    /// Puts the calling thread into this world, too. It leaves the one that it was in.
    pub fn join(&self) {
        current::set(self.clone());
    }

    /// The world of the calling thread.
    ///
    /// # Panics
    ///
    /// If it is in none.
    #[must_use]
    pub fn current() -> Self {
        current::get()
    }

    /// Changes the properties, from now on: in the middle of a test, say, to end all faults and see what is left.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        self.shared.call(|state| change(&mut state.config));
    }

    /// A TCP connection: one end for the code under test, one for the test.
    ///
    /// # Panics
    ///
    /// If there is no descriptor left.
    #[must_use]
    pub fn pair(&self) -> (Socket, Peer) {
        self.pair_of(|buffer| Connection::new(buffer, false))
    }

    /// A Unix stream: like [`World::pair`], with the differences that the kernel makes.
    ///
    /// # Panics
    ///
    /// If there is no descriptor left.
    #[must_use]
    pub fn unix_pair(&self) -> (Socket, Peer) {
        self.pair_of(|buffer| Connection::new(buffer, true))
    }

    /// Two UDP sockets, each the other's peer: each send is a message, and each receive.
    ///
    /// # Panics
    ///
    /// If there is no descriptor left.
    #[must_use]
    pub fn udp_pair(&self) -> (Socket, Peer) {
        let [near, far] = self.shared.call(|state| [0; 2].map(|_| state.addresses.free()));
        self.pair_of(|buffer| {
            let mut connection = Connection::of_datagrams(buffer, false);
            connection.end(Side::Near).addr = Some(near);
            connection.end(Side::Far).addr = Some(far);
            connection
        })
    }

    /// Two Unix datagram sockets: like [`World::udp_pair`], with the differences that the kernel makes.
    ///
    /// # Panics
    ///
    /// If there is no descriptor left.
    #[must_use]
    pub fn unix_datagram_pair(&self) -> (Socket, Peer) {
        self.pair_of(|buffer| Connection::of_datagrams(buffer, true))
    }

    fn pair_of(&self, connection: impl FnOnce(usize) -> Connection) -> (Socket, Peer) {
        let (descriptor, end) = self.shared.call(|state| {
            let connection = state.connect(connection(state.config.buffer));
            let descriptor = state.open_end(connection.end(Side::Near)).expect("a free descriptor");
            (descriptor, state.peer_of(connection.end(Side::Far)))
        });
        (Socket::new(&self.shared, descriptor), Peer::new(&self.shared, end))
    }

    /// A TCP connection with both ends for the code under test, as between two loops.
    ///
    /// # Panics
    ///
    /// If there are not two descriptors left.
    #[must_use]
    pub fn socket_pair(&self) -> (Socket, Socket) {
        self.sockets_of(|buffer| Connection::new(buffer, false))
    }

    pub(super) fn sockets_of(&self, connection: impl FnOnce(usize) -> Connection) -> (Socket, Socket) {
        let (near, far) = self.shared.call(|state| {
            let connection = state.connect(connection(state.config.buffer));
            let [near, far] = Side::BOTH.map(|side| state.open_end(connection.end(side)).expect("a free descriptor"));
            (near, far)
        });
        (Socket::new(&self.shared, near), Socket::new(&self.shared, far))
    }

    /// A listener on a free port of 127.0.0.1, with room for 128 connections.
    ///
    /// # Panics
    ///
    /// If there is no descriptor left.
    #[must_use]
    pub fn listener(&self) -> (Socket, SocketAddr) {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = ListenOptions { backlog: 127, ..ListenOptions::default() };
        let descriptor = self.shared.call(|state| state.listen_tcp(any, &options)).expect("a free descriptor");
        let listener = Socket::new(&self.shared, descriptor);
        let addr = super::local_addr(&listener).expect("a TCP listener has an address");
        (listener, addr)
    }

    /// A listener at a path, with room for 128 connections. No file of the real system is touched.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the path exists: one that was listened at does, until [`World::unlink`].
    pub fn unix_listener(&self, path: impl AsRef<Path>) -> io::Result<Socket> {
        let options = ListenOptions { backlog: 127, ..ListenOptions::default() };
        let descriptor = self.shared.call(|state| state.listen_unix(path.as_ref(), &options))?;
        Ok(Socket::new(&self.shared, descriptor))
    }

    /// Removes the path of a listener, and says whether it was there.
    pub fn unlink(&self, path: impl AsRef<Path>) -> bool {
        self.shared.call(|state| state.unlink(path.as_ref()))
    }

    /// Connects to a listener of this world. The connection stands at once, accepted or not.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if nobody listens there; `WouldBlock` if its backlog is full.
    pub fn connect(&self, addr: SocketAddr) -> io::Result<Peer> {
        let end = self.shared.call(|state| state.peer_connects(&Name::Ip(addr)).map(|end| state.peer_of(end)))?;
        Ok(Peer::new(&self.shared, end))
    }

    /// Connects to the listener at a path.
    ///
    /// # Errors
    ///
    /// As [`World::connect`].
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> io::Result<Peer> {
        let end = self
            .shared
            .call(|state| state.peer_connects(&Name::Path(path.as_ref().into())).map(|end| state.peer_of(end)))?;
        Ok(Peer::new(&self.shared, end))
    }

    /// An address that the code under test may connect to, and whose answers the test gives. Each call, another
    /// address.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote::new(&self.shared, self.shared.call(|state| state.open_remote()))
    }

    /// The time since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.shared.lock().clock)
    }

    /// Lets time pass. Whoever waits for a deadline within it is woken.
    pub fn advance(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.shared.call(|state| state.advance_to(state.clock.saturating_add(nanos)));
    }

    /// Says what the test is about to do, in the trace (`GAIO_SIM_TRACE=1`); the function is called only if there is
    /// one.
    pub fn note<T: fmt::Display>(&self, what: impl FnOnce() -> T) {
        let state = self.shared.lock();
        if state.traced {
            eprintln!("{:>14} ns  {}", state.clock, what());
        }
    }

    /// The faults that have happened so far, how often each.
    #[must_use]
    pub fn faults(&self) -> [(Fault, u64); Fault::ALL.len()] {
        let tally = self.shared.lock().tally;
        Fault::ALL.map(|fault| (fault, tally[fault as usize]))
    }

    /// The system calls that were made on sockets so far: for tests of what an answer costs.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.shared.lock().calls
    }

    /// How many descriptors are open: sockets, selectors, wakers and reserves. The ends that tests hold don't count.
    #[must_use]
    pub fn open_descriptors(&self) -> usize {
        self.shared.lock().open_descriptors()
    }

    pub(super) fn open<T>(act: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<(Arc<Shared>, T), Errno> {
        let world = Self::current();
        let opened = world.shared.call(act)?;
        Ok((world.shared, opened))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the lock: a debug print must not add a step to a model.
        f.debug_struct("World").finish_non_exhaustive()
    }
}
