//! Who was told something, so that nobody is told again and again.
//!
//! Owns a table of fixed size. Always true: whoever was told a moment ago is not told again, unless another
//! one took the place meanwhile; looking costs a multiplication. Must not: know what was told.

use std::time::Duration;

use tetrarch_dataplane::types::Instant;

/// Names remembered, a power of two. When two share a place, both are told more often.
const PLACES: usize = 1024;

/// Spreads names over those places (Fibonacci hashing).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// See the module.
pub struct Told {
    /// Who, and when: one in each place.
    places: Box<[(u64, Instant)]>,
    pause: Duration,
}

impl Told {
    /// Nobody yet. Each is told once in `pause`.
    pub fn new(pause: Duration) -> Self {
        Self { places: vec![(0, Instant(0)); PLACES].into_boxed_slice(), pause }
    }

    /// Is `name` to be told now? It counts as told then.
    pub fn is_due(&mut self, now: Instant, name: u64) -> bool {
        let place = (name.wrapping_mul(SPREAD) >> 32) as usize & (PLACES - 1);
        let (last, when) = &mut self.places[place];
        if *last == name && now < *when + self.pause {
            return false;
        }
        (*last, *when) = (name, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_in_a_while() {
        let pause = Duration::from_millis(30);
        let mut told = Told::new(pause);
        let now = Instant(1 << 40);
        assert!(told.is_due(now, 7) && told.is_due(now, 8));
        assert!(!told.is_due(now, 7) && !told.is_due(now + pause / 2, 8));
        assert!(told.is_due(now + pause, 7));
        // Whatever the names, memory is what it was, and none is forgotten to be told.
        assert!((100..5000).all(|name| told.is_due(now + pause, name)));
    }
}
