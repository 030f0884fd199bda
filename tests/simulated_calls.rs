//! What an answer costs in system calls, on the simulated system, where each is counted.
//!
//! As `simulated.rs`: one thread, an embedded loop. Run by `ci/sim.sh`. `syscalls.rs` asks the same of the real system.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use desk::{Desk, desk, of_context, received};
use gaio::Conn;

/// One receive and one send per message, whatever the operations: a short read proves that there is no more, and only an
/// edge makes the loop look again. Idle, it makes no call at all.
#[test]
fn a_message_and_its_answer_are_two_calls() {
    type Read = fn(&Conn<u32>);
    let ways: [(&str, Read); 3] = [
        ("vector", |conn| conn.read(Vec::with_capacity(64)).submit_with(1).unwrap()),
        ("pooled", |conn| conn.read_pooled().submit_with(1).unwrap()),
        ("leased", |conn| conn.read_leased().submit_with(1).unwrap()),
    ];
    for (name, read) in ways {
        let mut desk = desk();
        let (conn, peer) = desk.conn();
        read(&conn);
        desk.turn();
        let before = desk.world.calls();
        for _ in 0..20 {
            peer.send(b"hello").unwrap();
            assert_eq!(of_context(&desk.turn(), 1), 1, "{name}");
            conn.write(b"world").submit_with(2).unwrap();
            read(&conn);
            assert_eq!(of_context(&desk.turn(), 2), 1, "{name}");
            assert_eq!(received(&peer).unwrap(), b"world");
            for _ in 0..3 {
                desk.turn();
            }
        }
        let after = desk.world.calls();
        assert_eq!((after.receives - before.receives, after.sends - before.sends), (20, 20), "{name}");
        assert_eq!((after.looks, after.accepts), (0, 0), "{name}");
    }
}

/// Where a short read proves nothing there is one receive more, and that is all: a Unix socket, a buffer that was filled, a
/// peer that has ended, an urgent byte, a datagram.
#[test]
fn where_a_short_read_proves_nothing_one_more_does() {
    let mut desk = desk();
    let read = |conn: &Conn<u32>, n| conn.read(Vec::with_capacity(n)).submit_with(1).unwrap();
    let cost = |desk: &mut Desk, conn: &Conn<u32>, n, act: &dyn Fn()| {
        read(conn, n);
        desk.turn();
        let before = desk.world.calls().receives;
        act();
        assert_eq!(of_context(&desk.turn(), 1), 1);
        read(conn, n);
        for _ in 0..3 {
            desk.turn();
        }
        desk.world.calls().receives - before
    };
    let (conn, peer) = desk.unix_conn();
    assert_eq!(cost(&mut desk, &conn, 64, &|| drop(peer.send(b"hello"))), 2, "a Unix socket");
    let (conn, peer) = desk.conn();
    assert_eq!(cost(&mut desk, &conn, 5, &|| drop(peer.send(b"hello"))), 2, "filled");
    let (conn, peer) = desk.conn();
    let ends = || {
        peer.send(b"hello").unwrap();
        peer.shutdown_write().unwrap();
    };
    assert_eq!(cost(&mut desk, &conn, 64, &ends), 2, "the end behind it");
    let (urgent, other) = desk.conn();
    let marks = || {
        other.send(b"hello").unwrap();
        other.send_urgent();
    };
    assert_eq!(cost(&mut desk, &urgent, 64, &marks), 2, "an urgent byte");
    let (socket, other) = desk.world.udp_pair();
    let datagrams = desk.submitter.delegate(socket).unwrap();
    assert_eq!(cost(&mut desk, &datagrams, 64, &|| drop(other.send(b"hello"))), 2, "a datagram");
    // The end is remembered.
    let before = desk.world.calls().receives;
    read(&conn, 64);
    desk.turn();
    assert_eq!(desk.world.calls().receives, before);
}
