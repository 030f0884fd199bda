//! Tests of the wheel: the edges of time, one by one. Costs are counted in visits to nodes.

use super::*;

#[path = "wheel_random_tests.rs"]
mod random;

const TICK: u64 = 1 << TICK_BITS;
const DAY: u64 = 86_400_000_000_000;
const YEAR: u64 = 365 * DAY;

// What is said about sizes and the resolution elsewhere.
const _: () = assert!(TICK < 1_050_000 && size_of::<Node>() == 16 && size_of::<[End; LISTS as usize]>() == 4_096);

struct Storage {
    nodes: Vec<Node>,
    visits: u64,
}

impl Node {
    fn is_armed(&self) -> bool {
        self.prev != NIL
    }
}

impl Nodes for Storage {
    fn node(&mut self, index: u32) -> &mut Node {
        self.visits += 1;
        &mut self.nodes[index as usize]
    }
}

struct Bed {
    wheel: Wheel,
    storage: Storage,
}

impl Bed {
    fn new(nodes: usize) -> Self {
        Self { wheel: Wheel::new(), storage: Storage { nodes: vec![Node::UNARMED; nodes], visits: 0 } }
    }

    /// An armed one is moved.
    fn arm(&mut self, index: u32, at: u64) {
        self.cancel(index);
        self.wheel.arm(&mut self.storage, index, at);
    }

    fn cancel(&mut self, index: u32) {
        self.wheel.cancel(&mut self.storage, index);
    }

    fn expire(&mut self, now: u64) -> Option<u32> {
        self.wheel.expire(&mut self.storage, now, &mut { u32::MAX })
    }

    /// A whole drain.
    fn expired(&mut self, now: u64) -> Vec<u32> {
        let all = std::iter::from_fn(|| self.expire(now)).collect();
        self.check();
        all
    }

    fn armed(&self) -> usize {
        self.storage.nodes.iter().filter(|node| node.is_armed()).count()
    }

    /// Invariants 1 to 4.
    fn check(&self) {
        let wheel = &self.wheel;
        assert!(wheel.cursor <= wheel.horizon);
        let broken_off = [MOVING, DUE].iter().any(|list| wheel.ends[*list as usize].first & END == 0);
        assert!(wheel.draining || broken_off || wheel.cursor == wheel.horizon);
        let mut listed = 0;
        for list in 0..LISTS {
            let mut prev = END | list;
            let mut at = wheel.ends[list as usize].first;
            let empty = at & END != 0;
            while at & END == 0 {
                let node = self.storage.nodes[at as usize];
                assert_eq!(node.prev, prev);
                listed += 1;
                if list < MOVING {
                    let level = list / 64;
                    let (above, digit) = (node.tick >> (6 * level) >> 6, node.tick >> (6 * level) & 63);
                    assert_eq!(above, wheel.cursor >> (6 * level) >> 6);
                    assert_eq!(digit, u64::from(list % 64));
                    assert!(digit > wheel.cursor >> (6 * level) & 63, "the slot lies ahead");
                } else if list == MOVING {
                    assert!(node.tick >= wheel.cursor);
                } else {
                    assert!(node.tick <= wheel.horizon);
                }
                (prev, at) = (at, node.next);
            }
            assert_eq!(at, END | list);
            assert_eq!(wheel.ends[list as usize].last, prev);
            assert_eq!(wheel.occupied[list as usize / 64] >> (list % 64) & 1 == 0, empty, "list {list}");
        }
        assert_eq!(listed, self.armed());
    }
}

/// Instants around every edge there is.
fn edges() -> impl Iterator<Item = u64> {
    let powers = (0..64).map(|n| 1u64 << n);
    let others = [0, DAY, 30 * DAY, YEAR, (1 << 31) * 1_000_000, u64::MAX - TICK, u64::MAX];
    powers.chain(others).flat_map(|at| [at.saturating_sub(1), at, at.saturating_add(1)])
}

#[test]
fn nothing_expires_early_and_everything_within_its_tick() {
    for begin in [0, 1, 63 * TICK, 12_345_678_901_234] {
        for at in edges() {
            let mut bed = Bed::new(1);
            bed.expired(begin);
            bed.arm(0, at);
            bed.check();
            assert!(bed.wheel.next().unwrap() <= at.max(begin).saturating_add(TICK - 1));
            if at > begin {
                assert_eq!(bed.expired(at - 1), [], "{at} begun at {begin}");
            }
            assert_eq!(bed.expired(at.saturating_add(TICK - 1).max(begin)), [0], "{at} begun at {begin}");
            assert_eq!(bed.wheel.next(), None);
            assert_eq!(bed.armed(), 0);
        }
    }
}

#[test]
fn a_deadline_far_ahead_wakes_an_idle_loop_once_per_level() {
    let looks = |begin: u64, at: u64| {
        let mut bed = Bed::new(1);
        bed.expired(begin);
        bed.arm(0, at);
        let mut now = begin;
        for looks in 1.. {
            let next = bed.wheel.next().unwrap();
            assert!(next > now, "would spin at {now}");
            now = next;
            if bed.expired(now) == [0] {
                assert!(now >= at && now - at < TICK);
                return looks;
            }
        }
        unreachable!("the loop above has no end");
    };
    for begin in [0, TICK - 1, 999 * TICK + 17, DAY, 12_345_678_901_234] {
        assert!(looks(begin, begin + 50 * TICK) <= 2);
        assert!(looks(begin, begin + 30_000_000_000) <= 4);
        assert!(looks(begin, begin + 30 * DAY) <= 7);
        for at in edges().filter(|at| *at > begin) {
            assert!(looks(begin, at) <= 9);
        }
    }
    assert_eq!(looks(0, 30 * DAY), 6);
}

#[test]
fn a_cancelled_deadline_wakes_nobody() {
    let mut bed = Bed::new(3);
    for at in [0, 5 * TICK, YEAR] {
        bed.arm(0, at);
        assert!(bed.wheel.next().is_some());
        bed.cancel(0);
        bed.cancel(0);
        bed.cancel(1);
        bed.check();
        assert_eq!(bed.wheel.next(), None);
    }
    assert_eq!(bed.expired(2 * YEAR), []);
}

#[test]
fn order_is_by_tick_and_then_first_in_first_out() {
    let mut bed = Bed::new(6);
    bed.arm(0, 5_000 * TICK);
    bed.arm(1, 70 * TICK);
    bed.arm(2, 5_000 * TICK);
    bed.arm(3, u64::MAX);
    assert_eq!(bed.expired(4_999 * TICK), [1]);
    // On level 0 by now, and behind those that came down.
    bed.arm(4, 5_000 * TICK);
    bed.arm(1, 4_999 * TICK + 1);
    bed.arm(5, 6_000 * TICK);
    assert_eq!(bed.expired(YEAR), [0, 2, 4, 1, 5]);
    assert_eq!(bed.expired(u64::MAX), [3]);
}

#[test]
fn what_was_over_when_it_was_armed_expires_in_the_next_drain_and_a_drain_ends() {
    let mut bed = Bed::new(3);
    assert_eq!(bed.expired(DAY), []);
    bed.arm(1, DAY + TICK);
    bed.arm(0, 0);
    assert_eq!(bed.wheel.next(), Some(0));
    // Each comes once, although it is armed again for the past, or for what this drain has yet to come to.
    for _ in 0..2 {
        let mut seen = Vec::new();
        while let Some(index) = bed.expire(2 * DAY) {
            seen.push(index);
            bed.arm(index, if index == 0 { 0 } else { DAY + 2 * TICK });
        }
        bed.check();
        assert_eq!(seen, [0, 1]);
        assert_eq!(bed.wheel.next(), Some(0));
    }
    bed.arm(2, 0);
    bed.cancel(0);
    assert_eq!(bed.expired(2 * DAY), [1, 2]);
}

#[test]
fn a_drain_that_was_broken_off_goes_on() {
    let mut bed = Bed::new(100);
    for index in 0..100 {
        bed.arm(index, 10_000 * TICK + u64::from(index) % 3);
    }
    let mut seen = Vec::new();
    for turn in 0.. {
        let mut budget = 7;
        while let Some(index) = bed.wheel.expire(&mut bed.storage, 20_000 * TICK, &mut budget) {
            seen.push(index);
        }
        bed.check();
        if bed.wheel.next().is_none() {
            break;
        }
        assert_eq!((bed.wheel.next(), budget), (Some(0), 0), "turn {turn}");
    }
    let (on_time, later): (Vec<u32>, Vec<u32>) = (0..100).partition(|index| index % 3 == 0);
    assert_eq!(seen, [on_time, later].concat());
}

#[test]
fn what_expires_from_level_0_takes_one_of_the_budget_each() {
    let mut bed = Bed::new(4);
    for index in 0..3 {
        bed.arm(index, 5 * TICK);
    }
    bed.arm(3, 0);
    let mut budget = 4;
    assert!((0..4).all(|_| bed.wheel.expire(&mut bed.storage, 5 * TICK, &mut budget).is_some()));
    assert_eq!((budget, bed.armed()), (0, 0));
}

#[test]
fn a_present_that_goes_back_changes_nothing() {
    let mut bed = Bed::new(2);
    bed.arm(0, 10 * TICK);
    bed.arm(1, 5_000 * TICK);
    assert_eq!(bed.expired(4_990 * TICK), [0]);
    assert_eq!(bed.expired(0), []);
    bed.arm(0, 4_990 * TICK);
    assert_eq!(bed.expired(0), [0]);
    assert_eq!(bed.expired(5_000 * TICK), [1]);
}

#[test]
fn late_ones_are_not_starved_by_drains_that_never_end() {
    let mut bed = Bed::new(3);
    let mut now = 1_000 * TICK;
    assert_eq!(bed.expired(now), []);
    bed.arm(0, now + TICK);
    bed.arm(1, now + TICK);
    now += TICK;
    assert_eq!(bed.expire(now), Some(0));
    bed.arm(2, 0);
    for _ in 0..2 {
        // One per turn, and always another one due.
        now += TICK;
        bed.arm(0, now);
        bed.expire(now);
    }
    assert!(!bed.storage.nodes[2].is_armed());
}

#[test]
fn arming_and_cancelling_cost_the_same_however_many_there_are() {
    const LIVE: u32 = 10_000;
    let mut bed = Bed::new(LIVE as usize + 1);
    for index in 0..LIVE {
        bed.arm(index, u64::from(index) * 7 * TICK);
    }
    for at in edges() {
        let before = bed.storage.visits;
        bed.arm(LIVE, at);
        bed.cancel(LIVE);
        assert!(bed.storage.visits - before <= 8);
    }
}

#[test]
fn a_jump_over_years_costs_what_expires() {
    const LIVE: u32 = 1_000;
    let mut bed = Bed::new(LIVE as usize);
    for index in 0..LIVE {
        bed.arm(index, u64::from(index % 40) * YEAR);
    }
    let before = bed.storage.visits;
    assert_eq!(bed.expired(100 * YEAR).len(), LIVE as usize);
    assert!((bed.storage.visits - before) / u64::from(LIVE) <= 8 * LEVELS as u64);
    assert_eq!(bed.expired(500 * YEAR), []);
}
