//! The state of a world: its descriptor table, registrations and clock. What a kernel is, without the hardware.

use std::collections::VecDeque;

use super::super::{Bits, Errno, MAX_EVENTS, Readiness};
use super::addresses::{Addresses, Listener};
use super::config::Config;
use super::connection::{Connection, Side};
use super::faults::Fault;
use super::permit::{Calls, Late, Verb};

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

impl EndId {
    pub(super) const fn connection(self) -> ConnectionId {
        self.connection
    }

    pub(super) const fn other(self) -> Self {
        Self { side: self.side.other(), ..self }
    }
}

pub(super) enum Object {
    /// The descriptors with an edge that is not fetched yet, oldest first.
    Selector(VecDeque<Descriptor>),
    /// A pipe that holds one byte: the strictest waker there could be.
    Waker {
        raised: bool,
    },
    /// One end of a connection, of a stream or of datagrams.
    End(EndId),
    Listener(Listener),
    Reserve,
}

struct Entry {
    object: Object,
    registration: Option<Registration>,
    /// Kinds of attempts of which the next was held back once and may pass (`pending_first`).
    pended: [bool; 3],
}

struct Registration {
    selector: Descriptor,
    token: u64,
    /// Already in the selector's queue: edges until the fetch are one event.
    queued: bool,
}

pub(super) struct State {
    pub(super) clock: u64,
    pub(super) config: Config,
    table: Vec<Option<Entry>>,
    connections: Vec<Option<Connection>>,
    pub(super) addresses: Addresses,
    /// Something has changed that somebody may wait for.
    stirred: bool,
    /// What is on its way.
    pub(super) late: VecDeque<Late>,
    /// Faults that have happened, by kind.
    pub(super) tally: [u64; Fault::ALL.len()],
    pub(super) calls: Calls,
    /// Waits in a row that had nothing to tell, while no call moved anything and the time stood still.
    pub(super) waits_in_vain: u32,
    pub(super) traced: bool,
}

impl State {
    pub(super) fn new(config: Config) -> Self {
        Self {
            clock: 0,
            config,
            table: Vec::new(),
            connections: Vec::new(),
            addresses: Addresses::default(),
            stirred: false,
            late: VecDeque::new(),
            tally: [0; Fault::ALL.len()],
            calls: Calls::default(),
            waits_in_vain: 0,
            traced: std::env::var_os("GAIO_SIM_TRACE").is_some(),
        }
    }

    pub(super) fn take_stir(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }

    /// Something has changed that somebody may wait for.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    pub(super) fn advance_to(&mut self, time: u64) {
        if time > self.clock {
            self.clock = time;
            self.waits_in_vain = 0;
            self.stirred = true;
        }
    }

    pub(super) fn open_descriptors(&self) -> usize {
        self.table.iter().flatten().count()
    }

    /// Whether there is one left.
    pub(super) fn has_descriptor(&self) -> Result<(), Errno> {
        if self.open_descriptors() < self.config.descriptors { Ok(()) } else { Err(Errno::MFILE) }
    }

    pub(super) fn open(&mut self, object: Object) -> Result<Descriptor, Errno> {
        self.has_descriptor()?;
        let entry = Entry { object, registration: None, pended: [false; 3] };
        let numbers = self.table.len();
        let descriptor = occupy(&mut self.table, entry);
        if descriptor < numbers {
            self.count(Fault::NumberReused);
        }
        Ok(descriptor)
    }

    pub(super) fn close(&mut self, descriptor: Descriptor) {
        self.forget(descriptor);
        let Some(entry) = self.table[descriptor].take() else { return };
        self.late.retain(|late| *late != Late::Answers(descriptor));
        self.trace("Close", Some(descriptor), ());
        match entry.object {
            Object::End(end) => self.close_end(end),
            Object::Listener(listener) => self.close_listener(listener),
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

    /// Was the last attempt of this kind held back (`pending_first`)?
    pub(super) fn pended(&mut self, descriptor: Descriptor, index: usize) -> &mut bool {
        &mut self.entry(descriptor).pended[index]
    }
}

/// Registrations and edges.
impl State {
    pub(super) fn register(&mut self, selector: Descriptor, descriptor: Descriptor, token: u64) -> Result<(), Errno> {
        if self.entry(descriptor).registration.is_some() {
            return Err(Errno::EXIST);
        }
        if !matches!(self.object(descriptor), Object::Waker { .. }) {
            self.permit(Verb::Register, Some(descriptor), 0)?;
        }
        self.entry(descriptor).registration = Some(Registration { selector, token, queued: false });
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
        self.late.retain(|late| *late != Late::Edge(descriptor));
        if let Object::Selector(queue) = self.object(registration.selector) {
            queue.retain(|queued| *queued != descriptor);
        }
    }

    /// An edge. It may be late, but a waker's.
    pub(super) fn raise(&mut self, descriptor: Descriptor) {
        let Some(registration) = &self.entry(descriptor).registration else { return };
        let may_be_late = !registration.queued && !matches!(self.object(descriptor), Object::Waker { .. });
        if !(may_be_late && self.puts_off(Late::Edge(descriptor))) {
            self.raise_now(descriptor);
        }
    }

    /// An edge: queues an event, unless one is queued.
    pub(super) fn raise_now(&mut self, descriptor: Descriptor) {
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

    /// Is there an edge that is not fetched, or one on its way? Nothing may be left of it.
    pub(super) fn has_news(&mut self, selector: Descriptor) -> bool {
        let late = !self.late.is_empty();
        matches!(self.object(selector), Object::Selector(queue) if late || !queue.is_empty())
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
                self.waits_in_vain = 0;
                self.note_fin(descriptor);
            }
        }
    }

    /// Counts an event that tells of bytes and of the end behind them.
    fn note_fin(&mut self, descriptor: Descriptor) {
        if self.on_connection(descriptor, Connection::has_fin_behind_data) == Ok(true) {
            self.count(Fault::FinWithData);
        }
    }

    pub(super) fn mask(&mut self, descriptor: Descriptor) -> Bits {
        let readable = |is: bool| if is { Bits::READABLE } else { Bits::NONE };
        match self.object(descriptor) {
            Object::Waker { raised } => readable(*raised),
            Object::Listener(listener) => readable(!listener.backlog.is_empty()),
            Object::End(end) => {
                let EndId { connection, side } = *end;
                self.connections[connection.0].as_ref().map_or(Bits::NONE, |connection| connection.mask(side))
            }
            Object::Selector(_) | Object::Reserve => Bits::NONE,
        }
    }
}

/// Connections.
impl State {
    pub(super) fn connect(&mut self, connection: Connection) -> ConnectionId {
        ConnectionId(occupy(&mut self.connections, connection))
    }

    /// Gives one end to a new descriptor.
    pub(super) fn open_end(&mut self, end: EndId) -> Result<Descriptor, Errno> {
        let descriptor = self.open(Object::End(end))?;
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

    /// Does something to the end behind a descriptor; behind anything else it is ENOTCONN.
    pub(super) fn on_connection<R>(
        &mut self,
        descriptor: Descriptor,
        act: impl FnOnce(&mut Connection, Side) -> R,
    ) -> Result<R, Errno> {
        match self.object(descriptor) {
            Object::End(end) => {
                let end = *end;
                Ok(self.on_end(end, act))
            }
            _ => Err(Errno::NOTCONN),
        }
    }

    pub(super) fn close_end(&mut self, end: EndId) {
        self.end_with(end, Connection::close);
    }

    /// Does to an end what may be the last of its connection.
    pub(super) fn end_with(&mut self, end: EndId, act: impl FnOnce(&mut Connection, Side)) {
        let over = self.on_end(end, |connection, side| {
            act(connection, side);
            connection.is_over()
        });
        if over {
            self.connections[end.connection.0] = None;
        }
    }

    /// The open listeners.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (Descriptor, &Listener)> {
        self.table.iter().enumerate().filter_map(|(descriptor, entry)| match entry.as_ref()?.object {
            Object::Listener(ref listener) => Some((descriptor, listener)),
            _ => None,
        })
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
