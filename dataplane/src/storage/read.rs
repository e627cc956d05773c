//! Reading of a log: which records are left, and is anything missing that was durable?
//!
//! Owns recovery. Always true: it changes nothing; memory is bounded by the largest record. Must not:
//! go on behind a record that is missing.
//!
//! *What is a torn tail, and what is damage?* Records are read in order until one is missing. If
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
    record_size,
};
use super::log::{Recovered, SEGMENT_SUFFIX, Segment, spare_number};
use super::{Lsn, Owner, StorageError};

/// What a directory holds.
pub(super) struct Found {
    pub(super) segments: VecDeque<Segment>,
    /// Files of the right size that hold nothing.
    pub(super) spares: Vec<String>,
    pub(super) recovered: Recovered,
    /// Bytes of the last segment up to its last whole group.
    pub(super) end: u64,
    pub(super) log: Option<[u8; 16]>,
}

/// Reads all segments of a directory.
pub(super) fn read(
    directory: &mut dyn Directory,
    owner: Option<Owner>,
    unchecked: bool,
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
    let mut segments: VecDeque<Segment> = VecDeque::new();
    for name in names.into_iter().filter(|name| name.ends_with(SEGMENT_SUFFIX)) {
        let mut file = directory.open(&name).map_err(io("open a segment"))?;
        let header = read_header(&path.join(&name), &mut *file)?;
        let first = segments.front().map(|first| first.header);
        check_header(&path.join(&name), &name, &header, first, owner)?;
        segments.push_back(Segment { name, header, is_whole: true });
    }
    let start = segments.front().map_or(Lsn(1), |first| first.header.first);
    let mut recovered =
        Recovered { first: start, last: Lsn(start.0 - 1), segments: segments.len(), torn: false };
    let mut end = 0;
    for index in 0..segments.len() {
        let limit = segments.get(index + 1).map(|next| next.header.first);
        let segment = &mut segments[index];
        // Opened again: a process may have fewer files open than a log has segments.
        let mut file = directory.open(&segment.name).map_err(io("open a segment"))?;
        let path = path.join(&segment.name);
        let mut reader = Reader::new(path, &segment.header, &mut *file, limit.is_none())?;
        reader.unchecked = unchecked;
        segment.is_whole = reader.size == segment.header.size;
        (recovered.last, end, recovered.torn) = reader.read(recovered.last, limit, each)?;
    }
    let log = segments.front().map(|first| first.header.log);
    Ok(Found { segments, spares, recovered, end, log })
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
    /// As in [`LogConfig`](super::LogConfig).
    unchecked: bool,
    /// There was a record's header without the rest of it.
    half: bool,
    /// What was read last, and from where.
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Reader<'a> {
    fn new(
        path: PathBuf,
        header: &SegmentHeader,
        file: &'a mut dyn LogFile,
        is_last: bool,
    ) -> Result<Self, StorageError> {
        let size = file.size().map_err(|source| StorageError::Io {
            path: path.clone(),
            operation: "read the size of a segment",
            source,
        })?;
        // Others may have been cut off behind their records.
        if is_last && size < header.size {
            let what = format!("the file ends here, and had {} bytes", header.size);
            return Err(StorageError::Corrupt { path, offset: size, what });
        }
        let (key, first, size) = (header.key(), header.first, size.min(header.size));
        let (unchecked, half, window, window_at) = (false, false, Vec::new(), 0);
        Ok(Self { path, key, first, size, file, unchecked, half, window, window_at })
    }

    /// Gives the records after `last` to `each`, up to the one before `limit`, the first of the next
    /// segment. Returns the last one, where its group ends, and whether the tail of a write is missing
    /// behind it.
    fn read(
        mut self,
        mut last: Lsn,
        limit: Option<Lsn>,
        each: &mut dyn FnMut(Lsn, &[u8]),
    ) -> Result<(Lsn, u64, bool), StorageError> {
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
            Some(limit) if limit == last.next() => Ok((last, at, false)),
            Some(limit) => {
                let what = format!(
                    "record {} should be here; the next segment begins with record {limit}",
                    last.next()
                );
                Err(self.corrupt(at, what))
            }
            None => self.judge_tail(at, last).map(|torn| (last, at, torn)),
        }
    }

    /// The log of the last segment ends at `at`, unless a later group shows that it went on. Is
    /// anything left there of a write?
    fn judge_tail(&mut self, end: u64, last: Lsn) -> Result<bool, StorageError> {
        let mut torn = self.half;
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
        if self.unchecked {
            return Ok(Some(header));
        }
        if !header.is_of(&key, at) {
            return Ok(None);
        }
        let holds = header.holds(&key, at, self.bytes(payload, size)?);
        self.half |= !holds;
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
