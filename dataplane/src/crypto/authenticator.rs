//! Client authenticators: one tag for each replica over the digest of a request.
//!
//! Owns the pair keys between clients and replicas. Always true: a client and a replica derive the
//! same key from their long-term identities without exchanging a message, and different clusters
//! give different keys; every replica can check its own entry and no other. Must not: be taken as
//! proof towards anyone but the replica that checks its entry.
//!
//! `material = BLAKE3 derive_key("tetrarch 2026 client authenticator, AES-CMAC", dh ++ cluster (u64,
//! little endian) ++ client public ++ replica public)` where `dh` is the X25519 secret of the two
//! identities; `tag = AES-128-CMAC(material[0..16], digest)`. No nonce: the same request has the
//! same tag, so retransmission costs nothing and reuse is harmless.

use super::keys::{KeyError, StaticPublic, StaticSecret};
use super::mac::Tag;
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::limits::TAG_SIZE;
use crate::types::Digest;
use aes_gcm::KeyInit;
use aes_gcm::aead::array::Array;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Names what the key is for; never changes.
const CONTEXT: &str = "tetrarch 2026 client authenticator, AES-CMAC";

/// The key that one client shares with one replica. Wiped when dropped.
pub struct PairKey(Cipher);

/// Who computes the tags. All give the same.
#[allow(clippy::large_enum_variant, reason = "a box would be one more load for each tag")]
enum Cipher {
    /// Ours, on processors with the instructions.
    #[cfg(target_arch = "x86_64")]
    X86(x86::CmacKey),
    /// With the library's AES, elsewhere.
    Library(Box<LibraryCmac>),
}

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
        let derived = Zeroizing::new(blake3::derive_key(CONTEXT, &material[..]));
        let mut key = Zeroizing::new([0; 16]);
        key.copy_from_slice(&derived[..16]);
        Self::from_key(&key)
    }

    fn from_key(key: &[u8; 16]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = x86::CmacKey::new(key) {
            return Self(Cipher::X86(key));
        }
        Self::by_library(key)
    }

    /// As [`PairKey::from_key`], on any processor.
    fn by_library(key: &[u8; 16]) -> Self {
        Self(Cipher::Library(Box::new(LibraryCmac::new(key))))
    }

    /// AES-128-CMAC over whole blocks.
    fn cmac<const N: usize>(&self, blocks: &[[u8; 16]; N]) -> u128 {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Cipher::X86(key) => key.tag(blocks),
            Cipher::Library(key) => key.tag(blocks),
        }
    }

    fn tag_value(&self, digest: &Digest) -> u128 {
        let ([first, second], []) = digest.as_chunks() else {
            unreachable!("32 bytes are two blocks")
        };
        self.cmac(&[*first, *second])
    }

    /// The tag of the request with this digest.
    pub fn tag(&self, digest: &Digest) -> Tag {
        self.tag_value(digest).to_le_bytes()
    }

    /// Is this the tag of the request? Takes the same time wherever they differ.
    pub fn verify(&self, digest: &Digest, tag: &Tag) -> bool {
        self.tag_value(digest).ct_eq(&u128::from_le_bytes(*tag)).into()
    }

    /// Does entry `index` of the vector hold for us? A vector that is too short does not.
    pub fn verify_entry(&self, digest: &Digest, vector: &[u8], index: usize) -> bool {
        entry(vector, index).is_some_and(|tag| self.verify(digest, tag))
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "PairKey")
    }
}

/// CMAC with the library's AES, which wipes its keys.
struct LibraryCmac {
    aes: Aes128,
    last: Zeroizing<u128>,
}

impl LibraryCmac {
    fn new(key: &[u8; 16]) -> Self {
        let aes = Aes128::new(&Array(*key));
        let mut zero = Array([0; 16]);
        aes.encrypt_block(&mut zero);
        let last = Zeroizing::new(cmac_last_block(u128::from_le_bytes(zero.0)));
        Self { aes, last }
    }

    fn tag(&self, blocks: &[[u8; 16]]) -> u128 {
        let (last, before) = blocks.split_last().expect("a tag covers one block at least");
        let mut state = 0;
        for block in before {
            state = self.encrypt(state ^ u128::from_le_bytes(*block));
        }
        self.encrypt(state ^ u128::from_le_bytes(*last) ^ *self.last)
    }

    fn encrypt(&self, block: u128) -> u128 {
        let mut block = Array(block.to_le_bytes());
        self.aes.encrypt_block(&mut block);
        u128::from_le_bytes(block.0)
    }
}

/// What CMAC adds to a last block that is whole: the encrypted zero block times x, in the field of
/// 2^128 elements modulo x^128 + x^7 + x^2 + x + 1, whose bits travel most significant first
/// (NIST SP 800-38B, section 6.1).
pub(super) fn cmac_last_block(encrypted_zero: u128) -> u128 {
    let value = encrypted_zero.swap_bytes();
    let carry = (value >> 127).wrapping_neg();
    (value << 1 ^ carry & 0x87).swap_bytes()
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
    use crate::crypto::keys::{hex_decode, hex_encode};
    use proptest::prelude::*;

    fn secret(seed: u8) -> StaticSecret {
        StaticSecret::from_bytes(&[seed; 32])
    }

    #[test]
    fn both_sides_derive_the_same_key_and_nobody_else_does() {
        let (client, replica) = (secret(1), secret(2));
        let ours = PairKey::for_client(&client, &replica.public(), 7).unwrap();
        let theirs = PairKey::for_replica(&replica, &client.public(), 7).unwrap();
        assert_eq!(ours.tag(&[9; 32]), theirs.tag(&[9; 32]));
        let different = [
            PairKey::for_client(&client, &replica.public(), 8).unwrap(),
            PairKey::for_client(&replica, &client.public(), 7).unwrap(),
            PairKey::for_client(&secret(3), &replica.public(), 7).unwrap(),
            PairKey::for_replica(&secret(3), &client.public(), 7).unwrap(),
        ];
        for other in different {
            assert_ne!(
                other.tag(&[9; 32]),
                ours.tag(&[9; 32]),
                "cluster, roles and both identities are bound"
            );
        }
    }

    /// From an independent implementation of X25519 and BLAKE3: a change locks out every client.
    #[test]
    fn golden_tag() {
        let key = PairKey::for_client(&secret(1), &secret(2).public(), 7).unwrap();
        assert_eq!(hex_encode(&key.tag(&[9; 32])), "d02c06fbd969f92b724956fa97cbf30d");
    }

    #[test]
    fn zero_secrets_are_refused() {
        let zero = StaticPublic([0; 32]);
        assert!(matches!(PairKey::for_client(&secret(1), &zero, 7), Err(KeyError::SmallOrder)));
        assert!(matches!(PairKey::for_replica(&secret(1), &zero, 7), Err(KeyError::SmallOrder)));
    }

    #[test]
    fn vectors_that_do_not_fit_are_not_authentic() {
        let keys = [3, 4, 5].map(|seed| PairKey::from_key(&[seed; 16]));
        let mut vector = [0; 48];
        write_vector(&keys, &[1; 32], &mut vector);
        let [.., key] = keys;
        assert!(key.verify_entry(&[1; 32], &vector, 2));
        assert!(!key.verify_entry(&[1; 32], &vector, 3));
        assert!(!key.verify_entry(&[1; 32], &vector, usize::MAX));
        assert!(!key.verify_entry(&[1; 32], &vector[..47], 0));
        assert!(!key.verify_entry(&[1; 32], &[], 0));
        assert_eq!(format!("{key:?}"), "PairKey(secret)");
    }

    /// RFC 4493, section 4, examples 2 and 4.
    #[test]
    fn rfc4493_vectors() {
        let key = hex_decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap();
        let message: [u8; 64] = hex_decode(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411\
             e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        )
        .unwrap();
        let blocks: &[[u8; 16]; 4] = message.as_chunks().0.as_array().unwrap();
        for key in [PairKey::from_key(&key), PairKey::by_library(&key)] {
            let hex = |tag: u128| hex_encode(&tag.to_le_bytes());
            assert_eq!(hex(key.cmac(&[blocks[0]])), "070a16b46b4d4144f79bdd9dd04a287c");
            assert_eq!(hex(key.cmac(blocks)), "51f0bebf7e3b9d92fc49741779363cfe");
        }
    }

    proptest! {
        #[test]
        fn tags_are_those_of_the_library(key: [u8; 16], digest: [u8; 32]) {
            let library = PairKey::by_library(&key);
            prop_assert_eq!(PairKey::from_key(&key).tag(&digest), library.tag(&digest));
        }

        #[test]
        fn each_replica_checks_its_own_entry(
            n in 1usize..8, bit in 0usize..128, broken in 0usize..8, digest: [u8; 32],
        ) {
            let keys: Vec<PairKey> = (0..n).map(|i| PairKey::from_key(&[i as u8; 16])).collect();
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
