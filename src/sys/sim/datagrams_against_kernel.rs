//! The same random calls on datagram sockets of the kernel and of the simulated system, as in `against_kernel.rs`.
//!
//! Left out: a socket that is full. Where the kernel says so depends on how it counts memory.

use std::io::IoSlice;

use super::super as real;
use super::super::datagram::tests::{udp_pair, unix_datagrams};
use super::against_kernel::{Dice, Selectors, expect};
use super::connection::Connection;
use super::{Socket, World};

#[derive(Clone, Copy, Debug)]
enum Call {
    Send,
    Recv,
    Next,
    Peek,
    TakeError,
    Close,
}

impl Call {
    fn random(dice: &mut Dice) -> Self {
        match dice.roll(16) {
            0..7 => Self::Send,
            7..12 => Self::Recv,
            12 => Self::Next,
            13 => Self::Peek,
            14 => Self::TakeError,
            _ => Self::Close,
        }
    }
}

fn compare(call: Call, dice: &mut Dice, kernel: &real::Socket, sim: &Socket) {
    match call {
        Call::Send => {
            let (one, two) = (dice.roll(8), dice.roll(8));
            let slices = [IoSlice::new(&b"abcdefgh"[..one]), IoSlice::new(&b"ijklmnop"[..two])];
            let slices = &slices[..dice.roll(3)];
            expect(super::send(sim, slices), || real::send(kernel, slices));
        }
        Call::Recv => {
            let room = 1 + dice.roll(12);
            let mut buf = vec![0; room];
            let expected = super::recv_datagram_slice(sim, &mut buf).map(|datagram| (datagram, buf));
            expect(expected, || {
                let mut buf = vec![0; room];
                real::recv_datagram_slice(kernel, &mut buf).map(|datagram| (datagram, buf))
            });
        }
        Call::Next => expect(super::next_datagram(sim), || real::next_datagram(kernel)),
        Call::Peek => expect(super::peek(sim), || real::peek(kernel)),
        Call::TakeError => expect(super::so_error(sim), || real::so_error(kernel)),
        Call::Close => {}
    }
}

/// Two sockets' life, of so many calls.
fn live(dice: &mut Dice, unix: bool, calls: usize) {
    eprintln!("a new pair of {} sockets", if unix { "Unix" } else { "UDP" });
    let world = World::enter();
    let (ours, theirs) = if unix { unix_datagrams() } else { udp_pair() };
    let mut kernel = [Some(ours), Some(theirs)];
    let (near, far) = world.sockets_of(|buffer| Connection::of_datagrams(buffer, unix));
    let mut sim = [Some(near), Some(far)];
    let mut selectors = Selectors::new();
    for side in 0..2 {
        selectors.register(side as u64, kernel[side].as_ref().unwrap(), sim[side].as_ref().unwrap());
    }
    for _ in 0..calls {
        let side = dice.roll(2);
        let (Some(ours), Some(simulated)) = (&kernel[side], &sim[side]) else { continue };
        let call = Call::random(dice);
        // Shown if the comparison fails.
        eprintln!("socket {side}: {call:?}");
        compare(call, dice, ours, simulated);
        if matches!(call, Call::Close) {
            kernel[side] = None;
            sim[side] = None;
            selectors.forget(side as u64);
        }
        selectors.compare();
    }
}

#[test]
fn unix_datagrams_behave_as_the_kernels() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    (0..500).for_each(|_| live(&mut dice, true, 32));
}

#[test]
fn udp_behaves_as_the_kernels() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    (0..500).for_each(|_| live(&mut dice, false, 32));
}
