//! A memory of digests that several cores add to and all look in.
//!
//! Owns one table for each core that adds. Always true: `contains` is said only of a digest that was
//! added, whatever other cores add at that moment; each place keeps the newest, so memory is bounded
//! and old digests are forgotten. Must not: be asked what it does not contain, or be relied on to
//! remember.
//!
//! A place is guarded by a sequence lock: its one writer makes the sequence odd, writes, and makes it
//! even again; a reader that saw the same even sequence before and after has read one digest, not
//! halves of two. The sequence has 64 bits and never comes round.

use std::sync::Arc;

use crate::types::Digest;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// One core's handle: it adds to its own table and looks in all of them.
pub struct DigestMemory {
    tables: Arc<[Table]>,
    own: usize,
}

struct Table {
    places: Box<[Place]>,
}

struct Place {
    sequence: AtomicU64,
    /// The first 128 bits of a digest: to be taken for one that was added, another would have to be
    /// a second preimage of them. All zero: nothing.
    low: AtomicU64,
    high: AtomicU64,
}

impl DigestMemory {
    /// One handle for each of `cores`, each table with room for `places` digests.
    ///
    /// # Panics
    /// If `places` is not a power of two, or `cores` is zero.
    pub fn shared(cores: usize, places: usize) -> Vec<Self> {
        assert!(places.is_power_of_two() && cores > 0, "every core has a table of 2^k places");
        let place = || Place {
            sequence: AtomicU64::new(0),
            low: AtomicU64::new(0),
            high: AtomicU64::new(0),
        };
        let table = || Table { places: std::iter::repeat_with(place).take(places).collect() };
        let tables: Arc<[Table]> = std::iter::repeat_with(table).take(cores).collect();
        (0..cores).map(|own| Self { tables: Arc::clone(&tables), own }).collect()
    }

    /// Bytes of one table with room for `places` digests.
    pub const fn table_size(places: usize) -> usize {
        places * size_of::<Place>()
    }

    /// Add a digest. It takes the place of an older one.
    pub fn insert(&mut self, digest: &Digest) {
        let (low, high) = halves(digest);
        let place = self.tables[self.own].place(low);
        // Only this handle writes to its table.
        let sequence = place.sequence.load(Ordering::Relaxed);
        place.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        place.low.store(low, Ordering::Relaxed);
        place.high.store(high, Ordering::Relaxed);
        place.sequence.store(sequence + 2, Ordering::Release);
    }

    /// Was this digest added, by any core, and not displaced since?
    pub fn contains(&self, digest: &Digest) -> bool {
        let (low, high) = halves(digest);
        (low, high) != (0, 0) && self.tables.iter().any(|table| table.place(low).is(low, high))
    }
}

impl Table {
    fn place(&self, low: u64) -> &Place {
        &self.places[low as usize & (self.places.len() - 1)]
    }
}

impl Place {
    fn is(&self, low: u64, high: u64) -> bool {
        let before = self.sequence.load(Ordering::Acquire);
        let same =
            self.low.load(Ordering::Relaxed) == low && self.high.load(Ordering::Relaxed) == high;
        // Nearly always different: no need to look whether it was read whole.
        if !same {
            return false;
        }
        fence(Ordering::Acquire);
        before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before
    }
}

fn halves(digest: &Digest) -> (u64, u64) {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (word(0), word(8))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn digest(low: u64, high: u64) -> Digest {
        let mut digest = [7; 32];
        digest[..8].copy_from_slice(&low.to_le_bytes());
        digest[8..16].copy_from_slice(&high.to_le_bytes());
        digest
    }

    #[test]
    fn what_one_core_adds_all_find_until_its_place_is_taken() {
        let mut memories = DigestMemory::shared(3, 8);
        assert!(!memories[0].contains(&digest(0, 0)), "an empty place is no digest");
        memories[1].insert(&digest(5, 1));
        assert!(memories.iter().all(|memory| memory.contains(&digest(5, 1))));
        assert!(!memories[1].contains(&digest(5, 2)) && !memories[1].contains(&digest(13, 1)));
        // The same place of another core's table.
        memories[2].insert(&digest(13, 3));
        assert!(memories[0].contains(&digest(5, 1)) && memories[0].contains(&digest(13, 3)));
        memories[1].insert(&digest(13, 4));
        assert!(!memories[0].contains(&digest(5, 1)));
        assert!(memories[0].contains(&digest(13, 4)) && memories[0].contains(&digest(13, 3)));
        assert_eq!(DigestMemory::table_size(8), 192);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::thread;

    fn digest(low: u8, high: u8) -> Digest {
        let mut digest = [0; 32];
        (digest[0], digest[8]) = (low, high);
        digest
    }

    /// A reader never puts halves of two digests together, nor takes a half-written one.
    #[test]
    fn loom_a_digest_is_found_whole() {
        loom::model(|| {
            let mut memories = DigestMemory::shared(2, 1);
            let reader = memories.pop().expect("two");
            let mut writer = memories.pop().expect("two");
            let other = thread::spawn(move || {
                writer.insert(&digest(1, 2));
                writer.insert(&digest(3, 4));
            });
            assert!(!reader.contains(&digest(1, 4)));
            other.join().expect("the model's thread does not panic");
            assert!(reader.contains(&digest(3, 4)));
        });
    }
}
