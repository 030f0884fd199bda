//! Cancelling a deadline and arming it again, beside a `BTreeMap` and a lazy `BinaryHeap`.
//!
//! What a loop does all day: operations complete long before their deadlines, in an order of their own, and the next
//! ones arm theirs. Each iteration picks one of the live deadlines at random and sets it to 1 to 70 s from a present
//! that goes on by 1 µs; after every 64 there is a turn, which takes what expired and arms it again. The nodes lie in
//! entries of 64 bytes, as those of operations do, so at 100 000 live and more the figures are those of the caches.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[cfg(not(loom))]
#[allow(dead_code, reason = "the loop uses more of it")]
#[path = "../src/event_loop/wheel.rs"]
mod wheel;

#[cfg(not(loom))]
mod bench {
    use std::cmp::Reverse;
    use std::collections::{BTreeMap, BinaryHeap};

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
        _operation: [u64; 6],
    }

    struct Entries(Vec<Entry>);

    impl Nodes for Entries {
        #[inline]
        fn node(&mut self, index: u32) -> &mut Node {
            &mut self.0[index as usize].node
        }
    }

    struct InWheel(Wheel, Entries);

    impl Deadlines for InWheel {
        fn new(live: u32) -> Self {
            Self(Wheel::new(), Entries((0..live).map(|_| Entry { node: Node::UNARMED, _operation: [0; 6] }).collect()))
        }

        fn again(&mut self, index: u32, at: u64) {
            self.0.cancel(&mut self.1, index);
            self.0.arm(&mut self.1, index, at);
        }

        fn expired(&mut self, now: u64) -> Option<u32> {
            self.0.expire(&mut self.1, now, &mut u32::MAX.clone())
        }
    }

    /// The entry keeps the key by which its deadline is found.
    struct InTree(BTreeMap<(u64, u32), ()>, Vec<u64>);

    impl Deadlines for InTree {
        fn new(live: u32) -> Self {
            Self(BTreeMap::new(), vec![0; live as usize])
        }

        fn again(&mut self, index: u32, at: u64) {
            let old = std::mem::replace(&mut self.1[index as usize], at);
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
    struct InHeap(BinaryHeap<Reverse<(u64, u32)>>, Vec<u64>);

    impl Deadlines for InHeap {
        fn new(live: u32) -> Self {
            Self(BinaryHeap::new(), vec![0; live as usize])
        }

        fn again(&mut self, index: u32, at: u64) {
            self.1[index as usize] = at;
            self.0.push(Reverse((at, index)));
            if self.0.len() > 3 * self.1.len() {
                let live = &self.1;
                self.0.retain(|Reverse((at, index))| live[*index as usize] == *at);
            }
        }

        fn expired(&mut self, now: u64) -> Option<u32> {
            while self.0.peek()?.0.0 <= now {
                let Reverse((at, index)) = self.0.pop()?;
                if self.1[index as usize] == at {
                    return Some(index);
                }
            }
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

    fn again<D: Deadlines>(criterion: &mut Criterion, name: &str) {
        let mut group = criterion.benchmark_group(name);
        // A run that is only a test need not fill the caches.
        let measured = std::env::args().any(|argument| argument == "--bench");
        for live in [1_000, 10_000, 100_000, 1_000_000] {
            group.bench_function(live.to_string(), |bencher| {
                let mut load = Load::<D>::new(if measured { live } else { live / 100 });
                bencher.iter(|| load.step());
            });
        }
        group.finish();
    }

    pub(crate) fn main() {
        let mut criterion = Criterion::default().configure_from_args();
        again::<InWheel>(&mut criterion, "wheel");
        again::<InTree>(&mut criterion, "BTreeMap");
        again::<InHeap>(&mut criterion, "lazy BinaryHeap");
        criterion.final_summary();
    }
}

fn main() {
    #[cfg(not(loom))]
    bench::main();
}
