//! What a trusted component promises (USIG: Veronese et al., IEEE TC 2013, section 3).

use core::fmt;

use crate::{Digest, ReplicaId, Ui};

/// A unique sequential identifier generator. The first counter value is 1 in each epoch.
pub trait TrustedCounter: Send {
    /// Changes when the counter's memory was lost; peers must accept the new epoch explicitly.
    fn epoch(&self) -> u64;

    /// Binds the next counter value to `digest`.
    ///
    /// The counter moves before the certificate leaves the trusted side: a crash may lose a number,
    /// never reuse one.
    ///
    /// # Errors
    /// [`CounterError`] when no certificate can be made; the caller must stop sending messages that
    /// need one, never send them without.
    fn certify(&mut self, digest: &Digest) -> Result<Ui, CounterError>;
}

/// Checks certificates of other replicas. Stateless: that numbers have no gaps and no repeats is
/// checked by the protocol.
pub trait UiVerifier: Send {
    /// Did the trusted component of `from` bind `ui` to `digest`?
    fn verify(&self, from: ReplicaId, digest: &Digest, ui: &Ui) -> bool;
}

/// Why a trusted counter gave no certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterError {
    /// The device does not answer.
    Unavailable,
    /// The counter reached its last value. The component needs a new epoch.
    Exhausted,
    /// The component's stored state is older than its counter: a rollback.
    RolledBack,
}

impl fmt::Display for CounterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the trusted counter does not answer",
            Self::Exhausted => "the trusted counter reached its last value and needs a new epoch",
            Self::RolledBack => "the trusted counter's stored state is older than its counter",
        })
    }
}

impl core::error::Error for CounterError {}
