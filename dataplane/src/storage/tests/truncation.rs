//! Truncation behind a checkpoint, stopped between any two of its changes.

use crate::storage::fault::FaultDisk;
use crate::storage::memory::{MemoryLog, Pace};
use crate::storage::{LogConfig, Lsn, Owner, Recovered, Storage};

const OWNER: Owner = Owner { cluster: 5, replica: 2 };
/// Three groups of two blocks fit a segment.
const CONFIG: LogConfig = LogConfig {
    segment_size: 28 * 1024,
    group_size_max: 8 * 1024,
    spare_segments_max: 6,
    unchecked: false,
};

fn payload(lsn: u64) -> Vec<u8> {
    (0..5000).map(|at| (lsn as usize * 7 + at / 100) as u8).collect()
}

/// Opens the log. What is in it is what was appended.
fn open(disk: &FaultDisk) -> (MemoryLog, Recovered) {
    let mut each = |lsn: Lsn, bytes: &[u8]| {
        assert!(bytes == payload(lsn.0), "record {lsn} is not what was appended");
    };
    let opened = MemoryLog::open(disk.directory(), OWNER, CONFIG, Pace::AtOnce, &mut each);
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// Appends and makes durable what is missing up to `last`, as long as that works.
fn append(log: &mut MemoryLog, last: u64) {
    for lsn in log.durable().next().0..=last {
        if log.failure().is_none() {
            log.append(Lsn(lsn), &[&payload(lsn)]);
            log.flush();
        }
    }
}

/// What the log of `work` promised when it ended.
struct Promised {
    below: Lsn,
    durable: Lsn,
}

/// Twice fills segments and truncates; the second time segments are used again.
fn work(log: &mut MemoryLog) -> Promised {
    let mut below = Lsn(1);
    append(log, 20);
    for (checkpoint, last) in [(14, 35), (30, 44), (41, 45)] {
        if log.failure().is_none() {
            below = Lsn(checkpoint);
            log.truncate(below);
            append(log, last);
        }
    }
    Promised { below, durable: log.durable() }
}

fn check(disk: &FaultDisk, promised: &Promised, at: u64) {
    let (mut log, recovered) = open(disk);
    let Recovered { first, last, .. } = recovered;
    assert!(first <= promised.below, "killed at {at}: begins with {first}");
    assert!(last >= promised.durable, "killed at {at}: ends with {last}");
    // It goes on as if nothing had been, and gives everything back.
    append(&mut log, 60);
    log.truncate(Lsn(60));
    assert!(log.failure().is_none() && log.durable() == Lsn(60), "killed at {at}");
    assert!(log.counts().segments == 1 && log.counts().first <= Lsn(60), "killed at {at}");
    drop(log);
    // Segments, spares, and one that was being made.
    let names = disk.names();
    let spares = names.iter().filter(|name| name.starts_with("spare")).count();
    assert!(spares <= CONFIG.spare_segments_max && names.len() <= spares + 2, "{names:?}");
    let (_, recovered) = open(disk);
    assert_eq!(recovered.last, Lsn(60), "killed at {at}");
}

#[test]
fn a_kill_between_any_two_changes_leaves_a_whole_log() {
    let mut changes = 0;
    loop {
        let disk = FaultDisk::default();
        let (mut log, _) = open(&disk);
        disk.kill_after(changes);
        let promised = work(&mut log);
        drop(log);
        if !disk.revive() {
            assert_eq!((promised.below, promised.durable), (Lsn(41), Lsn(45)));
            break;
        }
        check(&disk, &promised, changes);
        changes += 1;
    }
    assert!(changes > 80, "{changes} changes");
}

#[test]
fn a_loss_of_power_between_any_two_changes_leaves_a_whole_log() {
    for seed in 0..8u64 {
        for changes in 0..200 {
            let disk = FaultDisk::default();
            let (mut log, _) = open(&disk);
            disk.kill_after(changes);
            let promised = work(&mut log);
            drop(log);
            let mut state = seed * 1000 + changes;
            disk.crash(&mut || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
                state >> 33
            });
            check(&disk, &promised, changes);
        }
    }
}

#[test]
fn segments_are_used_again_and_only_as_many_are_kept_as_are_needed() {
    let disk = FaultDisk::default();
    let (mut log, _) = open(&disk);
    // Five segments are filled between two checkpoints, again and again.
    for round in 1..=20u64 {
        append(&mut log, round * 15);
        log.truncate(Lsn(round * 15));
        assert!(log.counts().segments <= 2, "{:?}", log.counts());
        assert!(disk.names().len() <= 8, "{:?}", disk.names());
    }
    let made = disk.made();
    append(&mut log, 400);
    log.truncate(Lsn(400));
    assert!(made <= 9, "{made} files were made for 20 rounds");
    // Then hardly anything is recorded: the disk gets its room back.
    for lsn in [404, 408, 412] {
        append(&mut log, lsn);
        log.truncate(Lsn(lsn));
    }
    assert!(disk.names().len() <= 4, "{:?}", disk.names());
}

#[test]
fn nothing_is_given_back_that_is_needed_or_not_there() {
    let disk = FaultDisk::default();
    let (mut log, _) = open(&disk);
    log.truncate(Lsn(1));
    log.truncate(Lsn(1000));
    append(&mut log, 9);
    assert_eq!((log.counts().first, log.counts().segments), (Lsn(1), 3));
    // Records 4 to 6 are in the second segment.
    for (below, first) in [(3, 1), (4, 4), (2, 4), (6, 4), (7, 7), (u64::MAX, 7)] {
        log.truncate(Lsn(below));
        assert_eq!(log.counts().first, Lsn(first), "below {below}");
    }
    append(&mut log, 12);
    assert_eq!(log.durable(), Lsn(12));
    drop(log);
    let (_, recovered) = open(&disk);
    assert_eq!((recovered.first, recovered.last), (Lsn(7), Lsn(12)));
}

#[test]
fn each_start_takes_the_room_of_its_records_only() {
    let disk = FaultDisk::default();
    for lsn in 1..=20u64 {
        let (mut log, recovered) = open(&disk);
        assert_eq!(recovered.last.next(), Lsn(lsn));
        append(&mut log, lsn);
    }
    let size: usize =
        disk.names().iter().filter_map(|name| disk.contents(name)).map(|bytes| bytes.len()).sum();
    // Header and two blocks each; the newest is whole.
    let most = 19 * 12 * 1024 + CONFIG.segment_size as usize;
    assert!(size <= most, "{size} bytes");
    let (mut log, recovered) = open(&disk);
    assert_eq!((recovered.first, recovered.last), (Lsn(1), Lsn(20)));
    // What was cut off is of no use as a spare.
    log.truncate(Lsn(20));
    append(&mut log, 40);
    drop(log);
    let names = disk.names();
    let sizes = names.iter().filter_map(|name| disk.contents(name)).map(|bytes| bytes.len());
    assert!(sizes.filter(|size| *size != CONFIG.segment_size as usize).count() <= 1);
    assert_eq!(open(&disk).1.last, Lsn(40));
}

#[test]
fn a_segment_that_is_shorter_than_its_records_is_damage() {
    for (size, what) in [(8192, "should be here"), (4096, "should be here"), (100, "file ends")] {
        let disk = FaultDisk::default();
        for last in [2, 4] {
            append(&mut open(&disk).0, last);
        }
        let mut each = |_, _: &[u8]| {};
        let oldest = disk.names().remove(0);
        disk.directory().shrink(&oldest, size).expect("it is there");
        let opened =
            MemoryLog::open(disk.directory(), OWNER, CONFIG, Pace::AtOnce, &mut each).map(drop);
        let error = opened.expect_err("records are missing").to_string();
        assert!(error.contains(what) && error.contains("damaged"), "{error}");
    }
    // The newest one is never cut off by the log itself.
    let disk = FaultDisk::default();
    append(&mut open(&disk).0, 2);
    let newest = disk.names().remove(0);
    disk.directory().shrink(&newest, CONFIG.segment_size - 4096).expect("it is there");
    let opened = MemoryLog::open(disk.directory(), OWNER, CONFIG, Pace::AtOnce, &mut |_, _| {});
    assert!(opened.map(drop).expect_err("cut off").to_string().contains("the file ends here"));
}

#[test]
fn a_log_of_many_segments_needs_few_open_files() {
    let disk = FaultDisk::default();
    append(&mut open(&disk).0, 600);
    assert!(disk.names().len() >= 200, "{} files", disk.names().len());
    let mut most = 0;
    let mut each = |_, _: &[u8]| most = disk.handles().max(most);
    let opened = MemoryLog::open(disk.directory(), OWNER, CONFIG, Pace::AtOnce, &mut each);
    assert_eq!(opened.expect("a good disk").1.last, Lsn(600));
    // This one, the directory, and the segment that is read.
    assert!(most <= 3, "{most} handles");
}
