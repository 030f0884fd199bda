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
pub(crate) type Socket = OwnedFd;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Before Linux 5.11 the kernel takes milliseconds in an `int`. One sleep is never longer than this (24.8 days), on
/// any kernel: the wait then ends with nothing, and the caller sleeps again.
const MAX_SLEEP_MILLIS: u64 = i32::MAX as u64;

/// Monotonic nanoseconds since the first call of this process.
pub(crate) fn now() -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let elapsed = FIRST.get_or_init(Instant::now).elapsed();
    // 2^64 ns are 584 years of uptime.
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
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
    #[allow(clippy::needless_pass_by_ref_mut, reason = "the contract: one thread waits, and a backend may keep state")]
    pub(crate) fn wait(&mut self, out: &mut Vec<Readiness>, deadline: Option<u64>) -> Result<(), Errno> {
        out.clear();
        let timeout = deadline.map(timeout_until);
        // On the stack: rustix's event is a union with a pointer in it and not Send, which would keep the whole loop
        // from moving to its thread.
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; MAX_EVENTS];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        out.extend(ready.iter().map(|event| Readiness { token: event.data.u64(), bits: bits_of(event.flags) }));
        Ok(())
    }
}

impl AsFd for Selector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn timeout_until(deadline: u64) -> Timespec {
    // Zero needs no clock, and is what a loop with work in hand asks for.
    let remaining = if deadline == 0 { 0 } else { deadline.saturating_sub(now()) };
    sleep_for(remaining)
}

/// Nanoseconds as the kernel's timeout: whole milliseconds, rounded up, clamped.
fn sleep_for(nanos: u64) -> Timespec {
    let millis = nanos.div_ceil(NANOS_PER_MILLI).min(MAX_SLEEP_MILLIS);
    let secs = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let nanos = (millis % 1000) * NANOS_PER_MILLI;
    Timespec { tv_sec: secs, tv_nsec: nanos.try_into().unwrap_or(0) }
}

fn bits_of(flags: epoll::EventFlags) -> Bits {
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
