//! What is left after crashes and faults of a disk.

use proptest::prelude::*;

use crate::storage::buffer::Buffer;
use crate::storage::fault::{Fault, FaultDisk};
use crate::storage::format::{
    BLOCK_SIZE, BadHeader, RecordHeader, SegmentHeader, append_record, record_size, seal,
};
use crate::storage::memory::{MemoryLog, Pace};
use crate::storage::{LogConfig, Lsn, Owner, Recovered, Storage, StorageError};

const OWNER: Owner = Owner { cluster: 9, replica: 0 };
const CONFIG: LogConfig = LogConfig {
    segment_size: 32 * 1024,
    group_size_max: 8 * 1024,
    spare_segments_max: 1,
    unchecked: false,
};

type Records = Vec<Vec<u8>>;

fn open(disk: &FaultDisk, pace: Pace) -> Result<(MemoryLog, Recovered, Records), StorageError> {
    let mut records = Records::new();
    let mut next = None;
    let mut each = |lsn: Lsn, bytes: &[u8]| {
        assert!(next.is_none_or(|next| next == lsn), "records come in order");
        next = Some(lsn.next());
        records.push(bytes.to_vec());
    };
    let (log, recovered) = MemoryLog::open(disk.directory(), OWNER, CONFIG, pace, &mut each)?;
    Ok((log, recovered, records))
}

/// A generator that is good enough to choose sectors.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        self.0 >> 33
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Complete,
    Truncate,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![1usize..200, 3000usize..8000].prop_map(Step::Append),
        4 => Just(Step::Complete),
        1 => Just(Step::Truncate),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

/// What has to be in the log, record by record.
#[derive(Default)]
struct Model {
    appended: Records,
    durable: usize,
    /// Records before this place may be given back.
    truncated: usize,
}

impl Model {
    /// Compares with what recovery found, and goes on from there. Says what is wrong.
    fn recover(&mut self, recovered: Recovered, found: &Records) -> Result<(), String> {
        let (first, last) = (recovered.first.0 as usize, recovered.last.0 as usize);
        if first > self.truncated.max(1) {
            return Err(format!("begins with {first}, not {}", self.truncated.max(1)));
        }
        if last < self.durable || last > self.appended.len() {
            return Err(format!("ends with {last}, not {} or later", self.durable));
        }
        if found[..] != self.appended[first - 1..last] {
            return Err("what was found is not what was appended".into());
        }
        self.appended.truncate(last);
        self.durable = last;
        Ok(())
    }

    /// Runs the steps on `disk`.
    fn run(&mut self, disk: &FaultDisk, steps: &[Step], seed: u64) -> Result<(), String> {
        let mut dice = Dice(seed);
        let words = |error: StorageError| error.to_string();
        let (mut log, recovered, found) = open(disk, Pace::Stepwise).map_err(words)?;
        self.recover(recovered, &found)?;
        for step in steps.iter().chain([&Step::Crash]) {
            match step {
                Step::Append(size) if log.room() >= *size => {
                    let filler = self.appended.len() as u8 ^ dice.roll() as u8;
                    self.appended.push(vec![filler; *size]);
                    let lsn = Lsn(self.appended.len() as u64);
                    log.append(lsn, &[&self.appended[self.appended.len() - 1]]);
                }
                Step::Append(_) => {}
                Step::Complete => {
                    log.complete();
                    self.durable = log.durable().0 as usize;
                }
                Step::Truncate => {
                    self.truncated = self.durable;
                    log.truncate(Lsn(self.durable as u64));
                }
                Step::Crash => {
                    // Power may fail while a write is under way: then it is not synced.
                    let interrupted = dice.roll().is_multiple_of(2);
                    if interrupted {
                        disk.inject(&[Fault::LostSync]);
                        log.complete();
                    }
                    disk.crash(&mut || dice.roll());
                    let (opened, recovered, found) = open(disk, Pace::Stepwise).map_err(words)?;
                    self.recover(recovered, &found)?;
                    log = opened;
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn after_any_crash_what_was_durable_is_there_and_nothing_else_ever(
        steps in steps(),
        seed in any::<u64>(),
    ) {
        let result = Model::default().run(&FaultDisk::default(), &steps, seed);
        prop_assert_eq!(result, Ok(()));
    }

    /// Whatever the disk does, recovery gives a part of what was appended, or an error.
    #[test]
    fn no_fault_invents_a_record(
        sizes in proptest::collection::vec(1usize..5000, 10..40),
        faults in proptest::collection::vec((0u8..12, 1u64..9), 40),
        seed in any::<u64>(),
    ) {
        let disk = FaultDisk::default();
        disk.remember(true);
        let mut dice = Dice(seed);
        let mut appended = Records::new();
        let Ok((mut log, _, _)) = open(&disk, Pace::AtOnce) else { unreachable!("a good disk") };
        for (size, (fault, by)) in sizes.iter().zip(faults) {
            let by = by * BLOCK_SIZE as u64;
            let fault = match fault {
                0 => Some(Fault::LostSync),
                1 => Some(Fault::LostWrite),
                2 => Some(Fault::Misdirected(by)),
                3 => Some(Fault::Error),
                4 => Some(Fault::Torn(dice.roll())),
                _ => None,
            };
            disk.inject(fault.as_slice());
            if log.failure().is_some() {
                break;
            }
            appended.push(vec![dice.roll() as u8; *size]);
            log.append(Lsn(appended.len() as u64), &[&appended[appended.len() - 1]]);
            log.flush();
        }
        disk.crash(&mut || dice.roll());
        if seed.is_multiple_of(2) {
            disk.read_before(seed);
        }
        if let Ok((_, recovered, found)) = open(&disk, Pace::AtOnce) {
            let (first, last) = (recovered.first.0 as usize, recovered.last.0 as usize);
            prop_assert!(found[..] == appended[first - 1..last]);
        }
    }

    #[test]
    fn bytes_that_are_no_log_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), BLOCK_SIZE),
        flip in 0..BLOCK_SIZE,
    ) {
        let mut block = [0; BLOCK_SIZE];
        block.copy_from_slice(&bytes);
        prop_assert!(SegmentHeader::decode(&block).is_err());
        let header = SegmentHeader {
            owner: OWNER, log: [1; 16], number: 3, first: Lsn(7), size: 1 << 20, salt: [2; 16],
        };
        let mut block = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&block), Ok(header));
        let key = header.key();
        block[flip] ^= 1;
        prop_assert!(SegmentHeader::decode(&block).is_err());
        // A client chooses what is in records, and blocks are used again: what looks like a record is known to be none
        // by its header alone.
        if let Some(record) = RecordHeader::decode(&bytes) {
            prop_assert!(!record.is_of(&key, 4096));
        }
    }
}

/// The checks above would see a disk that does not keep its word.
#[test]
fn a_sync_that_does_nothing_is_noticed() {
    let steps: Vec<Step> =
        (0..40).map(|at| if at % 2 == 0 { Step::Append(300) } else { Step::Complete }).collect();
    let broken = (0..50).filter(|seed| {
        let disk = FaultDisk::default();
        drop(open(&disk, Pace::AtOnce));
        // The header of the next segment is written first.
        let mut faults = vec![Fault::LostSync; 30];
        faults[0] = Fault::Misdirected(0);
        disk.inject(&faults);
        Model::default().run(&disk, &steps, *seed).is_err()
    });
    assert!(broken.count() > 25);
}

fn filled(disk: &FaultDisk, groups: usize) {
    let (mut log, _, _) = open(disk, Pace::AtOnce).expect("a good disk");
    for lsn in 1..=groups as u64 {
        log.append(Lsn(lsn), &[&[lsn as u8; 100], &[0; 1000]]);
        log.flush();
    }
}

#[test]
fn damage_in_the_middle_is_no_torn_tail() {
    let segment = format!("{:016}.segment", 1);
    for (groups, damaged, found) in
        [(5, 5, Ok(4)), (5, 3, Err(())), (5, 1, Err(())), (9, 7, Err(()))]
    {
        let disk = FaultDisk::default();
        filled(&disk, groups);
        disk.corrupt(&segment, damaged * BLOCK_SIZE + 200);
        match (open(&disk, Pace::AtOnce), found) {
            (Ok((_, recovered, _)), Ok(last)) => assert_eq!(recovered.last, Lsn(last)),
            (Err(error), Err(())) => {
                let text = error.to_string();
                assert!(text.contains(&segment) && text.contains("damaged at byte"), "{text}");
                assert!(text.contains("move the directory away"), "{text}");
            }
            (Ok((_, recovered, _)), Err(())) => panic!("went on with {recovered:?}"),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }
    // The header of a segment is durable before its name is.
    let disk = FaultDisk::default();
    filled(&disk, 2);
    disk.corrupt(&segment, 20);
    assert!(matches!(open(&disk, Pace::AtOnce), Err(StorageError::Corrupt { offset: 0, .. })));
}

#[test]
fn a_segment_that_is_missing_is_damage() {
    let disk = FaultDisk::default();
    filled(&disk, 40);
    let names = disk.names();
    assert!(names.len() > 4, "{names:?}");
    disk.directory().remove(&names[2]).expect("it is there");
    let error = open(&disk, Pace::AtOnce).map(drop).expect_err("a hole");
    assert!(error.to_string().contains("the next segment begins with record"), "{error}");
}

#[test]
fn blocks_that_are_used_again_hold_no_old_records() {
    let disk = FaultDisk::default();
    filled(&disk, 40);
    let (mut log, recovered, _) = open(&disk, Pace::AtOnce).expect("a good disk");
    log.truncate(recovered.last.next());
    for lsn in 41..=44u64 {
        log.append(Lsn(lsn), &[&[7; 50]]);
        log.flush();
    }
    assert!(disk.names().iter().any(|name| name.starts_with("spare")));
    drop(log);
    let (mut log, _, _) = open(&disk, Pace::AtOnce).expect("a good disk");
    log.append(Lsn(45), &[&[7; 50]]);
    log.flush();
    drop(log);
    let (_, recovered, found) = open(&disk, Pace::AtOnce).expect("a good disk");
    assert_eq!(recovered.last, Lsn(45));
    assert!(found.iter().rev().take(5).all(|record| record[..] == [7; 50]));
}

#[test]
fn a_record_is_one_at_its_place_in_its_segment_only() {
    let header = |salt| SegmentHeader {
        owner: OWNER,
        log: [1; 16],
        number: 3,
        first: Lsn(7),
        size: 1 << 20,
        salt: [salt; 16],
    };
    let (key, other) = (header(1).key(), header(2).key());
    let mut group = Buffer::with_room(BLOCK_SIZE);
    append_record(&mut group, Lsn(7), &[b"pay", b"load"]);
    append_record(&mut group, Lsn(8), &[b"more"]);
    seal(&mut group, &key, 4096);
    assert_eq!(group.len(), BLOCK_SIZE);
    let second = record_size(7);
    let record = RecordHeader::decode(&group[second..]).expect("a record");
    let at = 4096 + second as u64;
    assert_eq!((record.lsn, record.group(), record.in_group), (Lsn(8), Lsn(7), 1));
    assert!(record.is_of(&key, at) && record.holds(&key, at, b"more"));
    assert!(!record.is_of(&key, at + 4096) && !record.is_of(&other, at));
    assert!(!record.holds(&key, at + 4096, b"more") && !record.holds(&other, at, b"more"));
    assert!(!record.holds(&key, at, b"less") && !record.holds(&key, at, b"more."));
}

#[test]
fn a_stale_read_ends_the_log_early_or_is_an_error_but_invents_nothing() {
    let disk = FaultDisk::default();
    filled(&disk, 6);
    let (mut log, _, _) = open(&disk, Pace::Stepwise).expect("a good disk");
    disk.inject(&[Fault::LostSync]);
    log.append(Lsn(7), &[&[7; 50]]);
    log.complete();
    drop(log);
    disk.read_stale(true);
    let (_, recovered, _) = open(&disk, Pace::AtOnce).expect("a shorter log");
    assert_eq!(recovered.last, Lsn(6));
}

#[test]
fn an_older_state_that_is_put_back_is_a_shorter_log() {
    let disk = FaultDisk::default();
    filled(&disk, 6);
    let older = disk.copy();
    let (mut log, _, _) = open(&disk, Pace::AtOnce).expect("a good disk");
    log.append(Lsn(7), &[&[7; 50]]);
    log.flush();
    drop(log);
    for (disk, last) in [(&disk, 7), (&older, 6)] {
        let (_, recovered, found) = open(disk, Pace::AtOnce).expect("a good disk");
        assert_eq!((recovered.last, found.len()), (Lsn(last), last as usize));
    }
}

/// Without its digest a record of which only a part was written is taken for whole.
#[test]
fn the_digest_of_a_record_is_what_tells_a_torn_one() {
    let disk = FaultDisk::default();
    filled(&disk, 3);
    let (mut log, _, _) = open(&disk, Pace::AtOnce).expect("a good disk");
    // The first sector of two is written.
    disk.inject(&[Fault::Torn(1)]);
    log.append(Lsn(4), &[&[7; 900]]);
    log.flush();
    drop(log);
    let read = |unchecked| {
        let mut records = Records::new();
        let mut each = |_, bytes: &[u8]| records.push(bytes.to_vec());
        let config = LogConfig { unchecked, ..CONFIG };
        let directory = disk.copy().directory();
        MemoryLog::open(directory, OWNER, config, Pace::AtOnce, &mut each).expect("no damage");
        records
    };
    assert_eq!(read(false).len(), 3);
    let records = read(true);
    assert!(records.len() == 4 && records[3].len() == 900 && records[3] != [7; 900]);
}

#[test]
fn another_version_is_refused_by_name() {
    let header = SegmentHeader {
        owner: OWNER,
        log: [0; 16],
        number: 1,
        first: Lsn(1),
        size: 4096,
        salt: [0; 16],
    };
    let mut block = header.encode();
    block[8] = 9;
    assert_eq!(SegmentHeader::decode(&block), Err(BadHeader::Version(9)));
    assert!(BadHeader::Version(9).to_string().contains("version 9"));
}
