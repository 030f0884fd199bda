//! An echo server, in every way the proactor offers: `cargo run --release --example echo-server`.
//!
//! ```text
//! --listen ADDR       where to listen (127.0.0.1:7000)
//! --mode M            spawned: a loop thread and a thread that waits; embedded: the loop in the caller's thread
//! --read R            vec: buffers of our own; pooled: bytes of the batch; leased: buffers of the loop's pool
//! --ops O             linked: write then read in one submission; separate: one after the other
//! --timeout MS        a deadline on every operation; a connection that misses one is dropped
//! --watchers N        that many loops, each with a listener of its own on the same port
//! --pin CPU           pins loop i to CPU + i
//! ```
//!
//! Back-pressure comes by itself: the next read of a connection is submitted (or linked) behind its write, so a client
//! that does not read is not read from, and costs one buffer.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use gaio::{
    Batch, Conn, EmbeddedWatcher, Event, Op, Options, Outcome, Payload, SubmitError, SubmitErrorKind, Submitter,
    WaitError, Watcher,
};
use rustix::net::{AddressFamily, SocketType, sockopt};
use signal_hook::consts::{SIGINT, SIGTERM};

#[derive(Clone, Copy, PartialEq)]
enum Read {
    Vec,
    Pooled,
    Leased,
}

#[derive(Clone, Copy)]
struct Settings {
    read: Read,
    linked: bool,
    timeout: Option<Duration>,
}

struct Arguments {
    listen: SocketAddr,
    embedded: bool,
    settings: Settings,
    watchers: usize,
    pin: Option<usize>,
}

const USAGE: &str = "usage: echo-server [--listen ADDR] [--mode spawned|embedded] [--read vec|pooled|leased] \
                     [--ops linked|separate] [--timeout MS] [--watchers N] [--pin CPU]";

fn understood<T: FromStr<Err: Error>>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{flag} {value}: {error}\n{USAGE}"))
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let settings = Settings { read: Read::Leased, linked: true, timeout: None };
    let listen = SocketAddr::from(([127, 0, 0, 1], 7000));
    let mut parsed = Arguments { listen, embedded: false, settings, watchers: 1, pin: None };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match (flag.as_str(), value.as_str()) {
            ("--listen", address) => parsed.listen = understood(&flag, address)?,
            ("--mode", "spawned") => parsed.embedded = false,
            ("--mode", "embedded") => parsed.embedded = true,
            ("--read", "vec") => parsed.settings.read = Read::Vec,
            ("--read", "pooled") => parsed.settings.read = Read::Pooled,
            ("--read", "leased") => parsed.settings.read = Read::Leased,
            ("--ops", "linked") => parsed.settings.linked = true,
            ("--ops", "separate") => parsed.settings.linked = false,
            ("--timeout", ms) => parsed.settings.timeout = Some(Duration::from_millis(understood(&flag, ms)?)),
            ("--watchers", n) => parsed.watchers = understood::<usize>(&flag, n)?.max(1),
            ("--pin", cpu) => parsed.pin = Some(understood(&flag, cpu)?),
            _ => return Err(format!("{flag} {value}: not understood\n{USAGE}").into()),
        }
    }
    Ok(parsed)
}

/// A listener with a backlog that holds a burst, whose connections send small messages at once (accepted ones inherit
/// TCP_NODELAY). With `shared`, several of them may have the same port.
fn bind(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 4096)?;
    Ok(socket.into())
}

impl Settings {
    fn read(self, conn: &Conn) -> Result<(), SubmitError> {
        self.submit(match self.read {
            Read::Vec => conn.read(Vec::with_capacity(64 << 10)),
            Read::Pooled => conn.read_pooled(),
            Read::Leased => conn.read_leased(),
        })
    }

    fn submit<K>(self, op: Op<'_, (), K>) -> Result<(), SubmitError> {
        match self.timeout {
            Some(time) => op.within(time).submit(),
            None => op.submit(),
        }
    }

    /// The whole server: what to do with one event. Dropping a connection's last handle closes it gracefully.
    fn serve(self, event: Event<'_>) -> Result<(), SubmitError> {
        let (conn, outcome) = match event {
            Event::Accepted { conn, .. } => return self.read(&conn),
            Event::Done { conn, outcome, .. } => (conn, outcome),
            _ => return Ok(()),
        };
        match outcome {
            Outcome::Read(bytes) if self.linked => self.submit(conn.write(bytes).then_read()),
            Outcome::Read(bytes) => self.submit(conn.write(bytes)),
            Outcome::Pooled(bytes) if self.linked => self.submit(conn.write_copied(bytes).then_read_pooled()),
            Outcome::Pooled(bytes) => self.submit(conn.write_copied(bytes)),
            Outcome::Leased(lease) if self.linked => self.submit(conn.write(lease).then_read_leased()),
            Outcome::Leased(lease) => self.submit(conn.write(lease)),
            Outcome::Wrote(Payload::Vec(bytes)) => self.submit(conn.read(bytes)),
            Outcome::Wrote(_) => self.read(&conn),
            Outcome::Eof(_) | Outcome::Failed(_) => Ok(()),
            Outcome::Readable | Outcome::ShutDown | Outcome::Closed | Outcome::Detached(_) => Ok(()),
        }
    }

    fn serve_batch(self, batch: Batch<'_>) {
        for event in batch {
            match self.serve(event) {
                Ok(()) => {}
                // On the way out there is nothing more to answer.
                Err(refused) if refused.kind == SubmitErrorKind::Closed => {}
                Err(refused) => eprintln!("dropped a connection: {refused}"),
            }
        }
    }
}

/// One loop and the thread that takes its batches.
struct Running {
    submitter: Submitter,
    thread: thread::JoinHandle<()>,
}

fn spawned(settings: Settings, options: Options, listener: TcpListener) -> Result<Running, Box<dyn Error>> {
    let (mut watcher, submitter) = Watcher::spawn(options)?;
    let guard = submitter.listen(listener)?;
    let thread = thread::spawn(move || {
        let _guard = guard;
        loop {
            match watcher.wait() {
                Ok(batch) => settings.serve_batch(batch),
                Err(ended) => return report(ended),
            }
        }
    });
    Ok(Running { submitter, thread })
}

fn embedded(settings: Settings, options: Options, listener: TcpListener) -> Result<Running, Box<dyn Error>> {
    let (ready, started) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let made = EmbeddedWatcher::new(options).map_err(|error| error.to_string()).and_then(|(watcher, submitter)| {
            let guard = submitter.listen(listener).map_err(|error| error.to_string())?;
            Ok((watcher, submitter, guard))
        });
        let (mut watcher, _guard) = match made {
            Ok((watcher, submitter, guard)) => {
                let _ = ready.send(Ok(submitter));
                (watcher, guard)
            }
            Err(error) => return drop(ready.send(Err(error))),
        };
        loop {
            match watcher.turn(None) {
                Ok(batch) => settings.serve_batch(batch),
                Err(ended) => return report(ended),
            }
        }
    });
    Ok(Running { submitter: started.recv()??, thread })
}

fn report(ended: WaitError) {
    if ended != WaitError::Closed {
        eprintln!("{ended}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let mut address = arguments.listen;
    let mut loops = Vec::new();
    for i in 0..arguments.watchers {
        let listener = bind(address, arguments.watchers > 1)?;
        address = listener.local_addr()?;
        let mut options = Options::default().name(format!("echo-{i}"));
        if let Some(cpu) = arguments.pin {
            options = options.pin_to(cpu + i);
        }
        let start = if arguments.embedded { embedded } else { spawned };
        loops.push(start(arguments.settings, options, listener)?);
    }
    println!("listening on {address}");
    signals.forever().next();
    // What has been read is answered, then everything ends.
    for running in &loops {
        running.submitter.shutdown(Duration::from_secs(1));
    }
    for Running { submitter, thread } in loops {
        thread.join().map_err(|_| "a serving thread panicked")?;
        let shed = submitter.counters().shed;
        if shed > 0 {
            eprintln!("{shed} connections were closed unserved, since descriptors had run out");
        }
    }
    Ok(())
}
