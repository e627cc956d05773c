//! A log in the segments of a directory: opening, recovery, writing of groups, truncation.
//!
//! Owns the segments. Always true: groups are written one after the other, each durable before the next
//! is written; a segment has its name only when its header is durable, and the group before it. Must
//! not: run in a thread of its own, or know who waits; the back ends do.
//!
//! *What is a torn tail, and what is damage?* Recovery reads records in order until one is missing. If
//! anything shows that the log went on behind that place after a sync (a record of a later group, a
//! later segment), what is missing was durable, and recovery fails. Else it is the tail of the last
//! write, which nobody was told of, and the log ends there. A disk that forgets the last synced groups
//! whole cannot be told from one that was never written; it counts as a faulty replica.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Directory, LogFile};
use super::format::{
    BLOCK_SIZE, RECORD_HEADER_SIZE, RECORD_SIZE_MAX, RecordHeader, RecordKey, SegmentHeader,
    record_size, seal,
};
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

struct Segment {
    name: String,
    header: SegmentHeader,
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
}

/// The name under which a segment is made.
const UNFINISHED: &str = "segment.new";
const SEGMENT_SUFFIX: &str = ".segment";
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
        let found = read(&mut *directory, Some(owner), each)?;
        let Found { segments, spares, recovered, log } = found;
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
        };
        // Without records: each start of a process would leave one behind.
        if this.segments.back().is_some_and(|last| last.header.first == next) {
            let empty = this.segments.pop_back().expect("there is one");
            this.retire(&empty.name)?;
            this.sync()?;
        }
        this.segments.push_back(segment);
        Ok((this, recovered))
    }

    /// The record that comes next.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Writes a group of `count` records, as made by `append_record`. When it returns they are durable.
    ///
    /// # Errors
    /// The system refuses. Nothing is known of what is durable then: the log must not be used again.
    pub fn write(&mut self, group: &mut Vec<u8>, count: u64) -> Result<(), StorageError> {
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
        self.segments.push_back(segment);
        Ok(())
    }

    /// Gives back the segments that hold only records before `below`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn truncate(&mut self, below: Lsn) -> Result<(), StorageError> {
        let mut any = false;
        while self.segments.len() > 1 && self.segments[1].header.first <= below {
            let old = self.segments.pop_front().expect("there are two");
            self.retire(&old.name)?;
            any = true;
        }
        if any { self.sync() } else { Ok(()) }
    }

    /// Keeps a file that is not needed for reuse, or removes it.
    fn retire(&mut self, name: &str) -> Result<(), StorageError> {
        if self.spares.len() >= self.config.spare_segments_max {
            let removed = self.directory.remove(name);
            return removed.map_err(|source| self.error("remove a segment", source));
        }
        let spare = self.spare_name();
        let renamed = self.directory.rename(name, &spare);
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

    /// Will the segment that is written be full before long, with none to follow it?
    pub(super) fn wants_spare(&self) -> bool {
        self.spares.is_empty() && self.at > self.config.segment_size / 2
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
    let found = read(directory, None, each)?;
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
    Ok((Segment { name, header }, file))
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

fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix(SPARE_PREFIX)?.parse().ok()
}

struct Found {
    segments: VecDeque<Segment>,
    /// Files of the right size that hold nothing.
    spares: Vec<String>,
    recovered: Recovered,
    log: Option<[u8; 16]>,
}

/// Reads all segments of a directory.
fn read(
    directory: &mut dyn Directory,
    owner: Option<Owner>,
    each: &mut dyn FnMut(Lsn, &[u8]),
) -> Result<Found, StorageError> {
    let path = directory.path().to_path_buf();
    let io = |operation| {
        let path = path.clone();
        move |source| StorageError::Io { path, operation, source }
    };
    let mut names = directory.list().map_err(io("list the directory"))?;
    names.sort_unstable();
    let spares = names.iter().filter(|name| spare_number(name).is_some()).cloned().collect();
    let mut segments: Vec<(Segment, Box<dyn LogFile>)> = Vec::new();
    for name in names.into_iter().filter(|name| name.ends_with(SEGMENT_SUFFIX)) {
        let mut file = directory.open(&name).map_err(io("open a segment"))?;
        let header = read_header(&path.join(&name), &mut *file)?;
        let first = segments.first().map(|(first, _)| first.header);
        check_header(&path.join(&name), &name, &header, first, owner)?;
        segments.push((Segment { name, header }, file));
    }
    let start = segments.first().map_or(Lsn(1), |(first, _)| first.header.first);
    let mut recovered =
        Recovered { first: start, last: Lsn(start.0 - 1), segments: segments.len(), torn: false };
    for index in 0..segments.len() {
        let limit = segments.get(index + 1).map(|(next, _)| next.header.first);
        let (segment, file) = &mut segments[index];
        let reader = Reader::new(path.join(&segment.name), &segment.header, &mut **file)?;
        let (last, torn) = reader.read(recovered.last, limit, each)?;
        (recovered.last, recovered.torn) = (last, torn);
    }
    let log = segments.first().map(|(first, _)| first.header.log);
    let segments = segments.into_iter().map(|(segment, _)| segment).collect();
    Ok(Found { segments, spares, recovered, log })
}

fn read_header(path: &Path, file: &mut dyn LogFile) -> Result<SegmentHeader, StorageError> {
    let mut block = [0; BLOCK_SIZE];
    let read = file.read_at(0, &mut block);
    let corrupt = |what| StorageError::Corrupt { path: path.to_path_buf(), offset: 0, what };
    match read {
        Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(corrupt("the file ends inside the segment's header".into()));
        }
        Err(source) => {
            let (path, operation) = (path.to_path_buf(), "read the segment's header");
            return Err(StorageError::Io { path, operation, source });
        }
        Ok(()) => {}
    }
    SegmentHeader::decode(&block).map_err(|bad| corrupt(bad.to_string()))
}

/// Does a segment belong to this owner, to the log of the first segment, and under its name?
fn check_header(
    path: &Path,
    name: &str,
    header: &SegmentHeader,
    first: Option<SegmentHeader>,
    owner: Option<Owner>,
) -> Result<(), StorageError> {
    let foreign = |field, found: String, expected: String| {
        let path = path.to_path_buf();
        Err(StorageError::Foreign { path, field, found, expected })
    };
    let owner = owner.or(first.map(|first| first.owner)).unwrap_or(header.owner);
    if header.owner.cluster != owner.cluster {
        let hex = |cluster: u64| format!("{cluster:016x}");
        return foreign("the cluster", hex(header.owner.cluster), hex(owner.cluster));
    }
    if header.owner.replica != owner.replica {
        let (found, expected) = (header.owner.replica.to_string(), owner.replica.to_string());
        return foreign("the replica", found, expected);
    }
    let log = first.map_or(header.log, |first| first.log);
    if header.log != log {
        let hex = |log: [u8; 16]| format!("{:032x}", u128::from_be_bytes(log));
        return foreign("the identity of the log", hex(header.log), hex(log));
    }
    let expected = format!("{:016}{SEGMENT_SUFFIX}", header.number);
    if name != expected {
        return foreign("the name of the segment", name.to_owned(), expected);
    }
    Ok(())
}

/// Bytes that are read at once.
const READ_SIZE: usize = 1 << 20;

/// Reads the records of one segment.
struct Reader<'a> {
    path: PathBuf,
    key: RecordKey,
    first: Lsn,
    size: u64,
    file: &'a mut dyn LogFile,
    /// What was read last, and from where.
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Reader<'a> {
    fn new(
        path: PathBuf,
        header: &SegmentHeader,
        file: &'a mut dyn LogFile,
    ) -> Result<Self, StorageError> {
        let size = file.size().map_err(|source| StorageError::Io {
            path: path.clone(),
            operation: "read the size of a segment",
            source,
        })?;
        if size < header.size {
            let what = format!("the file ends here, and had {} bytes", header.size);
            return Err(StorageError::Corrupt { path, offset: size, what });
        }
        let (key, first, size) = (header.key(), header.first, header.size);
        Ok(Self { path, key, first, size, file, window: Vec::new(), window_at: 0 })
    }

    /// Gives the records after `last` to `each`, up to the one before `limit`, the first of the next
    /// segment. Returns the last one, and whether the tail of a write is missing behind it.
    fn read(
        mut self,
        mut last: Lsn,
        limit: Option<Lsn>,
        each: &mut dyn FnMut(Lsn, &[u8]),
    ) -> Result<(Lsn, bool), StorageError> {
        if self.first != last.next() {
            let what = format!(
                "the segment begins with record {}, and the one before it ends with {last}",
                self.first
            );
            return Err(self.corrupt(BLOCK_SIZE as u64, what));
        }
        let mut at = BLOCK_SIZE as u64;
        let mut in_group = 0;
        while limit != Some(last.next()) {
            let found = self.record(at)?;
            let aligned = at.is_multiple_of(BLOCK_SIZE as u64);
            let follows = |header: &RecordHeader| {
                let starts = aligned && header.in_group == 0;
                let goes_on = at > BLOCK_SIZE as u64 && header.in_group == in_group;
                header.lsn == last.next() && (starts || goes_on)
            };
            match found.filter(follows) {
                Some(header) => {
                    let size = header.size as usize;
                    let payload = self.bytes(at + RECORD_HEADER_SIZE as u64, size)?;
                    each(header.lsn, payload);
                    last = header.lsn;
                    in_group = header.in_group + 1;
                    at += record_size(size) as u64;
                }
                None if aligned => break,
                // The end of a group.
                None => at = at.next_multiple_of(BLOCK_SIZE as u64),
            }
        }
        match limit {
            Some(limit) if limit == last.next() => Ok((last, false)),
            Some(limit) => {
                let what = format!(
                    "record {} should be here; the next segment begins with record {limit}",
                    last.next()
                );
                Err(self.corrupt(at, what))
            }
            None => self.judge_tail(at, last).map(|torn| (last, torn)),
        }
    }

    /// The log of the last segment ends at `at`, unless a later group shows that it went on. Is
    /// anything left there of a write?
    fn judge_tail(&mut self, end: u64, last: Lsn) -> Result<bool, StorageError> {
        let mut torn = false;
        let mut at = end;
        while at + (BLOCK_SIZE as u64) <= self.size {
            if let Some(header) = self.record(at)? {
                if header.group() > last.next() {
                    let what = format!(
                        "record {} should be here; record {} follows at byte {at}",
                        last.next(),
                        header.lsn
                    );
                    return Err(self.corrupt(end, what));
                }
                torn = true;
            }
            at += BLOCK_SIZE as u64;
        }
        Ok(torn)
    }

    /// The record at `at`, if there is one.
    fn record(&mut self, at: u64) -> Result<Option<RecordHeader>, StorageError> {
        if at + RECORD_HEADER_SIZE as u64 > self.size {
            return Ok(None);
        }
        let key = self.key;
        let Some(header) = RecordHeader::decode(self.bytes(at, RECORD_HEADER_SIZE)?) else {
            return Ok(None);
        };
        let (payload, size) = (at + RECORD_HEADER_SIZE as u64, header.size as usize);
        if size > RECORD_SIZE_MAX || payload + size as u64 > self.size {
            return Ok(None);
        }
        let holds = header.holds(&key, at, self.bytes(payload, size)?);
        Ok(holds.then_some(header))
    }

    /// So many bytes from `at` on, which are inside the segment.
    fn bytes(&mut self, at: u64, size: usize) -> Result<&[u8], StorageError> {
        let end = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + size as u64 > end {
            let from = at - at % BLOCK_SIZE as u64;
            let wanted = ((at - from) as usize + size).max(READ_SIZE).next_multiple_of(BLOCK_SIZE);
            let wanted = wanted.min((self.size - from) as usize);
            self.window.resize(wanted, 0);
            self.window_at = from;
            let read = self.file.read_at(from, &mut self.window);
            read.map_err(|source| StorageError::Io {
                path: self.path.clone(),
                operation: "read a segment",
                source,
            })?;
        }
        let start = (at - self.window_at) as usize;
        Ok(&self.window[start..start + size])
    }

    fn corrupt(&self, offset: u64, what: String) -> StorageError {
        StorageError::Corrupt { path: self.path.clone(), offset, what }
    }
}
