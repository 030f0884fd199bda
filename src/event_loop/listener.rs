//! Accepting: a listener on the loop, its credit, and what to do when descriptors run out.
//!
//! ```text
//!            edge                    EAGAIN
//!   Quiet ─────────► Ready ─────────────────────► Quiet
//!                      │ EMFILE, ENFILE: shed one (nobody there: Quiet), count, wait      back-off timer
//!                      ├──────────────────────────────────────────────────────► Waiting ────────────────► Ready
//!                      │ no credit, no place in the batch
//!                      └──► Ready, but not busy: the take that makes room wakes the loop
//! ```
//!
//! A listener dies of nothing that a peer or a shortage can cause. It never spins (an error costs budget, a shortage
//! costs a pause) and is never silent (every error is counted; a shed peer sees its connection closed).

use crate::event_loop::counters::count;
use crate::event_loop::timers::Timer;
use crate::event_loop::{Core, EventLoop, Face, LISTENER, WAKER};
use crate::sys::{self, Errno, Reserve, Socket};

/// How long accepting pauses after a shortage.
const BACK_OFF: u64 = 20_000_000;
/// Errors in a row after which accepting pauses: a persistent one must not become a spin.
const PATIENCE: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Quiet,
    Ready,
    Waiting,
}

/// One listener of the loop; `T` is what the face knows it by.
#[derive(Debug)]
pub(crate) struct Listening<T> {
    pub(crate) socket: Socket,
    pub(crate) phase: Phase,
    pub(crate) unix: bool,
    pub(crate) tag: T,
}

impl<T> Listening<T> {
    /// The backlog is empty: the next one makes an edge.
    const fn quiet(&mut self) -> Accept {
        self.phase = Phase::Quiet;
        Accept::Nothing
    }
}

/// What an attempt to accept came to.
#[derive(Debug)]
pub(crate) enum Accept {
    Connection(Socket, Option<std::net::SocketAddr>),
    /// Nothing (more) for now.
    Nothing,
    /// This one failed; go on with the next.
    Skip,
    /// The listener itself is at its end.
    Dead(Errno),
}

#[derive(Debug)]
pub(crate) struct Shortage {
    reserve: Reserve,
    errors: u32,
}

impl Shortage {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { reserve: Reserve::new()?, errors: 0 })
    }

    /// With no descriptor left, the peer at the head of the queue would hang: the reserve is spent on telling it.
    fn shed(&mut self, socket: &Socket) -> Result<(), Errno> {
        self.reserve.release();
        let shed = sys::accept(socket).map(drop);
        self.reserve.restore();
        shed
    }
}

impl<S, T> Core<S, T> {
    /// Accepts one connection from listener `index`.
    pub(crate) fn accept_one(&mut self, index: usize) -> Accept {
        let Some(Some(listening)) = self.listeners.get_mut(index) else { return Accept::Nothing };
        match sys::accept(&listening.socket) {
            Ok((socket, peer)) => {
                self.shortage.errors = 0;
                return Accept::Connection(socket, peer);
            }
            Err(Errno::AGAIN) => return listening.quiet(),
            Err(Errno::INVAL | Errno::BADF | Errno::NOTSOCK) => return Accept::Dead(Errno::INVAL),
            Err(Errno::MFILE | Errno::NFILE) => match self.shortage.shed(&listening.socket) {
                Ok(()) => {
                    count(&self.counters().shed);
                    return self.back_off(index);
                }
                // The system asks for a descriptor first: nobody is there at all.
                Err(Errno::AGAIN) => return listening.quiet(),
                Err(_) => {}
            },
            Err(Errno::NOBUFS | Errno::NOMEM) => {}
            Err(_) if self.shortage.errors < PATIENCE => {
                self.shortage.errors += 1;
                count(&self.counters().accept_errors);
                return Accept::Skip;
            }
            Err(_) => self.shortage.errors = 0,
        }
        count(&self.counters().accept_errors);
        self.back_off(index)
    }

    fn back_off(&mut self, index: usize) -> Accept {
        if let Some(Some(listening)) = self.listeners.get_mut(index) {
            listening.phase = Phase::Waiting;
            self.timers.arm(sys::now() + BACK_OFF, Timer::Accept(index));
        }
        Accept::Nothing
    }

    /// The pause of listener `index` is over.
    pub(crate) fn accept_again(&mut self, index: usize) {
        if let Some(Some(listening)) = self.listeners.get_mut(index) {
            if listening.phase == Phase::Waiting {
                listening.phase = Phase::Ready;
                self.accepting = true;
            }
        }
    }

    /// An edge on listener `index`.
    pub(crate) fn listener_edge(&mut self, index: usize) {
        if let Some(Some(listening)) = self.listeners.get_mut(index) {
            if listening.phase == Phase::Quiet {
                listening.phase = Phase::Ready;
                self.accepting = true;
            }
        }
    }

    /// Registers a listener.
    pub(crate) fn add_listener(&mut self, listening: Listening<T>) -> Result<(), (Listening<T>, Errno)> {
        let free = self.listeners.iter().position(Option::is_none);
        let index = free.unwrap_or(self.listeners.len());
        if let Err(errno) = self.selector.register(&listening.socket, super::listener_token(index)) {
            return Err((listening, errno));
        }
        if free.is_none() {
            self.listeners.push(None);
        }
        self.accepting |= listening.phase == Phase::Ready;
        self.listeners[index] = Some(listening);
        Ok(())
    }

    /// Deregisters and closes a listener.
    pub(crate) fn remove_listener(&mut self, index: usize) -> Option<T> {
        let listening = self.listeners.get_mut(index)?.take()?;
        // Before the close: afterwards no event carries the token, except one fetched already.
        let _ = self.selector.deregister(&listening.socket);
        Some(listening.tag)
    }
}

impl<F: Face> EventLoop<F> {
    /// The share of a turn that is for accepting: of each listener that may have a connection so many.
    #[inline(always)]
    pub(super) fn accept(&mut self) {
        if self.core.listeners.is_empty() {
            return;
        }
        // All of them in one look: nearly always none is a listener's.
        let any = self.core.events.iter().fold(0, |any, event| any | event.token);
        if any & LISTENER != 0 {
            self.listener_edges();
        }
        if self.core.accepting {
            self.accept_all();
        }
    }

    #[cold]
    fn listener_edges(&mut self) {
        for i in 0..self.core.events.len() {
            let token = self.core.events[i].token;
            if token & LISTENER != 0 && token != WAKER {
                self.core.listener_edge((token & !LISTENER) as usize);
            }
        }
    }

    #[inline(never)]
    fn accept_all(&mut self) {
        for index in 0..self.core.listeners.len() {
            self.accept_from(index);
        }
        let ready = |listening: &Listening<_>| listening.phase == Phase::Ready;
        self.core.accepting = self.core.listeners.iter().flatten().any(ready);
    }

    fn accept_from(&mut self, index: usize) {
        for _ in 0..self.core.limits.accepts_per_turn {
            let Some(Some(Listening { phase: Phase::Ready, .. })) = self.core.listeners.get(index) else { return };
            if !self.face.may_accept() {
                return;
            }
            match self.core.accept_one(index) {
                Accept::Connection(socket, peer) => {
                    count(&self.core.counters.accepted);
                    self.face.accepted(&mut self.core, index, socket, peer);
                }
                Accept::Skip => {}
                Accept::Nothing => return,
                Accept::Dead(errno) => return self.face.listener_dead(&mut self.core, index, errno),
            }
        }
    }
}
