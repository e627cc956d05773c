//! What must survive a crash: a log of records on a disk.
//!
//! Owns the contract of a log, [`Storage`], and the words for what can go wrong with one. Always true: what
//! was reported durable is there after any crash, whole and in order, and nothing that was not
//! appended ever is; a log that cannot be trusted is an error, never a shorter log; after a write or
//! sync that failed nothing is reported durable any more. Must not: know what a record means.
//!
//! A log is a directory of [`segment`](mod@format) files. Whatever is appended while one write and sync is
//! under way goes with the next (group commit), so the disk's time for a sync is shared by what came
//! meanwhile. What is promised to survive, and against which faults, is in
//! `docs/adr/0024-log-of-votes-and-decisions.md`.

pub mod buffer;
pub mod direct;
pub mod disk;
pub mod fault;
pub mod file;
pub mod format;
pub mod log;
pub mod memory;
mod read;
mod spare;
pub mod torn;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the kernel works on memory that it is given by address")]
pub mod uring;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use log::Recovered;

use crate::endpoint::Waker;

/// A place in the log: the number of a record. The first is 1; 0 is before all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// Whose log it is. Written into each segment, so that a log is never read by another replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: u64,
    /// The replica.
    pub replica: u16,
}

/// Sizes of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Bytes of one segment file, a multiple of [`format::BLOCK_SIZE`]. Room for two groups at least.
    pub segment_size: u64,
    /// Bytes that are written and synced at once at most: a record with its header fits. Three such
    /// buffers are reserved.
    pub group_size_max: usize,
    /// Segments kept for reuse when the log is truncated, at most. No more are kept than were filled
    /// between the last two truncations.
    pub spare_segments_max: usize,
    /// Takes records for whole without their digests. For tests that prove that the digests matter; no
    /// configuration file can say it.
    pub unchecked: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            group_size_max: 4 << 20,
            spare_segments_max: 32,
            unchecked: false,
        }
    }
}

impl LogConfig {
    /// The first value that cannot be used, in words with the remedy.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self) -> Result<(), StorageError> {
        let bad = |field, value, remedy| Err(StorageError::BadValue { field, value, remedy });
        let block = format::BLOCK_SIZE;
        if self.group_size_max < block || self.group_size_max > format::RECORD_SIZE_MAX {
            let remedy = "use 4096 to 67108864";
            return bad("group_size_max", self.group_size_max as u64, remedy);
        }
        let least = (block + 2 * self.group_size_max.next_multiple_of(block)) as u64;
        if !self.segment_size.is_multiple_of(block as u64) {
            return bad("segment_size", self.segment_size, "use a multiple of 4096");
        }
        if self.segment_size < least || self.segment_size > 1 << 40 {
            let remedy = "use more than two groups (group_size_max) and less than 1 TiB";
            return bad("segment_size", self.segment_size, remedy);
        }
        Ok(())
    }
}

/// An append-only log of records, as its one writer sees it.
///
/// Never blocks and, once open, never allocates: it is called on a pinned core.
pub trait Storage: Send {
    /// Bytes of the largest record that can be appended now. Less than what is to be appended is
    /// backpressure: wait until [`Storage::durable`] moves.
    fn room(&self) -> usize;
    /// Appends one record, the bytes of `parts` one after the other, at `lsn`.
    ///
    /// # Panics
    /// If it is larger than [`Storage::room`], empty, or `lsn` is not the one after the last.
    fn append(&mut self, lsn: Lsn, parts: &[&[u8]]);
    /// Hands over what was appended, unless a write is under way: then it goes with the next.
    fn flush(&mut self);
    /// Everything up to here survives a crash. Never falls; stays where it is once
    /// [`Storage::failure`] says why.
    fn durable(&mut self) -> Lsn;
    /// What [`Storage::durable`] gives, for other cores to look at.
    fn watermark(&self) -> Arc<AtomicU64>;
    /// Why nothing more will ever be durable.
    fn failure(&self) -> Option<Arc<StorageError>>;
    /// Records before `below` are not needed any more. Gives back whole segments, in its own time: what
    /// recovery finds afterwards begins with `below` or before it, never behind it.
    ///
    /// What makes those records unnecessary (a checkpoint) must be on stable storage before. The
    /// highest `below` counts; beyond what was appended it means all of that.
    fn truncate(&mut self, below: Lsn);
    /// From now on wakes this when `durable` or `failure` has changed.
    fn wake(&mut self, waker: Waker);
    /// What was written so far.
    fn counts(&self) -> StorageCounts;
}

/// What a log has written since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StorageCounts {
    /// Groups: writes followed by one sync each.
    pub groups: u64,
    /// Their bytes, with headers and padding.
    pub bytes: u64,
    /// Nanoseconds that all these writes and syncs took together.
    pub busy_ns: u64,
    /// Nanoseconds that the slowest took.
    pub slowest_ns: u64,
    /// Segments that hold records now, or are about to.
    pub segments: u64,
    /// The oldest record that is kept now; the one that comes next if there is none.
    pub first: Lsn,
}

/// What is wrong with a log. Says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused.
    #[error("log {}: cannot {operation}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("log {}: another process uses it; stop that process, or give each replica its own data_dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A setting cannot be used.
    #[error("log {field} = {value}: {remedy}")]
    BadValue {
        /// Which.
        field: &'static str,
        /// What it was set to.
        value: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// It belongs to somebody else.
    #[error(
        "log {}: {field} is {found}, not {expected}; data_dir points to the log of another replica, or files of \
         several logs were mixed: correct it, or put the right files back", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What tells.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// Something that was durable is not there any more.
    #[error(
        "log {}: damaged at byte {offset}: {what}. This is no interrupted write: what was on stable storage is gone, so \
         this replica must not go on with it. Look at the disk; put a whole copy back, or move the directory away, and \
         the replica starts as one that lost its memory and learns from the others", path.display()
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What should be there.
        what: String,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room, then start the replica again"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make the directory writable for the user that runs the replica"
        }
        io::ErrorKind::NotFound => "make the directory, or correct data_dir",
        _ => "look at the disk and the system's log, then start the replica again",
    }
}
