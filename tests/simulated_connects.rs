//! Connecting on the simulated system: answers that come when the test says so, races to the instant, and shortages.
//!
//! As `simulated.rs`: one thread, an embedded loop, time in the test's hand. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use desk::{Desk, bomb, desk, desk_with};
use gaio::sim::{Remote, World};
use gaio::{
    Conn, ConnectError, EmbeddedWatcher, Event, ListenOptions, NextTurn, OpError, Options, Outcome, WaitError, Watcher,
};

/// More than a deadline may be late by: it is rounded up to 2²⁰ ns.
const TICK: Duration = Duration::from_millis(4);
const STAGGER: Duration = Duration::from_millis(250);

type Outcomes = Vec<(u32, Result<Conn<u32>, ConnectError>)>;

impl Desk {
    /// The connects that come to their end without time passing.
    fn connected(&mut self) -> Outcomes {
        let (mut got, mut quiet) = (Vec::new(), 0);
        while quiet < 3 {
            let batch = self.watcher.turn(Some(Duration::ZERO)).unwrap();
            quiet = if batch.len() == 0 { quiet + 1 } else { 0 };
            for event in batch {
                match event {
                    Event::Connected { context, result } => got.push((context, result)),
                    Event::Accepted { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        got
    }

    fn one(&mut self) -> Result<Conn<u32>, ConnectError> {
        let mut all = self.connected();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).1
    }

    /// Lets time pass, and nothing comes of it.
    fn nothing_within(&mut self, time: Duration) {
        self.world.advance(time);
        let all = self.connected();
        assert!(all.is_empty(), "{all:?}");
    }

    /// Sockets that there are beside the loop's own descriptors.
    fn sockets(&self) -> usize {
        self.world.open_descriptors() - self.own
    }

    fn assert_over(&mut self) {
        assert!(self.connected().is_empty());
        assert_eq!((self.sockets(), self.submitter.counters().sessions, self.submitter.load()), (0, 0, 0));
    }

    fn remotes<const N: usize>(&self) -> [Remote; N] {
        std::array::from_fn(|_| self.world.remote())
    }
}

fn addrs(remotes: &[Remote]) -> Vec<SocketAddr> {
    remotes.iter().map(Remote::addr).collect()
}

fn kind(failure: &ConnectError) -> ErrorKind {
    match &failure.error {
        OpError::Os(error) => error.kind(),
        other => panic!("{other}"),
    }
}

#[test]
fn an_answer_comes_at_once_or_later_or_through_a_pending() {
    for (at_once, pending_first) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut desk =
            desk_with(|config| (config.connect_at_once, config.pending_first) = (at_once, pending_first), |_| ());
        let listener = desk.submitter.listen_on("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
        let addr = listener.local_addr().unwrap();
        desk.submitter.connect(addr).submit_with(1).unwrap();
        let conn = desk.one().unwrap();
        assert_eq!(conn.peer_addr(), Some(addr));

        let remote = desk.world.remote();
        desk.submitter.connect(remote.addr()).submit_with(2).unwrap();
        desk.nothing_within(Duration::from_secs(60));
        let peer = remote.attempt().unwrap().accept();
        peer.send(b"hello").unwrap();
        let conn = desk.one().unwrap();
        conn.write(b"hello yourself").submit_with(3).unwrap();
        conn.read_pooled().submit_with(4).unwrap();
        let mut seen = 0;
        while seen < 2 {
            for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
                match event {
                    Event::Done { context: 3, outcome: Outcome::Wrote(_), .. } => seen += 1,
                    Event::Done { context: 4, outcome: Outcome::Pooled(b"hello"), .. } => seen += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(peer.recv(&mut [0; 64]).unwrap(), 14);
    }
}

#[test]
fn a_unix_path_is_answered_at_once() {
    for pending_first in [false, true] {
        let mut desk = desk_with(|config| config.pending_first = pending_first, |_| ());
        let path = Path::new("here");
        desk.submitter.connect(path).submit_with(1).unwrap();
        assert_eq!(kind(&desk.one().unwrap_err()), ErrorKind::NotFound);
        let _listener = desk.submitter.listen_unix(path, &ListenOptions::default()).unwrap();
        desk.submitter.connect(path).submit_with(2).unwrap();
        assert_eq!(desk.one().unwrap().peer_addr(), None);
    }
}

#[test]
fn a_refusal_or_failure_is_told_with_its_address() {
    let mut desk = desk();
    let remote = desk.world.remote();
    for expected in [ErrorKind::ConnectionRefused, ErrorKind::TimedOut, ErrorKind::HostUnreachable] {
        desk.submitter.connect(remote.addr()).submit_with(1).unwrap();
        desk.nothing_within(Duration::ZERO);
        remote.attempt().unwrap().fail(expected);
        let failure = desk.one().unwrap_err();
        assert_eq!(kind(&failure), expected);
        assert!(failure.failed.iter().map(|(addr, error)| (*addr, error.kind())).eq([(remote.addr(), expected)]));
        desk.assert_over();
    }
}

/// The next address joins in when the stagger is over, not earlier, and at once when one fails.
#[test]
fn addresses_join_in_by_the_stagger() {
    let mut desk = desk();
    let remotes = desk.remotes::<4>();
    desk.submitter.connect(addrs(&remotes)).submit_with(1).unwrap();
    desk.nothing_within(Duration::ZERO);
    let first = remotes[0].attempt().unwrap();
    desk.nothing_within(STAGGER - Duration::from_millis(1));
    assert!(remotes[1].attempt().is_none());
    desk.nothing_within(TICK);
    let second = remotes[1].attempt().unwrap();
    assert_eq!((desk.sockets(), desk.submitter.counters().sessions), (2, 2));
    desk.nothing_within(STAGGER / 2);
    second.refuse();
    desk.nothing_within(Duration::ZERO);
    let third = remotes[2].attempt().expect("at once, since one has failed");
    assert_eq!((desk.sockets(), desk.submitter.counters().sessions), (2, 2));
    desk.nothing_within(STAGGER - Duration::from_millis(1));
    assert!(remotes[3].attempt().is_none(), "the stagger has begun anew");
    desk.nothing_within(TICK);
    let fourth = remotes[3].attempt().unwrap();
    // The order of failures is the order in which they are told; the last one stands for all.
    fourth.fail(ErrorKind::HostUnreachable);
    desk.nothing_within(Duration::ZERO);
    first.refuse();
    desk.nothing_within(10 * STAGGER);
    third.fail(ErrorKind::TimedOut);
    let failure = desk.one().unwrap_err();
    assert_eq!(kind(&failure), ErrorKind::TimedOut);
    let order = [&remotes[1], &remotes[3], &remotes[0], &remotes[2]].map(Remote::addr);
    assert!(failure.failed.iter().map(|(addr, _)| *addr).eq(order), "{failure}");
    desk.assert_over();
}

/// When the stagger was over there was no place for the next address. It joins in as soon as there is one.
#[test]
fn an_address_for_which_there_was_no_place_joins_in_later() {
    let mut desk = desk_with(|_| (), |limits| limits.sessions = 2);
    let remotes = desk.remotes::<2>();
    let (socket, peer) = desk.world.pair();
    let conn = desk.submitter.delegate(socket).unwrap();
    desk.submitter.connect(addrs(&remotes)).stagger(STAGGER).submit_with(1).unwrap();
    for _ in 0..4 {
        desk.nothing_within(STAGGER);
    }
    let _first = remotes[0].attempt().unwrap();
    assert!(remotes[1].attempt().is_none(), "there is no place");
    assert_eq!(desk.watcher.next_turn(), NextTurn::WhenReadable, "and nothing to be done about that");
    drop((conn, peer));
    desk.nothing_within(Duration::ZERO);
    let _connection = remotes[1].attempt().expect("there is a place, and it takes no time").accept();
    let conn = desk.one().unwrap();
    assert_eq!(conn.peer_addr(), Some(remotes[1].addr()));
}

/// Of two that are answered within one turn one wins; the other's peer sees that it is not wanted.
#[test]
fn the_first_to_connect_wins_and_the_others_are_closed() {
    let mut desk = desk();
    let remotes = desk.remotes::<3>();
    desk.submitter.connect(addrs(&remotes)).stagger(Duration::ZERO).submit_with(1).unwrap();
    desk.nothing_within(Duration::ZERO);
    desk.nothing_within(TICK);
    desk.nothing_within(TICK);
    assert_eq!(desk.sockets(), 3);
    let late = remotes[0].attempt().unwrap();
    let peers = [1, 2].map(|i| remotes[i].attempt().unwrap().accept());
    let conn = desk.one().unwrap();
    assert_eq!((desk.sockets(), desk.submitter.counters().sessions), (1, 1));
    let won = remotes[1..].iter().position(|remote| Some(remote.addr()) == conn.peer_addr()).unwrap();
    assert_eq!(peers[won].recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(peers[1 - won].recv(&mut [0; 8]).unwrap(), 0);
    assert_eq!(late.accept().recv(&mut [0; 8]).unwrap(), 0, "who answers a closed one sees it");
}

/// An answer and the deadline in the same turn: it is a connection. Afterwards it is none, and the peer sees that.
#[test]
fn a_deadline_and_an_answer() {
    let mut desk = desk();
    let remote = desk.world.remote();
    for answered in [true, false] {
        desk.submitter.connect(remote.addr()).within(STAGGER).submit_with(1).unwrap();
        desk.nothing_within(STAGGER - Duration::from_millis(1));
        let attempt = remote.attempt().unwrap();
        desk.world.advance(TICK);
        if answered {
            let _peer = attempt.accept();
            drop(desk.one().unwrap());
        } else {
            let failure = desk.one().unwrap_err();
            assert!(matches!(failure.error, OpError::TimedOut), "{failure}");
            assert_eq!(attempt.accept().recv(&mut [0; 8]).unwrap(), 0);
        }
        desk.assert_over();
    }
    desk.nothing_within(10 * STAGGER);
    assert_eq!(desk.submitter.counters().expired, 1, "the deadline of the one that was answered is gone with it");
}

/// Tried again after 1, 2, 4 … 64 ms (of 2²⁰ ns): the first ones within 70 ms, and then none for a while.
#[test]
fn a_full_unix_backlog_is_tried_again_with_pauses_that_grow() {
    const MILLISECOND: Duration = Duration::from_millis(1);
    let mut desk = desk();
    let path = Path::new("full");
    let mut full = ListenOptions::default();
    full.backlog = 0;
    let (mut other, accepting) = EmbeddedWatcher::<()>::new_for(Options::default()).unwrap();
    let _listener = accepting.listen_unix(path, &full).unwrap();
    let _first = desk.world.connect_unix(path).unwrap();
    desk.submitter.connect(path).submit_with(1).unwrap();
    desk.nothing_within(Duration::ZERO);
    for _ in 0..75 {
        desk.nothing_within(MILLISECOND);
    }
    assert_eq!(other.turn(None).unwrap().count(), 1, "there is room now");
    for _ in 0..50 {
        desk.nothing_within(MILLISECOND);
    }
    desk.world.advance(20 * MILLISECOND);
    desk.one().unwrap();
}

#[test]
fn a_cancel_closes_all_that_race() {
    let mut desk = desk();
    let remotes = desk.remotes::<2>();
    let (connect, id) = desk.submitter.connect(addrs(&remotes)).stagger(Duration::ZERO).named();
    connect.submit_with(1).unwrap();
    desk.nothing_within(Duration::ZERO);
    desk.nothing_within(TICK);
    let attempts: Vec<_> = remotes.iter().filter_map(Remote::attempt).collect();
    assert_eq!((attempts.len(), desk.sockets()), (2, 2));
    desk.submitter.cancel_connect(id).unwrap();
    assert!(matches!(desk.one().unwrap_err().error, OpError::Cancelled));
    desk.assert_over();
    for attempt in attempts {
        assert_eq!(attempt.accept().recv(&mut [0; 8]).unwrap(), 0);
    }
    // Cancelled before it has begun: nobody was asked.
    let (connect, id) = desk.submitter.connect(remotes[0].addr()).named();
    connect.submit_with(2).unwrap();
    desk.submitter.cancel_connect(id).unwrap();
    assert!(matches!(desk.one().unwrap_err().error, OpError::Cancelled));
    assert!(remotes[0].attempt().is_none());
    // Two have found what they were to cancel; the third does not.
    assert_eq!(desk.submitter.counters().cancels_missed, 0);
    desk.submitter.cancel_connect(id).unwrap();
    desk.nothing_within(Duration::ZERO);
    assert_eq!(desk.submitter.counters().cancels_missed, 1);
}

#[test]
fn without_descriptors_it_fails_and_leaves_none() {
    for left in 0..3 {
        let mut desk = desk();
        let remotes = desk.remotes::<2>();
        desk.world.configure(|config| config.descriptors = desk.own + left);
        desk.submitter.connect(addrs(&remotes)).stagger(Duration::ZERO).submit_with(1).unwrap();
        if left == 0 {
            let failure = desk.one().unwrap_err();
            assert_eq!((failure.failed.len(), failure.error.raw_os_error()), (2, Some(24)), "EMFILE: {failure}");
        } else {
            desk.nothing_within(Duration::ZERO);
            desk.nothing_within(TICK);
            assert_eq!(desk.sockets(), left, "what could begin goes on");
            remotes[0].attempt().unwrap().refuse();
            if left == 2 {
                desk.nothing_within(Duration::ZERO);
                remotes[1].attempt().unwrap().refuse();
            }
            assert_eq!(desk.one().unwrap_err().failed.len(), 2);
        }
        desk.assert_over();
    }
}

/// More attempts than one turn makes: the rest are made in the next ones, without an event, and in order.
#[test]
fn a_burst_is_spread_over_turns() {
    let mut desk = desk();
    let remote = desk.world.remote();
    for context in 0..600 {
        desk.submitter.connect(remote.addr()).submit_with(context).unwrap();
    }
    let mut begun = Vec::new();
    let mut attempts = Vec::new();
    while attempts.len() < 600 {
        assert_eq!(desk.watcher.turn(Some(Duration::ZERO)).unwrap().len(), 0);
        let before = attempts.len();
        attempts.extend(std::iter::from_fn(|| remote.attempt()));
        begun.push(attempts.len() - before);
    }
    assert!(begun.len() > 1 && begun.iter().all(|n| *n <= 512), "two passes a turn at most: {begun:?}");
    let _peers: Vec<_> = attempts.into_iter().map(|attempt| attempt.accept()).collect();
    let contexts: Vec<u32> =
        desk.connected().into_iter().map(|(context, result)| result.map(|_| context).unwrap()).collect();
    assert_eq!(contexts, (0..600).collect::<Vec<_>>());
}

#[test]
fn a_shutdown_aborts_in_order_and_closes_all() {
    let mut desk = desk();
    let remotes = desk.remotes::<2>();
    for context in 0..3 {
        desk.submitter.connect(addrs(&remotes)).stagger(Duration::ZERO).submit_with(context).unwrap();
    }
    desk.nothing_within(Duration::ZERO);
    desk.nothing_within(TICK);
    assert_eq!(desk.sockets(), 6);
    desk.submitter.connect(remotes[0].addr()).submit_with(3).unwrap();
    desk.submitter.shutdown(Duration::from_secs(9));
    let mut contexts = Vec::new();
    let end = loop {
        match desk.watcher.turn(Some(Duration::ZERO)) {
            Ok(batch) => {
                for event in batch {
                    let Event::Connected { context, result: Err(failure) } = event else { panic!("{event:?}") };
                    assert!(matches!(failure.error, OpError::Aborted), "{failure}");
                    contexts.push(context);
                }
            }
            Err(end) => break end,
        }
    };
    assert_eq!((contexts, end), (vec![0, 1, 2, 3], WaitError::Closed));
    assert_eq!((desk.sockets(), desk.submitter.counters().sessions, desk.submitter.load()), (0, 0, 0));
}

/// After a panic in user code connects under way fail, and those behind it in the ring as well (G11).
#[test]
fn after_a_panic_connects_fail() {
    let world = World::enter();
    let (mut watcher, submitter) = Watcher::<u32>::spawn_for(Options::default()).unwrap();
    let own = world.open_descriptors();
    let remote = world.remote();
    submitter.connect(remote.addr()).submit_with(1).unwrap();
    let _attempt = remote.attempt_blocking();
    let (socket, _peer) = world.pair();
    let conn = submitter.delegate(socket).unwrap();
    let (payload, begun, light) = bomb();
    conn.write(payload).then_read_pooled().submit_with(2).unwrap();
    begun.recv().unwrap();
    submitter.connect(remote.addr()).submit_with(3).unwrap();
    light.send(()).unwrap();
    let mut failed = Vec::new();
    let end = loop {
        match watcher.wait() {
            Ok(batch) => failed.extend(batch.filter_map(|event| match event {
                Event::Connected { context, result } => Some((context, result.unwrap_err().error)),
                _ => None,
            })),
            Err(end) => break end,
        }
    };
    assert_eq!(end, WaitError::LoopFailed);
    assert!(matches!(failed.as_slice(), [(1, OpError::LoopFailed), (3, OpError::LoopFailed)]), "{failed:?}");
    assert_eq!((submitter.counters().sessions, submitter.load()), (0, 0));
    drop(watcher);
    assert!(world.open_descriptors() < own);
}
