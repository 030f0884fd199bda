//! Everybody with work is served each turn: in a world where nothing goes wrong, no stream has a read that waits, and bytes
//! for it, for longer than its edge may take, which a turn that is busy with its own thread's submissions leaves for the next
//! one. A batch that is full is an excuse, so this looks only where it cannot be. A pooled read that finds the arena full has
//! its turn when all that came before it have had theirs: one batch for each of them, at worst.

use std::collections::{BTreeMap, BTreeSet};

use gaio::Limits;

use crate::floor::Floor;
use crate::model::Verb;

/// Passes that a read may be left out in: one does not ask for events, one takes it up, and some slack for neither.
const MOST: u64 = 3;

#[derive(Debug, Default)]
pub(crate) struct Served {
    /// By operation: passes that have left it out, and how many connections have asked for room meanwhile, at most.
    left_out: BTreeMap<usize, (u64, u64)>,
    pub(crate) possible: bool,
}

/// The reads that can be served now, one of each stream.
fn due(floor: &Floor) -> Vec<usize> {
    let reads = |verb: Verb| verb.is_pure_read() || verb == Verb::Linked;
    let mut due = BTreeMap::new();
    for (id, op) in floor.ops.iter().filter(|(_, op)| reads(op.verb)) {
        // The first of each. Of a linked one it is not known whether its write is through.
        due.entry(op.line).or_insert((*id, op.verb));
    }
    for op in floor.ops.values().filter(|op| op.verb == Verb::Linked) {
        due.remove(&op.line);
    }
    let can_be_served = |(line, (id, verb)): (usize, (usize, Verb))| {
        let line = &floor.lines[line];
        let has_bytes = line.messages.is_none() && line.read < line.sent && line.ending.is_none() && !line.over;
        (has_bytes && matches!(verb, Verb::Read | Verb::Leased | Verb::Readable | Verb::Pooled)).then_some(id)
    };
    due.into_iter().filter_map(can_be_served).collect()
}

/// Connections on which there is a read that needs room in the arena, or may become one.
fn crowd(floor: &Floor) -> u64 {
    let pooled = floor.ops.values().filter(|op| matches!(op.verb, Verb::Pooled | Verb::Linked));
    pooled.map(|op| op.line).collect::<BTreeSet<_>>().len() as u64
}

impl Served {
    /// Before a turn: who could be served in it?
    pub(crate) fn before(&self, floor: &Floor) -> Vec<usize> {
        let usual = Limits::default();
        let roomy = floor.limits.batch == usual.batch && floor.limits.batch_bytes == usual.batch_bytes;
        if self.possible && roomy && floor.stalls == 0 && !floor.shut_down { due(floor) } else { Vec::new() }
    }

    /// After it, and so many passes.
    pub(crate) fn after(&mut self, floor: &Floor, due: Vec<usize>, passes: u64, events: usize) {
        if passes == 0 {
            return;
        }
        let before = std::mem::take(&mut self.left_out);
        if events > usual_part() {
            return;
        }
        for id in due.into_iter().filter(|id| floor.ops.contains_key(id)) {
            let (left_out, others) = before.get(&id).copied().unwrap_or_default();
            let (passes, others) = (left_out + passes, others.max(crowd(floor)));
            let op = &floor.ops[&id];
            let most = if op.verb == Verb::Pooled { MOST + 2 * others } else { MOST };
            assert!(passes <= most, "{id} is left out by {passes} passes: {op:?}, {:?}", floor.lines[op.line]);
            self.left_out.insert(id, (passes, others));
        }
    }
}

/// Of a batch: with so many of the largest reads it is not full.
fn usual_part() -> usize {
    Limits::default().batch / 2
}
