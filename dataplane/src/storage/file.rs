//! A log that a thread of its own writes.
//!
//! Owns the thread, the buffers that travel between it and the writer, and the choice between io_uring
//! and plain system calls. Always true: the writer never waits for the disk and allocates nothing;
//! one group is under way at a time; the first error ends the log. Must not: touch the bytes of
//! records twice on the writer's core: their checks are made by the thread.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::buffer::Buffer;
use super::direct::{DirectDirectory, SystemCalls};
use super::disk::{Directory, PlainDirectory};
use super::format::{BLOCK_SIZE, append_record, record_size};
use super::log::{Recovered, SPARE_AFTER, SegmentLog};
use super::spare::Spare;
use super::torn::{Promise, TornDirectory};
use super::{LogConfig, Lsn, Owner, Storage, StorageCounts, StorageError};
use crate::endpoint::Waker;
use crate::ring::{Consumer, Producer, ring};

/// Buffers of a log: one is filled, one is written, one is ready when the first is full.
const BUFFERS: usize = 3;

/// Bytes of memory that a log with this configuration reserves.
pub fn memory_size(config: &LogConfig) -> usize {
    BUFFERS * (config.group_size_max.next_multiple_of(BLOCK_SIZE) + BLOCK_SIZE)
}

/// How a log reaches its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// As `Direct` where that works, else as `Plain`.
    #[default]
    Auto,
    /// `pwrite` and `fdatasync`.
    Plain,
    /// The same past the page cache (O_DIRECT), or an error.
    Direct,
    /// O_DIRECT through io_uring, or an error.
    Uring,
    /// Plain files that lose what was not synced when the process is killed. For tests of real processes; no
    /// configuration file can say it.
    Torn(Promise),
}

/// Records that are written together.
struct Group {
    bytes: Buffer,
    count: u64,
    last: Lsn,
}

/// What both sides see.
struct Shared {
    durable: Arc<AtomicU64>,
    /// Records before this one are not needed any more.
    below: AtomicU64,
    stop: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<Arc<StorageError>>>,
    waker: Mutex<Option<Waker>>,
    groups: AtomicU64,
    bytes: AtomicU64,
    busy_ns: AtomicU64,
    slowest_ns: AtomicU64,
    segments: AtomicU64,
    first: AtomicU64,
}

impl Shared {
    fn new(durable: Lsn, log: &SegmentLog) -> Self {
        Self {
            durable: Arc::new(AtomicU64::new(durable.0)),
            below: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            waker: Mutex::new(None),
            groups: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            slowest_ns: AtomicU64::new(0),
            segments: AtomicU64::new(log.segments() as u64),
            first: AtomicU64::new(log.first().0),
        }
    }

    fn fail(&self, error: StorageError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(Arc::new(error));
        self.failed.store(true, Ordering::Release);
    }

    fn failure(&self) -> Option<Arc<StorageError>> {
        if !self.failed.load(Ordering::Acquire) {
            return None;
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }

    fn note(&self, bytes: usize, took_ns: u64) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.busy_ns.fetch_add(took_ns, Ordering::Relaxed);
        self.slowest_ns.fetch_max(took_ns, Ordering::Relaxed);
    }
}

/// The writer's side of a log. Dropping it writes what was handed over, and ends the thread.
pub struct FileLog {
    groups: Producer<Group>,
    written: Consumer<Buffer>,
    shared: Arc<Shared>,
    /// What is being filled.
    current: Group,
    /// Empty buffers.
    empty: Vec<Buffer>,
    group_size_max: usize,
    appended: Lsn,
    writer: Thread,
    thread: Option<JoinHandle<()>>,
}

/// A log on a disk, open.
pub struct Opened {
    /// The log.
    pub log: FileLog,
    /// What was found.
    pub recovered: Recovered,
    /// What reaches the disk, and why if it is not io_uring: a line for people.
    pub access: String,
}

impl FileLog {
    /// Opens the log in `path`, or makes one: reads every record that is left in order, then starts
    /// the thread that writes.
    ///
    /// # Errors
    /// The log is used, somebody else's or damaged, or the system refuses.
    pub fn open(
        path: &Path,
        owner: Owner,
        config: LogConfig,
        access: Access,
        each: &mut dyn FnMut(Lsn, &[u8]),
    ) -> Result<Opened, StorageError> {
        config.check()?;
        let (directory, access) = open_directory(path, access, config.group_size_max)?;
        let (log, recovered) = SegmentLog::open(directory, owner, config, each)?;
        let log = Self::start(log, path, config, recovered.last)?;
        Ok(Opened { log, recovered, access })
    }

    fn start(
        log: SegmentLog,
        path: &Path,
        config: LogConfig,
        last: Lsn,
    ) -> Result<Self, StorageError> {
        let (groups, groups_out) = ring(BUFFERS);
        let (written_in, written) = ring(BUFFERS);
        let shared = Arc::new(Shared::new(last, &log));
        let writer = Writer {
            log,
            config,
            groups: groups_out,
            written: written_in,
            shared: Arc::clone(&shared),
            truncated: Lsn(0),
            spare: None,
            began: None,
        };
        let thread = thread::Builder::new().name("log".into()).spawn(move || writer.run());
        let thread = thread.map_err(|source| StorageError::Io {
            path: path.to_path_buf(),
            operation: "start the thread that writes",
            source,
        })?;
        let buffer = || Buffer::with_room(config.group_size_max);
        Ok(Self {
            groups,
            written,
            shared,
            current: Group { bytes: buffer(), count: 0, last },
            empty: (1..BUFFERS).map(|_| buffer()).collect(),
            group_size_max: config.group_size_max,
            appended: last,
            writer: thread.thread().clone(),
            thread: Some(thread),
        })
    }

    /// Looks at the log from another thread.
    pub fn probe(&self) -> Probe {
        Probe(Arc::clone(&self.shared))
    }

    fn take_back(&mut self) {
        while let Some(bytes) = self.written.pop() {
            self.empty.push(bytes);
        }
    }

    /// Hands the current buffer over, if there is another one to go on with.
    fn hand_over(&mut self) {
        let Some(empty) = self.empty.pop() else {
            return;
        };
        let next = Group { bytes: empty, count: 0, last: self.current.last };
        let group = std::mem::replace(&mut self.current, next);
        let pushed = self.groups.push(group);
        assert!(pushed.is_ok(), "there is a place for each buffer");
        self.writer.unpark();
    }
}

/// Says what is wrong with a log that somebody else writes.
#[derive(Clone)]
pub struct Probe(Arc<Shared>);

impl Probe {
    /// As [`Storage::failure`].
    pub fn failure(&self) -> Option<Arc<StorageError>> {
        self.0.failure()
    }
}

/// Bytes that a record takes beside its payload at most.
const RECORD_COST: usize = record_size(0) + 7;

impl Storage for FileLog {
    fn room(&self) -> usize {
        let used = if self.empty.is_empty() { self.current.bytes.len() } else { 0 };
        (self.group_size_max - used).saturating_sub(RECORD_COST)
    }

    fn append(&mut self, lsn: Lsn, parts: &[&[u8]]) {
        assert!(lsn == self.appended.next(), "records are numbered without gaps");
        let size: usize = parts.iter().map(|part| part.len()).sum();
        assert!(size <= self.room(), "it fits");
        if self.current.bytes.len() + record_size(size) > self.group_size_max {
            self.hand_over();
        }
        append_record(&mut self.current.bytes, lsn, parts);
        self.current.count += 1;
        self.current.last = lsn;
        self.appended = lsn;
    }

    fn flush(&mut self) {
        self.take_back();
        // All others back: no write is under way.
        if self.current.count > 0 && self.empty.len() == BUFFERS - 1 {
            self.hand_over();
        }
    }

    fn durable(&mut self) -> Lsn {
        let durable = Lsn(self.shared.durable.load(Ordering::Acquire));
        self.take_back();
        durable
    }

    fn watermark(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.durable)
    }

    fn failure(&self) -> Option<Arc<StorageError>> {
        self.shared.failure()
    }

    fn truncate(&mut self, below: Lsn) {
        self.shared.below.fetch_max(below.0, Ordering::Release);
        self.writer.unpark();
    }

    fn wake(&mut self, waker: Waker) {
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    fn counts(&self) -> StorageCounts {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let Shared { groups, bytes, busy_ns, slowest_ns, segments, first, .. } = &*self.shared;
        StorageCounts {
            groups: load(groups),
            bytes: load(bytes),
            busy_ns: load(busy_ns),
            slowest_ns: load(slowest_ns),
            segments: load(segments),
            first: Lsn(load(first)),
        }
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.take_back();
        if self.current.count > 0 {
            self.hand_over();
        }
        self.shared.stop.store(true, Ordering::Release);
        self.writer.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed; there is nobody to tell more.
            let _ = thread.join();
        }
    }
}

/// The thread that writes.
struct Writer {
    log: SegmentLog,
    config: LogConfig,
    groups: Consumer<Group>,
    written: Producer<Buffer>,
    shared: Arc<Shared>,
    /// Segments of records before this one were given back.
    truncated: Lsn,
    /// A segment that is being made ahead, so that nobody waits for its zeros.
    spare: Option<Spare>,
    /// When the first group was written to the segment that is written now.
    began: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let group = self.groups.pop();
            let below = Lsn(self.shared.below.load(Ordering::Acquire));
            if group.is_none() && below <= self.truncated {
                if self.shared.stop.load(Ordering::Acquire) && self.groups.is_empty() {
                    break;
                }
                thread::park();
                continue;
            }
            if let Err(error) = self.work(group, below) {
                self.shared.fail(error);
                self.shared.wake();
                // What is still handed over is lost, and nobody was told of it.
                return;
            }
            self.prepare();
        }
        if let Some(spare) = self.spare.take() {
            let _ = spare.finish();
        }
    }

    /// Writes a group, and gives back some of the segments of records before `below`.
    fn work(&mut self, group: Option<Group>, below: Lsn) -> Result<(), StorageError> {
        if let Some(group) = group {
            self.write(group)?;
            self.shared.wake();
        }
        if below > self.truncated && !self.log.truncate(below)? {
            self.truncated = below;
        }
        self.shared.segments.store(self.log.segments() as u64, Ordering::Relaxed);
        self.shared.first.store(self.log.first().0, Ordering::Relaxed);
        Ok(())
    }

    fn write(&mut self, mut group: Group) -> Result<(), StorageError> {
        let rolls = self.log.is_full_for(group.bytes.len());
        self.take_spare(rolls);
        let start = Instant::now();
        if rolls || self.began.is_none() {
            self.began = Some(start);
        }
        self.log.write(&mut group.bytes, group.count)?;
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.shared.note(group.bytes.len(), took);
        group.bytes.clear();
        let returned = self.written.push(group.bytes);
        debug_assert!(returned.is_ok(), "there is a place for each buffer");
        // After the buffer is back: who sees this may hand over at once.
        self.shared.durable.store(group.last.0, Ordering::Release);
        Ok(())
    }

    /// Makes the next segment before it is needed.
    fn prepare(&mut self) {
        self.take_spare(false);
        if self.spare.is_some() || !self.log.wants_spare() {
            return;
        }
        let (name, directory) = (self.log.spare_name(), self.log.path().to_path_buf());
        // Before the segment is full, at the pace at which it was filled so far, and faster by a margin.
        let took = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let within = took * (SPARE_AFTER as u32 - 1) * 3 / 4;
        // Without a thread the segment is made when it is needed.
        self.spare = Spare::begin(directory, name, self.config.segment_size, within);
    }

    fn take_spare(&mut self, wait: bool) {
        if self.spare.as_ref().is_some_and(|spare| wait || spare.is_finished())
            && let Some(name) = self.spare.take().and_then(Spare::finish)
        {
            self.log.add_spare(name);
        }
    }
}

/// A directory for this process alone, the way to its disk, and a line about that.
///
/// # Errors
/// Another process has it, the way that was asked for does not work, or the system refuses.
pub fn open_directory(
    path: &Path,
    access: Access,
    group_size_max: usize,
) -> Result<(Box<dyn Directory>, String), StorageError> {
    let plain = PlainDirectory::open(path)?;
    match access {
        Access::Plain => Ok((Box::new(plain), "log: plain files".into())),
        Access::Uring => over_uring(plain, group_size_max),
        Access::Torn(promise) => {
            let mut seed = [0; 8];
            let drawn = getrandom::fill(&mut seed).map_err(io::Error::other);
            let path = plain.path().to_path_buf();
            let torn =
                drawn.and_then(|()| TornDirectory::over(plain, promise, u64::from_le_bytes(seed)));
            let torn = torn.map_err(|source| StorageError::Io {
                path,
                operation: "clean up after a killed process",
                source,
            })?;
            Ok((Box::new(torn), format!("log: TORN WRITES FOR A TEST, promise {promise:?}")))
        }
        Access::Auto | Access::Direct => match DirectDirectory::over(plain, SystemCalls) {
            Ok(direct) => Ok((Box::new(direct), "log: O_DIRECT".into())),
            Err((_, error)) if access == Access::Direct => Err(error),
            Err((plain, error)) => {
                Ok((Box::new(plain), format!("log: plain files, since {error}")))
            }
        },
    }
}

#[cfg(target_os = "linux")]
fn over_uring(
    plain: PlainDirectory,
    group_size_max: usize,
) -> Result<(Box<dyn Directory>, String), StorageError> {
    let ring = super::uring::SharedRing::new(group_size_max).map_err(|source| {
        let path = plain.path().to_path_buf();
        StorageError::Io { path, operation: "use io_uring", source }
    })?;
    match DirectDirectory::over(plain, ring) {
        Ok(direct) => Ok((Box::new(direct), "log: O_DIRECT through io_uring".into())),
        Err((_, error)) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn over_uring(
    plain: PlainDirectory,
    _: usize,
) -> Result<(Box<dyn Directory>, String), StorageError> {
    let (path, source) = (plain.path().to_path_buf(), io::ErrorKind::Unsupported.into());
    Err(StorageError::Io { path, operation: "use io_uring", source })
}
