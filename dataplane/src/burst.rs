//! A bounded first-in first-out queue inside one core.
//!
//! Owns its items. Always true: it never grows beyond the capacity it was made with, so after
//! creation it never allocates. Must not: be shared between cores (that is what `ring` is for).

use std::collections::VecDeque;
use std::collections::vec_deque;

/// A bounded FIFO.
#[derive(Debug)]
pub struct Burst<T> {
    items: VecDeque<T>,
    capacity: usize,
}

impl<T> Burst<T> {
    /// An empty queue for at most `capacity` items. The only call that allocates.
    ///
    /// # Panics
    /// If `capacity` is zero: nothing could ever pass.
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "a burst without capacity passes nothing");
        Self { items: VecDeque::with_capacity(capacity), capacity }
    }

    /// Append, or give the item back if the queue is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.items.len() == self.capacity {
            return Err(item);
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Take the oldest item.
    pub fn pop_front(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// Put an item back in front, where it was taken from; gives it back if the queue is full.
    pub fn push_front(&mut self, item: T) -> Result<(), T> {
        if self.items.len() == self.capacity {
            return Err(item);
        }
        self.items.push_front(item);
        Ok(())
    }

    /// The oldest item.
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// The oldest item, to be changed in place.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.items.front_mut()
    }

    /// The item at `index` from the front.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.items.get(index)
    }

    /// Items in the queue.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Is there no room left?
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Items that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.items.len()
    }

    /// Items that fit when it is empty.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Take all items, oldest first. What the caller does not take is dropped.
    pub fn drain(&mut self) -> vec_deque::Drain<'_, T> {
        self.items.drain(..)
    }

    /// Take the `count` oldest items.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn drain_front(&mut self, count: usize) -> vec_deque::Drain<'_, T> {
        self.items.drain(..count)
    }

    /// All items, oldest first.
    pub fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.items.iter()
    }

    /// Drop all items.
    pub fn clear(&mut self) {
        self.items.clear();
    }
}

impl<'a, T> IntoIterator for &'a Burst<T> {
    type Item = &'a T;
    type IntoIter = vec_deque::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_bounded_list(
            capacity in 1usize..20,
            steps in proptest::collection::vec((0u8..4, any::<u16>()), 0..200),
        ) {
            let mut burst = Burst::with_capacity(capacity);
            let allocated = burst.items.capacity();
            let mut model: Vec<u16> = Vec::new();
            for (step, value) in steps {
                match step {
                    0 | 1 => {
                        let fits = model.len() < capacity;
                        prop_assert_eq!(burst.push(value).is_ok(), fits);
                        if fits {
                            model.push(value);
                        }
                    }
                    2 => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(burst.pop_front(), expected);
                    }
                    _ => {
                        let fits = model.len() < capacity;
                        prop_assert_eq!(burst.push_front(value).is_ok(), fits);
                        if fits {
                            model.insert(0, value);
                        }
                    }
                }
                prop_assert_eq!(burst.len(), model.len());
                prop_assert_eq!(burst.room(), capacity - model.len());
                prop_assert_eq!(burst.is_full(), model.len() == capacity);
                prop_assert_eq!(burst.front(), model.first());
                prop_assert!(burst.iter().eq(model.iter()));
            }
            prop_assert_eq!(burst.items.capacity(), allocated);
            prop_assert!(burst.drain().eq(model));
            prop_assert!(burst.is_empty());
        }
    }
}
