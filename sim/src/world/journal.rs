//! A member's log: the real one, over a disk in memory that fails.
//!
//! Owns what is written when, what a crash leaves and what a disk does wrong. Always true: records go through the
//! code that writes and recovers a replica's own log, so both are tested together with the protocol; what
//! a good disk was asked to keep is there after any crash, or the run fails. Must not: know what a record means.

use std::collections::VecDeque;

use tetrarch_consensus::{ConsensusId, Lsn};
use tetrarch_dataplane::storage::fault::{Fault, FaultDisk};
use tetrarch_dataplane::storage::memory::{MemoryLog, Pace};
use tetrarch_dataplane::storage::{self, LogConfig, Owner, Storage};

use super::checkpoint::Checkpoint;
use super::disk::Held;
use crate::disks;
use crate::rng::Rng;

/// What a disk does to its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It keeps what it reported durable. It may still be full, or fail with an error.
    Good,
    /// It loses, misplaces and changes what was written, and gives back what was there before.
    Bad,
}

/// One core's log, if it keeps one; its checkpoints, and what waits for them.
#[derive(Default)]
pub(super) struct Journal {
    log: Option<MemoryLog>,
    disk: FaultDisk,
    /// Appended while a write was under way.
    waiting: VecDeque<Vec<u8>>,
    appended: Lsn,
    /// What the write that is under way covers.
    handed_over: Lsn,
    pub(super) synced: u64,
    pub(super) writing: bool,
    /// Nothing before this is needed.
    needed_from: Lsn,
    pub(super) held: VecDeque<(Lsn, Held)>,
    /// Those that are durable, the newest last, and one that is being written.
    pub(super) checkpoints: VecDeque<Checkpoint>,
    pub(super) unfinished: Option<Checkpoint>,
    /// The base of the last one that was given up.
    pub(super) before: Option<Lsn>,
    /// The last one that the core was told of.
    pub(super) told: ConsensusId,
}

/// What a member that is down has on its disk, and what it may rely on.
pub(super) struct Stored {
    disk: FaultDisk,
    synced: u64,
    appended: Lsn,
    needed_from: Lsn,
    checkpoints: VecDeque<Checkpoint>,
}

/// What a log holds.
pub(super) struct Disk {
    pub(super) dropped: u64,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) checkpoints: VecDeque<Checkpoint>,
}

impl Journal {
    /// An empty log on a new disk of member `member`.
    pub(super) fn new(member: usize, config: LogConfig, kind: Kind) -> Self {
        let disk = FaultDisk::default();
        disk.remember(kind == Kind::Bad);
        let opened = open(&disk, member, config, &mut |_| {});
        let (log, _) = opened.expect("a new disk holds nothing that could be wrong");
        Self::on(disk, log, Lsn(0), Lsn(1), VecDeque::new())
    }

    fn on(
        disk: FaultDisk,
        log: MemoryLog,
        last: Lsn,
        needed_from: Lsn,
        checkpoints: VecDeque<Checkpoint>,
    ) -> Self {
        Self {
            log: Some(log),
            disk,
            waiting: VecDeque::new(),
            appended: last,
            handed_over: last,
            synced: last.0,
            writing: false,
            needed_from,
            held: VecDeque::new(),
            checkpoints,
            unfinished: None,
            before: None,
            told: ConsensusId(0),
        }
    }

    /// The last record that was appended.
    pub(super) fn last(&self) -> Lsn {
        self.appended
    }

    /// Appends a record.
    pub(super) fn push(&mut self, record: Vec<u8>) {
        self.appended.0 += 1;
        self.waiting.push_back(record);
    }

    /// Hands over as much as fits one write. Up to where; `None`: the next record fits none.
    pub(super) fn hand_over(&mut self) -> Option<Lsn> {
        let log = self.log.as_mut()?;
        while let Some(record) = self.waiting.front()
            && record.len() <= log.room()
        {
            self.handed_over.0 += 1;
            log.append(storage::Lsn(self.handed_over.0), &[record]);
            self.waiting.pop_front();
        }
        self.writing = self.handed_over.0 > self.synced;
        self.writing.then_some(self.handed_over)
    }

    /// The write that is under way is done.
    ///
    /// # Errors
    /// The log has failed: in words.
    pub(super) fn complete(&mut self) -> Result<(), String> {
        self.writing = false;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.complete();
        if let Some(failure) = log.failure() {
            return Err(failure.to_string());
        }
        self.synced = log.durable().0;
        Ok(())
    }

    /// Gives up records before `base`. Returns whether that gave back any of the disk.
    pub(super) fn drop_before(&mut self, base: Lsn) -> bool {
        self.needed_from = self.needed_from.max(base);
        let Some(log) = &mut self.log else { return false };
        let before = log.counts().first;
        log.truncate(storage::Lsn(base.0));
        log.counts().first > before
    }

    /// The next write goes wrong.
    pub(super) fn inject(&self, fault: Fault) {
        self.disk.inject(&[fault]);
    }

    /// Does it keep records at all?
    pub(super) fn is_kept(&self) -> bool {
        self.log.is_some()
    }

    /// Records that wait for a write, the one that is under way included.
    pub(super) fn unsynced(&self) -> u64 {
        self.appended.0 - self.synced
    }

    /// The member goes down, in the middle of a write if one is under way.
    pub(super) fn lose_power(mut self, rng: &mut Rng) -> Stored {
        if let Some(log) = self.log.as_mut().filter(|_| self.writing) {
            disks::interrupt(log, &self.disk, rng);
        }
        self.log = None;
        self.disk.crash(&mut || rng.next());
        Stored {
            disk: self.disk,
            synced: self.synced,
            appended: self.handed_over,
            needed_from: self.needed_from,
            checkpoints: self.checkpoints,
        }
    }
}

impl Stored {
    /// Checkpoints, to be damaged.
    pub(super) fn checkpoints(&mut self) -> &mut VecDeque<Checkpoint> {
        &mut self.checkpoints
    }

    /// As it is now, to be put back later.
    pub(super) fn copy(&self) -> Self {
        Self { disk: self.disk.copy(), checkpoints: self.checkpoints.clone(), ..*self }
    }

    /// A bad disk changes a byte somewhere. Is there anything?
    pub(super) fn corrupt(&self, rng: &mut Rng) -> bool {
        disks::corrupt(&self.disk, rng)
    }

    /// Some reads see what was there before.
    pub(super) fn read_stale(&self, rng: &mut Rng) {
        self.disk.read_before(rng.next());
    }

    /// Recovers the log of member `member`.
    ///
    /// # Errors
    /// It cannot be used, in words.
    pub(super) fn recover(self, member: usize, config: LogConfig) -> Result<Recovery, String> {
        let mut records = Vec::new();
        let mut each = |record: &[u8]| records.push(record.to_vec());
        let opened = open(&self.disk, member, config, &mut each);
        let (log, recovered) = opened.map_err(|error| error.to_string())?;
        let (first, last) = (recovered.first.0, recovered.last.0);
        let keeps = first <= self.needed_from.0 && (self.synced..=self.appended.0).contains(&last);
        let wrong = (!keeps).then(|| {
            format!(
                "records {first} to {last} are there; from {} on they were needed, up to {} synced, up to {} written",
                self.needed_from, self.synced, self.appended
            )
        });
        self.disk.read_all();
        let found = Disk { dropped: first - 1, records, checkpoints: self.checkpoints };
        let (first, last) = (Lsn(first), Lsn(last));
        Ok(Recovery { found, wrong, log, disk: self.disk, first, last })
    }
}

/// A log that was recovered.
pub(super) struct Recovery {
    /// What it holds.
    pub(super) found: Disk,
    /// What should be there and is not, or is and should not.
    pub(super) wrong: Option<String>,
    log: MemoryLog,
    disk: FaultDisk,
    first: Lsn,
    last: Lsn,
}

impl Recovery {
    /// The log, to go on with.
    pub(super) fn go_on(self) -> Journal {
        let Self { found, log, disk, first, last, .. } = self;
        Journal::on(disk, log, last, first, found.checkpoints)
    }
}

fn open(
    disk: &FaultDisk,
    member: usize,
    config: LogConfig,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(MemoryLog, storage::Recovered), storage::StorageError> {
    let owner = Owner { cluster: 1, replica: member as u16 };
    MemoryLog::open(disk.directory(), owner, config, Pace::Stepwise, &mut |_, record| each(record))
}
