//! The same random calls on the kernel and on the simulated system: every answer must be the same, and every edge of
//! the simulated system must be one of the kernel's, with the same bits. (The kernel may have more.)
//!
//! Over loopback the kernel answers at once, but need not: TCP may deliver a little later. So an answer that is still
//! on its way is waited for; one that differs is not.

use std::io::IoSlice;
use std::thread;
use std::time::Duration;

use super::super::net::tests::{pair, tcp_pair};
use super::super::{self as real, Bits, Errno, Readiness};
use super::World;

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

struct Ends<S> {
    ends: [Option<S>; 2],
    /// What came for each end since it was last compared.
    edges: [Bits; 2],
}

impl<S> Ends<S> {
    fn new(pair: (S, S)) -> Self {
        Self { ends: [Some(pair.0), Some(pair.1)], edges: [Bits::NONE; 2] }
    }

    fn note(&mut self, events: &[Readiness]) {
        for event in events {
            self.edges[usize::from(event.token == 1)] |= event.bits;
        }
    }
}

/// xorshift: a test must come out the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides).expect("a small number")
    }
}

/// Calls the kernel until it answers as expected. Success in place of an error is an RST or an ACK on its way.
fn expect<T: PartialEq + std::fmt::Debug>(expected: Result<T, Errno>, call: impl Fn() -> Result<T, Errno>) {
    for _ in 0..PATIENCE {
        let answer = call();
        if answer == expected {
            return;
        }
        assert!(answer.is_ok() && expected.is_err(), "{answer:?}, expected {expected:?}");
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{expected:?} never came");
}

fn compare_recv(kernel: &real::Socket, sim: &super::Socket, room: usize) {
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
    let mut kernel = Ends::new(if unix { pair() } else { tcp_pair() });
    let mut sim = Ends::new(world.sockets_of(unix));
    let mut kernel_selector = real::Selector::new().unwrap();
    let mut sim_selector = super::Selector::new().unwrap();
    for side in 0..2 {
        kernel_selector.register(kernel.ends[side].as_ref().unwrap(), side as u64).unwrap();
        sim_selector.register(sim.ends[side].as_ref().unwrap(), side as u64).unwrap();
    }
    let mut out = Vec::new();
    for _ in 0..calls {
        let side = dice.roll(2);
        if let (Some(ours), Some(simulated)) = (&kernel.ends[side], &sim.ends[side]) {
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
                kernel.ends[side] = None;
                sim.ends[side] = None;
            }
        }
        sim_selector.wait(&mut out, Some(0)).unwrap();
        sim.note(&out);
        let mut patience = 0..PATIENCE;
        loop {
            kernel_selector.wait(&mut out, Some(0)).unwrap();
            kernel.note(&out);
            if (0..2).all(|side| kernel.ends[side].is_none() || kernel.edges[side].contains(sim.edges[side])) {
                break;
            }
            assert!(patience.next().is_some(), "edges: {:?}, expected {:?}", kernel.edges, sim.edges);
            thread::sleep(Duration::from_millis(1));
        }
        kernel.edges = [Bits::NONE; 2];
        sim.edges = [Bits::NONE; 2];
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
