//! What a state may wait for, and a framer of its own for it: told all that the peer has sent, it says which frame must
//! come next. It knows nothing of how the input arrives.

use std::time::Duration;

use gaio::sim::Dice;
use gaio::{Decode, Expect, LengthField};

const DELIMITERS: [&[u8]; 5] = [b"\n", b"\r\n", b"aba", b"aaab", b""];
/// What [`Expect`] allows if it is told nothing.
const USUAL_MOST: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// In bytes; 0 is a varint.
    width: usize,
    big: bool,
    offset: usize,
    adjustment: i64,
    header: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Nothing,
    Any,
    Exactly(usize),
    Until(&'static [u8]),
    /// With its delimiter.
    Through(&'static [u8]),
    Length(Field),
    /// A byte that says how much follows it (in its low three bits), that much, and a full stop. An eager decoder names the
    /// frame before it is there.
    Custom {
        eager: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) what: What,
    most: Option<usize>,
    pub(crate) within: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

/// What must come of this input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    More,
    /// One byte at least, and so many at most.
    Some(usize),
    Frame {
        skip: usize,
        len: usize,
        total: usize,
    },
    TooLong,
    Refused,
}

impl Spec {
    pub(crate) fn random(dice: &mut Dice, most: usize) -> Self {
        let what = match dice.roll(16) {
            0 => What::Nothing,
            1..=3 => What::Any,
            4..=5 => What::Exactly(1 + dice.roll(most)),
            6..=9 => {
                let delimiter = DELIMITERS[if dice.roll(16) == 0 { 4 } else { dice.roll(4) }];
                if dice.roll(3) == 0 { What::Through(delimiter) } else { What::Until(delimiter) }
            }
            10..=13 => What::Length(Field {
                width: [0, 0, 1, 2, 2, 3, 4, 8][dice.roll(8)],
                big: dice.roll(2) == 0,
                offset: if dice.roll(2) == 0 { 0 } else { dice.roll(5) },
                adjustment: if dice.roll(2) == 0 { 0 } else { dice.roll(9) as i64 - 4 },
                header: dice.roll(2) == 0,
            }),
            _ => What::Custom { eager: dice.roll(2) == 0 },
        };
        let time = |dice: &mut Dice| {
            (dice.roll(4) == 0).then(|| Duration::from_micros(1 + (dice.roll(4_000_000) as u64 >> dice.roll(20))))
        };
        let bound = match dice.roll(4) {
            0 => Some(1 + dice.roll(20)),
            1 => Some(1 + dice.roll(2 * most)),
            _ => None,
        };
        Self { what, most: bound, within: time(dice), idle: time(dice) }
    }

    /// As the product has it.
    pub(crate) fn expect(&self) -> Expect {
        let mut expect = match self.what {
            What::Nothing => Expect::nothing(),
            What::Any => Expect::any(),
            What::Exactly(n) => Expect::exactly(n),
            What::Until(delimiter) => Expect::until(delimiter),
            What::Through(delimiter) => Expect::through(delimiter),
            What::Length(field) => Expect::length(field.product()),
            What::Custom { .. } => Expect::custom(),
        };
        if let Some(most) = self.most {
            expect = expect.at_most(most);
        }
        if let Some(time) = self.within {
            expect = expect.within(time);
        }
        if let Some(time) = self.idle {
            expect = expect.idle_within(time);
        }
        expect
    }

    pub(crate) fn at_most(&self) -> usize {
        let usual = if let What::Exactly(n) = self.what { n } else { USUAL_MOST };
        self.most.unwrap_or(usual)
    }

    /// What comes of the input, if it is all that ever arrives.
    pub(crate) fn next(&self, input: &[u8]) -> Next {
        let at_most = self.at_most();
        if input.is_empty() {
            return Next::More;
        }
        match self.what {
            What::Nothing => Next::More,
            What::Any => Next::Some(at_most.min(input.len())),
            What::Exactly(n) if n > at_most => Next::TooLong,
            What::Exactly(n) if input.len() < n => Next::More,
            What::Exactly(n) => Next::Frame { skip: 0, len: n, total: n },
            What::Until(delimiter) | What::Through(delimiter) => {
                let places = 0..(input.len() + 1).saturating_sub(delimiter.len());
                let found = places.clone().find(|at| !delimiter.is_empty() && input[*at..].starts_with(delimiter));
                // So many bytes are the frame's, whatever comes.
                let certain = if delimiter.is_empty() { input.len() } else { places.end };
                match found {
                    None if certain > at_most => Next::TooLong,
                    None => Next::More,
                    Some(at) if at > at_most => Next::TooLong,
                    Some(at) => {
                        let total = at + delimiter.len();
                        let through = matches!(self.what, What::Through(_));
                        Next::Frame { skip: 0, len: if through { total } else { at }, total }
                    }
                }
            }
            What::Length(field) => field.next(input, at_most),
            What::Custom { eager } => {
                let len = usize::from(input[0] % 8);
                match len {
                    7 => Next::Refused,
                    6 => Next::TooLong,
                    _ if eager && len.max(2) > at_most => Next::TooLong,
                    _ if input.len() < len + 2 && len + 2 > 2 * at_most => Next::TooLong,
                    _ if input.len() < len + 2 => Next::More,
                    _ if len.max(2) > at_most => Next::TooLong,
                    _ => Next::Frame { skip: 1, len, total: len + 2 },
                }
            }
        }
    }

    /// The user's decoder.
    pub(crate) fn decode(&self, input: &[u8]) -> Decode {
        let eager = matches!(self.what, What::Custom { eager: true });
        let len = usize::from(input[0] % 8);
        match len {
            7 => Decode::Refuse("a seven"),
            6 => Decode::More(1 << 40),
            _ if !eager && input.len() < len + 2 => Decode::More(len + 2),
            _ => Decode::Frame { skip: 1, len, total: len + 2 },
        }
    }

    /// What a peer sends that knows what is waited for; now and then it is mistaken.
    pub(crate) fn speech(&self, dice: &mut Dice, most: usize) -> Vec<u8> {
        let len = dice.roll(most.min(self.at_most()) + 1);
        let mistaken = dice.roll(12) == 0;
        match self.what {
            _ if mistaken => noise(dice, len + 1),
            What::Nothing | What::Any => noise(dice, len + 1),
            What::Exactly(n) => noise(dice, n),
            What::Until(delimiter) | What::Through(delimiter) => [&noise(dice, len)[..], delimiter].concat(),
            What::Length(field) => field.speech(dice, len),
            What::Custom { .. } => {
                let len = dice.roll(6);
                [&[b'0' + len as u8][..], &noise(dice, len), b"."].concat()
            }
        }
    }
}

/// Bytes in which delimiters and lengths are not rare.
pub(crate) fn noise(dice: &mut Dice, len: usize) -> Vec<u8> {
    const LETTERS: &[u8; 16] = b"aaaabb\r\n\x00\x00\x01\x02\x03\x05x\x85";
    (0..len).map(|_| LETTERS[dice.roll(LETTERS.len())]).collect()
}

impl Field {
    fn product(self) -> LengthField {
        let field = match (self.width, self.big) {
            (1, _) => LengthField::byte(),
            (2, true) => LengthField::be16(),
            (2, false) => LengthField::le16(),
            (3, true) => LengthField::be24(),
            (3, false) => LengthField::le24(),
            (4, true) => LengthField::be32(),
            (4, false) => LengthField::le32(),
            (8, true) => LengthField::be64(),
            (8, false) => LengthField::le64(),
            _ => LengthField::varint(),
        };
        let field = field.at(self.offset).adjusted_by(self.adjustment);
        if self.header { field.with_header() } else { field }
    }

    fn next(self, input: &[u8], at_most: usize) -> Next {
        let Some(rest) = input.get(self.offset..) else { return Next::More };
        let (says, width) = if self.width == 0 {
            let last = rest.iter().position(|byte| *byte < 0x80);
            let bits = rest.iter().take(last.map_or(10, |last| last + 1)).enumerate();
            let says: u128 = bits.take(10).map(|(i, byte)| u128::from(byte & 0x7f) << (7 * i)).sum();
            match last {
                _ if says > u128::from(u64::MAX) => return Next::Refused,
                None if rest.len() > 10 => return Next::Refused,
                Some(last) if last > 9 => return Next::Refused,
                None => return Next::More,
                Some(last) => (says, last + 1),
            }
        } else {
            let Some(field) = rest.get(..self.width) else { return Next::More };
            let power = |i: usize| 8 * if self.big { self.width - 1 - i } else { i };
            (field.iter().enumerate().map(|(i, byte)| u128::from(*byte) << power(i)).sum(), self.width)
        };
        let len = says as i128 + i128::from(self.adjustment);
        if len < 0 || len > i128::from(u64::MAX) {
            return Next::Refused;
        }
        let begin = self.offset + width;
        let header = if self.header { begin } else { 0 };
        if len + header as i128 > at_most as i128 {
            return Next::TooLong;
        }
        let len = len as usize;
        if input.len() < begin + len {
            return Next::More;
        }
        Next::Frame { skip: begin - header, len: len + header, total: begin + len }
    }

    fn speech(self, dice: &mut Dice, len: usize) -> Vec<u8> {
        let says = (len as i64 - self.adjustment).max(0) as u64;
        let mut bytes = noise(dice, self.offset);
        match self.width {
            0 => {
                let mut left = says;
                while left > 0x7f {
                    bytes.push(left as u8 | 0x80);
                    left >>= 7;
                }
                bytes.push(left as u8);
            }
            width if self.big => bytes.extend(&says.to_be_bytes()[8 - width..]),
            width => bytes.extend(&says.to_le_bytes()[..width]),
        }
        bytes.extend(noise(dice, len));
        bytes
    }
}
