//! What keeping a log costs: the same load without and with one, and two floors, in interleaved rounds.
//!
//! Always true: each round starts fresh processes, first volatile ones, then durable ones. The floors are made of what these
//! wrote: as many writers as there were replicas write groups of that size to the same disk, once as fast as they can and
//! nothing else, and once as often as was written, beside volatile replicas under the same load. The second tells what the
//! writes alone take from the processors, by the system and by a machine below it that carries them out. What disturbs the
//! machine disturbs all four.
//!
//! A new log fills its segments with zeros first, so it writes everything twice until checkpoints give segments back. What lasts
//! is what comes after, so replicas are loaded until then: checkpoints are close together, of volatile replicas, too.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::compare::Spread;
use crate::floors::disk;
use crate::load::{self, LoadOptions};
use crate::local::{LocalCluster, Shape};
use crate::scrape::Numbers;

/// What is run in each round.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Replicas and what they tolerate.
    pub shape: Shape,
    /// Sessions with one request in flight each.
    pub sessions: u32,
    /// Bytes of requests and of replies.
    pub payload: (usize, u32),
    /// Instances that may be open.
    pub depth: u16,
    /// Decisions from one checkpoint to the next: behind the second one a log uses its segments again.
    pub checkpoint_every: u64,
    /// How long to measure each of the three.
    pub duration: Duration,
    /// How long to load before.
    pub warm_up: Duration,
}

/// One round.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Round {
    /// Requests per second without logs.
    pub volatile_per_s: f64,
    /// The same with logs.
    pub durable_per_s: f64,
    /// The same if nothing were done but to write the groups that were written.
    pub floor_per_s: f64,
    /// The same without logs while others write what the logs would.
    pub beside_per_s: f64,
    /// Median latency without logs, microseconds.
    pub volatile_p50_us: f64,
    /// The same with logs.
    pub durable_p50_us: f64,
    /// Bytes of a group in the mean.
    pub group: f64,
    /// Groups of one replica in an instance.
    pub groups_per_instance: f64,
    /// Bytes of all logs for a request.
    pub bytes_per_request: f64,
}

impl Round {
    /// Durable in times of volatile.
    pub fn of_volatile(&self) -> f64 {
        self.durable_per_s / self.volatile_per_s.max(1e-9)
    }

    /// Durable in times of what could be reached: volatile, the disk's floor, or volatile beside such writes,
    /// whichever is least.
    pub fn of_reachable(&self) -> f64 {
        let most = self.volatile_per_s.min(self.floor_per_s).min(self.beside_per_s);
        self.durable_per_s / most.max(1e-9)
    }
}

/// All rounds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// Fault model, payload, sessions.
    pub load: String,
    /// Round by round.
    pub rounds: Vec<Round>,
    /// Durable in times of volatile, in the same round.
    pub of_volatile: Spread,
    /// Durable in times of volatile or of a floor, whichever is least.
    pub of_reachable: Spread,
}

impl Cost {
    /// Of these rounds.
    pub fn of(plan: &Plan, rounds: Vec<Round>) -> Self {
        let (request, reply) = plan.payload;
        let load = format!(
            "{} {request}/{reply}, {} sessions, depth {}",
            plan.shape.name(),
            plan.sessions,
            plan.depth
        );
        let of_volatile = Spread::of(rounds.iter().map(Round::of_volatile));
        let of_reachable = Spread::of(rounds.iter().map(Round::of_reachable));
        Self { load, rounds, of_volatile, of_reachable }
    }

    /// Of all rounds one number, in the median.
    pub fn median(&self, number: impl Fn(&Round) -> f64) -> f64 {
        Spread::of(self.rounds.iter().map(number)).median
    }
}

/// Runs one round.
///
/// # Errors
/// What keeps it from measuring.
pub fn round(tetrarch: &Path, plan: &Plan) -> Result<Round> {
    let (volatile, _) = measure(tetrarch, plan, false)?;
    let (durable, numbers) = measure(tetrarch, plan, true)?;
    let sum = |name: &str| numbers.iter().map(|numbers| numbers.get(name)).sum::<f64>();
    let most = |name: &str| numbers.iter().map(|numbers| numbers.get(name)).fold(1.0, f64::max);
    let writers = usize::from(plan.shape.replicas);
    let group = sum("log_bytes") / sum("log_groups").max(1.0);
    let bytes_per_request = sum("log_bytes") / most("requests_executed");
    let place = std::env::temp_dir();
    let floor = disk::one(&place, writers, group as usize, plan.duration)?;
    let per_request = sum("log_groups") / writers as f64 / most("requests_executed");
    let pace = per_request * durable.throughput;
    let paced = disk::Paced::start(&place, writers, group as usize, pace)?;
    let (beside, _) = measure(tetrarch, plan, false)?;
    paced.stop()?;
    Ok(Round {
        volatile_per_s: volatile.throughput,
        durable_per_s: durable.throughput,
        floor_per_s: floor.bytes_per_s / bytes_per_request.max(1e-9),
        beside_per_s: beside.throughput,
        volatile_p50_us: volatile.latency.p50_us,
        durable_p50_us: durable.latency.p50_us,
        group,
        groups_per_instance: sum("log_groups") / writers as f64 / most("decided"),
        bytes_per_request,
    })
}

fn measure(
    tetrarch: &Path,
    plan: &Plan,
    durable: bool,
) -> Result<(load::LoadResult, Vec<Numbers>)> {
    let mut init = vec!["--depth".to_owned(), plan.depth.to_string()];
    init.extend(["--checkpoint-every".to_owned(), plan.checkpoint_every.to_string()]);
    init.extend(durable.then(|| "--durable".to_owned()));
    let cluster = LocalCluster::start_with(tetrarch, plan.shape, &init)?;
    let (request_size, reply_size) = plan.payload;
    let options = LoadOptions {
        sessions: plan.sessions,
        request_size,
        reply_size,
        duration: plan.duration,
        warm_up: plan.warm_up,
        pids: cluster.pids(),
        ..LoadOptions::new(cluster.path())
    };
    let result = load::run(&options, &mut |_| {})?;
    let numbers = cluster.metrics().into_iter().map(Numbers::read).collect::<Result<_>>()?;
    Ok((result, numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_round_and_to_what_can_be_reached() {
        let round = |volatile_per_s, durable_per_s, floor_per_s| Round {
            volatile_per_s,
            durable_per_s,
            floor_per_s,
            beside_per_s: 90.0,
            ..Round::default()
        };
        let plan = Plan {
            shape: Shape { replicas: 4, crash_only: false },
            sessions: 10,
            payload: (1024, 1024),
            depth: 1,
            checkpoint_every: 256,
            duration: Duration::ZERO,
            warm_up: Duration::ZERO,
        };
        let rounds =
            vec![round(100.0, 60.0, 200.0), round(50.0, 40.0, 45.0), round(80.0, 40.0, 40.0)];
        let cost = Cost::of(&plan, rounds);
        assert_eq!(cost.of_volatile, Spread { median: 0.6, least: 0.5, most: 0.8 });
        let Spread { median, least, most } = cost.of_reachable;
        assert!((least - 60.0 / 90.0).abs() < 1e-9 && most == 1.0);
        assert!((median - 40.0 / 45.0).abs() < 1e-9);
        assert_eq!(cost.median(|round| round.volatile_per_s), 80.0);
        assert_eq!(cost.load, "byzantine n=4 1024/1024, 10 sessions, depth 1");
    }
}
