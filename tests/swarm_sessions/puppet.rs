//! The protocol: in each callback it writes down that it was called, and does what the dice say.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gaio::{Decode, Detached, End, Expect, Io, Next, Protocol, SendErrorKind, TimeLimit};

use crate::book::{Book, Fate, Shared};
use crate::line::output;
use crate::spec::{Spec, What};

pub(crate) struct Puppet {
    pub(crate) id: usize,
    pub(crate) book: Shared,
}

/// Counted until it is dropped, so one that is lost is missed.
#[derive(Debug)]
struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    fn new(live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, Ordering::Relaxed);
        Self(live.clone())
    }
}

impl Clone for Ticket {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A message. They are numbered in the order in which they are sent, by whomever.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) number: u64,
    /// It is a broadcast to these.
    pub(crate) group: Option<u64>,
    _ticket: Ticket,
}

/// Where a listener is, or a connect leads.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Tcp(SocketAddr),
    Unix(String),
}

#[derive(Debug)]
pub(crate) enum Call<'f> {
    Open,
    Frame(&'f [u8]),
    Message(Note),
    Eof,
    Timeout(TimeLimit),
    Timer(u64),
    Drained,
    Shutdown,
}

impl Book {
    pub(crate) fn note(&mut self, group: Option<u64>) -> Note {
        self.next += 1;
        Note { number: self.next, group, _ticket: Ticket::new(&self.live) }
    }

    /// A message to this session was taken by the loop.
    pub(crate) fn posted(&mut self, number: u64, to: usize) {
        let actor = &self.actors[to];
        if !actor.over && actor.fate.is_none() {
            self.messages.insert(number, to);
        }
    }

    pub(crate) fn broadcast(&mut self, number: u64, group: u64) {
        let member = |id: &usize| self.actors[*id].fate.is_none() && self.actors[*id].groups.contains(&group);
        let due = (0..self.actors.len()).filter(member).collect();
        self.broadcasts.insert(number, (due, Default::default()));
    }

    /// Somebody to write to, perhaps long gone.
    pub(crate) fn somebody(&mut self) -> Option<usize> {
        let known: Vec<_> = (0..self.actors.len()).filter(|id| self.actors[*id].address.is_some()).collect();
        let recent = known.len().min(6);
        if recent == 0 { None } else { Some(known[known.len() - 1 - self.dice.roll(recent)]) }
    }

    fn spend(&mut self) -> bool {
        let some = self.energy > 0;
        self.energy -= u32::from(some);
        some
    }

    /// Where a connect may lead, and the session that it is to be.
    pub(crate) fn destination(&mut self) -> (To, usize) {
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let line = self.add_line(false, None);
        let doors = self.doors.len();
        let to = match self.dice.roll(8) {
            0 => {
                self.lines[line].refused = true;
                if self.dice.roll(2) == 0 { To::Tcp(nobody) } else { To::Unix("nobody".into()) }
            }
            1..=2 if doors > 0 => {
                let door = self.dice.roll(doors);
                self.doors[door].clone()
            }
            _ => {
                let remote = self.world.remote();
                let address = remote.addr();
                self.remotes.push((remote, line));
                // The far end is to be in our hand.
                self.lines[line].tracked = true;
                To::Tcp(address)
            }
        };
        (to, self.add_actor(line, true))
    }
}

impl Puppet {
    fn called(self, call: Call<'_>, io: &mut Io<'_, Self>) -> Next<Self> {
        let shared = self.book.clone();
        let mut book = shared.open();
        if matches!(call, Call::Open) {
            book.actors[self.id].address = Some(io.address());
        }
        book.called(self.id, &call, io.queued());
        if book.calm {
            let ends = matches!(call, Call::Eof | Call::Timeout(_) | Call::Shutdown);
            let spec = book.actors[self.id].spec;
            // One in four does not go by itself.
            let stubborn = matches!(call, Call::Shutdown) && self.id % 4 == 0;
            let fate = (ends && !stubborn).then_some(Fate::Close);
            book.decided(self.id, fate, spec, io.queued());
            return if fate.is_some() { Next::Close(self) } else { Next::Become(self) };
        }
        for _ in 0..book.dice.roll(3) {
            self.deed(&mut book, &call, io);
        }
        let (fate, spec) = self.decide(&mut book, &call);
        book.decided(self.id, fate, spec, io.queued());
        book.actors[self.id].lost = fate == Some(Fate::Panic);
        drop(book);
        match fate {
            None | Some(Fate::Overflow | Fate::BadFrame { .. }) => Next::Become(self),
            Some(Fate::Close) => Next::Close(self),
            Some(Fate::Abort) => Next::Abort(self),
            // Without the hook, which would print it.
            Some(Fate::Panic) => std::panic::resume_unwind(Box::new("on purpose")),
            Some(Fate::Leave) => {
                let (book, id) = (self.book.clone(), self.id);
                Next::Leave(self, Box::new(move |detached| farewell(&book, id, detached)))
            }
        }
    }

    /// One thing of those that a callback may do.
    fn deed(&self, book: &mut Book, call: &Call<'_>, io: &mut Io<'_, Self>) {
        let index = book.actors[self.id].line;
        // Two sessions with one connection between them could go on for ever.
        let writes = book.lines[index].tracked || book.spend();
        match book.dice.roll(22) {
            0..=7 if writes => {
                let shared = book.dice.roll(3) == 0;
                let large = if book.dice.roll(20) == 0 { 20 } else { 1 };
                let (len, at) = (book.dice.roll(large * book.most), book.lines[index].written.len());
                let bytes: Vec<u8> = (at..at + len).map(|at| output(index, at)).collect();
                book.say(|| format!("session {}: writes {bytes:?}, shared: {shared}", self.id));
                book.lines[index].has_written(&bytes);
                if shared { io.write_bytes(Bytes::from(bytes)) } else { io.write(&bytes) }
            }
            8..=10 if writes => {
                let Call::Frame(frame) = call else { return };
                let from = book.dice.roll(frame.len() + 1);
                let to = from + book.dice.roll(frame.len() - from + 1);
                book.say(|| format!("session {}: writes {from}..{to} of its frame", self.id));
                book.lines[index].has_written(&frame[from..to]);
                io.write(&frame[from..to]);
            }
            11 if book.dice.roll(8) == 0 => {
                book.lines[index].shut = true;
                io.end_output();
            }
            12..=13 if book.spend() => {
                let name = book.dice.roll(4) as u64;
                let time = Duration::from_micros(book.dice.roll(20_000_000) as u64 >> book.dice.roll(25));
                let at = book.world.now() + time;
                book.actors[self.id].timers.insert(name, at);
                io.timer(name, time);
            }
            14 => {
                let name = book.dice.roll(4) as u64;
                book.actors[self.id].timers.remove(&name);
                io.cancel_timer(name);
            }
            15..=16 => {
                let group = book.dice.roll(3) as u64;
                book.actors[self.id].groups.insert(group);
                io.join(group);
            }
            17 => {
                let group = book.dice.roll(3) as u64;
                book.actors[self.id].groups.remove(&group);
                for (due, _) in book.broadcasts.values_mut() {
                    due.remove(&self.id);
                }
                io.leave(group);
            }
            18..=20 if book.spend() => self.send(book),
            21 if book.lines.len() < 60 && book.spend() => {
                let (to, id) = book.destination();
                let state = Self { id, book: self.book.clone() };
                match to {
                    To::Tcp(address) => io.connect(address, state),
                    To::Unix(path) => io.connect_unix(path, state),
                }
            }
            _ => {}
        }
    }

    fn send(&self, book: &mut Book) {
        let Some(to) = book.somebody() else { return };
        let note = book.note(None);
        let number = note.number;
        let address = book.actors[to].address.clone().expect("somebody has one");
        match address.send(note) {
            Ok(()) => book.posted(number, to),
            Err(error) => {
                let right = error.kind == SendErrorKind::Closed && book.shut_down.is_some();
                let back = error.message.number == number;
                book.check(right && back, |_| format!("a session's message is refused: {error:?}"));
            }
        }
    }

    fn decide(&self, book: &mut Book, call: &Call<'_>) -> (Option<Fate>, Spec) {
        let (most, mut spec) = (book.most, book.actors[self.id].spec);
        let closes = match call {
            Call::Eof | Call::Shutdown => book.dice.roll(4) > 0,
            Call::Timeout(_) => book.dice.roll(2) > 0,
            _ => false,
        };
        let fate = match book.dice.roll(128) {
            0 => Some(Fate::Close),
            1 => Some(Fate::Abort),
            2 => Some(Fate::Leave),
            3 => Some(Fate::Panic),
            _ if closes => Some(Fate::Close),
            _ => None,
        };
        if book.dice.roll(5) == 0 || spec.what == What::Nothing && book.dice.roll(2) == 0 {
            spec = Spec::random(&mut book.dice, most);
        }
        (fate, spec)
    }

    /// Now and then the protocol panics where it is only asked.
    fn trap(&self, of: usize) {
        let mut book = self.book.open();
        let actor = &book.actors[self.id];
        let free = actor.opened && actor.fate.is_none() && !actor.over && !book.calm;
        if free && book.dice.roll(of) == 0 {
            let spec = book.actors[self.id].spec;
            book.trapped += 1;
            book.decided(self.id, Some(Fate::Panic), spec, 0);
            drop(book);
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
}

fn farewell(book: &Shared, id: usize, detached: Detached) {
    let mut book = book.open();
    let line = book.actors[id].line;
    book.has_left(line, detached);
    if book.dice.roll(8) == 0 {
        book.spilt += 1;
        drop(book);
        std::panic::resume_unwind(Box::new("on purpose"));
    }
}

impl Protocol for Puppet {
    type Message = Note;

    fn expects(&self) -> Expect {
        self.trap(4_096);
        self.book.open().actors[self.id].spec.expect()
    }

    fn decode(&self, input: &[u8]) -> Decode {
        self.trap(512);
        let mut book = self.book.open();
        book.asked(self.id, input);
        book.actors[self.id].spec.decode(input)
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Open, io)
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Frame(frame), io)
    }

    fn on_message(self, note: Note, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Message(note), io)
    }

    fn on_bad_frame(&mut self, end: &End, io: &mut Io<'_, Self>) {
        let mut book = self.book.open();
        book.bad_frame(self.id, end);
        let (spec, line, before) = (book.actors[self.id].spec, book.actors[self.id].line, io.queued());
        let panics = !book.calm && book.dice.roll(16) == 0;
        if book.dice.roll(2) == 0 {
            let (most, at) = (book.most, book.lines[line].written.len());
            let len = book.dice.roll(most);
            let bytes: Vec<u8> = (at..at + len).map(|at| output(line, at)).collect();
            book.lines[line].has_written(&bytes);
            io.write(&bytes);
        }
        let answered = io.queued() > before;
        let fate = if panics { Fate::Panic } else { Fate::BadFrame { answered } };
        book.decided(self.id, Some(fate), spec, io.queued());
        drop(book);
        if panics {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }

    fn on_eof(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Eof, io)
    }

    fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Timeout(limit), io)
    }

    fn on_timer(self, name: u64, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Timer(name), io)
    }

    fn on_drained(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Drained, io)
    }

    fn on_shutdown(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Call::Shutdown, io)
    }

    fn on_end(state: Option<Self>, end: &End) {
        let Some(state) = state else {
            // Nothing says whose end it is, but the book: states that were lost know it.
            return LOST.with_borrow(|book| {
                let book = book.as_ref().expect("set by the script");
                book.open().ended(None, end);
            });
        };
        let mut book = state.book.open();
        book.ended(Some(state.id), end);
        let panics = book.dice.roll(32) == 0;
        drop(book);
        if panics {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
}

std::thread_local! {
    /// The book of this thread's run.
    pub(crate) static LOST: std::cell::RefCell<Option<Shared>> = const { std::cell::RefCell::new(None) };
}
