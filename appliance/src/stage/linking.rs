//! Which replicas the links reach, view after view.
//!
//! Owns the way from a notice to a directory and addresses. Always true: all members of the present view,
//! of the one that follows and, for a while, of the one before may have links; an address whose name is
//! not resolved yet is dialled when it is. Must not: resolve names on a stage's core.

use std::time::Duration;

use tetrarch_client::cluster::Cluster;
use tetrarch_client::names::{Addresses, Numeric};
use tetrarch_consensus::membership::VIEW_MANAGER;
use tetrarch_consensus::{ReplicaId, ViewId};
use tetrarch_dataplane::crypto::keys::StaticPublic;
use tetrarch_dataplane::handshake::Directory;
use tetrarch_dataplane::links::Links;
use tetrarch_dataplane::types::{Instant, PeerId};

use super::bulletin::Notice;

/// Members of the view before keep their links for this long: time enough for those that were removed to
/// see how it ended, and for laggards to ask.
const FORMER_KEPT: Duration = Duration::from_secs(60);

/// See the module.
pub struct Linking {
    own: ReplicaId,
    /// Whoever is no replica: they do not change.
    clients: Vec<(PeerId, StaticPublic)>,
    addresses: Box<dyn Addresses>,
    /// The view that the links were made for.
    made_for: ViewId,
    /// The notice in force, and since when.
    notice: Option<(Notice, Instant)>,
}

impl Linking {
    /// For links of replica `own` that were made for the view of `cluster`.
    pub fn new(own: ReplicaId, cluster: &Cluster) -> Self {
        let clients = cluster.clients.iter().map(|it| (PeerId::client(it.index), it.static_key));
        let manager = cluster.view_manager.iter();
        let manager = manager.map(|it| (PeerId::client(VIEW_MANAGER), it.static_key));
        let clients = clients.chain(manager).collect();
        let made_for = cluster.view_id;
        Self { own, clients, addresses: Box::new(Numeric), made_for, notice: None }
    }

    /// Whoever may be a client.
    pub fn clients(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.clients.iter().map(|(peer, _)| *peer)
    }

    /// From now on addresses come from there.
    pub fn look_up(&mut self, addresses: Box<dyn Addresses>) {
        self.addresses = addresses;
    }

    /// Follows a notice.
    pub fn follow(&mut self, now: Instant, notice: Notice, links: &mut Links) {
        let view = notice.current.id();
        let before = self.notice.as_ref().map_or(self.made_for, |(before, _)| before.current.id());
        if view != before {
            let (secret, other) = notice.keys.secrets();
            links.set_secret(secret, other);
        }
        let changes = self.notice.is_some() || view != before || notice.next.is_some();
        self.notice = Some((notice, now));
        if changes {
            self.link(links);
        }
    }

    /// Does what is due. Says which view's predecessor is over.
    pub fn tend(&mut self, now: Instant, links: &mut Links) -> Option<ViewId> {
        if self.addresses.has_news() {
            self.link(links);
        }
        let (notice, since) = self.notice.as_ref()?;
        let is_over = notice.former.is_some() && now.since(*since) >= FORMER_KEPT;
        is_over.then(|| notice.current.id())
    }

    /// When [`Linking::tend`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let (notice, since) = self.notice.as_ref()?;
        notice.former.is_some().then(|| *since + FORMER_KEPT)
    }

    fn link(&mut self, links: &mut Links) {
        let Some((notice, _)) = &self.notice else { return };
        let linked = notice.linked();
        let is_client = |key: &[u8; 32]| self.clients.iter().any(|(_, it)| it.as_bytes() == key);
        let replicas = linked.iter().filter(|member| !is_client(&member.static_key));
        let peers: Vec<_> = replicas
            .map(|member| (PeerId::replica(member.id.0), StaticPublic(member.static_key)))
            .chain(self.clients.iter().copied())
            .collect();
        let directory = Directory::new(peers).expect("each id and key was taken once");
        let below = linked.iter().filter(|member| member.id < self.own);
        let addresses = &mut self.addresses;
        // One connection for each pair: whoever has the higher id dials.
        let dials: Vec<_> = below
            .filter_map(|member| {
                Some((PeerId::replica(member.id.0), addresses.find(&member.address)?))
            })
            .collect();
        links.set_peers(directory, &dials);
    }
}
