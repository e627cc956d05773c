//! Rules of the request table one by one, and (in `model`) all of them against a naive model.

mod model;
mod rules;

use alloc::vec::Vec;

use super::*;
use crate::batch::{Batch, REQUEST_HEADER_SIZE, Replier, RequestHeader, encoded_size};
use crate::config::{FaultModel, View};
use crate::message::proof;
use crate::payload::{HeapPool, SharedBytes};
use crate::types::{Digest, ReplicaId, ViewId};

pub(super) fn config() -> Config {
    let members = (0..4).map(ReplicaId).collect();
    let view = View::new(ViewId(0), members, 1, FaultModel::Byzantine).expect("enough members");
    Config {
        clients_max: 3,
        sessions_per_client_max: 3,
        batch_requests_max: 6,
        batch_size_max: 2000,
        ..Config::new(ReplicaId(0), view)
    }
}

/// A request whose operation is `size` times `content`.
pub(super) fn request(
    client: ClientId,
    sequence: Sequence,
    signed: bool,
    content: u8,
    size: usize,
) -> Request<SharedBytes> {
    let header = RequestHeader {
        client,
        sequence,
        view: 0,
        read_only: false,
        replier: Replier::EVERYONE,
        unanswered: 0,
        operation_size: size as u32,
    };
    let mut blob = alloc::vec![content; REQUEST_HEADER_SIZE + size];
    header.write(&mut blob);
    let digest = Digest(*blake3::hash(&blob).as_bytes());
    let body_size = blob.len() as u32;
    blob.extend_from_slice(&[0; 64][..if signed { 64 } else { 18 }]);
    let auth = if signed { proof::SIGNATURE } else { proof::MAC_VECTOR };
    let payload = SharedBytes::from(&blob[..]);
    Request { client, sequence, digest, read_only: false, auth, body_size, payload }
}

/// What a request counts in the size of a batch, when four members are the view.
pub(super) fn size_in_batch(request: &Request<SharedBytes>) -> usize {
    IDENTITY_SIZE + LAYOUT_SIZE + request.body_size as usize + 64
}

pub(super) fn mac(client: ClientId, counter: u32) -> Request<SharedBytes> {
    request(client, Sequence::new(1, counter), false, 0, 8)
}

pub(super) fn signed(client: ClientId, counter: u32) -> Request<SharedBytes> {
    request(client, Sequence::new(1, counter), true, 0, 8)
}

pub(super) fn batch(timestamp_ns: u64, requests: &[Request<SharedBytes>]) -> Batch<SharedBytes> {
    let requests: Vec<_> = requests.iter().collect();
    Batch::build(&mut HeapPool, timestamp_ns, &requests).expect("the heap is large")
}

pub(super) fn names<'a>(
    requests: impl IntoIterator<Item = &'a Request<SharedBytes>>,
) -> Vec<(ClientId, Sequence)> {
    requests.into_iter().map(|request| (request.client, request.sequence)).collect()
}

impl<P: Payload> Requests<P> {
    /// Everything that is always true of the lists.
    pub(super) fn check_invariants(&self) {
        let (mut count, mut bytes) = (0, 0);
        for at in 0..self.table.sessions.len() as u32 {
            let session = self.table.session(at);
            let mut slot = session.first;
            let mut last: Option<Sequence> = None;
            while slot != NONE {
                let request = self.table.slot(slot).request();
                assert_eq!(self.table.find(request.client), Some(at));
                assert!(request.sequence > session.executed);
                assert!(last.is_none_or(|last| last < request.sequence
                    && last.incarnation() == request.sequence.incarnation()));
                last = Some(request.sequence);
                count += 1;
                bytes += encoded_size(request);
                slot = self.table.slot(slot).next;
            }
            let head = self.table.head(at);
            assert_eq!(self.ready.contains(at), head.is_some());
            assert_eq!(self.signed.contains(at), head.is_some_and(|slot| slot.is_signed()));
            assert_eq!(session.turn, self.table.turn(at));
        }
        let mut unsigned = self.ready.head();
        while unsigned != NONE && self.table.session(unsigned).turn != Turn::Unsigned {
            unsigned = self.ready.next(unsigned);
        }
        assert_eq!(self.oldest_unsigned, unsigned);
        assert_eq!((self.pending_count(), self.pending_bytes()), (count, bytes));
        assert!(self.table.slots.len() <= 3 * 3 * ADMISSION_WINDOW, "slots are used again");
        let work = self.signed.head() != NONE || self.oldest_unsigned != NONE;
        assert_eq!(self.oldest().is_some(), work);
    }
}
