//! How much other members are helped to catch up.
//!
//! Owns what each was sent. Always true: what a member asks for costs at most so much in a patience, or so
//! many times what was decided in it; a former member that gets no further is answered less and less often. Must not:
//! know what it lacks; `lag` does.

use alloc::vec::Vec;
use core::time::Duration;

use crate::action::Action;
use crate::limits::{HELP_SIZE_MAX, HELP_WEIGHT};
use crate::message::Message;
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Instant, ReplicaId};

/// How much more than is decided meanwhile a member is sent: it must learn faster than the others decide.
const PACE: u64 = 2;

/// What one member was sent since when.
#[derive(Clone, Copy, Debug)]
struct Given {
    since: Instant,
    size: u64,
    /// Bytes that were decided by then.
    decided: u64,
}

/// The wait of a former member that gets no further grows at most this many times twofold, to eight timeouts.
const DOUBLINGS_MAX: u32 = 8;

/// Somebody who was a member before, is none now, and may ask for decisions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former {
    pub(super) id: ReplicaId,
    /// The highest instance that it was seen to lack.
    lacks: ConsensusId,
    /// When it was last answered for the first time in a patience, and how often in a row without having got further.
    since: Option<Instant>,
    in_vain: u32,
}

impl Former {
    pub(super) fn new(id: ReplicaId) -> Self {
        Self { id, lacks: ConsensusId(0), since: None, in_vain: 0 }
    }

    /// May it be answered that lacks `lacks` now? What it asks for in one patience is answered together.
    pub(super) fn may_ask(&mut self, lacks: ConsensusId, now: Instant, patience: Duration) -> bool {
        spec!("VIEW.7");
        let further = lacks > self.lacks;
        if let Some(since) = self.since.filter(|_| !further) {
            if now < since + patience {
                return true;
            }
            if now < since + patience.saturating_mul(1 << self.in_vain) {
                return false;
            }
            self.in_vain = (self.in_vain + 1).min(DOUBLINGS_MAX);
        } else {
            (self.lacks, self.in_vain) = (lacks, 0);
        }
        self.since = Some(now);
        true
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Helping {
    given: Vec<Given>,
    /// Encoded bytes of everything decided so far.
    decided: u64,
}

impl Helping {
    /// For `n` members, and one place behind them for all who are none.
    pub(super) fn new(n: usize) -> Self {
        let nothing = Given { since: Instant(0), size: 0, decided: 0 };
        Self { given: alloc::vec![nothing; n + 1], decided: 0 }
    }

    /// A batch of `size` bytes was decided.
    pub(super) fn note_decided(&mut self, size: usize) {
        self.decided = self.decided.saturating_add(size as u64);
    }

    /// May the member at `index` be helped now?
    fn may_help(&mut self, index: usize, now: Instant, patience: Duration) -> bool {
        spec!("LAG.7");
        let decided = self.decided;
        let given = &mut self.given[index];
        if now >= given.since + patience {
            *given = Given { since: now, size: 0, decided };
        }
        let meanwhile = (decided - given.decided).saturating_mul(PACE);
        given.size < meanwhile.saturating_add(HELP_SIZE_MAX)
    }

    fn note_given(&mut self, index: usize, size: u64) {
        let given = &mut self.given[index];
        given.size = given.size.saturating_add(size);
    }
}

impl<P: Payload> Replica<P> {
    /// Lets `answer` send to the member at `index` what it lacks, unless it was sent a lot just now.
    pub(super) fn help(
        &mut self,
        index: usize,
        actions: &mut Actions<Action<P>>,
        answer: impl FnOnce(&mut Self, &mut Actions<Action<P>>),
    ) {
        spec!("LAG.7");
        let patience = self.patience();
        if !self.helping.may_help(index, self.now, patience) {
            return self.ignored.add(Ignored::NotNeeded);
        }
        let before = actions.as_slice().len();
        answer(self, actions);
        let size = actions.as_slice()[before..].iter().map(weight).sum();
        self.helping.note_given(index, size);
    }
}

/// What an answer costs, in bytes.
fn weight<P: Payload>(action: &Action<P>) -> u64 {
    let batch = match action {
        Action::Send { message: Message::Decided(it), .. } => it.batch.as_ref(),
        Action::Send { message: Message::Propose(it), .. } => Some(&it.batch),
        Action::Send { message: Message::BatchBody(it), .. } => Some(&it.batch),
        _ => None,
    };
    HELP_WEIGHT + batch.map_or(0, |batch| batch.payload().bytes().len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // rule: VIEW.7
    #[test]
    fn a_former_member_is_answered_less_often_until_it_gets_further() {
        let patience = Duration::from_millis(10);
        let mut former = Former::new(ReplicaId(3));
        let mut now = Instant(1_000_000_000);
        let mut answered = 0;
        for _ in 0..1 << 14 {
            answered += u32::from(former.may_ask(ConsensusId(5), now, patience));
            now = now + patience;
        }
        // The pauses of 1, 2, 4, ... 256, and then always 256.
        assert_eq!(answered, 9 + ((1 << 14) - 511_u32).div_ceil(256));
        while former.may_ask(ConsensusId(5), now, patience) {
            now = now + patience;
        }
        assert!(!former.may_ask(ConsensusId(4), now, patience), "it has been further");
        assert!(former.may_ask(ConsensusId(6), now, patience));
        assert!(former.may_ask(ConsensusId(6), now, patience), "all in one patience");
        assert!(former.may_ask(ConsensusId(6), now + patience, patience));
        assert!(!former.may_ask(ConsensusId(6), now + patience * 2, patience));
    }

    // rule: LAG.7
    #[test]
    fn a_member_is_sent_so_much_in_a_patience_and_more_when_more_is_decided() {
        let patience = Duration::from_millis(10);
        let (start, later) = (Instant(1_000_000_000), Instant(1_010_000_000));
        let mut helping = Helping::new(2);
        assert!(helping.may_help(0, start, patience));
        helping.note_given(0, HELP_SIZE_MAX - 1);
        assert!(helping.may_help(0, start, patience));
        helping.note_given(0, 1);
        assert!(!helping.may_help(0, start, patience));
        assert!(helping.may_help(1, start, patience), "another member");
        helping.note_decided(100);
        helping.note_given(0, 199);
        assert!(helping.may_help(0, start, patience), "twice what was decided meanwhile");
        helping.note_given(0, 1);
        assert!(!helping.may_help(0, start, patience));
        assert!(helping.may_help(0, later, patience));
        helping.note_given(0, HELP_SIZE_MAX);
        assert!(!helping.may_help(0, later, patience), "what was decided before does not count");
    }
}
