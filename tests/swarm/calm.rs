//! The calm behind a script: nothing goes wrong any more, so what can be done is done, nobody is forgotten, and the loop sleeps.
//! And the end, which leaves nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::foreign::Who;
use crate::model::Verb;
use crate::script::Swarm;

const HOUR: Duration = Duration::from_secs(3_600);

impl Swarm<'_> {
    /// Nothing goes wrong any more, and all peers listen: what can be done is done, and nobody is forgotten.
    pub(crate) fn calm_down(&mut self) {
        self.resume(true);
        self.come_back();
        self.floor.calm = true;
        self.floor.world.configure(|config| {
            config.faults.calm();
            config.pending_first = false;
        });
        let mut quiet = 0;
        while quiet < 3 && !self.over {
            let before = self.floor.events;
            self.turns_until_quiet();
            let mut heard = self.floor.answer();
            for line in &mut self.floor.lines {
                while line.peer_receives(4_096) {
                    heard = true;
                }
            }
            // Sends and accepts that failed are tried again after a while.
            self.turn(Duration::from_millis(50), usize::MAX);
            quiet = if self.floor.events == before && !heard { quiet + 1 } else { 0 };
        }
        if self.over {
            return;
        }
        self.check_that_all_are_served();
        self.check_that_messages_are_served();
        let mut idle = 0;
        while idle < 2 && !self.over {
            let (events, polls) = (self.floor.events, self.polls());
            self.turn(HOUR, usize::MAX);
            idle = if self.floor.events == events { idle + 1 } else { 0 };
            assert!(idle < 2 || self.polls() <= polls + 2, "idle, it polled {} times", self.polls() - polls);
        }
        if !self.over {
            self.check_that_nothing_is_left();
        }
    }

    fn polls(&self) -> u64 {
        self.floor.submitter().counters().polls
    }

    /// Of what still waits: does it wait for a peer, or for an instant?
    fn check_that_all_are_served(&self) {
        let floor = &self.floor;
        for line in &floor.lines {
            let ops: Vec<_> = floor.ops.values().filter(|op| op.line == line.index).collect();
            for op in &ops {
                let right = match op.verb {
                    Verb::Close => true,
                    Verb::Read | Verb::Exact(_) | Verb::Pooled | Verb::Leased | Verb::Readable | Verb::Linked => {
                        line.may_wait(&ops)
                    }
                    Verb::Write | Verb::ShutDown | Verb::IntoFd | Verb::Release | Verb::Abort => false,
                };
                assert!(right, "line {} is forgotten: {op:?} waits, {line:?}", line.index);
            }
            let door = line.listener.map(|door| &floor.doors[door]);
            let open =
                !floor.shut_down && door.is_some_and(|door| !door.ended && door.handle.is_some() && !door.blurred);
            let waits = open && !line.accepted;
            assert!(!waits || line.end_seen.is_some() || line.peer_gone, "line {} stands at the door", line.index);
        }
    }

    /// What was sent to a socket may have been lost; what is sent now has room, and somebody waits for it.
    fn check_that_messages_are_served(&mut self) {
        let reads = |swarm: &Self, line: usize| {
            let reads = |verb: Verb| verb.is_pure_read() || verb == Verb::Linked;
            swarm.floor.ops.values().filter(|op| op.line == line && reads(op.verb)).count()
        };
        for line in 0..self.floor.lines.len() {
            let waiting = reads(self, line);
            if self.floor.lines[line].messages.is_none() || self.floor.lines[line].peer.is_none() || waiting == 0 {
                continue;
            }
            self.floor.lines[line].peer_sends(2);
            self.turns_until_quiet();
            assert!(reads(self, line) < waiting, "line {line} is forgotten: {:?}", self.floor.lines[line]);
        }
    }

    /// An hour later.
    fn check_that_nothing_is_left(&self) {
        let floor = &self.floor;
        for op in floor.ops.values() {
            let right = (op.verb.is_pure_read() || op.verb == Verb::Linked) && op.deadline.is_none();
            assert!(right, "it never ends: {op:?}, {:?}", floor.lines[op.line]);
        }
        assert!(!floor.has_timers(), "a timer never came");
        let sessions = floor.submitter().counters().sessions as usize;
        let connecting = floor.check_connects();
        let alive = floor.lines.iter().filter(|line| !line.over && line.has_handles()).count();
        let right = sessions <= alive + connecting;
        assert!(right, "{sessions} sessions, {alive} connections with handles, {connecting} to be");
        let doors = floor.doors.iter().filter(|door| !door.ended).count();
        let detached = floor.lines.iter().filter(|line| line.detached.is_some()).count();
        // A selector, a waker, the reserve for bad times, and perhaps a bell.
        let own = 3 + usize::from(self.has_bell());
        assert_eq!(floor.world.open_descriptors(), own + sessions + doors + detached, "descriptors");
    }

    // --- the end ---

    pub(crate) fn end(&mut self) {
        if !self.over && self.floor.dice.roll(2) == 0 {
            if !self.floor.shut_down {
                self.shut_down(Who::Script);
            }
            if self.floor.stalls > 0 {
                // A slot that was reserved before is still to be published: the loop must not end without it.
                self.turn(HOUR, usize::MAX);
                assert!(!self.over, "over, while a push stands still");
            }
            self.resume(true);
            self.come_back();
            let mut turns = 0;
            while !self.over {
                self.turn(Duration::from_millis(10), usize::MAX);
                turns += 1;
                assert!(turns < 10_000, "a shutdown without end");
            }
        }
        self.resume(true);
        if self.over {
            assert_eq!(self.floor.outstanding(), 0, "closed, with something not completed: {:?}", self.floor.ops);
            assert!(self.floor.doors.iter().all(|door| door.ended));
        }
        let peers_saw_all = self.over;
        self.drop_watcher();
        let floor = &mut self.floor;
        floor.let_go();
        floor.world.configure(|config| config.faults.calm());
        assert_eq!(floor.world.open_descriptors(), 0, "descriptors are left");
        assert_eq!(floor.live.load(Ordering::Relaxed), 0, "contexts are left");
        if peers_saw_all {
            floor.lines.iter_mut().for_each(crate::model::Line::check_output);
        }
    }
}
