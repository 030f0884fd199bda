//! The watcher on the simulated system: what a kernel does rarely, and time that passes at once.
//!
//! One thread, an embedded loop, and the peers in the test's hand: each test comes out the same every time. Run by
//! `ci/sim.sh`; in a build on a real system there is nothing here.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, MILLISECOND, TICK, bomb, bytes, desk, desk_with, owned, received};
use gaio::sim::{Clock, Peer, World};
use gaio::{Conn, Event, Half, Limits, Listener, NextTurn, Options, Outcome, Payload, WaitError, Watcher};

/// The ways to read, each with room for `n` bytes at least.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Vec,
    Exact,
    Pooled,
    Leased,
    Readable,
}

const KINDS: [Kind; 5] = [Kind::Vec, Kind::Exact, Kind::Pooled, Kind::Leased, Kind::Readable];

fn read(kind: Kind, conn: &Conn<u32>, n: usize) {
    let op = match kind {
        Kind::Vec => conn.read(Vec::with_capacity(n)),
        Kind::Exact => conn.read_exact(Vec::new(), n),
        Kind::Pooled => conn.read_pooled(),
        Kind::Leased => conn.read_leased(),
        Kind::Readable => conn.readable(),
    };
    op.submit_with(1).unwrap();
}

// --- verbs that outlive a pending --------------------------------------------------------------------------------

#[test]
fn every_read_kind_echoes_though_everything_is_pending_first() {
    for kind in KINDS {
        let mut desk = desk_with(|config| config.pending_first = true, |_| ());
        let (conn, peer) = desk.conn();
        for round in 0..3 {
            read(kind, &conn, 4);
            assert_eq!(desk.events(), [], "{kind:?}, round {round}: nothing is there yet");
            peer.send(b"ping").unwrap();
            let mut events = desk.events();
            if matches!(kind, Kind::Readable) {
                assert_eq!(events, [(1, Got::Readable)]);
                conn.read_pooled().submit_with(1).unwrap();
                events = desk.events();
            }
            assert_eq!(events, [(1, bytes(b"ping"))], "{kind:?}, round {round}");
            conn.write(b"pong").submit_with(2).unwrap();
            assert_eq!(desk.events(), [(2, Got::Wrote)]);
            assert_eq!(received(&peer).unwrap(), b"pong");
        }
        read(kind, &conn, 4);
        peer.shutdown_write().unwrap();
        let end = if matches!(kind, Kind::Readable) { Got::Readable } else { Got::Eof(vec![]) };
        assert_eq!(desk.events(), [(1, end)], "{kind:?}");
    }
}

#[test]
fn linked_operations_outlive_a_pending_in_either_half() {
    let mut desk = desk_with(|config| config.pending_first = true, |_| ());
    let (conn, peer) = desk.conn();
    for then in 0..3 {
        match then {
            0 => conn.write(b"ask".to_vec()).then_read().submit_with(1).unwrap(),
            1 => conn.write(b"ask").then_read_pooled().submit_with(1).unwrap(),
            _ => conn.write(Bytes::from_static(b"ask")).then_read_leased().submit_with(1).unwrap(),
        }
        assert_eq!(desk.events(), []);
        assert_eq!(received(&peer).unwrap(), b"ask");
        peer.send(b"yes").unwrap();
        assert_eq!(desk.events(), [(1, bytes(b"yes"))]);
    }
    conn.close().submit_with(2).unwrap();
    assert_eq!(desk.events(), [], "it waits for the peer's end");
    assert_eq!(received(&peer).unwrap(), b"");
    drop(peer);
    assert_eq!(desk.events(), [(2, Got::Closed)]);
}

#[test]
fn accepting_outlives_a_pending() {
    let mut desk = desk_with(|config| config.pending_first = true, |_| ());
    let (socket, addr) = desk.world.listener();
    let _listener = desk.submitter.listen(socket).unwrap();
    let _peers = [desk.world.connect(addr).unwrap(), desk.world.connect(addr).unwrap()];
    assert_eq!(desk.events(), [(u32::MAX, Got::Accepted), (u32::MAX, Got::Accepted)]);
}

// --- short reads and writes --------------------------------------------------------------------------------------

/// Echoes 10 kB through sockets that hold next to nothing. Each end moves what fits.
#[test]
fn a_long_stream_passes_through_short_buffers() {
    const LEN: usize = 10_000;
    let sent: Vec<u8> = (0..LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for buffer in 1..=8 {
        // Every other one with each attempt answered by a pending first.
        let pending_first = buffer % 2 == 1;
        let mut desk = desk_with(
            |config| (config.buffer, config.pending_first) = (buffer, pending_first),
            |limits| limits.arena = 64,
        );
        let (conn, peer) = desk.conn();
        let kinds = [Kind::Vec, Kind::Pooled, Kind::Leased];
        let (mut out, mut back, mut reads) = (0, Vec::with_capacity(LEN), 0);
        read(kinds[0], &conn, 16);
        while back.len() < LEN {
            out += peer.send(&sent[out..(out + 16).min(LEN)]).unwrap_or(0);
            let mut parts = Vec::new();
            for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
                let Event::Done { outcome, .. } = event else { panic!("{event:?}") };
                match owned(outcome) {
                    Got::Bytes(part) => parts.push(part),
                    Got::Wrote => {}
                    other => panic!("{other:?}"),
                }
            }
            for part in parts {
                conn.write(part).submit_with(2).unwrap();
                reads += 1;
                read(kinds[reads % kinds.len()], &conn, 16);
            }
            back.extend(received(&peer).unwrap_or_default());
        }
        assert!(back == sent, "buffer {buffer}: the bytes differ");
    }
}

#[test]
fn an_exact_read_is_put_together_from_single_bytes() {
    let mut desk = desk_with(|config| config.buffer = 1, |_| ());
    let (conn, peer) = desk.conn();
    conn.read_exact(Vec::new(), 1_000).submit_with(1).unwrap();
    for at in 0..1_000u32 {
        assert_eq!(desk.events(), [], "after {at} bytes");
        peer.send(&at.to_ne_bytes()[..1]).unwrap();
    }
    let [(1, Got::Bytes(all))] = &desk.events()[..] else { panic!("one read") };
    assert!(all.iter().zip(0u32..).all(|(byte, at)| *byte == at.to_ne_bytes()[0]) && all.len() == 1_000);
}

/// A read that is filled by its second part proves nothing: what is behind it has had its edge.
#[test]
fn bytes_behind_an_exact_read_in_two_parts_are_there_for_the_next() {
    let mut desk = desk_with(|_| (), |_| ());
    let (conn, peer) = desk.conn();
    conn.read_exact(Vec::with_capacity(8), 8).submit_with(1).unwrap();
    peer.send(b"012").unwrap();
    assert_eq!(desk.events(), []);
    peer.send(b"34567behind").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"01234567"))]);
    conn.read(Vec::with_capacity(8)).submit_with(2).unwrap();
    assert_eq!(desk.events(), [(2, bytes(b"behind"))]);
}

// --- ends --------------------------------------------------------------------------------------------------------

/// Whoever fills a small lease gets a large one, until one comes back with less in it than a small one holds.
#[test]
fn leases_are_as_large_as_what_comes() {
    const SMALL: usize = 16 << 10;
    let mut desk = desk_with(|config| config.buffer = 1 << 20, |limits| limits.read_cap = 4 * SMALL);
    let (conn, peer) = desk.conn();
    let mut reads = |sent: usize, lens: &[usize]| {
        assert_eq!(peer.send(&vec![7; sent]).unwrap(), sent);
        for len in lens {
            conn.read_leased().submit_with(0).unwrap();
            assert_eq!(desk.events(), [(0, bytes(&vec![7; *len]))], "of {sent}");
        }
    };
    reads(10, &[10]);
    reads(6 * SMALL, &[SMALL, 4 * SMALL, SMALL]);
    reads(2 * SMALL, &[2 * SMALL]);
    reads(2 * SMALL, &[2 * SMALL]);
    reads(SMALL, &[SMALL]);
    reads(2 * SMALL, &[2 * SMALL]);
    reads(SMALL - 1, &[SMALL - 1]);
    reads(2 * SMALL, &[SMALL, SMALL]);
}

/// A read that has filled its buffer proves nothing, so what waits for bytes behind it has to ask.
#[test]
fn readable_behind_a_full_buffer_waits_for_more() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    peer.send(b"full").unwrap();
    conn.read(Vec::with_capacity(4)).submit_with(1).unwrap();
    conn.readable().submit_with(2).unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"full"))]);
    peer.send(b"more").unwrap();
    assert_eq!(desk.events(), [(2, Got::Readable)]);
}

#[test]
fn data_and_fin_in_one_edge_are_two_completions() {
    for kind in [Kind::Vec, Kind::Pooled, Kind::Leased] {
        let mut desk = desk();
        let (conn, peer) = desk.conn();
        read(kind, &conn, 64);
        assert_eq!(desk.events(), []);
        peer.send(b"last").unwrap();
        peer.shutdown_write().unwrap();
        assert_eq!(desk.events(), [(1, bytes(b"last"))]);
        read(kind, &conn, 64);
        assert_eq!(desk.events(), [(1, Got::Eof(vec![]))], "{kind:?}: no other edge comes");
        conn.write(b"answer").submit_with(2).unwrap();
        assert_eq!(desk.events(), [(2, Got::Wrote)], "the other direction is open");
    }
}

/// gaio's `ReadFull` hangs here for ever.
#[test]
fn an_exact_read_whose_last_bytes_share_their_edge_with_the_fin_ends() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.read_exact(Vec::new(), 10).submit_with(1).unwrap();
    peer.send(b"123").unwrap();
    assert_eq!(desk.events(), []);
    peer.send(b"456").unwrap();
    peer.close();
    assert_eq!(desk.events(), [(1, Got::Eof(b"123456".to_vec()))]);
}

#[test]
fn data_and_reset_in_one_edge_are_told_apart() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    peer.send(b"last").unwrap();
    peer.reset();
    (0..3).for_each(|_| read(Kind::Vec, &conn, 64));
    let reset = || (1, Got::Failed(Half::Read, 0, "ConnectionReset".into()));
    assert_eq!(desk.events(), [(1, bytes(b"last")), reset(), reset()], "after a reset no end is clean");
    conn.write(b"x").submit_with(2).unwrap();
    conn.write(b"y").submit_with(3).unwrap();
    let events = desk.events();
    assert_eq!(events[0], (2, Got::Failed(Half::Write, 0, "BrokenPipe".into())));
    assert_eq!(events[1], (3, Got::Failed(Half::Write, 0, "Broken".into())));
}

#[test]
fn a_read_goes_on_behind_an_urgent_mark() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    (0..2).for_each(|_| read(Kind::Vec, &conn, 64));
    assert_eq!(desk.events(), []);
    peer.send(b"abc").unwrap();
    peer.send_urgent();
    peer.send(b"def").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"abc")), (1, bytes(b"def"))], "there is one edge for both");
    conn.read_exact(Vec::new(), 6).submit_with(1).unwrap();
    peer.send(b"ghi").unwrap();
    peer.send_urgent();
    peer.send(b"jkl").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"ghijkl"))]);
    // The mark is passed: short reads are believed again, and the next edge is seen.
    read(Kind::Vec, &conn, 64);
    assert_eq!(desk.events(), []);
    peer.send(b"m").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"m"))]);
}

#[test]
fn a_read_goes_on_behind_passed_descriptors() {
    let mut desk = desk();
    let (conn, peer) = desk.unix_conn();
    (0..2).for_each(|_| read(Kind::Leased, &conn, 64));
    assert_eq!(desk.events(), []);
    peer.send_with_descriptor(b"abc").unwrap();
    peer.send(b"def").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"abc")), (1, bytes(b"def"))]);
    conn.read_exact(Vec::new(), 6).submit_with(1).unwrap();
    peer.send_with_descriptor(b"ghi").unwrap();
    peer.send(b"jkl").unwrap();
    assert_eq!(desk.events(), [(1, bytes(b"ghijkl"))]);
}

// --- time --------------------------------------------------------------------------------------------------------

#[test]
fn a_graceful_close_is_given_its_time_and_no_more() {
    let mut desk = desk_with(|_| (), |limits| limits.close_within = 300 * MILLISECOND);
    let (conn, peer) = desk.conn();
    conn.read_pooled().submit_with(1).unwrap();
    conn.write(b"tail").submit_with(2).unwrap();
    conn.close().submit_with(3).unwrap();
    let released = (1, Got::Failed(Half::Read, 0, "Released".into()));
    let events = desk.events();
    assert!(events.contains(&released) && events.contains(&(2, Got::Wrote)) && events.len() == 2, "{events:?}");
    peer.send(b"ignored").unwrap();
    desk.world.advance(299 * MILLISECOND);
    assert_eq!(desk.events(), []);
    assert_eq!(received(&peer).unwrap(), b"tail");
    assert_eq!(received(&peer).unwrap(), b"", "the FIN went out at once");
    desk.world.advance(MILLISECOND + TICK);
    assert_eq!(desk.events(), [(3, Got::Closed)]);
    assert_eq!(desk.submitter.counters().closed_hard, 1);
    assert_eq!(desk.submitter.counters().sessions, 0);
}

// A linked write that is under way when an ending begins becomes a read behind it.

#[test]
fn a_linked_read_behind_into_fd_is_released() {
    let mut desk = desk_with(|config| config.buffer = 4, |_| ());
    let (conn, peer) = desk.conn();
    conn.write(b"longer").then_read_pooled().submit_with(1).unwrap();
    conn.into_fd().submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    assert_eq!(received(&peer).unwrap(), b"long");
    let released = (1, Got::Failed(Half::Read, 0, "Released".into()));
    assert_eq!(desk.events(), [released, (2, Got::Detached(Vec::new()))]);
}

#[test]
fn a_linked_read_behind_a_close_brings_no_bytes_from_behind_a_gap() {
    let small = |limits: &mut Limits| (limits.arena, limits.read_cap) = (8, 8);
    let mut desk = desk_with(|config| config.buffer = 8, small);
    let ((eater, eaters_peer), (conn, peer)) = (desk.conn(), desk.conn());
    eater.read_pooled().submit_with(1).unwrap();
    conn.write(b"too much for it").then_read_pooled().submit_with(2).unwrap();
    conn.close().submit_with(3).unwrap();
    assert_eq!(desk.events(), []);
    // In one turn the arena is used up, and the write becomes a read that finds no room in it.
    eaters_peer.send(b"all of it").unwrap();
    peer.send(b"lost").unwrap();
    assert_eq!(received(&peer).unwrap(), b"too much");
    let released = (2, Got::Failed(Half::Read, 0, "Released".into()));
    assert_eq!(desk.events(), [(1, bytes(b"all of i")), released]);
    peer.send(b"late").unwrap();
    assert_eq!(desk.events(), []);
    assert_eq!(received(&peer).unwrap(), b" for it");
    peer.shutdown_write().unwrap();
    assert_eq!(desk.events(), [(3, Got::Closed)]);
}

#[test]
fn into_fd_behind_a_close_comes_too_late() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.close().submit_with(1).unwrap();
    conn.into_fd().submit_with(2).unwrap();
    assert_eq!(desk.events(), [(2, Got::Failed(Half::Write, 0, "Closed".into()))]);
    peer.close();
    assert_eq!(desk.events(), [(1, Got::Closed)]);
}

#[test]
fn a_close_with_a_write_that_is_stuck_ends_in_a_reset() {
    let mut desk = desk_with(|config| config.buffer = 2, |limits| limits.close_within = 300 * MILLISECOND);
    let (conn, peer) = desk.conn();
    conn.write(b"stuck").submit_with(1).unwrap();
    conn.close().submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    desk.world.advance(300 * MILLISECOND + TICK);
    assert_eq!(desk.events(), [(1, Got::Failed(Half::Write, 2, "Released".into())), (2, Got::Closed)]);
    assert_eq!(received(&peer).unwrap(), b"st");
    assert_eq!(received(&peer), Err(ErrorKind::ConnectionReset), "no clean end behind a torn message");
}

#[test]
fn a_linger_of_the_socket_is_the_bound_of_its_close() {
    let mut desk = desk();
    let (socket, _peer) = desk.world.pair();
    socket.set_linger(Some(Duration::from_secs(2)));
    desk.submitter.delegate(socket).unwrap().close().submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    desk.world.advance(Duration::from_millis(1_999));
    assert_eq!(desk.events(), []);
    desk.world.advance(MILLISECOND + TICK);
    assert_eq!(desk.events(), [(1, Got::Closed)]);
}

#[test]
fn a_sleeping_loop_sleeps_to_its_deadline() {
    let mut desk = desk_with(|config| config.clock = Clock::Patient, |_| ());
    let (conn, _peer) = desk.conn();
    conn.close().submit_with(1).unwrap();
    assert_eq!(desk.events(), []);
    let before = desk.submitter.counters().polls;
    assert_eq!(desk.watcher.turn(None).unwrap().count(), 1);
    let five = Duration::from_secs(5);
    assert!((five..=five + TICK).contains(&desk.world.now()));
    assert!(desk.submitter.counters().polls <= before + 3, "at most one look per level of the wheel");
    let before = desk.submitter.counters().polls;
    assert_eq!(desk.watcher.turn(Some(Duration::from_secs(60))).unwrap().count(), 0);
    assert!(desk.submitter.counters().polls <= before + 2, "an idle loop does not spin");
}

/// A loop that listens, and for which there are no descriptors any more; and how many there are.
fn without_descriptors() -> (Desk, Listener<u32>, SocketAddr, usize) {
    let mut desk = desk();
    let (socket, addr) = desk.world.listener();
    let listener = desk.submitter.listen(socket).unwrap();
    assert_eq!(desk.events(), []);
    let open = desk.world.open_descriptors();
    desk.world.configure(|config| config.descriptors = open);
    (desk, listener, addr, open)
}

#[test]
fn without_descriptors_a_peer_is_told_and_accepting_waits_in_virtual_time() {
    let (mut desk, _listener, addr, open) = without_descriptors();
    let peers = [desk.world.connect(addr).unwrap(), desk.world.connect(addr).unwrap()];
    assert_eq!(desk.events(), []);
    let counters = desk.submitter.counters();
    assert_eq!((counters.shed, counters.accept_errors, counters.accepted), (1, 0, 0));
    assert_eq!(received(&peers[0]), Ok(vec![]), "it is not left hanging");
    assert_eq!(received(&peers[1]), Err(ErrorKind::WouldBlock));
    assert_eq!(desk.world.open_descriptors(), open, "the reserve is there again");

    desk.world.configure(|config| config.descriptors = usize::MAX);
    desk.world.advance(19 * MILLISECOND);
    assert_eq!(desk.events(), [], "the pause is not over");
    desk.world.advance(MILLISECOND + TICK);
    assert_eq!(desk.events(), [(u32::MAX, Got::Accepted)]);
}

/// A system without descriptors says so before it looks whether anyone has come. Once nobody waits any more the loop sleeps,
/// although there are no more descriptors than before; and whoever comes then makes an edge.
#[test]
fn without_descriptors_and_without_anyone_who_waits_the_loop_sleeps() {
    let (mut desk, _listener, addr, _) = without_descriptors();
    for round in 1..4 {
        let peer = desk.world.connect(addr).unwrap();
        assert_eq!(desk.events(), []);
        assert_eq!(received(&peer), Ok(vec![]), "it is told");
        assert_eq!(desk.after(20 * MILLISECOND + TICK), []);
        let counters = desk.submitter.counters();
        assert_eq!((counters.shed, counters.accept_errors, counters.accepted), (round, 0, 0));
        assert_eq!(desk.watcher.next_turn(), NextTurn::WhenReadable, "round {round}");
    }
    desk.world.configure(|config| config.descriptors = usize::MAX);
    let _peer = desk.world.connect(addr).unwrap();
    assert_eq!(desk.events(), [(u32::MAX, Got::Accepted)]);
}

/// The first shutdown gives an hour, the second a second.
#[test]
fn of_several_shutdowns_the_earliest_counts() {
    for times in [[3_600, 1], [1, 3_600]] {
        let mut desk = desk_with(|config| config.buffer = 2, |_| ());
        let (conn, peer) = desk.conn();
        conn.write(b"stuck").submit_with(1).unwrap();
        for time in times {
            desk.submitter.shutdown(Duration::from_secs(time));
            assert_eq!(desk.events(), []);
        }
        assert!(conn.read_pooled().submit_with(2).is_err());
        desk.world.configure(|config| config.clock = Clock::Patient);
        let got: Vec<_> = desk.watcher.turn(None).unwrap().collect();
        assert!(matches!(&got[..], [Event::Done { context: 1, outcome: Outcome::Failed(_), .. }]), "{got:?}");
        let second = Duration::from_secs(1);
        assert!((second..=second + TICK).contains(&desk.world.now()));
        drop(got);
        assert_eq!(desk.watcher.turn(None).unwrap_err(), WaitError::Closed);
        assert_eq!(received(&peer).unwrap(), b"st");
    }
}

// --- names -------------------------------------------------------------------------------------------------------

#[test]
fn a_number_that_is_used_again_is_another_connection() {
    let mut desk = desk();
    let mut stale: Vec<Conn<u32>> = Vec::new();
    let mut number = None;
    for round in 0..300 {
        let (socket, peer) = desk.world.pair();
        assert_eq!(*number.get_or_insert_with(|| socket.number()), socket.number(), "the lowest that is free");
        let conn = desk.submitter.delegate(socket).unwrap();
        conn.read_pooled().submit_with(1).unwrap();
        for old in stale.iter().rev().take(3) {
            old.read_pooled().submit_with(2).unwrap();
            old.release().submit_with(3).unwrap();
        }
        peer.send(b"mine").unwrap();
        let events = desk.events();
        assert_eq!(events.iter().filter(|event| **event == (1, bytes(b"mine"))).count(), 1, "round {round}");
        let closed = (2, Got::Failed(Half::Read, 0, "Closed".into()));
        let olds = stale.len().min(3);
        assert_eq!(events.iter().filter(|event| **event == closed).count(), olds, "round {round}");
        assert_eq!(events.len(), 1 + 2 * olds, "round {round}: {events:?}");
        conn.release().submit_with(4).unwrap();
        assert_eq!(desk.events(), [(4, Got::Closed)]);
        stale.push(conn);
    }
}

/// One turn ends a session by an event, and closes and opens others: the number and the place of the dead one go
/// to a living one only with the turn after, whose events were fetched later.
#[test]
fn ends_and_beginnings_in_one_turn_are_kept_apart() {
    let mut desk = desk();
    let (socket, addr) = desk.world.listener();
    let _listener = desk.submitter.listen(socket).unwrap();
    let mut peers: Vec<Peer> = (0..8).map(|_| desk.world.connect(addr).unwrap()).collect();
    let mut echoed = 0;
    for round in 0..100 {
        for peer in &peers {
            peer.send(b"x").unwrap();
        }
        // Half of them leave with their byte still on the way, and as many come.
        peers.drain(..4).for_each(if round % 2 == 0 { Peer::close } else { Peer::reset });
        peers.extend((0..4).map(|_| desk.world.connect(addr).unwrap()));
        for _ in 0..4 {
            for event in desk.watcher.turn(Some(Duration::ZERO)).unwrap() {
                match event {
                    Event::Accepted { conn, .. } => conn.read(Vec::with_capacity(4)).submit_with(1).unwrap(),
                    Event::Done { conn, outcome: Outcome::Read(bytes), .. } => {
                        assert_eq!(bytes, b"x");
                        echoed += 1;
                        conn.write(bytes).then_read().submit_with(1).unwrap();
                    }
                    Event::Done { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        for peer in &peers {
            let seen = received(peer);
            assert!(seen.as_deref() == Ok(b"x") || seen == Err(ErrorKind::WouldBlock), "round {round}: {seen:?}");
        }
        assert_eq!(desk.submitter.counters().sessions, 8, "round {round}");
    }
    assert_eq!(echoed, 100 * 8);
}

#[test]
fn a_listeners_handle_dropped_on_the_loops_thread_is_seen_at_once() {
    let mut desk = desk();
    let (socket, addr) = desk.world.listener();
    let listener = desk.submitter.listen(socket).unwrap();
    assert_eq!(desk.events(), []);
    drop(listener);
    // For ever would be for ever here.
    assert!(matches!(desk.watcher.turn(None).unwrap().next(), Some(Event::ListenerEnded { error: None, .. })));
    assert_eq!(desk.world.connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

// --- what is bounded ---------------------------------------------------------------------------------------------

#[test]
fn pooled_reads_without_room_wait_for_the_next_batch_and_lose_nothing() {
    let mut desk = desk_with(|_| (), |limits| (limits.arena, limits.read_cap) = (8, 8));
    let all: Vec<_> = (0..5).map(|_| desk.conn()).collect();
    for (conn, peer) in &all {
        conn.read_pooled().submit_with(1).unwrap();
        peer.send(b"eight by").unwrap();
    }
    assert_eq!(desk.events(), [(); 5].map(|()| (1, bytes(b"eight by"))));
    assert!(desk.submitter.counters().starved >= 3);
}

/// A handle that is dropped between two turns is work: no sleep comes first.
#[test]
fn the_last_handle_dropped_between_turns_is_looked_after_at_once() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    assert_eq!(desk.events(), []);
    assert!(matches!(desk.watcher.next_turn(), NextTurn::WhenReadable));
    drop(conn);
    assert!(matches!(desk.watcher.next_turn(), NextTurn::Now));
    assert_eq!(desk.turn(), []);
    assert_eq!(received(&peer).unwrap(), b"", "closed");
}

#[test]
fn nothing_is_left_when_the_watcher_is_gone() {
    let desk = desk();
    let (conn, peer) = desk.conn();
    let (socket, _) = desk.world.listener();
    let listener = desk.submitter.listen(socket).unwrap();
    conn.read(Vec::with_capacity(8)).submit_with(1).unwrap();
    conn.write(Payload::Static(b"out")).submit_with(2).unwrap();
    let Desk { world, watcher, submitter, .. } = desk;
    drop(watcher);
    assert!(conn.read_pooled().submit_with(3).is_err());
    drop((conn, listener, submitter));
    assert_eq!(world.open_descriptors(), 0);
    assert_eq!(received(&peer).unwrap(), b"out");
}

// --- a panic in user code ----------------------------------------------------------------------------------------

/// An embedded loop passes the panic on, and can still be ended.
#[test]
fn a_panic_in_a_turn_leaves_a_watcher_that_can_be_dropped() {
    let mut desk = desk();
    let (conn, _peer) = desk.conn();
    let (payload, _begun, light) = bomb();
    light.send(()).unwrap();
    conn.write(payload).then_read_pooled().submit_with(1).unwrap();
    conn.read(Vec::with_capacity(8)).submit_with(2).unwrap();
    let turn = std::panic::AssertUnwindSafe(|| desk.watcher.turn(Some(Duration::ZERO)).map(|batch| batch.count()));
    assert!(std::panic::catch_unwind(turn).is_err());
    let Desk { world, watcher, submitter, .. } = desk;
    drop((watcher, conn, submitter));
    assert_eq!(world.open_descriptors(), 0);
}

/// The drop of a spent buffer panics on the loop's thread, with one of everything still in the ring behind it.
#[test]
fn after_a_panic_everything_that_was_accepted_completes() {
    let world = World::enter();
    let (mut watcher, submitter) = Watcher::<u32>::spawn_for(Options::default()).unwrap();
    let (socket, _peer) = world.pair();
    let conn = submitter.delegate(socket).unwrap();
    let (payload, begun, light) = bomb();
    conn.write(payload).then_read_pooled().submit_with(1).unwrap();
    begun.recv().unwrap();
    conn.read(Vec::with_capacity(8)).submit_with(2).unwrap();
    submitter.post(3).unwrap();
    let (late, _late_peer) = world.pair();
    let late = submitter.delegate(late).unwrap();
    late.write(b"x").submit_with(4).unwrap();
    let listener = submitter.listen(world.listener().0).unwrap();
    light.send(()).unwrap();
    let mut got = Vec::new();
    let end = loop {
        match watcher.wait() {
            Ok(batch) => got.extend(batch.map(|event| match event {
                Event::Done { context, outcome, .. } => (context, owned(outcome)),
                Event::Posted(context) => (context, Got::Posted),
                Event::ListenerEnded { .. } => (5, Got::ListenerEnded),
                other => panic!("{other:?}"),
            })),
            Err(end) => break end,
        }
    };
    assert_eq!(end, WaitError::LoopFailed);
    got.sort_by_key(|(context, _)| *context);
    let expected = [
        (1, Got::Failed(Half::Read, 0, "LoopFailed".into())),
        (2, Got::Failed(Half::Read, 0, "LoopFailed".into())),
        (3, Got::Posted),
        (4, Got::Failed(Half::Write, 0, "LoopFailed".into())),
        (5, Got::ListenerEnded),
    ];
    assert_eq!(got, expected);
    assert_eq!(submitter.counters().sessions, 0);
    drop((watcher, conn, late, listener, submitter));
    assert_eq!(world.open_descriptors(), 0);
}
