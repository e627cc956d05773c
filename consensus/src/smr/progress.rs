//! How far the others are, as far as known, and what was asked of them.
//!
//! Owns the data of catching up. Always true: the target is an instance that a correct member decided.
//! Must not: send, or decide when to ask; `lag` does.

use alloc::vec::Vec;

use crate::config::View;
use crate::limits::REPLICAS_MAX;
use crate::quorum::Quorums;
use crate::spec;
use crate::types::{ConsensusId, Instant, ReplicaSet};
use crate::vp::claims::Claims;

/// What one member said last.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub(super) decided: ConsensusId,
    pub(super) log_start: ConsensusId,
    /// What it had decided when it was first heard of.
    pub(super) first: Option<ConsensusId>,
}

/// See the module.
pub(super) struct Lag<P> {
    pub(super) members: Vec<Progress>,
    pub(super) claims: Claims<P>,
    /// An instance that a correct member has decided, as far as known.
    pub(super) target: ConsensusId,
    /// The last instance asked for; below the open one when nothing is on its way.
    pub(super) asked_to: ConsensusId,
    /// The instances for which bytes were asked for and may still come.
    pub(super) bytes_from: ConsensusId,
    pub(super) bytes_to: ConsensusId,
    /// Who was asked for bytes last, and everybody who was since this replica fell behind.
    pub(super) source: usize,
    pub(super) sources: ReplicaSet,
    /// When to ask (again) if nothing moves until then, and what was decided when that was set.
    pub(super) ask_at: Option<Instant>,
    pub(super) decided_at_ask: ConsensusId,
    /// How often in a row asking brought nothing.
    pub(super) failures: u32,
    /// Decided at the last status: no progress since then is a reason to ask.
    pub(super) decided_at_status: ConsensusId,
    /// The instance that nobody can send any more, once that was said.
    pub(super) behind: Option<ConsensusId>,
    pub(super) mute: bool,
    /// This replica waits for the view that it joins in (rule VIEW.8).
    pub(super) joining: bool,
    /// What has to be executed before this replica's state is fit for reading.
    pub(super) read_from: ConsensusId,
}

/// The wait for an answer grows at most this many times twofold.
pub(super) const FAILURES_MAX: u32 = 5;

impl<P> Lag<P> {
    pub(super) fn new(n: usize, restarted: bool, joining: bool) -> Self {
        let none = ConsensusId(0);
        let progress = Progress { decided: none, log_start: ConsensusId(1), first: None };
        Self {
            members: alloc::vec![progress; n],
            claims: Claims::new(),
            target: none,
            asked_to: none,
            bytes_from: none,
            bytes_to: none,
            source: 0,
            sources: ReplicaSet::EMPTY,
            ask_at: None,
            decided_at_ask: none,
            failures: 0,
            decided_at_status: none,
            behind: None,
            mute: restarted,
            joining,
            read_from: none,
        }
    }

    /// The member at `index` shows that it has decided instance `decided`. Returns whether more is
    /// known now of what correct members decided.
    pub(super) fn has_decided(
        &mut self,
        index: usize,
        decided: ConsensusId,
        one_correct: usize,
    ) -> bool {
        spec!("LAG.2", "SMR.1");
        if decided <= self.members[index].decided {
            return false;
        }
        self.members[index].decided = decided;
        let before = self.target;
        self.update_target(one_correct);
        self.target > before
    }

    /// The instance to be executed before reads are answered; `None` while this replica only learns.
    pub(super) fn read_from(&self) -> Option<ConsensusId> {
        (!self.is_mute()).then_some(self.read_from)
    }

    /// Does this replica only learn?
    pub(super) fn is_mute(&self) -> bool {
        self.mute || self.joining
    }

    /// Another view begins: forgets who asked and said what, but for how far those are who were members
    /// before.
    pub(super) fn enter_view(&mut self, before: &View, view: &View) {
        let mut lag = Self::new(view.n(), self.mute, false);
        lag.read_from = self.read_from;
        for (place, id) in view.members().iter().enumerate() {
            if let Some(old) = before.index_of(*id) {
                lag.members[place] = Progress { first: None, ..self.members[old] };
            }
        }
        lag.update_target(view.quorums().one_correct());
        *self = lag;
    }

    /// A correct member is known to have decided `cid`.
    pub(super) fn learn_up_to(&mut self, cid: u64) {
        self.target = self.target.max(ConsensusId(cid));
    }

    /// Was the decision of `cid` asked for?
    pub(super) fn is_fetching(&self, cid: ConsensusId) -> bool {
        cid <= self.asked_to
    }

    /// What one-correct members say they decided.
    pub(super) fn update_target(&mut self, one_correct: usize) {
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
    pub(super) fn mark(&self, index: usize, quorums: Quorums) -> Option<ConsensusId> {
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
