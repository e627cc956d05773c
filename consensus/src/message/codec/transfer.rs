//! Messages about checkpoints as bytes.
//!
//! Owns the bodies of FETCH_STATE, STATE_OFFER, FETCH_CHUNKS and CHUNK, see the table in the module above. Always
//! true: what belongs to a chunk beside its bytes is behind them and has a fixed size, so the digest that a link needs
//! of the body is the leaf of the chunk, and both sides hash it once. Must not: hash.

use super::fields::{Reader, Writer};
use crate::limits::{CHUNK_PATH_MAX, OFFERS_MAX};
use crate::message::{Chunk, FetchChunks, FetchState, Malformed, Offer, StateOffer};
use crate::payload::Payload;
use crate::types::{ConsensusId, Digest, ViewId};

pub(super) const FETCH_STATE_SIZE: usize = 16;
const STATE_OFFER_SIZE: usize = 8;
const OFFER_SIZE: usize = 16 + size_of::<Digest>();
pub(super) const FETCH_CHUNKS_SIZE: usize = 56;

const PATH_SIZE: usize = CHUNK_PATH_MAX * size_of::<Digest>();

/// Bytes of a CHUNK behind those of the chunk.
pub const CHUNK_TRAILER_SIZE: usize = PATH_SIZE + 32;

/// What is behind the bytes of a chunk in a CHUNK.
///
/// # Panics
/// If the path is longer than [`CHUNK_PATH_MAX`].
pub fn chunk_trailer(
    view: ViewId,
    (cid, index, size): (ConsensusId, u32, u64),
    path: impl IntoIterator<Item = [u8; 32]>,
) -> [u8; CHUNK_TRAILER_SIZE] {
    let mut trailer = [0; CHUNK_TRAILER_SIZE];
    let mut nodes = 0;
    let mut writer = Writer::new(&mut trailer);
    for node in path {
        nodes += 1;
        assert!(nodes <= CHUNK_PATH_MAX, "a path is no longer");
        writer.bytes(&node);
    }
    writer.zeros(PATH_SIZE - size_of::<Digest>() * nodes);
    writer.u32(view.0);
    writer.u32(index);
    writer.u64(cid.0);
    writer.u64(size);
    writer.u8(nodes as u8);
    writer.zeros(7);
    trailer
}

pub(super) fn chunk_size<P: Payload>(chunk: &Chunk<P>) -> usize {
    chunk.bytes().len() + CHUNK_TRAILER_SIZE
}

pub(super) fn write_chunk<P: Payload>(writer: &mut Writer<'_>, chunk: &Chunk<P>) {
    let Chunk { view, cid, index, size, .. } = *chunk;
    writer.bytes(chunk.bytes());
    writer.bytes(&chunk_trailer(view, (cid, index, size), chunk.path().iter().copied()));
}

pub(super) fn read_chunk<P: Payload>(payload: P) -> Result<Chunk<P>, Malformed> {
    let all = payload.bytes();
    let bytes = all.len().checked_sub(CHUNK_TRAILER_SIZE).ok_or(Malformed::Truncated)?;
    let (path, rest) = all[bytes..].split_at(PATH_SIZE);
    let mut reader = Reader::new(rest);
    let (view, index) = (ViewId(reader.u32()?), reader.u32()?);
    let (cid, size) = (ConsensusId(reader.u64()?), reader.u64()?);
    let nodes = usize::from(reader.u8()?);
    reader.zeros(7)?;
    let path_size = nodes * size_of::<Digest>();
    let unused = path.get(path_size..).ok_or(Malformed::TooMany)?;
    if unused.iter().any(|byte| *byte != 0) {
        return Err(Malformed::Reserved);
    }
    let both = payload.into_slice(0, bytes + path_size).ok_or(Malformed::Truncated)?;
    Chunk::new(view, (cid, index, size), nodes, both)
}

pub(super) fn write_fetch_state(writer: &mut Writer<'_>, fetch: &FetchState) {
    writer.u32(fetch.view.0);
    writer.zeros(4);
    writer.u64(fetch.above.0);
}

pub(super) fn read_fetch_state(reader: &mut Reader<'_>) -> Result<FetchState, Malformed> {
    let view = ViewId(reader.u32()?);
    reader.zeros(4)?;
    Ok(FetchState { view, above: ConsensusId(reader.u64()?) })
}

pub(super) fn offer_size(offer: &StateOffer) -> usize {
    STATE_OFFER_SIZE + OFFER_SIZE * offer.offers().len()
}

pub(super) fn write_offer(writer: &mut Writer<'_>, offer: &StateOffer) {
    writer.u32(offer.view.0);
    writer.u32(offer.offers().len() as u32);
    for Offer { cid, size, root } in offer.offers() {
        writer.u64(cid.0);
        writer.u64(*size);
        writer.bytes(&root.0);
    }
}

pub(super) fn read_offer(reader: &mut Reader<'_>) -> Result<StateOffer, Malformed> {
    let mut all = StateOffer::new(ViewId(reader.u32()?));
    let count = reader.u32()? as usize;
    if count > OFFERS_MAX {
        return Err(Malformed::TooMany);
    }
    for _ in 0..count {
        let (cid, size) = (ConsensusId(reader.u64()?), reader.u64()?);
        all.push(Offer { cid, size, root: reader.digest()? });
    }
    Ok(all)
}

pub(super) fn write_fetch_chunks(writer: &mut Writer<'_>, fetch: &FetchChunks) {
    writer.u32(fetch.view.0);
    writer.u32(fetch.first);
    writer.u64(fetch.cid.0);
    writer.u32(fetch.count);
    writer.zeros(4);
    writer.bytes(&fetch.root.0);
}

pub(super) fn read_fetch_chunks(reader: &mut Reader<'_>) -> Result<FetchChunks, Malformed> {
    let (view, first) = (ViewId(reader.u32()?), reader.u32()?);
    let (cid, count) = (ConsensusId(reader.u64()?), reader.u32()?);
    reader.zeros(4)?;
    Ok(FetchChunks { view, cid, root: reader.digest()?, first, count })
}
