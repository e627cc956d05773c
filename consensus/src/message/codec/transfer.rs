//! Messages about checkpoints as bytes.
//!
//! Owns the bodies of FETCH_STATE, STATE_OFFER, FETCH_CHUNKS and CHUNK, see the table in the module above. Always
//! true: what is in front of a chunk's path and bytes has a fixed size, so that a node can write it before what it
//! reads from a disk. Must not: hash.

use core::cmp::Ordering;

use super::fields::{Reader, Writer};
use super::rest_of;
use crate::limits::{CHUNK_PATH_MAX, CHUNK_SIZE_MAX, OFFERS_MAX};
use crate::message::{Chunk, FetchChunks, FetchState, Malformed, Offer, StateOffer};
use crate::payload::Payload;
use crate::types::{ConsensusId, Digest, ViewId};

pub(super) const FETCH_STATE_SIZE: usize = 16;
const STATE_OFFER_SIZE: usize = 8;
const OFFER_SIZE: usize = 16 + size_of::<Digest>();
pub(super) const FETCH_CHUNKS_SIZE: usize = 56;

/// Bytes of a CHUNK before its path.
pub const CHUNK_HEAD_SIZE: usize = 32;

/// The first bytes of a CHUNK with a path of `nodes` digests, which follow, and then the `bytes` bytes of the
/// chunk.
///
/// # Panics
/// If the path is longer than [`CHUNK_PATH_MAX`], or the chunk than [`CHUNK_SIZE_MAX`].
pub fn chunk_head(
    view: ViewId,
    cid: ConsensusId,
    index: u32,
    size: u64,
    (nodes, bytes): (usize, usize),
) -> [u8; CHUNK_HEAD_SIZE] {
    assert!(nodes <= CHUNK_PATH_MAX && bytes <= CHUNK_SIZE_MAX, "as long as a chunk can be");
    let mut head = [0; CHUNK_HEAD_SIZE];
    let mut writer = Writer::new(&mut head);
    writer.u32(view.0);
    writer.u32(index);
    writer.u64(cid.0);
    writer.u64(size);
    writer.u32(bytes as u32);
    writer.u8(nodes as u8);
    writer.zeros(3);
    head
}

pub(super) fn chunk_size<P: Payload>(chunk: &Chunk<P>) -> usize {
    CHUNK_HEAD_SIZE + chunk.payload().bytes().len()
}

pub(super) fn write_chunk<P: Payload>(writer: &mut Writer<'_>, chunk: &Chunk<P>) {
    let Chunk { view, cid, index, size, .. } = *chunk;
    let parts = (chunk.path().len(), chunk.bytes().len());
    writer.bytes(&chunk_head(view, cid, index, size, parts));
    writer.bytes(chunk.payload().bytes());
}

pub(super) fn read_chunk<P: Payload>(
    reader: &mut Reader<'_>,
    payload: &P,
) -> Result<Chunk<P>, Malformed> {
    let (view, index) = (ViewId(reader.u32()?), reader.u32()?);
    let (cid, size) = (ConsensusId(reader.u64()?), reader.u64()?);
    let (bytes, nodes) = (reader.u32()? as usize, usize::from(reader.u8()?));
    reader.zeros(3)?;
    let rest = rest_of(payload, reader.position())?;
    let chunk = Chunk::new(view, (cid, index, size), nodes, rest)?;
    match chunk.bytes().len().cmp(&bytes) {
        Ordering::Less => Err(Malformed::Truncated),
        Ordering::Equal => Ok(chunk),
        Ordering::Greater => Err(Malformed::Trailing),
    }
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
