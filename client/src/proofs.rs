//! Proves to replicas that a request is this client's.
//!
//! Owns the keys that the client shares with each replica, and its signing key. Always true: a MAC
//! vector has an entry for each member, in member order, whoever the message goes to, because
//! members show requests to each other. Must not: decide which proof is due; the core does.

use tetrarch_consensus::message::codec::request_to_sign;
use tetrarch_consensus::message::proof;
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size, write_vector};
use tetrarch_dataplane::crypto::keys::KeyError;
use tetrarch_dataplane::crypto::signature::{Signature, SigningKey};
use tetrarch_dataplane::types::Digest;

use crate::cluster::{Cluster, PrivateKeys};

/// Makes proofs.
pub(crate) struct Prover {
    cluster: u64,
    /// In member order.
    pairs: Vec<PairKey>,
    signing_key: SigningKey,
}

impl Prover {
    /// Computes one key agreement a member.
    ///
    /// # Errors
    /// The index of a member whose public key gives no secrecy.
    pub(crate) fn new(cluster: &Cluster, keys: &PrivateKeys) -> Result<Self, (usize, KeyError)> {
        let mut pairs = Vec::with_capacity(cluster.members.len());
        for (at, member) in cluster.members.iter().enumerate() {
            let pair = PairKey::for_client(&keys.static_secret, &member.static_key, cluster.id);
            pairs.push(pair.map_err(|error| (at, error))?);
        }
        Ok(Self { cluster: cluster.id, pairs, signing_key: keys.signing_key.clone() })
    }

    /// Kind and size of a proof.
    pub(crate) fn layout(&self, sign: bool) -> (u8, usize) {
        if sign {
            (proof::SIGNATURE, size_of::<Signature>())
        } else {
            (proof::MAC_VECTOR, vector_size(self.pairs.len()))
        }
    }

    /// Writes the proof for the request with this digest. `out` has the size of its layout.
    pub(crate) fn write(&self, sign: bool, digest: &Digest, out: &mut [u8]) {
        if sign {
            let message = request_to_sign(self.cluster, &tetrarch_consensus::Digest(*digest));
            out.copy_from_slice(&self.signing_key.sign(&message));
        } else {
            write_vector(&self.pairs, digest, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;

    #[test]
    fn each_replica_can_check_its_own_entry_and_everybody_the_signature() {
        // rule: CLI.4
        let test = TestCluster::new(4);
        let (keys, cluster) = (&test.client_keys, &test.cluster);
        let prover = Prover::new(cluster, keys).unwrap();
        let digest = [7; 32];
        let mut vector = [0; 64];
        assert_eq!(prover.layout(false), (proof::MAC_VECTOR, 64));
        prover.write(false, &digest, &mut vector);
        for (at, replica) in test.replica_keys.iter().enumerate() {
            let client = &cluster.clients[0].static_key;
            let pair = PairKey::for_replica(&replica.static_secret, client, cluster.id).unwrap();
            for entry in 0..4 {
                assert_eq!(pair.verify_entry(&digest, &vector, entry), entry == at);
            }
        }
        let mut signature = [0; 64];
        assert_eq!(prover.layout(true), (proof::SIGNATURE, 64));
        prover.write(true, &digest, &mut signature);
        let key = cluster.clients[0].signing_key;
        let signed = request_to_sign(cluster.id, &tetrarch_consensus::Digest(digest));
        assert!(key.verify(&signed, &signature));
        let elsewhere = request_to_sign(cluster.id + 1, &tetrarch_consensus::Digest(digest));
        assert!(!key.verify(&elsewhere, &signature));
    }
}
