//! The `tetrarch-torture` command: the run, and the replicas that it kills.
//!
//! Always true: the exit status says whether everything held (or, with `--must-fail`, whether it was found that
//! it does not). Must not: let a configuration file choose how replicas keep their files.

mod audit;
mod client;
mod cluster;
mod dice;
mod full_disk;
mod history;
mod rounds;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tetrarch_appliance::config::Plan;
use tetrarch_appliance::replica_command::{self, How};
use tetrarch_dataplane::alloc_guard::FrozenAllocator;
use tetrarch_dataplane::storage::file::Access;
use tetrarch_dataplane::storage::torn::Promise;

use cluster::{Processes, Shape};
use rounds::Tally;

// That of the replicas' own command.
#[global_allocator]
static ALLOCATOR: FrozenAllocator<mimalloc::MiMalloc> = FrozenAllocator::new(mimalloc::MiMalloc);

/// Kills real replicas under load, again and again, and checks what their clients were told.
#[derive(Parser, Debug)]
#[command(name = "tetrarch-torture", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run rounds of load, kills and recovery on a new cluster
    Run(RunArgs),
    /// Fill the disk of one replica of a new cluster, and make room
    FullDisk(FullDiskArgs),
    /// One of its replicas, over files that lose what was not synced; no other program starts this
    #[command(hide = true)]
    Replica(ReplicaArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Rounds
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Of the plan of kills and of what clients do [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Decisions from one checkpoint to the next
    #[arg(long, default_value_t = 256)]
    checkpoint_every: u64,
    /// Instances of consensus that may run at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    depth: u8,
    /// Empty the disk of one replica now and then, and put it back to older states
    #[arg(long)]
    bad_disk: bool,
    /// Where to make the cluster's directory [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// What the replicas do wrong
    #[arg(long, value_enum)]
    careless: Option<Careless>,
    /// Succeed only if something does not hold
    #[arg(long, requires = "careless")]
    must_fail: bool,
}

#[derive(Args, Debug)]
struct FullDiskArgs {
    /// A directory on a file system of 40 MiB
    small: PathBuf,
}

#[derive(Args, Debug)]
struct ReplicaArgs {
    directory: PathBuf,
    #[arg(long)]
    id: u16,
    #[arg(long, value_enum)]
    careless: Option<Careless>,
}

/// What replicas may do wrong, to find out whether a run notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Careless {
    /// They vote and reply before their records are on the disk.
    Sync,
    /// They take the records of interrupted writes for whole.
    Tail,
}

impl Careless {
    /// Does `error` say what such replicas do wrong? That something took too long says nothing: the machine may be
    /// busy.
    fn explains(self, error: &str) -> bool {
        let words: &[&str] = match self {
            Self::Sync => &[
                "is LOST",
                "was told",
                "there twice",
                "real time",
                "has changed",
                "that of others",
            ],
            Self::Tail => &["cannot be used", "that of others", "is LOST", "was told", "panicked"],
        };
        words.iter().any(|word| error.contains(word))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Tail => "tail",
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::FullDisk(args) => full_disk(&args),
        Command::Replica(args) => replica(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tetrarch-torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn replica(args: &ReplicaArgs) -> Result<()> {
    let careless = args.careless;
    let how = How { with_parent: true, ..How::default() };
    replica_command::run_with(&args.directory, args.id, how, |plan: &mut Plan| {
        if let Some(log) = &mut plan.log {
            let promise = match careless {
                Some(Careless::Sync) => Promise::Broken,
                _ => Promise::Kept,
            };
            log.access = Access::Torn(promise);
            log.config.unchecked = careless == Some(Careless::Tail);
            log.config.group_size_max = tetrarch_appliance::recovery::LOG_GROUP_SIZE_MIN;
            log.config.segment_size = 2 * log.config.group_size_max as u64 + (1 << 20);
        }
    })
}

/// Runs of careless replicas that may end with nothing but impatience.
const ATTEMPTS: u64 = 8;

fn run(args: &RunArgs) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = args.seed.unwrap_or_else(|| now.map_or(1, |now| now.as_secs()));
    match args.careless.filter(|_| args.must_fail) {
        None => run_honest(args, seed),
        Some(careless) => {
            for attempt in 0..ATTEMPTS {
                if is_found_out(args, careless, seed + attempt)? {
                    return Ok(());
                }
            }
            bail!("{ATTEMPTS} runs with careless replicas, and nobody noticed")
        }
    }
}

/// One run, in a directory of its own.
fn one_run(args: &RunArgs, seed: u64, tally: &mut Tally) -> (PathBuf, Result<Processes>) {
    let name = format!("tetrarch-torture-{}-{seed}", std::process::id());
    let directory = args.directory.clone().unwrap_or_else(std::env::temp_dir).join(name);
    let shape = Shape {
        clients: rounds::CLIENTS + 2,
        checkpoint_every: args.checkpoint_every,
        depth: usize::from(args.depth),
        careless: args.careless,
        patience: Duration::from_secs(if args.careless.is_some() { 10 } else { 300 }),
        bad_disk: args.bad_disk,
    };
    let result = rounds::run(&directory, &shape, args.rounds, seed, tally);
    (directory, result)
}

fn run_honest(args: &RunArgs, seed: u64) -> Result<()> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let (directory, result) = one_run(args, seed, &mut tally);
    match result {
        Ok(processes) => {
            sum_up(&processes, seed, &tally, start.elapsed());
            processes.remove()
        }
        Err(error) => bail!(
            "{error:#}\n{} rounds had held; seed {seed}; everything is in {}",
            tally.rounds,
            directory.display()
        ),
    }
}

fn is_found_out(args: &RunArgs, careless: Careless, seed: u64) -> Result<bool> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let (directory, result) = one_run(args, seed, &mut tally);
    let (rounds, took) = (tally.rounds, start.elapsed());
    let error = match result {
        Ok(processes) => {
            println!("not caught in {rounds} rounds, {took:.0?}, seed {seed}");
            processes.remove()?;
            return Ok(false);
        }
        Err(error) => format!("{error:#}"),
    };
    remove(&directory);
    let caught = careless.explains(&error);
    let what = if caught { "caught" } else { "failed, but nothing was found," };
    println!("{what} after {rounds} rounds, {took:.0?}, seed {seed}: {error}");
    Ok(caught)
}

fn full_disk(args: &FullDiskArgs) -> Result<()> {
    let name = format!("tetrarch-full-disk-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let shape = Shape {
        clients: rounds::CLIENTS + 2,
        // The log is not cut behind a checkpoint before the disk is full.
        checkpoint_every: 1_000_000,
        depth: 4,
        careless: None,
        patience: Duration::from_secs(300),
        bad_disk: false,
    };
    match full_disk::run(&directory, &args.small, &shape) {
        Ok(processes) => processes.remove(),
        Err(error) => bail!("{error:#}\neverything is in {}", directory.display()),
    }
}

fn remove(directory: &Path) {
    // Nothing depends on it.
    let _ = std::fs::remove_dir_all(directory);
}

fn sum_up(processes: &Processes, seed: u64, tally: &Tally, took: Duration) {
    let Tally { rounds, kills, blackouts, second_kills, spoilt } = tally;
    let (from_checkpoints, torn, set_aside) = processes.recoveries();
    println!(
        "{rounds} rounds, seed {seed}, {:.0} s: {kills} replicas killed, all at once {blackouts} times, \
         {second_kills} again while they recovered; one disk emptied, copied or put back {spoilt} times",
        took.as_secs_f64()
    );
    println!(
        "recoveries: {from_checkpoints} from a checkpoint, {torn} after an interrupted write; {set_aside} \
         checkpoints could not be used"
    );
}
