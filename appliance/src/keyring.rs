//! The keys that a replica checks with and signs with, whatever view it is in.
//!
//! Owns what this replica shares with clients under each of its own keys. Always true: what is made for a
//! view has the members' keys of that view, and those of our own that it names. Must not: check anything.

use std::sync::Arc;

use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::membership::{Membership, VIEW_MANAGER};
use tetrarch_consensus::{ClientId, ReplicaId, View};
use tetrarch_dataplane::crypto::authenticator::PairKey;
use tetrarch_dataplane::crypto::keys::{KeyError, StaticPublic, StaticSecret};
use tetrarch_dataplane::crypto::signature::{SigningKey, VerifyingKey};

/// What is shared with a client, and what it signs with.
pub struct ClientKeys {
    /// For its MAC vectors' entries.
    pub pair: PairKey,
    /// For its signatures.
    pub verifying: VerifyingKey,
}

/// Clients' keys under one key of ours.
struct Clients {
    /// By client index.
    listed: Vec<ClientKeys>,
    manager: Option<ClientKeys>,
}

/// One of our own keys.
struct Own {
    secret: StaticSecret,
    signing: SigningKey,
    clients: Arc<Clients>,
}

/// See the module.
pub struct Keyring {
    cluster: u64,
    own: ReplicaId,
    /// The present ones first, then those before or after them.
    held: Vec<Own>,
}

/// The keys of one view, from the point of view of this replica.
pub struct ViewKeys {
    cluster: u64,
    view: View,
    /// This replica's entry in a MAC vector, if it is a member.
    own_entry: Option<usize>,
    clients: Arc<Clients>,
    /// By member index.
    members: Vec<VerifyingKey>,
    secret: StaticSecret,
    other_secret: Option<StaticSecret>,
    signing: SigningKey,
}

/// A view whose keys cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadView {
    /// A member's signing key is none.
    #[error("view {view}: the signing key of replica {member} is no key")]
    MemberKey {
        /// Which view.
        view: tetrarch_consensus::ViewId,
        /// Whose.
        member: ReplicaId,
    },
    /// This replica is a member under keys that it does not have.
    #[error(
        "view {view} names replica {own} with keys that are not here; put the key file that was made with \
         them in place (`tetrarch view keys` makes replica-{own}.next.key)"
    )]
    NotOurs {
        /// Which view.
        view: tetrarch_consensus::ViewId,
        /// This replica.
        own: ReplicaId,
    },
}

impl Keyring {
    /// The keys of replica `own` of `cluster`, which are `keys` now; `other` are those before or after
    /// them. Computes one key agreement for each client and key of ours.
    ///
    /// # Errors
    /// A client's public key gives no secrecy; its index is the first value.
    pub fn new(
        cluster: &Cluster,
        own: ReplicaId,
        keys: &PrivateKeys,
        other: Option<&PrivateKeys>,
    ) -> Result<Self, (u32, KeyError)> {
        let mut held = Vec::with_capacity(2);
        for keys in std::iter::once(keys).chain(other) {
            held.push(Own {
                secret: keys.static_secret.clone(),
                signing: keys.signing_key.clone(),
                clients: Arc::new(clients(cluster, &keys.static_secret)?),
            });
        }
        Ok(Self { cluster: cluster.id, own, held })
    }

    /// Whose.
    pub fn own(&self) -> ReplicaId {
        self.own
    }

    /// The keys of a view in which this replica begins, to go on to the one it is in: its own key of that time may be
    /// gone, and nothing is proved with it.
    ///
    /// # Errors
    /// A key of a member cannot be used.
    pub fn of_past_view(&self, membership: &Membership) -> Result<ViewKeys, BadView> {
        self.make(membership, self.own_key(membership).unwrap_or(0))
    }

    /// The keys of the view that `membership` describes. For one that this replica is no member of: as
    /// before, but for MAC vectors, which have no entry for it.
    ///
    /// # Errors
    /// A key of a member cannot be used, or this replica's own is not here.
    pub fn of_view(&self, membership: &Membership) -> Result<ViewKeys, BadView> {
        let not_ours = BadView::NotOurs { view: membership.id(), own: self.own };
        self.make(membership, self.own_key(membership).ok_or(not_ours)?)
    }

    /// Which of the keys held `membership` names; any will do for who is no member.
    fn own_key(&self, membership: &Membership) -> Option<usize> {
        let Some(member) = membership.member(self.own) else { return Some(0) };
        let named = StaticPublic(member.static_key);
        let fits = |own: &Own| {
            own.secret.public() == named
                && own.signing.verifying_key().to_bytes() == member.signing_key
        };
        self.held.iter().position(fits)
    }

    fn make(&self, membership: &Membership, at: usize) -> Result<ViewKeys, BadView> {
        let view = membership.id();
        let mut members = Vec::with_capacity(membership.members().len());
        for member in membership.members() {
            let key = VerifyingKey::from_bytes(&member.signing_key);
            members.push(key.map_err(|_| BadView::MemberKey { view, member: member.id })?);
        }
        let other = self.held.iter().enumerate().find(|(place, _)| *place != at);
        let Own { secret, signing, clients } = &self.held[at];
        Ok(ViewKeys {
            cluster: self.cluster,
            view: membership.view().clone(),
            own_entry: membership.view().index_of(self.own),
            clients: Arc::clone(clients),
            members,
            secret: secret.clone(),
            other_secret: other.map(|(_, own)| own.secret.clone()),
            signing: signing.clone(),
        })
    }
}

fn clients(cluster: &Cluster, secret: &StaticSecret) -> Result<Clients, (u32, KeyError)> {
    let keys = |index: u32, public: &StaticPublic, verifying: VerifyingKey| {
        let pair =
            PairKey::for_replica(secret, public, cluster.id).map_err(|error| (index, error))?;
        Ok(ClientKeys { pair, verifying })
    };
    let mut listed = Vec::with_capacity(cluster.clients.len());
    for client in &cluster.clients {
        listed.push(keys(client.index, &client.static_key, client.signing_key)?);
    }
    let manager = cluster.view_manager.as_ref();
    let manager =
        manager.map(|it| keys(VIEW_MANAGER, &it.static_key, it.signing_key)).transpose()?;
    Ok(Clients { listed, manager })
}

impl ViewKeys {
    /// Which cluster.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Which view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// This replica's entry in a MAC vector; `None`: it is no member.
    pub fn own_entry(&self) -> Option<usize> {
        self.own_entry
    }

    /// How many client identities there are, the View Manager's not counted.
    pub fn clients(&self) -> usize {
        self.clients.listed.len()
    }

    /// The keys of a session's client.
    #[inline]
    pub fn client(&self, client: ClientId) -> Option<&ClientKeys> {
        let listed = self.clients.listed.get(client.identity() as usize);
        listed
            .or_else(|| self.clients.manager.as_ref().filter(|_| client.identity() == VIEW_MANAGER))
    }

    /// What memberships are signed with, if they can change.
    pub fn view_manager(&self) -> Option<&VerifyingKey> {
        self.clients.manager.as_ref().map(|keys| &keys.verifying)
    }

    /// What the member with this place in the view signs with.
    pub fn member(&self, index: usize) -> &VerifyingKey {
        &self.members[index]
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// Our own key on links, and the one before or after it.
    pub fn secrets(&self) -> (StaticSecret, Option<StaticSecret>) {
        (self.secret.clone(), self.other_secret.clone())
    }

    /// What we sign states with.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use tetrarch_consensus::{FaultModel, ViewId, membership};

    fn membership(
        test: &TestCluster,
        change: impl FnOnce(&mut Vec<membership::Member>),
    ) -> Membership {
        let mut members = test.cluster.membership().members().to_vec();
        change(&mut members);
        Membership::new(test.cluster.id, ViewId(1), 1, FaultModel::Byzantine, members).unwrap()
    }

    #[test]
    fn a_view_is_entered_with_the_keys_that_it_names() {
        let test = TestCluster::new(5, 1, 1);
        let other = PrivateKeys::generate().unwrap();
        let own = ReplicaId(3);
        let ring = Keyring::new(&test.cluster, own, &test.replica_keys[3], Some(&other)).unwrap();
        let before = ring.of_view(&test.cluster.membership()).unwrap();
        let (secret, next) = before.secrets();
        assert_eq!(secret.public(), test.replica_keys[3].static_secret.public());
        assert_eq!(next.unwrap().public(), other.static_secret.public());
        assert_eq!((before.own_entry(), before.members()), (Some(3), 5));

        // Replica 1 goes, replica 3 has its other keys: its place and its keys are others.
        let after = ring.of_view(&membership(&test, |members| {
            members[3].static_key = other.static_secret.public().to_bytes();
            members[3].signing_key = other.signing_key.verifying_key().to_bytes();
            members.remove(1);
        }));
        let after = after.unwrap();
        assert_eq!((after.own_entry(), after.view().id()), (Some(2), ViewId(1)));
        assert_eq!(after.secrets().0.public(), other.static_secret.public());
        let signing = after.signing_key().verifying_key().to_bytes();
        assert_eq!(signing, other.signing_key.verifying_key().to_bytes());
        assert_eq!(after.member(2).to_bytes(), signing);

        let gone = ring.of_view(&membership(&test, |members| drop(members.remove(3)))).unwrap();
        assert_eq!(gone.own_entry(), None);
    }

    #[test]
    fn keys_that_cannot_be_used_are_named() {
        let test = TestCluster::new(4, 1, 1);
        let ring = Keyring::new(&test.cluster, ReplicaId(0), &test.replica_keys[0], None).unwrap();
        let renamed = membership(&test, |members| members[0].static_key = [9; 32]);
        let strange = ring.of_view(&renamed);
        let error = strange.err().unwrap();
        assert_eq!(error, BadView::NotOurs { view: ViewId(1), own: ReplicaId(0) });
        assert!(error.to_string().contains("replica-0.next.key"), "{error}");
        // On the way to a later view it does not matter.
        assert_eq!(ring.of_past_view(&renamed).unwrap().own_entry(), Some(0));
        let bad = ring.of_view(&membership(&test, |members| members[2].signing_key = [2; 32]));
        assert_eq!(bad.err(), Some(BadView::MemberKey { view: ViewId(1), member: ReplicaId(2) }));
    }
}
