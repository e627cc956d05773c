//! How a replica gets what it lacks: the part of state transfer that may be replaced (the thesis' `StateManager`, 4.4).
//!
//! Owns the strategies that are there. Always true: nothing that a strategy says makes a replica believe anything; an image is
//! what one-correct members offer alike, and its chunks are compared with its root. Must not: be asked what is safe.

use crate::limits::CHUNKS_PER_SOURCE_MAX;
use crate::types::ReplicaId;

/// A member that offers the image that is fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateSource {
    /// Who.
    pub member: ReplicaId,
    /// It leads now, so it has more to do than the others.
    pub leads: bool,
    /// Members that offer the image and neither lied nor were late, this one included.
    pub sources: usize,
}

/// A strategy of state transfer. It may be as wrong as it likes: it costs time then.
pub trait StateManager: Send {
    /// Chunks that `source` may owe at a time: [`CHUNKS_PER_FETCH_MAX`](crate::limits::CHUNKS_PER_FETCH_MAX) at least to be asked at all,
    /// [`CHUNKS_PER_SOURCE_MAX`] at most. Who has no share is asked when nobody else is left.
    fn share(&mut self, source: &StateSource) -> usize;
}

/// All that offer the image send equal parts: the quickest where links are the limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct EqualShares;

impl StateManager for EqualShares {
    fn share(&mut self, _source: &StateSource) -> usize {
        CHUNKS_PER_SOURCE_MAX
    }
}

/// The leader sends nothing while others can: it costs clients the least.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpareLeader;

impl StateManager for SpareLeader {
    fn share(&mut self, source: &StateSource) -> usize {
        if source.leads { 0 } else { CHUNKS_PER_SOURCE_MAX }
    }
}

/// Some send all while one of them can: those in the same rack, say.
#[derive(Clone, Debug, Default)]
pub struct PreferMembers(
    /// Who.
    pub alloc::vec::Vec<ReplicaId>,
);

impl StateManager for PreferMembers {
    fn share(&mut self, source: &StateSource) -> usize {
        if self.0.contains(&source.member) { CHUNKS_PER_SOURCE_MAX } else { 0 }
    }
}
