//! Datagrams: one call, one message.
//!
//! A stream has bytes and an end; here there are messages and no end. 0 is an empty message, EAGAIN means that none is
//! left, and only EAGAIN does: neither a small message nor an error says anything about those behind it.

use rustix::buffer::spare_capacity;
use rustix::io::retry_on_intr;
use rustix::net::RecvFlags;

use super::epoll::Socket;
use super::{Datagram, Errno};

/// Receives one message into the spare capacity of `buf`, which is never reallocated. What finds no room is lost; the
/// answer tells.
///
/// A buffer without room is refused (EINVAL), as for a stream, and the message stays.
pub(crate) fn recv_datagram_vec(socket: &Socket, buf: &mut Vec<u8>) -> Result<Datagram, Errno> {
    if buf.len() == buf.capacity() {
        return Err(Errno::INVAL);
    }
    // With MSG_TRUNC the kernel answers the true length, and no recvmsg with its header is needed to learn of a cut.
    let (len, whole) = retry_on_intr(|| rustix::net::recv(socket, spare_capacity(buf), RecvFlags::TRUNC))?;
    Ok(Datagram { len, whole })
}

/// Receives one message into `buf`, which must not be empty. What finds no room is lost; the answer tells.
pub(crate) fn recv_datagram_slice(socket: &Socket, buf: &mut [u8]) -> Result<Datagram, Errno> {
    if buf.is_empty() {
        return Err(Errno::INVAL);
    }
    let (len, whole) = retry_on_intr(|| rustix::net::recv(socket, &mut *buf, RecvFlags::TRUNC))?;
    Ok(Datagram { len, whole })
}

/// The length of the next message, which stays. An error that waits is told, and taken.
pub(crate) fn next_datagram(socket: &Socket) -> Result<usize, Errno> {
    let mut look = [0; 1];
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC;
    retry_on_intr(|| rustix::net::recv(socket, &mut look, flags)).map(|(_, whole)| whole)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::IoSlice;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    use super::super::epoll::Selector;
    use super::super::net::{peek, send, shutdown_write};
    use super::super::{Bits, MAX_SLICES};
    use super::*;

    /// Two non-blocking Unix datagram sockets, each the other's peer.
    pub(in crate::sys) fn unix_datagrams() -> (Socket, Socket) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        (ours.into(), theirs.into())
    }

    /// Two non-blocking UDP sockets, each the other's peer.
    pub(in crate::sys) fn udp_pair() -> (Socket, Socket) {
        let [ours, theirs] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        ours.connect(theirs.local_addr().unwrap()).unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        (ours.into(), theirs.into())
    }

    fn message(socket: &Socket, text: &[u8]) {
        assert_eq!(send(socket, &[IoSlice::new(text)]), Ok(text.len()));
    }

    /// The bits of the one registered socket's next event: what is on its way is waited for.
    fn next(selector: &Selector) -> Bits {
        let mut out = Vec::new();
        while out.is_empty() {
            selector.wait(&mut out, None).unwrap();
        }
        out[0].bits
    }

    fn no_edge(selector: &Selector) -> bool {
        let mut out = Vec::new();
        selector.wait(&mut out, Some(0)).unwrap();
        out.is_empty()
    }

    #[test]
    fn one_call_takes_one_message_and_tells_of_a_cut() {
        for (ours, theirs) in [unix_datagrams(), udp_pair()] {
            message(&theirs, b"one");
            message(&theirs, b"");
            message(&theirs, b"a longer one");
            message(&theirs, b"last");
            let mut buf = Vec::with_capacity(8);
            buf.push(b'>');
            let place = buf.as_ptr();
            assert_eq!(next_datagram(&ours), Ok(3));
            assert_eq!(recv_datagram_vec(&ours, &mut buf), Ok(Datagram { len: 3, whole: 3 }));
            assert_eq!(buf, b">one");
            assert_eq!((next_datagram(&ours), peek(&ours)), (Ok(0), Ok(0)), "an empty message, which is no end");
            assert_eq!(recv_datagram_vec(&ours, &mut buf), Ok(Datagram { len: 0, whole: 0 }));
            assert_eq!((next_datagram(&ours), peek(&ours)), (Ok(12), Ok(1)), "looking takes nothing");
            let room = buf.capacity() - buf.len();
            let cut = recv_datagram_vec(&ours, &mut buf).unwrap();
            assert_eq!((cut, cut.is_cut()), (Datagram { len: room, whole: 12 }, true));
            assert_eq!((&buf[4..], buf.as_ptr()), (&b"a longer one"[..room], place));
            assert_eq!(recv_datagram_vec(&ours, &mut buf), Err(Errno::INVAL), "no room is not an empty message");
            assert_eq!(recv_datagram_slice(&ours, &mut []), Err(Errno::INVAL));
            let mut slice = [0; 3];
            assert_eq!(recv_datagram_slice(&ours, &mut slice), Ok(Datagram { len: 3, whole: 4 }));
            assert_eq!(&slice, b"las", "the rest of the longer one went with it");
            assert_eq!(next_datagram(&ours), Err(Errno::AGAIN));
            assert_eq!(recv_datagram_slice(&ours, &mut slice), Err(Errno::AGAIN));
        }
    }

    #[test]
    fn all_slices_of_a_send_are_one_message_even_if_they_are_none() {
        for (ours, theirs) in [unix_datagrams(), udp_pair()] {
            assert_eq!(send(&theirs, &[IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"body")]), Ok(8));
            assert_eq!(send(&theirs, &[]), Ok(0));
            assert_eq!(send(&theirs, &vec![IoSlice::new(b"x"); MAX_SLICES]), Ok(MAX_SLICES));
            let too_many = vec![IoSlice::new(b"x"); MAX_SLICES + 1];
            assert_eq!(send(&theirs, &too_many), Err(Errno::MSGSIZE), "half of a message is none");
            let mut buf = [0; 16];
            assert_eq!(recv_datagram_slice(&ours, &mut buf), Ok(Datagram { len: 8, whole: 8 }));
            assert_eq!(&buf[..8], b"headbody");
            assert_eq!(next_datagram(&ours), Ok(0));
            assert!(recv_datagram_slice(&ours, &mut buf).is_ok());
            assert_eq!(next_datagram(&ours), Ok(MAX_SLICES));
        }
    }

    #[test]
    fn a_message_that_can_never_be_sent_is_refused_and_harms_nothing() {
        let huge = vec![0; 4 << 20];
        for (ours, theirs) in [unix_datagrams(), udp_pair()] {
            assert_eq!(send(&theirs, &[IoSlice::new(&huge)]), Err(Errno::MSGSIZE));
            message(&theirs, b"small");
            assert_eq!(next_datagram(&ours), Ok(5));
        }
    }

    #[test]
    fn each_message_is_an_edge_and_an_unread_one_is_not() {
        for (ours, theirs) in [unix_datagrams(), udp_pair()] {
            let selector = Selector::new().unwrap();
            selector.register(&ours, 1).unwrap();
            assert_eq!(next(&selector), Bits::WRITABLE);
            message(&theirs, b"");
            message(&theirs, b"two");
            assert_eq!(next(&selector), Bits::READABLE | Bits::WRITABLE, "an empty message is one, too");
            assert_eq!(recv_datagram_slice(&ours, &mut [0; 8]), Ok(Datagram { len: 0, whole: 0 }));
            assert!(no_edge(&selector), "so one reads on to EAGAIN");
            message(&theirs, b"three");
            assert_eq!(next(&selector), Bits::READABLE | Bits::WRITABLE);
        }
    }

    #[test]
    fn udp_a_dead_port_costs_one_call_its_error_and_no_message() {
        let (ours, theirs) = udp_pair();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        message(&theirs, b"before");
        drop(theirs);
        assert_eq!(next(&selector), Bits::READABLE | Bits::WRITABLE, "a close is not to be seen");
        message(&ours, b"to nobody");
        assert_eq!(next(&selector), Bits::READABLE | Bits::WRITABLE | Bits::HANGUP, "and this is no hang-up");
        assert_eq!(recv_datagram_slice(&ours, &mut [0; 8]), Err(Errno::CONNREFUSED), "in front of what arrived");
        assert_eq!(recv_datagram_slice(&ours, &mut [0; 8]), Ok(Datagram { len: 6, whole: 6 }));
        assert_eq!(recv_datagram_slice(&ours, &mut [0; 8]), Err(Errno::AGAIN));
        message(&ours, b"again");
        assert!(next(&selector).contains(Bits::HANGUP), "each refusal is an edge of its own");
        assert_eq!(send(&ours, &[IoSlice::new(b"taken for it")]), Err(Errno::CONNREFUSED), "and this was not sent");
        assert!(no_edge(&selector));
        message(&ours, b"and again");
        assert!(next(&selector).contains(Bits::HANGUP));
        assert_eq!(next_datagram(&ours), Err(Errno::CONNREFUSED), "a look takes it, too");
        assert_eq!(next_datagram(&ours), Err(Errno::AGAIN));
    }

    #[test]
    fn unix_a_dead_peer_is_learnt_of_by_sending_and_takes_the_unread_along() {
        let (ours, theirs) = unix_datagrams();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        message(&theirs, b"before");
        next(&selector);
        drop(theirs);
        assert!(no_edge(&selector), "nobody says so");
        assert_eq!(next_datagram(&ours), Ok(6));
        assert_eq!(send(&ours, &[IoSlice::new(b"x")]), Err(Errno::CONNREFUSED));
        assert_eq!(next_datagram(&ours), Err(Errno::AGAIN), "there is no end, not even now");
        assert_eq!(send(&ours, &[IoSlice::new(b"x")]), Err(Errno::NOTCONN));
    }

    #[test]
    fn unix_a_full_peer_is_eagain_and_its_reading_an_edge() {
        let (ours, theirs) = unix_datagrams();
        let selector = Selector::new().unwrap();
        selector.register(&ours, 1).unwrap();
        assert_eq!(next(&selector), Bits::WRITABLE);
        let slice = [IoSlice::new(&[7; 1000])];
        let sent = (0..).find(|_| send(&ours, &slice).is_err()).unwrap();
        assert!(sent > 1);
        assert_eq!(send(&ours, &slice), Err(Errno::AGAIN));
        assert!(no_edge(&selector));
        (0..sent).for_each(|_| assert!(recv_datagram_slice(&theirs, &mut [0; 1000]).is_ok()));
        assert_eq!(next(&selector), Bits::WRITABLE);
        assert_eq!(send(&ours, &slice), Ok(1000));
    }

    #[test]
    fn unix_a_full_server_of_many_is_eagain_and_its_reading_an_edge() {
        // A server that answers to nobody in particular has its own, smaller bound, and another way to wake.
        let server = UnixDatagram::unbound().unwrap();
        rustix::net::bind(&server, &rustix::net::SocketAddrUnix::new_unnamed()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect_addr(&server.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let client = Socket::from(client);
        let selector = Selector::new().unwrap();
        selector.register(&client, 1).unwrap();
        assert_eq!(next(&selector), Bits::WRITABLE);
        let sent = (0..).find(|_| send(&client, &[IoSlice::new(b"x")]).is_err()).unwrap();
        assert_eq!(send(&client, &[IoSlice::new(b"x")]), Err(Errno::AGAIN));
        while !no_edge(&selector) {}
        (0..sent).for_each(|_| assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1));
        assert_eq!(next(&selector), Bits::WRITABLE);
        assert_eq!(send(&client, &[IoSlice::new(b"x")]), Ok(1));
    }

    #[test]
    fn a_half_close_ends_nothing_at_the_other_end() {
        for (ours, theirs) in [unix_datagrams(), udp_pair()] {
            shutdown_write(&theirs).unwrap();
            assert_eq!(send(&theirs, &[IoSlice::new(b"x")]), Err(Errno::PIPE));
            assert_eq!(next_datagram(&ours), Err(Errno::AGAIN));
        }
    }
}
