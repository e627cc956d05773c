//! What must survive before anybody is told of it, and coming back with it.
//!
//! Owns the numbering of records, and their replay. Always true: a record is made in the step that makes
//! what it says true, before the messages that tell of it; a replica that comes back with its records
//! is to the others one that was slow. Must not: keep records, or know when they are durable: the
//! driver holds back what has to wait.

use core::fmt;

use crate::action::Action;
use crate::batch::{Batch, Selection};
use crate::message::{Message, Position, Vote, Written};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::{BadRecord, Record};
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ClientId, ConsensusId, Digest, Instant, Lsn, Regency, ViewId};
use crate::vp::instance::Verdict;
use crate::vp::safe_value::Resume;

/// What a replica keeps about its log.
#[derive(Default)]
pub(super) struct Durability {
    /// The last record that was made; `None` while none are.
    last: Option<Lsn>,
    /// The last one that is durable.
    pub(super) durable: Lsn,
    /// The last one of a regency that was installed or synchronised.
    regency: Lsn,
    /// The regency in which this replica came back: it may have proposed there, and does not know
    /// what.
    pub(super) restored: Option<Regency>,
}

/// A record that does not follow from those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreError {
    /// The bytes are no record.
    Bad(BadRecord),
    /// It is of another view.
    View(ViewId),
    /// It is of an instance that is not open, or out of order there.
    Instance(ConsensusId),
    /// Of a regency that does not follow.
    Regency(Regency),
    /// The decided batch is neither in the record nor before it.
    Batch(ConsensusId),
    /// It says something else than what is here, or belongs to another checkpoint.
    Base(ConsensusId),
    /// From here on there is nothing without the checkpoint of this instance, which others had sent.
    Transferred(ConsensusId),
    /// The checkpoint has a session that the limits of this replica do not allow.
    Session(ClientId),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(bad) => bad.fmt(out),
            Self::View(view) => write!(out, "it is of view {view}, not of this one"),
            Self::Instance(cid) => write!(
                out,
                "it is of instance {cid}, which cannot be open here; was the depth larger?"
            ),
            Self::Regency(regency) => write!(out, "regency {regency} does not follow"),
            Self::Batch(cid) => write!(out, "a batch of instance {cid} is missing"),
            Self::Base(cid) => write!(
                out,
                "the base at instance {cid} says something else than the checkpoint or the records before it"
            ),
            Self::Transferred(cid) => write!(
                out,
                "the records go on behind checkpoint {cid}, which other replicas had sent and which is not \
                 here or does not hold any more; start this replica without its memory"
            ),
            Self::Session(client) => write!(
                out,
                "session {client} is beyond the list of clients or sessions_per_client_max; were they larger?"
            ),
        }
    }
}

impl core::error::Error for RestoreError {}

impl<P: Payload> Replica<P> {
    /// Repeats what a record says, of a core that has taken no input yet. The driver carries out the
    /// `Execute` that may be in `actions`, before the next record and without telling anybody, and
    /// feeds nothing back for it; everything else in `actions` is void.
    ///
    /// # Errors
    /// The record does not follow from those before it. The core must not be used then.
    pub fn restore(
        &mut self,
        now: Instant,
        bytes: &[u8],
        actions: &mut Actions<Action<P>>,
    ) -> Result<(), RestoreError> {
        spec!("DUR.4");
        assert!(self.durability.last.is_none(), "records are replayed before new ones are made");
        self.now = now.max(self.now);
        let record = Record::decode(bytes, &mut *self.pool).map_err(RestoreError::Bad)?;
        self.replay(record, actions)?;
        self.check_invariants();
        Ok(())
    }

    /// What this replica had recorded is gone: from now on it only learns (rule LAG.5).
    pub fn lose_memory(&mut self) {
        spec!("DUR.5");
        assert!(self.decided == ConsensusId(0), "what was replayed was not lost");
        self.lag.mute = true;
    }

    /// From now on records are made, the first one after `last`. 0: there was none before; then the
    /// one that `actions` holds now has to be durable before the first input.
    pub fn go_on_after(&mut self, last: Lsn, actions: &mut Actions<Action<P>>) {
        spec!("DUR.4");
        assert!(self.durability.last.is_none(), "records are made once");
        self.durability.last = Some(last);
        self.durability.durable = last;
        let (view, mute) = (self.config.view.id(), self.lag.mute);
        match (last, mute) {
            // Else the next restart would take what is recorded from here on for everything.
            (_, true) => return self.persist(|_| Record::MemoryLost { view }, actions),
            (Lsn(0), false) => return self.persist(|_| Record::MemoryWhole { view }, actions),
            (_, false) => {}
        }
        spec!("DUR.3");
        let voted = self.window.iter().filter(|open| open.has_vote()).map(|open| open.at.cid).max();
        self.lag.read_from = voted.unwrap_or(self.decided);
        self.durability.restored = Some(self.regency);
        if self.stopped {
            self.synchronization.give_up_at = self.now + self.timeout();
        }
        self.ask_for_next_regency(actions);
    }

    fn replay(
        &mut self,
        record: Record<P>,
        actions: &mut Actions<Action<P>>,
    ) -> Result<(), RestoreError> {
        let own = self.config.view.id();
        let check = |view: ViewId| if view == own { Ok(()) } else { Err(RestoreError::View(view)) };
        match record {
            Record::MemoryLost { view } => {
                check(view)?;
                self.lag.mute = true;
            }
            Record::MemoryWhole { view } => {
                check(view)?;
                if self.lag.mute {
                    self.regain();
                }
            }
            Record::Installed { view, regency } => {
                check(view)?;
                if regency <= self.regency {
                    return Err(RestoreError::Regency(regency));
                }
                self.enter(regency);
            }
            Record::Synchronised { view, regency, resume } => {
                check(view)?;
                if regency != self.regency || !self.stopped {
                    return Err(RestoreError::Regency(regency));
                }
                self.hold_to(resume);
            }
            Record::Written { at, batch } => {
                check(at.view)?;
                let open =
                    self.window.to_write().is_some_and(|cid| self.window.position(cid) == at);
                let digest = batch.digest;
                let free = |bound| bound == digest;
                if !open || self.stopped || !self.window.at(at.cid).bound.is_none_or(free) {
                    return Err(RestoreError::Instance(at.cid));
                }
                self.write_again(at.cid, batch);
                if self.crash_only() {
                    self.note_accept(at.cid, digest);
                }
            }
            Record::Accepted(Vote { at, digest }) => {
                check(at.view)?;
                let next = self.window.to_accept();
                if self.stopped || next.is_none_or(|cid| self.window.position(cid) != at) {
                    return Err(RestoreError::Instance(at.cid));
                }
                self.note_accept(at.cid, digest);
            }
            Record::Decided { at, digest, claimed, batch } => {
                if at.view != self.ruling_id() {
                    return Err(RestoreError::View(at.view));
                }
                let open = self.window.lowest_mut();
                if open.at.cid != at.cid {
                    return Err(RestoreError::Instance(at.cid));
                }
                if let Some(batch) = batch {
                    open.keep(batch);
                }
                open.decided = Some(Written { epoch: at.epoch, digest });
                open.claimed = claimed;
                if !self.deliver(actions) {
                    return Err(RestoreError::Batch(at.cid));
                }
                self.executed = at.cid;
            }
            Record::Transferred { base, .. } => {
                return Err(RestoreError::Transferred(base.state.decided));
            }
            Record::Entered { view } => self.enter_again(view)?,
            Record::Base(base) => {
                if *base != self.base() {
                    return Err(RestoreError::Base(base.state.decided));
                }
            }
        }
        Ok(())
    }

    /// `batch` was written in `cid`, the lowest instance that was not.
    pub(super) fn write_again(&mut self, cid: ConsensusId, mut batch: Batch<P>) {
        let digest = batch.digest;
        let open = self.window.at_mut(cid);
        open.proposal = Some(digest);
        // Written was what was convincing, or what a correct member vouched for (VAL.3).
        batch.authentic = Selection::ALL;
        open.keep(batch);
        self.note_write(cid, digest);
    }

    /// From here on this replica takes part again, and answers reads once it has executed what is
    /// decided now.
    pub(super) fn regain(&mut self) {
        self.lag.mute = false;
        self.lag.read_from = self.decided;
    }

    /// Makes a record, if records are made.
    pub(super) fn persist(
        &mut self,
        record: impl FnOnce(&Self) -> Record<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("DUR.1");
        if let Some(last) = self.durability.last {
            let lsn = Lsn(last.0 + 1);
            self.durability.last = Some(lsn);
            let record = record(self);
            if matches!(
                record,
                Record::Installed { .. } | Record::Synchronised { .. } | Record::Entered { .. }
            ) {
                self.durability.regency = lsn;
            }
            actions.push(Action::Persist { lsn, record });
        }
    }

    /// Everything up to `lsn` is durable.
    pub(super) fn on_durable(&mut self, lsn: Lsn) {
        let last = self.durability.last.unwrap_or_default();
        assert!(lsn <= last, "only what was recorded gets durable");
        self.durability.durable = lsn.max(self.durability.durable);
    }

    /// What has to be durable before `message` leaves.
    pub(super) fn after(&self, message: &Message<P>) -> Lsn {
        spec!("DUR.2");
        match message {
            // Whoever comes back knows then in which regency it may have proposed.
            Message::Propose(_) | Message::ProposeSparse(_) => self.durability.regency,
            Message::Refuse(_)
            | Message::Forwarded(_)
            | Message::Fetch(_)
            | Message::FetchBatch(_)
            | Message::BatchBody(_)
            | Message::FetchBodies(_)
            | Message::Bodies(_)
            | Message::FetchState(_)
            // What it tells of was durable before the core heard of it.
            | Message::StateOffer(_)
            | Message::FetchChunks(_)
            | Message::Chunk(_) => Lsn(0),
            Message::Write(_)
            | Message::Accept(_)
            | Message::Stop(_)
            | Message::StopData(_)
            | Message::Sync(_)
            | Message::Status(_)
            | Message::Decided(_) => self.durability.last.unwrap_or_default(),
        }
    }

    /// May this replica, as leader, propose in the installed regency, or lead its synchronisation?
    pub(super) fn knows_what_it_proposed(&self) -> bool {
        spec!("DUR.4");
        self.durability.restored != Some(self.regency)
    }

    /// The last record that was made.
    pub(super) fn last_record(&self) -> Lsn {
        self.durability.last.unwrap_or_default()
    }

    /// Are records made?
    pub(super) fn keeps_records(&self) -> bool {
        self.durability.last.is_some()
    }

    /// The record of the decision for `batch` at `at`, the lowest open instance.
    pub(super) fn decision_record(&self, at: Position, batch: &Batch<P>) -> Record<P> {
        let open = self.window.lowest();
        let decided = open.decided.expect("it is being delivered");
        // Else its bytes are in the record of the WRITE.
        let written = open.wrote == Some(decided.digest);
        let batch = (!written).then(|| batch.clone());
        let (digest, claimed) = (decided.digest, open.claimed);
        let at = Position { epoch: decided.epoch, view: self.ruling_id(), ..at };
        Record::Decided { at, digest, claimed, batch }
    }

    /// Holds the open instances to what a synchronisation said.
    pub(super) fn hold_to(&mut self, resume: Resume) {
        self.stopped = false;
        self.lag.learn_up_to(resume.start.0 - 1);
        self.resume = resume;
        self.requests.restart_clocks(self.now);
        for cid in self.window.start().0..=self.window.end().0 {
            self.bind(ConsensusId(cid));
        }
    }

    /// Remembers this replica's WRITE.
    pub(super) fn note_write(&mut self, cid: ConsensusId, digest: Digest) {
        self.window.note_written();
        let open = self.window.at_mut(cid);
        open.write(digest);
        open.vote_lsn.get_or_insert(self.durability.last.unwrap_or_default());
        open.verdict = Verdict::Written;
        open.work_since.get_or_insert(self.now);
        self.speculate(cid);
        if !self.crash_only() {
            self.window.at_mut(cid).writes.vote(self.index, digest);
        }
    }

    /// Remembers this replica's ACCEPT.
    pub(super) fn note_accept(&mut self, cid: ConsensusId, digest: Digest) {
        let open = self.window.at_mut(cid);
        assert!(open.accepted.is_none(), "one ACCEPT an epoch");
        open.certify(digest);
        open.accepted = Some(digest);
        open.accepts.vote(self.index, digest);
        open.accept_lsn = self.durability.last.unwrap_or_default();
        open.vote_lsn.get_or_insert(open.accept_lsn);
        self.window.note_accepted();
    }
}
