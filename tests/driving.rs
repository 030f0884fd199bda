//! Who drives a loop that has a thread: that thread, or the consumer in its waits (`Driver`), and the loop changing hands.
//!
//! Which of the two has the loop at an instant depends on the machine: a consumer that was not let run for some
//! milliseconds is taken for one that stays away. So nothing here asserts who drives, but by trying again until it is so.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gaio::{Driver, Event, Limits, Options, Outcome, SubmitErrorKind, WaitError, Watcher};
use rustix::event::{PollFd, PollFlags, poll};
use support::{Got, HUGE, LONG, Net, Peer, Rig, Taken, check, doze, read_some, until};

type Spawned = Rig<Watcher<u64>>;

fn rig(driver: Driver) -> Spawned {
    Rig::of(Options::default().driver(driver).name("looper"))
}

/// One whose consumer has driven: it is at rest now, or else its thread has taken it.
fn at_rest() -> Spawned {
    let mut rig = rig(Driver::Consumer);
    rig.assert_quiet();
    rig
}

/// A payload that tells which thread has dropped it.
struct Telltale(Sender<ThreadId>);

impl AsRef<[u8]> for Telltale {
    fn as_ref(&self) -> &[u8] {
        b"x"
    }
}

impl Drop for Telltale {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().id());
    }
}

/// Who takes the turn in which a payload is sent.
fn driver_of(rig: &mut Spawned) -> ThreadId {
    let (conn, mut peer) = rig.connect(Net::Unix);
    let (tell, told) = channel();
    conn.write(Bytes::from_owner(Telltale(tell))).then_read_pooled().submit_with(1).unwrap();
    peer.write_all(b"y").unwrap();
    assert_eq!(rig.outcome().bytes(), b"y");
    told.recv().unwrap()
}

#[test]
fn a_consumer_that_waits_takes_the_turns() {
    check(|| {
        let mut rig = at_rest();
        until(|| driver_of(&mut rig) == thread::current().id());
    });
}

#[test]
fn a_thread_of_its_own_takes_them_all() {
    check(|| {
        let mut rig = rig(Driver::LoopThread);
        let drivers: Vec<_> = (0..20).map(|_| driver_of(&mut rig)).collect();
        assert!(drivers.iter().all(|driver| *driver == drivers[0] && *driver != thread::current().id()));
    });
}

/// On one processor a hand-over brings nothing. A pinned loop stays where it was pinned.
#[test]
fn by_default_it_depends_on_the_processors() {
    check(|| {
        let cpu = *allowed().first().unwrap();
        let alone = thread::spawn(move || {
            // In a thread of its own: the pin dies with it, and what it spawns has it, too.
            let mut only = rustix::thread::CpuSet::new();
            only.set(cpu);
            rustix::thread::sched_setaffinity(None, &only).unwrap();
            let mut rig = rig(Driver::Auto);
            until(|| driver_of(&mut rig) == thread::current().id());
            let mut pinned = Spawned::of(Options::default().pin_to(cpu));
            (0..20).for_each(|_| assert_ne!(driver_of(&mut pinned), thread::current().id()));
        });
        alone.join().unwrap();
        if thread::available_parallelism().unwrap().get() > 1 {
            let mut rig = rig(Driver::Auto);
            (0..20).for_each(|_| assert_ne!(driver_of(&mut rig), thread::current().id()));
        }
    });
}

fn allowed() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None).unwrap();
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let options = Options::default().driver(Driver::Consumer).pin_to(allowed()[0]);
    let error = Watcher::spawn(options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("pin the thread that waits"), "{error}");
}

/// Writes that go on for long, deadlines, closes, accepts, and what other threads submit: none of it waits for a consumer that
/// does something else.
#[test]
fn it_goes_on_while_the_consumer_is_away() {
    check(|| {
        let mut rig = at_rest();
        // More than the kernel takes at once.
        let (conn, mut peer) = rig.connect(Net::Tcp);
        conn.write(vec![7; HUGE]).submit_with(1).unwrap();
        assert!(read_some(&mut peer, HUGE).iter().all(|byte| *byte == 7));
        // From another thread, which a consumer waits for that is not in `wait`.
        let (conn, mut peer) = rig.connect(Net::Unix);
        thread::scope(|scope| {
            scope.spawn(|| conn.write(b"from elsewhere").submit_with(2).unwrap());
        });
        assert_eq!(read_some(&mut peer, 14), b"from elsewhere");
        // Handles that are dropped close their connections.
        let (dropped, mut peer) = rig.connect(Net::Unix);
        drop(dropped);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        let mut all = rig.outcomes(2);
        assert!(all.drain().all(|(_, got)| matches!(got, Got::Wrote(_))));
    });
}

/// The consumer may wait for room in the ring of a loop that it drives itself, or would.
#[test]
fn room_is_made_for_a_consumer_that_submits() {
    check(|| {
        let mut limits = Limits::default();
        limits.ring_slots = 2;
        let mut rig = Spawned::of(Options::default().limits(limits).driver(Driver::Consumer));
        rig.assert_quiet();
        thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|_| rig.submitter.post(1).unwrap()));
            (0..20).for_each(|_| rig.submitter.post(2).unwrap());
        });
        let (mut ones, mut twos) = (0, 0);
        while ones + twos < 40 {
            match rig.next() {
                Taken::Posted(1) => ones += 1,
                Taken::Posted(2) => twos += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((ones, twos), (20, 20));
    });
}

/// However the two share it: everything arrives, in order, and nobody sleeps for ever.
#[test]
fn it_changes_hands_under_load() {
    const ROUNDS: u64 = 150;
    check(|| {
        let mut rig = rig(Driver::Consumer);
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            let echoes: Vec<_> = (0..4)
                .map(|_| {
                    let (conn, peer) = rig.connect(Net::Unix);
                    conn.read_leased().submit_with(0).unwrap();
                    scope.spawn(move || ping(peer, ROUNDS))
                })
                .collect();
            scope.spawn(move || {
                echoes.into_iter().for_each(|echo| echo.join().unwrap());
                over.store(true, Ordering::Release);
            });
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for n in 1.. {
                    submitter.post(n).unwrap();
                    if over.load(Ordering::Acquire) {
                        return submitter.shutdown(LONG);
                    }
                    thread::sleep(Duration::from_micros(300));
                }
            });
            serve(&mut rig);
        });
    });
}

/// Sends messages of growing length, and reads each back.
fn ping(mut peer: Peer, rounds: u64) {
    for round in 0..rounds {
        let message = vec![u8::try_from(round % 251).unwrap(); 1 + usize::try_from(round * 97).unwrap()];
        let mut answer = vec![0; message.len()];
        peer.write_all(&message).unwrap();
        peer.read_exact(&mut answer).unwrap();
        assert!(message == answer, "round {round}");
    }
}

/// Echoes, and now and then stays away for longer than a busy consumer is watched for. Posts come in order.
fn serve(rig: &mut Spawned) {
    let (mut posts, mut waits) = (0, 0_u64);
    let end = loop {
        let batch = match waits % 3 {
            0 => rig.watcher.wait(),
            1 => rig.watcher.try_wait(),
            _ => rig.watcher.wait_timeout(Duration::from_millis(1)),
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(end) => break end,
        };
        for event in batch {
            match event {
                Event::Posted(n) => {
                    posts += 1;
                    assert_eq!(n, posts);
                }
                Event::Done { conn, outcome: Outcome::Leased(bytes), .. } => {
                    conn.write(bytes).then_read_leased().submit_with(0).unwrap();
                }
                Event::Done { outcome: Outcome::Eof(_) | Outcome::Failed(_), .. } => {}
                other => panic!("{other:?}"),
            }
        }
        waits += 1;
        if waits % 64 == 0 {
            thread::sleep(Duration::from_millis(waits / 64 % 6 * 8));
        }
    };
    assert_eq!(end, WaitError::Closed);
}

#[test]
fn waits_end_when_they_should() {
    check(|| {
        let mut rig = at_rest();
        for away in [false, true, false] {
            let begin = Instant::now();
            assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(30)).unwrap().len(), 0);
            assert!(begin.elapsed() >= Duration::from_millis(30));
            assert_eq!(rig.watcher.try_wait().unwrap().len(), 0);
            if away {
                doze(); // The loop's thread has it by now, and sleeps.
                assert_eq!(rig.watcher.try_wait().unwrap().len(), 0);
            }
        }
        rig.submitter.timer(Duration::from_millis(5)).submit_with(1).unwrap();
        assert!(matches!(rig.next(), Taken::Timer(1, Ok(()))));
    });
}

/// Bytes whose drop says that it has begun, and waits until it may go on.
struct Latch(Sender<()>, Receiver<()>);

impl AsRef<[u8]> for Latch {
    fn as_ref(&self) -> &[u8] {
        b"x"
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let _ = self.0.send(());
        let _ = self.1.recv();
    }
}

/// The loop's thread is held up by a drop of the user's, and cannot give the loop back in time.
#[test]
fn a_wait_has_its_time_even_if_the_loop_is_not_given_back() {
    check(|| {
        let mut rig = at_rest();
        let (conn, mut peer) = rig.connect(Net::Unix);
        let ((begun, has_begun), (go_on, told_to)) = (channel(), channel());
        thread::scope(|scope| {
            scope.spawn(|| {
                let payload = Bytes::from_owner(Latch(begun, told_to));
                conn.write(payload).then_read_pooled().submit_with(1).unwrap();
            });
        });
        has_begun.recv().unwrap();
        assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(20)).unwrap().len(), 0);
        assert_eq!(rig.watcher.try_wait().unwrap().len(), 0);
        drop(go_on);
        peer.write_all(b"y").unwrap();
        assert_eq!(rig.outcome().bytes(), b"y");
    });
}

/// While the consumer waits, nobody else wakes up now and then (D3).
#[test]
fn nobody_watches_a_consumer_that_waits() {
    check(|| {
        let mut rig = at_rest();
        let submitter = rig.submitter.clone();
        thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(rig.next(), Taken::Posted(1))));
            until(|| {
                let before = switches("looper");
                doze();
                before.is_some() && switches("looper") == before
            });
            submitter.post(1).unwrap();
        });
    });
}

/// How often the thread of that name has gone to sleep. `None` if there is not exactly one: a thread names itself when it first
/// runs, and is listed for an instant after it was joined.
fn switches(name: &str) -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let read = |task: &std::path::Path, file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
    let paths: Vec<_> = tasks.filter_map(|task| Some(task.ok()?.path())).collect();
    let mut named = paths.iter().filter(|task| read(task, "comm").trim() == name);
    let (Some(task), None) = (named.next(), named.next()) else { return None };
    let status = read(task, "status");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// What has come while the consumer looked elsewhere is there at its next look.
#[test]
fn a_look_sees_what_has_come() {
    check(|| {
        let mut rig = at_rest();
        let (conn, mut peer) = rig.connect(Net::Unix);
        conn.read(Vec::with_capacity(8)).submit_with(1).unwrap();
        rig.assert_quiet();
        peer.write_all(b"x").unwrap();
        until(|| match rig.watcher.try_wait().unwrap().next() {
            Some(Event::Done { outcome: Outcome::Read(bytes), .. }) => bytes == b"x",
            other => {
                assert!(other.is_none());
                false
            }
        });
    });
}

#[test]
fn the_consumer_may_move_to_another_thread() {
    check(|| {
        let mut rig = at_rest();
        for _ in 0..3 {
            rig = thread::spawn(move || {
                until(|| driver_of(&mut rig) == thread::current().id());
                rig
            })
            .join()
            .unwrap();
            until(|| driver_of(&mut rig) == thread::current().id());
        }
    });
}

/// It may be in the midst of a submission, which holds the loop, when the watcher waits for that elsewhere.
#[test]
fn the_last_consumer_may_submit_on_while_another_thread_waits() {
    const POSTS: u64 = 2_000;
    check(|| {
        let mut rig = at_rest();
        let submitter = rig.submitter.clone();
        thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..POSTS {
                    assert!(matches!(rig.next(), Taken::Posted(got) if got == n));
                }
            });
            (0..POSTS).for_each(|n| submitter.post(n).unwrap());
        });
    });
}

/// Who sleeps in a poll of its own does not drive, whatever was chosen.
#[test]
fn a_watcher_that_is_polled_is_driven_by_its_thread() {
    check(|| {
        let mut rig = at_rest();
        rig.submitter.post(7).unwrap(); // Which may be over by now: the descriptor has to tell of it.
        let pollable = rig.watcher.pollable().unwrap();
        poll(&mut [PollFd::new(&pollable, PollFlags::IN)], None).unwrap();
        until(|| matches!(rig.watcher.try_wait().unwrap().next(), Some(Event::Posted(7))));
        for round in 0..3 {
            let (conn, mut peer) = rig.connect(Net::Unix);
            conn.read_leased().submit_with(round).unwrap();
            peer.write_all(b"x").unwrap();
            loop {
                poll(&mut [PollFd::new(&pollable, PollFlags::IN)], None).unwrap();
                let event = rig.watcher.try_wait().unwrap().next().map(Taken::from);
                if let Some(Taken::Done(_, context, got)) = event {
                    assert_eq!((context, got.bytes()), (round, &b"x"[..]));
                    break;
                }
            }
        }
        assert_ne!(driver_of(&mut rig), thread::current().id());
    });
}

/// Whoever has it by then: the end is in order, and every context is dropped.
#[test]
fn ends_are_in_order_whoever_drives() {
    check(|| {
        for away in [false, true] {
            let mut rig = at_rest();
            let (conn, mut peer) = rig.connect(Net::Unix);
            conn.read_leased().submit_with(1).unwrap();
            rig.assert_quiet();
            if away {
                doze();
            }
            rig.submitter.shutdown(Duration::ZERO);
            assert_eq!(rig.submitter.post(2).unwrap_err().kind, SubmitErrorKind::Closed);
            let rest = rig.rest();
            assert!(matches!(rest.as_slice(), [Taken::Done(_, 1, Got::Failed(_))]), "{rest:?}");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            assert_eq!(rig.watcher.wait().unwrap_err(), WaitError::Closed);
        }
        for away in [false, true] {
            let rig = at_rest();
            let (conn, mut peer) = rig.connect(Net::Unix);
            conn.read_leased().submit_with(1).unwrap();
            if away {
                doze();
            }
            drop(rig);
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
            drop(conn);
        }
    });
}

/// Two watchers that take turns on one thread, each with its consumer there: neither holds the other up.
#[test]
fn one_thread_may_consume_for_two_loops() {
    check(|| {
        let (mut one, mut two) = (at_rest(), at_rest());
        for n in 0..100 {
            two.submitter.post(n).unwrap();
            assert!(matches!(two.next(), Taken::Posted(got) if got == n));
            one.submitter.post(n).unwrap();
            assert!(matches!(one.next(), Taken::Posted(got) if got == n));
        }
    });
}
