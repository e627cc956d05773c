//! Histories for the target `member`: what a leader, its followers and a client could really send.

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::limits::CHUNK_SIZE_MAX;
use tetrarch_consensus::message::{
    Bodies, Chunk, Decided, Fetch, FetchBatch, FetchBodies, FetchChunks, FetchState, Message,
    Offer, Position, Propose, ProposeSparse, Refuse, RefuseReason, Request, StateOffer, Status,
    Stop, Vote, codec, proof,
};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::{
    Batch, ClientId, ConsensusId, Digest, Epoch, Ordered, Payload, Regency, ReplicaSet, Selection,
    Sequence, SparseBatch, ViewId,
};
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size, write_vector};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::merkle;
use tetrarch_fuzz_targets::{START, keys};

use super::{Seed, seed};

const CLUSTER: u64 = 0xa1;
const CLIENT: ClientId = ClientId(0);

/// Events as the target reads them.
#[derive(Default)]
struct History(Vec<u8>);

impl History {
    fn event(&mut self, what: u8, kind: u8, body: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&[what, kind]);
        self.0.extend_from_slice(&(body.len() as u16).to_le_bytes());
        self.0.extend_from_slice(body);
        self
    }

    fn from(&mut self, member: u8, message: &Message<SharedBytes>) -> &mut Self {
        let mut bytes = vec![0; codec::encoded_size(message)];
        codec::encode(message, &mut bytes);
        self.event(member, message.kind(), &bytes)
    }

    fn time_passes(&mut self) -> &mut Self {
        self.event(4, 0, &[])
    }
}

/// Request `counter` of the client's first session: body, then a proof that holds for all members.
fn request(counter: u32, signed: bool) -> (u8, Request<SharedBytes>) {
    let operation = [4, 0, 0, 0, counter as u8];
    let header = RequestHeader {
        client: CLIENT,
        sequence: Sequence::new(1, counter),
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: operation.len() as u32,
    };
    let mut bytes = vec![0; REQUEST_HEADER_SIZE];
    header.write(&mut bytes);
    bytes.extend_from_slice(&operation);
    let body_size = bytes.len();
    let digest = Digest(body_digest(&bytes));
    let client = keys(5);
    let auth = if signed { proof::SIGNATURE } else { proof::MAC_VECTOR };
    if signed {
        let message = codec::request_to_sign(CLUSTER, &digest);
        bytes.extend_from_slice(&client.signing_key.sign(&message));
    } else {
        let pair = |id: u8| {
            let member = keys(id + 1).static_secret.public();
            PairKey::for_client(&client.static_secret, &member, CLUSTER).expect("a good key")
        };
        let pairs: Vec<_> = (0..4).map(pair).collect();
        let mut vector = vec![0; vector_size(4)];
        write_vector(&pairs, &digest.0, &mut vector);
        bytes.extend_from_slice(&vector);
    }
    let payload = SharedBytes::from(&bytes[..]);
    let decoded = codec::decode_request(payload, body_size, digest, auth);
    (auth, decoded.expect("well formed"))
}

fn batch(counters: &[u32], time_ns: u64) -> Batch<SharedBytes> {
    let requests: Vec<_> = counters.iter().map(|counter| request(*counter, false).1).collect();
    let at = if time_ns == 0 { 0 } else { START.0 + time_ns };
    Batch::build(&mut HeapPool, at, &requests).expect("the heap has room")
}

fn at(cid: u64) -> Position {
    Position { view: ViewId(0), cid: ConsensusId(cid), epoch: Epoch(0) }
}

fn status(decided: u64) -> Message<SharedBytes> {
    Message::Status(Status {
        view: ViewId(0),
        regency: Regency(0),
        wanted: Regency(0),
        stopped: false,
        decided: ConsensusId(decided),
        log_start: ConsensusId(1),
        written: ReplicaSet::EMPTY,
        accepted: ReplicaSet::EMPTY,
        proposed: 0,
        learned: 0,
    })
}

/// Two instances in the normal case, the client's requests first.
fn normal_case() -> History {
    let mut history = History::default();
    for counter in 1..=3 {
        let (auth, request) = request(counter, false);
        history.event(1, auth, request.payload.bytes());
    }
    for (cid, counters) in [(1, &[1, 2][..]), (2, &[3])] {
        let batch = batch(counters, cid);
        let vote = Vote { at: at(cid), digest: batch.digest };
        history.from(0, &Message::Propose(Propose { at: at(cid), batch }));
        for member in [0, 2, 3] {
            history.from(member, &Message::Write(vote));
        }
        for member in [0, 2, 3] {
            history.from(member, &Message::Accept(vote));
        }
    }
    history
}

/// The others are ahead, say so, and tell what they decided.
fn behind() -> History {
    let mut history = History::default();
    let (first, second) = (batch(&[1, 2], 1), batch(&[3], 2));
    for member in [0, 2, 3] {
        history.event(5, member, &[]).from(member, &status(2));
    }
    history.time_passes();
    for (cid, batch) in [(1, &first), (2, &second)] {
        for (member, batch) in [(0, None), (2, Some(batch.clone())), (3, None)] {
            let digest = if cid == 1 { first.digest } else { second.digest };
            history.from(member, &Message::Decided(Decided { at: at(cid), digest, batch }));
        }
    }
    let fetch = |from, to| Fetch { view: ViewId(0), from, to, with_batches: true };
    history.from(3, &Message::Fetch(fetch(ConsensusId(1), ConsensusId(2))));
    let (cid, digest) = (ConsensusId(2), second.digest);
    history.from(0, &Message::FetchBatch(FetchBatch { view: ViewId(0), cid, digest }));
    history
}

/// The leader is silent: requests wait, are forwarded, and members ask for the next regency, whose
/// leader is the replica itself.
fn leader_change() -> History {
    let mut history = History::default();
    let (auth, signed) = request(1, true);
    history.event(1, auth, signed.payload.bytes());
    history.from(2, &Message::Forwarded(batch(&[1], 0)));
    history.time_passes().time_passes().time_passes();
    for member in [2, 3, 0] {
        let stop = Stop { view: ViewId(0), regency: Regency(1), requests: batch(&[1], 0) };
        history.from(member, &Message::Stop(stop));
    }
    history.time_passes().time_passes();
    let refuse = Refuse { at: at(1), digest: Digest([7; 32]), reason: RefuseReason::Clock };
    history.from(3, &Message::Refuse(refuse));
    history
}

/// Proposals without bodies: one that is complete, one whose missing body is asked for, sent wrongly
/// and then rightly, and questions.
fn bodies() -> History {
    let mut history = History::default();
    let (auth, first) = request(1, false);
    history.event(1, auth, first.payload.bytes());
    let without = |batch: &Batch<SharedBytes>, cid| {
        let batch = SparseBatch::of(batch, &Selection::ALL, &mut HeapPool);
        Message::ProposeSparse(ProposeSparse { at: at(cid), batch: batch.expect("the heap") })
    };
    for (cid, counter) in [(1, 1), (2, 2)] {
        let value = batch(&[counter], cid);
        let vote = Vote { at: at(cid), digest: value.digest };
        history.from(0, &without(&value, cid));
        history.from(0, &Message::Write(vote)).from(2, &Message::Write(vote));
        if cid == 2 {
            history.time_passes();
            for counter in [3, 2] {
                let requests = batch(&[counter], 0);
                let answer = Bodies { at: at(cid), digest: value.digest, requests };
                history.from(0, &Message::Bodies(answer));
            }
        }
        for member in [0, 2] {
            history.from(member, &Message::Accept(vote));
        }
        let which = Selection::ALL;
        let fetch = FetchBodies { at: at(cid), digest: value.digest, which };
        history.from(3, &Message::FetchBodies(fetch)).from(3, &Message::FetchBodies(fetch));
    }
    history
}

/// Nobody keeps what the replica lacks: it is offered checkpoints, sent chunks, false ones too, and goes on from one.
fn transfer() -> History {
    let mut history = History::default();
    for member in [0, 2, 3] {
        let Message::Status(mut status) = status(40) else { return history };
        status.log_start = ConsensusId(30);
        history.event(5, member, &[]).from(member, &Message::Status(status));
    }
    let (view, cid) = (ViewId(0), ConsensusId(38));
    let ordered = Ordered {
        ruled: None,
        view,
        cid,
        timestamp_ns: 77,
        decisions: vec![Digest([1; 32]), Digest([2; 32])],
        sessions: vec![(ClientId::new(0, 0), Sequence::new(1, 9))],
    };
    let mut image = Vec::new();
    ordered.encode(&mut image);
    let leaf = merkle::leaf(&image);
    let size = image.len() as u64;
    let root = Digest(merkle::root(size, CHUNK_SIZE_MAX as u64, &mut [leaf]));
    for (member, root) in [(0, Digest([9; 32])), (2, root), (3, root)] {
        let mut all = StateOffer::new(view);
        assert!(all.push(Offer { cid, size, root }));
        history.from(member, &Message::StateOffer(all));
    }
    let wrong = [&image[..], &[0]].concat();
    for (member, bytes) in [(0, &wrong), (2, &image), (2, &image), (3, &wrong)] {
        let chunk = Chunk::new(view, (cid, 0, size), 0, SharedBytes::from(&bytes[..]));
        history.from(member, &Message::Chunk(chunk.expect("bytes")));
    }
    history.from(3, &Message::FetchState(FetchState { view, above: ConsensusId(1) }));
    history.from(3, &Message::FetchChunks(FetchChunks { view, cid, root, first: 0, count: 1 }));
    history
}

pub fn all() -> Vec<Seed> {
    vec![
        seed("member", "normal-case", normal_case().0),
        seed("member", "behind", behind().0),
        seed("member", "leader-change", leader_change().0),
        seed("member", "bodies", bodies().0),
        seed("member", "transfer", transfer().0),
    ]
}
