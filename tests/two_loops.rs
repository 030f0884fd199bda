//! The example of a hand-over runs to its end, and each of its three actors saw what it should.

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::Read;
use std::process::{Command, Stdio};

use process::{example, wait};

#[test]
fn a_connection_changes_hands_and_nothing_of_it_is_lost() {
    let mut child = Command::new(example("two-loops")).stdout(Stdio::piped()).spawn().unwrap();
    let status = wait(&mut child);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    // Each speaks from a thread of its own, so only its own lines have an order.
    let of = |who: &str| said.lines().filter_map(|line| line.strip_prefix(who)).collect::<Vec<_>>();
    assert_eq!(of("front: "), [r#""the back, please" is asked for, 6 bytes were read beyond it"#]);
    assert_eq!(of("back: "), [r#""one" has come"#, r#""two" has come"#, r#""three" has come"#, "the client has ended"]);
    assert_eq!(
        of("client: "),
        [
            r#"heard "the back has one""#,
            r#"heard "the back has two""#,
            r#"heard "the back has three""#,
            "it was closed in order"
        ]
    );
    assert_eq!(said.lines().last(), Some("two loops, one connection: done"));
}
