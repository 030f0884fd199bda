//! A queue that is filled, then emptied: a vector, and where its front is.
//!
//! What goes through the loop goes in batches: pushed one after the other, then popped until nothing is left, and all
//! over again. So nothing has to wrap around: a push is a store, a pop a load, and neither moves the others.
//!
//! | places       | hold      |
//! |--------------|-----------|
//! | `..head`     | nothing   |
//! | `head..tail` | the items |
//! | `tail..`     | nothing   |
//!
//! What holds nothing is [`Vacant`], a value of the items' own type: an `Option` around an enum would do, but the compiler
//! takes it apart and puts it together again with every move.
//!
//! Emptied, it begins at its first place again. If it never is, what it has left behind is given up as soon as that is half
//! of it, so it is never more than twice as long as what it holds at most, and a push costs O(1) amortised.

use std::mem;

/// A type with a value that stands for nothing, and has nothing to drop.
pub(crate) trait Vacant: Sized {
    fn vacant() -> Self;

    fn is_vacant(&self) -> bool;
}

#[derive(Debug)]
pub(crate) struct Linear<T> {
    places: Vec<T>,
    head: usize,
    tail: usize,
}

impl<T: Vacant> Linear<T> {
    /// Room for so many; more only makes it grow.
    pub(crate) fn with_capacity(most: usize) -> Self {
        Self { places: Vec::with_capacity(most), head: 0, tail: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.tail - self.head
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, item: T) {
        match self.places.get_mut(self.tail) {
            Some(place) => {
                debug_assert!(place.is_vacant(), "nothing lies behind the tail");
                // Nothing to drop, and so nothing to look at.
                mem::forget(mem::replace(place, item));
            }
            None => self.push_behind(item),
        }
        self.tail += 1;
    }

    /// There is no place behind the last item.
    #[cold]
    fn push_behind(&mut self, item: T) {
        if self.head > self.places.len() / 2 {
            self.places.drain(..self.head);
            self.tail -= self.head;
            self.head = 0;
        }
        self.places.push(item);
    }

    #[inline(always)]
    pub(crate) fn front(&self) -> Option<&T> {
        self.places.get(self.head).filter(|_| !self.is_empty())
    }

    /// Takes the front out. There is one: whoever asks has looked.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> T {
        debug_assert!(!self.is_empty(), "an item that nobody has pushed");
        let Some(place) = self.places.get_mut(self.head) else { unreachable!("there is an item") };
        let item = mem::replace(place, T::vacant());
        self.head += 1;
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
        item
    }

    /// Takes the front out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.is_empty() { None } else { Some(self.take()) }
    }

    /// Takes over all that the other one holds, behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            mem::swap(self, other);
        }
        while let Some(item) = other.pop() {
            self.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Vacant for u32 {
        fn vacant() -> Self {
            Self::MAX
        }

        fn is_vacant(&self) -> bool {
            *self == Self::MAX
        }
    }

    #[test]
    fn what_went_in_comes_out_in_order() {
        let mut queue = Linear::with_capacity(2);
        let (mut next, mut expected) = (0, 0);
        // Fuller and fuller, each time with something left.
        for round in 1..100 {
            for _ in 0..2 * round {
                queue.push(next);
                next += 1;
            }
            for _ in 0..round {
                assert_eq!(queue.front(), Some(&expected));
                assert_eq!(queue.pop(), Some(expected));
                expected += 1;
            }
            assert_eq!(queue.len(), (next - expected) as usize);
        }
        while let Some(item) = queue.pop() {
            assert_eq!(item, expected);
            expected += 1;
        }
        assert_eq!((expected, queue.is_empty(), queue.front()), (next, true, None));
        assert_eq!((queue.head, queue.tail), (0, 0), "it begins anew");
    }

    /// What is never empty keeps what it holds, in order, and gives up the places that it has left behind.
    #[test]
    fn what_is_never_empty_does_not_grow() {
        for (held, step) in [(1, 1), (10, 1), (10, 3), (9, 4)] {
            let mut queue = Linear::with_capacity(0);
            (0..held).for_each(|i| queue.push(i));
            for i in (0..10_000).step_by(step) {
                let step = u32::try_from(step).unwrap();
                (i..i + step).for_each(|i| queue.push(held + i));
                (i..i + step).for_each(|i| assert_eq!(queue.pop(), Some(i)));
            }
            assert_eq!(queue.len(), held as usize);
            let most = 2 * (held as usize + step) + 2;
            assert!(queue.places.len() <= most, "{} places for {held} items", queue.places.len());
        }
    }

    #[test]
    fn one_goes_behind_the_other() {
        let (mut one, mut two) = (Linear::with_capacity(1), Linear::with_capacity(1));
        two.push(1);
        one.append(&mut two);
        two.push(2);
        two.push(3);
        one.append(&mut two);
        assert!(two.is_empty());
        assert_eq!(std::iter::from_fn(|| one.pop()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((one.pop(), one.len()), (None, 0));
    }
}
