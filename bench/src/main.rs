//! The `tetrarch-bench` command.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a Tetrarch cluster, or what is below it.
#[derive(Parser, Debug)]
#[command(name = "tetrarch-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Load a running cluster whose service is `null`
    Load(commands::load::LoadArgs),
    /// Start local clusters and measure payloads x sessions x fault model x depth: README's
    /// table
    Cluster(commands::cluster::ClusterArgs),
    /// Round trips over one authenticated loopback link: the floor under every other figure
    Ping(commands::ping::PingArgs),
    /// What this machine allows, how far protocol figures are from it, and what binds them
    Roofline(commands::roofline::RooflineArgs),
    /// Two builds, layouts or configurations beside each other, in interleaved rounds
    Compare(commands::compare::CompareArgs),
    /// What keeping a log costs: volatile, durable, the disk alone, and volatile beside such writes, in interleaved
    /// rounds
    Durable(commands::durable::DurableArgs),
    /// One HTML page with plots from the lines that --json printed
    Report(commands::report::ReportArgs),
    /// Digests one by one and in bursts, as a ratio of interleaved runs
    Hash(commands::roofline::HashArgs),
    /// One replica on one core and on several: what further cores bring to signed requests
    Layouts(commands::layouts::LayoutsArgs),
    /// A durable cluster while replicas are killed and come back: throughput over time, as an SVG
    Timeline(commands::timeline::TimelineArgs),
    /// A replica without a state joins a cluster that has a large one and serves: how fast the state comes, beside a
    /// plain copy, and what it costs the others
    Transfer(commands::transfer::TransferArgs),
    /// The other end of the plain copy of `transfer`
    #[command(hide = true)]
    CopyFrom(tetrarch_bench::transfer::copy::Receiver),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load(args) => commands::load::run(args),
        Command::Cluster(args) => commands::cluster::run(args),
        Command::Ping(args) => commands::ping::run(&args),
        Command::Roofline(args) => commands::roofline::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Durable(args) => commands::durable::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Hash(args) => commands::roofline::run_hash(&args),
        Command::Layouts(args) => commands::layouts::run(&args),
        Command::Timeline(args) => commands::timeline::run(args),
        Command::Transfer(args) => commands::transfer::run(&args),
        Command::CopyFrom(receiver) => tetrarch_bench::transfer::copy::receive(&receiver),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tetrarch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn documented_commands_parse() {
        for line in [
            "tetrarch-bench load d --sessions 1000 --rate 50%,90%,200% --duration 120",
            "tetrarch-bench load d --rate 5000 --arrivals fixed --queue 1000 --late-ms 50",
            "tetrarch-bench cluster --byzantine 4,7 --crash 0 --payloads 0/0 --json",
            "tetrarch-bench cluster --rate 90% --sessions 1000 --outstanding 8",
            "tetrarch-bench ping --sizes 64 --spin --transport memory,tcp",
            "tetrarch-bench roofline --duration 1 --json",
            "tetrarch-bench roofline --floors-only",
            "tetrarch-bench hash",
            "tetrarch-bench compare --against ../other/tetrarch --rounds 3",
            "tetrarch-bench compare --layout fused,spread --signed --replicas 1 --sessions 100",
            "tetrarch-bench compare --init --idle=park --init --idle=spin",
            "tetrarch-bench durable --payloads 1024/1024 --sessions 1000 --depth 1,4 --rounds 3",
            "tetrarch-bench report a.jsonl b.jsonl -o report.html",
            "tetrarch-bench transfer --state-mib 512 --durable --sessions 20 --json",
            "tetrarch-bench layouts --cores 1,2,4 --rounds 3 --json",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
        }
    }
}
