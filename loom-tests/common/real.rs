//! What the models of the whole crate share: a tiny loop, and contexts that are counted.

#![allow(dead_code, unreachable_pub, reason = "each model is a crate of its own, and uses a part of this")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gaio::sim::{Clock, Peer, World};
use gaio::{Conn, Event, Limits, Options, Submitter, Watcher};

/// The smallest loop there is: two slots, batches of one.
pub fn tiny() -> Options {
    let mut limits = Limits::default();
    limits.sessions = 4;
    limits.ring_slots = 2;
    limits.batch = 1;
    limits.arena = 16;
    limits.read_cap = 16;
    limits.ops_per_turn = 2;
    Options::default().limits(limits)
}

/// Counts contexts. The count is `std`'s: it orders nothing that loom could see.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<(AtomicUsize, AtomicUsize)>);

/// A context, or the owner of a buffer, that is counted when it is made and when it is dropped.
#[derive(Debug)]
pub struct Mark(pub Tally, pub usize);

impl Tally {
    pub fn mark(&self, id: usize) -> Mark {
        self.0.0.fetch_add(1, Relaxed);
        Mark(self.clone(), id)
    }

    /// How many were made, and how many of them are gone.
    pub fn counts(&self) -> (usize, usize) {
        (self.0.0.load(Relaxed), self.0.1.load(Relaxed))
    }

    /// Each one that was made is gone, once.
    pub fn assert_all_gone(&self) {
        let (made, gone) = self.counts();
        assert_eq!(made, gone, "of {made} contexts {gone} were dropped");
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Relaxed);
    }
}

/// The world of this execution. Its clock is moved by hand only: what needs a deadline to get on deadlocks.
pub fn world() -> World {
    quietly(|| {
        let world = World::enter();
        world.configure(|config| config.clock = Clock::Manual);
        world
    })
}

/// A loop with nothing to do.
pub fn spawned<C: Send>() -> (Watcher<C>, Submitter<C>) {
    quietly(|| Watcher::spawn_for(tiny()).unwrap())
}

/// What a post brought.
pub fn posted<C>(event: Event<'_, C>) -> C {
    match event {
        Event::Posted(context) => context,
        _ => panic!("nothing but posts"),
    }
}

impl AsRef<[u8]> for Mark {
    fn as_ref(&self) -> &[u8] {
        b"marked"
    }
}

/// Does what is no part of the question in one order only: what went before it, and what comes after.
pub fn quietly<R>(act: impl FnOnce() -> R) -> R {
    loom::stop_exploring();
    let done = act();
    loom::explore();
    done
}

/// A loop with one connection, registered; and its peer.
pub fn connected(world: &World, tally: &Tally) -> (Watcher<Mark>, Submitter<Mark>, Conn<Mark>, Peer) {
    quietly(|| {
        let (mut watcher, submitter) = Watcher::spawn_for(tiny()).unwrap();
        let (socket, peer) = world.pair();
        let conn = submitter.delegate(socket).unwrap();
        submitter.post(tally.mark(0)).unwrap();
        assert_eq!(watcher.wait().unwrap().map(posted).count(), 1);
        (watcher, submitter, conn, peer)
    })
}

/// The end, in one order: all contexts are gone, and all descriptors.
pub fn finish<T>(world: &World, tally: &Tally, rest: T) {
    loom::skip_branch();
    drop(rest);
    tally.assert_all_gone();
    assert_eq!(world.open_descriptors(), 0);
}
