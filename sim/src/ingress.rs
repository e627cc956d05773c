//! What stands between the network and the core: the checks of an ingress stage, on symbols.
//!
//! Always true: what passes is well formed, every signature in it is genuine, every request body has
//! the digest it is announced with, and `Batch::authentic` says which requests' own proofs convince
//! this member. Must not: know who is faulty.

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::limits::REPLICAS_MAX;
use tetrarch_consensus::membership::is_view_manager;
use tetrarch_consensus::message::Request;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Batch, Digest, Message, RequestView, SparseBatch, ViewRequest};

use tetrarch_dataplane::crypto::merkle;

use crate::image::implied_root;
use crate::keys::Keys;
use crate::service::Operation;

type Msg = Message<SharedBytes>;

/// Checks a message for the member at index `member`. `None`: dropped. `hostile` says that the sender
/// made its batches itself, so that bodies have to be hashed; what correct members send is what they
/// got through an ingress themselves. Images have chunks of `chunk_size` bytes.
pub fn admit(
    keys: &Keys,
    member: usize,
    hostile: bool,
    chunk_size: usize,
    mut message: Msg,
) -> Option<Msg> {
    match &mut message {
        Message::Propose(propose) => {
            check(keys, member, hostile, &mut propose.batch)?;
            let valid = |view: RequestView<'_>| is_valid(keys, &view);
            if !propose.batch.requests().all(valid) {
                return None;
            }
        }
        Message::ProposeSparse(propose) => {
            let batch = &mut propose.batch;
            if hostile {
                let announced = batch.digest;
                if SparseBatch::parse(batch.payload().clone(), None).ok()?.digest != announced {
                    return None;
                }
            }
            let mut authentic = Selection::NONE;
            for (place, view) in batch.requests() {
                if view.digest != digest(view.body) || !is_valid(keys, &view) {
                    return None;
                }
                if keys.convinces(&view, member) {
                    authentic.insert(place);
                }
            }
            batch.authentic = authentic;
        }
        Message::Bodies(bodies) => {
            check(keys, member, hostile, &mut bodies.requests)?;
            let valid = |view: RequestView<'_>| is_valid(keys, &view);
            if !bodies.requests.requests().all(valid) {
                return None;
            }
        }
        Message::Forwarded(batch) => list(keys, member, hostile, batch)?,
        Message::Stop(stop) => list(keys, member, hostile, &mut stop.requests)?,
        Message::Decided(decided) => {
            if let Some(batch) = &mut decided.batch {
                check(keys, member, hostile, batch)?;
            }
        }
        Message::BatchBody(body) => check(keys, member, hostile, &mut body.batch)?,
        Message::Chunk(chunk) => {
            chunk.leaf = Digest(merkle::leaf(chunk.bytes()));
            chunk.root = implied_root(chunk, chunk_size);
        }
        Message::StopData(signed) if !keys.state_is_signed(signed) => return None,
        Message::Sync(sync) => {
            let genuine = sync.states.iter().all(|signed| keys.state_is_signed(signed));
            if sync.states.len() > REPLICAS_MAX || !genuine {
                return None;
            }
        }
        _ => {}
    }
    Some(message)
}

/// Checks a client's own request.
pub fn admit_request(keys: &Keys, member: usize, request: &Request<SharedBytes>) -> bool {
    let view = request.view();
    view.digest == digest(view.body) && keys.convinces(&view, member) && is_valid(keys, &view)
}

/// Does the service know the operation, or did the View Manager sign it, whose requests are not the
/// service's?
fn is_valid(keys: &Keys, view: &RequestView<'_>) -> bool {
    if is_view_manager(view.client) {
        let request = ViewRequest::decode(view.operation);
        return request.is_ok_and(|request| keys.view_is_signed(&request));
    }
    Operation::decode(view.operation).is_some()
}

fn digest(body: &[u8]) -> Digest {
    Digest(*blake3::hash(body).as_bytes())
}

fn check(keys: &Keys, member: usize, hostile: bool, batch: &mut Batch<SharedBytes>) -> Option<()> {
    if hostile {
        let announced = batch.digest;
        if Batch::parse(batch.payload().clone()).ok()?.digest != announced {
            return None;
        }
        if batch.requests().any(|view| view.digest != digest(view.body)) {
            return None;
        }
    }
    let mut authentic = Selection::NONE;
    for (index, view) in batch.requests().enumerate() {
        if keys.convinces(&view, member) {
            authentic.insert(index);
        }
    }
    batch.authentic = authentic;
    Some(())
}

/// A list of requests: what the service does not know is not admitted, the rest may be.
fn list(keys: &Keys, member: usize, hostile: bool, batch: &mut Batch<SharedBytes>) -> Option<()> {
    check(keys, member, hostile, batch)?;
    let mut authentic = batch.authentic;
    for (index, view) in batch.requests().enumerate() {
        if !is_valid(keys, &view) {
            authentic.remove(index);
        }
    }
    batch.authentic = authentic;
    Some(())
}
