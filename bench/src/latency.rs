//! Latencies of one run, in an HdrHistogram: microsecond figures with three digits up to a minute.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Records latencies; allocates only when made.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .expect("1 to a minute with three digits is a valid range");
        Self { histogram }
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    /// Adds another run's latencies.
    pub fn merge(&mut self, other: &Latencies) {
        // Equal bounds: cannot fail.
        let _ = self.histogram.add(&other.histogram);
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The figures of a report.
    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        LatencySummary {
            mean_us: self.histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: self.histogram.max() as f64 / 1000.0,
        }
    }

    /// Percentile and microseconds, along a curve. A percentile that would speak of less than one
    /// request is left out.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        // 99.999 for 100: the difference is not exact.
        let told = |percent: &f64| self.count() as f64 * (100.0 - percent) >= 99.999;
        let at = |percent: f64| (percent, self.histogram.value_at_percentile(percent) as f64 / 1e3);
        CURVE.into_iter().filter(told).map(at).collect()
    }
}

/// Percentiles of a curve: each next one looks at a smaller share of the slowest requests.
const CURVE: [f64; 15] = [
    0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.975, 99.99, 99.999,
];

/// Percentiles, microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct LatencySummary {
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// 99.99th percentile.
    pub p9999_us: f64,
    /// Longest.
    pub max_us: f64,
}

/// `1234.5` as `1.23 ms`, and so on: three digits, a unit that a reader thinks in.
pub fn humane_us(us: f64) -> String {
    match us {
        us if us >= 1_000_000.0 => format!("{:.2} s", us / 1_000_000.0),
        us if us >= 10_000.0 => format!("{:.1} ms", us / 1000.0),
        us if us >= 1000.0 => format!("{:.2} ms", us / 1000.0),
        us if us >= 100.0 => format!("{us:.0} us"),
        us => format!("{us:.1} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_back_within_three_digits() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let summary = latencies.summary();
        assert_eq!(latencies.count(), 1000);
        assert!((summary.p50_us - 500.0).abs() < 1.0, "{summary:?}");
        assert!((summary.p99_us - 990.0).abs() < 2.0, "{summary:?}");
        assert!((summary.max_us - 1000.0).abs() < 2.0, "{summary:?}");
        let curve = latencies.curve();
        assert_eq!(curve.last().map(|point| point.0), Some(99.9), "one of 1000 is above it");
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1), "{curve:?}");
        latencies.clear();
        assert_eq!((latencies.count(), latencies.curve()), (0, vec![]));
    }

    #[test]
    fn a_latency_beyond_the_range_is_kept_as_the_longest() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_secs(3600));
        assert!(latencies.summary().max_us >= 59_000_000.0);
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(humane_us(12.34), "12.3 us");
        assert_eq!(humane_us(345.6), "346 us");
        assert_eq!(humane_us(1234.5), "1.23 ms");
        assert_eq!(humane_us(2_500_000.0), "2.50 s");
    }
}
