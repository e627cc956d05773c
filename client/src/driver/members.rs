//! Who the members are, for a driver that follows them.
//!
//! Owns the cluster as it is known now, and the way from a membership to links, keys and addresses. Always
//! true: the core hears of a membership only if this cluster's View Manager signed it and everything in it can
//! be used; each member is listened to about this once in a while, so a faulty one costs little. Must
//! not: decide which view counts (the core does), or resolve names on the caller's thread.

use std::path::Path;
use std::time::Duration;

use tetrarch_consensus::membership::{Membership, VIEW_MANAGER, ViewRequest};
use tetrarch_consensus::{ReplicaId, Verified, spec};
use tetrarch_dataplane::handshake::Directory;
use tetrarch_dataplane::links::Links;
use tetrarch_dataplane::types::{Instant, PeerId};

use crate::cluster::{Cluster, Member, PrivateKeys};
use crate::names::{Addresses, Names};
use crate::proofs::Prover;

/// A member is not listened to about views more often than this: half of what it waits before it tells a
/// client again. Checking one costs a signature and as many key agreements as it has members.
const LISTEN_PAUSE: Duration = Duration::from_millis(25);

/// How long the members of a view that was signed, and that too few vouch for, have links at least before
/// those of another such view.
const CANDIDATE_KEPT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Members {
    cluster: Cluster,
    keys: PrivateKeys,
    /// Peers that are members, in the order of their places.
    peers: Vec<PeerId>,
    /// Who told of a view, and when.
    told: Vec<(ReplicaId, Instant)>,
    /// A later view that the View Manager wanted, since when: if it rules, its members say so.
    candidate: Option<(Cluster, Instant)>,
    /// There from the first name on that is not a number.
    names: Option<Names>,
}

impl Members {
    pub(super) fn new(cluster: &Cluster, keys: &PrivateKeys) -> Self {
        let peers = peers(cluster);
        let (cluster, keys) = (cluster.clone(), keys.clone());
        Self { cluster, keys, peers, told: Vec::new(), candidate: None, names: None }
    }

    /// The cluster as it is known now.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The members, in the order of their places.
    pub(super) fn peers(&self) -> &[PeerId] {
        &self.peers
    }

    /// Is this the link of somebody who is a member only if a later view rules?
    pub(super) fn is_candidate(&self, peer: PeerId) -> bool {
        !self.peers.contains(&peer)
    }

    /// `from` told of a later view. `Ok(None)`: it was listened to a moment ago.
    ///
    /// # Errors
    /// It cannot be read, the View Manager did not sign it, or something in it cannot be used.
    pub(super) fn check(
        &mut self,
        now: Instant,
        from: ReplicaId,
        told: &[u8],
    ) -> Result<Option<Verified<ViewRequest>>, BadNews> {
        spec!("CLI.12", "VIEW.1");
        if !self.listens_to(now, from) {
            return Ok(None);
        }
        let request = ViewRequest::decode(told).map_err(|_| BadNews)?;
        if request.next.id() <= self.cluster.view_id {
            return Ok(None);
        }
        let manager = self.cluster.view_manager.as_ref().ok_or(BadNews)?;
        let signed = ViewRequest::signed_bytes(&request.next);
        if !manager.signing_key.verify(&signed, &request.signature) {
            return Err(BadNews);
        }
        let (cluster, _) = self.prepare(&request.next).ok_or(BadNews)?;
        let known = self.candidate.as_ref();
        if known.is_none_or(|(known, since)| {
            known.view_id < cluster.view_id || *since + CANDIDATE_KEPT <= now
        }) {
            self.candidate = Some((cluster, now));
        }
        Ok(Some(Verified::vouch(request)))
    }

    /// Remembers that `from` was listened to, unless it was a moment ago.
    fn listens_to(&mut self, now: Instant, from: ReplicaId) -> bool {
        self.told.retain(|(_, when)| now < *when + LISTEN_PAUSE);
        let free = self.told.iter().all(|(id, _)| *id != from);
        if free {
            self.told.push((from, now));
        }
        free
    }

    /// What follows from a membership, if all of it can be used.
    fn prepare(&self, next: &Membership) -> Option<(Cluster, Prover)> {
        let cluster = self.cluster.with_membership(next, Path::new("membership")).ok()?;
        let prover = Prover::new(&cluster, &self.keys).ok()?;
        Some((cluster, prover))
    }

    /// The members are those of `next` from now on, which was checked. Returns what proves requests to
    /// them.
    pub(super) fn follow(&mut self, next: &Membership, links: &mut Links) -> Prover {
        let (cluster, prover) = self.prepare(next).expect("checked when it was told");
        self.peers = peers(&cluster);
        self.cluster = cluster;
        self.candidate.take_if(|(candidate, _)| candidate.view_id <= next.id());
        self.link(links);
        prover
    }

    /// Has links made with all members, and with those that may be members already.
    pub(super) fn link(&mut self, links: &mut Links) {
        let mut linked: Vec<&Member> = self.cluster.members.iter().collect();
        for member in self.candidate.iter().flat_map(|(candidate, _)| &candidate.members) {
            let is_new = |it: &&Member| it.id != member.id && it.static_key != member.static_key;
            if linked.iter().all(is_new) {
                linked.push(member);
            }
        }
        let Cluster { clients, view_manager, .. } = &self.cluster;
        let clients = clients.iter().map(|it| (PeerId::client(it.index), it.static_key));
        let manager = view_manager.iter().map(|it| (PeerId::client(VIEW_MANAGER), it.static_key));
        let keys = linked.iter().map(|it| (PeerId::replica(it.id.0), it.static_key));
        let directory = Directory::new(keys.chain(clients).chain(manager))
            .expect("each id and key is there once");
        let mut dials = Vec::with_capacity(linked.len());
        for member in linked {
            let known = match member.address.parse() {
                Ok(number) => Some(number),
                Err(_) => look_up(&mut self.names, links, &member.address),
            };
            dials.extend(known.map(|address| (PeerId::replica(member.id.0), address)));
        }
        links.set_peers(directory, &dials);
    }

    /// Links with those whose names were resolved meanwhile.
    pub(super) fn tend(&mut self, links: &mut Links) {
        if self.names.as_mut().is_some_and(Names::has_news) {
            self.link(links);
        }
    }
}

/// The address of a host by its name, if it is known yet.
fn look_up(
    names: &mut Option<Names>,
    links: &Links,
    address: &str,
) -> Option<std::net::SocketAddr> {
    if names.is_none() {
        // Without a thread for it the member is reached when the system has one: at the next change.
        *names = Names::new(links.waker(), |_| {}).ok();
    }
    names.as_mut()?.find(address)
}

/// What was told of a view cannot be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadNews;

fn peers(cluster: &Cluster) -> Vec<PeerId> {
    cluster.view().members().iter().map(|id| PeerId::replica(id.0)).collect()
}
