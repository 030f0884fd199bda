//! Beside tokio: a connection that begins its life under it and goes on here, and completions that wake its tasks.
//!
//! The way in is `into_std` and `delegate_with`, with what the handshake has read ahead; the way back is `into_fd` and
//! `from_std`, with what of that no read has taken.

#![cfg(not(any(loom, gaio_sim)))]

mod support;

use std::net::SocketAddr;

use gaio::{Conn, EmbeddedWatcher, Event, Options, Outcome, Watcher};
use support::{Drive, Got, Rig, both_drives, check};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// A runtime on this thread alone.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

/// Another one, on a thread of its own, that speaks to `address` as a client: a line, its answer, then `rounds` echoes.
fn client(address: SocketAddr, rounds: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        runtime().block_on(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            converse(&mut stream, rounds).await;
        });
    })
}

async fn converse(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), rounds: usize) {
    // The first message comes in the same segment as the line: the handshake reads it ahead.
    stream.write_all(b"hello gaio\nearly").await.unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"welcome\nearly");
    for round in 0..rounds {
        let message = format!("message {round} of some");
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message.as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "a clean end");
}

/// The handshake: a line, and its answer. Returns the stream, and what was read beyond the line.
async fn handshake<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: S) -> (S, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(line, "hello gaio\n");
    let ahead = reader.buffer().to_vec();
    let mut stream = reader.into_inner();
    stream.write_all(b"welcome\n").await.unwrap();
    (stream, ahead)
}

/// Echoes until the peer has ended. The connection is closed by its last handle.
fn echo<D: Drive>(rig: &mut Rig<D>, conn: Conn<u64>) {
    conn.read_leased().submit().unwrap();
    drop(conn);
    loop {
        for event in rig.watcher.wait().unwrap() {
            let Event::Done { conn, outcome, .. } = event else { panic!("{event:?}") };
            match outcome {
                Outcome::Leased(lease) => conn.write(lease).then_read_leased().submit().unwrap(),
                Outcome::Eof(_) => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Lets a dropped connection's close come to its end.
fn settle<D: Drive>(rig: &mut Rig<D>) {
    while rig.counters().sessions > 0 {
        rig.assert_quiet();
    }
}

fn a_tcp_stream_accepted_and_greeted_under_tokio<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    for _ in 0..3 {
        let client = client(listener.local_addr().unwrap(), 50);
        let (stream, ahead) = runtime.block_on(async {
            let (stream, _) = listener.accept().await.unwrap();
            let (stream, ahead) = handshake(stream).await;
            // Its registration with tokio's own epoll ends here.
            (stream.into_std().unwrap(), ahead)
        });
        let peer = stream.peer_addr().unwrap();
        let conn = rig.submitter.delegate_with(stream, ahead).unwrap();
        assert_eq!(conn.peer_addr(), Some(peer));
        echo(&mut rig, conn);
        settle(&mut rig);
        client.join().unwrap();
    }
}

fn a_unix_stream_greeted_under_tokio<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let client = std::thread::spawn(move || {
        theirs.set_nonblocking(true).unwrap();
        runtime().block_on(async { converse(&mut UnixStream::from_std(theirs).unwrap(), 50).await });
    });
    ours.set_nonblocking(true).unwrap();
    let (stream, ahead) = runtime().block_on(async {
        let (stream, ahead) = handshake(UnixStream::from_std(ours).unwrap()).await;
        (stream.into_std().unwrap(), ahead)
    });
    let conn = rig.submitter.delegate_with(stream, ahead).unwrap();
    echo(&mut rig, conn);
    settle(&mut rig);
    client.join().unwrap();
}

/// There and back: greeted under tokio, two messages here, and the rest under tokio again. What was read ahead and is not
/// wanted here goes back with the socket.
fn a_stream_that_goes_back_to_tokio<D: Drive>() {
    for take in [false, true] {
        let mut rig = Rig::<D>::new();
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let client = client(listener.local_addr().unwrap(), 20);
        let (stream, ahead) = runtime.block_on(async {
            let (stream, ahead) = handshake(listener.accept().await.unwrap().0).await;
            (stream.into_std().unwrap(), ahead)
        });
        // The client's first message may still be on its way.
        let early = ahead.len();
        let conn = rig.submitter.delegate_with(stream, ahead).unwrap();
        if take {
            conn.read_exact(Vec::new(), 5).submit().unwrap();
            assert_eq!(rig.outcome().read(), b"early");
            conn.write(b"early").then_read_leased().submit().unwrap();
            let bytes = rig.outcome().bytes().to_vec();
            conn.write(bytes).submit().unwrap();
            rig.outcome().wrote();
        }
        conn.into_fd().submit().unwrap();
        let Got::Detached(detached) = rig.outcome() else { panic!() };
        assert_eq!((detached.leftover.len(), rig.counters().sessions), (if take { 0 } else { early }, 0));
        drop(conn);
        runtime.block_on(async {
            let mut stream = TcpStream::from_std(detached.socket.into()).unwrap();
            stream.write_all(&detached.leftover).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        client.join().unwrap();
    }
}

/// A listener that tokio has bound and accepted from, too, goes on here.
fn a_listener_bound_under_tokio<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let runtime = runtime();
    let listener = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _first = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        listener.accept().await.unwrap();
        listener.into_std().unwrap()
    });
    let address = listener.local_addr().unwrap();
    let listener = rig.submitter.listen(listener).unwrap();
    let client = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"ping").await.unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"ping");
        });
    });
    let support::Taken::Accepted(conn, id) = rig.next() else { panic!() };
    assert_eq!(id, listener.id());
    echo(&mut rig, conn);
    settle(&mut rig);
    client.join().unwrap();
}

/// While a stream is still tokio's, or under both, nothing breaks: a duplicate registered there does no harm here.
fn a_stream_of_which_tokio_keeps_a_duplicate<D: Drive>() {
    let mut rig = Rig::<D>::new();
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let client = client(listener.local_addr().unwrap(), 20);
    let (stream, ahead) = runtime.block_on(async { handshake(listener.accept().await.unwrap().0).await });
    let stream = stream.into_std().unwrap();
    let kept = runtime.block_on(async { TcpStream::from_std(stream.try_clone().unwrap()).unwrap() });
    let conn = rig.submitter.delegate_with(stream, ahead).unwrap();
    echo(&mut rig, conn);
    settle(&mut rig);
    client.join().unwrap();
    // Closed here, and shut down with it, so the duplicate is at its end, too.
    assert_eq!(runtime.block_on(async { { kept }.read(&mut [0]).await }).unwrap(), 0);
}

both_drives!(
    a_tcp_stream_accepted_and_greeted_under_tokio,
    a_unix_stream_greeted_under_tokio,
    a_stream_that_goes_back_to_tokio,
    a_listener_bound_under_tokio,
    a_stream_of_which_tokio_keeps_a_duplicate,
);

/// What a task awaits.
type Answer = oneshot::Sender<Vec<u8>>;

/// Contexts are senders, so a completion wakes the very task that has submitted the operation; the tasks run in a thread
/// of their own, and never block in the loop.
#[test]
fn completions_wake_tasks() {
    check(|| {
        const TASKS: usize = 20;
        let (mut watcher, submitter) = Watcher::<Option<Answer>>::spawn_for(Options::default()).unwrap();
        let ends: Vec<_> = (0..TASKS).map(|_| support::Net::Unix.pair()).collect();
        let (conns, peers): (Vec<_>, Vec<_>) =
            ends.into_iter().map(|(ours, peer)| (submitter.delegate(ours).unwrap(), peer)).unzip();
        let tasks = std::thread::spawn(move || {
            runtime().block_on(async {
                let handles: Vec<_> = conns
                    .into_iter()
                    .map(|conn| {
                        tokio::spawn(async move {
                            for round in 0..50_u8 {
                                let (sender, answer) = oneshot::channel();
                                let request = vec![round; 3];
                                conn.write(request).then_read().submit_with(Some(sender)).unwrap();
                                assert_eq!(answer.await.unwrap(), [round; 3]);
                            }
                        })
                    })
                    .collect();
                for handle in handles {
                    handle.await.unwrap();
                }
            });
            submitter.shutdown(std::time::Duration::from_secs(3_600));
        });
        // The peers echo, in a third thread.
        let peers = std::thread::spawn(move || {
            runtime().block_on(async {
                let handles: Vec<_> = peers
                    .into_iter()
                    .map(|peer| {
                        peer.set_nonblocking(true).unwrap();
                        let mut peer = UnixStream::from_std(peer).unwrap();
                        tokio::spawn(async move {
                            let (mut reader, mut writer) = peer.split();
                            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                        })
                    })
                    .collect();
                for handle in handles {
                    handle.await.unwrap();
                }
            });
        });
        let mut answered = 0;
        while let Ok(batch) = watcher.wait() {
            for event in batch {
                let Event::Done { context: Some(sender), outcome: Outcome::Read(bytes), .. } = event else {
                    panic!("{event:?}")
                };
                sender.send(bytes).unwrap();
                answered += 1;
            }
        }
        assert_eq!(answered, TASKS * 50);
        tasks.join().unwrap();
        peers.join().unwrap();
    });
}

/// An embedded loop takes its turns in a thread that runs tokio as well, one after the other: neither minds.
#[test]
fn an_embedded_loop_and_a_runtime_in_one_thread() {
    check(|| {
        let mut rig = Rig::<EmbeddedWatcher<u64>>::new();
        let (conn, peer) = rig.connect(support::Net::Unix);
        peer.set_nonblocking(true).unwrap();
        conn.read_leased().submit().unwrap();
        runtime().block_on(async {
            let mut peer = UnixStream::from_std(peer).unwrap();
            for round in 0..50_u8 {
                peer.write_all(&[round; 9]).await.unwrap();
                let (conn, _, got) = rig.done();
                assert_eq!(got.bytes(), [round; 9]);
                conn.write_copied(&[round; 5]).then_read_leased().submit().unwrap();
                rig.assert_quiet();
                let mut answer = [0; 5];
                peer.read_exact(&mut answer).await.unwrap();
                assert_eq!(answer, [round; 5]);
            }
        });
    });
}
