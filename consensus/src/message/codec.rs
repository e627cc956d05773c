//! Messages as bytes: one fixed struct a kind, then its variable part.
//!
//! Owns the body of every message between replicas, and the bytes of a state that are signed. Always
//! true: `decode(encode(m)) == m`, one message has one encoding, every byte of a body is covered by
//! a check, and decoding allocates nothing but the list of a SYNC, after its size was checked. Must
//! not: authenticate anything; what is decoded is well formed, not true.
//!
//! Little endian. A *position* is view 4, epoch 4, instance 8. "Batch" stands for
//! [`Batch`] and is always last, so that its size needs no field; a PROPOSE has its position, and a CHUNK all but
//! its bytes, behind the body, where the messages of clients have their proofs ([`trailer_size`]).
//!
//! | kind | body |
//! |---|---|
//! | FORWARDED | batch |
//! | PROPOSE | batch, whole or [sparse](crate::batch::sparse); after the body: position 16 |
//! | WRITE, ACCEPT | position 16, digest 32 |
//! | REFUSE | position 16, digest 32, reason 1 (0 clock, 1 proof), zero 7, client 8 |
//! | STOP | view 4, regency 4, batch |
//! | STOPDATA | signed state |
//! | SYNC | view 4, regency 4, count 4, zero 4, signed states |
//! | STATUS | view 4, regency 4, wanted 4, flags 1 (1 stopped), zero 3, decided 8, log start 8, written 8, accepted 8, proposed 4, learned 4 |
//! | FETCH | view 4, with batches 1, zero 3, from 8, to 8 |
//! | DECIDED | position 16, digest 32, has batch 1, zero 7, batch |
//! | FETCH_BATCH | view 4, zero 4, instance 8, digest 32 |
//! | BATCH_BODY | view 4, zero 4, instance 8, batch |
//! | FETCH_BODIES | position 16, digest 32, which 128: bit i is the request at place i |
//! | BODIES | position 16, digest 32, batch |
//! | FETCH_STATE | view 4, zero 4, above 8 |
//! | STATE_OFFER | view 4, count 4, offers: instance 8, size 8, root 32 each |
//! | FETCH_CHUNKS | view 4, first 4, instance 8, count 4, zero 4, root 32 |
//! | CHUNK | bytes; after the body: path 32 each, zeros up to 31 of them, view 4, index 4, instance 8, size 8, nodes of the path 1, zero 7 |
//!
//! REQUEST is [`RequestHeader`] and operation, REPLY is in
//! [`reply`](super::reply); a signed state is in [`state`].

pub(crate) mod fields;
pub mod state;
mod transfer;

#[cfg(test)]
pub(crate) mod tests;

pub use state::{
    SIGNED_STATE_SIZE_MIN, STATE_PREFIX, encode_state, state_to_sign_size, visit_states,
};

pub use transfer::{CHUNK_TRAILER_SIZE, chunk_trailer};

use alloc::boxed::Box;

use crate::batch::{Batch, RequestHeader, Selection, SparseBatch};
use crate::limits::{REPLICAS_MAX, REQUEST_LIST_MAX};
use crate::message::{
    BatchBody, Bodies, Decided, Fetch, FetchBatch, FetchBodies, Malformed, Message, Position,
    Propose, ProposeSparse, Refuse, RefuseReason, Request, SignedState, Status, Stop, Sync, Vote,
    kind,
};
use crate::payload::Payload;
use crate::types::{ClientId, ConsensusId, Digest, Epoch, Regency, ReplicaSet, ViewId};
use fields::{Reader, Writer};

const POSITION_SIZE: usize = 16;
const VOTE_SIZE: usize = POSITION_SIZE + 32;
const REFUSE_SIZE: usize = VOTE_SIZE + 16;
const STOP_SIZE: usize = 8;
const SYNC_SIZE: usize = 16;
const STATUS_SIZE: usize = 56;
const FETCH_SIZE: usize = 24;
const DECIDED_SIZE: usize = VOTE_SIZE + 8;
const FETCH_BATCH_SIZE: usize = 48;
const BATCH_BODY_SIZE: usize = 16;
const FETCH_BODIES_SIZE: usize = VOTE_SIZE + Selection::SIZE;

const REASON_CLOCK: u8 = 0;
const REASON_PROOF: u8 = 1;
const STATUS_STOPPED: u8 = 1;

/// How many of the last bytes of a message between replicas are not its body. In a PROPOSE that is the
/// position: so the digest of a body that is a [bare](SparseBatch::is_bare) batch is the batch's. In a CHUNK it is
/// all but the chunk's bytes: so the digest of the body is the leaf of the chunk.
pub fn trailer_size(kind: u8) -> usize {
    match kind {
        kind::PROPOSE => POSITION_SIZE,
        kind::CHUNK => CHUNK_TRAILER_SIZE,
        _ => 0,
    }
}

/// The digest of the body of `message`, where it is known already.
pub fn known_digest<P: Payload>(message: &Message<P>) -> Option<Digest> {
    match message {
        Message::ProposeSparse(ProposeSparse { batch, .. }) if batch.is_bare() => {
            Some(batch.digest)
        }
        _ => None,
    }
}

/// Bytes of `message`: its body, and what follows it ([`trailer_size`]).
pub fn encoded_size<P: Payload>(message: &Message<P>) -> usize {
    match message {
        Message::Forwarded(batch) => batch_size(batch),
        Message::Propose(propose) => POSITION_SIZE + batch_size(&propose.batch),
        Message::ProposeSparse(propose) => POSITION_SIZE + propose.batch.payload().bytes().len(),
        Message::Write(_) | Message::Accept(_) => VOTE_SIZE,
        Message::Refuse(_) => REFUSE_SIZE,
        Message::Stop(stop) => STOP_SIZE + batch_size(&stop.requests),
        Message::StopData(signed) => state::signed_size(signed),
        Message::Sync(sync) => {
            SYNC_SIZE + sync.states.iter().map(state::signed_size).sum::<usize>()
        }
        Message::Status(_) => STATUS_SIZE,
        Message::Fetch(_) => FETCH_SIZE,
        Message::Decided(decided) => {
            DECIDED_SIZE + decided.batch.as_ref().map_or(0, |batch| batch_size(batch))
        }
        Message::FetchBatch(_) => FETCH_BATCH_SIZE,
        Message::BatchBody(body) => BATCH_BODY_SIZE + batch_size(&body.batch),
        Message::FetchBodies(_) => FETCH_BODIES_SIZE,
        Message::Bodies(bodies) => VOTE_SIZE + batch_size(&bodies.requests),
        Message::FetchState(_) => transfer::FETCH_STATE_SIZE,
        Message::StateOffer(offer) => transfer::offer_size(offer),
        Message::FetchChunks(_) => transfer::FETCH_CHUNKS_SIZE,
        Message::Chunk(chunk) => transfer::chunk_size(chunk),
    }
}

/// Writes `message` to the start of `out` and says how long it is: exactly [`encoded_size`], which is the least that `out` must hold.
pub fn encode<P: Payload>(message: &Message<P>, out: &mut [u8]) -> usize {
    let size = encoded_size(message);
    assert!(out.len() >= size, "the caller makes room for encoded_size bytes");
    let mut writer = Writer::new(out);
    match message {
        Message::Forwarded(batch) => writer.bytes(batch.payload().bytes()),
        Message::Propose(propose) => {
            writer.bytes(propose.batch.payload().bytes());
            write_position(&mut writer, propose.at);
        }
        Message::ProposeSparse(propose) => {
            writer.bytes(propose.batch.payload().bytes());
            write_position(&mut writer, propose.at);
        }
        Message::Write(vote) | Message::Accept(vote) => write_vote(&mut writer, vote),
        Message::Refuse(refuse) => write_refuse(&mut writer, refuse),
        Message::Stop(stop) => {
            writer.u32(stop.view.0);
            writer.u32(stop.regency.0);
            writer.bytes(stop.requests.payload().bytes());
        }
        Message::StopData(signed) => state::write_signed(&mut writer, signed),
        Message::Sync(sync) => write_sync(&mut writer, sync),
        Message::Status(status) => write_status(&mut writer, status),
        Message::Fetch(fetch) => {
            writer.u32(fetch.view.0);
            writer.u8(u8::from(fetch.with_batches));
            writer.zeros(3);
            writer.u64(fetch.from.0);
            writer.u64(fetch.to.0);
        }
        Message::Decided(decided) => write_decided(&mut writer, decided),
        Message::FetchBatch(fetch) => {
            writer.u32(fetch.view.0);
            writer.zeros(4);
            writer.u64(fetch.cid.0);
            writer.bytes(&fetch.digest.0);
        }
        Message::BatchBody(body) => {
            writer.u32(body.view.0);
            writer.zeros(4);
            writer.u64(body.cid.0);
            writer.bytes(body.batch.payload().bytes());
        }
        Message::FetchBodies(fetch) => {
            write_vote(&mut writer, &Vote { at: fetch.at, digest: fetch.digest });
            writer.bytes(&fetch.which.to_bytes());
        }
        Message::Bodies(bodies) => {
            write_vote(&mut writer, &Vote { at: bodies.at, digest: bodies.digest });
            writer.bytes(bodies.requests.payload().bytes());
        }
        Message::FetchState(fetch) => transfer::write_fetch_state(&mut writer, fetch),
        Message::StateOffer(offer) => transfer::write_offer(&mut writer, offer),
        Message::FetchChunks(fetch) => transfer::write_fetch_chunks(&mut writer, fetch),
        Message::Chunk(chunk) => transfer::write_chunk(&mut writer, chunk),
    }
    assert_eq!(writer.written(), size, "encode and encoded_size agree");
    size
}

/// The message of kind `kind` that is all of `payload`. Batches inside it share the memory
/// of `payload`; no request in them is marked authentic, and no signature was checked.
///
/// # Errors
/// [`Malformed`] names the first thing that is wrong. REQUEST and REPLY are not between replicas and
/// are [`Malformed::Unknown`] here.
pub fn decode<P: Payload>(kind: u8, payload: P) -> Result<Message<P>, Malformed> {
    decode_parts(kind, payload, None)
}

/// As [`decode`], with the digest of the body, which the link has computed and compared: it need not be
/// computed again for a batch that is the body.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_hashed<P: Payload>(
    kind: u8,
    payload: P,
    digest: Digest,
) -> Result<Message<P>, Malformed> {
    decode_parts(kind, payload, Some(digest))
}

fn decode_parts<P: Payload>(
    kind: u8,
    payload: P,
    digest: Option<Digest>,
) -> Result<Message<P>, Malformed> {
    let mut reader = Reader::new(payload.bytes());
    let message = match kind {
        kind::FORWARDED => return Ok(Message::Forwarded(list_from(&payload, 0)?)),
        kind::PROPOSE => return propose_from(&payload, digest),
        kind::WRITE => Message::Write(read_vote(&mut reader)?),
        kind::ACCEPT => Message::Accept(read_vote(&mut reader)?),
        kind::REFUSE => Message::Refuse(read_refuse(&mut reader)?),
        kind::STOP => {
            let (view, regency) = (ViewId(reader.u32()?), Regency(reader.u32()?));
            let requests = list_from(&payload, reader.position())?;
            return Ok(Message::Stop(Stop { view, regency, requests }));
        }
        kind::STOPDATA => Message::StopData(Box::new(state::read_signed(&mut reader)?)),
        kind::SYNC => Message::Sync(read_sync(&mut reader)?),
        kind::STATUS => Message::Status(read_status(&mut reader)?),
        kind::FETCH => Message::Fetch(read_fetch(&mut reader)?),
        kind::DECIDED => return read_decided(&mut reader, &payload),
        kind::FETCH_BATCH => Message::FetchBatch(read_fetch_batch(&mut reader)?),
        kind::BATCH_BODY => {
            let view = ViewId(reader.u32()?);
            reader.zeros(4)?;
            let cid = ConsensusId(reader.u64()?);
            let batch = batch_from(&payload, reader.position())?;
            return Ok(Message::BatchBody(BatchBody { view, cid, batch }));
        }
        kind::FETCH_BODIES => {
            let Vote { at, digest } = read_vote(&mut reader)?;
            let which = Selection::from_bytes(&reader.array()?);
            Message::FetchBodies(FetchBodies { at, digest, which })
        }
        kind::BODIES => {
            let Vote { at, digest } = read_vote(&mut reader)?;
            let requests = batch_from(&payload, reader.position())?;
            return Ok(Message::Bodies(Bodies { at, digest, requests }));
        }
        kind::FETCH_STATE => Message::FetchState(transfer::read_fetch_state(&mut reader)?),
        kind::STATE_OFFER => Message::StateOffer(transfer::read_offer(&mut reader)?),
        kind::FETCH_CHUNKS => Message::FetchChunks(transfer::read_fetch_chunks(&mut reader)?),
        kind::CHUNK => return Ok(Message::Chunk(transfer::read_chunk(payload)?)),
        _ => return Err(Malformed::Unknown),
    };
    reader.end()?;
    Ok(message)
}

/// The request whose body is the first `body_size` bytes of `payload` and whose proof, of kind
/// `auth`, is the rest. `digest` is the digest of the body, which the link has compared.
///
/// # Errors
/// [`Malformed`] names the first thing that is wrong with the body.
pub fn decode_request<P: Payload>(
    payload: P,
    body_size: usize,
    digest: Digest,
    auth: u8,
) -> Result<Request<P>, Malformed> {
    let body = payload.bytes().get(..body_size).ok_or(Malformed::Truncated)?;
    let header = RequestHeader::parse(body)?;
    Ok(Request {
        client: header.client,
        sequence: header.sequence,
        digest,
        read_only: header.read_only,
        auth,
        body_size: u32::try_from(body_size).map_err(|_| Malformed::TooLong)?,
        payload,
    })
}

/// What the signed bytes of a request begin with, see [`STATE_PREFIX`].
pub const REQUEST_PREFIX: [u8; 32] = *b"tetrarch v1 request of a client\0";

/// Bytes that a client signs for one request.
pub const REQUEST_TO_SIGN_SIZE: usize = REQUEST_PREFIX.len() + 8 + 32;

/// What a client signs when it sends a request again (rule CLI.4): a prefix of its own, the cluster
/// that may execute it, and the digest of the request's body.
pub fn request_to_sign(cluster: u64, digest: &Digest) -> [u8; REQUEST_TO_SIGN_SIZE] {
    let mut out = [0; REQUEST_TO_SIGN_SIZE];
    let mut writer = Writer::new(&mut out);
    writer.bytes(&REQUEST_PREFIX);
    writer.u64(cluster);
    writer.bytes(&digest.0);
    out
}

fn batch_size<P: Payload>(batch: &Batch<P>) -> usize {
    batch.payload().bytes().len()
}

/// The batch that begins at `start` and ends with the payload.
fn batch_from<P: Payload>(payload: &P, start: usize) -> Result<Batch<P>, Malformed> {
    Batch::parse(rest_of(payload, start)?)
}

fn rest_of<P: Payload>(payload: &P, start: usize) -> Result<P, Malformed> {
    let size = payload.bytes().len().checked_sub(start).ok_or(Malformed::Truncated)?;
    payload.slice(start, size).ok_or(Malformed::Truncated)
}

/// The proposal that is all of `payload`, with the digest of its body if somebody knows it.
fn propose_from<P: Payload>(payload: &P, digest: Option<Digest>) -> Result<Message<P>, Malformed> {
    let bytes = payload.bytes();
    let size = bytes.len().checked_sub(POSITION_SIZE).ok_or(Malformed::Truncated)?;
    let at = read_position(&mut Reader::new(&bytes[size..]))?;
    let body = payload.slice(0, size).ok_or(Malformed::Truncated)?;
    match Batch::parse(body.clone()) {
        Ok(batch) => Ok(Message::Propose(Propose { at, batch })),
        // When bodies are left out, a reserved byte is set, or nothing follows the identities.
        Err(Malformed::Reserved | Malformed::Truncated) => {
            let batch = SparseBatch::parse(body, digest)?;
            Ok(Message::ProposeSparse(ProposeSparse { at, batch }))
        }
        Err(malformed) => Err(malformed),
    }
}

/// A batch that serves as a list of requests.
fn list_from<P: Payload>(payload: &P, start: usize) -> Result<Batch<P>, Malformed> {
    let list = batch_from(payload, start)?;
    if list.len() > REQUEST_LIST_MAX {
        return Err(Malformed::TooMany);
    }
    Ok(list)
}

fn write_position(writer: &mut Writer<'_>, at: Position) {
    writer.u32(at.view.0);
    writer.u32(at.epoch.0);
    writer.u64(at.cid.0);
}

fn read_position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    let (view, epoch) = (ViewId(reader.u32()?), Epoch(reader.u32()?));
    Ok(Position { view, epoch, cid: ConsensusId(reader.u64()?) })
}

fn write_vote(writer: &mut Writer<'_>, vote: &Vote) {
    write_position(writer, vote.at);
    writer.bytes(&vote.digest.0);
}

fn read_vote(reader: &mut Reader<'_>) -> Result<Vote, Malformed> {
    Ok(Vote { at: read_position(reader)?, digest: reader.digest()? })
}

fn write_refuse(writer: &mut Writer<'_>, refuse: &Refuse) {
    write_position(writer, refuse.at);
    writer.bytes(&refuse.digest.0);
    let (reason, client) = match refuse.reason {
        RefuseReason::Clock => (REASON_CLOCK, 0),
        RefuseReason::Proof(client) => (REASON_PROOF, client.0),
    };
    writer.u8(reason);
    writer.zeros(7);
    writer.u64(client);
}

fn read_refuse(reader: &mut Reader<'_>) -> Result<Refuse, Malformed> {
    let (at, digest, reason) = (read_position(reader)?, reader.digest()?, reader.u8()?);
    reader.zeros(7)?;
    let client = reader.u64()?;
    let reason = match (reason, client) {
        (REASON_CLOCK, 0) => RefuseReason::Clock,
        (REASON_CLOCK, _) => return Err(Malformed::Reserved),
        (REASON_PROOF, client) => RefuseReason::Proof(ClientId(client)),
        _ => return Err(Malformed::Unknown),
    };
    Ok(Refuse { at, digest, reason })
}

fn write_sync(writer: &mut Writer<'_>, sync: &Sync) {
    assert!(sync.states.len() <= REPLICAS_MAX, "one state a member");
    writer.u32(sync.view.0);
    writer.u32(sync.regency.0);
    writer.u32(sync.states.len() as u32);
    writer.zeros(4);
    for signed in &sync.states {
        state::write_signed(writer, signed);
    }
}

fn read_sync(reader: &mut Reader<'_>) -> Result<Sync, Malformed> {
    let (view, regency) = (ViewId(reader.u32()?), Regency(reader.u32()?));
    let count = reader.u32()? as usize;
    reader.zeros(4)?;
    if count > REPLICAS_MAX {
        return Err(Malformed::TooMany);
    }
    // Before the list is allocated: that many can be there.
    if reader.left() < count * SIGNED_STATE_SIZE_MIN {
        return Err(Malformed::Truncated);
    }
    let mut states = alloc::vec::Vec::<SignedState>::with_capacity(count);
    for _ in 0..count {
        states.push(state::read_signed(reader)?);
    }
    Ok(Sync { view, regency, states })
}

fn write_status(writer: &mut Writer<'_>, status: &Status) {
    writer.u32(status.view.0);
    writer.u32(status.regency.0);
    writer.u32(status.wanted.0);
    let stopped = if status.stopped { STATUS_STOPPED } else { 0 };
    writer.u8(stopped);
    writer.zeros(3);
    writer.u64(status.decided.0);
    writer.u64(status.log_start.0);
    writer.u64(set_bits(status.written));
    writer.u64(set_bits(status.accepted));
    writer.u32(status.proposed);
    writer.u32(status.learned);
}

fn read_status(reader: &mut Reader<'_>) -> Result<Status, Malformed> {
    let (view, regency, wanted) =
        (ViewId(reader.u32()?), Regency(reader.u32()?), Regency(reader.u32()?));
    let flags = reader.u8()?;
    reader.zeros(3)?;
    if flags & !STATUS_STOPPED != 0 {
        return Err(Malformed::Reserved);
    }
    Ok(Status {
        view,
        regency,
        wanted,
        stopped: flags & STATUS_STOPPED != 0,
        decided: ConsensusId(reader.u64()?),
        log_start: ConsensusId(reader.u64()?),
        written: set_from_bits(reader.u64()?),
        accepted: set_from_bits(reader.u64()?),
        proposed: reader.u32()?,
        learned: reader.u32()?,
    })
}

fn read_fetch(reader: &mut Reader<'_>) -> Result<Fetch, Malformed> {
    let (view, with_batches) = (ViewId(reader.u32()?), reader.boolean()?);
    reader.zeros(3)?;
    let (from, to) = (ConsensusId(reader.u64()?), ConsensusId(reader.u64()?));
    Ok(Fetch { view, from, to, with_batches })
}

fn write_decided<P: Payload>(writer: &mut Writer<'_>, decided: &Decided<P>) {
    write_position(writer, decided.at);
    writer.bytes(&decided.digest.0);
    writer.u8(u8::from(decided.batch.is_some()));
    writer.zeros(7);
    if let Some(batch) = &decided.batch {
        writer.bytes(batch.payload().bytes());
    }
}

fn read_decided<P: Payload>(reader: &mut Reader<'_>, payload: &P) -> Result<Message<P>, Malformed> {
    let (at, digest) = (read_position(reader)?, reader.digest()?);
    let has_batch = reader.boolean()?;
    reader.zeros(7)?;
    let batch = if has_batch {
        let batch = batch_from(payload, reader.position())?;
        if batch.digest != digest {
            return Err(Malformed::Inconsistent);
        }
        Some(batch)
    } else {
        reader.end()?;
        None
    };
    Ok(Message::Decided(Decided { at, digest, batch }))
}

fn read_fetch_batch(reader: &mut Reader<'_>) -> Result<FetchBatch, Malformed> {
    let view = ViewId(reader.u32()?);
    reader.zeros(4)?;
    Ok(FetchBatch { view, cid: ConsensusId(reader.u64()?), digest: reader.digest()? })
}

fn set_bits(set: ReplicaSet) -> u64 {
    set.iter().fold(0, |bits, index| bits | 1 << index)
}

fn set_from_bits(bits: u64) -> ReplicaSet {
    let mut set = ReplicaSet::EMPTY;
    for index in (0..u64::BITS as usize).filter(|index| bits & (1 << index) != 0) {
        set.insert(index);
    }
    set
}
