//! A log in the segments of a directory: opening, recovery, writing of groups, truncation.
//!
//! Owns the segments. Always true: groups are written one after the other, each durable before the next
//! is written; a segment has its name only when its header is durable, and the group before it. Must
//! not: run in a thread of its own, or know who waits; the back ends do.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::buffer::Buffer;
use super::disk::{Directory, LogFile};
use super::format::{BLOCK_SIZE, RecordKey, SegmentHeader, seal};
use super::read::{Found, read};
use super::{LogConfig, Lsn, Owner, StorageError};

/// What recovery found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The oldest record that is kept; the one after `last` if there is none.
    pub first: Lsn,
    /// The newest.
    pub last: Lsn,
    /// Segments that were read.
    pub segments: usize,
    /// Was the tail of an interrupted write left out?
    pub torn: bool,
}

/// A file of the log.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) header: SegmentHeader,
    /// Nothing was cut off behind its records.
    pub(super) is_whole: bool,
}

/// See the module.
pub struct SegmentLog {
    directory: Box<dyn Directory>,
    owner: Owner,
    config: LogConfig,
    log: [u8; 16],
    /// Oldest first; the last one is written.
    segments: VecDeque<Segment>,
    file: Box<dyn LogFile>,
    key: RecordKey,
    /// Where the next group goes.
    at: u64,
    /// The record that comes next.
    next: Lsn,
    spares: Vec<String>,
    spare_number: u64,
    /// Segments that were begun since segments were given back last.
    begun: usize,
    /// Spare segments that are worth keeping: as many as were needed between two truncations.
    spares_wanted: usize,
}

/// Segments that are given back before the next group is written: some tenths of a millisecond.
const RETIRED_AT_ONCE: usize = 4;
/// The part of a segment, 1 of so many, after which the next one is begun. Early, so that its zeros can be written slowly.
pub(super) const SPARE_AFTER: u64 = 8;
/// The name under which a segment is made.
const UNFINISHED: &str = "segment.new";
pub(super) const SEGMENT_SUFFIX: &str = ".segment";
const SPARE_PREFIX: &str = "spare-";

impl SegmentLog {
    /// Reads every record that is left in order, then starts a new segment behind them.
    ///
    /// `each` sees a record before the next is read.
    ///
    /// # Errors
    /// The log is somebody else's or damaged, or the system refuses. Nothing was changed then.
    pub fn open(
        mut directory: Box<dyn Directory>,
        owner: Owner,
        config: LogConfig,
        each: &mut dyn FnMut(Lsn, &[u8]),
    ) -> Result<(Self, Recovered), StorageError> {
        config.check()?;
        let found = read(&mut *directory, Some(owner), config.unchecked, each)?;
        let Found { segments, spares, recovered, end, log } = found;
        let log = match log {
            Some(log) => log,
            None => random()?,
        };
        let number = segments.back().map_or(1, |last| last.header.number + 1);
        let next = recovered.last.next();
        let created =
            create(&mut *directory, owner, config, log, (number, next), spares.first().cloned());
        let (segment, file) = created?;
        let mut this = Self {
            directory,
            owner,
            config,
            log,
            key: segment.header.key(),
            segments,
            file,
            at: BLOCK_SIZE as u64,
            next,
            spare_number: spares.iter().filter_map(|name| spare_number(name)).max().unwrap_or(0),
            spares: spares.into_iter().skip(1).collect(),
            begun: 1,
            spares_wanted: 1,
        };
        while this.spares.len() > config.spare_segments_max {
            this.remove_spare()?;
        }
        this.leave_last(end)?;
        this.segments.push_back(segment);
        Ok((this, recovered))
    }

    /// Gives back what the last segment does not need, now that another one follows: each start of a
    /// process would take the room of a whole one.
    fn leave_last(&mut self, end: u64) -> Result<(), StorageError> {
        let Some(mut last) = self.segments.pop_back() else {
            return Ok(());
        };
        if last.header.first == self.next {
            self.retire(&last)?;
            return self.sync();
        }
        if end < last.header.size {
            let shrunk = self.directory.shrink(&last.name, end);
            shrunk.map_err(|source| self.error("cut off the end of a segment", source))?;
            last.is_whole = false;
        }
        self.segments.push_back(last);
        Ok(())
    }

    /// The record that comes next.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// The oldest record that is kept; the one that comes next if there is none.
    pub fn first(&self) -> Lsn {
        self.segments.front().map_or(self.next, |oldest| oldest.header.first)
    }

    /// Segments that hold records, or are about to.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Writes a group of `count` records, as made by `append_record`. When it returns they are durable.
    ///
    /// # Errors
    /// The system refuses. Nothing is known of what is durable then: the log must not be used again.
    pub fn write(&mut self, group: &mut Buffer, count: u64) -> Result<(), StorageError> {
        assert!(!group.is_empty() && group.len() <= self.config.group_size_max, "a group fits");
        if self.is_full_for(group.len()) {
            self.roll()?;
        }
        seal(group, &self.key, self.at);
        let written = self.file.write_durably(self.at, group);
        written.map_err(|source| self.error("write and sync", source))?;
        self.at += group.len() as u64;
        self.next.0 += count;
        Ok(())
    }

    /// Goes on in a new segment.
    fn roll(&mut self) -> Result<(), StorageError> {
        let number = self.segments.back().map_or(1, |last| last.header.number + 1);
        let spare = self.spares.pop();
        let place = (number, self.next);
        let created = create(&mut *self.directory, self.owner, self.config, self.log, place, spare);
        let (segment, file) = created?;
        self.key = segment.header.key();
        self.file = file;
        self.at = BLOCK_SIZE as u64;
        self.begun += 1;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Gives back segments that hold only records before `below`, a few at a time, since groups wait
    /// meanwhile. Returns whether there are more of them.
    ///
    /// The oldest goes first, and the disk keeps the order of changes of names: whenever the process or
    /// the machine stops, what is left is the end of the log without a hole. What was given back is
    /// written again only after that is durable.
    ///
    /// # Errors
    /// The system refuses.
    pub fn truncate(&mut self, below: Lsn) -> Result<bool, StorageError> {
        if !self.is_over(below) {
            return Ok(false);
        }
        if self.begun > 0 {
            self.spares_wanted = self.begun;
            self.begun = 0;
        }
        for _ in 0..RETIRED_AT_ONCE {
            if self.is_over(below) {
                let old = self.segments.pop_front().expect("there are two");
                self.retire(&old)?;
            } else if self.spares.len() > self.spares_wanted {
                self.remove_spare()?;
            }
        }
        self.sync()?;
        Ok(self.is_over(below))
    }

    /// Does the oldest segment hold only records before `below`?
    fn is_over(&self, below: Lsn) -> bool {
        self.segments.get(1).is_some_and(|second| second.header.first <= below)
    }

    fn remove_spare(&mut self) -> Result<(), StorageError> {
        let Some(spare) = self.spares.pop() else {
            return Ok(());
        };
        let removed = self.directory.remove(&spare);
        removed.map_err(|source| self.error("remove a spare segment", source))
    }

    /// Keeps a file that is not needed for reuse, or removes it.
    fn retire(&mut self, old: &Segment) -> Result<(), StorageError> {
        let wanted = self.spares_wanted.min(self.config.spare_segments_max);
        if self.spares.len() >= wanted || !old.is_whole {
            let removed = self.directory.remove(&old.name);
            return removed.map_err(|source| self.error("remove a segment", source));
        }
        let spare = self.spare_name();
        let renamed = self.directory.rename(&old.name, &spare);
        renamed.map_err(|source| self.error("rename a segment", source))?;
        self.spares.push(spare);
        Ok(())
    }

    /// Does a group of so many bytes go into the next segment?
    pub(super) fn is_full_for(&self, group: usize) -> bool {
        self.at + group.next_multiple_of(BLOCK_SIZE) as u64 > self.config.segment_size
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A name for one more spare segment.
    pub(super) fn spare_name(&mut self) -> String {
        self.spare_number += 1;
        format!("{SPARE_PREFIX}{:08}", self.spare_number)
    }

    /// Has the segment that is written been filled in part, with none to follow it?
    pub(super) fn wants_spare(&self) -> bool {
        self.spares.is_empty() && self.at > self.config.segment_size / SPARE_AFTER
    }

    /// A file of zeros of the size of a segment was made under a name of [`Self::spare_name`].
    pub(super) fn add_spare(&mut self, name: String) {
        self.spares.push(name);
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        let synced = self.directory.sync();
        synced.map_err(|source| self.error("sync the directory", source))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> StorageError {
        let name = self.segments.back().map_or("", |last| &last.name);
        StorageError::Io { path: self.directory.path().join(name), operation, source }
    }
}

/// Reads a log without changing anything: for tools.
///
/// # Errors
/// It is damaged, or the system refuses.
pub fn inspect(
    directory: &mut dyn Directory,
    each: &mut dyn FnMut(Lsn, &[u8]),
) -> Result<(Option<Owner>, Recovered), StorageError> {
    let found = read(directory, None, false, each)?;
    Ok((found.segments.front().map(|segment| segment.header.owner), found.recovered))
}

/// A new segment, durable under its name.
fn create(
    directory: &mut dyn Directory,
    owner: Owner,
    config: LogConfig,
    log: [u8; 16],
    (number, first): (u64, Lsn),
    spare: Option<String>,
) -> Result<(Segment, Box<dyn LogFile>), StorageError> {
    let name = format!("{number:016}{SEGMENT_SUFFIX}");
    let path = directory.path().join(&name);
    let fail =
        |source| StorageError::Io { path: path.clone(), operation: "make a segment", source };
    let size = config.segment_size;
    let reused = match spare {
        Some(spare) => {
            directory.rename(&spare, UNFINISHED).map_err(fail)?;
            Some(directory.open(UNFINISHED).map_err(fail)?)
        }
        None => None,
    };
    let mut file = match reused {
        // The configured size may be another one than it was.
        Some(file) if file.size().map_err(fail)? == size => file,
        _ => directory.create(UNFINISHED, size).map_err(fail)?,
    };
    let header = SegmentHeader { owner, log, number, first, size, salt: random()? };
    file.write_durably(0, &header.encode()).map_err(fail)?;
    directory.rename(UNFINISHED, &name).map_err(fail)?;
    directory.sync().map_err(fail)?;
    Ok((Segment { name, header, is_whole: true }, file))
}

fn random() -> Result<[u8; 16], StorageError> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(StorageError::Io {
            path: PathBuf::from("/dev/urandom"),
            operation: "draw random bytes",
            source: io::Error::other("the system has none"),
        }),
    }
}

pub(super) fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix(SPARE_PREFIX)?.parse().ok()
}
