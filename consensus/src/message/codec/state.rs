//! The state that a replica signs at a synchronisation, as bytes.
//!
//! Owns their layout. Always true: the bytes are canonical, so that whoever decodes a state and
//! encodes it again gets the bytes that were signed. Must not: sign or verify.
//!
//! | size | |
//! |---|---|
//! | 4 | view |
//! | 4 | regency |
//! | 8 | last instance decided |
//! | 2 | replica |
//! | 1 | decisions, at most 64 |
//! | 1 | open instances, at most 32 |
//! | 4 | reserved, zero |
//! | 32 x decisions | what was decided, the newest first |
//! | open instances | each as below; the last one not blank |
//! | 64 | signature, of [`STATE_PREFIX`], the cluster 8, and everything before |
//!
//! | size | of an open instance |
//! |---|---|
//! | 1 | is anything certified: 0 or 1 |
//! | 1 | pairs in the write set, at most 32 |
//! | 2 | reserved, zero |
//! | 36 | certified, if anything is: epoch 4, digest 32 |
//! | 36 x pairs | write set: epoch 4, digest 32 |

use alloc::vec::Vec;

use super::fields::{Reader, Writer};
use crate::limits::{DEPTH_MAX, WRITE_SET_MAX, decisions_told};
use crate::message::{Malformed, Message, OpenState, ReplicaState, SignedState, WriteSet, Written};
use crate::types::{ConsensusId, Digest, Epoch, Regency, ReplicaId, ViewId};

const FIXED_SIZE: usize = 24;
const OPEN_SIZE: usize = 4;
const WRITTEN_SIZE: usize = 36;
const SIGNATURE_SIZE: usize = 64;

/// Bytes of the shortest state and its signature on the wire.
pub const SIGNED_STATE_SIZE_MIN: usize = FIXED_SIZE + SIGNATURE_SIZE;

/// What the signed bytes of a state begin with: no other thing that is signed with the same key
/// does, so a signature never means two things.
pub const STATE_PREFIX: [u8; 32] = *b"tetrarch v1 state of a replica\0\0";

const _: () = assert!(WRITE_SET_MAX <= u8::MAX as usize, "its size is one byte");
const _: () = assert!(decisions_told(DEPTH_MAX) <= u8::MAX as usize, "their number is one byte");

/// Bytes that [`encode_state`] writes.
pub fn state_to_sign_size(state: &ReplicaState) -> usize {
    STATE_PREFIX.len() + size_of::<u64>() + state_size(state)
}

/// Writes the bytes that are signed by a member of `cluster` to the start of `out` and says how many:
/// [`state_to_sign_size`], which is the least that `out` must hold.
pub fn encode_state(cluster: u64, state: &ReplicaState, out: &mut [u8]) -> usize {
    crate::spec!("SYNC.5");
    let size = state_to_sign_size(state);
    assert!(out.len() >= size, "the caller makes room for state_to_sign_size bytes");
    let mut writer = Writer::new(out);
    writer.bytes(&STATE_PREFIX);
    writer.u64(cluster);
    write_state(&mut writer, state);
    assert_eq!(writer.written(), size, "what was sized is what was written");
    size
}

/// Calls `visit` for each signed state inside `message`, in order: ingress verifies their
/// signatures, egress fills in its own.
pub fn visit_states<'a, P>(message: &'a Message<P>, mut visit: impl FnMut(&'a SignedState)) {
    match message {
        Message::StopData(signed) => visit(signed),
        Message::Sync(sync) => sync.states.iter().for_each(visit),
        Message::Forwarded(_)
        | Message::Propose(_)
        | Message::Write(_)
        | Message::Accept(_)
        | Message::Refuse(_)
        | Message::Stop(_)
        | Message::Status(_)
        | Message::Fetch(_)
        | Message::Decided(_)
        | Message::FetchBatch(_)
        | Message::BatchBody(_)
        | Message::ProposeSparse(_)
        | Message::FetchBodies(_)
        | Message::Bodies(_)
        | Message::FetchState(_)
        | Message::StateOffer(_)
        | Message::FetchChunks(_)
        | Message::Chunk(_) => {}
    }
}

/// Bytes of `signed` on the wire.
pub(super) fn signed_size(signed: &SignedState) -> usize {
    state_size(&signed.state) + SIGNATURE_SIZE
}

pub(crate) fn state_size(state: &ReplicaState) -> usize {
    let open = |open: &OpenState| {
        let pairs = usize::from(open.certified.is_some()) + open.write_set.as_slice().len();
        OPEN_SIZE + pairs * WRITTEN_SIZE
    };
    FIXED_SIZE
        + state.decisions.len() * size_of::<Digest>()
        + state.open.iter().map(open).sum::<usize>()
}

pub(super) fn write_signed(writer: &mut Writer<'_>, signed: &SignedState) {
    write_state(writer, &signed.state);
    writer.bytes(&signed.signature);
}

pub(super) fn read_signed(reader: &mut Reader<'_>) -> Result<SignedState, Malformed> {
    Ok(SignedState { state: read_state(reader)?, signature: reader.array()? })
}

pub(crate) fn write_state(writer: &mut Writer<'_>, state: &ReplicaState) {
    assert!(state.decisions.len() <= decisions_told(DEPTH_MAX), "two for each open instance");
    assert!(state.open.len() <= DEPTH_MAX, "no more than may be open");
    writer.u32(state.view.0);
    writer.u32(state.regency.0);
    writer.u64(state.decided.0);
    writer.u16(state.replica.0);
    writer.u8(state.decisions.len() as u8);
    writer.u8(state.open.len() as u8);
    writer.zeros(4);
    for decision in &state.decisions {
        writer.bytes(&decision.0);
    }
    for open in &state.open {
        write_open(writer, open);
    }
}

fn write_open(writer: &mut Writer<'_>, open: &OpenState) {
    let write_set = open.write_set.as_slice();
    writer.u8(u8::from(open.certified.is_some()));
    writer.u8(write_set.len() as u8);
    writer.zeros(2);
    for &written in open.certified.iter().chain(write_set) {
        writer.u32(written.epoch.0);
        writer.bytes(&written.digest.0);
    }
}

pub(crate) fn read_state(reader: &mut Reader<'_>) -> Result<ReplicaState, Malformed> {
    let (view, regency) = (ViewId(reader.u32()?), Regency(reader.u32()?));
    let decided = ConsensusId(reader.u64()?);
    let replica = ReplicaId(reader.u16()?);
    let (told, instances) = (usize::from(reader.u8()?), usize::from(reader.u8()?));
    reader.zeros(4)?;
    if told > decisions_told(DEPTH_MAX) || instances > DEPTH_MAX {
        return Err(Malformed::TooMany);
    }
    let mut decisions = Vec::with_capacity(told);
    for _ in 0..told {
        decisions.push(reader.digest()?);
    }
    let mut open = Vec::with_capacity(instances);
    for _ in 0..instances {
        open.push(read_open(reader)?);
    }
    // Blank ones at the end can be left out: the bytes would not be canonical.
    if open.last().is_some_and(OpenState::is_blank) {
        return Err(Malformed::Inconsistent);
    }
    Ok(ReplicaState { view, regency, replica, decided, decisions, open })
}

fn read_open(reader: &mut Reader<'_>) -> Result<OpenState, Malformed> {
    let (is_certified, pairs) = (reader.boolean()?, usize::from(reader.u8()?));
    reader.zeros(2)?;
    if pairs > WRITE_SET_MAX {
        return Err(Malformed::TooMany);
    }
    let certified = if is_certified { Some(read_written(reader)?) } else { None };
    let mut write_set = WriteSet::EMPTY;
    for _ in 0..pairs {
        let written = read_written(reader)?;
        write_set.insert(written);
    }
    // A repeated digest was merged: the bytes would not be canonical.
    if write_set.as_slice().len() != pairs {
        return Err(Malformed::Inconsistent);
    }
    Ok(OpenState { certified, write_set })
}

fn read_written(reader: &mut Reader<'_>) -> Result<Written, Malformed> {
    Ok(Written { epoch: Epoch(reader.u32()?), digest: reader.digest()? })
}
