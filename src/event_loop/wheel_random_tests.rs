//! Random histories of the wheel: beside a tree that does the same the slow way, and with budgets too small.

use std::collections::{BTreeMap, VecDeque};

use super::*;

const SEEDS: u64 = 100;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[expect(clippy::cast_possible_truncation, reason = "less than `n`")]
    fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n)) as u32
    }

    /// As often of one order of magnitude as of another.
    fn any_size(&mut self, bits: u32) -> u64 {
        let size = self.below(bits) + 1;
        self.next() >> (64 - size)
    }

    /// For a deadline: anything at all, over by now, near the end of time, the tick of `other`, an edge of a tick, ahead.
    fn instant(&mut self, now: u64, other: Node) -> u64 {
        match self.below(8) {
            0 => self.any_size(64),
            1 => now.saturating_sub(self.any_size(40)),
            2 => u64::MAX - self.any_size(64),
            3 => instant_of(other.tick),
            4 => (now.saturating_add(self.any_size(48)) | (TICK - 1)).saturating_add(self.below(3).into()),
            _ => now.saturating_add(self.any_size(46)),
        }
    }

    /// The present goes on by nothing, a little, or years.
    fn later(&mut self, now: u64) -> u64 {
        let bits = if self.below(1_000) == 0 { 64 } else { [1, 22, 28, 34, 40, 46][self.below(6) as usize] };
        now.saturating_add(self.any_size(bits))
    }
}

/// What the wheel is to do, the slow way.
#[derive(Default)]
struct Reference {
    ahead: BTreeMap<(u64, u64), u32>,
    due: VecDeque<u32>,
    late: VecDeque<u32>,
    horizon: u64,
    draining: bool,
    armed_so_far: u64,
}

impl Reference {
    fn cancel(&mut self, index: u32) {
        self.ahead.retain(|_, other| *other != index);
        self.due.retain(|other| *other != index);
        self.late.retain(|other| *other != index);
    }

    fn arm(&mut self, index: u32, at: u64) {
        self.cancel(index);
        self.armed_so_far += 1;
        let tick = at / TICK + u64::from(at % TICK != 0);
        if tick > self.horizon {
            self.ahead.insert((tick, self.armed_so_far), index);
        } else {
            self.late.push_back(index);
        }
    }

    fn expire(&mut self, now: u64) -> Option<u32> {
        let tick = if now == u64::MAX { LAST } else { now / TICK };
        if !self.draining || tick > self.horizon {
            self.draining = true;
            self.horizon = tick;
            self.due.append(&mut self.late);
        }
        if self.due.is_empty() {
            if let Some((&(tick, _), _)) = self.ahead.first_key_value().filter(|((tick, _), _)| *tick <= self.horizon) {
                let later = self.ahead.split_off(&(tick + 1, 0));
                self.due.extend(std::mem::replace(&mut self.ahead, later).into_values());
            }
        }
        let index = self.due.pop_front();
        self.draining = index.is_some();
        index
    }

    fn len(&self) -> usize {
        self.ahead.len() + self.due.len() + self.late.len()
    }

    fn check_next(&self, next: Option<u64>, now: u64) {
        assert_eq!(next.is_some(), self.len() > 0);
        let Some(next) = next else { return };
        if !(self.due.is_empty() && self.late.is_empty()) {
            assert!(next <= now);
        } else if let Some((&(tick, _), _)) = self.ahead.first_key_value() {
            assert!(next <= instant_of(tick), "would sleep too long");
            assert!(self.draining || next > instant_of(self.horizon), "would spin");
        }
    }
}

#[test]
fn random_histories_are_those_of_the_reference() {
    const NODES: u32 = 24;
    for seed in 1..=SEEDS {
        let mut random = Random(seed * 0x9e37_79b9);
        let (mut bed, mut reference) = (Bed::new(NODES as usize), Reference::default());
        let mut now = random.any_size(50);
        for _ in 0..300 {
            let index = random.below(NODES);
            match random.below(8) {
                0..4 => {
                    let other = bed.storage.nodes[random.below(NODES) as usize];
                    let at = random.instant(now, other);
                    bed.arm(index, at);
                    reference.arm(index, at);
                }
                4 => {
                    bed.cancel(index);
                    reference.cancel(index);
                }
                5 => now = random.later(now),
                _ => {
                    let expired = bed.expire(now);
                    assert_eq!(expired, reference.expire(now), "seed {seed}");
                }
            }
            bed.check();
            assert_eq!(bed.armed(), reference.len());
            reference.check_next(bed.wheel.next(), now);
        }
    }
}

/// Arms, cancels and expires at random, also amid a drain, until the budget is spent or nothing is due.
fn turn(bed: &mut Bed, random: &mut Random, now: u64) {
    let nodes = u32::try_from(bed.storage.nodes.len()).unwrap();
    let meddle = |bed: &mut Bed, random: &mut Random| {
        let index = random.below(nodes);
        let other = bed.storage.nodes[random.below(nodes) as usize];
        let at = random.instant(now, other);
        if random.below(4) == 0 { bed.cancel(index) } else { bed.arm(index, at) }
    };
    for _ in 0..random.below(nodes) {
        meddle(bed, random);
    }
    let due = |node: &Node| node.is_armed() && node.tick <= tick_at(now);
    let due: Vec<bool> = bed.storage.nodes.iter().map(due).collect();
    let given = random.below(40);
    let mut budget = given;
    let mut seen = vec![false; due.len()];
    let meddles = random.below(2) == 0;
    loop {
        let (visits, before) = (bed.storage.visits, budget);
        let Some(index) = bed.wheel.expire(&mut bed.storage, now, &mut budget) else { break };
        assert!(bed.storage.visits - visits <= 12 * u64::from(before - budget) + 4);
        assert!(bed.storage.nodes[index as usize].tick <= tick_at(now), "early");
        assert!(!bed.storage.nodes[index as usize].is_armed());
        assert!(!std::mem::replace(&mut seen[index as usize], true), "twice in a drain");
        if meddles && random.below(3) == 0 {
            meddle(bed, random);
            bed.check();
        }
    }
    bed.check();
    if budget > 0 && !meddles {
        assert_eq!(seen, due, "all that is due");
    }
    assert!(budget == 0 || [MOVING, DUE].iter().all(|list| bed.wheel.ends[*list as usize].first & END != 0));
    let left = bed.storage.nodes.iter().any(|node| node.is_armed() && node.tick <= tick_at(now));
    assert!(!left || bed.wheel.next() <= Some(now), "would sleep too long");
}

#[test]
fn random_budgets_lose_nothing_and_hold_nothing_back() {
    for seed in 1..=SEEDS {
        let mut random = Random(seed * 0xdead_beef);
        let mut bed = Bed::new(60);
        let mut now = 0;
        for _ in 0..30 {
            now = random.later(now);
            turn(&mut bed, &mut random, now);
        }
        let armed = bed.armed();
        assert_eq!(bed.expired(u64::MAX).len(), armed);
    }
}
