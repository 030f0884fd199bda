//! Who is where: listeners by address or path, remotes in a test's hand, and those who connect to them.
//!
//! ```text
//!   connect ──► a listener with room ──► its backlog ──► accepted         at once, or by an edge
//!           ──► a full one ──► waits for an accept (Unix: EAGAIN)         by an edge, later
//!           ──► a remote ──► waits for the test ──► answered, refused     by an edge, later, or never
//!           ──► nobody                                                    refused by an edge (Unix: at once)
//! ```

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::super::{Connecting, Errno, ListenOptions, StreamOptions};
use super::connection::{Connection, Side};
use super::faults::Fault;
use super::permit::Late;
use super::state::{ConnectionId, Descriptor, EndId, Object, State};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Ip(SocketAddr),
    Path(PathBuf),
    /// A path that was removed: nobody finds it any more.
    Unlinked,
}

impl Name {
    pub(super) const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(addr) => Some(*addr),
            Self::Path(_) | Self::Unlinked => None,
        }
    }
}

pub(super) struct Listener {
    pub(super) name: Name,
    options: ListenOptions,
    /// Connections that stand and are not accepted. The far end is the one that has connected.
    pub(super) backlog: VecDeque<ConnectionId>,
    /// Those for which it has no room yet.
    waiting: VecDeque<ConnectionId>,
}

impl Listener {
    /// As Linux counts: one more than it was told.
    fn has_room(&self) -> bool {
        self.backlog.len() <= self.options.backlog as usize
    }
}

/// An address whose answers a test gives. The near end is the one that has connected.
struct Remote {
    addr: SocketAddr,
    attempts: VecDeque<ConnectionId>,
}

/// What is known of addresses beside the listeners themselves.
pub(super) struct Addresses {
    last_port: u16,
    /// Paths that exist: they outlive their listeners.
    files: Vec<PathBuf>,
    remotes: Vec<Remote>,
    /// Connects so far: who shares a port takes them in turn.
    connects: usize,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { last_port: 40_000, files: Vec::new(), remotes: Vec::new(), connects: 0 }
    }
}

impl Addresses {
    /// An address of 127.0.0.1 that nobody has.
    pub(super) fn free(&mut self) -> SocketAddr {
        self.last_port += 1;
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.last_port))
    }

    fn remote(&mut self, addr: SocketAddr) -> Option<&mut Remote> {
        self.remotes.iter_mut().find(|remote| remote.addr == addr)
    }
}

/// Listening.
impl State {
    pub(super) fn listen_tcp(&mut self, mut addr: SocketAddr, options: &ListenOptions) -> Result<Descriptor, Errno> {
        if addr.port() == 0 {
            addr.set_port(self.addresses.free().port());
        } else if self.addresses.remote(addr).is_some() || !self.may_share(addr, options) {
            return Err(Errno::ADDRINUSE);
        }
        self.open_listener(Name::Ip(addr), options)
    }

    pub(super) fn listen_unix(&mut self, path: &Path, options: &ListenOptions) -> Result<Descriptor, Errno> {
        if self.addresses.files.iter().any(|file| file == path) {
            return Err(Errno::ADDRINUSE);
        }
        let descriptor = self.open_listener(Name::Path(path.into()), options)?;
        self.addresses.files.push(path.into());
        Ok(descriptor)
    }

    /// Removes a path, and says whether it was there. Its listener lives on.
    pub(super) fn unlink(&mut self, path: &Path) -> bool {
        let Some(index) = self.addresses.files.iter().position(|file| file == path) else { return false };
        let name = Name::Path(self.addresses.files.swap_remove(index));
        if let Some(descriptor) = self.listener_at(&name) {
            self.listener(descriptor).name = Name::Unlinked;
        }
        true
    }

    fn open_listener(&mut self, name: Name, options: &ListenOptions) -> Result<Descriptor, Errno> {
        let (backlog, waiting) = (VecDeque::new(), VecDeque::new());
        self.open(Object::Listener(Listener { name, options: *options, backlog, waiting }))
    }

    fn may_share(&self, addr: SocketAddr, options: &ListenOptions) -> bool {
        let mut there = self.listeners().filter(|(_, listener)| listener.name == Name::Ip(addr));
        there.all(|(_, listener)| listener.options.reuse_port && options.reuse_port)
    }

    /// The listener that is to have the next connection. Whoever shares an address has its turn.
    fn listener_at(&mut self, name: &Name) -> Option<Descriptor> {
        self.addresses.connects += 1;
        let there = self.listeners().filter(|(_, listener)| listener.name == *name);
        let there: Vec<Descriptor> = there.map(|(descriptor, _)| descriptor).collect();
        there.get(self.addresses.connects % there.len().max(1)).copied()
    }

    fn listener(&mut self, descriptor: Descriptor) -> &mut Listener {
        match self.object(descriptor) {
            Object::Listener(listener) => listener,
            _ => panic!("descriptor {descriptor} is no listener"),
        }
    }

    pub(super) fn accept(&mut self, descriptor: Descriptor) -> Result<(Descriptor, Option<SocketAddr>), Errno> {
        // As in Linux: first a descriptor, then a look at the backlog. So EMFILE comes with an empty one, too.
        self.has_descriptor()?;
        let Object::Listener(listener) = self.object(descriptor) else { return Err(Errno::INVAL) };
        let connection = listener.backlog.pop_front().ok_or(Errno::AGAIN)?;
        let (tcp, streams) = (listener.name.ip().is_some(), listener.options.streams);
        self.answer_waiting(descriptor);
        let near = connection.end(Side::Near);
        let accepted = self.open_end(near)?;
        let peer = self.on_end(near, |connection, side| {
            if tcp {
                connection.end(side).options = streams;
            }
            connection.end(side.other()).addr
        });
        Ok((accepted, peer))
    }

    /// Answers those who wait, as far as there is room.
    pub(super) fn answer_waiting(&mut self, descriptor: Descriptor) {
        while self.listener(descriptor).has_room() {
            let Some(next) = self.listener(descriptor).waiting.pop_front() else { return };
            self.enter_backlog(descriptor, next);
            self.on_end(next.end(Side::Far), Connection::establish);
        }
    }

    pub(super) fn has_backlog(&mut self, descriptor: Descriptor) -> bool {
        matches!(self.object(descriptor), Object::Listener(listener) if !listener.backlog.is_empty())
    }

    /// Resets the first in the backlog.
    pub(super) fn drop_first(&mut self, descriptor: Descriptor) {
        if let Some(first) = self.listener(descriptor).backlog.pop_front() {
            self.end_with(first.end(Side::Near), Connection::abandon);
            self.answer_waiting(descriptor);
        }
    }

    /// Whoever connected and was never accepted is reset, and whoever still waited is refused.
    pub(super) fn close_listener(&mut self, listener: Listener) {
        for connection in listener.backlog {
            self.end_with(connection.end(Side::Near), Connection::abandon);
        }
        for connection in listener.waiting {
            self.refuse(connection.end(Side::Far), Errno::CONNREFUSED);
        }
    }

    /// Refuses the end that has connected.
    pub(super) fn refuse(&mut self, end: EndId, errno: Errno) {
        self.end_with(end, |connection, side| connection.refuse(side, errno));
    }
}

/// Connecting.
impl State {
    /// A peer that connects: at once or not at all.
    pub(super) fn peer_connects(&mut self, name: &Name) -> Result<EndId, Errno> {
        let listener = self.listener_at(name).ok_or(Errno::CONNREFUSED)?;
        if !self.listener(listener).has_room() {
            return Err(Errno::AGAIN);
        }
        let connection = Connection::new(self.config.buffer, name.ip().is_none());
        let far = self.begin(connection, name.ip(), Side::Far);
        self.enter_backlog(listener, far.connection());
        Ok(far)
    }

    /// The code under test connects.
    pub(super) fn connect_tcp(
        &mut self,
        addr: SocketAddr,
        options: &StreamOptions,
    ) -> Result<(Descriptor, Connecting), Errno> {
        self.has_descriptor()?;
        let to_remote = self.addresses.remote(addr).is_some();
        let ours = if to_remote { Side::Near } else { Side::Far };
        let connection = Connection::asked_for(self.config.buffer, ours);
        let end = self.begin(connection, Some(addr), ours);
        let descriptor = self.open_end(end)?;
        self.on_end(end, |connection, side| connection.end(side).options = *options);
        let listener = if to_remote { None } else { self.listener_at(&Name::Ip(addr)) };
        if (listener.is_none() && !to_remote) || self.befalls(Fault::ConnectRefused) {
            self.refuse(end, Errno::CONNREFUSED);
            return Ok((descriptor, Connecting::Pending));
        }
        if self.befalls(Fault::ConnectNever) {
            self.end_with(end.other(), |connection, side| connection.end(side).closed = true);
            return Ok((descriptor, Connecting::Pending));
        }
        let Some(listener) = listener else {
            if let Some(remote) = self.addresses.remote(addr) {
                remote.attempts.push_back(end.connection());
            }
            // A test may wait for it.
            self.stir();
            return Ok((descriptor, Connecting::Pending));
        };
        if !self.listener(listener).has_room() || self.puts_off(Late::Answers(listener)) {
            self.listener(listener).waiting.push_back(end.connection());
            return Ok((descriptor, Connecting::Pending));
        }
        self.enter_backlog(listener, end.connection());
        self.on_end(end, Connection::establish);
        let done = self.config.connect_at_once;
        Ok((descriptor, if done { Connecting::Done } else { Connecting::Pending }))
    }

    pub(super) fn connect_unix(&mut self, path: &Path, options: &StreamOptions) -> Result<Descriptor, Errno> {
        self.has_descriptor()?;
        if !self.addresses.files.iter().any(|file| file == path) {
            return Err(Errno::NOENT);
        }
        if self.befalls(Fault::ConnectRefused) {
            return Err(Errno::CONNREFUSED);
        }
        let end = self.peer_connects(&Name::Path(path.into()))?;
        let descriptor = self.open_end(end)?;
        self.on_end(end, |connection, side| connection.end(side).options = *options);
        Ok(descriptor)
    }

    /// A new connection, asked for by `side`, to whoever is at `to`.
    fn begin(&mut self, mut connection: Connection, to: Option<SocketAddr>, side: Side) -> EndId {
        connection.end(side.other()).addr = to;
        connection.end(side).addr = to.map(|_| self.addresses.free());
        self.connect(connection).end(side)
    }

    fn enter_backlog(&mut self, listener: Descriptor, connection: ConnectionId) {
        self.listener(listener).backlog.push_back(connection);
        self.raise(listener);
    }
}

/// Remotes.
impl State {
    pub(super) fn open_remote(&mut self) -> SocketAddr {
        let addr = self.addresses.free();
        self.addresses.remotes.push(Remote { addr, attempts: VecDeque::new() });
        addr
    }

    /// The next who wants to connect to `addr`: the end that is asked for.
    pub(super) fn next_attempt(&mut self, addr: SocketAddr) -> Option<EndId> {
        Some(self.addresses.remote(addr)?.attempts.pop_front()?.end(Side::Far))
    }

    /// Nobody is there any more: whoever waits is refused.
    pub(super) fn close_remote(&mut self, addr: SocketAddr) {
        while let Some(far) = self.next_attempt(addr) {
            self.refuse(far.other(), Errno::CONNREFUSED);
        }
        self.addresses.remotes.retain(|remote| remote.addr != addr);
    }
}
