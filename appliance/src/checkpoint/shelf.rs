//! The checkpoints of a replica that others may have, and the records that are needed because of them.
//!
//! Owns the files while they are open: what is removed from the directory stays readable as long as somebody
//! fetches it. Always true: the newest two are here; records are given up only when two checkpoints behind them
//! are durable, with their bases (rule CKP.3). Must not: read or write a file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tetrarch_consensus::{ConsensusId, Lsn, spec};
use tetrarch_dataplane::types::Digest;

use super::Position;
use super::file::CheckpointFile;

/// How many stay.
const KEPT: usize = 2;

/// See the module. Shared by the threads that write, fetch and serve.
#[derive(Default)]
pub struct Shelf {
    inner: Mutex<Inner>,
    needed_from: Arc<AtomicU64>,
}

#[derive(Default)]
struct Inner {
    /// The newest first.
    files: Vec<Arc<CheckpointFile>>,
    /// Of those that count the newest, and the one before it.
    newest: Option<Position>,
    older: Option<Position>,
}

impl Shelf {
    /// The record before which none is needed, for who gives them up.
    pub fn needed_from(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.needed_from)
    }

    /// One that counted when this replica began; the oldest first.
    pub fn begin_with(&self, file: CheckpointFile) {
        self.with(|inner| {
            inner.older = inner.newest.replace(file.header.position);
            inner.put(file);
        });
    }

    /// One that counts from now on. Lets go of records: two checkpoints are kept, and the records from the base
    /// before them on, because batches of instances that a base says are open are there.
    pub fn add(&self, file: CheckpointFile) {
        spec!("CKP.3");
        self.with(|inner| {
            let position = file.header.position;
            inner.put(file);
            if inner.newest.is_some_and(|newest| newest.cid >= position.cid) {
                return;
            }
            let newest = inner.newest.replace(position);
            let older = std::mem::replace(&mut inner.older, newest);
            if let Some(Position { base: Lsn(base), .. }) = older {
                self.needed_from.store(base, Ordering::Release);
            }
        });
    }

    /// The newest that counts: its instance.
    pub fn newest(&self) -> Option<ConsensusId> {
        self.with(|inner| inner.newest.map(|position| position.cid))
    }

    /// All of them, the newest first.
    pub fn files(&self) -> Vec<Arc<CheckpointFile>> {
        self.with(|inner| inner.files.clone())
    }

    /// The one that has this name, if it is here.
    pub fn find(&self, cid: ConsensusId, root: &Digest) -> Option<Arc<CheckpointFile>> {
        self.with(|inner| {
            let is = |file: &&Arc<CheckpointFile>| {
                file.header.position.cid == cid && file.header.root == *root
            };
            inner.files.iter().find(is).cloned()
        })
    }

    /// One that does not hold: nobody shall have it.
    pub fn remove(&self, root: &Digest) {
        self.with(|inner| inner.files.retain(|file| file.header.root != *root));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        // Nothing in here is left half done by a panic.
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn put(&mut self, file: CheckpointFile) {
        let cid = file.header.position.cid;
        self.files.retain(|other| other.header.position.cid != cid);
        self.files.push(Arc::new(file));
        self.files.sort_by_key(|file| std::cmp::Reverse(file.header.position.cid));
        self.files.truncate(KEPT);
    }
}
