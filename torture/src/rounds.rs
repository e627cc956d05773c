//! The run: rounds of load, kills, recovery and a look at the record.
//!
//! Always true: after each round everybody is quiet, and the record fits what is there. Must not: kill anything but its
//! own replicas.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::audit::Auditor;
use crate::client::{self, Shared};
use crate::cluster::{BAD, Processes, REPLICAS, Shape};
use crate::dice::Dice;

/// Clients that append. Two more audit.
pub const CLIENTS: u32 = 4;
/// Rounds until other lists are used, so that the state stays small.
const PAGE: u32 = 25;
/// Rounds until all replicas have to be level.
const LEVEL: u32 = 8;

/// Rounds that a run has done, and what happened in them.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Rounds that held.
    pub rounds: u32,
    /// Replicas that were killed.
    pub kills: u32,
    /// Rounds in which all were killed at once.
    pub blackouts: u32,
    /// Replicas that were killed while they recovered.
    pub second_kills: u32,
    /// Times that the bad disk was emptied, copied or put back.
    pub spoilt: u32,
}

/// Runs `rounds` rounds on a new cluster in `directory`. `tally` says how far it came, also when it fails.
///
/// # Errors
/// What does not hold, with the round's number.
pub fn run(
    directory: &Path,
    shape: &Shape,
    rounds: u32,
    seed: u64,
    tally: &mut Tally,
) -> Result<Processes> {
    let mut dice = Dice::new(seed);
    let mut processes = Processes::start(directory, shape)?;
    let shared = Shared::new(shape.patience);
    let clients: Vec<_> =
        (0..CLIENTS).map(|index| client::start(directory, index, &shared, dice.fork())).collect();
    let auditor = Auditor::connect(directory, CLIENTS, shape.patience)?;
    let mut result = Ok(());
    while result.is_ok() && tally.rounds < rounds {
        let number = tally.rounds + 1;
        let mut round = Round {
            processes: &mut processes,
            shared: &shared,
            dice: dice.fork(),
            bad_disk: shape.bad_disk,
        };
        result = round.run(number, &auditor, tally);
        if let Some(ended) = clients.iter().position(thread::JoinHandle::is_finished) {
            result = result.and_then(|()| bail!("client {ended} has ended"));
        }
        result = result.map_err(|error| explain(error, directory, &shared));
        result = result.with_context(|| format!("round {number}"));
        tally.rounds += u32::from(result.is_ok());
    }
    // What a client met says more than that it has ended.
    let stopped = client::stop(&shared, clients);
    result.map_err(|error| match stopped {
        Err(met) => error.context(format!("{met:#}")),
        Ok(()) => error,
    })?;
    let (acknowledged, doubted, happened) = shared.history().counts();
    println!(
        "{acknowledged} appends acknowledged; of {doubted} operations without an answer {happened} had happened"
    );
    Ok(processes)
}

/// Who waits in vain may miss what was lost: that says more. The auditor may be one of them, so another one looks.
fn explain(error: anyhow::Error, directory: &Path, shared: &Shared) -> anyhow::Error {
    shared.pause.store(true, Ordering::Release);
    let another = Auditor::connect(directory, CLIENTS + 1, shared.patience);
    match another.and_then(|auditor| auditor.look(shared)) {
        Err(found) => error.context(format!("{found:#}")),
        Ok(()) => error,
    }
}

struct Round<'a> {
    processes: &'a mut Processes,
    shared: &'a Arc<Shared>,
    dice: Dice,
    bad_disk: bool,
}

impl Round<'_> {
    fn run(&mut self, number: u32, auditor: &Auditor, tally: &mut Tally) -> Result<()> {
        self.shared.pause.store(false, Ordering::Release);
        // A burst of kills soon after the last recovery, or one after a while.
        let load = if self.dice.chance(30) { 50 } else { 600 };
        self.sleep(load);
        let victims = self.victims();
        tally.kills += victims.len() as u32;
        tally.blackouts += u32::from(victims.len() == REPLICAS);
        self.kill(&victims)?;
        for &id in &victims {
            if self.dice.chance(50) {
                self.processes.tear_unfinished(id, &mut self.dice)?;
            }
        }
        if self.bad_disk && victims.contains(&BAD) && self.dice.chance(25) {
            tally.spoilt += 1;
            self.processes.spoil_disk(&mut self.dice)?;
        }
        if self.dice.chance(50) {
            self.sleep(300);
        }
        for &id in &victims {
            self.processes.spawn(id)?;
            if self.dice.chance(30) {
                self.sleep(50);
            }
        }
        for &id in &victims {
            if self.dice.chance(20) {
                // It opens its log within a few milliseconds, and links and reads after that.
                let moment = if self.dice.chance(50) { 40 } else { 400 };
                self.sleep(moment);
                tally.second_kills += 1;
                self.processes.kill(id)?;
                self.processes.spawn(id)?;
            }
        }
        self.wait("requests are answered again", |shared, before| {
            shared.ended.load(Ordering::Acquire) > before + 5
        })?;
        self.shared.pause.store(true, Ordering::Release);
        self.wait("all that is in flight is answered", |shared, _| shared.is_quiet())?;
        auditor.look(self.shared)?;
        if number.is_multiple_of(LEVEL) {
            self.processes.wait_until_level(self.shared.patience)?;
        }
        if number.is_multiple_of(PAGE) {
            auditor.turn_page(self.shared)?;
        }
        self.processes.compare_checkpoints()?;
        self.processes.check()
    }

    fn sleep(&mut self, ms_max: u64) {
        thread::sleep(Duration::from_micros(self.dice.below(ms_max * 1000)));
    }

    /// Any of them, and all of them often.
    fn victims(&mut self) -> Vec<usize> {
        let mask = if self.dice.chance(35) { 15 } else { 1 + self.dice.below(15) };
        (0..REPLICAS).filter(|id| mask >> id & 1 == 1).collect()
    }

    fn kill(&mut self, victims: &[usize]) -> Result<()> {
        if self.dice.chance(60) {
            return self.processes.kill_at_once(victims);
        }
        for &id in victims {
            self.sleep(30);
            self.processes.kill(id)?;
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Shared, u64) -> bool) -> Result<()> {
        let before = self.shared.ended.load(Ordering::Acquire);
        let end = Instant::now() + self.shared.patience;
        while !done(self.shared, before) {
            self.processes.check()?;
            if Instant::now() > end {
                bail!("in vain for {:?}: {what}", self.shared.patience);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
