//! What a leader proposes, and what follows from the proposals below it that are not decided yet.
//!
//! Owns the choice of the next batch, and the *speculation*: how sessions and time will stand when the
//! open instances are decided as this replica wrote them. Always true: the speculation counts exactly
//! the open instances that were written in this epoch (rule VAL.1). Must not: judge a proposal.

use crate::action::{Action, Recipients};
use crate::batch::Batch;
use crate::limits::{BATCH_WORTH_REQUESTS, BATCH_WORTH_SIZE};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::replica::Replica;
use crate::smr::validity::Gamma;
use crate::spec;
use crate::types::ConsensusId;
use crate::vp::instance::Load;

impl<P: Payload> Replica<P> {
    /// Proposes, if this replica leads and there is something to propose.
    pub(super) fn propose(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        let Some(cid) = self.place_to_propose() else {
            return false;
        };
        let Some(batch) = self.written_before(cid).or_else(|| self.next_batch()) else {
            return false;
        };
        let at = self.window.position(cid);
        let propose = self.proposal_of(at, &batch);
        self.send(Recipients::Others, propose, actions);
        let digest = batch.digest;
        let open = self.window.at_mut(cid);
        open.proposal = Some(digest);
        open.keep(batch);
        self.write(cid, digest, actions);
        true
    }

    /// The instance in which this replica leads and may propose now, if there is something to.
    pub(super) fn place_to_propose(&self) -> Option<ConsensusId> {
        spec!("SMR.5", "SYNC.9");
        if !self.is_leader() || !self.may_vote() || !self.knows_what_it_proposed() {
            return None;
        }
        let cid = self.window.to_write().filter(|cid| *cid >= self.resume.free())?;
        let open = self.window.at(cid);
        (open.proposal.is_none() && open.decided.is_none()).then_some(cid)
    }

    /// The value that this replica wrote last in instance `cid`, in an epoch that failed, if it may be
    /// proposed again.
    fn written_before(&mut self, cid: ConsensusId) -> Option<Batch<P>> {
        spec!("SYNC.12");
        let open = self.window.at(cid);
        let newest = open.write_set.as_slice().iter().max_by_key(|written| written.epoch)?;
        let batch = open.batch(&newest.digest)?.clone();
        let proposable = self.complaints.allow(&batch);
        let convincing = proposable && self.gamma(cid, batch.digest) == Gamma::Convincing;
        convincing.then_some(batch)
    }

    /// A batch of what is pending. None when nothing is, or when there is no memory for it now.
    fn next_batch(&mut self) -> Option<Batch<P>> {
        spec!("SMR.6", "SMR.7", "VIEW.4");
        // What is left of a view is filled, one after the other, so that it ends without clients.
        let fills = self.views.ending.is_some() && self.window.written() == 0;
        let worth = self.requests.has_orderable() && self.is_worth_a_batch();
        if !fills && !worth {
            return None;
        }
        self.requests.select(&self.complaints);
        if self.requests.selected().len() == 0 && !fills {
            return None;
        }
        let timestamp_ns = self.now.0.max(self.time_below().saturating_add(1));
        let batch = Batch::build(&mut *self.pool, timestamp_ns, self.requests.selected());
        if batch.is_none() {
            self.timers.retry(self.now);
        }
        batch
    }

    /// Is what is pending worth a batch now? Always when nothing is under way; else when it makes a
    /// batch whose votes cost little, or as many requests as are under way.
    fn is_worth_a_batch(&self) -> bool {
        spec!("SMR.5");
        if self.window.written() == 0 {
            return true;
        }
        let mut under_way = Load::NONE;
        for open in self.window.iter().take(self.window.written()) {
            under_way.requests += open.load.requests;
            under_way.bytes += open.load.bytes;
        }
        // What is under way is pending too, as far as this replica has heard of it.
        let requests = self.requests.pending_count().saturating_sub(under_way.requests);
        let bytes = self.requests.pending_bytes().saturating_sub(under_way.bytes);
        let full = self.config.batch_requests_max.min(BATCH_WORTH_REQUESTS);
        requests >= under_way.requests.min(full) || bytes >= BATCH_WORTH_SIZE
    }

    /// The application's time after `batch`, if it was `before` at the instance below.
    pub(super) fn time_after(&self, before: u64, batch: &Batch<P>) -> u64 {
        spec!("SMR.7");
        let floor = if self.config.checks.validity { before.saturating_add(1) } else { 0 };
        batch.timestamp_ns.max(floor)
    }

    /// The time at the instance below the next one to be written.
    pub(super) fn time_below(&self) -> u64 {
        self.timestamp_ns.max(self.speculative_time_ns)
    }

    /// Instance `cid` was written: what is judged or proposed above it follows it.
    pub(super) fn speculate(&mut self, cid: ConsensusId) {
        spec!("VAL.1", "SMR.13");
        if self.window.depth() == 1 {
            return;
        }
        let open = self.window.at(cid);
        let batch = open.wrote.and_then(|digest| open.batch(&digest));
        let batch = batch.expect("a replica writes only what it has");
        let load = Load { requests: batch.len(), bytes: batch.payload().bytes().len() };
        self.speculative_time_ns = self.time_after(self.time_below(), batch);
        self.requests.speculate(batch);
        self.window.at_mut(cid).load = load;
    }

    /// Something else was decided than was written, or nothing that was written counts any more.
    pub(super) fn speculate_again(&mut self) {
        spec!("SMR.13");
        self.speculative_time_ns = 0;
        self.requests.forget_speculation();
        for above in 0..self.window.written() as u64 {
            self.speculate(ConsensusId(self.window.start().0 + above));
        }
    }
}
