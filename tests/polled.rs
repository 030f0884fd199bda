//! Watchers in a poll of somebody else's (G4): a loop of the test's own sleeps in `poll`, obeys nothing but descriptors and
//! `next_turn`, and misses nothing.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use gaio::{Batch, Conn, EmbeddedWatcher, Event, NextTurn, OpError, Outcome, Pollable, WaitError, Watcher};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use support::{Drive, Net, Rig, Taken, check, doze, finish, until};

/// A watcher as a foreign loop sees it.
trait Foreign: Drive {
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// How long the poll may sleep: `None` until the descriptor is readable.
    fn may_sleep(&mut self) -> Option<Duration>;
    /// What there is, without sleeping.
    fn look(&mut self) -> Result<Batch<'_, u64>, WaitError>;
}

struct Spawned(Watcher<u64>, Pollable);

impl Drive for Spawned {
    const SPAWNED: bool = true;

    fn start(options: gaio::Options) -> (Self, gaio::Submitter<u64>) {
        let (mut watcher, submitter) = Watcher::spawn_for(options).unwrap();
        let pollable = watcher.pollable().unwrap();
        (Self(watcher, pollable), submitter)
    }

    fn wait(&mut self) -> Result<Batch<'_, u64>, WaitError> {
        self.0.wait()
    }

    fn wait_timeout(&mut self, timeout: Duration) -> Result<Batch<'_, u64>, WaitError> {
        self.0.wait_timeout(timeout)
    }
}

impl Foreign for Spawned {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }

    fn may_sleep(&mut self) -> Option<Duration> {
        None
    }

    fn look(&mut self) -> Result<Batch<'_, u64>, WaitError> {
        self.0.try_wait()
    }
}

impl Foreign for EmbeddedWatcher<u64> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn may_sleep(&mut self) -> Option<Duration> {
        match self.next_turn() {
            NextTurn::Now => Some(Duration::ZERO),
            NextTurn::At(instant) => Some(instant.saturating_duration_since(Instant::now())),
            NextTurn::WhenReadable => None,
        }
    }

    fn look(&mut self) -> Result<Batch<'_, u64>, WaitError> {
        self.turn(Some(Duration::ZERO))
    }
}

macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod spawned {
            $(#[test] fn $name() { crate::support::check(super::$name::<super::Spawned>); })*
        }
        mod embedded {
            $(#[test] fn $name() { crate::support::check(super::$name::<gaio::EmbeddedWatcher<u64>>); })*
        }
    };
}

fn is_readable(descriptor: BorrowedFd<'_>, sleep: Option<Duration>) -> bool {
    let sleep = sleep.map(|sleep| Timespec::try_from(sleep).unwrap());
    poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], sleep.as_ref()).unwrap() > 0
}

/// Sleeps for the watcher and for a stream of one's own; whether that one is readable.
fn sleep<D: Foreign>(watcher: &mut D, own: &UnixStream) -> bool {
    let sleep = watcher.may_sleep().map(|sleep| Timespec::try_from(sleep).unwrap());
    let mut fds = [PollFd::from_borrowed_fd(watcher.descriptor(), PollFlags::IN), PollFd::new(own, PollFlags::IN)];
    poll(&mut fds, sleep.as_ref()).unwrap();
    !fds[1].revents().is_empty()
}

/// The next event, by the descriptor alone.
fn next<D: Foreign>(rig: &mut Rig<D>) -> Taken {
    loop {
        let sleep = rig.watcher.may_sleep();
        is_readable(rig.watcher.descriptor(), sleep);
        if let Some(event) = rig.watcher.look().unwrap().next() {
            return event.into();
        }
    }
}

/// Looks until there is nothing more to do, and the poll may sleep.
fn settle<D: Foreign>(rig: &mut Rig<D>) {
    let mut looks = 0;
    while rig.watcher.may_sleep() == Some(Duration::ZERO) || is_readable(rig.watcher.descriptor(), Some(Duration::ZERO))
    {
        assert_eq!(rig.watcher.look().unwrap().len(), 0);
        looks += 1;
        assert!(looks < 20, "there is always something to do");
    }
}

// --- a foreign loop under load --------------------------------------------------------------------------------------

/// Talks to the server, and to its loop, in as many ways as there are.
fn client(address: std::net::SocketAddr, submitter: &gaio::Submitter<u64>, worker: u64, mut done: UnixStream) {
    const ROUNDS: u64 = 300;
    let mut peer = TcpStream::connect(address).unwrap();
    let (own, mut own_peer) = Net::Unix.pair();
    let conn = submitter.delegate(own).unwrap();
    for round in 0..ROUNDS {
        submitter.post(worker * ROUNDS + round).unwrap();
        let message = [worker, round].map(|n| n.to_le_bytes()[0]);
        peer.write_all(&message).unwrap();
        if round % 3 == 0 {
            conn.write(message.to_vec()).submit().unwrap();
            own_peer.read_exact(&mut [0; 2]).unwrap();
        }
        if round % 50 == 0 {
            // Lets everybody fall asleep.
            thread::sleep(Duration::from_millis(3));
        }
        if round % 7 == 0 {
            submitter.set_limits(submitter.limits()).unwrap();
        }
        let mut answer = [0; 2];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
    }
    drop(conn);
    done.write_all(&[1]).unwrap();
}

/// What the foreign loop has met.
#[derive(Default, Debug)]
struct Met {
    accepted: u64,
    posted: u64,
    timers: u64,
    wrote: u64,
    ended: u64,
    polls: u64,
    /// Polls after which there was nothing.
    in_vain: u64,
}

fn serve(event: Event<'_, u64>, met: &mut Met) {
    match event {
        Event::Accepted { conn, .. } => {
            met.accepted += 1;
            conn.read_leased().submit().unwrap();
        }
        Event::Posted(_) => met.posted += 1,
        Event::Timer { .. } => met.timers += 1,
        Event::ListenerEnded { .. } => met.ended += 1,
        Event::Done { conn, outcome, .. } => match outcome {
            Outcome::Leased(bytes) => conn.write(bytes).then_read_leased().submit().unwrap(),
            Outcome::Wrote(_) => met.wrote += 1,
            Outcome::Eof(_) => {}
            // The end of the loop may come before that of a connection.
            Outcome::Failed(failure) if matches!(failure.error, OpError::Aborted) => {}
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn a_foreign_loop_misses_nothing<D: Foreign>() {
    const TIMERS: u64 = 30;
    let mut rig = Rig::<D>::with(|limits| limits.ring_slots = 8);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _listener = rig.submitter.listen(listener).unwrap();
    let (mut own, done) = UnixStream::pair().unwrap();
    let mut met = Met::default();
    thread::scope(|scope| {
        for worker in 0..2 {
            let (submitter, done) = (rig.submitter.clone(), done.try_clone().unwrap());
            scope.spawn(move || client(address, &submitter, worker, done));
        }
        rig.submitter.timer(Duration::from_millis(1)).submit_with(0).unwrap();
        let mut finished = 0;
        let end = loop {
            met.polls += 1;
            let own_readable = sleep(&mut rig.watcher, &own);
            if own_readable {
                finished += own.read(&mut [0; 2]).unwrap();
            }
            let before = met.timers;
            let batch = match rig.watcher.look() {
                Ok(batch) => batch,
                Err(end) => break end,
            };
            if batch.len() == 0 && !own_readable {
                met.in_vain += 1;
            }
            batch.for_each(|event| serve(event, &mut met));
            if met.timers > before && met.timers < TIMERS {
                rig.submitter.timer(Duration::from_millis(1)).submit_with(met.timers).unwrap();
            }
            if finished == 2 && met.timers == TIMERS {
                rig.submitter.shutdown(Duration::ZERO);
            }
        };
        assert_eq!((end, finished), (WaitError::Closed, 2));
    });
    assert_eq!((met.accepted, met.posted, met.timers, met.wrote, met.ended), (2, 600, TIMERS, 200, 1), "{met:?}");
    // It is woken for a reason: no more often in vain than for the edges that bring nothing (room to send, mostly), and
    // the turns that limits and timers cost.
    let reasons = met.posted + met.timers + met.wrote + 600;
    assert!(met.in_vain <= reasons, "{met:?}");
}

/// With nothing to do it sleeps: the descriptor is silent, and nothing is owed.
fn an_idle_foreign_loop_sleeps<D: Foreign>() {
    let mut rig = Rig::<D>::new();
    settle(&mut rig);
    let _listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let (waiting, _p1) = rig.connect(Net::Tcp);
    waiting.read_leased().submit().unwrap();
    let (_unwanted, mut p2) = rig.connect(Net::Tcp);
    p2.write_all(&[1; 10_000]).unwrap();
    let (blocked, _p3) = rig.connect(Net::Unix);
    blocked.write(vec![1; 4 << 20]).submit().unwrap();
    let (ended, p4) = rig.connect(Net::Unix);
    finish(&p4);
    ended.read(Vec::with_capacity(8)).submit().unwrap();
    let Taken::Done(_, _, got) = next(&mut rig) else { panic!() };
    got.eof();
    if D::SPAWNED {
        doze(); // for its loop
    }
    settle(&mut rig);
    let before = rig.counters();
    assert!(!is_readable(rig.watcher.descriptor(), Some(Duration::from_millis(300))));
    assert_eq!(rig.watcher.may_sleep(), None);
    let after = rig.counters();
    assert_eq!((before.turns, before.polls), (after.turns, after.polls));
}

/// Two threads submit at any moment; whoever polls finds all of it.
fn every_poll_is_ended_by_somebody<D: Foreign>() {
    const ROUNDS: u64 = 2_000;
    let mut rig = Rig::<D>::new();
    let turn = &std::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        for worker in 0..2 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || {
                for round in (worker..ROUNDS).step_by(2) {
                    while turn.load(std::sync::atomic::Ordering::Acquire) < round {
                        thread::yield_now();
                    }
                    submitter.post(round).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            assert!(matches!(next(&mut rig), Taken::Posted(got) if got == round));
            turn.store(round + 1, std::sync::atomic::Ordering::Release);
        }
    });
}

/// The end is announced, too, however much comes before it, and stays so.
fn the_end_is_heard_of<D: Foreign>() {
    for posts in [0, 1, 100] {
        let mut rig = Rig::<D>::with(|limits| limits.batch = 2);
        let (conn, _peer) = rig.connect(Net::Unix);
        conn.readable().submit_with(9).unwrap();
        let submitter = rig.submitter.clone();
        let ending = thread::spawn(move || {
            (0..posts).for_each(|n| submitter.post(n).unwrap());
            submitter.shutdown(Duration::ZERO);
        });
        let mut seen = 0;
        let end = loop {
            let sleep = rig.watcher.may_sleep();
            is_readable(rig.watcher.descriptor(), sleep);
            match rig.watcher.look() {
                Ok(batch) => seen += batch.count() as u64,
                Err(end) => break end,
            }
        };
        assert_eq!((seen, end), (posts + 1, WaitError::Closed));
        for _ in 0..2 {
            assert!(rig.watcher.may_sleep().is_some() || is_readable(rig.watcher.descriptor(), None));
            assert!(rig.watcher.look().is_err());
        }
        ending.join().unwrap();
    }
}

both!(a_foreign_loop_misses_nothing, an_idle_foreign_loop_sleeps, every_poll_is_ended_by_somebody, the_end_is_heard_of,);

// --- the descriptor of a spawned watcher ----------------------------------------------------------------------------

/// Asked for at any moment around the first publish.
#[test]
fn a_descriptor_asked_for_late_tells_of_what_is_there() {
    check(|| {
        for round in 0..300 {
            let (mut watcher, submitter) = Watcher::<u64>::spawn_for(gaio::Options::default()).unwrap();
            let posting = thread::spawn(move || submitter.post(round).map_err(|refused| refused.kind));
            if round % 3 == 0 {
                thread::yield_now();
            } else if round % 30 == 1 {
                thread::sleep(Duration::from_millis(1));
            }
            let pollable = watcher.pollable().unwrap();
            while watcher.try_wait().unwrap().count() == 0 {
                assert!(is_readable(pollable.as_fd(), None));
            }
            posting.join().unwrap().unwrap();
        }
        // There already, for sure; and when the loop has ended, for sure.
        let (mut watcher, submitter) = Watcher::<u64>::spawn_for(gaio::Options::default()).unwrap();
        submitter.post(1).unwrap();
        until(|| submitter.counters().batches == 1);
        submitter.shutdown(Duration::ZERO);
        let pollable = watcher.pollable().unwrap();
        assert!(is_readable(pollable.as_fd(), None));
        assert_eq!(watcher.try_wait().unwrap().count(), 1);
        assert!(is_readable(pollable.as_fd(), None));
        while watcher.try_wait().is_ok() {}
        let again = watcher.pollable().unwrap();
        assert!(is_readable(again.as_fd(), None));
        drop(watcher);
        assert!(is_readable(pollable.as_fd(), None), "it stays open as long as somebody has it");
    });
}

/// A batch that stays in the mailbox keeps it readable; one that is taken does not.
#[test]
fn it_is_readable_as_long_as_there_is_a_batch() {
    check(|| {
        let mut rig = Rig::<Spawned>::with(|limits| limits.batch = 2);
        for n in 0..20 {
            rig.submitter.post(n).unwrap();
        }
        let mut taken = 0;
        while taken < 20 {
            assert!(is_readable(rig.watcher.descriptor(), None));
            assert!(is_readable(rig.watcher.descriptor(), None), "looking does not change it");
            taken += rig.watcher.look().unwrap().count();
        }
        settle(&mut rig);
        // The other ways to wait are as good as before, and silence it.
        rig.submitter.post(1).unwrap();
        assert!(matches!(rig.next(), Taken::Posted(1)));
        rig.submitter.post(2).unwrap();
        assert_eq!(rig.watcher.wait_timeout(support::LONG).unwrap().count(), 1);
        // The ring may come after the take.
        doze();
        settle(&mut rig);
        assert!(!is_readable(rig.watcher.descriptor(), Some(Duration::from_millis(20))));
    });
}

#[test]
fn it_can_be_polled_by_edges() {
    check(|| {
        let mut rig = Rig::<Spawned>::new();
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&outer, rig.watcher.descriptor(), epoll::EventData::new_u64(1), interest).unwrap();
        for n in 0..200 {
            rig.submitter.post(n).unwrap();
            let mut seen = 0;
            while seen < 1 {
                wait_outer(&outer);
                seen += rig.watcher.look().unwrap().count();
            }
        }
    });
}

fn wait_outer(outer: impl AsFd) {
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
    let ready = epoll::wait(outer, &mut events, None).unwrap();
    assert_eq!(ready, 1);
}

// --- an embedded loop's next turn -----------------------------------------------------------------------------------

type Embedded = Rig<EmbeddedWatcher<u64>>;

impl Embedded {
    /// Takes the batch of a turn, which brings that many.
    fn take(&mut self, n: usize) {
        assert_eq!(self.watcher.look().unwrap().count(), n);
    }

    fn next_turn(&mut self) -> NextTurn {
        self.watcher.next_turn()
    }

    fn readable(&self) -> bool {
        is_readable(self.watcher.as_fd(), Some(Duration::ZERO))
    }
}

#[test]
fn what_this_thread_has_begun_is_for_now() {
    check(|| {
        let mut rig = Embedded::new();
        settle(&mut rig);
        rig.submitter.post(1).unwrap();
        rig.submitter.post(2).unwrap();
        assert_eq!((rig.next_turn(), rig.readable()), (NextTurn::Now, false));
        // One event of two: the other one waits.
        assert!(rig.watcher.look().unwrap().next().is_some());
        assert_eq!(rig.next_turn(), NextTurn::Now);
        rig.take(1);
        settle(&mut rig);

        let (conn, mut peer) = rig.connect(Net::Unix);
        assert_eq!((rig.next_turn(), rig.readable()), (NextTurn::WhenReadable, true), "registered, and there is room");
        settle(&mut rig);
        drop(conn);
        assert_eq!(rig.next_turn(), NextTurn::Now, "the last handle is gone");
        rig.take(0);
        settle(&mut rig);
        drop(peer.read(&mut [0]));
    });
}

#[test]
fn deadlines_are_instants() {
    check(|| {
        let mut rig = Embedded::new();
        let time = Duration::from_millis(30);
        let before = Instant::now();
        rig.submitter.timer(Duration::from_secs(1_000)).submit_with(1).unwrap();
        let (conn, _peer) = rig.connect(Net::Unix);
        conn.read_leased().within(time).submit_with(2).unwrap();
        rig.take(0);
        rig.take(0);
        let NextTurn::At(at) = rig.next_turn() else { panic!("{:?}", rig.next_turn()) };
        assert!(at > before && at < before + Duration::from_secs(999));
        let Taken::Done(_, 2, got) = next(&mut rig) else { panic!() };
        assert!(matches!(got.failed().error, OpError::TimedOut));
        assert!(before.elapsed() >= time);
        settle(&mut rig);
        assert!(matches!(rig.next_turn(), NextTurn::At(at) if at > Instant::now()), "the other one");
    });
}

#[test]
fn what_others_do_makes_it_readable_again_and_again() {
    check(|| {
        let mut rig = Embedded::new();
        let (conn, mut peer) = rig.connect(Net::Unix);
        settle(&mut rig);
        for _ in 0..5 {
            // The waker is never read; each write to it is an edge all the same.
            thread::scope(|scope| {
                scope.spawn(|| rig.submitter.post(1).unwrap());
            });
            assert_eq!((rig.watcher.next_turn(), rig.readable()), (NextTurn::WhenReadable, true));
            rig.take(1);
            settle(&mut rig);
            peer.write_all(b"x").unwrap();
            assert_eq!((rig.next_turn(), rig.readable()), (NextTurn::WhenReadable, true));
            conn.read(Vec::with_capacity(1)).submit().unwrap();
            rig.take(1);
            settle(&mut rig);
            let limits = rig.submitter.limits();
            thread::scope(|scope| {
                scope.spawn(|| rig.submitter.set_limits(limits).unwrap());
            });
            assert!(rig.readable());
            settle(&mut rig);
            let clone = conn.clone();
            thread::spawn(move || drop::<Conn<u64>>(clone)).join().unwrap();
            settle(&mut rig);
        }
        thread::spawn(move || drop::<Conn<u64>>(conn)).join().unwrap();
        assert!(rig.readable(), "the last handle was dropped elsewhere");
    });
}

/// A batch that was full, by number or by bytes, and an arena that was, once they were taken: there is room again, which
/// is nobody's to announce.
#[test]
fn what_waits_for_the_batch_to_be_taken_is_for_now() {
    check(|| {
        for how in 0..3 {
            let mut rig = Embedded::with(|limits| match how {
                0 => (limits.batch, limits.ops_per_turn) = (1, 1),
                1 => (limits.batch_bytes, limits.ops_per_turn) = (100, 1),
                _ => (limits.arena, limits.read_cap) = (2_048, 2_048),
            });
            let ends: Vec<_> = (0..4).map(|_| rig.connect(Net::Unix)).collect();
            for (conn, peer) in &ends {
                let mut peer = peer;
                peer.write_all(&[1; 2_048]).unwrap();
                conn.read_pooled().submit().unwrap();
            }
            for left in (0..4).rev() {
                assert!(matches!(next(&mut rig), Taken::Done(..)));
                // The very next look: nothing was touched since.
                if left > 0 {
                    assert_eq!(rig.next_turn(), NextTurn::Now, "{left} left, full by way {how}");
                }
            }
            settle(&mut rig);
        }
    });
}

#[test]
fn credit_that_is_back_is_for_now() {
    check(|| {
        let mut rig = Embedded::with(|limits| limits.listen_credit = 1);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _listener = rig.submitter.listen(listener).unwrap();
        let _peers: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut conns = Vec::new();
        for _ in 0..4 {
            let Taken::Accepted(conn, _) = next(&mut rig) else { panic!() };
            conns.push(conn);
            assert_eq!(rig.next_turn(), NextTurn::Now, "more may wait in the kernel's queue");
        }
        settle(&mut rig);
    });
}
