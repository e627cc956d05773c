//! gamma, the validity predicate, and what follows when a proposal fails it.
//!
//! Owns REFUSE and complaints. Always true: gamma is asked before WRITE, never at a decision. Must
//! not: treat what one replica cannot check as proof against the leader.

use crate::action::{Action, Evidence};
use crate::message::{Refuse, RefuseReason};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::complaints::Complaint;
use crate::smr::ignored::Ignored;
use crate::smr::normal::Time;
use crate::smr::out_of_context::Early;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ClientId, ConsensusId, Digest, Instant};
use crate::vp::votes::Counted;

/// What a replica thinks of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gamma {
    Convincing,
    /// No correct leader would have proposed it (rule VAL.1).
    Impossible,
    /// The same, but the leader may not have known what this replica knows (rule VAL.9).
    Outdated,
    /// Only this replica may have a reason to doubt it (rule VAL.2).
    Unconvincing(RefuseReason),
}

impl<P: Payload> Replica<P> {
    /// Judges the batch with this digest as the proposal of open instance `cid`.
    pub(super) fn gamma(&mut self, cid: ConsensusId, digest: Digest) -> Gamma {
        spec!("VP.4", "VAL.1", "VAL.2", "VIEW.4");
        if !self.config.checks.validity {
            return Gamma::Convincing;
        }
        let time_below = self.time_below();
        let open = self.window.at(cid);
        let batch = open.batch(&digest).expect("a proposal is kept before it is judged");
        let fills = self.views.ending.is_some();
        let Ok(doubtful) = self.requests.check_batch(batch, time_below, fills) else {
            spec!("VAL.9");
            let claimed_below = self.claimed.0 + self.window.depth() as u64 > cid.0;
            return if claimed_below { Gamma::Outdated } else { Gamma::Impossible };
        };
        if self.crash_only() {
            return Gamma::Convincing;
        }
        if let Some(client) = doubtful {
            return Gamma::Unconvincing(RefuseReason::Proof(client));
        }
        if Instant(batch.timestamp_ns) > self.now + self.config.clock_skew_max {
            return Gamma::Unconvincing(RefuseReason::Clock);
        }
        Gamma::Convincing
    }

    /// The leader proposed what no correct leader would: evidence, and the end of its regency.
    pub(super) fn report_impossible(&mut self, cid: ConsensusId, actions: &mut Actions<Action<P>>) {
        spec!("VAL.1");
        let at = self.window.position(cid);
        let evidence = Evidence::InvalidProposal { member: self.leader(), at };
        actions.push(Action::Report(evidence));
        self.ask_for_next_regency(actions);
    }

    /// A member (or this replica itself) refuses a proposal.
    pub(super) fn on_refuse(
        &mut self,
        index: usize,
        refuse: Refuse,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VAL.4", "VAL.5");
        if refuse.at.view != self.config.view.id() {
            return self.ignored.add(Ignored::OtherView);
        }
        if let RefuseReason::Proof(client) = refuse.reason {
            self.complain(index, client, refuse, actions);
        }
        match self.time_of(refuse.at) {
            Time::Past => self.ignored.add(Ignored::Stale),
            Time::Early => self.keep_early(index, refuse.at, Early::Refuse(refuse), actions),
            Time::Now => {
                let open = self.window.at_mut(refuse.at.cid);
                let counted = open.refusals.vote(index, refuse.digest);
                let refused = open.refusals.reached(self.quorums.one_correct());
                if matches!(counted, Counted::New { .. }) && refused.is_some() {
                    self.ask_for_next_regency(actions);
                }
            }
        }
    }

    fn complain(
        &mut self,
        index: usize,
        client: ClientId,
        refuse: Refuse,
        actions: &mut Actions<Action<P>>,
    ) {
        if self.complaints.complain(index, client) == Complaint::Demoted {
            self.requests.demote(self.now, client.identity());
            let evidence = Evidence::HalfValidProof { client, at: refuse.at };
            actions.push(Action::Report(evidence));
        }
    }
}
