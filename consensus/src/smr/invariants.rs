//! What is always true of a replica, checked after every step.
//!
//! Owns the assertions on the replica's own state. Always true: they are cheap, so they are on in
//! release builds. Must not: assert anything that a faulty member could make false.

use crate::limits::EXECUTION_LAG_MAX;
use crate::payload::Payload;
use crate::smr::replica::Replica;
use crate::vp::instance::Instance;

impl<P: Payload> Replica<P> {
    pub(super) fn check_invariants(&self) {
        let open = self.window.lowest();
        assert!(open.at.cid == self.decided.next(), "open is what comes after the last decision");
        assert!(open.at.epoch == self.regency.epoch(), "an epoch is a regency (VP.2)");
        assert!(self.wanted >= self.regency, "an installed regency is wanted");
        assert!(self.executed <= self.decided, "what is executed was decided");
        let done = self.executed.max(self.transfer.installed());
        assert!(self.decided.0 - done.0 <= EXECUTION_LAG_MAX, "execution lags (SMR.11)");
        if let Some(last) = self.log.get(self.decided) {
            assert!(last.digest == self.recent[0].digest, "the log ends with the decision");
            assert!(last.timestamp_ns <= self.timestamp_ns, "time does not go back");
        } else {
            // At the start, or behind a checkpoint without the decisions before it.
            assert!(self.log.start().is_none(), "the last decision is kept (VP.9)");
        }
        assert!(self.selected.is_empty(), "reused lists are given back empty");
        self.check_instance(open);
        // The others are looked at where time does not matter.
        if cfg!(any(debug_assertions, feature = "mutants")) {
            let instances = || self.window.iter();
            instances().for_each(|open| self.check_instance(open));
            let written = instances().take_while(|open| open.wrote.is_some()).count();
            let gap = instances().skip(written).any(|open| open.wrote.is_some());
            assert!(!gap && written == self.window.written(), "written in order (VP.10)");
            let accepted = instances().take_while(|open| open.accepted.is_some()).count();
            let gap = instances().skip(accepted).any(|open| open.accepted.is_some());
            assert!(!gap, "accepted in order (VP.10)");
        }
    }

    fn check_instance(&self, open: &Instance<P>) {
        if self.stopped || self.lag.is_mute() {
            assert!(open.wrote.is_none() && open.accepted.is_none(), "votes while it must not");
        }
        if let Some(accepted) = open.accepted {
            let certified = open.certified.expect("what is accepted is certified (VP.5)");
            assert!(certified.epoch == open.at.epoch, "the certificate is of this epoch");
            assert!(accepted == certified.digest || open.decided.is_some());
        }
        if let (Some(bound), Some(wrote)) = (open.bound, open.wrote) {
            assert!(bound == wrote, "only the bound value is written (SYNC.9)");
        }
    }
}
