//! Operations as data: made by the generator, submitted by whatever thread.

use bytes::Bytes;
use gaio::sim::Dice;
use gaio::{Conn, Lease, Op, OpId, Payload, SubmitError};

use std::time::Duration;

use crate::model::{Ticket, Verb, identity};

/// What follows a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Done,
    Same,
    Pooled,
    Leased,
}

#[derive(Debug)]
pub(crate) enum Body {
    Read(Vec<u8>),
    Exact(Vec<u8>, usize),
    Pooled,
    Leased,
    Readable,
    Vec(Vec<u8>, Then),
    Bytes(Bytes, Then),
    Static(&'static [u8], Then),
    Many(Vec<Bytes>, Then),
    Lease(Lease, Then),
    Copied(Vec<u8>, Then),
    ShutDown,
    Close,
    Release,
    Abort,
    IntoFd,
}

/// One operation, not submitted yet.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) body: Body,
    pub(crate) within: Option<Duration>,
    pub(crate) named: bool,
}

impl Spec {
    pub(crate) fn verb(&self) -> Verb {
        match &self.body {
            Body::Read(_) => Verb::Read,
            Body::Exact(_, n) => Verb::Exact(*n),
            Body::Pooled => Verb::Pooled,
            Body::Leased => Verb::Leased,
            Body::Readable => Verb::Readable,
            Body::Vec(_, then)
            | Body::Bytes(_, then)
            | Body::Static(_, then)
            | Body::Many(_, then)
            | Body::Lease(_, then)
            | Body::Copied(_, then) => {
                if *then == Then::Done {
                    Verb::Write
                } else {
                    Verb::Linked
                }
            }
            Body::ShutDown => Verb::ShutDown,
            Body::Close => Verb::Close,
            Body::Release => Verb::Release,
            Body::Abort => Verb::Abort,
            Body::IntoFd => Verb::IntoFd,
        }
    }

    /// What it writes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Body::Vec(bytes, _) | Body::Copied(bytes, _) => bytes.clone(),
            Body::Bytes(bytes, _) => bytes.to_vec(),
            Body::Static(bytes, _) => bytes.to_vec(),
            Body::Many(pieces, _) => pieces.concat(),
            Body::Lease(lease, _) => lease.to_vec(),
            _ => Vec::new(),
        }
    }

    /// Does it write bytes that are only borrowed?
    pub(crate) const fn is_borrowed(&self) -> bool {
        matches!(self.body, Body::Copied(..))
    }

    /// Of the buffer that must come back; empty if that is not known.
    pub(crate) fn identity(&self) -> Vec<usize> {
        let of_vec = |bytes: &Vec<u8>| vec![bytes.as_ptr() as usize, bytes.capacity()];
        match &self.body {
            Body::Read(bytes) | Body::Vec(bytes, _) => of_vec(bytes),
            Body::Exact(bytes, n) if bytes.capacity() >= *n => of_vec(bytes),
            Body::Bytes(bytes, _) => vec![bytes.as_ptr() as usize],
            Body::Static(bytes, _) => identity(&Payload::Static(bytes)),
            Body::Many(pieces, _) => {
                let pieces_at = pieces.iter().map(|piece| piece.as_ptr() as usize);
                [pieces.as_ptr() as usize].into_iter().chain(pieces_at).collect()
            }
            Body::Lease(lease, _) => vec![lease.as_ptr() as usize],
            _ => Vec::new(),
        }
    }

    /// Submits it. A foreign thread does not wait for room: the loop is not running meanwhile.
    pub(crate) fn submit(self, conn: &Conn<Ticket>, ticket: Ticket) -> Result<Option<OpId>, SubmitError<Ticket>> {
        let Self { body, within, named } = self;
        macro_rules! finish {
            ($op:expr) => {
                finish($op, within, named, ticket)
            };
        }
        macro_rules! write {
            ($op:expr, $then:expr) => {
                match $then {
                    Then::Pooled => finish!($op.then_read_pooled()),
                    Then::Leased => finish!($op.then_read_leased()),
                    Then::Done | Then::Same => finish!($op),
                }
            };
        }
        match body {
            Body::Read(buffer) => finish!(conn.read(buffer)),
            Body::Exact(buffer, n) => finish!(conn.read_exact(buffer, n)),
            Body::Pooled => finish!(conn.read_pooled()),
            Body::Leased => finish!(conn.read_leased()),
            Body::Readable => finish!(conn.readable()),
            Body::Vec(bytes, Then::Same) => finish!(conn.write(bytes).then_read()),
            Body::Vec(bytes, _) => finish!(conn.write(bytes)),
            Body::Bytes(bytes, then) => write!(conn.write(bytes), then),
            Body::Static(bytes, then) => write!(conn.write(bytes), then),
            Body::Many(pieces, then) => write!(conn.write_vectored(pieces), then),
            Body::Lease(lease, then) => write!(conn.write(lease), then),
            Body::Copied(bytes, then) => write!(conn.write_copied(&bytes), then),
            Body::ShutDown => finish!(conn.shutdown_write()),
            Body::Close => finish!(conn.close()),
            Body::Release => finish!(conn.release()),
            Body::Abort => finish!(conn.abort()),
            Body::IntoFd => finish!(conn.into_fd()),
        }
    }
}

fn finish<K>(
    mut op: Op<'_, Ticket, K>,
    within: Option<Duration>,
    named: bool,
    ticket: Ticket,
) -> Result<Option<OpId>, SubmitError<Ticket>> {
    if let Some(time) = within {
        op = op.within(time);
    }
    let mut id = None;
    if named {
        let (with_name, name) = op.named();
        (op, id) = (with_name, Some(name));
    }
    op.try_submit_with(ticket).map(|()| id)
}

/// So many bytes that no other operation writes at this place.
pub(crate) fn random_bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len.max(1));
    while bytes.len() < len {
        let word = dice.next().to_le_bytes();
        bytes.extend(&word[..word.len().min(len - bytes.len())]);
    }
    bytes
}

static TEXT: &[u8] = b"static bytes, of which operations write some from the beginning";

fn then(dice: &mut Dice, linked: bool) -> Then {
    match (linked, dice.roll(2)) {
        (false, _) => Then::Done,
        (true, 0) => Then::Pooled,
        (true, _) => Then::Leased,
    }
}

/// A read of any kind.
pub(crate) fn random_read(dice: &mut Dice, most: usize) -> Body {
    let n = 1 + dice.roll(most);
    match dice.roll(6) {
        0 => Body::Read(Vec::with_capacity(n)),
        1 => Body::Exact(Vec::with_capacity(n), n),
        2 => Body::Exact(Vec::with_capacity(dice.roll(2 * n)), n),
        3 => Body::Pooled,
        4 => Body::Leased,
        _ => Body::Readable,
    }
}

/// A write of any kind; linked to a read now and then. Of nothing, if it is a message.
pub(crate) fn random_write(dice: &mut Dice, most: usize, lease: Option<Lease>, may_be_empty: bool) -> Body {
    let len = if may_be_empty && dice.roll(4) == 0 { 0 } else { 1 + dice.roll(most) };
    let linked = dice.roll(3) == 0;
    let then = then(dice, linked);
    if let Some(lease) = lease {
        return Body::Lease(lease, then);
    }
    match dice.roll(5) {
        0 => Body::Vec(random_bytes(dice, len), if linked { Then::Same } else { Then::Done }),
        1 => Body::Bytes(random_bytes(dice, len).into(), then),
        2 => Body::Static(&TEXT[..len.min(TEXT.len())], then),
        3 => Body::Copied(random_bytes(dice, len), then),
        _ => {
            let mut pieces = vec![Bytes::from(random_bytes(dice, len))];
            for _ in 0..if len == 0 { 0 } else { dice.roll(20) } {
                let len = dice.roll(most);
                pieces.push(random_bytes(dice, len).into());
            }
            Body::Many(pieces, then)
        }
    }
}
