//! When requests should start: the schedule of the open loop, and the queue before the sessions.
//!
//! Always true: a request's place in the schedule does not depend on what came back; what waits is
//! bounded, and what did not fit is counted. Must not: read a clock.

use std::collections::VecDeque;
use std::str::FromStr;

use serde::Serialize;
use tetrarch_dataplane::types::Instant;

/// Pauses between requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Exponential: many independent users, with the bursts that they make.
    #[default]
    Poisson,
    /// All equal.
    Fixed,
}

/// How many requests are offered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rate {
    /// Requests per second.
    PerSecond(f64),
    /// Of the throughput that a closed loop reached just before.
    Percent(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no rate: give requests per second (0.1 to 1e8) or, as 90%, percent"
            )
        };
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        match percent {
            true if (0.1..=10_000.0).contains(&number) => Ok(Self::Percent(number)),
            false if (0.1..=1e8).contains(&number) => Ok(Self::PerSecond(number)),
            _ => Err(wrong()),
        }
    }
}

/// A sequence of intended starts.
#[derive(Clone, Debug)]
struct Schedule {
    begin: Instant,
    /// Of the next request, ns since `begin`. A sum of fractions, so that no rate drifts.
    next_ns: f64,
    pause_ns: f64,
    arrivals: Arrivals,
    /// State of the generator of pauses.
    state: u64,
}

impl Schedule {
    fn next(&self) -> Instant {
        Instant(self.begin.0 + self.next_ns as u64)
    }

    fn advance(&mut self) {
        self.next_ns += match self.arrivals {
            Arrivals::Fixed => self.pause_ns,
            Arrivals::Poisson => -(1.0 - self.uniform()).ln() * self.pause_ns,
        };
    }

    /// From 0 up to 1, without it. SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
    /// Number Generators, 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What became of arrivals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArrivalCounts {
    /// Requests whose time came.
    pub offered: u64,
    /// Of these, those that found no free session at once.
    pub waited: u64,
    /// Of these, those that found the queue full and were never sent.
    pub refused: u64,
}

/// Requests whose time has come and that have no session yet, oldest first.
#[derive(Debug)]
pub struct Backlog {
    schedule: Schedule,
    queue: VecDeque<Instant>,
    limit: usize,
    /// Put into the queue at the last [`Backlog::admit`].
    admitted: usize,
    counts: ArrivalCounts,
}

impl Backlog {
    /// Requests from `begin` on, `rate` a second; at most `limit` of them wait.
    pub fn new(begin: Instant, rate: f64, arrivals: Arrivals, seed: u64, limit: usize) -> Self {
        let mut schedule =
            Schedule { begin, next_ns: 0.0, pause_ns: 1e9 / rate, arrivals, state: seed };
        schedule.advance();
        let queue = VecDeque::with_capacity(limit);
        Self { schedule, queue, limit, admitted: 0, counts: ArrivalCounts::default() }
    }

    /// Queues what should have started by `now`.
    pub fn admit(&mut self, now: Instant) {
        self.admitted = 0;
        while self.schedule.next() <= now {
            self.counts.offered += 1;
            if self.queue.len() < self.limit {
                self.queue.push_back(self.schedule.next());
                self.admitted += 1;
            } else {
                self.counts.refused += 1;
            }
            self.schedule.advance();
        }
    }

    /// The oldest one's intended start.
    pub fn front(&self) -> Option<Instant> {
        self.queue.front().copied()
    }

    /// Removes the oldest one: it was sent.
    pub fn sent(&mut self) {
        self.queue.pop_front();
    }

    /// After as many were sent as could be: those of the last admission that are left wait.
    pub fn note_waiting(&mut self) {
        self.counts.waited += self.admitted.min(self.queue.len()) as u64;
        self.admitted = 0;
    }

    /// When the next request should start.
    pub fn next_due(&self) -> Instant {
        self.schedule.next()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Counts so far.
    pub fn counts(&self) -> ArrivalCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rates_are_read_with_their_unit() {
        assert_eq!("5000".parse(), Ok(Rate::PerSecond(5000.0)));
        assert_eq!("200%".parse(), Ok(Rate::Percent(200.0)));
        for wrong in ["", "%", "0", "-5", "nan", "1e9", "99999%", "5/s"] {
            let error = wrong.parse::<Rate>().expect_err(wrong);
            assert!(error.contains("percent"), "{error}");
        }
    }

    #[test]
    fn fixed_arrivals_do_not_drift() {
        let mut backlog = Backlog::new(Instant(7), 3.0, Arrivals::Fixed, 1, 1 << 20);
        backlog.admit(Instant(7 + 1000 * SECOND));
        assert!((2999..=3000).contains(&backlog.counts().offered), "{:?}", backlog.counts());
        assert_eq!(backlog.front(), Some(Instant(7 + SECOND / 3)));
    }

    #[test]
    fn poisson_arrivals_have_the_mean_and_the_spread_of_their_kind() {
        let mut backlog = Backlog::new(Instant(0), 1000.0, Arrivals::Poisson, 42, 1 << 20);
        backlog.admit(Instant(100 * SECOND));
        let starts: Vec<_> = backlog.queue.iter().map(|at| at.0 as f64).collect();
        // Within five standard deviations.
        assert!((98_400..101_600).contains(&starts.len()), "{}", starts.len());
        let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        let square = pauses.iter().map(|pause| (pause - mean).powi(2)).sum::<f64>();
        let deviation = (square / pauses.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "{deviation} of {mean}");
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_counted() {
        let mut backlog = Backlog::new(Instant(0), 1000.0, Arrivals::Fixed, 1, 100);
        backlog.admit(Instant(SECOND / 20));
        assert_eq!((backlog.len(), backlog.counts().refused), (50, 0));
        for _ in 0..20 {
            backlog.sent();
        }
        backlog.note_waiting();
        assert_eq!(backlog.counts().waited, 30);
        backlog.admit(Instant(SECOND / 2));
        backlog.note_waiting();
        let counts = backlog.counts();
        assert_eq!(backlog.len(), 100);
        assert_eq!(counts.offered, 500);
        assert_eq!(counts.refused, 500 - 50 - 70);
        assert_eq!(counts.waited, 30 + 70);
    }
}
