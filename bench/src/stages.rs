//! Where the time of a request goes: what a replica sampled during a load, and what is left of the
//! client's mean.

use crate::load::{LoadResult, StageTime};
use crate::scrape::Numbers;

/// Parts in a replica, and the counters of its samples.
const PARTS: [(&str, &str); 3] = [
    ("waiting for a proposal", "trace_waiting_ns"),
    ("agreement and execution", "trace_agreement_ns"),
    ("reply to the kernel", "trace_reply_ns"),
];

/// The parts of a request's time in the replica whose numbers these are, from before and after the
/// load. Nothing without samples.
pub fn stages(before: &Numbers, after: &Numbers, result: &LoadResult) -> Vec<StageTime> {
    let samples = after.since(before, "trace_samples");
    if samples <= 0.0 {
        return Vec::new();
    }
    let mean_us = |counter: &str| after.since(before, counter) / samples / 1e3;
    let mut stages: Vec<_> =
        PARTS.map(|(name, counter)| StageTime { name, mean_us: mean_us(counter) }).into();
    let told: f64 = stages.iter().map(|stage| stage.mean_us).sum();
    let rest = (result.latency.mean_us - told).max(0.0);
    stages.push(StageTime { name: "network, ingress and client", mean_us: rest });
    stages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::LatencySummary;
    use tetrarch_appliance::metrics::Metrics;

    #[test]
    fn the_rest_of_the_mean_is_the_network_and_the_client() {
        let metrics = Metrics::new();
        let before = Numbers::parse(&metrics.prometheus(0));
        metrics.trace_samples.set(4);
        metrics.trace_waiting_ns.set(4 * 300_000);
        metrics.trace_agreement_ns.set(4 * 200_000);
        metrics.trace_reply_ns.set(4 * 50_000);
        let after = Numbers::parse(&metrics.prometheus(0));
        let latency = LatencySummary { mean_us: 700.0, ..LatencySummary::default() };
        let result = LoadResult { latency, ..LoadResult::default() };
        let found = stages(&before, &after, &result);
        let times: Vec<_> = found.iter().map(|stage| stage.mean_us).collect();
        assert_eq!(times, [300.0, 200.0, 50.0, 150.0]);
        assert!(stages(&before, &before, &result).is_empty(), "no samples");
    }
}
