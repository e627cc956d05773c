//! The one source of chance: a small generator whose sequence depends on its seed and on nothing else.
//!
//! Always true: equal seeds give equal sequences on every machine (integers only). Must not: be used
//! for anything secret.

use std::time::Duration;

/// SplitMix64: every 64-bit state is good, so a fork is just another state.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Mixes 64 bits so that every input bit moves every output bit.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x5851_f42d_4c95_7f2d))
    }

    /// Another sequence that depends on this one and on `label`. What one part of the simulation draws
    /// then does not shift what the others see.
    pub fn fork(&mut self, label: u64) -> Self {
        Self(mix(self.next() ^ mix(label)))
    }

    /// 64 bits.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// An index into something of `size` elements; 0 when it is empty.
    pub fn index(&mut self, size: usize) -> usize {
        self.below(size as u64) as usize
    }

    /// A number in `low ..= high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// A duration in `low ..= high`.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.range(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    /// A duration with about this mean and a long tail: whole halvings are drawn as leading zeros,
    /// the rest evenly, so that no floating point is needed.
    pub fn long_tailed(&mut self, mean: Duration) -> Duration {
        let halvings = u64::from(self.next().leading_zeros());
        let scale = mean.as_nanos() as u64 * 2 / 3;
        Duration::from_nanos(scale * halvings + self.below(scale.max(1)))
    }

    /// Moments of something that happens about once in `every` during `length`; none when `every` is
    /// zero.
    pub fn moments(&mut self, every: Duration, length: Duration) -> Vec<Duration> {
        let mut moments = Vec::new();
        if every.is_zero() {
            return moments;
        }
        let mut at = Duration::ZERO;
        loop {
            at += self.long_tailed(every) + Duration::from_nanos(1);
            if at >= length {
                return moments;
            }
            moments.push(at);
        }
    }

    /// A random order of `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }

    /// A random set of members among the first `n`, as a mask.
    pub fn mask(&mut self, n: usize) -> u64 {
        self.next() & ((1u64 << n) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences_and_forks_differ() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        assert_eq!((a.next(), a.next()), (b.next(), b.next()));
        assert_ne!(a.fork(1).next(), b.fork(2).next());
    }

    #[test]
    fn draws_stay_in_their_ranges() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            assert!((5..=6).contains(&rng.range(5, 6)));
            assert!(rng.mask(4) < 16);
        }
        assert!(!rng.chance(0) && rng.chance(1000));
    }
}
