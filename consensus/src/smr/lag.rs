//! Falling behind and catching up: STATUS, and learning what others decided.
//!
//! Owns what is known of the others' progress, and the fetches. Always true: nothing is learned
//! from fewer than one-correct members, and a batch is known by its digest. Must not: vote.

use alloc::vec::Vec;

use crate::action::{Action, Recipients};
use crate::limits::{FETCH_MAX, FETCH_SIZE_MAX, REPLICAS_MAX};
use crate::message::{
    BatchBody, Decided, Fetch, FetchBatch, Message, Propose, Refuse, Status, Vote,
};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::quorum::Quorums;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Regency, ReplicaId};
use crate::vp::claims::Claims;
use crate::vp::instance::Verdict;

/// What one member said last.
#[derive(Clone, Copy)]
struct Progress {
    decided: ConsensusId,
    log_start: ConsensusId,
    /// What it had decided when it was first heard of.
    first: Option<ConsensusId>,
}

/// See the module.
pub(super) struct Lag<P> {
    members: Vec<Progress>,
    pub(super) claims: Claims<P>,
    /// An instance that a correct member has decided, as far as known.
    target: ConsensusId,
    /// The last instance asked for.
    fetching_to: ConsensusId,
    /// Who was asked for bytes, as a place to go on from.
    source: usize,
    /// Decided at the last status: no progress since then is a reason to ask again.
    decided_at_status: ConsensusId,
    /// The instance that nobody can send any more, once that was said.
    behind: Option<ConsensusId>,
    mute: bool,
}

impl<P> Lag<P> {
    pub(super) fn new(n: usize, restarted: bool) -> Self {
        let none = ConsensusId(0);
        let progress = Progress { decided: none, log_start: ConsensusId(1), first: None };
        Self {
            members: alloc::vec![progress; n],
            claims: Claims::new(),
            target: none,
            fetching_to: none,
            source: 0,
            decided_at_status: none,
            behind: None,
            mute: restarted,
        }
    }

    /// Does this replica only learn?
    pub(super) fn is_mute(&self) -> bool {
        self.mute
    }

    /// A correct member is known to have decided `cid`.
    pub(super) fn learn_up_to(&mut self, cid: u64) {
        self.target = self.target.max(ConsensusId(cid));
    }

    /// Have correct members decided an instance that is not even open here?
    pub(super) fn is_lagging(&self, decided: ConsensusId) -> bool {
        self.target > decided.next()
    }

    /// Was the decision of `cid` asked for?
    pub(super) fn is_fetching(&self, cid: ConsensusId) -> bool {
        cid <= self.fetching_to
    }

    /// What one-correct members say they decided.
    fn update_target(&mut self, one_correct: usize) {
        spec!("LAG.2");
        let n = self.members.len();
        let mut decided = [ConsensusId(0); REPLICAS_MAX];
        for (at, member) in self.members.iter().enumerate() {
            decided[at] = member.decided;
        }
        decided[..n].sort_unstable_by(|a, b| b.cmp(a));
        self.target = self.target.max(decided[one_correct - 1]);
    }

    /// The mark of a replica that restarted, when enough others were heard.
    fn mark(&self, index: usize, quorums: Quorums) -> Option<ConsensusId> {
        spec!("LAG.5");
        let mut first = [ConsensusId(0); REPLICAS_MAX];
        let mut heard = 0;
        for (at, member) in self.members.iter().enumerate() {
            if let Some(decided) = member.first.filter(|_| at != index) {
                first[heard] = decided;
                heard += 1;
            }
        }
        first[..heard].sort_unstable_by(|a, b| b.cmp(a));
        if heard + 1 == self.members.len() {
            Some(first[quorums.one_correct() - 1])
        } else {
            (heard >= quorums.sync()).then_some(first[0])
        }
    }
}

impl<P: Payload> Replica<P> {
    /// A link was made: tell the other side where we are; what it lacks it says in its own status.
    pub(super) fn on_connected(&mut self, member: ReplicaId, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1");
        if member == self.config.id || self.config.view.index_of(member).is_none() {
            return self.ignored.add(Ignored::NotMember);
        }
        self.send(Recipients::One(member), Message::Status(self.status()), actions);
    }

    fn status(&self) -> Status {
        Status {
            view: self.config.view.id(),
            regency: self.regency,
            wanted: self.wanted,
            stopped: self.stopped,
            decided: self.decided,
            log_start: self.log_start(),
            written: self.open.writes.voters(),
            accepted: self.open.accepts.voters(),
            proposed: self.open.proposal.is_some(),
        }
    }

    /// Time to tell how far this replica is, and to ask again for what it lacks.
    pub(super) fn on_status_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1", "LAG.3", "SYNC.1");
        self.send(Recipients::Others, Message::Status(self.status()), actions);
        if let (Verdict::Refused(reason), Some(digest)) = (self.open.verdict, self.open.proposal) {
            let refuse = Refuse { at: self.open.at, digest, reason };
            self.send(Recipients::Others, Message::Refuse(refuse), actions);
        }
        if self.lag.decided_at_status == self.decided {
            // Nothing came of what was asked for: ask another member.
            self.lag.fetching_to = self.decided;
            if self.lag.target > self.decided {
                self.fetch(actions);
            }
        }
        self.lag.decided_at_status = self.decided;
        if let Some(digest) = self.open.missing() {
            // A fetch brings the bytes once; asking everybody brings them many times.
            if !self.lag.is_fetching(self.open.at.cid) || self.open.asked == Some(digest) {
                self.send_fetch_batch(digest, actions);
            }
            self.open.asked = Some(digest);
        }
    }

    pub(super) fn on_status(
        &mut self,
        index: usize,
        status: &Status,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.1", "SYNC.3");
        if status.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        let progress = &mut self.lag.members[index];
        progress.decided = status.decided;
        progress.log_start = status.log_start;
        progress.first.get_or_insert(status.decided);
        self.lag.update_target(self.quorums.one_correct());
        self.on_wish(index, status.wanted.max(status.regency), actions);
        self.unmute();
        self.send_decision_claim(index, status, actions);
        if status.regency == self.regency {
            self.send_what_lacks(index, status, actions);
        }
        self.pursue(actions);
    }

    fn send_decision_claim(&self, index: usize, status: &Status, actions: &mut Actions<Action<P>>) {
        if status.decided >= self.decided {
            return;
        }
        if let Some(entry) = self.log.get(status.decided.next()) {
            let to = Recipients::One(self.config.view.members()[index]);
            self.send(to, Message::Decided(entry.claim(false)), actions);
        }
    }

    /// Sends what a member in the same regency shows to lack.
    fn send_what_lacks(&self, index: usize, status: &Status, actions: &mut Actions<Action<P>>) {
        spec!("LAG.1", "VP.9");
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
        let written = status.written.contains(self.index);
        let accepted = status.accepted.contains(self.index);
        if status.decided < self.decided && status.decided.next() == self.decided {
            return self.help_with_decided(to, !written, !accepted, actions);
        }
        if status.decided != self.decided {
            return;
        }
        let at = self.open.at;
        if let (true, false, Some(digest)) = (self.is_leader(), status.proposed, self.open.proposal)
        {
            let batch = self.open.batch(&digest).filter(|_| self.open.bound.is_none());
            if let Some(batch) = batch.cloned() {
                self.send(to, Message::Propose(Propose { at, batch }), actions);
            }
        }
        if let (false, false, Some(digest)) = (written, self.crash_only(), self.open.wrote) {
            self.send(to, Message::Write(Vote { at, digest }), actions);
        }
        if let (false, Some(digest)) = (accepted, self.open.accepted) {
            self.send(to, Message::Accept(Vote { at, digest }), actions);
        }
    }

    /// Asks for decisions if this replica is behind and has not asked yet.
    pub(super) fn pursue(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.2");
        let behind_sync = self.open.at.cid < self.resume.start;
        if (self.lag.is_lagging(self.decided) || behind_sync)
            && !self.lag.is_fetching(self.open.at.cid)
        {
            self.fetch(actions);
        }
        self.report_behind(actions);
    }

    /// Asks all for claims, and the next member that has them for bytes.
    fn fetch(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.2");
        let from = self.open.at.cid;
        let to = ConsensusId(self.lag.target.0.min(self.decided.0 + FETCH_MAX)).max(from);
        self.lag.fetching_to = to;
        let view = self.config.view.id();
        let claims = Fetch { view, from, to, with_batches: false };
        self.send(Recipients::Others, Message::Fetch(claims), actions);
        let n = self.config.view.n();
        let able = |index: &usize| {
            let member = &self.lag.members[*index];
            *index != self.index && member.decided >= from && member.log_start <= from
        };
        let source = (1..=n).map(|step| (self.lag.source + step) % n).find(able);
        if let Some(source) = source {
            self.lag.source = source;
            let bytes = Fetch { with_batches: true, ..claims };
            let member = self.config.view.members()[source];
            self.send(Recipients::One(member), Message::Fetch(bytes), actions);
        }
    }

    /// Says so, once, when too few others still have the next decision.
    fn report_behind(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.4");
        let one_correct = self.quorums.one_correct();
        let next = self.open.at.cid;
        let mut starts = [ConsensusId(u64::MAX); REPLICAS_MAX];
        let mut ahead = 0;
        for member in self.lag.members.iter().filter(|member| member.decided >= next) {
            starts[ahead] = member.log_start;
            ahead += 1;
        }
        if ahead < one_correct || self.lag.behind == Some(next) {
            return;
        }
        starts[..ahead].sort_unstable();
        let available = starts[one_correct - 1];
        if available > next {
            self.lag.behind = Some(next);
            actions.push(Action::Behind { decided: self.decided, available });
        }
    }

    /// After a delivery: goes on fetching, and speaks again if it may.
    pub(super) fn after_delivery(&mut self, actions: &mut Actions<Action<P>>) {
        self.unmute();
        self.pursue(actions);
    }

    fn unmute(&mut self) {
        spec!("LAG.5");
        if !self.lag.mute {
            return;
        }
        let mark = self.lag.mark(self.index, self.quorums);
        if mark.is_some_and(|mark| self.decided.0 >= mark.0.saturating_add(2)) {
            self.lag.mute = false;
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        index: usize,
        fetch: &Fetch,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("LAG.2");
        if fetch.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        let to = Recipients::One(self.config.view.members()[index]);
        let mut size = 0;
        for step in 0..FETCH_MAX {
            let cid = ConsensusId(fetch.from.0.saturating_add(step));
            let Some(entry) = self.log.get(cid).filter(|_| cid <= fetch.to) else {
                return;
            };
            let with_batch = fetch.with_batches && size < FETCH_SIZE_MAX;
            size += entry.batch.payload().bytes().len();
            self.send(to, Message::Decided(entry.claim(with_batch)), actions);
        }
    }

    pub(super) fn on_decided(&mut self, index: usize, decided: Decided<P>) {
        spec!("LAG.2", "VP.8");
        if decided.at.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        let cid = match self.config.checks.proof_binding {
            true => decided.at.cid,
            false => self.open.at.cid,
        };
        // Bytes are kept from the member that was asked for them only: nobody else can replace them.
        let batch = decided.batch.filter(|_| index == self.lag.source);
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
        let logged = self.log.get(fetch.cid).map(|entry| &entry.batch);
        let found = logged
            .filter(|batch| batch.digest == fetch.digest)
            .or_else(|| self.open.batch(&fetch.digest));
        let Some(batch) = found.cloned() else {
            return;
        };
        let body = BatchBody { view: self.config.view.id(), cid: fetch.cid, batch };
        let to = Recipients::One(self.config.view.members()[index]);
        self.send(to, Message::BatchBody(body), actions);
    }

    pub(super) fn on_batch_body(&mut self, body: BatchBody<P>) {
        spec!("LAG.3");
        if self.open.missing() != Some(body.batch.digest) {
            return self.ignored.add(Ignored::NotNeeded);
        }
        self.open.keep(body.batch);
    }

    /// The highest regency that members are known to have wanted. For tests and operators.
    pub fn highest_wish(&self) -> Regency {
        let others = self.synchronization.wishes.iter().copied().max();
        others.unwrap_or(self.wanted).max(self.wanted)
    }
}
