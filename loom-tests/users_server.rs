//! A user's server on ours, with two threads that submit: how such a model looks. `gaio::verification` explains it.
//!
//! The server sells one seat. Any thread may have a guest's question and answers it, and each sale gets a number, which
//! goes out on a board that everybody watches. The till is a typed session, to which the threads send what they took.
//!
//! Q1: is the seat sold once, and does each guest hear one answer?
//! Q2: do the numbers come to the board in their order?
//! Q3: does the till hear of everything? (T8)
//! Q4: does the loop wake up for all of it? It sleeps without a deadline, so a lost wake-up is a deadlock. (G4)
//!
//! | model      | threads                                       | bound | executions | time  | floor |
//! |------------|-----------------------------------------------|-------|------------|-------|-------|
//! | `one_seat` | two that answer, the loop                     | 2     | 7 479      | 2.3 s | 5 000 |
//! | `in_order` | two that announce, a spawned loop, the waiter | 1     | 9 594      | 2.1 s | 6 300 |
//! | `till`     | two that send, the loop of sessions           | 2     | 4 277      | 1.1 s | 3 000 |
//!
//! | mutant                     | what catches it                                          |
//! |----------------------------|----------------------------------------------------------|
//! | `looked_then_sold`         | `one_seat`: both guests have the seat                    |
//! | `numbered_outside`         | `in_order`: a later number is on the board first         |
//! | `submit_unraised` (gaio's) | `one_seat`, `till`: deadlock                             |

#![cfg(loom)]

mod common;

use common::{explore, must_fail, mutant, tries_mutants};
use gaio::sim::{Peer, World};
use gaio::{
    Conn, EmbeddedWatcher, Event, Expect, Io, Limits, Next, Options, Outcome, Protocol, SessionLimits, SessionLoop,
    Submitter, Watcher,
};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// The user's server. What its threads share is made of loom's types, or loom would not see it.
#[derive(Default)]
struct Office {
    sold: Mutex<bool>,
    number: Mutex<u8>,
}

impl Office {
    /// Answers a guest who asks for the seat.
    fn sell(&self, guest: &Conn) {
        let mut sold = self.sold.lock().unwrap();
        let free = !*sold;
        if mutant("looked_then_sold") {
            // Looks, and lets go, and then acts on what it has seen.
            drop(sold);
            sold = self.sold.lock().unwrap();
        }
        *sold = true;
        drop(sold);
        guest.write(if free { &b"yours"[..] } else { b"sold" }).submit().unwrap();
    }

    /// Puts the next number on the board.
    fn announce(&self, board: &Conn) {
        let mut number = self.number.lock().unwrap();
        *number += 1;
        let line = vec![*number];
        // Submitted under the lock, so that the order of the numbers is that of the submissions, and that of the bytes.
        let locked = Some(number).filter(|_| !mutant("numbered_outside"));
        board.write(line).submit().unwrap();
        drop(locked);
    }
}

/// The user's till: a session that adds up what it is told, and shows each sum.
struct Till(u8);

impl Protocol for Till {
    type Message = u8;

    fn expects(&self) -> Expect {
        Expect::nothing()
    }

    fn on_open(self, io: &mut Io<'_, Self>) -> Next<Self> {
        io.join(0);
        Next::Become(self)
    }

    fn on_message(self, price: u8, io: &mut Io<'_, Self>) -> Next<Self> {
        let sum = self.0 + price;
        io.write(&[sum]);
        Next::Become(Self(sum))
    }

    fn on_frame(self, _frame: &[u8], _io: &mut Io<'_, Self>) -> Next<Self> {
        unreachable!("it expects nothing")
    }
}

/// The smallest loop there is: what makes it larger makes the model slower, and shows nothing new.
fn tiny() -> Options {
    let mut limits = Limits::default();
    (limits.sessions, limits.ring_slots, limits.batch) = (4, 2, 1);
    (limits.arena, limits.read_cap, limits.ops_per_turn) = (16, 16, 2);
    Options::default().limits(limits)
}

/// A connection of the server, and the peer at its other end.
fn connected(world: &World, submitter: &Submitter) -> (Conn, Peer) {
    let (socket, peer) = world.pair();
    (submitter.delegate(socket).unwrap(), peer)
}

fn heard(peer: &Peer) -> Vec<u8> {
    let mut buf = [0; 16];
    let len = peer.recv(&mut buf).unwrap_or(0);
    buf[..len].to_vec()
}

fn is_written(event: &Event<'_>) -> bool {
    matches!(event, Event::Done { outcome: Outcome::Wrote(_), .. })
}

#[test]
fn one_seat() {
    explore("users_server one_seat", 2, 5_000, || {
        // Setting up is no part of the question: one order is enough.
        loom::stop_exploring();
        let world = World::enter();
        let office = Arc::new(Office::default());
        let (mut watcher, submitter) = EmbeddedWatcher::new(tiny()).unwrap();
        let guests = [(); 2].map(|()| connected(&world, &submitter));
        loom::explore();

        let threads = [0, 1].map(|n| {
            let (office, guest) = (Arc::clone(&office), guests[n].0.clone());
            thread::spawn(move || office.sell(&guest))
        });
        let mut written = 0;
        while written < 2 {
            written += watcher.turn(None).unwrap().filter(is_written).count();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        let mut answers = guests.each_ref().map(|(_, peer)| heard(peer));
        answers.sort();
        assert_eq!(answers, [b"sold".to_vec(), b"yours".to_vec()], "one seat, one guest");
        // Nor is winding down.
        loom::skip_branch();
    });
}

#[test]
fn in_order() {
    explore("users_server in_order", 1, 6_300, || {
        loom::stop_exploring();
        let world = World::enter();
        let office = Arc::new(Office::default());
        let (mut watcher, submitter) = Watcher::spawn(tiny()).unwrap();
        let (board, peer) = connected(&world, &submitter);
        loom::explore();

        let threads = [(); 2].map(|()| {
            let (office, board) = (Arc::clone(&office), board.clone());
            thread::spawn(move || office.announce(&board))
        });
        let mut written = 0;
        while written < 2 {
            written += watcher.wait().unwrap().filter(is_written).count();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        assert_eq!(heard(&peer), [1, 2], "in the order of their numbers");
        loom::skip_branch();
    });
}

#[test]
fn till() {
    explore("users_server till", 2, 3_000, || {
        loom::stop_exploring();
        let world = World::enter();
        let mut limits = SessionLimits::default();
        (limits.ring_slots, limits.receive) = (2, 64);
        let (mut sessions, hub) = SessionLoop::new(limits, |_peer| None).unwrap();
        let (socket, peer) = world.pair();
        hub.adopt(socket, Till(0)).map_err(|(error, _)| error).unwrap();
        sessions.turn(None).unwrap();
        loom::explore();

        let threads = [10, 20].map(|price| {
            let hub = hub.clone();
            // The ring has room for both.
            thread::spawn(move || hub.broadcast(0, price).unwrap())
        });
        let mut sums = Vec::new();
        while sums.len() < 2 {
            sessions.turn(None).unwrap();
            sums.extend(heard(&peer));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());

        assert!(sums == [10, 30] || sums == [20, 30], "{sums:?}");
        loom::skip_branch();
    });
}

#[test]
fn mutants_must_fail() {
    if tries_mutants() {
        must_fail("one_seat", "looked_then_sold");
        must_fail("in_order", "numbered_outside");
        must_fail("one_seat", "submit_unraised");
        must_fail("till", "submit_unraised");
    }
}
