//! Who may send how much before the other side has received.
//!
//! Owns the counts of one connection. Always true: a side never sends what the other has no receive for, so a
//! receiver is always ready (no RNR) as long as both keep the rules; what a peer says beyond them is an error
//! of that peer. Must not: post or send.
//!
//! A credit is a receive that is posted for a send with bytes. Each send says how many more there are, in the
//! number that comes along. Who has nothing to send says it in a send without bytes, an *update*, which needs
//! no credit: [`RESERVE`] receives more are posted than were told, and an update's receive is posted again as
//! soon as it is seen. That suffices. Updates tell of at least half a window each; between two looks of a side
//! at its completions the other can have freed what that side has sent, one window, and have had less than
//! half a window untold: fewer than three updates. A window that grows tells of its growth by at most two.

/// Receives beyond those of the window, for updates.
pub(super) const RESERVE: u32 = 4;
/// Credits that a peer may have given us at a time: more is a lie.
pub(super) const CREDITS_MAX: u32 = 1 << 14;

/// A peer broke the rules of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Breach;

/// The credits of one connection, both ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Credits {
    /// Sends that the other side has receives for.
    available: u32,
    /// Sends that we have told the other side of and that have not come.
    told: u32,
    /// Receives that are posted and not told.
    untold: u32,
    /// Receives of our window.
    window: u32,
}

impl Credits {
    /// We told of `told` receives while connecting.
    pub(super) fn new(told: u32) -> Self {
        Self { available: 0, told, untold: 0, window: told }
    }

    /// Sends that may be posted.
    pub(super) fn available(&self) -> u32 {
        self.available
    }

    /// The other side told of `more` receives.
    pub(super) fn given(&mut self, more: u32) -> Result<(), Breach> {
        let sum = self.available.checked_add(more).filter(|sum| *sum <= CREDITS_MAX);
        self.available = sum.ok_or(Breach)?;
        Ok(())
    }

    /// A send with bytes is posted.
    ///
    /// # Panics
    /// If none is available.
    pub(super) fn spend(&mut self) {
        assert!(self.available > 0, "who sends has looked");
        self.available -= 1;
    }

    /// A send with bytes came.
    pub(super) fn received(&mut self) -> Result<(), Breach> {
        self.told = self.told.checked_sub(1).ok_or(Breach)?;
        Ok(())
    }

    /// `count` receives are posted again.
    pub(super) fn freed(&mut self, count: u32) {
        self.untold += count;
        debug_assert!(self.told + self.untold <= self.window);
    }

    /// `count` receives more than before are posted.
    pub(super) fn grow(&mut self, count: u32) {
        self.window += count;
        self.untold += count;
    }

    /// Is it time to tell, even if there is nothing to send?
    pub(super) fn update_due(&self) -> bool {
        self.untold >= (self.window / 2).max(1)
    }

    /// What the send that is being posted tells.
    pub(super) fn tell(&mut self) -> u32 {
        self.told += self.untold;
        std::mem::take(&mut self.untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_peer_that_breaks_the_rules_is_noticed() {
        let mut credits = Credits::new(2);
        assert_eq!([(); 3].map(|()| credits.received()), [Ok(()), Ok(()), Err(Breach)]);
        assert_eq!(credits.given(CREDITS_MAX), Ok(()));
        assert_eq!(credits.given(1), Err(Breach));
        assert_eq!(credits.given(u32::MAX), Err(Breach));
        assert_eq!(credits.available(), CREDITS_MAX);
    }

    /// One side of a connection: its counts, its posted receives, what is on the way to it, and what it has
    /// received and not taken.
    struct Side {
        credits: Credits,
        posted: u32,
        wire: std::collections::VecDeque<(bool, u32)>,
        held: u32,
    }

    impl Side {
        fn new(window: u32) -> Self {
            let wire = std::collections::VecDeque::new();
            Self { credits: Credits::new(window), posted: window + RESERVE, wire, held: 0 }
        }

        /// Look at all completions.
        fn look(&mut self) {
            while let Some((with_bytes, told)) = self.wire.pop_front() {
                self.credits.given(told).expect("nobody lies");
                if with_bytes {
                    self.credits.received().expect("nobody lies");
                    self.held += 1;
                } else {
                    self.posted += 1;
                }
            }
        }

        fn take(&mut self, count: u32) {
            let count = count.min(self.held);
            (self.held, self.posted) = (self.held - count, self.posted + count);
            self.credits.freed(count);
        }

        fn send(&mut self, other: &mut Side, count: u32) -> u32 {
            let count = count.min(self.credits.available());
            for _ in 0..count {
                self.credits.spend();
                other.arrive(true, self.credits.tell());
            }
            if count == 0 && self.credits.update_due() {
                other.arrive(false, self.credits.tell());
            }
            count
        }

        fn arrive(&mut self, with_bytes: bool, told: u32) {
            assert!(self.posted > 0, "a receiver is ready");
            self.posted -= 1;
            self.wire.push_back((with_bytes, told));
        }
    }

    proptest! {
        /// Whatever the sides do and in which order, a receive is there for each send, and nobody waits for ever.
        #[test]
        fn a_receiver_is_always_ready(
            first in 1u32..4, grown in 0u32..70,
            steps in proptest::collection::vec((0u8..8, 0u32..40), 1..300),
        ) {
            let mut sides = [Side::new(first), Side::new(first)];
            for side in &mut sides {
                side.credits.given(first).unwrap();
            }
            let mut grows = [true; 2];
            for (step, count) in steps {
                let at = usize::from(step & 1);
                let [one, two] = &mut sides;
                let (side, other) = if at == 0 { (one, two) } else { (two, one) };
                match step >> 1 {
                    0 => side.look(),
                    1 => side.take(count),
                    2 => { side.send(other, count); }
                    _ if std::mem::take(&mut grows[at]) => {
                        side.posted += grown;
                        side.credits.grow(grown);
                    }
                    _ => {}
                }
            }
            // Once both look and take, both can send again.
            for _ in 0..4 {
                let [one, two] = &mut sides;
                for side in [&mut *one, &mut *two] {
                    side.look();
                    side.take(u32::MAX);
                }
                one.send(two, 0);
                two.send(one, 0);
            }
            sides.iter_mut().for_each(Side::look);
            prop_assert!(sides.iter().all(|side| side.credits.available() > 0));
        }
    }
}
