//! `tetrarch-bench transfer`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tetrarch_bench::local::tetrarch_binary;
use tetrarch_bench::machine::Machine;
use tetrarch_bench::transfer::{self, Peak, TransferOptions, TransferResult};

use super::{print_json, seconds};

/// Options of `transfer`.
#[derive(Args, Debug)]
pub struct TransferArgs {
    /// Size of the state, MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(8..=2048))]
    state_mib: u64,
    /// Sessions of small writes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=4096))]
    sessions: u32,
    /// Decisions from one checkpoint to the next
    #[arg(long, default_value_t = 32_768, value_parser = clap::value_parser!(u64).range(64..))]
    checkpoint_every: u64,
    /// Seconds to measure four replicas, and three before the fourth joins
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    before: f64,
    /// Replicas keep logs
    #[arg(long)]
    durable: bool,
    /// MiB in a second that a replica sends, 0 for no limit [default: the replicas']
    #[arg(long)]
    rate_mib: Option<usize>,
    /// The binary to run [default: the one beside this one]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &TransferArgs) -> Result<()> {
    let machine = Machine::read();
    let options = TransferOptions {
        state_mib: args.state_mib as usize,
        sessions: args.sessions,
        checkpoint_every: args.checkpoint_every,
        before: Duration::from_secs_f64(args.before),
        durable: args.durable,
        rate_mib: args.rate_mib,
    };
    let result = transfer::run(&tetrarch_binary(args.tetrarch.as_deref())?, &options)?;
    if args.json {
        return print_json("transfer", &machine, &result);
    }
    println!("{}", machine.line());
    print(&result);
    Ok(())
}

fn print(result: &TransferResult) {
    let kind = if result.durable { "durable" } else { "volatile" };
    println!("{:.0} MiB in {} chunks to a {kind} replica", result.image_mib, result.chunks);
    let end = if result.durable { "a file that is synced" } else { "a file" };
    println!(
        "  rate         {:.0} MiB/s: {:.2} of a plain TCP copy into {end}, {:.0}; {:.2} of one that is thrown away, {:.0}",
        result.rate_mib, result.copy_ratio, result.copy_mib, result.socket_ratio, result.socket_mib
    );
    println!(
        "  seconds      {:.1} to begin, {:.1} for the chunks, {:.1} to install, {:.1} to catch up{}",
        result.begin_s,
        result.chunks_s,
        result.install_s,
        result.catch_up_s,
        if result.under_load { "" } else { ", after the load had ended" }
    );
    println!(
        "  throughput   {:.0} /s of three before, {:.0} during: {:.2}; {:.0} of four without a transfer: {:.2}; \
         longest silence {:.0} ms",
        result.before,
        result.during,
        result.throughput_ratio,
        result.four,
        result.four_ratio,
        result.stall_ms
    );
    let memory = |peak: &Peak| format!("{:.0} + {:.0}", peak.state_mib, peak.beside_mib());
    let senders: Vec<_> = result.senders.iter().map(memory).collect();
    println!(
        "  peak memory  receiver {} MiB, senders [{}] MiB",
        memory(&result.receiver),
        senders.join(", ")
    );
}
