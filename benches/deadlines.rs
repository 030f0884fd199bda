//! Cancelling a deadline and arming it again, beside a `BTreeMap` and a lazy `BinaryHeap`.
//!
//! What a loop does all day: operations complete long before their deadlines, in an order of their own, and the next
//! ones arm theirs. Each iteration picks one of the live deadlines at random and sets it to 1 to 70 s from a present
//! that goes on by 1 µs; after every 64 there is a turn, which takes what expired and arms it again. Nodes and keys lie
//! in entries of 64 bytes, as those of operations do, so at 100 000 live and more the figures are those of the caches.
//! `nothing` is the load alone, and part of every other figure.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[cfg(not(loom))]
#[allow(dead_code, reason = "the loop uses more of it")]
#[path = "../src/event_loop/wheel.rs"]
mod wheel;

#[cfg(not(loom))]
mod bench {
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BinaryHeap};
    use std::hint::black_box;

    use criterion::Criterion;

    use crate::wheel::{Node, Nodes, Wheel};

    trait Deadlines {
        fn new(live: u32) -> Self;
        /// Cancels the deadline, if it is armed, and arms it.
        fn again(&mut self, index: u32, at: u64);
        fn expired(&mut self, now: u64) -> Option<u32>;
    }

    #[repr(align(64))]
    struct Entry {
        node: Node,
        /// For the others: the key by which its deadline is found.
        at: u64,
        _operation: [u64; 5],
    }

    struct Entries(Vec<Entry>);

    impl Entries {
        fn new(live: u32) -> Self {
            Self((0..live).map(|_| Entry { node: Node::UNARMED, at: 0, _operation: [0; 5] }).collect())
        }

        fn at(&mut self, index: u32) -> &mut u64 {
            &mut self.0[index as usize].at
        }
    }

    impl Nodes for Entries {
        #[inline]
        fn node(&mut self, index: u32) -> &mut Node {
            &mut self.0[index as usize].node
        }
    }

    struct InWheel(Wheel, Entries);

    impl Deadlines for InWheel {
        fn new(live: u32) -> Self {
            Self(Wheel::new(), Entries::new(live))
        }

        fn again(&mut self, index: u32, at: u64) {
            self.0.cancel(&mut self.1, index);
            self.0.arm(&mut self.1, index, at);
        }

        fn expired(&mut self, now: u64) -> Option<u32> {
            self.0.expire(&mut self.1, now, &mut u32::MAX.clone())
        }
    }

    struct InTree(BTreeMap<(u64, u32), ()>, Entries);

    impl Deadlines for InTree {
        fn new(live: u32) -> Self {
            Self(BTreeMap::new(), Entries::new(live))
        }

        fn again(&mut self, index: u32, at: u64) {
            let old = std::mem::replace(self.1.at(index), at);
            self.0.remove(&(old, index));
            self.0.insert((at, index), ());
        }

        fn expired(&mut self, now: u64) -> Option<u32> {
            let (&(at, index), ()) = self.0.first_key_value()?;
            (at <= now).then(|| self.0.pop_first()).map(|_| index)
        }
    }

    /// A cancelled deadline stays in the heap, and is known by not being its entry's. When two of three are of that
    /// kind they are thrown out, or the garbage of a minute would be all of the memory.
    struct InHeap(BinaryHeap<Reverse<(u64, u32)>>, Entries);

    impl Deadlines for InHeap {
        fn new(live: u32) -> Self {
            Self(BinaryHeap::new(), Entries::new(live))
        }

        fn again(&mut self, index: u32, at: u64) {
            *self.1.at(index) = at;
            self.0.push(Reverse((at, index)));
            if self.0.len() > 3 * self.1.0.len() {
                let live = &mut self.1;
                self.0.retain(|Reverse((at, index))| live.at(*index) == at);
            }
        }

        fn expired(&mut self, now: u64) -> Option<u32> {
            while self.0.peek()?.0.0 <= now {
                let Reverse((at, index)) = self.0.pop()?;
                if *self.1.at(index) == at {
                    return Some(index);
                }
            }
            None
        }
    }

    /// The load alone, to be subtracted.
    struct Nowhere;

    impl Deadlines for Nowhere {
        fn new(_: u32) -> Self {
            Self
        }

        fn again(&mut self, index: u32, at: u64) {
            black_box((index, at));
        }

        fn expired(&mut self, _: u64) -> Option<u32> {
            None
        }
    }

    struct Load<D> {
        deadlines: D,
        live: u32,
        now: u64,
        seed: u64,
    }

    impl<D: Deadlines> Load<D> {
        fn new(live: u32) -> Self {
            let mut load = Self { deadlines: D::new(live), live, now: 0, seed: 0x9e37_79b9_7f4a_7c15 };
            for index in 0..live {
                let at = load.instant();
                load.deadlines.again(index, at);
            }
            load
        }

        const fn random(&mut self) -> u64 {
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            self.seed
        }

        const fn instant(&mut self) -> u64 {
            self.now + (1 << 30) + (self.random() >> 28)
        }

        fn step(&mut self) {
            self.now += 1 << 10;
            let at = self.instant();
            let index = ((self.seed & 0xffff_ffff) * u64::from(self.live)) >> 32;
            self.deadlines.again(index as u32, at);
            if self.now % (1 << 16) == 0 {
                while let Some(index) = self.deadlines.expired(self.now) {
                    let at = self.instant();
                    self.deadlines.again(index, at);
                }
            }
        }
    }

    fn again<D: Deadlines>(criterion: &mut Criterion, name: &str, all_live: &[u32]) {
        let mut group = criterion.benchmark_group(name);
        // A run that is only a test need not fill the caches.
        let measured = std::env::args().any(|argument| argument == "--bench");
        for &live in all_live {
            group.bench_function(live.to_string(), |bencher| {
                let mut load = Load::<D>::new(if measured { live } else { live / 100 });
                bencher.iter(|| load.step());
            });
        }
        group.finish();
    }

    pub(crate) fn main() {
        let mut criterion = Criterion::default().configure_from_args();
        let live = [1_000, 10_000, 100_000, 1_000_000];
        again::<Nowhere>(&mut criterion, "nothing", &live[..1]);
        again::<InWheel>(&mut criterion, "wheel", &live);
        again::<InTree>(&mut criterion, "BTreeMap", &live);
        again::<InHeap>(&mut criterion, "lazy BinaryHeap", &live);
        criterion.final_summary();
    }
}

fn main() {
    #[cfg(not(loom))]
    bench::main();
}
