//! `tetrarch cluster`: all replicas of a directory as local processes.
//!
//! Owns the children. Always true: when this process ends, however it ends, they end (they watch
//! the pipe they got as standard input). Must not: be used across machines; there each replica is
//! started by its own machine's service manager.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tetrarch_client::cluster::Cluster;

use crate::config::{data_dir, load_replica_file};
use crate::recovery::log_path;
use crate::replica_command::stop_on_signals;
use crate::status::Report;
use crate::{info, log, warning};

/// How often the children are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a child may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before an ended child is started again.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// What to do with the children besides running them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterOptions {
    /// Kill the leader with SIGKILL after this many seconds.
    pub kill_after: Option<u64>,
    /// Start replicas again that end.
    pub restart: bool,
}

struct Replica {
    id: u16,
    child: Option<Child>,
    ended: Option<Instant>,
}

/// Runs every replica of the cluster directory until told to stop.
///
/// # Errors
/// The directory is no cluster, or a process cannot be started.
pub fn run(directory: &Path, options: ClusterOptions) -> Result<()> {
    log::set_speaker("cluster".into());
    let cluster = Cluster::load(directory)?;
    let stop = stop_on_signals()?;
    let mut replicas = Vec::new();
    let ids: Vec<u16> = cluster.members.iter().map(|member| member.id.0).collect();
    // All begin together, so there is nothing that one of them could have forgotten, but what is in logs.
    let mut fresh = true;
    for id in &ids {
        fresh &= !has_log(directory, *id)?;
    }
    for id in ids {
        replicas.push(Replica { id, child: Some(spawn(directory, id, fresh)?), ended: None });
    }
    info!("{} replicas run; end with Ctrl-C, look with `tetrarch status`", replicas.len());
    let mut kill_at =
        options.kill_after.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    while !stop.load(Ordering::Acquire) {
        watch(directory, &mut replicas, options.restart)?;
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            kill_at = None;
            kill_leader(directory, &mut replicas);
        }
        if replicas.iter().all(|replica| replica.child.is_none() && !options.restart) {
            anyhow::bail!("no replica runs any more");
        }
        std::thread::sleep(TICK);
    }
    stop_all(replicas);
    Ok(())
}

/// Does replica `id` have a log to begin with?
fn has_log(directory: &Path, id: u16) -> Result<bool> {
    let (_, file) = load_replica_file(directory, id)?;
    Ok(log_path(&data_dir(directory, &file)).exists())
}

fn spawn(directory: &Path, id: u16, fresh: bool) -> Result<Child> {
    let program = std::env::current_exe().context("this program has no path any more")?;
    let mut command = Command::new(program);
    command.arg("replica").arg(directory).args(["--id", &id.to_string(), "--with-parent"]);
    if fresh {
        command.arg("--fresh");
    }
    command.stdin(Stdio::piped()).spawn().with_context(|| format!("cannot start replica {id}"))
}

/// Notes ends, and starts again what should run.
fn watch(directory: &Path, replicas: &mut [Replica], restart: bool) -> Result<()> {
    for replica in replicas {
        if let Some(child) = &mut replica.child
            && let Some(status) = child.try_wait()?
        {
            let id = replica.id;
            if status.success() {
                info!("replica {id} ended: it is not a member any more, or was told to stop");
                replica.child = None;
                continue;
            }
            warning!("replica {id} ended: {status}");
            if !restart {
                info!("start it again with `tetrarch replica {} --id {id}`", directory.display());
            }
            replica.child = None;
            replica.ended = Some(Instant::now());
        }
        if restart && replica.ended.is_some_and(|ended| ended.elapsed() >= RESTART_AFTER) {
            info!("starting replica {} again", replica.id);
            replica.child = Some(spawn(directory, replica.id, false)?);
            replica.ended = None;
        }
    }
    Ok(())
}

fn kill_leader(directory: &Path, replicas: &mut [Replica]) {
    let leader = match Report::collect(directory) {
        Ok(report) => report
            .replicas
            .iter()
            .filter_map(|entry| entry.status.as_ref())
            .max_by_key(|status| status.regency)
            .map_or(0, |status| status.leader as u16),
        Err(_) => 0,
    };
    for replica in replicas.iter_mut().filter(|replica| replica.id == leader) {
        if let Some(child) = &mut replica.child {
            match child.kill() {
                Ok(()) => warning!("killed the leader, replica {leader}, with SIGKILL"),
                Err(error) => warning!("cannot kill replica {leader}: {error}"),
            }
        }
    }
}

/// Closes the pipes, waits, and kills what does not end.
fn stop_all(mut replicas: Vec<Replica>) {
    info!("stopping");
    for child in replicas.iter_mut().filter_map(|replica| replica.child.as_mut()) {
        drop(child.stdin.take());
    }
    let end = Instant::now() + STOP_TIMEOUT;
    for replica in &mut replicas {
        let Some(child) = &mut replica.child else {
            continue;
        };
        while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(TICK);
        }
        match child.try_wait() {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => warning!("replica {} ended: {status}", replica.id),
            _ => {
                warning!("replica {} does not stop: killed", replica.id);
                // It is gone already, or the system will not let us: nothing more to do.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
