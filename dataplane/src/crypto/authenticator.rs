//! Client authenticators: one tag for each replica over the digest of a request.
//!
//! Owns the pair keys between clients and replicas. Always true: a client and a replica derive the
//! same key from their long-term identities without exchanging a message, and different clusters
//! give different keys; every replica can check its own entry and no other. Must not: be taken as
//! proof towards anyone but the replica that checks its entry.
//!
//! `key = BLAKE3 derive_key("tetrarch 2026 client authenticator", dh ++ cluster (u64, little
//! endian) ++ client public ++ replica public)` where `dh` is the X25519 secret of the two
//! identities; `tag` = the first 16 bytes of `BLAKE3 keyed_hash(key, digest)`. No nonce: the same
//! request has the same tag, so retransmission costs nothing and reuse is harmless.

use super::keys::{KeyError, StaticPublic, StaticSecret};
use super::mac::Tag;
use crate::limits::TAG_SIZE;
use crate::types::Digest;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Names what the key is for; never changes.
const CONTEXT: &str = "tetrarch 2026 client authenticator";

/// The key that one client shares with one replica. Wiped when dropped.
#[derive(Clone)]
pub struct PairKey([u8; 32]);

impl PairKey {
    /// The client's side of the key.
    ///
    /// # Errors
    /// `SmallOrder` if the replica's key gives no secrecy.
    pub fn for_client(
        client: &StaticSecret,
        replica: &StaticPublic,
        cluster: u64,
    ) -> Result<Self, KeyError> {
        let dh = client.diffie_hellman(replica)?;
        Ok(Self::derive(&dh, cluster, &client.public(), replica))
    }

    /// The replica's side of the key.
    ///
    /// # Errors
    /// `SmallOrder` if the client's key gives no secrecy.
    pub fn for_replica(
        replica: &StaticSecret,
        client: &StaticPublic,
        cluster: u64,
    ) -> Result<Self, KeyError> {
        let dh = replica.diffie_hellman(client)?;
        Ok(Self::derive(&dh, cluster, client, &replica.public()))
    }

    fn derive(dh: &[u8; 32], cluster: u64, client: &StaticPublic, replica: &StaticPublic) -> Self {
        let mut material = Zeroizing::new([0; 32 + 8 + 32 + 32]);
        material[..32].copy_from_slice(dh);
        material[32..40].copy_from_slice(&cluster.to_le_bytes());
        material[40..72].copy_from_slice(client.as_bytes());
        material[72..].copy_from_slice(replica.as_bytes());
        Self(blake3::derive_key(CONTEXT, &material[..]))
    }

    /// The tag of the request with this digest.
    pub fn tag(&self, digest: &Digest) -> Tag {
        let hash = blake3::keyed_hash(&self.0, digest);
        let mut tag = [0; TAG_SIZE];
        tag.copy_from_slice(&hash.as_bytes()[..TAG_SIZE]);
        tag
    }

    /// Is this the tag of the request? Takes the same time wherever they differ.
    pub fn verify(&self, digest: &Digest, tag: &Tag) -> bool {
        self.tag(digest).ct_eq(tag).into()
    }

    /// Does entry `index` of the vector hold for us? A vector that is too short does not.
    pub fn verify_entry(&self, digest: &Digest, vector: &[u8], index: usize) -> bool {
        entry(vector, index).is_some_and(|tag| self.verify(digest, tag))
    }
}

impl Drop for PairKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "PairKey")
    }
}

/// Bytes of the authenticator for `replicas` members.
pub const fn vector_size(replicas: usize) -> usize {
    replicas * TAG_SIZE
}

/// Write the authenticator: the tag for each key, in the order of the member indices.
///
/// # Panics
/// If `out` does not have [`vector_size`] bytes for the keys.
pub fn write_vector(keys: &[PairKey], digest: &Digest, out: &mut [u8]) {
    assert_eq!(out.len(), vector_size(keys.len()), "16 bytes for each key");
    for (key, tag) in keys.iter().zip(out.as_chunks_mut::<TAG_SIZE>().0) {
        *tag = key.tag(digest);
    }
}

/// The tag for the member at `index`; `None` if the vector does not have that many, or is not
/// made of whole tags.
pub fn entry(vector: &[u8], index: usize) -> Option<&Tag> {
    let (tags, rest) = vector.as_chunks::<TAG_SIZE>();
    if rest.is_empty() { tags.get(index) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::hex_encode;
    use proptest::prelude::*;

    fn secret(seed: u8) -> StaticSecret {
        StaticSecret::from_bytes(&[seed; 32])
    }

    #[test]
    fn both_sides_derive_the_same_key_and_nobody_else_does() {
        let (client, replica) = (secret(1), secret(2));
        let ours = PairKey::for_client(&client, &replica.public(), 7).unwrap();
        let theirs = PairKey::for_replica(&replica, &client.public(), 7).unwrap();
        assert_eq!(ours.0, theirs.0);
        let different = [
            PairKey::for_client(&client, &replica.public(), 8).unwrap(),
            PairKey::for_client(&replica, &client.public(), 7).unwrap(),
            PairKey::for_client(&secret(3), &replica.public(), 7).unwrap(),
            PairKey::for_replica(&secret(3), &client.public(), 7).unwrap(),
        ];
        for other in different {
            assert_ne!(other.0, ours.0, "cluster, roles and both identities are bound");
        }
    }

    /// From an independent implementation of X25519 and BLAKE3: a change locks out every client.
    #[test]
    fn golden_tag() {
        let key = PairKey::for_client(&secret(1), &secret(2).public(), 7).unwrap();
        assert_eq!(hex_encode(&key.tag(&[9; 32])), "ea401c6af1fab4cb5f903a1eae35f394");
    }

    #[test]
    fn zero_secrets_are_refused() {
        let zero = StaticPublic([0; 32]);
        assert!(matches!(PairKey::for_client(&secret(1), &zero, 7), Err(KeyError::SmallOrder)));
        assert!(matches!(PairKey::for_replica(&secret(1), &zero, 7), Err(KeyError::SmallOrder)));
    }

    #[test]
    fn vectors_that_do_not_fit_are_not_authentic() {
        let key = PairKey([3; 32]);
        let mut vector = [0; 48];
        write_vector(&[key.clone(), key.clone(), key.clone()], &[1; 32], &mut vector);
        assert!(key.verify_entry(&[1; 32], &vector, 2));
        assert!(!key.verify_entry(&[1; 32], &vector, 3));
        assert!(!key.verify_entry(&[1; 32], &vector, usize::MAX));
        assert!(!key.verify_entry(&[1; 32], &vector[..47], 0));
        assert!(!key.verify_entry(&[1; 32], &[], 0));
        assert_eq!(format!("{key:?}"), "PairKey(secret)");
    }

    proptest! {
        #[test]
        fn each_replica_checks_its_own_entry(
            n in 1usize..8, bit in 0usize..128, broken in 0usize..8, digest: [u8; 32],
        ) {
            let keys: Vec<PairKey> = (0..n).map(|i| PairKey([i as u8; 32])).collect();
            let mut vector = vec![0; vector_size(n)];
            write_vector(&keys, &digest, &mut vector);
            let broken = broken % n;
            vector[broken * 16 + bit / 8] ^= 1 << (bit % 8);
            for (i, key) in keys.iter().enumerate() {
                prop_assert_eq!(key.verify_entry(&digest, &vector, i), i != broken);
                prop_assert!(!key.verify_entry(&digest, &vector, (i + 1) % n) || n == 1);
                prop_assert!(!key.verify_entry(&[!digest[0]; 32], &vector, i));
            }
        }
    }
}
