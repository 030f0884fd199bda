//! Listeners, who knocks at them, and who comes in.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

use gaio::sim::Fault;
use gaio::{Conn, DelegateErrorKind, Listener, ListenerId};

use crate::floor::Floor;
use crate::foreign::Who;
use crate::model::{End, Kind, Line, Ticket};

#[derive(Debug)]
pub(crate) struct Door {
    /// `None` once it was dropped.
    pub(crate) handle: Option<Listener<Ticket>>,
    id: ListenerId,
    pub(crate) at: At,
    pub(crate) ended: bool,
    /// Somebody has knocked at a path whom the script cannot tell from others.
    pub(crate) blurred: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum At {
    Addr(SocketAddr),
    Path(PathBuf),
}

impl Floor {
    pub(crate) fn listen(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let (socket, at) = if self.dice.roll(3) == 0 {
            let path = PathBuf::from(format!("/door-{}", self.doors.len()));
            // One that was refused may have had it before.
            self.world.unlink(&path);
            (self.world.unix_listener(&path).expect("a path of its own"), At::Path(path))
        } else {
            let (socket, addr) = self.world.listener();
            (socket, At::Addr(addr))
        };
        let submitter = self.submitter().clone();
        match who.run_whole(move || submitter.listen(socket)) {
            Ok(handle) => {
                self.handed_in(who, None);
                let id = handle.id();
                self.doors.push(Door { handle: Some(handle), id, at, ended: false, blurred: false });
            }
            Err(error) => assert!(self.shut_down && matches!(error.kind, DelegateErrorKind::Closed)),
        }
    }

    /// Somebody connects to a listener.
    pub(crate) fn knock(&mut self, door: usize) {
        let (peer, kind) = match &self.doors[door].at {
            At::Addr(addr) => (self.world.connect(*addr), Kind::Tcp),
            At::Path(path) => (self.world.connect_unix(path), Kind::Unix),
        };
        let Ok(peer) = peer else { return };
        let mut line = Line::new(self.lines.len(), kind, peer);
        (line.listener, line.accepted) = (Some(door), false);
        self.lines.push(line);
    }

    pub(crate) fn on_accepted(&mut self, conn: Conn<Ticket>, peer: Option<SocketAddr>, listener: ListenerId) {
        let door = self.doors.iter().position(|door| door.id == listener).expect("a listener of ours");
        assert!(!self.doors[door].ended, "a connection behind the end of its listener");
        let found = match (&self.doors[door].at, peer) {
            (At::Addr(_), Some(peer)) => {
                let from = |line: &Line| line.peer.as_ref().is_some_and(|own| own.local_addr() == Some(peer));
                // Its peer may be gone by now.
                self.lines.iter().position(from)
            }
            (At::Path(_), None) => self.next_in_line(door),
            other => panic!("an address of what has none, or none of what has one: {other:?}"),
        };
        let Some(found) = found else { return };
        let line = &mut self.lines[found];
        assert!(line.listener == Some(door) && !std::mem::replace(&mut line.accepted, true), "accepted twice");
        if !self.calm {
            line.handles.push(conn);
        }
    }

    /// Who comes through a path has no name. But they come in the order in which they knocked, and who was turned away has
    /// seen the end.
    fn next_in_line(&mut self, door: usize) -> Option<usize> {
        self.doors[door].blurred |= self.happened(&[Fault::DeafPeer, Fault::NotRegistered]) || self.shut_down;
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.listener != Some(door) || line.accepted || line.end_seen.is_some() {
                continue;
            }
            let answer = line.peer.as_ref().map(|peer| peer.recv(&mut [0]).map_err(|error: io::Error| error.kind()));
            match answer {
                _ if self.doors[door].blurred => break,
                Some(Err(ErrorKind::WouldBlock)) => return Some(index),
                Some(Ok(0)) => line.end_seen = Some(End::Clean),
                Some(Ok(_)) => panic!("line {index}: bytes of nobody's"),
                Some(Err(_)) => line.end_seen = Some(End::Reset),
                None => self.doors[door].blurred = true,
            }
        }
        assert!(self.doors[door].blurred, "nobody has knocked");
        None
    }

    pub(crate) fn on_listener_ended(&mut self, listener: ListenerId, error: Option<&io::Error>) {
        let refusals = self.happened(&[Fault::NotRegistered]);
        let door = self.doors.iter_mut().find(|door| door.id == listener).expect("a listener of ours");
        assert!(!std::mem::replace(&mut door.ended, true), "a listener ends once");
        let right = if error.is_some() { refusals } else { self.shut_down || door.handle.is_none() };
        assert!(right, "a listener ended: {error:?}");
    }
}
