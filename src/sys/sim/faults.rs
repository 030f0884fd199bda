//! Faults: what a kernel may do and rarely does, by chance, from one seed.
//!
//! What interferes is in `permit.rs`. EINTR to any other call is below the contract of `sys`: its verbs try again by
//! themselves.
//!
//! The dice are rolled in the order of the calls. So a world with one thread, or with several that hand over to each
//! other, does the same each time for the same seed; and each fault that happened is counted, so that one that never
//! does is seen.

/// A kind of fault: what a kernel may do, and rarely does.
///
/// | fault | what happens | what still holds |
/// |---|---|---|
/// | `ShortRead` | a read of a stream brings less than there is | the rest has an edge: it arrives behind the read |
/// | `ShortWrite` | a send to a stream takes less than there is room for | the next attempt goes on |
/// | `Pending` | EAGAIN to what could succeed | an edge follows |
/// | `PendingFirst` | the same, to each first attempt ([`Config::pending_first`](super::Config::pending_first)) | an edge follows |
/// | `LateEdge` | an edge comes behind others, and perhaps together with later ones | before anybody sleeps |
/// | `FinWithData` | one event tells of bytes and of the end behind them | |
/// | `Interrupted` | a signal: the selector's wait returns with nothing | the next wait goes on |
/// | `ClockJump` | the clock goes on by up to ten seconds between two looks at it | it never goes back |
/// | `NoBuffers`, `NoMemory` | ENOBUFS, ENOMEM to a send | nothing was sent, and no edge tells when to try again |
/// | `Reset` | an RST to both ends of a TCP connection | it is told once |
/// | `ResetBehindData` | the same, while there is something unread | that can still be read |
/// | `ProcessFull`, `SystemFull` | EMFILE, ENFILE to an accept | the connection waits |
/// | `Aborted` | ECONNABORTED to an accept | that connection is gone, the next one is not |
/// | `ConnectRefused` | nobody is there, though somebody listens | an edge tells (Unix: at once) |
/// | `ConnectLate` | the answer comes behind other things | before anybody sleeps |
/// | `ConnectNever` | there is no answer | |
/// | `NotRegistered` | ENOMEM to a registration | |
/// | `DeafPeer` | a [`Peer`](super::Peer) whose `recv` finds nothing, as long as this fault may happen | |
/// | `Preempted` | a loop that is held ([`World::hold`](super::World::hold)) stands still in the middle of a turn | it goes on where it stood |
/// | `NumberReused` | a descriptor gets the number of one that was closed | always: the lowest is taken |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the table says what they are")]
pub enum Fault {
    ShortRead,
    ShortWrite,
    Pending,
    PendingFirst,
    LateEdge,
    FinWithData,
    Interrupted,
    ClockJump,
    NoBuffers,
    NoMemory,
    Reset,
    ResetBehindData,
    ProcessFull,
    SystemFull,
    Aborted,
    ConnectRefused,
    ConnectLate,
    ConnectNever,
    NotRegistered,
    DeafPeer,
    Preempted,
    NumberReused,
}

impl Fault {
    /// All of them. A later version may know more.
    pub const ALL: [Self; 22] = [
        Self::ShortRead,
        Self::ShortWrite,
        Self::Pending,
        Self::PendingFirst,
        Self::LateEdge,
        Self::FinWithData,
        Self::Interrupted,
        Self::ClockJump,
        Self::NoBuffers,
        Self::NoMemory,
        Self::Reset,
        Self::ResetBehindData,
        Self::ProcessFull,
        Self::SystemFull,
        Self::Aborted,
        Self::ConnectRefused,
        Self::ConnectLate,
        Self::ConnectNever,
        Self::NotRegistered,
        Self::DeafPeer,
        Self::Preempted,
        Self::NumberReused,
    ];
}

/// A generator of numbers (splitmix64): the same seed, the same numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Different seeds give numbers that have nothing to do with each other.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: all 64 bits of it.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `sides`.
    ///
    /// # Panics
    ///
    /// If `sides` is 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % sides as u64).expect("less than what was a usize")
    }

    /// True in so many of 1024 cases.
    pub const fn chance(&mut self, of_1024: u16) -> bool {
        of_1024 > 0 && self.next() % 1024 < of_1024 as u64
    }
}

/// How likely each fault is, and the dice that decide.
#[derive(Clone, Debug)]
pub struct Faults {
    pub(super) dice: Dice,
    chances: [u16; Fault::ALL.len()],
}

impl Default for Faults {
    /// None.
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Faults {
    /// None yet: [`with`](Self::with) says which.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { dice: Dice::new(seed), chances: [0; Fault::ALL.len()] }
    }

    /// A mixture that the dice decide: in one world of four nothing goes wrong, in the others each kind of fault
    /// happens never, now and then or often (0, 4, 32 or 256 of 1024), and resets at most now and then. Mixtures find
    /// more than one rate for all: what is rare beside everything else has worlds of its own.
    #[must_use]
    pub fn random(dice: &mut Dice) -> Self {
        let mut faults = Self::seeded(dice.next());
        if dice.roll(4) == 0 {
            return faults;
        }
        for fault in Fault::ALL {
            let of_1024 = [0, 0, 4, 32, 256][dice.roll(5)];
            let rare = matches!(fault, Fault::Reset | Fault::ResetBehindData);
            faults = faults.with(fault, if rare { of_1024.min(32) } else { of_1024 });
        }
        faults
    }

    /// Makes a fault happen in so many of 1024 cases in which it could. `PendingFirst`, `FinWithData` and
    /// `NumberReused` are only counted: the first has a switch of its own, the others follow from what is done.
    #[must_use]
    pub const fn with(mut self, fault: Fault, of_1024: u16) -> Self {
        self.chances[fault as usize] = of_1024;
        self
    }

    /// From now on there are none.
    pub fn calm(&mut self) {
        self.chances = Default::default();
    }

    /// In how many of 1024 cases it happens.
    #[must_use]
    pub const fn chance_of(&self, fault: Fault) -> u16 {
        self.chances[fault as usize]
    }
}
