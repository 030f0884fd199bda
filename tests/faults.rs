//! Calls that the kernel fails seldom, made to fail by strace: each test runs itself in a process under it.
//!
//! | call | error | what must hold |
//! |---|---|---|
//! | send | ENOBUFS, ENOMEM | tried again by a timer, since no edge announces memory; nothing lost, nothing twice |
//! | send | any other | the write fails with it, what follows is `Broken` |
//! | receive | any | the read fails with it, the next one is tried |
//! | epoll_ctl | ENOSPC | the operations of that connection complete as `NotRegistered` (G1), and its place is free again |
//! | epoll_wait | any, once or for ever | everything that was accepted completes, `wait` says `LoopFailed` |

#![cfg(not(any(loom, gaio_sim)))]

mod process;
mod support;

use std::io::{Read, Write};
use std::time::Duration;

use gaio::{EmbeddedWatcher, Half, OpError, SubmitErrorKind, WaitError, Watcher};
use process::{in_child, is_child, strace};
use rustix::io::Errno;
use support::{Drive, Got, Net, Pattern, Rig, Taken, check, os_error, read_some};

const WAITS: &str = "epoll_wait,epoll_pwait,epoll_pwait2";
const SENDS: &str = "sendto,sendmsg";
const RECEIVES: &str = "recvfrom,recvmsg";

/// Runs `body` with each of `calls` answered by `error`, `when` strace's own way of counting (per thread).
fn with_failing(calls: &str, error: &str, when: &str, name: &str, body: impl FnOnce()) {
    if is_child() {
        return check(body);
    }
    let mut command = strace();
    // Only what is traced can be injected into; the trace itself is thrown away.
    command.args(["-o", "/dev/null", "-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:error={error}:when={when}")]);
    in_child(command, name);
}

/// One `#[test]` per line: its name, which calls fail with what and when, and the body.
macro_rules! failing {
    ($($name:ident: $calls:expr, $error:literal, $when:literal, $body:expr;)*) => {
        $(#[test] fn $name() { with_failing($calls, $error, $when, stringify!($name), || $body); })*
    };
}

failing! {
    enobufs_on_a_send_spawned: SENDS, "ENOBUFS", "1..3", a_send_short_of_memory::<Watcher<u64>>();
    enobufs_on_a_send_embedded: SENDS, "ENOBUFS", "1..3", a_send_short_of_memory::<EmbeddedWatcher<u64>>();
    enomem_on_a_send_spawned: SENDS, "ENOMEM", "1..3", a_send_short_of_memory::<Watcher<u64>>();
    enomem_on_every_other_send: SENDS, "ENOMEM", "2+2", a_send_short_of_memory::<EmbeddedWatcher<u64>>();
    ehostunreach_on_a_send: SENDS, "EHOSTUNREACH", "2", a_send_that_fails::<EmbeddedWatcher<u64>>();
    etimedout_on_a_receive: RECEIVES, "ETIMEDOUT", "1", a_receive_that_fails::<EmbeddedWatcher<u64>>();
    enospc_on_a_registration_spawned: "epoll_ctl", "ENOSPC", "2..4", not_registered::<Watcher<u64>>();
    enospc_on_a_registration_embedded: "epoll_ctl", "ENOSPC", "3..5", not_registered::<EmbeddedWatcher<u64>>();
    a_selector_that_fails_once_spawned: WAITS, "ENOMEM", "20", the_selector_fails::<Watcher<u64>>(false);
    a_selector_that_fails_once_embedded: WAITS, "ENOMEM", "20", the_selector_fails::<EmbeddedWatcher<u64>>(false);
    a_selector_that_fails_for_ever_spawned: WAITS, "EBADF", "20+", the_selector_fails::<Watcher<u64>>(false);
    a_selector_that_fails_for_ever_embedded: WAITS, "EBADF", "20+", the_selector_fails::<EmbeddedWatcher<u64>>(false);
    a_selector_that_fails_behind_a_full_mailbox: WAITS, "ENOMEM", "20", the_selector_fails::<Watcher<u64>>(true);
    a_selector_that_fails_for_ever_behind_a_full_mailbox: WAITS, "EBADF", "20+", the_selector_fails::<Watcher<u64>>(true);
}

fn a_send_short_of_memory<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let pattern = Pattern::new();
    for net in support::NETS {
        let (conn, mut peer) = rig.connect(net);
        for context in 0..3 {
            let from = usize::try_from(context).unwrap() * 1_000;
            conn.write(pattern.at(from, 1_000).to_vec()).submit_with(context).unwrap();
        }
        for context in 0..3 {
            let (_, got, outcome) = rig.done();
            assert_eq!((got, outcome.wrote().len()), (context, 1_000));
        }
        assert!(read_some(&mut peer, 3_000) == pattern.at(0, 3_000));
        conn.release().submit().unwrap();
        rig.outcome().closed();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "no byte more, and a clean end");
    }
    let polls = rig.counters().polls;
    assert!(polls < 200, "{polls} polls: it spins");
}

fn a_send_that_fails<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    for context in 0..4 {
        conn.write(b"hello".to_vec()).submit_with(context).unwrap();
    }
    assert_eq!(rig.outcome().wrote().as_slice().unwrap(), b"hello");
    for context in 1..4 {
        let (_, got, outcome) = rig.done();
        let failure = outcome.failed();
        assert_eq!(
            (got, failure.transferred, failure.buffer.as_ref().unwrap().as_slice().unwrap()),
            (context, 0, &b"hello"[..])
        );
        match context {
            1 => assert_eq!(os_error(&failure), Some(Errno::HOSTUNREACH)),
            _ => assert!(matches!(failure.error, OpError::Broken), "{failure:?}"),
        }
    }
    conn.close().submit().unwrap();
    rig.outcome().closed();
    assert_eq!(support::read_to_its_end(&mut peer).1, Some(std::io::ErrorKind::ConnectionReset), "nothing looks whole");
}

fn a_receive_that_fails<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    let buffer = Vec::with_capacity(9);
    let at = buffer.as_ptr();
    conn.read(buffer).submit_with(1).unwrap();
    peer.write_all(b"never seen").unwrap();
    let (_, context, got) = rig.done();
    let failure = got.failed();
    assert_eq!((context, failure.half, os_error(&failure)), (1, Half::Read, Some(Errno::TIMEDOUT)));
    let buffer = failure.buffer.unwrap().into_vec().unwrap();
    assert_eq!(buffer.as_ptr(), at);
    // The other direction is not concerned.
    conn.write(b"hello").submit_with(2).unwrap();
    assert_eq!(rig.done().1, 2);
    assert_eq!(read_some(&mut peer, 5), b"hello");
}

/// The first registrations are the waker's and, embedded, a connection's; then the kernel says that there are too many.
///
/// strace counts by thread, and on one processor two may drive: up to three refusals each, in any order.
fn not_registered<D: Drive>() {
    let mut rig = Rig::<D>::with(|limits| limits.sessions = 3);
    let mut registered = Vec::new();
    let mut refused = 0;
    // Refused ones have no place: as many as there are places for are registered beside them.
    while registered.len() < 3 {
        let (conn, mut peer) = rig.connect(Net::Unix);
        conn.read(Vec::with_capacity(9)).submit_with(1).unwrap();
        conn.write(b"hello".to_vec()).then_read().submit_with(2).unwrap();
        peer.write_all(b"hi").unwrap_or_default();
        let (_, context, got) = rig.done();
        if let Got::Failed(failure) = got {
            assert!(context == 1 && matches!(failure.error, OpError::NotRegistered), "{failure:?}");
            assert_eq!(failure.buffer.unwrap().into_vec().unwrap().capacity(), 9);
            let (_, context, got) = rig.done();
            let failure = got.failed();
            assert!(context == 2 && matches!(failure.error, OpError::NotRegistered), "{failure:?}");
            assert_eq!(failure.buffer.unwrap().as_slice().unwrap(), b"hello");
            // Nothing is left to close, so a close has succeeded; and the handle stays as harmless as it was.
            for (context, ending) in [(3, conn.close()), (4, conn.release())] {
                ending.submit_with(context).unwrap();
                let (_, got, outcome) = rig.done();
                outcome.closed();
                assert_eq!(got, context);
            }
            conn.readable().submit_with(5).unwrap();
            assert!(matches!(rig.outcome().failed().error, OpError::NotRegistered));
            assert!(support::read_to_its_end(&mut peer).0 == 0, "closed: nobody will serve it");
            refused += 1;
        } else {
            registered.push((conn, peer));
        }
    }
    assert!((3..=6).contains(&refused), "{refused} refused");
    assert_eq!(rig.counters().sessions, 3);
    for (_conn, mut peer) in registered {
        assert_eq!(read_some(&mut peer, 5), b"hello", "those that came after the refusals are as welcome");
    }
}

/// Twenty waits are more than the preparations take, each of which may wake the loop once or twice.
///
/// A reader that never gets anything, a listener, and posts until the loop is no more: each of those that were accepted
/// comes out once.
fn the_selector_fails<D: Drive>(full: bool) {
    let mut rig = Rig::<D>::with(|limits| limits.batch = if full { 1 } else { 256 });
    let listener = rig.submitter.listen(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.read(Vec::with_capacity(9)).submit_with(0).unwrap();
    let mut accepted = 1;
    let mut seen = Vec::new();
    let mut post = |rig: &Rig<D>| {
        let posted = rig.submitter.post(accepted).map_err(|refused| refused.kind);
        assert!(matches!(posted, Ok(()) | Err(SubmitErrorKind::Closed)), "{posted:?}");
        accepted += u64::from(posted.is_ok());
        posted.is_ok()
    };
    // With a batch of one nothing is taken before the loop is over: its last words wait behind the first ones.
    while full && post(&rig) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut ended = Vec::new();
    let end = loop {
        post(&rig);
        match rig.watcher.wait() {
            Err(end) => break end,
            Ok(batch) => batch.for_each(|event| match event.into() {
                Taken::Done(_, context, got) => {
                    assert!(matches!(got.failed().error, OpError::LoopFailed));
                    seen.push(context);
                }
                Taken::Posted(context) => seen.push(context),
                Taken::Ended(id, None) => ended.push(id),
                other => panic!("{other:?}"),
            }),
        }
    };
    assert_eq!(end, WaitError::LoopFailed);
    seen.sort_unstable();
    assert_eq!(seen, (0..accepted).collect::<Vec<_>>(), "each once");
    assert_eq!(ended, [listener.id()]);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
}
