//! The push server as its users run it: a process, ended by a signal, with clients that read and clients that do not.

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use process::{PATIENCE, Server, example, until, wait};
use rustix::process::Signal;

fn start(arguments: &[&str]) -> Server {
    Server::of(&example("push-server"), arguments)
}

/// With what it says on stderr.
fn overheard(arguments: &[&str]) -> (Server, BufReader<UnixStream>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(example("push-server"));
    command.stderr(OwnedFd::from(theirs));
    (Server::run(command, arguments), BufReader::new(ours))
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'), "the stream has ended behind {line:?}");
    line.trim_end().to_owned()
}

/// The number of the next line.
fn number(reader: &mut impl BufRead) -> u64 {
    let line = line(reader);
    let digits = line.strip_prefix("line ").map(|rest| rest.trim_end_matches('.'));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("it said {line:?}"))
}

/// Reads until the connection has ended, however it does.
fn read_to_any_end(mut peer: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while matches!(peer.read(&mut buffer), Ok(n) if n > 0) {}
}

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count()
}

/// The most that the process ever had resident.
fn most_resident_kib(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn everyone_gets_every_line_from_the_first_on() {
    // Patient: what is tested is that none is missing, on a machine however slow.
    let server = start(&["--every", "5", "--pad", "100", "--behind", "1000"]);
    let mut clients: Vec<_> = (0..50).map(|_| BufReader::new(server.connect())).collect();
    // What a client says is of no consequence.
    clients[0].get_mut().write_all(&[b'x'; 10_000]).unwrap();
    let firsts: Vec<_> = clients.iter_mut().map(number).collect();
    for next in 1..40 {
        for (client, first) in clients.iter_mut().zip(&firsts) {
            assert_eq!(number(client), first + next);
        }
    }
    assert!(server.stop(Signal::TERM).success());
}

#[test]
fn a_client_that_leaves_is_let_go() {
    let server = start(&["--every", "5"]);
    let mut stays = BufReader::new(server.connect());
    number(&mut stays);
    let before = descriptors(&server);
    let leaving: Vec<_> = (0..20).map(|_| BufReader::new(server.connect())).collect();
    for (i, mut client) in leaving.into_iter().enumerate() {
        number(&mut client);
        if i % 2 == 0 {
            // It ends its side, and reads what is left: an end, and no reset.
            client.get_ref().shutdown(Shutdown::Write).unwrap();
            client.read_to_end(&mut Vec::new()).unwrap();
        }
    }
    until("all are gone", || descriptors(&server) == before);
    let last = number(&mut stays);
    assert_eq!(number(&mut stays), last + 1);
    assert!(server.stop(Signal::TERM).success());
}

/// By the number of lines, and by the time of one: each with the other one out of reach.
#[test]
fn a_client_that_does_not_read_is_dropped_with_a_reason() {
    for (limits, reason) in [
        (["--behind", "3", "--patience", "3600000"], "3 lines behind"),
        (["--behind", "1000", "--patience", "200"], "a line could not be sent in time"),
    ] {
        let (server, mut said) = overheard(&[&["--every", "5", "--pad", "1000000"][..], &limits].concat());
        let before = descriptors(&server);
        let stuck = server.connect();
        let address = stuck.local_addr().unwrap();
        assert_eq!(line(&mut said), format!("dropped {address}: {reason}"));
        until("it is gone", || descriptors(&server) == before);
        read_to_any_end(stuck);
        assert!(server.stop(Signal::TERM).success());
        // It was told once, and the rest of its lines not at all.
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

/// Of a line there is one copy, however many it waits for.
#[test]
fn many_clients_that_do_not_read_cost_the_lines_and_not_a_copy_each() {
    const STUCK: usize = 30;
    let (server, mut said) = overheard(&["--every", "20", "--pad", "4000000", "--behind", "3"]);
    let stuck: Vec<_> = (0..STUCK).map(|_| server.connect()).collect();
    for _ in 0..STUCK {
        let reason = line(&mut said);
        assert!(reason.ends_with(": 3 lines behind"), "{reason:?}");
    }
    // 30 clients with 3 lines of 4 MB each would be 360 MB.
    let most = most_resident_kib(&server);
    assert!(most < 100 << 10, "at its most it had {most} KiB");
    drop(stuck);
    assert!(server.stop(Signal::TERM).success());
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = start(&["--every", "5", "--pad", "1000000", "--behind", "1000"]);
        let mut reads = BufReader::new(server.connect());
        number(&mut reads);
        let stuck = server.connect();
        assert_eq!(server.stop(signal).code(), Some(0), "{signal:?}");
        read_to_any_end(reads.into_inner());
        read_to_any_end(stuck);
    }
}

#[test]
fn bad_arguments_are_refused_with_the_usage() {
    for arguments in [&["--every"][..], &["--every", "0"], &["--behind", "0"], &["--pad", "-1"], &["--bogus", "1"]] {
        let mut command = Command::new(example("push-server"));
        let mut child = command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert_eq!(wait(&mut child).code(), Some(1), "{arguments:?}");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains("usage"), "{arguments:?}: it said {said:?}");
    }
}
