//! What the proactor does with listeners: connections become handles, and every listener has one end.

use std::net::SocketAddr;

use crate::event_loop::counters::count;
use crate::event_loop::listener::{Listening, Phase};
use crate::event_loop::session::Session;
use crate::sync::Ordering;
use crate::sys::{self, Errno, Socket, StreamOptions};
use crate::watcher::Conn;
use crate::watcher::batch::Item;
use crate::watcher::link::Addresses;
use crate::watcher::outcome::ListenerId;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::Queues;
use crate::watcher::shared::ListenerFlag;

/// What a listener is known by.
#[derive(Debug)]
pub(crate) struct ListenerTag {
    id: ListenerId,
    /// Set when the user's handle is dropped.
    flag: ListenerFlag,
    /// The local address of what it accepts, unless it listens on all: then each connection is asked.
    address: Option<SocketAddr>,
    /// A positive SO_LINGER in seconds, which what it accepts inherits. 0: none.
    linger: u16,
    /// Of a Unix listener: the sizes of the buffers, which what it accepts does not inherit.
    buffers: Option<Box<StreamOptions>>,
}

impl ListenerTag {
    pub(crate) const fn new(
        id: ListenerId,
        flag: ListenerFlag,
        linger: u16,
        buffers: Option<Box<StreamOptions>>,
    ) -> Self {
        Self { id, flag, address: None, linger, buffers }
    }
}

impl<C> Proactor<C> {
    pub(crate) fn add_listener(&mut self, core: &mut Core, socket: Socket, unix: bool, mut tag: ListenerTag) {
        tag.address = sys::local_addr(&socket).filter(|address| !address.ip().is_unspecified());
        let listening = Listening { socket, phase: Phase::Ready, unix, tag };
        if let Err((listening, errno)) = core.add_listener(listening) {
            self.listener_ended(&listening.tag, Some(errno));
        }
    }

    fn listener_ended(&mut self, tag: &ListenerTag, errno: Option<Errno>) {
        let error = errno.map(std::io::Error::from);
        self.outbox.filling().push(Item::ListenerEnded { listener: tag.id, error });
    }

    /// Closes a listener, and says so, once.
    #[cold]
    pub(crate) fn end_listener(&mut self, core: &mut Core, index: usize, errno: Option<Errno>) {
        if let Some(tag) = core.remove_listener(index) {
            self.listener_ended(&tag, errno);
        }
    }

    /// Ends the listeners whose handle was dropped.
    pub(crate) fn end_dropped_listeners(&mut self, core: &mut Core) {
        for index in 0..core.listeners.len() {
            // Acquire pairs with the handle's drop.
            let dropped = core.listeners[index].as_ref().is_some_and(|l| l.tag.flag.load(Ordering::Acquire));
            if dropped {
                self.end_listener(core, index, None);
            }
        }
    }

    /// Makes an accepted connection a session and an event.
    pub(crate) fn take_in(&mut self, core: &mut Core, index: usize, socket: Socket, peer: Option<SocketAddr>) {
        let Some(Some(listening)) = core.listeners.get(index) else { return };
        let (listener, linger, unix) = (listening.tag.id, listening.tag.linger, listening.unix);
        if linger > 0 && sys::linger_off(&socket).is_err() {
            // The peer has gone already; but not even its close may block.
            sys::reset_on_close(&socket);
        }
        if let Some(buffers) = &listening.tag.buffers {
            // A size that the system does not take leaves the connection as it would be without.
            let _ = sys::apply_buffers(&socket, buffers);
        }
        if !self.shared.admit() {
            return count(&self.shared.counters.refused);
        }
        let address = listening.tag.address.or_else(|| peer.and_then(|_| sys::local_addr(&socket)));
        let conn = Conn::create(self.shared.clone(), Addresses::new(peer, address));
        self.register(core, &conn, Session::new(socket, unix, Queues::new(linger)));
        self.outbox.filling().push(Item::Accepted { conn, listener });
    }
}
