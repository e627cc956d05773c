//! The normal phase of the open instances, from PROPOSE to a delivered decision.
//!
//! Owns `advance`, the loop that takes the open instances as far as they get. Always true: what was
//! delivered is never touched again. Must not: vote outside a synchronised regency.

use crate::action::{Action, Recipients};
use crate::batch::Batch;
use crate::limits::{EXECUTION_LAG_MAX, decisions_told};
use crate::message::{FetchBatch, Message, Position, Refuse, RefuseReason, Request, Vote, Written};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::Record;
use crate::smr::assembly::Proposal;
use crate::smr::ignored::Ignored;
use crate::smr::out_of_context::Early;
use crate::smr::replica::{Recent, Replica};
use crate::smr::requests::{Admission, RefusedRequest};
use crate::smr::validity::Gamma;
use crate::spec;
use crate::state_machine::Context;
use crate::types::{ClientId, ConsensusId, Digest, Regency, Sequence};
use crate::verified::Verified;
use crate::vp::instance::{Instance, Verdict};
use crate::vp::votes::Counted;

/// When the time of a consensus message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Time {
    Past,
    Now,
    Early,
}

impl<P: Payload> Replica<P> {
    /// Requests of clients. Says whether anything may follow from them now, that is, whether this
    /// replica was waiting for one; else nothing but the queue has changed.
    #[inline]
    pub(super) fn on_requests(
        &mut self,
        requests: impl Iterator<Item = Verified<Request<P>>>,
        actions: &mut Actions<Action<P>>,
    ) -> bool {
        spec!("SMR.5");
        let mut awaited = false;
        for request in requests {
            awaited |= self.on_request(request.into_inner(), actions);
        }
        awaited || self.place_to_propose().is_some()
    }

    /// One of them. Was a proposal waiting for it?
    ///
    /// What takes a request by value from here to its slot is always inlined: it is copied once then,
    /// not once for each call.
    #[inline(always)]
    fn on_request(&mut self, request: Request<P>, actions: &mut Actions<Action<P>>) -> bool {
        spec!("SMR.3", "SMR.10");
        if request.read_only {
            self.ignored.add(Ignored::Invalid);
            return false;
        }
        let (client, sequence) = (request.client, request.sequence);
        let (admission, awaited) = self.admit(request, None, actions);
        if admission != Admission::Accepted {
            self.answer(client, sequence, admission, actions);
        }
        awaited
    }

    /// What the client is told of a request that was not simply taken in.
    #[cold]
    fn answer(
        &mut self,
        client: ClientId,
        sequence: Sequence,
        admission: Admission,
        actions: &mut Actions<Action<P>>,
    ) {
        match admission {
            Admission::Executed => actions.push(Action::ResendReply { client, sequence }),
            Admission::Spare
            | Admission::Refused(RefusedRequest::Overload | RefusedRequest::TooManyBytes) => {
                spec!("SMR.14");
                self.shed += u64::from(admission != Admission::Spare);
                let pause = self.config.request_timeout / 64;
                if self.requests.may_tell_busy(self.now, client, pause) {
                    actions.push(Action::AnswerBusy { client, sequence });
                }
            }
            Admission::Accepted | Admission::Duplicate | Admission::Refused(_) => {}
        }
    }

    /// Requests that the member at `member` passes on, what it waits for first. Only what this replica
    /// could authenticate itself enters.
    pub(super) fn on_request_list(
        &mut self,
        member: usize,
        list: &Batch<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VAL.8", "SYNC.4", "TIME.7");
        for (index, view) in list.requests().enumerate() {
            if list.authentic.contains(index) {
                // Whatever becomes of it: an executed one is not answered, no client asked.
                let first_of = (index == 0).then_some(member);
                let _ = self.admit(list.request(&view), first_of, actions);
            } else {
                self.ignored.add(Ignored::Invalid);
            }
        }
    }

    /// The application has executed everything up to `cid`.
    pub(super) fn on_executed(&mut self, cid: ConsensusId) {
        assert!(cid <= self.decided, "only delivered instances are executed");
        self.executed = self.executed.max(cid);
    }

    /// When is the time of a message for `at`?
    pub(super) fn time_of(&self, at: Position) -> Time {
        spec!("VP.2", "VP.8", "VP.9", "SMR.1");
        let open = self.window.lowest().at;
        if at.view != open.view || at.cid < open.cid || at.epoch < open.epoch {
            Time::Past
        } else if at.epoch == open.epoch && at.cid <= self.window.end() && !self.stopped {
            Time::Now
        } else {
            Time::Early
        }
    }

    /// May this replica vote in the open instances?
    pub(super) fn may_vote(&self) -> bool {
        spec!("VP.2", "SYNC.9", "LAG.5");
        !self.stopped && !self.lag.is_mute() && self.window.start() >= self.resume.start
    }

    pub(super) fn on_propose(
        &mut self,
        index: usize,
        at: Position,
        proposal: Proposal<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VP.3");
        let leader = self.config.view.leader(Regency(at.epoch.0));
        if self.config.view.members()[index] != leader {
            return self.ignored.add(Ignored::NotLeader);
        }
        if !self.is_bounded(&proposal) {
            return self.ignored.add(Ignored::Invalid);
        }
        match self.time_of(at) {
            Time::Past => self.ignored.add(Ignored::Stale),
            Time::Early => self.keep_early(index, at, Early::Propose(at, proposal), actions),
            Time::Now => self.take_proposal(index, at, proposal, actions),
        }
    }

    /// The leader's proposal for an open instance.
    fn take_proposal(
        &mut self,
        index: usize,
        at: Position,
        proposal: Proposal<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        let digest = proposal.digest();
        let open = self.window.at_mut(at.cid);
        match open.proposal {
            Some(first) if first != digest => {
                self.report_contradiction(index, at, first, digest, actions);
            }
            Some(_) => match proposal {
                Proposal::Whole(batch) if open.assembly.waiting() == Some(digest) => {
                    open.keep(batch);
                }
                _ => self.ignored.add(Ignored::NotNeeded),
            },
            // A bound level needs no proposal, but the bytes may be welcome.
            None if open.bound.is_some_and(|bound| bound != digest) => {
                self.ignored.add(Ignored::NotNeeded);
            }
            None => {
                open.proposal = Some(digest);
                self.keep_proposal(at.cid, proposal, actions);
            }
        }
    }

    pub(super) fn on_write(&mut self, index: usize, vote: Vote, actions: &mut Actions<Action<P>>) {
        match self.time_of_vote(vote.at) {
            Time::Past => self.ignored.add(Ignored::Stale),
            Time::Early => self.keep_early(index, vote.at, Early::Write(vote), actions),
            Time::Now => {
                let open = self.window.at_mut(self.counts_for(vote.at));
                let counted = open.writes.vote(index, vote.digest);
                self.check_counted(index, vote, counted, actions);
            }
        }
    }

    pub(super) fn on_accept(&mut self, index: usize, vote: Vote, actions: &mut Actions<Action<P>>) {
        match self.time_of_vote(vote.at) {
            Time::Past => self.ignored.add(Ignored::Stale),
            Time::Early => self.keep_early(index, vote.at, Early::Accept(vote), actions),
            Time::Now => {
                let open = self.window.at_mut(self.counts_for(vote.at));
                let counted = open.accepts.vote(index, vote.digest);
                self.check_counted(index, vote, counted, actions);
            }
        }
    }

    /// Keeps a message until its time comes, and notes what it says about its sender's progress.
    pub(super) fn keep_early(
        &mut self,
        index: usize,
        at: Position,
        message: Early<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("SMR.12");
        if !self.later.store(index, message, self.window.start()) {
            self.ignored.add(Ignored::NotNeeded);
        }
        // Who takes part in an instance has decided the one that left the window for it.
        let decided = ConsensusId(at.cid.0.saturating_sub(self.window.depth() as u64));
        if self.lag.has_decided(index, decided, self.quorums.one_correct()) {
            self.pursue(actions);
        }
    }

    fn time_of_vote(&self, at: Position) -> Time {
        if self.config.checks.proof_binding { self.time_of(at) } else { Time::Now }
    }

    /// The open instance that a vote counts for: the one it names.
    fn counts_for(&self, at: Position) -> ConsensusId {
        if self.config.checks.proof_binding { at.cid } else { self.window.start() }
    }

    fn check_counted(
        &mut self,
        index: usize,
        vote: Vote,
        counted: Counted,
        actions: &mut Actions<Action<P>>,
    ) {
        match counted {
            Counted::New { .. } => {}
            Counted::Repeated => self.ignored.add(Ignored::NotNeeded),
            Counted::Conflict { first } => {
                self.report_contradiction(index, vote.at, first, vote.digest, actions);
            }
        }
    }

    /// Takes the open instances as far as they get, and opens the next ones.
    pub(super) fn advance(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("SMR.1");
        // Each turn reads a kept message, casts a vote, decides, delivers or proposes: all of them
        // things that run out, at the latest when execution lags too far.
        while self.read_early(actions)
            || self.judge(actions)
            || self.certify(actions)
            || self.decide()
            || self.deliver(actions)
            || self.propose(actions)
            || self.try_enter_view(actions)
        {}
        self.ask_for_batch(actions);
        self.hasten_bodies();
    }

    /// Reads one message again whose time has come.
    fn read_early(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        spec!("SMR.12");
        if self.stopped {
            return false;
        }
        let Some((index, message)) = self.due() else {
            return false;
        };
        match message {
            Early::Propose(at, proposal) => self.on_propose(index, at, proposal, actions),
            Early::Write(vote) => self.on_write(index, vote, actions),
            Early::Accept(vote) => self.on_accept(index, vote, actions),
            Early::Refuse(refuse) => self.on_refuse(index, refuse, actions),
        }
        true
    }

    /// The next message that came early, and the index of its sender.
    fn due(&mut self) -> Option<(usize, Early<P>)> {
        while let Some(cid) = self.window.to_read() {
            let message = self.later.take(self.window.position(cid));
            if message.is_some() {
                return message;
            }
            self.window.note_read();
        }
        None
    }

    /// Votes for what is bound or proposed in the lowest instance that was not written, if it should
    /// be.
    fn judge(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        spec!("VP.4", "VP.10", "VAL.3", "SYNC.9", "BODY.2");
        let Some(cid) = self.window.to_write().filter(|_| self.may_vote()) else {
            return false;
        };
        let open = self.window.at(cid);
        if let Some(bound) = open.bound {
            let ready = open.batch(&bound).is_some();
            if ready {
                self.write(cid, bound, actions);
            }
            return ready;
        }
        let Some(digest) = open.proposal else {
            return false;
        };
        match open.verdict {
            // Nobody judges what is not complete.
            Verdict::Open if open.batch(&digest).is_none() => return false,
            // It may fill what is left of a view, which ends by a decision below (VIEW.4).
            Verdict::Open if cid != self.window.start() && self.is_empty(cid, &digest) => {
                return false;
            }
            Verdict::Open => self.judge_proposal(cid, digest, actions),
            Verdict::Refused(_) if open.writes.count(&digest) >= self.quorums.one_correct() => {
                self.write(cid, digest, actions);
            }
            Verdict::Refused(_) | Verdict::Impossible | Verdict::Written => return false,
        }
        true
    }

    fn is_empty(&self, cid: ConsensusId, digest: &Digest) -> bool {
        self.window.at(cid).batch(digest).is_some_and(Batch::is_empty)
    }

    fn judge_proposal(
        &mut self,
        cid: ConsensusId,
        digest: Digest,
        actions: &mut Actions<Action<P>>,
    ) {
        match self.gamma(cid, digest) {
            Gamma::Convincing => self.write(cid, digest, actions),
            Gamma::Unconvincing(reason) => self.refuse(cid, digest, reason, actions),
            Gamma::Outdated => self.window.at_mut(cid).verdict = Verdict::Impossible,
            Gamma::Impossible => {
                self.window.at_mut(cid).verdict = Verdict::Impossible;
                self.report_impossible(cid, actions);
            }
        }
    }

    fn refuse(
        &mut self,
        cid: ConsensusId,
        digest: Digest,
        reason: RefuseReason,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VAL.2");
        let open = self.window.at_mut(cid);
        open.verdict = Verdict::Refused(reason);
        let refuse = Refuse { at: open.at, digest, reason };
        self.send(Recipients::Others, Message::Refuse(refuse), actions);
        self.on_refuse(self.index, refuse, actions);
    }

    /// WRITE; in crash-only mode ACCEPT at once.
    pub(super) fn write(
        &mut self,
        cid: ConsensusId,
        digest: Digest,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VP.7", "VP.10");
        assert!(self.may_vote(), "only who may vote writes");
        assert!(self.window.to_write() == Some(cid), "instances are written in order");
        let open = self.window.at(cid);
        let (at, batch) = (open.at, open.batch(&digest));
        assert!(batch.is_some(), "a replica writes only what it has");
        if let Some(batch) = self.keeps_records().then_some(batch).flatten().cloned() {
            self.persist(|_| Record::Written { at, batch }, actions);
        }
        self.note_write(cid, digest);
        if self.crash_only() {
            return self.accept(cid, digest, actions);
        }
        let vote = Vote { at, digest };
        self.send(Recipients::Others, Message::Write(vote), actions);
    }

    /// Sees a certificate of WRITEs in the lowest instance that was not accepted.
    fn certify(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        spec!("VP.5", "VP.10");
        let Some(cid) = self.window.to_accept().filter(|_| self.may_vote()) else {
            return false;
        };
        let Some(digest) = self.window.at(cid).writes.reached(self.quorums.certificate()) else {
            return false;
        };
        self.accept(cid, digest, actions);
        true
    }

    fn accept(&mut self, cid: ConsensusId, digest: Digest, actions: &mut Actions<Action<P>>) {
        assert!(self.may_vote(), "only who may vote accepts");
        assert!(self.window.to_accept() == Some(cid), "instances are accepted in order");
        let vote = Vote { at: self.window.at(cid).at, digest };
        // In crash-only mode the record of the WRITE stands for both.
        if !self.crash_only() {
            self.persist(|_| Record::Accepted(vote), actions);
        }
        self.note_accept(cid, digest);
        self.send(Recipients::Others, Message::Accept(vote), actions);
    }

    /// Sees the decision of the lowest instance. Those above it are looked at when their turn to be
    /// delivered comes.
    fn decide(&mut self) -> bool {
        if self.window.lowest().decided.is_some() || self.window.is_closed() {
            return false;
        }
        let Some((digest, claimed)) = self.decision_of(self.window.lowest()) else {
            return false;
        };
        let open = self.window.lowest_mut();
        if !claimed {
            // A certificate of ACCEPTs shows that there was one of WRITEs.
            open.certify(digest);
        }
        open.decided = Some(Written { epoch: open.at.epoch, digest });
        open.claimed = claimed;
        true
    }

    /// What `open` decided, if a certificate of ACCEPTs or the claims of one-correct members tell it
    /// here, and whether the claims do.
    pub(super) fn decision_of(&self, open: &Instance<P>) -> Option<(Digest, bool)> {
        spec!("VP.6", "LAG.2", "DUR.2");
        if let Some(decided) = open.decided {
            return Some((decided.digest, open.claimed));
        }
        let own = usize::from(open.accept_lsn > self.durability.durable);
        let accepted = open.accepts.reached(self.quorums.certificate() + own);
        let claimed = || self.lag.claims.reached(open.at.cid, self.quorums.one_correct());
        accepted.map(|digest| (digest, false)).or_else(|| Some((claimed()?, true)))
    }

    /// Is the application so far behind that nothing is delivered to it? Then asking for decisions
    /// would bring nothing.
    pub(super) fn waits_for_execution(&self) -> bool {
        spec!("SMR.11");
        self.decided.0 - self.executed.0 >= EXECUTION_LAG_MAX
    }

    /// Delivers the decision of the lowest instance and opens the next one.
    pub(super) fn deliver(&mut self, actions: &mut Actions<Action<P>>) -> bool {
        spec!("SMR.7", "SMR.8", "SMR.9", "SMR.11", "DUR.3");
        let open = self.window.lowest();
        let Some(decided) = open.decided else {
            return false;
        };
        if self.waits_for_execution() {
            return false;
        }
        let (cid, at) = (open.at.cid, open.at);
        let Some(batch) = open
            .batch(&decided.digest)
            .cloned()
            .or_else(|| self.lag.claims.take_batch(cid, &decided.digest))
        else {
            return false;
        };
        assert!(batch.digest == decided.digest && cid == self.decided.next());
        let claimed = open.claimed;
        let as_written = open.wrote.is_none_or(|wrote| wrote == decided.digest);
        let voted = open.vote_lsn;
        self.persist(|this| this.decision_record(at, &batch), actions);
        let after = voted.unwrap_or(self.last_record());
        let suppress = self.config.checks.duplicate_suppression;
        let mut selection = self.requests.execute(self.now, &batch, suppress);
        let view_answer = self.judge_view_request(cid, &batch, &mut selection);
        if claimed {
            self.claimed = cid;
        }
        let timestamp_ns = self.time_after(self.timestamp_ns, &batch);
        let view = self.ruling_id();
        let context = Context { cid, view, timestamp_ns, seed: seed(&batch.digest) };
        self.log.push(Position { epoch: decided.epoch, view, ..at }, &batch);
        self.helping.note_decided(batch.payload().bytes().len());
        self.timestamp_ns = timestamp_ns;
        self.decided = cid;
        self.standstill.moved(self.now);
        actions.push(Action::Execute { context, batch, selection, view_answer, after });
        self.open_next(decided.digest);
        if !as_written {
            self.speculate_again();
        }
        self.withdraw_wish();
        self.take_checkpoint(actions);
        self.end_view(actions);
        self.after_delivery(actions);
        true
    }

    fn open_next(&mut self, digest: Digest) {
        let Instance { at, wrote, accepted, .. } = *self.window.lowest();
        self.recent.truncate(decisions_told(self.window.depth()) - 1);
        self.recent.push_front(Recent { digest, epoch: at.epoch, wrote, accepted });
        self.window.slide();
        self.bind(self.window.newest());
        self.later.forget(self.decided);
        self.begin_lowest();
    }

    /// The instance below the lowest open one is over.
    pub(super) fn begin_lowest(&mut self) {
        spec!("TIME.1", "TIME.5");
        // The clock of what waited behind the decision starts with it.
        let lowest = self.window.lowest_mut();
        lowest.work_since = lowest.work_since.map(|_| self.now);
        self.timers.decided();
    }

    /// Holds open instance `cid` to the value that the last SYNC bound it to.
    pub(super) fn bind(&mut self, cid: ConsensusId) {
        spec!("SYNC.9");
        if self.stopped {
            return;
        }
        let open = self.window.at_mut(cid);
        open.bound = self.resume.value_at(cid);
        if open.bound.is_some() {
            open.work_since = Some(self.now);
        }
    }

    /// Asks for the batch of a value that has to go on here, once; the status repeats it. When the
    /// proposal may still be on its way, it is left to the status to ask: the slowest replica sees
    /// most decisions before their proposals.
    fn ask_for_batch(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("LAG.3");
        self.ask_for_batch_of(self.window.start(), actions);
        let bound_to = self.resume.free().0.min(self.window.end().next().0);
        for cid in self.window.start().0 + 1..bound_to {
            self.ask_for_batch_of(ConsensusId(cid), actions);
        }
    }

    fn ask_for_batch_of(&mut self, cid: ConsensusId, actions: &mut Actions<Action<P>>) {
        let open = self.window.at(cid);
        let other = |digest: &Digest| open.proposal.is_some_and(|proposal| proposal != *digest);
        let decided = open.decided.map(|written| written.digest).filter(other);
        let Some(digest) = open.bound.or(decided) else {
            return;
        };
        if open.asked == Some(digest) || open.batch(&digest).is_some() {
            return;
        }
        let at = open.at;
        self.window.at_mut(cid).asked = Some(digest);
        self.send_fetch_batch(at, digest, actions);
    }

    pub(super) fn send_fetch_batch(
        &self,
        at: Position,
        digest: Digest,
        actions: &mut Actions<Action<P>>,
    ) {
        let fetch = FetchBatch { view: at.view, cid: at.cid, digest };
        self.send(Recipients::Others, Message::FetchBatch(fetch), actions);
    }
}

/// The same on all replicas, different for each batch.
fn seed(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.0[..8]);
    u64::from_le_bytes(bytes)
}
