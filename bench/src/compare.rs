//! Variants of a cluster beside each other: interleaved rounds of one load in one go.
//!
//! Always true: each round starts fresh processes of every variant in turn, so what disturbs the
//! machine disturbs all; each variant is loaded by the `tetrarch-bench` beside its `tetrarch`, so that
//! two commits may differ in what they say on the wire.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::local::{LocalCluster, Shape};
use crate::threads::ThreadTimes;

/// One way to run a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// For people.
    pub name: String,
    /// Its `tetrarch`; beside it is the `tetrarch-bench` that loads it.
    pub tetrarch: PathBuf,
    /// Further arguments of `tetrarch init`.
    pub init: Vec<String>,
}

/// The load that all variants get.
#[derive(Clone, PartialEq, Debug)]
pub struct Load {
    /// Sessions.
    pub sessions: u32,
    /// Requests in flight per session.
    pub outstanding: u32,
    /// Bytes of request and reply.
    pub payload: (usize, u32),
    /// Are all requests signed?
    pub signed: bool,
    /// How long to measure.
    pub duration: Duration,
    /// How long to load before.
    pub warm_up: Duration,
}

/// What came of one variant in one round.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Sample {
    /// Requests per second.
    pub throughput: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Processor time of the replicas per request, microseconds, all together.
    pub replicas_us: f64,
    /// Processor time per request of the busiest thread of any replica, microseconds. With a
    /// processor for each thread, and clients elsewhere, this is what bounds the throughput.
    pub busiest_thread_us: f64,
}

/// A figure of a variant over all rounds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// In the median round.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these values; all zero of none.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        match (all.first(), all.last()) {
            (Some(least), Some(most)) => {
                Self { median: all[all.len() / 2], least: *least, most: *most }
            }
            _ => Self::default(),
        }
    }
}

/// All rounds of one variant.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Compared {
    /// Fault model, payload, sessions.
    pub load: String,
    /// Which variant.
    pub variant: String,
    /// Of which the ratios are.
    pub baseline: String,
    /// Round by round.
    pub samples: Vec<Sample>,
    /// Throughput in times of the first variant's in the same round.
    pub throughput_ratio: Spread,
    /// Median latency in times of the first variant's.
    pub p50_ratio: Spread,
    /// Processor time of the replicas per request in times of the first variant's.
    pub replicas_ratio: Spread,
    /// What one processor for each thread would allow, in times of the first variant: its busiest
    /// thread's time per request over this one's.
    pub capacity_ratio: Spread,
}

/// Runs all rounds; `tell` hears of each sample.
///
/// # Errors
/// A variant that cannot be run, with its words.
pub fn compare(
    variants: &[Variant],
    shape: Shape,
    load: &Load,
    rounds: usize,
    tell: &mut dyn FnMut(&Variant, &Sample),
) -> Result<Vec<Compared>> {
    let mut samples = vec![Vec::with_capacity(rounds); variants.len()];
    for _ in 0..rounds {
        for (variant, samples) in variants.iter().zip(&mut samples) {
            let sample = measure(variant, shape, load).with_context(|| variant.name.clone())?;
            tell(variant, &sample);
            samples.push(sample);
        }
    }
    Ok(summarise(variants, shape, load, &samples))
}

fn summarise(
    variants: &[Variant],
    shape: Shape,
    load: &Load,
    samples: &[Vec<Sample>],
) -> Vec<Compared> {
    let (request, reply) = load.payload;
    let signed = if load.signed { ", signed" } else { "" };
    let name = format!(
        "{} {request}/{reply}{signed}, {} sessions x {}",
        shape.name(),
        load.sessions,
        load.outstanding
    );
    let compared = variants.iter().zip(samples).map(|(variant, own)| {
        let ratio = |pick: fn(&Sample) -> f64| {
            let pairs = own.iter().zip(&samples[0]);
            Spread::of(pairs.map(|(own, first)| pick(own) / pick(first)))
        };
        Compared {
            load: name.clone(),
            variant: variant.name.clone(),
            baseline: variants[0].name.clone(),
            samples: own.clone(),
            throughput_ratio: ratio(|sample| sample.throughput),
            p50_ratio: ratio(|sample| sample.p50_us),
            replicas_ratio: ratio(|sample| sample.replicas_us),
            capacity_ratio: ratio(|sample| 1.0 / sample.busiest_thread_us),
        }
    });
    compared.collect()
}

fn measure(variant: &Variant, shape: Shape, load: &Load) -> Result<Sample> {
    let cluster = LocalCluster::start_with(&variant.tetrarch, shape, &variant.init)?;
    let bench = variant.tetrarch.with_file_name("tetrarch-bench");
    let mut command = Command::new(&bench);
    let pids: Vec<_> = cluster.pids().iter().map(u32::to_string).collect();
    command
        .arg("load")
        .arg(cluster.path())
        .args(["--sessions", &load.sessions.to_string()])
        .args(["--outstanding", &load.outstanding.to_string()])
        .args(["--request-size", &load.payload.0.to_string()])
        .args(["--reply-size", &load.payload.1.to_string()])
        .args(["--duration", &load.duration.as_secs_f64().to_string()])
        .args(["--warmup", &load.warm_up.as_secs_f64().to_string()])
        .args(["--pids", &pids.join(",")])
        .arg("--json");
    if load.signed {
        command.arg("--signed");
    }
    // Threads are looked at in the middle of the load, from outside: older benches do not.
    let threads = watch_threads(&cluster.pids(), load);
    let output = command.output().with_context(|| format!("{} cannot be run", bench.display()))?;
    let busiest = threads.join().unwrap_or(0.0);
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&String::from_utf8_lossy(&output.stdout), busiest)
        .with_context(|| format!("{}: not what `load --json` prints", bench.display()))
}

/// Processor seconds per second of the busiest thread, over the middle half of the measured time.
fn watch_threads(pids: &[u32], load: &Load) -> thread::JoinHandle<f64> {
    let pids = pids.to_vec();
    let (before, during) = (load.warm_up + load.duration / 4, load.duration / 2);
    thread::spawn(move || {
        // Connecting and a fresh incarnation come first.
        thread::sleep(before + Duration::from_millis(500));
        let start = ThreadTimes::of(&pids);
        thread::sleep(during);
        start.busiest_since()
    })
}

fn parse(text: &str, busiest: f64) -> Option<Sample> {
    let value: Value = serde_json::from_str(text.lines().last()?).ok()?;
    let throughput = value.get("throughput")?.as_f64()?;
    let latency = |name: &str| value.get("latency")?.get(name)?.as_f64();
    // Earlier commits print one number for a replica, later ones user and system apart.
    let cpu = value.get("replica_cpu")?.as_array()?.iter().map(|cpu| match cpu.as_f64() {
        Some(total) => total,
        None => ["user", "system"].iter().filter_map(|part| cpu.get(part)?.as_f64()).sum(),
    });
    let per_request = |seconds: f64| seconds / throughput.max(1e-9) * 1e6;
    Some(Sample {
        throughput,
        p50_us: latency("p50_us")?,
        p99_us: latency("p99_us")?,
        replicas_us: per_request(cpu.sum()),
        busiest_thread_us: per_request(busiest),
    })
}

/// Layouts of the same binary.
pub fn layouts(tetrarch: &Path, names: &[String]) -> Vec<Variant> {
    let variant = |name: &String| Variant {
        name: name.clone(),
        tetrarch: tetrarch.to_path_buf(),
        init: vec!["--layout".into(), name.clone()],
    };
    names.iter().map(variant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(name: &str) -> Variant {
        Variant { name: name.into(), tetrarch: "tetrarch".into(), init: Vec::new() }
    }

    #[test]
    fn both_forms_of_processor_time_are_read() {
        let old = "{\"throughput\":1000,\"latency\":{\"p50_us\":5,\"p99_us\":9},\
                   \"replica_cpu\":[0.25,0.5]}";
        let new = "{\"throughput\":1000,\"latency\":{\"p50_us\":5,\"p99_us\":9},\
                   \"replica_cpu\":[{\"user\":0.5,\"system\":0.25}]}";
        for text in [old, new] {
            let sample = parse(text, 0.4).expect("a result");
            assert_eq!((sample.replicas_us, sample.busiest_thread_us), (750.0, 400.0));
        }
        assert_eq!(parse("no result", 0.0), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let sample = |throughput, busiest_thread_us| Sample {
            throughput,
            p50_us: 100.0,
            p99_us: 200.0,
            replicas_us: 10.0,
            busiest_thread_us,
        };
        let first = vec![sample(100.0, 20.0), sample(50.0, 20.0), sample(10.0, 20.0)];
        let second = vec![sample(200.0, 10.0), sample(100.0, 8.0), sample(40.0, 10.0)];
        let load = Load {
            sessions: 10,
            outstanding: 1,
            payload: (0, 0),
            signed: true,
            duration: Duration::from_secs(1),
            warm_up: Duration::ZERO,
        };
        let shape = Shape { replicas: 4, crash_only: false };
        let both = [variant("one"), variant("two")];
        let compared = summarise(&both, shape, &load, &[first, second]);
        assert!(compared[1].load.contains("signed") && compared[1].baseline == "one");
        let spread = Spread { median: 2.0, least: 2.0, most: 4.0 };
        assert_eq!(compared[1].throughput_ratio, spread);
        assert_eq!(compared[1].capacity_ratio.median, 2.0);
        assert_eq!(compared[0].throughput_ratio.most, 1.0);
    }
}
