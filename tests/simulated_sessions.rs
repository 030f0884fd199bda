//! Typed sessions on the simulated system: time limits to the instant, and what a kernel does rarely.
//!
//! One thread, one loop, and the peers in the test's hand: each test comes out the same every time. Run by `ci/sim.sh`.

#![cfg(gaio_sim)]

#[path = "support/sessions.rs"]
mod scripted;

use std::io::ErrorKind;
use std::time::Duration;

use gaio::sim::{Clock, Config, Fault, Faults, Peer, World};
use gaio::{Expect, LengthField, SessionLimits, TimeLimit};
use scripted::{Books, Log, Note, Rig, Scripted, Seen, Then, UNIQUE, frame, note, order, usual};

const SECOND: Duration = Duration::from_secs(1);
/// Limits are told apart by so much.
const TICK: Duration = Duration::from_millis(3);

struct Desk {
    rig: Rig,
    world: World,
    /// Looked at when the loop has gone.
    _books: Books,
}

fn desk_with(config: impl FnOnce(&mut Config), limits: impl FnOnce(&mut SessionLimits)) -> Desk {
    let books = Books::open();
    let world = World::enter();
    world.configure(|own| {
        own.clock = Clock::Manual;
        config(own);
    });
    Desk { rig: Rig::with(limits), world, _books: books }
}

fn desk() -> Desk {
    desk_with(|_| (), |_| ())
}

impl Desk {
    /// Serves everything that there is without time passing.
    fn settle(&mut self) {
        // One wait tells of 32 events, and the largest crowd here is one of 1 200.
        for _ in 0..48 {
            self.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        }
    }

    /// Lets time pass, asleep.
    fn pass(&mut self, time: Duration) {
        self.world.advance(time);
        self.settle();
    }

    fn session(&mut self, (state, log): (Scripted, Log)) -> (Log, Peer) {
        let (socket, peer) = self.world.pair();
        self.rig.hub.adopt(socket, state).map_err(|(error, _)| error).unwrap();
        self.settle();
        assert_eq!(log.take(), [Seen::Open]);
        (log, peer)
    }
}

/// Stays, whatever happens, but for the peer's end.
fn patient(expect: Expect) -> (Scripted, Log) {
    Scripted::new(expect, |seen, _| if let Seen::Timeout(_) = seen { Then::Stay } else { usual(seen) })
}

fn received(peer: &Peer) -> Result<Vec<u8>, ErrorKind> {
    let mut buf = [0; 4_096];
    peer.recv(&mut buf).map(|len| buf[..len].to_vec()).map_err(|error| error.kind())
}

const FRAME: Seen = Seen::Timeout(TimeLimit::Frame(SECOND));
const IDLE: Seen = Seen::Timeout(TimeLimit::Idle(SECOND));

// --- time limits --------------------------------------------------------------------------------------------------

#[test]
fn a_frames_limit_begins_with_its_first_byte_however_long_the_session_was_idle() {
    let mut desk = desk();
    let (log, peer) = desk.session(patient(Expect::until(b"\n").within(SECOND)));
    for pause in [10 * SECOND, 3600 * SECOND] {
        desk.pass(pause);
        peer.send(b"begin").unwrap();
        desk.settle();
        desk.pass(SECOND - TICK);
        assert_eq!(log.take(), [], "its time is not over");
        peer.send(b"\n").unwrap();
        desk.settle();
        assert_eq!(log.take(), [frame(b"begin")]);
    }
    desk.pass(10 * SECOND);
    assert_eq!(log.take(), [], "no frame has begun");
}

#[test]
fn bytes_and_messages_do_not_extend_a_frames_limit() {
    let mut desk = desk();
    let (log, peer) = desk.session(patient(Expect::until(b"\n").within(SECOND)));
    for _ in 0..9 {
        peer.send(b"x").unwrap();
        log.send(note("still there?"));
        desk.settle();
        desk.pass(SECOND / 10);
    }
    assert!(!log.has(&FRAME));
    log.take();
    desk.pass(SECOND / 10 + TICK);
    assert_eq!(log.take(), [FRAME]);
    // It goes on, and so the limit begins anew.
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), []);
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [FRAME]);
    // The next frame has a limit of its own: so many may come, one after the other.
    peer.send(b"\n").unwrap();
    desk.settle();
    for _ in 0..5 {
        peer.send(b"one\nbegun").unwrap();
        desk.settle();
        desk.pass(SECOND - TICK);
    }
    assert!(!log.has(&FRAME));
}

#[test]
fn an_idle_limit_runs_from_the_state_to_the_first_byte() {
    let mut desk = desk();
    let (log, peer) = desk.session(patient(Expect::until(b"\n").idle_within(SECOND)));
    desk.pass(SECOND - TICK);
    log.send(note("does not extend it"));
    desk.settle();
    log.take();
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [IDLE]);
    peer.send(b"be").unwrap();
    desk.settle();
    desk.pass(10 * SECOND);
    assert_eq!(log.take(), [], "the frame has begun");
    peer.send(b"gun\n").unwrap();
    desk.settle();
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), [frame(b"begun")]);
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [IDLE]);
    // By default a timeout closes.
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any().idle_within(SECOND)));
    desk.pass(SECOND + TICK);
    assert_eq!(log.take(), [IDLE]);
    desk.pass(5 * SECOND + TICK);
    assert_eq!(log.end().as_deref(), Some("nothing came for 1s"));
    assert_eq!(desk.rig.hub.counters().ended_by_time, 1);
}

#[test]
fn a_state_that_expects_nothing_has_its_limit_too_with_input_waiting() {
    let mut desk = desk();
    let (log, peer) = desk.session(Scripted::new(Expect::until(b"\n"), |seen, _| match seen {
        Seen::Frame(_) => Then::Expect(Expect::nothing().idle_within(SECOND).within(SECOND)),
        _ => Then::Stay,
    }));
    peer.send(b"ask\nand ask again\n").unwrap();
    desk.settle();
    assert_eq!(log.take(), [frame(b"ask")]);
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), []);
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [IDLE]);
}

#[test]
fn another_expectation_has_another_limit() {
    let mut desk = desk();
    let long = Expect::until(b"\n").within(10 * SECOND);
    let (log, peer) = desk.session(patient(long));
    peer.send(b"x").unwrap();
    desk.settle();
    // Shorter: the timer that is armed would be too late.
    log.send(order(|_| Then::Expect(Expect::until(b"\n").within(SECOND))));
    desk.settle();
    log.take();
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), []);
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [FRAME]);
    // None: the one that is armed must do nothing.
    log.send(order(|_| Then::Expect(Expect::until(b"\n"))));
    desk.settle();
    log.take();
    let expired = desk.rig.hub.counters().expired;
    desk.pass(100 * SECOND);
    assert_eq!((log.take(), desk.rig.hub.counters().expired), (vec![], expired));
}

#[test]
fn while_output_waits_the_limit_is_that_of_taking_it() {
    let mut desk = desk_with(|config| config.buffer = 1_000, |limits| (limits.high_water, limits.low_water) = (500, 0));
    let (log, peer) = desk.session(patient(Expect::until(b"\n").within(SECOND)));
    peer.send(b"one\ntw").unwrap();
    desk.settle();
    log.send(order(|io| {
        io.write(&[0; 2_000]);
        Then::Stay
    }));
    desk.settle();
    log.take();
    desk.pass(SECOND - TICK);
    // The peer takes it in the nick of time; only then the rest of its frame can be read.
    for _ in 0..3 {
        let _ = received(&peer);
        desk.settle();
    }
    assert_eq!(log.take(), [Seen::Drained]);
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), []);
    peer.send(b"o\n").unwrap();
    desk.settle();
    assert_eq!(log.take(), [frame(b"two")]);
}

/// What arrives while the loop is busy with others has arrived in time: limits are held to the instant at which a turn began, and
/// who had sent something by then has been served in it.
#[test]
fn a_long_turn_is_not_taken_for_a_slow_peer() {
    let mut desk = desk();
    let (log, peer) = desk.session(patient(Expect::until(b"\n").within(SECOND).idle_within(SECOND)));
    let (world, peer) = (desk.world.clone(), std::sync::Arc::new(peer));
    let same = peer.clone();
    let (_slow, other) = desk.session(Scripted::new(Expect::until(b"\n"), move |seen, _| {
        if let Seen::Frame(bytes) = seen {
            same.send(bytes).unwrap();
            world.advance(2 * SECOND);
        }
        Then::Stay
    }));
    for bytes in [&b"be"[..], b"gun"] {
        other.send(&[bytes, b"\n"].concat()).unwrap();
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(log.take(), [], "a frame begins, and goes on");
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        peer.send(b"\n").unwrap();
        desk.settle();
        assert_eq!(log.take(), [frame(bytes)]);
    }
    // Who sends nothing is late as soon as the loop has looked.
    other.send(b"\n").unwrap();
    desk.settle();
    assert_eq!(log.take(), [IDLE]);
}

/// The same of a connect. And the selector tells of so many at a time: of a crowd, after a pause, of the first only.
#[test]
fn what_has_come_in_time_is_not_late_though_the_loop_was() {
    let mut desk = desk_with(|_| (), |limits| limits.connect_within = SECOND);
    let (world, remote) = (desk.world.clone(), desk.world.remote());
    let (state, connected) = Scripted::quiet(Expect::any());
    desk.rig.hub.connect(remote.addr(), state).map_err(|_| ()).unwrap();
    let accepted = std::sync::Mutex::new(None);
    let (_slow, other) = desk.session(Scripted::new(Expect::any(), move |seen, _| {
        if let Seen::Frame(_) = seen {
            *accepted.lock().unwrap() = Some(remote.attempt().unwrap().accept());
            world.advance(2 * SECOND);
        }
        Then::Stay
    }));
    other.send(b"x").unwrap();
    desk.settle();
    assert_eq!(connected.take(), [Seen::Open]);

    let states = (0..1_100).map(|_| patient(Expect::until(b"\n").within(SECOND)));
    let crowd: Vec<_> = states.map(|state| desk.session(state)).collect();
    let (_, slow) = desk.session(patient(Expect::until(b"\n").within(SECOND)));
    crowd.iter().for_each(|(_, peer)| _ = peer.send(b"be").unwrap());
    slow.send(b"be").unwrap();
    desk.settle();
    crowd.iter().for_each(|(_, peer)| _ = peer.send(b"gun\n").unwrap());
    slow.send(b"gun").unwrap();
    let expired = desk.rig.hub.counters().expired;
    desk.pass(2 * SECOND);
    assert!(crowd.iter().all(|(log, _)| log.all() == [frame(b"begun")]));
    assert_eq!(desk.rig.hub.counters().expired - expired, 1, "what is no frame yet is late");
}

// --- timers -------------------------------------------------------------------------------------------------------

#[test]
fn timers_come_in_their_order_and_are_replaced_cancelled_and_forgotten() {
    let mut desk = desk();
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    log.send(order(|io| {
        io.timer(1, 3 * SECOND);
        io.timer(2, SECOND);
        io.timer(3, 2 * SECOND);
        io.timer(3, 4 * SECOND); // instead
        io.timer(4, SECOND);
        io.cancel_timer(4);
        io.cancel_timer(99);
        Then::Stay
    }));
    desk.settle();
    log.take();
    for (after, name) in [(1, 2), (3, 1), (4, 3)] {
        desk.pass(after * SECOND - desk.world.now() - TICK);
        assert_eq!(log.take(), [], "before {after} s");
        desk.pass(2 * TICK);
        assert_eq!(log.take(), [Seen::Timer(name)]);
    }
    // One that is set in its own callback; one due at once; one for ever.
    log.send(order(|io| {
        io.timer(5, Duration::ZERO);
        io.timer(6, Duration::MAX);
        Then::Stay
    }));
    desk.settle();
    desk.pass(TICK);
    assert_eq!(log.take().last(), Some(&Seen::Timer(5)));
    // A session's timers end with it: nobody else has its name.
    log.send(order(|io| {
        io.timer(7, SECOND);
        Then::Abort
    }));
    desk.settle();
    let (other, _peer) = desk.session(Scripted::quiet(Expect::any()));
    let expired = desk.rig.hub.counters().expired;
    desk.pass(2 * SECOND);
    assert_eq!((other.take(), desk.rig.hub.counters().expired), (vec![], expired));
}

#[test]
fn many_timers_of_many_sessions_all_come() {
    let mut desk = desk();
    let sessions: Vec<_> = (0..20).map(|_| desk.session(Scripted::quiet(Expect::any()))).collect();
    for (log, _) in &sessions {
        log.send(order(|io| {
            (0..500).for_each(|i| io.timer(i, Duration::from_millis(10 * (i % 50))));
            Then::Stay
        }));
    }
    desk.settle();
    desk.pass(SECOND);
    for (log, _) in &sessions {
        let mut names: Vec<u64> = log
            .take()
            .into_iter()
            .filter_map(|seen| if let Seen::Timer(name) = seen { Some(name) } else { None })
            .collect();
        assert!(names.windows(2).all(|two| two[0] % 50 <= two[1] % 50), "by their time");
        names.sort_unstable();
        assert_eq!(names, (0..500).collect::<Vec<_>>());
    }
}

// --- output -------------------------------------------------------------------------------------------------------

#[test]
fn limits_change_while_the_loop_runs() {
    let mut desk = desk_with(|config| config.buffer = 100, |_| ());
    let writes = || {
        order(|io| {
            io.write(&[0; 121]);
            Then::Stay
        })
    };
    let (before, _one) = desk.session(Scripted::quiet(Expect::any()));
    before.send(writes());
    desk.settle();
    let (after, two) = desk.session(Scripted::quiet(Expect::any()));
    let mut limits = desk.rig.hub.limits();
    (limits.high_water, limits.low_water, limits.output) = (10, 0, 20);
    (limits.sessions, limits.receive) = (2, 64);
    desk.rig.hub.set_limits(limits.clone()).unwrap();
    assert_eq!(desk.rig.hub.limits(), limits);
    two.send(&[1; 90]).unwrap();
    desk.settle();
    assert_eq!(after.take(), [frame(&[1; 64]), frame(&[1; 26])]);
    // What is there already ends nothing; what is new counts.
    assert_eq!(before.end(), None);
    after.send(order(|io| {
        io.write(&[0; 21]);
        Then::Stay
    }));
    let (socket, _three) = desk.world.pair();
    let (state, _) = Scripted::quiet(Expect::any());
    let (error, state) = desk.rig.hub.adopt(socket, state).unwrap_err();
    assert!(matches!(error.kind, gaio::DelegateErrorKind::TooMany));
    state.strike_off();
    desk.settle();
    assert_eq!(after.end().as_deref(), Some("too much output queued"));
    limits.low_water = 11;
    assert_eq!(desk.rig.hub.set_limits(limits.clone()).unwrap_err().limit(), "low_water");
    (limits.low_water, limits.ring_slots) = (0, 2);
    assert!(desk.rig.hub.set_limits(limits).unwrap_err().is_fixed());
    assert_eq!(desk.rig.hub.limits().ring_slots, SessionLimits::default().ring_slots, "nothing has changed");
}

/// The budget of a step may be over right behind `on_drained`: what it wrote is this session's all the same, not the next one's.
#[test]
fn what_is_produced_with_the_last_of_a_budget_is_not_the_next_sessions() {
    let limits = |limits: &mut SessionLimits| {
        (limits.high_water, limits.low_water, limits.frames_per_turn) = (500, 0, 1);
    };
    let mut desk = desk_with(|config| config.buffer = 1_000, limits);
    let (first, one) = desk.session(Scripted::new(Expect::until(b"\n"), |seen, io| {
        if *seen == Seen::Drained {
            io.write(b"more");
        }
        Then::Stay
    }));
    let (second, two) = desk.session(Scripted::new(Expect::until(b"\n"), |seen, io| {
        if let Seen::Frame(_) = seen {
            io.write(b"mine");
        }
        Then::Stay
    }));
    first.send(order(|io| {
        io.write(&[0; 1_600]);
        Then::Stay
    }));
    desk.settle();
    // There is room for the rest, and a frame to read behind it; both sessions are served in one turn.
    one.send(b"asked meanwhile\n").unwrap();
    assert_eq!(received(&one).unwrap().len(), 1_000);
    two.send(b"ask\n").unwrap();
    desk.settle();
    assert!(first.has(&Seen::Drained) && first.has(&frame(b"asked meanwhile")) && second.has(&frame(b"ask")));
    assert_eq!(received(&two).unwrap(), b"mine");
    let rest = received(&one).unwrap();
    assert_eq!((rest.len(), &rest[600..]), (604, &b"more"[..]));
}

/// Whose peer sends no frame may have a last word: it goes out, and the peer's end is awaited, as by a graceful close. Without
/// one the session ends at once.
#[test]
fn a_last_word_is_sent_before_the_end() {
    for (speaks, full) in [(false, false), (true, false), (true, true)] {
        let mut desk = desk_with(|config| config.buffer = 1_000, |_| ());
        let (state, log) = Scripted::quiet(Expect::until(b"\n").at_most(10));
        let state = if speaks { state.with_last_word(b"too long") } else { state };
        let (log, peer) = desk.session((state, log));
        if full {
            log.send(order(|io| {
                io.write(&[0; 1_990]);
                Then::Stay
            }));
            desk.settle();
        }
        log.take();
        peer.send(b"and so on, without an end").unwrap();
        desk.settle();
        let why = "a frame of more than 10 bytes";
        assert_eq!(log.end().as_deref(), if speaks { None } else { Some(why) });
        if full {
            assert_eq!(received(&peer).unwrap().len(), 1_000);
            desk.settle();
            let rest = received(&peer).unwrap();
            assert_eq!((rest.len(), &rest[990..]), (998, &b"too long"[..]));
        } else if speaks {
            assert_eq!(received(&peer).unwrap(), b"too long");
        }
        let end = if speaks { Ok(vec![]) } else { Err(ErrorKind::ConnectionReset) };
        assert_eq!(received(&peer), end);
        drop(peer);
        desk.settle();
        assert_eq!(log.take(), [Seen::End(why.into())]);
        assert_eq!(desk.rig.hub.counters().ended_by_input, 1);
    }
    // It has the time of a graceful close, and no more; the reason stays.
    let mut desk = desk_with(|_| (), |limits| limits.close_within = SECOND);
    let (state, log) = Scripted::quiet(Expect::exactly(10));
    let (log, peer) = desk.session((state.with_last_word(b"cut"), log));
    peer.send(b"half").unwrap();
    peer.shutdown_write().unwrap();
    desk.settle();
    assert_eq!(received(&peer).unwrap(), b"cut");
    assert_eq!(log.take(), [Seen::End("the peer ended after 4 bytes of a frame".into())], "it has ended already");
    let (state, log) = Scripted::quiet(Expect::exactly(10).at_most(5));
    let (log, peer) = desk.session((state.with_last_word(b"never"), log));
    peer.send(b"1").unwrap();
    desk.settle();
    desk.pass(SECOND - TICK);
    assert_eq!(log.take(), []);
    desk.pass(2 * TICK);
    assert_eq!(log.take(), [Seen::End("a frame of more than 5 bytes".into())]);
}

// --- connects, closes, the end ------------------------------------------------------------------------------------

#[test]
fn a_connect_that_nobody_answers_is_given_up() {
    {
        let mut desk = desk_with(|_| (), |limits| limits.connect_within = SECOND);
        let remote = desk.world.remote();
        let (state, log) = Scripted::quiet(Expect::any());
        desk.rig.hub.connect(remote.addr(), state).map_err(|_| ()).unwrap();
        desk.settle();
        desk.pass(SECOND - TICK);
        assert_eq!(log.take(), []);
        desk.pass(2 * TICK);
        assert!(log.end().is_some_and(|end| end.contains("timed out")), "{:?}", log.all());
        drop(remote.attempt().unwrap().accept());
        // One that is answered in time lives on; one that is refused says so.
        for fate in [None, Some(ErrorKind::ConnectionRefused), Some(ErrorKind::NetworkUnreachable)] {
            let (state, log) = Scripted::quiet(Expect::any());
            desk.rig.hub.connect(remote.addr(), state).map_err(|_| ()).unwrap();
            desk.settle();
            desk.pass(SECOND / 2);
            let attempt = remote.attempt().unwrap();
            let _peer = match fate {
                None => Some(attempt.accept()),
                Some(kind) => {
                    attempt.fail(kind);
                    None
                }
            };
            desk.settle();
            desk.pass(10 * SECOND);
            match fate {
                None => assert_eq!(log.all(), [Seen::Open]),
                Some(_) => assert!(matches!(&log.all()[..], [Seen::End(_)]), "{:?}", log.all()),
            }
        }
        assert_eq!(desk.rig.hub.counters().ended_by_system, 3);
    }
}

impl Desk {
    fn connect_unix(&self, path: &str) -> Log {
        let (state, log) = Scripted::quiet(Expect::any());
        self.rig.hub.connect_unix(path, state).map_err(|_| ()).unwrap();
        log
    }
}

/// No edge tells of room in a backlog: it is tried again, for as long as a connect may take.
#[test]
fn a_unix_connect_waits_for_room_in_the_backlog() {
    let mut desk = desk_with(|_| (), |limits| limits.connect_within = SECOND);
    let listener = desk.world.unix_listener("door").unwrap();
    let nobody = desk.connect_unix("nobody");
    let first = desk.connect_unix("door");
    desk.settle();
    assert!(matches!(&nobody.all()[..], [Seen::End(_)]), "{:?}", nobody.all());
    assert_eq!(first.take(), [Seen::Open], "accepted or not");
    let mut crowd = Vec::new();
    while let Ok(peer) = desk.world.connect_unix("door") {
        crowd.push(peer);
    }
    // Two wait until their time is over, one finds room just before.
    let late = [desk.connect_unix("door"), desk.connect_unix("door")];
    desk.settle();
    let descriptors = desk.world.open_descriptors();
    desk.pass(SECOND / 2);
    let waits = desk.connect_unix("door");
    desk.pass(SECOND / 2 - TICK);
    assert!(late.iter().all(|log| log.all().is_empty()));
    assert_eq!((desk.rig.hub.sessions(), desk.world.open_descriptors()), (4, descriptors), "places, and no sockets");
    desk.pass(2 * TICK);
    assert!(late.iter().all(|log| log.end().is_some_and(|end| end.contains("timed out"))));
    assert_eq!(waits.all(), []);
    desk.rig.hub.listen(listener).unwrap();
    desk.settle();
    desk.pass(SECOND / 10);
    assert_eq!(waits.take(), [Seen::Open]);
    let accepted = desk.rig.welcomed.lock().unwrap().len();
    assert_eq!(accepted, crowd.len() + 2);
}

/// One that is opened as the loop ends has the grace, as all others have; one that is paused, too.
#[test]
fn connects_have_until_the_end_of_the_grace() {
    let mut desk = desk();
    let _listener = desk.world.unix_listener("door").unwrap();
    let mut crowd = Vec::new();
    while let Ok(peer) = desk.world.connect_unix("door") {
        crowd.push(peer);
    }
    let remote = desk.world.remote();
    let (state, opened) = Scripted::new(Expect::any(), |_, _| Then::Stay);
    let (address, state) = (remote.addr(), std::sync::Mutex::new(Some(state)));
    let (opens, peer) = desk.session(Scripted::new(Expect::any(), move |seen, io| {
        if *seen != Seen::Shutdown {
            return Then::Stay;
        }
        io.connect(address, state.lock().unwrap().take().unwrap());
        Then::Close
    }));
    drop(peer);
    let paused = desk.connect_unix("door");
    desk.settle();
    desk.rig.hub.shutdown(SECOND);
    desk.settle();
    assert!(opens.end().is_some());
    let _peer = remote.attempt().unwrap().accept();
    desk.settle();
    assert_eq!(opened.take(), [Seen::Open, Seen::Shutdown]);
    assert_eq!(paused.take(), []);
    desk.world.advance(SECOND + TICK);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    for log in [opened, paused] {
        assert_eq!(log.take(), [Seen::End("the loop has ended".into())]);
    }
    assert_eq!(desk.rig.hub.sessions(), 0, "no place is kept");
}

#[test]
fn a_shutdown_tells_everybody_waits_for_its_grace_and_no_longer() {
    {
        let mut desk = desk();
        let remote = desk.world.remote();
        let (closes, _one) = desk.session(Scripted::quiet(Expect::any()));
        let (stays, _two) = desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay));
        let (state, connecting) = Scripted::quiet(Expect::any());
        desk.rig.hub.connect(remote.addr(), state).map_err(|_| ()).unwrap();
        let (state, late) =
            Scripted::new(Expect::any(), |seen, _| if *seen == Seen::Open { Then::Stay } else { usual(seen) });
        desk.rig.hub.connect(remote.addr(), state).map_err(|_| ()).unwrap();
        desk.settle();
        desk.rig.hub.shutdown(SECOND);
        desk.settle();
        assert_eq!(closes.take(), [Seen::Shutdown]);
        assert_eq!(stays.take(), [Seen::Shutdown]);
        assert_eq!((connecting.all(), late.all()), (vec![], vec![]), "they have not begun");
        let _never = remote.attempt().unwrap();
        let _peer = remote.attempt().unwrap().accept();
        desk.settle();
        assert_eq!(late.take(), [Seen::Open, Seen::Shutdown], "it is told as it begins");
        drop(_one);
        desk.settle();
        assert_eq!(closes.take(), [Seen::End("closed".into())]);
        desk.world.advance(SECOND + TICK);
        while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
        for log in [stays, connecting, late] {
            assert_eq!(log.take(), [Seen::End("the loop has ended".into())]);
        }
        assert_eq!(desk.rig.hub.counters().ended_by_shutdown, 3);
        let (socket, _peer) = desk.world.pair();
        let (state, _) = Scripted::quiet(Expect::any());
        let (error, state) = desk.rig.hub.adopt(socket, state).unwrap_err();
        assert!(matches!(error.kind, gaio::DelegateErrorKind::Closed));
        state.strike_off();
    }
}

/// What was sent before goes before, also if it was not taken up when the loop saw that it is to end.
#[test]
fn a_last_word_arrives_before_the_shutdown() {
    let mut desk = desk();
    let (says, _peer) = desk.session(Scripted::quiet(Expect::any()));
    let (hears, _other) = desk.session(Scripted::quiet(Expect::any()));
    let (hub, to) = (desk.rig.hub.clone(), hears.address());
    says.send(order(move |_| {
        to.send(note("last word")).unwrap();
        hub.shutdown(SECOND);
        to.send(note("and another")).unwrap();
        Then::Stay
    }));
    desk.settle();
    assert_eq!(says.take(), [Seen::Message("order"), Seen::Shutdown]);
    assert_eq!(hears.take(), [Seen::Message("last word"), Seen::Message("and another"), Seen::Shutdown]);
    assert_eq!(desk.rig.hub.counters().undelivered, 0);
}

/// Sessions that send messages to each other for ever do not keep the loop from its end.
#[test]
fn a_conversation_without_an_end_does_not_hold_the_shutdown_up() {
    let mut desk = desk();
    let (one, _peer) = desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay));
    fn again(to: gaio::Address<Note>) -> Note {
        order(move |_| {
            let _ = to.send(again(to.clone()));
            Then::Stay
        })
    }
    one.send(again(one.address()));
    for _ in 0..3 {
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
    }
    desk.rig.hub.shutdown(SECOND);
    for _ in 0..3 {
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
    }
    assert!(one.has(&Seen::Shutdown));
    desk.world.advance(SECOND + TICK);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    assert!(one.end().is_some());
}

/// A session that has decided its end in the last moment keeps its reason.
#[test]
fn what_is_decided_as_the_grace_ends_is_the_reason() {
    let mut desk = desk();
    let react = |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| match seen {
        Seen::Shutdown => {
            io.timer(1, SECOND);
            Then::Stay
        }
        Seen::Timer(_) => Then::Abort,
        _ => Then::Stay,
    };
    let (aborts, _peer) = desk.session(Scripted::new(Expect::any(), react));
    let (stays, _other) = desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay));
    desk.rig.hub.shutdown(SECOND);
    desk.settle();
    desk.world.advance(SECOND + TICK);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    assert_eq!(aborts.end().as_deref(), Some("aborted by the protocol"));
    assert_eq!(stays.end().as_deref(), Some("the loop has ended"));
}

/// Frames that were kept because nothing was expected are handed over as soon as they are, and the end behind them.
#[test]
fn what_was_kept_needs_no_edge() {
    let mut desk = desk();
    let line = Expect::until(b"\n");
    let (log, peer) = desk.session(Scripted::new(line, |seen, _| match seen {
        Seen::Frame(bytes) if bytes == b"wait" => Then::Expect(Expect::nothing()),
        _ => usual(seen),
    }));
    peer.send(b"one\nwait\ntwo\nwait\nthree\n").unwrap();
    desk.settle();
    assert_eq!(log.take(), [frame(b"one"), frame(b"wait")]);
    log.send(order(move |_| Then::Expect(line)));
    desk.settle();
    assert_eq!(log.take(), [Seen::Message("order"), frame(b"two"), frame(b"wait")]);
    peer.shutdown_write().unwrap();
    desk.settle();
    assert_eq!(log.take(), [], "the end, too, waits");
    log.send(order(move |_| Then::Expect(line)));
    desk.settle();
    let expected = [Seen::Message("order"), frame(b"three"), Seen::Eof, Seen::End("closed".into())];
    assert_eq!(log.take(), expected);
}

/// With its end decided a session is told nothing but that: no timer of its own, no message, not even the shutdown.
#[test]
fn a_session_that_is_closing_is_called_no_more() {
    let mut desk = desk();
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any().idle_within(2 * SECOND)));
    let (_other, _others_peer) = desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay));
    log.send(order(|io| {
        io.timer(1, SECOND);
        Then::Close
    }));
    desk.settle();
    log.take();
    let _ = log.address().send(note("too late"));
    desk.pass(3 * SECOND);
    desk.rig.hub.shutdown(10 * SECOND);
    desk.settle();
    assert_eq!(log.take(), []);
    desk.pass(3 * SECOND);
    assert_eq!(log.take(), [Seen::End("closed".into())]);
    assert_eq!(desk.rig.hub.counters().undelivered, 1);
}

#[test]
fn a_group_forgets_who_has_left_or_ended() {
    let mut desk = desk();
    let all: Vec<_> = (0..3).map(|_| desk.session(Scripted::quiet(Expect::any()))).collect();
    for (log, _) in &all {
        log.send(order(|io| {
            io.join(7);
            Then::Stay
        }));
    }
    all[1].0.send(order(|io| {
        io.leave(7);
        Then::Stay
    }));
    all[2].0.send(order(|_| Then::Abort));
    desk.settle();
    all.iter().for_each(|(log, _)| drop(log.take()));
    desk.rig.hub.broadcast(7, note("to all")).map_err(drop).unwrap();
    desk.settle();
    assert_eq!(all[0].0.take(), [Seen::Message("to all")]);
    assert_eq!((all[1].0.take(), all[2].0.take()), (vec![], vec![]));
    assert_eq!(desk.rig.hub.counters().undelivered, 0, "nobody is looked for who is not there");
}

/// What a callback writes goes out in that order, whatever it is made of and however little fits.
#[test]
fn output_keeps_its_order_when_the_socket_is_full() {
    for buffer in [1, 4, 7, 100] {
        let mut desk = desk_with(|config| config.buffer = buffer, |_| ());
        let (state, log) = Scripted::new(Expect::exactly(10), |seen, io| {
            if let Seen::Frame(_) = seen {
                io.write(b" copied ");
                io.write_bytes(bytes::Bytes::from_static(b"shared "));
                io.write(b"end ");
            }
            usual(seen)
        });
        let (_log, peer) = desk.session((state.echoing(), log));
        let mut got = Vec::new();
        let (input, mut sent) = (b"0123456789abcdefghij", 0);
        for _ in 0..100 {
            sent += peer.send(&input[sent..]).unwrap_or(0);
            desk.settle();
            got.extend(received(&peer).unwrap_or_default());
        }
        let expected = b"0123456789 copied shared end abcdefghij copied shared end ";
        assert_eq!(got, expected, "{buffer} fit");
    }
}

#[test]
fn everything_works_though_every_call_is_pending_first() {
    {
        let mut desk = desk_with(|config| (config.pending_first, config.buffer) = (true, 100), |_| ());
        let (state, log) = Scripted::quiet(Expect::length(LengthField::byte()));
        let (log, peer) = desk.session((state.echoing(), log));
        let mut got = Vec::new();
        for text in ["one", "two and a bit", "three"] {
            peer.send(&[u8::try_from(text.len()).unwrap()]).unwrap();
            desk.settle();
            peer.send(text.as_bytes()).unwrap();
            desk.settle();
            got.extend(received(&peer).unwrap());
        }
        assert_eq!(got, b"onetwo and a bitthree");
        peer.shutdown_write().unwrap();
        desk.settle();
        assert_eq!(received(&peer).unwrap(), b"");
        drop(peer);
        desk.settle();
        assert_eq!(log.end().as_deref(), Some("closed"));
    }
}

// --- shortages ----------------------------------------------------------------------------------------------------

/// No edge announces memory: a send for which it was short is tried again in a moment, and nothing is lost or sent twice.
#[test]
fn short_memory_is_waited_out() {
    for fault in [Fault::NoBuffers, Fault::NoMemory] {
        let mut desk = desk();
        let (state, log) = Scripted::quiet(Expect::until(b"\n"));
        let (log, peer) = desk.session((state.echoing(), log));
        desk.world.configure(|config| config.faults = Faults::seeded(1).with(fault, 1024));
        peer.send(b"hello\n").unwrap();
        for _ in 0..3 {
            desk.pass(Duration::from_millis(10));
            assert_eq!(received(&peer), Err(ErrorKind::WouldBlock));
        }
        assert!(log.has(&frame(b"hello")), "it was served all the same");
        desk.world.configure(|config| config.faults.calm());
        desk.settle();
        assert_eq!(received(&peer), Err(ErrorKind::WouldBlock), "no edge comes");
        desk.pass(Duration::from_millis(10));
        assert_eq!(received(&peer), Ok(b"hello".to_vec()));
        desk.pass(SECOND);
        assert_eq!(received(&peer), Err(ErrorKind::WouldBlock), "once");
    }
}

/// Until all have ended, sessions of one loop can pass on what they have: a relay its tail, say.
#[test]
fn sessions_talk_to_each_other_until_they_have_ended() {
    let mut desk = desk();
    let (hears, other) = desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay));
    let to = hears.address();
    let (says, peer) = desk.session(Scripted::new(Expect::any(), move |seen, _| match seen {
        Seen::Frame(_) => {
            to.send(order(|_| Then::Close)).unwrap();
            Then::Close
        }
        _ => Then::Stay,
    }));
    desk.rig.hub.shutdown(10 * SECOND);
    desk.settle();
    peer.send(b"the tail").unwrap();
    drop(peer);
    desk.settle();
    drop(other);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    assert_eq!(says.take(), [Seen::Shutdown, frame(b"the tail"), Seen::End("closed".into())]);
    assert_eq!(hears.take(), [Seen::Shutdown, Seen::Message("order"), Seen::End("closed".into())]);
    assert!(hears.address().send(note("too late")).is_err());
    assert!(desk.rig.hub.broadcast(1, note("too late")).is_err());
}

/// A crowd that hears of much does not keep the others from being served, and what it hears keeps its order.
#[test]
fn messages_have_a_budget() {
    let mut desk = desk_with(|_| (), |limits| limits.messages_per_turn = 4);
    let crowd: Vec<_> = (0..10).map(|_| desk.session(Scripted::quiet(Expect::any()))).collect();
    for (log, _) in &crowd {
        log.send(order(|io| {
            io.join(1);
            Then::Stay
        }));
    }
    let (other, peer) = desk.session(Scripted::quiet(Expect::any()));
    desk.settle();
    crowd.iter().for_each(|(log, _)| drop(log.take()));
    for text in ["one", "two"] {
        desk.rig.hub.broadcast(1, note(text)).map_err(|(kind, _)| kind).unwrap();
    }
    other.send(note("three"));
    peer.send(b"hello").unwrap();
    let heard = || crowd.iter().map(|(log, _)| log.all().len()).sum::<usize>();
    for turn in 1..=5 {
        assert!(turn == 1 || desk.rig.sessions.next_turn() == gaio::NextTurn::Now, "it is not done");
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        assert!(heard() <= 4 * turn, "turn {turn}: {}", heard());
        assert!(other.has(&frame(b"hello")), "it is served beside them");
    }
    desk.settle();
    assert_eq!(other.take(), [frame(b"hello"), Seen::Message("three")]);
    for (log, _) in &crowd {
        assert_eq!(log.take(), [Seen::Message("one"), Seen::Message("two")]);
    }
}

/// What the end of the loop leaves of a broadcast is counted.
#[test]
fn a_broadcast_that_the_end_cuts_short_is_counted() {
    let mut desk = desk_with(|_| (), |limits| limits.messages_per_turn = 1);
    let crowd: Vec<_> = (0..3).map(|_| desk.session(Scripted::new(Expect::any(), |_, _| Then::Stay))).collect();
    for (log, _) in &crowd {
        log.send(order(|io| {
            io.join(1);
            Then::Stay
        }));
    }
    desk.settle();
    desk.rig.hub.broadcast(1, note("for all")).map_err(|(kind, _)| kind).unwrap();
    desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
    desk.rig.hub.shutdown(Duration::ZERO);
    while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
    let counters = desk.rig.hub.counters();
    assert_eq!(counters.messages + counters.undelivered, 3 + 3);
    assert!(counters.undelivered > 0);
}

/// Who expects nothing is told of nothing: not of an end of stream, nor of a reset, until it reads or writes.
#[test]
fn a_session_that_expects_nothing_is_told_of_no_end() {
    let mut desk = desk();
    let mut paused = || desk.session(Scripted::new(Expect::nothing(), |_, _| Then::Stay));
    let ((reads, peer), (writes, other), (patient, third)) = (paused(), paused(), paused());
    peer.reset();
    other.reset();
    third.shutdown_write().unwrap();
    desk.settle();
    for log in [&reads, &writes, &patient] {
        assert_eq!(log.all(), []);
    }
    writes.send(order(|io| {
        io.write(b"anybody there?");
        Then::Stay
    }));
    for log in [&reads, &patient] {
        log.send(order(|_| Then::Expect(Expect::any())));
    }
    desk.settle();
    for log in [reads, writes] {
        assert!(log.end().is_some_and(|end| end.contains("reset") || end.contains("Broken pipe")), "{:?}", log.end());
    }
    assert_eq!(patient.take(), [Seen::Message("order"), Seen::Eof]);
}

/// The copy of a message is made for its member: a panic there is the end of that session, and of no other.
#[test]
fn a_message_that_cannot_be_copied_ends_its_members_alone() {
    let mut desk = desk();
    let (member, _peer) = desk.session(Scripted::quiet(Expect::any()));
    let (other, _others) = desk.session(Scripted::quiet(Expect::any()));
    member.send(order(|io| {
        io.join(1);
        Then::Stay
    }));
    desk.settle();
    desk.rig.hub.broadcast(1, note(UNIQUE)).map_err(|(kind, _)| kind).unwrap();
    other.send(note("behind it"));
    desk.settle();
    assert_eq!(member.end(), None, "its state is gone: `on_end` has none to tell");
    assert_eq!(desk.rig.hub.counters().panics, 1);
    assert_eq!(desk.rig.hub.sessions(), 1);
    assert_eq!(other.take(), [Seen::Message("behind it")]);
}

/// Of many messages in one turn the output goes out in between: the cap is on what the system does not take.
#[test]
fn a_burst_of_messages_is_offered_to_the_system() {
    let mut desk = desk_with(|_| (), |limits| (limits.low_water, limits.high_water, limits.output) = (10, 100, 300));
    let (log, peer) = desk.session(Scripted::quiet(Expect::any()));
    for _ in 0..20 {
        log.send(order(|io| {
            io.write(&[7; 70]);
            Then::Stay
        }));
    }
    desk.settle();
    assert_eq!(log.end(), None);
    assert_eq!(received(&peer).unwrap(), [7; 1_400]);
}

/// What callbacks leave to be done raises nothing: the loop has to know of it by itself.
#[test]
fn a_turn_that_leaves_something_to_do_says_so() {
    let mut desk = desk();
    let (hears, _other) = desk.session(Scripted::quiet(Expect::any()));
    let (to, remote) = (hears.address(), desk.world.remote());
    let (address, (state, opens)) = (remote.addr(), Scripted::quiet(Expect::any()));
    let state = std::sync::Mutex::new(Some(state));
    let (says, _peer) = desk.session(Scripted::new(Expect::any(), move |seen, io| {
        match seen {
            Seen::Timer(1) => to.send(note("sent")).unwrap(),
            Seen::Timer(_) => io.connect(address, state.lock().unwrap().take().unwrap()),
            _ => {}
        }
        Then::Stay
    }));
    for name in [1, 2] {
        says.send(order(move |io| {
            io.timer(name, SECOND);
            Then::Stay
        }));
        desk.settle();
        assert!(matches!(desk.rig.sessions.next_turn(), gaio::NextTurn::At(_)));
        says.take();
        desk.world.advance(SECOND + TICK);
        desk.rig.sessions.turn(None).unwrap();
        assert_eq!(says.take(), [Seen::Timer(name)]);
        assert_eq!(desk.rig.sessions.next_turn(), gaio::NextTurn::Now);
        desk.settle();
        assert_eq!(desk.rig.sessions.next_turn() == gaio::NextTurn::WhenReadable, name == 1, "a connect has its time");
    }
    assert_eq!(hears.take(), [Seen::Message("sent")]);
    let _peer = remote.attempt().unwrap().accept();
    desk.settle();
    assert_eq!(opens.take(), [Seen::Open]);
}

/// A timer that has rung is not there any more; the others are.
#[test]
fn a_timer_can_be_cancelled_after_another_has_rung() {
    let mut desk = desk();
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    log.send(order(|io| {
        (1..=3u32).for_each(|name| io.timer(name.into(), SECOND * name));
        Then::Stay
    }));
    desk.settle();
    desk.pass(SECOND + TICK);
    log.send(order(|io| {
        io.cancel_timer(1);
        io.cancel_timer(2);
        Then::Stay
    }));
    desk.settle();
    desk.pass(10 * SECOND);
    let expected = [Seen::Message("order"), Seen::Timer(1), Seen::Message("order"), Seen::Timer(3)];
    assert_eq!(log.take(), expected);
}

/// Limits are the most that may be, not the first that may not.
#[test]
fn limits_are_met_to_the_byte() {
    let mut desk = desk_with(
        |_| (),
        |limits| {
            (limits.low_water, limits.high_water, limits.output) = (10, 100, 300);
            limits.close_drain = 100;
        },
    );
    let write = |n: usize| {
        order(move |io| {
            io.write(&vec![7; n]);
            Then::Stay
        })
    };
    let (log, peer) = desk.session(Scripted::quiet(Expect::exactly(1)));
    log.send(write(300));
    desk.settle();
    assert_eq!(received(&peer).unwrap().len(), 300);
    let (over, _other) = desk.session(Scripted::quiet(Expect::any()));
    over.send(write(301));
    desk.settle();
    assert_eq!(over.end().as_deref(), Some("too much output queued"));
    // Frames are counted as they are handed over.
    let before = desk.rig.hub.counters().frames;
    peer.send(b"12345").unwrap();
    desk.settle();
    assert_eq!(desk.rig.hub.counters().frames - before, 5);
    // So much is thrown away for the peer's end.
    log.send(order(|_| Then::Close));
    desk.settle();
    for (more, open) in [(&[0; 60][..], true), (&[0; 40], true), (&[0], false)] {
        peer.send(more).unwrap();
        desk.settle();
        assert_eq!(log.end().is_none(), open);
    }
    assert_eq!(desk.rig.hub.counters().closed_hard, 1);
}

/// Room is told of below the low-water mark, not as soon as the high one is no longer exceeded.
#[test]
fn room_is_told_of_at_the_low_mark() {
    let mut desk = desk_with(|config| config.buffer = 100, |limits| (limits.low_water, limits.high_water) = (20, 100));
    let (log, peer) = desk.session(Scripted::quiet(Expect::any()));
    log.send(order(|io| {
        io.write(&[7; 250]);
        Then::Stay
    }));
    desk.settle();
    assert_eq!(log.take(), [Seen::Message("order")]);
    // 150 wait, then 50, then none.
    for expected in [vec![], vec![Seen::Drained]] {
        assert_eq!(received(&peer).unwrap().len(), 100);
        desk.settle();
        assert_eq!(log.take(), expected);
    }
}

/// Who leaves while a broadcast goes on in later turns is not told any more, and owed nothing.
#[test]
fn a_broadcast_passes_over_who_has_left_since() {
    let mut desk = desk_with(|_| (), |limits| limits.messages_per_turn = 1);
    let leaves = |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| {
        match seen {
            Seen::Open => io.join(1),
            Seen::Frame(_) => io.leave(1),
            _ => {}
        }
        Then::Stay
    };
    let all: Vec<_> = (0..3).map(|_| desk.session(Scripted::new(Expect::any(), leaves))).collect();
    desk.rig.hub.broadcast(1, note("to all")).map_err(drop).unwrap();
    desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
    all[2].1.send(b"bye").unwrap();
    desk.settle();
    assert_eq!(all[0].0.take(), [Seen::Message("to all")]);
    assert_eq!(all[1].0.take(), [Seen::Message("to all")]);
    assert_eq!(all[2].0.take(), [frame(b"bye")]);
    assert_eq!(desk.rig.hub.counters().undelivered, 0);
}

/// What is said as the loop ends is counted, whoever says it, if it was taken.
#[test]
fn what_is_said_at_the_very_end_is_counted() {
    use gaio::{Address, End, Hub, Io, Next, Protocol, SessionLoop};

    /// Says to somebody that it has ended.
    struct Says(Option<Address<()>>, std::sync::Arc<std::sync::atomic::AtomicU64>);
    impl Protocol for Says {
        type Message = ();
        fn expects(&self) -> Expect {
            Expect::any()
        }
        fn on_open(mut self, io: &mut Io<'_, Self>) -> Next<Self> {
            self.0 = Some(io.address());
            for _ in 0..3 {
                io.connect_unix("door", Self(self.0.clone(), self.1.clone()));
            }
            Next::Close(self)
        }
        fn on_frame(self, _: &[u8], _: &mut Io<'_, Self>) -> Next<Self> {
            Next::Become(self)
        }
        fn on_end(state: Option<Self>, _: &End) {
            if let Some(Self(Some(to), taken)) = state {
                taken.fetch_add(to.send(()).is_ok().into(), std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    let world = World::enter();
    world.configure(|config| config.clock = Clock::Manual);
    let _listener = world.unix_listener("door").unwrap();
    let crowd: Vec<_> = std::iter::from_fn(|| world.connect_unix("door").ok()).collect();
    assert!(!crowd.is_empty());
    let (mut sessions, hub): (SessionLoop<Says>, Hub<Says>) =
        SessionLoop::new(SessionLimits::default(), |_| None).unwrap();
    let taken = std::sync::Arc::default();
    let (socket, peer) = world.pair();
    hub.adopt(socket, Says(None, std::sync::Arc::clone(&taken))).map_err(|(error, _)| error).unwrap();
    drop(peer);
    for _ in 0..12 {
        sessions.turn(Some(Duration::ZERO)).unwrap();
    }
    assert_eq!(hub.sessions(), 3, "they wait for room in the backlog");
    hub.shutdown(Duration::ZERO);
    while sessions.turn(Some(Duration::ZERO)).is_ok() {}
    assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), 3, "the last one has nobody left to say it to");
    assert_eq!(hub.counters().undelivered, 3);
}

/// So many attempts are begun in a turn; the others are in the next, and it does not sleep (G8).
#[test]
fn connects_have_a_budget() {
    let mut desk = desk();
    let remote = desk.world.remote();
    let (address, made) = (remote.addr(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    let logs = made.clone();
    log.send(order(move |io| {
        for _ in 0..600 {
            let (state, log) = Scripted::quiet(Expect::any());
            logs.lock().unwrap().push(log);
            io.connect(address, state);
        }
        Then::Stay
    }));
    for _ in 0..600 {
        let (state, log) = Scripted::quiet(Expect::any());
        made.lock().unwrap().push(log);
        desk.rig.hub.connect(address, state).map_err(|_| ()).unwrap();
    }
    let mut attempts = Vec::new();
    let mut turns = 0;
    while attempts.len() < 1_200 {
        let before = attempts.len();
        assert!(turns == 0 || desk.rig.sessions.next_turn() == gaio::NextTurn::Now, "it is not done");
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        attempts.extend(std::iter::from_fn(|| remote.attempt()));
        assert!(attempts.len() - before <= 256, "turn {turns}: {}", attempts.len() - before);
        turns += 1;
    }
    assert!(turns <= 8);
    let _peers: Vec<_> = attempts.into_iter().map(|attempt| attempt.accept()).collect();
    desk.settle();
    assert!(made.lock().unwrap().iter().all(|log| log.all() == [Seen::Open]));
}

/// The copy of a broadcast that cannot be made is not handed to anybody; the frames before a panic were.
#[test]
fn a_panic_leaves_the_figures_true() {
    let mut desk = desk();
    let (member, _peer) = desk.session(Scripted::quiet(Expect::any()));
    member.send(order(|io| {
        io.join(1);
        Then::Stay
    }));
    desk.settle();
    let before = desk.rig.hub.counters();
    desk.rig.hub.broadcast(1, note(UNIQUE)).map_err(|(kind, _)| kind).unwrap();
    desk.settle();
    let after = desk.rig.hub.counters();
    assert_eq!((after.messages - before.messages, after.undelivered - before.undelivered), (0, 1));
    let (log, peer) = desk.session(Scripted::new(Expect::until(b"\n"), |seen, _| {
        assert_ne!(*seen, frame(b"three"), "on purpose");
        Then::Stay
    }));
    peer.send(b"one\ntwo\nthree\nfour\n").unwrap();
    desk.settle();
    assert_eq!(log.frames().len(), 3);
    assert_eq!(desk.rig.hub.counters().frames - after.frames, 3);
}

/// Of one that was in several groups and left one of them nothing is left in the others when it ends.
#[test]
fn whoever_left_one_group_is_forgotten_by_the_others_at_its_end() {
    let mut desk = desk();
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    log.send(order(|io| {
        (1..=3).for_each(|group| io.join(group));
        io.leave(1);
        Then::Stay
    }));
    desk.settle();
    for group in 1..=3 {
        desk.rig.hub.broadcast(group, note("to all")).map_err(drop).unwrap();
    }
    desk.settle();
    assert_eq!(log.take(), [Seen::Message("order"), Seen::Message("to all"), Seen::Message("to all")]);
    log.send(order(|_| Then::Abort));
    desk.settle();
    for group in 1..=3 {
        desk.rig.hub.broadcast(group, note("to nobody")).map_err(drop).unwrap();
    }
    desk.settle();
    assert_eq!(desk.rig.hub.counters().undelivered, 0);
}

/// Who produces as fast as the system takes has a share of the turn, counted in callbacks as frames are.
#[test]
fn one_that_produces_for_ever_has_its_share_of_a_turn() {
    let mut desk =
        desk_with(|_| (), |limits| (limits.low_water, limits.high_water, limits.frames_per_turn) = (0, 10, 3));
    let produces = |seen: &Seen, io: &mut gaio::Io<'_, Scripted>| {
        if let Seen::Frame(_) | Seen::Drained = seen {
            io.write(&[7; 20]);
        }
        Then::Stay
    };
    let (log, peer) = desk.session(Scripted::new(Expect::any(), produces));
    peer.send(b"begin").unwrap();
    for turn in 1..=5 {
        desk.rig.sessions.turn(Some(Duration::ZERO)).unwrap();
        // Its step by the event, and another from the list of those who are not done.
        assert!((3 * turn..=6 * turn).contains(&log.all().len()), "turn {turn}: {}", log.all().len());
    }
    assert_eq!(received(&peer).unwrap(), vec![7; 20 * log.all().len()]);
}

/// What was called as the loop ended, and wrote nothing, has nothing unsent: its peer sees an end, not a reset.
#[test]
fn an_end_with_the_loop_is_a_reset_only_if_something_is_unsent() {
    for (writes, ends) in [(&b""[..], Ok(vec![])), (b"late", Err(ErrorKind::ConnectionReset))] {
        let mut desk = desk();
        let (log, peer) = desk.session(Scripted::new(Expect::any(), move |seen, io| {
            match seen {
                Seen::Shutdown => io.timer(1, SECOND),
                Seen::Timer(_) => io.write(writes),
                _ => {}
            }
            Then::Stay
        }));
        desk.rig.hub.shutdown(SECOND);
        desk.settle();
        desk.world.advance(SECOND + TICK);
        while desk.rig.sessions.turn(Some(Duration::ZERO)).is_ok() {}
        assert_eq!(log.take(), [Seen::Shutdown, Seen::Timer(1), Seen::End("the loop has ended".into())]);
        assert_eq!(received(&peer), ends);
    }
}

/// Whatever is written in a turn goes out in one send: answers to the frames of one receive, and to many messages.
#[test]
fn what_is_written_in_a_turn_is_one_send() {
    let mut desk = desk();
    let (state, log) = Scripted::quiet(Expect::exactly(2));
    let (log, peer) = desk.session((state.echoing(), log));
    let cost = |desk: &mut Desk, act: &dyn Fn()| {
        let before = desk.world.calls();
        act();
        desk.settle();
        let after = desk.world.calls();
        (after.receives - before.receives, after.sends - before.sends)
    };
    assert_eq!(cost(&mut desk, &|| drop(peer.send(b"0123456789"))), (1, 1));
    let frames = |n| (0..n).map(|n| frame(&b"0123456789"[2 * n..2 * n + 2])).collect::<Vec<_>>();
    assert_eq!((log.take(), received(&peer)), (frames(5), Ok(b"0123456789".to_vec())));
    // A frame that comes in two halves.
    assert_eq!(cost(&mut desk, &|| drop(peer.send(b"0"))), (1, 0));
    assert_eq!(cost(&mut desk, &|| drop(peer.send(b"1"))), (1, 1));
    assert_eq!((log.take(), received(&peer)), (frames(1), Ok(b"01".to_vec())));
    let messages = || {
        for _ in 0..10 {
            log.send(order(|io| {
                io.write(b"ten");
                Then::Stay
            }));
        }
    };
    assert_eq!(cost(&mut desk, &messages), (0, 1));
    assert_eq!(received(&peer).unwrap(), b"ten".repeat(10));
}

/// What this thread sends between two turns writes no waker: who asks how long to sleep is told not to.
#[test]
fn what_is_sent_between_two_turns_is_not_slept_on() {
    let mut desk = desk();
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    assert_eq!(desk.rig.sessions.next_turn(), gaio::NextTurn::WhenReadable);
    log.send(note("news"));
    assert_eq!(desk.rig.sessions.next_turn(), gaio::NextTurn::Now);
    desk.rig.sessions.turn(None).unwrap();
    assert_eq!(log.take(), [Seen::Message("news")]);
    desk.settle();
    assert_eq!(desk.rig.sessions.next_turn(), gaio::NextTurn::WhenReadable);
}

/// Marks and the cap are the most that may be queued, a last word included.
#[test]
fn marks_of_output_are_met_to_the_byte() {
    let mut desk = desk_with(|_| (), |limits| (limits.low_water, limits.high_water, limits.output) = (0, 7, 8));
    let (log, _peer) = desk.session(Scripted::quiet(Expect::any()));
    for (n, expected) in [(7, vec![]), (8, vec![Seen::Drained])] {
        log.send(order(move |io| {
            io.write(&vec![7; n]);
            Then::Stay
        }));
        desk.settle();
        assert_eq!(log.take(), [vec![Seen::Message("order")], expected].concat());
    }
    let ends: [(&'static [u8], _); 2] =
        [(b"too long", "a frame of more than 3 bytes"), (b"too long!", "too much output queued")];
    for (last_word, why) in ends {
        let (state, log) = Scripted::quiet(Expect::until(b"\n").at_most(3));
        let (log, peer) = desk.session((state.with_last_word(last_word), log));
        peer.send(b"and so on").unwrap();
        peer.shutdown_write().unwrap();
        desk.settle();
        assert_eq!(log.take(), [Seen::End(why.into())]);
    }
}

/// However large it is and however it comes: its memory grows with it, and what is behind it stands alone.
#[test]
fn a_frame_may_be_larger_than_any_buffer_and_the_end_behind_it_is_clean() {
    for (size, buffer) in [(5, 1 << 16), (100_000, 1 << 16), (100_000, 5_000), (3_000, 1)] {
        let mut desk = desk_with(|config| config.buffer = buffer, |limits| limits.receive = 4_096);
        let (log, peer) = desk.session(Scripted::quiet(Expect::exactly(size)));
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        for _ in 0..2 {
            let mut sent = 0;
            while sent < size {
                sent += peer.send(&bytes[sent..]).unwrap();
                desk.settle();
            }
            assert!(log.take() == [frame(&bytes)], "{size} through {buffer}");
        }
        assert_eq!(desk.rig.hub.counters().frames, 2);
        peer.shutdown_write().unwrap();
        desk.settle();
        assert_eq!(log.take(), [Seen::Eof, Seen::End("closed".into())]);
    }
}

/// A session that has ended its output goes on reading; its peer has the end behind all that was written.
#[test]
fn an_output_ends_behind_what_was_written() {
    for buffer in [1_000, 10] {
        let mut desk = desk_with(|config| config.buffer = buffer, |_| ());
        let (log, peer) = desk.session(Scripted::quiet(Expect::any()));
        log.send(order(|io| {
            io.write(&[7; 25]);
            io.end_output();
            Then::Stay
        }));
        desk.settle();
        let mut got = Vec::new();
        while got.len() < 25 {
            got.extend(received(&peer).unwrap());
            desk.settle();
        }
        assert_eq!((got, received(&peer)), (vec![7; 25], Ok(vec![])));
        peer.send(b"and you").unwrap();
        desk.settle();
        assert_eq!(log.take(), [Seen::Message("order"), frame(b"and you")]);
    }
}
