//! `tetrarch-bench compare`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use tetrarch_bench::compare::{Compared, Load, Spread, Variant, compare, layouts};
use tetrarch_bench::latency::humane_us;
use tetrarch_bench::local::{Shape, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::grouped;

use super::{payload, print_json, seconds};

/// Options of `compare`.
#[derive(Args, Debug)]
pub struct CompareArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// Another `tetrarch`, of another commit, with its own `tetrarch-bench` beside it: the baseline
    #[arg(long)]
    against: Option<PathBuf>,
    /// Layouts of this binary; the first is the baseline
    #[arg(long, value_delimiter = ',', conflicts_with = "against")]
    layout: Vec<String>,
    /// Further arguments of `tetrarch init`: one variant for each, the first is the baseline
    #[arg(long, allow_hyphen_values = true, conflicts_with_all = ["against", "layout"])]
    init: Vec<String>,
    /// Replicas
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// Only crashes are tolerated
    #[arg(long)]
    crash: bool,
    /// Request/reply sizes
    #[arg(long, value_delimiter = ',', default_value = "0/0,1024/1024", value_parser = payload)]
    payloads: Vec<(usize, u32)>,
    /// Sessions
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    sessions: Vec<u32>,
    /// Requests in flight per session
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    outstanding: u32,
    /// Sign every request with Ed25519 [default: a MAC for each replica]
    #[arg(long)]
    signed: bool,
    /// Rounds: each runs every variant once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Seconds to measure each
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to load before each
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    warmup: f64,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &CompareArgs) -> Result<()> {
    let machine = Machine::read();
    let variants = variants(args)?;
    let shape = Shape { replicas: args.replicas, crash_only: args.crash };
    if !args.json {
        println!("{}", machine.line());
    }
    for payload in &args.payloads {
        for sessions in &args.sessions {
            let load = Load {
                sessions: *sessions,
                outstanding: args.outstanding,
                payload: *payload,
                signed: args.signed,
                duration: Duration::from_secs_f64(args.duration),
                warm_up: Duration::from_secs_f64(args.warmup),
            };
            let rounds = usize::from(args.rounds);
            let compared = compare(&variants, shape, &load, rounds, &mut |variant, sample| {
                let (rate, median) = (grouped(sample.throughput), humane_us(sample.p50_us));
                eprintln!("{}: {rate} /s, median {median}", variant.name);
            })?;
            if args.json {
                compared.iter().try_for_each(|one| print_json("compare", &machine, one))?;
            } else {
                print(&compared);
            }
        }
    }
    Ok(())
}

fn variants(args: &CompareArgs) -> Result<Vec<Variant>> {
    let own = tetrarch_binary(args.tetrarch.as_deref())?;
    let plain =
        |name: &str, tetrarch: PathBuf| Variant { name: name.into(), tetrarch, init: Vec::new() };
    if let Some(other) = &args.against {
        let other = tetrarch_binary(Some(other))?;
        return Ok(vec![plain("the other", other), plain("this", own)]);
    }
    let variants = if args.layout.is_empty() {
        let with = |text: &String| Variant {
            name: text.clone(),
            tetrarch: own.clone(),
            init: text.split_whitespace().map(str::to_string).collect(),
        };
        args.init.iter().map(with).collect()
    } else {
        layouts(&own, &args.layout)
    };
    if variants.len() < 2 {
        bail!("nothing to compare: give --against BINARY, or two of --layout, or --init twice");
    }
    Ok(variants)
}

fn print(compared: &[Compared]) {
    let Some(first) = compared.first() else { return };
    println!(
        "\n{}, {} rounds; ratios to \"{}\" in the same round: median (extremes)",
        first.load,
        first.samples.len(),
        first.baseline
    );
    for one in compared {
        let rate = Spread::of(one.samples.iter().map(|sample| sample.throughput)).median;
        let median = Spread::of(one.samples.iter().map(|sample| sample.p50_us)).median;
        let thread = Spread::of(one.samples.iter().map(|sample| sample.busiest_thread_us)).median;
        println!("  {}: {} /s, median {}", one.variant, grouped(rate), humane_us(median));
        println!("    throughput                     {}", times(&one.throughput_ratio));
        println!("    median latency                 {}", times(&one.p50_ratio));
        println!("    replicas' time per request     {}", times(&one.replicas_ratio));
        println!(
            "    a processor for each thread    {}: busiest {} per request, so {} /s",
            times(&one.capacity_ratio),
            humane_us(thread),
            grouped(1e6 / thread.max(1e-9)),
        );
    }
}

fn times(spread: &Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}
