//! Limits and options: what a loop may hold and do, in one place.

use std::time::Duration;

use crate::sys;

/// Every bound of one loop. Start from [`Limits::default`], change what you need, hand it to
/// [`Options::limits`]; it is checked when the loop is built.
///
/// All but two can be changed while the loop runs, by [`Submitter::set_limits`](crate::Submitter::set_limits):
/// `ring_slots` and `arena` are memory that was allocated when the loop was built.
///
/// ```
/// let mut limits = gaio::Limits::default();
/// limits.sessions = 100;
/// assert!(limits.check().is_ok());
/// limits.ring_slots = 0;
/// assert!(limits.check().unwrap_err().to_string().contains("ring_slots"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections one loop holds at once, with those under way; `delegate` and `connect` beyond it are refused with
    /// `TooMany`, an accepted one is closed and counted. Lowered, it closes none of those there are. Default 65 536.
    pub sessions: usize,
    /// Operations in flight per connection, from submission to the moment their completion is handed out; one more is
    /// refused with `TooMany`. Close and release are always let through. Default 1 024.
    pub ops_per_conn: u32,
    /// Operations in flight per loop, from submission to the moment their batch is taken; one more is refused with
    /// `TooMany`. Default 1 048 576.
    pub ops: usize,
    /// Bytes queued for writing per loop; a write beyond is refused with `TooMany`. It is accepted while those before
    /// it are below this, so a single write may be larger. It bounds what is to be sent, not memory: a `Bytes` that goes
    /// out on a thousand connections counts a thousand times, and is there once. Default 256 MiB.
    pub write_bytes: u64,
    /// Slots of the submission ring, rounded up to a power of two. What other threads have submitted and the loop has
    /// not taken up waits there; while it is full, `submit` parks. Memory: at most 64 bytes a slot for a context of up
    /// to 8 bytes. Fixed. Default 4 096.
    pub ring_slots: usize,
    /// Completions after which a batch counts as full: the loop then takes on no more work until it is handed over.
    /// Default 128.
    pub batch: usize,
    /// Bytes brought by reads after which a batch counts as full, too: so much is written and read again while the
    /// processor's first cache still holds it. Bytes; default 32 KiB.
    pub batch_bytes: usize,
    /// Bytes of pooled reads one batch can carry (its arena); while it is full, pooled reads wait for the next. A
    /// spawned loop has three arenas, an embedded one has two; pages never read into cost nothing. Fixed. Default 1 MiB.
    pub arena: usize,
    /// Most bytes one pooled or leased read brings. Changed, it counts for reads that begin then; leases of another size
    /// are freed as they come back. Default 256 KiB.
    pub read_cap: usize,
    /// Bytes one step of a session may move, both ways together; then the others have their turn. A read is one receive, and
    /// begins while any of them are left: so one `Vec`, lease or message may bring more, up to its own size. Of a vectored
    /// write each piece counts as 64 at least. Default 512 KiB.
    pub bytes_per_turn: usize,
    /// Operations one step of a session may complete. Default 64.
    pub ops_per_turn: u32,
    /// Connections one listener accepts in one turn, failures included. Default 1 024.
    pub accepts_per_turn: u32,
    /// Connections accepted and not yet handed out, after which accepting pauses. Default 1 024.
    pub listen_credit: usize,
    /// How long a graceful close may take. Then writes that are still queued fail, and the peer sees a reset; with
    /// everything written the connection is just closed. A positive `SO_LINGER` of a delegated socket counts instead.
    /// Changed, it counts for closes that begin then. Default 5 s.
    pub close_within: Duration,
    /// Bytes of unread input, rounded up to KiB per read, that a graceful close throws away while it waits for the
    /// peer's end of stream; beyond it the connection is closed without more waiting. Default 1 MiB.
    pub close_drain: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 65_536,
            ops_per_conn: 1_024,
            ops: 1 << 20,
            write_bytes: 256 << 20,
            ring_slots: 4_096,
            batch: 128,
            batch_bytes: 32 << 10,
            arena: 1 << 20,
            read_cap: 256 << 10,
            bytes_per_turn: 512 << 10,
            ops_per_turn: 64,
            accepts_per_turn: 1_024,
            listen_credit: 1_024,
            close_within: Duration::from_secs(5),
            close_drain: 1 << 20,
        }
    }
}

/// A limit that cannot work, or cannot be changed: its text names it, and says what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsError {
    name: &'static str,
    value: u64,
    least: u64,
    most: u64,
    fixed: bool,
}

impl LimitsError {
    /// The limit, by the name of its field.
    #[must_use]
    pub fn limit(&self) -> &'static str {
        self.name.trim_end_matches(" (ms)")
    }

    /// Whether it is in its range, but fixed since the loop was built.
    #[must_use]
    pub const fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The first row (name, value, least, most) whose value is outside of its range.
    pub(crate) fn first(table: &[(&'static str, u64, u64, u64)]) -> Result<(), Self> {
        let bad = table.iter().find(|(_, value, least, most)| value < least || value > most);
        bad.map_or(Ok(()), |&(name, value, least, most)| Err(Self { name, value, least, most, fixed: false }))
    }

    /// The first row (name, value, value when it was built) that differs.
    pub(crate) fn unchanged(table: &[(&'static str, usize, usize)]) -> Result<(), Self> {
        let changed = table.iter().find(|(_, value, built)| value != built);
        changed.map_or(Ok(()), |&(name, value, built)| {
            Err(Self { name, value: value as u64, least: built as u64, most: built as u64, fixed: true })
        })
    }
}

impl std::fmt::Display for LimitsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, value, least, most, fixed } = self;
        if *fixed {
            return write!(f, "limit `{name}` is {least} since the loop was built, and cannot become {value}");
        }
        write!(f, "limit `{name}` is {value}: choose between {least} and {most}")
    }
}

impl std::error::Error for LimitsError {}

impl Limits {
    /// Checks every limit; a loop is never built on bad ones. Each error says which values would do.
    ///
    /// # Errors
    /// The first limit outside its range.
    pub fn check(&self) -> Result<(), LimitsError> {
        let most_close = Duration::from_secs(86_400);
        let table: [(&'static str, u64, u64, u64); 15] = [
            ("sessions", self.sessions as u64, 1, 1 << 24),
            ("ops_per_conn", self.ops_per_conn.into(), 1, 1 << 20),
            ("ops", self.ops as u64, 1, 1 << 23),
            ("write_bytes", self.write_bytes, 1, 1 << 39),
            ("ring_slots", self.ring_slots as u64, 2, 1 << 20),
            ("batch", self.batch as u64, 1, 1 << 20),
            ("batch_bytes", self.batch_bytes as u64, 1, 1 << 40),
            ("arena", self.arena as u64, 1, 1 << 30),
            ("read_cap", self.read_cap as u64, 1, 1 << 30),
            ("bytes_per_turn", self.bytes_per_turn as u64, 1, 1 << 40),
            ("ops_per_turn", self.ops_per_turn.into(), 1, 1 << 20),
            ("accepts_per_turn", self.accepts_per_turn.into(), 1, 1 << 20),
            ("listen_credit", self.listen_credit as u64, 1, 1 << 20),
            ("close_within (ms)", Self::millis(self.close_within), 0, Self::millis(most_close)),
            ("close_drain", self.close_drain as u64, 0, 1 << 25),
        ];
        LimitsError::first(&table)
    }

    /// Checks that what a running loop cannot change is as in `built`.
    pub(crate) fn keeps_what_is_fixed(&self, built: &Self) -> Result<(), LimitsError> {
        let table = [("ring_slots", self.ring_slots, built.ring_slots), ("arena", self.arena, built.arena)];
        LimitsError::unchanged(&table)
    }

    fn millis(d: Duration) -> u64 {
        u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Who drives the loop of a [`Watcher`](crate::Watcher): which thread takes its turns.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum Driver {
    /// The consumer, if there is one processor to run on ([`available_parallelism`](std::thread::available_parallelism) when
    /// the loop is built) and the loop is not pinned; otherwise the loop's thread.
    #[default]
    Auto,
    /// The loop's thread, always: it works beside the consumer, and goes on whether anyone waits or not.
    LoopThread,
    /// The consumer, in its waits: no other thread is woken for a completion. While it is away with a batch the loop is at
    /// rest. What the consumer submits is taken up at once, by the submission itself; for all else (other threads'
    /// submissions, deadlines, new connections, the rest of a long write) it comes back, or stays away for two to four
    /// milliseconds (up to 32 if it has been coming and going for long), and then the loop's thread drives until the next
    /// wait.
    ///
    /// Nothing else differs: all guarantees hold, whoever drives. Payloads that need not come back are dropped by the thread
    /// that does. A watcher that is [polled](crate::Watcher::pollable) is driven by the loop's thread.
    Consumer,
}

/// How a loop is set up: limits, who drives it, thread name, CPU.
///
/// ```
/// let options = gaio::Options::default().name("gateway").limits(gaio::Limits::default());
/// # let _ = options;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(crate) limits: Limits,
    pub(crate) name: Option<String>,
    pub(crate) cpu: Option<usize>,
    pub(crate) driver: Driver,
}

impl Options {
    /// Chooses who drives the loop. It makes no difference to an embedded one.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // Answers soonest where the consumer has little to do itself, on any number of processors.
    /// let options = gaio::Options::default().driver(gaio::Driver::Consumer);
    /// let (mut watcher, submitter) = gaio::Watcher::<u32>::spawn_for(options)?;
    /// submitter.post(1)?;
    /// assert!(matches!(watcher.wait()?.next(), Some(gaio::Event::Posted(1))));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub const fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Does the consumer drive?
    ///
    /// # Errors
    /// It should, and the loop's thread is to be pinned, too.
    pub(crate) fn consumer_drives(&self) -> std::io::Result<bool> {
        match (self.driver, self.cpu) {
            (Driver::Consumer, Some(_)) => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "a loop that the consumer drives is not pinned: pin the thread that waits, or choose `Driver::LoopThread`",
            )),
            (Driver::Consumer, None) => Ok(true),
            (Driver::Auto, None) => Ok(sys::has_one_processor()),
            (Driver::Auto, Some(_)) | (Driver::LoopThread, _) => Ok(false),
        }
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Names the loop thread (`gaio` otherwise). An embedded loop has no thread of its own, so there it does nothing.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Pins the loop thread to a CPU, and lets it drive ([`Driver`]); for an embedded loop, the calling thread. A CPU outside
    /// the set this thread may run on is an error when the loop is built, and names the set.
    #[must_use]
    pub const fn pin_to(mut self, cpu: usize) -> Self {
        self.cpu = Some(cpu);
        self
    }
}
