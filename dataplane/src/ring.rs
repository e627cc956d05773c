//! The only way from one core to another: a bounded single-producer single-consumer ring.
//!
//! Owns the items in flight. Always true: order is kept, nothing is lost, nothing allocates after
//! creation, and neither side ever waits for the other. Must not: be cloned; fan-in is one ring for
//! each producer. The ring itself is `rtrb`; this module adds bursts, so that one publication pays
//! for many items (a hop costs 58 ns alone, 2 ns an item when streaming).

use crate::burst::Burst;
use crate::limits::BURST_MAX;
use std::fmt;

/// A ring for at most `capacity` items.
///
/// # Panics
/// If `capacity` is zero: nothing could ever pass.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a ring without capacity passes nothing");
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (Producer { inner: producer }, Consumer { inner: consumer })
}

/// The sending end.
pub struct Producer<T> {
    inner: rtrb::Producer<T>,
}

impl<T> Producer<T> {
    /// Append, or give the item back if the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.inner.push(item).map_err(|rtrb::PushError::Full(item)| item)
    }

    /// Move items from the front of `from` until it is empty or the ring is full; what does not fit
    /// stays there. Returns how many were moved.
    pub fn push_burst(&mut self, from: &mut Burst<T>) -> usize {
        let count = from.len().min(self.inner.slots());
        let Ok(chunk) = self.inner.write_chunk_uninit(count) else {
            return 0;
        };
        chunk.fill_from_iter(std::iter::from_fn(|| from.pop_front()))
    }

    /// Append items until there are no more or the ring is full; what does not fit is dropped. All are
    /// published together. Returns how many were appended.
    pub fn extend(&mut self, items: impl ExactSizeIterator<Item = T>) -> usize {
        let count = items.len().min(self.inner.slots());
        let Ok(chunk) = self.inner.write_chunk_uninit(count) else {
            return 0;
        };
        chunk.fill_from_iter(items)
    }

    /// Items that still fit. Only the other end can make it more.
    pub fn room(&self) -> usize {
        self.inner.slots()
    }

    /// Items in flight; the other end may be taking them.
    pub fn len(&self) -> usize {
        self.capacity() - self.inner.slots()
    }

    /// Is nothing in flight?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items that fit when it is empty.
    pub fn capacity(&self) -> usize {
        self.inner.buffer().capacity()
    }

    /// Has the other end been dropped? Then nobody will ever take an item.
    pub fn is_abandoned(&self) -> bool {
        self.inner.is_abandoned()
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} of {})", self.len(), self.capacity())
    }
}

/// The receiving end.
pub struct Consumer<T> {
    inner: rtrb::Consumer<T>,
}

impl<T> Consumer<T> {
    /// Take the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.inner.pop().ok()
    }

    /// Move items to the back of `into` until the ring is empty or `into` is full. Returns how many
    /// were moved.
    pub fn pop_burst(&mut self, into: &mut Burst<T>) -> usize {
        let count = into.room().min(self.inner.slots());
        let Ok(chunk) = self.inner.read_chunk(count) else {
            return 0;
        };
        for item in chunk {
            let pushed = into.push(item);
            debug_assert!(pushed.is_ok(), "the room was checked and only we fill it");
        }
        count
    }

    /// Up to `max` of the oldest items, to be taken one by one: what the caller leaves stays in the ring.
    pub fn burst(&mut self, max: usize) -> BurstOf<'_, T> {
        let chunk = self.inner.read_chunk(self.inner.slots().min(max));
        BurstOf { chunk: chunk.expect("as many were there a moment ago").into_iter() }
    }

    /// Look at the oldest item.
    pub fn front(&self) -> Option<&T> {
        self.inner.peek().ok()
    }

    /// Items that can be taken. Only the other end can make it more.
    pub fn len(&self) -> usize {
        self.inner.slots()
    }

    /// Is there nothing to take?
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Items that fit when it is empty.
    pub fn capacity(&self) -> usize {
        self.inner.buffer().capacity()
    }

    /// Has the other end been dropped? Then no item will come after those that are there.
    pub fn is_abandoned(&self) -> bool {
        self.inner.is_abandoned()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} of {})", self.len(), self.capacity())
    }
}

/// The receiving ends of several rings, one for each producer, read as one.
///
/// Order is kept within a ring. Between rings turns are taken: no ring waits for more than
/// [`FAN_IN_TURN`] items of each of the others.
pub struct FanIn<T> {
    rings: Box<[Consumer<T>]>,
    /// Whose turn it is.
    at: usize,
    /// What is left of its turn.
    left: usize,
}

/// Items taken from one ring of a fan-in before the others have their turn.
pub const FAN_IN_TURN: usize = BURST_MAX;

impl<T> FanIn<T> {
    /// All of these, the first one first.
    ///
    /// # Panics
    /// If there is none: nothing could ever arrive.
    pub fn new(rings: Vec<Consumer<T>>) -> Self {
        assert!(!rings.is_empty(), "a fan-in without rings receives nothing");
        Self { rings: rings.into(), at: 0, left: FAN_IN_TURN }
    }

    /// Take the oldest item of the ring whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        for _ in 0..=self.rings.len() {
            if self.left > 0
                && let Some(item) = self.rings[self.at].pop()
            {
                self.left -= 1;
                return Some(item);
            }
            self.at = if self.at + 1 < self.rings.len() { self.at + 1 } else { 0 };
            self.left = FAN_IN_TURN;
        }
        None
    }

    /// Up to `max` of the oldest items of the ring whose turn it is, to be taken one by one: what the
    /// caller leaves stays in the ring. Empty only when all rings are.
    pub fn burst(&mut self, max: usize) -> BurstOf<'_, T> {
        let mut at = self.at;
        let mut count = self.rings[at].len().min(self.left);
        for _ in 0..self.rings.len() {
            if count > 0 {
                break;
            }
            at = if at + 1 < self.rings.len() { at + 1 } else { 0 };
            self.left = FAN_IN_TURN;
            count = self.rings[at].len().min(self.left);
        }
        self.at = at;
        let count = count.min(max);
        self.left -= count;
        self.rings[at].burst(count)
    }

    /// Items that can be taken from all rings.
    pub fn len(&self) -> usize {
        self.rings.iter().map(Consumer::len).sum()
    }

    /// Is there nothing to take?
    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(Consumer::is_empty)
    }
}

/// Items of a ring, taken one by one and made room for together, when this is dropped.
#[derive(Debug)]
pub struct BurstOf<'a, T> {
    chunk: rtrb::chunks::ReadChunkIntoIter<'a, T>,
}

impl<T> Iterator for BurstOf<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.chunk.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunk.size_hint()
    }
}

impl<T> ExactSizeIterator for BurstOf<'_, T> {}

impl<T> fmt::Debug for FanIn<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rings.iter()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_like_a_bounded_fifo(
            capacity in 1usize..12,
            steps in proptest::collection::vec((0u8..5, 1usize..9), 0..200),
        ) {
            let (mut tx, mut rx) = ring::<u32>(capacity);
            let mut model: VecDeque<u32> = VecDeque::new();
            let mut next = 0;
            for (step, size) in steps {
                match step {
                    0 => {
                        let fits = model.len() < capacity;
                        prop_assert_eq!(tx.push(next).is_ok(), fits);
                        if fits {
                            model.push_back(next);
                            next += 1;
                        }
                    }
                    1 => prop_assert_eq!(rx.pop(), model.pop_front()),
                    2 => {
                        let mut burst = Burst::with_capacity(size);
                        while burst.push(next).is_ok() {
                            next += 1;
                        }
                        let moved = tx.push_burst(&mut burst);
                        prop_assert_eq!(moved, size.min(capacity - model.len()));
                        prop_assert_eq!(burst.len(), size - moved);
                        let first = next - size as u32;
                        model.extend(first..first + moved as u32);
                        prop_assert!(burst.iter().copied().eq(first + moved as u32..next));
                        next = first + moved as u32;
                    }
                    3 => {
                        let moved = tx.extend((0..size).map(|at| next + at as u32));
                        prop_assert_eq!(moved, size.min(capacity - model.len()));
                        model.extend(next..next + moved as u32);
                        next += size as u32;
                    }
                    _ => {
                        let mut burst = Burst::with_capacity(size);
                        let moved = rx.pop_burst(&mut burst);
                        prop_assert_eq!(moved, size.min(model.len()));
                        prop_assert!(burst.drain().eq(model.drain(..moved)));
                    }
                }
                prop_assert_eq!((tx.len(), rx.len()), (model.len(), model.len()));
                prop_assert_eq!(tx.room(), capacity - model.len());
                prop_assert_eq!(rx.front(), model.front());
            }
        }
    }

    #[test]
    fn a_dropped_end_is_seen_and_items_are_dropped_once() {
        let item = std::sync::Arc::new(());
        let (mut tx, rx) = ring(4);
        tx.push(item.clone()).unwrap();
        tx.push(item.clone()).unwrap();
        assert!(!tx.is_abandoned());
        drop(rx);
        assert!(tx.is_abandoned());
        drop(tx);
        assert_eq!(std::sync::Arc::strong_count(&item), 1);
    }

    #[test]
    fn a_fan_in_takes_turns_keeps_each_order_and_loses_nothing() {
        let (mut first, a) = ring(4 * FAN_IN_TURN);
        let (mut second, b) = ring(4);
        let (_third, c) = ring(4);
        let mut rings = FanIn::new(vec![a, b, c]);
        assert!(rings.is_empty());
        for item in 0..3 * FAN_IN_TURN {
            first.push((0, item)).unwrap();
        }
        for item in 0..4 {
            second.push((1, item)).unwrap();
        }
        assert_eq!(rings.len(), 3 * FAN_IN_TURN + 4);
        let taken: Vec<_> = std::iter::from_fn(|| rings.pop()).collect();
        assert_eq!(taken.len(), 3 * FAN_IN_TURN + 4);
        // However full the first is, the second has its turn after one of the first.
        assert!(taken[..FAN_IN_TURN].iter().all(|(from, _)| *from == 0));
        assert!(taken[FAN_IN_TURN..FAN_IN_TURN + 4].iter().all(|(from, _)| *from == 1));
        for from in [0, 1] {
            let order: Vec<_> = taken.iter().filter(|item| item.0 == from).collect();
            assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1));
        }
        second.push((1, 9)).unwrap();
        assert_eq!(rings.pop(), Some((1, 9)), "an empty ring costs no turn");
        assert_eq!(rings.pop(), None);
    }

    proptest! {
        #[test]
        fn bursts_of_a_fan_in_take_the_same_turns_as_single_items(
            sizes in proptest::collection::vec(0usize..3 * FAN_IN_TURN, 1..4),
            most in proptest::collection::vec(1usize..100, 1..20),
        ) {
            let filled = || {
                let fill = |(from, size): (usize, &usize)| {
                    let (mut tx, rx) = ring(3 * FAN_IN_TURN);
                    (0..*size).for_each(|item| tx.push((from, item)).expect("room"));
                    rx
                };
                FanIn::new(sizes.iter().enumerate().map(fill).collect())
            };
            let (mut single, mut bursts) = (filled(), filled());
            for max in most.iter().cycle() {
                let left = bursts.len();
                let burst = bursts.burst(*max);
                prop_assert!(burst.len() <= *max && (burst.len() > 0 || left == 0));
                for item in burst {
                    prop_assert_eq!(single.pop(), Some(item));
                }
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(single.pop(), None);
        }
    }

    #[test]
    fn what_is_left_of_a_burst_stays() {
        let (mut tx, rx) = ring(4);
        let mut rings = FanIn::new(vec![rx]);
        (0..4).for_each(|item| tx.push(item).unwrap());
        assert!(rings.burst(3).take(2).eq([0, 1]));
        assert_eq!((tx.room(), rings.len()), (2, 2));
        assert!(rings.burst(9).eq([2, 3]));
    }

    #[test]
    fn two_threads_keep_the_order() {
        let (mut tx, mut rx) = ring::<u64>(8);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut burst = Burst::with_capacity(5);
                let mut next = 0;
                while next < 20_000 || !burst.is_empty() {
                    while next < 20_000 && burst.push(next).is_ok() {
                        next += 1;
                    }
                    if tx.push_burst(&mut burst) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            let mut burst = Burst::with_capacity(3);
            let mut expected = 0;
            while expected < 20_000 {
                if rx.pop_burst(&mut burst) == 0 {
                    std::thread::yield_now();
                }
                for item in burst.drain() {
                    assert_eq!(item, expected);
                    expected += 1;
                }
            }
        });
    }
}
