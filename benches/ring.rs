//! The ring beside crossbeam's bounded channel and `std`'s, with one producer and with two.
//!
//! Each sample moves a fixed number of 56-byte values from producers, on threads of their own, to the consumer, here.
//! Nobody parks: who finds the queue full or empty yields, so that the figures are those of the queue and not of a
//! futex. `pair` is one push and one pop on one thread: the instructions alone.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[cfg(not(loom))]
mod bench {
    use std::hint::black_box;
    use std::sync::mpsc;
    use std::thread;

    use criterion::{Criterion, Throughput};
    use gaio::handoff::{Pop, ring};

    /// A value that makes a slot of 64 bytes.
    type Value = [u64; 7];
    const CAPACITY: usize = 1024;
    const TOTAL: u64 = 100_000;

    /// Runs `producers` threads that each send their share through a `send` of their own, and receives everything here.
    fn transfer<S, R>(producers: u64, send: S, mut receive: R)
    where
        S: FnMut(Value) -> bool + Clone + Send,
        R: FnMut() -> Option<Value>,
    {
        thread::scope(|scope| {
            for _ in 0..producers {
                let mut send = send.clone();
                scope.spawn(move || {
                    for item in 0..TOTAL / producers {
                        while !send([item; 7]) {
                            thread::yield_now();
                        }
                    }
                });
            }
            drop(send);
            let mut left = TOTAL;
            while left > 0 {
                match receive() {
                    Some(value) => {
                        black_box(value);
                        left -= 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
    }

    fn transfers(criterion: &mut Criterion) {
        for producers in [1, 2] {
            let mut group = criterion.benchmark_group(format!("{producers} producers"));
            group.throughput(Throughput::Elements(TOTAL)).sample_size(20);
            group.bench_function("gaio ring", |bencher| {
                bencher.iter(|| {
                    let (producer, mut consumer) = ring(CAPACITY);
                    transfer(
                        producers,
                        move |value| producer.push(value).is_ok(),
                        || match consumer.pop() {
                            Pop::Item(value) => Some(value),
                            Pop::Unpublished | Pop::Empty => None,
                        },
                    );
                });
            });
            group.bench_function("crossbeam bounded", |bencher| {
                bencher.iter(|| {
                    let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
                    transfer(producers, move |value| sender.try_send(value).is_ok(), || receiver.try_recv().ok());
                });
            });
            group.bench_function("std sync_channel", |bencher| {
                bencher.iter(|| {
                    let (sender, receiver) = mpsc::sync_channel(CAPACITY);
                    transfer(producers, move |value| sender.try_send(value).is_ok(), || receiver.try_recv().ok());
                });
            });
            group.finish();
        }
    }

    fn pairs(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("pair");
        let value: Value = [7; 7];
        let (producer, mut consumer) = ring(CAPACITY);
        group.bench_function("gaio ring", |bencher| {
            bencher.iter(|| {
                let _ = producer.push(black_box(value));
                black_box(consumer.pop())
            });
        });
        let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
        group.bench_function("crossbeam bounded", |bencher| {
            bencher.iter(|| {
                let _ = sender.try_send(black_box(value));
                black_box(receiver.try_recv())
            });
        });
        let (sender, receiver) = mpsc::sync_channel(CAPACITY);
        group.bench_function("std sync_channel", |bencher| {
            bencher.iter(|| {
                let _ = sender.try_send(black_box(value));
                black_box(receiver.try_recv())
            });
        });
        group.finish();
    }

    pub(crate) fn main() {
        let mut criterion = Criterion::default().configure_from_args();
        pairs(&mut criterion);
        transfers(&mut criterion);
        criterion.final_summary();
    }
}

fn main() {
    #[cfg(not(loom))]
    bench::main();
}
