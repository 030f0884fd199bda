//! The drives: a loop on the script's own thread, taken turn by turn; and one with a thread of its own, which the world
//! holds: it runs while the script lets it, and stands still between two turns, asleep, or (by chance) in the middle of one.
//! So its turns and the consumer's takes alternate as the seed wants, and the consumer may stay away. Some of those loops
//! are driven by the consumer, in its waits, until it leaves: then the loop's thread begins, and takes over for good.
//!
//! Checked at every turn: limits, and that a loop sleeps only if there is nothing to do. Something there would be: what was
//! handed in since its last turn; and anything that another turn, taken without need, turns out to bring.

use std::time::Duration;

use gaio::sim::{Dice, Fault, Rest, World};
use gaio::{Batch, Driver, EmbeddedWatcher, NextTurn, Options, Pollable, Submitter, WaitError, Watcher};

use crate::floor::Floor;
use crate::model::Ticket;
use crate::script::Swarm;

/// Turns or steps that have no end.
const ENDLESS: usize = 100_000;

pub(crate) enum Drive {
    Embedded(Box<EmbeddedWatcher<Ticket>>),
    Spawned(Spawned),
}

pub(crate) struct Spawned {
    watcher: Watcher<Ticket>,
    /// The consumer sleeps in a poll of its own: it looks when this is readable.
    bell: Option<Pollable>,
    /// Where the loop stands.
    rest: Rest,
    /// Nobody waits for completions now.
    away: bool,
    /// The consumer drives, and the loop's thread has not begun.
    driven: bool,
}

impl Drive {
    pub(crate) fn new(world: &World, options: Options, dice: &mut Dice) -> (Self, Submitter<Ticket>) {
        let kind = dice.roll(6);
        if kind > 2 {
            let (watcher, submitter) = EmbeddedWatcher::new_for(options).expect("good limits, and descriptors");
            return (Self::Embedded(Box::new(watcher)), submitter);
        }
        let driven = kind == 2;
        world.hold();
        let options = options.driver(if driven { Driver::Consumer } else { Driver::LoopThread });
        let (watcher, submitter) = Watcher::spawn_for(options).expect("good limits, and descriptors");
        let mut spawned = Spawned { watcher, bell: None, rest: Rest::Between, away: false, driven };
        if !driven {
            spawned.perhaps_poll(dice);
        }
        (Self::Spawned(spawned), submitter)
    }
}

impl Spawned {
    fn perhaps_poll(&mut self, dice: &mut Dice) {
        self.bell = (dice.roll(2) == 0).then(|| self.watcher.pollable().expect("a descriptor"));
    }
}

/// What a look at the completions came to.
enum Look {
    Events { left: bool },
    Over,
}

/// Takes so many of a batch.
fn take(batch: Result<Batch<'_, Ticket>, WaitError>, floor: &mut Floor, most: usize) -> Look {
    match batch {
        Ok(mut batch) => {
            for _ in 0..most {
                let Some(event) = batch.next() else { break };
                floor.on_event(event);
            }
            Look::Events { left: batch.len() > 0 }
        }
        Err(error) => {
            assert_eq!(error, WaitError::Closed);
            assert!(floor.shut_down, "closed, though nobody has asked for it");
            assert_eq!(floor.stalls, 0, "over, while a push stands still");
            Look::Over
        }
    }
}

impl Swarm<'_> {
    pub(crate) fn turn(&mut self, time: Duration, most: usize) {
        self.turn_for(Some(time), most);
    }

    /// Takes a turn, and of its events so many.
    pub(crate) fn turn_for(&mut self, time: Option<Duration>, most: usize) {
        match &self.drive {
            Some(Drive::Embedded(_)) => {
                if self.floor.dice.roll(2) == 0 {
                    self.check_next_turn();
                }
                self.embedded_turn(time, most);
            }
            Some(Drive::Spawned(Spawned { driven: true, .. })) => {
                // Which may bring what is waited for.
                if time.is_some() && self.floor.dice.roll(4) == 0 {
                    self.check_nap();
                }
                self.driven_turn(time, most);
            }
            Some(Drive::Spawned(_)) => self.spawned_turn(time, most),
            None => {}
        }
    }

    /// Turns until three in a row bring nothing, without time passing.
    pub(crate) fn turns_until_quiet(&mut self) {
        let (mut quiet, mut turns) = (0, 0);
        while quiet < 3 && !self.over {
            let before = self.floor.events;
            self.turn(Duration::ZERO, usize::MAX);
            quiet = if self.floor.events == before { quiet + 1 } else { 0 };
            turns += 1;
            assert!(turns < ENDLESS, "turns without end");
        }
    }

    fn looked(&mut self, look: Look) {
        match look {
            Look::Events { left } => self.left = left,
            Look::Over => self.over = true,
        }
        self.check_limits();
    }

    fn check_limits(&self) {
        let floor = &self.floor;
        let (load, outstanding) = (floor.submitter().load() as usize, floor.outstanding());
        let right = if self.left { load <= outstanding } else { load == outstanding };
        assert!(right, "{load} in flight, {outstanding} not completed");
        let endings = floor.ops.values().filter(|op| op.verb.ends()).count();
        assert!(load <= floor.most_ops + endings, "{load} in flight");
        assert!(floor.submitter().counters().sessions as usize <= floor.most_sessions);
    }

    fn turns(&self) -> u64 {
        self.floor.submitter().counters().turns
    }

    // --- embedded ---

    fn embedded_turn(&mut self, time: Option<Duration>, most: usize) {
        let (before, events, due) = (self.turns(), self.floor.events, self.served.before(&self.floor));
        let Some(Drive::Embedded(watcher)) = &mut self.drive else { return };
        let batch = watcher.turn(time);
        let passes = self.floor.submitter().counters().turns - before;
        if passes > 0 {
            self.floor.taken_up();
        }
        let look = take(batch, &mut self.floor, most);
        self.looked(look);
        if !self.left {
            self.served.after(&self.floor, due, passes, self.floor.events - events);
        }
    }

    /// If the loop may sleep, there is nothing for it to do.
    fn check_next_turn(&mut self) {
        let Some(Drive::Embedded(watcher)) = &mut self.drive else { return };
        if watcher.next_turn() == NextTurn::Now || watcher.is_readable() {
            return;
        }
        let floor = &mut self.floor;
        assert!(!floor.owes_turn, "it may sleep, although this thread has handed something in");
        assert!(!floor.owes_wake, "it may sleep, although another thread has handed something in");
        // The end of a grace is looked at in every turn; what wakes the loop for it is rounded up.
        if floor.calm || floor.shut_down || floor.dice.roll(8) > 0 {
            return;
        }
        let before = (floor.events, floor.world.now());
        for _ in 0..2 {
            self.embedded_turn(Some(Duration::ZERO), usize::MAX);
        }
        let nothing = self.floor.events == before.0 || self.floor.world.now() > before.1;
        assert!(nothing, "it might have slept, although there was something to do");
    }

    // --- driven by the consumer ---

    fn driven_turn(&mut self, time: Option<Duration>, most: usize) {
        let (before, events, due) = (self.turns(), self.floor.events, self.served.before(&self.floor));
        let Some(Drive::Spawned(Spawned { watcher, .. })) = &mut self.drive else { return };
        let batch = match time {
            None => watcher.wait(),
            Some(Duration::ZERO) => watcher.try_wait(),
            Some(time) => watcher.wait_timeout(time),
        };
        let passes = self.floor.submitter().counters().turns - before;
        if passes > 0 {
            self.floor.taken_up();
            self.floor.count("ConsumerDrives", passes);
            // From its first wait on it is known as the one who does.
            self.floor.driven = true;
        }
        let look = take(batch, &mut self.floor, most);
        self.looked(look);
        if !self.left {
            self.served.after(&self.floor, due, passes, self.floor.events - events);
        }
    }

    /// A wait that sleeps, if only for an instant, leaves nothing to do.
    fn check_nap(&mut self) {
        const INSTANT: Duration = Duration::from_nanos(1);
        // The end of a grace is looked at in every turn; what wakes the loop for it is rounded up.
        if self.left || self.floor.calm || self.floor.shut_down {
            return;
        }
        let (events, awake) = (self.floor.events, self.floor.world.now() + INSTANT);
        // A signal may end the sleep at that very instant, and a jump bring the instant without a sleep.
        let cut_short = |floor: &Floor| [Fault::Interrupted, Fault::ClockJump].map(|fault| floor.times(fault));
        let before = cut_short(&self.floor);
        self.driven_turn(Some(INSTANT), usize::MAX);
        let slept = self.floor.world.now() == awake && cut_short(&self.floor) == before;
        if self.over || self.floor.events > events || !slept {
            return;
        }
        assert!(self.floor.stalls > 0 || self.floor.has_no_posts(), "it slept, although something was posted");
        for _ in 0..2 {
            self.driven_turn(Some(Duration::ZERO), usize::MAX);
        }
        let nothing = self.floor.events == events || self.floor.world.now() > awake;
        assert!(nothing, "it slept, although there was something to do");
        self.floor.count("Nap", 1);
    }

    /// The consumer stays away, and the loop's thread begins: with a loop that it finds at rest.
    fn be_taken_over(&mut self) {
        let Some(Drive::Spawned(spawned)) = &mut self.drive else { return };
        spawned.driven = false;
        spawned.perhaps_poll(&mut self.floor.dice);
        self.floor.driven = false;
        self.floor.count("TakenOver", 1);
        self.let_run(1);
    }

    // --- spawned ---

    /// Lets the loop go on until it sleeps or has ended, but at most for so many turns, or as many stops within one.
    fn let_run(&mut self, most: usize) {
        let Some(Drive::Spawned(spawned)) = &mut self.drive else { return };
        // If it slept: much may have happened since.
        spawned.rest = Rest::Between;
        for _ in 0..most {
            spawned.rest = self.floor.world.go_on(most);
            match spawned.rest {
                Rest::Within => {}
                Rest::Between => break,
                Rest::Asleep(_) => return self.floor.taken_up(),
                Rest::Over => return,
            }
        }
        assert!(most < ENDLESS, "it runs without end");
    }

    fn spawned_turn(&mut self, time: Option<Duration>, most: usize) {
        let until = time.map(|time| self.floor.world.now().saturating_add(time));
        let short = time == Some(Duration::ZERO) && !self.floor.calm;
        let steps = if short { self.floor.dice.roll(4) } else { ENDLESS };
        loop {
            self.let_run(steps);
            let before = self.floor.events;
            self.look(most);
            if self.over || self.floor.events > before {
                return;
            }
            let Some(Drive::Spawned(Spawned { rest: Rest::Asleep(due), away, .. })) = self.drive else { return };
            if !away && !self.left {
                self.check_sleep();
            }
            let now = self.floor.world.now();
            let next = [due, until].into_iter().flatten().min().expect("asleep for ever, with something to wait for");
            if next <= now || until.is_some_and(|until| until <= now) {
                return;
            }
            self.floor.world.advance(next - now);
        }
    }

    /// The consumer's look, if it is there.
    fn look(&mut self, most: usize) {
        let Some(Drive::Spawned(Spawned { watcher, bell, away, .. })) = &mut self.drive else { return };
        let silent = bell.as_ref().is_some_and(|bell| !bell.is_readable()) && !self.left;
        if *away || silent {
            return;
        }
        let batch = match self.floor.dice.roll(2) {
            0 => watcher.try_wait(),
            _ => watcher.wait_timeout(Duration::ZERO),
        };
        let look = take(batch, &mut self.floor, most);
        self.looked(look);
    }

    /// The loop sleeps, and all its completions were taken.
    fn check_sleep(&mut self) {
        if self.floor.stalls == 0 {
            assert!(self.floor.has_no_posts(), "asleep, although something was posted");
        }
        if self.floor.calm || self.floor.shut_down || self.floor.dice.roll(2) > 0 {
            return;
        }
        let floor = &self.floor;
        let turns = || floor.submitter().counters().turns - floor.times(Fault::Interrupted);
        let (events, now, before) = (floor.events, floor.world.now(), turns());
        // Wakes it for nothing.
        let submitter = floor.submitter();
        submitter.set_limits(submitter.limits()).expect("those it has");
        self.let_run(ENDLESS);
        self.look(usize::MAX);
        let floor = &self.floor;
        let turns = floor.submitter().counters().turns - floor.times(Fault::Interrupted) - before;
        let jumped = floor.world.now() > now;
        assert!(jumped || floor.events == events, "it slept, although there was something to do");
        assert!(jumped || turns <= 2, "woken for nothing it took {turns} turns");
    }

    /// The consumer leaves for a while, or comes back.
    pub(crate) fn leave(&mut self) {
        let Some(Drive::Spawned(spawned)) = &mut self.drive else { return };
        if spawned.driven {
            if self.floor.dice.roll(4) == 0 {
                self.be_taken_over();
            }
            return;
        }
        spawned.away = !spawned.away;
        if spawned.away {
            self.floor.count("ConsumerAway", 1);
        }
    }

    pub(crate) fn come_back(&mut self) {
        if let Some(Drive::Spawned(spawned)) = &mut self.drive {
            spawned.away = false;
        }
    }

    /// Where a push would have to wait for room: the loop makes some, whatever the consumer does.
    pub(crate) fn make_room(&mut self) {
        if !self.floor.local && self.floor.in_ring >= self.floor.limits.ring_slots {
            self.resume(true);
            if !matches!(self.drive, Some(Drive::Spawned(Spawned { driven: true, .. }))) {
                return self.let_run(ENDLESS);
            }
            // A batch may have been left, and another be there.
            while self.floor.in_ring > 0 && !self.over {
                self.driven_turn(Some(Duration::ZERO), usize::MAX);
            }
        }
    }

    pub(crate) const fn has_bell(&self) -> bool {
        matches!(&self.drive, Some(Drive::Spawned(Spawned { bell: Some(_), .. })))
    }

    // --- the end ---

    pub(crate) fn drop_watcher(&mut self) {
        let residues = self.floor.submitter().counters().residues;
        self.floor.count("Residue", residues);
        if let Some(Drive::Spawned(_)) = &self.drive {
            // The drop waits for the loop, so that runs on its own from here on; without dice, whose order would be lost.
            self.floor.world.configure(|config| config.faults.calm());
            self.floor.submitter().shutdown(Duration::ZERO);
            self.floor.world.let_go();
        }
        self.drive = None;
    }
}
