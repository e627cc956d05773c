//! Who has complained about which client.
//!
//! Owns the set of complainants of each client identity. Always true: a member counts at most once
//! for a client, and no member can demote a client without a correct one. Must not: decide what a
//! complaint follows from, or look at requests.

use alloc::vec::Vec;

use crate::batch::Batch;
use crate::config::Config;
use crate::message::proof;
use crate::payload::Payload;
use crate::quorum::Quorums;
use crate::spec;
use crate::types::{ClientId, ReplicaSet};

/// What a complaint changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Complaint {
    /// The first of this member about this client.
    New,
    /// The same, and now enough members have complained: from now on only signed requests of this
    /// client are ordered. Reported once; `Requests::demote` has to be called.
    Demoted,
    /// This member has complained about this client before. Nothing changed.
    Repeated,
    /// There is no such client. Nothing changed.
    Unknown,
}

/// Complaints about all clients. Fixed size: one set for each client in the cluster's client list.
#[derive(Clone, Debug)]
pub struct Complaints {
    about: Vec<ReplicaSet>,
    quorums: Quorums,
}

impl Complaints {
    /// No complaints.
    pub fn new(config: &Config) -> Self {
        let clients = config.clients_max as usize;
        Self { about: alloc::vec![ReplicaSet::EMPTY; clients], quorums: config.view.quorums() }
    }

    /// The member at `member_index` says that the client of `client` sent it a wrong proof.
    pub fn complain(&mut self, member_index: usize, client: ClientId) -> Complaint {
        spec!("VAL.5");
        let Some(about) = self.about.get_mut(client.identity() as usize) else {
            return Complaint::Unknown;
        };
        if !about.insert(member_index) {
            return Complaint::Repeated;
        }
        // Equal, not at least: complaints after the one that demoted change nothing.
        if about.count() == self.quorums.one_correct() {
            Complaint::Demoted
        } else {
            Complaint::New
        }
    }

    /// Members that have complained about the client with this identity.
    pub fn about(&self, identity: u32) -> ReplicaSet {
        self.about.get(identity as usize).copied().unwrap_or(ReplicaSet::EMPTY)
    }

    /// Are only signed requests of this client ordered?
    pub fn is_demoted(&self, identity: u32) -> bool {
        spec!("VAL.5");
        let about = self.about(identity);
        about != ReplicaSet::EMPTY && about.count() >= self.quorums.one_correct()
    }

    /// May a leader propose `batch`: are the complainants about the clients of its MAC-vector requests
    /// together too few for a correct replica to be among too many of them?
    pub fn allow<P: Payload>(&self, batch: &Batch<P>) -> bool {
        spec!("VAL.6");
        let unsigned = batch.requests().filter(|view| view.auth != proof::SIGNATURE);
        let mut complainants = Some(ReplicaSet::EMPTY);
        for view in unsigned {
            complainants =
                complainants.and_then(|together| self.join(together, view.client.identity()));
        }
        complainants.is_some()
    }

    /// May a MAC-vector request of this client join a batch whose other MAC-vector requests have
    /// `complainants`? The complainants of the batch with it, or `None` when a correct replica might
    /// be among too many of them.
    pub fn join(&self, complainants: ReplicaSet, identity: u32) -> Option<ReplicaSet> {
        spec!("VAL.6");
        let together = complainants.union(self.about(identity));
        if together == ReplicaSet::EMPTY {
            return Some(together);
        }
        (together.count() < self.quorums.one_correct()).then_some(together)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FaultModel, View};
    use crate::types::{ReplicaId, ViewId};

    fn complaints(n: u16, f: usize, model: FaultModel) -> Complaints {
        let members = (0..n).map(ReplicaId).collect();
        let view = View::new(ViewId(0), members, f, model).expect("enough members");
        Complaints::new(&Config { clients_max: 3, ..Config::new(ReplicaId(0), view) })
    }

    // rule: VAL.5
    #[test]
    fn val_5_a_client_is_demoted_once_by_one_correct_distinct_members() {
        let mut complaints = complaints(7, 2, FaultModel::Byzantine);
        let client = ClientId::new(1, 9);
        assert_eq!(complaints.complain(0, client), Complaint::New);
        assert_eq!(complaints.complain(0, ClientId::new(1, 8)), Complaint::Repeated);
        assert_eq!(complaints.complain(6, client), Complaint::New);
        assert!(!complaints.is_demoted(1));
        assert_eq!(complaints.complain(3, client), Complaint::Demoted);
        assert!(complaints.is_demoted(1) && !complaints.is_demoted(0));
        assert_eq!(complaints.complain(4, client), Complaint::New);
        assert_eq!(complaints.complain(0, ClientId::new(3, 0)), Complaint::Unknown);
        assert!(!complaints.is_demoted(3));
    }

    // rule: VAL.6
    #[test]
    fn val_6_clients_cannot_combine_and_one_liar_keeps_nobody_out() {
        let mut complaints = complaints(4, 1, FaultModel::Byzantine);
        complaints.complain(2, ClientId::new(0, 0));
        complaints.complain(2, ClientId::new(1, 0));
        let both = complaints.join(ReplicaSet::EMPTY, 0).and_then(|set| complaints.join(set, 1));
        assert_eq!(both.map(ReplicaSet::count), Some(1), "a member that complains about everybody");
        complaints.complain(3, ClientId::new(2, 0));
        let first = complaints.join(ReplicaSet::EMPTY, 2).expect("alone it may");
        assert_eq!(complaints.join(first, 1), None);
    }

    // rule: VAL.5
    #[test]
    fn val_5_when_replicas_only_crash_one_complaint_is_enough() {
        let mut complaints = complaints(3, 1, FaultModel::Crash);
        assert_eq!(complaints.complain(1, ClientId::new(0, 0)), Complaint::Demoted);
        assert_eq!(complaints.join(ReplicaSet::EMPTY, 0), None);
        assert_eq!(complaints.join(ReplicaSet::EMPTY, 1), Some(ReplicaSet::EMPTY));
    }
}
