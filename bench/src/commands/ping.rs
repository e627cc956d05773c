//! `tetrarch-bench ping`.

use anyhow::{Context, Result};
use clap::Args;
use tetrarch_bench::latency::humane_us;
use tetrarch_bench::machine::Machine;
use tetrarch_bench::ping::{self, PingOptions};
use tetrarch_bench::wire::Wire;

use super::{latency_line, print_json};

/// Options of `ping`.
#[derive(Args, Debug)]
pub struct PingArgs {
    /// What the link is made of; several are measured one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tcp")]
    transport: Vec<Wire>,
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

/// Runs it.
///
/// # Errors
/// What keeps it from measuring.
pub fn run(args: &PingArgs) -> Result<()> {
    let machine = Machine::read();
    if !args.json {
        println!("{}", machine.line());
    }
    for wire in &args.transport {
        for size in &args.sizes {
            let (wire, size, park) = (*wire, *size, !args.spin);
            let options = PingOptions { wire, size, count: args.count, park };
            let result = ping::run(options).with_context(|| format!("ping of {size} bytes"))?;
            if args.json {
                print_json("ping", &machine, &result)?;
                continue;
            }
            println!(
                "{}, {size} B round trip: {}; five one-way hops: {}",
                wire.name(),
                latency_line(&result.round_trip),
                humane_us(result.request_floor_us()),
            );
        }
    }
    Ok(())
}
