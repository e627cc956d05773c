//! Falling behind and catching up: STATUS, and learning what others decided.
//!
//! Owns when to tell, when to ask, and what to answer. Always true: nothing is learned from fewer than
//! one-correct members, and a batch is known by its digest. Must not: vote.

use crate::action::{Action, Recipients};
use crate::batch::Batch;
use crate::limits::{CLAIMS_MAX, FETCH_MAX, FETCH_SIZE_MAX, REPLICAS_MAX, decisions_told};
use crate::message::{
    BatchBody, Decided, Fetch, FetchBatch, Message, Propose, Refuse, Status, Vote,
};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::Record;
use crate::smr::decision_log::Entry;
use crate::smr::ignored::Ignored;
use crate::smr::progress::FAILURES_MAX;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Digest, Regency, ReplicaId, ReplicaSet};
use crate::vp::instance::{Instance, Verdict};

/// What a replica votes in an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Votes {
    pub(super) write: Option<Vote>,
    pub(super) accept: Option<Vote>,
}

impl Votes {
    pub(super) const NONE: Votes = Votes { write: None, accept: None };
}

impl<P: Payload> Replica<P> {
    /// A link was made: tell the other side where we are; what it lacks it says in its own status.
    pub(super) fn on_connected(&mut self, member: ReplicaId, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1");
        let index = self.config.view.index_of(member).filter(|index| *index != self.index);
        let Some(index) = index else {
            return self.ignored.add(Ignored::NotMember);
        };
        self.send(Recipients::One(member), Message::Status(self.status()), actions);
        self.ask_again_of(index, actions);
    }

    pub(super) fn status(&self) -> Status {
        spec!("LAG.1", "LAG.6");
        let lowest = self.window.lowest();
        let (mut proposed, mut learned) = (0, 0);
        for (above, open) in self.window.iter().enumerate() {
            proposed |= u32::from(open.proposal.is_some()) << above;
            // None is open that follows the end of a view: claims of those would be forgotten.
            let useless = self.window.is_closed() || self.decision_of(open).is_some();
            learned |= u32::from(useless) << above;
        }
        Status {
            view: self.told_view(),
            regency: self.regency,
            wanted: self.wanted,
            stopped: self.stopped,
            decided: self.decided,
            log_start: self.log_start(),
            written: lowest.writes.voters(),
            accepted: lowest.accepts.voters(),
            proposed,
            learned,
        }
    }

    /// Time to tell how far this replica is, and to ask again for what it lacks.
    pub(super) fn on_status_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1", "LAG.3", "SYNC.1");
        self.send(Recipients::Others, Message::Status(self.status()), actions);
        self.refuse_again(actions);
        self.try_retire(actions);
        if self.window.is_closed() {
            return;
        }
        self.ask_for_state(actions);
        if self.is_behind() {
            return;
        }
        let moved = self.lag.decided_at_status != self.decided;
        let idle = !moved && self.lag.ask_at.is_none() && !self.waits_for_execution();
        if idle && self.lag.target > self.decided {
            self.fetch_anew(actions);
        }
        self.lag.decided_at_status = self.decided;
        let lowest = self.window.lowest();
        if let Some(digest) = lowest.missing() {
            // A fetch brings the bytes once; asking everybody brings them many times.
            if !self.lag.is_fetching(lowest.at.cid) || lowest.asked == Some(digest) {
                self.send_fetch_batch(lowest.at, digest, actions);
            }
            self.window.lowest_mut().asked = Some(digest);
        }
    }

    /// Refuses once more what is refused: the first refusal may be lost.
    fn refuse_again(&self, actions: &mut Actions<Action<P>>) {
        for open in self.window.iter() {
            if let (Verdict::Refused(reason), Some(digest)) = (open.verdict, open.proposal) {
                let refuse = Refuse { at: open.at, digest, reason };
                self.send(Recipients::Others, Message::Refuse(refuse), actions);
            }
        }
    }

    pub(super) fn on_status(
        &mut self,
        index: usize,
        status: &Status,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.1", "SYNC.3");
        let member = self.config.view.members()[index];
        self.note_arrival(member, status.view);
        let progress = &mut self.lag.members[index];
        progress.decided = status.decided;
        progress.log_start = status.log_start;
        progress.first.get_or_insert(status.decided);
        self.lag.update_target(self.quorums.one_correct());
        if status.view != self.config.view.id() {
            return self.on_status_elsewhere(index, status, actions);
        }
        self.on_wish(index, status.wanted.max(status.regency), actions);
        self.unmute(actions);
        self.help(index, actions, |this, actions| {
            this.send_decision_claims(member, status, actions);
            if status.regency == this.regency {
                this.send_what_lacks(index, status, actions);
            }
        });
        self.pursue(actions);
    }

    pub(super) fn send_decision_claims(
        &self,
        member: ReplicaId,
        status: &Status,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.1", "LAG.6");
        let to = Recipients::One(member);
        let behind = self.decided.0.saturating_sub(status.decided.0);
        let told = behind.min(self.window.depth() as u64);
        for above in (0..told).filter(|above| status.learned & 1 << above == 0) {
            if let Some(&entry) = self.log.get(ConsensusId(status.decided.0 + 1 + above)) {
                let claim = Decided { at: entry.at, digest: entry.digest, batch: None };
                self.send(to, Message::Decided(claim), actions);
            }
        }
    }

    /// Sends what a member in the same regency shows to lack.
    fn send_what_lacks(&self, index: usize, status: &Status, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1", "LAG.6", "VP.9");
        let member = self.config.view.members()[index];
        let to = Recipients::One(member);
        if status.stopped {
            if self.stopped && member == self.leader() {
                self.send_state(actions);
            }
            return self.send_sync_again(index, actions);
        }
        if self.stopped {
            return;
        }
        let Some(lowest) = status.decided.0.checked_add(1) else {
            return;
        };
        self.send_proposals(to, lowest, status.proposed, actions);
        let mut votes = self.votes_in(ConsensusId(lowest));
        votes.write = votes.write.filter(|_| !status.written.contains(self.index));
        votes.accept = votes.accept.filter(|_| !status.accepted.contains(self.index));
        if votes == Votes::NONE {
            return;
        }
        for above in 0..self.window.depth() as u64 {
            if status.learned & 1 << above == 0 {
                self.send_votes(to, votes, actions);
            }
            votes = self.votes_in(ConsensusId(lowest.saturating_add(above + 1)));
        }
    }

    /// As leader, the proposals that a member lacks whose lowest open instance is `lowest`: as many as
    /// are sent at once.
    fn send_proposals(
        &self,
        to: Recipients,
        lowest: u64,
        has: u32,
        actions: &mut Actions<Action<P>>,
    ) {
        if !self.is_leader() {
            return;
        }
        let mut size = 0;
        for above in (0..self.window.depth()).filter(|above| has & 1 << above == 0) {
            let open = self.window.get(ConsensusId(lowest.saturating_add(above as u64)));
            let Some(open) = open.filter(|open| open.bound.is_none()) else {
                continue;
            };
            let batch = open.proposal.and_then(|digest| open.batch(&digest));
            if let Some(batch) = batch.filter(|_| size < FETCH_SIZE_MAX).cloned() {
                size += batch.payload().bytes().len();
                self.send(to, Message::Propose(Propose { at: open.at, batch }), actions);
            }
        }
    }

    /// This replica's votes in instance `cid`, or those for its decision.
    fn votes_in(&self, cid: ConsensusId) -> Votes {
        let Some(open) = self.window.get(cid) else {
            return self.votes_for_decided(cid);
        };
        let vote = |digest| Vote { at: open.at, digest };
        let write = open.wrote.filter(|_| !self.crash_only()).map(vote);
        Votes { write, accept: open.accepted.map(vote) }
    }

    pub(super) fn send_votes(
        &self,
        to: Recipients,
        votes: Votes,
        actions: &mut Actions<Action<P>>,
    ) {
        if let Some(write) = votes.write {
            self.send(to, Message::Write(write), actions);
        }
        if let Some(accept) = votes.accept {
            self.send(to, Message::Accept(accept), actions);
        }
    }

    /// Asks for decisions if this replica is behind: soon, because what it lacks may be on its way;
    /// at once if it is far behind, or while what it asked for before is being used up.
    pub(super) fn pursue(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.2");
        self.report_behind(actions);
        if self.is_behind() || self.window.is_closed() {
            return;
        }
        let open = self.window.start();
        if self.lag.asked_to >= open {
            if open > self.lag.bytes_to && !self.lag.claims.has_batch(open) {
                self.fetch(open, actions);
            } else if self.lag.target > self.lag.asked_to
                && self.lag.asked_to.0 - self.decided.0 <= CLAIMS_MAX - FETCH_MAX
            {
                self.fetch(self.lag.asked_to.next(), actions);
            }
        } else if self.needs_decisions() {
            let far = self.lag.target.0.saturating_sub(self.decided.0) > FETCH_MAX;
            if far && !self.waits_for_execution() {
                self.fetch(open, actions);
            } else if self.lag.ask_at.is_none() {
                self.wait_for_progress();
            }
        }
    }

    /// Is what this replica needs next nowhere to be had? Then asking for it only disturbs.
    pub(super) fn is_behind(&self) -> bool {
        spec!("LAG.4");
        self.lag.behind == Some(self.window.start())
    }

    fn needs_decisions(&self) -> bool {
        self.is_lagging() || self.window.start() < self.resume.start
    }

    /// Have correct members decided an instance that is not even open here?
    pub(super) fn is_lagging(&self) -> bool {
        self.lag.target > self.window.end()
    }

    fn wait_for_progress(&mut self) {
        let patience = self.patience().saturating_mul(1 << self.lag.failures);
        self.lag.ask_at = Some(self.now + patience);
        self.lag.decided_at_ask = self.decided;
    }

    /// What was asked for, or hoped for, had time to come.
    pub(super) fn on_fetch_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.2");
        let asked = self.lag.asked_to >= self.window.start();
        if self.is_behind() || self.window.is_closed() {
            self.lag.ask_at = None;
        } else if !asked && !self.needs_decisions() {
            self.lag.ask_at = None;
            self.lag.failures = 0;
            self.lag.sources = ReplicaSet::EMPTY;
        } else if self.lag.decided_at_ask != self.decided || self.waits_for_execution() {
            self.lag.failures = 0;
            self.wait_for_progress();
        } else {
            self.lag.failures = (self.lag.failures + 1).min(FAILURES_MAX);
            self.fetch_anew(actions);
        }
    }

    /// Asks for the next decisions, as if nothing that was asked for before could still come.
    fn fetch_anew(&mut self, actions: &mut Actions<Action<P>>) {
        self.lag.asked_to = self.decided;
        self.fetch(self.window.start(), actions);
    }

    /// Asks for the decisions from `from` on: one member for bytes, all for claims that are neither here
    /// nor on their way.
    fn fetch(&mut self, from: ConsensusId, actions: &mut Actions<Action<P>>) {
        spec!("LAG.2", "LAG.6");
        let last = (from.0 + FETCH_MAX - 1).min(self.decided.0 + CLAIMS_MAX);
        let to = ConsensusId(self.lag.target.0.min(last)).max(from);
        if from == self.window.start() {
            self.choose_source(from);
            self.lag.bytes_from = from;
            self.lag.bytes_to = to;
        } else if self.lag.bytes_to.next() == from {
            self.lag.bytes_to = to;
        }
        let unasked = from.max(self.lag.asked_to.next());
        self.lag.asked_to = to.max(self.lag.asked_to);
        let view = self.config.view.id();
        // Bytes first: a claim of the same member without bytes then shows that it sends no more.
        let bytes = Fetch { view, from, to, with_batches: true };
        let source = Recipients::One(self.config.view.members()[self.lag.source]);
        self.send(source, Message::Fetch(bytes), actions);
        let mut unasked = (unasked.0..=to.0).map(ConsensusId);
        if let Some(from) = unasked.find(|cid| !self.has_learned(*cid)) {
            let claims = Fetch { from, with_batches: false, ..bytes };
            self.send(Recipients::Others, Message::Fetch(claims), actions);
        }
        self.wait_for_progress();
    }

    /// Is the decision of `cid`, which is not delivered, known here?
    fn has_learned(&self, cid: ConsensusId) -> bool {
        spec!("LAG.6");
        match self.window.get(cid) {
            Some(open) => self.decision_of(open).is_some(),
            None => self.lag.claims.reached(cid, self.quorums.one_correct()).is_some(),
        }
    }

    /// The next member that has `from`, as far as known; else the next one.
    fn choose_source(&mut self, from: ConsensusId) {
        let n = self.config.view.n();
        let others = || (1..=n).map(|step| (self.lag.source + step) % n);
        let able = |index: &usize| {
            let member = &self.lag.members[*index];
            *index != self.index && member.decided >= from && member.log_start <= from
        };
        let fallback = others().find(|index| *index != self.index);
        let source = others().find(able).or(fallback).unwrap_or(self.lag.source);
        self.lag.source = source;
        self.lag.sources.insert(source);
    }

    /// Says so when too few others still have the next decision, and takes it back when enough do:
    /// one with a longer log may have come back.
    fn report_behind(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.4");
        let one_correct = self.quorums.one_correct();
        let next = self.window.start();
        if self.lag.target < next {
            return;
        }
        let mut starts = [ConsensusId(u64::MAX); REPLICAS_MAX];
        let (mut able, mut unable) = (0, 0);
        for member in self.lag.members.iter().filter(|member| member.decided >= next) {
            if member.log_start <= next {
                able += 1;
            } else {
                starts[unable] = member.log_start;
                unable += 1;
            }
        }
        let behind = able < one_correct && unable >= one_correct;
        if !behind || self.is_behind() {
            self.lag.behind = self.lag.behind.filter(|_| behind);
            return;
        }
        starts[..unable].sort_unstable();
        self.lag.behind = Some(next);
        let available = starts[one_correct - 1];
        actions.push(Action::Behind { decided: self.decided, available });
        self.ask_for_state(actions);
    }

    /// After a delivery: goes on fetching, and speaks again if it may.
    pub(super) fn after_delivery(&mut self, actions: &mut Actions<Action<P>>) {
        self.end_useless_transfer(actions);
        self.unmute(actions);
        self.pursue(actions);
    }

    fn unmute(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.5");
        if !self.lag.mute {
            return;
        }
        let mark = self.lag.mark(self.index, self.quorums);
        let beyond = decisions_told(self.window.depth()) as u64;
        // Nothing in this view can be promised before its first instance.
        let mark = mark.map(|mark| mark.max(ConsensusId(self.views.start.0 - 1)));
        if mark.is_some_and(|mark| self.decided.0 >= mark.0.saturating_add(beyond)) {
            let view = self.config.view.id();
            self.persist(|_| Record::MemoryWhole { view }, actions);
            self.regain();
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        index: usize,
        fetch: &Fetch,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.2", "VIEW.7");
        let member = self.config.view.members()[index];
        self.help(index, actions, |this, actions| this.send_decisions(member, fetch, actions));
    }

    pub(super) fn send_decisions(
        &mut self,
        member: ReplicaId,
        fetch: &Fetch,
        actions: &mut Actions<Action<P>>,
    ) {
        let to = Recipients::One(member);
        let mut size = 0;
        for step in 0..FETCH_MAX {
            let cid = ConsensusId(fetch.from.0.saturating_add(step));
            let Some(&entry) = self.log.get(cid).filter(|_| cid <= fetch.to) else {
                return;
            };
            let batch = match fetch.with_batches && size < FETCH_SIZE_MAX {
                true => self.logged_batch(&entry),
                false => None,
            };
            size += batch.as_ref().map_or(0, |batch| batch.payload().bytes().len());
            let claim = Decided { at: entry.at, digest: entry.digest, batch };
            self.send(to, Message::Decided(claim), actions);
        }
    }

    /// A decided batch, in memory from the pool; `None` when that is empty.
    fn logged_batch(&mut self, entry: &Entry) -> Option<Batch<P>> {
        let bytes = self.log.bytes(entry);
        let payload = self.pool.build(bytes.len(), &mut |out| out.copy_from_slice(bytes))?;
        let batch = Batch::parse(payload).expect("a batch that was decided parses");
        assert!(batch.digest == entry.digest, "the log keeps what was decided");
        Some(batch)
    }

    pub(super) fn on_decided(
        &mut self,
        index: usize,
        decided: Decided<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.2", "VP.8", "VIEW.7");
        let cid = match self.config.checks.proof_binding {
            true => decided.at.cid,
            false => self.window.start(),
        };
        // Bytes are kept from members that were asked for them only: nobody else can fill the place.
        let batch = decided.batch.filter(|_| self.lag.sources.contains(index));
        let ends = index == self.lag.source && batch.is_none() && !self.lag.claims.has_batch(cid);
        if ends && cid > self.decided.max(self.lag.bytes_from) && cid <= self.lag.bytes_to {
            // It sent as many bytes as it sends at once: the rest has to be asked for again.
            self.lag.bytes_to = ConsensusId(cid.0 - 1);
            self.pursue(actions);
        }
        if !self.lag.claims.claim(self.decided, cid, index, decided.digest, batch) {
            self.ignored.add(Ignored::Stale);
        }
    }

    pub(super) fn on_fetch_batch(
        &mut self,
        index: usize,
        fetch: &FetchBatch,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.3");
        let member = self.config.view.members()[index];
        self.help(index, actions, |this, actions| this.send_batch(member, fetch, actions));
    }

    pub(super) fn send_batch(
        &mut self,
        member: ReplicaId,
        fetch: &FetchBatch,
        actions: &mut Actions<Action<P>>,
    ) {
        if let Some(batch) = self.batch_of(fetch.cid, &fetch.digest) {
            let body = BatchBody { view: self.config.view.id(), cid: fetch.cid, batch };
            self.send(Recipients::One(member), Message::BatchBody(body), actions);
        }
    }

    /// The batch with this digest, decided or open in instance `cid`.
    pub(super) fn batch_of(&mut self, cid: ConsensusId, digest: &Digest) -> Option<Batch<P>> {
        let entry = self.log.get(cid).filter(|entry| entry.digest == *digest).copied();
        let logged = entry.and_then(|entry| self.logged_batch(&entry));
        logged.or_else(|| self.window.get(cid)?.batch(digest).cloned())
    }

    pub(super) fn on_batch_body(&mut self, body: BatchBody<P>) {
        spec!("LAG.3");
        let missing = self.window.get(body.cid).and_then(Instance::missing);
        if missing != Some(body.batch.digest) {
            return self.ignored.add(Ignored::NotNeeded);
        }
        self.window.at_mut(body.cid).keep(body.batch);
    }

    /// The highest regency that members are known to have wanted. For tests and operators.
    pub fn highest_wish(&self) -> Regency {
        let others = self.synchronization.wishes.iter().copied().max();
        others.unwrap_or(self.wanted).max(self.wanted)
    }
}
