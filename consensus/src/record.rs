//! What a replica must not forget, as values and as bytes.
//!
//! Owns the kinds of records and their form. Always true: replayed in order into a new core
//! ([`crate::smr::Replica::restore`]) the records give back the state in which the last one was made, as
//! far as anybody was told of it; no bytes make reading panic. Must not: know where records are kept.
//!
//! A record is a head of [`HEAD_SIZE`] bytes, little endian, then digests or an encoded batch.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 1 | kind |
//! | 1 | 1 | flags: 1 a batch follows, 2 decided by claims |
//! | 2 | 2 | zero |
//! | 4 | 4 | view |
//! | 8 | 8 | instance; the first level of a synchronisation |
//! | 16 | 4 | epoch or regency |
//! | 20 | 4 | how many digests follow |
//! | 24 | 32 | digest |

pub mod base;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

pub use self::base::{Base, Votes};
use crate::batch::Batch;
use crate::limits::{DEPTH_MAX, decisions_told};
use crate::message::{Malformed, Position, Vote};
use crate::payload::{Payload, PayloadPool};
use crate::spec;
use crate::types::{ConsensusId, Digest, Epoch, Regency, ViewId};
use crate::vp::safe_value::Resume;

/// Bytes before what is of varying size.
pub const HEAD_SIZE: usize = 56;

/// Bytes of a record at most, beside its batch.
pub const RECORD_HEAD_SIZE_MAX: usize = HEAD_SIZE + base::BASE_SIZE_MAX;

/// Something that has to survive before anybody is told of it.
#[derive(Clone, Debug)]
pub enum Record<P> {
    /// This replica came back without what it had recorded before, and only learns (rule LAG.5).
    MemoryLost {
        /// Of which view.
        view: ViewId,
    },
    /// It is new, or has learned enough: its records from here on are all that it has to know.
    MemoryWhole {
        /// Of which view.
        view: ViewId,
    },
    /// This regency is installed: no more votes in the epochs before.
    Installed {
        /// Of which view.
        view: ViewId,
        /// Which.
        regency: Regency,
    },
    /// The installed regency goes on so.
    Synchronised {
        /// Of which view.
        view: ViewId,
        /// Which.
        regency: Regency,
        /// Where, and with which values.
        resume: Resume,
    },
    /// WRITE for this batch.
    Written {
        /// Where.
        at: Position,
        /// The value.
        batch: Batch<P>,
    },
    /// ACCEPT.
    Accepted(Vote),
    /// A decision, delivered.
    Decided {
        /// Where, with the epoch that decided.
        at: Position,
        /// The value.
        digest: Digest,
        /// Was it learned from claims?
        claimed: bool,
        /// Its bytes, unless they were written here in the same epoch.
        batch: Option<Batch<P>>,
    },
    /// This replica is in this view from here on (rule VIEW.6).
    Entered {
        /// Which.
        view: ViewId,
    },
    /// At an instance with a checkpoint: stands for all records before it (rule CKP.2).
    Base(Box<Base>),
    /// The same, of a checkpoint that others had sent. Nothing leads to it from the records before (rule
    /// ST.5).
    Transferred {
        /// Root of the checkpoint's image.
        root: Digest,
        /// What this replica must not forget.
        base: Box<Base>,
    },
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRecord {
    /// They do not hold together.
    Malformed(Malformed),
    /// There is no memory for its batch.
    NoMemory,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => write!(out, "the record is malformed ({malformed:?})"),
            Self::NoMemory => out.write_str("there is no memory for the record's batch"),
        }
    }
}

mod kind {
    pub(super) const INSTALLED: u8 = 1;
    pub(super) const SYNCHRONISED: u8 = 2;
    pub(super) const WRITTEN: u8 = 3;
    pub(super) const ACCEPTED: u8 = 4;
    pub(super) const DECIDED: u8 = 5;
    pub(super) const MEMORY_LOST: u8 = 6;
    pub(super) const MEMORY_WHOLE: u8 = 7;
    pub(super) const BASE: u8 = 8;
    pub(super) const TRANSFERRED: u8 = 9;
    pub(super) const ENTERED: u8 = 10;
}

const BATCH_FOLLOWS: u8 = 1;
const CLAIMED: u8 = 2;

/// The fields of a head.
struct Head {
    kind: u8,
    flags: u8,
    at: Position,
    count: u32,
    digest: Digest,
}

impl<P: Payload> Record<P> {
    /// Where it belongs, and which batch comes with it.
    fn head(&self) -> (Head, &[Digest], Option<&Batch<P>>) {
        let regency = |view: &ViewId, regency: &Regency, cid| Position {
            view: *view,
            cid,
            epoch: regency.epoch(),
        };
        let none = ConsensusId(0);
        let head = |kind, at, digest| Head { kind, flags: 0, at, count: 0, digest };
        match self {
            Self::MemoryLost { view } => {
                let at = regency(view, &Regency(0), none);
                (head(kind::MEMORY_LOST, at, Digest::ZERO), &[], None)
            }
            Self::MemoryWhole { view } => {
                let at = regency(view, &Regency(0), none);
                (head(kind::MEMORY_WHOLE, at, Digest::ZERO), &[], None)
            }
            Self::Entered { view } => {
                let at = regency(view, &Regency(0), none);
                (head(kind::ENTERED, at, Digest::ZERO), &[], None)
            }
            Self::Installed { view, regency: it } => {
                (head(kind::INSTALLED, regency(view, it, none), Digest::ZERO), &[], None)
            }
            Self::Synchronised { view, regency: it, resume } => {
                let at = regency(view, it, resume.start);
                let head = head(kind::SYNCHRONISED, at, Digest::ZERO);
                let count = u32::try_from(resume.bound.len()).unwrap_or(u32::MAX);
                (Head { count, ..head }, &resume.bound, None)
            }
            Self::Written { at, batch } => {
                (head(kind::WRITTEN, *at, batch.digest), &[], Some(batch))
            }
            Self::Accepted(vote) => (head(kind::ACCEPTED, vote.at, vote.digest), &[], None),
            Self::Decided { at, digest, claimed, batch } => {
                let head = head(kind::DECIDED, *at, *digest);
                (Head { flags: if *claimed { CLAIMED } else { 0 }, ..head }, &[], batch.as_ref())
            }
            Self::Base(base) => {
                let at = regency(&base.state.view, &base.state.regency, base.state.decided);
                (head(kind::BASE, at, Digest::ZERO), &[], None)
            }
            Self::Transferred { root, base } => {
                let at = regency(&base.state.view, &base.state.regency, base.state.decided);
                (head(kind::TRANSFERRED, at, *root), &[], None)
            }
        }
    }

    /// Replaces what is in `out` by all of the record but its batch, whose bytes are returned: they
    /// follow. Needs [`RECORD_HEAD_SIZE_MAX`] bytes at most.
    pub fn encode<'a>(&'a self, out: &mut Vec<u8>) -> &'a [u8] {
        let (head, digests, batch) = self.head();
        let flags = head.flags | if batch.is_some() { BATCH_FOLLOWS } else { 0 };
        out.clear();
        out.extend_from_slice(&[head.kind, flags, 0, 0]);
        out.extend_from_slice(&head.at.view.0.to_le_bytes());
        out.extend_from_slice(&head.at.cid.0.to_le_bytes());
        out.extend_from_slice(&head.at.epoch.0.to_le_bytes());
        out.extend_from_slice(&head.count.to_le_bytes());
        out.extend_from_slice(&head.digest.0);
        for digest in digests {
            out.extend_from_slice(&digest.0);
        }
        if let Self::Base(base) | Self::Transferred { base, .. } = self {
            base.encode(out);
        }
        batch.map_or(&[], |batch| batch.payload().bytes())
    }

    /// Reads a record. The batch is copied into memory of `pool`, and none of its requests is marked
    /// authentic: what was written was judged.
    ///
    /// # Errors
    /// [`BadRecord`] says why not.
    pub fn decode(bytes: &[u8], pool: &mut dyn PayloadPool<P>) -> Result<Self, BadRecord> {
        let bad = |malformed| Err(BadRecord::Malformed(malformed));
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_SIZE>() else {
            return bad(Malformed::Truncated);
        };
        if head[2..4] != [0; 2] {
            return bad(Malformed::Reserved);
        }
        let (view, epoch, count) = (u32_at(head, 4), u32_at(head, 16), u32_at(head, 20));
        let cid = u64::from(u32_at(head, 8)) | u64::from(u32_at(head, 12)) << 32;
        let at = Position { view: ViewId(view), cid: ConsensusId(cid), epoch: Epoch(epoch) };
        let mut digest = Digest::ZERO;
        digest.0.copy_from_slice(&head[24..]);
        let (kind, flags) = (head[0], head[1]);
        let mut batch = || {
            let fill = &mut |out: &mut [u8]| out.copy_from_slice(rest);
            let payload = pool.build(rest.len(), fill).ok_or(BadRecord::NoMemory)?;
            let batch = Batch::parse(payload).map_err(BadRecord::Malformed)?;
            let right = batch.digest == digest;
            right.then_some(batch).ok_or(BadRecord::Malformed(Malformed::Inconsistent))
        };
        if kind != kind::SYNCHRONISED && count != 0 {
            return bad(Malformed::Reserved);
        }
        let (view, regency) = (at.view, Regency(epoch));
        match (kind, flags) {
            (kind::WRITTEN, BATCH_FOLLOWS) => Ok(Self::Written { at, batch: batch()? }),
            (kind::DECIDED, flags) if flags & !(BATCH_FOLLOWS | CLAIMED) == 0 => {
                let claimed = flags & CLAIMED != 0;
                let batch = match flags & BATCH_FOLLOWS != 0 {
                    true => Some(batch()?),
                    false if rest.is_empty() => None,
                    false => return bad(Malformed::Trailing),
                };
                Ok(Self::Decided { at, digest, claimed, batch })
            }
            (kind::SYNCHRONISED, 0) => {
                let resume = Resume { start: at.cid, bound: digests(rest, count)? };
                Ok(Self::Synchronised { view, regency, resume })
            }
            (kind::BASE | kind::TRANSFERRED, 0) => {
                let base = Box::new(Base::decode(rest)?);
                let of = &base.state;
                match (of.view, of.decided, of.regency) == (view, at.cid, regency) {
                    true if kind == kind::BASE => Ok(Self::Base(base)),
                    true => Ok(Self::Transferred { root: digest, base }),
                    false => bad(Malformed::Inconsistent),
                }
            }
            (kind::WRITTEN | kind::DECIDED | kind::BASE | kind::TRANSFERRED, _) => {
                bad(Malformed::Unknown)
            }
            (_, 0) if !rest.is_empty() => bad(Malformed::Trailing),
            (kind::MEMORY_LOST, 0) => Ok(Self::MemoryLost { view }),
            (kind::MEMORY_WHOLE, 0) => Ok(Self::MemoryWhole { view }),
            (kind::ENTERED, 0) => Ok(Self::Entered { view }),
            (kind::INSTALLED, 0) => Ok(Self::Installed { view, regency }),
            (kind::ACCEPTED, 0) => Ok(Self::Accepted(Vote { at, digest })),
            _ => bad(Malformed::Unknown),
        }
    }
}

/// Instance and root of the checkpoint that a record says was installed, if it is such a record. Nothing else in it is
/// looked at.
pub fn transferred(bytes: &[u8]) -> Option<(ConsensusId, Digest)> {
    let head = bytes.first_chunk::<HEAD_SIZE>().filter(|head| head[0] == kind::TRANSFERRED)?;
    let cid = u64::from(u32_at(head, 8)) | u64::from(u32_at(head, 12)) << 32;
    let mut root = Digest::ZERO;
    root.0.copy_from_slice(&head[24..]);
    Some((ConsensusId(cid), root))
}

fn digests(bytes: &[u8], count: u32) -> Result<Vec<Digest>, BadRecord> {
    spec!("DUR.1");
    if count as usize > decisions_told(DEPTH_MAX) {
        return Err(BadRecord::Malformed(Malformed::TooMany));
    }
    if bytes.len() != 32 * count as usize {
        return Err(BadRecord::Malformed(Malformed::Inconsistent));
    }
    let digest = |bytes: &[u8]| {
        let mut digest = Digest::ZERO;
        digest.0.copy_from_slice(bytes);
        digest
    };
    Ok(bytes.chunks_exact(32).map(digest).collect())
}

fn u32_at(head: &[u8; HEAD_SIZE], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{OpenState, ReplicaState, WriteSet, Written};
    use crate::payload::{HeapPool, SharedBytes};
    use proptest::prelude::*;

    fn records() -> Vec<Record<SharedBytes>> {
        let none: [crate::message::Request<SharedBytes>; 0] = [];
        let batch = Batch::build(&mut HeapPool, 7, &none).expect("heap");
        let (view, regency) = (ViewId(3), Regency(9));
        let at = Position { view, cid: ConsensusId(1 << 40), epoch: Epoch(9) };
        let digest = batch.digest;
        let resume = Resume { start: ConsensusId(5), bound: alloc::vec![digest, Digest([7; 32])] };
        let decided = |claimed, batch| Record::Decided { at, digest, claimed, batch };
        alloc::vec![
            Record::MemoryLost { view },
            Record::MemoryWhole { view },
            Record::Entered { view },
            Record::Installed { view, regency },
            Record::Synchronised { view, regency, resume },
            Record::Written { at, batch: batch.clone() },
            Record::Accepted(Vote { at, digest }),
            decided(false, None),
            decided(true, Some(batch)),
            Record::Base(Box::new(base(view, regency))),
            Record::Transferred { root: Digest([8; 32]), base: Box::new(base(view, regency)) },
        ]
    }

    fn base(view: ViewId, regency: Regency) -> Base {
        let digest = Digest([5; 32]);
        let written = Written { epoch: Epoch(4), digest };
        let mut write_set = WriteSet::EMPTY;
        write_set.insert(written);
        let open = OpenState { certified: Some(written), write_set };
        let votes = |wrote, accepted| Votes { epoch: Epoch(8), wrote, accepted };
        Base {
            state: ReplicaState {
                view,
                regency,
                replica: crate::ReplicaId(2),
                decided: ConsensusId(64),
                decisions: alloc::vec![Digest([6; 32]), digest, digest],
                open: alloc::vec![OpenState::BLANK, open],
            },
            timestamp_ns: 99,
            claimed: ConsensusId(60),
            stopped: false,
            mute: true,
            joining: false,
            resume: Resume { start: ConsensusId(63), bound: alloc::vec![digest] },
            votes: alloc::vec![
                votes(None, None),
                votes(Some(digest), None),
                votes(None, Some(digest))
            ],
            wrote: alloc::vec![digest, digest],
            accepted: alloc::vec![digest],
        }
    }

    fn bytes(record: &Record<SharedBytes>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let batch = record.encode(&mut bytes);
        assert!(bytes.len() <= RECORD_HEAD_SIZE_MAX);
        bytes.extend_from_slice(batch);
        bytes
    }

    // rule: DUR.1
    #[test]
    fn records_come_back_as_they_were_and_nothing_else_is_one() {
        for record in records() {
            let bytes = bytes(&record);
            let back = Record::<SharedBytes>::decode(&bytes, &mut HeapPool).expect("a record");
            assert_eq!(self::bytes(&back), bytes);
            assert_eq!(core::mem::discriminant(&back), core::mem::discriminant(&record));
            for end in 0..bytes.len() {
                let cut = Record::<SharedBytes>::decode(&bytes[..end], &mut HeapPool);
                assert!(cut.is_err(), "{record:?} cut at {end}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(Record::<SharedBytes>::decode(&longer, &mut HeapPool).is_err());
            let mut unknown = bytes;
            unknown[2] = 1;
            assert!(Record::<SharedBytes>::decode(&unknown, &mut HeapPool).is_err());
        }
    }

    // rule: ST.5
    #[test]
    fn a_transferred_checkpoint_is_named_by_its_record_and_by_no_other() {
        for record in records() {
            let bytes = bytes(&record);
            let expected = match &record {
                Record::Transferred { root, base } => Some((base.state.decided, *root)),
                _ => None,
            };
            assert_eq!(transferred(&bytes), expected);
            assert_eq!(transferred(&bytes[..HEAD_SIZE - 1]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            at in 0usize..11,
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
        ) {
            let mut bytes = bytes(&records()[at]);
            for (place, value) in changes {
                let place = usize::from(place) % bytes.len();
                bytes[place] = value;
            }
            let before = bytes.clone();
            if let Ok(record) = Record::<SharedBytes>::decode(&bytes, &mut HeapPool) {
                // What a kind does not use is not looked at.
                prop_assert_eq!(self::bytes(&record).len(), before.len());
            }
        }
    }
}
