//! The subcommands: their options, and how results are printed.

pub mod cluster;
pub mod compare;
pub mod durable;
pub mod layouts;
pub mod load;
pub mod ping;
pub mod report;
pub mod roofline;
pub mod timeline;
pub mod transfer;

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use tetrarch_bench::latency::{LatencySummary, humane_us};
use tetrarch_bench::load::OpenOptions;
use tetrarch_bench::load::arrivals::{Arrivals, Rate};
use tetrarch_bench::machine::Machine;

/// Options of the open loop.
#[derive(Args, Debug)]
pub struct OpenArgs {
    /// Open loop: offer requests by the clock, whatever comes back. Requests per second, or percent
    /// of a saturation that a closed loop measures first; several are run one after the other
    /// [default: closed loop]
    #[arg(long, value_delimiter = ',')]
    rate: Vec<Rate>,
    /// Pauses between the requests of the open loop
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Requests of the open loop that wait for a free session at most; further ones are refused
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    queue: u32,
    /// Count answers of the open loop as late after this long
    #[arg(long, default_value_t = 1000)]
    late_ms: u64,
    /// Seed of the pauses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of the closed loop that measures the saturation
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    saturation: f64,
}

impl OpenArgs {
    fn options(&self) -> OpenOptions {
        OpenOptions {
            arrivals: self.arrivals,
            seed: self.seed,
            queue: self.queue as usize,
            late: Duration::from_millis(self.late_ms),
            ..OpenOptions::default()
        }
    }

    fn saturation(&self) -> Duration {
        Duration::from_secs_f64(self.saturation)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=86_400.0).contains(&number) => Ok(number),
        _ => Err("give seconds, 0 to 86400".into()),
    }
}

fn payload(text: &str) -> Result<(usize, u32), String> {
    let sizes = text.split_once('/').and_then(|(request, reply)| {
        Some((request.parse::<usize>().ok()?, reply.parse::<u32>().ok()?))
    });
    sizes.ok_or_else(|| format!("'{text}' is not REQUEST/REPLY in bytes, as in 100/100"))
}

/// A result with what it takes to read it.
#[derive(Serialize)]
struct Line<'a, T> {
    /// Which command made it.
    kind: &'static str,
    #[serde(flatten)]
    result: &'a T,
    machine: &'a Machine,
}

fn print_json<T: Serialize>(kind: &'static str, machine: &Machine, result: &T) -> Result<()> {
    println!("{}", serde_json::to_string(&Line { kind, result, machine })?);
    Ok(())
}

fn latency_line(latency: &LatencySummary) -> String {
    format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, p99.99 {}, max {}",
        humane_us(latency.p50_us),
        humane_us(latency.p90_us),
        humane_us(latency.p99_us),
        humane_us(latency.p999_us),
        humane_us(latency.p9999_us),
        humane_us(latency.max_us),
    )
}
