//! Descriptors and threads: none leaks into a child, none is left behind, and a thread is where and what it was asked
//! to be (G7).
//!
//! What is counted is the process's, so these tests take turns.

#![cfg(not(any(loom, gaio_sim)))]

mod process;

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gaio::{EmbeddedWatcher, Event, Limits, OpError, Options, Outcome, Watcher};
use process::{PATIENCE, in_child, is_child, strace, until};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What each open descriptor of this process is.
fn descriptors() -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut all: Vec<String> = all
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let target = std::fs::read_link(&path).ok()?;
            Some(format!("{} {}", path.file_name()?.to_str()?, target.display()))
        })
        // The one that lists.
        .filter(|line| !line.contains("/fd"))
        .collect();
    all.sort();
    all
}

/// Runs `body`, and fails if it leaves a descriptor behind.
#[track_caller]
fn leaves_none(body: impl FnOnce()) {
    let before = descriptors();
    body();
    // A loop thread was joined, or its end is near.
    until(&format!("descriptors were {before:?} and are now {:?}", descriptors()), || descriptors() == before);
}

/// A socket as it comes from code that cares for no flag.
fn leaky<T: Into<OwnedFd>>(socket: T) -> OwnedFd {
    let socket = socket.into();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    socket
}

#[test]
fn a_child_inherits_none_of_ours() {
    let _turn = turn();
    let list = || {
        // `ls` is exec'd by an exec'd shell; what it has open is what leaked, and its own listing.
        let output = Command::new("sh").args(["-c", "ls -l /proc/self/fd"]).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        // Sockets and anonymous inodes (epoll, eventfd); the pipes to this test are the child's own.
        let ours = |line: &&str| line.contains("socket:") || line.contains("anon_inode:");
        text.lines().filter(ours).map(str::to_string).collect::<Vec<_>>()
    };
    let before = list();
    let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
    let (_embedded, embedded) = EmbeddedWatcher::new(Options::default()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let _listener = submitter.listen(leaky(socket)).unwrap();
    let _peer = TcpStream::connect(address).unwrap();
    let accepted = watcher.wait_timeout(PATIENCE).unwrap().next();
    assert!(matches!(accepted, Some(Event::Accepted { .. })), "{accepted:?}");
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let _delegated = submitter.delegate(leaky(ours)).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let _too = embedded.delegate(leaky(ours)).unwrap();
    assert_eq!(list(), before, "G7");
}

#[test]
fn a_dropped_watcher_leaves_none_though_connections_live() {
    let _turn = turn();
    leaves_none(|| {
        let (watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
        let pairs = (0..10).map(|_| UnixStream::pair().unwrap());
        let alive: Vec<_> = pairs
            .map(|(ours, theirs)| {
                let conn = submitter.delegate(ours).unwrap();
                conn.read_leased().submit().unwrap();
                (conn, theirs)
            })
            .collect();
        let listener = submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        drop(watcher);
        for (conn, mut theirs) in alive {
            assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "closed with its watcher");
            drop(conn);
        }
        drop((listener, submitter));
    });
}

#[test]
fn a_dropped_embedded_watcher_leaves_none() {
    let _turn = turn();
    leaves_none(|| {
        let (mut watcher, submitter) = EmbeddedWatcher::new(Options::default()).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let conn = submitter.delegate(ours).unwrap();
        conn.read_leased().submit().unwrap();
        watcher.turn(Some(Duration::ZERO)).unwrap();
        // One that is still on its way in.
        let (late, mut peer_of_late) = UnixStream::pair().unwrap();
        let late = submitter.delegate(late).unwrap();
        drop(watcher);
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(peer_of_late.read(&mut [0; 1]).unwrap(), 0);
        drop((conn, late, submitter));
    });
}

/// Handles that outlive the loop hold no descriptor of a connection.
#[test]
fn what_comes_after_the_end_is_refused_and_closed_by_its_owner() {
    let _turn = turn();
    leaves_none(|| {
        let (watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
        drop(watcher);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let refused = submitter.delegate(ours).unwrap_err();
        theirs.set_nonblocking(true).unwrap();
        assert!(theirs.read(&mut [0; 1]).is_err(), "still open: it came back");
        drop(refused);
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
        assert!(submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).is_err());
    });
}

#[test]
fn what_is_refused_is_not_kept() {
    let _turn = turn();
    leaves_none(|| {
        let mut limits = Limits::default();
        limits.sessions = 1;
        let (_watcher, submitter) = Watcher::spawn(Options::default().limits(limits)).unwrap();
        let (one, _peer) = UnixStream::pair().unwrap();
        let _one = submitter.delegate(one).unwrap();
        for _ in 0..3 {
            assert!(submitter.delegate(UnixStream::pair().unwrap().0).is_err(), "too many");
            assert!(submitter.delegate(std::fs::File::open("/dev/null").unwrap()).is_err());
            assert!(submitter.delegate(TcpListener::bind("127.0.0.1:0").unwrap()).is_err());
            assert!(submitter.delegate(UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
            assert!(submitter.listen(UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
        }
    });
}

/// Options that cannot work leave no half-made loop behind.
#[test]
fn a_watcher_that_could_not_be_made_leaves_none() {
    let _turn = turn();
    leaves_none(|| {
        let mut limits = Limits::default();
        limits.batch = 0;
        assert!(Watcher::spawn(Options::default().limits(limits.clone())).is_err());
        assert!(EmbeddedWatcher::new(Options::default().limits(limits)).is_err());
        assert!(Watcher::spawn(Options::default().pin_to(1_000_000)).is_err());
        assert!(EmbeddedWatcher::new(Options::default().pin_to(1_000_000)).is_err());
    });
}

#[test]
fn an_ended_listener_is_closed() {
    let _turn = turn();
    let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
    leaves_none(|| {
        let listener = submitter.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        drop(listener);
        let ended = watcher.wait_timeout(PATIENCE).unwrap().next();
        assert!(matches!(ended, Some(Event::ListenerEnded { error: None, .. })), "{ended:?}");
    });
}

/// The second registration on the loop's thread is refused by the kernel (ENOSPC: too many watches).
#[test]
fn a_registration_that_fails_leaves_none() {
    let _turn = turn();
    if !is_child() {
        let mut command = strace();
        command.args(["-o", "/dev/null", "-e", "trace=epoll_ctl", "-e", "inject=epoll_ctl:error=ENOSPC:when=2"]);
        return in_child(command, "a_registration_that_fails_leaves_none");
    }
    let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let registered = submitter.delegate(ours).unwrap();
    leaves_none(|| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let refused = submitter.delegate(ours).unwrap();
        for _ in 0..2 {
            refused.read(Vec::with_capacity(10)).submit().unwrap();
            let event = watcher.wait_timeout(PATIENCE).unwrap().next();
            let Some(Event::Done { conn, outcome: Outcome::Failed(failure), .. }) = event else { panic!("{event:?}") };
            assert_eq!(conn, refused);
            assert!(matches!(failure.error, OpError::NotRegistered), "{failure:?}");
            assert!(failure.buffer.is_some(), "with its buffer (G1)");
        }
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "closed: nobody will serve it");
        assert_eq!(submitter.counters().sessions, 1);
    });
    drop(registered);
}

/// A close is completed when the descriptor is gone, not before (G1).
#[test]
fn a_completed_close_means_the_descriptor_is_gone() {
    let _turn = turn();
    let (mut watcher, submitter) = Watcher::spawn(Options::default()).unwrap();
    for release in [true, false] {
        let before = descriptors();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let conn = submitter.delegate(ours).unwrap();
        drop(theirs);
        if release {
            conn.release().submit().unwrap();
        } else {
            conn.close().submit().unwrap();
        }
        let event = watcher.wait_timeout(PATIENCE).unwrap().next();
        assert!(matches!(event, Some(Event::Done { outcome: Outcome::Closed, .. })), "{event:?}");
        assert_eq!(descriptors(), before);
    }
}

// --- threads ---------------------------------------------------------------------------------------------------------

fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

#[test]
fn a_loop_thread_bears_its_name_and_ends_with_its_watcher() {
    let _turn = turn();
    let named = |name: &str| thread_names().iter().filter(|other| other.trim() == name).count();
    let (gateway, _submitter) = Watcher::spawn(Options::default().name("gateway-7")).unwrap();
    let (nameless, _submitter) = Watcher::spawn(Options::default()).unwrap();
    // A thread names itself as its first act.
    until("they are named", || (named("gateway-7"), named("gaio")) == (1, 1));
    drop((gateway, nameless));
    until("they are gone", || (named("gateway-7"), named("gaio")) == (0, 0));
}

#[test]
fn a_name_that_no_thread_can_have_is_an_error() {
    let _turn = turn();
    let error = Watcher::spawn(Options::default().name("gate\0way")).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("name"), "{error}");
}

/// Pins this thread to one of the CPUs it may run on, and names one that it now may not.
fn pin_here() -> (usize, usize) {
    let allowed = sched_getaffinity(None).unwrap();
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).unwrap();
    (cpu, cpu + 1)
}

#[test]
fn a_cpu_outside_the_set_is_an_error_that_names_the_set() {
    let _turn = turn();
    // In a thread of its own, whose set the loop thread inherits.
    let body = || {
        let (allowed, other) = pin_here();
        let spawned = Watcher::spawn(Options::default().pin_to(other)).err();
        let embedded = EmbeddedWatcher::new(Options::default().pin_to(other)).err();
        for error in [spawned.unwrap(), embedded.unwrap()] {
            let text = error.to_string();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert!(text.contains(&format!("CPU {other}")) && text.ends_with(&format!(": {allowed}")), "{text}");
        }
        Watcher::spawn(Options::default().pin_to(allowed)).unwrap();
    };
    thread::spawn(body).join().unwrap();
}

#[test]
fn a_pinned_loop_thread_runs_there_and_nowhere_else() {
    let _turn = turn();
    let allowed = sched_getaffinity(None).unwrap();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(2) {
        let name = format!("pinned-{cpu}");
        let (_watcher, _submitter) = Watcher::spawn(Options::default().name(&name).pin_to(cpu)).unwrap();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let is_it = |path: &std::path::PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.into_iter().find(is_it).unwrap();
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
        assert_eq!(list.trim(), cpu.to_string());
    }
    // Only the loop's thread: this one stays free.
    assert_eq!(sched_getaffinity(None).unwrap().count(), allowed.count());
}
