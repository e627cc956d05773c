//! Counting the votes of one kind (WRITE, ACCEPT, REFUSE) in one (view, instance, epoch).
//!
//! Owns who voted for what. Always true: a member counts once, for the first digest it named, and
//! votes for different digests are never added up. Must not: know what a vote means, compare
//! positions (the owner keeps one tally for each), or allocate.

use crate::limits::REPLICAS_MAX;
use crate::spec;
use crate::types::{Digest, ReplicaSet};

/// What became of a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// The member's first vote.
    New {
        /// Members that have voted for this digest, this one included.
        count: usize,
    },
    /// The member has voted for this digest before. Nothing changed.
    Repeated,
    /// The member has voted for another digest before: proof that it is faulty. Nothing changed.
    Conflict {
        /// What it voted for first, and still counts for.
        first: Digest,
    },
}

/// Votes of one kind in one (view, instance, epoch).
#[derive(Clone, Debug)]
pub struct Tally {
    voters: ReplicaSet,
    /// For each member that voted: index of its digest in `values`.
    choice: [u8; REPLICAS_MAX],
    values: [Value; REPLICAS_MAX],
    /// Distinct digests: the used part of `values`.
    size: usize,
    /// The digest named last: what the mutant that does not tell digests apart takes for the result.
    last: Digest,
    per_digest: bool,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    digest: Digest,
    count: u8,
}

impl Tally {
    /// No votes. `per_digest` is true except in the mutant that proves that the checkers notice when
    /// votes for different values are added up.
    pub fn new(per_digest: bool) -> Self {
        let none = Value { digest: Digest::ZERO, count: 0 };
        Self {
            voters: ReplicaSet::EMPTY,
            choice: [0; REPLICAS_MAX],
            values: [none; REPLICAS_MAX],
            size: 0,
            last: Digest::ZERO,
            per_digest,
        }
    }

    /// Counts the vote of the member at `member_index` (below `REPLICAS_MAX`) for `digest`.
    pub fn vote(&mut self, member_index: usize, digest: Digest) -> Counted {
        spec!("VP.1");
        if self.voters.contains(member_index) {
            let first = self.values[usize::from(self.choice[member_index])].digest;
            return if first == digest { Counted::Repeated } else { Counted::Conflict { first } };
        }
        self.voters.insert(member_index);
        // Distinct digests are at most as many as distinct voters, so there is room.
        let at = self.position(&digest).unwrap_or_else(|| {
            self.values[self.size] = Value { digest, count: 0 };
            self.size += 1;
            self.size - 1
        });
        self.choice[member_index] = at as u8;
        self.values[at].count += 1;
        self.last = digest;
        Counted::New { count: self.count(&digest) }
    }

    /// Members that voted for `digest`.
    pub fn count(&self, digest: &Digest) -> usize {
        if !self.per_digest {
            return self.voters.count();
        }
        self.position(digest).map_or(0, |at| usize::from(self.values[at].count))
    }

    /// The digest that `threshold` members voted for, if there is one. With a threshold above half
    /// of the members there is at most one; with a lower one, the first that was named wins.
    pub fn reached(&self, threshold: usize) -> Option<Digest> {
        if !self.per_digest {
            return (self.voters.count() >= threshold.max(1)).then_some(self.last);
        }
        let reached = |value: &&Value| usize::from(value.count) >= threshold.max(1);
        self.values[..self.size].iter().find(reached).map(|value| value.digest)
    }

    /// Members that voted, for whatever.
    pub fn voters(&self) -> ReplicaSet {
        self.voters
    }

    /// What the member at `member_index` voted for.
    pub fn vote_of(&self, member_index: usize) -> Option<Digest> {
        let voted = self.voters.contains(member_index);
        voted.then(|| self.values[usize::from(self.choice[member_index])].digest)
    }

    /// Forgets all votes.
    pub fn clear(&mut self) {
        self.voters = ReplicaSet::EMPTY;
        self.size = 0;
    }

    fn position(&self, digest: &Digest) -> Option<usize> {
        self.values[..self.size].iter().position(|value| value.digest == *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    // rule: VP.1
    #[test]
    fn vp_1_only_the_first_vote_of_a_member_counts_and_a_different_second_one_is_evidence() {
        let mut tally = Tally::new(true);
        assert_eq!(tally.vote(3, digest(1)), Counted::New { count: 1 });
        assert_eq!(tally.vote(3, digest(1)), Counted::Repeated);
        assert_eq!(tally.vote(3, digest(2)), Counted::Conflict { first: digest(1) });
        assert_eq!((tally.count(&digest(1)), tally.count(&digest(2))), (1, 0));
        assert_eq!(tally.vote(63, digest(1)), Counted::New { count: 2 });
        assert_eq!(tally.reached(2), Some(digest(1)));
        assert_eq!(tally.vote_of(63), Some(digest(1)));
        assert_eq!(tally.vote_of(0), None);
        tally.clear();
        assert_eq!(
            (tally.reached(1), tally.voters(), tally.vote_of(3)),
            (None, ReplicaSet::EMPTY, None)
        );
        assert_eq!(tally.vote(3, digest(2)), Counted::New { count: 1 });
    }

    // rule: VP.1
    #[test]
    fn vp_1_votes_for_different_values_are_never_added_up_except_in_the_mutant() {
        let (mut tally, mut mutant) = (Tally::new(true), Tally::new(false));
        for (member, value) in [(0, 1), (1, 2), (2, 2)] {
            tally.vote(member, digest(value));
            mutant.vote(member, digest(value));
        }
        assert_eq!(tally.reached(3), None);
        assert_eq!(mutant.reached(3), Some(digest(2)));
    }

    proptest! {
        #[test]
        fn counts_like_a_list_of_first_votes(
            votes in proptest::collection::vec((0usize..REPLICAS_MAX, 0u8..6), 0..200),
            threshold in 1usize..40,
        ) {
            let mut tally = Tally::new(true);
            let mut first: Vec<(usize, u8)> = Vec::new();
            for (member, value) in votes {
                let earlier = first.iter().find(|vote| vote.0 == member).copied();
                if earlier.is_none() {
                    first.push((member, value));
                }
                let count = first.iter().filter(|vote| vote.1 == value).count();
                let expected = match earlier {
                    None => Counted::New { count },
                    Some((_, same)) if same == value => Counted::Repeated,
                    Some((_, other)) => Counted::Conflict { first: digest(other) },
                };
                prop_assert_eq!(tally.vote(member, digest(value)), expected);
            }
            for value in 0..6 {
                let count = first.iter().filter(|vote| vote.1 == value).count();
                prop_assert_eq!(tally.count(&digest(value)), count);
            }
            prop_assert_eq!(tally.voters().count(), first.len());
            let reached = tally.reached(threshold);
            prop_assert_eq!(reached.is_some(), (0..6).any(|value| tally.count(&digest(value)) >= threshold));
            prop_assert!(reached.is_none_or(|reached| tally.count(&reached) >= threshold));
        }
    }
}
