//! Round trips: what the way to the loop and back costs.
//!
//! - `post`: a context posted from one thread and waited for on the same: the ring, the gate, a turn, the mailbox, and
//!   two context switches, without a socket.
//! - `echo`: a message over a Unix socket pair, sent and awaited by the peer with blocking calls: what a server adds to
//!   that, in both drives and with every way to read.
//! - `turn`: the same without a peer's thread: the embedded loop alone, both ends of the pair on it.
//!
//! Two threads on few CPUs make a scheduler's benchmark of the spawned ones: compare medians of paired runs, pinned.

#[cfg(not(loom))]
mod bench {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use criterion::measurement::WallTime;
    use criterion::{BenchmarkGroup, Criterion, Throughput};
    use gaio::{Conn, EmbeddedWatcher, Event, Options, Outcome, Payload, Submitter, Watcher};

    const MESSAGE: [u8; 128] = [7; 128];

    /// How an echo reads; the vector's and the lease's answers are linked with the next read.
    #[derive(Clone, Copy, Debug)]
    enum Read {
        Vec,
        VecLinked,
        Pooled,
        LeasedLinked,
    }

    const READS: [(&str, Read); 4] = [
        ("vec", Read::Vec),
        ("vec, linked", Read::VecLinked),
        ("pooled", Read::Pooled),
        ("leased, linked", Read::LeasedLinked),
    ];

    impl Read {
        fn begin(self, conn: &Conn) {
            match self {
                Self::Vec | Self::VecLinked => conn.read(Vec::with_capacity(4_096)),
                Self::Pooled => conn.read_pooled(),
                Self::LeasedLinked => conn.read_leased(),
            }
            .submit()
            .unwrap();
        }

        /// Answers one event; false at the end of the stream.
        fn serve(self, event: Event<'_>) -> bool {
            let Event::Done { conn, outcome, .. } = event else { panic!("{event:?}") };
            match outcome {
                Outcome::Read(bytes) if matches!(self, Self::VecLinked) => conn.write(bytes).then_read().submit(),
                Outcome::Read(bytes) => conn.write(bytes).submit(),
                Outcome::Pooled(bytes) => conn.write_copied(bytes).submit(),
                Outcome::Leased(lease) => conn.write(lease).then_read_leased().submit(),
                Outcome::Wrote(Payload::Vec(bytes)) => conn.read(bytes).submit(),
                Outcome::Wrote(_) => conn.read_pooled().submit(),
                _ => return false,
            }
            .unwrap();
            true
        }
    }

    fn post(c: &mut Criterion) {
        let (mut watcher, submitter) = Watcher::<u64>::spawn_for(Options::default()).unwrap();
        c.bench_function("post, then wait (spawned)", |b| {
            b.iter(|| {
                submitter.post(7).unwrap();
                watcher.wait().unwrap().count()
            });
        });
        let (mut watcher, submitter) = EmbeddedWatcher::<u64>::new_for(Options::default()).unwrap();
        c.bench_function("post, then turn (embedded)", |b| {
            b.iter(|| {
                submitter.post(7).unwrap();
                watcher.turn(None).unwrap().count()
            });
        });
    }

    /// Sends a message through the echo and waits for it to come back.
    fn ping(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut peer: UnixStream) {
        let mut answer = [0; MESSAGE.len()];
        group.bench_function(name, |b| {
            b.iter(|| {
                peer.write_all(&MESSAGE).unwrap();
                peer.read_exact(&mut answer).unwrap();
            });
        });
        assert_eq!(answer, MESSAGE);
    }

    fn echo_spawned(c: &mut Criterion) {
        let mut group = c.benchmark_group("echo, spawned");
        group.throughput(Throughput::Elements(1));
        for (name, read) in READS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
            read.begin(&submitter.delegate(ours).unwrap());
            let server = thread::spawn(move || while watcher.wait().unwrap().all(|event| read.serve(event)) {});
            ping(&mut group, name, theirs);
            server.join().unwrap();
        }
        group.finish();
    }

    fn echo_embedded(c: &mut Criterion) {
        let mut group = c.benchmark_group("echo, embedded");
        group.throughput(Throughput::Elements(1));
        for (name, read) in READS {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let server = thread::spawn(move || {
                let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
                read.begin(&submitter.delegate(ours).unwrap());
                while watcher.turn(None).unwrap().all(|event| read.serve(event)) {}
            });
            ping(&mut group, name, theirs);
            server.join().unwrap();
        }
        group.finish();
    }

    /// Turns until `conn` has read the whole message.
    fn turn_until_read(watcher: &mut EmbeddedWatcher, conn: &Conn) -> Vec<u8> {
        loop {
            for event in watcher.turn(None).unwrap() {
                let Event::Done { conn: from, outcome, .. } = event else { panic!("{event:?}") };
                match outcome {
                    Outcome::Read(bytes) if from == *conn => return bytes,
                    Outcome::Wrote(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn both_ends(c: &mut Criterion) {
        let (mut watcher, submitter): (EmbeddedWatcher, Submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = (submitter.delegate(one).unwrap(), submitter.delegate(other).unwrap());
        let mut buffer = Vec::with_capacity(4_096);
        c.bench_function("turn: a message from one end of a pair to the other", |b| {
            b.iter(|| {
                other.read(std::mem::take(&mut buffer)).submit().unwrap();
                one.write(&MESSAGE).submit().unwrap();
                buffer = turn_until_read(&mut watcher, &other);
                assert_eq!(buffer.len(), MESSAGE.len());
            });
        });
    }

    pub(crate) fn main() {
        let criterion = Criterion::default().measurement_time(Duration::from_secs(2));
        let mut criterion = criterion.warm_up_time(Duration::from_millis(500)).configure_from_args();
        for bench in [post, echo_spawned, echo_embedded, both_ends] {
            bench(&mut criterion);
        }
        criterion.final_summary();
    }
}

fn main() {
    #[cfg(not(loom))]
    bench::main();
}
