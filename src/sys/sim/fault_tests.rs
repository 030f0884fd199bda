//! Each fault, made certain: what is seen of it, and what still holds.

use std::io::{ErrorKind, IoSlice};
use std::time::Duration;

use super::super::{Bits, Connecting, Errno, ListenOptions, Readiness, StreamOptions};
use super::*;

const ALWAYS: u16 = 1024;
const READ_WRITE: Bits = Bits::READABLE.union(Bits::WRITABLE);
const NOW: Option<u64> = Some(0);

/// A world without the fault yet, its selector, and a registered connection of token 1 whose first edge is fetched.
struct Desk {
    world: World,
    selector: Selector,
    socket: Socket,
    peer: Peer,
}

fn desk_of(pair: impl FnOnce(&World) -> (Socket, Peer)) -> Desk {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let (socket, peer) = pair(&world);
    selector.register(&socket, 1).unwrap();
    selector.wait(&mut Vec::new(), NOW).unwrap();
    Desk { world, selector, socket, peer }
}

fn desk() -> Desk {
    desk_of(World::pair)
}

impl Desk {
    fn set(&self, fault: Fault, of_1024: u16) {
        self.world.configure(|config| config.faults = Faults::seeded(1).with(fault, of_1024));
    }

    fn wait(&self, deadline: Option<u64>) -> Vec<Readiness> {
        let mut out = Vec::new();
        self.selector.wait(&mut out, deadline).unwrap();
        out
    }

    fn bits(&self) -> Bits {
        self.wait(NOW).first().map_or(Bits::NONE, |event| event.bits)
    }

    fn recv(&self, room: usize) -> Result<Vec<u8>, Errno> {
        let mut buf = vec![0; room];
        recv_slice(&self.socket, &mut buf).map(|len| buf[..len].to_vec())
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(&self.socket, &[IoSlice::new(bytes)])
    }

    fn count(&self, fault: Fault) -> u64 {
        count(&self.world, fault)
    }
}

fn count(world: &World, fault: Fault) -> u64 {
    world.faults().into_iter().find(|(kind, _)| *kind == fault).unwrap().1
}

fn peer_recv(peer: &Peer) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = [0; 64];
    peer.recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
}

#[test]
fn the_table_counts_each_kind_at_its_place() {
    assert!(Fault::ALL.iter().enumerate().all(|(place, fault)| *fault as usize == place));
}

#[test]
fn what_a_short_read_leaves_has_an_edge() {
    let desk = desk();
    desk.peer.send(b"abcdefgh").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    desk.set(Fault::ShortRead, ALWAYS);
    let mut got = Vec::new();
    while got.len() < 8 {
        let part = desk.recv(64).unwrap();
        assert_eq!(desk.bits().contains(Bits::READABLE), got.len() + part.len() < 8, "of {} bytes", got.len());
        got.extend(part);
    }
    assert_eq!(got, b"abcdefgh");
    assert!(desk.count(Fault::ShortRead) >= 1);
}

/// An end would be read there.
#[test]
fn two_marks_at_one_place_are_passed_as_one() {
    let desk = desk();
    desk.peer.send(b"abc").unwrap();
    desk.peer.send_urgent();
    desk.peer.send_urgent();
    desk.peer.send(b"def").unwrap();
    assert_eq!((desk.recv(8), desk.recv(8)), (Ok(b"abc".to_vec()), Ok(b"def".to_vec())));
    assert_eq!(desk.recv(8), Err(Errno::AGAIN));
}

#[test]
fn a_short_write_takes_a_part_and_is_no_edge() {
    let desk = desk();
    desk.set(Fault::ShortWrite, ALWAYS);
    let sent = desk.send(b"abcdefgh").unwrap();
    assert!((1..8).contains(&sent));
    assert_eq!(desk.bits(), Bits::NONE);
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"abcdefgh"[..sent]);
    assert_eq!((desk.send(b"x"), desk.count(Fault::ShortWrite)), (Ok(1), 1));
}

#[test]
fn a_datagram_is_never_cut_into_pieces() {
    for pair in [World::udp_pair, World::unix_datagram_pair] {
        let desk = desk_of(pair);
        desk.peer.send(b"message").unwrap();
        let faults = Faults::seeded(1).with(Fault::ShortRead, ALWAYS).with(Fault::ShortWrite, ALWAYS);
        desk.world.configure(|config| config.faults = faults);
        assert_eq!(desk.recv(64).unwrap(), b"message");
        assert_eq!(desk.send(b"answer"), Ok(6));
    }
}

#[test]
fn a_pending_without_need_is_followed_by_an_edge() {
    let desk = desk();
    desk.peer.send(b"x").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    desk.set(Fault::Pending, ALWAYS);
    assert_eq!(desk.recv(4), Err(Errno::AGAIN));
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.send(b"y"), Err(Errno::AGAIN));
    assert_eq!(desk.bits(), READ_WRITE);
    desk.world.configure(|config| config.faults.calm());
    assert_eq!((desk.recv(4), desk.send(b"y")), (Ok(b"x".to_vec()), Ok(1)));
    assert_eq!(desk.count(Fault::Pending), 2);
}

#[test]
fn a_late_edge_comes_before_anybody_sleeps_and_may_share_an_event_with_the_end() {
    let desk = desk();
    desk.set(Fault::LateEdge, ALWAYS);
    desk.peer.send(b"last").unwrap();
    let mut early = 0;
    while desk.wait(NOW).is_empty() {
        early += 1;
        desk.peer.send(b"!").unwrap();
        assert!(early < 1_000, "it may come without a sleep as well");
    }
    desk.set(Fault::LateEdge, ALWAYS);
    desk.peer.send(b".").unwrap();
    desk.peer.shutdown_write().unwrap();
    let end = desk.wait(Some(1_000_000));
    assert_eq!(end[0].bits, READ_WRITE | Bits::HANGUP);
    assert_eq!(desk.world.now(), Duration::ZERO, "nobody has slept");
    assert!(desk.count(Fault::LateEdge) >= 2);
    assert_eq!(desk.count(Fault::FinWithData), 1);
}

#[test]
fn a_signal_ends_a_wait_with_nothing_and_loses_nothing() {
    let desk = desk();
    desk.set(Fault::Interrupted, ALWAYS);
    desk.peer.send(b"x").unwrap();
    assert_eq!((desk.wait(None).len(), desk.count(Fault::Interrupted)), (0, 1));
    desk.world.configure(|config| config.faults.calm());
    assert_eq!(desk.wait(None).len(), 1);
}

#[test]
fn the_clock_jumps_forward() {
    let desk = desk();
    desk.set(Fault::ClockJump, ALWAYS);
    let mut before = now();
    for _ in 0..100 {
        desk.wait(NOW);
        assert!((before..=before + 10_000_000_000).contains(&now()));
        before = now();
    }
    assert!(before > 1_000_000_000 && desk.count(Fault::ClockJump) == 100, "{before}");
}

#[test]
fn a_send_for_which_memory_is_short_has_sent_nothing_and_no_edge() {
    for (fault, errno) in [(Fault::NoBuffers, Errno::NOBUFS), (Fault::NoMemory, Errno::NOMEM)] {
        let desk = desk();
        desk.set(fault, ALWAYS);
        assert_eq!((desk.send(b"x"), desk.bits(), desk.count(fault)), (Err(errno), Bits::NONE, 1));
        assert_eq!(peer_recv(&desk.peer), Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn a_reset_is_told_once_behind_what_is_unread() {
    let desk = desk();
    desk.set(Fault::Reset, ALWAYS);
    assert_eq!(desk.recv(4), Err(Errno::CONNRESET));
    assert_eq!(desk.bits(), READ_WRITE | Bits::HANGUP);
    assert_eq!((desk.recv(4), desk.send(b"x")), (Ok(vec![]), Err(Errno::PIPE)));
    assert_eq!(peer_recv(&desk.peer), Err(ErrorKind::ConnectionReset));
    assert_eq!(desk.count(Fault::Reset), 1);

    let desk = self::desk();
    desk.set(Fault::ResetBehindData, ALWAYS);
    assert_eq!(desk.recv(4), Err(Errno::AGAIN), "there is nothing to be in front of it");
    desk.peer.send(b"data").unwrap();
    assert_eq!((desk.recv(4), desk.recv(4)), (Ok(b"data".to_vec()), Err(Errno::CONNRESET)));
    assert_eq!((desk.count(Fault::Reset), desk.count(Fault::ResetBehindData)), (0, 1));
}

#[test]
fn an_accept_fails_in_three_ways() {
    for (fault, errno, lost) in [
        (Fault::ProcessFull, Errno::MFILE, false),
        (Fault::SystemFull, Errno::NFILE, false),
        (Fault::Aborted, Errno::CONNABORTED, true),
    ] {
        let world = World::enter();
        let (listener, addr) = world.listener();
        let peers = [world.connect(addr).unwrap(), world.connect(addr).unwrap()];
        world.configure(|config| config.faults = Faults::seeded(1).with(fault, ALWAYS));
        assert_eq!(accept(&listener).unwrap_err(), errno);
        assert_eq!(count(&world, fault), 1);
        world.configure(|config| config.faults.calm());
        let (_accepted, peer) = accept(&listener).unwrap();
        assert_eq!(peer, peers[usize::from(lost)].local_addr());
        let first = if lost { ErrorKind::ConnectionReset } else { ErrorKind::WouldBlock };
        assert_eq!(peer_recv(&peers[0]), Err(first));
    }
}

#[test]
fn a_connect_is_refused_late_or_never_answered() {
    let connect_with = |fault| {
        let world = World::enter();
        let (listener, addr) = world.listener();
        world.configure(|config| config.faults = Faults::seeded(1).with(fault, ALWAYS));
        let (socket, begun) = connect_tcp(addr, &StreamOptions::default()).unwrap();
        assert_eq!((begun, count(&world, fault)), (Connecting::Pending, 1));
        (world, listener, socket)
    };
    let (_world, listener, socket) = connect_with(Fault::ConnectRefused);
    assert_eq!(connected(&socket), Err(Errno::CONNREFUSED));
    assert_eq!(accept(&listener).unwrap_err(), Errno::AGAIN);

    let (world, listener, socket) = connect_with(Fault::ConnectNever);
    let selector = Selector::new().unwrap();
    selector.register(&socket, 1).unwrap();
    let mut out = Vec::new();
    selector.wait(&mut out, Some(1_000)).unwrap();
    assert_eq!((out.len(), connected(&socket)), (0, Err(Errno::AGAIN)));
    drop((listener, socket, selector));
    assert_eq!(world.open_descriptors(), 0);

    let (_world, listener, socket) = connect_with(Fault::ConnectLate);
    assert_eq!((connected(&socket), accept(&listener).unwrap_err()), (Err(Errno::AGAIN), Errno::AGAIN));
    let selector = Selector::new().unwrap();
    selector.register(&socket, 1).unwrap();
    selector.wait(&mut out, Some(1_000)).unwrap();
    assert_eq!(out[0].bits, Bits::WRITABLE);
    assert!(connected(&socket).is_ok() && accept(&listener).is_ok());
}

#[test]
fn a_unix_connect_is_refused_at_once() {
    let world = World::enter();
    let _listener = listen_unix("place".as_ref(), &ListenOptions::default()).unwrap();
    world.configure(|config| config.faults = Faults::seeded(1).with(Fault::ConnectRefused, ALWAYS));
    assert_eq!(connect_unix("place".as_ref(), &StreamOptions::default()).unwrap_err(), Errno::CONNREFUSED);
}

#[test]
fn a_registration_is_refused_but_not_a_wakers() {
    let world = World::enter();
    world.configure(|config| config.faults = Faults::seeded(1).with(Fault::NotRegistered, ALWAYS));
    let selector = Selector::new().unwrap();
    let _waker = Waker::new(&selector, 9).unwrap();
    let (socket, _peer) = world.pair();
    assert_eq!(selector.register(&socket, 1), Err(Errno::NOMEM));
    world.configure(|config| config.faults.calm());
    assert_eq!(selector.register(&socket, 1), Ok(()));
}

#[test]
fn a_deaf_peer_hears_once_there_are_no_deaf_peers() {
    let world = World::enter();
    world.configure(|config| config.faults = Faults::seeded(1).with(Fault::DeafPeer, ALWAYS));
    let (socket, peer) = world.pair();
    assert_eq!(send(&socket, &[IoSlice::new(b"hello")]), Ok(5));
    assert_eq!((peer_recv(&peer), count(&world, Fault::DeafPeer)), (Err(ErrorKind::WouldBlock), 1));
    world.configure(|config| config.faults.calm());
    assert_eq!(peer_recv(&peer).unwrap(), b"hello");
}

#[test]
fn a_number_is_used_again_at_once() {
    let world = World::enter();
    let (first, _peer) = world.pair();
    let number = first.number();
    drop(first);
    assert_eq!((world.pair().0.number(), count(&world, Fault::NumberReused)), (number, 1));
}

#[test]
fn the_same_seed_does_the_same_and_another_does_not() {
    let run = |seed| {
        let desk = desk();
        let faults = Faults::seeded(seed).with(Fault::Pending, 300).with(Fault::ShortRead, 300);
        desk.world.configure(|config| config.faults = faults.with(Fault::LateEdge, 300));
        let answers: Vec<_> = (0..200)
            .map(|_| {
                let _ = desk.peer.send(b"some bytes");
                (desk.recv(7), desk.bits())
            })
            .collect();
        answers
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn alone_nobody_sleeps_for_ever() {
    let desk = desk();
    desk.world.configure(|config| config.alone = true);
    assert!(desk.wait(Some(1_000)).is_empty(), "the clock ends this one");
    desk.wait(None);
}

#[test]
#[should_panic(expected = "a loop that spins")]
fn alone_a_loop_that_asks_in_vain_is_found_out() {
    let desk = desk();
    desk.world.configure(|config| config.alone = true);
    for _ in 0..20_000 {
        desk.wait(NOW);
    }
}

#[test]
fn a_random_mixture_has_every_rate_and_now_and_then_none() {
    let mut dice = Dice::new(1);
    let mixtures: Vec<Faults> = (0..2_000).map(|_| Faults::random(&mut dice)).collect();
    let calm = mixtures.iter().filter(|faults| Fault::ALL.iter().all(|fault| faults.chance_of(*fault) == 0)).count();
    assert!((400..600).contains(&calm), "{calm} of 2000 worlds are good ones");
    for fault in Fault::ALL {
        let rates: std::collections::BTreeSet<u16> = mixtures.iter().map(|faults| faults.chance_of(fault)).collect();
        let resets = matches!(fault, Fault::Reset | Fault::ResetBehindData);
        let expected: &[u16] = if resets { &[0, 4, 32] } else { &[0, 4, 32, 256] };
        assert!(rates.iter().eq(expected), "{fault:?}: {rates:?}");
    }
}
