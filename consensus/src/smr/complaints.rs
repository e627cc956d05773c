//! Who has complained about which client.
//!
//! Owns the set of complainants of each client identity. Always true: a member counts at most once
//! for a client, and no member can demote a client without a correct one. Must not: decide what a
//! complaint follows from, or look at requests.

use alloc::vec::Vec;

use crate::config::Config;
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
        self.about(identity).count() >= self.quorums.one_correct()
    }

    /// May a MAC-vector request of this client join a batch whose other MAC-vector requests have
    /// `complainants`? The complainants of the batch with it, or `None` when a correct replica might
    /// be among too many of them.
    pub fn join(&self, complainants: ReplicaSet, identity: u32) -> Option<ReplicaSet> {
        spec!("VAL.6");
        let together = complainants.union(self.about(identity));
        (together.count() < self.quorums.one_correct()).then_some(together)
    }
}
