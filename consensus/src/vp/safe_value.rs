//! The choice: which values the new leader has to go on with, computed from the states of a SYNC.
//!
//! Owns rule SYNC.8. Always true: the result depends on the set of states alone, not on their order,
//! so that everybody who sees the same SYNC acts alike; a value that a correct replica decided is
//! never passed over. Must not: verify signatures or senders (the caller has), keep state.

use alloc::vec::Vec;

use crate::limits::decisions_told;
use crate::message::{OpenState, ReplicaState, Written};
use crate::quorum::Quorums;
use crate::spec;
use crate::types::{ConsensusId, Digest, Epoch};

/// What the states say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Not enough: the leader waits for more states. Those of all correct members always suffice.
    Insufficient,
    /// Go on like this.
    Resume(Resume),
}

/// Where to go on, and with which values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resume {
    /// The first level: one-correct correct members decided everything below. A replica whose open
    /// instances begin below learns what it lacks (LAG.2) and does not vote there in this regency.
    pub start: ConsensusId,
    /// Values of the bound levels, from `start` on: at most `decisions_told(depth)`.
    pub bound: Vec<Digest>,
}

impl Resume {
    /// The first level that is free: the leader proposes there as usual.
    pub fn free(&self) -> ConsensusId {
        ConsensusId(self.start.0.saturating_add(self.bound.len() as u64))
    }

    /// The only value that may be written at `cid`; `None` when the level is free or below `start`.
    pub fn value_at(&self, cid: ConsensusId) -> Option<Digest> {
        let level = usize::try_from(cid.0.checked_sub(self.start.0)?).ok()?;
        self.bound.get(level).copied()
    }
}

/// The choice from `states`, which are of distinct members of one view, for one regency, and
/// verified, in a cluster where `depth` instances may be open. (SYNC.8)
///
/// When several values bind a level no correct replica decided there, and any of them is safe; the
/// one certified last is taken, and the greatest digest of those: everybody must take the same.
pub fn choose(states: &[ReplicaState], quorums: Quorums, depth: usize) -> Choice {
    spec!("SYNC.8");
    let Some(highest) = supported(states, quorums) else {
        return Choice::Insufficient;
    };
    let start = ConsensusId(highest.0.saturating_sub(depth as u64 - 1).max(1));
    let mut resume = Resume { start, bound: Vec::new() };
    // Above `highest + depth` fewer than one-correct members can vouch, so nothing binds a level.
    while resume.bound.len() <= decisions_told(depth) {
        match level(states, resume.free(), quorums, depth) {
            Level::Bound(digest) => resume.bound.push(digest),
            Level::Free => return Choice::Resume(resume),
            Level::Unknown => return Choice::Insufficient,
        }
    }
    // Only numbers at the very end of their range get here.
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
    /// The level is an open instance of it.
    Open(&'a OpenState),
    /// It has neither written nor certified anything there.
    Nothing,
}

/// The highest instance that one-correct members say they decided.
fn supported(states: &[ReplicaState], quorums: Quorums) -> Option<ConsensusId> {
    let support = |cid| states.iter().filter(|state| state.decided >= cid).count();
    let claims = states.iter().map(|state| state.decided);
    claims.filter(|&cid| support(cid) >= quorums.one_correct()).max()
}

fn level(states: &[ReplicaState], cid: ConsensusId, quorums: Quorums, depth: usize) -> Level {
    let told = || states.iter().filter_map(|state| knowledge(state, cid, depth));
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
fn knowledge(state: &ReplicaState, cid: ConsensusId, depth: usize) -> Option<Knowledge<'_>> {
    let place = |distance: u64| usize::try_from(distance).unwrap_or(usize::MAX);
    if let Some(since) = state.decided.0.checked_sub(cid.0) {
        let told = state.decisions.iter().take(decisions_told(depth));
        return told.copied().nth(place(since)).map(Knowledge::Decided);
    }
    let ahead = place(cid.0 - state.decided.0 - 1);
    let open = state.open.iter().take(depth).nth(ahead);
    Some(open.map_or(Knowledge::Nothing, Knowledge::Open))
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
            Self::Open(open) => open.certified,
            _ => None,
        }
    }

    /// Can this member be one of a certificate of members none of which accepted another value than
    /// the candidate's, in the candidate's epoch or later?
    fn is_compatible(self, candidate: &Written) -> bool {
        match self {
            Self::Nothing => true,
            Self::Decided(digest) => digest == candidate.digest,
            Self::Open(open) => {
                open.certified.is_none_or(|own| own.epoch < candidate.epoch || own == *candidate)
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
            Self::Open(open) => open.write_set.as_slice().iter().any(in_time),
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
