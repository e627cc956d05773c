//! Golden vectors for every kind, and what is wrong with other bytes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::*;
use crate::batch::{REQUEST_HEADER_SIZE, REQUEST_READ_ONLY, Replier, body_digest};
use crate::limits::{
    CHUNK_PATH_MAX, CHUNK_SIZE_MAX, DEPTH_MAX, OFFERS_MAX, OPERATION_SIZE_MAX, WRITE_SET_MAX,
    decisions_told,
};
use crate::message::{
    Chunk, FetchChunks, FetchState, Offer, OpenState, ReplicaState, StateOffer, WriteSet, Written,
    proof,
};
use crate::payload::{HeapPool, SharedBytes};
use crate::types::{ReplicaId, Sequence};

mod properties;

type Bytes = SharedBytes;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}

fn encoded(message: &Message<Bytes>) -> Vec<u8> {
    let mut out = alloc::vec![0xaa; encoded_size(message) + 3];
    let size = encode(message, &mut out);
    assert_eq!(size, encoded_size(message));
    assert_eq!(out[size..], [0xaa; 3], "nothing is written beyond the message");
    out.truncate(size);
    out
}

fn decoded(kind: u8, bytes: &[u8]) -> Result<Message<Bytes>, Malformed> {
    decode(kind, SharedBytes::from(bytes))
}

fn request(client: ClientId, counter: u32, operation: &[u8], proof: &[u8]) -> Request<Bytes> {
    let mut blob = alloc::vec![0; REQUEST_HEADER_SIZE];
    let header = RequestHeader {
        client,
        sequence: Sequence::new(7, counter),
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: operation.len() as u32,
    };
    header.write(&mut blob);
    blob.extend_from_slice(operation);
    let digest = Digest(*blake3::hash(&blob).as_bytes());
    let body_size = blob.len();
    blob.extend_from_slice(proof);
    let auth = if proof.is_empty() { proof::NONE } else { proof::MAC_VECTOR };
    decode_request(SharedBytes::from(&blob[..]), body_size, digest, auth).expect("well formed")
}

fn batch(requests: &[Request<Bytes>]) -> Batch<Bytes> {
    let references: Vec<_> = requests.iter().collect();
    Batch::build(&mut HeapPool, 1_700_000_000_000_000_000, &references).expect("heap")
}

fn sample_batch() -> Batch<Bytes> {
    let (a, b) = (ClientId::new(1, 2), ClientId::new(3, 4));
    batch(&[request(a, 5, b"set x 1", &[0xcc; 16]), request(b, 1, b"", &[])])
}

fn digest(fill: u8) -> Digest {
    Digest([fill; 32])
}

fn position() -> Position {
    Position { view: ViewId(1), cid: ConsensusId(0x0203), epoch: Epoch(4) }
}

fn sample_state() -> SignedState {
    let mut write_set = WriteSet::EMPTY;
    write_set.insert(Written { epoch: Epoch(3), digest: digest(0xd3) });
    write_set.insert(Written { epoch: Epoch(4), digest: digest(0xd4) });
    let state = ReplicaState {
        view: ViewId(1),
        regency: Regency(5),
        replica: ReplicaId(2),
        decided: ConsensusId(0x0202),
        decisions: alloc::vec![digest(0xd1), digest(0xd2)],
        open: alloc::vec![
            OpenState::BLANK,
            OpenState {
                certified: Some(Written { epoch: Epoch(4), digest: digest(0xd4) }),
                write_set,
            },
        ],
    };
    SignedState { state, signature: core::array::from_fn(|index| index as u8) }
}

fn blank_state() -> SignedState {
    let mut signed = sample_state();
    signed.state.open.clear();
    signed
}

fn sample_status() -> Status {
    let (mut written, mut accepted) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY);
    written.insert(0);
    written.insert(63);
    accepted.insert(1);
    Status {
        view: ViewId(1),
        regency: Regency(5),
        wanted: Regency(6),
        stopped: true,
        decided: ConsensusId(0x0202),
        log_start: ConsensusId(3),
        written,
        accepted,
        proposed: 0x8000_0005,
        learned: 0x4000_0002,
    }
}

fn sample_offer() -> StateOffer {
    let mut all = StateOffer::new(ViewId(1));
    for (cid, size) in [(0x0200, 0x01_0005), (0x0100, 7)] {
        assert!(all.push(Offer { cid: ConsensusId(cid), size, root: digest(cid as u8 | 1) }));
    }
    all
}

fn sample_chunk() -> Chunk<Bytes> {
    let mut payload = b"what is in the chunk".to_vec();
    payload.extend([digest(0xa1).0, digest(0xa2).0].as_flattened());
    let place = (ConsensusId(0x0200), 5, 0x01_0005);
    Chunk::new(ViewId(1), place, 2, Bytes::from(&payload[..])).expect("a path and bytes")
}

/// One message of each kind, some kinds twice, with the bytes they must have. The files change only
/// together with the version of the link header.
fn golden() -> Vec<(&'static str, Message<Bytes>, &'static str)> {
    let (at, view, cid) = (position(), ViewId(1), ConsensusId(0x0203));
    let vote = Vote { at, digest: digest(0xd1) };
    let batch = sample_batch();
    let refuse = |reason| Message::Refuse(Refuse { at, digest: digest(0xd1), reason });
    let decided = |batch: Option<Batch<Bytes>>| {
        let digest = batch.as_ref().map_or(digest(0xd1), |batch| batch.digest);
        Message::Decided(Decided { at, digest, batch })
    };
    let stop = Stop { view, regency: Regency(5), requests: batch.clone() };
    let sync =
        Sync { view, regency: Regency(5), states: alloc::vec![sample_state(), blank_state()] };
    let mut second = Selection::NONE;
    second.insert(1);
    let sparse = SparseBatch::of(&batch, &second, &mut HeapPool).expect("heap");
    let bare = SparseBatch::of(&batch, &Selection::ALL, &mut HeapPool).expect("heap");
    let fetch_bodies = FetchBodies { at, digest: sparse.digest, which: second };
    let bodies = Bodies { at, digest: sparse.digest, requests: batch.clone() };
    let fetch = Fetch { view, from: ConsensusId(3), to: ConsensusId(9), with_batches: true };
    let fetch_chunks = FetchChunks { view, cid, root: digest(0xd1), first: 5, count: 3 };
    macro_rules! vector {
        ($name:literal, $message:expr) => {
            ($name, $message, include_str!(concat!("../vectors/", $name, ".hex")))
        };
    }
    alloc::vec![
        vector!("forwarded", Message::Forwarded(batch.clone())),
        vector!("propose", Message::Propose(Propose { at, batch: batch.clone() })),
        vector!("propose_sparse", Message::ProposeSparse(ProposeSparse { at, batch: sparse })),
        vector!("propose_bare", Message::ProposeSparse(ProposeSparse { at, batch: bare })),
        vector!("write", Message::Write(vote)),
        vector!("accept", Message::Accept(vote)),
        vector!("refuse_clock", refuse(RefuseReason::Clock)),
        vector!("refuse_proof", refuse(RefuseReason::Proof(ClientId::new(3, 4)))),
        vector!("stop", Message::Stop(stop)),
        vector!("stopdata", Message::StopData(Box::new(sample_state()))),
        vector!("sync", Message::Sync(sync)),
        vector!("status", Message::Status(sample_status())),
        vector!("fetch", Message::Fetch(fetch)),
        vector!("decided_claim", decided(None)),
        vector!("decided_batch", decided(Some(batch.clone()))),
        vector!("fetch_batch", Message::FetchBatch(FetchBatch { view, cid, digest: digest(0xd1) })),
        vector!("batch_body", Message::BatchBody(BatchBody { view, cid, batch })),
        vector!("fetch_bodies", Message::FetchBodies(fetch_bodies)),
        vector!("bodies", Message::Bodies(bodies)),
        vector!("fetch_state", Message::FetchState(FetchState { view, above: cid })),
        vector!("state_offer", Message::StateOffer(sample_offer())),
        vector!("fetch_chunks", Message::FetchChunks(fetch_chunks)),
        vector!("chunk", Message::Chunk(sample_chunk())),
    ]
}

#[test]
fn a_chunk_is_a_path_and_at_least_one_byte() {
    let payload = |size: usize| Bytes::from(&alloc::vec![7; size][..]);
    let chunk = |nodes, size| {
        Chunk::new(ViewId(1), (ConsensusId(2), 3, 4), nodes, payload(size)).map(|chunk| {
            assert_eq!(chunk.path().len(), nodes);
            assert_eq!(chunk.bytes().len(), size - 32 * nodes);
            assert_eq!((chunk.leaf, chunk.root), (Digest::ZERO, Digest::ZERO), "not computed");
            chunk.clone().into_bytes().bytes() == chunk.bytes()
        })
    };
    for (nodes, size) in [(0, 1), (2, 65), (CHUNK_PATH_MAX, 32 * CHUNK_PATH_MAX + CHUNK_SIZE_MAX)] {
        assert_eq!(chunk(nodes, size), Ok(true));
    }
    assert_eq!(chunk(0, 0), Err(Malformed::Truncated));
    assert_eq!(chunk(2, 64), Err(Malformed::Truncated));
    assert_eq!(chunk(2, 63), Err(Malformed::Truncated));
    assert_eq!(chunk(0, CHUNK_SIZE_MAX + 1), Err(Malformed::TooLong));
    assert_eq!(chunk(CHUNK_PATH_MAX + 1, 4096), Err(Malformed::TooMany));
    let message = Message::Chunk(sample_chunk());
    let bytes = encoded(&message);
    let (body, rest) = bytes.split_at(bytes.len() - trailer_size(kind::CHUNK));
    assert_eq!(body, sample_chunk().bytes(), "the digest of the body is that of the chunk");
    let path = [digest(0xa1).0, digest(0xa2).0];
    let trailer = chunk_trailer(ViewId(1), (ConsensusId(0x0200), 5, 0x01_0005), path);
    assert_eq!(rest, trailer, "a node writes it without a message");
    let changed = |at: usize, byte| {
        let mut bytes = bytes.clone();
        let at = body.len() + at;
        bytes[at] = byte;
        decoded(kind::CHUNK, &bytes).err()
    };
    assert_eq!(changed(64, 1), Some(Malformed::Reserved), "behind the path");
    let nodes = CHUNK_TRAILER_SIZE - 8;
    assert_eq!(changed(nodes, 1), Some(Malformed::Reserved), "two nodes and not one");
    assert_eq!(changed(nodes, CHUNK_PATH_MAX as u8 + 1), Some(Malformed::TooMany));
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn golden_vectors() {
    for (name, message, vector) in golden() {
        let bytes = encoded(&message);
        assert_eq!(hex(&bytes), hex(&unhex(vector)), "{name}.hex");
        let again = decoded(message.kind(), &bytes).expect(name);
        assert_eq!(hex(&encoded(&again)), hex(&bytes), "{name}");
    }
}

#[test]
fn every_kind_between_replicas_has_a_vector() {
    let vectors = golden();
    for kind in 0..=u8::MAX {
        let has_vector = vectors.iter().any(|(_, message, _)| message.kind() == kind);
        let decodes = decoded(kind, &[]) != Err(Malformed::Unknown);
        assert_eq!(has_vector, decodes, "kind {kind}");
    }
}

impl PartialEq for Message<Bytes> {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && encoded(self) == encoded(other)
    }
}

#[test]
fn a_request_body_has_its_vector() {
    let request = request(ClientId::new(1, 2), 5, b"set x 1", &[]);
    let vector = include_str!("../vectors/request.hex");
    assert_eq!(hex(request.payload.bytes()), hex(&unhex(vector)));
}

#[test]
fn signed_bytes_have_their_vector() {
    // rule: SYNC.5
    let state = sample_state().state;
    let mut out = alloc::vec![0xaa; state_to_sign_size(&state)];
    assert_eq!(encode_state(0x0102_0304_0506_0708, &state, &mut out), out.len());
    let vector = include_str!("../vectors/state_to_sign.hex");
    assert_eq!(hex(&out), hex(&unhex(vector)));
    assert_eq!(&out[..STATE_PREFIX.len()], &STATE_PREFIX);
}

#[test]
fn a_signed_request_names_its_cluster_and_its_digest() {
    let bytes = request_to_sign(0x0102_0304_0506_0708, &digest(0xd1));
    assert_eq!(&bytes[..32], b"tetrarch v1 request of a client\0");
    assert_eq!(bytes[32..40], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[40..], [0xd1; 32]);
    assert_ne!(REQUEST_PREFIX, STATE_PREFIX);
}

#[test]
fn no_prefix_and_no_extension_of_a_message_is_a_message() {
    for (name, message, _) in golden() {
        let mut bytes = encoded(&message);
        for end in 0..bytes.len() {
            let prefix = decoded(message.kind(), &bytes[..end]);
            // Of a proposal: without any body, and for bytes that follow. The tag covers the size.
            let bare = prefix.as_ref().is_ok_and(|prefix| known_digest(prefix).is_some());
            assert!(prefix.is_err() || bare && name != "propose_bare", "{name}: prefix of {end}");
        }
        bytes.push(0);
        let reason = match name {
            // Behind the identities of a batch there are layouts.
            "propose_bare" => Malformed::Truncated,
            // Its fields are behind its bytes, so all of them move.
            "chunk" => Malformed::Reserved,
            _ => Malformed::Trailing,
        };
        assert_eq!(decoded(message.kind(), &bytes), Err(reason), "{name}");
    }
}

#[test]
fn a_changed_byte_is_refused_or_is_another_message() {
    for (name, message, _) in golden() {
        let bytes = encoded(&message);
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                if let Ok(other) = decoded(message.kind(), &changed) {
                    assert_eq!(hex(&encoded(&other)), hex(&changed), "{name}: byte {at}");
                }
            }
        }
    }
}

fn refused(message: &Message<Bytes>, at: usize, value: u8) -> Malformed {
    let mut bytes = encoded(message);
    bytes[at] = value;
    decoded(message.kind(), &bytes).expect_err("one field is wrong")
}

#[test]
fn what_is_wrong_is_named() {
    let of = |name: &str| {
        let found = golden().into_iter().find(|(it, ..)| *it == name);
        found.map(|(_, message, _)| message).expect(name)
    };
    assert_eq!(refused(&of("refuse_clock"), 48, 2), Malformed::Unknown);
    assert_eq!(refused(&of("refuse_clock"), 49, 1), Malformed::Reserved);
    assert_eq!(refused(&of("refuse_clock"), 56, 1), Malformed::Reserved);
    assert_eq!(refused(&of("status"), 12, 2), Malformed::Reserved);
    assert_eq!(refused(&of("status"), 13, 1), Malformed::Reserved);
    assert_eq!(refused(&of("fetch"), 4, 2), Malformed::Reserved);
    assert_eq!(refused(&of("decided_batch"), 48, 0), Malformed::Trailing);
    assert_eq!(refused(&of("decided_batch"), 48, 2), Malformed::Reserved);
    assert_eq!(refused(&of("decided_batch"), 16, 0), Malformed::Inconsistent);
    assert_eq!(refused(&of("decided_claim"), 48, 1), Malformed::Truncated);
    assert_eq!(refused(&of("sync"), 8, 1), Malformed::Trailing);
    assert_eq!(refused(&of("sync"), 8, 3), Malformed::Truncated);
    assert_eq!(refused(&of("sync"), 8, 65), Malformed::TooMany);
    assert_eq!(refused(&of("sync"), 11, 0xff), Malformed::TooMany);
    assert_eq!(refused(&of("stopdata"), 18, 65), Malformed::TooMany);
    assert_eq!(refused(&of("stopdata"), 19, 33), Malformed::TooMany);
    assert_eq!(refused(&of("stopdata"), 19, 1), Malformed::Inconsistent);
    assert_eq!(refused(&of("stopdata"), 19, 3), Malformed::Reserved);
    assert_eq!(refused(&of("stopdata"), 20, 1), Malformed::Reserved);
    assert_eq!(refused(&of("stopdata"), 92, 2), Malformed::Reserved);
    assert_eq!(refused(&of("stopdata"), 92, 0), Malformed::Trailing);
    assert_eq!(refused(&of("stopdata"), 93, 33), Malformed::TooMany);
    assert_eq!(refused(&of("stopdata"), 93, 3), Malformed::Truncated);
    assert_eq!(refused(&of("stopdata"), 94, 1), Malformed::Reserved);
    assert_eq!(decoded(kind::REQUEST, &[]), Err(Malformed::Unknown));
    assert_eq!(decoded(kind::REPLY, &[]), Err(Malformed::Unknown));
}

#[test]
fn a_list_of_requests_is_bounded() {
    let requests: Vec<_> = (1..=REQUEST_LIST_MAX as u32 + 1)
        .map(|counter| request(ClientId::new(1, 2), counter, b"", &[]))
        .collect();
    let most = Message::Forwarded(batch(&requests[1..]));
    assert!(decoded(kind::FORWARDED, &encoded(&most)).is_ok());
    let (view, regency) = (ViewId(0), Regency(1));
    let stop = Message::Stop(Stop { view, regency, requests: batch(&requests) });
    assert_eq!(decoded(kind::STOP, &encoded(&stop)), Err(Malformed::TooMany));
    let forwarded = Message::Forwarded(batch(&requests));
    assert_eq!(decoded(kind::FORWARDED, &encoded(&forwarded)), Err(Malformed::TooMany));
    // Only lists are: a proposal may hold more.
    let propose = Message::Propose(Propose { at: position(), batch: batch(&requests) });
    assert!(decoded(kind::PROPOSE, &encoded(&propose)).is_ok());
}

#[test]
fn batches_share_the_memory_of_their_message() {
    let message = Message::Propose(Propose { at: position(), batch: sample_batch() });
    let payload = SharedBytes::from(&encoded(&message)[..]);
    let frame = payload.bytes().as_ptr_range();
    let Ok(Message::Propose(propose)) = decode(kind::PROPOSE, payload.clone()) else {
        panic!("well formed");
    };
    assert!(frame.contains(&propose.batch.payload().bytes().as_ptr()));
    let marked = (0..propose.batch.len()).any(|at| propose.batch.authentic.contains(at));
    assert!(!marked, "nothing is authentic before ingress says so");
}

#[test]
fn the_body_of_a_bare_proposal_has_the_digest_of_its_batch() {
    for (name, message, _) in golden() {
        let bytes = encoded(&message);
        let body = &bytes[..bytes.len() - trailer_size(message.kind())];
        let known = known_digest(&message);
        assert_eq!(known.is_some(), name == "propose_bare", "{name}");
        assert!(known.is_none_or(|known| known == body_digest(body)), "{name}");
        let hashed =
            decode_hashed(message.kind(), SharedBytes::from(&bytes[..]), body_digest(body));
        assert_eq!(hashed.as_ref(), Ok(&message), "{name}");
    }
}

#[test]
fn nested_states_are_found() {
    for (name, message, _) in golden() {
        let mut found = Vec::new();
        visit_states(&message, |signed| found.push(signed.clone()));
        let expected: &[SignedState] = match name {
            "stopdata" => &[sample_state()],
            "sync" => &[sample_state(), blank_state()],
            _ => &[],
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_request_is_split_into_body_and_proof() {
    let sample = request(ClientId::new(1, 2), 5, b"set x 1", &[0xcc; 16]);
    assert_eq!(sample.view().operation, b"set x 1");
    assert_eq!(sample.view().proof, [0xcc; 16]);
    assert!(!sample.read_only);
    let mut query = sample.payload.bytes().to_vec();
    query[20] = REQUEST_READ_ONLY as u8;
    let size = query.len();
    let parse = |bytes: &[u8], body_size| {
        decode_request(SharedBytes::from(bytes), body_size, Digest::ZERO, proof::MAC_VECTOR)
    };
    assert!(parse(&query, sample.body_size as usize).expect("well formed").read_only);
    assert_eq!(parse(&query, size).err(), Some(Malformed::Inconsistent));
    assert_eq!(parse(&query, size + 1).err(), Some(Malformed::Truncated));
    assert_eq!(parse(&query, REQUEST_HEADER_SIZE - 1).err(), Some(Malformed::Truncated));
    query[27] = 0xff;
    const { assert!(OPERATION_SIZE_MAX < 0xff << 24) };
    assert_eq!(parse(&query, size - 16).err(), Some(Malformed::TooLong));
}
