//! Output of a session: pieces in order, sent with as few system calls as will do.
//!
//! While callbacks run, what they write is gathered; at the end of the step all of it goes out in one `sendmsg`. What
//! the system does not take becomes the session's backlog. Small writes are copied behind one another; shared bytes are
//! kept as they are; a slice of the very input that is being handed over is kept as a range of it, and copied only if it
//! has to outlive the input (T6). Both are copied at once if there are so few that to remember them costs as much.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::sys::MAX_SLICES;

/// Copies are gathered in pieces of about this size.
const PIECE: usize = 16 << 10;

/// Bytes that need not be copied are copied all the same if there are fewer: to remember where they are would cost as
/// much (a slot of the queue, what the allocator keeps, an entry of the system call). The bound on output counts bytes,
/// so no piece may weigh many times its own.
const WORTH_KEEPING: usize = 64;

#[derive(Debug)]
enum Piece {
    Copied(Vec<u8>),
    Shared(Bytes),
    /// Of the input at hand.
    Input(Range<usize>),
}

impl Piece {
    fn bytes<'b>(&'b self, input: &'b [u8]) -> &'b [u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Input(range) => &input[range.clone()],
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Output {
    /// A run of the input, before all pieces: the answer that is (a part of) the question, and the cheapest there is.
    run: Range<usize>,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are out.
    sent: usize,
    /// Bytes that are not out.
    queued: usize,
    /// Kept for the next copy.
    spare: Vec<u8>,
}

impl Output {
    #[inline]
    pub(crate) const fn queued(&self) -> usize {
        self.queued
    }

    /// Writes bytes that are only borrowed. `input`: what is being handed over, if anything: a part of it is not copied.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8], input: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.queued += bytes.len();
        // Addresses are only compared: a slice that lies inside of the input is one of it.
        let at = (bytes.as_ptr() as usize).wrapping_sub(input.as_ptr() as usize);
        if at <= input.len() && bytes.len() <= input.len() - at {
            return self.write_input(at..at + bytes.len(), bytes);
        }
        self.write_copy(bytes);
    }

    #[inline(never)]
    fn write_copy(&mut self, bytes: &[u8]) {
        if let Some(Piece::Copied(last)) = self.pieces.back_mut() {
            if last.len() + bytes.len() <= PIECE {
                return last.extend_from_slice(bytes);
            }
        }
        let mut copy = std::mem::take(&mut self.spare);
        copy.extend_from_slice(bytes);
        self.pieces.push_back(Piece::Copied(copy));
    }

    #[inline]
    fn write_input(&mut self, range: Range<usize>, bytes: &[u8]) {
        if self.pieces.is_empty() && (self.run.is_empty() || self.run.end == range.start) {
            let start = if self.run.is_empty() { range.start } else { self.run.start };
            self.run = start..range.end;
            return;
        }
        self.write_input_piece(range, bytes);
    }

    #[inline(never)]
    fn write_input_piece(&mut self, range: Range<usize>, bytes: &[u8]) {
        match self.pieces.back_mut() {
            Some(Piece::Input(last)) if last.end == range.start => last.end = range.end,
            _ if bytes.len() < WORTH_KEEPING => self.write_copy(bytes),
            _ => self.pieces.push_back(Piece::Input(range)),
        }
    }

    /// All there is, if it is one run of the input.
    #[inline]
    pub(crate) fn only_run<'b>(&self, input: &'b [u8]) -> Option<&'b [u8]> {
        if self.pieces.is_empty() { input.get(self.run.clone()) } else { None }
    }

    /// Writes bytes that are shared, without a copy, if there are enough of them.
    pub(crate) fn write_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < WORTH_KEEPING {
            return self.write(&bytes, &[]);
        }
        self.queued += bytes.len();
        self.pieces.push_back(Piece::Shared(bytes));
    }

    /// The next slices to send, at most so many bytes.
    pub(crate) fn slices<'b>(&'b self, input: &'b [u8], mut most: usize) -> SmallVec<[IoSlice<'b>; 8]> {
        let mut slices = SmallVec::new();
        if !self.run.is_empty() {
            let run = &input[self.run.clone()];
            let run = &run[..run.len().min(most)];
            most -= run.len();
            slices.push(IoSlice::new(run));
        }
        let mut skip = self.sent;
        for piece in self.pieces.iter().take(if most > 0 { MAX_SLICES - 1 } else { 0 }) {
            let rest = &piece.bytes(input)[std::mem::take(&mut skip)..];
            let rest = &rest[..rest.len().min(most)];
            most -= rest.len();
            slices.push(IoSlice::new(rest));
            if most == 0 {
                break;
            }
        }
        slices
    }

    /// So many bytes went out.
    #[inline(always)]
    pub(crate) fn advance(&mut self, n: usize, input: &[u8]) {
        self.queued -= n;
        let of_run = n.min(self.run.len());
        self.run.start += of_run;
        if n > of_run {
            self.advance_pieces(n - of_run, input);
        }
    }

    fn advance_pieces(&mut self, mut left: usize, input: &[u8]) {
        while let Some(first) = self.pieces.front() {
            let rest = first.bytes(input).len() - self.sent;
            if left < rest {
                self.sent += left;
                return;
            }
            left -= rest;
            self.sent = 0;
            if let Some(Piece::Copied(mut done)) = self.pieces.pop_front() {
                if self.spare.capacity() == 0 && done.capacity() <= 2 * PIECE {
                    done.clear();
                    self.spare = done;
                }
            }
        }
    }

    /// Bytes of heap, if it is empty.
    pub(crate) fn capacity(&self) -> usize {
        self.pieces.capacity() * size_of::<Piece>() + self.spare.capacity()
    }

    /// Forgets everything that is not out.
    pub(crate) fn clear(&mut self) {
        self.run = 0..0;
        self.sent = 0;
        self.queued = 0;
        // Last: their drop may be the user's, and panic.
        self.pieces.clear();
    }

    /// Moves what is not out into a backlog of its own, which does not depend on the input.
    pub(crate) fn keep(&mut self, input: &[u8]) -> Self {
        if !self.run.is_empty() {
            let run = std::mem::take(&mut self.run);
            self.pieces.push_front(Piece::Copied(input[run].to_vec()));
        }
        for piece in &mut self.pieces {
            if let Piece::Input(range) = piece {
                *piece = Piece::Copied(input[range.clone()].to_vec());
            }
        }
        std::mem::take(self)
    }

    /// Takes everything out, in one run. For tests.
    pub(crate) fn take(&mut self, input: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while self.queued > 0 {
            let before = all.len();
            self.slices(input, usize::MAX).iter().for_each(|slice| all.extend_from_slice(slice));
            self.advance(all.len() - before, input);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_go_out_in_order_whatever_they_are() {
        let input: Vec<u8> = (0..=255).collect();
        let mut output = Output::default();
        output.write(b"copy ", &input);
        output.write(b"more ", &input);
        output.write(&input[..WORTH_KEEPING], &input);
        output.write(&input[WORTH_KEEPING..255], &input);
        output.write_bytes(Bytes::from_static(&[b's'; 2 * WORTH_KEEPING]));
        output.write(b"", &input);
        assert_eq!(output.pieces.len(), 3, "neighbours are one piece");
        assert_eq!(output.only_run(&input), None);
        assert_eq!(output.queued(), 10 + 255 + 2 * WORTH_KEEPING);
        let mut seen = Vec::new();
        while output.queued() > 0 {
            let slices = output.slices(&input, 3);
            let n = slices.iter().map(|slice| slice.len()).sum();
            assert!((1..=3).contains(&n));
            slices.iter().for_each(|slice| seen.extend_from_slice(slice));
            drop(slices);
            output.advance(n, &input);
        }
        assert_eq!(seen, [b"copy more ", &input[..255], &[b's'; 2 * WORTH_KEEPING]].concat());
        assert!(output.pieces.is_empty());
    }

    #[test]
    fn what_is_worth_it_is_not_copied_and_crumbs_are_one_piece() {
        let shared = Bytes::from(vec![b's'; WORTH_KEEPING]);
        let input = vec![b'i'; WORTH_KEEPING];
        let mut output = Output::default();
        output.write_bytes(shared.clone());
        output.write(&input, &input);
        for _ in 0..100 {
            output.write_bytes(shared.slice(1..));
            output.write(&input[1..2], &input);
            output.write_bytes(Bytes::new());
        }
        let slices = output.slices(&input, usize::MAX);
        let at: Vec<_> = slices.iter().map(|slice| slice.as_ptr()).collect();
        assert_eq!((at.len(), &at[..2]), (3, &[shared.as_ptr(), input.as_ptr()][..]));
        drop(slices);
        assert_eq!(output.queued(), 2 * WORTH_KEEPING + 100 * WORTH_KEEPING);
        assert!(!shared.is_unique(), "it is shared until it is out");
        output.clear();
        assert!(shared.is_unique());
    }

    /// The bound on output is one on memory, too: whatever the pieces, they weigh few times their bytes.
    #[test]
    fn no_piece_weighs_many_times_its_bytes() {
        for size in [1, WORTH_KEEPING - 1, WORTH_KEEPING, 3 * WORTH_KEEPING] {
            let input = vec![b'i'; 2 * size];
            for kinds in 1..8 {
                let mut output = Output::default();
                for _ in 0..1_000 {
                    if kinds & 1 != 0 {
                        output.write_bytes(Bytes::from_static(&[b's'; 3 * WORTH_KEEPING]).slice(..size));
                    }
                    if kinds & 2 != 0 {
                        output.write(b"c", &input);
                    }
                    if kinds & 4 != 0 {
                        output.write(&input[size..], &input);
                    }
                }
                let kept = output.keep(&input);
                let heap = |piece: &Piece| match piece {
                    Piece::Copied(bytes) => bytes.capacity(),
                    _ => 0,
                };
                let shared: usize = kept.pieces.iter().map(|piece| piece.bytes(&[]).len().max(heap(piece))).sum();
                let all = shared + kept.pieces.capacity() * size_of::<Piece>();
                assert!(all <= 5 * kept.queued(), "{kinds} of {size}: {all} B for {} B", kept.queued());
            }
        }
    }

    /// The answer that is a part of the question: one run, whichever part, and with no piece to remember it by.
    #[test]
    fn a_run_of_the_input_needs_no_piece() {
        let buffer: Vec<u8> = (0..200).collect();
        let input = &buffer[..100];
        let mut output = Output::default();
        output.write(&input[5..20], input);
        output.write(&input[20..30], input);
        assert_eq!((output.only_run(input), output.pieces.len()), (Some(&input[5..30]), 0));
        output.advance(10, input);
        assert_eq!(output.only_run(input), Some(&input[15..30]));
        assert_eq!(output.take(input), input[15..30]);
        // What begins in it and goes on behind it is none of it.
        output.write(&buffer[90..110], input);
        assert_eq!((output.only_run(input), output.pieces.len()), (None, 1));
        assert_eq!(output.take(input), buffer[90..110]);
    }

    #[test]
    fn no_more_slices_and_bytes_than_are_asked_for() {
        let input: Vec<u8> = (0..100).collect();
        let shared = Bytes::from(vec![7; WORTH_KEEPING]);
        let mut output = Output::default();
        output.write(&input[..10], &input);
        (0..3_000).for_each(|_| output.write_bytes(shared.clone()));
        assert_eq!(output.slices(&input, usize::MAX).len(), MAX_SLICES);
        let sizes = |most| output.slices(&input, most).iter().map(|slice| slice.len()).collect::<Vec<_>>();
        assert_eq!(sizes(9), [9]);
        assert_eq!(sizes(10), [10]);
        assert_eq!(sizes(15), [10, 5]);
        assert_eq!(sizes(10 + 2 * WORTH_KEEPING), [10, WORTH_KEEPING, WORTH_KEEPING]);
        output.advance(10 + WORTH_KEEPING + 1, &input);
        let whole = output.queued();
        assert_eq!(whole, 2_999 * WORTH_KEEPING - 1);
        assert_eq!(output.take(&input), vec![7; whole], "in several calls");
    }

    #[test]
    fn copies_are_gathered_and_their_memory_is_used_again_if_it_is_not_large() {
        let mut output = Output::default();
        (0..100).for_each(|_| output.write(&[7; 200], &[]));
        assert_eq!(output.pieces.len(), 2, "of 20 000 bytes");
        output.take(&[]);
        output.clear();
        for (size, kept) in [(3 * PIECE, false), (PIECE + PIECE / 2, true)] {
            let mut output = Output::default();
            output.write(&vec![7; size], &[]);
            output.take(&[]);
            assert_eq!(output.spare.capacity() > 0, kept, "{size}");
        }
    }

    #[test]
    fn a_backlog_outlives_the_input() {
        let input = b"abcdefgh".to_vec();
        let mut output = Output::default();
        output.write(&input[1..5], &input);
        output.advance(2, &input);
        let mut kept = output.keep(&input);
        drop(input);
        kept.write(b"!", &[]);
        assert_eq!((output.queued(), kept.queued()), (0, 3));
        assert_eq!(kept.take(&[]), b"de!");
    }

    #[test]
    fn an_emptied_output_says_what_memory_it_holds() {
        let mut output = Output::default();
        assert_eq!(output.capacity(), 0);
        (0..100).for_each(|_| output.write_bytes(Bytes::from_static(&[7; WORTH_KEEPING])));
        output.take(&[]);
        let queue = output.capacity();
        assert!((100..=400).contains(&(queue / size_of::<Piece>())), "{queue} B for 100 pieces");
        output.write(&[7; PIECE], &[]);
        output.take(&[]);
        assert!((PIECE..=2 * PIECE).contains(&(output.capacity() - queue)), "and the buffer");
    }

    #[test]
    fn the_buffer_of_copies_is_used_again() {
        let mut output = Output::default();
        output.write(b"first", &[]);
        output.take(&[]);
        let at = output.spare.as_ptr();
        output.write(b"second", &[]);
        assert!(matches!(output.pieces.back(), Some(Piece::Copied(copy)) if copy.as_ptr() == at));
    }
}
