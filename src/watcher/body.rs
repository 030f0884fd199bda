//! The verb of an operation and its buffer: what can be asked of a connection.
//!
//! A body is moved from the caller to the ring, to its entry among the pending operations, and back out as a payload.
//! It is flat (`Then` sits beside the tag), so that a slot of the ring stays a cache line.

use std::io::IoSlice;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::SubmitErrorKind;
use crate::sys::MAX_SLICES;
use crate::watcher::Lease;
use crate::watcher::outcome::{Copied, Payload};
use crate::watcher::pool::Stash;
use crate::watcher::spent::Spent;

/// What a write does once all its bytes are out. In bits, which are tested one by one: a `match` would be a jump through a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Then(u8);

impl Then {
    const COPY: u8 = 1;
    const READ: u8 = 2;
    const SAME: u8 = 4;
    const LEASED: u8 = 8;

    pub(crate) const DONE: Self = Self(0);
    /// The lease is a copy of what was borrowed.
    pub(crate) const DONE_OF_COPY: Self = Self(Self::COPY);
    pub(crate) const READ_SAME: Self = Self(Self::READ | Self::SAME);
    pub(crate) const READ_POOLED: Self = Self(Self::READ);
    pub(crate) const READ_LEASED: Self = Self(Self::READ | Self::LEASED);

    #[inline(always)]
    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// The read that follows a write all of whose bytes are out; or else the payload, on its way back to the caller.
    ///
    /// A payload that nobody gets back goes where its drop does no harm: a lease to where the next one is drawn from, by the
    /// read that follows or else by another copy; `Bytes` to the end of the turn.
    #[inline(always)]
    pub(crate) fn becomes(self, payload: Payload, stash: &mut Stash, spent: &mut Spent) -> Result<Body, Payload> {
        if !self.has(Self::READ) {
            return Err(match payload {
                Payload::Lease(copy) if self.has(Self::COPY) => Payload::Copied(Copied::by(copy)),
                payload => payload,
            });
        }
        match payload {
            Payload::Lease(lease) if self.has(Self::LEASED) => stash.give(lease),
            Payload::Vec(mut bytes) if self.has(Self::SAME) => {
                bytes.clear();
                return Ok(Body::Read(bytes));
            }
            // Nothing else can be linked to a read into the same buffer.
            payload if self.has(Self::SAME) => return Err(payload),
            Payload::Bytes(bytes) => spent.push(bytes),
            Payload::Many(pieces) => spent.push_pieces(pieces),
            Payload::Vec(_) | Payload::Static(_) | Payload::Lease(_) | Payload::Copied(_) => {}
        }
        Ok(if self.has(Self::LEASED) { Body::ReadLeased } else { Body::ReadPooled })
    }
}

/// The verb and its buffer. Flat, so that `Then` sits beside the tag and a ring slot stays within 64 bytes.
#[derive(Debug)]
pub(crate) enum Body {
    Read(Vec<u8>),
    ReadExact(Vec<u8>, usize),
    ReadPooled,
    ReadLeased,
    Readable,
    WriteVec(Then, Vec<u8>),
    WriteBytes(Then, Bytes),
    WriteStatic(Then, &'static [u8]),
    WriteLease(Then, Lease),
    /// All in front of `piece` are out, and so many bytes of it.
    WriteMany {
        then: Then,
        piece: u32,
        offset: usize,
        pieces: Vec<Bytes>,
    },
    ShutdownWrite,
    Close,
    IntoFd,
    Release,
    Abort,
}

/// Slices of one vectored send; more go in the next.
type Slices<'b> = SmallVec<[IoSlice<'b>; 16]>;

impl Body {
    /// The bytes of a write in one piece; empty for everything else.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::WriteVec(_, bytes) => bytes,
            Self::WriteBytes(_, bytes) => bytes,
            Self::WriteStatic(_, bytes) => bytes,
            Self::WriteLease(_, lease) => lease,
            _ => &[],
        }
    }

    /// How many bytes there are to write.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::WriteVec(_, bytes) => bytes.len(),
            Self::WriteBytes(_, bytes) => bytes.len(),
            Self::WriteStatic(_, bytes) => bytes.len(),
            Self::WriteLease(_, lease) => lease.len(),
            Self::WriteMany { pieces, .. } => pieces.iter().map(Bytes::len).sum(),
            _ => 0,
        }
    }

    pub(crate) const fn many(pieces: Vec<Bytes>) -> Self {
        Self::WriteMany { then: Then::DONE, piece: 0, offset: 0, pieces }
    }

    /// Is there a piece of a vectored write that is not out?
    pub(crate) fn has_pieces(&self) -> bool {
        matches!(self, Self::WriteMany { piece, pieces, .. } if (*piece as usize) < pieces.len())
    }

    /// What of a vectored write goes out next, at most `most` of it.
    pub(crate) fn slices(&self, mut most: usize) -> Slices<'_> {
        let mut slices = Slices::new();
        let Self::WriteMany { piece, offset, pieces, .. } = self else { return slices };
        let mut skipped = *offset;
        for piece in &pieces[*piece as usize..] {
            let rest = &piece[std::mem::take(&mut skipped)..];
            let taken = rest.len().min(most);
            most -= taken;
            if taken > 0 {
                slices.push(IoSlice::new(&rest[..taken]));
            }
            if most == 0 || slices.len() == MAX_SLICES {
                break;
            }
        }
        slices
    }

    /// `n` more bytes of a vectored write are out. Where it goes on is kept: to look for that from the first piece on would
    /// take the longer the further it has come.
    pub(crate) fn advance(&mut self, n: usize) {
        let Self::WriteMany { piece, offset, pieces, .. } = self else { return };
        *offset += n;
        while let Some(done) = pieces.get(*piece as usize).map(Bytes::len).filter(|len| len <= offset) {
            *offset -= done;
            *piece += 1;
        }
    }

    #[inline]
    pub(crate) const fn is_write(&self) -> bool {
        self.then().is_some()
    }

    /// Has it its place among the writes?
    #[inline]
    pub(crate) const fn goes_out(&self) -> bool {
        self.is_write() || matches!(self, Self::ShutdownWrite | Self::Close | Self::IntoFd)
    }

    /// Closing verbs go behind everything submitted before them, on any thread.
    #[inline]
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self, Self::Close | Self::IntoFd | Self::Release | Self::Abort)
    }

    /// What follows, for a write.
    #[inline]
    pub(crate) const fn then(&self) -> Option<Then> {
        match self {
            Self::WriteVec(then, _)
            | Self::WriteBytes(then, _)
            | Self::WriteStatic(then, _)
            | Self::WriteLease(then, _)
            | Self::WriteMany { then, .. } => Some(*then),
            _ => None,
        }
    }

    /// The buffer, on its way back to the caller.
    #[inline]
    pub(crate) fn into_payload(self) -> Option<Payload> {
        Some(match self {
            Self::Read(bytes) | Self::ReadExact(bytes, _) | Self::WriteVec(_, bytes) => Payload::Vec(bytes),
            Self::WriteBytes(_, bytes) => Payload::Bytes(bytes),
            Self::WriteStatic(_, bytes) => Payload::Static(bytes),
            Self::WriteLease(_, lease) => Payload::Lease(lease),
            Self::WriteMany { pieces, .. } => Payload::Many(pieces),
            _ => return None,
        })
    }

    #[inline]
    pub(crate) fn set_then(&mut self, next: Then) {
        match self {
            Self::WriteVec(then, _)
            | Self::WriteBytes(then, _)
            | Self::WriteStatic(then, _)
            | Self::WriteLease(then, _)
            | Self::WriteMany { then, .. } => *then = next,
            _ => {}
        }
    }

    /// Refuses what could never complete, and makes the buffer ready. `datagrams`: that is what they are sent to.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, datagrams: bool) -> Result<(), SubmitErrorKind> {
        match self {
            Self::Read(bytes) => {
                bytes.clear();
                if bytes.capacity() == 0 {
                    return Err(SubmitErrorKind::EmptyBuffer);
                }
            }
            Self::ReadExact(bytes, n) => return prepare_exact(bytes, *n, datagrams),
            Self::ShutdownWrite if datagrams => return Err(SubmitErrorKind::NotAStream),
            Self::WriteMany { pieces, .. } if u32::try_from(pieces.len()).is_err() => {
                return Err(SubmitErrorKind::TooLarge);
            }
            // What has come back from a copied write: there is nothing in it to write again.
            Self::WriteLease(Then::DONE_OF_COPY, _) => return Err(SubmitErrorKind::EmptyBuffer),
            body if body.is_write() && body.len() == 0 && !datagrams => return Err(SubmitErrorKind::EmptyBuffer),
            _ => {}
        }
        Ok(())
    }
}

#[inline(never)]
fn prepare_exact(bytes: &mut Vec<u8>, n: usize, datagrams: bool) -> Result<(), SubmitErrorKind> {
    bytes.clear();
    if datagrams {
        return Err(SubmitErrorKind::NotAStream);
    }
    if n == 0 {
        return Err(SubmitErrorKind::EmptyBuffer);
    }
    bytes.try_reserve_exact(n).map_err(|_| SubmitErrorKind::TooLarge)
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Vec(bytes) => Self::WriteVec(Then::DONE, bytes),
            Payload::Bytes(bytes) => Self::WriteBytes(Then::DONE, bytes),
            Payload::Static(bytes) => Self::WriteStatic(Then::DONE, bytes),
            Payload::Lease(lease) => Self::WriteLease(Then::DONE, lease),
            Payload::Many(pieces) => Self::many(pieces),
            Payload::Copied(_) => Self::WriteLease(Then::DONE_OF_COPY, Lease::NONE),
        }
    }
}

/// What a write of one piece has to send.
pub(crate) trait Piece: AsRef<[u8]> {
    /// It has to wait.
    fn into_body(self, then: Then) -> Body;
    /// All of it is out: what its caller gets back.
    fn written(self) -> Payload;
}

impl<P: AsRef<[u8]> + Into<Payload>> Piece for P {
    #[inline(always)]
    fn into_body(self, then: Then) -> Body {
        let mut body = Body::from(self.into());
        body.set_then(then);
        body
    }

    #[inline(always)]
    fn written(self) -> Payload {
        self.into()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// However much of a vectored write goes out at a time, each byte does so once, and in order.
    #[test]
    fn pieces_go_out_once_and_in_order() {
        let pieces: Vec<Bytes> =
            ["", "ab", "", "", "cde", "f", ""].map(|piece| Bytes::from_static(piece.as_bytes())).into();
        for (most, sent_at_once) in (1..8).flat_map(|most| (1..8).map(move |sent| (most, sent))) {
            let (mut body, mut out) = (Body::many(pieces.clone()), Vec::new());
            while body.has_pieces() {
                let offered: Vec<u8> = body.slices(most).iter().flat_map(|slice| slice.to_vec()).collect();
                assert!((1..=most).contains(&offered.len()), "nothing but bytes, and no more than asked for");
                let n = offered.len().min(sent_at_once);
                out.extend_from_slice(&offered[..n]);
                body.advance(n);
            }
            assert_eq!(out, b"abcdef", "{most} asked for, {sent_at_once} sent");
            assert!(matches!(body.into_payload(), Some(Payload::Many(back)) if back == pieces));
        }
    }
}
