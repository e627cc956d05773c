//! A state that is transferred to a replica while its cluster serves.
//!
//! Three of four replicas are filled with large values; the fourth starts without anything, later than anybody keeps
//! decisions for it. Small writes go on all the time. What is compared is of one run: the rate of the transfer with that
//! of a plain copy of as many bytes between two processes into a file under the same load, the throughput during the transfer
//! with that before it, and the peak of each process's memory with what it needs for its state.

pub mod copy;
mod load;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::local::{LocalCluster, Shape};
use crate::memory::{Memory, forget_peak, peak_mib};
use crate::scrape::Numbers;
use copy::End;
use load::{Load, fill};

const MIB: f64 = (1 << 20) as f64;
/// How often replicas are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Nothing takes longer, unless it does not come to an end.
const LIMIT: Duration = Duration::from_secs(600);
/// So long it may catch up while the others are loaded. Where all share a few cores it may never: the load asks as much
/// of the others as they can do.
const UNDER_LOAD: Duration = Duration::from_secs(5);
/// How long four replicas are loaded before they are measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// The replica that joins.
const JOINER: usize = 3;

/// What to do.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// Bytes of the state, about, MiB; the store takes 2048 at most.
    pub state_mib: usize,
    /// Sessions of small writes.
    pub sessions: u32,
    /// Decisions from one checkpoint to the next.
    pub checkpoint_every: u64,
    /// How long to measure four replicas, and three before the replica joins.
    pub before: Duration,
    /// Do replicas keep logs?
    pub durable: bool,
    /// MiB in a second that a replica sends, 0 for no limit; `None`: the default.
    pub rate_mib: Option<usize>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TransferResult {
    /// MiB of the image that was transferred.
    pub image_mib: f64,
    /// Do replicas keep logs?
    pub durable: bool,
    /// From the beginning until the last chunk was there, and all of it synced if the replica keeps a log, MiB in a second.
    pub rate_mib: f64,
    /// Seconds from the start of the replica until its transfer began.
    pub begin_s: f64,
    /// Seconds from there until all chunks were there.
    pub chunks_s: f64,
    /// Seconds from there until the state was restored.
    pub install_s: f64,
    /// Seconds from there until it had executed as much as the others.
    pub catch_up_s: f64,
    /// Were they loaded until then?
    pub under_load: bool,
    /// A plain copy of as many bytes between two processes into a file, which is synced if replicas keep logs, under
    /// the same load, MiB in a second.
    pub copy_mib: f64,
    /// The transfer's rate beside that.
    pub copy_ratio: f64,
    /// A plain copy whose receiver throws it away.
    pub socket_mib: f64,
    /// The transfer's rate beside that.
    pub socket_ratio: f64,
    /// Answers in a second before the replica joined.
    pub before: f64,
    /// And while chunks came.
    pub during: f64,
    /// The latter beside the former: on a machine that all share, what a fourth replica takes is missing, too.
    pub throughput_ratio: f64,
    /// Answers in a second of four replicas without a large state, just before all of this.
    pub four: f64,
    /// Those while chunks came beside these: what the transfer alone took.
    pub four_ratio: f64,
    /// The longest time without an answer from the start of the replica on, ms.
    pub stall_ms: f64,
    /// MiB that the receiver had resident at most, and at the end.
    pub receiver: Peak,
    /// MiB that each sender had resident at most while chunks came, and before.
    pub senders: Vec<Peak>,
    /// Chunks that came.
    pub chunks: f64,
}

/// Memory of a process, MiB.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Peak {
    /// At most.
    pub peak_mib: f64,
    /// Of which with the state alone.
    pub state_mib: f64,
}

impl Peak {
    /// What there was beside the state.
    pub fn beside_mib(self) -> f64 {
        self.peak_mib - self.state_mib
    }
}

/// Measures.
///
/// # Errors
/// A cluster that does not start, or a transfer that does not come to an end; with what the replica said.
pub fn run(tetrarch: &Path, options: &TransferOptions) -> Result<TransferResult> {
    let four = four(tetrarch, options)?;
    let mut run = Run::prepare(tetrarch, options)?;
    match run.measure(options, four) {
        Ok(result) => Ok(result),
        Err(error) => Err(error.context(run.cluster.log(JOINER as u16))),
    }
}

/// Small writes that four replicas answer in a second.
fn four(tetrarch: &Path, options: &TransferOptions) -> Result<f64> {
    let mut run = Run::make(tetrarch, options)?;
    (0..4).try_for_each(|_| run.cluster.start_next())?;
    (0..4).try_for_each(|id| run.cluster.wait(id))?;
    let load = Load::start(&run.cluster.path(), options.sessions)?;
    sleep(WARM_UP);
    let rate = load.rate_over(options.before);
    load.stop()?;
    Ok(rate)
}

struct Run {
    cluster: LocalCluster,
}

impl Run {
    /// Replicas that are not started yet.
    fn make(tetrarch: &Path, options: &TransferOptions) -> Result<Self> {
        let shape = Shape { replicas: 4, crash_only: false };
        // The generator and the filling are clients of their own.
        let mut init: Vec<String> = ["--service", "kv", "--clients", "2"].map(Into::into).into();
        if options.durable {
            init.push("--durable".into());
        }
        init.extend(["--checkpoint-every".into(), options.checkpoint_every.to_string()]);
        let cluster = LocalCluster::make(tetrarch, shape, &init)?;
        // Less than the state, so that it has to come as a checkpoint.
        let kept = format!("decision_log_mib = {}", (options.state_mib / 4).clamp(3, 64));
        for id in 0..4 {
            let file = cluster.path().join(format!("replica-{id}.toml"));
            edit(&file, "decision_log_mib = 64", &kept)?;
            if let Some(rate) = options.rate_mib {
                let section =
                    format!("[transfer]\nrate_mib = {rate}\npeer_rate_mib = {rate}\n\n[placement]");
                edit(&file, "[placement]", &section)?;
            }
        }
        Ok(Self { cluster })
    }

    fn prepare(tetrarch: &Path, options: &TransferOptions) -> Result<Self> {
        let mut run = Self::make(tetrarch, options)?;
        (0..JOINER).try_for_each(|_| run.cluster.start_next())?;
        (0..JOINER).try_for_each(|id| run.cluster.wait(id as u16))?;
        Ok(run)
    }

    fn numbers(&self, id: usize) -> Result<Numbers> {
        Numbers::read(self.cluster.metrics()[id])
    }

    /// Until `done` says so of the numbers of replica `id`.
    fn until(&self, id: usize, what: &str, done: impl Fn(&Numbers) -> bool) -> Result<Numbers> {
        let end = Instant::now() + LIMIT;
        loop {
            let numbers = self.numbers(id)?;
            if done(&numbers) {
                return Ok(numbers);
            }
            if Instant::now() > end {
                bail!("replica {id}: {what}: not after {} s", LIMIT.as_secs());
            }
            sleep(TICK);
        }
    }

    fn measure(&mut self, options: &TransferOptions, four: f64) -> Result<TransferResult> {
        fill(&self.cluster.path(), options.state_mib << 20)?;
        let load = Load::start(&self.cluster.path(), options.sessions)?;
        let whole = options.state_mib as f64 * MIB * 0.9;
        for id in 0..JOINER {
            self.until(id, "a checkpoint of the whole state", |numbers| {
                numbers.get("checkpoint_size") >= whole
            })?;
        }
        let before = load.rate_over(options.before);
        let directory = self.cluster.path();
        let into = if options.durable { End::Synced(&directory) } else { End::Written(&directory) };
        let copied = copy::rate(options.state_mib << 20, into)?;
        let thrown_away = copy::rate(options.state_mib << 20, End::Dropped)?;
        let senders = self.cluster.pids();
        let resident = Memory::of(&senders).now();
        if !senders.iter().all(|pid| forget_peak(*pid)) {
            bail!("/proc/PID/clear_refs cannot be written: peaks of memory would say nothing");
        }
        load.forget_stall();
        let start = Instant::now();
        self.cluster.start_next()?;
        self.cluster.wait(JOINER as u16)?;
        let is_begun = |numbers: &Numbers| numbers.get("transfer_chunks_all") > 0.0;
        let chunks = self.until(JOINER, "a transfer", is_begun)?.get("transfer_chunks_all");
        let (begun, answered) = (Instant::now(), load.answered());
        self.until(JOINER, "all chunks", |numbers| {
            numbers.get("transfers") > 0.0
                || numbers.get("transfer_chunks") == numbers.get("transfer_chunks_all")
        })?;
        let (fetched, during) = (Instant::now(), load.answered() - answered);
        let senders_peak: Vec<f64> = senders.iter().map(|pid| peak_mib(*pid)).collect();
        let last = self.until(JOINER, "installed", |numbers| numbers.get("transfers") > 0.0)?;
        let installed = Instant::now();
        let under_load = self.catch_up(UNDER_LOAD)?;
        let stall = load.stall();
        load.stop()?;
        if !under_load && !self.catch_up(LIMIT)? {
            bail!("replica {JOINER} did not catch up");
        }
        let caught_up = Instant::now();
        let receiver = *self.cluster.pids().last().context("it was started")?;
        let image_mib = chunks * f64::from(1 << 18) / MIB;
        let chunks_s = (fetched - begun).as_secs_f64();
        // Between the two the file is synced, and the state restored.
        let restored_s = last.get("transfer_install_ns") / 1e9;
        let rate_mib = image_mib / ((installed - begun).as_secs_f64() - restored_s).max(chunks_s);
        let during = during as f64 / chunks_s;
        Ok(TransferResult {
            image_mib,
            durable: options.durable,
            rate_mib,
            begin_s: (begun - start).as_secs_f64(),
            chunks_s,
            install_s: (installed - fetched).as_secs_f64(),
            catch_up_s: (caught_up - installed).as_secs_f64(),
            under_load,
            copy_mib: copied,
            copy_ratio: rate_mib / copied,
            socket_mib: thrown_away,
            socket_ratio: rate_mib / thrown_away,
            before,
            during,
            throughput_ratio: during / before,
            four,
            four_ratio: during / four.max(1e-9),
            stall_ms: stall.as_secs_f64() * 1000.0,
            receiver: Peak {
                peak_mib: peak_mib(receiver),
                state_mib: Memory::of(&[receiver]).now()[0],
            },
            senders: senders_peak
                .iter()
                .zip(resident)
                .map(|(peak, state_mib)| Peak { peak_mib: *peak, state_mib })
                .collect(),
            chunks,
        })
    }

    /// Until the one that joined has executed what the others have, or nearly. `false`: not within `limit`.
    fn catch_up(&self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let (others, own) = (self.numbers(0)?, self.numbers(JOINER)?);
            if own.get("executed") + 8.0 >= others.get("executed") {
                return Ok(true);
            }
            sleep(TICK);
        }
        Ok(false)
    }
}

fn edit(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    if !text.contains(from) {
        bail!("{}: {from:?} is not there", file.display());
    }
    Ok(fs::write(file, text.replacen(from, to, 1))?)
}
