//! The tests of gaio (the Go library), each by its name there: where its subject is tested here. What has no better place
//! is in this file.
//!
//! | gaio's test | here |
//! |---|---|
//! | EchoTiny, EchoHuge | `echo`: `eleven_bytes_…`, `a_hundred_megabytes_…`, in TCP and Unix, six ways of echoing |
//! | ReadFull | `read_exact`: `a_hundred_megabytes_in_one_read`, and the rest of that file |
//! | Bidirectional | `echo`: `both_directions_at_once` |
//! | Parallel 1k…12k × 1 KiB, × 16 B | `crowds`: `a_kibibyte_each`, `sixteen_bytes_each` |
//! | 10k random swap buffer | `crowds`: `ten_thousand_with_reads_of_every_kind` |
//! | 10k complete swap buffer | `crowds`: `ten_thousand_with_pooled_reads_and_a_small_arena` |
//! | EmptyBuffer | `reads`: `a_vector_without_room_…`; `writes`: `nothing_to_write_…`; `read_exact`: `none_and_too_many_…` |
//! | UnsupportedConn | here: `what_cannot_be_delegated`, `what_cannot_be_listened_on` |
//! | SocketClose (Free, then Read) | `close`: `an_operation_on_what_was_released` |
//! | WriteOnClosedConn | `close`: `pending_reads_are_released_at_once` (by us); `writes`: `writes_to_a_peer_that_has_gone` |
//! | GC | here: `two_hundred_forgotten_connections` |
//! | DoubleClose | here: `a_loop_that_is_ended_again_and_again`; of a connection: `close`: `closing_twice_…` |
//! | WaitIOAfterClose | `shutdown`: `waiting_after_the_end_…`, `try_wait_after_the_end_…` |
//! | ReadWriteAfterClose | `shutdown`: `what_comes_after_a_shutdown_is_refused_whole` |
//! | ContextPassing | here: `contexts_come_back_as_they_were` |
//! | Free with requests pending | `close`: `releasing_with_everything_pending` |
//! | affinity errors | `descriptors`: `a_cpu_outside_the_set_…`, `a_pinned_loop_thread_…` |
//! | Deadline | `deadlines`: `a_silent_peer`, `by_an_instant`, and the rest of that file |
//! | 1k…8k silent connections | `deadlines`: `thousands_of_silent_connections` |
//! | the heap's order | that of the wheel: `src/event_loop/wheel_tests.rs` |

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::thread;
use std::time::Duration;

use gaio::{DelegateErrorKind, EmbeddedWatcher, OpError, SubmitErrorKind, WaitError, Watcher};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket, socketpair};
use support::{Drive, Got, LONG, NETS, Net, Rig, Taken, both_drives, check, finish, read_some};

// --- UnsupportedConn -------------------------------------------------------------------------------------------------

/// Descriptors that are no stream with a peer, under the names by which a failure is to be reported.
fn unsupported() -> Vec<(&'static str, OwnedFd)> {
    let file = std::fs::File::open(env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml").unwrap();
    let folder = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (reading, writing) = rustix::pipe::pipe().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagrams = UnixDatagram::unbound().unwrap();
    let (packets, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
    let stream = |family| socket(family, SocketType::STREAM, None).unwrap();
    vec![
        ("a file", file.into()),
        ("a folder", folder.into()),
        ("a device", std::fs::File::open("/dev/null").unwrap().into()),
        ("memory", memfd_create("memory", MemfdFlags::empty()).unwrap()),
        ("a pipe to read", reading),
        ("a pipe to write", writing),
        ("an eventfd", eventfd(0, EventfdFlags::empty()).unwrap()),
        ("an epoll", epoll::create(epoll::CreateFlags::empty()).unwrap()),
        ("a UDP socket", udp.into()),
        ("Unix datagrams without a peer", datagrams.into()),
        ("sequenced packets", packets),
        ("a TCP socket without a peer", stream(AddressFamily::INET)),
        ("a TCP socket without a peer, v6", stream(AddressFamily::INET6)),
        ("a Unix socket without a peer", stream(AddressFamily::UNIX)),
    ]
}

/// Refuses each, and hands the very descriptor back as it was.
fn refused<D: Drive>(rig: &mut Rig<D>, all: Vec<(&'static str, OwnedFd)>, listen: bool) {
    for (what, descriptor) in all {
        fcntl_setfd(&descriptor, FdFlags::empty()).unwrap();
        let before = (descriptor.as_raw_fd(), fcntl_getfl(&descriptor).unwrap());
        assert!(!before.1.contains(OFlags::NONBLOCK));
        let error =
            if listen { rig.submitter.listen(descriptor).err() } else { rig.submitter.delegate(descriptor).err() };
        let error = error.unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(error.kind, DelegateErrorKind::Unsupported(why) if !why.is_empty()), "{what}: {error}");
        let back = error.socket;
        assert_eq!((back.as_raw_fd(), fcntl_getfl(&back).unwrap()), before, "{what}: not as it was");
        assert!(fcntl_getfd(&back).unwrap().is_empty(), "{what}: not as it was");
    }
    assert_eq!((rig.counters().sessions, rig.submitter.load()), (0, 0));
    rig.assert_quiet();
}

fn what_cannot_be_delegated<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let mut all = unsupported();
    all.push(("a listener", TcpListener::bind("127.0.0.1:0").unwrap().into()));
    let path = std::env::temp_dir().join(format!("gaio-list-{}-{}", std::process::id(), D::SPAWNED));
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    all.push(("a Unix listener", listener.into()));
    refused(&mut rig, all, false);
}

fn what_cannot_be_listened_on<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let mut all = unsupported();
    let mut peers = Vec::new();
    for net in NETS {
        let (ours, peer) = net.pair();
        all.push(("a connection", ours));
        peers.push(peer);
    }
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(udp.local_addr().unwrap()).unwrap();
    all.push(("a UDP socket with a peer", udp.into()));
    all.push(("Unix datagrams", UnixDatagram::pair().unwrap().0.into()));
    refused(&mut rig, all, true);
}

// --- GC --------------------------------------------------------------------------------------------------------------

/// gaio's collector finds at least 100 of 200, some time. Here all of them are found when they are forgotten, and each
/// that is found is closed.
fn two_hundred_forgotten_connections<D: Drive>() {
    const ALL: usize = 200;
    let mut rig = Rig::<D>::new();
    let before = support::descriptors();
    let mut peers = Vec::new();
    for i in 0..ALL {
        let (conn, mut peer) = rig.connect(if i % 2 == 0 { Net::Tcp } else { Net::Unix });
        peer.write_all(b"once").unwrap();
        conn.read_leased().submit().unwrap();
        let (same, _, got) = rig.done();
        assert!(same == conn && got.bytes() == b"once");
        conn.write(b"once").submit().unwrap();
        rig.outcome().wrote();
        // Forgotten in all states: idle, with clones, with unread input, with a peer that has ended.
        match i % 4 {
            0 => drop(conn.clone()),
            1 => peer.write_all(b"never read").unwrap(),
            2 => finish(&peer),
            _ => {}
        }
        peers.push(peer);
    }
    let mut closed = 0;
    for peer in &mut peers {
        rig.assert_quiet();
        assert_eq!(read_some(peer, 4), b"once");
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "its end, and a clean one");
        closed += 1;
    }
    drop(peers);
    while rig.counters().sessions > 0 {
        rig.assert_quiet();
    }
    assert_eq!((closed, support::descriptors()), (ALL, before), "found and closed");
    assert_eq!(rig.counters().closed_hard, 0);
}

// --- DoubleClose -----------------------------------------------------------------------------------------------------

fn a_loop_that_is_ended_again_and_again<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (conn, mut peer) = rig.connect(Net::Unix);
    conn.read(Vec::with_capacity(9)).submit_with(1).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            let submitter = rig.submitter.clone();
            scope.spawn(move || (0..10).for_each(|_| submitter.shutdown(Duration::ZERO)));
        }
    });
    let rest = rig.rest();
    let [Taken::Done(_, 1, Got::Failed(failure))] = &rest[..] else { panic!("{rest:?}") };
    assert!(matches!(failure.error, OpError::Aborted));
    drop(rest);
    rig.submitter.shutdown(LONG);
    assert_eq!(rig.watcher.wait().err(), Some(WaitError::Closed));
    drop(rig.watcher);
    rig.submitter.shutdown(Duration::ZERO);
    assert_eq!(rig.submitter.post(2).unwrap_err().kind, SubmitErrorKind::Closed);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

both_drives!(
    what_cannot_be_delegated,
    what_cannot_be_listened_on,
    two_hundred_forgotten_connections,
    a_loop_that_is_ended_again_and_again,
);

// --- ContextPassing --------------------------------------------------------------------------------------------------

/// A context that is more than a number: on the heap, so that its address tells whether it is the same one.
#[derive(Debug, PartialEq)]
struct Card {
    number: u64,
    name: String,
}

/// Hands out contexts, and knows where they are.
#[derive(Default)]
struct Deck {
    dealt: Vec<usize>,
}

impl Deck {
    fn deal(&mut self) -> Box<Card> {
        let number = self.dealt.len() as u64;
        let card = Box::new(Card { number, name: format!("card {number}") });
        self.dealt.push(std::ptr::from_ref(&*card) as usize);
        card
    }

    /// Is it the one dealt as that number, unchanged? Each comes back once.
    #[expect(clippy::boxed_local, reason = "where the box is, is the question")]
    fn returned(&mut self, card: Box<Card>) -> u64 {
        let number = usize::try_from(card.number).unwrap();
        assert_eq!(std::mem::take(&mut self.dealt[number]), std::ptr::from_ref(&*card) as usize);
        assert_eq!(*card, Card { number: card.number, name: format!("card {number}") });
        card.number
    }
}

/// Through every outcome there is, and through refusals.
fn contexts_come_back_as_they_were<D: Drive<Box<Card>>>() {
    let mut rig = Rig::<D, Box<Card>>::with(|limits| limits.ops_per_conn = 12);
    let mut deck = Deck::default();
    let (conn, mut peer) = rig.connect(Net::Tcp);
    peer.write_all(b"abcdefghijk").unwrap();
    conn.read(Vec::with_capacity(1)).submit_with(deck.deal()).unwrap();
    conn.read_exact(Vec::new(), 2).submit_with(deck.deal()).unwrap();
    conn.readable().submit_with(deck.deal()).unwrap();
    conn.read_pooled().submit_with(deck.deal()).unwrap();
    for number in 0..4 {
        let (_, card, _) = rig.done();
        assert_eq!(deck.returned(card), number);
    }
    conn.write(b"x".to_vec()).submit_with(deck.deal()).unwrap();
    let (_, card, got) = rig.done();
    assert_eq!((deck.returned(card), got.wrote().as_slice().unwrap()), (4, &b"x"[..]));
    conn.write(b"y").then_read_leased().submit_with(deck.deal()).unwrap();
    assert_eq!(read_some(&mut peer, 1), b"x");
    peer.write_all(b"answer").unwrap();
    finish(&peer);
    let (_, card, got) = rig.done();
    assert_eq!((deck.returned(card), got.bytes()), (5, &b"answer"[..]));
    conn.read(Vec::with_capacity(1)).submit_with(deck.deal()).unwrap();
    let (_, card, got) = rig.done();
    got.eof();
    assert_eq!(deck.returned(card), 6);
    rig.submitter.post(deck.deal()).unwrap();
    let Taken::Posted(card) = rig.next() else { panic!() };
    assert_eq!(deck.returned(card), 7);

    let refused = conn.read(Vec::new()).submit_with(deck.deal()).unwrap_err();
    assert_eq!((refused.kind, deck.returned(refused.context)), (SubmitErrorKind::EmptyBuffer, 8));
    let (other, _other_peer) = rig.connect(Net::Unix);
    for _ in 0..12 {
        other.read_leased().submit_with(deck.deal()).unwrap();
    }
    let refused = other.readable().submit_with(deck.deal()).unwrap_err();
    assert_eq!((refused.kind, deck.returned(refused.context)), (SubmitErrorKind::TooMany, 21));
    other.release().submit_with(deck.deal()).unwrap();
    for number in (9..21).chain([22]) {
        let (_, card, _) = rig.done();
        assert_eq!(deck.returned(card), number, "released, in order, and then the release");
    }
    rig.submitter.shutdown(Duration::ZERO);
    assert!(rig.rest().is_empty());
    let refused = conn.close().submit_with(deck.deal()).unwrap_err();
    assert_eq!((refused.kind, deck.returned(refused.context)), (SubmitErrorKind::Closed, 23));
    assert_eq!(deck.dealt, [0; 24], "all are back");
}

#[test]
fn contexts_come_back_as_they_were_spawned() {
    check(contexts_come_back_as_they_were::<Watcher<Box<Card>>>);
}

#[test]
fn contexts_come_back_as_they_were_embedded() {
    check(contexts_come_back_as_they_were::<EmbeddedWatcher<Box<Card>>>);
}
