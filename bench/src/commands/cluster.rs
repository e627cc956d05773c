//! `tetrarch-bench cluster`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tetrarch_bench::local::{Shape, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::{Cell, MatrixOptions, grouped, markdown, run_matrix};

use tetrarch_dataplane::transport::choice::TransportKind;

use super::{OpenArgs, latency_line, payload, print_json, seconds};

/// Options of `cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// Request/reply sizes
    #[arg(long, value_delimiter = ',', default_value = "0/0,100/100,1024/1024,4096/4096",
          value_parser = payload)]
    payloads: Vec<(usize, u32)>,
    /// Sessions
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    sessions: Vec<u32>,
    /// Requests in flight per session
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    outstanding: u32,
    /// Replicas of the Byzantine clusters; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "4")]
    byzantine: Vec<u16>,
    /// Replicas of the crash-only clusters; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "3")]
    crash: Vec<u16>,
    /// Instances of consensus that may run at the same time, 1 to 32
    #[arg(long, value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u8).range(1..=32))]
    depth: Vec<u8>,
    /// Sign every request with Ed25519 [default: a MAC for each replica]
    #[arg(long)]
    signed: bool,
    /// Seconds to measure each cell
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Seconds to load before each cell
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// What moves the bytes, at the replicas and here: auto, io_uring or tcp
    #[arg(long, default_value = "auto")]
    transport: TransportKind,
    #[command(flatten)]
    open: OpenArgs,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: ClusterArgs) -> Result<()> {
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
        depths: args.depth,
        payloads: args.payloads,
        sessions: args.sessions,
        outstanding: args.outstanding,
        signed: args.signed,
        transport: args.transport,
        duration: Duration::from_secs_f64(args.duration),
        warm_up: Duration::from_secs_f64(args.warmup),
        open_loop: args.open.options(),
        saturation: args.open.saturation(),
        rates: args.open.rate,
    };
    let cells = run_matrix(&options, &mut |cell| {
        eprintln!("{}", cell_line(cell));
        if args.json { print_json("load", &machine, cell) } else { Ok(()) }
    })?;
    if !args.json && options.rates.is_empty() {
        print!("{}", markdown(&machine, &cells, &options.sessions));
    }
    Ok(())
}

fn cell_line(cell: &Cell) -> String {
    let result = &cell.result;
    let offered = result.open_loop.as_ref().map(|open| {
        let percent = open.percent.map(|percent| format!(" ({percent:.0} %)")).unwrap_or_default();
        format!(", {} /s offered{percent}, {} refused", grouped(open.rate), open.refused)
    });
    let busy = match result.busy {
        0 => String::new(),
        busy => format!(", {busy} Busy answers"),
    };
    format!(
        "{} {}/{}, {} sessions{}: {} /s, {}{busy}",
        cell.cluster,
        result.request_size,
        result.reply_size,
        result.sessions,
        offered.unwrap_or_default(),
        grouped(result.throughput),
        latency_line(&result.latency),
    )
}
