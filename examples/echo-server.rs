//! An echo server, in every way the proactor offers: `cargo run --release --example echo-server`.
//!
//! ```text
//! --listen ADDR       where to listen (127.0.0.1:7000)
//! --mode M            spawned: a loop thread and a thread that waits; embedded: the loop in the caller's thread;
//!                     typed: sessions that are state machines, on loops of their own
//! --driver D          who drives a spawned loop: thread, consumer, or auto (the consumer, if there is one processor)
//! --read R            vec: buffers of our own; pooled: bytes of the batch; leased: buffers of the loop's pool
//! --ops O             linked: write then read in one submission; separate: one after the other
//! --timeout MS        a deadline on every operation; a connection that misses one is dropped
//! --watchers N        that many loops, each with a listener of its own on the same port
//! --cores N           the same, in typed mode
//! --frames F          in typed mode: any: whatever arrives; lines: line by line, each of at most 64 KiB
//! --pin CPU           pins loop i to CPU + i
//! ```
//!
//! Back-pressure comes by itself: the next read of a connection is submitted (or linked) behind its write, so a client
//! that does not read is not read from, and costs one buffer.

#![expect(clippy::print_stdout, reason = "where it listens is its output")]

use std::error::Error;
use std::net::SocketAddr;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use gaio::{
    Batch, Conn, Driver, EmbeddedWatcher, Event, Expect, Io, ListenOptions, Listener, Next, Op, Options, Outcome,
    Payload, Protocol, Server, SubmitError, SubmitErrorKind, Submitter, WaitError, Watcher,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Clone, Copy, PartialEq)]
enum Read {
    Vec,
    Pooled,
    Leased,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Spawned,
    Embedded,
    Typed,
}

#[derive(Clone, Copy)]
struct Settings {
    read: Read,
    linked: bool,
    timeout: Option<Duration>,
}

struct Arguments {
    listen: SocketAddr,
    mode: Mode,
    settings: Settings,
    lines: bool,
    watchers: usize,
    pin: Option<usize>,
    driver: Driver,
}

const USAGE: &str = "usage: echo-server [--listen ADDR] [--mode spawned|embedded|typed] \
                     [--driver auto|thread|consumer] [--read vec|pooled|leased] [--ops linked|separate] [--timeout MS] [--watchers N] [--cores N] \
                     [--frames any|lines] [--pin CPU]";

fn understood<T: FromStr<Err: Error>>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{flag} {value}: {error}\n{USAGE}"))
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let settings = Settings { read: Read::Leased, linked: true, timeout: None };
    let listen = SocketAddr::from(([127, 0, 0, 1], 7000));
    let mut parsed =
        Arguments { listen, mode: Mode::Spawned, settings, lines: false, watchers: 1, pin: None, driver: Driver::Auto };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match (flag.as_str(), value.as_str()) {
            ("--listen", address) => parsed.listen = understood(&flag, address)?,
            ("--mode", "spawned") => parsed.mode = Mode::Spawned,
            ("--mode", "embedded") => parsed.mode = Mode::Embedded,
            ("--mode", "typed") => parsed.mode = Mode::Typed,
            ("--driver", "auto") => parsed.driver = Driver::Auto,
            ("--driver", "thread") => parsed.driver = Driver::LoopThread,
            ("--driver", "consumer") => parsed.driver = Driver::Consumer,
            ("--read", "vec") => parsed.settings.read = Read::Vec,
            ("--read", "pooled") => parsed.settings.read = Read::Pooled,
            ("--read", "leased") => parsed.settings.read = Read::Leased,
            ("--ops", "linked") => parsed.settings.linked = true,
            ("--ops", "separate") => parsed.settings.linked = false,
            ("--frames", "any") => parsed.lines = false,
            ("--frames", "lines") => parsed.lines = true,
            ("--timeout", ms) => parsed.settings.timeout = Some(Duration::from_millis(understood(&flag, ms)?)),
            ("--watchers" | "--cores", n) => parsed.watchers = understood::<usize>(&flag, n)?.max(1),
            ("--pin", cpu) => parsed.pin = Some(understood(&flag, cpu)?),
            _ => return Err(format!("{flag} {value}: not understood\n{USAGE}").into()),
        }
    }
    Ok(parsed)
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

fn idle(expect: Expect, timeout: Option<Duration>) -> Expect {
    timeout.map_or(expect, |time| expect.idle_within(time))
}

/// A typed session: whatever arrives goes back. A slice of the input is sent from where it lies.
struct Echo {
    timeout: Option<Duration>,
}

impl Protocol for Echo {
    type Message = ();

    fn expects(&self) -> Expect {
        idle(Expect::any(), self.timeout)
    }

    fn on_frame(self, bytes: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(bytes);
        Next::Become(self)
    }
}

/// The same with framing: each line goes back when it is whole. Several of one receive are one send.
struct Lines {
    timeout: Option<Duration>,
}

impl Protocol for Lines {
    type Message = ();

    fn expects(&self) -> Expect {
        idle(Expect::through(b"\n").at_most(64 << 10), self.timeout)
    }

    fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
        io.write(line);
        Next::Become(self)
    }
}

fn typed<P: Protocol>(
    arguments: &Arguments,
    mut signals: Signals,
    session: impl Fn() -> P + Send + Sync + 'static,
) -> Result<(), Box<dyn Error>> {
    let mut builder = Server::bind(arguments.listen)?.loops(arguments.watchers);
    if let Some(cpu) = arguments.pin {
        builder = builder.pin_from(cpu);
    }
    let server = builder.serve(move |_peer| session())?;
    println!("listening on {}", server.local_addr().unwrap_or(arguments.listen));
    signals.forever().next();
    server.shutdown(Duration::from_secs(1));
    Ok(server.join()?)
}

/// One loop and the thread that takes its batches.
struct Running {
    submitter: Submitter,
    listener: Listener,
    thread: thread::JoinHandle<()>,
}

/// Where each loop listens: several of them may have one port, and the system deals the connections out.
#[derive(Clone, Copy)]
struct Place {
    address: SocketAddr,
    options: ListenOptions,
}

fn spawned(settings: Settings, options: Options, place: Place) -> Result<Running, Box<dyn Error>> {
    let (mut watcher, submitter) = Watcher::spawn(options)?;
    let listener = submitter.listen_on(place.address, &place.options)?;
    let thread = thread::spawn(move || {
        loop {
            match watcher.wait() {
                Ok(batch) => settings.serve_batch(batch),
                Err(ended) => return report(ended),
            }
        }
    });
    Ok(Running { submitter, listener, thread })
}

fn embedded(settings: Settings, options: Options, place: Place) -> Result<Running, Box<dyn Error>> {
    let (ready, started) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let made = EmbeddedWatcher::new(options).map_err(|error| error.to_string()).and_then(|(watcher, submitter)| {
            let listener = submitter.listen_on(place.address, &place.options).map_err(|error| error.to_string())?;
            Ok((watcher, submitter, listener))
        });
        let mut watcher = match made {
            Ok((watcher, submitter, listener)) => {
                let _ = ready.send(Ok((submitter, listener)));
                watcher
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
    let (submitter, listener) = started.recv()??;
    Ok(Running { submitter, listener, thread })
}

fn report(ended: WaitError) {
    if ended != WaitError::Closed {
        eprintln!("{ended}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let timeout = arguments.settings.timeout;
    match arguments.mode {
        Mode::Typed if arguments.lines => return typed(&arguments, signals, move || Lines { timeout }),
        Mode::Typed => return typed(&arguments, signals, move || Echo { timeout }),
        Mode::Spawned | Mode::Embedded => {}
    }
    let mut place = Place { address: arguments.listen, options: ListenOptions::default() };
    place.options.reuse_port = arguments.watchers > 1;
    let mut loops = Vec::new();
    for i in 0..arguments.watchers {
        let mut options = Options::default().name(format!("echo-{i}")).driver(arguments.driver);
        if let Some(cpu) = arguments.pin {
            options = options.pin_to(cpu + i);
        }
        let start = if arguments.mode == Mode::Embedded { embedded } else { spawned };
        let running = start(arguments.settings, options, place)?;
        // The first may choose a port, the others share it.
        place.address = running.listener.local_addr().unwrap_or(place.address);
        loops.push(running);
    }
    println!("listening on {}", place.address);
    signals.forever().next();
    // What has been read is answered, then everything ends.
    for running in &loops {
        running.submitter.shutdown(Duration::from_secs(1));
    }
    for Running { submitter, thread, .. } in loops {
        thread.join().map_err(|_| "a serving thread panicked")?;
        let shed = submitter.counters().shed;
        if shed > 0 {
            eprintln!("{shed} connections were closed unserved, since descriptors had run out");
        }
    }
    Ok(())
}
