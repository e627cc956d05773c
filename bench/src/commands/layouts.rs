//! `tetrarch-bench layouts`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use tetrarch_bench::latency::humane_us;
use tetrarch_bench::layouts::{self, LayoutsOptions};
use tetrarch_bench::machine::Machine;
use tetrarch_dataplane::stage::IdlePolicy;

use super::print_json;

/// What idle cores do.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Idle {
    Park,
    Adaptive,
    Spin,
}

/// Options of `layouts`.
#[derive(Args, Debug)]
pub struct LayoutsArgs {
    /// Cores of the replica: 1 is fused, more are spread
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = cores)]
    cores: Vec<usize>,
    /// Requests in flight
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    sessions: u32,
    /// Requests of each session in each round
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    requests: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests one after the other, for the latency without load
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    unloaded: u32,
    /// What idle cores of the replica do
    #[arg(long, value_enum, default_value_t = Idle::Park)]
    idle: Idle,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

fn cores(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if (1..=16).contains(&number) => Ok(number),
        _ => Err("give numbers of cores, 1 to 16".into()),
    }
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &LayoutsArgs) -> Result<()> {
    let machine = Machine::read();
    if !args.json {
        println!("{}", machine.line());
        println!("one replica, signed requests, {} in flight", args.sessions);
    }
    let idle = match args.idle {
        Idle::Park => IdlePolicy::Park,
        Idle::Adaptive => IdlePolicy::Adaptive,
        Idle::Spin => IdlePolicy::Spin,
    };
    let options = LayoutsOptions {
        widths: args.cores.clone(),
        sessions: args.sessions,
        requests: args.requests,
        rounds: args.rounds,
        unloaded: args.unloaded,
        idle,
    };
    for result in layouts::run(&options)? {
        if args.json {
            print_json("layouts", &machine, &result)?;
            continue;
        }
        let rounds: Vec<String> =
            result.per_second.iter().map(|number| format!("{number:.0}")).collect();
        println!(
            "{} core(s): {:.0} /s, {:.2} times the first (rounds {}); one at a time: p50 {}, p99 {}\n  {}",
            result.width,
            result.median_per_second,
            result.ratio,
            rounds.join(" "),
            humane_us(result.unloaded.p50_us),
            humane_us(result.unloaded.p99_us),
            result.placement,
        );
    }
    Ok(())
}
