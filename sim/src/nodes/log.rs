//! The log of a node at level 2: the real one over a disk in memory, with the simulator at its other end.
//!
//! Owns the node's end, which never waits, and the seat's end, which says when a write is done and what a crash
//! leaves. Always true: what is appended is durable when the seat's end says so, and not before. Must not:
//! know what a record means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::storage::fault::{Fault, FaultDisk};
use tetrarch_dataplane::storage::memory::{MemoryLog, Pace};
use tetrarch_dataplane::storage::{
    LogConfig, Lsn, Owner, Recovered, Storage, StorageCounts, StorageError,
};

use crate::disks;
use crate::rng::Rng;

struct Shared {
    log: MemoryLog,
    appended: Lsn,
    /// What the node takes for durable.
    told: Arc<AtomicU64>,
    /// It takes everything for durable.
    careless: bool,
}

/// The node's end.
struct NodeLog(Arc<Mutex<Shared>>);

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for NodeLog {
    fn room(&self) -> usize {
        lock(&self.0).log.room()
    }

    fn append(&mut self, lsn: Lsn, parts: &[&[u8]]) {
        let mut shared = lock(&self.0);
        shared.log.append(lsn, parts);
        shared.appended = lsn;
    }

    fn flush(&mut self) {
        let shared = lock(&self.0);
        if shared.careless {
            shared.told.store(shared.appended.0, Ordering::Release);
        }
    }

    fn durable(&mut self) -> Lsn {
        Lsn(lock(&self.0).told.load(Ordering::Acquire))
    }

    fn watermark(&self) -> Arc<AtomicU64> {
        Arc::clone(&lock(&self.0).told)
    }

    fn failure(&self) -> Option<Arc<StorageError>> {
        lock(&self.0).log.failure()
    }

    fn truncate(&mut self, below: Lsn) {
        lock(&self.0).log.truncate(below);
    }

    fn wake(&mut self, waker: Waker) {
        lock(&self.0).log.wake(waker);
    }

    fn counts(&self) -> StorageCounts {
        lock(&self.0).log.counts()
    }
}

/// The seat's end of the log of a node that runs.
pub struct SeatLog {
    disk: FaultDisk,
    shared: Arc<Mutex<Shared>>,
    /// A write is under way.
    pub writing: bool,
}

/// A disk, and what its log has to hold. The default is a new one.
#[derive(Default)]
pub struct Stored {
    disk: FaultDisk,
    synced: Lsn,
    appended: Lsn,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "a log synced up to {} and written up to {}", self.synced, self.appended)
    }
}

impl Stored {
    /// Was nothing ever written there?
    pub fn is_new(&self) -> bool {
        self.appended == Lsn(0)
    }

    /// A bad disk changes a byte of it.
    pub fn corrupt(&self, rng: &mut Rng) -> bool {
        disks::corrupt(&self.disk, rng)
    }

    /// Opens the log of `member`: the seat's end, the node's, and what was found. `each` sees every record.
    ///
    /// # Errors
    /// It cannot be used, in words.
    pub fn open(
        &self,
        member: u16,
        config: LogConfig,
        careless: bool,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(SeatLog, Box<dyn Storage>, Recovered), String> {
        let owner = Owner { cluster: 1, replica: member };
        let directory = self.disk.directory();
        let opened = MemoryLog::open(directory, owner, config, Pace::Stepwise, &mut |_, record| {
            each(record)
        });
        let (log, recovered) = opened.map_err(|error| error.to_string())?;
        let (appended, told) = (recovered.last, Arc::new(AtomicU64::new(recovered.last.0)));
        let shared = Arc::new(Mutex::new(Shared { log, appended, told, careless }));
        let seat = SeatLog { disk: self.disk.clone(), shared: Arc::clone(&shared), writing: false };
        Ok((seat, Box::new(NodeLog(shared)), recovered))
    }

    /// Does the log hold what it has to?
    pub fn keeps(&self, recovered: &Recovered) -> bool {
        recovered.first == Lsn(1) && (self.synced..=self.appended).contains(&recovered.last)
    }
}

impl SeatLog {
    /// Is anything that was appended not durable yet?
    pub fn is_behind(&self) -> bool {
        let mut shared = lock(&self.shared);
        shared.log.durable() < shared.appended
    }

    /// Is there anything to write?
    pub fn wants_write(&self) -> bool {
        !self.writing && self.is_behind()
    }

    /// The next write goes wrong.
    pub fn inject(&self, fault: Fault) {
        self.disk.inject(&[fault]);
    }

    /// The write is done.
    ///
    /// # Errors
    /// The log has failed, in words.
    pub fn complete(&mut self) -> Result<(), String> {
        self.writing = false;
        let mut shared = lock(&self.shared);
        // The node is woken by this, and looks at what it is told only at its next turn.
        shared.log.complete();
        if let Some(failure) = shared.log.failure() {
            return Err(failure.to_string());
        }
        let durable = shared.log.durable();
        shared.told.fetch_max(durable.0, Ordering::AcqRel);
        Ok(())
    }

    /// The node is gone, perhaps in the middle of a write.
    pub fn lose_power(self, rng: &mut Rng) -> Stored {
        let mut shared = lock(&self.shared);
        let (synced, appended) = (shared.log.durable(), shared.appended);
        if synced < appended {
            disks::interrupt(&mut shared.log, &self.disk, rng);
        }
        drop(shared);
        self.disk.crash(&mut || rng.next());
        Stored { disk: self.disk, synced, appended }
    }
}
