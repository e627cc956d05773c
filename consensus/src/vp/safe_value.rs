//! The choice: which values the new leader has to go on with, computed from the states of a SYNC.
//!
//! Owns rule SYNC.8. Always true: the result depends on the set of states alone, not on their order,
//! so that everybody who sees the same SYNC acts alike; a value that a correct replica decided is
//! never passed over. Must not: verify signatures or senders (the caller has), keep state, allocate.

use crate::limits::SYNC_LEVELS_MAX;
use crate::message::{ReplicaState, Written};
use crate::quorum::Quorums;
use crate::spec;
use crate::types::{ConsensusId, Digest, Epoch};

/// What the states say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Not enough: the leader waits for more states. Those of all correct members always suffice.
    Insufficient,
    /// Go on like this.
    Resume(Resume),
}

/// Where to go on, and with which values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resume {
    /// The first level: some correct member decided it (or the instance before it, when there is
    /// nothing decided). A replica whose open instance is below learns what it lacks (LAG.2) and
    /// does not vote there in this regency.
    pub start: ConsensusId,
    /// Values of the bound levels, from `start` on.
    pub bound: [Digest; SYNC_LEVELS_MAX],
    /// How many of them.
    pub bound_count: usize,
}

impl Resume {
    /// The first level that is free: the leader proposes there as usual.
    pub fn free(&self) -> ConsensusId {
        ConsensusId(self.start.0.saturating_add(self.bound_count as u64))
    }

    /// The only value that may be written at `cid`; `None` when the level is free or below `start`.
    pub fn value_at(&self, cid: ConsensusId) -> Option<Digest> {
        let level = usize::try_from(cid.0.checked_sub(self.start.0)?).ok()?;
        self.bound[..self.bound_count].get(level).copied()
    }
}

/// The choice from `states`, which are of distinct members of one view, for one regency, and
/// verified. (SYNC.8)
///
/// When several values bind a level no correct replica decided there, and any of them is safe; the
/// one certified last is taken, and the greatest digest of those: everybody must take the same.
pub fn choose(states: &[ReplicaState], quorums: Quorums) -> Choice {
    spec!("SYNC.8");
    let Some(highest) = supported(states, quorums) else {
        return Choice::Insufficient;
    };
    let start = ConsensusId(highest.0.max(1));
    let mut resume = Resume { start, bound: [Digest::ZERO; SYNC_LEVELS_MAX], bound_count: 0 };
    while resume.bound_count < SYNC_LEVELS_MAX {
        match level(states, resume.free(), quorums) {
            Level::Bound(digest) => {
                resume.bound[resume.bound_count] = digest;
                resume.bound_count += 1;
            }
            Level::Free => return Choice::Resume(resume),
            Level::Unknown => return Choice::Insufficient,
        }
    }
    // A bound level above the highest needs one-correct members that decided above the highest.
    Choice::Insufficient
}

enum Level {
    Bound(Digest),
    Free,
    Unknown,
}

/// What one member knows about one level.
#[derive(Clone, Copy)]
enum Knowledge<'a> {
    /// It decided this.
    Decided(Digest),
    /// The level is its open instance.
    Open(&'a ReplicaState),
    /// It has not come that far: it has neither written nor certified anything there.
    Nothing,
}

/// The highest instance that one-correct members say they decided.
fn supported(states: &[ReplicaState], quorums: Quorums) -> Option<ConsensusId> {
    let support = |cid| states.iter().filter(|state| state.decided >= cid).count();
    let claims = states.iter().map(|state| state.decided);
    claims.filter(|&cid| support(cid) >= quorums.one_correct()).max()
}

fn level(states: &[ReplicaState], cid: ConsensusId, quorums: Quorums) -> Level {
    let told = || states.iter().filter_map(|state| knowledge(state, cid));
    if told().count() < quorums.sync() {
        return Level::Unknown;
    }
    // One of these is correct and did decide it. It must not depend on certificates: a member that
    // certified another value in an epoch that failed, and slept since, is compatible with nothing.
    let decisions = told().filter_map(Knowledge::decision);
    let agreed = decisions.filter(|&digest| {
        let same = told().filter(|knowledge| knowledge.decision() == Some(digest)).count();
        same >= quorums.one_correct()
    });
    if let Some(digest) = agreed.max() {
        return Level::Bound(digest);
    }
    let mut best: Option<Written> = None;
    for candidate in told().filter_map(Knowledge::certified) {
        let compatible = told().filter(|knowledge| knowledge.is_compatible(&candidate)).count();
        let vouching = told().filter(|knowledge| knowledge.vouches(&candidate)).count();
        if compatible >= quorums.certificate()
            && vouching >= quorums.one_correct()
            && best.is_none_or(|best| rank(&candidate) > rank(&best))
        {
            best = Some(candidate);
        }
    }
    if let Some(best) = best {
        return Level::Bound(best.digest);
    }
    let blank = told().filter(|knowledge| knowledge.is_blank()).count();
    if blank >= quorums.certificate() { Level::Free } else { Level::Unknown }
}

/// Of several certificates that bind, everybody takes the one that is highest in this order.
fn rank(written: &Written) -> (Epoch, Digest) {
    (written.epoch, written.digest)
}

/// What `state` tells about `cid`; `None` when the member is too far ahead to tell.
fn knowledge(state: &ReplicaState, cid: ConsensusId) -> Option<Knowledge<'_>> {
    let decided = state.decided;
    if decided == cid {
        Some(Knowledge::Decided(state.decisions[0]))
    } else if decided.0.checked_sub(1) == Some(cid.0) {
        Some(Knowledge::Decided(state.decisions[1]))
    } else if decided.0.checked_add(1) == Some(cid.0) {
        Some(Knowledge::Open(state))
    } else {
        (decided < cid).then_some(Knowledge::Nothing)
    }
}

impl Knowledge<'_> {
    fn decision(self) -> Option<Digest> {
        match self {
            Self::Decided(digest) => Some(digest),
            _ => None,
        }
    }

    fn certified(self) -> Option<Written> {
        match self {
            Self::Open(state) => state.certified,
            _ => None,
        }
    }

    /// Can this member be one of a certificate of members none of which accepted another value than
    /// the candidate's, in the candidate's epoch or later?
    fn is_compatible(self, candidate: &Written) -> bool {
        match self {
            Self::Nothing => true,
            Self::Decided(digest) => digest == candidate.digest,
            Self::Open(state) => {
                state.certified.is_none_or(|own| own.epoch < candidate.epoch || own == *candidate)
            }
        }
    }

    /// Does this member say that it wrote the candidate's value in its epoch or later, or decided it?
    fn vouches(self, candidate: &Written) -> bool {
        let in_time = |written: &Written| {
            written.digest == candidate.digest && written.epoch >= candidate.epoch
        };
        match self {
            Self::Nothing => false,
            Self::Decided(digest) => digest == candidate.digest,
            Self::Open(state) => state.write_set.as_slice().iter().any(in_time),
        }
    }

    /// Has this member certified nothing at the level?
    fn is_blank(self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Decided(_) => false,
            Self::Open(_) => self.certified().is_none(),
        }
    }
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod reference;
