//! A batch: the value that one consensus instance decides, and the list form in which requests
//! travel between replicas.
//!
//! Encoding, little endian, no padding between parts:
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 8 | timestamp, ns since the UNIX epoch |
//! | 8 | 4 | count |
//! | 12 | 4 | reserved, zero |
//! | 16 | 48 x count | identities: client 8, sequence 8, digest of the request body 32 |
//! | | 8 x count | layout: body size 4, proof size 2, kind of proof 1, reserved 1 |
//! | | | for each request: body, then proof |
//!
//! The batch digest is the [`body_digest`] of everything up to the end of the identities, and covers
//! through the digests in them every request body. It does not cover proofs: who proves a request how is between the
//! client and each replica, and never a reason for two replicas to disagree about a value.

mod selection;
pub mod sparse;
mod views;

pub use selection::Selection;
pub use sparse::{Identity, SparseBatch};
pub use views::{Outline, RequestView, Requests};

use core::borrow::Borrow;

use crate::limits::{
    BATCH_REQUESTS_MAX, BATCH_SIZE_MAX, OPERATION_SIZE_MAX, REPLICAS_MAX, REQUEST_PROOF_SIZE_MAX,
    SESSION_WINDOW,
};
use crate::message::{Malformed, Request};
use crate::payload::{Payload, PayloadPool};
use crate::types::{ClientId, Digest, Sequence};

/// Bytes before the identities.
pub const BATCH_HEADER_SIZE: usize = 16;
/// Bytes of one identity.
pub const IDENTITY_SIZE: usize = 48;
/// Bytes of one layout entry.
pub const LAYOUT_SIZE: usize = 8;
/// Bytes of a request body before its operation.
pub const REQUEST_HEADER_SIZE: usize = 32;
/// Flag of a request body: answer from the current state, do not order.
pub const REQUEST_READ_ONLY: u16 = 1;

/// Who answers a request with the whole result; the others answer with its digest (rule CLI.7). Part
/// of the request, and nothing to the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replier(u8);

impl Replier {
    /// Every member.
    pub const EVERYONE: Replier = Replier(0);

    /// The member at `index` of the view.
    pub fn member(index: usize) -> Self {
        assert!(index < REPLICAS_MAX, "a member has a place in the view");
        Self(index as u8 + 1)
    }

    /// The place in the view of the only one that answers in full; `None` when all do.
    pub fn index(self) -> Option<usize> {
        self.0.checked_sub(1).map(usize::from)
    }

    /// Does the member at `index` answer in full?
    pub fn includes(self, index: usize) -> bool {
        self.index().is_none_or(|replier| replier == index)
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        if usize::from(code) <= REPLICAS_MAX { Ok(Self(code)) } else { Err(Malformed::Unknown) }
    }
}

/// The value of one instance. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Batch<P> {
    /// Proposed time, ns since the UNIX epoch.
    pub timestamp_ns: u64,
    /// Identity of the batch: what WRITE and ACCEPT vote for.
    pub digest: Digest,
    /// Which requests this replica could authenticate itself. Set by ingress, never sent.
    pub authentic: Selection,
    count: usize,
    payload: P,
}

impl<P: Payload> Batch<P> {
    /// Checks the structure of `payload` and hashes the identities. Nothing is marked authentic.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong. A batch that parses can be viewed without
    /// further checks.
    pub fn parse(payload: P) -> Result<Self, Malformed> {
        let Structure { timestamp_ns, digest, count, .. } =
            check_structure::<false>(payload.bytes(), None)?;
        Ok(Self { timestamp_ns, digest, authentic: Selection::NONE, count, payload })
    }

    /// Encodes `requests` into memory of `pool`. Every request is marked authentic: the caller has
    /// them from verified input. `None` when the pool is empty.
    pub fn build<'a, R>(
        pool: &mut dyn PayloadPool<P>,
        timestamp_ns: u64,
        requests: impl IntoIterator<Item = &'a R, IntoIter: ExactSizeIterator + Clone>,
    ) -> Option<Self>
    where
        P: 'a,
        R: Borrow<Request<P>> + 'a,
    {
        let requests = requests.into_iter();
        let count = requests.len();
        assert!(count <= BATCH_REQUESTS_MAX, "the caller bounds a batch");
        let sizes = requests.clone().map(|request| encoded_size(request.borrow()));
        let size = BATCH_HEADER_SIZE + sizes.sum::<usize>();
        let payload = pool.build(size, &mut |bytes| {
            encode(bytes, timestamp_ns, requests.clone());
        })?;
        // Each of them was encoded from parts that were checked when it came.
        debug_assert!(check_structure::<false>(payload.bytes(), None).is_ok(), "it can be parsed");
        let digest = digest_of(payload.bytes(), count);
        Some(Self { timestamp_ns, digest, authentic: Selection::ALL, count, payload })
    }

    /// How many requests.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there no request?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded bytes.
    pub fn payload(&self) -> &P {
        &self.payload
    }

    /// The requests, in order.
    pub fn requests(&self) -> Requests<'_> {
        // A parsed batch has all of these parts.
        let rest = &self.payload.bytes()[BATCH_HEADER_SIZE..];
        let (identities, rest) = rest.split_at(self.count * IDENTITY_SIZE);
        let (layouts, rest) = rest.split_at(self.count * LAYOUT_SIZE);
        Requests {
            identities: identities.as_chunks().0.iter(),
            layouts: layouts.as_chunks().0.iter(),
            rest,
        }
    }

    /// As [`Batch::requests`], for who needs neither bodies nor proofs.
    #[inline]
    pub fn outlines(&self) -> impl ExactSizeIterator<Item = Outline<'_>> {
        views::outlines(self.payload.bytes(), self.count)
    }

    /// Where the first body begins.
    fn bodies_start(&self) -> usize {
        identities_end(self.count) + self.count * LAYOUT_SIZE
    }

    /// The request at `view` as a value of its own that shares the batch's memory.
    pub fn request(&self, view: &RequestView<'_>) -> Request<P> {
        let base = self.payload.bytes().as_ptr() as usize;
        let start = view.body.as_ptr() as usize - base;
        let size = view.body.len() + view.proof.len();
        Request {
            client: view.client,
            sequence: view.sequence,
            digest: view.digest,
            read_only: false,
            auth: view.auth,
            body_size: view.body.len() as u32,
            payload: self.payload.slice(start, size).expect("a view lies inside its batch"),
        }
    }
}

/// Bytes that `request` adds to a batch as it is.
#[inline]
pub fn encoded_size<P: Payload>(request: &Request<P>) -> usize {
    IDENTITY_SIZE + LAYOUT_SIZE + request.payload.size()
}

fn encode<'a, P: Payload + 'a, R: Borrow<Request<P>> + 'a>(
    bytes: &mut [u8],
    timestamp_ns: u64,
    requests: impl ExactSizeIterator<Item = &'a R>,
) {
    bytes[..8].copy_from_slice(&timestamp_ns.to_le_bytes());
    bytes[8..12].copy_from_slice(&(requests.len() as u32).to_le_bytes());
    bytes[12..16].fill(0);
    let mut identity = BATCH_HEADER_SIZE;
    let mut layout = identity + requests.len() * IDENTITY_SIZE;
    let mut at = layout + requests.len() * LAYOUT_SIZE;
    for request in requests.map(Borrow::borrow) {
        let blob = request.payload.bytes();
        let proof_size = blob.len() - request.body_size as usize;
        bytes[identity..identity + 8].copy_from_slice(&request.client.0.to_le_bytes());
        bytes[identity + 8..identity + 16].copy_from_slice(&request.sequence.0.to_le_bytes());
        bytes[identity + 16..identity + 48].copy_from_slice(&request.digest.0);
        Layout { body_size: request.body_size as usize, proof_size, auth: request.auth }
            .write(&mut bytes[layout..layout + LAYOUT_SIZE]);
        bytes[at..at + blob.len()].copy_from_slice(blob);
        identity += IDENTITY_SIZE;
        layout += LAYOUT_SIZE;
        at += blob.len();
    }
}

/// What the structure of an encoded batch says.
struct Structure {
    timestamp_ns: u64,
    digest: Digest,
    count: usize,
    /// Requests whose bodies are left out.
    omitted: usize,
}

/// Checks the structure of a batch, whole or, with `MAY_OMIT`, with bodies left out, and hashes the
/// identities. When nothing follows them, `known` is their digest if somebody has computed it.
fn check_structure<const MAY_OMIT: bool>(
    bytes: &[u8],
    known: Option<Digest>,
) -> Result<Structure, Malformed> {
    if bytes.len() > BATCH_SIZE_MAX {
        return Err(Malformed::TooLong);
    }
    let timestamp_ns = read_u64(bytes, 0)?;
    let count = read_u32(bytes, 8)? as usize;
    if read_u32(bytes, 12)? != 0 {
        return Err(Malformed::Reserved);
    }
    if count > BATCH_REQUESTS_MAX {
        return Err(Malformed::TooMany);
    }
    if MAY_OMIT && is_bare(bytes, count) {
        let digest = known.unwrap_or_else(|| body_digest(bytes));
        debug_assert_eq!(digest, body_digest(bytes), "whoever knows it has computed it");
        return Ok(Structure { timestamp_ns, digest, count, omitted: count });
    }
    let identities_end = identities_end(count);
    let mut at = identities_end + count * LAYOUT_SIZE;
    let mut omitted = 0;
    for index in 0..count {
        let entry = identities_end + index * LAYOUT_SIZE;
        if MAY_OMIT && sparse::is_omitted(bytes, entry)? {
            omitted += 1;
            continue;
        }
        let layout = Layout::read(bytes, entry)?;
        let body = bytes.get(at..at + layout.body_size).ok_or(Malformed::Truncated)?;
        let header = RequestHeader::parse(body)?;
        let identity = BATCH_HEADER_SIZE + index * IDENTITY_SIZE;
        if header.client.0 != read_u64(bytes, identity)?
            || header.sequence.0 != read_u64(bytes, identity + 8)?
            || header.read_only
        {
            return Err(Malformed::Inconsistent);
        }
        at += layout.body_size + layout.proof_size;
    }
    if at != bytes.len() {
        return Err(if at > bytes.len() { Malformed::Truncated } else { Malformed::Trailing });
    }
    Ok(Structure { timestamp_ns, digest: digest_of(bytes, count), count, omitted })
}

/// Where the identities of `count` requests end.
fn identities_end(count: usize) -> usize {
    BATCH_HEADER_SIZE + count * IDENTITY_SIZE
}

/// Does nothing follow the identities of this batch of `count` requests, because all bodies are left
/// out?
fn is_bare(bytes: &[u8], count: usize) -> bool {
    count > 0 && bytes.len() == identities_end(count)
}

/// The digest of the batch of `count` requests that begins with `bytes`.
fn digest_of(bytes: &[u8], count: usize) -> Digest {
    body_digest(&bytes[..identities_end(count)])
}

/// BLAKE3 of `body`, padded with zeros to whole blocks of 64 bytes: what a link computes of the body of
/// every message. It does not bind the size; a batch and a request say their sizes inside.
pub fn body_digest(body: &[u8]) -> Digest {
    const BLOCK: usize = 64;
    let padding = body.len().next_multiple_of(BLOCK) - body.len();
    if padding == 0 {
        return Digest(*blake3::hash(body).as_bytes());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(body).update(&[0; BLOCK][..padding]);
    Digest(*hasher.finalize().as_bytes())
}

struct Layout {
    body_size: usize,
    proof_size: usize,
    auth: u8,
}

impl Layout {
    fn read(bytes: &[u8], at: usize) -> Result<Self, Malformed> {
        let entry = bytes.get(at..at + LAYOUT_SIZE).ok_or(Malformed::Truncated)?;
        let body_size = read_u32(entry, 0)? as usize;
        let proof_size = usize::from(u16::from_le_bytes([entry[4], entry[5]]));
        if body_size > REQUEST_HEADER_SIZE + OPERATION_SIZE_MAX
            || proof_size > REQUEST_PROOF_SIZE_MAX
        {
            return Err(Malformed::TooLong);
        }
        if entry[7] != 0 {
            return Err(Malformed::Reserved);
        }
        Ok(Self { body_size, proof_size, auth: entry[6] })
    }

    fn write(&self, entry: &mut [u8]) {
        entry[..4].copy_from_slice(&(self.body_size as u32).to_le_bytes());
        entry[4..6].copy_from_slice(&(self.proof_size as u16).to_le_bytes());
        entry[6] = self.auth;
        entry[7] = 0;
    }

    /// The request at `index` of the batch in `bytes`, whose body begins at `start`.
    fn view<'a>(&self, bytes: &'a [u8], index: usize, start: usize) -> Option<RequestView<'a>> {
        let body = bytes.get(start..start + self.body_size)?;
        let proof_start = start + self.body_size;
        let proof = bytes.get(proof_start..proof_start + self.proof_size)?;
        let Identity { client, sequence, digest } = read_identity(bytes, index).ok()?;
        let operation = body.get(REQUEST_HEADER_SIZE..)?;
        Some(RequestView { client, sequence, digest, operation, body, auth: self.auth, proof })
    }
}

/// The fixed part of a request body:
///
/// | offset | size | |
/// |---|---|---|
/// | 0 | 8 | client |
/// | 8 | 8 | sequence |
/// | 16 | 4 | view that the client knows |
/// | 20 | 2 | flags: bit 0 read-only, the rest zero |
/// | 22 | 1 | replier: 0 everyone, else 1 + the place in the view of who answers in full |
/// | 23 | 1 | unanswered: requests from the oldest without a result on, this one not counted |
/// | 24 | 4 | operation size |
/// | 28 | 4 | reserved, zero |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Session.
    pub client: ClientId,
    /// Number within the session.
    pub sequence: Sequence,
    /// Membership that the client knows.
    pub view: u32,
    /// Answer from the current state, do not order.
    pub read_only: bool,
    /// Who answers with the whole result.
    pub replier: Replier,
    /// How far back the oldest request of the session is that the client has no result of, 0 to
    /// [`SESSION_WINDOW`] - 1; 0 in a read-only request. The client never asks again for replies to
    /// earlier ones (rule CLI.10).
    pub unanswered: u8,
    /// Bytes after the header.
    pub operation_size: u32,
}

impl RequestHeader {
    /// Checks a whole request body: header, and an operation of exactly the size it states.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() < REQUEST_HEADER_SIZE {
            return Err(Malformed::Truncated);
        }
        let flags = u16::from_le_bytes([body[20], body[21]]);
        if flags & !REQUEST_READ_ONLY != 0 || body[28..32] != [0; 4] {
            return Err(Malformed::Reserved);
        }
        let (read_only, unanswered) = (flags & REQUEST_READ_ONLY != 0, body[23]);
        if usize::from(unanswered) >= SESSION_WINDOW || (read_only && unanswered != 0) {
            return Err(Malformed::Inconsistent);
        }
        let replier = Replier::from_code(body[22])?;
        let operation_size = read_u32(body, 24)?;
        if operation_size as usize > OPERATION_SIZE_MAX {
            return Err(Malformed::TooLong);
        }
        if body.len() != REQUEST_HEADER_SIZE + operation_size as usize {
            return Err(Malformed::Inconsistent);
        }
        Ok(Self {
            client: ClientId(read_u64(body, 0)?),
            sequence: Sequence(read_u64(body, 8)?),
            view: read_u32(body, 16)?,
            read_only,
            replier,
            unanswered,
            operation_size,
        })
    }

    /// Writes the header into the first [`REQUEST_HEADER_SIZE`] bytes of `body`.
    pub fn write(&self, body: &mut [u8]) {
        body[0..8].copy_from_slice(&self.client.0.to_le_bytes());
        body[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        body[16..20].copy_from_slice(&self.view.to_le_bytes());
        body[20..22].copy_from_slice(&u16::from(self.read_only).to_le_bytes());
        body[22..24].copy_from_slice(&[self.replier.0, self.unanswered]);
        body[24..28].copy_from_slice(&self.operation_size.to_le_bytes());
        body[28..32].fill(0);
    }
}

/// What the batch in `bytes` says of its request at `index`.
fn read_identity(bytes: &[u8], index: usize) -> Result<Identity, Malformed> {
    let at = BATCH_HEADER_SIZE + index * IDENTITY_SIZE;
    let digest = bytes.get(at + 16..at + IDENTITY_SIZE).ok_or(Malformed::Truncated)?;
    Ok(Identity {
        client: ClientId(read_u64(bytes, at)?),
        sequence: Sequence(read_u64(bytes, at + 8)?),
        digest: Digest(digest.try_into().map_err(|_| Malformed::Truncated)?),
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let field = bytes.get(at..at + 4).ok_or(Malformed::Truncated)?;
    Ok(u32::from_le_bytes(field.try_into().map_err(|_| Malformed::Truncated)?))
}

fn read_u64(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    let field = bytes.get(at..at + 8).ok_or(Malformed::Truncated)?;
    Ok(u64::from_le_bytes(field.try_into().map_err(|_| Malformed::Truncated)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{HeapPool, SharedBytes};
    use alloc::vec::Vec;

    pub(super) fn request(client: u64, counter: u32, operation: &[u8]) -> Request<SharedBytes> {
        let mut blob = alloc::vec![0; REQUEST_HEADER_SIZE];
        let header = RequestHeader {
            client: ClientId(client),
            sequence: Sequence::new(1, counter),
            view: 0,
            read_only: false,
            replier: Replier::EVERYONE,
            unanswered: 0,
            operation_size: operation.len() as u32,
        };
        header.write(&mut blob);
        blob.extend_from_slice(operation);
        let digest = Digest(*blake3::hash(&blob).as_bytes());
        let body_size = blob.len() as u32;
        blob.extend_from_slice(b"proof");
        Request {
            client: header.client,
            sequence: header.sequence,
            digest,
            read_only: false,
            auth: 1,
            body_size,
            payload: SharedBytes::from(&blob[..]),
        }
    }

    #[test]
    fn a_request_says_no_more_unanswered_than_a_window() {
        // rule: CLI.10
        let parse = |read_only, unanswered| {
            let request = request(7, 9, b"op");
            let mut body = request.payload.bytes()[..request.body_size as usize].to_vec();
            body[20] = u8::from(read_only);
            body[23] = unanswered;
            RequestHeader::parse(&body).map(|header| header.unanswered)
        };
        let most = SESSION_WINDOW as u8 - 1;
        assert_eq!(parse(false, most), Ok(most));
        assert_eq!(parse(false, most + 1), Err(Malformed::Inconsistent));
        assert_eq!((parse(true, 0), parse(true, 1)), (Ok(0), Err(Malformed::Inconsistent)));
        let mut request = request(7, 9, b"op");
        let mut bytes = request.payload.bytes().to_vec();
        bytes[23] = 3;
        request.payload = SharedBytes::from(&bytes[..]);
        assert_eq!(request.view().oldest_unanswered(), Sequence::new(1, 6));
    }

    #[test]
    fn a_batch_gives_back_its_requests() {
        let (a, b) = (request(1, 1, b"put x"), request(2, 9, b""));
        let batch = Batch::build(&mut HeapPool, 77, &[&a, &b]).expect("heap");
        let again = Batch::parse(batch.payload().clone()).expect("well formed");
        assert_eq!((again.timestamp_ns, again.len(), again.digest), (77, 2, batch.digest));
        let views: Vec<_> = again.requests().collect();
        assert_eq!(views[0].operation, b"put x");
        assert_eq!(views[0].proof, b"proof");
        assert_eq!((views[1].client, views[1].sequence), (b.client, b.sequence));
        assert_eq!(again.request(&views[0]).payload.bytes(), a.payload.bytes());
    }

    #[test]
    fn the_digest_covers_time_and_identities_but_not_proofs() {
        let a = request(1, 1, b"put x");
        let mut other_proof = a.clone();
        let mut blob = a.payload.bytes().to_vec();
        *blob.last_mut().expect("not empty") ^= 1;
        other_proof.payload = SharedBytes::from(&blob[..]);
        let digest = |time, request: &Request<SharedBytes>| {
            Batch::build(&mut HeapPool, time, &[request]).expect("heap").digest
        };
        assert_eq!(digest(1, &a), digest(1, &other_proof));
        assert_ne!(digest(1, &a), digest(2, &a));
        assert_ne!(digest(1, &a), digest(1, &request(1, 2, b"put x")));
    }

    #[test]
    fn no_prefix_and_no_flipped_structure_byte_is_accepted_or_panics() {
        let a = request(1, 1, b"put x");
        let batch = Batch::build(&mut HeapPool, 77, &[&a]).expect("heap");
        let bytes = batch.payload().bytes();
        for end in 0..bytes.len() {
            assert!(Batch::parse(SharedBytes::from(&bytes[..end])).is_err(), "prefix of {end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x40;
            if let Ok(parsed) = Batch::parse(SharedBytes::from(&changed[..])) {
                assert_eq!(parsed.requests().count(), parsed.len());
            }
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Batch::parse(SharedBytes::from(&longer[..])).err(), Some(Malformed::Trailing));
    }
}
