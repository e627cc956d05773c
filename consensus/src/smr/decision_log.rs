//! The latest decisions, kept to help members that are behind.
//!
//! Owns the batches of a contiguous run of instances that ends with the last decided one. Always
//! true: it stays within its limits in number and bytes (rule LAG.4). Must not: decide anything.

use alloc::collections::VecDeque;

use crate::batch::Batch;
use crate::limits::{DECISION_LOG_MAX, DECISION_LOG_SIZE_MAX};
use crate::message::{Decided, Position};
use crate::payload::Payload;
use crate::spec;
use crate::types::ConsensusId;

/// One decision.
pub(crate) struct Entry<P> {
    /// Instance and the epoch that decided it.
    pub(crate) at: Position,
    pub(crate) batch: Batch<P>,
}

impl<P: Payload> Entry<P> {
    /// The claim that this was decided, with or without its bytes.
    pub(crate) fn claim(&self, with_batch: bool) -> Decided<P> {
        Decided {
            at: self.at,
            digest: self.batch.digest,
            batch: with_batch.then(|| self.batch.clone()),
        }
    }
}

/// See the module.
pub(crate) struct DecisionLog<P> {
    entries: VecDeque<Entry<P>>,
    size: usize,
}

impl<P: Payload> DecisionLog<P> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::with_capacity(DECISION_LOG_MAX + 1), size: 0 }
    }

    /// Appends the decision of the next instance, and drops the oldest ones beyond the limits.
    pub(crate) fn push(&mut self, at: Position, batch: Batch<P>) {
        spec!("LAG.4");
        let last = self.entries.back().map(|entry| entry.at.cid.next());
        assert!(last.is_none_or(|next| next == at.cid), "decisions come without gaps");
        self.size += batch.payload().bytes().len();
        self.entries.push_back(Entry { at, batch });
        // The last one stays whatever its size: it is the instance that must be kept alive (VP.9).
        while self.entries.len() > 1
            && (self.entries.len() > DECISION_LOG_MAX || self.size > DECISION_LOG_SIZE_MAX)
        {
            let dropped = self.entries.pop_front().expect("more than one entry");
            self.size -= dropped.batch.payload().bytes().len();
        }
        assert!(self.entries.len() <= DECISION_LOG_MAX);
    }

    /// The oldest instance that is kept.
    pub(crate) fn start(&self) -> Option<ConsensusId> {
        self.entries.front().map(|entry| entry.at.cid)
    }

    /// The decision of instance `cid`.
    pub(crate) fn get(&self, cid: ConsensusId) -> Option<&Entry<P>> {
        let index = cid.0.checked_sub(self.start()?.0)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}
