//! The block behind every handle of one connection, and the token that names its session.
//!
//! | token          | written by                        | an operation on it completes as       |
//! |----------------|-----------------------------------|----------------------------------------|
//! | `UNREGISTERED` | `delegate`                        | (waits: its delegation is in the ring) |
//! | `REFUSED`      | the loop, the kernel said no      | `NotRegistered`                        |
//! | a key          | the loop, at registration         | what happens; `Closed` once it is gone |
//!
//! Only the loop writes the token, and it only reads it itself: relaxed accesses are enough.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use crate::handoff::Counted;
use crate::sync::figures::{AtomicU32, AtomicU64};
use crate::sync::{Arc, Ordering};
use crate::watcher::bounds::NAMES;
use crate::watcher::shared::Shared;

const UNREGISTERED: u64 = 0;
const REFUSED: u64 = u64::MAX;

/// Both ends' addresses: inline for IPv4, so that an idle connection stays small.
#[derive(Debug)]
pub(crate) enum Addresses {
    Unknown,
    V4 { peer: ([u8; 4], u16), local: ([u8; 4], u16) },
    Other(Box<(SocketAddr, Option<SocketAddr>)>),
}

impl Addresses {
    pub(crate) fn new(peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        match (peer, local) {
            (None, _) => Self::Unknown,
            (Some(SocketAddr::V4(peer)), Some(SocketAddr::V4(local))) => {
                Self::V4 { peer: (peer.ip().octets(), peer.port()), local: (local.ip().octets(), local.port()) }
            }
            (Some(peer), local) => Self::Other(Box::new((peer, local))),
        }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { peer, .. } => Some(SocketAddr::from(*peer)),
            Self::Other(both) => Some(both.0),
        }
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Unknown => None,
            Self::V4 { local, .. } => Some(SocketAddr::from(*local)),
            Self::Other(both) => both.1,
        }
    }
}

/// The block behind every handle of one connection.
#[derive(Debug)]
pub(crate) struct Link<C> {
    pub(crate) shared: Arc<Shared<C>>,
    token: AtomicU64,
    /// Operations that were given a name.
    names: AtomicU32,
    /// One message per read and write: decided at delegation.
    pub(crate) datagrams: bool,
    pub(crate) addresses: Addresses,
}

impl<C> Counted for Link<C> {
    type Home = Shared<C>;

    fn home(&self) -> &Arc<Shared<C>> {
        &self.shared
    }

    fn announce(home: &Shared<C>) {
        home.announce_drop();
    }
}

impl<C> Link<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, addresses: Addresses, datagrams: bool) -> Self {
        Self { shared, token: AtomicU64::new(UNREGISTERED), names: AtomicU32::new(0), datagrams, addresses }
    }

    /// The next name for an operation.
    pub(crate) fn next_name(&self) -> NonZeroU32 {
        let before = self.names.fetch_add(1, Ordering::Relaxed);
        NonZeroU32::MIN.saturating_add(before % NAMES)
    }

    /// Says what its session is called. Loop thread only.
    #[inline]
    pub(crate) fn set_token(&self, token: u64) {
        self.token.store(token, Ordering::Relaxed);
    }

    /// Says that there will be no session. Loop thread only.
    pub(crate) fn set_refused(&self) {
        self.token.store(REFUSED, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn token(&self) -> Token {
        match self.token.load(Ordering::Relaxed) {
            UNREGISTERED => Token::Unregistered,
            REFUSED => Token::Refused,
            token => Token::Session(token),
        }
    }
}

/// What the loop knows of a connection by its handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Unregistered,
    Refused,
    Session(u64),
}
