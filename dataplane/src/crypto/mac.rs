//! Link tags: AES-128-GMAC under the key of one direction of one session.
//!
//! Owns the nonce rule. Always true: the nonce is the session's salt and the message's sequence
//! number, so a tag is bound to its place in the sequence. Must not: be asked for two different
//! messages with one sequence number under one key. GMAC does not survive that: the key's hash
//! part would leak and tags could be forged. Whoever owns a sending key owns its counter; keys are
//! never stored, so a restart makes new ones.

use crate::limits::{BURST_MAX, HEADER_COVERED_SIZE, PROOF_SIZE_MAX, TAG_SIZE};
use aes_gcm::aead::array::Array;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, KeyInit};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A link tag.
pub type Tag = [u8; TAG_SIZE];

/// Most bytes a tag covers: the header before the tag, and the longest proof.
pub const COVERED_SIZE_MAX: usize = HEADER_COVERED_SIZE + PROOF_SIZE_MAX;

/// A header alone, which is the common case, or with a signature: assembled in a buffer of this
/// size, because clearing the large one would cost as much as the tag.
const COVERED_SIZE_SMALL: usize = HEADER_COVERED_SIZE + 64;

/// The key of one direction of one session. Wiped when dropped.
pub struct LinkKey {
    cipher: Aes128Gcm,
    salt: [u8; 4],
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
        Self { cipher: Aes128Gcm::new(&Array(*key)), salt }
    }

    /// The tag over the concatenation of `parts` as message number `sequence`.
    ///
    /// # Panics
    /// If `parts` are longer than [`COVERED_SIZE_MAX`]: our own messages respect the limits.
    pub fn tag(&self, sequence: u64, parts: &[&[u8]]) -> Tag {
        let tag = self.compute(sequence, parts);
        tag.expect("what we send has a header of 80 bytes and a proof within its limit")
    }

    /// Does `tag` belong to the concatenation of `parts` as message number `sequence`? Takes the
    /// same time wherever the tags differ. Parts longer than any valid message are never authentic.
    pub fn verify(&self, sequence: u64, parts: &[&[u8]], tag: &Tag) -> bool {
        match self.compute(sequence, parts) {
            Some(expected) => expected.ct_eq(tag).into(),
            None => false,
        }
    }

    fn compute(&self, sequence: u64, parts: &[&[u8]]) -> Option<Tag> {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        match (parts, size) {
            ([], _) => Some(self.gmac(sequence, &[])),
            ([part], ..=COVERED_SIZE_MAX) => Some(self.gmac(sequence, part)),
            (_, ..=COVERED_SIZE_SMALL) => {
                let mut buffer = [0; COVERED_SIZE_SMALL];
                Some(self.gmac(sequence, concatenate(parts, &mut buffer)))
            }
            (_, ..=COVERED_SIZE_MAX) => {
                let mut buffer = [0; COVERED_SIZE_MAX];
                Some(self.gmac(sequence, concatenate(parts, &mut buffer)))
            }
            _ => None,
        }
    }

    /// GMAC is GCM with nothing to encrypt.
    fn gmac(&self, sequence: u64, covered: &[u8]) -> Tag {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&sequence.to_le_bytes());
        let nothing: InOutBuf<'_, '_, u8> = InOutBuf::from(&mut [][..]);
        let tag = self.cipher.encrypt_inout_detached(&Array(nonce), covered, nothing);
        tag.expect("GCM fails only beyond 2^61 bytes").0
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "LinkKey")
    }
}

/// Copy `parts` one after the other into `buffer`, which is long enough.
fn concatenate<'a>(parts: &[&[u8]], buffer: &'a mut [u8]) -> &'a [u8] {
    let mut end = 0;
    for part in parts {
        buffer[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    &buffer[..end]
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
    /// Its proof, which may be empty.
    pub proof: &'a [u8],
    /// The tag in its header.
    pub tag: &'a Tag,
}

/// Verify up to 64 messages: bit `i` of the answer says whether `items[i]` is authentic.
///
/// # Panics
/// If there are more than 64 items.
pub fn verify_burst(items: &[MacItem<'_>]) -> u64 {
    assert!(items.len() <= BURST_MAX, "one bit for each item");
    let bit = |(i, item): (usize, &MacItem<'_>)| {
        u64::from(item.key.verify(item.sequence, &[item.header, item.proof], item.tag)) << i
    };
    items.iter().enumerate().map(bit).fold(0, |all, one| all | one)
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
            let key = LinkKey::from_parts(&bytes(key), *salt);
            assert_eq!(key.tag(sequence, &[aad]), bytes(tag));
            let halves = aad.split_at(aad.len() / 2);
            assert_eq!(key.tag(sequence, &[halves.0, halves.1]), bytes(tag));
            assert!(key.verify(sequence, &[halves.0, halves.1], &bytes(tag)));
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

    fn key(seed: u8) -> LinkKey {
        LinkKey::from_parts(&[seed; 16], [seed, 1, 2, 3])
    }

    #[test]
    fn a_tag_is_bound_to_key_salt_sequence_and_every_byte() {
        let header = [5u8; 80];
        let proof = [6u8; 64];
        let tag = key(1).tag(7, &[&header, &proof]);
        assert!(key(1).verify(7, &[&header, &proof], &tag));
        assert!(!key(2).verify(7, &[&header, &proof], &tag));
        assert!(!LinkKey::from_parts(&[1; 16], [9, 1, 2, 3]).verify(7, &[&header, &proof], &tag));
        assert!(!key(1).verify(8, &[&header, &proof], &tag));
        assert!(!key(1).verify(7, &[&header], &tag));
        assert!(!key(1).verify(7, &[&header, &proof, &[0]], &tag));
        assert!(!key(1).verify(7, &[], &tag));
    }

    #[test]
    fn key_and_salt_come_from_the_material() {
        let material: [u8; 32] = std::array::from_fn(|i| i as u8);
        let parts = LinkKey::from_parts(&std::array::from_fn(|i| i as u8), [16, 17, 18, 19]);
        assert_eq!(LinkKey::new(&material).tag(1, &[b"x"]), parts.tag(1, &[b"x"]));
    }

    #[test]
    fn too_long_is_not_authentic() {
        let long = [0u8; COVERED_SIZE_MAX + 1];
        assert!(!key(1).verify(1, &[&long], &[0; 16]));
        assert!(!key(1).verify(1, &[&long, &long], &[0; 16]));
        let longest = [0u8; PROOF_SIZE_MAX];
        let tag = key(1).tag(1, &[&[0; 80], &longest]);
        assert!(key(1).verify(1, &[&long[1..]], &tag));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", key(0xab)), "LinkKey(secret)");
    }

    proptest! {
        #[test]
        fn parts_are_a_concatenation(
            covered in proptest::collection::vec(any::<u8>(), 0..1100),
            cuts in proptest::collection::vec(any::<u16>(), 0..4),
            sequence: u64,
        ) {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| usize::from(*cut) % (covered.len() + 1)).collect();
            cuts.extend([0, covered.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &covered[w[0]..w[1]]).collect();
            prop_assert_eq!(key(3).tag(sequence, &parts), key(3).tag(sequence, &[&covered]));
        }

        #[test]
        fn a_burst_tells_good_from_bad(
            bad in proptest::collection::vec(any::<bool>(), 0..=64),
            flip in 0usize..128,
        ) {
            let keys = [key(1), key(2)];
            let header = [9u8; 80];
            let tags: Vec<Tag> = bad.iter().enumerate().map(|(i, bad)| {
                let mut tag = keys[i % 2].tag(i as u64, &[&header, &[1, 2, 3]]);
                if *bad {
                    tag[flip / 8] ^= 1 << (flip % 8);
                }
                tag
            }).collect();
            let items: Vec<MacItem<'_>> = tags.iter().enumerate().map(|(i, tag)| MacItem {
                key: &keys[i % 2], sequence: i as u64, header: &header, proof: &[1, 2, 3], tag,
            }).collect();
            let good = verify_burst(&items);
            for (i, bad) in bad.iter().enumerate() {
                prop_assert_eq!(good >> i & 1 == 0, *bad);
            }
            prop_assert!(bad.len() == 64 || good >> bad.len() == 0);
        }
    }
}
