//! Tests of the handles that need no model: counting, going home, a closed home, threads for real.

use super::*;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[derive(Default)]
struct Home {
    returns: Returns<Conn>,
    announced: AtomicUsize,
    freed: AtomicUsize,
}

struct Conn {
    home: Arc<Home>,
    token: u32,
}

impl AsRef<Returns<Conn>> for Home {
    fn as_ref(&self) -> &Returns<Conn> {
        &self.returns
    }
}

impl Counted for Conn {
    type Home = Home;
    fn home(&self) -> &Arc<Home> {
        &self.home
    }
    fn announce(home: &Home) {
        home.announced.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.home.freed.fetch_add(1, Ordering::Relaxed);
    }
}

fn conn(home: &Arc<Home>, token: u32) -> Handle<Conn> {
    Handle::new(Conn { home: Arc::clone(home), token })
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

const fn assert_send_sync<T: Send + Sync>() {}
const _: () = assert_send_sync::<Handle<Conn>>();
const _: () = assert_send_sync::<Returns<Conn>>();
const _: () = assert_send_sync::<Drain<Conn>>();

#[test]
fn a_handle_is_a_pointer() {
    assert_eq!(size_of::<Option<Handle<Conn>>>(), size_of::<usize>());
}

#[test]
fn only_the_last_handle_sends_the_block_home() {
    let home = Arc::new(Home::default());
    let first = conn(&home, 1);
    let second = first.clone();
    assert!(first.ptr_eq(&second));
    assert!(!first.ptr_eq(&conn(&Arc::default(), 1)));
    drop(first);
    assert!(home.returns.is_empty());
    drop(second);
    assert!(!home.returns.is_empty());
    assert_eq!((count(&home.announced), count(&home.freed)), (1, 0));
    let returned = home.returns.drain().next().unwrap();
    assert_eq!(returned.token, 1);
    drop(returned);
    assert_eq!(count(&home.freed), 1);
    assert_eq!(Arc::strong_count(&home), 1);
}

#[test]
fn operations_are_handles_and_have_a_cap() {
    let home = Arc::new(Home::default());
    let handle = conn(&home, 1);
    let one = handle.begin(2).unwrap();
    let two = handle.begin(2).unwrap();
    assert!(handle.begin(2).is_none());
    assert_eq!(handle.operations(), 2);
    one.settle();
    assert_eq!(handle.operations(), 1);
    assert!(handle.begin(2).is_some_and(|three| {
        three.settle();
        true
    }));
    drop((handle, one));
    assert!(home.returns.is_empty(), "an operation in flight is a handle");
    two.settle();
    drop(two);
    assert_eq!(home.returns.drain().count(), 1);
}

#[test]
fn a_cap_of_zero_refuses_everything_and_leaks_nothing() {
    let home = Arc::new(Home::default());
    let handle = conn(&home, 1);
    assert!(handle.begin(0).is_none());
    drop(handle);
    assert_eq!(home.returns.drain().count(), 1);
}

#[test]
fn a_drain_that_is_dropped_frees_the_rest() {
    let home = Arc::new(Home::default());
    for token in 0..3 {
        drop(conn(&home, token));
    }
    let mut drain = home.returns.drain();
    assert_eq!(drain.next().unwrap().token, 2, "the last that came first");
    drop(conn(&home, 9));
    drop(drain);
    assert_eq!(count(&home.freed), 3);
    assert_eq!(home.returns.drain().map(|conn| conn.token).collect::<Vec<_>>(), [9]);
}

#[test]
fn after_the_close_the_dropper_frees_the_block() {
    let home = Arc::new(Home::default());
    let late = conn(&home, 2);
    drop(conn(&home, 1));
    assert_eq!(home.returns.close().map(|conn| conn.token).collect::<Vec<_>>(), [1]);
    drop(late);
    assert_eq!((count(&home.announced), count(&home.freed)), (1, 2));
    assert!(home.returns.is_empty());
    assert_eq!(home.returns.drain().count(), 0);
    assert_eq!(home.returns.close().count(), 0);
    drop(conn(&home, 3));
    assert_eq!(count(&home.freed), 3);
}

#[test]
fn a_revived_block_comes_home_again() {
    let home = Arc::new(Home::default());
    drop(conn(&home, 1));
    let again = home.returns.drain().next().unwrap().revive();
    assert!(home.returns.is_empty());
    drop(again);
    assert_eq!(count(&home.announced), 2);
    assert_eq!(home.returns.drain().count(), 1);
}

#[test]
fn stress_every_block_comes_home_once() {
    const ROUNDS: u32 = if cfg!(miri) { 50 } else { 20_000 };
    let home = Arc::new(Home::default());
    let (send, receive) = std::sync::mpsc::channel::<Handle<Conn>>();
    let droppers: Vec<_> =
        [receive].into_iter().map(|receive| thread::spawn(move || receive.into_iter().for_each(drop))).collect();
    let drainer = thread::spawn({
        let home = Arc::clone(&home);
        move || {
            let mut seen = vec![false; ROUNDS as usize];
            for _ in 0..ROUNDS {
                for conn in home.returns.drain() {
                    assert!(!mem::replace(&mut seen[conn.token as usize], true));
                }
            }
            seen
        }
    });
    for token in 0..ROUNDS {
        let handle = conn(&home, token);
        let operation = handle.begin(1).unwrap();
        send.send(handle).unwrap();
        operation.settle();
    }
    drop(send);
    droppers.into_iter().for_each(|dropper| dropper.join().unwrap());
    let mut seen = drainer.join().unwrap();
    for conn in home.returns.close() {
        assert!(!mem::replace(&mut seen[conn.token as usize], true));
    }
    assert!(seen.into_iter().all(|seen| seen));
    assert_eq!(count(&home.freed), ROUNDS as usize);
    assert_eq!(Arc::strong_count(&home), 1);
}
