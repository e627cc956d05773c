//! Which slots of a size class are free: a lock-free bitmap.
//!
//! Owns one bit per slot, and one summary bit per 64 slots so that a full class is seen in a few
//! loads. Always true: a slot is held by one taker, or its bit is set; once no call is running, a
//! set bit is found by the next `take`. While calls run, `take` may say `None` although a slot is
//! just being returned: that is backpressure, not loss. Must not: touch the slots' memory.
//!
//! A bitmap instead of a queue: it hands out the lowest free slot, so that a lightly loaded arena
//! keeps reusing the same warm cache lines; and it has no ABA problem.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Slots in one word.
const WORD: usize = u64::BITS as usize;

/// The free slots of one size class.
pub(crate) struct FreeList {
    /// Bit i of word w: slot `w * 64 + i` is free.
    leaves: Box<[AtomicU64]>,
    /// Bit i of word w: leaf `w * 64 + i` may have free slots. A cleared bit over a leaf with free
    /// slots exists only while a call is running.
    summary: Box<[AtomicU64]>,
}

impl FreeList {
    /// All of `count` slots are free.
    pub(crate) fn all_free(count: usize) -> Self {
        let leaves: Box<[_]> =
            (0..count.div_ceil(WORD)).map(|i| AtomicU64::new(ones(count - i * WORD))).collect();
        let summary = (0..leaves.len().div_ceil(WORD))
            .map(|i| AtomicU64::new(ones(leaves.len() - i * WORD)))
            .collect();
        Self { leaves, summary }
    }

    /// Take a free slot. What its last holder did with the slot happened before this returns.
    pub(crate) fn take(&self) -> Option<u32> {
        for (i, summary) in self.summary.iter().enumerate() {
            let mut maybe = summary.load(Ordering::Acquire);
            while maybe != 0 {
                let leaf = i * WORD + maybe.trailing_zeros() as usize;
                if let Some(slot) = self.take_from(leaf) {
                    return Some(slot);
                }
                // The leaf was empty and its summary bit has been cleared: look at the others.
                maybe = summary.load(Ordering::Acquire);
            }
        }
        None
    }

    /// Return a slot.
    ///
    /// # Panics
    /// If it is free already: two owners of one slot would be a memory error.
    pub(crate) fn give(&self, slot: u32) {
        let (leaf, bit) = (slot as usize / WORD, 1 << (slot as usize % WORD));
        let before = self.leaves[leaf].fetch_or(bit, Ordering::Release);
        assert!(before & bit == 0, "a slot is returned once");
        // Whoever set the first bit of the leaf announces it.
        if before == 0 {
            self.announce(leaf);
        }
    }

    /// How many slots are free: a snapshot, exact when nothing else runs.
    pub(crate) fn free(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    fn take_from(&self, leaf: usize) -> Option<u32> {
        let word = &self.leaves[leaf];
        let mut free = word.load(Ordering::Relaxed);
        while free != 0 {
            let bit = free & free.wrapping_neg();
            // Acquire pairs with the release in `give`; other calls in between are
            // read-modify-writes too and continue its release sequence.
            match word.compare_exchange_weak(
                free,
                free & !bit,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if free == bit {
                        self.retract(leaf);
                    }
                    return Some((leaf * WORD) as u32 + bit.trailing_zeros());
                }
                Err(now) => free = now,
            }
        }
        self.retract(leaf);
        None
    }

    fn announce(&self, leaf: usize) {
        self.summary[leaf / WORD].fetch_or(1 << (leaf % WORD), Ordering::AcqRel);
    }

    /// Clear the summary bit of an empty leaf, and set it again if a slot came back meanwhile: if
    /// its `announce` was before our clearing, the acquire makes its leaf bit visible here; if it
    /// comes after, it sets the bit itself. Either way no free slot stays hidden.
    fn retract(&self, leaf: usize) {
        self.summary[leaf / WORD].fetch_and(!(1 << (leaf % WORD)), Ordering::AcqRel);
        if self.leaves[leaf].load(Ordering::Acquire) != 0 {
            self.announce(leaf);
        }
    }
}

/// The lowest `count` bits, at most 64.
fn ones(count: usize) -> u64 {
    if count >= WORD { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn hands_out_every_slot_once() {
        for count in [1, 63, 64, 65, 4096, 4097, 10_000] {
            let list = FreeList::all_free(count);
            assert_eq!(list.free(), count);
            let taken: BTreeSet<u32> = std::iter::from_fn(|| list.take()).collect();
            assert_eq!(taken.len(), count);
            assert_eq!(taken.last(), Some(&(count as u32 - 1)));
            assert_eq!((list.take(), list.free()), (None, 0));
            list.give(count as u32 - 1);
            assert_eq!(list.take(), Some(count as u32 - 1));
        }
    }

    #[test]
    #[should_panic(expected = "returned once")]
    fn returning_twice_is_a_bug() {
        let list = FreeList::all_free(2);
        list.give(1);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            count in 1usize..300,
            steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..400),
        ) {
            let list = FreeList::all_free(count);
            let mut free: BTreeSet<u32> = (0..count as u32).collect();
            for (take, which) in steps {
                if take {
                    prop_assert_eq!(list.take(), free.pop_first(), "the lowest free slot");
                } else {
                    let slot = u32::from(which) % count as u32;
                    if free.insert(slot) {
                        list.give(slot);
                    }
                }
                prop_assert_eq!(list.free(), free.len());
            }
        }
    }

    #[test]
    fn threads_never_share_a_slot_and_lose_none() {
        const SLOTS: usize = 70;
        let list = FreeList::all_free(SLOTS);
        let held: Vec<_> = (0..SLOTS).map(|_| std::sync::atomic::AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..3000usize {
                        let mine: Vec<u32> = (0..round % 40).map_while(|_| list.take()).collect();
                        for &slot in &mine {
                            assert!(!held[slot as usize].swap(true, Ordering::Relaxed));
                        }
                        for &slot in &mine {
                            assert!(held[slot as usize].swap(false, Ordering::Relaxed));
                            list.give(slot);
                        }
                    }
                });
            }
        });
        assert_eq!(list.free(), SLOTS);
        assert_eq!(std::iter::from_fn(|| list.take()).count(), SLOTS, "all can be found");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    /// Two threads take and return over two slots; afterwards both slots can be found.
    #[test]
    fn loom_no_slot_is_shared_or_lost() {
        loom::model(|| {
            let list = Arc::new(FreeList::all_free(2));
            let other = {
                let list = Arc::clone(&list);
                thread::spawn(move || {
                    if let Some(slot) = list.take() {
                        list.give(slot);
                    }
                    list.take()
                })
            };
            let mine = list.take();
            let theirs = other.join().expect("the model's thread does not panic");
            assert!(mine.is_none() || mine != theirs);
            for slot in [mine, theirs].into_iter().flatten() {
                list.give(slot);
            }
            assert_eq!(list.free(), 2);
            assert!(list.take().is_some() && list.take().is_some());
        });
    }

    /// What one holder wrote, the next one sees, also when neither call touches the summary: the
    /// leaf has other free slots before and after.
    #[test]
    fn loom_a_slot_hands_over_what_was_written() {
        loom::model(|| {
            let list = Arc::new(FreeList::all_free(3));
            let cell = Arc::new(UnsafeCell::new(()));
            let first = list.take().expect("all are free");
            let other = {
                let (list, cell) = (Arc::clone(&list), Arc::clone(&cell));
                thread::spawn(move || {
                    // Stands for writing the slot's bytes: the model checker watches.
                    cell.with_mut(|_| ());
                    list.give(first);
                })
            };
            if list.take() == Some(first) {
                cell.with_mut(|_| ());
            }
            other.join().expect("the model's thread does not panic");
        });
    }

    /// The race that the summary bit could lose: the last slot is taken while it comes back.
    #[test]
    fn loom_a_returned_slot_is_found() {
        loom::model(|| {
            let list = Arc::new(FreeList::all_free(2));
            let first = list.take().expect("both are free");
            let other = {
                let list = Arc::clone(&list);
                thread::spawn(move || list.give(first))
            };
            let second = list.take();
            other.join().expect("the model's thread does not panic");
            let held = usize::from(second.is_some());
            let rest = std::iter::from_fn(|| list.take()).count();
            assert_eq!(held + rest, 2);
        });
    }
}
