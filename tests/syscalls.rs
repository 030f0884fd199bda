//! System calls per message, counted by strace: what is left of the cost once the instructions are few.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

mod process;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use process::{Server, echo, pattern};
use rustix::process::Signal;

/// Calls by name, of one server from start to end.
struct Calls(HashMap<String, u32>);

impl Calls {
    fn of(&self, names: &[&str]) -> f64 {
        names.iter().filter_map(|name| self.0.get(*name)).copied().map(f64::from).sum()
    }

    fn receives(&self) -> f64 {
        self.of(&["recvfrom", "recvmsg"])
    }

    fn sends(&self) -> f64 {
        self.of(&["sendto", "sendmsg"])
    }

    fn waits(&self) -> f64 {
        self.of(&["epoll_wait", "epoll_pwait", "epoll_pwait2"])
    }

    /// To the waker, which is an eventfd or a pipe.
    fn writes(&self) -> f64 {
        self.of(&["write"])
    }
}

/// Counts the calls of a server while `client` talks to it.
fn calls(arguments: &[&str], name: &str, client: impl FnOnce(&Server)) -> Calls {
    let path = std::env::temp_dir().join(format!("gaio-syscalls-{}-{name}", std::process::id()));
    let server = Server::traced(&["-c", "-o", path.to_str().unwrap()], arguments);
    client(&server);
    assert!(server.stop(Signal::TERM).success());
    let table = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // % time, seconds, usecs/call, calls, [errors], name.
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.last()?.to_string(), words.get(3)?.parse().ok()?))
    };
    let calls: HashMap<String, u32> = table.lines().filter(|line| !line.ends_with("total")).filter_map(row).collect();
    assert!(calls.contains_key("execve"), "no table of strace's: {table}");
    Calls(calls)
}

/// Start, accept, end: calls that no message causes.
const AROUND: f64 = 30.0;

/// `rounds` times a message on each of `connections`.
fn ping_pong(server: &Server, connections: usize, rounds: usize) {
    let mut peers: Vec<TcpStream> = (0..connections).map(|_| server.connect()).collect();
    let message = [5; 128];
    for _ in 0..rounds {
        for peer in &mut peers {
            peer.write_all(&message).unwrap();
        }
        for peer in &mut peers {
            peer.read_exact(&mut [0; 128]).unwrap();
        }
    }
}

#[test]
fn an_embedded_ping_pong_costs_a_receive_a_send_and_a_wait() {
    const MESSAGES: f64 = 2_000.0;
    let arguments = ["--mode", "embedded", "--read", "leased", "--ops", "linked"];
    let calls = calls(&arguments, "ping-pong", |server| ping_pong(server, 1, 2_000));
    let (receives, sends, waits) = (calls.receives(), calls.sends(), calls.waits());
    println!("{receives} receives, {sends} sends, {waits} waits for {MESSAGES} messages");
    assert!((MESSAGES..=1.02 * MESSAGES + AROUND).contains(&receives), "{receives} receives");
    assert!((MESSAGES..=1.02 * MESSAGES + AROUND).contains(&sends), "{sends} sends");
    assert!(waits <= 1.1 * MESSAGES + AROUND, "{waits} waits");
}

#[test]
fn messages_that_come_together_are_served_together() {
    const DEPTH: usize = 16;
    const MESSAGES: f64 = 2_000.0;
    let arguments = ["--mode", "embedded", "--read", "leased", "--ops", "linked"];
    let calls = calls(&arguments, "pipelined", |server| {
        let mut peer = server.connect();
        for _ in 0..2_000 / DEPTH {
            // One segment each, as far as the sender is concerned, and as many as there are.
            echo(&mut peer, &pattern(128 * DEPTH));
        }
    });
    let (receives, sends, waits) = (calls.receives(), calls.sends(), calls.waits());
    println!("{receives} receives, {sends} sends, {waits} waits for {MESSAGES} messages, {DEPTH} deep");
    for count in [receives, sends, waits] {
        assert!(count <= MESSAGES / 4.0, "{receives} receives, {sends} sends, {waits} waits");
    }
}

/// G4: at most one write per park; with work on many connections a park is rare.
#[test]
fn a_spawned_loop_under_load_is_seldom_woken_by_the_waker() {
    const MESSAGES: f64 = 64.0 * 50.0;
    for ops in ["linked", "separate"] {
        let arguments = ["--mode", "spawned", "--read", "leased", "--ops", ops];
        let calls = calls(&arguments, ops, |server| ping_pong(server, 64, 50));
        let (receives, sends, waits, writes) = (calls.receives(), calls.sends(), calls.waits(), calls.writes());
        println!("{ops}: {receives} receives, {sends} sends, {waits} waits, {writes} writes for {MESSAGES} messages");
        assert!(writes <= 0.2 * MESSAGES + AROUND, "{ops}: {writes} writes of the waker");
        assert!(receives <= 1.1 * MESSAGES + AROUND + 64.0, "{ops}: {receives} receives");
        assert!(sends <= 1.02 * MESSAGES + AROUND, "{ops}: {sends} sends");
    }
}
