//! Checkpoints where nothing is decided any more: for those that the others need, and that lack decisions which too
//! few keep.
//!
//! Owns since when nothing was decided, and when another checkpoint may be taken for that. Always true: none is taken
//! while decisions come, and none at an instance that this replica has one of; whoever asks and asks gets them less and
//! less often. Must not: know how a checkpoint is made; `base` does.

use alloc::sync::Arc;
use core::time::Duration;

use crate::action::Action;
use crate::checkpoint::Ordered;
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Instant};

/// The wait grows at most to two to this power timeouts.
const DOUBLINGS_MAX: u32 = 6;

/// It is as long as this where what is offered should do: others may not offer the same.
const DOUBLINGS_OFFERED: u32 = 4;

/// See the module.
pub(super) struct Standstill {
    /// When something was decided last, or such a checkpoint taken.
    since: Instant,
    /// How many were taken since the last that was due.
    taken: u32,
    /// What everybody agrees on after the last instance of a view, as it was before the next one ruled.
    at_end: Option<Arc<Ordered>>,
}

impl Standstill {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, taken: 0, at_end: None }
    }

    /// Something was decided, or learned.
    pub(super) fn moved(&mut self, now: Instant) {
        self.since = now;
    }

    /// A checkpoint was due.
    pub(super) fn was_due(&mut self) {
        self.taken = 0;
    }

    /// Did nothing move for so long that a checkpoint may be taken? `offered`: what there is should do.
    fn may_take(&self, now: Instant, timeout: Duration, offered: bool) -> bool {
        let least = if offered { DOUBLINGS_OFFERED } else { 0 };
        let doublings = self.taken.max(least).min(DOUBLINGS_MAX);
        now >= self.since + timeout.saturating_mul(1 << doublings)
    }

    fn note_taken(&mut self, now: Instant) {
        self.taken = self.taken.saturating_add(1);
        self.since = now;
    }
}

impl<P: Payload> Replica<P> {
    /// A member needs a checkpoint above `above`: takes one, if nothing is decided, and later if this replica keeps all that it
    /// lacks.
    pub(super) fn help_out_of_standstill(
        &mut self,
        above: ConsensusId,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("CKP.6");
        let newest = self.serving.newest().unwrap_or(ConsensusId(0));
        let idle = self.executed == self.decided && newest < self.decided;
        if self.config.checkpoint_every == 0 || above >= self.decided || !idle {
            return;
        }
        // Too few others may keep, or have, the same.
        let offered = newest.max(above).next() >= self.log_start();
        if self.standstill.may_take(self.now, self.config.request_timeout, offered) {
            self.standstill.note_taken(self.now);
            let ended = self.views.start == self.decided.next();
            let at_end = self.standstill.at_end.clone().filter(|_| ended);
            assert!(!ended || at_end.is_some(), "the end of a view was noted");
            self.checkpoint_here(at_end, actions);
        }
    }

    /// The last decision may end its view: keeps what a checkpoint there says, which is the same for members that are in
    /// the next view by the time it is taken, and for those that are not.
    pub(super) fn note_end_of_view(&mut self) {
        spec!("CKP.6", "VIEW.4");
        if self.config.checkpoint_every > 0
            && self.views.ending.as_ref().is_some_and(|ending| ending.last == self.decided)
        {
            self.standstill.at_end = Some(self.ordered());
        }
    }

    /// This replica begins at a checkpoint, at which a view may have ended.
    pub(super) fn begin_at_end_of_view(&mut self, ordered: &Ordered) {
        let ending = ordered.ruled.as_ref().and_then(|ruled| ruled.ending.as_ref());
        if ending.is_some_and(|ending| ending.last == ordered.cid) {
            self.standstill.at_end = Some(Arc::new(ordered.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    // rule: CKP.6
    #[test]
    fn who_asks_again_and_again_waits_longer_and_longer() {
        let start = Instant(1_000_000_000);
        let mut still = Standstill::new(start);
        assert!(!still.may_take(start + TIMEOUT / 2, TIMEOUT, false));
        assert!(still.may_take(start + TIMEOUT, TIMEOUT, false));
        assert!(
            !still.may_take(start + TIMEOUT * 15, TIMEOUT, true),
            "others may get on with what is offered"
        );
        assert!(still.may_take(start + TIMEOUT * 16, TIMEOUT, true));
        let mut now = start;
        for timeouts in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            let soon = now + TIMEOUT * timeouts / 2;
            assert!(!still.may_take(soon, TIMEOUT, false));
            now = now + TIMEOUT * timeouts;
            assert!(still.may_take(now, TIMEOUT, false));
            still.note_taken(now);
        }
        still.was_due();
        assert!(!still.may_take(now, TIMEOUT, false), "not before a timeout is over");
        assert!(still.may_take(now + TIMEOUT, TIMEOUT, false));
        still.moved(now + TIMEOUT);
        assert!(!still.may_take(now + TIMEOUT, TIMEOUT, false), "something was decided");
    }
}
