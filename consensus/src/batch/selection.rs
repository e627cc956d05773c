//! A subset of the requests of a batch.
//!
//! Owns one bit for each place. Always true: places beyond the largest batch are never in it. Must not:
//! know what it is a selection of.

use crate::limits::BATCH_REQUESTS_MAX;

/// Which requests of a batch. One bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selection([u64; BATCH_REQUESTS_MAX / 64]);

impl Selection {
    /// No request.
    pub const NONE: Selection = Selection([0; BATCH_REQUESTS_MAX / 64]);
    /// Every request.
    pub const ALL: Selection = Selection([u64::MAX; BATCH_REQUESTS_MAX / 64]);

    /// The first `count` requests.
    pub fn first(count: usize) -> Self {
        let mut selection = Self::NONE;
        for (at, word) in selection.0.iter_mut().enumerate() {
            let left = count.saturating_sub(64 * at);
            *word = if left < 64 { (1 << left) - 1 } else { u64::MAX };
        }
        selection
    }

    /// Are the first `count` requests all selected?
    pub fn contains_first(&self, count: usize) -> bool {
        let first = Self::first(count);
        self.intersection(&first) == first
    }

    /// Those that are in `self`, in `other` or in both.
    pub fn union(&self, other: &Selection) -> Self {
        let mut words = self.0.iter().zip(&other.0).map(|(a, b)| a | b);
        Self(core::array::from_fn(|_| words.next().unwrap_or(0)))
    }

    /// Those that are in `self` and in `other`.
    pub fn intersection(&self, other: &Selection) -> Self {
        let mut words = self.0.iter().zip(&other.0).map(|(a, b)| a & b);
        Self(core::array::from_fn(|_| words.next().unwrap_or(0)))
    }

    /// Adds the request at `index`.
    pub fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Removes the request at `index`.
    pub fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    /// Is the request at `index` selected?
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Bytes of [`Selection::to_bytes`].
    pub const SIZE: usize = BATCH_REQUESTS_MAX / 8;

    /// One bit for each request, the first in the lowest bit of the first byte.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(&self.0) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What [`Selection::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut selection = Self::NONE;
        for (word, bytes) in selection.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        selection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_places(
            a in proptest::collection::btree_set(0..BATCH_REQUESTS_MAX, 0..80),
            b in proptest::collection::btree_set(0..BATCH_REQUESTS_MAX, 0..80),
            count in 0..=BATCH_REQUESTS_MAX,
        ) {
            let selection = |places: &alloc::collections::BTreeSet<usize>| {
                let mut selection = Selection::NONE;
                places.iter().for_each(|place| selection.insert(*place));
                selection
            };
            let (one, other) = (selection(&a), selection(&b));
            for place in 0..BATCH_REQUESTS_MAX {
                let (in_a, in_b) = (a.contains(&place), b.contains(&place));
                prop_assert_eq!(one.contains(place), in_a);
                prop_assert_eq!(one.union(&other).contains(place), in_a || in_b);
                prop_assert_eq!(one.intersection(&other).contains(place), in_a && in_b);
                prop_assert_eq!(Selection::first(count).contains(place), place < count);
            }
            let first = Selection::first(count);
            prop_assert!(one.union(&first).contains_first(count));
            prop_assert_eq!(one.contains_first(count), (0..count).all(|place| a.contains(&place)));
            prop_assert!(!one.contains(BATCH_REQUESTS_MAX));
        }
    }
}
