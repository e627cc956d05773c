//! Where time comes from.
//!
//! Owns the one place of the crate that reads a clock. Always true: the time of one clock never
//! goes back, even when the machine's wall clock is set. Must not: be read more than once in a
//! turn of a core.

use crate::types::Instant;
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock {
    /// The time now.
    fn now(&self) -> Instant;
}

/// A fixed time is a clock: the simulator's, and that of one turn.
impl Clock for Instant {
    fn now(&self) -> Instant {
        *self
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Instant {
        (**self).now()
    }
}

/// Wall-clock time at its creation plus monotonic time since.
///
/// Clones agree with each other, so all cores of one process share one time line. It does not
/// follow later corrections of the wall clock; replicas use it for timeouts and as a proposed
/// batch time, which followers bound.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    wall_ns: u64,
    started: std::time::Instant,
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX / 2);
        Self { wall_ns, started: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(self.wall_ns) + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_never_goes_back_and_clones_share_it() {
        let clock = SystemClock::new();
        let clone = clock;
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clone.now();
            assert!(now >= last);
            last = clock.now();
            assert!(last >= now);
        }
        // After 2020-01-01: the machine has a wall clock at all.
        assert!(last.0 > 1_577_836_800_000_000_000);
    }

    #[test]
    fn a_fixed_time_is_a_clock() {
        let fixed = Instant(42);
        assert_eq!(fixed.now(), Instant(42));
        let by_reference: &dyn Clock = &fixed;
        assert_eq!(by_reference.now(), fixed);
    }
}
