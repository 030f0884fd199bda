//! The first rule of framing: how the bytes were cut on their way must not matter.

use crate::testkit::Bench;
use crate::typed::protocol::Protocol;

/// Feeds `input` to a new session in every way it can be cut (for up to 12 bytes; in 1 000 random ways beyond), each time
/// followed by the end of the stream, and says what the session wrote.
///
/// # Panics
/// If two ways of cutting lead to different outputs or different ends: the message shows the cuts.
///
/// ```
/// # use gaio::{Expect, Io, Next, Protocol};
/// # struct Upper;
/// # impl Protocol for Upper {
/// #     type Message = ();
/// #     fn expects(&self) -> Expect { Expect::until(b"\r\n") }
/// #     fn on_frame(self, line: &[u8], io: &mut Io<'_, Self>) -> Next<Self> {
/// #         io.write(&line.to_ascii_uppercase());
/// #         Next::Become(self)
/// #     }
/// # }
/// let output = gaio::testkit::fragmentations(|| Upper, b"ab\r\nc\r\n");
/// assert_eq!(output, b"ABC");
/// ```
pub fn fragmentations<P: Protocol>(mut state: impl FnMut() -> P, input: &[u8]) -> Vec<u8> {
    let mut run = |cuts: &[usize]| {
        let mut bench = Bench::new(state());
        let mut from = 0;
        for cut in cuts.iter().copied().chain([input.len()]) {
            bench.receive(&input[from..cut]);
            from = cut;
        }
        bench.eof();
        (bench.written(), bench.ended().map(ToString::to_string))
    };
    let whole = run(&[]);
    let mut check = |cuts: &[usize]| {
        let (output, end) = run(cuts);
        assert!(
            (&output, &end) == (&whole.0, &whole.1),
            "cut at {cuts:?} it wrote {:?} and ended as {end:?}; whole, {:?} and {:?}",
            String::from_utf8_lossy(&output),
            String::from_utf8_lossy(&whole.0),
            whole.1,
        );
    };
    let places = input.len().saturating_sub(1);
    if places <= 11 {
        for pattern in 0..1u32 << places {
            check(&(0..places).filter(|place| pattern >> place & 1 == 1).map(|place| place + 1).collect::<Vec<_>>());
        }
        return whole.0;
    }
    check(&(1..input.len()).collect::<Vec<_>>());
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..1_000u64 {
        let mut cuts = Vec::new();
        for place in 1..input.len() {
            // xorshift64 (Marsaglia, 2003).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random % (2 + round % 64) == 0 {
                cuts.push(place);
            }
        }
        check(&cuts);
    }
    whole.0
}
