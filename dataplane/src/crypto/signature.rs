//! Ed25519 signatures that all replicas judge alike.
//!
//! Owns nothing but the choice of rules: ZIP-215, where checking one by one and in a batch accept
//! the same set by definition. With other rules two correct replicas could disagree about one
//! signature, which a faulty signer can bring about, and their states would diverge. Must not:
//! be mixed with another Ed25519 verifier for the same messages.
//!
//! Checking one signature allocates nothing; a batch does, and belongs off the common path.

use super::keys::KeyError;
use ed25519_zebra as zebra;
use getrandom::rand_core::{TryCryptoRng, TryRng};
use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use zebra::VerificationKeyBytes;
use zeroize::Zeroize;

/// A signature as it travels.
pub type Signature = [u8; 64];

/// Below this many signatures a batch is not faster than single checks.
const BATCH_MIN: usize = 4;

/// Signs. Wiped when dropped.
pub struct SigningKey(zebra::SigningKey);

impl SigningKey {
    /// The key with this seed (RFC 8032's private key). The caller wipes its own copy.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(zebra::SigningKey::from_bytes(seed))
    }

    /// The seed, for storing.
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The key that verifies.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verification_key())
    }

    /// The signature of `message`: deterministic.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
    }
}

impl Clone for SigningKey {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "SigningKey")
    }
}

/// Verifies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(zebra::VerificationKey);

impl VerifyingKey {
    /// The key with these bytes.
    ///
    /// # Errors
    /// `NotAKey` if they are no point of the curve.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        zebra::VerificationKey::try_from(*bytes).map(Self).map_err(|_| KeyError::NotAKey)
    }

    /// The bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.into()
    }

    /// Is this the holder's signature of `message`?
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify(&zebra::Signature::from_bytes(signature), message).is_ok()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.to_hex())
    }
}

/// One signature of a batch.
#[derive(Clone, Copy, Debug)]
pub struct SignedItem<'a> {
    /// Who is said to have signed.
    pub key: &'a VerifyingKey,
    /// What was signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

impl SignedItem<'_> {
    fn valid(&self) -> bool {
        self.key.verify(self.message, self.signature)
    }
}

/// The indices of the items whose signatures are bad, ascending; empty if all are good.
///
/// All good is the common case and costs about half of single checks, a quarter if one key signed
/// all. If not, each key's items are a batch of their own: whoever signs badly costs the others no
/// more than that. The items of a key with a bad one are checked singly. All that together is at
/// most two batches and single checks: about twice what checking one by one would have cost.
/// Allocates: the library collects the points of its equation in tables of its own.
pub fn verify_batch(items: &[SignedItem<'_>]) -> Vec<usize> {
    if items.len() >= BATCH_MIN && batch_valid(items) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| items[*i].key.to_bytes());
    let mut bad = Vec::new();
    let mut group = Vec::with_capacity(items.len());
    for same_key in order.chunk_by(|a, b| items[*a].key == items[*b].key) {
        group.clear();
        group.extend(same_key.iter().map(|i| items[*i]));
        // If one key signed all, this batch has been tried.
        let untried = group.len() < items.len();
        if untried && group.len() >= BATCH_MIN && batch_valid(&group) {
            continue;
        }
        bad.extend(same_key.iter().filter(|i| !items[**i].valid()));
    }
    bad.sort_unstable();
    bad
}

/// `true` only if all are good. `false` also when the system has no random bytes: then the caller
/// checks one by one, which needs none.
fn batch_valid(items: &[SignedItem<'_>]) -> bool {
    let Some(weights) = Weights::new() else {
        return false;
    };
    let mut batch = zebra::batch::Verifier::new();
    for item in items {
        let key = VerificationKeyBytes::from(item.key.0);
        batch.queue((key, zebra::Signature::from_bytes(item.signature), item.message));
    }
    batch.verify(weights).is_ok()
}

/// The random weights of a batch: BLAKE3 of a secret seed and the batch's number. They must be
/// unpredictable to whoever made the signatures, or bad ones could cancel out.
struct Weights(blake3::OutputReader);

thread_local! {
    /// The seed of this thread's weights, drawn once so that batches make no system calls, and how
    /// many batches there were.
    static SEED: Cell<Option<([u8; 32], u64)>> = const { Cell::new(None) };
}

impl Weights {
    fn new() -> Option<Self> {
        let (seed, batches) = match SEED.get() {
            Some(drawn) => drawn,
            None => {
                let mut seed = [0; 32];
                super::random(&mut seed).ok()?;
                (seed, 0)
            }
        };
        SEED.set(Some((seed, batches + 1)));
        let mut hasher = blake3::Hasher::new_derive_key("tetrarch 2026 signature batch weights");
        hasher.update(&seed).update(&batches.to_le_bytes());
        Some(Self(hasher.finalize_xof()))
    }
}

impl TryRng for Weights {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Weights {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::hex_decode;
    use proptest::prelude::*;

    /// RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
    #[test]
    fn rfc8032_vectors() {
        let vectors = [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac\
                 c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                &[0x72],
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e\
                 458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                &[0xaf, 0x82],
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290\
                 ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ];
        for (seed, public, message, signature) in vectors {
            let key = SigningKey::from_hex(seed).unwrap();
            let signature: Signature = hex_decode(signature).unwrap();
            assert_eq!(key.verifying_key().to_hex(), public);
            assert_eq!(key.sign(message), signature);
            assert!(key.verifying_key().verify(message, &signature));
            assert!(!key.verifying_key().verify(b"other", &signature));
        }
    }

    /// Small-order key and R with s = 0: ZIP-215 accepts them for any message. What matters is
    /// that single and batch agree, whatever they say; strict verifiers would not.
    #[test]
    fn single_and_batch_agree_on_strange_encodings() {
        let points = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            // Not canonical: y = 1 + p.
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let mut keys = Vec::new();
        let mut signatures = Vec::new();
        for point in points {
            keys.push(VerifyingKey::from_hex(point).unwrap());
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&hex_decode::<32>(point).unwrap());
            signatures.push(signature);
        }
        for key in &keys {
            for signature in &signatures {
                let item = SignedItem { key, message: b"any", signature };
                assert_eq!(batch_valid(&[item; 5]), item.valid());
                assert!(item.valid(), "ZIP-215 accepts small order and other encodings");
            }
        }
    }

    #[test]
    fn s_must_be_canonical() {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut signature = key.sign(b"m");
        // s + l: the same scalar, another encoding.
        let l: [u8; 32] =
            hex_decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
        let mut carry = 0u16;
        for (s, l) in signature[32..].iter_mut().zip(l) {
            carry += u16::from(*s) + u16::from(l);
            *s = carry as u8;
            carry >>= 8;
        }
        let public = key.verifying_key();
        let item = SignedItem { key: &public, message: b"m", signature: &signature };
        assert!(!item.valid() && !batch_valid(&[item; 5]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_batch_names_the_bad_ones(
            bad in proptest::collection::vec(proptest::option::weighted(0.1, 0usize..512), 0..28),
            keys in 1u8..5,
        ) {
            let keys: Vec<SigningKey> = (0..keys).map(|i| SigningKey::from_seed(&[i; 32])).collect();
            let public: Vec<VerifyingKey> = keys.iter().map(|key| key.verifying_key()).collect();
            let messages: Vec<[u8; 1]> = (0..bad.len()).map(|i| [i as u8]).collect();
            let signatures: Vec<Signature> = bad.iter().enumerate().map(|(i, flip)| {
                let mut signature = keys[i % keys.len()].sign(&messages[i]);
                if let Some(bit) = flip {
                    signature[bit / 8] ^= 1 << (bit % 8);
                }
                signature
            }).collect();
            let items: Vec<SignedItem<'_>> = (0..bad.len()).map(|i| SignedItem {
                key: &public[i % keys.len()], message: &messages[i], signature: &signatures[i],
            }).collect();
            let expected: Vec<usize> = (0..bad.len()).filter(|i| bad[*i].is_some()).collect();
            prop_assert_eq!(verify_batch(&items), expected);
        }
    }
}
