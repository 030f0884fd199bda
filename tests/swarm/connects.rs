//! Connects: to a remote of the script's, to a listener of the loop's own, to nobody, to several of these at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use gaio::sim::{Fault, Remote};
use gaio::{Conn, ConnectError, ConnectId, Destination, OpError, SubmitErrorKind};

use crate::doors::{At, Door};
use crate::floor::Floor;
use crate::foreign::Who;
use crate::model::{Kind, Line, Ticket};

/// A connect that was accepted, until it completes.
#[derive(Debug)]
pub(crate) struct Connect {
    /// None of a path.
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) deadline: Option<Duration>,
    name: Option<ConnectId>,
    cancelled: bool,
}

impl Floor {
    fn some_addr(&mut self) -> SocketAddr {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        match self.dice.roll(6) {
            0 => nobody,
            1 => match self.some_door() {
                Some(At::Addr(addr)) => addr,
                _ => nobody,
            },
            _ => {
                if self.remotes.len() < 2 {
                    self.remotes.push(self.world.remote());
                }
                let remote = self.dice.roll(self.remotes.len());
                self.remotes[remote].addr()
            }
        }
    }

    fn some_door(&mut self) -> Option<At> {
        let doors = self.doors.len();
        (doors > 0).then(|| self.doors[self.dice.roll(doors)].at.clone())
    }

    /// To several addresses, or to a path.
    fn destination(&mut self) -> (Destination, Vec<SocketAddr>) {
        if self.dice.roll(6) == 0 {
            let Some(At::Path(path)) = self.some_door() else { return (Path::new("/nobody").into(), Vec::new()) };
            let is_it = |door: &&mut Door| matches!(&door.at, At::Path(own) if *own == path);
            self.doors.iter_mut().filter(is_it).for_each(|door| door.blurred = true);
            return (path.into(), Vec::new());
        }
        let addrs: Vec<_> = (0..1 + self.dice.roll(3)).map(|_| self.some_addr()).collect();
        (addrs.clone().into(), addrs)
    }

    pub(crate) fn connect(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let (to, addrs) = self.destination();
        let within = (self.dice.roll(2) == 0).then(|| Duration::from_micros(self.dice.roll(4_000_000) as u64));
        let stagger = (self.dice.roll(2) == 0).then(|| Duration::from_micros(self.dice.roll(500_000) as u64));
        let named = self.dice.roll(3) == 0 && !matches!(who, Who::Stalls(_));
        let (ticket, submitter) = (self.ticket(), self.submitter().clone());
        let id = ticket.id;
        let job = move || {
            let mut connect = submitter.connect(to);
            if let Some(time) = within {
                connect = connect.within(time);
            }
            if let Some(time) = stagger {
                connect = connect.stagger(time);
            }
            let mut name = None;
            if named {
                let (with_name, given) = connect.named();
                (connect, name) = (with_name, Some(given));
            }
            connect.submit_with(ticket).map(|()| name)
        };
        let answer = who.run(job);
        self.say(|| format!("{id} connects to {addrs:?}"));
        match self.accepted(who, None, answer) {
            Ok(name) => {
                let name = name.flatten();
                let deadline = within.map(|time| self.world.now() + time);
                self.connects.insert(id, Connect { addrs, deadline, name, cancelled: false });
            }
            Err(error) => {
                let sessions = self.submitter().counters().sessions as usize;
                let crowded = error.kind == SubmitErrorKind::TooMany && sessions >= self.limits.sessions;
                assert!(crowded || self.may_refuse(error.kind), "a connect is refused: {error:?}");
            }
        }
    }

    pub(crate) fn cancel_connect(&mut self, who: Who<'_>) {
        let Some(who) = self.with_room(who) else { return };
        let named: Vec<usize> = self.connects.iter().filter(|(_, c)| c.name.is_some()).map(|(id, _)| *id).collect();
        let Some(id) = self.pick(&named) else { return };
        let Some(name) = self.connects[&id].name else { return };
        let submitter = self.submitter().clone();
        if who.run_whole(move || submitter.cancel_connect(name)).is_ok() {
            self.connects.get_mut(&id).expect("it was in the list").cancelled = true;
            self.handed_in(who, None);
        }
    }

    /// Answers who waits at a remote, in some way.
    pub(crate) fn answer(&mut self) -> bool {
        let Some(attempt) = self.remotes.iter().find_map(Remote::attempt) else { return false };
        match self.dice.roll(8) {
            0 if !self.calm => attempt.refuse(),
            1 if !self.calm => attempt.fail(std::io::ErrorKind::TimedOut),
            2 if !self.calm => drop(attempt),
            _ => {
                let mut line = Line::new(self.lines.len(), Kind::Tcp, attempt.accept());
                line.accepted = false;
                self.lines.push(line);
            }
        }
        true
    }

    pub(crate) fn on_connected(&mut self, context: &Ticket, result: Result<Conn<Ticket>, ConnectError>) {
        let connect = self.connects.remove(&context.id).expect("a connect completes once");
        let conn = match result {
            Ok(conn) => conn,
            Err(ConnectError { error, failed, .. }) => {
                let right = match error {
                    OpError::Os(_) => failed.len() == connect.addrs.len(),
                    OpError::TimedOut => connect.deadline.is_some_and(|deadline| deadline <= self.world.now()),
                    OpError::Cancelled => connect.cancelled,
                    OpError::Aborted => self.shut_down,
                    _ => false,
                };
                assert!(right, "{connect:?} failed as {error:?}, after {failed:?}");
                return;
            }
        };
        let Some(peer) = conn.peer_addr() else {
            return assert!(connect.addrs.is_empty(), "a TCP connection has an address");
        };
        assert!(connect.addrs.contains(&peer), "somebody else was connected to");
        let ours = |line: &&mut Line| line.peer.as_ref().is_some_and(|peer| peer.peer_addr() == conn.local_addr());
        // It leads to a listener of our own, or the peer is gone.
        let Some(line) = self.lines.iter_mut().find(ours) else { return };
        assert!(!std::mem::replace(&mut line.accepted, true), "connected twice");
        if !self.calm {
            line.handles.push(conn);
        }
    }

    /// Connects that may wait for ever, and how many sockets they may have.
    pub(crate) fn check_connects(&self) -> usize {
        for connect in self.connects.values() {
            let never = self.happened(&[Fault::ConnectNever]) || !self.remotes.is_empty();
            assert!(connect.deadline.is_none() && never, "a connect never ends: {connect:?}");
        }
        self.connects.values().map(|connect| connect.addrs.len().max(1)).sum()
    }
}
