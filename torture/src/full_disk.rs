//! A disk that becomes full, as its operator meets it.
//!
//! Always true: the replica ends by itself, says what is full and what to do, and the others go on; with room it
//! comes back and catches up. Must not: need more than a directory on a small file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::audit::Auditor;
use crate::client::{self, Shared};
use crate::cluster::{Processes, Shape};
use crate::dice::Dice;
use crate::rounds::CLIENTS;

/// Who has the small disk.
const ID: usize = 3;
/// What takes its room at first: less than is left for the log.
const FILLER: &str = "filler";
const FILLER_SIZE: usize = 24 << 20;

/// Runs a cluster in `directory`, one replica of which keeps its log in `small`: a directory on a file system with room
/// for about two segments more than the filler.
///
/// # Errors
/// What is not as it should be.
pub fn run(directory: &Path, small: &Path, shape: &Shape) -> Result<Processes> {
    let filler = small.join(FILLER);
    fs::write(&filler, vec![1; FILLER_SIZE])
        .with_context(|| format!("{}: too small", small.display()))?;
    let mut processes = Processes::make(directory, shape)?;
    symlink(small, directory.join(format!("replica-{ID}.data")))?;
    processes.spawn_all()?;
    let shared = Shared::new(shape.patience);
    let mut dice = Dice::new(1);
    let clients: Vec<_> =
        (0..CLIENTS).map(|index| client::start(directory, index, &shared, dice.fork())).collect();
    let auditor = Auditor::connect(directory, CLIENTS, shape.patience)?;
    shared.pause.store(false, Ordering::Release);
    let end = Instant::now() + shape.patience;
    let (status, lines) = wait_for_end(&mut processes, end)?;
    for words in ["the disk is full", "make room, then start the replica again", ".data/log/"] {
        if !lines.contains(words) {
            bail!("replica {ID} ended without saying {words:?}:\n{lines}");
        }
    }
    if status.success() {
        bail!("replica {ID} ended as if nothing had happened");
    }
    println!("replica {ID} ended: {}", lines.lines().last().unwrap_or_default());
    let before = shared.ended.load(Ordering::Acquire);
    while shared.ended.load(Ordering::Acquire) < before + 200 {
        processes.check()?;
        if Instant::now() > end {
            bail!("the others do not go on");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Without room it does not start either, and says the same.
    processes.spawn(ID)?;
    let (status, lines) = wait_for_end(&mut processes, end)?;
    if status.success() || !lines.contains("the disk is full") {
        bail!("replica {ID}, started on a full disk, ended with {status}:\n{lines}");
    }
    fs::remove_file(&filler)?;
    processes.spawn(ID)?;
    std::thread::sleep(Duration::from_millis(500));
    shared.pause.store(true, Ordering::Release);
    while !shared.is_quiet() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    processes.wait_until_level(shape.patience)?;
    auditor.look(&shared)?;
    client::stop(&shared, clients)?;
    processes.check()?;
    println!("replica {ID} came back with room, and caught up");
    Ok(processes)
}

fn wait_for_end(processes: &mut Processes, end: Instant) -> Result<(ExitStatus, String)> {
    loop {
        if let Some(ended) = processes.take_ended(ID)? {
            return Ok(ended);
        }
        if Instant::now() > end {
            bail!("the disk is not full, or replica {ID} goes on with it");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
