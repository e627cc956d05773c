//! How a log lies in its files.
//!
//! Owns the bytes of segment headers and records. Always true: a record is taken for one only where it
//! was written, in the segment for which it was written, in the log that wrote it; no input makes
//! reading panic. Must not: touch a file.
//!
//! A segment is a file of a fixed size. Its first block is the header: whose log it is, the log's random
//! identity, the number of the segment, the [`Lsn`] of its first record, and a random salt. Groups
//! of records follow, each from the start of a block to the end of one, so that a block that is
//! durable is never written again. A record is a header of 40 bytes (size, place in its group, Lsn,
//! mark, check) and its payload, padded to 8. The check is keyed BLAKE3 over offset, header and payload,
//! and the key is the digest of the segment's header: so what an older use of the same blocks left behind,
//! or a write that went astray, is no record. The mark is the same without the payload: what is no record
//! is known without reading the bytes that its size names, whoever chose them.

use super::buffer::Buffer;
use super::{Lsn, Owner};

/// Bytes that a disk writes whole or tears: groups and segment headers start at multiples of it.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes before each record's payload.
pub const RECORD_HEADER_SIZE: usize = 40;
/// Bytes of the largest payload that is read: what a damaged size can make recovery reserve.
pub const RECORD_SIZE_MAX: usize = 64 << 20;
/// The version of this format.
const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"TTRARLOG";
/// Bytes of a segment header that carry something; its check follows.
const HEADER_USED: usize = 88;
const CHECK_SIZE: usize = 16;
const MARK_SIZE: usize = 8;
/// Where a record's check begins.
const CHECK_AT: usize = RECORD_HEADER_SIZE - CHECK_SIZE;

/// The first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub owner: Owner,
    /// Random, the same in all segments of a log.
    pub log: [u8; 16],
    /// Counts up within a log.
    pub number: u64,
    /// Its first record.
    pub first: Lsn,
    /// Bytes of the file.
    pub size: u64,
    /// Random, another one each time that blocks are used.
    pub salt: [u8; 16],
}

/// Why a block is no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// It does not start like one.
    Magic,
    /// Of another version of the format.
    Version(u32),
    /// Its check does not hold.
    Check,
}

impl std::fmt::Display for BadHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => f.write_str("it is no segment of a log"),
            Self::Version(version) => {
                write!(f, "its format is version {version}, and this release reads {VERSION}")
            }
            Self::Check => f.write_str("the check of the segment's header does not hold"),
        }
    }
}

impl SegmentHeader {
    /// The block.
    pub fn encode(&self) -> [u8; BLOCK_SIZE] {
        let mut block = [0; BLOCK_SIZE];
        block[0..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[12..16].copy_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        block[16..24].copy_from_slice(&self.owner.cluster.to_le_bytes());
        block[24..26].copy_from_slice(&self.owner.replica.to_le_bytes());
        block[32..48].copy_from_slice(&self.log);
        block[48..56].copy_from_slice(&self.number.to_le_bytes());
        block[56..64].copy_from_slice(&self.first.0.to_le_bytes());
        block[64..72].copy_from_slice(&self.size.to_le_bytes());
        block[72..88].copy_from_slice(&self.salt);
        let check = blake3::hash(&block[..HEADER_USED]);
        block[HEADER_USED..HEADER_USED + CHECK_SIZE]
            .copy_from_slice(&check.as_bytes()[..CHECK_SIZE]);
        block
    }

    /// What a block says.
    ///
    /// # Errors
    /// It is no header.
    pub fn decode(block: &[u8; BLOCK_SIZE]) -> Result<Self, BadHeader> {
        if block[0..8] != MAGIC {
            return Err(BadHeader::Magic);
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let check = blake3::hash(&block[..HEADER_USED]);
        let end = HEADER_USED + CHECK_SIZE;
        let rest = block[end..].iter().all(|byte| *byte == 0);
        if block[HEADER_USED..end] != check.as_bytes()[..CHECK_SIZE] || !rest {
            return Err(BadHeader::Check);
        }
        let mut header = Self {
            owner: Owner {
                cluster: u64_at(block, 16),
                replica: u16::from_le_bytes([block[24], block[25]]),
            },
            log: [0; 16],
            number: u64_at(block, 48),
            first: Lsn(u64_at(block, 56)),
            size: u64_at(block, 64),
            salt: [0; 16],
        };
        header.log.copy_from_slice(&block[32..48]);
        header.salt.copy_from_slice(&block[72..88]);
        Ok(header)
    }

    /// What the checks of this segment's records are keyed with.
    pub fn key(&self) -> RecordKey {
        RecordKey(*blake3::hash(&self.encode()[..HEADER_USED]).as_bytes())
    }
}

/// Binds records to their segment.
#[derive(Clone, Copy)]
pub struct RecordKey([u8; 32]);

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of payload.
    pub size: u32,
    /// How many records of the same group are before it.
    pub in_group: u32,
    /// Its number.
    pub lsn: Lsn,
    mark: [u8; MARK_SIZE],
    check: [u8; CHECK_SIZE],
}

impl RecordHeader {
    /// What the bytes say, if they can be a record's at all.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_SIZE)?;
        let (size, in_group, lsn) = (u32_at(bytes, 0), u32_at(bytes, 4), u64_at(bytes, 8));
        let (mut mark, mut check) = ([0; MARK_SIZE], [0; CHECK_SIZE]);
        mark.copy_from_slice(&bytes[16..CHECK_AT]);
        check.copy_from_slice(&bytes[CHECK_AT..]);
        let possible = size > 0 && u64::from(in_group) < lsn;
        possible.then_some(Self { size, in_group, lsn: Lsn(lsn), mark, check })
    }

    /// The first record of its group.
    pub fn group(&self) -> Lsn {
        Lsn(self.lsn.0 - u64::from(self.in_group))
    }

    /// Was it written at this offset of the segment with this key?
    pub fn is_of(&self, key: &RecordKey, offset: u64) -> bool {
        self.mark == truncated(self.hasher(key, offset))
    }

    /// Is it the header of this payload, at this offset of the segment with this key?
    pub fn holds(&self, key: &RecordKey, offset: u64, payload: &[u8]) -> bool {
        let mut hasher = self.hasher(key, offset);
        hasher.update(payload);
        payload.len() == self.size as usize && self.check == truncated(hasher)
    }

    /// What mark and check begin with.
    fn hasher(&self, key: &RecordKey, offset: u64) -> blake3::Hasher {
        let mut bound = [0; 24];
        bound[0..8].copy_from_slice(&offset.to_le_bytes());
        bound[8..12].copy_from_slice(&self.size.to_le_bytes());
        bound[12..16].copy_from_slice(&self.in_group.to_le_bytes());
        bound[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        hasher.update(&bound);
        hasher
    }
}

fn truncated<const SIZE: usize>(hasher: blake3::Hasher) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..SIZE]);
    bytes
}

/// Bytes that a record with so much payload takes.
pub const fn record_size(payload: usize) -> usize {
    (RECORD_HEADER_SIZE + payload).next_multiple_of(8)
}

/// Leaves place for a header, appends the payload and pads it. [`seal`] completes the header.
///
/// # Panics
/// If there is no room for it.
pub fn append_record(group: &mut Buffer, lsn: Lsn, parts: &[&[u8]]) {
    let start = group.len();
    let size: usize = parts.iter().map(|part| part.len()).sum();
    assert!(size > 0 && size <= RECORD_SIZE_MAX, "a record has 1 to RECORD_SIZE_MAX bytes");
    let mut header = [0; RECORD_HEADER_SIZE];
    header[0..4].copy_from_slice(&(size as u32).to_le_bytes());
    header[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    group.push(&header);
    for part in parts {
        group.push(part);
    }
    group.pad(start + record_size(size));
}

/// Completes the headers of a group of records that will lie at `offset` of the segment with this
/// key, and pads the group to whole blocks.
///
/// # Panics
/// If the group was not made by [`append_record`] alone.
pub fn seal(group: &mut Buffer, key: &RecordKey, offset: u64) {
    let (mut at, mut in_group) = (0, 0u32);
    while at < group.len() {
        let (size, lsn) = (u32_at(group, at), Lsn(u64_at(group, at + 8)));
        let header = RecordHeader { size, in_group, lsn, mark: [0; _], check: [0; _] };
        let mut hasher = header.hasher(key, offset + at as u64);
        let mark: [u8; MARK_SIZE] = truncated(hasher.clone());
        hasher.update(&group[at + RECORD_HEADER_SIZE..][..size as usize]);
        let check: [u8; CHECK_SIZE] = truncated(hasher);
        group[at + 4..at + 8].copy_from_slice(&in_group.to_le_bytes());
        group[at + 16..at + CHECK_AT].copy_from_slice(&mark);
        group[at + CHECK_AT..at + RECORD_HEADER_SIZE].copy_from_slice(&check);
        at += record_size(size as usize);
        in_group += 1;
    }
    group.pad(group.len().next_multiple_of(BLOCK_SIZE));
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
