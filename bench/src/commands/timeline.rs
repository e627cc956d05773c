//! `tetrarch-bench timeline`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tetrarch_bench::local::{Shape, tetrarch_binary};
use tetrarch_bench::machine::Machine;
use tetrarch_bench::matrix::grouped;
use tetrarch_bench::timeline::{self, Script, TimelineOptions, TimelineResult};

use super::print_json;

/// Options of `timeline`.
#[derive(Args, Debug)]
pub struct TimelineArgs {
    /// The `tetrarch` binary [default: the one beside this program]
    #[arg(long)]
    tetrarch: Option<PathBuf>,
    /// What happens when: SECONDS:EVENT, and the end; events are add ID, kill leader, kill ID, restart
    /// killed, restart ID, remove ID
    #[arg(long, default_value = "15:add 4,30:kill leader,45:restart killed,60:remove 3,75:end")]
    script: Script,
    /// Stretch the script's times by this
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    scale: f64,
    /// Sessions, each with one request in flight
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=4096))]
    sessions: u32,
    /// Replicas
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    replicas: u16,
    /// Only crashes are tolerated
    #[arg(long)]
    crash: bool,
    /// The replicas' request timeout, ms
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    request_timeout_ms: u64,
    /// Decisions from one checkpoint to the next
    #[arg(long, default_value_t = 8192)]
    checkpoint_every: u64,
    /// Show what this replica executed, too
    #[arg(long, default_value_t = 1)]
    observe: u16,
    /// Milliseconds over which throughput is counted
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    bucket_ms: u64,
    /// Write the figure here
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Fail when a kill silenced the cluster for more than two request timeouts or a replica did not catch up, as
    /// when an answer was wrong
    #[arg(long)]
    check: bool,
    /// A JSON line instead of text
    #[arg(long)]
    json: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.01..=1000.0).contains(&number) => Ok(number),
        _ => Err("give a factor, 0.01 to 1000".into()),
    }
}

/// Runs it.
///
/// # Errors
/// What keeps it from measuring; with `--check`, what was wrong.
pub fn run(args: TimelineArgs) -> Result<()> {
    let machine = Machine::read();
    let options = TimelineOptions {
        tetrarch: tetrarch_binary(args.tetrarch.as_deref())?,
        shape: Shape { replicas: args.replicas, crash_only: args.crash },
        sessions: args.sessions,
        script: args.script.scaled(args.scale),
        request_timeout: Duration::from_millis(args.request_timeout_ms),
        bucket: Duration::from_millis(args.bucket_ms),
        checkpoint_every: args.checkpoint_every,
        observed: args.observe,
    };
    let result = timeline::run(&options, &mut |line| eprintln!("{line}"))?;
    if let Some(file) = &args.svg {
        std::fs::write(file, result.plot().document())
            .with_context(|| format!("--svg {}: cannot write", file.display()))?;
    }
    if args.json {
        print_json("timeline", &machine, &result)?;
    } else {
        println!("{}", machine.line());
        print!("{}", table(&result));
    }
    let complaints = result.complaints();
    for complaint in &complaints {
        eprintln!("timeline: {complaint}");
    }
    if result.wrong > 0 {
        bail!("writes were lost or doubled");
    }
    if args.check && !complaints.is_empty() {
        bail!("{} things are not as they have to be", complaints.len());
    }
    Ok(())
}

fn table(result: &TimelineResult) -> String {
    let mut text = format!(
        "{}, {} sessions: {} requests answered, {} wrong; {} /s before the first event\n\n\
         | s | event | longest silence | caught up after | then |\n|---|---|---|---|---|\n",
        result.cluster,
        result.sessions,
        grouped(result.answered as f64),
        result.wrong,
        grouped(result.before),
    );
    for event in &result.events {
        let caught_up = event.caught_up_s.map(|after| format!("{after:.1} s")).unwrap_or_default();
        text.push_str(&format!(
            "| {:.1} | {} | {:.2} s | {caught_up} | {} /s |\n",
            event.at,
            event.what,
            event.longest_silence_s,
            grouped(event.per_second)
        ));
    }
    text
}
