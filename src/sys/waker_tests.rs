//! What every waker and every bell does, whatever it is made of: the tests of both.

/// Expands to the tests, in a module beside a `Waker` and a `Bell`.
macro_rules! waker_tests {
    () => {
        use std::sync::Arc;
        use std::thread;

        use super::super::{Bits, Readiness};
        use super::*;

        const EVENT: Readiness = Readiness { token: 9, bits: Bits::READABLE };

        fn poll(selector: &Selector) -> Vec<Readiness> {
            let mut out = Vec::new();
            selector.wait(&mut out, Some(0)).unwrap();
            out
        }

        #[test]
        fn a_wake_from_another_thread_ends_a_sleep_for_ever() {
            let selector = Selector::new().unwrap();
            let waker = Arc::new(Waker::new(&selector, 9).unwrap());
            let mut out = Vec::new();
            for _ in 0..100 {
                let remote = Arc::clone(&waker);
                let thread = thread::spawn(move || remote.wake());
                selector.wait(&mut out, None).unwrap();
                assert_eq!(out, [EVENT]);
                waker.drain();
                thread.join().unwrap();
            }
            assert_eq!(poll(&selector), []);
        }

        #[test]
        fn wakes_before_the_wait_are_one_event_and_the_next_one_another() {
            let selector = Selector::new().unwrap();
            let waker = Waker::new(&selector, 9).unwrap();
            assert_eq!(poll(&selector), []);
            (0..3).for_each(|_| waker.wake());
            assert_eq!(poll(&selector), [EVENT]);
            waker.drain();
            assert_eq!(poll(&selector), []);
            waker.wake();
            assert_eq!(poll(&selector), [EVENT]);
        }

        #[test]
        fn a_bell_is_readable_from_a_ring_until_it_is_silenced() {
            let bell = Bell::new().unwrap();
            let readable = || {
                let mut fds = [rustix::event::PollFd::new(&bell, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
            };
            assert!(!readable());
            bell.silence();
            for rings in [1, 3, 200] {
                (0..rings).for_each(|_| bell.ring());
                assert!(readable() && readable());
                bell.silence();
                assert!(!readable(), "{rings} rings are silenced at once");
            }
        }
    };
}
pub(super) use waker_tests;
