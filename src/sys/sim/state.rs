//! The state of a world: its descriptor table, registrations and clock. What a kernel is, without the hardware.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use super::super::{Bits, Errno, MAX_EVENTS, Readiness};
use super::connection::{Connection, Side};
use super::world::Config;

/// The number of a descriptor: an index into the table, and the lowest that is free.
pub(super) type Descriptor = usize;

#[derive(Clone, Copy)]
pub(super) struct ConnectionId(usize);

impl ConnectionId {
    pub(super) const fn end(self, side: Side) -> EndId {
        EndId { connection: self, side }
    }
}

/// One end of one connection. It stays valid until both ends are closed.
#[derive(Clone, Copy)]
pub(super) struct EndId {
    connection: ConnectionId,
    side: Side,
}

pub(super) enum Object {
    /// The descriptors with an edge that is not fetched yet, oldest first.
    Selector(VecDeque<Descriptor>),
    /// A pipe that holds one byte: the strictest waker there could be.
    Waker {
        raised: bool,
    },
    Stream(EndId),
    Listener {
        addr: SocketAddr,
        backlog: VecDeque<ConnectionId>,
        limit: usize,
    },
    Reserve,
}

struct Entry {
    object: Object,
    registration: Option<Registration>,
    /// Directions whose next attempt was held back once and may pass (`pending_first`).
    pended: [bool; 2],
}

struct Registration {
    selector: Descriptor,
    token: u64,
    /// Already in the selector's queue: edges until the fetch are one event.
    queued: bool,
}

/// A direction, as an index.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    In,
    Out,
}

pub(super) struct State {
    pub(super) clock: u64,
    pub(super) config: Config,
    table: Vec<Option<Entry>>,
    connections: Vec<Option<Connection>>,
    next_port: u16,
    /// Something has changed that somebody may wait for.
    stirred: bool,
}

impl State {
    pub(super) fn new(config: Config) -> Self {
        Self { clock: 0, config, table: Vec::new(), connections: Vec::new(), next_port: 40_000, stirred: false }
    }

    pub(super) fn take_stir(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    pub(super) fn advance_to(&mut self, time: u64) {
        self.clock = self.clock.max(time);
        self.stirred = true;
    }

    pub(super) fn open_descriptors(&self) -> usize {
        self.table.iter().flatten().count()
    }

    pub(super) fn open(&mut self, object: Object) -> Result<Descriptor, Errno> {
        if self.open_descriptors() >= self.config.descriptors {
            return Err(Errno::MFILE);
        }
        let entry = Entry { object, registration: None, pended: [false; 2] };
        Ok(occupy(&mut self.table, entry))
    }

    pub(super) fn close(&mut self, descriptor: Descriptor) {
        self.forget(descriptor);
        let Some(entry) = self.table[descriptor].take() else { return };
        match entry.object {
            Object::Stream(end) => self.close_end(end),
            Object::Listener { backlog, .. } => {
                // Whoever connected and was never accepted is reset.
                for connection in backlog {
                    let end = connection.end(Side::Near);
                    self.on_end(end, |connection, side| connection.end(side).linger = Some(std::time::Duration::ZERO));
                    self.close_end(end);
                }
            }
            Object::Selector(_) => {
                for entry in self.table.iter_mut().flatten() {
                    entry.registration.take_if(|registration| registration.selector == descriptor);
                }
            }
            Object::Waker { .. } | Object::Reserve => {}
        }
    }

    pub(super) fn object(&mut self, descriptor: Descriptor) -> &mut Object {
        &mut self.entry(descriptor).object
    }

    fn entry(&mut self, descriptor: Descriptor) -> &mut Entry {
        self.table[descriptor].as_mut().expect("an open descriptor: its handle is alive")
    }
}

/// Registrations and edges.
impl State {
    pub(super) fn register(&mut self, selector: Descriptor, descriptor: Descriptor, token: u64) -> Result<(), Errno> {
        let entry = self.entry(descriptor);
        if entry.registration.is_some() {
            return Err(Errno::EXIST);
        }
        entry.registration = Some(Registration { selector, token, queued: false });
        self.raise(descriptor);
        Ok(())
    }

    pub(super) fn deregister(&mut self, selector: Descriptor, descriptor: Descriptor) -> Result<(), Errno> {
        match &self.entry(descriptor).registration {
            Some(registration) if registration.selector == selector => {
                self.forget(descriptor);
                Ok(())
            }
            _ => Err(Errno::NOENT),
        }
    }

    /// Ends a registration, and takes back the event that is not fetched.
    fn forget(&mut self, descriptor: Descriptor) {
        let Some(registration) = self.entry(descriptor).registration.take() else { return };
        if let Object::Selector(queue) = self.object(registration.selector) {
            queue.retain(|queued| *queued != descriptor);
        }
    }

    /// An edge: queues an event, unless one is queued.
    pub(super) fn raise(&mut self, descriptor: Descriptor) {
        let Some(registration) = &mut self.entry(descriptor).registration else { return };
        if std::mem::replace(&mut registration.queued, true) {
            return;
        }
        let selector = registration.selector;
        if let Object::Selector(queue) = self.object(selector) {
            queue.push_back(descriptor);
        }
        self.stirred = true;
    }

    /// Hands out events. What holds is asked now; an edge of which nothing is left is no event.
    pub(super) fn fetch(&mut self, selector: Descriptor, out: &mut Vec<Readiness>) {
        while out.len() < MAX_EVENTS {
            let Object::Selector(queue) = self.object(selector) else { return };
            let Some(descriptor) = queue.pop_front() else { return };
            let bits = self.mask(descriptor);
            let Some(registration) = &mut self.entry(descriptor).registration else { continue };
            registration.queued = false;
            if !bits.is_empty() {
                out.push(Readiness { token: registration.token, bits });
            }
        }
    }

    fn mask(&mut self, descriptor: Descriptor) -> Bits {
        let readable = |is: bool| if is { Bits::READABLE } else { Bits::NONE };
        match self.object(descriptor) {
            Object::Waker { raised } => readable(*raised),
            Object::Listener { backlog, .. } => readable(!backlog.is_empty()),
            Object::Stream(end) => {
                let EndId { connection, side } = *end;
                self.connections[connection.0].as_ref().map_or(Bits::NONE, |connection| connection.mask(side))
            }
            Object::Selector(_) | Object::Reserve => Bits::NONE,
        }
    }

    /// Whether this attempt is to be answered EAGAIN although it could succeed. The edge follows at once.
    pub(super) fn holds_back(&mut self, descriptor: Descriptor, direction: Direction) -> bool {
        let (index, bit) = match direction {
            Direction::In => (0, Bits::READABLE),
            Direction::Out => (1, Bits::WRITABLE),
        };
        if !self.config.pending_first || !self.mask(descriptor).contains(bit) {
            return false;
        }
        let pended = &mut self.entry(descriptor).pended[index];
        *pended = !*pended;
        let holds_back = *pended;
        if holds_back {
            self.raise(descriptor);
        }
        holds_back
    }
}

/// Connections.
impl State {
    pub(super) fn connect(&mut self, connection: Connection) -> ConnectionId {
        ConnectionId(occupy(&mut self.connections, connection))
    }

    /// Gives one end to a new descriptor.
    pub(super) fn open_end(&mut self, end: EndId) -> Result<Descriptor, Errno> {
        let descriptor = self.open(Object::Stream(end))?;
        self.on_end(end, |connection, side| connection.end(side).holder = Some(descriptor));
        Ok(descriptor)
    }

    /// Does something to an end, and tells the holders for whom it was an edge.
    pub(super) fn on_end<R>(&mut self, end: EndId, act: impl FnOnce(&mut Connection, Side) -> R) -> R {
        let slot = end.connection.0;
        let connection = self.connections[slot].as_mut().expect("a connection lives as long as one of its ends");
        let answer = act(connection, end.side);
        for side in Side::BOTH {
            let connection = self.connections[slot].as_mut().expect("nothing here ends a connection");
            if connection.take_edge(side) {
                self.stirred = true;
                if let Some(holder) = connection.end(side).holder {
                    self.raise(holder);
                }
            }
        }
        answer
    }

    /// Does something to the end behind a descriptor; anything but a stream is ENOTCONN.
    pub(super) fn on_stream<R>(
        &mut self,
        descriptor: Descriptor,
        act: impl FnOnce(&mut Connection, Side) -> R,
    ) -> Result<R, Errno> {
        match self.object(descriptor) {
            Object::Stream(end) => {
                let end = *end;
                Ok(self.on_end(end, act))
            }
            _ => Err(Errno::NOTCONN),
        }
    }

    pub(super) fn close_end(&mut self, end: EndId) {
        let over = self.on_end(end, |connection, side| {
            connection.close(side);
            connection.is_over()
        });
        if over {
            self.connections[end.connection.0] = None;
        }
    }

    pub(super) fn listen(&mut self, addr: SocketAddr, limit: usize) -> Result<(Descriptor, SocketAddr), Errno> {
        let mut addr = addr;
        if addr.port() == 0 {
            addr.set_port(self.free_port());
        } else if self.listener_at(addr).is_some() {
            return Err(Errno::ADDRINUSE);
        }
        let descriptor = self.open(Object::Listener { addr, backlog: VecDeque::new(), limit })?;
        Ok((descriptor, addr))
    }

    pub(super) fn connect_to(&mut self, addr: SocketAddr) -> Result<EndId, Errno> {
        let listener = self.listener_at(addr).ok_or(Errno::CONNREFUSED)?;
        match self.object(listener) {
            Object::Listener { backlog, limit, .. } if backlog.len() < *limit => {}
            _ => return Err(Errno::AGAIN),
        }
        let mut connection = Connection::new(self.config.buffer, false);
        connection.end(Side::Near).addr = Some(addr);
        connection.end(Side::Far).addr = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, self.free_port())));
        let connection = self.connect(connection);
        if let Object::Listener { backlog, .. } = self.object(listener) {
            backlog.push_back(connection);
        }
        self.raise(listener);
        Ok(connection.end(Side::Far))
    }

    pub(super) fn accept(&mut self, listener: Descriptor) -> Result<(Descriptor, Option<SocketAddr>), Errno> {
        // As in Linux: first a descriptor, then a look at the backlog. So EMFILE comes with an empty one, too.
        if self.open_descriptors() >= self.config.descriptors {
            return Err(Errno::MFILE);
        }
        let Object::Listener { backlog, .. } = self.object(listener) else { return Err(Errno::INVAL) };
        let connection = backlog.pop_front().ok_or(Errno::AGAIN)?;
        let descriptor = self.open_end(connection.end(Side::Near))?;
        let peer = self.on_end(connection.end(Side::Far), |connection, side| connection.end(side).addr);
        Ok((descriptor, peer))
    }

    fn listener_at(&self, wanted: SocketAddr) -> Option<Descriptor> {
        self.table.iter().position(
            |entry| matches!(entry, Some(Entry { object: Object::Listener { addr, .. }, .. }) if *addr == wanted),
        )
    }

    fn free_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }
}

/// Puts `value` into the lowest free slot, as a kernel numbers its descriptors: reuse at once is what finds a handle
/// that outlived its connection.
fn occupy<T>(slots: &mut Vec<Option<T>>, value: T) -> usize {
    let free = slots.iter().position(Option::is_none);
    match free {
        Some(index) => {
            slots[index] = Some(value);
            index
        }
        None => {
            slots.push(Some(value));
            slots.len() - 1
        }
    }
}
