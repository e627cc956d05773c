//! `tetrarch-bench durable`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tetrarch_bench::compare::Spread;
use tetrarch_bench::durable::{Cost, Plan, Round, round};
use tetrarch_bench::latency::humane_us;
use tetrarch_bench::local::{Shape, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::grouped;

use super::{payload, print_json, seconds};

/// Options of `durable`.
#[derive(Args, Debug)]
pub struct DurableArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// Replicas
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// Only crashes are tolerated
    #[arg(long)]
    crash: bool,
    /// Request/reply sizes
    #[arg(long, value_delimiter = ',', default_value = "1024/1024", value_parser = payload)]
    payloads: Vec<(usize, u32)>,
    /// Sessions, with one request in flight each
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    sessions: Vec<u32>,
    /// Instances of consensus that may run at the same time, 1 to 32
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=32))]
    depth: Vec<u16>,
    /// Decisions from one checkpoint to the next; a log that has had two uses its segments again
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// Rounds: each runs volatile replicas, durable ones, the disk alone, and volatile ones beside such writes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds to measure each
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to load before each: until a log is what it will be
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    warmup: f64,
    /// JSON lines instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &DurableArgs) -> Result<()> {
    let machine = Machine::read();
    let tetrarch = tetrarch_binary(args.tetrarch.as_deref())?;
    let shape = Shape { replicas: args.replicas, crash_only: args.crash };
    if !args.json {
        println!("{}", machine.line());
    }
    for payload in &args.payloads {
        for (sessions, depth) in pairs(&args.sessions, &args.depth) {
            let plan = Plan {
                shape,
                sessions,
                payload: *payload,
                depth,
                checkpoint_every: args.checkpoint_every,
                duration: Duration::from_secs_f64(args.duration),
                warm_up: Duration::from_secs_f64(args.warmup),
            };
            let mut rounds = Vec::new();
            for _ in 0..args.rounds {
                let round = round(&tetrarch, &plan)?;
                eprintln!("{}", line(&round));
                rounds.push(round);
            }
            let cost = Cost::of(&plan, rounds);
            if args.json {
                print_json("durable", &machine, &cost)?;
            } else {
                print(&cost);
            }
        }
    }
    Ok(())
}

fn pairs(sessions: &[u32], depths: &[u16]) -> Vec<(u32, u16)> {
    let each = |sessions: &u32| depths.iter().map(|depth| (*sessions, *depth)).collect::<Vec<_>>();
    sessions.iter().flat_map(each).collect()
}

fn line(round: &Round) -> String {
    format!(
        "volatile {} /s, durable {} /s, the disk alone {} /s, volatile beside such writes {} /s",
        grouped(round.volatile_per_s),
        grouped(round.durable_per_s),
        grouped(round.floor_per_s),
        grouped(round.beside_per_s)
    )
}

fn print(cost: &Cost) {
    let rate = |number: fn(&Round) -> f64| grouped(cost.median(number));
    let time = |number: fn(&Round) -> f64| humane_us(cost.median(number));
    println!("\n{}, {} rounds; medians", cost.load, cost.rounds.len());
    println!(
        "  volatile        {} /s, {}",
        rate(|round| round.volatile_per_s),
        time(|round| round.volatile_p50_us)
    );
    println!(
        "  durable         {} /s, {}",
        rate(|round| round.durable_per_s),
        time(|round| round.durable_p50_us)
    );
    println!(
        "  the disk alone  {} /s: groups of {:.0} KiB, {:.2} of each replica in an instance, {:.0} B a request",
        rate(|round| round.floor_per_s),
        cost.median(|round| round.group) / 1024.0,
        cost.median(|round| round.groups_per_instance),
        cost.median(|round| round.bytes_per_request)
    );
    println!(
        "  volatile beside such writes  {} /s: as many and as large as the logs', to the same disk",
        rate(|round| round.beside_per_s)
    );
    println!("  durable / volatile                  {}", percents(&cost.of_volatile));
    println!("  durable / the least of the others   {}", percents(&cost.of_reachable));
}

fn percents(spread: &Spread) -> String {
    let percent = |ratio: f64| format!("{:.0} %", 100.0 * ratio);
    let (median, least, most) = (spread.median, spread.least, spread.most);
    format!("{} ({} to {})", percent(median), percent(least), percent(most))
}
