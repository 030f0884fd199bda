//! The same random calls on the kernel and on the simulated system: every answer must be the same, and every edge of
//! the simulated system must be one of the kernel's, with the same bits.
//!
//! Within that, the kernel is free:
//!
//! | it may | so here |
//! |---|---|
//! | have edges of which the simulated system knows nothing, and more bits on those it shares | only the others are compared |
//! | answer a little later (TCP: what was sent is still on its way) | EAGAIN, and a success in place of an error, are asked again |
//! | make one event of several edges, or several of one | bits are added up between two calls |
//! | report descriptors in any order | they are compared by token |
//! | hand out in parts what TCP has brought | the parts are put together, and stop where the simulated read does |
//! | say how much fits, and tell of room only when there is a good deal of it | senders fill it up, and all is read, before edges are compared |
//!
//! The simulated system uses none of these freedoms but by its faults (`faults.rs`), each of which is one of them.
//!
//! Left out: a second urgent byte while the first is not passed (the kernel then takes the first for data), and a plain
//! close on top of one (it is unread, and makes a reset).

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::super::net::tests::{pair as pair_of_sockets, tcp_pair};
use super::super::{self as real, Bits, Errno, Readiness, StreamOptions};
use super::World;
use super::connection::Connection;

/// Waiting for what is on its way ends after so many milliseconds. Nothing that passes waits so long.
const PATIENCE: u32 = 5_000;

#[derive(Clone, Copy, Debug)]
enum Call {
    Send,
    /// TCP: an urgent byte, once. Unix: bytes that pass a descriptor.
    Mark,
    Recv,
    Peek,
    /// Sends until there is no room, and all of it is read at the other end.
    FillAndDrain,
    /// Registers, or takes that back.
    Register,
    ShutdownWrite,
    Close,
    Abort,
}

impl Call {
    /// Mostly sends and reads, and now and then what ends a connection.
    fn random(dice: &mut Dice) -> Self {
        match dice.roll(64) {
            0..24 => Self::Send,
            24..28 => Self::Mark,
            28..46 => Self::Recv,
            46..48 => Self::Peek,
            48..50 => Self::FillAndDrain,
            50..56 => Self::Register,
            56..60 => Self::ShutdownWrite,
            60..62 => Self::Close,
            _ => Self::Abort,
        }
    }
}

/// Both selectors, and what came for each token since it was last compared.
pub(super) struct Selectors {
    kernel: real::Selector,
    sim: super::Selector,
    edges: BTreeMap<u64, (Bits, Bits)>,
}

impl Selectors {
    pub(super) fn new() -> Self {
        let (kernel, sim) = (real::Selector::new().unwrap(), super::Selector::new().unwrap());
        Self { kernel, sim, edges: BTreeMap::new() }
    }

    pub(super) fn register(&mut self, token: u64, kernel: &real::Socket, sim: &super::Socket) {
        self.kernel.register(kernel, token).unwrap();
        self.sim.register(sim, token).unwrap();
        self.edges.insert(token, (Bits::NONE, Bits::NONE));
    }

    pub(super) fn deregister(&mut self, token: u64, kernel: &real::Socket, sim: &super::Socket) {
        self.kernel.deregister(kernel).unwrap();
        self.sim.deregister(sim).unwrap();
        self.forget(token);
    }

    /// Its sockets were closed.
    pub(super) fn forget(&mut self, token: u64) {
        self.edges.remove(&token);
    }

    /// Every edge of the simulated system must be one of the kernel's, at once or a little later.
    pub(super) fn compare(&mut self) {
        let mut out: Vec<Readiness> = Vec::new();
        self.sim.wait(&mut out, Some(0)).unwrap();
        for event in &out {
            self.edges.get_mut(&event.token).expect("an event of a socket that is open").1 |= event.bits;
        }
        let mut patience = 0..PATIENCE;
        loop {
            self.kernel.wait(&mut out, Some(0)).unwrap();
            for event in &out {
                self.edges.get_mut(&event.token).expect("an event of a socket that is open").0 |= event.bits;
            }
            if self.edges.values().all(|(kernel, sim)| kernel.contains(*sim)) {
                break;
            }
            assert!(patience.next().is_some(), "the kernel's edges and ours: {:?}", self.edges);
            thread::sleep(Duration::from_millis(1));
        }
        self.edges.values_mut().for_each(|edges| *edges = (Bits::NONE, Bits::NONE));
    }
}

/// xorshift: a test must come out the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides).expect("a small number")
    }
}

/// Calls the kernel until it answers as expected. Success in place of an error is an RST or an ACK on its way; EAGAIN is
/// anything that is.
pub(super) fn expect<T: PartialEq + std::fmt::Debug>(expected: Result<T, Errno>, call: impl Fn() -> Result<T, Errno>) {
    for _ in 0..PATIENCE {
        let answer = call();
        if answer == expected {
            return;
        }
        let on_its_way = (answer.is_ok() && expected.is_err()) || answer == Err(Errno::AGAIN);
        assert!(on_its_way, "{answer:?}, expected {expected:?}");
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{expected:?} never came");
}

pub(super) fn compare_recv(kernel: &real::Socket, sim: &super::Socket, room: usize) {
    let mut expected = Vec::with_capacity(room);
    // The allocator may give more room than was asked for.
    let limit = expected.capacity();
    let answer = super::recv_vec(sim, &mut expected);
    let mut bytes = Vec::with_capacity(limit);
    for _ in 0..PATIENCE {
        let mut part = vec![0; limit - bytes.len()];
        match real::recv_slice(kernel, &mut part) {
            Ok(len) if len > 0 => {
                bytes.extend_from_slice(&part[..len]);
                if bytes.len() == expected.len() {
                    assert_eq!(bytes, expected);
                    return;
                }
            }
            got if got == answer => return,
            got => assert_eq!(got, Err(Errno::AGAIN), "recv: expected {answer:?}, {expected:?}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("recv: {answer:?}, {expected:?} never came");
}

/// One end, on both systems.
struct Twins {
    token: u64,
    kernel: real::Socket,
    sim: super::Socket,
    registered: bool,
    /// It has sent an urgent byte, or its end.
    marked: bool,
    shut: bool,
}

impl Twins {
    fn send(&self, bytes: &[u8]) {
        let slices = [IoSlice::new(bytes)];
        expect(super::send(&self.sim, &slices), || real::send(&self.kernel, &slices));
    }

    fn send_with_descriptor(&self) {
        // Not one of the test's own: on its way it is not closed.
        let stderr = std::io::stderr();
        let passed = [stderr.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let bytes = [IoSlice::new(b"passed")];
        let kernel = rustix::net::sendmsg(&self.kernel, &bytes, &mut control, SendFlags::NOSIGNAL);
        let sim = super::send(&self.sim, &bytes);
        if let Ok(len) = sim {
            self.sim.on_connection(|connection, side| connection.mark(side, len)).unwrap();
        }
        assert_eq!(kernel, sim);
    }

    fn send_urgent(&mut self) {
        if !std::mem::replace(&mut self.marked, true) {
            assert_eq!(rustix::net::send(&self.kernel, b"!", SendFlags::OOB), Ok(1));
            self.sim.on_connection(|connection, side| connection.mark(side, 0)).unwrap();
        }
    }
}

/// Sends until EAGAIN, says how much that was.
fn fill(mut send: impl FnMut(&[IoSlice<'_>]) -> Result<usize, Errno>) -> usize {
    let (bytes, mut sent) = ([0; 4_096], 0);
    loop {
        match send(&[IoSlice::new(&bytes)]) {
            Ok(len) => sent += len,
            answer => {
                assert_eq!(answer, Err(Errno::AGAIN));
                return sent;
            }
        }
    }
}

/// Reads so much. What is still on its way is waited for.
fn drain(mut left: usize, mut recv: impl FnMut(&mut [u8]) -> Result<usize, Errno>) {
    let mut patience = 0..PATIENCE;
    while left > 0 {
        match recv(&mut [0; 4_096]) {
            Ok(len) => left -= len,
            answer => {
                assert_eq!(answer, Err(Errno::AGAIN));
                assert!(patience.next().is_some(), "{left} bytes never came");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Some connections in one selector.
struct Life {
    unix: bool,
    selectors: Selectors,
    pairs: Vec<[Option<Twins>; 2]>,
}

impl Life {
    fn new(world: &World, unix: bool, pairs: u64) -> Self {
        let mut selectors = Selectors::new();
        let pairs = (0..pairs).map(|pair| {
            let kernel = if unix { pair_of_sockets() } else { tcp_pair() };
            let sim = world.sockets_of(|buffer| Connection::new(buffer, unix));
            let both = [(kernel.0, sim.0), (kernel.1, sim.1)];
            let mut token = 2 * pair;
            both.map(|(kernel, sim)| {
                if !unix {
                    let small = StreamOptions { send_buffer: Some(4_096), ..StreamOptions::default() };
                    real::apply_buffers(&kernel, &small).unwrap();
                    // An abort takes back what was not sent yet.
                    real::set_nodelay(&kernel, true).unwrap();
                }
                selectors.register(token, &kernel, &sim);
                token += 1;
                Some(Twins { token: token - 1, kernel, sim, registered: true, marked: false, shut: false })
            })
        });
        let pairs = pairs.collect();
        Self { unix, selectors, pairs }
    }

    fn call(&mut self, call: Call, pair: usize, side: usize, dice: &mut Dice) {
        let unix = self.unix;
        let [near, far] = &mut self.pairs[pair];
        let (end, other) = if side == 0 { (near, far) } else { (far, near) };
        let Some(twins) = end else { return };
        // Shown if the comparison fails.
        eprintln!("end {}: {call:?}", twins.token);
        match call {
            Call::Send => twins.send(&b"abcdefgh"[..=dice.roll(8)]),
            Call::Mark if unix => twins.send_with_descriptor(),
            Call::Mark if other.is_some() && !twins.shut => twins.send_urgent(),
            Call::Mark => {}
            Call::Recv => compare_recv(&twins.kernel, &twins.sim, 1 + dice.roll(20)),
            Call::Peek => expect(super::peek(&twins.sim), || real::peek(&twins.kernel)),
            Call::FillAndDrain => {
                // Only where nothing else is under way: how much that was would have to be known.
                let idle = |other: &&Twins| super::peek(&other.sim) == Err(Errno::AGAIN) && !twins.marked;
                let Some(other) = other.as_ref().filter(idle).filter(|_| !twins.shut) else { return };
                if super::peek(&twins.sim) == Err(Errno::CONNRESET) {
                    return;
                }
                let kernel = fill(|bytes| real::send(&twins.kernel, bytes));
                let sim = fill(|bytes| super::send(&twins.sim, bytes));
                drain(kernel, |buf| real::recv_slice(&other.kernel, buf));
                drain(sim, |buf| super::recv_slice(&other.sim, buf));
            }
            Call::Register => {
                if twins.registered {
                    self.selectors.deregister(twins.token, &twins.kernel, &twins.sim);
                } else {
                    self.selectors.register(twins.token, &twins.kernel, &twins.sim);
                }
                twins.registered = !twins.registered;
            }
            Call::ShutdownWrite => {
                twins.shut = true;
                expect(super::shutdown_write(&twins.sim), || real::shutdown_write(&twins.kernel));
            }
            Call::Close | Call::Abort => {
                let urgent = !unix && other.as_ref().is_none_or(|other| other.marked);
                if matches!(call, Call::Abort) || urgent {
                    real::reset_on_close(&twins.kernel);
                    super::reset_on_close(&twins.sim);
                }
                self.selectors.forget(twins.token);
                *end = None;
            }
        }
    }
}

/// So many calls on one to three connections.
fn live(dice: &mut Dice, unix: bool, calls: usize) {
    eprintln!("new {} connections", if unix { "Unix" } else { "TCP" });
    let pairs = 1 + dice.roll(3);
    let mut life = Life::new(&World::enter(), unix, pairs as u64);
    for _ in 0..calls * pairs {
        let call = Call::random(dice);
        life.call(call, dice.roll(pairs as u64), dice.roll(2), dice);
        life.selectors.compare();
    }
}

#[test]
fn unix_streams_behave_as_the_kernels() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    (0..400).for_each(|_| live(&mut dice, true, 24));
}

#[test]
fn tcp_connections_behave_as_the_kernels() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    (0..200).for_each(|_| live(&mut dice, false, 24));
}
