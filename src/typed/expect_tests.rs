//! Frames are found where they are, refused as early as is certain, and never looked for twice.

use super::*;

fn none(_: &[u8]) -> Decode {
    Decode::Refuse("no decoder here")
}

/// The frames of an input that is given in pieces, and what stopped it.
fn frames(expect: Expect, input: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<Found>) {
    let (mut have, mut seen, mut out) = (Vec::new(), Seen::default(), Vec::new());
    for part in input.chunks(piece) {
        have.extend_from_slice(part);
        loop {
            match expect.find(&have, &mut seen, none) {
                Found::Frame { skip, len, total } => {
                    out.push(have[skip..skip + len].to_vec());
                    have.drain(..total);
                    seen = Seen::default();
                }
                Found::More => break,
                refused => return (out, Some(refused)),
            }
        }
    }
    (out, None)
}

#[track_caller]
fn same(expect: Expect, input: &[u8], expected: &[&[u8]], end: Option<Found>) {
    for piece in 1..=input.len() {
        let (found, stopped) = frames(expect, input, piece);
        assert_eq!(found, expected, "in pieces of {piece}");
        assert_eq!(stopped, end, "in pieces of {piece}");
    }
}

#[test]
fn delimiters_of_one_and_more_bytes() {
    same(Expect::until(b"\n"), b"a\n\nbcd\nrest", &[b"a", b"", b"bcd"], None);
    same(Expect::until(b"\r\n"), b"a\rb\r\r\nc\n\r\n", &[b"a\rb\r", b"c\n"], None);
    same(Expect::until(b"abab"), b"xababab-abab", &[b"x", b"ab-"], None);
    same(Expect::until(b""), b"never", &[], None);
    same(Expect::through(b"\n"), b"a\n\nbcd\nrest", &[b"a\n", b"\n", b"bcd\n"], None);
    same(Expect::through(b"\r\n").at_most(2), b"ab\r\n\rx\r\nabc\r\n", &[b"ab\r\n", b"\rx\r\n"], Some(Found::TooLong));
}

#[test]
fn a_line_is_too_long_as_soon_as_that_is_certain() {
    let line = Expect::until(b"\r\n").at_most(3);
    same(line, b"abc\r\nabc\r\n", &[b"abc", b"abc"], None);
    same(line, b"abcd\r\n", &[], Some(Found::TooLong));
    let mut seen = Seen::default();
    assert_eq!(line.find(b"abc\r", &mut seen, none), Found::More, "the delimiter may come yet");
    assert_eq!(line.find(b"abc\rx", &mut seen, none), Found::TooLong);
}

#[test]
fn exactly_and_any() {
    same(Expect::exactly(3), b"abcdefgh", &[b"abc", b"def"], None);
    same(Expect::exactly(0), b"ab", &[b"a", b"b"], None);
    assert_eq!(frames(Expect::any(), b"abcdef", 4).0, [&b"abcd"[..], b"ef"]);
    assert_eq!(frames(Expect::any().at_most(3), b"abcdef", 4).0, [&b"abc"[..], b"d", b"ef"]);
    assert_eq!(frames(Expect::nothing(), b"abc", 1).0, Vec::<Vec<u8>>::new());
}

#[test]
fn length_fields_of_every_width_and_order() {
    let fields = [
        (LengthField::byte(), vec![3]),
        (LengthField::be16(), vec![0, 3]),
        (LengthField::le16(), vec![3, 0]),
        (LengthField::be24(), vec![0, 0, 3]),
        (LengthField::le24(), vec![3, 0, 0]),
        (LengthField::be32(), vec![0, 0, 0, 3]),
        (LengthField::le32(), vec![3, 0, 0, 0]),
        (LengthField::be64(), vec![0, 0, 0, 0, 0, 0, 0, 3]),
        (LengthField::le64(), vec![3, 0, 0, 0, 0, 0, 0, 0]),
        (LengthField::varint(), vec![3]),
        (LengthField::varint(), vec![0x83, 0x80, 0]),
    ];
    for (field, header) in fields {
        let one = [&header[..], b"abc"].concat();
        let input = [&one[..], &one].concat();
        same(Expect::length(field), &input, &[b"abc", b"abc"], None);
        same(Expect::length(field.with_header()), &input, &[&one, &one], None);
    }
    let long = [&[0xac, 0x02][..], &[7; 300]].concat();
    same(Expect::length(LengthField::varint()), &long, &[&[7; 300]], None);
}

#[test]
fn length_fields_with_offset_and_adjustment() {
    // A type byte, a length that counts itself and the type, then the payload.
    let field = LengthField::be16().at(1).adjusted_by(-3);
    same(Expect::length(field), b"T\0\x05abT\0\x03", &[b"ab", b""], None);
    same(Expect::length(field.with_header()), b"T\0\x05ab", &[b"T\0\x05ab"], None);
    let why = Found::Refused("a length that, adjusted, is none");
    same(Expect::length(field), b"T\0\x02", &[], Some(why));
}

#[test]
fn a_length_is_believed_up_to_the_limit() {
    let packet = Expect::length(LengthField::be32()).at_most(4);
    same(packet, b"\0\0\0\x04abcd", &[b"abcd"], None);
    same(packet, b"\0\0\0\x05", &[], Some(Found::TooLong));
    same(Expect::length(LengthField::be64()), &[0xff; 8], &[], Some(Found::TooLong));
    let field = LengthField::be64().adjusted_by(1);
    same(Expect::length(field), &[0xff; 8], &[], Some(Found::Refused("a length that, adjusted, is none")));
    same(
        Expect::length(LengthField::varint()),
        &[0xff; 11],
        &[],
        Some(Found::Refused("a length of more than 64 bits")),
    );
}

#[test]
fn a_decoder_is_not_asked_before_it_can_know_more() {
    let mut seen = Seen::default();
    let mut asked = 0;
    for n in 0..=10 {
        let found = Expect::custom().find(&[0; 10][..n], &mut seen, |input| {
            asked += 1;
            if input.len() < 4 { Decode::More(4) } else { Decode::Frame { skip: 1, len: 8, total: 10 } }
        });
        assert_eq!(found, if n == 10 { Found::Frame { skip: 1, len: 8, total: 10 } } else { Found::More });
    }
    assert_eq!(asked, 3, "at 0, at 4, and at 10");
}

#[test]
fn a_decoder_that_makes_no_sense_is_refused() {
    let mut seen = Seen::default();
    let frame = |skip, len, total| move |_: &[u8]| Decode::Frame { skip, len, total };
    let expect = Expect::custom().at_most(100);
    assert!(matches!(expect.find(b"abc", &mut seen, frame(0, 0, 0)), Found::Refused(_)));
    assert!(matches!(expect.find(b"abc", &mut seen, frame(2, 2, 3)), Found::Refused(_)));
    assert_eq!(expect.find(b"abc", &mut seen, frame(0, 101, 101)), Found::TooLong);
    assert_eq!(expect.find(&[0; 101], &mut seen, |_| Decode::More(201)), Found::TooLong);
}

/// One byte at a time costs O(n): the bytes that were looked at before are not looked at again.
#[test]
fn nothing_is_scanned_twice() {
    let mut seen = Seen::default();
    let expect = Expect::until(b"--").at_most(1 << 20);
    let input = vec![b'x'; 10_000];
    for n in 1..=input.len() {
        assert_eq!(expect.find(&input[..n], &mut seen, none), Found::More);
        assert_eq!(seen.scanned as usize, n - 1);
    }
}

#[test]
fn a_varint_has_64_bits_and_no_more() {
    let field = Expect::length(LengthField::varint()).at_most(1_000);
    let found = |last: &[u8]| {
        let input = [&[0xff; 9][..], last].concat();
        field.find(&input, &mut Seen::default(), none)
    };
    // The largest there is; the same with a nought in front, as a length of 63 bits.
    assert_eq!(found(&[1]), Found::TooLong);
    assert_eq!(found(&[0]), Found::TooLong);
    let refused = Found::Refused("a length of more than 64 bits");
    assert_eq!(found(&[2]), refused);
    assert_eq!(found(&[3]), refused);
    assert_eq!(found(&[0x81, 0]), refused, "an eleventh byte");
    assert_eq!(found(&[0x80]), Found::More, "or its want");
    let three_hundred = [&[0xac, 0x02][..], &[7; 300]].concat();
    same(field, &three_hundred, &[&[7; 300]], None);
}

#[test]
fn a_length_that_is_not_there_is_looked_for_with_the_next_byte() {
    for (field, input) in [(LengthField::be32(), &[0, 0, 1][..]), (LengthField::varint(), &[0x80, 0x80, 0x80])] {
        let mut seen = Seen::default();
        assert_eq!(Expect::length(field).find(input, &mut seen, none), Found::More);
        assert_eq!(seen.need, 4);
    }
}

#[test]
fn what_a_decoder_says_has_to_fit() {
    let custom = Expect::custom().at_most(4);
    let found = |input: &[u8], says| custom.find(input, &mut Seen::default(), |_| says);
    let frame = |skip, len, total| found(b"123456", Decode::Frame { skip, len, total });
    let refused = Found::Refused("a frame that does not fit itself");
    assert_eq!(frame(0, 0, 0), refused);
    assert_eq!(frame(1, 2, 2), refused);
    assert_eq!(frame(usize::MAX, 2, 2), refused);
    assert_eq!(frame(1, 1, 2), Found::Frame { skip: 1, len: 1, total: 2 });
    assert_eq!(frame(0, 0, 1), Found::Frame { skip: 0, len: 0, total: 1 });
    // The frame may be so long, and what is around it.
    assert_eq!(frame(2, 4, 6), Found::Frame { skip: 2, len: 4, total: 6 });
    assert_eq!(frame(0, 5, 5), Found::TooLong);
    assert_eq!(frame(5, 1, 6), Found::TooLong);
    assert_eq!(frame(0, 4, 7), Found::More);
    // Both together are the most that is waited for.
    assert_eq!(found(b"1", Decode::More(8)), Found::More);
    assert_eq!(found(b"1", Decode::More(9)), Found::TooLong);
    assert_eq!(found(b"1234567", Decode::More(0)), Found::More);
    assert_eq!(found(b"12345678", Decode::More(0)), Found::TooLong);
}
