//! The same random calls on the kernel and on the simulated system: every answer must be the same, and every edge of
//! the simulated system must be one of the kernel's, with the same bits. (The kernel may have more.)
//!
//! Over loopback the kernel answers at once, but need not: TCP may deliver a little later. So an answer that is still
//! on its way is waited for; one that differs is not.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::thread;
use std::time::Duration;

use super::super::net::tests::{pair, tcp_pair};
use super::super::{self as real, Bits, Errno, Readiness};
use super::World;
use super::connection::Connection;

/// Waiting for what is on its way ends after so many milliseconds. Nothing that passes waits so long.
const PATIENCE: u32 = 5_000;

#[derive(Clone, Copy, Debug)]
enum Call {
    Send,
    Recv,
    ShutdownWrite,
    Close,
    Abort,
}

impl Call {
    /// Mostly sends and reads, and now and then what ends a connection.
    fn random(dice: &mut Dice) -> Self {
        match dice.roll(16) {
            0..7 => Self::Send,
            7..12 => Self::Recv,
            12..14 => Self::ShutdownWrite,
            14 => Self::Close,
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

/// One connection's life, of so many calls.
fn live(dice: &mut Dice, unix: bool, calls: usize) {
    eprintln!("a new {} connection", if unix { "Unix" } else { "TCP" });
    let world = World::enter();
    let (ours, theirs) = if unix { pair() } else { tcp_pair() };
    let mut kernel = [Some(ours), Some(theirs)];
    let (near, far) = world.sockets_of(|buffer| Connection::new(buffer, unix));
    let mut sim = [Some(near), Some(far)];
    let mut selectors = Selectors::new();
    for side in 0..2 {
        selectors.register(side as u64, kernel[side].as_ref().unwrap(), sim[side].as_ref().unwrap());
    }
    for _ in 0..calls {
        let side = dice.roll(2);
        if let (Some(ours), Some(simulated)) = (&kernel[side], &sim[side]) {
            let call = Call::random(dice);
            // Shown if the comparison fails.
            eprintln!("end {side}: {call:?}");
            match call {
                Call::Send => {
                    let bytes = [IoSlice::new(&b"abcdefgh"[..=dice.roll(8)])];
                    expect(super::send(simulated, &bytes), || real::send(ours, &bytes));
                }
                Call::Recv => compare_recv(ours, simulated, 1 + dice.roll(20)),
                Call::ShutdownWrite => expect(super::shutdown_write(simulated), || real::shutdown_write(ours)),
                Call::Abort => {
                    real::reset_on_close(ours);
                    super::reset_on_close(simulated);
                }
                Call::Close => {}
            }
            if matches!(call, Call::Close | Call::Abort) {
                kernel[side] = None;
                sim[side] = None;
                selectors.forget(side as u64);
            }
        }
        selectors.compare();
    }
}

#[test]
fn unix_streams_behave_as_the_kernels() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    (0..500).for_each(|_| live(&mut dice, true, 24));
}

#[test]
fn tcp_connections_behave_as_the_kernels() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    (0..300).for_each(|_| live(&mut dice, false, 24));
}
