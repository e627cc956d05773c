//! When to dial again.
//!
//! Owns the wait between attempts. Always true: the wait is within the configured limits and two
//! peers that lost each other at once do not keep colliding. Must not: read a clock.

use std::time::Duration;

use crate::types::{Instant, PeerId};

/// Exponential back-off with jitter.
#[derive(Clone, Debug)]
pub(in crate::transport) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(in crate::transport) fn new(min: Duration, max: Duration, peer: PeerId, salt: u64) -> Self {
        let min = min.max(Duration::from_millis(1));
        let random = (u64::from(peer.0) << 32 ^ salt) | 1;
        Self { min, max: max.max(min), next: min, random }
    }

    /// The time of the next attempt: between half the wait and the whole of it from now. The wait
    /// after that is twice as long.
    pub(in crate::transport) fn next(&mut self, now: Instant) -> Instant {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        self.random ^= now.0;
        // xorshift64*: the low bits of the state are poor, the product's high bits are not.
        self.random = self.random.max(1);
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let share = (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 48) as u32;
        let half = wait / 2;
        now + half + half.mul_f64(f64::from(share) / 65536.0)
    }

    /// The peer was reached: the next wait is the shortest again.
    pub(in crate::transport) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_limits_and_start_anew() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max, PeerId(3), 42);
        let now = Instant(1_000);
        let mut nominal = min;
        for _ in 0..12 {
            let wait = backoff.next(now).since(now);
            assert!(wait >= nominal / 2 && wait <= nominal, "{wait:?} of {nominal:?}");
            nominal = (nominal * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.next(now).since(now) <= min);
    }

    #[test]
    fn peers_do_not_wait_alike() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(2));
        let first = |peer| Backoff::new(min, max, PeerId(peer), 7).next(Instant(9));
        assert_ne!(first(1), first(2));
    }
}
