//! The chat as its users run it: a process with many members, quick and slow, ended by a signal.
//!
//! `GAIO_CHAT_MEMBERS=5000` sets how many are in the crowded room. If it is not set they are 200 on one loop and 2 000 on
//! two: that is some seconds of work unoptimised, most of it millions of lines about who has joined.

#![cfg(not(any(loom, gaio_sim)))]
#![allow(clippy::print_stdout, reason = "figures, for whoever asks by --nocapture")]

mod process;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use process::{Server, example, raise_descriptor_limit, wait};
use rustix::net::sockopt;
use rustix::process::Signal;

const CORES: [&str; 2] = ["1", "2"];

fn chat() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| example("chat"))
}

fn start(cores: &str) -> Server {
    Server::of(chat(), &["--cores", cores])
}

/// Somebody at the other end of a connection.
struct Member(BufReader<TcpStream>);

/// Ends the server when everybody has gone: a graceful close waits for its peer.
fn stop(server: Server, members: impl IntoIterator<Item = Member>) {
    members.into_iter().for_each(drop);
    assert!(server.stop(Signal::TERM).success());
}

impl Member {
    fn stranger(server: &Server) -> Self {
        let mut member = Self(BufReader::with_capacity(512, server.connect()));
        assert!(member.line().starts_with("hello"));
        member
    }

    /// Somebody with a name, in a room; it has heard itself join.
    fn new(server: &Server, name: &str, room: &str) -> Self {
        let mut member = Self::stranger(server);
        member.send(&format!("nick {name}\njoin {room}"));
        member.expect(&format!("ok nick {name}"));
        member.expect(&format!("ok join {room}"));
        member.hear(&format!("joined {name}"));
        member
    }

    fn send(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line, or nothing at the end of the stream.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// As `expect`, but others may join and leave before it.
    #[track_caller]
    fn hear(&mut self, line: &str) {
        // In a crowd these are millions: no string for each.
        let mut heard = Vec::new();
        loop {
            heard.clear();
            self.0.read_until(b'\n', &mut heard).unwrap();
            if !(heard.starts_with(b"joined ") || heard.starts_with(b"left "))
                || heard.trim_ascii_end() == line.as_bytes()
            {
                break;
            }
        }
        assert_eq!(String::from_utf8_lossy(heard.trim_ascii_end()), line);
    }

    #[track_caller]
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing comes after the last line");
    }
}

/// Many in one room, on loops that the system has chosen. They come all at once, and each has heard itself join.
fn crowd(server: &Server, n: usize, room: &str) -> Vec<Member> {
    let mut members: Vec<_> = (0..n).map(|_| Member::stranger(server)).collect();
    for (i, member) in members.iter_mut().enumerate() {
        member.send(&format!("nick {room}-{i}\njoin {room}"));
    }
    for (i, member) in members.iter_mut().enumerate() {
        member.expect(&format!("ok nick {room}-{i}"));
        member.expect(&format!("ok join {room}"));
        member.hear(&format!("joined {room}-{i}"));
    }
    members
}

#[test]
fn two_members_talk() {
    for cores in CORES {
        let server = start(cores);
        let mut ann = Member::new(&server, "ann", "tea");
        let mut bob = Member::new(&server, "bob", "tea");
        ann.expect("joined bob");
        ann.send("say hello, you");
        ann.expect("said ann hello, you");
        bob.expect("said ann hello, you");
        bob.send("tell ann psst");
        bob.expect("ok tell ann");
        ann.expect("told bob psst");
        bob.send("part");
        bob.expect("ok part tea");
        ann.expect("left bob part");
        ann.send("say anybody?");
        ann.expect("said ann anybody?");
        ann.send("say\nquit");
        ann.expect("error say TEXT");
        ann.expect("bye quit");
        ann.expect_end();
        bob.send("tell ann still there?");
        bob.expect("error nobody has this name");
        stop(server, [ann, bob]);
    }
}

#[test]
fn a_name_is_given_once_on_all_loops_and_again_when_it_is_free() {
    let server = start("2");
    let mut first = Member::new(&server, "ann", "here");
    let mut others: Vec<_> = (0..20).map(|_| Member::stranger(&server)).collect();
    for other in &mut others {
        other.send("nick ann");
        other.expect("error the name is taken");
    }
    first.send("quit");
    first.expect("bye quit");
    first.expect_end();
    drop(first);
    for (i, other) in others.iter_mut().enumerate() {
        other.send("nick ann");
        other.expect(if i == 0 { "ok nick ann" } else { "error the name is taken" });
    }
    // Torn off, without a word.
    let torn = others.remove(0);
    sockopt::set_socket_linger(torn.0.get_ref(), Some(Duration::ZERO)).unwrap();
    drop(torn);
    let last = &mut others[0];
    loop {
        last.send("nick ann");
        if last.line() == "ok nick ann" {
            break;
        }
    }
    stop(server, others);
}

#[test]
fn many_rooms_do_not_hear_each_other() {
    const ROOMS: usize = 40;
    for cores in CORES {
        let server = start(cores);
        let mut rooms: Vec<_> = (0..ROOMS).map(|room| crowd(&server, 4, &format!("room{room}"))).collect();
        for (number, members) in rooms.iter_mut().enumerate() {
            for (i, member) in members.iter_mut().enumerate() {
                member.send(&format!("say I am {i} of {number}"));
            }
        }
        for (number, members) in rooms.iter_mut().enumerate() {
            for member in members.iter_mut() {
                let mut seen: Vec<_> = Vec::new();
                while seen.len() < 4 {
                    let line = member.line();
                    seen.extend(line.strip_prefix("said ").map(str::to_string));
                }
                seen.sort();
                let expected: Vec<_> = (0..4).map(|i| format!("room{number}-{i} I am {i} of {number}")).collect();
                assert_eq!(seen, expected);
            }
        }
        // From one room to another.
        let member = &mut rooms[0][0];
        member.send("join room1");
        member.hear("ok join room1");
        member.hear("joined room0-0");
        rooms[0][1].hear("left room0-0 elsewhere");
        rooms[1][3].hear("joined room0-0");
        stop(server, rooms.into_iter().flatten());
    }
}

/// Everybody reads what each has said in its order, on whatever loop; and nothing is lost or said twice.
#[test]
fn a_members_lines_arrive_in_order_everywhere() {
    const LINES: usize = 300;
    for cores in CORES {
        let server = start(cores);
        let members = crowd(&server, 8, "order");
        thread::scope(|scope| {
            for (i, mut member) in members.into_iter().enumerate() {
                scope.spawn(move || {
                    let mut writer = member.0.get_ref().try_clone().unwrap();
                    thread::scope(|scope| {
                        scope.spawn(move || {
                            for n in 0..LINES {
                                // Some in one piece with others, some alone.
                                writer.write_all(format!("say {n}\n").as_bytes()).unwrap();
                                if n % 7 == i {
                                    thread::yield_now();
                                }
                            }
                        });
                        let mut next: HashMap<String, usize> = HashMap::new();
                        while next.values().sum::<usize>() < 8 * LINES {
                            let line = member.line();
                            let Some(said) = line.strip_prefix("said ") else { continue };
                            let (who, n) = said.split_once(' ').unwrap();
                            let expected = next.entry(who.to_string()).or_default();
                            assert_eq!(n, expected.to_string(), "of {who}");
                            *expected += 1;
                        }
                        assert_eq!(next.len(), 8);
                    });
                });
            }
        });
        assert!(server.stop(Signal::TERM).success());
    }
}

#[test]
fn a_crowded_room() {
    let asked: Option<usize> = std::env::var("GAIO_CHAT_MEMBERS").ok().map(|n| n.parse().unwrap());
    raise_descriptor_limit();
    for (cores, usual) in CORES.into_iter().zip([200, 2_000]) {
        let n = asked.unwrap_or(usual);
        let server = start(cores);
        let mut members = crowd(&server, n, "hall");
        let before = server.resident_kib();
        for (i, line) in [(0, "one"), (n / 2, "two"), (n - 1, "three")] {
            members[i].send(&format!("say {line}"));
            for member in &mut members {
                member.hear(&format!("said hall-{i} {line}"));
            }
        }
        // All at once: each hears each.
        for member in members.iter_mut().take(50) {
            member.send("say me, too");
        }
        for member in &mut members {
            for _ in 0..50.min(n) {
                assert!(member.line().starts_with("said hall-"));
            }
        }
        println!("{n} members on {cores} loops: {before} KiB, then {} KiB", server.resident_kib());
        stop(server, members);
    }
}

/// G3: a member that does not read is told so and dropped; the others hear everything, and the server stays small.
#[test]
fn a_slow_member_is_dropped_and_harms_nobody() {
    for cores in CORES {
        let server = start(cores);
        let mut slow = Member::new(&server, "slow", "talk");
        let mut cut = Member::new(&server, "cut", "talk");
        let mut ann = Member::new(&server, "ann", "talk");
        let mut bob = Member::new(&server, "bob", "talk");
        ann.expect("joined bob");
        let before = server.resident_kib();
        let lines = format!("say {}\n", "x".repeat(500)).repeat(100);
        let mut left = Vec::new();
        // Until both are gone: what the system takes for each is some megabytes, then the bound.
        for n in 0.. {
            assert!(n < 1_000, "nobody was dropped");
            ann.0.get_mut().write_all(lines.as_bytes()).unwrap();
            for member in [&mut ann, &mut bob] {
                let mut heard = 0;
                while heard < 100 {
                    let line = member.line();
                    if line.starts_with("said ann") {
                        heard += 1;
                    } else {
                        left.push(line);
                    }
                }
            }
            if left.len() == 4 {
                break;
            }
        }
        left.sort();
        assert_eq!(left, ["left cut too slow", "left cut too slow", "left slow too slow", "left slow too slow"]);
        let grown = server.resident_kib().saturating_sub(before);
        println!("grown by {grown} KiB");
        assert!(grown < 16 << 10, "grown by {grown} KiB");
        // Who begins to read in time learns why.
        let mut last = String::new();
        loop {
            let line = slow.line();
            if line.is_empty() {
                break;
            }
            last = line;
        }
        assert_eq!(last, "bye too slow");
        // Who does not is cut off, with what it has not read.
        drop(slow);
        let torn = loop {
            if let Err(error) = cut.0.get_mut().write_all(b"say hello?\n") {
                break error;
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert!(matches!(torn.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{torn}");
        let mut again = Member::new(&server, "slow", "talk");
        again.send("say I am back");
        again.expect("said slow I am back");
        ann.expect("joined slow");
        ann.expect("said slow I am back");
        stop(server, [ann, bob, again]);
    }
}

/// Everybody reads, and two talk as fast as they can: more in one turn of a loop than may wait for a member. What counts
/// is what the system does not take, so nobody is too slow.
///
/// The talkers are never further ahead of the slowest reader than by one burst each. What of these is more than may wait
/// the system's buffers hold, read or not: so it is no question of the machine's speed.
#[test]
fn members_who_read_are_not_dropped_however_much_is_said() {
    const BURSTS: usize = 20;
    const LINES: usize = 450;
    const TALKERS: usize = 2;
    for cores in CORES {
        let server = start(cores);
        let mut members = crowd(&server, 4, "talk");
        let (wires, heard): (Vec<_>, Vec<_>) = (0..TALKERS).map(|_| mpsc::channel()).unzip();
        let burst = format!("say {}\n", "x".repeat(500)).repeat(LINES);
        let burst = &burst;
        thread::scope(|scope| {
            for (member, heard) in members.iter().zip(heard) {
                let mut writer = member.0.get_ref().try_clone().unwrap();
                scope.spawn(move || {
                    for _ in 0..BURSTS {
                        writer.write_all(burst.as_bytes()).unwrap();
                        // Until each member has heard all of it, or has seen that one was dropped.
                        if heard.iter().take(4).count() < 4 {
                            return;
                        }
                    }
                });
            }
            for member in &mut members {
                let wires = wires.clone();
                scope.spawn(move || {
                    for _ in 0..BURSTS {
                        let mut lines = 0;
                        while lines < TALKERS * LINES {
                            let line = member.line();
                            assert!(line.starts_with("said ") || line.starts_with("joined "), "dropped: {line:?}");
                            lines += usize::from(line.starts_with("said "));
                        }
                        wires.iter().for_each(|wire| wire.send(()).unwrap_or(()));
                    }
                });
            }
            drop(wires);
        });
        stop(server, members);
    }
}

#[test]
fn a_line_without_an_end_is_the_end() {
    let server = start("1");
    let mut ann = Member::new(&server, "ann", "tea");
    let mut bob = Member::new(&server, "bob", "tea");
    ann.expect("joined bob");
    bob.send(&format!("say {}", "x".repeat(600)));
    bob.expect("error a line has 512 bytes at most");
    bob.0.get_mut().write_all(&[b'x'; 5_000]).unwrap();
    ann.expect("left bob an endless line");
    assert!(matches!(bob.0.read(&mut [0; 1]), Ok(0) | Err(_)));
    stop(server, [ann, bob]);
}

#[test]
fn a_signal_ends_it_and_everybody_is_told() {
    for cores in CORES {
        for signal in [Signal::TERM, Signal::INT] {
            let server = start(cores);
            let members = crowd(&server, 10, "hall");
            let mut stranger = Member::stranger(&server);
            thread::scope(|scope| {
                scope.spawn(move || {
                    stranger.expect("bye the server ends");
                    stranger.expect_end();
                });
                for mut member in members {
                    scope.spawn(move || {
                        member.hear("bye the server ends");
                        member.expect_end();
                    });
                }
                let status = server.stop(signal);
                assert_eq!(status.code(), Some(0), "{cores} {signal:?}: {status}");
            });
        }
    }
}

#[test]
fn bad_arguments_are_refused_with_the_usage() {
    for arguments in [&["--bogus", "1"][..], &["--listen"], &["--listen", "nowhere"], &["--cores", "-1"]] {
        let mut child = Command::new(chat()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let status = wait(&mut child);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.code().is_some_and(|code| code != 0) && said.contains("usage"), "{arguments:?}: {said:?}");
    }
}
