//! One instance of consensus: what was proposed, written, certified and decided in it.
//!
//! Owns the votes of the current epoch and what outlives an epoch: the certificate, the write set,
//! the batches that either names, the decision. Always true: the certificate's epoch never falls,
//! and a decision never changes. Must not: send anything or look at a clock; the phases do.

use alloc::vec::Vec;

use crate::batch::Batch;
use crate::limits::{WRITE_SET_MAX, write_set_max};
use crate::message::{OpenState, Position, RefuseReason, WriteSet, Written};
use crate::spec;
use crate::types::{ConsensusId, Digest, Epoch, Instant, Lsn, ReplicaSet};
use crate::vp::assembly::Assembly;
use crate::vp::votes::Tally;

/// What this replica thinks of the proposal of the current epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Not looked at yet.
    Open,
    /// Written: nothing more to do.
    Written,
    /// Refused; written after all when one-correct others vouch (rule VAL.3).
    Refused(RefuseReason),
    /// Violates gamma whatever others say.
    Impossible,
}

/// What a batch weighs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl Load {
    pub(crate) const NONE: Load = Load { requests: 0, bytes: 0 };
}

/// State of an instance that is open at this replica.
pub(crate) struct Instance<P> {
    pub(crate) at: Position,
    /// Digest of the first PROPOSE of this epoch.
    pub(crate) proposal: Option<Digest>,
    pub(crate) verdict: Verdict,
    pub(crate) writes: Tally,
    pub(crate) accepts: Tally,
    pub(crate) refusals: Tally,
    /// What this replica wrote and accepted in this epoch.
    pub(crate) wrote: Option<Digest>,
    pub(crate) accepted: Option<Digest>,
    /// What has to be durable before the ACCEPT counts here (rule DUR.2).
    pub(crate) accept_lsn: Lsn,
    /// The record of this replica's first vote here, in any epoch, if it made one (rule DUR.3).
    pub(crate) vote_lsn: Option<Lsn>,
    /// Since when something written or bound waits for a decision.
    pub(crate) work_since: Option<Instant>,
    /// The only value that may be written here (rule SYNC.9).
    pub(crate) bound: Option<Digest>,
    pub(crate) certified: Option<Written>,
    pub(crate) write_set: WriteSet,
    pub(crate) decided: Option<Written>,
    /// Is `decided` known from claims, not from votes?
    pub(crate) claimed: bool,
    /// Requests and bytes of what was written in this epoch.
    pub(crate) load: Load,
    /// Members reported for a contradiction in this instance, so that one line is all they cause.
    pub(crate) reported: ReplicaSet,
    /// The proposal of this epoch while it waits for bodies.
    pub(crate) assembly: Assembly<P>,
    /// A batch that is needed and was asked for.
    pub(crate) asked: Option<Digest>,
    /// Pairs that the write set holds at most.
    write_set_max: usize,
    batches: Vec<Batch<P>>,
}

/// Every digest of the write set, one certified, one bound, one proposed, one decided.
const BATCHES_MAX: usize = WRITE_SET_MAX + 4;

impl<P> Instance<P> {
    /// An instance `at` in which nothing has happened, one of `depth` that may be open.
    pub(crate) fn new(at: Position, depth: usize, per_digest: bool) -> Self {
        Self {
            at,
            proposal: None,
            verdict: Verdict::Open,
            writes: Tally::new(per_digest),
            accepts: Tally::new(per_digest),
            refusals: Tally::new(true),
            wrote: None,
            accepted: None,
            accept_lsn: Lsn(0),
            vote_lsn: None,
            work_since: None,
            bound: None,
            certified: None,
            write_set: WriteSet::EMPTY,
            decided: None,
            claimed: false,
            load: Load::NONE,
            reported: ReplicaSet::EMPTY,
            assembly: Assembly::new(),
            asked: None,
            write_set_max: write_set_max(depth),
            batches: Vec::with_capacity(BATCHES_MAX),
        }
    }

    /// Forgets everything and opens instance `cid` in the same memory.
    pub(crate) fn reopen(&mut self, cid: ConsensusId) {
        self.at.cid = cid;
        self.vote_lsn = None;
        self.certified = None;
        self.write_set = WriteSet::EMPTY;
        self.decided = None;
        self.claimed = false;
        self.reported = ReplicaSet::EMPTY;
        self.batches.clear();
        self.clear_epoch();
    }

    /// Forgets the votes of the epoch so far and starts `epoch`.
    pub(crate) fn enter_epoch(&mut self, epoch: Epoch) {
        assert!(epoch > self.at.epoch, "epochs of an instance only grow");
        self.at.epoch = epoch;
        self.clear_epoch();
        let Self { batches, write_set, certified, decided, .. } = self;
        batches.retain(|batch| needed(&batch.digest, write_set, *certified, *decided));
    }

    fn clear_epoch(&mut self) {
        spec!("VP.1");
        self.proposal = None;
        self.verdict = Verdict::Open;
        self.writes.clear();
        self.accepts.clear();
        self.refusals.clear();
        self.wrote = None;
        self.load = Load::NONE;
        self.accepted = None;
        self.accept_lsn = Lsn(0);
        self.work_since = None;
        self.bound = None;
        self.assembly.clear();
        self.asked = None;
    }

    /// Remembers that this replica writes `digest` in the current epoch.
    pub(crate) fn write(&mut self, digest: Digest) {
        spec!("SYNC.6");
        assert!(self.wrote.is_none(), "a replica writes once in an epoch");
        assert!(self.bound.is_none_or(|bound| bound == digest), "a bound level has one value");
        self.wrote = Some(digest);
        let written = Written { epoch: self.at.epoch, digest };
        self.write_set.insert_within(self.write_set_max, written);
    }

    /// Does a replica that comes back with its records know that it voted here, in whichever epoch?
    pub(crate) fn has_vote(&self) -> bool {
        self.certified.is_some() || !self.write_set.as_slice().is_empty()
    }

    /// What a state says of it (rule SYNC.5).
    pub(crate) fn state(&self) -> OpenState {
        OpenState { certified: self.certified, write_set: self.write_set }
    }

    /// Remembers a certificate of the current epoch.
    pub(crate) fn certify(&mut self, digest: Digest) {
        let written = Written { epoch: self.at.epoch, digest };
        assert!(self.certified.is_none_or(|old| old.epoch <= written.epoch));
        self.certified = Some(written);
        self.write_set.forget_before(written.epoch);
    }

    /// Keeps `batch`. When there is no room, one that nothing names any more makes it.
    pub(crate) fn keep(&mut self, batch: Batch<P>) {
        if self.assembly.waiting() == Some(batch.digest) {
            self.assembly.clear();
        }
        if self.batches.iter().any(|kept| kept.digest == batch.digest) {
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            let Self { batches, write_set, certified, decided, bound, proposal, .. } = self;
            batches.retain(|kept| {
                needed(&kept.digest, write_set, *certified, *decided)
                    || *bound == Some(kept.digest)
                    || *proposal == Some(kept.digest)
            });
        }
        assert!(self.batches.len() < BATCHES_MAX, "what is needed fits, by the sum of its limits");
        self.batches.push(batch);
    }

    /// The batch with this digest, if it is here.
    pub(crate) fn batch(&self, digest: &Digest) -> Option<&Batch<P>> {
        self.batches.iter().find(|batch| batch.digest == *digest)
    }

    /// The digest whose batch this replica needs and lacks.
    pub(crate) fn missing(&self) -> Option<Digest> {
        let decided = self.decided.map(|written| written.digest);
        let certified = self.certified.map(|written| written.digest);
        [decided, self.bound, certified]
            .into_iter()
            .flatten()
            .find(|digest| self.batch(digest).is_none())
    }
}

/// Does anything that outlives an epoch name this batch?
fn needed(
    digest: &Digest,
    write_set: &WriteSet,
    certified: Option<Written>,
    decided: Option<Written>,
) -> bool {
    write_set.as_slice().iter().any(|written| written.digest == *digest)
        || certified.is_some_and(|written| written.digest == *digest)
        || decided.is_some_and(|written| written.digest == *digest)
}
