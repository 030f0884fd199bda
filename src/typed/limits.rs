//! What a loop of typed sessions may hold and do.

use std::time::Duration;

use crate::limits::LimitsError;

/// Every bound of a loop of sessions. Start from the default, change what you need; it is checked when the loop is built. All
/// but the slots of the ring can be changed while it runs: [`Hub::set_limits`](crate::Hub::set_limits).
///
/// ```
/// let mut limits = gaio::SessionLimits::default();
/// limits.sessions = 100;
/// assert!(limits.check().is_ok());
/// limits.low_water = limits.high_water + 1;
/// assert!(limits.check().unwrap_err().to_string().contains("low_water"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimits {
    /// Sessions of one loop at once. A connection accepted beyond it is closed and counted, one that is given to the loop
    /// comes back as `TooMany`, and one that was to be opened ends as [`End::TooMany`](crate::End::TooMany). Default
    /// 65 536.
    pub sessions: usize,
    /// Output queued in a session above which its input is not read. Bytes; default 64 KiB.
    pub high_water: usize,
    /// Output queued below which reading goes on, and [`on_drained`](crate::Protocol::on_drained) is called. Default
    /// 16 KiB.
    pub low_water: usize,
    /// Output queued above which a session ends, as [`End::Overflow`](crate::End::Overflow). Bytes written, and about
    /// what they take in memory, if they are not [slices](crate::Io::write_bytes) of more. Default 16 MiB.
    pub output: usize,
    /// The loop's receive buffer: the most that one read brings. Default 64 KiB.
    pub receive: usize,
    /// Bytes that one step of a session may read; then the others have their turn. Default 256 KiB.
    pub bytes_per_turn: usize,
    /// Frames that one step of a session may hand over. Default 1 024.
    pub frames_per_turn: u32,
    /// Messages that a turn hands over, each member of a broadcast counted; then the sessions are served, and the rest goes on
    /// in the next turn. Default 8 192.
    pub messages_per_turn: u32,
    /// Connections that one listener accepts in one turn. Default 1 024.
    pub accepts_per_turn: u32,
    /// Slots of the ring by which messages and connections come from other threads, rounded up to a power of two; with all
    /// of them taken, `send` gives the message back. Default 4 096.
    pub ring_slots: usize,
    /// How long a connect may take before it fails, as timed out. Default 30 s.
    pub connect_within: Duration,
    /// How long a graceful close may take, or a [leave](crate::Next::Leave): in total, also if the peer reads steadily.
    /// Then the connection is reset if output is unsent (a Unix socket has no reset, and is closed), else just closed.
    /// Default 5 s. A socket that came with a positive `SO_LINGER`, or whose listener had one, has that instead.
    pub close_within: Duration,
    /// Unread input that a graceful close throws away while it waits for the peer's end. Bytes; default 1 MiB.
    pub close_drain: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions: 65_536,
            high_water: 64 << 10,
            low_water: 16 << 10,
            output: 16 << 20,
            receive: 64 << 10,
            bytes_per_turn: 256 << 10,
            frames_per_turn: 1_024,
            messages_per_turn: 8_192,
            accepts_per_turn: 1_024,
            ring_slots: 4_096,
            connect_within: Duration::from_secs(30),
            close_within: Duration::from_secs(5),
            close_drain: 1 << 20,
        }
    }
}

impl SessionLimits {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first limit outside its range, with the range.
    pub fn check(&self) -> Result<(), LimitsError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let table: [(&'static str, u64, u64, u64); 13] = [
            ("sessions", self.sessions as u64, 1, 1 << 24),
            ("high_water", self.high_water as u64, 1, 1 << 40),
            ("low_water", self.low_water as u64, 0, self.high_water as u64),
            ("output", self.output as u64, self.high_water as u64, 1 << 40),
            ("receive", self.receive as u64, 64, 1 << 24),
            ("bytes_per_turn", self.bytes_per_turn as u64, 1, 1 << 40),
            ("frames_per_turn", self.frames_per_turn.into(), 1, 1 << 20),
            ("messages_per_turn", self.messages_per_turn.into(), 1, 1 << 24),
            ("accepts_per_turn", self.accepts_per_turn.into(), 1, 1 << 20),
            ("ring_slots", self.ring_slots as u64, 2, 1 << 20),
            ("connect_within (ms)", millis(self.connect_within), 1, 86_400_000),
            ("close_within (ms)", millis(self.close_within), 0, 86_400_000),
            ("close_drain", self.close_drain as u64, 0, 1 << 30),
        ];
        LimitsError::first(&table)
    }

    /// Checks that what a running loop cannot change is as in `built`.
    pub(crate) fn keeps_what_is_fixed(&self, built: &Self) -> Result<(), LimitsError> {
        LimitsError::unchanged(&[("ring_slots", self.ring_slots, built.ring_slots)])
    }
}
