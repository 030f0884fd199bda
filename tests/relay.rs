//! The relay as its users run it: a process between clients and a target, both of them played here.

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use process::{PATIENCE, Server, echo, example, pattern, until, wait};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::Signal;

/// A relay, and the target it relays to.
struct Rig {
    relay: Server,
    target: TcpListener,
}

impl Rig {
    fn new() -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = target.local_addr().unwrap().to_string();
        Self { relay: Server::of(&example("relay"), &["--to", &to]), target }
    }

    /// Both ends of a pair: the client's, and the target's.
    fn pair(&self) -> (TcpStream, TcpStream) {
        let near = self.relay.connect();
        let (far, _) = self.target.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        far.set_write_timeout(Some(PATIENCE)).unwrap();
        (near, far)
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.relay.pid().as_raw_nonzero())).unwrap().count()
    }
}

fn passes(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(move || from.write_all(bytes).unwrap());
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).unwrap();
        assert!(got == bytes, "{} bytes came out changed", bytes.len());
    });
}

/// Writes until the system has taken nothing for a while; tells how much it took.
fn push_until_blocked(peer: &mut TcpStream) -> usize {
    let chunk = pattern(64 << 10);
    peer.set_nonblocking(true).unwrap();
    let (mut pushed, mut refusals) = (0, 0);
    while refusals < 50 {
        assert!(pushed < 64 << 20, "nothing holds the source up");
        match peer.write(&chunk[pushed % chunk.len()..]) {
            Ok(n) => (pushed, refusals) = (pushed + n, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    peer.set_nonblocking(false).unwrap();
    pushed
}

fn ends(mut peer: &TcpStream) -> bool {
    matches!(peer.read(&mut [0; 1]), Ok(0))
}

fn is_reset(mut peer: &TcpStream) -> bool {
    matches!(peer.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_go_through_both_ways_at_once() {
    let rig = Rig::new();
    let pairs: Vec<_> = (0..4).map(|_| rig.pair()).collect();
    let bytes = pattern(3 << 20);
    thread::scope(|scope| {
        for (near, far) in &pairs {
            scope.spawn(|| passes(near, far, &bytes));
            scope.spawn(|| passes(far, near, &bytes));
        }
    });
    assert!(rig.relay.stop(Signal::TERM).success());
}

#[test]
fn a_half_close_goes_through_and_the_other_way_goes_on() {
    let rig = Rig::new();
    let idle = rig.descriptors();
    for far_first in [false, true] {
        let (near, far) = rig.pair();
        let (mut first, second) = if far_first { (&far, &near) } else { (&near, &far) };
        first.write_all(b"last words").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        let mut reader = second;
        reader.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words");
        passes(second, first, &pattern(1 << 20));
        second.shutdown(Shutdown::Write).unwrap();
        assert!(ends(first));
        until("the pair is gone", || rig.descriptors() == idle);
    }
    assert!(rig.relay.stop(Signal::TERM).success());
}

#[test]
fn a_sink_that_does_not_read_holds_its_source_up_and_costs_little() {
    const PAIRS: usize = 16;
    let rig = Rig::new();
    let (near, far) = rig.pair();
    passes(&near, &far, &pattern(1 << 20));
    let before = rig.relay.resident_kib();
    let mut stuck: Vec<_> = (0..PAIRS).map(|_| rig.pair()).collect();
    let pushed: Vec<_> = stuck.iter_mut().map(|(near, _)| push_until_blocked(near)).collect();
    let grown = rig.relay.resident_kib().saturating_sub(before);
    assert!(grown < PAIRS * 128 + 2048, "{PAIRS} stuck pairs cost {grown} KiB");
    passes(&near, &far, b"the others are served");
    // And nothing is lost of what was taken.
    let chunk = pattern(64 << 10);
    for ((near, mut far), pushed) in stuck.into_iter().zip(pushed) {
        near.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), pushed);
        assert!(all.chunks(chunk.len()).all(|part| chunk.starts_with(part)), "it came out changed");
    }
    assert!(rig.relay.stop(Signal::TERM).success());
}

/// What breaks off must not look like an end.
#[test]
fn a_reset_on_one_side_resets_the_other() {
    let rig = Rig::new();
    let idle = rig.descriptors();
    for far_breaks in [false, true] {
        let (near, far) = rig.pair();
        passes(&near, &far, b"in the middle");
        let (breaks, other) = if far_breaks { (far, near) } else { (near, far) };
        sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
        drop(breaks);
        assert!(is_reset(&other));
        until("the pair is gone", || rig.descriptors() == idle);
    }
    assert!(rig.relay.stop(Signal::TERM).success());
}

#[test]
fn a_target_that_refuses_closes_the_client() {
    let Rig { relay, target } = Rig::new();
    drop(target);
    for _ in 0..3 {
        assert!(ends(&relay.connect()));
    }
    assert!(relay.stop(Signal::TERM).success());
}

/// Its backlog is full, so a connect is neither answered nor refused.
#[test]
fn a_target_that_does_not_answer_in_time_closes_the_client() {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let deaf = TcpListener::from(socket);
    let address = deaf.local_addr().unwrap();
    let _full = TcpStream::connect(address).unwrap();
    let relay = Server::of(&example("relay"), &["--to", &address.to_string(), "--connect-within", "100"]);
    let clients: Vec<_> = (0..3).map(|_| relay.connect()).collect();
    assert!(clients.iter().all(ends));
    assert!(relay.stop(Signal::TERM).success());
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let rig = Rig::new();
        let (idle, _far) = rig.pair();
        let (mut stuck, _silent) = rig.pair();
        push_until_blocked(&mut stuck);
        assert_eq!(rig.relay.stop(signal).code(), Some(0), "{signal:?}");
        assert!(matches!((&idle).read(&mut [0; 1]), Ok(0) | Err(_)), "the connection has ended with the relay");
    }
}

#[test]
fn a_relay_to_an_echo_server_echoes() {
    let target = Server::start(&[]);
    let relay = Server::of(&example("relay"), &["--to", &target.address.to_string()]);
    echo(&mut relay.connect(), &pattern(70_000));
    assert!(relay.stop(Signal::TERM).success());
    assert!(target.stop(Signal::TERM).success());
}

#[test]
fn bad_arguments_are_refused_with_the_usage() {
    for arguments in
        [&[][..], &["--to"], &["--to", "nowhere"], &["--connect-within", "soon"], &["--bogus", "127.0.0.1:1"]]
    {
        let mut command = Command::new(example("relay"));
        let mut child = command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert_eq!(wait(&mut child).code(), Some(1), "{arguments:?}");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("usage"), "{arguments:?}: it said {said:?}");
    }
}
