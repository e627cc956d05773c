//! Which chunks of an image are here, and which are under way.
//!
//! Owns a bit for each chunk, and a short list of those that were asked for. Always true: a chunk is asked of one
//! member at a time; at most [`CHUNKS_UNDER_WAY_MAX`] are asked for or come and not stored yet. Must not: judge
//! a chunk, or choose who is asked.

use alloc::vec::Vec;

use crate::limits::CHUNKS_UNDER_WAY_MAX;
use crate::types::Instant;

/// One that was asked for.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    index: u32,
    /// Of whom.
    source: usize,
    since: Instant,
    /// It has come, and is being stored.
    came: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Bit i % 64 of word i / 64: chunk i is stored or under way.
    taken: Vec<u64>,
    count: u32,
    /// How many are not stored.
    left: u32,
    /// All below are taken.
    lowest: u32,
    under_way: Vec<UnderWay>,
}

impl Chunks {
    /// None of `count` is here. Allocates a bit for each.
    pub(super) fn new(count: u32) -> Self {
        Self {
            taken: alloc::vec![0; (count as usize).div_ceil(64)],
            count,
            left: count,
            lowest: 0,
            under_way: Vec::with_capacity(CHUNKS_UNDER_WAY_MAX),
        }
    }

    /// Those are here whose bits are set in `have`. Bits beyond the last chunk do not count.
    pub(super) fn resume(&mut self, have: &[u64]) {
        assert!(self.under_way.is_empty(), "nothing was asked for before");
        for (at, word) in self.taken.iter_mut().enumerate() {
            let beyond = (self.count as usize - 64 * at).min(64);
            let mask = if beyond == 64 { u64::MAX } else { (1 << beyond) - 1 };
            *word = have.get(at).copied().unwrap_or_default() & mask;
        }
        let here: u32 = self.taken.iter().map(|word| word.count_ones()).sum();
        self.left = self.count - here;
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many are not stored yet.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    fn is_taken(&self, index: u32) -> bool {
        self.taken[index as usize / 64] & 1 << (index % 64) != 0
    }

    fn set(&mut self, index: u32, taken: bool) {
        let (word, bit) = (&mut self.taken[index as usize / 64], 1 << (index % 64));
        *word = if taken { *word | bit } else { *word & !bit };
    }

    /// The lowest chunk that nobody was asked for.
    fn next(&mut self) -> Option<u32> {
        while self.lowest < self.count {
            let word = !self.taken[self.lowest as usize / 64] >> (self.lowest % 64);
            if word != 0 {
                self.lowest += word.trailing_zeros();
                return (self.lowest < self.count).then_some(self.lowest);
            }
            self.lowest = (self.lowest / 64 + 1) * 64;
        }
        None
    }

    /// Is there a chunk that nobody was asked for?
    pub(super) fn has_next(&mut self) -> bool {
        self.next().is_some()
    }

    /// Takes up to `most` chunks in a row to be asked of `source`: the first and how many. None when there is
    /// none, or too many are under way.
    pub(super) fn take_run(
        &mut self,
        source: usize,
        most: usize,
        now: Instant,
    ) -> Option<(u32, u32)> {
        let room = CHUNKS_UNDER_WAY_MAX - self.under_way.len();
        let first = self.next()?;
        let run = (first..self.count).take(most.min(room));
        let run = run.take_while(|index| !self.is_taken(*index)).count() as u32;
        for index in first..first + run {
            self.set(index, true);
            self.under_way.push(UnderWay { index, source, since: now, came: false });
        }
        (run > 0).then_some((first, run))
    }

    /// A genuine chunk has come. Of whom it was asked; None if it is not waited for.
    pub(super) fn come(&mut self, index: u32) -> Option<usize> {
        let waited = |it: &&mut UnderWay| it.index == index && !it.came;
        let found = self.under_way.iter_mut().find(waited)?;
        found.came = true;
        Some(found.source)
    }

    /// It is stored. False if it was not being stored.
    pub(super) fn store(&mut self, index: u32) -> bool {
        let place = self.under_way.iter().position(|it| it.index == index && it.came);
        let Some(place) = place else {
            return false;
        };
        self.under_way.swap_remove(place);
        self.left -= 1;
        true
    }

    /// How many `source` owes.
    pub(super) fn owed_by(&self, source: usize) -> usize {
        self.under_way.iter().filter(|it| it.source == source && !it.came).count()
    }

    /// Since when `source` owes what it owes longest.
    pub(super) fn owed_since(&self, source: usize) -> Option<Instant> {
        let owed = self.under_way.iter().filter(|it| it.source == source && !it.came);
        owed.map(|it| it.since).min()
    }

    /// What `source` owes may be asked of others.
    pub(super) fn give_back(&mut self, source: usize) {
        let mut at = 0;
        while let Some(&UnderWay { index, source: of, came, .. }) = self.under_way.get(at) {
            if of == source && !came {
                self.under_way.swap_remove(at);
                self.set(index, false);
                self.lowest = self.lowest.min(index);
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant(7);

    #[test]
    fn runs_are_short_and_end_where_something_is_here() {
        let mut chunks = Chunks::new(130);
        // All but 3, 4, 5, 128 and 129; bits beyond the last count for nothing.
        chunks.resume(&[!(7 << 3), u64::MAX, u64::MAX << 2]);
        assert_eq!((chunks.count(), chunks.left()), (130, 5));
        assert_eq!(chunks.take_run(0, 2, NOW), Some((3, 2)));
        assert_eq!(chunks.take_run(1, 2, NOW), Some((5, 1)));
        assert_eq!(chunks.take_run(1, 4, NOW), Some((128, 2)));
        assert!(!chunks.has_next());
        assert_eq!((chunks.owed_by(0), chunks.owed_by(1)), (2, 3));
        assert_eq!(chunks.come(4), Some(0));
        assert_eq!(chunks.come(4), None, "once");
        assert!(!chunks.store(3), "it has not come");
        chunks.give_back(0);
        assert_eq!(
            chunks.take_run(2, 9, NOW),
            Some((3, 1)),
            "what has come is not asked for again"
        );
        assert!(chunks.store(4));
        assert_eq!(chunks.left(), 4);
    }

    proptest! {
        #[test]
        fn every_chunk_is_stored_once_whatever_happens(
            count in 1u32..200,
            steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..400),
        ) {
            let mut chunks = Chunks::new(count);
            let (mut owed, mut came, mut stored) = (Vec::new(), Vec::new(), 0);
            for (what, which) in steps {
                match what {
                    0 => {
                        let source = which.index(3);
                        if let Some((first, run)) = chunks.take_run(source, 4, NOW) {
                            prop_assert!((1..=4).contains(&run) && first + run <= count);
                            owed.extend((first..first + run).map(|index| (index, source)));
                        } else {
                            let full = owed.len() + came.len() == CHUNKS_UNDER_WAY_MAX;
                            prop_assert!(full || stored + owed.len() + came.len() == count as usize);
                        }
                    }
                    1 if !owed.is_empty() => {
                        let (index, source) = owed.swap_remove(which.index(owed.len()));
                        prop_assert_eq!(chunks.come(index), Some(source));
                        came.push(index);
                    }
                    2 if !came.is_empty() => {
                        prop_assert!(chunks.store(came.swap_remove(which.index(came.len()))));
                        stored += 1;
                    }
                    3 => {
                        let source = which.index(3);
                        chunks.give_back(source);
                        owed.retain(|(_, of)| *of != source);
                    }
                    _ => {}
                }
                prop_assert_eq!(chunks.left() as usize, count as usize - stored);
                for source in 0..3 {
                    let expected = owed.iter().filter(|(_, of)| *of == source).count();
                    prop_assert_eq!(chunks.owed_by(source), expected);
                    prop_assert_eq!(chunks.owed_since(source).is_some(), expected > 0);
                }
            }
        }
    }
}
