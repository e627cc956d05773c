//! What a replica starts with: nothing, its log, or the knowledge that it forgot.
//!
//! Owns the data directory: the marker that says that the replica ran, and where its log is. Always true: a
//! replica that may have voted before either has the records of it or starts as one without memory;
//! a log that another setting made out of date is never used. Must not: remove a log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tetrarch_consensus::limits::BATCH_SIZE_MAX;
use tetrarch_consensus::record::RECORD_HEAD_SIZE_MAX;
use tetrarch_consensus::smr::RestoreError;
use tetrarch_consensus::{ConsensusId, Lsn, ReplicaId};
use tetrarch_dataplane::storage::file::{Access, FileLog, Opened, Probe};
use tetrarch_dataplane::storage::{self, LogConfig, Owner};
use tetrarch_dataplane::types::Instant;

use crate::node::Node;

/// Name of the file in a data directory that says that the replica ran before.
const MARKER: &str = "ran";
/// Name of the log's directory in a data directory.
const LOG: &str = "log";

/// Bytes that the largest record takes in a group.
pub const LOG_GROUP_SIZE_MIN: usize =
    (BATCH_SIZE_MAX + RECORD_HEAD_SIZE_MAX + 64).next_multiple_of(1024 * 1024);

/// Where a replica's log is, and how it is kept.
#[derive(Clone, Debug)]
pub struct LogPlan {
    /// Its directory.
    pub path: PathBuf,
    /// Sizes.
    pub config: LogConfig,
    /// What reaches the disk.
    pub access: Access,
}

/// How a replica starts.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Without a log. `restarted`: it ran before.
    Volatile {
        /// It has forgotten what it promised.
        restarted: bool,
    },
    /// With a log. `ran`: it ran before.
    Durable {
        /// Where.
        log: LogPlan,
        /// An empty log is one that was lost.
        ran: bool,
    },
}

/// Where the log of a data directory is.
pub fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG)
}

impl Memory {
    /// What the data directory says. `fresh`: forget that the replica ran.
    ///
    /// # Errors
    /// There is a log that must not be used so, or the directory cannot be written.
    pub fn look(data_dir: &Path, log: Option<LogPlan>, fresh: bool) -> Result<Self> {
        let (path, marker) = (log_path(data_dir), data_dir.join(MARKER));
        let has_log = has_segments(&path)?;
        if has_log && fresh {
            bail!(
                "--fresh: {} holds the log of this replica, and what it promised there would be \
                 forgotten; leave --fresh out, or move the log away if the whole cluster begins anew",
                path.display()
            );
        }
        if has_log && log.is_none() {
            bail!(
                "durability = \"volatile\": {} holds a log, which would be out of date afterwards; use \
                 durability = \"durable\", or move the log away: then the replica starts as one without \
                 memory",
                path.display()
            );
        }
        let ran = marker.exists() && !fresh;
        Ok(match log {
            None => {
                note_run(data_dir)?;
                Self::Volatile { restarted: ran }
            }
            Some(log) => Self::Durable { log, ran },
        })
    }
}

fn has_segments(path: &Path) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let entries = fs::read_dir(path).with_context(|| format!("{}: cannot list", path.display()))?;
    let segment = |name: &str| name.ends_with(".segment");
    Ok(entries.flatten().any(|entry| segment(&entry.file_name().to_string_lossy())))
}

/// Remembers that this replica runs now.
fn note_run(data_dir: &Path) -> Result<()> {
    let marker = data_dir.join(MARKER);
    let write = || {
        fs::create_dir_all(data_dir)?;
        fs::write(&marker, "This replica ran.\n")?;
        fs::File::open(&marker)?.sync_all()?;
        fs::File::open(data_dir)?.sync_all()
    };
    write().with_context(|| {
        format!("{}: cannot write; make the data directory writable", marker.display())
    })
}

/// A node's log, in use.
pub struct Recovered {
    /// Its records are gone: it only learns for a while.
    pub lost: bool,
    /// Says what is wrong with it.
    pub probe: Probe,
    /// For people: what was found, and what reaches the disk.
    pub lines: [String; 2],
}

/// Replays the log into `node`, and lets it keep its records there from now on.
///
/// # Errors
/// The log cannot be used.
pub fn recover(
    node: &mut Node,
    (cluster, id): (u64, ReplicaId),
    plan: &LogPlan,
    ran: bool,
    now: Instant,
) -> Result<Recovered> {
    let owner = Owner { cluster, replica: id.0 };
    let mut wrong: Option<(storage::Lsn, RestoreError)> = None;
    let mut each = |lsn, record: &[u8]| {
        if wrong.is_none()
            && let Err(error) = node.restore(now, record)
        {
            wrong = Some((lsn, error));
        }
    };
    let Opened { log, recovered, access } =
        FileLog::open(&plan.path, owner, plan.config, plan.access, &mut each)?;
    let path = plan.path.display();
    if let Some((lsn, error)) = wrong {
        bail!(
            "log {path}: record {lsn} cannot be used: {error}; start with the configuration that made \
             it, or move the log away: then the replica starts as one without memory"
        );
    }
    if recovered.first != storage::Lsn(1) {
        bail!(
            "log {path}: begins with record {}, and this release needs all; put the missing segments \
             back, or move the log away",
            recovered.first
        );
    }
    let empty = recovered.last == storage::Lsn(0);
    let lost = empty && ran;
    let probe = log.probe();
    let watermark = node.keep_records(Box::new(log), lost);
    // The first record says whether this replica has its memory: before it nothing may be promised.
    while watermark.get() < Lsn(1) {
        if let Some(failure) = probe.failure() {
            bail!("{failure}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let data_dir = plan.path.parent().unwrap_or(&plan.path);
    note_run(data_dir)?;
    let found = found(node.core().decided(), &recovered, lost);
    Ok(Recovered { lost, probe, lines: [format!("log {path}: {found}"), access] })
}

fn found(decided: ConsensusId, recovered: &storage::Recovered, lost: bool) -> String {
    let torn = if recovered.torn { ", after an interrupted write" } else { "" };
    match (recovered.last.0, lost) {
        (0, true) => "its records are gone".into(),
        (0, false) => "new".into(),
        (last, _) => {
            format!("{last} records in {} segments, decided {decided}{torn}", recovered.segments)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(data_dir: &Path) -> LogPlan {
        LogPlan { path: log_path(data_dir), config: LogConfig::default(), access: Access::Plain }
    }

    // rule: DUR.5
    #[test]
    fn a_log_is_never_left_behind_and_a_lost_one_is_noticed() {
        let name = format!("tetrarch-recovery-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        let look = |log, fresh| Memory::look(&directory, log, fresh);
        let text = |result: Result<Memory>| result.expect_err("refused").to_string();
        assert!(matches!(look(None, false), Ok(Memory::Volatile { restarted: false })));
        assert!(matches!(look(None, false), Ok(Memory::Volatile { restarted: true })));
        assert!(matches!(look(None, true), Ok(Memory::Volatile { restarted: false })));
        // It ran without a log: an empty log is not all that it promised.
        let durable = look(Some(plan(&directory)), false);
        assert!(matches!(durable, Ok(Memory::Durable { ran: true, .. })));
        let fresh = look(Some(plan(&directory)), true);
        assert!(matches!(fresh, Ok(Memory::Durable { ran: false, .. })));
        fs::create_dir_all(log_path(&directory)).unwrap();
        fs::write(log_path(&directory).join("0000000000000001.segment"), "x").unwrap();
        assert!(text(look(None, false)).contains("durability = \"volatile\""));
        assert!(text(look(Some(plan(&directory)), true)).contains("--fresh"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
