//! Panics in user code (G11): the `Drop` of a payload on the loop's thread, and of a context wherever it is dropped.
//!
//! | whose `Drop` | runs on | what must hold |
//! |---|---|---|
//! | a payload that a linked write has spent | the loop's thread | spawned: all that was accepted completes, as `LoopFailed` where it must; embedded: the panic is the caller's |
//! | a context, in the middle of a batch | whoever iterates | the rest of the batch comes with the next wait (G1) |
//! | contexts, while a watcher is dropped | whoever drops it | the loop ends all the same, and each is dropped once (G7) |

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gaio::{DelegateErrorKind, EmbeddedWatcher, Half, OpError, SubmitErrorKind, WaitError, Watcher};
use support::{Drive, Got, Net, Rig, Taken, check, read_some, read_to_its_end, until};

/// Bytes whose drop says that it has begun, waits until it may go on, and panics.
struct Bomb {
    begun: Sender<()>,
    go_on: Receiver<()>,
}

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"bomb"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        let _ = self.begun.send(());
        let _ = self.go_on.recv();
        panic!("on purpose");
    }
}

/// The payload, a sign that its drop has begun, and the match to it.
fn bomb() -> (Bytes, Receiver<()>, Sender<()>) {
    let (begun, has_begun) = channel();
    let (light, go_on) = channel();
    (Bytes::from_owner(Bomb { begun, go_on }), has_begun, light)
}

// --- payloads --------------------------------------------------------------------------------------------------------

/// Operations in every state: pending in either direction, half written, closing, and still in the ring.
#[test]
fn a_payload_that_panics_ends_a_spawned_loop_in_order() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::new();
        let listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let (reading, mut peer_of_reading) = rig.connect(Net::Tcp);
        reading.read(Vec::with_capacity(9)).submit_with(1).unwrap();
        reading.read_exact(Vec::new(), 9).submit_with(2).unwrap();
        peer_of_reading.write_all(b"all of it").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.read().as_slice()), (1, &b"all of it"[..]));
        peer_of_reading.write_all(b"half").unwrap();
        let (blocked, mut peer_of_blocked) = rig.connect(Net::Unix);
        blocked.write(vec![7; 4 << 20]).submit_with(3).unwrap();
        blocked.write(vec![7; 9]).then_read().submit_with(4).unwrap();
        let (closing, mut peer_of_closing) = rig.connect(Net::Unix);
        closing.close().submit_with(5).unwrap();
        rig.assert_quiet();

        let (fatal, mut peer_of_fatal) = rig.connect(Net::Unix);
        let (payload, begun, light) = bomb();
        fatal.write(payload).then_read_pooled().submit_with(6).unwrap();
        begun.recv().unwrap();
        // The loop stands still in that drop: this stays in the ring.
        reading.write(b"too late").submit_with(7).unwrap();
        rig.submitter.post(8).unwrap();
        let (late, mut peer_of_late) = rig.connect(Net::Unix);
        late.read_leased().submit_with(9).unwrap();
        late.release().submit_with(10).unwrap();
        let late_listener = rig.submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        light.send(()).unwrap();

        let mut seen = Vec::new();
        let mut ended = Vec::new();
        let end = loop {
            match rig.watcher.wait() {
                Err(end) => break end,
                Ok(batch) => batch.for_each(|event| match event.into() {
                    Taken::Done(_, context, got) => seen.push((context, got)),
                    Taken::Posted(context) => seen.push((context, Got::Closed)),
                    Taken::Ended(listener, None) => ended.push(listener),
                    other => panic!("{other:?}"),
                }),
            }
        };
        assert_eq!(end, WaitError::LoopFailed);
        assert_eq!(rig.watcher.try_wait().err(), Some(WaitError::LoopFailed), "and so for ever");
        assert_eq!(ended, [listener.id(), late_listener.id()]);
        seen.sort_by_key(|(context, _)| *context);
        assert_eq!(seen.iter().map(|(context, _)| *context).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9, 10]);
        for (context, got) in seen {
            // A post, a close and a release succeed whatever happens.
            if matches!(context, 5 | 8 | 10) {
                got.closed();
                continue;
            }
            let failure = got.failed();
            assert!(matches!(failure.error, OpError::LoopFailed), "{context}: {failure:?}");
            let (half, returned) = (failure.half, failure.buffer.map(|buffer| buffer.as_slice().unwrap().to_vec()));
            match context {
                2 => assert_eq!((half, failure.transferred, returned.as_deref()), (Half::Read, 4, Some(&b"half"[..]))),
                3 => assert!((1..4 << 20).contains(&failure.transferred) && returned.unwrap().len() == 4 << 20),
                4 | 7 => assert!(half == Half::Write && failure.transferred == 0 && returned.is_some()),
                _ => assert!(half == Half::Read && returned.is_none()),
            }
        }
        for peer in [&mut peer_of_reading, &mut peer_of_blocked, &mut peer_of_closing, &mut peer_of_fatal] {
            read_to_its_end(peer);
        }
        assert_eq!(peer_of_late.read(&mut [0]).unwrap(), 0, "closed, not left hanging");
        assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
        let refused = reading.read(Vec::with_capacity(9)).submit_with(11).unwrap_err();
        assert_eq!((refused.kind, refused.context), (SubmitErrorKind::Closed, 11));
        let refused = rig.submitter.delegate(Net::Unix.pair().0).unwrap_err();
        assert!(matches!(refused.kind, DelegateErrorKind::Closed));
    });
}

/// Nobody asks how it ended: the drop neither hangs nor panics, whether the loop has failed already or is about to.
#[test]
fn a_watcher_whose_loop_has_panicked_can_be_dropped() {
    check(|| {
        for late in [false, true] {
            let rig = Rig::<Watcher<u64>>::new();
            let (conn, mut peer) = rig.connect(Net::Unix);
            conn.read(Vec::with_capacity(9)).submit_with(1).unwrap();
            let (payload, begun, light) = bomb();
            conn.write(payload).then_read_leased().submit_with(2).unwrap();
            begun.recv().unwrap();
            thread::scope(|scope| {
                let watcher = rig.watcher;
                if !late {
                    light.send(()).unwrap();
                    until(|| rig.submitter.counters().sessions == 0);
                }
                let dropping = scope.spawn(move || drop(watcher));
                if late {
                    light.send(()).unwrap();
                }
                dropping.join().unwrap();
            });
            drop(conn);
            assert_eq!(read_some(&mut peer, 4), b"bomb");
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        }
    });
}

/// Between a full mailbox and a consumer that comes late, nothing of the end gets lost.
#[test]
fn a_loop_that_panics_behind_a_full_mailbox_hands_out_everything() {
    check(|| {
        let mut rig = Rig::<Watcher<u64>>::with(|limits| limits.batch = 1);
        let (conn, _peer) = rig.connect(Net::Unix);
        let (other, _other_peer) = rig.connect(Net::Unix);
        for context in 0..100 {
            other.read(Vec::with_capacity(1)).submit_with(context).unwrap();
        }
        rig.submitter.post(100).unwrap();
        let (payload, begun, light) = bomb();
        conn.write(payload).then_read_leased().submit_with(101).unwrap();
        begun.recv().unwrap();
        for context in 102..200 {
            rig.submitter.post(context).unwrap();
        }
        light.send(()).unwrap();
        until(|| rig.counters().sessions == 0);
        let mut seen = Vec::new();
        let end = loop {
            match rig.watcher.wait() {
                Err(end) => break end,
                Ok(batch) => seen.extend(batch.map(|event| match event.into() {
                    Taken::Done(_, context, _) | Taken::Posted(context) => context,
                    other => panic!("{other:?}"),
                })),
            }
        };
        assert_eq!(end, WaitError::LoopFailed);
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>(), "each once");
    });
}

/// The caller's own panic; when it has caught it, the loop can still be brought to an end in which everything completes.
#[test]
fn an_embedded_loop_passes_the_panic_on_and_can_be_shut_down() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        let (fatal, mut peer_of_fatal) = rig.connect(Net::Unix);
        let (other, mut peer_of_other) = rig.connect(Net::Unix);
        other.read(Vec::with_capacity(9)).submit_with(1).unwrap();
        let (payload, _begun, light) = bomb();
        light.send(()).unwrap();
        fatal.write(payload).then_read_leased().submit_with(2).unwrap();
        other.write(b"behind it").submit_with(3).unwrap();
        rig.submitter.post(4).unwrap();
        let turn = AssertUnwindSafe(|| rig.watcher.turn(Some(Duration::ZERO)).map(|batch| batch.len()));
        let panic = catch_unwind(turn).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert_eq!(read_some(&mut peer_of_fatal, 4), b"bomb");
        rig.submitter.shutdown(Duration::ZERO);
        let mut contexts: Vec<u64> = rig
            .rest()
            .into_iter()
            .map(|taken| match taken {
                Taken::Done(_, context, _) | Taken::Posted(context) => context,
                other => panic!("{other:?}"),
            })
            .collect();
        contexts.sort_unstable();
        assert_eq!(contexts, [1, 2, 3, 4]);
        assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
        drop(rig);
        read_to_its_end(&mut peer_of_other);
        read_to_its_end(&mut peer_of_fatal);
    });
}

/// A payload that the last turns of the drop itself spend: the drop goes on to its end, and then passes the panic on.
/// Large enough to wait for room, and the panic comes when it is out.
struct Large(Vec<u8>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

/// Of several connections that were ready in the turn with the panic, the others are served by the next.
#[test]
fn a_caught_panic_costs_no_other_connection_its_edge() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        let (conn, mut peer) = rig.connect(Net::Unix);
        let (other, mut others_peer) = rig.connect(Net::Tcp);
        conn.write(Bytes::from_owner(Large(vec![7; 4 << 20]))).then_read_leased().submit_with(1).unwrap();
        other.read_leased().submit_with(2).unwrap();
        rig.assert_quiet();
        peer.set_nonblocking(true).unwrap();
        let mut turn = || {
            let taken = rig.watcher.turn(Some(Duration::ZERO)).unwrap().map(Taken::from).collect::<Vec<_>>();
            for event in &taken {
                assert!(matches!(event, Taken::Done(_, 2, Got::Leased(_))), "{event:?}");
                other.read_leased().submit_with(2).unwrap();
            }
            taken.len()
        };
        // Each turn finds the writer's edge first, and a byte of the other connection behind it.
        let mut sink = vec![0; 1 << 20];
        loop {
            while peer.read(&mut sink).is_ok() {}
            others_peer.write_all(b"x").unwrap();
            if catch_unwind(AssertUnwindSafe(&mut turn)).is_err() {
                break;
            }
        }
        assert_eq!((0..3).map(|_| turn()).sum::<usize>(), 1, "the byte that came with the panic");
    });
}

#[test]
fn an_embedded_watcher_that_is_dropped_with_such_a_payload_ends_all_the_same() {
    check(|| {
        let rig = Rig::<EmbeddedWatcher<u64>>::new();
        let mut ends = Vec::new();
        for context in 0..3 {
            let (conn, peer) = rig.connect(Net::Unix);
            let (payload, begun, light) = bomb();
            light.send(()).unwrap();
            conn.write(payload).then_read_leased().submit_with(context).unwrap();
            ends.push((conn, peer, begun));
        }
        let Rig { watcher, submitter, .. } = rig;
        let panic = catch_unwind(AssertUnwindSafe(|| drop(watcher))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
        assert!(!gaio::handoff::on_loop_thread(), "there is no loop here any more");
        for (_, peer, begun) in &mut ends {
            begun.recv().unwrap();
            read_to_its_end(peer);
        }
        assert_eq!(submitter.load(), 0);
    });
}

// --- contexts --------------------------------------------------------------------------------------------------------

/// How often contexts were dropped, and which of them panics when it is.
#[derive(Clone, Default)]
struct Ledger(Arc<AtomicU64>);

struct Entry {
    ledger: Ledger,
    panics: bool,
}

impl Ledger {
    fn entry(&self, panics: bool) -> Entry {
        Entry { ledger: self.clone(), panics }
    }

    fn dropped(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.0.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics, "on purpose");
    }
}

fn in_the_middle_of_a_batch<D: Drive<Entry>>() {
    let ledger = Ledger::default();
    let mut rig = Rig::<D, Entry>::new();
    let (conn, _peer) = rig.connect(Net::Unix);
    for i in 0..10 {
        conn.write(b"x").submit_with(ledger.entry(i % 4 == 3)).unwrap();
    }
    let mut panics = 0;
    while ledger.dropped() < 10 {
        let all = AssertUnwindSafe(|| rig.watcher.wait().unwrap().for_each(drop));
        panics += u64::from(catch_unwind(all).is_err());
    }
    assert_eq!((panics, ledger.dropped(), rig.submitter.load()), (2, 10, 0), "two of them, and none was lost");
    rig.submitter.post(ledger.entry(false)).unwrap();
    assert!(matches!(rig.next(), Taken::Posted(_)), "and the loop goes on");
}

#[test]
fn a_context_that_panics_in_the_middle_of_a_batch_leaves_the_rest_spawned() {
    check(in_the_middle_of_a_batch::<Watcher<Entry>>);
}

#[test]
fn a_context_that_panics_in_the_middle_of_a_batch_leaves_the_rest_embedded() {
    check(in_the_middle_of_a_batch::<EmbeddedWatcher<Entry>>);
}

/// G7 all the same: the loop ends, descriptors close, each context is dropped once. The panic is the dropper's.
fn while_the_watcher_is_dropped<D: Drive<Entry>>(panicking: &[u64]) {
    let ledger = Ledger::default();
    let rig = Rig::<D, Entry>::with(|limits| (limits.batch, limits.ops_per_turn) = (2, 1));
    let (conn, mut peer) = rig.connect(Net::Unix);
    for i in 0..20 {
        conn.read(Vec::with_capacity(1)).submit_with(ledger.entry(panicking.contains(&i))).unwrap();
    }
    let Rig { watcher, submitter, .. } = rig;
    assert!(catch_unwind(AssertUnwindSafe(|| drop(watcher))).is_err());
    assert_eq!(ledger.dropped(), 20);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the descriptor is closed");
    assert!(!gaio::handoff::on_loop_thread(), "there is no loop here any more");
    drop((submitter, conn));
}

#[test]
fn a_context_that_panics_while_its_watcher_is_dropped_spawned() {
    check(|| while_the_watcher_is_dropped::<Watcher<Entry>>(&[3]));
}

#[test]
fn a_context_that_panics_while_its_watcher_is_dropped_embedded() {
    check(|| while_the_watcher_is_dropped::<EmbeddedWatcher<Entry>>(&[3]));
}

#[test]
fn two_contexts_that_panic_while_their_watcher_is_dropped_spawned() {
    check(|| while_the_watcher_is_dropped::<Watcher<Entry>>(&[3, 12]));
}

#[test]
fn two_contexts_that_panic_while_their_watcher_is_dropped_embedded() {
    check(|| while_the_watcher_is_dropped::<EmbeddedWatcher<Entry>>(&[3, 12]));
}

/// What is refused comes back, so its drop is the submitter's own, and the loop does not notice.
#[test]
fn a_refused_context_that_panics_is_the_submitters_own_affair() {
    check(|| {
        let ledger = Ledger::default();
        let mut rig = Rig::<Watcher<Entry>, Entry>::new();
        let (conn, _peer) = rig.connect(Net::Unix);
        let refused = conn.read(Vec::new()).submit_with(ledger.entry(true)).unwrap_err();
        assert_eq!(ledger.dropped(), 0);
        assert!(catch_unwind(AssertUnwindSafe(|| drop(refused))).is_err());
        rig.submitter.post(ledger.entry(false)).unwrap();
        let Taken::Posted(entry) = rig.next() else { panic!() };
        assert!(!entry.panics);
    });
}
