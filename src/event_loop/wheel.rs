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
//! the levels below. A deadline moves down at most once per level, and an idle loop with one deadline wakes once for
//! each move. 8 levels hold every instant that a u64 of nanoseconds can tell; there is no overflow. The last needs 5
//! slots only (the last tick is 2^44), and lends three of its others to lists that belong to no tick:
//!
//! | list     | holds                                            | emptied                                         |
//! |----------|--------------------------------------------------|-------------------------------------------------|
//! | `DUE`    | what expires next                                | from the front, one per call of `expire`        |
//! | `LATE`   | what had its instant behind it when it was armed | into `DUE`, at the beginning of a drain         |
//! | `MOVING` | a slot of a higher level that the cursor reached | into the slots below, before anything else goes |
//!
//! A *drain* is a sequence of calls of [`Wheel::expire`] that ends with `None`. What is armed during a drain for an
//! instant that is over waits in `LATE` for the next one: a drain ends, whatever is armed in it.
//!
//! Order: by tick, and first in, first out within one, but what was late comes first, in the order in which it was
//! armed. (What is armed while a budget has run out amid a slot may go before older ones of its tick.)
//!
//! Invariants:
//! 1. An armed node is on exactly one list; an unarmed one (`prev` is `NIL`) on none.
//! 2. A bit of `occupied` is set if and only if the list of that number is not empty.
//! 3. In a slot: tick > cursor, and level and slot follow from tick and cursor as above. All slots of a level thus lie
//!    ahead of the cursor, those of a lower level before those of a higher one: the first bit set is the earliest.
//! 4. cursor ≤ horizon, the latest present that was heard of. Behind it only during a drain, and after one for which
//!    the budget was too small: then `DUE` or `MOVING` is not empty.
//!
//! Checked by `wheel_tests.rs`: the invariants after every step, the order against a tree.

/// A tick is 2 to the power of this many nanoseconds.
const TICK_BITS: u32 = 20;
/// The tick of `u64::MAX`, which is no multiple of a tick, rounded up.
const LAST: u64 = 1 << (64 - TICK_BITS);
const DIGIT_BITS: u32 = 6;
const SLOTS: u32 = 1 << DIGIT_BITS;
const LEVELS: usize = 8;
const LISTS: u32 = 8 * SLOTS;
const MOVING: u32 = LISTS - 3;
const LATE: u32 = LISTS - 2;
const DUE: u32 = LISTS - 1;

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
    /// When it expires, at the earliest.
    pub(crate) const fn instant(&self) -> u64 {
        instant_of(self.tick)
    }

    /// Unarmed.
    pub(crate) const UNARMED: Self = Self { tick: 0, next: NIL, prev: NIL };
}

/// Where the nodes live. The wheel asks for the index that it is called with, and for those that are armed.
pub(crate) trait Nodes {
    fn node(&mut self, index: u32) -> &mut Node;
}

/// The end of a ring of nodes, whose links lead here from the first and the last.
#[derive(Clone, Copy, Debug)]
struct End {
    first: u32,
    last: u32,
}

impl End {
    /// Of an empty list.
    const fn of(list: u32) -> Self {
        Self { first: END | list, last: END | list }
    }
}

#[derive(Debug)]
pub(crate) struct Wheel {
    /// A word for each level, a bit for each list.
    occupied: [u64; LEVELS],
    /// What is due at this tick or before has left the slots.
    cursor: u64,
    horizon: u64,
    /// The last call of `expire` had an answer.
    draining: bool,
    /// By level and slot. 4 KiB.
    ends: Box<[End; LISTS as usize]>,
}

/// The last tick that has begun. At the end of time, which is none, everything is due: nobody waits for what cannot come.
const fn tick_at(now: u64) -> u64 {
    if now == u64::MAX { LAST } else { now >> TICK_BITS }
}

const fn instant_of(tick: u64) -> u64 {
    if tick >= LAST { u64::MAX } else { tick << TICK_BITS }
}

/// The highest digit that is not zero, of a number that is not.
const fn level_of(difference: u64) -> u32 {
    // Nearly always one of the first three (4 minutes). The logarithm is a slow instruction of x86's baseline.
    match difference {
        0..0x40 => 0,
        0x40..0x1000 => 1,
        0x1000..0x4_0000 => 2,
        _ => difference.ilog2() / DIGIT_BITS,
    }
}

impl Wheel {
    pub(crate) fn new() -> Self {
        let mut ends = Box::new([End::of(0); LISTS as usize]);
        for (list, end) in (0..LISTS).zip(ends.iter_mut()) {
            *end = End::of(list);
        }
        Self { occupied: [0; LEVELS], cursor: 0, horizon: 0, draining: false, ends }
    }

    /// Arms the node, which is unarmed, for `at`, in nanoseconds since the loop's epoch.
    #[inline]
    pub(crate) fn arm<N: Nodes>(&mut self, nodes: &mut N, index: u32, at: u64) {
        debug_assert!(nodes.node(index).prev == NIL, "an armed one is cancelled first");
        let tick = at.div_ceil(1 << TICK_BITS);
        let list = if tick > self.horizon { self.list_of(tick) } else { LATE };
        self.append(nodes, index, tick, list);
    }

    /// Disarms the node, if it is armed.
    #[inline]
    pub(crate) fn cancel<N: Nodes>(&mut self, nodes: &mut N, index: u32) {
        let node = nodes.node(index);
        let Node { next, prev, .. } = *node;
        if prev != NIL {
            node.prev = NIL;
            self.link(nodes, prev, next);
        }
    }

    /// When to look again: at or before the earliest deadline, by at most the width of its slot. In the past if
    /// something is due; perhaps also, after a long sleep, until `expire` has told the wheel of the present.
    #[inline]
    pub(crate) fn next(&self) -> Option<u64> {
        // Nearly always nothing is armed: an operation that need not wait never comes here.
        let any = self.occupied.iter().fold(0, |any, word| any | word);
        if any == 0 { None } else { self.next_armed() }
    }

    #[inline(never)]
    fn next_armed(&self) -> Option<u64> {
        // The lists that belong to no tick hold what is due, or may be.
        if self.occupied[LEVELS - 1] >> (MOVING % SLOTS) != 0 {
            return Some(0);
        }
        self.earliest().map(|(_, tick)| instant_of(tick))
    }

    /// The next node that is due, disarmed. To be called until there is none, with the same present, which must not go
    /// backwards from one drain to the next; meanwhile any node may be armed and cancelled.
    ///
    /// Each node that expires or moves to a lower level takes one from the budget. With nothing left of it the answer
    /// is `None`, and the next drain goes on.
    pub(crate) fn expire<N: Nodes>(&mut self, nodes: &mut N, now: u64, budget: &mut u32) -> Option<u32> {
        let tick = tick_at(now);
        if !self.draining || tick > self.horizon {
            self.draining = true;
            self.horizon = self.horizon.max(tick);
            self.splice(nodes, LATE, DUE);
        }
        loop {
            let [moving, due] = [MOVING, DUE].map(|list| self.ends[list as usize].first);
            let first = if moving & END == 0 { moving } else { due };
            if first & END != 0 {
                let Some((list, start)) = self.earliest().filter(|(_, start)| *start <= self.horizon) else {
                    self.cursor = self.horizon;
                    break;
                };
                self.cursor = start;
                self.splice(nodes, list, if list < SLOTS { DUE } else { MOVING });
                continue;
            }
            if *budget == 0 {
                break;
            }
            *budget -= 1;
            let tick = nodes.node(first).tick;
            self.cancel(nodes, first);
            if first == due {
                return Some(first);
            }
            let list = if tick > self.cursor { self.list_of(tick) } else { DUE };
            self.append(nodes, first, tick, list);
        }
        self.draining = false;
        None
    }

    /// The slot of a tick that is ahead of the cursor.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a digit")]
    const fn list_of(&self, tick: u64) -> u32 {
        let level = level_of(tick ^ self.cursor);
        level * SLOTS + (tick >> (level * DIGIT_BITS)) as u32 % SLOTS
    }

    /// The earliest slot that is occupied, and its first tick. The lists that belong to no tick look like slots behind
    /// the end of time, which are never reached.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a level")]
    fn earliest(&self) -> Option<(u32, u64)> {
        let level = self.occupied.iter().position(|word| *word != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let level = level as u32;
        let shift = level * DIGIT_BITS;
        let above = self.cursor >> shift >> DIGIT_BITS << DIGIT_BITS;
        Some((level * SLOTS + slot, (above | u64::from(slot)) << shift))
    }

    /// Puts an unarmed node at the end of a list.
    #[inline]
    fn append<N: Nodes>(&mut self, nodes: &mut N, index: u32, tick: u64, list: u32) {
        let last = std::mem::replace(&mut self.ends[list as usize % LISTS as usize].last, index);
        *nodes.node(index) = Node { tick, next: END | list, prev: last };
        self.set_next(nodes, last, index);
    }

    /// Moves a whole list to the end of another, in O(1).
    fn splice<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
        let End { first, last } = self.ends[from as usize];
        if first & END == 0 {
            self.link(nodes, END | from, END | from);
            self.link(nodes, self.ends[to as usize].last, first);
            self.link(nodes, last, END | to);
        }
    }

    /// Makes neighbours of two links: nodes, or the ends of a list.
    #[inline]
    fn link<N: Nodes>(&mut self, nodes: &mut N, prev: u32, next: u32) {
        self.set_next(nodes, prev, next);
        if next & END == 0 {
            nodes.node(next).prev = prev;
        } else {
            self.ends[next as usize % LISTS as usize].last = prev;
        }
    }

    /// What follows the end of a list is its first node, or the end again if there is none.
    #[inline]
    fn set_next<N: Nodes>(&mut self, nodes: &mut N, prev: u32, next: u32) {
        if prev & END == 0 {
            nodes.node(prev).next = next;
            return;
        }
        let list = prev & !END;
        self.ends[list as usize % LISTS as usize].first = next;
        let (word, bit) = (&mut self.occupied[(list / SLOTS) as usize % LEVELS], 1 << (list % SLOTS));
        *word = if next & END == 0 { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
#[path = "wheel_tests.rs"]
mod tests;
