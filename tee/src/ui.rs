//! The unique identifier (UI) of MinBFT (Veronese et al., IEEE TC 2013): a counter value bound to a
//! message digest by a certificate that only the trusted component can make.

/// Bytes that a certificate may need at most: an Ed25519 or ECDSA P-256 signature.
pub const UI_CERTIFICATE_SIZE_MAX: usize = 64;

/// The proof part of a [`Ui`]: a MAC under a key that only trusted components share, or a
/// signature. Which of the two is a property of the back end, agreed on by configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UiCertificate {
    bytes: [u8; UI_CERTIFICATE_SIZE_MAX],
    size: u8,
}

impl UiCertificate {
    /// Copies `proof`. `None` when it is longer than [`UI_CERTIFICATE_SIZE_MAX`].
    pub fn new(proof: &[u8]) -> Option<Self> {
        let size = u8::try_from(proof.len()).ok()?;
        let mut bytes = [0; UI_CERTIFICATE_SIZE_MAX];
        bytes.get_mut(..proof.len())?.copy_from_slice(proof);
        Some(Self { bytes, size })
    }

    /// The proof, without padding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.size)]
    }
}

/// A certified counter value. Two messages never carry the same `(epoch, counter)` of one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ui {
    /// Changes when the counter's memory was lost; peers accept a new epoch only explicitly.
    pub epoch: u64,
    /// Starts at 1 in each epoch and has no gaps.
    pub counter: u64,
    /// Binds `(replica, epoch, counter, digest)`.
    pub certificate: UiCertificate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_keeps_its_bytes() {
        let proof = [7u8; 16];
        assert_eq!(UiCertificate::new(&proof).expect("16 bytes fit").as_bytes(), &proof);
        assert_eq!(UiCertificate::new(&[]).expect("empty fits").as_bytes(), &[] as &[u8]);
    }

    #[test]
    fn a_certificate_that_is_too_long_is_refused() {
        assert!(UiCertificate::new(&[1; UI_CERTIFICATE_SIZE_MAX]).is_some());
        assert!(UiCertificate::new(&[1; UI_CERTIFICATE_SIZE_MAX + 1]).is_none());
        assert!(UiCertificate::new(&[1; 300]).is_none());
    }
}
