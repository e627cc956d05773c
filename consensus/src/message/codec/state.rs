//! The state that a replica signs at a synchronisation, as bytes.
//!
//! Owns their layout. Always true: the bytes are canonical, so that whoever decodes a state and
//! encodes it again gets the bytes that were signed. Must not: sign or verify.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 4 | view |
//! | 4 | 4 | regency |
//! | 8 | 8 | last instance decided |
//! | 16 | 64 | the two decisions |
//! | 80 | 2 | replica |
//! | 82 | 1 | is anything certified: 0 or 1 |
//! | 83 | 1 | pairs in the write set |
//! | 84 | 4 | reserved, zero |
//! | 88 | 36 | certified: epoch 4, digest 32; zero when nothing is |
//! | 124 | 36 x 32 | write set: epoch 4, digest 32; zero after the last pair |
//! | 1276 | 64 | signature, of everything before with [`STATE_PREFIX`] in front |

use super::fields::{Reader, Writer};
use crate::limits::WRITE_SET_MAX;
use crate::message::{Malformed, Message, ReplicaState, SignedState, WriteSet, Written};
use crate::types::{ConsensusId, Digest, Epoch, Regency, ReplicaId, ViewId};

const WRITTEN_SIZE: usize = 36;
const STATE_SIZE: usize = 88 + WRITTEN_SIZE + WRITE_SET_MAX * WRITTEN_SIZE;

/// Bytes of a state and its signature on the wire.
pub const SIGNED_STATE_SIZE: usize = STATE_SIZE + 64;

/// What the signed bytes of a state begin with: no other thing that is signed with the same key
/// does, so a signature never means two things.
pub const STATE_PREFIX: [u8; 32] = *b"tetrarch v1 state of a replica\0\0";

/// Bytes that [`encode_state`] writes.
pub const STATE_TO_SIGN_SIZE: usize = STATE_PREFIX.len() + STATE_SIZE;

const _: () = assert!(STATE_SIZE == 1276, "the table above");
const _: () = assert!(WRITE_SET_MAX <= u8::MAX as usize, "its size is one byte");

/// Writes the bytes that are signed to the start of `out` and says how many:
/// [`STATE_TO_SIGN_SIZE`], which is the least that `out` must hold.
pub fn encode_state(state: &ReplicaState, out: &mut [u8]) -> usize {
    crate::spec!("SYNC.5");
    assert!(out.len() >= STATE_TO_SIGN_SIZE, "the caller makes room for STATE_TO_SIGN_SIZE bytes");
    let mut writer = Writer::new(out);
    writer.bytes(&STATE_PREFIX);
    write_state(&mut writer, state);
    assert_eq!(writer.written(), STATE_TO_SIGN_SIZE, "a state has one size");
    STATE_TO_SIGN_SIZE
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
        | Message::BatchBody(_) => {}
    }
}

pub(super) fn write_signed(writer: &mut Writer<'_>, signed: &SignedState) {
    write_state(writer, &signed.state);
    writer.bytes(&signed.signature);
}

pub(super) fn read_signed(reader: &mut Reader<'_>) -> Result<SignedState, Malformed> {
    Ok(SignedState { state: read_state(reader)?, signature: reader.array()? })
}

fn write_state(writer: &mut Writer<'_>, state: &ReplicaState) {
    let write_set = state.write_set.as_slice();
    writer.u32(state.view.0);
    writer.u32(state.regency.0);
    writer.u64(state.decided.0);
    writer.bytes(&state.decisions[0].0);
    writer.bytes(&state.decisions[1].0);
    writer.u16(state.replica.0);
    writer.u8(u8::from(state.certified.is_some()));
    writer.u8(write_set.len() as u8);
    writer.zeros(4);
    write_written(writer, state.certified.unwrap_or(NOTHING));
    for &written in write_set {
        write_written(writer, written);
    }
    writer.zeros((WRITE_SET_MAX - write_set.len()) * WRITTEN_SIZE);
}

fn read_state(reader: &mut Reader<'_>) -> Result<ReplicaState, Malformed> {
    let (view, regency) = (ViewId(reader.u32()?), Regency(reader.u32()?));
    let decided = ConsensusId(reader.u64()?);
    let decisions = [reader.digest()?, reader.digest()?];
    let replica = ReplicaId(reader.u16()?);
    let is_certified = reader.boolean()?;
    let pairs = usize::from(reader.u8()?);
    reader.zeros(4)?;
    let certified = if is_certified {
        Some(read_written(reader)?)
    } else {
        reader.zeros(WRITTEN_SIZE)?;
        None
    };
    let write_set = read_write_set(reader, pairs)?;
    Ok(ReplicaState { view, regency, replica, decided, decisions, certified, write_set })
}

fn read_write_set(reader: &mut Reader<'_>, pairs: usize) -> Result<WriteSet, Malformed> {
    if pairs > WRITE_SET_MAX {
        return Err(Malformed::TooMany);
    }
    let mut write_set = WriteSet::EMPTY;
    for _ in 0..pairs {
        let written = read_written(reader)?;
        write_set.insert(written);
    }
    // A repeated digest was merged: the bytes would not be canonical.
    if write_set.as_slice().len() != pairs {
        return Err(Malformed::Inconsistent);
    }
    reader.zeros((WRITE_SET_MAX - pairs) * WRITTEN_SIZE)?;
    Ok(write_set)
}

const NOTHING: Written = Written { epoch: Epoch(0), digest: Digest::ZERO };

fn write_written(writer: &mut Writer<'_>, written: Written) {
    writer.u32(written.epoch.0);
    writer.bytes(&written.digest.0);
}

fn read_written(reader: &mut Reader<'_>) -> Result<Written, Malformed> {
    Ok(Written { epoch: Epoch(reader.u32()?), digest: reader.digest()? })
}
