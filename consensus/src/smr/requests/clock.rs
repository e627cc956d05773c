//! The clock of the oldest work.
//!
//! Owns which pending request the leader is measured by, since when, and its strikes. Always true:
//! a decision starts the clock again, waiting alone never does. Must not: read a clock, or know what
//! follows from a strike.

use super::Work;
use crate::types::{Instant, Sequence};

/// One request as the clock knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// Index of the session.
    pub(super) session: u32,
    pub(super) sequence: Sequence,
    pub(super) signed: bool,
}

#[derive(Debug)]
pub(super) struct Clock {
    item: Option<Item>,
    since: Instant,
    strikes: u8,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { item: None, since: Instant(0), strikes: 0 }
    }

    pub(super) fn item(&self) -> Option<Item> {
        self.item
    }

    pub(super) fn work(&self) -> Option<Work> {
        let item = self.item?;
        Some(Work { since: self.since, strikes: self.strikes, signed: item.signed })
    }

    pub(super) fn strike(&mut self, now: Instant) {
        self.since = now;
        self.strikes = self.strikes.saturating_add(1);
    }

    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
        self.strikes = 0;
    }

    /// `item` is the oldest work now. `forwarded`: all members, so the leader too, were sent it.
    /// `admitted`: when it became pending.
    ///
    /// One that is signed comes before all that are not. That is no progress, so the clock of what it displaces
    /// goes on, as far back as this one waits: its first strike still brings it to the leader, who
    /// has the whole timeout from then.
    ///
    /// A client can make its own request disappear without a decision, by starting a later
    /// incarnation. It must not gain time for an idle leader with that: the next request goes on
    /// where that one was, if the leader has known it as well.
    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        item: Option<Item>,
        forwarded: bool,
        admitted: Instant,
        decision: bool,
    ) {
        if self.item == item {
            return;
        }
        let old = core::mem::replace(&mut self.item, item).filter(|_| !decision);
        match (old, item.filter(|new| new.signed)) {
            (Some(old), Some(_)) if !old.signed => self.restart(self.since.max(admitted)),
            (Some(_), Some(_)) if forwarded && self.strikes > 0 => {}
            _ => self.restart(now),
        }
    }
}
