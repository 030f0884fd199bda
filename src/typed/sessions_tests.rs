//! Loops of sessions that share a thread, on the simulated system: who serves what one of them accepts, and what wakes them.

use super::*;
use crate::event_loop::listener::{Listening, Phase};
use crate::sys::sim::{Clock, Peer, World};
use crate::typed::expect::Expect;
use crate::typed::io::Io;
use crate::typed::protocol::Next;

struct Quiet;

impl Protocol for Quiet {
    type Message = ();

    fn expects(&self) -> Expect {
        Expect::any()
    }

    fn on_frame(self, bytes: &[u8], _: &mut Io<'_, Self>) -> Next<Self> {
        if bytes == b"close" { Next::Close(self) } else { Next::Become(self) }
    }
}

struct Loops {
    world: World,
    /// The first one accepts.
    all: Vec<SessionLoop<Quiet>>,
}

/// So many loops, each with so many places.
fn loops(n: usize, places: usize) -> Loops {
    let world = World::enter();
    world.configure(|config| config.clock = Clock::Manual);
    let limits = SessionLimits { sessions: places, ..SessionLimits::default() };
    let others: Vec<_> = (1..n).map(|_| unbound(&limits, &[]).bind()).collect();
    let hubs: Vec<_> = others.iter().map(|other| other.hub.clone()).collect();
    let first = unbound(&limits, &hubs).bind();
    Loops { world, all: [first].into_iter().chain(others).collect() }
}

fn unbound(limits: &SessionLimits, siblings: &[Hub<Quiet>]) -> Unbound<Quiet> {
    Unbound::new(limits.clone(), Box::new(|_| Some(Quiet)), siblings).unwrap()
}

impl Loops {
    fn turn(&mut self, n: usize) {
        for _ in 0..n {
            for one in &mut self.all {
                let _ = one.turn(Some(Duration::ZERO));
            }
        }
    }

    fn sessions(&self) -> Vec<usize> {
        self.all.iter().map(|one| one.hub.sessions()).collect()
    }

    fn counters(&self) -> Snapshot {
        self.all[0].hub.counters()
    }

    fn listen(&mut self, linger: Option<Duration>) -> SocketAddr {
        let (socket, address) = self.world.listener();
        self.add(socket, linger);
        address
    }

    fn add(&mut self, socket: Socket, linger: Option<Duration>) {
        let listening = Listening { socket, phase: Phase::Ready, unix: false, tag: linger };
        assert!(self.all[0].event_loop.core.add_listener(listening).is_ok());
    }

    fn connect(&mut self, address: SocketAddr) -> Peer {
        let peer = self.world.connect(address).unwrap();
        self.turn(4);
        peer
    }
}

#[test]
fn a_connection_goes_to_the_loop_with_the_fewest_sessions_the_own_one_of_equals() {
    let mut loops = loops(3, 100);
    let address = loops.listen(None);
    let mut peers = Vec::new();
    for expected in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1]] {
        peers.push(loops.connect(address));
        assert_eq!(loops.sessions(), expected);
    }
    // The second and the third are in the other loops: they leave them with room.
    for peer in peers.drain(1..3) {
        peer.send(b"close").unwrap();
    }
    loops.turn(4);
    assert_eq!(loops.sessions(), [2, 1, 0]);
    peers.push(loops.connect(address));
    assert_eq!(loops.sessions(), [2, 1, 1]);
}

/// The other loop has the fewest sessions, but is on no thread yet: what is sent to it stays in its ring, which has two slots.
#[test]
fn what_another_loop_does_not_take_is_served_here_if_there_is_a_place() {
    for (places, served) in [(4, [1, 1, 2, 2, 3, 4]), (3, [1, 1, 2, 2, 3, 3])] {
        let mut loops = loops(1, places);
        let limits = SessionLimits { sessions: places, ring_slots: 2, ..SessionLimits::default() };
        let away = unbound(&limits, &[]);
        loops.all[0] = unbound(&limits, &[away.hub.clone()]).bind();
        let address = loops.listen(None);
        let peers = served.map(|served| {
            let peer = loops.connect(address);
            assert_eq!(loops.sessions(), [served]);
            peer
        });
        assert_eq!(away.hub.sessions(), 2);
        let turned_away = usize::from(places == 3);
        let counters = loops.counters();
        let told = (counters.accepted, counters.refused, counters.ended_by_system);
        assert_eq!(told, (6, turned_away as u64, turned_away as u64));
        let answer = peers[5].recv(&mut [0; 9]).map_err(|error| error.kind());
        assert_eq!(answer, if places == 3 { Ok(0) } else { Err(io::ErrorKind::WouldBlock) });
    }
}

#[test]
fn a_listener_at_its_end_is_counted_and_closed() {
    let mut loops = loops(1, 9);
    let (socket, _peer) = loops.world.pair();
    let descriptors = loops.world.open_descriptors();
    loops.add(socket, None);
    loops.turn(2);
    assert_eq!(loops.counters().accept_errors, 1);
    assert!(loops.all[0].event_loop.core.listeners.iter().all(Option::is_none));
    assert_eq!(loops.world.open_descriptors(), descriptors - 1);
}

#[test]
fn the_linger_of_a_listener_bounds_the_closes_of_its_connections() {
    const LINGER: Duration = Duration::from_millis(500);
    for (linger, within) in [(None, SessionLimits::default().close_within), (Some(LINGER), LINGER)] {
        let mut loops = loops(1, 9);
        let address = loops.listen(linger);
        let peer = loops.connect(address);
        peer.send(b"close").unwrap();
        loops.turn(4);
        loops.world.advance(within - Duration::from_millis(2));
        loops.turn(4);
        assert_eq!(loops.sessions(), [1]);
        loops.world.advance(Duration::from_millis(4));
        loops.turn(4);
        assert_eq!((loops.sessions(), loops.counters().closed_hard), (vec![0], 1));
    }
}

#[test]
fn each_message_of_another_thread_wakes_the_loop() {
    let mut loops = loops(1, 9);
    let hub = loops.all[0].hub.clone();
    for n in 1..4 {
        loops.turn(2);
        let selector = &loops.all[0].event_loop.core.selector;
        assert!(!selector.is_readable());
        std::thread::scope(|scope| {
            scope.spawn(|| hub.broadcast(1, ()).map_err(drop).unwrap());
        });
        assert!(selector.is_readable());
        assert_eq!(loops.counters().waker_writes, n);
    }
}
