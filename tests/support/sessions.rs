//! A protocol that tests can script: it notes down every callback, and does what it is told, by the test's own function
//! or by a message that carries one.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaio::{
    Address, Decode, Detached, End, Expect, Hub, Io, Next, Protocol, SessionLimits, SessionLoop, TimeLimit, WaitError,
};

/// A callback, as it was noted down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Open,
    Frame(Vec<u8>),
    Message(&'static str),
    Eof,
    Timeout(TimeLimit),
    Timer(u64),
    Drained,
    Shutdown,
    /// `on_end`, with the reason.
    End(String),
}

pub(crate) fn frame(bytes: &[u8]) -> Seen {
    Seen::Frame(bytes.to_vec())
}

/// What a callback leads to.
pub(crate) enum Then {
    Stay,
    Expect(Expect),
    Close,
    Abort,
    Leave(Box<dyn FnOnce(Detached) + Send>),
}

pub(crate) type React = dyn Fn(&Seen, &mut Io<'_, Scripted>) -> Then + Send + Sync;
pub(crate) type Order = dyn Fn(&mut Io<'_, Scripted>) -> Then + Send + Sync;

/// A message: a text to be noted down, and perhaps something to do.
pub(crate) struct Note {
    pub(crate) text: &'static str,
    order: Option<Arc<Order>>,
}

/// What cannot be copied.
pub(crate) const UNIQUE: &str = "unique";

impl Clone for Note {
    fn clone(&self) -> Self {
        assert_ne!(self.text, UNIQUE, "on purpose");
        Self { text: self.text, order: self.order.clone() }
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text)
    }
}

pub(crate) fn note(text: &'static str) -> Note {
    Note { text, order: None }
}

/// A message that does this in the session.
pub(crate) fn order(order: impl Fn(&mut Io<'_, Scripted>) -> Then + Send + Sync + 'static) -> Note {
    Note { text: "order", order: Some(Arc::new(order)) }
}

/// What is known of a session from outside.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    seen: Vec<Seen>,
    address: Option<Address<Note>>,
}

impl Log {
    fn add(&self, seen: Seen) {
        self.0.lock().unwrap().seen.push(seen);
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().seen.clone()
    }

    /// Everything so far, which is not told again.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }

    pub(crate) fn has(&self, seen: &Seen) -> bool {
        self.0.lock().unwrap().seen.contains(seen)
    }

    pub(crate) fn end(&self) -> Option<String> {
        let seen = self.all();
        seen.iter().find_map(|seen| if let Seen::End(why) = seen { Some(why.clone()) } else { None })
    }

    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        self.all()
            .into_iter()
            .filter_map(|seen| if let Seen::Frame(bytes) = seen { Some(bytes) } else { None })
            .collect()
    }

    /// Known once it has opened.
    pub(crate) fn address(&self) -> Address<Note> {
        self.0.lock().unwrap().address.clone().expect("it has opened")
    }

    pub(crate) fn send(&self, note: Note) {
        self.address().send(note).unwrap();
    }
}

/// Sessions made and ended, in this process: each is told its end once, whatever happens.
static MADE: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);
/// Of those ended, by a panic: without a state.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// One test at a time, and at its end: each session that was made in it was told its end, once.
pub(crate) struct Books {
    before: (usize, usize),
    _turn: MutexGuard<'static, ()>,
}

impl Books {
    fn count() -> (usize, usize) {
        (MADE.load(Ordering::SeqCst), ENDED.load(Ordering::SeqCst))
    }

    pub(crate) fn open() -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self { before: Self::count(), _turn: turn }
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        let (before, after) = (self.before, Self::count());
        if !std::thread::panicking() {
            assert_eq!(after.1 - before.1, after.0 - before.0, "each session is told its end once");
        }
    }
}

/// Runs a test's body under [`Books`].
pub(crate) fn account(body: impl FnOnce()) {
    let books = Books::open();
    body();
    drop(books);
}

/// Sessions that ended without a state.
pub(crate) fn lost() -> usize {
    LOST.load(Ordering::SeqCst)
}

/// The protocol.
pub(crate) struct Scripted {
    pub(crate) expect: Expect,
    pub(crate) log: Log,
    react: Arc<React>,
    /// Panics when it is asked what it expects, or for a frame, or told its end.
    trap: Trap,
    /// Writes each frame back, from where it lies.
    echo: bool,
    last_word: &'static [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Trap {
    #[default]
    None,
    Expects,
    Decode,
    BadFrame,
    End,
}

impl Scripted {
    pub(crate) fn new(
        expect: Expect,
        react: impl Fn(&Seen, &mut Io<'_, Self>) -> Then + Send + Sync + 'static,
    ) -> (Self, Log) {
        MADE.fetch_add(1, Ordering::SeqCst);
        let log = Log::default();
        (Self { expect, log: log.clone(), react: Arc::new(react), trap: Trap::None, echo: false, last_word: b"" }, log)
    }

    /// One that only notes down, and closes at the peer's end, at a timeout and at the shutdown.
    pub(crate) fn quiet(expect: Expect) -> (Self, Log) {
        Self::new(expect, |seen, _| usual(seen))
    }

    pub(crate) fn trapped(mut self, trap: Trap) -> Self {
        self.trap = trap;
        self
    }

    pub(crate) fn echoing(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Says this if its peer sends no frame.
    pub(crate) fn with_last_word(mut self, last_word: &'static [u8]) -> Self {
        self.last_word = last_word;
        self
    }

    /// It was refused, so it is told no end.
    pub(crate) fn strike_off(self) {
        MADE.fetch_sub(1, Ordering::SeqCst);
    }

    fn called(mut self, seen: Seen, io: &mut Io<'_, Self>) -> Next<Self> {
        if seen == Seen::Open {
            self.log.0.lock().unwrap().address = Some(io.address());
        }
        self.log.add(seen.clone());
        match (self.react)(&seen, io) {
            Then::Stay => Next::Become(self),
            Then::Expect(expect) => {
                self.expect = expect;
                Next::Become(self)
            }
            Then::Close => Next::Close(self),
            Then::Abort => Next::Abort(self),
            Then::Leave(farewell) => Next::Leave(self, farewell),
        }
    }
}

/// What a session does by default.
pub(crate) fn usual(seen: &Seen) -> Then {
    match seen {
        Seen::Eof | Seen::Timeout(_) | Seen::Shutdown => Then::Close,
        _ => Then::Stay,
    }
}

impl Protocol for Scripted {
    type Message = Note;

    fn expects(&self) -> Expect {
        assert_ne!(self.trap, Trap::Expects, "on purpose");
        self.expect
    }

    /// Frames of a digit, that many bytes, and a full stop; a nought is refused, a 9 wants more than there can be.
    fn decode(&self, input: &[u8]) -> Decode {
        assert_ne!(self.trap, Trap::Decode, "on purpose");
        match input[0].wrapping_sub(b'0') {
            0 => Decode::Refuse("a nought"),
            9 => Decode::More(1 << 30),
            len if input.len() < usize::from(len) + 2 => Decode::More(usize::from(len) + 2),
            len => Decode::Frame { skip: 1, len: len.into(), total: usize::from(len) + 2 },
        }
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Open, io)
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        if self.echo {
            io.write(frame);
        }
        self.called(Seen::Frame(frame.to_vec()), io)
    }

    fn on_message(mut self, message: Note, io: &mut Io<'_, Self>) -> Next<Self> {
        match message.order {
            None => self.called(Seen::Message(message.text), io),
            Some(order) => {
                let usual = std::mem::replace(&mut self.react, Arc::new(move |_, io| order(io)));
                // The order stands in for the script, for this one callback.
                match self.called(Seen::Message(message.text), io) {
                    Next::Become(mut this) => {
                        this.react = usual;
                        Next::Become(this)
                    }
                    other => other,
                }
            }
        }
    }

    fn on_bad_frame(&mut self, _why: &End, io: &mut Io<'_, Self>) {
        assert_ne!(self.trap, Trap::BadFrame, "on purpose");
        io.write(self.last_word);
    }

    fn on_eof(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Eof, io)
    }

    fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Timeout(limit), io)
    }

    fn on_timer(self, name: u64, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Timer(name), io)
    }

    fn on_drained(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Drained, io)
    }

    fn on_shutdown(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.called(Seen::Shutdown, io)
    }

    fn on_end(state: Option<Self>, end: &End) {
        ENDED.fetch_add(1, Ordering::SeqCst);
        let Some(state) = state else {
            assert!(matches!(end, End::Panicked), "without a state: {end}");
            LOST.fetch_add(1, Ordering::SeqCst);
            return;
        };
        assert!(state.log.end().is_none(), "told its end twice");
        state.log.add(Seen::End(end.to_string()));
        assert_ne!(state.trap, Trap::End, "on purpose");
    }
}

/// A loop of scripted sessions, turned by the test.
pub(crate) struct Rig {
    pub(crate) sessions: SessionLoop<Scripted>,
    pub(crate) hub: Hub<Scripted>,
    /// Logs of sessions that were accepted, in their order.
    pub(crate) welcomed: Arc<Mutex<Vec<Log>>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut SessionLimits)) -> Self {
        Self::welcoming(change, || Scripted::quiet(Expect::any()))
    }

    /// With sessions of that sort for connections that listeners accept.
    pub(crate) fn welcoming(
        change: impl FnOnce(&mut SessionLimits),
        make: impl Fn() -> (Scripted, Log) + Send + 'static,
    ) -> Self {
        let mut limits = SessionLimits::default();
        change(&mut limits);
        let welcomed = Arc::new(Mutex::new(Vec::new()));
        let logs = welcomed.clone();
        let welcome = move |_peer| {
            let (state, log) = make();
            logs.lock().unwrap().push(log);
            Some(state)
        };
        let (sessions, hub) = SessionLoop::new(limits, welcome).unwrap();
        Self { sessions, hub, welcomed }
    }

    /// Turns until the condition holds. The watchdog bounds it.
    pub(crate) fn until(&mut self, mut condition: impl FnMut() -> bool) {
        while !condition() {
            self.sessions.turn(Some(Duration::from_millis(2))).unwrap();
        }
    }

    /// Lets the loop catch up with everything that has happened so far.
    pub(crate) fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            let before = self.busy();
            self.sessions.turn(Some(Duration::ZERO)).unwrap();
            idle = if self.busy() == before { idle + 1 } else { 0 };
        }
    }

    /// Anything that a turn with work to do changes.
    fn busy(&self) -> u64 {
        let counters = self.hub.counters();
        counters.frames + counters.messages + counters.accepted + counters.sessions
    }

    /// Until the end of the session, and why it ended.
    pub(crate) fn end_of(&mut self, log: &Log) -> String {
        self.until(|| log.end().is_some());
        log.end().unwrap()
    }

    /// Shuts the loop down, and turns it to its end.
    pub(crate) fn finish(mut self, grace: Duration) {
        self.hub.shutdown(grace);
        loop {
            match self.sessions.turn(None) {
                Ok(()) => {}
                Err(end) => return assert_eq!(end, WaitError::Closed),
            }
        }
    }
}
