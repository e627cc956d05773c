//! What a View Manager asks for.
//!
//! Must not: sign anything; ingress would have looked at that.

use tetrarch_consensus::membership::{Member, VIEW_MANAGER};
use tetrarch_consensus::*;

use super::{Bytes, Cluster, request_bytes};

/// The membership of these replicas.
pub fn membership(view: u32, f: usize, ids: &[u16]) -> Membership {
    let member = |id: &u16| Member {
        id: ReplicaId(*id),
        address: format!("r{id}:1"),
        static_key: [*id as u8; 32],
        signing_key: [*id as u8; 32],
    };
    let members = ids.iter().map(member).collect();
    Membership::new(7, ViewId(view), f, FaultModel::Byzantine, members).expect("possible")
}

/// The View Manager's request `counter` for `next`.
pub fn change(counter: u32, next: Membership) -> Request<Bytes> {
    let mut operation = Vec::new();
    ViewRequest { next, signature: [1; 64] }.encode(&mut operation);
    let client = ClientId::new(VIEW_MANAGER, 0);
    request_bytes(client, Sequence::new(1, counter), &operation, true, &[])
}

/// The view that a replica is in.
pub fn view(cluster: &Cluster, id: u16) -> u32 {
    cluster.replica(id).view().id().0
}
