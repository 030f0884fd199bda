//! Descriptors and other processes: everything of ours is close-on-exec (G7), and a connection that a child has a
//! duplicate of all the same ends for us as any other (G6): epoll follows the open file, not the descriptor.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use gaio::{EmbeddedWatcher, Event, OpError, Options, Watcher};
use rustix::fs::OFlags;
use rustix::io::{FdFlags, fcntl_setfd};
use support::{Drive, NETS, Net, Rig, both_drives, check, doze, finish, read_some};

// --- what a child would inherit --------------------------------------------------------------------------------------

fn numbers() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let all: Vec<u32> = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
    // Not the one that lists, which is closed by now.
    all.into_iter().filter(|number| flags(*number).is_some()).collect()
}

/// The flags of an open descriptor, close-on-exec among them, by the kernel's own account of it.
fn flags(number: u32) -> Option<OFlags> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    Some(OFlags::from_bits_retain(u32::from_str_radix(flags, 8).unwrap()))
}

/// A socket as it comes from code that cares for no flag.
fn leaky(socket: impl Into<OwnedFd>) -> OwnedFd {
    let socket = socket.into();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    socket
}

/// Every one that two loops open or are given: selector, waker (an eventfd, or both ends of a pipe), the reserve for
/// accepting, listeners, connections delegated and accepted.
#[test]
fn every_descriptor_of_a_loop_is_close_on_exec() {
    check(|| {
        let before = numbers();
        let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
        let (mut embedded, embedded_submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
        let mut kept = Vec::new();
        let mut peers = Vec::new();
        let mut listeners = Vec::new();
        for submitter in [&submitter, &embedded_submitter] {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            listeners.push(submitter.listen(leaky(socket)).unwrap());
            peers.push(OwnedFd::from(TcpStream::connect(address).unwrap()));
            for net in NETS {
                let (ours, peer) = net.pair();
                kept.push(submitter.delegate(leaky(ours)).unwrap());
                peers.push(peer.into());
            }
        }
        for mut batch in [watcher.wait().unwrap(), embedded.turn(None).unwrap()] {
            let Some(Event::Accepted { conn, .. }) = batch.next() else { panic!("one of each") };
            kept.push(conn);
        }
        let theirs: BTreeSet<u32> = peers.iter().map(|peer| u32::try_from(peer.as_raw_fd()).unwrap()).collect();
        let ours: Vec<u32> = numbers().into_iter().filter(|n| !before.contains(n) && !theirs.contains(n)).collect();
        let flags: Vec<(u32, OFlags)> = ours.into_iter().map(|n| (n, flags(n).unwrap())).collect();
        // Two each of selector, waker, reserve, listener and accepted one, and four delegated ones.
        assert!(flags.len() >= 14, "{flags:?}");
        for (number, flags) in flags {
            let target = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            assert!(flags.contains(OFlags::CLOEXEC), "{number} ({}) would be inherited", target.display());
        }
    });
}

// --- what a child has all the same -----------------------------------------------------------------------------------

/// A child whose output is a duplicate of a socket: it copies there what we tell it.
struct Parrot(Child, ChildStdin);

impl Parrot {
    fn holding(duplicate: OwnedFd) -> Self {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(duplicate).spawn().unwrap();
        let words = child.stdin.take().unwrap();
        Self(child, words)
    }

    fn says(&mut self, words: &[u8]) {
        self.1.write_all(words).unwrap();
    }

    fn ends(self) {
        let Self(mut child, words) = self;
        drop(words);
        assert!(child.wait().unwrap().success());
    }
}

/// Few turns in a while in which nothing concerns the loop.
fn assert_idle<D: Drive>(rig: &mut Rig<D>) {
    rig.assert_quiet();
    let before = rig.counters();
    if D::SPAWNED {
        doze();
    } else {
        assert_eq!(rig.watcher.wait_timeout(Duration::from_millis(300)).unwrap().len(), 0);
    }
    let (turns, polls) = (rig.counters().turns - before.turns, rig.counters().polls - before.polls);
    assert!(turns <= 4 && polls <= 4, "{turns} turns, {polls} polls for a connection that is gone");
}

/// Released here, open there: the loop hears no more of it, whatever comes in, and the descriptor's next owner even less.
fn released_while_a_child_has_it<D: Drive>() {
    for net in NETS {
        let mut rig = Rig::<D>::new();
        let (ours, mut peer) = net.pair();
        let number = ours.as_raw_fd();
        let mut parrot = Parrot::holding(ours.try_clone().unwrap());
        let conn = rig.submitter.delegate(ours).unwrap();
        conn.read(Vec::with_capacity(9)).submit_with(1).unwrap();
        rig.assert_quiet();
        conn.release().submit_with(2).unwrap();
        let (_, context, got) = rig.done();
        assert!(context == 1 && matches!(got.failed().error, OpError::Released));
        let (_, context, got) = rig.done();
        got.closed();
        assert_eq!(context, 2);

        // Its number, very likely; then its peer's bytes are on their way to an open file that only the child has.
        let (next, mut next_peer) = rig.connect(Net::Unix);
        assert!(std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok(), "the lowest free number is used again");
        next.read(Vec::with_capacity(64)).submit_with(3).unwrap();
        for _ in 0..10 {
            peer.write_all(b"nobody reads this").unwrap();
        }
        parrot.says(b"still open here");
        assert_eq!(read_some(&mut peer, 15), b"still open here");
        assert_idle(&mut rig);
        next_peer.write_all(b"mine").unwrap();
        let (_, context, got) = rig.done();
        assert_eq!((context, got.read().as_slice()), (3, &b"mine"[..]));
        conn.readable().submit().unwrap();
        assert!(matches!(rig.outcome().failed().error, OpError::Closed));

        parrot.ends();
        // Now it is closed, with unread input.
        support::read_to_its_end(&mut peer);
        assert_idle(&mut rig);
    }
}

/// A graceful close ends the connection, not only our descriptor: the peer hears of it though the child has one, too.
fn closed_while_a_child_has_it<D: Drive>() {
    for (net, peer_ends_first) in NETS.into_iter().flat_map(|net| [(net, false), (net, true)]) {
        let mut rig = Rig::<D>::new();
        let (ours, mut peer) = net.pair();
        let parrot = Parrot::holding(ours.try_clone().unwrap());
        let conn = rig.submitter.delegate(ours).unwrap();
        if peer_ends_first {
            finish(&peer);
            conn.read_leased().submit().unwrap();
            rig.outcome().eof();
        }
        conn.write(b"bye").submit_with(1).unwrap();
        conn.close().submit_with(2).unwrap();
        assert_eq!(rig.done().1, 1);
        assert_eq!(support::read_all(&mut peer), b"bye");
        if !peer_ends_first {
            finish(&peer);
        }
        let (_, context, got) = rig.done();
        got.closed();
        assert_eq!(context, 2);
        assert_eq!(rig.counters().closed_hard, 0);
        assert_idle(&mut rig);
        parrot.ends();
    }
}

/// The loop ends while a child lives on with one of its connections.
fn dropped_while_a_child_has_it<D: Drive>() {
    let rig = Rig::<D>::new();
    let (ours, mut peer) = Net::Unix.pair();
    let mut parrot = Parrot::holding(ours.try_clone().unwrap());
    let conn = rig.submitter.delegate(ours).unwrap();
    conn.read_leased().submit().unwrap();
    drop(rig.watcher);
    parrot.says(b"here");
    assert_eq!(read_some(&mut peer, 4), b"here");
    parrot.ends();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

/// A child that is started while connections live has none of them: its peers see the end when we end, not when it does.
fn a_child_keeps_no_connection_alive<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let ends: Vec<_> = NETS.into_iter().map(|net| rig.connect(net)).collect();
    rig.assert_quiet();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    for (conn, mut peer) in ends {
        conn.release().submit().unwrap();
        rig.outcome().closed();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

both_drives!(
    released_while_a_child_has_it,
    closed_while_a_child_has_it,
    dropped_while_a_child_has_it,
    a_child_keeps_no_connection_alive,
);
