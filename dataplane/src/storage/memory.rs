//! A log that is written when its owner says so, by the thread of the owner.
//!
//! Owns a [`SegmentLog`] and what waits to be written. Always true: the format, recovery and truncation are
//! those of the other back ends; time passes only between calls. Must not: be used on a pinned core
//! over a real disk, where it would block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::buffer::Buffer;
use super::disk::Directory;
use super::format::{append_record, record_size};
use super::log::{Recovered, SegmentLog};
use super::{LogConfig, Lsn, Owner, Storage, StorageCounts, StorageError};
use crate::endpoint::Waker;

/// When a flush is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// When it returns.
    AtOnce,
    /// After [`MemoryLog::complete`].
    Stepwise,
}

/// See the module.
pub struct MemoryLog {
    log: SegmentLog,
    group_size_max: usize,
    pace: Pace,
    group: Buffer,
    count: u64,
    appended: Lsn,
    durable: Arc<AtomicU64>,
    failure: Option<Arc<StorageError>>,
    waker: Option<Waker>,
    counts: StorageCounts,
}

impl MemoryLog {
    /// Reads every record that is left in order, then continues the log.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open(
        directory: Box<dyn Directory>,
        owner: Owner,
        config: LogConfig,
        pace: Pace,
        each: &mut dyn FnMut(Lsn, &[u8]),
    ) -> Result<(Self, Recovered), StorageError> {
        let (log, recovered) = SegmentLog::open(directory, owner, config, each)?;
        let this = Self {
            log,
            group_size_max: config.group_size_max,
            pace,
            group: Buffer::with_room(config.group_size_max),
            count: 0,
            appended: recovered.last,
            durable: Arc::new(AtomicU64::new(recovered.last.0)),
            failure: None,
            waker: None,
            counts: StorageCounts::default(),
        };
        Ok((this, recovered))
    }

    /// Writes what was appended. Returns whether there was anything.
    pub fn complete(&mut self) -> bool {
        if self.count == 0 || self.failure.is_some() {
            return false;
        }
        match self.log.write(&mut self.group, self.count) {
            Ok(()) => {
                self.durable.store(self.appended.0, Ordering::Release);
                self.counts.groups += 1;
                self.counts.bytes += self.group.len() as u64;
            }
            Err(error) => self.failure = Some(Arc::new(error)),
        }
        self.group.clear();
        self.count = 0;
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        true
    }
}

impl Storage for MemoryLog {
    fn room(&self) -> usize {
        let left = self.group_size_max - self.group.len();
        left.saturating_sub(record_size(0) + 7)
    }

    fn append(&mut self, lsn: Lsn, parts: &[&[u8]]) {
        assert!(lsn == self.appended.next(), "records are numbered without gaps");
        assert!(parts.iter().map(|part| part.len()).sum::<usize>() <= self.room(), "it fits");
        append_record(&mut self.group, lsn, parts);
        self.appended = lsn;
        self.count += 1;
    }

    fn flush(&mut self) {
        if self.pace == Pace::AtOnce {
            self.complete();
        }
    }

    fn durable(&mut self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    fn watermark(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.durable)
    }

    fn failure(&self) -> Option<Arc<StorageError>> {
        self.failure.clone()
    }

    fn truncate(&mut self, below: Lsn) {
        while self.failure.is_none() {
            match self.log.truncate(below) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.failure = Some(Arc::new(error)),
            }
        }
    }

    fn wake(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    fn counts(&self) -> StorageCounts {
        StorageCounts {
            segments: self.log.segments() as u64,
            first: self.log.first(),
            ..self.counts
        }
    }
}
