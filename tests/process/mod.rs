//! Child processes: the examples as users run them, under strace or not.

#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// A time after which a test has hung. No test measures by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Raises the limit on descriptors as far as it goes.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// The echo server; see [`example`].
pub fn echo_server() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| example("echo-server"))
}

/// An example, built for the same profile as this test; built here if `cargo test --test …` has not.
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(name);
    let age = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    // `cargo test` builds examples too; one older than this test may be stale, and cargo knows.
    if age(&path) < age(&this) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--example", name, "--target-dir"]).arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success(), "the example does not build");
    }
    assert!(path.exists(), "no example at {}", path.display());
    path
}

/// A server in a process of its own, or under strace (then the child is strace): the echo server, or another example that
/// takes `--listen` and says where it listens.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(arguments: &[&str]) -> Self {
        Self::run(Command::new(echo_server()), arguments)
    }

    /// Another example; `program` is its path.
    pub fn of(program: &Path, arguments: &[&str]) -> Self {
        Self::run(Command::new(program), arguments)
    }

    /// Runs it under strace with those options.
    pub fn traced(options: &[&str], arguments: &[&str]) -> Self {
        let mut command = strace();
        command.args(options).arg(echo_server());
        Self::run(command, arguments)
    }

    /// Whatever the command is, with the arguments behind those it has.
    pub fn run(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { address: address.parse().unwrap(), child }
    }

    /// The pid of the server itself.
    pub fn pid(&self) -> Pid {
        let own = Pid::from_child(&self.child);
        let children = format!("/proc/{0}/task/{0}/children", own.as_raw_nonzero());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        first.unwrap_or(own)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends it by a signal, and fails if it does not end.
    pub fn stop(mut self, signal: Signal) -> ExitStatus {
        kill_process(self.pid(), signal).unwrap();
        wait(&mut self.child)
    }

    /// Ends it by a signal that is sent until it is heard: where strace makes calls fail, the handler's may be one.
    pub fn stop_insisting(mut self, signal: Signal) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            let _ = kill_process(self.pid(), signal);
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(self.pid(), Signal::KILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for a child, and fails if it does not end.
pub fn wait(child: &mut Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begin.elapsed() < PATIENCE, "the child did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `done`, and fails with `what` if that never comes.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One echo of `message`.
pub fn echo(peer: &mut TcpStream, message: &[u8]) {
    peer.write_all(message).unwrap();
    let mut answer = vec![0; message.len()];
    peer.read_exact(&mut answer).unwrap();
    assert!(answer == message, "an echo of {} bytes came back changed", message.len());
}

/// Bytes that tell where they stand.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

pub fn strace() -> Command {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    assert!(found.is_ok_and(|status| status.success()), "strace is missing: install it, as .ci/run does");
    let mut command = Command::new("strace");
    command.args(["-f", "--quiet=attach,exit,path-resolution,personality,thread-execve"]);
    command
}

/// Runs one test of this binary, `#[test] fn name`, in a process of its own with `GAIO_ROLE=child`.
pub fn in_child(mut prefix: Command, name: &str) {
    let this = std::env::current_exe().unwrap();
    let mut child = prefix
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("GAIO_ROLE", "child")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    let mut pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || pipe.read_to_string(&mut output).map(|_| output));
    let status = wait(&mut child);
    let output = reader.join().unwrap().unwrap();
    assert!(status.success() && output.contains("1 passed"), "{name}, as a child: {status}\n{output}");
}

/// Is this the child that [`in_child`] has started?
pub fn is_child() -> bool {
    std::env::var("GAIO_ROLE").is_ok()
}
