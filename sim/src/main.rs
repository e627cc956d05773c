//! The command: runs seeds, sums up what happened, and names the one command that repeats a failure.
//!
//! Always true: the exit code is 0 only when no seed failed. Must not: decide what is right.

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tetrarch_consensus::FaultModel;
use tetrarch_consensus::config::Check;
use tetrarch_consensus::limits::DEPTH_MAX;
use tetrarch_sim::trace::Log;
use tetrarch_sim::world::Disks;
use tetrarch_sim::{Coverage, Options, Outcome, Strategy, Wishes, nodes, run};

/// Simulates clusters with faults of every kind, one per seed, and checks what must always hold.
#[derive(Parser, Clone, Debug)]
#[command(name = "tetrarch-sim", version)]
struct Args {
    /// One seed
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds A..B (B excluded)
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Stop after this many seconds
    #[arg(long)]
    time: Option<u64>,
    /// What is real: 1 the protocol core, 2 whole nodes and clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    level: u8,
    /// Members; drawn from the seed when not given
    #[arg(long)]
    n: Option<usize>,
    /// Instances that may be open at once; drawn from the seed when not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=DEPTH_MAX as i64))]
    depth: Option<u8>,
    /// What members keep on disks; with disks, any number of them may crash at once
    #[arg(long, value_enum, default_value_t = Disks::None)]
    disks: Disks,
    /// Members come and go (level 1)
    #[arg(long)]
    views: bool,
    /// Members keep some twenty decisions for others only: few seeds in ten thousand stand still then (docs/adr/0037)
    #[arg(long)]
    short_memories: bool,
    /// Fault model; drawn from the seed when not given
    #[arg(long, value_enum)]
    model: Option<Model>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// What to print of each run
    #[arg(long, value_enum, default_value_t = Log::None)]
    log: Log,
    /// Only these strategies of faulty members (repeat for several at once)
    #[arg(long, value_enum)]
    strategy: Vec<Strategy>,
    /// Run every seed twice and compare
    #[arg(long)]
    twice: bool,
    /// Switch a protocol check off
    #[arg(long, value_enum)]
    without: Vec<Mutant>,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Model {
    Byzantine,
    Crash,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mutant {
    Validity,
    VotesPerDigest,
    ProofBinding,
    StopDataValidation,
    DuplicateSuppression,
    BodyDigests,
    Handover,
    ViewQuorums,
    OfferQuorum,
    ChunkRoots,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (low, high) = text.split_once("..").ok_or("write A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (low, high) = (number(low)?, number(high)?);
    if low < high { Ok((low, high)) } else { Err(format!("{low}..{high} is empty")) }
}

impl Args {
    fn wishes(&self) -> Wishes {
        Wishes {
            n: self.n,
            disks: self.disks,
            views: self.views,
            short_memories: self.short_memories,
            depth: self.depth.map(usize::from),
            model: self.model.map(|model| match model {
                Model::Byzantine => FaultModel::Byzantine,
                Model::Crash => FaultModel::Crash,
            }),
            strategies: self.strategy.clone(),
            mutants: self
                .without
                .iter()
                .map(|mutant| match mutant {
                    Mutant::Validity => Check::Validity,
                    Mutant::VotesPerDigest => Check::VotesPerDigest,
                    Mutant::ProofBinding => Check::ProofBinding,
                    Mutant::StopDataValidation => Check::StopDataValidation,
                    Mutant::DuplicateSuppression => Check::DuplicateSuppression,
                    Mutant::BodyDigests => Check::BodyDigests,
                    Mutant::Handover => Check::Handover,
                    Mutant::ViewQuorums => Check::ViewQuorums,
                    Mutant::OfferQuorum => Check::OfferQuorum,
                    Mutant::ChunkRoots => Check::ChunkRoots,
                })
                .collect(),
        }
    }

    /// The command that repeats `seed`.
    fn command(&self, seed: u64) -> String {
        let mut command = format!("tetrarch-sim --seed {seed} --level {}", self.level);
        if let Some(n) = self.n {
            command += &format!(" --n {n}");
        }
        if let Some(depth) = self.depth {
            command += &format!(" --depth {depth}");
        }
        let value = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        if self.disks != Disks::None {
            command += &format!(" --disks {}", value(self.disks.to_possible_value()));
        }
        if self.views {
            command += " --views";
        }
        if self.short_memories {
            command += " --short-memories";
        }
        if let Some(model) = self.model {
            command += &format!(" --model {}", value(model.to_possible_value()));
        }
        for strategy in &self.strategy {
            command += &format!(" --strategy {}", value(strategy.to_possible_value()));
        }
        for mutant in &self.without {
            command += &format!(" --without {}", value(mutant.to_possible_value()));
        }
        command + " --log full"
    }
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// What all threads share.
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    failures: AtomicU64,
    runs: AtomicU64,
    sum: Mutex<(Coverage, Duration, u64)>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (low, high) = match (args.seed, args.seeds) {
        (Some(seed), _) => (seed, seed.saturating_add(1)),
        (_, Some(range)) => range,
        _ if args.time.is_some() => (0, u64::MAX),
        _ => (0, 1000),
    };
    name_the_seed_of_a_panic(args.clone());
    let start = Instant::now();
    let shared = Shared {
        next: AtomicU64::new(low),
        stop: AtomicBool::new(false),
        failures: AtomicU64::new(0),
        runs: AtomicU64::new(0),
        sum: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| work(&args, high, start, &shared));
        }
    });
    summarise(low, start, &shared);
    if shared.failures.load(Ordering::Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An assertion of the core ends the process: say which seed it was.
fn name_the_seed_of_a_panic(args: Args) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        let seed = SEED.get();
        println!("seed {seed}: PANIC {info}\n  repeat: {}", args.command(seed));
    }));
}

fn work(args: &Args, high: u64, start: Instant, shared: &Shared) {
    let wishes = args.wishes();
    let limit = args.time.map(Duration::from_secs);
    loop {
        let late = limit.is_some_and(|limit| start.elapsed() >= limit);
        if late || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= high {
            return;
        }
        SEED.set(seed);
        let options = Options::draw(seed, &wishes);
        let run = if args.level == 1 { run } else { nodes::run };
        let outcome = run(&options, args.log);
        let mut failed = report(args, &outcome);
        if args.twice {
            let again = run(&options, Log::None);
            if again.hash != outcome.hash {
                println!(
                    "seed {seed}: DETERMINISM two runs differ\n  repeat: {} --twice",
                    args.command(seed)
                );
                failed = true;
            }
        }
        shared.runs.fetch_add(1, Ordering::Relaxed);
        if failed {
            shared.failures.fetch_add(1, Ordering::Relaxed);
            shared.stop.fetch_or(!args.keep_going, Ordering::Relaxed);
        }
        if let Ok(mut sum) = shared.sum.lock() {
            sum.0.merge(&outcome.coverage);
            sum.1 += outcome.simulated;
            sum.2 += outcome.events;
        }
    }
}

fn report(args: &Args, outcome: &Outcome) -> bool {
    let Some(violation) = &outcome.violation else { return false };
    println!(
        "seed {}: {:?} violated: {}\n  repeat: {}",
        outcome.seed,
        violation.property,
        violation.text,
        args.command(outcome.seed)
    );
    true
}

fn summarise(low: u64, start: Instant, shared: &Shared) {
    let runs = shared.runs.load(Ordering::Relaxed);
    let failures = shared.failures.load(Ordering::Relaxed);
    let Ok(sum) = shared.sum.lock() else { return };
    print!("{}", sum.0);
    println!(
        "{runs} seeds from {low}, {failures} failed, {} events, {:.0} s simulated in {:.1} s",
        sum.2,
        sum.1.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
}
