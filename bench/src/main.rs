//! The `tetrarch-bench` command: `load`, `cluster`, `ping`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tetrarch_bench::latency::{LatencySummary, humane_us};
use tetrarch_bench::load::{self, LoadOptions, LoadResult};
use tetrarch_bench::local::{Shape, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::{MatrixOptions, grouped, markdown, run_matrix};
use tetrarch_bench::ping::{self, PingOptions};
use tetrarch_client::Mode;

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
    Load(LoadArgs),
    /// Start local clusters and measure payloads x sessions x fault model: README's table
    Cluster(ClusterArgs),
    /// Round trips over one authenticated loopback link: the floor under every other figure
    Ping(PingArgs),
}

#[derive(Args, Debug)]
struct LoadArgs {
    /// The cluster directory
    directory: PathBuf,
    /// Which client identity to use
    #[arg(long, default_value_t = 0)]
    client: u32,
    /// Sessions
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    sessions: u32,
    /// Requests in flight per session
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    outstanding: u32,
    /// Bytes of each request
    #[arg(long, default_value_t = 0)]
    request_size: usize,
    /// Bytes of each reply
    #[arg(long, default_value_t = 0)]
    reply_size: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to load before measuring
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Open loop: requests per second, whatever comes back [default: closed loop]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Read-only requests instead of ordered ones
    #[arg(long)]
    read_only: bool,
    /// Sign every ordered request with Ed25519 [default: a MAC for each replica]
    #[arg(long, conflicts_with = "read_only")]
    signed: bool,
    /// Processes of the replicas, to report their processor time
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// One JSON line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ClusterArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// Request/reply sizes
    #[arg(long, value_delimiter = ',', default_value = "0/0,100/100,1024/1024,4096/4096",
          value_parser = payload)]
    payloads: Vec<(usize, u32)>,
    /// Sessions, each with one request in flight
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    sessions: Vec<u32>,
    /// Replicas of the Byzantine clusters; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "4")]
    byzantine: Vec<u16>,
    /// Replicas of the crash-only clusters; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "3")]
    crash: Vec<u16>,
    /// Sign every request with Ed25519 [default: a MAC for each replica]
    #[arg(long)]
    signed: bool,
    /// Seconds to measure each cell
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to load before each cell
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct PingArgs {
    /// Bytes of each message
    #[arg(long, value_delimiter = ',', default_value = "64,1024,4096")]
    sizes: Vec<usize>,
    /// Round trips
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(10..))]
    count: u64,
    /// Spin instead of sleeping while waiting (wants two idle cores)
    #[arg(long)]
    spin: bool,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=86_400.0).contains(&number) => Ok(number),
        _ => Err("give seconds, 0 to 86400".into()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.1..=1e8).contains(&number) => Ok(number),
        _ => Err("give requests per second, 0.1 to 100000000".into()),
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
    #[serde(flatten)]
    result: &'a T,
    machine: &'a Machine,
}

fn print_json<T: Serialize>(machine: &Machine, result: &T) -> Result<()> {
    println!("{}", serde_json::to_string(&Line { result, machine })?);
    Ok(())
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Load(args) => run_load(args),
        Command::Cluster(args) => run_cluster(args),
        Command::Ping(args) => run_ping(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tetrarch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(args: LoadArgs) -> Result<()> {
    let machine = Machine::read();
    let options = LoadOptions {
        directory: args.directory,
        client: args.client,
        sessions: args.sessions,
        outstanding: args.outstanding,
        request_size: args.request_size,
        reply_size: args.reply_size,
        duration: Duration::from_secs_f64(args.duration),
        warm_up: Duration::from_secs_f64(args.warmup),
        rate: args.rate,
        mode: if args.read_only { Mode::ReadOnly } else { Mode::Ordered },
        signed: args.signed,
        pids: args.pids,
    };
    let bar = ProgressBar::new(1000);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}")?);
    let result = load::run(&options, &mut |progress| {
        bar.set_position((progress.fraction * 1000.0) as u64);
        let phase = if progress.measuring { "" } else { " (warm-up)" };
        bar.set_message(format!("{} /s{phase}", grouped(progress.throughput)));
    });
    bar.finish_and_clear();
    let result = result?;
    if args.json {
        return print_json(&machine, &result);
    }
    print_load(&machine, &result);
    Ok(())
}

fn print_load(machine: &Machine, result: &LoadResult) {
    println!("{}", machine.line());
    println!(
        "{} sessions x {} in flight, {} {}requests of {} B, replies of {} B, {}",
        result.sessions,
        result.outstanding,
        result.mode,
        if result.signed { "signed " } else { "" },
        result.request_size,
        result.reply_size,
        result.rate.map_or("closed loop".into(), |rate| format!("{} /s asked", grouped(rate))),
    );
    println!("  throughput   {} requests/s", grouped(result.throughput));
    println!("  latency      {}", latency_line(&result.latency));
    println!("  errors       {}, {} sent again", result.errors, result.retransmitted);
    let replicas: Vec<_> = result.replica_cpu.iter().map(|cpu| format!("{cpu:.2}")).collect();
    println!("  processors   client {:.2}, replicas [{}]", result.client_cpu, replicas.join(" "));
}

fn latency_line(latency: &LatencySummary) -> String {
    format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
        humane_us(latency.p50_us),
        humane_us(latency.p90_us),
        humane_us(latency.p99_us),
        humane_us(latency.p999_us),
        humane_us(latency.max_us),
    )
}

fn run_cluster(args: ClusterArgs) -> Result<()> {
    let machine = Machine::read();
    let shapes = |counts: &[u16], crash_only| -> Vec<Shape> {
        let wanted = counts.iter().filter(|count| **count > 0);
        wanted.map(|count| Shape { replicas: *count, crash_only }).collect()
    };
    let mut all = shapes(&args.byzantine, false);
    all.extend(shapes(&args.crash, true));
    let options = MatrixOptions {
        tetrarch: tetrarch_binary(args.tetrarch.as_deref())?,
        shapes: all,
        payloads: args.payloads,
        sessions: args.sessions,
        signed: args.signed,
        duration: Duration::from_secs_f64(args.duration),
        warm_up: Duration::from_secs_f64(args.warmup),
    };
    let cells = run_matrix(&options, &mut |cell| {
        let result = &cell.result;
        eprintln!(
            "{} {}/{}, {} sessions: {} /s, {}",
            cell.cluster,
            result.request_size,
            result.reply_size,
            result.sessions,
            grouped(result.throughput),
            latency_line(&result.latency),
        );
    })?;
    if args.json {
        return cells.iter().try_for_each(|cell| print_json(&machine, cell));
    }
    print!("{}", markdown(&machine, &cells, &options.sessions));
    Ok(())
}

fn run_ping(args: &PingArgs) -> Result<()> {
    let machine = Machine::read();
    if !args.json {
        println!("{}", machine.line());
    }
    for size in &args.sizes {
        let options = PingOptions { size: *size, count: args.count, park: !args.spin };
        let result = ping::run(options).with_context(|| format!("ping of {size} bytes"))?;
        if args.json {
            print_json(&machine, &result)?;
            continue;
        }
        println!(
            "{size} B round trip: {}; five one-way hops: {}",
            latency_line(&result.round_trip),
            humane_us(result.request_floor_us()),
        );
    }
    Ok(())
}
