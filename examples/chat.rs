//! A chat: rooms of members over TCP, on as many loops as you like: `cargo run --release --example chat`.
//!
//! ```text
//! --listen ADDR   where to listen (127.0.0.1:7001)
//! --cores N       so many loops, each on a thread of its own (1)
//! ```
//!
//! One command a line, of 512 bytes at most. `nc 127.0.0.1 7001` is a client.
//!
//! | command | answer | besides |
//! |---|---|---|
//! | | `hello …` at the beginning | |
//! | `nick NAME` | `ok nick NAME` | |
//! | `join ROOM` | `ok join ROOM` | everyone in it: `joined NAME` |
//! | `say TEXT` | | everyone in the room: `said NAME TEXT` |
//! | `tell NAME TEXT` | `ok tell NAME` | that member: `told NAME TEXT` |
//! | `part` | `ok part ROOM` | everyone left in it: `left NAME WHY` |
//! | `quit` | `bye quit`, and the end | likewise |
//!
//! What cannot be done is answered with `error WHY` and changes nothing. `bye WHY` is the last line of a connection: who
//! gives no name, does not take what the others say, or is there when the server ends, is told so.
//!
//! ```text
//!              nick               join                       say, and a loop is behind
//!  Stranger ──────────► Lobby ──────────────► Room ────────────────────────────────────► Stalled
//!      │                  ▲                   │  ▲ └ join, say ┐                            │
//!      │ silent           └────── part ───────┘  └─────────────┴──────── it is said ────────┘
//!      ▼
//!    Gone ◄── quit, too slow, the server ends ── any of them
//! ```
//!
//! How it is built:
//!
//! - **A room is a group**, numbered by the hash of its name: nobody has to find it, on any loop. Two names may have the
//!   same hash, so a line says which room it is for.
//! - **A line is written once**, as shared `Bytes`: one submission per loop, then a reference per member.
//! - **Order**: what a member says goes to every loop by the same way, so everybody reads it in its order. If a loop
//!   cannot take it (its ring is full), the member is `Stalled`: not read from until the line is out. That is all the flow
//!   control between loops, and it holds back the one who talks too much.
//! - **Slow members** pause nobody: what waits for one is counted, and above a bound it is sent `bye too slow` and closed,
//!   or cut off, if it does not take even that.
//! - **Names** are unique over all loops by one map under a lock, held for a look-up and no longer. It also holds
//!   everybody's address, for `tell`.
//! - **What a state owns it gives back by being dropped**: a name, a seat in a room. So no way to end, not even a panic,
//!   leaves a ghost.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::collections::HashMap;
use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gaio::{Address, End, Expect, Hub, Io, Next, Protocol, SendError, SendErrorKind, Server, SessionLimits, TimeLimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A longer line is answered with an error.
const LONGEST_LINE: usize = 512;
/// Whoever sends a line longer than this is cut off.
const LONGEST_READ: usize = 8 * LONGEST_LINE;
const LONGEST_NAME: usize = 32;
/// A line that has begun has to end.
const LINE_WITHIN: Duration = Duration::from_secs(30);
/// To give one's name.
const NAME_WITHIN: Duration = Duration::from_secs(60);
/// Bytes that may wait for a member: above, it is too slow.
const MOST_WAITING: usize = 256 << 10;
/// A member that is closed has so long to take what waits for it.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Pause before a line is offered again to a loop that was behind.
const RETRY: Duration = Duration::from_millis(2);

const HELLO: &[u8] = b"hello: nick NAME, join ROOM, say TEXT, tell NAME TEXT, part, quit\n";

/// What the loops share.
#[derive(Default)]
struct Chat {
    /// The way into each loop. Set once the server runs; until then nobody is admitted.
    hubs: OnceLock<Vec<Hub<Session>>>,
    names: Mutex<HashMap<Arc<str>, Address<Message>>>,
}

/// What sessions send to each other.
#[derive(Clone)]
enum Message {
    Room { room: Arc<str>, line: Bytes },
    Private(Bytes),
}

/// The name of somebody. Dropped, it is free again.
struct Member {
    chat: Arc<Chat>,
    name: Arc<str>,
}

/// A place in a room. Dropped, the others are told.
struct Place {
    chat: Arc<Chat>,
    name: Arc<str>,
    room: Arc<str>,
    why: &'static str,
}

struct Seat {
    member: Member,
    place: Place,
}

/// A line that the loops from `from` on have not taken yet.
struct Unsaid {
    line: Bytes,
    from: usize,
}

/// A connection.
enum Session {
    /// Has given no name yet.
    Stranger(Arc<Chat>),
    /// Has a name, and is in no room.
    Lobby(Member),
    Room(Seat),
    /// Has said something that not every loop could take yet; is not read from.
    Stalled(Seat, Unsaid),
    /// Is being closed, and owns nothing.
    Gone,
}

impl Chat {
    fn names(&self) -> MutexGuard<'_, HashMap<Arc<str>, Address<Message>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(self: Arc<Self>, name: &str, address: Address<Message>) -> Result<Member, Arc<Self>> {
        let name: Arc<str> = name.into();
        let mut names = self.names();
        if names.contains_key(&name) {
            drop(names);
            return Err(self);
        }
        names.insert(name.clone(), address);
        drop(names);
        Ok(Member { chat: self, name })
    }

    /// Sends a line to everybody in a room, on the loops from `from` on. `Err`: the first loop that is behind.
    fn announce(&self, room: &Arc<str>, line: &Bytes, from: usize) -> Result<(), usize> {
        for (i, hub) in self.hubs.get().into_iter().flatten().enumerate().skip(from) {
            let message = Message::Room { room: room.clone(), line: line.clone() };
            // A loop that is shutting down has nobody left to tell.
            if let Err((SendErrorKind::Full, _)) = hub.broadcast(group(room), message) {
                return Err(i);
            }
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.chat.names().remove(&self.name);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = Bytes::from(format!("left {} {}\n", self.name, self.why));
        // A loop that is behind does not learn of it: a drop cannot wait, and nobody is there to try again.
        let _ = self.chat.announce(&self.room, &line, 0);
    }
}

fn group(room: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    hasher.finish()
}

enum Command<'l> {
    Nick(&'l str),
    Join(&'l str),
    Say(&'l str),
    Tell(&'l str, &'l str),
    Part,
    Quit,
}

impl<'l> Command<'l> {
    fn parse(line: &'l [u8]) -> Result<Self, &'static str> {
        if line.len() > LONGEST_LINE {
            return Err("a line has 512 bytes at most");
        }
        let line = std::str::from_utf8(line).map_err(|_| "a line is UTF-8")?;
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "nick" => name(rest).map(Self::Nick),
            "join" => name(rest).map(Self::Join),
            "say" if !rest.is_empty() => Ok(Self::Say(rest)),
            "tell" => match rest.split_once(' ') {
                Some((to, text)) if !text.is_empty() => Ok(Self::Tell(name(to)?, text)),
                _ => Err("tell NAME TEXT"),
            },
            "say" => Err("say TEXT"),
            "part" if rest.is_empty() => Ok(Self::Part),
            "quit" if rest.is_empty() => Ok(Self::Quit),
            _ => Err("the commands are nick, join, say, tell, part, quit"),
        }
    }
}

fn name(word: &str) -> Result<&str, &'static str> {
    let fits = !word.is_empty() && word.len() <= LONGEST_NAME;
    if fits && word.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_') {
        Ok(word)
    } else {
        Err("a name has 1 to 32 letters, digits, - and _")
    }
}

fn reply(io: &mut Io<'_, Session>, line: &str) {
    io.write(line.as_bytes());
    io.write(b"\n");
}

impl Session {
    /// Stays as it is, and says why.
    fn refuse(self, io: &mut Io<'_, Self>, why: &str) -> Next<Self> {
        reply(io, &format!("error {why}"));
        Next::Become(self)
    }

    /// Ends: the last line is sent, then the connection is closed. The name is free, and the room is told, at once.
    fn part_with(self, io: &mut Io<'_, Self>, why: &'static str) -> Next<Self> {
        reply(io, &format!("bye {why}"));
        if let Self::Room(seat) | Self::Stalled(seat, _) = self {
            seat.leave(io, why);
        }
        Next::Close(Self::Gone)
    }

    fn member(&self) -> Option<&Member> {
        match self {
            Self::Lobby(member) => Some(member),
            Self::Room(seat) | Self::Stalled(seat, _) => Some(&seat.member),
            Self::Stranger(_) | Self::Gone => None,
        }
    }

    fn tell(self, io: &mut Io<'_, Self>, to: &str, text: &str) -> Next<Self> {
        let Some(member) = self.member() else { return self.refuse(io, "give your name first: nick NAME") };
        let address = member.chat.names().get(to).cloned();
        let Some(address) = address else { return self.refuse(io, "nobody has this name") };
        let line = Bytes::from(format!("told {} {text}\n", member.name));
        match address.send(Message::Private(line)) {
            Ok(()) => reply(io, &format!("ok tell {to}")),
            Err(SendError { .. }) => reply(io, "error try again later"),
        }
        Next::Become(self)
    }
}

impl Member {
    fn join(self, io: &mut Io<'_, Session>, room: &str) -> Next<Session> {
        let room: Arc<str> = room.into();
        reply(io, &format!("ok join {room}"));
        io.join(group(&room));
        let line = Bytes::from(format!("joined {}\n", self.name));
        let place = Place { chat: self.chat.clone(), name: self.name.clone(), room, why: "gone" };
        Seat { member: self, place }.say(io, Unsaid { line, from: 0 })
    }
}

impl Seat {
    fn leave(self, io: &mut Io<'_, Session>, why: &'static str) -> Member {
        let Self { member, mut place } = self;
        io.leave(group(&place.room));
        place.why = why;
        member
    }

    /// Sends a line to everybody in the room, the speaker too; or stalls, until it is out.
    fn say(self, io: &mut Io<'_, Session>, unsaid: Unsaid) -> Next<Session> {
        let Unsaid { line, from } = unsaid;
        Next::Become(match self.place.chat.announce(&self.place.room, &line, from) {
            Ok(()) => Session::Room(self),
            Err(from) => {
                io.timer(0, RETRY);
                Session::Stalled(self, Unsaid { line, from })
            }
        })
    }
}

impl Protocol for Session {
    type Message = Message;

    fn expects(&self) -> Expect {
        let line = Expect::until(b"\n").at_most(LONGEST_READ).within(LINE_WITHIN);
        match self {
            Self::Stranger(_) => line.idle_within(NAME_WITHIN),
            Self::Lobby(_) | Self::Room(_) => line,
            Self::Stalled(..) | Self::Gone => Expect::nothing(),
        }
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(HELLO);
        Next::Become(self)
    }

    fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(why) => return self.refuse(io, why),
        };
        match (self, command) {
            (state, Command::Quit) => state.part_with(io, "quit"),
            (state, Command::Tell(to, text)) => state.tell(io, to, text),
            (Self::Stranger(chat), Command::Nick(name)) => match chat.register(name, io.address()) {
                Ok(member) => {
                    reply(io, &format!("ok nick {name}"));
                    Next::Become(Self::Lobby(member))
                }
                Err(chat) => Self::Stranger(chat).refuse(io, "the name is taken"),
            },
            (Self::Stranger(chat), _) => Self::Stranger(chat).refuse(io, "give your name first: nick NAME"),
            (state, Command::Nick(_)) => state.refuse(io, "you have a name"),
            (Self::Lobby(member), Command::Join(room)) => member.join(io, room),
            (Self::Room(seat), Command::Join(room)) => seat.leave(io, "elsewhere").join(io, room),
            (Self::Room(seat), Command::Say(text)) => {
                let line = Bytes::from(format!("said {} {text}\n", seat.member.name));
                seat.say(io, Unsaid { line, from: 0 })
            }
            (Self::Room(seat), Command::Part) => {
                reply(io, &format!("ok part {}", seat.place.room));
                Next::Become(Self::Lobby(seat.leave(io, "part")))
            }
            (state, Command::Join(_) | Command::Say(_) | Command::Part) => state.refuse(io, "you are in no room"),
        }
    }

    fn on_message(self, message: Message, io: &mut Io<'_, Self>) -> Next<Self> {
        let line = match (&self, message) {
            (_, Message::Private(line)) => line,
            (Self::Room(seat) | Self::Stalled(seat, _), Message::Room { room, line }) if seat.place.room == room => {
                line
            }
            // Said before it left; or in another room whose name has the same hash.
            _ => return Next::Become(self),
        };
        if io.queued() > MOST_WAITING {
            return self.part_with(io, "too slow");
        }
        io.write_bytes(line);
        Next::Become(self)
    }

    fn on_timer(self, _name: u64, io: &mut Io<'_, Self>) -> Next<Self> {
        match self {
            Self::Stalled(seat, unsaid) => seat.say(io, unsaid),
            state => Next::Become(state),
        }
    }

    fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
        match limit {
            TimeLimit::Idle(_) => self.part_with(io, "no name"),
            TimeLimit::Frame(_) => self.part_with(io, "a line that does not end"),
        }
    }

    fn on_shutdown(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.part_with(io, "the server ends")
    }

    fn on_end(state: Option<Self>, end: &End) {
        let Some(Self::Room(mut seat) | Self::Stalled(mut seat, _)) = state else { return };
        seat.place.why = match end {
            End::Os(_) => "lost",
            End::TooLong { .. } => "an endless line",
            _ => "gone",
        };
    }
}

const USAGE: &str = "usage: chat [--listen ADDR] [--cores N]";

fn arguments() -> Result<(SocketAddr, usize), Box<dyn Error>> {
    let (mut listen, mut cores) = (SocketAddr::from(([127, 0, 0, 1], 7001)), 1);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        let wrong = |error: &dyn Error| format!("{flag} {value}: {error}\n{USAGE}");
        match flag.as_str() {
            "--listen" => listen = value.parse().map_err(|error| wrong(&error))?,
            "--cores" => cores = value.parse().map_err(|error| wrong(&error))?,
            _ => return Err(format!("{flag}: not understood\n{USAGE}").into()),
        }
    }
    Ok((listen, cores))
}

fn limits() -> SessionLimits {
    let mut limits = SessionLimits::default();
    limits.output = 4 * MOST_WAITING;
    limits.close_within = CLOSE_WITHIN;
    limits
}

fn main() -> Result<(), Box<dyn Error>> {
    let (listen, cores) = arguments()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let chat = Arc::new(Chat::default());
    let (doors, host) = (chat.clone(), chat.clone());
    let server = Server::bind(listen)?
        .loops(cores)
        .limits(limits())
        .admit(move |_peer| doors.hubs.get().is_some())
        .serve(move |_peer| Session::Stranger(host.clone()))?;
    let _ = chat.hubs.set(server.hubs().to_vec());
    println!("listening on {}", server.local_addr().unwrap_or(listen));
    signals.forever().next();
    server.shutdown(Duration::from_secs(2));
    Ok(server.join()?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use gaio::SessionLoop;
    use gaio::testkit::Bench;

    fn stranger() -> (Bench<Session>, Arc<Chat>) {
        let chat = Arc::new(Chat::default());
        let mut bench = Bench::with(Session::Stranger(chat.clone()), limits());
        assert_eq!(bench.written(), HELLO);
        (bench, chat)
    }

    fn answers(bench: &mut Bench<Session>, input: &str, output: &str) {
        bench.receive(input.as_bytes());
        assert_eq!(String::from_utf8(bench.written()).unwrap(), output, "to {input:?}");
    }

    fn line(room: &str, line: &'static str) -> Message {
        Message::Room { room: room.into(), line: Bytes::from_static(line.as_bytes()) }
    }

    #[test]
    fn a_name_a_room_and_out_again() {
        let (mut bench, chat) = stranger();
        answers(&mut bench, "join here\n", "error give your name first: nick NAME\n");
        answers(&mut bench, "tell ann hi\n", "error give your name first: nick NAME\n");
        answers(
            &mut bench,
            "nick ann\r\nsay hi\npart\n",
            "ok nick ann\nerror you are in no room\nerror you are in no room\n",
        );
        answers(&mut bench, "nick bob\n", "error you have a name\n");
        answers(&mut bench, "join here\n", "ok join here\n");
        assert_eq!(bench.groups(), [group("here")]);
        answers(&mut bench, "join there\n", "ok join there\n");
        assert_eq!(bench.groups(), [group("there")]);
        answers(&mut bench, "part\n", "ok part there\n");
        assert!(bench.groups().is_empty());
        assert!(chat.names().contains_key("ann"));
        answers(&mut bench, "quit\n", "bye quit\n");
        assert!(matches!(bench.ended(), Some(End::Closed)) && chat.names().is_empty());
    }

    #[test]
    fn what_is_no_command_is_refused_and_changes_nothing() {
        let (mut bench, _) = stranger();
        for bad in ["", "nick", "nick a b", "nick a!", "say", "tell ann", "quit now", "dance"] {
            bench.receive(format!("{bad}\n").as_bytes());
            assert!(bench.written().starts_with(b"error "), "{bad:?}");
        }
        bench.receive(b"nick \xff\n");
        assert!(bench.written().starts_with(b"error "));
        answers(&mut bench, &format!("{}\n", "x".repeat(513)), "error a line has 512 bytes at most\n");
        assert!(matches!(bench.state(), Some(Session::Stranger(_))));
        bench.receive(&[b'x'; LONGEST_READ + 1]);
        assert!(matches!(bench.ended(), Some(End::TooLong { at_most: LONGEST_READ })));
    }

    #[test]
    fn lines_of_other_rooms_are_not_heard() {
        let (mut bench, _) = stranger();
        answers(&mut bench, "nick ann\njoin here\n", "ok nick ann\nok join here\n");
        bench.message(line("there", "said bob there\n"));
        bench.message(line("here", "said bob here\n"));
        assert_eq!(bench.written(), b"said bob here\n");
        bench.receive(b"part\n");
        bench.message(line("here", "said bob late\n"));
        assert_eq!(bench.written(), b"ok part here\n");
    }

    #[test]
    fn a_member_that_takes_nothing_is_dropped_at_a_bound() {
        for late in [false, true] {
            let (mut bench, chat) = stranger();
            bench.receive(b"nick ann\njoin here\n");
            bench.written();
            bench.block(true);
            for _ in 0..=MOST_WAITING {
                bench.message(line("here", "said bob so much\n"));
            }
            assert!(matches!(bench.state(), Some(Session::Gone)) && chat.names().is_empty());
            assert!(bench.queued() < MOST_WAITING + 200);
            if late {
                bench.advance(CLOSE_WITHIN);
                assert!(matches!(bench.ended(), Some(End::CloseTimedOut)) && bench.written().is_empty());
            } else {
                bench.block(false);
                assert!(matches!(bench.ended(), Some(End::Closed)) && bench.written().ends_with(b"bye too slow\n"));
            }
        }
    }

    #[test]
    fn a_private_line_that_its_loop_does_not_take_is_refused() {
        let (mut bench, chat) = stranger();
        let mut other = Bench::new(Session::Stranger(chat));
        other.receive(b"nick bob\n");
        other.written();
        answers(&mut bench, "nick ann\ntell bob psst\n", "ok nick ann\nok tell bob\n");
        other.deliver();
        assert_eq!(other.written(), b"told ann psst\n");
        for kind in [SendErrorKind::Full, SendErrorKind::Closed] {
            other.refuse_messages(Some(kind));
            answers(&mut bench, "tell bob psst\n", "error try again later\n");
        }
    }

    /// A loop that takes nothing, with room for two lines in its ring.
    #[test]
    fn a_loop_that_is_behind_holds_the_speaker_back() {
        let mut limits = limits();
        limits.ring_slots = 2;
        let (sender, hub) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let (turned, has_turned) = mpsc::channel();
        let other = thread::spawn(move || {
            let (mut sessions, hub) = SessionLoop::new(limits, |_peer| None).unwrap();
            sender.send(hub).unwrap();
            for () in wait {
                turned.send(sessions.turn(Some(Duration::ZERO))).unwrap();
            }
        });
        let (mut bench, chat) = stranger();
        chat.hubs.set(vec![hub.recv().unwrap()]).unwrap();
        answers(&mut bench, "nick ann\njoin here\nsay 1\nsay 2\nsay 3\npart\n", "ok nick ann\nok join here\n");
        assert!(matches!(bench.state(), Some(Session::Stalled(_, Unsaid { line, from: 0 })) if line == "said ann 2\n"));
        bench.advance(100 * RETRY);
        assert!(matches!(bench.state(), Some(Session::Stalled(..))), "it tries again, in vain");
        bench.message(line("here", "said bob meanwhile\n"));
        assert_eq!(bench.written(), b"said bob meanwhile\n");
        go.send(()).unwrap();
        has_turned.recv().unwrap().unwrap();
        bench.advance(RETRY);
        assert_eq!(bench.written(), b"ok part here\n", "it has said all, and then what came behind it was read");
        drop(go);
        other.join().unwrap();
    }

    #[test]
    fn a_stranger_has_a_minute_and_a_member_all_the_time() {
        let (mut bench, _) = stranger();
        bench.advance(NAME_WITHIN);
        assert_eq!(bench.written(), b"bye no name\n");
        let (mut bench, _) = stranger();
        bench.receive(b"nick ann\n");
        bench.advance(100 * NAME_WITHIN);
        assert!(bench.ended().is_none());
        bench.receive(b"say");
        bench.advance(LINE_WITHIN);
        assert!(bench.written().ends_with(b"bye a line that does not end\n"));
    }
}
