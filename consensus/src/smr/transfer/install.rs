//! Going on from a checkpoint of others.
//!
//! Owns the step from what this replica had decided to what the image says. Always true: it is as if the decisions up
//! to there had been learned from claims: promises above stay as they are, and what was voted below is not contradicted.
//! If the image is of a later view, it is as if that had been entered on the way. Must not: touch a regency of a view that
//! goes on.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::action::Action;
use crate::checkpoint::Ordered;
use crate::limits::decisions_told;
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::record::Record;
use crate::smr::replica::{Recent, Replica};
use crate::spec;
use crate::types::{ConsensusId, Digest};

impl<P: Payload> Replica<P> {
    /// Takes over what everybody agreed on at `ordered`, whose image has this root. False, and nothing is
    /// changed, if it cannot: it contradicts what was decided here, or the limits of this replica.
    pub(super) fn install_state(
        &mut self,
        ordered: &Ordered,
        root: Digest,
        actions: &mut Actions<Action<P>>,
    ) -> bool {
        spec!("ST.5");
        if !self.is_possible(ordered) {
            return false;
        }
        let cid = ordered.cid;
        let recent = self.recent_at(ordered);
        self.requests.install(self.now, &ordered.sessions);
        self.recent.clear();
        self.recent.extend(recent);
        (self.decided, self.claimed) = (cid, cid);
        self.timestamp_ns = ordered.timestamp_ns;
        let opened = self.window.newest().next().max(cid.next());
        self.window.skip_to(cid.next());
        let entered = self.pass_to_view_of(ordered);
        for cid in opened.0..=self.window.newest().0 {
            self.bind(ConsensusId(cid));
        }
        self.log.clear();
        self.later.forget_to(cid);
        self.lag.claims.forget_to(cid);
        self.lag.learn_up_to(cid.0);
        self.speculate_again();
        self.begin_lowest();
        self.withdraw_wish();
        self.transfer.installed = cid;
        self.standstill.moved(self.now);
        if let Some(ruled) = &ordered.ruled {
            self.take_ruled(ruled);
        }
        self.persist(|this| Record::Transferred { root, base: Box::new(this.base()) }, actions);
        actions.push(Action::Install { base: self.last_record(), cid });
        if let Some(ruled) = ordered.ruled.as_deref().filter(|_| entered) {
            let (entered, since) = (Box::new(ruled.request.clone()), ruled.since);
            actions.push(Action::ViewEntered { entered, since, leader: self.leader() });
        }
        self.end_view(actions);
        true
    }

    fn is_possible(&self, ordered: &Ordered) -> bool {
        let Ordered { cid, decisions, sessions, .. } = ordered;
        let told = cid.0.min(decisions_told(self.window.depth()) as u64);
        // So that counting on from there never overflows.
        let ahead = *cid > self.decided && cid.0 <= u64::MAX / 2;
        let known = |(since, digest): (usize, &Digest)| {
            self.decided_here(cid.0 - since as u64).is_none_or(|recent| recent.digest == *digest)
        };
        self.is_ruled(ordered)
            && ahead
            && decisions.len() as u64 == told
            && decisions.iter().enumerate().all(known)
            && sessions.iter().all(|(client, _)| self.requests.allows(*client))
    }

    /// What is still told of instance `cid`, if it was decided here not long ago.
    fn decided_here(&self, cid: u64) -> Option<&Recent> {
        let since = self.decided.0.checked_sub(cid)?;
        self.recent.get(usize::try_from(since).ok()?)
    }

    /// The last decisions at `ordered`, with what this replica voted in them in this epoch.
    fn recent_at(&self, ordered: &Ordered) -> Vec<Recent> {
        spec!("VP.9");
        let recent = |(since, digest): (usize, &Digest)| {
            let cid = ordered.cid.0 - since as u64;
            let (epoch, wrote, accepted) = match self.window.get(ConsensusId(cid)) {
                Some(open) => (open.at.epoch, open.wrote, open.accepted),
                None => match self.decided_here(cid) {
                    Some(recent) => (recent.epoch, recent.wrote, recent.accepted),
                    // It was never open here.
                    None => (self.regency.epoch(), None, None),
                },
            };
            Recent { digest: *digest, epoch, wrote, accepted }
        };
        ordered.decisions.iter().enumerate().map(recent).collect()
    }
}
