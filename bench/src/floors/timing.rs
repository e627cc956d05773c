//! How short operations are timed on a machine that others use as well.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Rounds of a measurement. The best one is the floor: others can only make a round slower.
const ROUNDS: usize = 31;

/// A round lasts about this long: many clock reads, and short enough to find a quiet moment.
const ROUND: Duration = Duration::from_millis(1);

/// Nanoseconds per call of `work`, whose result counts as used, in the best of several rounds.
pub fn best_ns<T>(mut work: impl FnMut() -> T) -> f64 {
    let calls = calibrate(&mut work);
    (0..ROUNDS).map(|_| round_ns(calls, &mut work)).fold(f64::INFINITY, f64::min)
}

/// How much more one thing takes than another.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Ratio {
    /// In the median round.
    pub median: f64,
    /// A quarter of the rounds are below.
    pub low: f64,
    /// A quarter of the rounds are above. Rounds beyond are those in which one of the two was
    /// interrupted.
    pub high: f64,
}

/// How many times `slow` takes what `fast` takes, from rounds of each in turn: what disturbs the
/// machine disturbs both.
pub fn ratio<S, F>(mut slow: impl FnMut() -> S, mut fast: impl FnMut() -> F) -> Ratio {
    let calls = (calibrate(&mut slow), calibrate(&mut fast));
    let mut ratios: Vec<_> = (0..ROUNDS)
        .map(|_| round_ns(calls.0, &mut slow) / round_ns(calls.1, &mut fast).max(1e-3))
        .collect();
    ratios.sort_by(f64::total_cmp);
    Ratio { median: ratios[ROUNDS / 2], low: ratios[ROUNDS / 4], high: ratios[ROUNDS * 3 / 4] }
}

/// Calls that fill a round. Also warms up.
fn calibrate<T>(work: &mut impl FnMut() -> T) -> u64 {
    let mut calls = 1;
    loop {
        let begin = Instant::now();
        for _ in 0..calls {
            black_box(work());
        }
        if begin.elapsed() * 2 >= ROUND || calls >= 1 << 24 {
            return calls;
        }
        calls *= 2;
    }
}

fn round_ns<T>(calls: u64, work: &mut impl FnMut() -> T) -> f64 {
    let begin = Instant::now();
    for _ in 0..calls {
        black_box(work());
    }
    begin.elapsed().as_nanos() as f64 / calls as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_lies_within_the_middle_half_of_its_rounds() {
        let work = |turns: u64| {
            let mut sum = black_box(1u64);
            for turn in 0..turns {
                sum = black_box(sum.wrapping_mul(31) ^ turn);
            }
        };
        assert!(best_ns(|| work(100)) > 0.0);
        let ratio = ratio(|| work(8000), || work(1000));
        assert!(ratio.low <= ratio.median && ratio.median <= ratio.high, "{ratio:?}");
        assert!(ratio.low > 0.0 && ratio.high.is_finite(), "{ratio:?}");
    }
}
