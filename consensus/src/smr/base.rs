//! Checkpoints as the core sees them: when they are due, the base that goes with each, and beginning at one.
//!
//! Owns rules CKP.1, CKP.2 and CKP.4, as far as they are the core's. Always true: a base says the same
//! whether it is made live, or again from the records before it. Must not: know the application's state,
//! or where checkpoints are kept.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::action::Action;
use crate::batch::Selection;
use crate::checkpoint::Ordered;
use crate::message::{OpenState, Position, Written};
use crate::payload::Payload;
use crate::protocol::Actions;

use crate::record::{Base, Record, Votes};
use crate::smr::durability::RestoreError;
use crate::smr::replica::{Recent, Replica};
use crate::spec;
use crate::types::{ConsensusId, Digest, Instant, Regency};

impl<P: Payload> Replica<P> {
    /// After a delivery: makes a base and asks for a checkpoint, if it is time.
    pub(super) fn take_checkpoint(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("CKP.1");
        let every = self.config.checkpoint_every;
        if every == 0 || !self.decided.0.is_multiple_of(every) {
            return;
        }
        self.standstill.was_due();
        self.checkpoint_here(None, actions);
    }

    /// Makes a base and asks for a checkpoint after the last decision: of `ordered`, if that was put together before.
    pub(super) fn checkpoint_here(
        &mut self,
        ordered: Option<Arc<Ordered>>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("CKP.2");
        self.persist(|this| Record::Base(Box::new(this.base())), actions);
        let ordered = ordered.unwrap_or_else(|| self.ordered());
        actions.push(Action::Checkpoint { base: self.last_record(), ordered });
    }

    /// What everybody agrees on after the last decision. It is in the memory of the one before, unless somebody
    /// still holds that: in steady state nothing is allocated.
    pub(super) fn ordered(&mut self) -> Arc<Ordered> {
        let view = self.ruling_id();
        let rules_as_before = self.rules_as(self.last_ordered.ruled.as_deref());
        let ruled = if rules_as_before { None } else { self.ruled() };
        let ordered = Arc::make_mut(&mut self.last_ordered);
        ordered.view = view;
        ordered.cid = self.decided;
        ordered.timestamp_ns = self.timestamp_ns;
        ordered.decisions.clear();
        ordered.decisions.extend(self.recent.iter().map(|recent| recent.digest));
        ordered.sessions.clear();
        ordered.sessions.extend(self.requests.sessions());
        if !rules_as_before {
            ordered.ruled = ruled;
        }
        Arc::clone(&self.last_ordered)
    }

    /// What this replica alone must not forget after its last decision.
    pub(super) fn base(&self) -> Base {
        let votes = |recent: &Recent| Votes {
            epoch: recent.epoch,
            wrote: recent.wrote,
            accepted: recent.accepted,
        };
        Base {
            state: self.state(),
            timestamp_ns: self.timestamp_ns,
            claimed: self.claimed,
            stopped: self.stopped,
            mute: self.lag.mute,
            joining: self.lag.joining,
            resume: self.resume.clone(),
            votes: self.recent.iter().map(votes).collect(),
            // In order, without gaps (VP.10).
            wrote: self.window.iter().map_while(|open| open.wrote).collect(),
            accepted: self.window.iter().map_while(|open| open.accepted).collect(),
        }
    }

    /// Passes over a record that comes before the base from which the replay will begin: keeps what
    /// helps others (the decision), and what the base leaves out (batches of open instances).
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn pass_over(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        spec!("CKP.5");
        assert!(self.decided == ConsensusId(0), "the base comes later");
        let record = Record::decode(bytes, &mut *self.pool).map_err(RestoreError::Bad)?;
        match record {
            Record::Written { at, mut batch } => {
                // Written was what was convincing, or what a correct member vouched for (VAL.3).
                batch.authentic = Selection::ALL;
                self.earlier.retain(|(cid, kept)| (*cid, kept.digest) != (at.cid, batch.digest));
                self.earlier.push((at.cid, batch));
            }
            Record::Decided { at, digest, batch, .. } => {
                let batch = batch.or_else(|| self.take_earlier(at.cid, &digest));
                let follows = self.log.last().is_none_or(|last| last.next() == at.cid);
                if !follows || batch.is_none() {
                    self.log.clear();
                }
                if let Some(batch) = batch {
                    self.log.push(Position { ..at }, &batch);
                }
                self.earlier.retain(|(cid, _)| *cid > at.cid);
            }
            Record::MemoryLost { .. }
            | Record::MemoryWhole { .. }
            | Record::Installed { .. }
            | Record::Synchronised { .. }
            | Record::Accepted(_)
            | Record::Entered { .. }
            | Record::Base(_) => {}
            // The decisions between those before it and its own are not here.
            Record::Transferred { base, .. } => {
                self.log.clear();
                self.earlier.retain(|(cid, _)| *cid > base.state.decided);
            }
        }
        Ok(())
    }

    /// Forgets what was passed over: the replay begins somewhere else.
    pub fn forget_passed_over(&mut self) {
        assert!(self.decided == ConsensusId(0), "nothing was replayed");
        self.log.clear();
        self.earlier.clear();
    }

    fn take_earlier(&mut self, cid: ConsensusId, digest: &Digest) -> Option<crate::Batch<P>> {
        let found = self.earlier.iter().position(|(at, it)| *at == cid && it.digest == *digest)?;
        Some(self.earlier.swap_remove(found).1)
    }

    /// Begins behind a checkpoint, with the record that is its base: in a core that has taken no input and
    /// replayed nothing. The records behind the base are replayed next.
    ///
    /// # Errors
    /// The record is not the base of this checkpoint. The core must not be used then.
    pub fn begin_at(
        &mut self,
        now: Instant,
        ordered: &Ordered,
        record: &[u8],
    ) -> Result<(), RestoreError> {
        spec!("CKP.4");
        assert!(self.decided == ConsensusId(0) && !self.keeps_records(), "nothing has happened");
        self.now = now.max(self.now);
        let record = Record::decode(record, &mut *self.pool).map_err(RestoreError::Bad)?;
        let (Record::Base(base) | Record::Transferred { base, .. }) = record else {
            return Err(RestoreError::Base(ordered.cid));
        };
        self.begin_views(ordered, base.state.view, base.joining)?;
        self.check_base(ordered, &base)?;
        for (client, executed) in &ordered.sessions {
            if !self.requests.restore(*client, *executed) {
                return Err(RestoreError::Session(*client));
            }
        }
        (self.decided, self.executed) = (ordered.cid, ordered.cid);
        self.timestamp_ns = ordered.timestamp_ns;
        self.claimed = base.claimed;
        self.lag.mute = base.mute;
        self.recent.extend(base.state.decisions.iter().zip(&base.votes).map(|(digest, votes)| {
            let Votes { epoch, wrote, accepted } = *votes;
            Recent { digest: *digest, epoch, wrote, accepted }
        }));
        if self.log.last() != Some(self.decided) {
            self.log.clear();
        }
        self.open_again(&base)?;
        self.begin_at_end_of_view(ordered);
        self.pass_end();
        self.check_invariants();
        Ok(())
    }

    fn check_base(&self, ordered: &Ordered, base: &Base) -> Result<(), RestoreError> {
        let state = &base.state;
        let same = state.decided == ordered.cid
            && state.replica == self.config.id
            && base.timestamp_ns == ordered.timestamp_ns
            && state.decisions == ordered.decisions
            && state.decisions.len() == base.votes.len();
        // So that counting on from there never overflows.
        let cids = 1..=u64::MAX / 2;
        if !same || !cids.contains(&ordered.cid.0) || state.decisions.is_empty() {
            return Err(RestoreError::Base(ordered.cid));
        }
        if !is_possible(base) {
            return Err(RestoreError::Base(ordered.cid));
        }
        let depth = self.window.depth();
        let told = state.decisions.len() == (2 * depth).min(ordered.cid.0 as usize);
        let open = state.open.len().max(base.wrote.len()).max(base.accepted.len());
        let fits = told && open <= depth;
        fits.then_some(()).ok_or(RestoreError::Instance(ordered.cid.next()))
    }

    /// The open instances, as the base says.
    fn open_again(&mut self, base: &Base) -> Result<(), RestoreError> {
        let first = self.decided.next();
        let cid = |above: usize| ConsensusId(first.0 + above as u64);
        self.window.begin_at(first);
        for (above, state) in base.state.open.iter().enumerate() {
            let cid = cid(above);
            for written in state.write_set.as_slice() {
                let batch = self.take_earlier(cid, &written.digest);
                self.window.at_mut(cid).keep(batch.ok_or(RestoreError::Batch(cid))?);
            }
            // Its batch may have been written here, too, or never have come.
            let certified = state.certified.and_then(|it| self.take_earlier(cid, &it.digest));
            let open = self.window.at_mut(cid);
            if let Some(batch) = certified {
                open.keep(batch);
            }
            (open.certified, open.write_set) = (state.certified, state.write_set);
        }
        self.earlier = alloc::vec::Vec::new();
        if base.state.regency > Regency(0) {
            self.enter(base.state.regency);
        }
        self.resume = base.resume.clone();
        if base.stopped {
            return Ok(());
        }
        self.hold_to(base.resume.clone());
        self.vote_again(base)
    }

    /// The votes of the current epoch.
    fn vote_again(&mut self, base: &Base) -> Result<(), RestoreError> {
        let first = self.decided.next();
        let cid = |above: usize| ConsensusId(first.0 + above as u64);
        for (above, digest) in base.wrote.iter().enumerate() {
            let cid = cid(above);
            let open = self.window.at(cid);
            let may = open.bound.is_none_or(|bound| bound == *digest);
            let batch = open.batch(digest).filter(|_| may).cloned();
            self.write_again(cid, batch.ok_or(RestoreError::Batch(cid))?);
        }
        for (above, digest) in base.accepted.iter().enumerate() {
            self.note_accept(cid(above), *digest);
        }
        for (above, state) in base.state.open.iter().enumerate() {
            let open = self.window.at_mut(cid(above));
            (open.certified, open.write_set) = (state.certified, state.write_set);
        }
        Ok(())
    }
}

/// Could a replica have made this base?
fn is_possible(base: &Base) -> bool {
    let epoch = base.state.regency.epoch();
    let past = |open: &OpenState| {
        let mut written = open.certified.iter().chain(open.write_set.as_slice());
        written.all(|written| written.epoch <= epoch)
    };
    let open = |above: usize| base.state.open.get(above);
    let wrote = |(above, digest): (usize, &Digest)| {
        let written = Written { epoch, digest: *digest };
        open(above).is_some_and(|open| open.write_set.as_slice().contains(&written))
    };
    let accepted = |(above, digest): (usize, &Digest)| {
        let written = Written { epoch, digest: *digest };
        open(above).is_some_and(|open| open.certified == Some(written))
    };
    let silent = base.wrote.is_empty() && base.accepted.is_empty();
    base.resume.start > ConsensusId(0)
        && base.state.open.iter().all(past)
        && base.wrote.iter().enumerate().all(wrote)
        && base.accepted.iter().enumerate().all(accepted)
        && (silent || !(base.stopped || base.mute || base.joining))
}
