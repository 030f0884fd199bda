//! The simulated system's own rules, each by the situation in which it matters.

use std::io::{ErrorKind, IoSlice};
use std::time::Duration;

use super::super::{Bits, Errno, Kind, ListenOptions, Readiness};
use super::*;
use crate::sync::thread;

const READ_WRITE: Bits = Bits::READABLE.union(Bits::WRITABLE);
const ALL: Bits = READ_WRITE.union(Bits::HANGUP);

/// A world, its selector, and a registered connection of token 1.
struct Desk {
    world: World,
    selector: Selector,
    socket: Socket,
    peer: Peer,
}

fn desk_with(unix: bool, change: impl FnOnce(&mut Config)) -> Desk {
    let world = World::enter();
    world.configure(change);
    let selector = Selector::new().unwrap();
    let (socket, peer) = if unix { world.unix_pair() } else { world.pair() };
    selector.register(&socket, 1).unwrap();
    let desk = Desk { world, selector, socket, peer };
    assert_eq!(desk.bits(), Bits::WRITABLE, "the state at the registration is the first edge");
    desk
}

fn desk() -> Desk {
    desk_with(false, |_| ())
}

impl Desk {
    fn events(&self) -> Vec<Readiness> {
        let mut out = Vec::new();
        self.selector.wait(&mut out, Some(0)).unwrap();
        out
    }

    /// The bits of the one connection's event, or none.
    fn bits(&self) -> Bits {
        let events = self.events();
        assert!(events.len() <= 1, "events coalesce: {events:?}");
        events.first().map_or(Bits::NONE, |event| event.bits)
    }

    fn recv(&self, room: usize) -> Result<Vec<u8>, Errno> {
        let mut buf = Vec::with_capacity(room);
        recv_vec(&self.socket, &mut buf).map(|_| buf)
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(&self.socket, &[IoSlice::new(bytes)])
    }
}

fn peer_recv(peer: &Peer) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = [0; 64];
    peer.recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
}

#[test]
fn an_edge_is_an_arrival_and_edges_until_the_fetch_are_one_event() {
    let desk = desk();
    desk.peer.send(b"one").unwrap();
    desk.peer.send(b"two").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.bits(), Bits::NONE, "unread data is no edge");
    assert_eq!(desk.recv(4).unwrap(), b"onet");
    assert_eq!(desk.bits(), Bits::NONE, "nor is what a read left behind");
    desk.peer.send(b"!").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.recv(64).unwrap(), b"wo!");
    assert_eq!(desk.recv(64), Err(Errno::AGAIN));
}

#[test]
fn an_event_carries_what_holds_when_it_is_fetched() {
    let desk = desk_with(false, |config| config.buffer = 2);
    assert_eq!(desk.send(b"abc"), Ok(2));
    desk.peer.send(b"x").unwrap();
    assert_eq!(desk.recv(8).unwrap(), b"x");
    assert_eq!(desk.bits(), Bits::NONE, "neither bytes nor room are left of that edge");
}

#[test]
fn room_is_an_edge_after_a_refusal_and_only_then() {
    let desk = desk_with(false, |config| config.buffer = 4);
    assert_eq!(desk.send(b"abcdef"), Ok(4), "a short write");
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"abcd");
    assert_eq!(desk.bits(), Bits::NONE, "a short write asks for nothing");
    assert_eq!(desk.send(b"efgh"), Ok(4));
    assert_eq!(desk.send(b"i"), Err(Errno::AGAIN));
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"efgh");
    assert_eq!(desk.bits(), Bits::WRITABLE);
    assert_eq!(desk.send(b"i"), Ok(1));
}

#[test]
fn several_slices_are_one_run_and_too_many_are_refused() {
    let desk = desk_with(false, |config| config.buffer = 5);
    assert_eq!(send(&desk.socket, &[IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"def")]), Ok(5));
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"abcde");
    assert_eq!(send(&desk.socket, &[IoSlice::new(b""); 1025]), Err(Errno::MSGSIZE));
}

#[test]
fn a_fin_comes_behind_the_data_and_the_other_way_stays_open() {
    let desk = desk();
    desk.peer.send(b"last").unwrap();
    desk.peer.shutdown_write().unwrap();
    assert_eq!(desk.bits(), ALL, "data and FIN share one edge");
    assert_eq!(desk.recv(64).unwrap(), b"last");
    assert_eq!(desk.recv(64).unwrap(), b"", "a short read was not the end");
    assert_eq!(desk.send(b"answer"), Ok(6));
    shutdown_write(&desk.socket).unwrap();
    assert_eq!(desk.send(b"more"), Err(Errno::PIPE));
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"answer");
    assert_eq!(peer_recv(&desk.peer).unwrap(), b"");
}

#[test]
fn a_reset_comes_behind_the_data_and_is_told_once() {
    let Desk { selector, socket, peer, .. } = desk();
    peer.send(b"last").unwrap();
    peer.reset();
    let mut out = Vec::new();
    selector.wait(&mut out, Some(0)).unwrap();
    assert_eq!(out, [Readiness { token: 1, bits: ALL }]);
    let mut buf = [0; 64];
    assert_eq!((recv_slice(&socket, &mut buf), &buf[..4]), (Ok(4), &b"last"[..]));
    assert_eq!(recv_slice(&socket, &mut buf), Err(Errno::CONNRESET));
    assert_eq!(recv_slice(&socket, &mut buf), Ok(0));
    assert_eq!(send(&socket, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
    assert_eq!(shutdown_write(&socket), Err(Errno::NOTCONN));
}

#[test]
fn a_close_with_unread_bytes_is_a_reset() {
    let Desk { selector: _selector, socket, peer, .. } = desk();
    peer.send(b"never read").unwrap();
    drop(socket);
    assert_eq!(peer_recv(&peer), Err(ErrorKind::ConnectionReset));
    assert_eq!(peer_recv(&peer).unwrap(), b"");
}

#[test]
fn a_clean_close_is_a_fin_and_an_abort_is_not() {
    let world = World::enter();
    let (socket, peer) = world.pair();
    drop(socket);
    assert_eq!(peer_recv(&peer).unwrap(), b"");

    let (socket, peer) = world.pair();
    reset_on_close(&socket);
    drop(socket);
    assert_eq!(peer_recv(&peer), Err(ErrorKind::ConnectionReset));
}

#[test]
fn tcp_learns_of_a_close_by_sending_and_a_unix_socket_at_once() {
    let world = World::enter();
    let (tcp, peer) = world.pair();
    peer.close();
    assert_eq!(recv_slice(&tcp, &mut [0; 8]), Ok(0));
    assert_eq!(send(&tcp, &[IoSlice::new(b"in vain")]), Ok(7), "the RST is not there yet");
    assert_eq!(send(&tcp, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
    assert_eq!(recv_slice(&tcp, &mut [0; 8]), Ok(0), "the end that was told stays told");

    let (unix, peer) = world.unix_pair();
    peer.close();
    assert_eq!(send(&unix, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
}

#[test]
fn reads_stop_at_an_urgent_mark_and_only_priority_tells() {
    let desk = desk();
    desk.peer.send(b"abc").unwrap();
    desk.peer.send_urgent();
    desk.peer.send(b"def").unwrap();
    assert_eq!(desk.bits(), READ_WRITE | Bits::PRIORITY);
    assert_eq!(desk.recv(64).unwrap(), b"abc");
    assert_eq!(desk.bits(), Bits::NONE);
    assert_eq!(desk.recv(64).unwrap(), b"def");
}

#[test]
fn unix_reads_stop_behind_a_descriptor_and_nothing_tells() {
    let desk = desk_with(true, |_| ());
    desk.peer.send(b"abc").unwrap();
    desk.peer.send_with_descriptor(b"def").unwrap();
    desk.peer.send(b"ghi").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.recv(64).unwrap(), b"abcdef");
    assert_eq!(desk.bits(), Bits::NONE);
    assert_eq!(desk.recv(64).unwrap(), b"ghi");
}

#[test]
fn pending_first_answers_each_attempt_with_an_edge_and_lets_the_next_pass() {
    let desk = desk_with(false, |config| config.pending_first = true);
    assert_eq!(desk.send(b"out"), Err(Errno::AGAIN));
    assert_eq!(desk.bits(), Bits::WRITABLE);
    assert_eq!(desk.send(b"out"), Ok(3));
    assert_eq!(desk.send(b"out"), Err(Errno::AGAIN), "each success has its own refusal in front");

    desk.events();
    assert_eq!(desk.recv(64), Err(Errno::AGAIN), "nothing is there: no edge follows");
    assert_eq!(desk.bits(), Bits::NONE);
    desk.peer.send(b"in").unwrap();
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.recv(64), Err(Errno::AGAIN));
    assert_eq!(desk.bits(), READ_WRITE);
    assert_eq!(desk.recv(64).unwrap(), b"in");
}

#[test]
fn pending_first_holds_accepts_back_too() {
    let world = World::enter();
    world.configure(|config| config.pending_first = true);
    let (listener, addr) = world.listener();
    let _peer = world.connect(addr).unwrap();
    assert_eq!(accept(&listener).err(), Some(Errno::AGAIN));
    assert!(accept(&listener).is_ok());
}

#[test]
fn connections_wait_in_a_bounded_backlog_and_each_is_an_edge() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    // As Linux counts, this is room for two.
    let options = ListenOptions { backlog: 1, ..ListenOptions::default() };
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let addr = local_addr(&listener).unwrap();
    selector.register(&listener, 7).unwrap();
    assert_eq!(listen_tcp(addr, &options).unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut out = Vec::new();
    let peers = [world.connect(addr).unwrap(), world.connect(addr).unwrap()];
    assert_eq!(world.connect(addr).unwrap_err().kind(), ErrorKind::WouldBlock);
    selector.wait(&mut out, None).unwrap();
    assert_eq!(out, [Readiness { token: 7, bits: Bits::READABLE }]);

    peers[0].send(b"hello").unwrap();
    let (socket, peer) = accept(&listener).unwrap();
    assert_eq!((peer, Some(addr)), (peer_addr(&socket), local_addr(&socket)));
    assert!(peer.is_some());
    assert_eq!(recv_slice(&socket, &mut [0; 8]), Ok(5));
    drop(listener);
    assert_eq!(peer_recv(&peers[1]), Err(ErrorKind::ConnectionReset), "connected, never accepted");
    assert_eq!(world.connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn descriptors_run_out_and_the_reserve_helps() {
    let world = World::enter();
    let (listener, addr) = world.listener();
    let mut reserve = Reserve::new().unwrap();
    world.configure(|config| config.descriptors = 2);
    assert_eq!(accept(&listener).err(), Some(Errno::MFILE), "even with nothing to accept");
    let peer = world.connect(addr).unwrap();
    assert_eq!(accept(&listener).err(), Some(Errno::MFILE));
    reserve.release();
    let (socket, _) = accept(&listener).unwrap();
    assert!(!reserve.restore());
    drop(socket);
    assert!(reserve.restore());
    assert_eq!(peer_recv(&peer).unwrap(), b"", "the peer learns of it");
}

#[test]
fn a_number_is_reused_at_once_and_no_event_survives_its_descriptor() {
    let world = World::enter();
    let selector = Selector::new().unwrap();
    let (first, first_peer) = world.pair();
    selector.register(&first, 1).unwrap();
    first_peer.send(b"stale").unwrap();
    let number = first.number();
    drop(first);
    let (second, _second_peer) = world.pair();
    assert_eq!(second.number(), number);
    let mut out = Vec::new();
    selector.wait(&mut out, Some(0)).unwrap();
    assert_eq!(out, []);
    assert_eq!(selector.deregister(&second), Err(Errno::NOENT));
    selector.register(&second, 2).unwrap();
    assert_eq!(selector.register(&second, 3), Err(Errno::EXIST));
    selector.deregister(&second).unwrap();
    selector.wait(&mut out, Some(0)).unwrap();
    assert_eq!(out, [], "the initial edge went with the registration");
}

#[test]
fn nothing_is_left_when_all_handles_are_gone() {
    let Desk { world, selector, socket, peer } = desk();
    let waker = Waker::new(&selector, 0).unwrap();
    assert_eq!(world.open_descriptors(), 3);
    drop((selector, waker, socket, peer));
    assert_eq!(world.open_descriptors(), 0);
}

#[test]
fn a_wake_is_an_edge_once_the_last_is_drained() {
    let _world = World::enter();
    let selector = Selector::new().unwrap();
    let waker = Waker::new(&selector, 9).unwrap();
    let mut out = Vec::new();
    for _ in 0..2 {
        (0..3).for_each(|_| waker.wake());
        selector.wait(&mut out, None).unwrap();
        assert_eq!(out, [Readiness { token: 9, bits: Bits::READABLE }]);
        waker.wake();
        selector.wait(&mut out, Some(0)).unwrap();
        assert_eq!(out, [], "not drained: no edge");
        waker.drain();
    }
}

#[test]
fn a_deadline_is_reached_by_waiting_for_it_and_the_past_is_free() {
    let desk = desk();
    let mut out = Vec::new();
    assert!(desk.selector.wait(&mut out, Some(5_000)).unwrap());
    assert_eq!((out.len(), now()), (0, 5_000));
    assert!(desk.selector.wait(&mut out, Some(4_000)).unwrap());
    assert_eq!(now(), 5_000, "time does not go back");
    for (deadline, may_have_come) in [(u64::MAX, false), (5_000, true), (0, true)] {
        desk.peer.send(b"x").unwrap();
        assert_eq!(desk.selector.wait(&mut out, Some(deadline)), Ok(may_have_come));
        assert_eq!((out.len(), now()), (1, 5_000), "an event takes no time");
    }
    assert_eq!(desk.world.now(), Duration::from_nanos(5_000));
}

#[test]
fn by_hand_the_clock_moves_and_wakes_who_waits() {
    let world = World::enter_with(Config { clock: Clock::Manual, ..Config::default() });
    let selector = Selector::new().unwrap();
    let sleeper = thread::spawn(carry(move || {
        let mut out = Vec::new();
        selector.wait(&mut out, Some(1_000_000)).unwrap();
        now()
    }));
    world.advance(Duration::from_micros(999));
    world.advance(Duration::from_micros(1));
    assert_eq!(sleeper.join().unwrap(), 1_000_000);
}

#[test]
fn a_loop_on_another_thread_echoes_in_its_spawners_world() {
    let Desk { selector: own, socket, peer, .. } = desk();
    let looper = thread::spawn(carry(move || {
        let mut out = Vec::new();
        loop {
            own.wait(&mut out, None).unwrap();
            let mut buf = Vec::with_capacity(8);
            while let Ok(len) = recv_vec(&socket, &mut buf) {
                if len == 0 {
                    return;
                }
                assert_eq!(send(&socket, &[IoSlice::new(&buf)]), Ok(len));
                buf.clear();
            }
        }
    }));
    for _ in 0..100 {
        peer.send(b"ping").unwrap();
        let mut buf = [0; 8];
        let mut len = 0;
        while len < 4 {
            len += peer.recv_blocking(&mut buf[len..]).unwrap();
        }
        assert_eq!(&buf[..4], b"ping");
    }
    peer.shutdown_write().unwrap();
    assert_eq!(peer.recv_blocking(&mut [0; 8]).unwrap(), 0);
    looper.join().unwrap();
}

#[test]
fn adoption_tells_what_it_is_and_takes_the_linger_off() {
    let world = World::enter();
    let (listener, addr) = world.listener();
    let peer = world.connect(addr).unwrap();
    let (socket, peer_addr) = accept(&listener).unwrap();
    socket.set_linger(Some(Duration::from_secs(3)));
    let inspected = adopt(&socket).unwrap();
    assert_eq!((inspected.kind, inspected.peer), (Kind::TcpStream, peer_addr));
    assert_eq!(inspected.linger, Some(Duration::from_secs(3)));
    assert_eq!(adopt(&socket).unwrap().linger, None);
    assert_eq!(adopt(&listener).unwrap().kind, Kind::TcpListener);
    assert_eq!(adopt(&world.unix_pair().0).unwrap().kind, Kind::UnixStream);
    drop(peer);
}
