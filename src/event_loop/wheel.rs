//! Deadlines: a hierarchical timing wheel whose nodes live in somebody else's storage.
//!
//! Nearly every deadline is cancelled: its operation completes first. Arming and cancelling must cost a few stores,
//! however many are armed, and must leave no garbage; only what expires may cost more. So a deadline is a [`Node`]
//! inside the operation's own entry, linked into the list of the slot in which its tick falls. The wheel owns the ends
//! of the lists and no node; it names nodes by the index in their storage, and reaches them through [`Nodes`]. Whoever
//! owns the storage cancels a node before it vacates its entry.
//!
//! The scheme is that of Varghese and Lauck, "Hashed and hierarchical timing wheels" (1987). Time is counted in ticks
//! of 2^20 ns (1.05 ms) since the loop's epoch; a deadline is rounded up, the present down, so nothing expires early.
//! Level 0 has a slot for each tick, level n one for each 64^n ticks. A tick is kept on the level of the highest digit
//! (base 64) in which it differs from the cursor, in the slot that this digit names:
//!
//! ```text
//!   digit    7          6            1         0
//!   cursor   0 …        3            17        40
//!   tick     0 …        3            22        5       differs in digit 1: level 1, slot 22
//! ```
//!
//! As the cursor moves to the beginning of a slot, a list of level 0 is due; one of a higher level is dealt out among
//! the levels below. A deadline moves down at most once per level, and an idle loop with one deadline wakes as often.
//! 8 levels hold every instant that a u64 of nanoseconds can tell; there is no overflow. The last needs 5 slots only
//! (the last tick is 2^44), and lends three of its others to lists that belong to no tick:
//!
//! | list     | holds                                              | emptied                                      |
//! |----------|----------------------------------------------------|----------------------------------------------|
//! | `DUE`    | what expires next                                  | from the front, one per call of `expire`     |
//! | `LATE`   | what had its instant behind it when it was armed   | into `DUE`, at the beginning of a drain      |
//! | `MOVING` | a slot of a higher level that the cursor reached   | into the slots below, before the cursor goes on |
//!
//! A *drain* is a sequence of calls of [`Wheel::expire`] that ends with `None` while the budget lasts. What is armed
//! during a drain for an instant that is over waits in `LATE` for the next one: a drain ends, whatever is armed in it.
//!
//! Order: by tick, and first in, first out within one, but what was late comes first, in the order in which it was
//! armed. (What is armed while a budget has run out amid a slot may go before older ones of its tick.)
//!
//! Invariants:
//! 1. An armed node is on exactly one list; an unarmed one (`prev` is `NIL`) on none.
//! 2. A bit of `occupied` is set if and only if the list of that number is not empty.
//! 3. In a slot: tick > cursor, and level and slot follow from tick and cursor as above. All slots of a level thus lie
//!    ahead of the cursor, those of a lower level before those of a higher one: the first bit set is the earliest.
//! 4. cursor ≤ horizon, the latest present that was heard of; between drains they are equal.
//!
//! Checked by `wheel_tests.rs`: the invariants after every step, the order against a tree.

/// A tick is 2 to the power of this many nanoseconds.
const TICK_BITS: u32 = 20;
/// The tick of `u64::MAX`, which is no multiple of a tick, rounded up.
const LAST: u64 = 1 << (64 - TICK_BITS);
const DIGIT_BITS: u32 = 6;
const DIGIT: u64 = (1 << DIGIT_BITS) - 1;
const LEVELS: usize = 8;
const LISTS: usize = LEVELS << DIGIT_BITS;
/// The slots of the last level that a tick can reach.
const REACHED: u64 = (1 << ((LAST >> (DIGIT_BITS * 7)) + 1)) - 1;

const MOVING: u32 = LISTS as u32 - 3;
const LATE: u32 = LISTS as u32 - 2;
const DUE: u32 = LISTS as u32 - 1;

const NIL: u32 = u32::MAX;
/// Set in a link that leads to the end of a list instead of to a node; the rest is the list's number.
const END: u32 = 1 << 31;

/// A deadline, to be embedded where the wheel finds it by index. Indices stay below 2^31.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    tick: u64,
    next: u32,
    /// `NIL`: unarmed.
    prev: u32,
}

impl Node {
    /// Unarmed.
    pub(crate) const UNARMED: Self = Self { tick: 0, next: NIL, prev: NIL };

    pub(crate) const fn is_armed(&self) -> bool {
        self.prev != NIL
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::UNARMED
    }
}

/// Where the nodes live. The wheel asks only for indices that it was given and that are armed.
pub(crate) trait Nodes {
    fn node(&mut self, index: u32) -> &mut Node;
}

/// The end of a ring of nodes, whose links lead here from the first and the last.
#[derive(Clone, Copy, Debug)]
struct End {
    first: u32,
    last: u32,
}

#[derive(Debug)]
pub(crate) struct Wheel {
    /// A word for each level, a bit for each list.
    occupied: [u64; LEVELS],
    /// What is due at this tick or before has left the slots.
    cursor: u64,
    horizon: u64,
    /// A drain has begun and not come to its end.
    draining: bool,
    /// By level and slot. 4 KiB.
    ends: Box<[End; LISTS]>,
}

/// The first tick at which the instant is not ahead any more.
const fn tick_of(at: u64) -> u64 {
    at.div_ceil(1 << TICK_BITS)
}

/// The last tick that has begun. At the end of time, which is none, everything is due: nobody waits for what cannot come.
const fn tick_at(now: u64) -> u64 {
    if now == u64::MAX { LAST } else { now >> TICK_BITS }
}

const fn instant_of(tick: u64) -> u64 {
    if tick >= LAST { u64::MAX } else { tick << TICK_BITS }
}

impl Wheel {
    pub(crate) fn new() -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "there are 512 lists")]
        let end = |list: usize| End { first: END | list as u32, last: END | list as u32 };
        let ends = Box::new(std::array::from_fn(end));
        Self { occupied: [0; LEVELS], cursor: 0, horizon: 0, draining: false, ends }
    }

    /// Arms the node for `at`, in nanoseconds since the loop's epoch; an armed one is moved.
    #[inline]
    pub(crate) fn arm<N: Nodes>(&mut self, nodes: &mut N, index: u32, at: u64) {
        self.cancel(nodes, index);
        let tick = tick_of(at);
        let list = if tick > self.horizon { self.list_of(tick) } else { LATE };
        self.append(nodes, index, tick, list);
    }

    /// Disarms the node, if it is armed.
    #[inline]
    pub(crate) fn cancel<N: Nodes>(&mut self, nodes: &mut N, index: u32) {
        let node = nodes.node(index);
        let Node { next, prev, .. } = *node;
        if prev == NIL {
            return;
        }
        node.prev = NIL;
        self.link(nodes, prev, next);
        if prev == next {
            // Only the end of the list is both in front of a node and behind it.
            self.mark_empty(prev & !END);
        }
    }

    /// When to look again: at or before the earliest deadline, by at most the width of its slot. In the past if
    /// something is due, or if `expire` was not called since something was armed.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.occupied[LEVELS - 1] & !REACHED != 0 {
            return Some(0);
        }
        self.earliest().map(|(_, tick)| instant_of(tick))
    }

    /// The next node that is due, disarmed. To be called until there is none, with the same present, which must not go
    /// backwards from one drain to the next; meanwhile any node may be armed and cancelled.
    ///
    /// Each node that expires or moves to a lower level takes one from the budget. With nothing left of it the answer
    /// is `None`, and the next call goes on.
    pub(crate) fn expire<N: Nodes>(&mut self, nodes: &mut N, now: u64, budget: &mut u32) -> Option<u32> {
        let tick = tick_at(now);
        if !self.draining || tick > self.horizon {
            self.draining = true;
            self.horizon = self.horizon.max(tick);
            self.splice(nodes, LATE, DUE);
        }
        loop {
            let (moving, due) = (self.ends[MOVING as usize].first, self.ends[DUE as usize].first);
            let first = if moving & END == 0 { moving } else { due };
            if first & END == 0 {
                *budget = budget.checked_sub(1)?;
                let tick = nodes.node(first).tick;
                self.cancel(nodes, first);
                if first == due {
                    return Some(first);
                }
                let list = if tick > self.cursor { self.list_of(tick) } else { DUE };
                self.append(nodes, first, tick, list);
                continue;
            }
            match self.earliest() {
                Some((list, start)) if start <= self.horizon => {
                    self.cursor = start;
                    self.splice(nodes, list, if list <= DIGIT as u32 { DUE } else { MOVING });
                }
                _ => {
                    self.cursor = self.horizon;
                    self.draining = false;
                    return None;
                }
            }
        }
    }

    /// The slot of a tick that is ahead of the cursor.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a digit")]
    const fn list_of(&self, tick: u64) -> u32 {
        let level = (tick ^ self.cursor).ilog2() / DIGIT_BITS;
        level << DIGIT_BITS | ((tick >> (level * DIGIT_BITS)) & DIGIT) as u32
    }

    /// The earliest slot that is occupied, and its first tick.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a level")]
    fn earliest(&self) -> Option<(u32, u64)> {
        let mut words = self.occupied;
        words[LEVELS - 1] &= REACHED;
        let level = words.iter().position(|word| *word != 0)? as u32;
        let slot = words[level as usize].trailing_zeros();
        let shift = level * DIGIT_BITS;
        let above = self.cursor >> shift >> DIGIT_BITS << DIGIT_BITS;
        Some((level << DIGIT_BITS | slot, (above | u64::from(slot)) << shift))
    }

    /// Puts an unarmed node at the end of a list.
    #[inline]
    fn append<N: Nodes>(&mut self, nodes: &mut N, index: u32, tick: u64, list: u32) {
        let end = &mut self.ends[list as usize % LISTS];
        let last = std::mem::replace(&mut end.last, index);
        *nodes.node(index) = Node { tick, next: END | list, prev: last };
        if last & END == 0 {
            nodes.node(last).next = index;
        } else {
            end.first = index;
            self.mark_occupied(list);
        }
    }

    /// Moves a whole list to the end of another, in O(1).
    fn splice<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        let End { first, last } = self.ends[from as usize];
        if first & END != 0 {
            return;
        }
        self.ends[from as usize] = End { first: END | from, last: END | from };
        self.mark_empty(from);
        self.link(nodes, self.ends[to as usize].last, first);
        self.link(nodes, last, END | to);
        self.mark_occupied(to);
    }

    /// Makes two links meet: nodes, or the ends of lists.
    #[inline]
    fn link<N: Nodes>(&mut self, nodes: &mut N, prev: u32, next: u32) {
        if prev & END == 0 {
            nodes.node(prev).next = next;
        } else {
            self.ends[prev as usize % LISTS].first = next;
        }
        if next & END == 0 {
            nodes.node(next).prev = prev;
        } else {
            self.ends[next as usize % LISTS].last = prev;
        }
    }

    #[inline]
    const fn mark_occupied(&mut self, list: u32) {
        self.occupied[(list >> DIGIT_BITS) as usize % LEVELS] |= 1 << (list as u64 & DIGIT);
    }

    #[inline]
    const fn mark_empty(&mut self, list: u32) {
        self.occupied[(list >> DIGIT_BITS) as usize % LEVELS] &= !(1 << (list as u64 & DIGIT));
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
