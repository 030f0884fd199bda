//! A connection changes hands, from one loop to another: `cargo run --release --example two-loops`. It plays the client,
//! too, runs to its end by itself, and says what it did.
//!
//! ```text
//!   front                                            back
//!   accepts, reads the first line: who is asked for
//!   into_fd ──► Detached ──► delegate_with ────────► answers each line, until the client has no more
//! ```
//!
//! Why one would: the front is for short work and many strangers, the back has the state, or a CPU of its own.
//!
//! What the front has read beyond the first line must not be lost, and it must come before what the kernel still has.
//! That is what `delegate_with` takes, and the reads of the new loop bring it first. If bytes had come to the front in
//! the same way, those that no read has taken would be in `Detached::leftover`, so they go behind what was read.
//!
//! Each loop is owned by the thread that turns it; only the socket and its bytes go from one to the other.

#![expect(clippy::print_stdout, reason = "what it did is its output")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gaio::{Batch, Conn, EmbeddedWatcher, Event, ListenOptions, Options, Outcome, SubmitError, Submitter, WaitError};

type Failed = Box<dyn Error + Send + Sync>;

/// The longest first line, with all that may come along with it.
const MOST_BYTES: usize = 4096;

/// Turns a loop until it is shut down.
fn run<C: Send + 'static>(
    mut watcher: EmbeddedWatcher<C>,
    mut serve: impl FnMut(Batch<'_, C>) -> Result<(), Failed>,
) -> Result<(), Failed> {
    loop {
        match watcher.turn(None) {
            Ok(batch) => serve(batch)?,
            Err(WaitError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The context of the front's operations: what has been read of a connection so far.
type Read = BytesMut;

/// The front: reads up to the first line's end, and passes the connection on.
fn front(event: Event<'_, Read>, back: &Submitter<Lines>) -> Result<(), Failed> {
    let (conn, mut read, outcome) = match event {
        Event::Accepted { conn, .. } => return Ok(conn.read_pooled().submit()?),
        Event::Done { conn, context, outcome } => (conn, context, outcome),
        _ => return Ok(()),
    };
    match outcome {
        Outcome::Pooled(bytes) => {
            read.extend_from_slice(bytes);
            if read.contains(&b'\n') {
                // No read is pending now, and none may be: it would take bytes that are the back's.
                conn.into_fd().submit_with(read)?;
            } else if read.len() < MOST_BYTES {
                conn.read_pooled().submit_with(read)?;
            }
            // Otherwise the handle is dropped, which closes the connection.
        }
        Outcome::Detached(detached) => {
            let end = read.iter().position(|byte| *byte == b'\n').map_or(read.len(), |at| at + 1);
            let first = read.split_to(end);
            read.extend_from_slice(&detached.leftover);
            println!("front: {:?} is asked for, {} bytes were read beyond it", text(&first), read.len());
            let conn = back.delegate_with(detached.socket, read)?;
            // From here on the back's thread hears of it, and the front has nothing of it any more.
            conn.read_pooled().submit_with(Lines::default())?;
        }
        Outcome::Failed(failure) => println!("front: lost a client: {}", failure.error),
        _ => {}
    }
    Ok(())
}

/// The context of the back's operations: the beginning of a line that is not whole yet.
#[derive(Default)]
struct Lines {
    partial: BytesMut,
}

impl Lines {
    /// The answers to all whole lines.
    fn answers(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        self.partial.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while let Some(at) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line = self.partial.split_to(at + 1);
            println!("back: {:?} has come", text(&line));
            answers.extend([Bytes::from_static(b"the back has "), line.freeze()]);
        }
        answers
    }
}

/// The back: answers lines.
fn back(event: Event<'_, Lines>) -> Result<(), SubmitError<Lines>> {
    let Event::Done { conn, context: mut lines, outcome } = event else { return Ok(()) };
    match outcome {
        Outcome::Pooled(bytes) => answer(&conn, lines.answers(bytes), lines),
        Outcome::Failed(failure) => {
            println!("back: lost a client: {}", failure.error);
            Ok(())
        }
        // The client has no more to say: what is left of a line is no line. The last handle is dropped here.
        _ => {
            println!("back: the client has ended");
            Ok(())
        }
    }
}

fn answer(conn: &Conn<Lines>, answers: Vec<Bytes>, lines: Lines) -> Result<(), SubmitError<Lines>> {
    if answers.is_empty() {
        return conn.read_pooled().submit_with(lines);
    }
    conn.write_vectored(answers).then_read_pooled().submit_with(lines)
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}

/// The client: notices nothing.
fn client(address: SocketAddr) -> Result<(), Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The first line, a whole one for the back, and the beginning of another.
    stream.write_all(b"the back, please\none\ntw")?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let mut hear = || -> Result<(), Failed> {
        println!("client: heard {:?}", answers.next().ok_or("the connection has ended")??);
        Ok(())
    };
    hear()?;
    // By now it is with the back, and this comes to it by the kernel.
    stream.write_all(b"o\nthree\n")?;
    hear()?;
    hear()?;
    stream.shutdown(Shutdown::Write)?;
    match answers.next() {
        None => println!("client: it was closed in order"),
        Some(more) => return Err(format!("too much came: {:?}", more?).into()),
    }
    Ok(())
}

fn main() -> Result<(), Failed> {
    let (front_watcher, to_front) = EmbeddedWatcher::<Read>::new_for(Options::default())?;
    let listener = to_front.listen_on(SocketAddr::from(([127, 0, 0, 1], 0)), &ListenOptions::default())?;
    let address = listener.local_addr().ok_or("the listener has no address")?;
    let (to_main, from_back) = std::sync::mpsc::channel();
    let back_thread = thread::spawn(move || -> Result<(), Failed> {
        // An embedded loop is built on the thread that turns it.
        let (watcher, to_back) = EmbeddedWatcher::<Lines>::new_for(Options::default())?;
        to_main.send(to_back)?;
        run(watcher, |batch| batch.into_iter().try_for_each(|event| Ok(back(event)?)))
    });
    let to_back = from_back.recv()?;
    let ending = (to_front, to_back.clone());
    let client_thread = thread::spawn(move || {
        let result = client(address);
        ending.0.shutdown(Duration::from_secs(1));
        ending.1.shutdown(Duration::from_secs(1));
        result
    });
    run(front_watcher, |batch| batch.into_iter().try_for_each(|event| front(event, &to_back)))?;
    client_thread.join().map_err(|_| "the client panicked")??;
    back_thread.join().map_err(|_| "the back panicked")??;
    println!("two loops, one connection: done");
    Ok(())
}
