//! Selector over epoll.
//!
//! Every socket is registered once, for everything, edge-triggered: no syscall when an operation begins or ends. What
//! one pays is the duty to remember readiness that was told and not used.
//!
//! The selector is used by the loop thread alone. Only the waker's descriptor is shared.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Instant;

use rustix::event::{Timespec, epoll};

use super::{Bits, Errno, MAX_EVENTS, Readiness};

/// One owned descriptor.
pub type Socket = OwnedFd;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Before Linux 5.11 the kernel takes milliseconds in an `int`. One sleep is never longer than this (24.8 days), on
/// any kernel: the wait then ends with nothing, and the caller sleeps again.
const MAX_SLEEP_MILLIS: u64 = i32::MAX as u64;

/// Monotonic nanoseconds since the first call of this process.
pub(crate) fn now() -> u64 {
    at(Instant::now())
}

/// What [`now`] says at an instant: always the same of one. 0 before its first call.
pub(crate) fn at(instant: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let since = instant.saturating_duration_since(*FIRST.get_or_init(Instant::now));
    // 2^64 ns are 584 years of uptime.
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Wraps the body of a thread that is about to be spawned. A real system is the same in every thread.
pub(crate) fn carry<T, F: FnOnce() -> T>(body: F) -> F {
    body
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Selector {
    epoll: OwnedFd,
}

impl Selector {
    pub(crate) fn new() -> io::Result<Self> {
        // The clock starts here, so that no deadline is computed before its zero.
        now();
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Registers for everything, once. What is already there makes the first event.
    pub(crate) fn register(&self, socket: &Socket, token: u64) -> Result<(), Errno> {
        use epoll::EventFlags as Flags;
        // EPOLLPRI: a TCP read stops at an urgent mark, and without this bit nobody would know that bytes are left.
        let interest = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::PRI | Flags::ET;
        self.add(socket.as_fd(), token, interest)
    }

    /// Registers a waker's reading end. Edge-triggered: an eventfd is never read, so level-triggered would spin.
    pub(super) fn register_waker(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        self.add(fd, token, epoll::EventFlags::IN | epoll::EventFlags::ET)
    }

    fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: epoll::EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), interest)
    }

    /// Ends the registration. Must come before the close: epoll follows the open file description, so a duplicate in
    /// a child process would keep sending events for a token that is long somebody else's.
    pub(crate) fn deregister(&self, socket: &Socket) -> Result<(), Errno> {
        epoll::delete(&self.epoll, socket)
    }

    /// Sleeps until something is ready or `deadline` (of [`now`]) has come, and replaces the contents of `out`.
    ///
    /// `None` sleeps for ever; a deadline in the past looks and does not sleep. It may come back early with nothing,
    /// after a signal or a sleep of 24.8 days, so the caller asks its clock again. It never comes back before the
    /// deadline for reasons of rounding: that would be a spin of up to a millisecond for every timer.
    ///
    /// Says whether the deadline may have come: it had when this began, or nothing else has. If something has, whoever
    /// waits again hears of it then, and is spared a look at the clock now.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "the contract: one thread waits, and a backend may keep state")]
    #[inline(always)]
    pub(crate) fn wait(&self, out: &mut Vec<Readiness>, deadline: Option<u64>) -> Result<bool, Errno> {
        out.clear();
        let ahead = deadline.map(time_until);
        let timeout = ahead.map(sleep_for);
        // On the stack: rustix's event is a union with a pointer in it and not Send, which would keep the whole loop
        // from moving to its thread.
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; MAX_EVENTS];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        out.extend(ready.iter().map(|event| Readiness { token: event.data.u64(), bits: bits_of(event.flags) }));
        Ok(ahead == Some(0) || out.is_empty())
    }
}

impl AsFd for Selector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// How far it is ahead.
fn time_until(deadline: u64) -> u64 {
    // Zero needs no clock, and is what a loop with work in hand asks for.
    if deadline == 0 { 0 } else { deadline.saturating_sub(now()) }
}

/// Nanoseconds as the kernel's timeout: whole milliseconds, rounded up, clamped.
fn sleep_for(nanos: u64) -> Timespec {
    let millis = nanos.div_ceil(NANOS_PER_MILLI).min(MAX_SLEEP_MILLIS);
    let secs = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanos = (millis % 1000) * NANOS_PER_MILLI;
    Timespec { tv_sec: secs, tv_nsec: nanos.try_into().unwrap_or(0) }
}

#[inline(always)]
fn bits_of(flags: epoll::EventFlags) -> Bits {
    use epoll::EventFlags as Flags;
    // What nearly all events say.
    if flags == Flags::IN.union(Flags::OUT) {
        return Bits::READABLE.union(Bits::WRITABLE);
    }
    rare_bits_of(flags)
}

fn rare_bits_of(flags: epoll::EventFlags) -> Bits {
    use epoll::EventFlags as Flags;
    let mut bits = Bits::NONE;
    if flags.contains(Flags::IN) {
        bits |= Bits::READABLE;
    }
    if flags.contains(Flags::OUT) {
        bits |= Bits::WRITABLE;
    }
    if flags.contains(Flags::PRI) {
        bits |= Bits::READABLE | Bits::PRIORITY;
    }
    if flags.contains(Flags::RDHUP) {
        bits |= Bits::READABLE | Bits::HANGUP;
    }
    // Both directions: a read and a write each have an error to report, and no other edge may come.
    if flags.intersects(Flags::HUP | Flags::ERR) {
        bits |= Bits::READABLE | Bits::WRITABLE | Bits::HANGUP;
    }
    bits
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::super::net::tests::{pair, tcp_pair};
    use super::super::net::{recv_slice, send, shutdown_write};
    use super::super::waker_eventfd::Waker;
    use super::*;

    fn poll(selector: &Selector) -> Vec<Readiness> {
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        out
    }

    fn bytes(socket: &Socket, text: &[u8]) {
        assert_eq!(send(socket, &[io::IoSlice::new(text)]), Ok(text.len()));
    }

    #[test]
    fn an_edge_fires_once_and_again_with_new_data() {
        let selector = Selector::new().unwrap();
        let (ours, theirs) = pair();
        selector.register(&ours, 7).unwrap();
        assert_eq!(poll(&selector), [Readiness { token: 7, bits: Bits::WRITABLE }]);
        assert_eq!(poll(&selector), []);

        bytes(&theirs, b"one");
        assert_eq!(poll(&selector), [Readiness { token: 7, bits: Bits::READABLE | Bits::WRITABLE }]);
        assert_eq!(poll(&selector), [], "unread data is not an edge");
        bytes(&theirs, b"two");
        assert_eq!(poll(&selector).len(), 1, "more data is an edge, read or not");
    }

    #[test]
    fn what_was_there_before_the_registration_is_the_first_edge() {
        let selector = Selector::new().unwrap();
        let (ours, theirs) = pair();
        bytes(&theirs, b"early");
        selector.register(&ours, u64::MAX).unwrap();
        assert_eq!(poll(&selector), [Readiness { token: u64::MAX, bits: Bits::READABLE | Bits::WRITABLE }]);
    }

    #[test]
    fn a_half_close_hangs_up_one_way_and_a_close_both_ways() {
        let selector = Selector::new().unwrap();
        let (ours, theirs) = pair();
        selector.register(&ours, 1).unwrap();
        poll(&selector);
        shutdown_write(&theirs).unwrap();
        assert_eq!(poll(&selector)[0].bits, Bits::READABLE | Bits::WRITABLE | Bits::HANGUP);
        assert_eq!(send(&ours, &[io::IoSlice::new(b"still heard")]), Ok(11));
        assert_eq!(recv_slice(&ours, &mut [0; 8]), Ok(0));
        drop(theirs);
        assert_eq!(poll(&selector)[0].bits, Bits::READABLE | Bits::WRITABLE | Bits::HANGUP);
    }

    #[test]
    fn an_error_alone_is_ready_both_ways() {
        assert_eq!(bits_of(epoll::EventFlags::ERR), Bits::READABLE | Bits::WRITABLE | Bits::HANGUP);
        assert_eq!(bits_of(epoll::EventFlags::HUP), Bits::READABLE | Bits::WRITABLE | Bits::HANGUP);
        assert_eq!(bits_of(epoll::EventFlags::RDHUP), Bits::READABLE | Bits::HANGUP);
        assert_eq!(bits_of(epoll::EventFlags::PRI), Bits::READABLE | Bits::PRIORITY);
        assert_eq!(bits_of(epoll::EventFlags::OUT), Bits::WRITABLE);
    }

    #[test]
    fn a_deregistered_socket_is_silent_though_a_duplicate_lives() {
        let selector = Selector::new().unwrap();
        let (ours, theirs) = pair();
        let duplicate = ours.try_clone().unwrap();
        selector.register(&ours, 1).unwrap();
        poll(&selector);
        selector.deregister(&ours).unwrap();
        drop(ours);
        bytes(&theirs, b"to nobody");
        assert_eq!(poll(&selector), []);
        drop(duplicate);
    }

    #[test]
    fn a_socket_registers_once_and_a_file_not_at_all() {
        let selector = Selector::new().unwrap();
        let (ours, _theirs) = pair();
        selector.register(&ours, 1).unwrap();
        assert_eq!(selector.register(&ours, 2), Err(Errno::EXIST));
        let file = OwnedFd::from(std::fs::File::open("Cargo.toml").unwrap());
        assert_eq!(selector.register(&file, 3), Err(Errno::PERM));
        let (stranger, _theirs) = pair();
        assert_eq!(selector.deregister(&stranger), Err(Errno::NOENT));
    }

    #[test]
    fn a_wait_empties_what_was_there_and_bounds_what_comes() {
        let selector = Selector::new().unwrap();
        let pairs: Vec<_> = (0..MAX_EVENTS as u64 + 1).map(|_| UnixStream::pair().unwrap()).collect();
        for (token, (ours, _)) in pairs.iter().enumerate() {
            selector.register(&ours.try_clone().unwrap().into(), token as u64).unwrap();
        }
        let mut out = vec![Readiness { token: 0, bits: Bits::NONE }];
        let mut seen = 0;
        while seen < pairs.len() {
            selector.wait(&mut out, Some(0)).unwrap();
            assert_eq!(out.len(), MAX_EVENTS.min(pairs.len() - seen));
            seen += out.len();
        }
        assert_eq!(seen, pairs.len(), "the rest comes with the next wait, once");
    }

    #[test]
    fn sleeps_are_whole_milliseconds_rounded_up_and_clamped() {
        let millis = |nanos| {
            let time = sleep_for(nanos);
            u64::try_from(time.tv_sec).unwrap() * 1000 + u64::try_from(time.tv_nsec).unwrap() / NANOS_PER_MILLI
        };
        assert_eq!(millis(0), 0);
        assert_eq!(millis(1), 1, "a truncated sleep would be a spin");
        assert_eq!(millis(NANOS_PER_MILLI), 1);
        assert_eq!(millis(NANOS_PER_MILLI + 1), 2);
        assert_eq!(millis(1_999 * NANOS_PER_MILLI + 1), 2_000);
        let longest = i32::MAX as u64;
        assert_eq!(millis(longest * NANOS_PER_MILLI), longest);
        assert_eq!(millis((longest + 1) * NANOS_PER_MILLI), longest);
        assert_eq!(millis(u64::MAX), longest);
    }

    #[test]
    fn deadlines_at_zero_and_in_the_past_only_look() {
        let selector = Selector::new().unwrap();
        let mut out = Vec::new();
        for deadline in [0, 1, now()] {
            selector.wait(&mut out, Some(deadline)).unwrap();
            assert_eq!(out, []);
        }
    }

    #[test]
    fn a_wait_is_not_over_before_its_deadline() {
        let selector = Selector::new().unwrap();
        let mut out = Vec::new();
        let deadline = now() + 2 * NANOS_PER_MILLI + 1;
        // A few, for a signal may end one; rounding down would take hundreds.
        let waits = (1..100).find(|_| {
            selector.wait(&mut out, Some(deadline)).unwrap();
            now() >= deadline
        });
        assert!(waits.is_some_and(|waits| waits <= 3), "{waits:?} waits");
    }

    /// What is to happen at one instant goes in the order in which it was asked for, however long that took.
    #[test]
    fn an_instant_is_the_same_whenever_one_asks() {
        let before = now();
        let instant = Instant::now();
        let at_first = at(instant);
        assert!((before..=now()).contains(&at_first));
        for ahead in (0..10_000).map(Duration::from_nanos) {
            assert_eq!(u128::from(at(instant + ahead) - at_first), ahead.as_nanos());
        }
        assert!(instant.checked_sub(Duration::from_secs(3600)).is_none_or(|past| at(past) == 0));
    }

    /// What spares a busy loop its second look at the clock.
    #[test]
    fn a_wait_says_whether_its_deadline_may_have_come() {
        let selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 5).unwrap();
        let wait = |deadline| selector.wait(&mut Vec::new(), deadline).unwrap();
        assert!(wait(Some(0)) && wait(Some(now())), "nothing else has");
        for (deadline, may) in [(None, false), (Some(now() + (1 << 50)), false), (Some(now()), true), (Some(0), true)] {
            waker.wake();
            assert_eq!(wait(deadline), may, "{deadline:?}");
        }
    }

    #[test]
    fn a_deadline_beyond_the_kernels_range_is_no_error() {
        let selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 5).unwrap();
        let mut out = Vec::new();
        for deadline in [Some(u64::MAX), Some(now() + (1 << 31) * NANOS_PER_MILLI), None] {
            waker.wake();
            selector.wait(&mut out, deadline).unwrap();
            assert_eq!(out, [Readiness { token: 5, bits: Bits::READABLE }]);
        }
    }

    /// What a loop inside of another relies on: the selector's own descriptor tells of each new edge, until it is fetched.
    #[test]
    fn a_poll_of_the_selector_sees_each_edge_until_it_is_fetched() {
        let selector = Selector::new().unwrap();
        let waker = Waker::new(&selector, 5).unwrap();
        let (ours, theirs) = pair();
        selector.register(&ours, 1).unwrap();
        let readable = |selector: &Selector| {
            let mut fds = [rustix::event::PollFd::new(selector, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
        };
        assert!(readable(&selector), "the first edge");
        poll(&selector);
        for _ in 0..3 {
            assert!(!readable(&selector));
            // An eventfd that nobody reads; then bytes that nobody reads.
            waker.wake();
            assert!(readable(&selector) && readable(&selector));
            assert_eq!(poll(&selector).len(), 1);
            assert!(!readable(&selector));
            bytes(&theirs, b"x");
            assert!(readable(&selector));
            assert_eq!(poll(&selector).len(), 1);
        }
    }

    #[test]
    fn a_selector_moves_to_the_thread_that_waits() {
        let selector = Selector::new().unwrap();
        let (ours, theirs) = tcp_pair();
        selector.register(&ours, 3).unwrap();
        let waiter = thread::spawn(move || {
            let mut out = Vec::new();
            let mut bits = Bits::NONE;
            while !bits.contains(Bits::HANGUP) {
                selector.wait(&mut out, None).unwrap();
                bits = out.iter().fold(bits, |bits, event| bits | event.bits);
            }
            drop(ours);
            bits
        });
        drop(theirs);
        assert!(waiter.join().unwrap().contains(Bits::READABLE));
    }
}
