//! Models of the simulated system itself, and the proof that it shows what it is for: a lost wake-up as a deadlock.

#[path = "../../../loom-tests/common/mod.rs"]
mod common;

use std::io::IoSlice;

use super::*;
use crate::sync::thread;
use common::explore;

/// Q: does a wake from another thread end every sleep, whichever comes first?
#[test]
fn a_wake_ends_a_sleep_for_ever() {
    explore("sim a_wake_ends_a_sleep_for_ever", None, 5, || {
        let world = World::enter();
        let selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 9).unwrap();
        let other = thread::spawn(carry(move || {
            waker.wake();
            waker
        }));
        let mut out = Vec::new();
        selector.wait(&mut out, None).unwrap();
        assert_eq!(out.len(), 1);
        drop((other.join().unwrap(), selector));
        assert_eq!(world.open_descriptors(), 0, "each execution has a world of its own");
    });
}

/// Q: is a wake that nobody sends seen as a deadlock, and not as a test that passes?
#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_that_is_not_sent_is_a_deadlock() {
    loom::model(|| {
        let selector = Selector::new().unwrap();
        let _waker = Waker::new(&selector, 9).unwrap();
        selector.wait(&mut Vec::new(), None).unwrap();
    });
}

/// Q: does a drain before the look at the work keep every wake?
#[test]
fn a_wake_beside_the_drain_is_not_lost() {
    explore("sim a_wake_beside_the_drain_is_not_lost", None, 300, || {
        let selector = Selector::new().unwrap();
        let waker = std::sync::Arc::new(Waker::new(&selector, 9).unwrap());
        let work = std::sync::Arc::new(crate::sync::AtomicU64::new(0));
        let (remote, done) = (waker.clone(), work.clone());
        let other = thread::spawn(move || {
            for _ in 0..2 {
                done.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
                remote.wake();
            }
        });
        let mut out = Vec::new();
        while work.load(std::sync::atomic::Ordering::Acquire) < 2 {
            selector.wait(&mut out, None).unwrap();
            waker.drain();
        }
        other.join().unwrap();
    });
}

/// Q: does a loop that reads to EAGAIN before it sleeps miss nothing, with every attempt answered EAGAIN at first?
#[test]
fn an_echo_gets_through_though_everything_is_pending_first() {
    explore("sim an_echo_gets_through_though_everything_is_pending_first", None, 3_000, || {
        let world = World::enter();
        world.configure(|config| config.pending_first = true);
        let selector = Selector::new().unwrap();
        let (socket, peer) = world.pair();
        selector.register(&socket, 1).unwrap();
        let looper = thread::spawn(carry(move || {
            let (mut out, mut buf, mut sent) = (Vec::new(), Vec::with_capacity(4), 0);
            while sent == 0 {
                selector.wait(&mut out, None).unwrap();
                if buf.is_empty() {
                    let _ = recv_vec(&socket, &mut buf);
                }
                if !buf.is_empty() {
                    sent = send(&socket, &[IoSlice::new(&buf)]).unwrap_or(0);
                }
            }
        }));
        peer.send(b"hi").unwrap();
        let mut answer = [0; 4];
        assert_eq!(peer.recv_blocking(&mut answer).unwrap(), 2);
        looper.join().unwrap();
    });
}

/// Q: is a deadline explored as late and as early as it can be?
#[test]
fn a_deadline_beside_an_arrival_goes_both_ways() {
    static SEEN: std::sync::Mutex<[bool; 2]> = std::sync::Mutex::new([false; 2]);
    explore("sim a_deadline_beside_an_arrival_goes_both_ways", None, 10, || {
        let world = World::enter();
        world.configure(|config| config.clock = Clock::Eager);
        let selector = Selector::new().unwrap();
        let (socket, peer) = world.pair();
        selector.register(&socket, 1).unwrap();
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        let other = thread::spawn(move || {
            peer.send(b"x").unwrap();
            peer
        });
        selector.wait(&mut out, Some(10)).unwrap();
        let arrived = !out.is_empty();
        assert!(arrived || now() == 10);
        SEEN.lock().unwrap()[usize::from(arrived)] = true;
        drop(other.join().unwrap());
    });
    assert_eq!(*SEEN.lock().unwrap(), [true; 2]);
}
