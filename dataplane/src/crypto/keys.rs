//! Long-term keys and their text form in files.
//!
//! Owns X25519 identities and hex coding. Always true: a secret is wiped when dropped and never
//! printed by `Debug`; decoding names what is wrong and where. Must not: read or write files.

use super::signature::{SigningKey, VerifyingKey};
use super::{RandomError, random};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The text has another number of digits than a key of this sort.
    #[error("a key has {expected} hex digits, this text has {found}; is the file cut off?")]
    Size {
        /// Digits of a key.
        expected: usize,
        /// Digits found, without surrounding white space.
        found: usize,
    },
    /// A character that is not a hex digit.
    #[error("character {at} of the key is not a hex digit (0-9, a-f)")]
    Digit {
        /// Which character, from 1.
        at: usize,
    },
    /// The bytes are no point of the curve, so nobody can hold the secret.
    #[error("these bytes are not a public key; copy it again from the output of `init`")]
    NotAKey,
    /// A public key with which every secret gives the same shared secret.
    #[error("the peer's public key is of small order and gives no secrecy; replace it")]
    SmallOrder,
}

/// The secret half of an X25519 identity. Wiped when dropped.
#[derive(Clone)]
pub struct StaticSecret(x25519_dalek::StaticSecret);

impl StaticSecret {
    /// A new random identity.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        random(&mut bytes[..])?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The identity with this secret. The caller wipes its own copy.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(x25519_dalek::StaticSecret::from(*bytes))
    }

    /// The secret bytes, for the handshake and for storing.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// A copy of the secret bytes; the caller wipes it.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> StaticPublic {
        StaticPublic(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The secret shared with `peer`: the same on both sides.
    ///
    /// # Errors
    /// `SmallOrder` if the peer's key would make the result zero whatever our secret is.
    pub fn diffie_hellman(&self, peer: &StaticPublic) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(peer.0));
        // Compared here too, so that the guarantee does not hang on another crate's definition.
        let zero: bool = shared.as_bytes().ct_eq(&[0; 32]).into();
        if zero || !shared.was_contributory() {
            return Err(KeyError::SmallOrder);
        }
        Ok(Zeroizing::new(shared.to_bytes()))
    }

    /// The text form for a file that only its owner may read.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex_encode(self.as_bytes()))
    }

    /// Read the text form; white space around it is ignored.
    ///
    /// # Errors
    /// `Size` or `Digit`.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(hex_decode::<32>(text)?);
        Ok(Self::from_bytes(&bytes))
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::redacted(f, "StaticSecret")
    }
}

/// The public half of an X25519 identity: the name by which the directory knows a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaticPublic(pub [u8; 32]);

impl StaticPublic {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A copy of the bytes.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The text form.
    pub fn to_hex(self) -> String {
        hex_encode(&self.0)
    }

    /// Read the text form; white space around it is ignored.
    ///
    /// # Errors
    /// `Size` or `Digit`. Small-order keys are refused when they are used.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Ok(Self(hex_decode(text)?))
    }
}

impl fmt::Debug for StaticPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticPublic({})", self.to_hex())
    }
}

impl SigningKey {
    /// A new random signing key.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        random(&mut seed[..])?;
        Ok(Self::from_seed(&seed))
    }

    /// The text form of the seed, for a file that only its owner may read.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex_encode(self.seed()))
    }

    /// Read the text form; white space around it is ignored.
    ///
    /// # Errors
    /// `Size` or `Digit`.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(hex_decode::<32>(text)?);
        Ok(Self::from_seed(&seed))
    }
}

impl VerifyingKey {
    /// The text form.
    pub fn to_hex(&self) -> String {
        hex_encode(&self.to_bytes())
    }

    /// Read the text form; white space around it is ignored.
    ///
    /// # Errors
    /// `Size`, `Digit`, or `NotAKey` if the bytes are no point of the curve.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&hex_decode(text)?)
    }
}

/// Lower-case hex digits of `bytes`.
pub fn hex_encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// `N` bytes from hex digits of either case; white space around them is ignored.
///
/// # Errors
/// `Size` or `Digit`.
pub fn hex_decode<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    let text = text.trim();
    let found = text.chars().count();
    let mut out = [0; N];
    for (i, character) in text.chars().enumerate() {
        let Some(digit) = character.to_digit(16) else {
            out.zeroize();
            return Err(KeyError::Digit { at: i + 1 });
        };
        if let Some(byte) = out.get_mut(i / 2) {
            *byte = *byte << 4 | digit as u8;
        }
    }
    if found != N * 2 {
        out.zeroize();
        return Err(KeyError::Size { expected: N * 2, found });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn rfc7748_diffie_hellman() {
        let alice = StaticSecret::from_hex(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a\n",
        )
        .unwrap();
        let bob = StaticSecret::from_hex(
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        )
        .unwrap();
        assert_eq!(
            alice.public().to_hex(),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        );
        assert_eq!(
            bob.public().to_hex(),
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
        );
        let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        assert_eq!(hex_encode(&*alice.diffie_hellman(&bob.public()).unwrap()), shared);
        assert_eq!(hex_encode(&*bob.diffie_hellman(&alice.public()).unwrap()), shared);
    }

    #[test]
    fn small_order_keys_are_refused() {
        let secret = StaticSecret::generate().unwrap();
        let mut one = [0; 32];
        one[0] = 1;
        // A point of order 8 (RFC 7748 implementations' usual test point).
        let eight =
            hex_decode("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800").unwrap();
        for key in [[0; 32], one, eight] {
            assert!(matches!(secret.diffie_hellman(&StaticPublic(key)), Err(KeyError::SmallOrder)));
        }
    }

    #[test]
    fn generated_keys_differ_and_survive_text() {
        let (a, b) = (StaticSecret::generate().unwrap(), StaticSecret::generate().unwrap());
        assert_ne!(a.as_bytes(), b.as_bytes());
        let again = StaticSecret::from_hex(&a.to_hex()).unwrap();
        assert_eq!(again.public(), a.public());
        assert_eq!(StaticPublic::from_hex(&a.public().to_hex()).unwrap(), a.public());
        let (a, b) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        assert_ne!(a.seed(), b.seed());
        let again = SigningKey::from_hex(&a.to_hex()).unwrap();
        assert_eq!(again.verifying_key().to_bytes(), a.verifying_key().to_bytes());
        let public = VerifyingKey::from_hex(&a.verifying_key().to_hex()).unwrap();
        assert_eq!(public, a.verifying_key());
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = StaticSecret::from_bytes(&[0xab; 32]);
        assert_eq!(format!("{secret:?}"), "StaticSecret(secret)");
        let signing = SigningKey::from_seed(&[0xab; 32]);
        assert_eq!(format!("{signing:?}"), "SigningKey(secret)");
    }

    #[test]
    fn bad_text_says_what_and_where() {
        let error = |text: &str| hex_decode::<2>(text).unwrap_err().to_string();
        assert!(error("abc").contains("4 hex digits, this text has 3"));
        assert!(error("abcde").contains("has 5"));
        assert!(error("").contains("has 0"));
        assert!(error(" abxd ").contains("character 3"));
        assert!(error("äbcd").contains("character 1"));
        assert!(error("ab cd").contains("character 3"));
        assert!(VerifyingKey::from_hex(&"02".repeat(32)).is_err(), "not on the curve");
        assert_eq!(hex_decode::<2>(" aBc9\n").unwrap(), [0xab, 0xc9]);
    }

    proptest! {
        #[test]
        fn hex_reads_back(bytes: [u8; 32]) {
            prop_assert_eq!(hex_decode::<32>(&hex_encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn any_text_decodes_or_errs(text in ".{0,80}") {
            if let Ok(bytes) = hex_decode::<32>(&text) {
                prop_assert_eq!(hex_encode(&bytes), text.trim().to_lowercase());
            }
        }
    }
}
