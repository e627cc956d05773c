//! `tetrarch-bench load`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tetrarch_bench::load::{LoadOptions, LoadResult, OpenLoop, Progress, run_rates};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::grouped;
use tetrarch_client::Mode;
use tetrarch_dataplane::transport::choice::TransportKind;

use super::{OpenArgs, latency_line, print_json, seconds};

/// Options of `load`.
#[derive(Args, Debug)]
pub struct LoadArgs {
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
    #[command(flatten)]
    open: OpenArgs,
    /// Read-only requests instead of ordered ones
    #[arg(long)]
    read_only: bool,
    /// Sign every ordered request with Ed25519 [default: a MAC for each replica]
    #[arg(long, conflicts_with = "read_only")]
    signed: bool,
    /// What moves the bytes here: auto, io_uring or tcp [default: as in the client's file]
    #[arg(long)]
    transport: Option<TransportKind>,
    /// Processes of the replicas, to report their processor time and memory
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: LoadArgs) -> Result<()> {
    let machine = Machine::read();
    let options = LoadOptions {
        client: args.client,
        sessions: args.sessions,
        outstanding: args.outstanding,
        request_size: args.request_size,
        reply_size: args.reply_size,
        duration: Duration::from_secs_f64(args.duration),
        warm_up: Duration::from_secs_f64(args.warmup),
        open_loop: Some(args.open.options()).filter(|_| !args.open.rate.is_empty()),
        mode: if args.read_only { Mode::ReadOnly } else { Mode::Ordered },
        signed: args.signed,
        transport: args.transport,
        pids: args.pids,
        ..LoadOptions::new(args.directory)
    };
    let bar = ProgressBar::new(1000);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}")?);
    let mut watch = |progress: Progress| {
        bar.set_position((progress.fraction * 1000.0) as u64);
        let phase = if progress.measuring { "" } else { " (warm-up)" };
        bar.set_message(format!("{} /s{phase}", grouped(progress.throughput)));
    };
    let mut tell = |result: LoadResult| {
        bar.suspend(|| {
            if args.json {
                return print_json("load", &machine, &result);
            }
            print_load(&machine, &result);
            Ok(())
        })
    };
    let saturation = args.open.saturation();
    let outcome = run_rates(&options, &args.open.rate, saturation, &mut watch, &mut tell);
    bar.finish_and_clear();
    outcome
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
        result.open_loop.as_ref().map_or("closed loop".into(), offered),
    );
    println!("  throughput   {} requests/s", grouped(result.throughput));
    println!("  latency      {}", latency_line(&result.latency));
    println!("  errors       {}, {} sent again", result.errors, result.retransmitted);
    if result.busy > 0 {
        let (busy, held_back) = (result.busy, result.held_back);
        println!("  busy         {busy} answers, sessions held back {held_back} times");
    }
    if let Some(open) = &result.open_loop {
        print_open(open);
    }
    let replicas: Vec<_> =
        result.replica_cpu.iter().map(|cpu| format!("{:.2}", cpu.total())).collect();
    let client = result.client_cpu.total();
    println!("  processors   client {client:.2}, replicas [{}]", replicas.join(" "));
    let own = result.client_memory;
    println!("  resident     client {:.0} > {:.0} MiB", own.before_mib, own.after_mib);
    if !result.replica_memory.is_empty() {
        let memory = result.replica_memory.iter();
        let memory: Vec<_> =
            memory.map(|of| format!("{:.0} > {:.0}", of.before_mib, of.after_mib)).collect();
        println!("  resident     replicas [{}] MiB", memory.join(", "));
    }
}

fn offered(open: &OpenLoop) -> String {
    let percent = open.percent.map(|percent| format!(" ({percent:.0} % of saturation)"));
    format!("{} /s offered{}", grouped(open.rate), percent.unwrap_or_default())
}

fn print_open(open: &OpenLoop) {
    println!(
        "  of {} due    {} waited for a session, {} found the queue full, {} later than {} ms, \
         {} after the end",
        grouped(open.offered as f64),
        grouped(open.waited as f64),
        grouped(open.refused as f64),
        grouped(open.late as f64),
        open.late_ms,
        grouped(open.after_end as f64),
    );
}
