//! What a state waits for, and how a frame is found in what has arrived.
//!
//! Finding a frame is a pure function of the bytes and of how far they were looked at before ([`Seen`]): no byte is
//! scanned twice, so a frame that arrives byte by byte costs as much as one that arrives whole. A frame that cannot
//! become valid is refused as soon as that is certain: a length field is believed only up to the limit, and a delimiter
//! that does not come is not waited for beyond it (T4, T5).
//!
//! Checked by the tests below, by "every fragmentation of this input" in `gaio::testkit`, and by the session tests.

use std::time::Duration;

use memchr::{memchr, memmem};

/// What a state of a [`Protocol`](crate::Protocol) waits for: a kind of frame, its largest size, and time limits.
///
/// Sizes are in bytes of the frame as it is handed to [`on_frame`](crate::Protocol::on_frame). Made anew each time a
/// session is asked, so it is small and cheap: nothing is allocated.
///
/// ```
/// use gaio::{Expect, LengthField};
/// use std::time::Duration;
///
/// let line = Expect::until(b"\r\n").at_most(1024).within(Duration::from_secs(30));
/// let packet = Expect::length(LengthField::be32()).at_most(1 << 20);
/// let header = Expect::exactly(12);
/// # let _ = (line, packet, header);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expect {
    pub(crate) what: What,
    pub(crate) at_most: usize,
    pub(crate) within: Option<Duration>,
    pub(crate) idle_within: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Nothing,
    Any,
    Exactly(usize),
    Until(&'static [u8]),
    /// As before, and the delimiter is part of the frame.
    Through(&'static [u8]),
    Length(LengthField),
    Custom,
}

/// The largest frame, where [`Expect::at_most`] says nothing: 1 MiB.
const USUAL_MOST: usize = 1 << 20;

impl Expect {
    const fn new(what: What) -> Self {
        Self { what, at_most: USUAL_MOST, within: None, idle_within: None }
    }

    /// Whatever arrives, as it arrives: one byte at least.
    #[must_use]
    pub const fn any() -> Self {
        Self::new(What::Any)
    }

    /// So many bytes; 0 counts as 1. So a body whose announced length is 0 must not be waited for: it would be the first
    /// byte of what follows it.
    #[must_use]
    pub const fn exactly(n: usize) -> Self {
        let n = if n == 0 { 1 } else { n };
        let mut expect = Self::new(What::Exactly(n));
        expect.at_most = n;
        expect
    }

    /// All bytes before the delimiter, which is not part of the frame. An empty delimiter is never found.
    #[must_use]
    pub const fn until(delimiter: &'static [u8]) -> Self {
        Self::new(What::Until(delimiter))
    }

    /// All bytes up to the delimiter and the delimiter itself: to pass them on as they came. It does not count for
    /// [`at_most`](Self::at_most).
    ///
    /// ```
    /// use gaio::{Expect, Io, Next, Protocol};
    ///
    /// struct Lines;
    /// impl Protocol for Lines {
    ///     type Message = ();
    ///     fn expects(&self) -> Expect { Expect::through(b"\r\n") }
    ///     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
    ///         io.write(line); // in one piece, and not copied
    ///         Next::Become(self)
    ///     }
    /// }
    /// let mut bench = gaio::testkit::Bench::new(Lines);
    /// bench.receive(b"one\r\ntwo\r\nthr");
    /// assert_eq!(bench.written(), b"one\r\ntwo\r\n");
    /// ```
    #[must_use]
    pub const fn through(delimiter: &'static [u8]) -> Self {
        Self::new(What::Through(delimiter))
    }

    /// A frame that says its length in front.
    #[must_use]
    pub const fn length(field: LengthField) -> Self {
        Self::new(What::Length(field))
    }

    /// What [`Protocol::decode`](crate::Protocol::decode) finds. Around the frame it may find as much as the frame may be.
    #[must_use]
    pub const fn custom() -> Self {
        Self::new(What::Custom)
    }

    /// Nothing: reading stops until another callback leads to another state. The peer's sends back up meanwhile, and its end
    /// waits behind them, be it a reset: only a write finds out. So [`idle_within`](Self::idle_within) is what bounds the wait
    /// for somebody who may have gone.
    #[must_use]
    pub const fn nothing() -> Self {
        Self::new(What::Nothing)
    }

    /// Bounds the frame; a larger one ends the session as [`End::TooLong`](crate::End::TooLong), after
    /// [`on_bad_frame`](crate::Protocol::on_bad_frame). (For `any`: the most that is handed over at once.) 0 counts as 1;
    /// default 1 MiB.
    #[must_use]
    pub const fn at_most(mut self, bytes: usize) -> Self {
        self.at_most = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// From the first byte of a frame to its last, however many arrive in between. Then
    /// [`on_timeout`](crate::Protocol::on_timeout). While output is above the high-water mark nothing is read, and the
    /// limit goes on: so long the peer has to take its output. When that has fallen below the low mark, the limit
    /// begins anew.
    ///
    /// A loop looks at the clock as a turn begins, so a limit is shorter by what its turn had taken before it was set: a
    /// millisecond or so, and more where callbacks are slow.
    #[must_use]
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// From the moment the state is entered to the first byte of a frame; with [`nothing`](Self::nothing), to the
    /// state's end. Then [`on_timeout`](crate::Protocol::on_timeout). While output is above the high-water mark it goes
    /// on, and then begins anew, as [`within`](Self::within) does.
    ///
    /// After a frame it begins anew in any case. But a message or a timer enters a state only if what is expected is
    /// another: with an *equal* `Expect` (all of it, also the times) the limit goes on from where it was. Who pings an
    /// idle peer does not put its limit off; who wants that lets the two states differ by a nanosecond.
    #[must_use]
    pub const fn idle_within(mut self, time: Duration) -> Self {
        self.idle_within = Some(time);
        self
    }
}

/// A length field: where it is, how it is written, what it counts.
///
/// The frame that is handed over is what follows the field; with [`with_header`](Self::with_header), all of it. The field
/// counts the bytes behind it, corrected by [`adjusted_by`](Self::adjusted_by).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LengthField {
    width: Width,
    big_endian: bool,
    offset: usize,
    adjustment: i64,
    header: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Width {
    Bytes(u8),
    /// Seven bits a byte, least first, the highest bit of each says that another follows (LEB128).
    Varint,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $width:expr, $big_endian:expr;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub const fn $name() -> Self {
            Self { width: $width, big_endian: $big_endian, offset: 0, adjustment: 0, header: false }
        })*
    };
}

impl LengthField {
    fields! {
        /// One byte.
        byte: Width::Bytes(1), true;
        /// Two bytes, the most significant first.
        be16: Width::Bytes(2), true;
        /// Two bytes, the least significant first.
        le16: Width::Bytes(2), false;
        /// Three bytes, the most significant first.
        be24: Width::Bytes(3), true;
        /// Three bytes, the least significant first.
        le24: Width::Bytes(3), false;
        /// Four bytes, the most significant first.
        be32: Width::Bytes(4), true;
        /// Four bytes, the least significant first.
        le32: Width::Bytes(4), false;
        /// Eight bytes, the most significant first.
        be64: Width::Bytes(8), true;
        /// Eight bytes, the least significant first.
        le64: Width::Bytes(8), false;
        /// One to ten bytes of seven bits each, the least significant first (LEB128, as protocol buffers have it).
        varint: Width::Varint, false;
    }

    /// So many bytes come before the field.
    #[must_use]
    pub const fn at(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Added to what the field says: negative if it counts itself, say.
    #[must_use]
    pub const fn adjusted_by(mut self, bytes: i64) -> Self {
        self.adjustment = bytes;
        self
    }

    /// Hands over the field, too, and what is before it.
    #[must_use]
    pub const fn with_header(mut self) -> Self {
        self.header = true;
        self
    }

    /// The field's value and the bytes up to its end; `None`: it is not there yet.
    fn read(self, input: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
        let Some(rest) = input.get(self.offset..) else { return Ok(None) };
        match self.width {
            Width::Bytes(width) => {
                let width = usize::from(width);
                let Some(field) = rest.get(..width) else { return Ok(None) };
                let digit = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
                let value =
                    if self.big_endian { field.iter().fold(0, digit) } else { field.iter().rev().fold(0, digit) };
                Ok(Some((value, self.offset + width)))
            }
            Width::Varint => {
                let mut value = 0u64;
                for (i, byte) in rest.iter().enumerate() {
                    let bits = u64::from(byte & 0x7f);
                    if i > 9 || (i == 9 && bits > 1) {
                        return Err("a length of more than 64 bits");
                    }
                    value |= bits << (7 * i);
                    if byte & 0x80 == 0 {
                        return Ok(Some((value, self.offset + i + 1)));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// What [`Protocol::decode`](crate::Protocol::decode) has found at the beginning of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a frame is there, or not yet, or never")]
pub enum Decode {
    /// A whole frame.
    Frame {
        /// Bytes before the frame that are not part of it.
        skip: usize,
        /// Bytes of the frame.
        len: usize,
        /// Bytes of both, and of what follows the frame and is not part of it. At least 1.
        total: usize,
    },
    /// The input has to be this long before it is worth looking again.
    More(usize),
    /// This can never become a frame: the session ends as [`End::Refused`](crate::End::Refused).
    Refuse(&'static str),
}

/// How far an incomplete frame has been looked at.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// For a delimiter: it does not begin before this.
    scanned: u32,
    /// The input must be this long to be worth a look.
    need: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Frame { skip: usize, len: usize, total: usize },
    More,
    TooLong,
    Refused(&'static str),
}

impl Expect {
    /// Looks for a frame at the beginning of `input`, of which so much was seen before.
    #[inline(always)]
    pub(crate) fn find(&self, input: &[u8], seen: &mut Seen, decode: impl FnOnce(&[u8]) -> Decode) -> Found {
        if input.len() < seen.need as usize {
            return Found::More;
        }
        // The one that is found without a look is not worth a call.
        if self.what == What::Any && !input.is_empty() {
            let len = input.len().min(self.at_most);
            return Found::Frame { skip: 0, len, total: len };
        }
        self.search(input, seen, decode)
    }

    #[inline(never)]
    fn search(&self, input: &[u8], seen: &mut Seen, decode: impl FnOnce(&[u8]) -> Decode) -> Found {
        let whole = |n| Found::Frame { skip: 0, len: n, total: n };
        match self.what {
            What::Nothing | What::Any => Found::More,
            What::Exactly(n) if n > self.at_most => Found::TooLong,
            What::Exactly(n) if input.len() >= n => whole(n),
            What::Exactly(n) => more(seen, n),
            What::Until(delimiter) => self.find_delimiter(delimiter, false, input, seen),
            What::Through(delimiter) => self.find_delimiter(delimiter, true, input, seen),
            What::Length(field) => self.find_length(field, input, seen),
            What::Custom => match decode(input) {
                Decode::Frame { len, total, .. } if len.max(total.saturating_sub(len)) > self.at_most => Found::TooLong,
                Decode::Frame { skip, len, total } if total == 0 || skip.saturating_add(len) > total => {
                    Found::Refused("a frame that does not fit itself")
                }
                Decode::Frame { skip, len, total } if input.len() >= total => Found::Frame { skip, len, total },
                Decode::Frame { total, .. } => more(seen, total),
                // The frame, and as much again around it: what cannot become one is not waited for.
                Decode::More(n) if n.max(input.len() + 1) > self.at_most.saturating_mul(2) => Found::TooLong,
                Decode::More(n) => more(seen, n),
                Decode::Refuse(why) => Found::Refused(why),
            },
        }
    }

    #[inline]
    fn find_delimiter(&self, delimiter: &[u8], through: bool, input: &[u8], seen: &mut Seen) -> Found {
        let from = (seen.scanned as usize).min(input.len());
        let found = match delimiter {
            [byte] => memchr(*byte, &input[from..]),
            [] => None,
            several => memmem::find(&input[from..], several),
        };
        if let Some(at) = found.map(|at| from + at) {
            let total = at + delimiter.len();
            let len = if through { total } else { at };
            return if at > self.at_most { Found::TooLong } else { Found::Frame { skip: 0, len, total } };
        }
        // The last bytes may be the beginning of the delimiter.
        let scanned = input.len().saturating_sub(delimiter.len().saturating_sub(1));
        if scanned > self.at_most {
            return Found::TooLong;
        }
        seen.scanned = u32::try_from(scanned).unwrap_or(u32::MAX);
        Found::More
    }

    fn find_length(&self, field: LengthField, input: &[u8], seen: &mut Seen) -> Found {
        let (says, begin) = match field.read(input) {
            Ok(Some(found)) => found,
            Ok(None) => return more(seen, input.len() + 1),
            Err(why) => return Found::Refused(why),
        };
        let Some(len) = says.checked_add_signed(field.adjustment) else {
            return Found::Refused("a length that, adjusted, is none");
        };
        let header = if field.header { begin } else { 0 };
        let Some(len) = usize::try_from(len).ok().filter(|len| len.saturating_add(header) <= self.at_most) else {
            return Found::TooLong;
        };
        let total = begin.saturating_add(len);
        if input.len() < total {
            return more(seen, total);
        }
        Found::Frame { skip: begin - header, len: len + header, total }
    }
}

fn more(seen: &mut Seen, need: usize) -> Found {
    seen.need = u32::try_from(need).unwrap_or(u32::MAX);
    Found::More
}

#[cfg(test)]
#[path = "expect_tests.rs"]
mod tests;
