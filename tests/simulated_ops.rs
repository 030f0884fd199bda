//! Deadlines, timers, cancels and the ways out on the simulated system: instants that no test could wait for, and what
//! a kernel does rarely.
//!
//! As `simulated.rs`: one thread, an embedded loop, time in the test's hand. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/desk.rs"]
mod desk;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use desk::{Desk, Got, MILLISECOND, TICK, desk, desk_with, of};
use gaio::sim::{Clock, Peer, World};
use gaio::{EmbeddedWatcher, Half, Op, OpId, Options, WaitError, Watcher};

const DAY: Duration = Duration::from_secs(86_400);

fn late(half: Half, transferred: usize) -> Got {
    Got::Failed(half, transferred, "TimedOut".into())
}

fn cancelled(half: Half, transferred: usize) -> Got {
    Got::Failed(half, transferred, "Cancelled".into())
}

fn broken() -> Got {
    Got::Failed(Half::Write, 0, "Broken".into())
}

fn named<K>(op: Op<'_, u32, K>, context: u32) -> OpId {
    let (op, id) = op.named();
    op.submit_with(context).unwrap();
    id
}

fn received(peer: &Peer) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = [0; 512];
    peer.recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
}

// --- instants ----------------------------------------------------------------------------------------------------

/// Not a nanosecond early, and no more than a tick late, however far away: to the edges of 31, 32 and more bits of
/// milliseconds, and beyond a level of the wheel.
#[test]
fn deadlines_near_and_far_are_met_to_the_tick() {
    let milliseconds = [0u64, 1, 63, 64, 65, 4_095, 4_096, 300_000, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, 1 << 32];
    let mut times: Vec<Duration> = milliseconds.map(Duration::from_millis).to_vec();
    times.extend([1, 999_999, 1 << 20, (1 << 20) + 1, 1 << 40].map(Duration::from_nanos));
    times.extend([10_000 * DAY, 13_000 * DAY]);
    for offset in [0, 1, (1 << 20) - 1, 77_777_777] {
        for time in &times {
            let mut desk = desk();
            desk.world.advance(Duration::from_nanos(offset));
            let (conn, _peer) = desk.conn();
            let begun = desk.world.now();
            conn.read_leased().within(*time).submit_with(1).unwrap();
            desk.submitter.timer(*time).submit_with(2).unwrap();
            let over = (begun + *time).max(Duration::from_nanos(1));
            let mut seen = Vec::new();
            if let Some(early) = (over - begun).checked_sub(Duration::from_nanos(1)) {
                seen.extend(desk.after(early));
                // The first tick of the loop's clock is as good as its beginning.
                assert!(seen.is_empty() || over <= TICK, "{time:?} at {begun:?}: early by a nanosecond, {seen:?}");
            }
            seen.extend(desk.after(Duration::from_nanos(1)));
            seen.extend(desk.after(TICK));
            seen.sort_by_key(|(context, _)| *context);
            assert_eq!(seen, [(1, late(Half::Read, 0)), (2, Got::Rang)], "{time:?} at {begun:?}");
        }
    }
}

#[test]
fn the_clock_at_its_end() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.read_exact(Vec::new(), 1).within(Duration::MAX).submit_with(1).unwrap();
    conn.read_exact(Vec::new(), 1).within(Duration::from_nanos(u64::MAX - 1)).submit_with(2).unwrap();
    conn.read_exact(Vec::new(), 1).within(40 * 365 * DAY).submit_with(3).unwrap();
    desk.submitter.timer(Duration::MAX).submit_with(4).unwrap();
    assert_eq!(desk.events(), []);
    // 36 years are counted, what is beyond is never; a timer has 584.
    assert_eq!(desk.after(100 * 365 * DAY), []);
    peer.send(b"abc").unwrap();
    let got = |byte: &[u8]| Got::Bytes(byte.to_vec());
    assert_eq!(desk.events(), [(1, got(b"a")), (2, got(b"b")), (3, got(b"c"))]);
    // Where time itself is over, so is everything.
    conn.read_leased().within(Duration::ZERO).submit_with(5).unwrap();
    assert_eq!(desk.after(Duration::from_nanos(u64::MAX)), [(4, Got::Rang), (5, late(Half::Read, 0))]);
    conn.write(b"x").within(Duration::MAX).submit_with(6).unwrap();
    assert_eq!(desk.events(), [(6, Got::Wrote)]);
}

/// One jump over all of them: each is told once, in the order of their instants, and nothing of what comes after.
#[test]
fn a_jump_of_the_clock() {
    let mut desk = desk();
    let conns: Vec<_> = (0..50).map(|_| desk.conn()).collect();
    for (i, (conn, _)) in (0..).zip(&conns) {
        let time = Duration::from_secs(u64::from(i * 7_919 % 50 + 1)) * 3_600;
        conn.read_pooled().within(time).submit_with(i).unwrap();
        desk.submitter.timer(time + Duration::from_secs(1)).submit_with(1_000 + i).unwrap();
    }
    let (conn, _peer) = desk.conn();
    conn.read_pooled().within(1_000 * DAY).submit_with(9_999).unwrap();
    assert_eq!(desk.events(), []);
    let got = desk.after(100 * DAY);
    assert_eq!(got.len(), 100);
    let order: Vec<u32> = got.iter().map(|(context, _)| context % 1_000 * 7_919 % 50).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert!(got.chunks(2).all(|two| two[0].1 == late(Half::Read, 0) && two[1].1 == Got::Rang));
    assert_eq!(desk.events(), []);
    assert_eq!(desk.submitter.load(), 1);
}

/// The loop sleeps to the earliest, whatever is armed or taken back meanwhile; and not in steps.
#[test]
fn a_sleeping_loop_is_led_by_its_earliest_deadline() {
    let mut desk = desk_with(|config| config.clock = Clock::Patient, |_| ());
    let (conn, _peer) = desk.conn();
    conn.read_pooled().within(30 * DAY).submit_with(1).unwrap();
    let soon = named(conn.read_pooled().within(DAY), 2);
    conn.read_pooled().within(2 * DAY).submit_with(3).unwrap();
    conn.cancel(soon).unwrap();
    assert_eq!(desk.watcher.turn(None).unwrap().map(of).collect::<Vec<_>>(), [(2, cancelled(Half::Read, 0))]);
    let before = desk.submitter.counters().polls;
    assert_eq!(desk.watcher.turn(None).unwrap().map(of).collect::<Vec<_>>(), [(3, late(Half::Read, 0))]);
    assert!((2 * DAY..2 * DAY + TICK).contains(&desk.world.now()), "{:?}", desk.world.now());
    assert!(desk.submitter.counters().polls <= before + 8, "one for each level of the wheel, at most");
    conn.read_pooled().within(MILLISECOND).submit_with(4).unwrap();
    assert_eq!(desk.watcher.turn(None).unwrap().map(of).collect::<Vec<_>>(), [(4, late(Half::Read, 0))]);
    assert!(desk.world.now() < 2 * DAY + 2 * MILLISECOND + 2 * TICK);
    assert_eq!(desk.watcher.turn(None).unwrap().map(of).collect::<Vec<_>>(), [(1, late(Half::Read, 0))]);
    assert!((30 * DAY..30 * DAY + TICK).contains(&desk.world.now()));
}

/// Tried first, and again with the edge that was promised, where every attempt is answered with a pending first. With nothing
/// there it is late.
#[test]
fn a_deadline_in_the_past() {
    for pending_first in [false, true] {
        let mut desk = desk_with(|config| (config.pending_first, config.buffer) = (pending_first, 8), |_| ());
        desk.world.advance(DAY);
        let (conn, peer) = desk.conn();
        peer.send(b"here").unwrap();
        assert_eq!(desk.events(), []);
        for (text, read) in [(b"here", Got::Bytes(b"here".to_vec())), (b"gone", late(Half::Read, 0))] {
            conn.read_leased().within(Duration::ZERO).submit_with(1).unwrap();
            desk.world.advance(TICK);
            assert_eq!(desk.events(), [(1, read)]);
            let wrote = if text == b"here" { Got::Wrote } else { late(Half::Write, 0) };
            conn.write(b"all room").within(Duration::ZERO).submit_with(2).unwrap();
            desk.world.advance(TICK);
            assert_eq!(desk.events(), [(2, wrote)]);
        }
        // The edges come all the same, and find others.
        peer.send(b"there").unwrap();
        assert_eq!(received(&peer).unwrap(), b"all room");
        conn.read_leased().submit_with(3).unwrap();
        conn.write(b"y").submit_with(4).unwrap();
        let mut got = desk.events();
        got.sort_by_key(|(context, _)| *context);
        assert_eq!(got, [(3, Got::Bytes(b"there".to_vec())), (4, Got::Wrote)]);
        assert_eq!(received(&peer).unwrap(), b"y");
    }
}

/// What a deadline and the bytes do if they come in one turn: the bytes go first.
#[test]
fn bytes_and_deadline_in_one_turn() {
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    conn.read_leased().within(MILLISECOND).submit_with(1).unwrap();
    conn.read_exact(Vec::new(), 8).within(MILLISECOND).submit_with(2).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(b"first").unwrap();
    assert_eq!(desk.after(DAY), [(1, Got::Bytes(b"first".to_vec())), (2, late(Half::Read, 0))]);
    conn.read_exact(Vec::new(), 8).within(MILLISECOND).submit_with(3).unwrap();
    assert_eq!(desk.events(), []);
    peer.send(b"sec").unwrap();
    peer.shutdown_write().unwrap();
    assert_eq!(desk.after(DAY), [(3, Got::Eof(b"sec".to_vec()))], "the end goes before the deadline, too");
}

#[test]
fn a_torn_write_and_those_behind_it() {
    let mut desk = desk_with(|config| config.buffer = 4, |_| ());
    let (conn, peer) = desk.conn();
    conn.write(b"torn apart").within(10 * MILLISECOND).submit_with(1).unwrap();
    conn.write(b"second").within(5 * MILLISECOND).submit_with(2).unwrap();
    conn.write(b"third").within(20 * MILLISECOND).submit_with(3).unwrap();
    conn.write(b"fourth").then_read_pooled().submit_with(4).unwrap();
    conn.read_pooled().submit_with(5).unwrap();
    assert_eq!(desk.after(4 * MILLISECOND), []);
    assert_eq!(
        desk.after(3 * MILLISECOND),
        [(2, late(Half::Write, 0))],
        "its own deadline, in the middle of the queue"
    );
    let expected = [(1, late(Half::Write, 4)), (3, broken()), (4, broken())];
    assert_eq!(desk.after(5 * MILLISECOND), expected);
    conn.write(b"fifth").submit_with(6).unwrap();
    assert_eq!(desk.events(), [(6, broken())]);
    peer.send(b"more").unwrap();
    assert_eq!(desk.events(), [(5, Got::Bytes(b"more".to_vec()))]);
    assert_eq!(desk.after(DAY), []);
    conn.close().submit_with(7).unwrap();
    assert_eq!(desk.events(), [(7, Got::Closed)]);
    assert_eq!(received(&peer).unwrap(), b"torn");
    assert_eq!(received(&peer), Err(ErrorKind::ConnectionReset));
}

/// Whatever ends an operation takes its deadline along: nothing comes of it later, nor of those that use its place.
#[test]
fn a_deadline_ends_with_its_operation() {
    let mut desk = desk();
    let bytes = |bytes: &[u8]| Got::Bytes(bytes.to_vec());
    for _ in 0..50 {
        let (conn, peer) = desk.conn();
        conn.write(b"x").within(MILLISECOND).submit_with(1).unwrap();
        conn.write(b"y").then_read_pooled().within(MILLISECOND).submit_with(2).unwrap();
        let id = named(conn.read_leased().within(MILLISECOND), 3);
        assert_eq!(desk.events(), [(1, Got::Wrote)]);
        peer.send(b"met").unwrap();
        assert_eq!(desk.events(), [(3, bytes(b"met"))]);
        conn.cancel(id).unwrap();
        peer.send(b"met").unwrap();
        assert_eq!(desk.events(), [(2, bytes(b"met"))]);
        conn.read_leased().within(MILLISECOND).submit_with(4).unwrap();
        conn.release().submit_with(5).unwrap();
        assert_eq!(desk.events(), [(4, Got::Failed(Half::Read, 0, "Released".into())), (5, Got::Closed)]);
        let (next, next_peer) = desk.conn();
        next.read_exact(Vec::new(), 4).submit_with(6).unwrap();
        assert_eq!(desk.after(DAY), []);
        next_peer.send(b"here").unwrap();
        assert_eq!(desk.events(), [(6, bytes(b"here"))]);
    }
    assert_eq!((desk.submitter.counters().expired, desk.submitter.load()), (0, 0));
}

// --- closes ------------------------------------------------------------------------------------------------------

/// Of the bounds that were asked for the earliest counts; the usual one only if none was asked for first.
#[test]
fn bounds_of_closes() {
    let second = Duration::from_secs(1);
    let never = Duration::MAX;
    for (bounds, expected) in [
        (&[None][..], Some(5)),
        (&[Some(2 * second)], Some(2)),
        (&[Some(60 * second)], Some(60)),
        (&[Some(60 * second), None], Some(60)),
        (&[None, Some(60 * second)], Some(5)),
        (&[None, Some(2 * second)], Some(2)),
        (&[Some(9 * second), Some(3 * second), Some(4 * second)], Some(3)),
        (&[Some(never)], None),
        (&[Some(never), None], None),
        (&[Some(never), Some(7 * second)], Some(7)),
    ] {
        let mut desk = desk();
        let (conn, peer) = desk.conn();
        for (context, bound) in (0..).zip(bounds) {
            let close = conn.close();
            if let Some(bound) = bound { close.within(*bound) } else { close }.submit_with(context).unwrap();
            assert_eq!(desk.events(), []);
        }
        let all: Vec<_> = (0..).zip(bounds).map(|(context, _)| (context, Got::Closed)).collect();
        let Some(expected) = expected else {
            assert_eq!(desk.after(1_000 * DAY), [], "{bounds:?}");
            drop(peer);
            assert_eq!(desk.events(), all);
            continue;
        };
        assert_eq!(desk.after(expected * second - MILLISECOND), [], "{bounds:?}");
        assert_eq!(desk.after(MILLISECOND + TICK), all, "{bounds:?}");
        assert_eq!(desk.submitter.counters().closed_hard, 1);
    }
}

#[test]
fn into_fd_has_its_time_and_no_more() {
    let second = Duration::from_secs(1);
    for (bound, expected) in [(None, 5), (Some(second), 1), (Some(60 * second), 60)] {
        let mut desk = desk_with(|config| config.buffer = 2, |_| ());
        let (conn, peer) = desk.conn();
        conn.write(b"stuck").submit_with(1).unwrap();
        let op = conn.into_fd();
        if let Some(bound) = bound { op.within(bound) } else { op }.submit_with(2).unwrap();
        assert_eq!(desk.events(), []);
        assert_eq!(desk.after(expected * second - MILLISECOND), []);
        let failed = [(1, Got::Failed(Half::Write, 2, "Released".into())), (2, late(Half::Write, 0))];
        assert_eq!(desk.after(MILLISECOND + TICK), failed);
        assert_eq!(received(&peer).unwrap(), b"st");
        assert_eq!(received(&peer), Err(ErrorKind::ConnectionReset));
    }
}

// --- cancels -----------------------------------------------------------------------------------------------------

#[test]
fn cancels_through_pendings() {
    let mut desk = desk_with(|config| config.pending_first = true, |_| ());
    let (conn, peer) = desk.conn();
    let read = named(conn.read_exact(Vec::new(), 4), 1);
    let write = named(conn.write(b"never"), 2);
    conn.cancel(write).unwrap();
    conn.cancel(read).unwrap();
    assert_eq!(desk.events(), [(2, cancelled(Half::Write, 0)), (1, cancelled(Half::Read, 0))]);
    conn.write(b"q").then_read_leased().submit_with(3).unwrap();
    assert_eq!(desk.events(), []);
    assert_eq!(received(&peer).unwrap(), b"q");
    peer.send(b"a").unwrap();
    assert_eq!(desk.events(), [(3, Got::Bytes(b"a".to_vec()))]);
    assert_eq!(desk.submitter.counters().cancels_missed, 0);
}

/// Each place of a queue, with a buffer in which hardly anything fits.
#[test]
fn any_of_the_writes_in_a_narrow_socket() {
    for gone in 0..5 {
        let mut desk = desk_with(|config| config.buffer = 3, |_| ());
        let (conn, peer) = desk.conn();
        let ids: Vec<OpId> = (0..5u8).map(|i| named(conn.write(vec![i; 5]), i.into())).collect();
        assert_eq!(desk.events(), []);
        conn.cancel(ids[gone]).unwrap();
        let mut got = desk.events();
        let mut bytes = Vec::new();
        while let Ok(part) = received(&peer) {
            bytes.extend(part);
            got.extend(desk.events());
        }
        let gone = u32::try_from(gone).unwrap();
        if gone == 0 {
            assert_eq!(bytes, [0, 0, 0]);
            let expected: Vec<_> = (1..5).map(|i| (i, broken())).collect();
            assert_eq!((&got[0], &got[1..]), (&(0, cancelled(Half::Write, 3)), &expected[..]));
        } else {
            let rest = (0..5).filter(|i| *i != gone);
            let expected: Vec<_> = rest.clone().map(|i| (i, Got::Wrote)).collect();
            assert_eq!((&got[0], &got[1..]), (&(gone, cancelled(Half::Write, 0)), &expected[..]));
            let expected: Vec<u8> = rest.flat_map(|i| [u8::try_from(i).unwrap(); 5]).collect();
            assert_eq!(bytes, expected);
        }
    }
}

/// A socket that is full: nothing of what waits was sent, so nothing is torn when it goes; and the end of the output, which
/// needs no room, does not wait for any.
#[test]
fn the_head_of_the_writes_in_a_full_socket() {
    for in_time in [true, false] {
        for ends in [false, true] {
            let mut desk = desk_with(|config| config.buffer = 4, |_| ());
            let (conn, peer) = desk.conn();
            conn.write(b"full").submit_with(1).unwrap();
            let op = conn.write(b"never");
            let head = named(if in_time { op } else { op.within(MILLISECOND) }, 2);
            if ends {
                conn.shutdown_write().submit_with(3).unwrap();
            } else {
                conn.write(b"next").submit_with(3).unwrap();
            }
            assert_eq!(desk.events(), [(1, Got::Wrote)]);
            let (gone, how) = if in_time {
                conn.cancel(head).unwrap();
                (desk.events(), cancelled(Half::Write, 0))
            } else {
                (desk.after(DAY), late(Half::Write, 0))
            };
            let given_up = (2, how);
            if ends {
                assert_eq!(gone, [given_up, (3, Got::ShutDown)]);
                assert_eq!(received(&peer).unwrap(), b"full");
                assert_eq!(received(&peer).unwrap(), b"");
                continue;
            }
            assert_eq!(gone, [given_up]);
            assert_eq!(received(&peer).unwrap(), b"full");
            assert_eq!(desk.events(), [(3, Got::Wrote)]);
            assert_eq!(received(&peer).unwrap(), b"next");
        }
    }
}

// --- bytes that come with a socket -------------------------------------------------------------------------------

#[test]
fn what_is_left_goes_first_through_any_fragmentation() {
    for buffer in [1, 2, 64] {
        for pending_first in [false, true] {
            for budget in [1, 3, 1 << 19] {
                let mut desk = desk_with(
                    |config| (config.buffer, config.pending_first) = (buffer, pending_first),
                    |limits| limits.bytes_per_turn = budget,
                );
                let (socket, peer) = desk.world.pair();
                let conn = desk.submitter.delegate_with(socket, &b"abcdefg"[..]).unwrap();
                conn.readable().submit_with(0).unwrap();
                conn.read_exact(Vec::new(), 5).submit_with(1).unwrap();
                conn.read_exact(Vec::new(), 6).submit_with(2).unwrap();
                conn.read_exact(Vec::new(), 2).submit_with(3).unwrap();
                let mut got = desk.events();
                for byte in b"hijklm" {
                    peer.send(&[*byte]).unwrap();
                    got.extend(desk.events());
                }
                let bytes = |bytes: &[u8]| Got::Bytes(bytes.to_vec());
                let expected = [(0, Got::Readable), (1, bytes(b"abcde")), (2, bytes(b"fghijk")), (3, bytes(b"lm"))];
                assert_eq!(got, expected, "buffer {buffer}, {pending_first}, budget {budget}");
            }
        }
    }
}

/// The write takes the last of its session's budget as its time is over. Then the read has its try all the same, with some of
/// its own; of no budget it would bring no bytes.
#[test]
fn what_is_left_goes_to_a_read_whose_write_ends_with_its_time() {
    let mut served = 0;
    for steps in 1..10 {
        let mut desk = desk_with(|_| (), |limits| limits.bytes_per_turn = 8);
        let (socket, _peer) = desk.world.pair();
        let conn = desk.submitter.delegate_with(socket, &b"left"[..]).unwrap();
        conn.write(vec![7; 8 * steps]).then_read().within(MILLISECOND).submit_with(1).unwrap();
        let mut got: Vec<_> = desk.watcher.turn(Some(Duration::ZERO)).unwrap().map(of).collect();
        got.extend(desk.after(5 * MILLISECOND));
        match got[..] {
            [(1, Got::Bytes(ref bytes))] if bytes == b"left" => served += 1,
            [(1, Got::Failed(Half::Write, done, _))] => assert!(done < 8 * steps, "{done} of {steps} steps"),
            _ => panic!("{got:?} after {steps} steps"),
        }
    }
    assert!(served > 3, "by so many times the write was through: {served}");
}

#[test]
fn what_is_left_leaves_with_the_socket() {
    let mut desk = desk();
    let (socket, peer) = desk.world.pair();
    let conn = desk.submitter.delegate_with(socket, &b"abcdefg"[..]).unwrap();
    conn.read_exact(Vec::new(), 3).submit_with(1).unwrap();
    conn.into_fd().submit_with(2).unwrap();
    conn.read_leased().submit_with(3).unwrap();
    let got = desk.events();
    let closed = (3, Got::Failed(Half::Read, 0, "Closed".into()));
    assert_eq!(got, [(1, Got::Bytes(b"abc".to_vec())), (2, Got::Detached(b"defg".to_vec())), closed]);
    assert_eq!(received(&peer).unwrap(), b"", "nobody took the socket out of the event");
    assert_eq!(desk.submitter.counters().sessions, 0);
}

/// The session's place and its descriptor's number are somebody else's by then, and the deadlines are gone with it.
#[test]
fn a_detached_connection_leaves_nothing_in_the_loop() {
    let mut desk = desk_with(|config| config.buffer = 2, |_| ());
    for round in 0..50 {
        let (conn, peer) = desk.conn();
        conn.read_pooled().within(MILLISECOND).submit_with(1).unwrap();
        conn.write(b"abc").then_read_leased().within(MILLISECOND).submit_with(2).unwrap();
        conn.into_fd().within(MILLISECOND).submit_with(3).unwrap();
        assert_eq!(desk.events(), [(1, Got::Failed(Half::Read, 0, "Released".into()))], "round {round}");
        assert_eq!(received(&peer).unwrap(), b"ab");
        let released = (2, Got::Failed(Half::Read, 0, "Released".into()));
        assert_eq!(desk.events(), [released, (3, Got::Detached(vec![]))], "round {round}");
        assert_eq!(desk.after(DAY), []);
        let counters = desk.submitter.counters();
        assert_eq!((desk.submitter.load(), counters.sessions, counters.expired, counters.closed_hard), (0, 0, 0, 0));
    }
}

// --- a panic in user code, and the end ---------------------------------------------------------------------------

/// The owner of bytes, whose drop panics. Not while another panic goes on: that would abort the test.
struct Bomb(Arc<AtomicUsize>);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert!(std::thread::panicking(), "on purpose");
    }
}

/// Wherever the bytes that came with a socket are dropped: everything that was accepted completes, with its buffer.
#[test]
fn a_panic_in_the_drop_of_what_came_with_a_socket() {
    for ending in ["read", "release", "close", "last handle", "refused by a loop that fails"] {
        let world = World::enter();
        // It is to fail when everything has been submitted, and not before.
        world.hold();
        let dropped = Arc::new(AtomicUsize::new(0));
        let (mut watcher, submitter) = Watcher::<u32>::spawn_for(Options::default()).unwrap();
        let bomb = || Bytes::from_owner(Bomb(dropped.clone()));
        let (socket, peer) = world.pair();
        let conn = submitter.delegate_with(socket, bomb()).unwrap();
        let (other, _other_peer) = world.pair();
        let other = submitter.delegate_with(other, bomb()).unwrap();
        let (waiting, _waiting_peer) = world.pair();
        let waiting = submitter.delegate(waiting).unwrap();
        waiting.read_pooled().submit_with(100).unwrap();
        submitter.timer(DAY).submit_with(101).unwrap();
        let mut bombs = 2;
        match ending {
            "read" => conn.read_exact(Vec::with_capacity(8), 4).submit_with(1).unwrap(),
            "release" => {
                conn.read_exact(Vec::with_capacity(8), 8).submit_with(0).unwrap();
                conn.release().submit_with(1).unwrap();
            }
            "close" => {
                drop(peer);
                conn.close().submit_with(1).unwrap();
            }
            "last handle" => drop((peer, conn)),
            _ => {
                conn.release().submit_with(1).unwrap();
                for _ in 0..3 {
                    let (socket, _) = world.pair();
                    drop(submitter.delegate_with(socket, bomb()).unwrap());
                    bombs += 1;
                }
            }
        }
        world.let_go();
        let mut got = Vec::new();
        let end = loop {
            match watcher.wait() {
                Ok(batch) => got.extend(batch.map(of)),
                Err(end) => break end,
            }
        };
        assert_eq!(end, WaitError::LoopFailed, "{ending}");
        got.sort_by_key(|(context, _)| *context);
        let released = (0, Got::Failed(Half::Read, 4, "Released".into()));
        let before = match ending {
            "read" => vec![(1, Got::Bytes(b"bomb".to_vec()))],
            "release" => vec![released, (1, Got::Closed)],
            "last handle" => vec![],
            _ => vec![(1, Got::Closed)],
        };
        let n = before.len();
        assert_eq!(got[..n], before, "{ending}");
        assert_eq!(got.len(), n + 2, "{ending}: {got:?}");
        assert_eq!(got[n], (100, Got::Failed(Half::Read, 0, "LoopFailed".into())), "{ending}");
        assert_eq!(got[n + 1], (101, Got::Silenced("LoopFailed".into())), "{ending}");
        drop((watcher, other, waiting, submitter));
        assert_eq!(dropped.load(Ordering::Relaxed), bombs, "{ending}");
    }
}

#[test]
fn nothing_is_left_when_the_watcher_is_gone() {
    let desk = desk();
    let (conn, peer) = desk.conn();
    conn.read(Vec::with_capacity(8)).within(DAY).submit_with(1).unwrap();
    let id = named(conn.read_exact(Vec::new(), 8), 2);
    desk.submitter.timer(DAY).submit_with(3).unwrap();
    let (socket, _) = desk.world.pair();
    let left = desk.submitter.delegate_with(socket, &b"left"[..]).unwrap();
    left.into_fd().submit_with(4).unwrap();
    conn.cancel(id).unwrap();
    let Desk { world, watcher, submitter, .. } = desk;
    drop(watcher);
    assert!(conn.cancel(id).is_err());
    drop((conn, left, submitter));
    assert_eq!(world.open_descriptors(), 0);
    assert_eq!(received(&peer), Ok(vec![]));
}

// --- a panic that was caught -------------------------------------------------------------------------------------

/// As a `Bomb`, but it panics although another panic goes on: two that meet would abort.
struct Mine(Arc<AtomicUsize>);

impl AsRef<[u8]> for Mine {
    fn as_ref(&self) -> &[u8] {
        b"mine"
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("on purpose");
    }
}

fn panics(act: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
}

/// The payload of a linked write panics as it is dropped, once for each of its pieces. Whoever catches that finds everything
/// as if nothing had been: each operation is its own connection's, and completes once.
#[test]
fn after_a_caught_panic_each_operation_is_where_it_was() {
    for pieces in 0..3 {
        let dropped = Arc::new(AtomicUsize::new(0));
        let mut desk = desk();
        let ((conn, peer), (other, others_peer)) = (desk.conn(), desk.conn());
        conn.read(Vec::with_capacity(8)).submit_with(1).unwrap();
        let piece = || Bytes::from_owner(Mine(dropped.clone()));
        let linked = match pieces {
            0 => named(conn.write(piece()).then_read_leased(), 2),
            n => named(conn.write_vectored(vec![piece(); n]).then_read_pooled().within(DAY), 2),
        };
        // Clones of one piece have one owner.
        let (mut caught, mut got) = (0, Vec::new());
        for _ in 0..9 {
            caught += usize::from(panics(|| got.extend(desk.watcher.turn(Some(Duration::ZERO)).unwrap().map(of))));
        }
        assert_eq!(got, [], "{pieces}");
        assert_eq!((caught, dropped.load(Ordering::Relaxed)), (1, 1), "{pieces}");
        assert_eq!(received(&peer).unwrap(), b"mine".repeat(pieces.max(1)));
        conn.write(b"next").submit_with(3).unwrap();
        conn.cancel(linked).unwrap();
        assert_eq!(desk.events(), [(3, Got::Wrote), (2, cancelled(Half::Read, 0))], "{pieces}");
        other.read(Vec::with_capacity(8)).submit_with(4).unwrap();
        peer.send(b"answer").unwrap();
        assert_eq!(desk.events(), [(1, desk::bytes(b"answer"))], "{pieces}");
        conn.read_leased().submit_with(5).unwrap();
        conn.release().submit_with(6).unwrap();
        assert_eq!(desk.events(), [(5, Got::Failed(Half::Read, 0, "Released".into())), (6, Got::Closed)]);
        others_peer.send(b"hello").unwrap();
        assert_eq!(desk.events(), [(4, desk::bytes(b"hello"))], "{pieces}");
        assert_eq!((desk.after(DAY), desk.submitter.load()), (vec![], 0));
    }
}

/// Every piece has an owner of its own: as many panics, one a turn, and no two at once.
#[test]
fn each_piece_of_a_payload_panics_by_itself() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut desk = desk();
    let (conn, peer) = desk.conn();
    let pieces = (0..3).map(|_| Bytes::from_owner(Mine(dropped.clone()))).collect();
    conn.write_vectored(pieces).then_read_leased().submit_with(1).unwrap();
    let (mut caught, mut got) = (0, Vec::new());
    peer.send(b"answer").unwrap();
    for _ in 0..9 {
        caught += usize::from(panics(|| got.extend(desk.watcher.turn(Some(Duration::ZERO)).unwrap().map(of))));
    }
    assert_eq!((caught, dropped.load(Ordering::Relaxed)), (3, 3));
    assert_eq!(got, [(1, desk::bytes(b"answer"))]);
}

/// What panics when the loop is gone: what came with sockets, and completions that nobody has taken.
#[test]
fn panics_at_the_end_of_a_watcher_come_one_by_one() {
    for spawned in [false, true] {
        let world = World::enter();
        let dropped = Arc::new(AtomicUsize::new(0));
        let mine = || Bytes::from_owner(Mine(dropped.clone()));
        let spawn = |spawned: bool| {
            if spawned {
                let (watcher, submitter) = Watcher::<u32>::spawn_for(Options::default()).unwrap();
                (Some(watcher), None, submitter)
            } else {
                let (watcher, submitter) = EmbeddedWatcher::<u32>::new_for(Options::default()).unwrap();
                (None, Some(watcher), submitter)
            }
        };
        let (spawned_one, embedded, submitter) = spawn(spawned);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (socket, peer) = world.pair();
            ends.push((submitter.delegate_with(socket, mine()).unwrap(), peer));
        }
        let (socket, peer) = world.pair();
        let conn = submitter.delegate(socket).unwrap();
        conn.write_vectored(vec![mine(), mine()]).submit_with(1).unwrap();
        conn.write(mine()).submit_with(2).unwrap();
        ends.push((conn, peer));
        assert!(panics(|| drop((spawned_one, embedded))), "the first of those that were dropped here");
        drop((ends, submitter));
        assert_eq!(dropped.load(Ordering::Relaxed), 5);
        assert_eq!(world.open_descriptors(), 0);
    }
}
