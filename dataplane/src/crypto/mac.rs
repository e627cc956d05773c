//! Link tags: AES-128-GMAC under the key of one direction of one session.
//!
//! Owns the nonce rule. Always true: the nonce is the session's salt and the message's sequence
//! number, so a tag is bound to its place in the sequence. Must not: be asked for two different
//! messages with one sequence number under one key. GMAC does not survive that: the key's hash
//! part would leak and tags could be forged. Whoever owns a sending key owns its counter; keys are
//! never stored, so a restart makes new ones.

#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::limits::{BUNDLE_SIZE_MAX, BURST_MAX, HEADER_COVERED_SIZE, PROOF_SIZE_MAX, TAG_SIZE};
use aes_gcm::aead::array::Array;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, KeyInit};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A link tag.
pub type Tag = [u8; TAG_SIZE];

/// Most bytes that a tag covers after the header: the longest proof, or all of a bundle.
pub const TRAILER_SIZE_MAX: usize =
    if PROOF_SIZE_MAX > BUNDLE_SIZE_MAX { PROOF_SIZE_MAX } else { BUNDLE_SIZE_MAX };

/// Most bytes a tag covers.
pub const COVERED_SIZE_MAX: usize = HEADER_COVERED_SIZE + TRAILER_SIZE_MAX;

/// A header alone, which is the common case, or with a signature: assembled in a buffer of this
/// size, because clearing the large one would cost as much as the tag.
const COVERED_SIZE_SMALL: usize = HEADER_COVERED_SIZE + 64;

/// The key of one direction of one session. Wiped when dropped.
pub struct LinkKey {
    pub(super) cipher: Cipher,
    salt: [u8; 4],
}

/// Who computes the tags. All give the same.
#[allow(clippy::large_enum_variant, reason = "a box would be one more load for each tag")]
pub(super) enum Cipher {
    /// Ours, on processors with the instructions.
    #[cfg(target_arch = "x86_64")]
    X86(x86::GmacKey),
    /// The library's, elsewhere.
    Library(Box<Aes128Gcm>),
}

impl LinkKey {
    /// The key made of 32 secret bytes that the handshake derived: the first 16 are the AES key,
    /// the next 4 the salt of the nonces, the rest is not used. The caller wipes its own copy.
    pub fn new(material: &[u8; 32]) -> Self {
        let mut key = Zeroizing::new([0; 16]);
        key.copy_from_slice(&material[..16]);
        let mut salt = [0; 4];
        salt.copy_from_slice(&material[16..20]);
        Self::from_parts(&key, salt)
    }

    /// The key made of an AES key and the salt of its nonces.
    pub fn from_parts(key: &[u8; 16], salt: [u8; 4]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = x86::GmacKey::new(key) {
            return Self { cipher: Cipher::X86(key), salt };
        }
        Self::by_library(key, salt)
    }

    /// As [`LinkKey::from_parts`], on any processor.
    fn by_library(key: &[u8; 16], salt: [u8; 4]) -> Self {
        Self { cipher: Cipher::Library(Box::new(Aes128Gcm::new(&Array(*key)))), salt }
    }

    /// The tag over `header` and `proof` (of a bundle: all of it) as message number `sequence`.
    ///
    /// # Panics
    /// If `proof` is longer than [`TRAILER_SIZE_MAX`]: our own messages respect the limits.
    pub fn tag(&self, sequence: u64, header: &[u8; HEADER_COVERED_SIZE], proof: &[u8]) -> Tag {
        assert!(proof.len() <= TRAILER_SIZE_MAX, "what we send is within its limits");
        self.gmac(sequence, header, proof).to_le_bytes()
    }

    /// Does `tag` belong to `header` and `proof` as message number `sequence`? Takes the same time
    /// wherever the tags differ. A proof longer than any valid one is never authentic.
    pub fn verify(
        &self,
        sequence: u64,
        header: &[u8; HEADER_COVERED_SIZE],
        proof: &[u8],
        tag: &Tag,
    ) -> bool {
        proof.len() <= TRAILER_SIZE_MAX
            && self.gmac(sequence, header, proof).ct_eq(&u128::from_le_bytes(*tag)).into()
    }

    /// GMAC is GCM with nothing to encrypt. `whole` is whole blocks; it and `rest` together are at
    /// most [`COVERED_SIZE_MAX`] bytes.
    #[inline]
    fn gmac(&self, sequence: u64, whole: &[u8], rest: &[u8]) -> u128 {
        match &self.cipher {
            #[cfg(target_arch = "x86_64")]
            Cipher::X86(key) => {
                let (blocks, part) = whole.as_chunks();
                assert!(part.is_empty(), "the rest begins a block");
                key.tag(self.first_counter(sequence), blocks, rest)
            }
            Cipher::Library(cipher) => self.gmac_by_library(cipher, sequence, whole, rest),
        }
    }

    /// The block that GCM encrypts to hide the hash: the nonce, and a 1 in big endian.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(super) fn first_counter(&self, sequence: u64) -> u128 {
        let salt = u128::from(u32::from_le_bytes(self.salt));
        salt | u128::from(sequence) << 32 | 1 << 120
    }

    #[inline(never)]
    fn gmac_by_library(
        &self,
        cipher: &Aes128Gcm,
        sequence: u64,
        whole: &[u8],
        rest: &[u8],
    ) -> u128 {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&sequence.to_le_bytes());
        let tag = |covered: &[u8]| {
            let nothing: InOutBuf<'_, '_, u8> = InOutBuf::from(&mut [][..]);
            let tag = cipher.encrypt_inout_detached(&Array(nonce), covered, nothing);
            u128::from_le_bytes(tag.expect("GCM fails only beyond 2^61 bytes").0)
        };
        match whole.len() + rest.len() {
            _ if rest.is_empty() => tag(whole),
            ..=COVERED_SIZE_SMALL => tag(concatenate(whole, rest, &mut [0; COVERED_SIZE_SMALL])),
            _ => tag(concatenate(whole, rest, &mut [0; COVERED_SIZE_MAX])),
        }
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "LinkKey")
    }
}

/// Copy both parts one after the other into `buffer`, which is long enough.
fn concatenate<'a>(whole: &[u8], rest: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let size = whole.len() + rest.len();
    buffer[..whole.len()].copy_from_slice(whole);
    buffer[whole.len()..size].copy_from_slice(rest);
    &buffer[..size]
}

/// One message of a burst to verify.
#[derive(Clone, Copy, Debug)]
pub struct MacItem<'a> {
    /// The receiving key of the message's link.
    pub key: &'a LinkKey,
    /// The sequence number in its header.
    pub sequence: u64,
    /// The first 80 bytes of its header.
    pub header: &'a [u8; HEADER_COVERED_SIZE],
    /// What the tag covers after the header: the proof, which may be empty, or all of a bundle.
    pub proof: &'a [u8],
    /// The tag in its header.
    pub tag: &'a Tag,
}

impl MacItem<'_> {
    pub(super) fn valid(&self) -> bool {
        self.key.verify(self.sequence, self.header, self.proof, self.tag)
    }
}

/// Verify up to 64 messages: bit `i` of the answer says whether `items[i]` is authentic.
///
/// # Panics
/// If there are more than 64 items.
pub fn verify_burst(items: &[MacItem<'_>]) -> u64 {
    verify_each(items.len(), |i| Some(items[i]))
}

/// As [`verify_burst`], of `count` items that the caller does not have in one place. What is `None`
/// is not authentic.
///
/// # Panics
/// If `count` is more than 64.
pub fn verify_each<'a>(count: usize, item: impl Fn(usize) -> Option<MacItem<'a>>) -> u64 {
    assert!(count <= BURST_MAX, "one bit for each item");
    #[cfg(target_arch = "x86_64")]
    if let Some(good) = x86::verify_each(count, &item) {
        return good;
    }
    let bit = |i| u64::from(item(i).is_some_and(|item| item.valid())) << i;
    (0..count).map(bit).fold(0, |all, one| all | one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::hex_decode;
    use proptest::prelude::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex_decode(hex).unwrap()
    }

    /// NIST CAVS `gcmEncryptExtIV128.rsp`, PTlen = 0. Our nonce is salt and little-endian number.
    #[test]
    fn nist_vectors() {
        let check = |key: &str, iv: &str, aad: &[u8], tag: &str| {
            let iv: [u8; 12] = bytes(iv);
            let (salt, sequence) = iv.split_first_chunk::<4>().unwrap();
            let sequence = u64::from_le_bytes(sequence.try_into().unwrap());
            for key in both(&bytes(key), *salt) {
                for blocks in 0..=aad.len() / 16 {
                    let (whole, rest) = aad.split_at(blocks * 16);
                    assert_eq!(key.gmac(sequence, whole, rest).to_le_bytes(), bytes(tag));
                }
            }
        };
        check(
            "11754cd72aec309bf52f7687212e8957",
            "3c819d9a9bed087615030b65",
            &[],
            "250327c674aaf477aef2675748cf6971",
        );
        check(
            "77be63708971c4e240d1cb79e8d77feb",
            "e0e00f19fed7ba0136a797f3",
            &bytes::<16>("7a43ec1d9c0a5a78a0b16533a6213cab"),
            "209fcc8d3675ed938e9c7166709dd946",
        );
        check(
            "2fb45e5b8f993a2bfebc4b15b533e0b4",
            "5b05755f984d2b90f94b8027",
            &bytes::<20>("e85491b2202caf1d7dce03b97e09331c32473941"),
            "c75b7832b2a2d9bd827412b6ef5769db",
        );
        check(
            "99e3e8793e686e571d8285c564f75e2b",
            "c2dd0ab868da6aa8ad9c0d23",
            &bytes::<48>(
                "b668e42d4e444ca8b23cfdd95a9fedd5178aa521144890b093733cf5cf22526c5917ee476541809a\
                 c6867a8c399309fc",
            ),
            "3f4fba100eaf1f34b0baadaae9995d85",
        );
        check(
            "20b5b6b854e187b058a84d57bc1538b6",
            "94c1935afc061cbf254b936f",
            &bytes::<90>(
                "ca418e71dbf810038174eaa3719b3fcb80531c7110ad9192d105eeaafa15b819ac005668752b344e\
                 d1b22faf77048baf03dbddb3b47d6b00e95c4f005e0cc9b7627ccafd3f21b3312aa8d91d3fa0893f\
                 e5bff7d44ca46f23afe0",
            ),
            "b37286ebaf4a54e0ffc2a1deafc9f6db",
        );
    }

    /// Whoever computes here, and the library.
    fn both(key: &[u8; 16], salt: [u8; 4]) -> [LinkKey; 2] {
        [LinkKey::from_parts(key, salt), LinkKey::by_library(key, salt)]
    }

    fn key(seed: u8) -> LinkKey {
        LinkKey::from_parts(&[seed; 16], [seed, 1, 2, 3])
    }

    #[test]
    fn a_tag_is_bound_to_key_salt_sequence_and_every_byte() {
        let (header, proof) = ([5u8; 80], [6u8; 64]);
        let tag = key(1).tag(7, &header, &proof);
        assert!(key(1).verify(7, &header, &proof, &tag));
        assert!(!key(2).verify(7, &header, &proof, &tag));
        assert!(!LinkKey::from_parts(&[1; 16], [9, 1, 2, 3]).verify(7, &header, &proof, &tag));
        assert!(!key(1).verify(8, &header, &proof, &tag));
        assert!(!key(1).verify(7, &header, &[], &tag));
        assert!(!key(1).verify(7, &header, &[6; 65], &tag));
        for byte in 0..80 {
            let mut other = header;
            other[byte] ^= 1;
            assert!(!key(1).verify(7, &other, &proof, &tag));
        }
        for byte in 0..64 {
            let mut other = proof;
            other[byte] ^= 0x80;
            assert!(!key(1).verify(7, &header, &other, &tag));
        }
    }

    #[test]
    fn key_and_salt_come_from_the_material() {
        let material: [u8; 32] = std::array::from_fn(|i| i as u8);
        let parts = LinkKey::from_parts(&std::array::from_fn(|i| i as u8), [16, 17, 18, 19]);
        let header = [7; 80];
        assert_eq!(LinkKey::new(&material).tag(1, &header, b"x"), parts.tag(1, &header, b"x"));
    }

    #[test]
    fn too_long_is_not_authentic() {
        let long = [0u8; TRAILER_SIZE_MAX + 1];
        assert!(!key(1).verify(1, &[0; 80], &long, &[0; 16]));
        let tag = key(1).tag(1, &[0; 80], &long[1..]);
        assert!(key(1).verify(1, &[0; 80], &long[1..], &tag));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", key(0xab)), "LinkKey(secret)");
    }

    proptest! {
        #[test]
        fn tags_are_those_of_the_library(
            key: [u8; 16],
            salt: [u8; 4],
            sequence: u64,
            header in proptest::collection::vec(any::<u8>(), 80),
            proof in proptest::collection::vec(any::<u8>(), 0..=TRAILER_SIZE_MAX),
            // The sizes that have code of their own, and all.
            size in prop_oneof![Just(0), Just(64), 0usize..=300, 0..=TRAILER_SIZE_MAX],
        ) {
            let [ours, library] = both(&key, salt);
            let (header, proof) = (header.first_chunk().unwrap(), &proof[..size.min(proof.len())]);
            let tag = library.tag(sequence, header, proof);
            prop_assert_eq!(ours.tag(sequence, header, proof), tag);
            prop_assert!(ours.verify(sequence, header, proof, &tag));
            prop_assert_eq!(
                ours.gmac(sequence, &[], proof), library.gmac(sequence, &[], proof)
            );
        }

        #[test]
        fn a_burst_tells_good_from_bad(
            bad in proptest::collection::vec(any::<bool>(), 0..=64),
            flip in 0usize..128,
        ) {
            let keys = [key(1), key(2), LinkKey::by_library(&[3; 16], [4; 4])];
            let header = [9u8; 80];
            let proofs = [vec![], vec![8; 64], vec![1, 2, 3], vec![7; 500]];
            let tags: Vec<Tag> = bad.iter().enumerate().map(|(i, bad)| {
                let mut tag = keys[i % 3].tag(i as u64, &header, &proofs[i % 4]);
                if *bad {
                    tag[flip / 8] ^= 1 << (flip % 8);
                }
                tag
            }).collect();
            let items: Vec<MacItem<'_>> = tags.iter().enumerate().map(|(i, tag)| MacItem {
                key: &keys[i % 3], sequence: i as u64, header: &header, proof: &proofs[i % 4], tag,
            }).collect();
            let good = verify_burst(&items);
            for (i, bad) in bad.iter().enumerate() {
                prop_assert_eq!(good >> i & 1 == 0, *bad);
            }
            prop_assert!(bad.len() == 64 || good >> bad.len() == 0);
        }
    }
}
