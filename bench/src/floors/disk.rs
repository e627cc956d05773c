//! What the disk can do: durable writes of groups, for one log and for those of four replicas on one disk.
//!
//! Each writer is a thread with a file of its own, full of zeros before, as segments of a log are; it writes a group,
//! waits until it is on stable storage, and writes the next. So this is the floor of a log that has one group
//! under way, without the work of making records and of taking turns with other threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_dataplane::storage::LogConfig;
use tetrarch_dataplane::storage::buffer::Buffer;
use tetrarch_dataplane::storage::disk::LogFile;
use tetrarch_dataplane::storage::file::{Access, open_directory};
use tetrarch_dataplane::storage::format::BLOCK_SIZE;

use crate::latency::Latencies;

/// Bytes of the groups: votes without bodies, and what forms under load.
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Logs that write at the same time.
const WRITERS: [usize; 2] = [1, 4];

/// One row.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct DiskFloor {
    /// Threads that write, each to a file of its own.
    pub writers: usize,
    /// Bytes of each write.
    pub size: usize,
    /// Writes that became durable per second, of all together.
    pub writes_per_s: f64,
    /// Their bytes.
    pub bytes_per_s: f64,
    /// Until one is durable, microseconds in the median.
    pub p50_us: f64,
    /// The same for one of a hundred.
    pub p99_us: f64,
}

/// The rows of one place.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct DiskFloors {
    /// The directory.
    pub place: String,
    /// How the disk is reached.
    pub access: String,
    /// By writers, then by size.
    pub rows: Vec<DiskFloor>,
}

impl DiskFloors {
    /// Bytes per second of `writers` logs with groups of `size` bytes: between two measured sizes as if
    /// the time of a write grew evenly.
    pub fn bytes_per_s(&self, writers: usize, size: f64) -> f64 {
        let rows: Vec<_> = self.rows.iter().filter(|row| row.writers == writers).collect();
        let time = |row: &DiskFloor| 1.0 / row.writes_per_s.max(1e-9);
        let above = rows.iter().position(|row| row.size as f64 >= size);
        match above {
            Some(0) => size * rows[0].writes_per_s,
            Some(at) => {
                let (low, high) = (rows[at - 1], rows[at]);
                let part = (size - low.size as f64) / (high.size - low.size) as f64;
                size / (time(low) + part * (time(high) - time(low)))
            }
            None => rows.last().map_or(0.0, |row| row.bytes_per_s),
        }
    }
}

/// Measures all rows in a temporary directory in `parent`, `span` each.
///
/// # Errors
/// The directory cannot be written.
pub fn disk(parent: &Path, file_size: u64, span: Duration) -> Result<DiskFloors> {
    let path = parent.join(format!("tetrarch-bench-disk-{}", std::process::id()));
    let measured = measure(&path, file_size, span);
    let _ = std::fs::remove_dir_all(&path);
    let (access, rows) = measured.with_context(|| path.display().to_string())?;
    Ok(DiskFloors { place: parent.display().to_string(), access, rows })
}

fn measure(path: &Path, file_size: u64, span: Duration) -> Result<(String, Vec<DiskFloor>)> {
    let most = SIZES[SIZES.len() - 1];
    let (mut directory, access) = open_directory(path, Access::Auto, most)?;
    let mut rows = Vec::new();
    for writers in WRITERS {
        for size in SIZES {
            let mut files = Vec::new();
            for writer in 0..writers {
                files.push(directory.create(&format!("{writer}"), file_size)?);
            }
            rows.push(row(files, file_size, size, span)?);
        }
    }
    Ok((access, rows))
}

/// One row: `writers` that each write groups of `size` bytes, in whole blocks, to a file of their own of the size of a
/// segment.
///
/// # Errors
/// The directory cannot be written.
pub fn one(parent: &Path, writers: usize, size: usize, span: Duration) -> Result<DiskFloor> {
    let place = Place::make(parent, writers, size)?;
    let Place { files, file_size, size, _directory } = place;
    row(files, file_size, size, span)
}

/// Files of writers, in a directory that goes with them.
struct Place {
    files: Vec<Box<dyn LogFile>>,
    file_size: u64,
    size: usize,
    _directory: Temporary,
}

struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in a directory for temporary files harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Place {
    fn make(parent: &Path, writers: usize, size: usize) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("tetrarch-bench-disk-{}-{number}", std::process::id()));
        let temporary = Temporary(path.clone());
        let size = size.max(1).next_multiple_of(BLOCK_SIZE);
        let file_size = LogConfig::default().segment_size.max(size as u64);
        let (mut directory, _) = open_directory(&path, Access::Auto, size)?;
        let file = |writer: usize| directory.create(&writer.to_string(), file_size);
        let files = (0..writers).map(file).collect::<std::io::Result<_>>();
        let files = files.with_context(|| path.display().to_string())?;
        Ok(Self { files, file_size, size, _directory: temporary })
    }
}

/// Writers at a pace, while something else is measured: what logs would write, written by somebody else. They end
/// with [`Paced::stop`], or when this is dropped.
pub struct Paced {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<std::io::Result<u64>>>,
    since: Instant,
    _directory: Temporary,
}

impl Paced {
    /// Starts `writers` that each write groups of `size` bytes, `per_s` of them in a second at most.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn start(parent: &Path, writers: usize, size: usize, per_s: f64) -> Result<Self> {
        let Place { files, file_size, size, _directory } = Place::make(parent, writers, size)?;
        let (stop, since) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let pause = Duration::from_secs_f64(1.0 / per_s.max(0.1));
        let write = |file: Box<dyn LogFile>| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || write_paced(file, file_size, size, pause, &stop))
        };
        let threads = files.into_iter().map(write).collect();
        Ok(Self { stop, threads, since, _directory })
    }

    /// Ends them. Returns the writes of each in a second.
    ///
    /// # Errors
    /// One could not write.
    pub fn stop(mut self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let (seconds, count) = (self.since.elapsed().as_secs_f64(), self.threads.len() as f64);
        let mut writes = 0;
        for thread in self.threads.drain(..) {
            let Ok(result) = thread.join() else { bail!("a writer failed") };
            writes += result.context("a writer beside a load")?;
        }
        Ok(writes as f64 / seconds / count.max(1.0))
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Nobody asked how it went.
            let _ = thread.join();
        }
    }
}

fn write_paced(
    mut file: Box<dyn LogFile>,
    file_size: u64,
    size: usize,
    pause: Duration,
    stop: &AtomicBool,
) -> std::io::Result<u64> {
    let group = group_of(size);
    let (mut due, mut at, mut writes) = (Instant::now(), 0, 0);
    // Once at least, so that whoever stops it at once has a figure, too.
    loop {
        file.write_durably(at, &group)?;
        writes += 1;
        if stop.load(Ordering::Relaxed) {
            return Ok(writes);
        }
        at = if at + 2 * size as u64 > file_size { 0 } else { at + size as u64 };
        // Who is late does not catch up: a log would have larger groups then, not more.
        due = (due + pause).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn group_of(size: usize) -> Buffer {
    let mut group = Buffer::with_room(size);
    group.pad(size);
    group.fill(0x5a);
    group
}

fn row(
    files: Vec<Box<dyn LogFile>>,
    file_size: u64,
    size: usize,
    span: Duration,
) -> Result<DiskFloor> {
    let writers = files.len();
    let barrier = Arc::new(Barrier::new(writers));
    let mut threads = Vec::new();
    for file in files {
        let barrier = Arc::clone(&barrier);
        threads.push(thread::spawn(move || {
            barrier.wait();
            write(file, file_size, size, span)
        }));
    }
    let (mut all, mut writes_per_s) = (Latencies::default(), 0.0);
    for thread in threads {
        let Ok(result) = thread.join() else { bail!("a writer failed") };
        let (latencies, seconds) = result?;
        writes_per_s += latencies.count() as f64 / seconds;
        all.merge(&latencies);
    }
    let summary = all.summary();
    Ok(DiskFloor {
        writers,
        size,
        writes_per_s,
        bytes_per_s: writes_per_s * size as f64,
        p50_us: summary.p50_us,
        p99_us: summary.p99_us,
    })
}

/// Writes over the whole file, from its start again when it is full.
fn write(
    mut file: Box<dyn LogFile>,
    file_size: u64,
    size: usize,
    span: Duration,
) -> std::io::Result<(Latencies, f64)> {
    let group = group_of(size);
    let (begin, mut at, mut latencies) = (Instant::now(), 0, Latencies::default());
    while begin.elapsed() < span {
        let write = Instant::now();
        file.write_durably(at, &group)?;
        latencies.record(write.elapsed());
        at += size as u64;
        if at + size as u64 > file_size {
            at = 0;
        }
    }
    Ok((latencies, begin.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_measured_and_sizes_between_are_between() {
        let floors =
            disk(&std::env::temp_dir(), 1 << 20, Duration::from_millis(5)).expect("a disk");
        assert_eq!(floors.rows.len(), WRITERS.len() * SIZES.len());
        assert!(floors.rows.iter().all(|row| row.writes_per_s > 0.0), "{floors:?}");
        let one = one(&std::env::temp_dir(), 2, 5000, Duration::from_millis(5)).expect("a disk");
        assert!(one.size == 8192 && one.writers == 2 && one.writes_per_s > 0.0, "{one:?}");
        let paced = Paced::start(&std::env::temp_dir(), 2, 4096, 1e6).expect("a disk");
        let place = paced._directory.0.clone();
        while std::fs::read_dir(&place).expect("it is there").count() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(paced.stop().expect("a disk") > 0.0);
        assert!(!place.exists(), "nothing is left");
        let row = |size, writes_per_s| DiskFloor {
            writers: 4,
            size,
            writes_per_s,
            bytes_per_s: writes_per_s * size as f64,
            ..DiskFloor::default()
        };
        let floors = DiskFloors { rows: vec![row(1000, 100.0), row(3000, 50.0)], ..floors };
        assert_eq!(floors.bytes_per_s(4, 500.0), 50_000.0);
        assert_eq!(floors.bytes_per_s(4, 3000.0), 150_000.0);
        let between = floors.bytes_per_s(4, 2000.0);
        assert!((between - 2000.0 / 0.015).abs() < 1.0, "{between}");
        assert_eq!(floors.bytes_per_s(4, 1e6), 150_000.0);
        assert_eq!(floors.bytes_per_s(2, 1e6), 0.0);
    }
}
