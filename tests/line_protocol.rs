//! The tutorial's server as its users run it. What it does in each state its own tests say: `examples/line-protocol.rs`.

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::{Read, Write};
use std::net::TcpStream;

use process::{Server, example};
use rustix::process::Signal;

fn says(peer: &mut TcpStream, input: &str, output: &str) {
    peer.write_all(input.as_bytes()).unwrap();
    let mut answer = vec![0; output.len()];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), output);
}

#[test]
fn a_letter_is_left_and_read() {
    let server = Server::of(&example("line-protocol"), &[]);
    let mut ann = server.connect();
    let mut bob = server.connect();
    says(&mut bob, "hello bob\nread\n", "ok hello bob\nok 0 letters\n");
    says(&mut ann, "hello ann\nto bob 7000", "ok hello ann\n");
    // Larger than a receive buffer.
    let body = "x".repeat(65_536);
    says(&mut ann, "00\nto bob 65536\n", "error a letter has 1 to 65536 bytes\nok send 65536 bytes\n");
    says(&mut ann, &body, "ok 65536 bytes for bob\n");
    says(&mut bob, "read\n", &format!("letter ann 65536\n{body}ok 1 letters\n"));
    says(&mut ann, "quit\n", "bye quit\n");
    assert_eq!(ann.read(&mut [0; 1]).unwrap(), 0);
    drop(ann);
    let ended = std::thread::spawn(move || {
        let mut rest = String::new();
        bob.read_to_string(&mut rest).map(|_| rest)
    });
    assert!(server.stop(Signal::TERM).success());
    assert_eq!(ended.join().unwrap().unwrap(), "bye the server ends\n");
}
