//! A base: the record that stands for all records before it.
//!
//! Owns its form. Always true: it says what a replica has promised in the instances that can still matter,
//! and nothing that all replicas agree on, except as far as it shows which checkpoint it belongs to. Must
//! not: hold batches; those of open instances are in the records of their WRITEs, which are kept.
//!
//! Behind the head of the record (view, instance, regency) follow
//!
//! | size | little endian |
//! |---|---|
//! | 8 | the application's time at the instance |
//! | 8 | the last instance that was decided by claims |
//! | 8 | first level of the last synchronisation |
//! | 1 | is the regency not synchronised: 0 or 1 |
//! | 1 | does this replica only learn: 0 or 1 |
//! | 1 | levels that the last synchronisation bound |
//! | 1 | open instances that were written in the regency, from the lowest on |
//! | 1 | those that were accepted |
//! | 1 | does this replica wait for the view that it joins in: 0 or 1 |
//! | 2 | zero |
//! | | the state that the replica would sign, as in STOPDATA |
//! | 4 + 4 + 0, 32 or 64 | for each decision in it: epoch, 1 written + 2 accepted, and their digests |
//! | 32 each | bound levels, written, accepted |

use alloc::vec::Vec;

use super::{BadRecord, HEAD_SIZE};
use crate::limits::{DEPTH_MAX, WRITE_SET_MAX, decisions_told};
use crate::message::codec::fields::{Reader, Writer};
use crate::message::codec::state::{read_state, state_size, write_state};
use crate::message::{Malformed, ReplicaState};
use crate::types::{ConsensusId, Digest, Epoch};
use crate::vp::safe_value::Resume;

const FIXED_SIZE: usize = 32;

/// Bytes of the largest base behind its head.
pub(super) const BASE_SIZE_MAX: usize = FIXED_SIZE
    + 24
    + decisions_told(DEPTH_MAX) * (32 + 8 + 64)
    + DEPTH_MAX * (4 + 36 * (1 + WRITE_SET_MAX))
    + 32 * (decisions_told(DEPTH_MAX) + 2 * DEPTH_MAX);

/// What a replica sent in an instance that it decided, in the epoch that was current then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Votes {
    /// In which epoch.
    pub epoch: Epoch,
    /// Its WRITE.
    pub wrote: Option<Digest>,
    /// Its ACCEPT.
    pub accepted: Option<Digest>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// Regency, last decision, and what was certified and written in the open instances.
    pub state: ReplicaState,
    /// The application's time at the last decision.
    pub timestamp_ns: u64,
    /// The last instance that was decided by claims.
    pub claimed: ConsensusId,
    /// Is the regency installed but not synchronised?
    pub stopped: bool,
    /// Does this replica only learn (rule LAG.5)?
    pub mute: bool,
    /// Does this replica wait for the view that it joins in (rule VIEW.8)?
    pub joining: bool,
    /// How the last synchronisation told to go on.
    pub resume: Resume,
    /// For each of `state.decisions`.
    pub votes: Vec<Votes>,
    /// What was written in the open instances in this epoch, from the lowest on.
    pub wrote: Vec<Digest>,
    /// Likewise accepted.
    pub accepted: Vec<Digest>,
}

impl Base {
    /// Appends the bytes to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let digests = || self.resume.bound.iter().chain(&self.wrote).chain(&self.accepted);
        let votes = |votes: &Votes| 8 + 32 * (votes.wrote.iter().chain(&votes.accepted).count());
        let size = FIXED_SIZE
            + state_size(&self.state)
            + self.votes.iter().map(votes).sum::<usize>()
            + 32 * digests().count();
        let start = out.len();
        out.resize(start + size, 0);
        let mut writer = Writer::new(&mut out[start..]);
        writer.u64(self.timestamp_ns);
        writer.u64(self.claimed.0);
        writer.u64(self.resume.start.0);
        writer.u8(u8::from(self.stopped));
        writer.u8(u8::from(self.mute));
        for list in [&self.resume.bound, &self.wrote, &self.accepted] {
            assert!(list.len() <= decisions_told(DEPTH_MAX), "two for each open instance at most");
            writer.u8(list.len() as u8);
        }
        writer.u8(u8::from(self.joining));
        writer.zeros(2);
        write_state(&mut writer, &self.state);
        for votes in &self.votes {
            writer.u32(votes.epoch.0);
            let bits = u32::from(votes.wrote.is_some()) | u32::from(votes.accepted.is_some()) << 1;
            writer.u32(bits);
            for digest in votes.wrote.iter().chain(&votes.accepted) {
                writer.bytes(&digest.0);
            }
        }
        for digest in digests() {
            writer.bytes(&digest.0);
        }
    }

    /// Reads what [`Base::encode`] wrote, and nothing else.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadRecord> {
        Self::read(bytes).map_err(BadRecord::Malformed)
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (timestamp_ns, claimed) = (reader.u64()?, ConsensusId(reader.u64()?));
        let start = ConsensusId(reader.u64()?);
        let (stopped, mute) = (reader.boolean()?, reader.boolean()?);
        let [bound, wrote, accepted] = reader.array::<3>()?.map(usize::from);
        let joining = reader.boolean()?;
        reader.zeros(2)?;
        let most = bound.max(wrote.max(accepted));
        if most > decisions_told(DEPTH_MAX) || wrote.max(accepted) > DEPTH_MAX {
            return Err(Malformed::TooMany);
        }
        let state = read_state(&mut reader)?;
        let mut votes = Vec::with_capacity(state.decisions.len());
        for _ in 0..state.decisions.len() {
            let (epoch, bits) = (Epoch(reader.u32()?), reader.u32()?);
            if bits > 3 {
                return Err(Malformed::Reserved);
            }
            let wrote = if bits & 1 != 0 { Some(reader.digest()?) } else { None };
            let accepted = if bits & 2 != 0 { Some(reader.digest()?) } else { None };
            votes.push(Votes { epoch, wrote, accepted });
        }
        let mut digests = |count| (0..count).map(|_| reader.digest()).collect();
        let bound: Result<Vec<Digest>, Malformed> = digests(bound);
        let wrote: Result<Vec<Digest>, Malformed> = digests(wrote);
        let accepted: Result<Vec<Digest>, Malformed> = digests(accepted);
        let resume = Resume { start, bound: bound? };
        let (wrote, accepted) = (wrote?, accepted?);
        reader.end()?;
        Ok(Self {
            state,
            timestamp_ns,
            claimed,
            stopped,
            mute,
            joining,
            resume,
            votes,
            wrote,
            accepted,
        })
    }
}

const _: () = assert!(HEAD_SIZE + BASE_SIZE_MAX < 64 * 1024, "a base is a small record");
