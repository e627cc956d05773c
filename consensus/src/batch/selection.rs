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
