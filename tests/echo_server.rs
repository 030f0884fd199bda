//! The echo server as its users run it: a process, ended by a signal, with peers good and bad.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use process::{Server, echo, echo_server, pattern, raise_descriptor_limit, until, wait};
use rustix::net::sockopt;
use rustix::process::Signal;

const MODES: [&str; 3] = ["spawned", "embedded", "typed"];

fn ways() -> impl Iterator<Item = Vec<&'static str>> {
    let proactor = ["spawned", "embedded"].into_iter().flat_map(|mode| {
        ["vec", "pooled", "leased"].into_iter().flat_map(move |read| {
            ["linked", "separate"].into_iter().map(move |ops| vec!["--mode", mode, "--read", read, "--ops", ops])
        })
    });
    let drivers =
        ["thread", "consumer"].map(|driver| vec!["--driver", driver, "--read", "pooled", "--ops", "separate"]);
    proactor.chain(drivers).chain(["1", "2"].map(|cores| vec!["--mode", "typed", "--cores", cores]))
}

/// Writes and reads at once, so that neither side's buffers are a limit; then half-closes, and reads to the end.
fn stream_through(peer: &TcpStream, bytes: &[u8]) {
    thread::scope(|scope| {
        let mut reader = peer;
        scope.spawn(move || {
            let mut writer = peer;
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{} bytes came back of {}, or changed", back.len(), bytes.len());
    });
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count()
}

#[test]
fn every_way_of_serving_echoes_and_ends_with_the_peers_half_close() {
    let bytes = pattern(3 << 20);
    for way in ways() {
        println!("{way:?}");
        let server = Server::start(&way);
        let mut peer = server.connect();
        echo(&mut peer, b"x");
        echo(&mut peer, &pattern(70_000));
        let peers: Vec<_> = (0..3).map(|_| server.connect()).collect();
        thread::scope(|scope| {
            for peer in &peers {
                scope.spawn(|| stream_through(peer, &bytes));
            }
        });
        echo(&mut peer, b"still there");
        assert!(server.stop(Signal::TERM).success(), "{way:?}");
    }
}

#[test]
fn lines_come_back_whole_and_no_sooner() {
    let server = Server::start(&["--mode", "typed", "--frames", "lines"]);
    let mut peer = server.connect();
    echo(&mut peer, b"one\ntwo\n");
    peer.write_all(b"half").unwrap();
    let mut other = server.connect();
    echo(&mut other, &[&pattern(60_000)[..], b"\n"].concat());
    peer.set_nonblocking(true).unwrap();
    assert_eq!(peer.read(&mut [0; 9]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    peer.set_nonblocking(false).unwrap();
    peer.write_all(b" a line\n").unwrap();
    let mut line = [0; 12];
    peer.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"half a line\n");
    assert!(server.stop(Signal::TERM).success());
}

/// A silent client is dropped, by a clean end: nothing was torn. One that is served in time never notices.
#[test]
fn a_deadline_on_every_operation() {
    for way in ways() {
        for (time, expected) in [("20", 0), ("3600000", 4)] {
            let server = Server::start(&[&way[..], &["--timeout", time]].concat());
            let mut peer = server.connect();
            if expected > 0 {
                echo(&mut peer, b"first");
                peer.write_all(b"more").unwrap();
            }
            assert_eq!(peer.read(&mut [0; 9]).unwrap(), expected, "{way:?}");
            assert!(server.stop(Signal::TERM).success(), "{way:?}");
        }
    }
}

#[test]
fn several_watchers_share_a_port() {
    for mode in MODES {
        let server = Server::start(&["--mode", mode, "--watchers", "2"]);
        let mut peers: Vec<_> = (0..40).map(|_| server.connect()).collect();
        for peer in &mut peers {
            echo(peer, b"to either");
        }
        assert!(server.stop(Signal::TERM).success());
    }
}

#[test]
fn a_reset_in_the_middle_ends_one_connection_and_leaks_nothing() {
    for mode in MODES {
        let server = Server::start(&["--mode", mode]);
        let mut neighbour = server.connect();
        echo(&mut neighbour, b"before");
        let before = descriptors(&server);
        for _ in 0..50 {
            let mut peer = server.connect();
            peer.write_all(&pattern(200_000)).unwrap();
            sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
            drop(peer);
            echo(&mut neighbour, b"during");
        }
        until("the descriptors are gone", || descriptors(&server) <= before);
        assert!(server.stop(Signal::TERM).success());
    }
}

/// Every second call of each kind is interrupted, from the third on.
#[test]
fn interruptions_by_signals_are_invisible() {
    const CALLS: &str = "recvfrom,recvmsg,read,sendto,sendmsg,epoll_wait,epoll_pwait,epoll_pwait2,accept4";
    let trace = format!("trace={CALLS}");
    let inject = format!("inject={}:error=EINTR:when=3+2", CALLS.replace("read,", ""));
    for mode in MODES {
        let server = Server::traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject], &["--mode", mode]);
        let mut peers: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for peer in &mut peers {
            for _ in 0..10 {
                echo(peer, &pattern(30_000));
            }
        }
        stream_through(&server.connect(), &pattern(1 << 20));
        assert!(server.stop_insisting(Signal::TERM).success());
    }
}

/// Pushes until the server takes no more, 64 MiB at most. Returns what it took.
fn push_until_blocked(peer: &mut TcpStream) -> usize {
    let chunk = pattern(64 << 10);
    peer.set_nonblocking(true).unwrap();
    let (mut pushed, mut refusals) = (0, 0);
    while pushed < 64 << 20 && refusals < 50 {
        match peer.write(&chunk) {
            Ok(n) => (pushed, refusals) = (pushed + n, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refusals += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    pushed
}

/// G3: what waits for a peer is bounded, and the others are served.
#[test]
fn a_client_that_never_reads_costs_little_and_harms_nobody() {
    for way in ways() {
        let server = Server::start(&way);
        let mut neighbour = server.connect();
        echo(&mut neighbour, &pattern(100_000));
        let before = server.resident_kib();
        let mut stuck: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for peer in &mut stuck {
            let pushed = push_until_blocked(peer);
            assert!(pushed < 64 << 20, "there is no back-pressure: the server took {pushed} bytes");
            echo(&mut neighbour, &pattern(100_000));
        }
        let grown = server.resident_kib().saturating_sub(before);
        println!("{way:?}: {grown} KiB for {} stuck peers", stuck.len());
        assert!(grown < 64 << 10, "{way:?}: grown by {grown} KiB");
    }
}

/// G8: peers that are always ready do not starve one that seldom is.
#[test]
fn greedy_neighbours_starve_nobody() {
    for mode in MODES {
        let server = Server::start(&["--mode", mode]);
        let over = AtomicBool::new(false);
        let mut quiet = server.connect();
        thread::scope(|scope| {
            for _ in 0..4 {
                let greedy = server.connect();
                let over = &over;
                scope.spawn(move || {
                    let chunk = pattern(256 << 10);
                    thread::scope(|scope| {
                        let mut reader = &greedy;
                        scope.spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
                        let mut writer = &greedy;
                        while !over.load(Ordering::Relaxed) {
                            writer.write_all(&chunk).unwrap();
                        }
                        greedy.shutdown(Shutdown::Write).unwrap();
                    });
                });
            }
            for i in 0..200 {
                echo(&mut quiet, &pattern(1 + i));
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn eight_thousand_connections_at_once_are_served() {
    const PEERS: usize = 8_000;
    raise_descriptor_limit();
    for mode in MODES {
        let server = Server::start(&["--mode", mode]);
        let mut peers: Vec<_> = (0..PEERS).map(|_| server.connect()).collect();
        for round in 0..2 {
            // A burst: everyone speaks before anyone is listened to.
            for (i, peer) in peers.iter_mut().enumerate() {
                peer.write_all(&[u8::try_from((i + round) % 251).unwrap(); 64]).unwrap();
            }
            for (i, peer) in peers.iter_mut().enumerate() {
                let mut answer = [0; 64];
                peer.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [u8::try_from((i + round) % 251).unwrap(); 64]);
            }
        }
        drop(peers);
        until("all are gone", || descriptors(&server) < 100);
        assert!(server.stop(Signal::TERM).success());
    }
}

#[test]
fn a_signal_ends_it_in_order() {
    for mode in MODES {
        for signal in [Signal::TERM, Signal::INT] {
            let server = Server::start(&["--mode", mode]);
            // One idle, one in the middle of something, one that never reads.
            let mut idle = server.connect();
            echo(&mut idle, b"hello");
            let mut busy = server.connect();
            busy.write_all(&pattern(100)).unwrap();
            let mut stuck = server.connect();
            push_until_blocked(&mut stuck);
            let status = server.stop(signal);
            assert_eq!(status.code(), Some(0), "{mode} {signal:?}: {status}");
            assert!(matches!(idle.read(&mut [0; 1]), Ok(0) | Err(_)), "the connection has ended with the server");
        }
    }
}

#[test]
fn bad_arguments_are_refused_with_the_usage() {
    for arguments in [
        &["--bogus", "1"][..],
        &["--mode"],
        &["--mode", "sideways"],
        &["--read", ""],
        &["--ops", "both"],
        &["--listen", "nowhere"],
        &["--watchers", "many"],
        &["--pin", "-1"],
        &["--help"],
    ] {
        let mut child =
            Command::new(echo_server()).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let status = wait(&mut child);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.code().is_some_and(|code| code != 0), "{arguments:?}: {status}");
        assert!(said.contains("usage"), "{arguments:?}: it said {said:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_and_no_hang() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let mut child = Command::new(echo_server()).args(["--listen", &address]).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(1));
}
