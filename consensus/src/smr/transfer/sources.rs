//! What members offer, and how well they send what they offer.
//!
//! Owns, for each member, its last offer and what it did in this transfer. Always true: a target is an image that
//! one-correct members offer alike. Must not: ask anybody.

use alloc::vec::Vec;
use core::time::Duration;

use crate::message::{Offer, StateOffer};
use crate::spec;
use crate::types::{Instant, ViewId};

/// A wait for a chunk grows at most this many times twofold.
const FAILURES_MAX: u32 = 5;

/// How often a member is asked in vain while there is something newer to ask others for.
const HOPELESS: u32 = 3;

/// One member.
#[derive(Clone, Copy, Debug)]
struct Source {
    offer: StateOffer,
    /// It sent something false in this transfer, and is not asked any more.
    lies: bool,
    /// It did not send in time, and is asked when nobody else can be.
    slow: bool,
    /// How often it was slow.
    failures: u32,
    /// When it sent something, or was asked while it owed nothing.
    moved: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sources {
    members: Vec<Source>,
}

impl Sources {
    pub(super) fn new(view: ViewId, n: usize) -> Self {
        let source = Source {
            offer: StateOffer::new(view),
            lies: false,
            slow: false,
            failures: 0,
            moved: Instant(0),
        };
        Self { members: alloc::vec![source; n] }
    }

    /// The member at `index` has these, and nothing else any more.
    pub(super) fn note_offer(&mut self, index: usize, offer: StateOffer) {
        self.members[index].offer = offer;
    }

    /// What was offered before says nothing about now.
    pub(super) fn forget_offers(&mut self, view: ViewId) {
        self.members.iter_mut().for_each(|member| member.offer = StateOffer::new(view));
    }

    /// Another transfer begins: everybody may serve again.
    pub(super) fn begin(&mut self) {
        for member in &mut self.members {
            (member.lies, member.slow, member.failures) = (false, false, 0);
        }
    }

    /// The newest image that `one_correct` members offer alike and that `wanted` says yes to.
    pub(super) fn newest(
        &self,
        one_correct: usize,
        mut wanted: impl FnMut(&Offer) -> bool,
    ) -> Option<Offer> {
        spec!("ST.1");
        let offers = || self.members.iter().flat_map(|member| member.offer.offers());
        let vouched = |offer: &&Offer| self.offering(offer).count() >= one_correct;
        let candidates = offers().filter(vouched).filter(|offer| wanted(offer));
        candidates.max_by_key(|offer| offer.cid).copied()
    }

    fn offering<'a>(&'a self, offer: &'a Offer) -> impl Iterator<Item = usize> + 'a {
        let has = |(_, member): &(usize, &Source)| member.offer.offers().contains(offer);
        self.members.iter().enumerate().filter(has).map(|(index, _)| index)
    }

    /// Members that offer another image of the same instance.
    pub(super) fn contradicting<'a>(
        &'a self,
        target: &'a Offer,
    ) -> impl Iterator<Item = (usize, Offer)> + 'a {
        let members = self.members.iter().enumerate();
        members.filter_map(move |(index, member)| {
            let other = |it: &&Offer| it.cid == target.cid && *it != target;
            member.offer.offers().iter().find(other).map(|it| (index, *it))
        })
    }

    /// Those that offer `target` and did not lie.
    pub(super) fn usable<'a>(&'a self, target: &'a Offer) -> impl Iterator<Item = usize> + 'a {
        self.offering(target).filter(|index| !self.members[*index].lies)
    }

    /// Those of them that are not slow.
    pub(super) fn fast<'a>(&'a self, target: &'a Offer) -> impl Iterator<Item = usize> + 'a {
        self.usable(target).filter(|index| !self.members[*index].slow)
    }

    /// The slow one to try next: that was slow the least often.
    pub(super) fn least_slow(&self, target: &Offer) -> Option<usize> {
        self.usable(target).min_by_key(|index| (self.members[*index].failures, *index))
    }

    /// Was one of them not slow too often?
    pub(super) fn is_hopeful(&self, target: &Offer) -> bool {
        self.usable(target).any(|index| self.members[index].failures < HOPELESS)
    }

    /// The member at `index` sent something false. True when that was not known.
    pub(super) fn note_lie(&mut self, index: usize) -> bool {
        !core::mem::replace(&mut self.members[index].lies, true)
    }

    /// It sent a chunk that it was asked for.
    pub(super) fn note_chunk(&mut self, index: usize, now: Instant) {
        self.members[index].moved = now;
        self.members[index].slow = false;
    }

    /// It is asked for chunks, and owed none before.
    pub(super) fn note_asked(&mut self, index: usize, now: Instant) {
        self.members[index].moved = now;
    }

    /// Is it slow, if it owes a chunk since `since`? It may take a `patience` for each; for all together at the end of
    /// a transfer (`hurry`), when others wait for it. Longer, each time it was slow.
    pub(super) fn is_late(
        &self,
        index: usize,
        since: Instant,
        hurry: bool,
        now: Instant,
        patience: Duration,
    ) -> bool {
        spec!("ST.3");
        let member = &self.members[index];
        let since = if hurry { since } else { since.max(member.moved) };
        now >= since + patience.saturating_mul(1 << member.failures.min(FAILURES_MAX))
    }

    /// It is slow.
    pub(super) fn note_slow(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.slow = true;
        member.failures = member.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ConsensusId, Digest};

    const VIEW: ViewId = ViewId(0);

    fn offer(cid: u64, root: u8) -> Offer {
        Offer { cid: ConsensusId(cid), size: 100, root: Digest([root; 32]) }
    }

    fn offers(all: &[Offer]) -> StateOffer {
        let mut message = StateOffer::new(VIEW);
        all.iter().for_each(|it| assert!(message.push(*it)));
        message
    }

    // rule: ST.1
    #[test]
    fn a_target_is_the_newest_that_one_correct_members_offer_alike() {
        let mut sources = Sources::new(VIEW, 4);
        let all = |_: &Offer| true;
        assert_eq!(sources.newest(2, all), None);
        sources.note_offer(0, offers(&[offer(8, 1), offer(16, 1)]));
        sources.note_offer(1, offers(&[offer(16, 2), offer(u64::MAX, 1)]));
        assert_eq!(sources.newest(2, all), None, "nobody agrees with anybody");
        sources.note_offer(2, offers(&[offer(8, 1)]));
        assert_eq!(sources.newest(2, all), Some(offer(8, 1)));
        sources.note_offer(2, offers(&[offer(16, 1), offer(8, 1)]));
        assert_eq!(sources.newest(2, all), Some(offer(16, 1)));
        assert_eq!(sources.newest(2, |it| it.cid < ConsensusId(16)), Some(offer(8, 1)));
        let other = Offer { size: 101, ..offer(16, 1) };
        sources.note_offer(3, offers(&[other, other]));
        assert_eq!(sources.newest(3, all), None, "one member counts once, and the size counts");
        let target = offer(16, 1);
        let lies: Vec<_> = sources.contradicting(&target).collect();
        assert_eq!(lies, [(1, offer(16, 2)), (3, other)]);
        sources.note_offer(0, offers(&[]));
        assert_eq!(sources.newest(2, all), None, "an offer takes the place of the one before");
    }

    // rule: ST.3
    #[test]
    fn who_is_slow_or_lies_is_asked_last_or_never() {
        let mut sources = Sources::new(VIEW, 4);
        let target = offer(8, 1);
        (0..4).for_each(|index| sources.note_offer(index, offers(&[target])));
        assert!(sources.note_lie(2) && !sources.note_lie(2), "new once");
        sources.note_slow(0);
        assert!(sources.fast(&target).eq([1, 3]) && sources.usable(&target).eq([0, 1, 3]));
        for index in [1, 3, 0] {
            sources.note_slow(index);
        }
        assert_eq!(sources.fast(&target).next(), None);
        assert_eq!(sources.least_slow(&target), Some(1));
        let (patience, since) = (Duration::from_nanos(100), Instant(1000));
        let late = |sources: &Sources, index, now, hurry| {
            sources.is_late(index, since, hurry, Instant(now), patience)
        };
        assert!(!late(&sources, 1, 1199, false) && late(&sources, 1, 1200, false));
        assert!(!late(&sources, 0, 1399, false) && late(&sources, 0, 1400, false), "longer again");
        sources.note_chunk(1, Instant(1100));
        assert!(sources.fast(&target).eq([1]), "it serves again");
        assert!(!late(&sources, 1, 1299, false) && late(&sources, 1, 1200, true));
        sources.begin();
        assert!(sources.fast(&target).eq(0..4));
    }
}
