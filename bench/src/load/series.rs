//! What happened in each second of a run.

use serde::Serialize;
use tetrarch_dataplane::types::Instant;

use super::arrivals::ArrivalCounts;
use crate::latency::Latencies;
use crate::memory::Memory;

const SECOND_NS: u64 = 1_000_000_000;

/// Seconds for which room is made at the start.
const SECONDS_AHEAD: usize = 4096;

/// One second of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Second {
    /// End of the second, seconds since measuring began.
    pub at: f64,
    /// Requests whose time came. In the closed loop, those answered.
    pub offered: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that found the generator's queue full.
    pub refused: u64,
    /// Median latency of those answered, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Longest, microseconds.
    pub max_us: f64,
    /// Requests that wait for a session at the end.
    pub waiting: usize,
    /// Requests sent and not answered at the end.
    pub in_flight: usize,
    /// Resident memory of all replicas at the end, MiB; 0 when their processes were not named.
    pub replica_rss_mib: f64,
}

/// What the load knows at the end of a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Answers so far.
    pub answered: u64,
    /// Arrivals so far; none in the closed loop.
    pub arrivals: Option<ArrivalCounts>,
    /// Waiting for a session.
    pub waiting: usize,
    /// Sent and not answered.
    pub in_flight: usize,
}

/// Collects seconds.
pub struct Series {
    begin: Instant,
    next: Instant,
    last: Standing,
    latencies: Latencies,
    memory: Memory,
    seconds: Vec<Second>,
}

impl Series {
    /// Seconds from `begin` on, of a cluster whose replicas are the processes that `memory` watches.
    pub fn new(begin: Instant, last: Standing, memory: Memory) -> Self {
        Self {
            begin,
            next: Instant(begin.0 + SECOND_NS),
            last,
            latencies: Latencies::default(),
            memory,
            seconds: Vec::with_capacity(SECONDS_AHEAD),
        }
    }

    /// Adds the latency of an answer.
    pub fn record(&mut self, latency: std::time::Duration) {
        self.latencies.record(latency);
    }

    /// Is the second over?
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Closes the second that ended by `now`.
    pub fn close(&mut self, now: Instant, standing: Standing) {
        let answered = standing.answered - self.last.answered;
        let count = |pick: fn(&ArrivalCounts) -> u64| {
            let of = |standing: &Standing| standing.arrivals.as_ref().map(pick);
            of(&standing).map(|count| count - of(&self.last).unwrap_or(0))
        };
        let latency = self.latencies.summary();
        self.seconds.push(Second {
            at: now.since(self.begin).as_secs_f64(),
            offered: count(|counts| counts.offered).unwrap_or(answered),
            answered,
            refused: count(|counts| counts.refused).unwrap_or(0),
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            max_us: latency.max_us,
            waiting: standing.waiting,
            in_flight: standing.in_flight,
            replica_rss_mib: self.memory.now().iter().sum(),
        });
        self.latencies.clear();
        self.last = standing;
        while self.next <= now {
            self.next = Instant(self.next.0 + SECOND_NS);
        }
    }

    /// All seconds.
    pub fn into_seconds(self) -> Vec<Second> {
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_second_counts_its_own() {
        let arrivals = |offered| Some(ArrivalCounts { offered, waited: 0, refused: offered / 10 });
        let start = Standing { answered: 100, arrivals: arrivals(50), ..Standing::default() };
        let mut series = Series::new(Instant(0), start, Memory::of(&[]));
        assert!(!series.is_due(Instant(SECOND_NS - 1)));
        series.record(Duration::from_millis(2));
        let first =
            Standing { answered: 140, arrivals: arrivals(100), waiting: 3, ..Standing::default() };
        series.close(Instant(SECOND_NS), first);
        let second = Standing { answered: 150, arrivals: arrivals(200), ..first };
        // A stall of the generator: one long second, not two wrong ones.
        series.close(Instant(2 * SECOND_NS + 5), second);
        assert!(!series.is_due(Instant(2 * SECOND_NS + 6)));
        let seconds = series.into_seconds();
        assert_eq!((seconds[0].offered, seconds[0].answered, seconds[0].refused), (50, 40, 5));
        assert!((seconds[0].p50_us - 2000.0).abs() < 5.0, "{seconds:?}");
        assert_eq!((seconds[1].offered, seconds[1].answered, seconds[1].refused), (100, 10, 10));
        assert_eq!(seconds[1].max_us, 0.0, "nothing was answered in it");
    }
}
