//! Echo: whatever comes in goes out again, whole and in order, in every way the proactor offers.
//!
//! G1 (one completion each, or an echo would stall or double), G2 (order), G8 (nobody is forgotten on the ready list).

mod support;

use std::thread;

use gaio::{Conn, Event, Outcome, Payload};
use support::{Drive, Net, Pattern, Rig, both_drives, finish};

#[derive(Clone, Copy, Debug)]
enum Reading {
    Vec,
    Pooled,
    Leased,
}

#[derive(Clone, Copy, Debug)]
struct Echo {
    reading: Reading,
    linked: bool,
}

const WAYS: [Echo; 6] = [
    Echo { reading: Reading::Vec, linked: false },
    Echo { reading: Reading::Vec, linked: true },
    Echo { reading: Reading::Pooled, linked: false },
    Echo { reading: Reading::Pooled, linked: true },
    Echo { reading: Reading::Leased, linked: false },
    Echo { reading: Reading::Leased, linked: true },
];

/// The context by which a peer says that it has seen all it wanted.
const SEEN: u64 = 1;

impl Echo {
    fn read(self, conn: &Conn<u64>) {
        match self.reading {
            Reading::Vec => conn.read(Vec::with_capacity(10_007)),
            Reading::Pooled => conn.read_pooled(),
            Reading::Leased => conn.read_leased(),
        }
        .submit()
        .unwrap();
    }

    fn serve(self, event: Event<'_, u64>) -> bool {
        let (conn, outcome) = match event {
            Event::Done { conn, outcome, .. } => (conn, outcome),
            Event::Posted(SEEN) => return true,
            other => panic!("{other:?}"),
        };
        match outcome {
            Outcome::Read(bytes) if self.linked => conn.write(bytes).then_read().submit(),
            Outcome::Read(bytes) => conn.write(bytes).submit(),
            Outcome::Pooled(bytes) if self.linked => conn.write_copied(bytes).then_read_pooled().submit(),
            Outcome::Pooled(bytes) => conn.write_copied(bytes).submit(),
            Outcome::Leased(lease) if self.linked => conn.write(lease).then_read_leased().submit(),
            Outcome::Leased(lease) => conn.write(lease).submit(),
            Outcome::Wrote(Payload::Vec(bytes)) => conn.read(bytes).submit(),
            Outcome::Wrote(_) => {
                self.read(&conn);
                Ok(())
            }
            // The last handle is dropped with this, and the connection closes: the peer reads our end.
            Outcome::Eof(_) => Ok(()),
            other => panic!("{other:?}"),
        }
        .unwrap();
        false
    }

    /// Sends `total` bytes through one connection, reads them back, and sees both ends of stream.
    fn run<D: Drive>(self, net: Net, total: usize) {
        let mut rig = Rig::<D>::new();
        let (conn, peer) = rig.connect(net);
        self.read(&conn);
        drop(conn);
        let pattern = Pattern::new();
        thread::scope(|scope| {
            let (mut sender, mut receiver) = (peer.try_clone().unwrap(), peer);
            let (submitter, pattern) = (rig.submitter.clone(), &pattern);
            scope.spawn(move || {
                pattern.send(&mut sender, total);
                finish(&sender);
            });
            scope.spawn(move || {
                pattern.receive(&mut receiver, total);
                assert!(support::read_all(&mut receiver).is_empty(), "more came back than was sent");
                submitter.post(SEEN).unwrap();
            });
            while !rig.watcher.wait().unwrap().any(|event| self.serve(event)) {}
        });
    }
}

fn eleven_bytes_over_tcp<D: Drive>() {
    WAYS.into_iter().for_each(|way| way.run::<D>(Net::Tcp, 11));
}

fn eleven_bytes_over_unix<D: Drive>() {
    WAYS.into_iter().for_each(|way| way.run::<D>(Net::Unix, 11));
}

fn three_megabytes_over_tcp<D: Drive>() {
    WAYS.into_iter().for_each(|way| way.run::<D>(Net::Tcp, 3_000_017));
}

fn three_megabytes_over_unix<D: Drive>() {
    WAYS.into_iter().for_each(|way| way.run::<D>(Net::Unix, 3_000_017));
}

fn a_hundred_megabytes_over_tcp<D: Drive>() {
    Echo { reading: Reading::Leased, linked: true }.run::<D>(Net::Tcp, 100_000_000);
}

fn a_hundred_megabytes_over_unix<D: Drive>() {
    Echo { reading: Reading::Pooled, linked: false }.run::<D>(Net::Unix, 100_000_000);
}

/// Not an echo: two streams that know nothing of each other (G2: reads and writes are independent).
fn both_directions_at_once<D: Drive>() {
    const TOTAL: usize = 20_000_003;
    const CHUNK: usize = 77_773;
    let mut rig = Rig::<D>::new();
    let (conn, peer) = rig.connect(Net::Tcp);
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let (mut sender, mut receiver) = (peer.try_clone().unwrap(), peer);
        let (submitter, theirs) = (rig.submitter.clone(), &pattern);
        scope.spawn(move || theirs.send(&mut sender, TOTAL));
        scope.spawn(move || {
            theirs.receive(&mut receiver, TOTAL);
            submitter.post(SEEN).unwrap();
        });
        let (mut queued, mut received, mut seen) = (0, 0, false);
        let write = |queued: &mut usize| {
            let n = CHUNK.min(TOTAL - *queued);
            if n > 0 {
                conn.write(pattern.at(*queued, n).to_vec()).submit().unwrap();
                *queued += n;
            }
        };
        for _ in 0..4 {
            write(&mut queued);
            conn.read(Vec::with_capacity(30_011)).submit().unwrap();
        }
        while !(seen && received == TOTAL) {
            for event in rig.watcher.wait().unwrap() {
                match event {
                    Event::Posted(SEEN) => seen = true,
                    Event::Done { outcome: Outcome::Wrote(_), .. } => write(&mut queued),
                    Event::Done { outcome: Outcome::Read(bytes), .. } => {
                        assert!(pattern.at(received, bytes.len()) == bytes, "wrong bytes from {received} on");
                        received += bytes.len();
                        conn.read(bytes).submit().unwrap();
                    }
                    // The peer's threads end, and with them the connection, before the last reads do.
                    Event::Done { outcome: Outcome::Eof(_) | Outcome::Failed(_), .. } if received == TOTAL => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

both_drives!(
    eleven_bytes_over_tcp,
    eleven_bytes_over_unix,
    three_megabytes_over_tcp,
    three_megabytes_over_unix,
    a_hundred_megabytes_over_tcp,
    a_hundred_megabytes_over_unix,
    both_directions_at_once,
);
