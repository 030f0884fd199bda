//! A push server: every second one line, to all clients. `cargo run --release --example push-server`.
//!
//! ```text
//! --listen ADDR       where to listen (127.0.0.1:7002)
//! --every MS          from one line to the next (1000)
//! --pad BYTES         makes each line that much longer (0)
//! --behind N          lines that may be in flight to one client (8)
//! --patience MS       by when a line must have been sent (10000)
//! ```
//!
//! A timer drives it: each tick submits the next, so there is one at a time. The line is made once, as `Bytes`, and all
//! clients are sent the same allocation; a hundred thousand slow clients hold as many references, not copies.
//!
//! A client that does not read is no reason to wait for it, nor to queue for it without end. It is dropped, with the
//! reason on stderr, by whichever comes first: a line that is not sent within `--patience`, or `--behind` lines that are
//! in flight when the next one comes. What was queued for it is let go, so a line costs memory only so long as that.
//!
//! One read is pending on each client, since that is how its end is heard of. What a client says is thrown away.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gaio::{
    Conn, EmbeddedWatcher, Event, Limits, ListenOptions, OpError, Options, Outcome, SubmitError, SubmitErrorKind,
    Submitter, WaitError,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

struct Arguments {
    listen: SocketAddr,
    every: Duration,
    pad: usize,
    behind: usize,
    patience: Duration,
}

const USAGE: &str =
    "usage: push-server [--listen ADDR] [--every MS] [--pad BYTES] [--behind N] [--patience MS], N and MS at least 1";

fn understood<T: FromStr<Err: Error>>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{flag} {value}: {error}\n{USAGE}"))
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 7002));
    let (every, patience) = (Duration::from_secs(1), Duration::from_secs(10));
    let mut parsed = Arguments { listen, every, pad: 0, behind: 8, patience };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--listen" => parsed.listen = understood(&flag, &value)?,
            "--every" => parsed.every = Duration::from_millis(understood(&flag, &value)?),
            "--pad" => parsed.pad = understood(&flag, &value)?,
            "--behind" => parsed.behind = understood(&flag, &value)?,
            "--patience" => parsed.patience = Duration::from_millis(understood(&flag, &value)?),
            _ => return Err(format!("{flag} {value}: not understood\n{USAGE}").into()),
        }
    }
    if parsed.every.is_zero() || parsed.patience.is_zero() || parsed.behind == 0 {
        return Err(USAGE.into());
    }
    Ok(parsed)
}

struct PushServer {
    arguments: Arguments,
    submitter: Submitter,
    /// Who gets the next line, and how many lines are in flight to each.
    clients: HashMap<Conn, usize>,
    lines: u64,
    next: Instant,
}

impl PushServer {
    /// Sends a line to everyone, and asks for the next tick.
    fn tick(&mut self) -> Result<(), SubmitError> {
        self.lines += 1;
        let line = Bytes::from(format!("line {}{}\n", self.lines, ".".repeat(self.arguments.pad)));
        let Arguments { behind, patience, every, .. } = self.arguments;
        let mut dropped = Vec::new();
        for (conn, in_flight) in &mut self.clients {
            if *in_flight == behind {
                dropped.push((conn.clone(), format!("{behind} lines behind")));
                continue;
            }
            match conn.write(line.clone()).within(patience).submit() {
                Ok(()) => *in_flight += 1,
                // The loop is on its way out, which is no client's fault.
                Err(refused) if refused.kind == SubmitErrorKind::Closed => return Err(refused),
                Err(refused) => dropped.push((conn.clone(), refused.to_string())),
            }
        }
        for (conn, why) in dropped {
            self.drop_client(&conn, &why)?;
        }
        // At fixed instants, so that being late once does not add up; and never in a burst.
        self.next = (self.next + every).max(Instant::now());
        self.submitter.timer_at(self.next).submit()
    }

    /// Resets it: a client that has not read what it was sent would keep a graceful close waiting, too.
    fn drop_client(&mut self, conn: &Conn, why: &str) -> Result<(), SubmitError> {
        // Only once: all that is in flight to it is still to complete, as failed.
        if self.clients.remove(conn).is_none() {
            return Ok(());
        }
        match conn.peer_addr() {
            Some(peer) => eprintln!("dropped {peer}: {why}"),
            None => eprintln!("dropped a client: {why}"),
        }
        conn.abort().submit()
    }

    /// The whole server: what to do with one event.
    fn serve(&mut self, event: Event<'_>) -> Result<(), SubmitError> {
        let (conn, outcome) = match event {
            Event::Timer { result: Ok(()), .. } => return self.tick(),
            Event::Accepted { conn, .. } => {
                conn.read_pooled().submit()?;
                self.clients.insert(conn, 0);
                return Ok(());
            }
            Event::Done { conn, outcome, .. } => (conn, outcome),
            _ => return Ok(()),
        };
        match outcome {
            Outcome::Wrote(_) => {
                self.clients.entry(conn).and_modify(|in_flight| *in_flight -= 1);
                Ok(())
            }
            Outcome::Pooled(_) => conn.read_pooled().submit(),
            // It has left. What is in flight is still sent, and then the connection is closed with its last handle.
            Outcome::Eof(_) => {
                self.clients.remove(&conn);
                Ok(())
            }
            Outcome::Failed(failure) => match failure.error {
                // This end, or the loop's, is of our own making.
                OpError::Released | OpError::Closed | OpError::Aborted => Ok(()),
                OpError::TimedOut => self.drop_client(&conn, "a line could not be sent in time"),
                error => self.drop_client(&conn, &error.to_string()),
            },
            // The end of a client that was dropped, and what is never submitted here.
            Outcome::Closed | Outcome::ShutDown | Outcome::Readable => Ok(()),
            Outcome::Read(_) | Outcome::Leased(_) | Outcome::Detached(_) => Ok(()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut limits = Limits::default();
    // The limit on queued bytes counts each client's line, as if it had one of its own. The bound here is `--behind`.
    limits.write_bytes = 1 << 39;
    let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default().limits(limits))?;
    let listener = submitter.listen_on(arguments.listen, &ListenOptions::default())?;
    println!("listening on {}", listener.local_addr().unwrap_or(arguments.listen));
    let ending = submitter.clone();
    thread::spawn(move || {
        signals.forever().next();
        ending.shutdown(Duration::from_secs(1));
    });
    let next = Instant::now() + arguments.every;
    submitter.timer_at(next).submit()?;
    let mut server = PushServer { arguments, submitter, clients: HashMap::new(), lines: 0, next };
    loop {
        match watcher.turn(None) {
            Ok(batch) => {
                for event in batch {
                    match server.serve(event) {
                        Ok(()) => {}
                        // On the way out there is nothing more to send.
                        Err(refused) if refused.kind == SubmitErrorKind::Closed => {}
                        Err(refused) => eprintln!("refused: {refused}"),
                    }
                }
            }
            Err(WaitError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
