//! Crowds: a thousand to twelve thousand connections at once, as gaio (the Go library) is tested, each with a message
//! that has to come back.
//!
//! Both ends of so many do not fit into the descriptors of one process, so the server is this test again, as a child
//! that serves until its input ends. By default the crowds are of 1 000, 4 000 and 12 000; `GAIO_CROWDS` names others,
//! `GAIO_CROWDS=1000,2000,4000,8000,10000,12000` all of gaio's.

#![cfg(not(any(loom, gaio_sim)))]

mod process;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use gaio::{Conn, EmbeddedWatcher, Event, Outcome, SubmitError, Watcher};
use process::{PATIENCE, is_child, raise_descriptor_limit, wait};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use support::{Drive, LONG, Rig, check};

// --- the server ------------------------------------------------------------------------------------------------------

/// How the server reads. The messages of one test are all of one length.
#[derive(Clone, Copy)]
enum Reads {
    /// Into a vector that goes out again.
    Vec,
    /// Into the batch's arena, which holds a few messages only.
    Pooled,
    /// By every kind of read in turn, drawn by lot, linked to the write before it or not.
    Any { message: usize },
}

/// Contexts are the bytes of the message that have come so far: an exact read must not ask for more than are to come.
struct Server {
    reads: Reads,
    lot: u64,
}

impl Server {
    fn draw(&mut self, n: usize) -> usize {
        self.lot = self.lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.lot >> 33).unwrap() % n
    }

    fn read(&mut self, conn: &Conn<u64>, so_far: u64) -> Result<(), SubmitError<u64>> {
        let message = match self.reads {
            Reads::Vec => return conn.read(Vec::with_capacity(1_024)).submit_with(so_far),
            Reads::Pooled => return conn.read_pooled().submit_with(so_far),
            Reads::Any { message } => message,
        };
        let left = message - usize::try_from(so_far).unwrap();
        match self.draw(5) {
            0 => conn.read(Vec::with_capacity(1 + self.draw(2 * message))).submit_with(so_far),
            1 => conn.read_exact(Vec::new(), 1 + self.draw(left)).submit_with(so_far),
            2 => conn.read_pooled().submit_with(so_far),
            3 => conn.read_leased().submit_with(so_far),
            _ => conn.readable().submit_with(so_far),
        }
    }

    /// One event. A connection whose peer has ended is dropped with it, and closes.
    fn serve(&mut self, event: Event<'_, u64>) -> Result<(), SubmitError<u64>> {
        let (conn, so_far, outcome) = match event {
            Event::Accepted { conn, .. } => return self.read(&conn, 0),
            Event::Done { conn, context, outcome } => (conn, context, outcome),
            Event::ListenerEnded { error: None, .. } => return Ok(()),
            other => panic!("{other:?}"),
        };
        let Reads::Any { message } = self.reads else {
            return match outcome {
                Outcome::Read(bytes) => conn.write(bytes).then_read().submit_with(0),
                Outcome::Pooled(bytes) => conn.write_copied(bytes).then_read_pooled().submit_with(0),
                Outcome::Eof(_) => Ok(()),
                other => panic!("{other:?}"),
            };
        };
        let so_far_with = |n: usize| (so_far + n as u64) % message as u64;
        let linked = self.draw(2) == 0;
        match outcome {
            Outcome::Read(bytes) => {
                let so_far = so_far_with(bytes.len());
                let write = conn.write(bytes);
                if linked { write.then_read().submit_with(so_far) } else { write.submit_with(so_far) }
            }
            Outcome::Pooled(bytes) => {
                let (so_far, write) = (so_far_with(bytes.len()), conn.write_copied(bytes));
                if linked { write.then_read_leased().submit_with(so_far) } else { write.submit_with(so_far) }
            }
            Outcome::Leased(lease) => {
                let (so_far, write) = (so_far_with(lease.len()), conn.write(lease));
                if linked { write.then_read_pooled().submit_with(so_far) } else { write.submit_with(so_far) }
            }
            Outcome::Readable | Outcome::Wrote(_) => self.read(&conn, so_far),
            Outcome::Eof(_) => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    /// Says where it listens, serves until its input ends, and leaves nothing behind.
    fn run<D: Drive>(mut self) {
        raise_descriptor_limit();
        check(|| {
            let mut rig = Rig::<D>::with(|limits| {
                if matches!(self.reads, Reads::Pooled) {
                    (limits.arena, limits.read_cap) = (16 << 10, 4 << 10);
                }
            });
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            // A backlog that holds a burst: std's is 128.
            rustix::net::listen(&socket, 4_096).unwrap();
            let listener = rig.submitter.listen(socket).unwrap();
            let line = format!("listening on {}\n", listener.local_addr().unwrap());
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            let submitter = rig.submitter.clone();
            let end = std::thread::spawn(move || {
                std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
                drop(listener);
                submitter.shutdown(LONG);
            });
            while let Ok(batch) = rig.watcher.wait() {
                batch.for_each(|event| self.serve(event).unwrap());
            }
            end.join().unwrap();
            if matches!(self.reads, Reads::Pooled) {
                assert!(rig.counters().starved > 0, "the arena was large enough for everybody");
            }
        });
    }
}

/// The server as a child.
struct Remote {
    child: Child,
    address: SocketAddr,
    output: BufReader<std::process::ChildStdout>,
}

impl Remote {
    /// Starts this binary again, to serve in the test of that name.
    fn start(name: &str, drive: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env("GAIO_ROLE", drive);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the server ended before it began");
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.trim().parse().unwrap();
            }
        };
        Self { child, address, output }
    }

    /// Halts it until that is dropped. Whatever comes in the meantime, it finds at once.
    fn halt(&self) -> Halt {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "the server: {status:?}");
        Halt(pid)
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child);
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        assert!(status.success() && said.contains("1 passed"), "the server: {status}\n{said}");
    }
}

/// A server that is halted.
struct Halt(Pid);

impl Drop for Halt {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).unwrap();
    }
}

// --- the clients -----------------------------------------------------------------------------------------------------

fn crowds() -> Vec<usize> {
    let sizes = std::env::var("GAIO_CROWDS").unwrap_or_else(|_| "1000,4000,12000".into());
    sizes.split(',').map(|size| size.trim().parse().unwrap()).collect()
}

/// The message of a client in a round: no two neighbours have the same.
fn message(client: usize, round: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((client * 31 + round * 7 + i) % 251).unwrap()).collect()
}

/// So many connections, all open at once. In each round everybody speaks before anybody listens; if the server is to be
/// `taken_by_surprise`, before it is awake, so that it has all of them to serve at once however fast it is.
fn crowd(server: &Remote, size: usize, len: usize, rounds: usize, taken_by_surprise: bool) {
    let mut peers: Vec<TcpStream> = (0..size)
        .map(|_| {
            let peer = TcpStream::connect(server.address).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            peer
        })
        .collect();
    let mut answer = vec![0; len];
    for round in 0..rounds {
        let halted = taken_by_surprise.then(|| server.halt());
        for (client, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&message(client, round, len)).unwrap();
        }
        drop(halted);
        for (client, peer) in peers.iter_mut().enumerate() {
            peer.read_exact(&mut answer).unwrap();
            assert!(answer == message(client, round, len), "client {client} of {size}, round {round}");
        }
    }
    for peer in &mut peers {
        peer.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for peer in &mut peers {
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "no byte more, and a clean end");
    }
}

/// One test: crowds of these sizes, against a server of each drive. In the child it is that server.
fn against_both_drives(name: &str, reads: Reads, sizes: &[usize], len: usize, rounds: usize) {
    let server = Server { reads, lot: 42 };
    match std::env::var("GAIO_ROLE").as_deref() {
        Ok("spawned") => return server.run::<Watcher<u64>>(),
        Ok(_) => return server.run::<EmbeddedWatcher<u64>>(),
        Err(_) => assert!(!is_child()),
    }
    raise_descriptor_limit();
    check(|| {
        for drive in ["spawned", "embedded"] {
            let server = Remote::start(name, drive);
            for size in sizes {
                crowd(&server, *size, len, rounds, matches!(reads, Reads::Pooled));
            }
            server.stop();
        }
    });
}

#[test]
fn a_kibibyte_each() {
    against_both_drives("a_kibibyte_each", Reads::Vec, &crowds(), 1_024, 1);
}

#[test]
fn sixteen_bytes_each() {
    against_both_drives("sixteen_bytes_each", Reads::Vec, &crowds(), 16, 1);
}

#[test]
fn ten_thousand_with_reads_of_every_kind() {
    let name = "ten_thousand_with_reads_of_every_kind";
    against_both_drives(name, Reads::Any { message: 700 }, &[10_000], 700, 2);
}

#[test]
fn ten_thousand_with_pooled_reads_and_a_small_arena() {
    against_both_drives("ten_thousand_with_pooled_reads_and_a_small_arena", Reads::Pooled, &[10_000], 1_024, 2);
}
