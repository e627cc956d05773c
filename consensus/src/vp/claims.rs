//! Claims that an instance decided a value: how a member that is behind learns (rule LAG.2).
//!
//! Owns, for a window of instances above the last decided one, who claims what, and one batch each.
//! Always true: a claim counts for its own instance only, and a member counts once for an instance.
//! Must not: believe a batch; whoever uses one compares its digest with what was claimed.

use alloc::vec::Vec;

use crate::batch::Batch;
use crate::limits::CLAIMS_MAX;
use crate::spec;
use crate::types::{ConsensusId, Digest};
use crate::vp::votes::Tally;

struct Slot<P> {
    cid: ConsensusId,
    claims: Tally,
    batch: Option<Batch<P>>,
}

/// Claims about the instances `decided + 1 ..= decided + CLAIMS_MAX`.
pub(crate) struct Claims<P> {
    slots: Vec<Slot<P>>,
}

impl<P> Claims<P> {
    pub(crate) fn new() -> Self {
        let slot = |_| Slot { cid: ConsensusId(0), claims: Tally::new(true), batch: None };
        Self { slots: (0..CLAIMS_MAX).map(slot).collect() }
    }

    /// Counts the claim of the member at `index`, and keeps `batch`. Returns false when the
    /// instance is outside the window above `decided`.
    pub(crate) fn claim(
        &mut self,
        decided: ConsensusId,
        cid: ConsensusId,
        index: usize,
        digest: Digest,
        batch: Option<Batch<P>>,
    ) -> bool {
        spec!("LAG.2", "VP.8");
        if cid <= decided || cid.0 - decided.0 > CLAIMS_MAX {
            return false;
        }
        let slot = &mut self.slots[(cid.0 % CLAIMS_MAX) as usize];
        if slot.cid != cid {
            slot.cid = cid;
            slot.claims.clear();
            slot.batch = None;
        }
        slot.claims.vote(index, digest);
        if slot.batch.is_none() {
            slot.batch = batch;
        }
        true
    }

    /// What `threshold` members claim that `cid` decided.
    pub(crate) fn reached(&self, cid: ConsensusId, threshold: usize) -> Option<Digest> {
        self.slot(cid).and_then(|slot| slot.claims.reached(threshold))
    }

    /// Have bytes come for `cid`?
    pub(crate) fn has_batch(&self, cid: ConsensusId) -> bool {
        self.slot(cid).is_some_and(|slot| slot.batch.is_some())
    }

    /// Takes the batch that came with a claim for `cid`, if it has this digest. Another one is
    /// dropped: its sender lied or is behind.
    pub(crate) fn take_batch(&mut self, cid: ConsensusId, digest: &Digest) -> Option<Batch<P>> {
        let slot = &mut self.slots[(cid.0 % CLAIMS_MAX) as usize];
        if slot.cid != cid {
            return None;
        }
        slot.batch.take().filter(|batch| batch.digest == *digest)
    }

    /// All instances up to `cid` are over: lets go of the batches that came for them.
    pub(crate) fn forget_to(&mut self, cid: ConsensusId) {
        for slot in self.slots.iter_mut().filter(|slot| slot.cid <= cid) {
            slot.batch = None;
        }
    }

    fn slot(&self, cid: ConsensusId) -> Option<&Slot<P>> {
        self.slots.get((cid.0 % CLAIMS_MAX) as usize).filter(|slot| slot.cid == cid)
    }
}
