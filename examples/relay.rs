//! A relay: each client gets a connection to one target, and bytes go through, both ways.
//! `cargo run --release --example relay -- --to 127.0.0.1:7000`.
//!
//! ```text
//! --listen ADDR          where to listen (127.0.0.1:7003)
//! --to ADDR              the target
//! --connect-within MS    how long the target may take to answer a connect (5000)
//! ```
//!
//! There is no table of pairs. The context of each operation is the connection on the other side, so whatever completes
//! says where to go on, and a pair lives as long as one of its operations:
//!
//! ```text
//!   accepted ──► connect ──► read this ──► write that ──► read this ──► …      (both ways at once)
//!                   │            │ end of stream
//!                   │            └──► shut down that for writing               (the other way goes on)
//!                   └──► failed: the client's last handle is dropped
//! ```
//!
//! A fast source and a slow sink: the next read is submitted when the last write is through, so each direction holds one
//! lease at most, and the source is held up by its own socket. The lease that was read on one side is the one that is
//! written on the other; nothing is copied.
//!
//! The end of a stream travels through as such. An error must not look like one, so it resets both sides.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use gaio::{
    Conn, EmbeddedWatcher, Event, Failure, Limits, ListenOptions, OpError, Options, Outcome, SubmitError,
    SubmitErrorKind, Submitter, WaitError,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What one direction of a pair holds at most.
const MOST_BYTES: usize = 64 << 10;

/// The connection on the other side; of a connect, the client that waits for it.
#[derive(Debug)]
struct Other(Conn<Self>);

type Submitted = Result<(), SubmitError<Other>>;

struct Arguments {
    listen: SocketAddr,
    to: SocketAddr,
    connect_within: Duration,
}

const USAGE: &str = "usage: relay [--listen ADDR] --to ADDR [--connect-within MS]";

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let (mut listen, mut to) = (SocketAddr::from(([127, 0, 0, 1], 7003)), None);
    let mut connect_within = Duration::from_secs(5);
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        let address = || value.parse().map_err(|error| format!("{flag} {value}: {error}\n{USAGE}"));
        match flag.as_str() {
            "--listen" => listen = address()?,
            "--to" => to = Some(address()?),
            "--connect-within" => {
                let millis = value.parse().map_err(|error| format!("{flag} {value}: {error}\n{USAGE}"))?;
                connect_within = Duration::from_millis(millis);
            }
            _ => return Err(format!("{flag} {value}: not understood\n{USAGE}").into()),
        }
    }
    Ok(Arguments { listen, to: to.ok_or(USAGE)?, connect_within })
}

/// One direction: what comes from `source` goes to `sink`.
fn pump(source: &Conn<Other>, sink: Conn<Other>) -> Submitted {
    source.read_leased().submit_with(Other(sink))
}

/// Ends a pair. What still waits for either side completes as `Released`.
fn reset(this: Conn<Other>, other: Conn<Other>) -> Submitted {
    other.abort().submit_with(Other(this.clone()))?;
    this.abort().submit_with(Other(other))
}

fn completed(conn: Conn<Other>, other: Conn<Other>, outcome: Outcome<'_>) -> Submitted {
    match outcome {
        Outcome::Leased(lease) => other.write(lease).submit_with(Other(conn)),
        Outcome::Wrote(_) => pump(&other, conn),
        Outcome::Eof(_) => other.shutdown_write().submit_with(Other(conn)),
        Outcome::Failed(failure) => failed(conn, other, &failure),
        // This direction is over. If the other one is, too, these were the last handles, and both sides are closed.
        Outcome::ShutDown => Ok(()),
        Outcome::Closed => Ok(()),
        // Not among the operations above.
        Outcome::Read(_) | Outcome::Pooled(_) | Outcome::Readable | Outcome::Detached(_) => Ok(()),
    }
}

fn failed(conn: Conn<Other>, other: Conn<Other>, failure: &Failure) -> Submitted {
    match failure.error {
        // The pair, or the loop, is ended already.
        OpError::Released | OpError::Closed | OpError::Aborted => Ok(()),
        ref error => {
            match conn.peer_addr() {
                Some(peer) => eprintln!("ended a pair: {peer}: {error}"),
                None => eprintln!("ended a pair: {error}"),
            }
            reset(conn, other)
        }
    }
}

/// The whole relay: what to do with one event. Only a connect can be refused while the loop runs, and that drops the client.
fn relay(submitter: &Submitter<Other>, way: &Arguments, event: Event<'_, Other>) -> Submitted {
    match event {
        Event::Accepted { conn, .. } => submitter.connect(way.to).within(way.connect_within).submit_with(Other(conn)),
        Event::Connected { context: Other(client), result: Ok(target) } => {
            pump(&client, target.clone())?;
            pump(&target, client)
        }
        Event::Connected { result: Err(error), .. } => {
            eprintln!("turned a client away: {error}");
            Ok(())
        }
        Event::Done { conn, context: Other(other), outcome } => completed(conn, other, outcome),
        _ => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let way = arguments()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut limits = Limits::default();
    limits.read_cap = MOST_BYTES;
    // One write for each direction and no more: so none is refused, which would stop one direction of its pair.
    limits.write_bytes = (limits.sessions * MOST_BYTES) as u64;
    let (mut watcher, submitter) = EmbeddedWatcher::<Other>::new_for(Options::default().limits(limits))?;
    let listener = submitter.listen_on(way.listen, &ListenOptions::default())?;
    println!("listening on {}", listener.local_addr().unwrap_or(way.listen));
    let ending = submitter.clone();
    thread::spawn(move || {
        signals.forever().next();
        // What has been read is written, if the sinks take it in time.
        ending.shutdown(Duration::from_secs(1));
    });
    loop {
        match watcher.turn(None) {
            Ok(batch) => {
                for event in batch {
                    match relay(&submitter, &way, event) {
                        Ok(()) => {}
                        // On the way out nothing more is moved.
                        Err(refused) if refused.kind == SubmitErrorKind::Closed => {}
                        Err(refused) => eprintln!("turned a client away: {refused}"),
                    }
                }
            }
            Err(WaitError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
