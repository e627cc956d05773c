//! What a replica starts with: nothing, its log, or the knowledge that it forgot.
//!
//! Owns the data directory: the marker that says that the replica ran, and where its log is. Always true: a
//! replica that may have voted before either has the records of it or starts as one without memory;
//! a log that another setting made out of date is never used. Must not: remove a log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tetrarch_client::cluster::ClusterError;
use tetrarch_consensus::limits::{BATCH_SIZE_MAX, CHUNK_RATE};
use tetrarch_consensus::record::{RECORD_HEAD_SIZE_MAX, transferred};
use tetrarch_consensus::{ConsensusId, Digest, Lsn, spec};
use tetrarch_dataplane::storage::file::{Access, FileLog, Opened, Probe};
use tetrarch_dataplane::storage::{self, LogConfig, Owner};
use tetrarch_dataplane::types::Instant;

use crate::checkpoint::Position;
use crate::checkpoint::file::{CheckpointFile, FileError, Header};
use crate::checkpoint::image::{self, ImageError};
use crate::checkpoint::keeping::{Keeper, Keeping};
use crate::checkpoint::shelf::Shelf;
use crate::checkpoint::store::{self, Store};
use crate::checkpoint::transfer::Rates;
use crate::checkpoint::transfer::partial::Partial;
use crate::metrics::Metrics;
use crate::node::{BeginError, Node};
use crate::stage::records::Watermark;

/// Name of the file in a data directory that says that the replica ran before.
const MARKER: &str = "ran";
/// Name of the log's directory in a data directory.
const LOG: &str = "log";
/// Name of the directory of checkpoints.
const CHECKPOINTS: &str = "checkpoints";

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
    /// Its checkpoints.
    pub checkpoints: CheckpointPlan,
}

/// Where a replica's checkpoints are.
#[derive(Clone, Debug)]
pub struct CheckpointPlan {
    /// Their directory.
    pub path: PathBuf,
    /// What taking one may stop execution for before operators are told.
    pub pause_max: Duration,
    /// How fast others get their chunks.
    pub rates: Rates,
}

impl CheckpointPlan {
    /// The defaults, in this directory.
    pub fn new(path: PathBuf) -> Self {
        let rates = Rates { all: CHUNK_RATE, each: CHUNK_RATE };
        Self { path, pause_max: Duration::from_secs(1), rates }
    }
}

/// How a replica starts.
#[derive(Clone, Debug)]
pub enum Memory {
    /// Without a log. `restarted`: it ran before.
    Volatile {
        /// It has forgotten what it promised.
        restarted: bool,
        /// Its checkpoints, for others; `None`: it takes none.
        checkpoints: Option<CheckpointPlan>,
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

/// Where the checkpoints of a data directory are.
pub fn checkpoints_path(data_dir: &Path) -> PathBuf {
    data_dir.join(CHECKPOINTS)
}

impl Memory {
    /// What the data directory says. `fresh`: forget that the replica ran.
    ///
    /// # Errors
    /// There is a log that must not be used so, or the directory cannot be written.
    pub fn look(
        data_dir: &Path,
        log: Option<LogPlan>,
        checkpoints: CheckpointPlan,
        fresh: bool,
    ) -> Result<Self> {
        let (path, marker) = (log_path(data_dir), data_dir.join(MARKER));
        let has_log = has_log(&path)?;
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
                Self::Volatile { restarted: ran, checkpoints: Some(checkpoints) }
            }
            Some(log) => Self::Durable { log, ran },
        })
    }
}

/// Is there a log at `path`?
///
/// # Errors
/// The directory cannot be listed.
pub fn has_log(path: &Path) -> Result<bool, ClusterError> {
    if !path.exists() {
        return Ok(false);
    }
    let entries = fs::read_dir(path).map_err(|error| {
        let problem = format!("cannot list: {error}");
        let remedy = "make it readable for the user that runs the replica";
        ClusterError::new(path, "", "", problem, remedy)
    })?;
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
    pub lines: Vec<String>,
    /// For people who should look.
    pub warnings: Vec<String>,
    /// Works with checkpoints as long as this lives, if they are taken.
    pub checkpoints: Option<Keeping>,
}

/// Begins with the newest checkpoint that can be used, replays the log behind it into `node`, and lets it
/// keep its records and checkpoints there from now on.
///
/// # Errors
/// The log cannot be used.
pub fn recover(
    node: &mut Node,
    owner: Owner,
    plan: &LogPlan,
    ran: bool,
    now: Instant,
    metrics: Arc<Metrics>,
) -> Result<Recovered> {
    let store = Store::new(plan.checkpoints.path.clone());
    let mut warnings = Vec::new();
    let (opened, begun) = replay(node, owner, plan, &store, now, &mut warnings)?;
    let Opened { log, recovered, access } = opened;
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
    let newest = begun.as_ref().map(|file| file.header.position);
    let found = found(node.core().decided(), newest, &recovered, lost);
    let lines = vec![format!("log {}: {found}", plan.path.display()), access];
    let shelf = Arc::new(Shelf::default());
    if let Some(file) = begun {
        spec!("CKP.3");
        let older = store.before(owner, file.header.position.cid)?;
        older.into_iter().chain([file]).for_each(|file| shelf.begin_with(file));
    }
    let log = (watermark, Some(probe.clone()));
    let rates = plan.checkpoints.rates;
    let keeper = Keeper { store, owner, shelf, log, rates, pause_max: plan.checkpoints.pause_max };
    let checkpoints = keeper.start(node, metrics)?;
    Ok(Recovered { lost, probe, lines, warnings, checkpoints })
}

/// Lets a volatile node take checkpoints, for others.
///
/// # Errors
/// The system refuses a thread.
pub fn keep_for_others(
    node: &mut Node,
    owner: Owner,
    plan: &CheckpointPlan,
    metrics: Arc<Metrics>,
) -> Result<Option<Keeping>> {
    let store = Store::unnamed(plan.path.clone());
    let (shelf, log) = (Arc::new(Shelf::default()), (Watermark::volatile(), None));
    let (rates, pause_max) = (plan.rates, plan.pause_max);
    Keeper { store, owner, shelf, log, rates, pause_max }.start(node, metrics)
}

/// Replays the log, from the newest checkpoint on that holds and has its base there. Those that cannot be
/// used lose their names.
fn replay(
    node: &mut Node,
    owner: Owner,
    plan: &LogPlan,
    store: &Store,
    now: Instant,
    warnings: &mut Vec<String>,
) -> Result<(Opened, Option<CheckpointFile>)> {
    spec!("CKP.4", "CKP.5");
    let path = plan.path.display();
    let mut candidates = Candidates::list(store, owner)?;
    loop {
        let candidate = candidates.next(warnings)?;
        let mut replay = Replay {
            node: &mut *node,
            now,
            from: candidate.as_ref().map(Candidate::file),
            base: Lsn(0),
            started: false,
            headless: false,
            wrong: None,
        };
        let mut each = |lsn: storage::Lsn, record: &[u8]| replay.record(lsn, record);
        let opened = FileLog::open(&plan.path, owner, plan.config, plan.access, &mut each)?;
        if let Some(wrong) = replay.wrong {
            bail!(
                "log {path}: {wrong}; start with the configuration that made it, or move the log away: then \
                 the replica starts as one without memory"
            );
        }
        let (begun, base) = (replay.from.is_none(), replay.base);
        let storage::Recovered { first, last, .. } = opened.recovered;
        match candidate {
            Some(Candidate::Named(file)) if begun => return Ok((opened, Some(file))),
            // What was interrupted between the record and the name.
            Some(Candidate::Fetched(image)) if begun => {
                return Ok((opened, Some(image.adopt(base)?)));
            }
            // It was not installed, and a transfer can go on with it.
            Some(Candidate::Fetched(_)) => node.forget_passed_over(),
            Some(Candidate::Named(file)) => {
                warnings.push(format!(
                    "checkpoint {}: cannot be used: its base, record {}, is not in the log, which ends with \
                     record {last}; it is set aside",
                    file.path().display(),
                    file.header.position.base
                ));
                store.set_aside(file.path())?;
                node.forget_passed_over();
            }
            None if first == storage::Lsn(1) => return Ok((opened, None)),
            None => bail!(
                "log {path}: begins with record {first}, and there is no checkpoint in {} that could be used \
                 in place of those before it; put a whole one back, or move the log away: then the replica \
                 starts as one without memory",
                store.path().display()
            ),
        }
    }
}

/// What a replay could begin with.
enum Candidate {
    /// A checkpoint of this replica.
    Named(CheckpointFile),
    /// A whole image of others. It is a checkpoint if there is a record that it was installed.
    Fetched(Partial),
}

impl Candidate {
    fn file(&self) -> &CheckpointFile {
        match self {
            Self::Named(file) => file,
            Self::Fetched(image) => image.file(),
        }
    }
}

/// Those that are not tried yet, the newest first.
struct Candidates<'a> {
    store: &'a Store,
    owner: Owner,
    fetched: Option<Partial>,
    named: std::vec::IntoIter<PathBuf>,
}

impl<'a> Candidates<'a> {
    fn list(store: &'a Store, owner: Owner) -> Result<Self, FileError> {
        let named = store.list()?.into_iter();
        let fetched = Partial::find_whole(store, owner);
        // An older one was overtaken by the checkpoints of this replica.
        let newest = named.as_slice().first().and_then(|path| store::number(path));
        let fetched = fetched.filter(|image| newest.is_none_or(|it| it < image.target().cid.0));
        Ok(Self { store, owner, fetched, named })
    }

    /// The next one that holds. Named ones before it that do not lose their names.
    fn next(&mut self, warnings: &mut Vec<String>) -> Result<Option<Candidate>> {
        if let Some(mut image) = self.fetched.take() {
            // Nothing of it was looked at since it was written.
            match image.file().verify().and_then(|()| image.complete()) {
                Ok(()) => return Ok(Some(Candidate::Fetched(image))),
                Err(error) => warnings
                    .push(format!("{error}; the others have to send what does not hold again")),
            }
        }
        for path in self.named.by_ref() {
            let opened = CheckpointFile::open(&path, self.owner);
            match opened.and_then(|file| file.verify().map(|()| file)) {
                Ok(file) => return Ok(Some(Candidate::Named(file))),
                Err(error @ FileError::Damaged { .. }) => {
                    warnings.push(format!("{error}; it is set aside, and the one before it used"));
                    self.store.set_aside(&path)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// A replay in progress.
struct Replay<'a> {
    node: &'a mut Node,
    now: Instant,
    /// Begin with this checkpoint, when its base comes.
    from: Option<&'a CheckpointFile>,
    /// That base.
    base: Lsn,
    /// A record has come.
    started: bool,
    /// There is no checkpoint, and the first records are missing.
    headless: bool,
    wrong: Option<String>,
}

impl Replay<'_> {
    fn record(&mut self, lsn: storage::Lsn, record: &[u8]) {
        let first = !std::mem::replace(&mut self.started, true);
        self.headless |= first && self.from.is_none() && lsn != storage::Lsn(1);
        if self.wrong.is_some() || self.headless {
            return;
        }
        let done = match self.from {
            None => self.node.restore(self.now, record).map_err(|error| error.to_string()),
            Some(file) if is_base(file, lsn, record) => {
                (self.from, self.base) = (None, Lsn(lsn.0));
                let begun = begin_at(self.node, self.now, file, record);
                begun.map_err(|error| format!("checkpoint {}: {error}", file.path().display()))
            }
            // Behind the base, if the log begins there: that is found out at its end.
            Some(_) => self.node.pass_over(record).map_err(|error| error.to_string()),
        };
        if let Err(error) = done {
            self.wrong = Some(format!("record {lsn} cannot be used: {error}"));
        }
    }
}

/// Does a replay from this checkpoint begin with this record? One that was fetched and did not get its name knows
/// no number.
pub(crate) fn is_base(file: &CheckpointFile, lsn: storage::Lsn, record: &[u8]) -> bool {
    spec!("ST.5");
    let Header { position, root, .. } = file.header;
    match position.base {
        Lsn(0) => transferred(record) == Some((position.cid, Digest(root))),
        base => lsn.0 == base.0,
    }
}

fn begin_at(
    node: &mut Node,
    now: Instant,
    file: &CheckpointFile,
    base: &[u8],
) -> Result<(), BeginError> {
    let from = file.image().map_err(ImageError::from)?;
    node.begin_at(now, image::Reader::new(from, file.header.size), base)
}

fn found(
    decided: ConsensusId,
    newest: Option<Position>,
    recovered: &storage::Recovered,
    lost: bool,
) -> String {
    let torn = if recovered.torn { ", after an interrupted write" } else { "" };
    let from = match newest {
        Some(position) => format!(" from checkpoint {} on", position.cid),
        None => String::new(),
    };
    match (recovered.last.0, lost) {
        (0, true) => "its records are gone".into(),
        (0, false) => "new".into(),
        (last, _) => format!(
            "{} records in {} segments, decided {decided}{from}{torn}",
            last + 1 - recovered.first.0,
            recovered.segments
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(data_dir: &Path) -> LogPlan {
        let path = checkpoints_path(data_dir);
        let checkpoints = CheckpointPlan::new(path);
        let (path, config) = (log_path(data_dir), LogConfig::default());
        LogPlan { path, config, access: Access::Plain, checkpoints }
    }

    // rule: DUR.5
    #[test]
    fn a_log_is_never_left_behind_and_a_lost_one_is_noticed() {
        let name = format!("tetrarch-recovery-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        let checkpoints = CheckpointPlan::new(checkpoints_path(&directory));
        let look = |log, fresh| Memory::look(&directory, log, checkpoints.clone(), fresh);
        let text = |result: Result<Memory>| result.expect_err("refused").to_string();
        assert!(matches!(look(None, false), Ok(Memory::Volatile { restarted: false, .. })));
        assert!(matches!(look(None, false), Ok(Memory::Volatile { restarted: true, .. })));
        assert!(matches!(look(None, true), Ok(Memory::Volatile { restarted: false, .. })));
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
