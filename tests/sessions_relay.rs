//! Two typed sessions tied to each other: a relay, with back-pressure both ways and each end of the stream passed on.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use gaio::{Address, End, Expect, Io, Next, Protocol, Server, SessionLimits};
use support::{Pattern, Peer, check, until};

enum Word {
    /// The other side stands, and here it is.
    Linked(Address<Self>),
    Data(Bytes),
    /// The other side's output is full; it has room again.
    Pause,
    Resume,
    Eof,
    /// The other side has ended.
    Gone,
}

/// One half. A client's is not linked until its backend's has opened.
struct Half {
    other: Option<Address<Word>>,
    backend: Option<SocketAddr>,
    paused: bool,
    /// Ends of stream: the peer's, and the other side's.
    ends: u8,
}

/// The most output that was queued in any half.
static MOST: AtomicUsize = AtomicUsize::new(0);
const HIGH: usize = 64 << 10;

impl Half {
    fn tell(&self, word: Word) {
        if let Some(other) = &self.other {
            // On one loop: never full.
            let _ = other.send(word);
        }
    }

    fn ended(mut self) -> Next<Self> {
        self.ends += 1;
        if self.ends == 2 { Next::Close(self) } else { Next::Become(self) }
    }
}

impl Protocol for Half {
    type Message = Word;

    fn expects(&self) -> Expect {
        if self.paused || self.other.is_none() { Expect::nothing() } else { Expect::any() }
    }

    fn on_open(mut self, io: &mut Io<'_, Self>) -> Next<Self> {
        match self.backend.take() {
            Some(backend) => {
                let other = Some(io.address());
                io.connect(backend, Self { other, backend: None, paused: false, ends: 0 });
            }
            None => self.tell(Word::Linked(io.address())),
        }
        Next::Become(self)
    }

    fn on_frame(self, bytes: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        self.tell(Word::Data(Bytes::copy_from_slice(bytes)));
        Next::Become(self)
    }

    fn on_message(mut self, word: Word, io: &mut Io<'_, Self>) -> Next<Self> {
        match word {
            Word::Linked(other) => self.other = Some(other),
            Word::Data(bytes) => {
                io.write_bytes(bytes);
                MOST.fetch_max(io.queued(), Ordering::Relaxed);
                if io.queued() > HIGH {
                    self.tell(Word::Pause);
                }
            }
            Word::Pause => self.paused = true,
            Word::Resume => self.paused = false,
            Word::Eof => {
                io.end_output();
                return self.ended();
            }
            Word::Gone => return Next::Close(self),
        }
        Next::Become(self)
    }

    fn on_drained(self, _io: &mut Io<'_, Self>) -> Next<Self> {
        self.tell(Word::Resume);
        Next::Become(self)
    }

    fn on_eof(self, _io: &mut Io<'_, Self>) -> Next<Self> {
        self.tell(Word::Eof);
        self.ended()
    }

    fn on_end(state: Option<Self>, _end: &End) {
        if let Some(half) = state {
            half.tell(Word::Gone);
        }
    }
}

fn peer(stream: TcpStream) -> Peer {
    OwnedFd::from(stream).into()
}

#[test]
fn two_tied_sessions_hold_each_other_back_and_lose_nothing() {
    check(|| {
        const TOTAL: usize = 24 << 20;
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = backend.local_addr().unwrap();
        let mut limits = SessionLimits::default();
        limits.high_water = HIGH;
        let server = Server::bind("127.0.0.1:0").unwrap().limits(limits);
        let server =
            server.serve(move |_| Half { other: None, backend: Some(address), paused: false, ends: 0 }).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let (far, _) = backend.accept().unwrap();
        // Both directions, and neither end reads until both have sent what goes in.
        let ends = [peer(client), peer(far)];
        let senders: Vec<_> = ends
            .iter()
            .map(|end| {
                let mut end = end.try_clone().unwrap();
                thread::spawn(move || {
                    Pattern::new().send(&mut end, TOTAL);
                    end.shutdown(Shutdown::Write).unwrap();
                })
            })
            .collect();
        let settled = || {
            let frames = server.hubs()[0].counters().frames;
            thread::sleep(std::time::Duration::from_millis(20));
            frames == server.hubs()[0].counters().frames
        };
        until(settled);
        assert!(senders.iter().all(|sender| !sender.is_finished()), "nobody reads, so nobody gets rid of it all");
        let receivers: Vec<_> = ends
            .into_iter()
            .map(|mut end| {
                thread::spawn(move || {
                    Pattern::new().receive(&mut end, TOTAL);
                    assert_eq!(end.read(&mut [0]).unwrap(), 0, "and the end is passed on");
                })
            })
            .collect();
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        until(|| server.hubs()[0].sessions() == 0);
        // What one turn may read comes on top, before the pause is heard.
        let most = MOST.load(Ordering::Relaxed);
        assert!(most > HIGH && most <= HIGH + 2 * (256 << 10), "{most}");
        assert_eq!(server.hubs()[0].counters().ended_themselves, 2);
    });
}

#[test]
fn an_end_by_force_is_passed_on() {
    check(|| {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = backend.local_addr().unwrap();
        let server = Server::bind("127.0.0.1:0").unwrap();
        let server =
            server.serve(move |_| Half { other: None, backend: Some(address), paused: false, ends: 0 }).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let (mut far, _) = backend.accept().unwrap();
        support::reset(peer(client));
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        drop(far);
        until(|| server.hubs()[0].sessions() == 0);
        // A backend that is not there: its half is told so by `on_end`, and tells the client.
        drop(backend);
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let mut client = peer(client);
        assert_eq!(support::read_to_its_end(&mut client), (0, None));
        drop(client);
        until(|| server.hubs()[0].sessions() == 0);
    });
}
