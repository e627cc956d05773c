//! Clusters and requests for tests: of this crate, and of others that build nodes.
//!
//! Owns nothing in production. Always true: keys are random, so a test that passes by luck of a key
//! does not pass twice. Must not: be used by the `tetrarch` command.

use tetrarch_client::cluster::{ClientEntry, Cluster, Member, PrivateKeys, ViewManager};
use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, Replier, RequestHeader};
use tetrarch_consensus::limits::SESSION_WINDOW;
use tetrarch_consensus::{ClientId, FaultModel, ReplicaId, Sequence, ViewId};
use tetrarch_dataplane::crypto::authenticator::PairKey;

/// A cluster with all its private keys.
pub struct TestCluster {
    /// The public part. Addresses are made up.
    pub cluster: Cluster,
    /// By replica id.
    pub replica_keys: Vec<PrivateKeys>,
    /// By client index.
    pub client_keys: Vec<PrivateKeys>,
}

impl TestCluster {
    /// `n` replicas that tolerate `f` Byzantine faults, and `clients` clients.
    pub fn new(n: u16, f: usize, clients: u32) -> Self {
        Self::with_model(n, f, clients, FaultModel::Byzantine)
    }

    /// `n` replicas that tolerate `f` faults of `model`, and `clients` clients.
    pub fn with_model(n: u16, f: usize, clients: u32, model: FaultModel) -> Self {
        let generate = || PrivateKeys::generate().expect("the system has random bytes");
        let replica_keys: Vec<_> = (0..n).map(|_| generate()).collect();
        let client_keys: Vec<_> = (0..clients).map(|_| generate()).collect();
        let member = |(id, keys): (u16, &PrivateKeys)| Member {
            id: ReplicaId(id),
            address: format!("127.0.0.1:{}", 7000 + id),
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        };
        let client = |(index, keys): (u32, &PrivateKeys)| ClientEntry {
            index,
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        };
        let cluster = Cluster {
            id: 0x7e57_c105_7e12,
            model,
            f,
            depth: 1,
            checkpoint_every: 0,
            reply_cache_mib: 1,
            view_id: ViewId(0),
            first: None,
            view_manager: None,
            members: (0..).zip(&replica_keys).map(member).collect(),
            clients: (0..).zip(&client_keys).map(client).collect(),
        };
        cluster.check("test cluster".as_ref()).expect("a valid test cluster");
        Self { cluster, replica_keys, client_keys }
    }

    /// As [`TestCluster::new`], with somebody who may change the members.
    pub fn managed(n: u16, f: usize, clients: u32) -> Self {
        let mut test = Self::new(n, f, clients);
        let keys = PrivateKeys::generate().expect("the system has random bytes");
        test.cluster.view_manager = Some(ViewManager {
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        });
        test
    }

    /// The keys that client `index` shares with each member, in member order.
    pub fn pair_keys(&self, index: u32) -> Vec<PairKey> {
        let secret = &self.client_keys[index as usize].static_secret;
        let pair =
            |member: &Member| PairKey::for_client(secret, &member.static_key, self.cluster.id);
        self.cluster.members.iter().map(|member| pair(member).expect("generated keys")).collect()
    }
}

/// The body of request `counter` of the first incarnation of a session, for the first view.
pub fn request_bytes(client: ClientId, counter: u32, operation: &[u8], read_only: bool) -> Vec<u8> {
    request_bytes_in(ViewId(0), client, counter, operation, read_only)
}

/// The same for any view.
pub fn request_bytes_in(
    view: ViewId,
    client: ClientId,
    counter: u32,
    operation: &[u8],
    read_only: bool,
) -> Vec<u8> {
    let header = RequestHeader {
        client,
        sequence: Sequence::new(1, counter),
        view: view.0,
        read_only,
        replier: Replier::EVERYONE,
        // Whoever uses this may ask again for anything.
        unanswered: if read_only { 0 } else { SESSION_WINDOW as u8 - 1 },
        operation_size: operation.len() as u32,
    };
    let mut body = vec![0; REQUEST_HEADER_SIZE];
    header.write(&mut body);
    body.extend_from_slice(operation);
    body
}
