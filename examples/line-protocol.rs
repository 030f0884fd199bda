//! A drop box for letters, as a tutorial of typed sessions: `cargo run --release --example line-protocol`.
//!
//! Somebody says who they are, leaves letters for others, and reads their own. Every line has one of these forms; a body
//! follows its line, and has exactly as many bytes as that says.
//!
//! ```text
//! > hello ann             < ok hello ann
//! > to bob 5              < ok send 5 bytes
//! > (5 bytes)             < ok 5 bytes for bob
//! > read                  < letter ann 5, (5 bytes), …, ok 1 letters
//! > quit                  < bye quit
//! ```
//!
//! # 1. Draw it
//!
//! What the server knows of a peer changes at few points. Those are the states; what leads from one to the next are lines,
//! bodies, and time.
//!
//! ```text
//!                hello NAME                 to NAME N
//!    Stranger ───────────────► Ready ───────────────────────► Body
//!     │    ▲ │                 │ ▲ │ ▲                         │ │
//!     │    └─┘ not understood  │ └─┘ │ read, not understood    │ │
//!     │                        │     └──────── N bytes ────────┘ │
//!     │ 10 s                   │ 5 min                           │ 30 s
//!     ▼                        ▼                                 ▼
//!   closed ◄──────────── quit, end of stream ──────────────── closed, and the letter thrown away
//! ```
//!
//! The times are those of silence, until something begins. What has begun has a time of its own to come to its end: 5 s
//! for a line, and 30 s more for a body.
//!
//! # 2. A state is a variant
//!
//! `Session` has one variant per state, and each owns what is known in it and nothing else: there is no name before
//! `hello`, and nobody a body could be for before `to`. A callback consumes the state and returns the next one, so code
//! that uses what is not there does not compile, and there is no flag to forget.
//!
//! # 3. A state says what it waits for
//!
//! `expects`: a line, or so many bytes; how large it may be, how long it may take to come (`Expect::within`, from its first
//! byte to its last, however slowly they trickle in), and how long until it begins
//! (`Expect::idle_within`). The loop finds the frames and watches the clock. A callback never sees half a line.
//!
//! # 4. What goes wrong is a transition, too
//!
//! A line that is too long has two bounds. Up to `LONGEST_READ` it is read, and answered with an error. Beyond that the
//! session is ended by the loop: nobody can make it hold more. What is not understood is answered and changes nothing;
//! three times in a row is enough. A time limit that passes is `on_timeout`; the end of the server is
//! `on_shutdown`. The rest (a reset, an end in the middle of a body) ends the session without being asked; what
//! the state owned is dropped with it.
//!
//! # 5. Test every arrow
//!
//! There is no socket and no clock in a protocol, so none is in its tests: `gaio::testkit::Bench` hands it bytes and
//! time, and shows what it wrote. Below there is a test for each arrow of the picture, named after it, and one that cuts
//! the same input in all ways it can be cut. They run with `cargo test --example line-protocol`.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gaio::{Expect, Io, Next, Protocol, Server, TimeLimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A longer line is answered with an error.
const LONGEST_LINE: usize = 100;
/// A line longer than this ends the session.
const LONGEST_READ: usize = 1_000;
const LARGEST_LETTER: usize = 64 << 10;
const MOST_LETTERS: usize = 16;
const SECOND: Duration = Duration::from_secs(1);

/// All letters, by whom they are for. Sessions of all loops share it.
#[derive(Clone, Default)]
struct Letters(Arc<Mutex<HashMap<String, Vec<Letter>>>>);

struct Letter {
    from: String,
    body: Bytes,
}

impl Letters {
    fn of_all(&self) -> MutexGuard<'_, HashMap<String, Vec<Letter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there are too many.
    fn leave(&self, to: String, letter: Letter) -> bool {
        let mut all = self.of_all();
        let theirs = all.entry(to).or_default();
        let fits = theirs.len() < MOST_LETTERS;
        if fits {
            theirs.push(letter);
        }
        fits
    }

    fn take(&self, name: &str) -> Vec<Letter> {
        self.of_all().remove(name).unwrap_or_default()
    }
}

/// One peer.
enum Session {
    /// Has not said who it is.
    Stranger {
        letters: Letters,
        mistakes: u8,
    },
    Ready {
        letters: Letters,
        name: String,
        mistakes: u8,
    },
    /// Is sending a letter.
    Body {
        letters: Letters,
        name: String,
        to: String,
        size: usize,
    },
}

enum Line<'l> {
    Hello(&'l str),
    To(&'l str, usize),
    Read,
    Quit,
}

impl<'l> Line<'l> {
    fn parse(line: &'l [u8]) -> Result<Self, &'static str> {
        if line.len() > LONGEST_LINE {
            return Err("a line has 100 bytes at most");
        }
        let line = std::str::from_utf8(line).map_err(|_| "a line is UTF-8")?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["hello", name] => Ok(Line::Hello(name)),
            ["to", name, size] => match size.parse() {
                Ok(size) if (1..=LARGEST_LETTER).contains(&size) => Ok(Line::To(name, size)),
                _ => Err("a letter has 1 to 65536 bytes"),
            },
            ["read"] => Ok(Line::Read),
            ["quit"] => Ok(Line::Quit),
            _ => Err("hello NAME, to NAME BYTES, read, quit"),
        }
    }
}

fn answer(io: &mut Io<'_, Session>, line: &str) {
    io.write(line.as_bytes());
    io.write(b"\n");
}

impl Session {
    fn new(letters: Letters) -> Self {
        Self::Stranger { letters, mistakes: 0 }
    }

    fn bye(self, io: &mut Io<'_, Self>, why: &str) -> Next<Self> {
        answer(io, &format!("bye {why}"));
        Next::Close(self)
    }

    /// The same state again, but for one mistake more.
    fn refuse(mut self, io: &mut Io<'_, Self>, why: &str) -> Next<Self> {
        answer(io, &format!("error {why}"));
        if let Self::Stranger { mistakes, .. } | Self::Ready { mistakes, .. } = &mut self {
            *mistakes += 1;
            if *mistakes == 3 {
                return self.bye(io, "too many mistakes");
            }
        }
        Next::Become(self)
    }
}

impl Protocol for Session {
    /// Nobody sends messages to these sessions.
    type Message = ();

    fn expects(&self) -> Expect {
        let line = Expect::until(b"\n").at_most(LONGEST_READ).within(5 * SECOND);
        match self {
            Self::Stranger { .. } => line.idle_within(10 * SECOND),
            Self::Ready { .. } => line.idle_within(300 * SECOND),
            Self::Body { size, .. } => Expect::exactly(*size).within(30 * SECOND).idle_within(30 * SECOND),
        }
    }

    fn on_frame(self, frame: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        // What a frame is depends on the state: here a body, in the others a line.
        if let Self::Body { letters, name, to, size } = self {
            let letter = Letter { from: name.clone(), body: Bytes::copy_from_slice(frame) };
            if letters.leave(to.clone(), letter) {
                answer(io, &format!("ok {size} bytes for {to}"));
            } else {
                answer(io, "error the box is full");
            }
            return Next::Become(Self::Ready { letters, name, mistakes: 0 });
        }
        let line = match Line::parse(frame) {
            Ok(line) => line,
            Err(why) => return self.refuse(io, why),
        };
        match (self, line) {
            (state, Line::Quit) => state.bye(io, "quit"),
            (Self::Stranger { letters, .. }, Line::Hello(name)) => {
                answer(io, &format!("ok hello {name}"));
                Next::Become(Self::Ready { letters, name: name.into(), mistakes: 0 })
            }
            (Self::Ready { letters, name, .. }, Line::To(to, size)) => {
                answer(io, &format!("ok send {size} bytes"));
                Next::Become(Self::Body { letters, name, to: to.into(), size })
            }
            (Self::Ready { letters, name, .. }, Line::Read) => {
                let mine = letters.take(&name);
                for Letter { from, body } in &mine {
                    answer(io, &format!("letter {from} {}", body.len()));
                    io.write_bytes(body.clone());
                }
                answer(io, &format!("ok {} letters", mine.len()));
                Next::Become(Self::Ready { letters, name, mistakes: 0 })
            }
            (state @ Self::Stranger { .. }, _) => state.refuse(io, "hello NAME comes first"),
            (state, _) => state.refuse(io, "not now"),
        }
    }

    fn on_timeout(self, limit: TimeLimit, io: &mut Io<'_, Self>) -> Next<Self> {
        match limit {
            TimeLimit::Idle(_) => self.bye(io, "too quiet"),
            TimeLimit::Frame(_) => self.bye(io, "too slow"),
        }
    }

    fn on_shutdown(self, io: &mut Io<'_, Self>) -> Next<Self> {
        self.bye(io, "the server ends")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 7002));
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        match (flag.as_str(), words.next().map(|word| word.parse())) {
            ("--listen", Some(Ok(address))) => listen = address,
            _ => return Err("usage: line-protocol [--listen ADDR]".into()),
        }
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let letters = Letters::default();
    let server = Server::bind(listen)?.serve(move |_peer| Session::new(letters.clone()))?;
    println!("listening on {}", server.local_addr().unwrap_or(listen));
    signals.forever().next();
    server.shutdown(SECOND);
    Ok(server.join()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gaio::End;
    use gaio::testkit::{Bench, Wire, fragmentations};

    /// A session in its first state.
    fn stranger() -> Bench<Session> {
        Bench::new(Session::new(Letters::default()))
    }

    /// A session that has said who it is.
    fn ready(letters: &Letters) -> Bench<Session> {
        let mut bench = Bench::new(Session::new(letters.clone()));
        says(&mut bench, "hello ann\n", "ok hello ann\n");
        bench
    }

    fn body(letters: &Letters) -> Bench<Session> {
        let mut bench = ready(letters);
        says(&mut bench, "to bob 5\n", "ok send 5 bytes\n");
        bench
    }

    #[track_caller]
    fn says(bench: &mut Bench<Session>, input: &str, output: &str) {
        bench.receive(input.as_bytes());
        assert_eq!(String::from_utf8(bench.written()).unwrap(), output);
    }

    #[track_caller]
    fn is_closed(bench: &Bench<Session>) {
        assert!(matches!(bench.ended(), Some(End::Closed)), "{:?}", bench.ended());
    }

    #[track_caller]
    fn is_out_of_time(bench: &Bench<Session>, limit: TimeLimit) {
        assert!(matches!(bench.ended(), Some(End::TimedOut(over)) if *over == limit), "{:?}", bench.ended());
    }

    #[test]
    fn stranger_hello_ready() {
        let mut bench = stranger();
        says(&mut bench, "hello ann\n", "ok hello ann\n");
        assert!(matches!(bench.state(), Some(Session::Ready { name, .. }) if name == "ann"));
    }

    #[test]
    fn stranger_not_understood_stranger() {
        let mut bench = stranger();
        says(&mut bench, "read\n", "error hello NAME comes first\n");
        assert!(matches!(bench.state(), Some(Session::Stranger { mistakes: 1, .. })));
    }

    #[test]
    fn stranger_three_mistakes_closed() {
        let mut bench = stranger();
        bench.receive(b"?\n?\n");
        assert!(bench.ended().is_none());
        bench.receive(b"?\nhello ann\n");
        assert!(bench.written().ends_with(b"\nbye too many mistakes\n"), "and nothing comes after it");
        is_closed(&bench);
    }

    #[test]
    fn stranger_silent_closed() {
        let mut bench = stranger();
        bench.advance(10 * SECOND - Duration::from_millis(1));
        assert!(bench.ended().is_none());
        bench.advance(Duration::from_millis(1));
        assert_eq!(bench.written(), b"bye too quiet\n");
        is_out_of_time(&bench, TimeLimit::Idle(10 * SECOND));
    }

    #[test]
    fn ready_to_body() {
        let mut bench = ready(&Letters::default());
        says(&mut bench, "to bob 5\n", "ok send 5 bytes\n");
        assert!(matches!(bench.state(), Some(Session::Body { to, size: 5, .. }) if to == "bob"));
    }

    #[test]
    fn ready_read_ready() {
        let letters = Letters::default();
        letters.leave("ann".into(), Letter { from: "bob".into(), body: Bytes::from_static(b"hi!\n") });
        let mut bench = ready(&letters);
        says(&mut bench, "read\nread\n", "letter bob 4\nhi!\nok 1 letters\nok 0 letters\n");
        assert!(matches!(bench.state(), Some(Session::Ready { .. })));
    }

    #[test]
    fn ready_not_understood_ready() {
        let mut bench = ready(&Letters::default());
        says(&mut bench, "hello bob\n", "error not now\n");
        says(&mut bench, "to bob 0\n", "error a letter has 1 to 65536 bytes\n");
        // What is understood makes up for it.
        says(&mut bench, "read\n", "ok 0 letters\n");
        assert!(matches!(bench.state(), Some(Session::Ready { mistakes: 0, .. })));
    }

    #[test]
    fn ready_silent_closed() {
        let mut bench = ready(&Letters::default());
        bench.advance(300 * SECOND);
        assert_eq!(bench.written(), b"bye too quiet\n");
        is_out_of_time(&bench, TimeLimit::Idle(300 * SECOND));
    }

    #[test]
    fn ready_quit_closed() {
        let mut bench = ready(&Letters::default());
        says(&mut bench, "quit\n", "bye quit\n");
        is_closed(&bench);
    }

    #[test]
    fn ready_end_of_stream_closed() {
        let mut bench = ready(&Letters::default());
        bench.eof();
        is_closed(&bench);
    }

    #[test]
    fn body_all_bytes_ready() {
        let letters = Letters::default();
        let mut bench = body(&letters);
        // Bytes are bytes: in a body a line's end means nothing. What comes behind it is a line again.
        says(&mut bench, "h\nl\noread\n", "ok 5 bytes for bob\nok 0 letters\n");
        let got = letters.take("bob");
        assert_eq!((&got[0].from[..], &got[0].body[..]), ("ann", &b"h\nl\no"[..]));
        assert!(matches!(bench.state(), Some(Session::Ready { .. })));
    }

    #[test]
    fn body_box_full_ready() {
        let letters = Letters::default();
        for _ in 0..MOST_LETTERS {
            let mut bench = body(&letters);
            says(&mut bench, "hello", "ok 5 bytes for bob\n");
        }
        let mut bench = body(&letters);
        says(&mut bench, "hello", "error the box is full\n");
        assert_eq!(letters.take("bob").len(), MOST_LETTERS);
    }

    /// Bytes that trickle in do not put it off.
    #[test]
    fn body_slow_closed_and_thrown_away() {
        let letters = Letters::default();
        let mut bench = body(&letters);
        for _ in 0..3 {
            bench.receive(b"x");
            bench.advance(10 * SECOND);
        }
        assert_eq!(bench.written(), b"bye too slow\n");
        is_out_of_time(&bench, TimeLimit::Frame(30 * SECOND));
        assert!(letters.take("bob").is_empty());
    }

    /// The silence before it and the body itself have 30 s each.
    #[test]
    fn body_silent_closed() {
        let letters = Letters::default();
        let mut bench = body(&letters);
        bench.advance(29 * SECOND);
        says(&mut bench, "hell", "");
        bench.advance(29 * SECOND);
        says(&mut bench, "o", "ok 5 bytes for bob\n");
        says(&mut bench, "to bob 5\n", "ok send 5 bytes\n");
        bench.advance(30 * SECOND);
        assert_eq!(bench.written(), b"bye too quiet\n");
        is_out_of_time(&bench, TimeLimit::Idle(30 * SECOND));
        assert_eq!(letters.take("bob").len(), 1);
    }

    #[test]
    fn body_end_of_stream_thrown_away() {
        let letters = Letters::default();
        let mut bench = body(&letters);
        bench.receive(b"hel");
        bench.eof();
        assert!(matches!(bench.ended(), Some(End::CutShort { got: 3 })));
        assert!(letters.take("bob").is_empty());
    }

    #[test]
    fn a_long_line_is_answered_and_an_endless_one_ends_it() {
        let mut bench = ready(&Letters::default());
        says(&mut bench, &format!("{}\n", "x".repeat(LONGEST_READ)), "error a line has 100 bytes at most\n");
        bench.receive(&[b'x'; LONGEST_READ + 1]);
        assert!(matches!(bench.ended(), Some(End::TooLong { at_most: LONGEST_READ })));
    }

    #[test]
    fn a_line_that_does_not_end_in_time_closes() {
        let mut bench = stranger();
        bench.receive(b"hello a");
        bench.advance(5 * SECOND);
        assert_eq!(bench.written(), b"bye too slow\n");
        is_out_of_time(&bench, TimeLimit::Frame(5 * SECOND));
    }

    #[test]
    fn the_servers_end_is_said() {
        let mut bench = body(&Letters::default());
        bench.shutdown();
        assert_eq!(bench.written(), b"bye the server ends\n");
        is_closed(&bench);
    }

    /// However the bytes were cut on their way, the answer is the same.
    #[test]
    fn every_fragmentation_of_a_session_reads_the_same() {
        let input = b"read\nhello ann\r\nto ann 7\nab\ncd\nereadless\nread\nquit\n";
        let output = fragmentations(|| Session::new(Letters::default()), input);
        let expected = "error hello NAME comes first\nok hello ann\nok send 7 bytes\nok 7 bytes for ann\n\
                        error hello NAME, to NAME BYTES, read, quit\nletter ann 7\nab\ncd\neok 1 letters\nbye quit\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    /// The other end is a protocol, too: here a client that leaves one letter, with the server half a second away.
    #[test]
    fn a_client_and_the_server_in_virtual_time() {
        enum Client {
            Greeting,
            Sending,
            Done,
        }

        impl Protocol for Client {
            type Message = ();

            fn expects(&self) -> Expect {
                Expect::until(b"\n")
            }

            fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
                io.write(b"hello ann\nto bob 2\n");
                Next::Become(self)
            }

            fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
                match (self, line) {
                    (Self::Greeting, b"ok hello ann") => Next::Become(Self::Sending),
                    (Self::Sending, b"ok send 2 bytes") => {
                        io.write(b"hi");
                        Next::Become(Self::Done)
                    }
                    (Self::Done, b"ok 2 bytes for bob") => Next::Close(Self::Done),
                    (state, _) => Next::Abort(state),
                }
            }
        }

        let letters = Letters::default();
        let mut wire = Wire::new(Client::Greeting, Session::new(letters.clone()), SECOND / 2);
        wire.run(10 * SECOND);
        assert!(matches!(wire.a.ended(), Some(End::Closed)));
        is_closed(&wire.b);
        assert_eq!(letters.take("bob").len(), 1);
    }
}
