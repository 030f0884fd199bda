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
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use gaio::{
    Batch, Conn, Driver, EmbeddedWatcher, Event, Expect, Io, ListenOptions, Listener, Next, Op, Options, Outcome,
    Payload, Protocol, Server, SubmitError, SubmitErrorKind, Submitter, WaitError, Watcher,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

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
                     [--driver auto|thread|consumer] [--read vec|pooled|leased] [--ops linked|separate] \
                     [--timeout MS] [--watchers N] [--cores N] [--frames any|lines] [--pin CPU]";

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

impl Arguments {
    /// Of one of the loops.
    fn options(&self, index: usize) -> Options {
        let options = Options::default().name(format!("echo-{index}")).driver(self.driver);
        match self.pin {
            Some(cpu) => options.pin_to(cpu + index),
            None => options,
        }
    }
}

impl Settings {
    fn read(&self, conn: &Conn) -> Result<(), SubmitError> {
        self.submit(match self.read {
            Read::Vec => conn.read(Vec::with_capacity(64 << 10)),
            Read::Pooled => conn.read_pooled(),
            Read::Leased => conn.read_leased(),
        })
    }

    fn submit<K>(&self, op: Op<'_, (), K>) -> Result<(), SubmitError> {
        match self.timeout {
            Some(time) => op.within(time).submit(),
            None => op.submit(),
        }
    }

    /// The whole server: what to do with one event. Dropping a connection's last handle closes it gracefully.
    fn serve(&self, event: Event<'_>, raised: &dyn Fn()) -> Result<(), SubmitError> {
        let (conn, outcome) = match event {
            Event::Accepted { conn, .. } => return self.read(&conn),
            Event::Done { conn, outcome, .. } => (conn, outcome),
            _ => return Ok(()),
        };
        match (self.read, outcome) {
            (Read::Vec, Outcome::Read(bytes)) if self.linked => self.submit(conn.write(bytes).then_read()),
            (Read::Vec, Outcome::Read(bytes)) => self.submit(conn.write(bytes)),
            (Read::Vec, Outcome::Wrote(Payload::Vec(bytes))) => self.submit(conn.read(bytes)),
            (Read::Pooled, Outcome::Pooled(bytes)) if self.linked => {
                self.submit(conn.write_copied(bytes).then_read_pooled())
            }
            (Read::Pooled, Outcome::Pooled(bytes)) => self.submit(conn.write_copied(bytes)),
            (Read::Pooled, Outcome::Wrote(_copied)) => self.submit(conn.read_pooled()),
            (Read::Leased, Outcome::Leased(lease)) if self.linked => self.submit(conn.write(lease).then_read_leased()),
            (Read::Leased, Outcome::Leased(lease)) => self.submit(conn.write(lease)),
            (Read::Leased, Outcome::Wrote(_lease)) => self.submit(conn.read_leased()),
            // Asked for of the signals' socket alone.
            (_, Outcome::Readable) => {
                raised();
                Ok(())
            }
            (_, Outcome::Eof(_) | Outcome::Failed(_)) => Ok(()),
            (_, Outcome::ShutDown | Outcome::Closed | Outcome::Detached(_)) => Ok(()),
            // It reads in one way only.
            (_, Outcome::Read(_) | Outcome::Pooled(_) | Outcome::Leased(_) | Outcome::Wrote(_)) => Ok(()),
        }
    }

    fn serve_batch(&self, batch: Batch<'_>, raised: &dyn Fn()) {
        for event in batch {
            match self.serve(event, raised) {
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
    mut signals: UnixStream,
    session: impl Fn() -> P + Send + Sync + 'static,
) -> Result<(), Box<dyn Error>> {
    let mut builder = Server::bind(arguments.listen)?.loops(arguments.watchers);
    if let Some(cpu) = arguments.pin {
        builder = builder.pin_from(cpu);
    }
    let server = builder.serve(move |_peer| session())?;
    println!("listening on {}", server.local_addr().unwrap_or(arguments.listen));
    signals.read_exact(&mut [0])?;
    server.shutdown(Duration::from_secs(1));
    Ok(server.join()?)
}

/// One loop, and who takes its batches.
enum Loop {
    Spawned(Watcher),
    Embedded(EmbeddedWatcher),
}

impl Loop {
    fn next_batch(&mut self) -> Result<Batch<'_>, WaitError> {
        match self {
            Self::Spawned(watcher) => watcher.wait(),
            Self::Embedded(watcher) => watcher.turn(None),
        }
    }

    /// Serves until the loop has ended. `raised`: a signal has come, of which only the first loop hears.
    fn run(mut self, settings: Settings, raised: &dyn Fn()) {
        loop {
            match self.next_batch() {
                Ok(batch) => settings.serve_batch(batch, raised),
                Err(WaitError::Closed) => return,
                Err(ended) => return eprintln!("{ended}"),
            }
        }
    }
}

/// Where each loop listens: several of them may have one port, and the system deals the connections out.
#[derive(Clone, Copy)]
struct Place {
    address: SocketAddr,
    options: ListenOptions,
}

/// What one has of a loop that is run elsewhere.
struct Reins {
    submitter: Submitter,
    listener: Listener,
}

fn open(mode: Mode, options: Options, place: Place) -> Result<(Loop, Reins), Box<dyn Error>> {
    let (opened, submitter) = match mode {
        Mode::Embedded => {
            let (watcher, submitter) = EmbeddedWatcher::new(options)?;
            (Loop::Embedded(watcher), submitter)
        }
        Mode::Spawned | Mode::Typed => {
            let (watcher, submitter) = Watcher::spawn(options)?;
            (Loop::Spawned(watcher), submitter)
        }
    };
    let listener = submitter.listen_on(place.address, &place.options)?;
    Ok((opened, Reins { submitter, listener }))
}

/// One more loop, on a thread of its own: an embedded one stays where it was made.
fn start(arguments: &Arguments, index: usize, place: Place) -> Result<(Reins, thread::JoinHandle<()>), Box<dyn Error>> {
    let (mode, settings, options) = (arguments.mode, arguments.settings, arguments.options(index));
    let (ready, started) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || match open(mode, options, place) {
        Ok((opened, reins)) => {
            let _ = ready.send(Ok(reins));
            opened.run(settings, &|| {});
        }
        Err(error) => drop(ready.send(Err(error.to_string()))),
    });
    Ok((started.recv()??, thread))
}

/// A socket that becomes readable when a signal comes: to the loop it is a connection like any other.
fn signals() -> Result<UnixStream, Box<dyn Error>> {
    let (told, tells) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        pipe::register(signal, tells.try_clone()?)?;
    }
    Ok(told)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let signals = signals()?;
    let timeout = arguments.settings.timeout;
    match arguments.mode {
        Mode::Typed if arguments.lines => return typed(&arguments, signals, move || Lines { timeout }),
        Mode::Typed => return typed(&arguments, signals, move || Echo { timeout }),
        Mode::Spawned | Mode::Embedded => {}
    }
    let mut place = Place { address: arguments.listen, options: ListenOptions::default() };
    place.options.reuse_port = arguments.watchers > 1;
    // The first is run here: with one, embedded, the process has this thread and no other.
    let (first, reins) = open(arguments.mode, arguments.options(0), place)?;
    reins.submitter.delegate(signals)?.readable().submit()?;
    // It may have chosen a port, which the others share.
    place.address = reins.listener.local_addr().unwrap_or(place.address);
    let (mut all, mut threads) = (vec![reins], Vec::new());
    for index in 1..arguments.watchers {
        let (reins, thread) = start(&arguments, index, place)?;
        all.push(reins);
        threads.push(thread);
    }
    println!("listening on {}", place.address);
    // What has been read is answered, then everything ends.
    let end = || all.iter().for_each(|reins| reins.submitter.shutdown(Duration::from_secs(1)));
    first.run(arguments.settings, &end);
    end(); // If it has failed, the others are not told by a signal any more.
    for thread in threads {
        thread.join().map_err(|_| "a serving thread panicked")?;
    }
    let shed: u64 = all.iter().map(|reins| reins.submitter.counters().shed).sum();
    if shed > 0 {
        eprintln!("{shed} connections were closed unserved, since descriptors had run out");
    }
    Ok(())
}
