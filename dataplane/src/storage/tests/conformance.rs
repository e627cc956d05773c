//! What every back end of a log must do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::endpoint::Waker;
use crate::storage::disk::PlainDirectory;
use crate::storage::fault::{Fault, FaultDisk};
use crate::storage::file::{Access, FileLog};
use crate::storage::format::BLOCK_SIZE;
use crate::storage::memory::{MemoryLog, Pace};
use crate::storage::torn::Promise;
use crate::storage::{LogConfig, Lsn, Owner, Recovered, Storage, StorageError, log};

const OWNER: Owner = Owner { cluster: 0xc1, replica: 3 };
const SMALL: LogConfig = LogConfig {
    segment_size: 64 * 1024,
    group_size_max: 16 * 1024,
    spare_segments_max: 2,
    unchecked: false,
};
/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of this test, removed at its end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tetrarch-log-{}-{name}-{number}", std::process::id());
        // Not where temporary files may be in memory: O_DIRECT has to be tried.
        let target =
            option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = target.join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Records = Vec<(Lsn, Vec<u8>)>;
type Open<'a> = dyn FnMut(LogConfig, &mut Records) -> (Box<dyn Storage>, Recovered) + 'a;

fn record(lsn: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| (lsn as usize * 31 + at) as u8).collect()
}

fn wait(storage: &mut dyn Storage, lsn: Lsn) {
    let limit = Instant::now() + PATIENCE;
    while storage.durable() < lsn {
        assert!(storage.failure().is_none(), "{:?}", storage.failure());
        assert!(Instant::now() < limit, "nothing is written");
        storage.flush();
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Appends records `from..=to` of various sizes, in two parts each, flushing now and then.
fn append(storage: &mut dyn Storage, from: u64, to: u64) {
    let limit = Instant::now() + PATIENCE;
    for lsn in from..=to {
        let record = record(lsn, size(lsn));
        while storage.room() < record.len() {
            assert!(Instant::now() < limit && storage.failure().is_none(), "no room comes");
            storage.flush();
            storage.durable();
            std::thread::sleep(Duration::from_micros(200));
        }
        let (head, tail) = record.split_at(record.len() / 2);
        storage.append(Lsn(lsn), &[head, tail]);
        if lsn.is_multiple_of(3) {
            storage.flush();
        }
    }
    wait(storage, Lsn(to));
}

fn size(lsn: u64) -> usize {
    [1, 40, 4096 - 40, 700, 8192, 16 * 1024 - 47][lsn as usize % 6]
}

fn check(records: &Records, from: u64, to: u64) {
    let numbers: Vec<u64> = records.iter().map(|(lsn, _)| lsn.0).collect();
    assert_eq!(numbers, (from..=to).collect::<Vec<_>>());
    assert!(records.iter().all(|(lsn, bytes)| *bytes == record(lsn.0, size(lsn.0))));
}

fn suite(open: &mut Open<'_>) {
    let mut records = Records::new();
    let (mut storage, recovered) = open(SMALL, &mut records);
    assert_eq!((recovered.last, storage.durable()), (Lsn(0), Lsn(0)));
    append(&mut *storage, 1, 50);
    assert!(storage.counts().groups >= 5, "segments of 64 KiB were left behind");
    drop(storage);
    // Nothing new between two starts: no segments pile up.
    for _ in 0..3 {
        records.clear();
        let (_, recovered) = open(SMALL, &mut records);
        check(&records, 1, 50);
        let expected = (Lsn(1), Lsn(50), false);
        assert_eq!((recovered.first, recovered.last, recovered.torn), expected);
    }
    let (mut storage, before) = open(SMALL, &mut Records::new());
    append(&mut *storage, 51, 80);
    storage.truncate(Lsn(70));
    append(&mut *storage, 81, 120);
    drop(storage);
    records.clear();
    // Other sizes from here on: what is there stays readable.
    let other = LogConfig { segment_size: 128 * 1024, group_size_max: 32 * 1024, ..SMALL };
    let (storage, recovered) = open(other, &mut records);
    check(&records, recovered.first.0, 120);
    assert!(recovered.first > Lsn(1) && recovered.first <= Lsn(70), "{recovered:?}");
    assert!(recovered.segments > 1 && before.segments > 1);
    drop(storage);
    let (mut storage, _) = open(other, &mut Records::new());
    append(&mut *storage, 121, 150);
    drop(storage);
    records.clear();
    let (_, recovered) = open(SMALL, &mut records);
    check(&records, recovered.first.0, 150);
}

#[test]
fn in_memory() {
    let disk = FaultDisk::default();
    suite(&mut |config, records| {
        let mut each = |lsn, bytes: &[u8]| records.push((lsn, bytes.to_vec()));
        let directory = disk.directory();
        let (log, recovered) =
            MemoryLog::open(directory, OWNER, config, Pace::AtOnce, &mut each).unwrap();
        (Box::new(log), recovered)
    });
}

fn on_files(access: Access, name: &str) {
    let scratch = Scratch::new(name);
    suite(&mut |config, records| {
        let mut each = |lsn, bytes: &[u8]| records.push((lsn, bytes.to_vec()));
        let opened = FileLog::open(&scratch.0, OWNER, config, access, &mut each).unwrap();
        (Box::new(opened.log), opened.recovered)
    });
}

#[test]
fn on_plain_files() {
    on_files(Access::Plain, "plain");
}

/// Past the page cache where the directory allows it, else with what is used instead.
#[test]
fn on_files_past_the_page_cache() {
    on_files(Access::Auto, "direct");
}

#[test]
fn torn_files() {
    on_files(Access::Torn(Promise::Kept), "torn");
}

#[test]
fn on_files_through_io_uring() {
    let scratch = Scratch::new("tried");
    match FileLog::open(&scratch.0, OWNER, SMALL, Access::Uring, &mut |_, _| {}) {
        Ok(opened) => {
            assert!(opened.access.contains("io_uring"));
            on_files(Access::Uring, "uring");
        }
        // Not on this machine: the operator, who asked for it, is told.
        Err(error) => assert!(error.to_string().contains("cannot use io_uring"), "{error}"),
    }
}

fn open_at(path: &Path, owner: Owner) -> Result<(FileLog, Records), StorageError> {
    let mut records = Records::new();
    let mut each = |lsn, bytes: &[u8]| records.push((lsn, bytes.to_vec()));
    let opened = FileLog::open(path, owner, SMALL, Access::Plain, &mut each)?;
    Ok((opened.log, records))
}

#[test]
fn a_log_has_one_process_and_one_owner() {
    let scratch = Scratch::new("owner");
    let (mut log, _) = open_at(&scratch.0, OWNER).unwrap();
    append(&mut log, 1, 3);
    let text = |result: Result<_, StorageError>| {
        result.map(|_| ()).expect_err("it is not ours").to_string()
    };
    assert!(text(open_at(&scratch.0, OWNER)).contains("another process"));
    drop(log);
    let other = text(open_at(&scratch.0, Owner { replica: 4, ..OWNER }));
    assert!(other.contains("the replica is 3, not 4") && other.contains("data_dir"), "{other}");
    let other = text(open_at(&scratch.0, Owner { cluster: 2, ..OWNER }));
    assert!(other.contains("the cluster is 00000000000000c1"), "{other}");
    let segment = scratch.0.join(format!("{:016}.segment", 1));
    let moved = scratch.0.join(format!("{:016}.segment", 7));
    std::fs::copy(&segment, &moved).unwrap();
    assert!(text(open_at(&scratch.0, OWNER)).contains("the name of the segment"));
    std::fs::remove_file(moved).unwrap();
    let (_, records) = open_at(&scratch.0, OWNER).unwrap();
    check(&records, 1, 3);
}

#[test]
fn tools_read_a_log_and_leave_it_as_it_is() {
    let scratch = Scratch::new("inspect");
    let (mut log, _) = open_at(&scratch.0, OWNER).unwrap();
    append(&mut log, 1, 9);
    drop(log);
    let names = || PlainDirectory::open(&scratch.0).unwrap();
    for _ in 0..2 {
        let mut records = Records::new();
        let mut each = |lsn, bytes: &[u8]| records.push((lsn, bytes.to_vec()));
        let (owner, recovered) = log::inspect(&mut names(), &mut each).unwrap();
        assert_eq!((owner, recovered.last), (Some(OWNER), Lsn(9)));
        check(&records, 1, 9);
    }
}

#[test]
fn whoever_waits_is_woken_and_groups_collect_what_came_meanwhile() {
    let scratch = Scratch::new("wake");
    let (mut log, _) = open_at(&scratch.0, OWNER).unwrap();
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    log.wake(Waker::new(move || {
        count.fetch_add(1, Ordering::Release);
    }));
    for lsn in 1..=200 {
        log.append(Lsn(lsn), &[&record(lsn, 16)]);
        log.flush();
    }
    wait(&mut log, Lsn(200));
    let groups = log.counts().groups;
    assert!(groups < 200, "200 records took {groups} syncs");
    assert!(woken.load(Ordering::Acquire) > 0);
    assert!(log.counts().bytes >= groups * BLOCK_SIZE as u64);
}

#[test]
fn after_the_first_error_nothing_is_durable_any_more() {
    for (fault, words) in [(Fault::Error, "look at the disk"), (Fault::Full, "make room")] {
        let disk = FaultDisk::default();
        let open = |records: &mut Records| {
            let mut each = |lsn, bytes: &[u8]| records.push((lsn, bytes.to_vec()));
            MemoryLog::open(disk.directory(), OWNER, SMALL, Pace::AtOnce, &mut each).unwrap().0
        };
        let mut log = open(&mut Records::new());
        append(&mut log, 1, 4);
        disk.inject(&[fault]);
        log.append(Lsn(5), &[&record(5, size(5))]);
        log.flush();
        let text = log.failure().expect("it failed").to_string();
        assert!(text.contains("cannot write and sync") && text.contains(words), "{text}");
        log.flush();
        log.truncate(Lsn(2));
        assert_eq!(log.durable(), Lsn(4));
        let mut records = Records::new();
        drop(open(&mut records));
        assert!(records.len() >= 4 && records.len() <= 5);
    }
    let disk = FaultDisk::new(2 * SMALL.segment_size);
    let mut each = |_, _: &[u8]| {};
    let opened = MemoryLog::open(disk.directory(), OWNER, SMALL, Pace::AtOnce, &mut each);
    let (mut log, _) = opened.unwrap();
    let mut lsn = 0;
    while log.failure().is_none() {
        lsn += 1;
        log.append(Lsn(lsn), &[&record(lsn, 9000)]);
        log.flush();
    }
    let text = log.failure().expect("the disk is full").to_string();
    assert!(text.contains("make a segment") && text.contains("full"), "{text}");
    assert_eq!(log.durable(), Lsn(lsn - 1));
}

#[test]
fn settings_that_cannot_work_are_refused_with_words() {
    for (config, field) in [
        (LogConfig { segment_size: 64 * 1024 + 1, ..SMALL }, "segment_size = 65537"),
        (LogConfig { segment_size: 32 * 1024, ..SMALL }, "segment_size = 32768"),
        (LogConfig { group_size_max: 100, ..SMALL }, "group_size_max = 100"),
        (LogConfig { group_size_max: 1 << 30, ..SMALL }, "group_size_max = 1073741824"),
    ] {
        let text = config.check().expect_err("it cannot work").to_string();
        assert!(text.contains(field) && text.contains("use "), "{text}");
    }
    assert!(SMALL.check().is_ok() && LogConfig::default().check().is_ok());
}
