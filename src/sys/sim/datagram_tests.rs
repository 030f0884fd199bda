//! The simulated system's datagrams, each rule by the situation in which it matters.

use std::io::{ErrorKind, IoSlice};

use super::super::{Bits, Datagram, Errno, Kind, MAX_SLICES};
use super::*;

const READ_WRITE: Bits = Bits::READABLE.union(Bits::WRITABLE);
const ALL: Bits = READ_WRITE.union(Bits::HANGUP);

/// A world, its selector, and a registered datagram socket.
struct Desk {
    world: World,
    selector: Selector,
    socket: Socket,
    peer: Option<Peer>,
}

fn desk_with(unix: bool, change: impl FnOnce(&mut Config)) -> Desk {
    let world = World::enter();
    world.configure(change);
    let selector = Selector::new().unwrap();
    let (socket, peer) = if unix { world.unix_datagram_pair() } else { world.udp_pair() };
    selector.register(&socket, 1).unwrap();
    let desk = Desk { world, selector, socket, peer: Some(peer) };
    assert_eq!(desk.bits(), Bits::WRITABLE);
    desk
}

fn both() -> [Desk; 2] {
    [true, false].map(|unix| desk_with(unix, |_| ()))
}

impl Desk {
    fn bits(&self) -> Bits {
        let mut out = Vec::new();
        self.selector.wait(&mut out, Some(0)).unwrap();
        assert!(out.len() <= 1, "events coalesce: {out:?}");
        out.first().map_or(Bits::NONE, |event| event.bits)
    }

    fn peer(&self) -> &Peer {
        self.peer.as_ref().unwrap()
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        send(&self.socket, &[IoSlice::new(bytes)])
    }

    fn recv(&self, room: usize) -> Result<(Datagram, Vec<u8>), Errno> {
        let mut buf = vec![0; room];
        let datagram = recv_datagram_slice(&self.socket, &mut buf)?;
        buf.truncate(datagram.len);
        Ok((datagram, buf))
    }

    fn received(&self) -> Result<Vec<u8>, ErrorKind> {
        let mut buf = [0; 64];
        self.peer().recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
    }
}

#[test]
fn a_message_is_taken_whole_and_an_empty_one_is_one() {
    for desk in both() {
        for message in [&b"one"[..], b"", b"a longer one"] {
            assert_eq!(desk.peer().send(message).unwrap(), message.len());
        }
        assert_eq!(desk.bits(), READ_WRITE);
        assert_eq!(desk.recv(8), Ok((Datagram { len: 3, whole: 3 }, b"one".to_vec())));
        assert_eq!(desk.bits(), Bits::NONE, "an unread message is no edge");
        assert_eq!((next_datagram(&desk.socket), peek(&desk.socket)), (Ok(0), Ok(0)));
        assert_eq!(desk.recv(8), Ok((Datagram { len: 0, whole: 0 }, vec![])));
        assert_eq!((next_datagram(&desk.socket), peek(&desk.socket)), (Ok(12), Ok(1)));
        let mut buf = Vec::with_capacity(4);
        buf.push(b'>');
        let room = buf.capacity() - 1;
        let cut = recv_datagram_vec(&desk.socket, &mut buf).unwrap();
        assert_eq!((cut, cut.is_cut()), (Datagram { len: room, whole: 12 }, true));
        assert_eq!(buf, [b">", &b"a longer one"[..room]].concat());
        assert_eq!(recv_datagram_vec(&desk.socket, &mut buf), Err(Errno::INVAL));
        assert_eq!(desk.recv(0), Err(Errno::INVAL));
        assert_eq!(desk.recv(8), Err(Errno::AGAIN), "what was cut off is gone");
    }
}

#[test]
fn a_send_is_one_message_whatever_its_slices() {
    for desk in both() {
        assert_eq!(send(&desk.socket, &[IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"body")]), Ok(8));
        assert_eq!(send(&desk.socket, &[]), Ok(0));
        assert_eq!(send(&desk.socket, &vec![IoSlice::new(b""); MAX_SLICES + 1]), Err(Errno::MSGSIZE));
        assert_eq!(desk.send(&[0; 100_000]), Err(Errno::MSGSIZE));
        assert_eq!((desk.received(), desk.received()), (Ok(b"headbody".to_vec()), Ok(vec![])));
        assert_eq!(desk.received(), Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn what_finds_no_room_waits_on_unix_and_is_lost_on_udp() {
    let mut unix = desk_with(true, |config| config.buffer = 10);
    assert_eq!((unix.send(b"12345678"), unix.send(b"90")), (Ok(8), Err(Errno::AGAIN)));
    assert_eq!(unix.bits(), Bits::NONE);
    assert_eq!(unix.received().unwrap(), b"12345678");
    assert_eq!(unix.bits(), Bits::WRITABLE);
    assert_eq!(unix.send(b"0123456789"), Ok(10), "the largest fits into what is empty");
    assert_eq!(unix.send(b""), Err(Errno::AGAIN), "not even an empty one takes up nothing");
    unix.peer = None;
    assert_eq!(unix.bits(), Bits::WRITABLE, "with the peer goes what it has not read");

    let udp = desk_with(false, |config| config.buffer = 10);
    assert_eq!((udp.send(b"12345678"), udp.send(b"90")), (Ok(8), Ok(2)));
    assert_eq!((udp.received(), udp.received()), (Ok(b"12345678".to_vec()), Err(ErrorKind::WouldBlock)));
    assert_eq!(udp.bits(), Bits::NONE);
}

#[test]
fn udp_learns_of_a_dead_port_later_and_loses_nothing_that_came() {
    let mut desk = desk_with(false, |_| ());
    desk.peer().send(b"before").unwrap();
    desk.peer = None;
    assert_eq!(desk.bits(), READ_WRITE, "a close is not to be seen");
    assert_eq!(desk.send(b"in vain"), Ok(7));
    assert_eq!(desk.bits(), ALL);
    assert_eq!(desk.recv(8), Err(Errno::CONNREFUSED));
    assert_eq!(desk.recv(8).unwrap().1, b"before");
    assert_eq!(desk.recv(8), Err(Errno::AGAIN));
    assert_eq!((desk.send(b"x"), desk.send(b"y"), desk.send(b"z")), (Ok(1), Err(Errno::CONNREFUSED), Ok(1)));
    assert_eq!(desk.bits(), ALL);
    assert_eq!((next_datagram(&desk.socket), so_error(&desk.socket)), (Err(Errno::CONNREFUSED), Ok(())));
}

#[test]
fn a_unix_socket_learns_of_a_dead_peer_by_sending_and_is_alone_then() {
    let mut desk = desk_with(true, |_| ());
    desk.peer().send(b"before").unwrap();
    desk.bits();
    desk.peer = None;
    assert_eq!((desk.bits(), next_datagram(&desk.socket)), (Bits::NONE, Ok(6)));
    assert_eq!(adopt(&desk.socket).unwrap().kind, Kind::Datagram);
    assert_eq!(desk.send(b"x"), Err(Errno::CONNREFUSED));
    assert_eq!((desk.recv(8), desk.send(b"x")), (Err(Errno::AGAIN), Err(Errno::NOTCONN)));
    assert_eq!(adopt(&desk.socket).unwrap().kind, Kind::UnconnectedDatagram);
}

#[test]
fn pending_first_answers_datagrams_with_an_edge_too() {
    for unix in [true, false] {
        let desk = desk_with(unix, |config| config.pending_first = true);
        desk.peer().send(b"").unwrap();
        desk.bits();
        assert_eq!(desk.recv(8), Err(Errno::AGAIN));
        assert_eq!(desk.bits(), READ_WRITE);
        assert_eq!(desk.recv(8), Ok((Datagram { len: 0, whole: 0 }, vec![])));
        assert_eq!((desk.send(b"x"), desk.bits(), desk.send(b"x")), (Err(Errno::AGAIN), Bits::WRITABLE, Ok(1)));
    }
}

#[test]
fn datagram_sockets_are_told_apart_and_leave_nothing() {
    for Desk { world, selector, socket, peer } in both() {
        let inspected = adopt(&socket).unwrap();
        assert_eq!((inspected.kind, inspected.peer), (Kind::Datagram, peer_addr(&socket)));
        assert_eq!(peer_addr(&socket).is_some(), local_addr(&socket).is_some());
        assert_eq!(set_nodelay(&socket, true), Err(Errno::OPNOTSUPP));
        shutdown_write(&socket).unwrap();
        assert_eq!(send(&socket, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
        drop((selector, socket, peer));
        assert_eq!(world.open_descriptors(), 0);
    }
}

#[test]
#[should_panic(expected = "a kernel would throw its bytes away")]
fn a_stream_is_not_received_from_as_datagrams() {
    let world = World::enter();
    let (socket, _peer) = world.pair();
    let _ = next_datagram(&socket);
}
