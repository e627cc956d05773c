//! Who wrote the bytes: digests, link tags, signatures and client authenticators.
//!
//! Owns no keys by itself and no protocol. Always true: every comparison of a secret-dependent
//! value takes constant time; no key appears in `Debug` output; keys are wiped when dropped;
//! nothing on the common path allocates (batch verification of signatures does, and is off that
//! path). Must not: decide what a message may do.

pub mod authenticator;
pub mod hash;
pub mod keys;
pub mod mac;
pub mod merkle;
pub mod signature;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls functions compiled for instructions that were detected")]
mod x86;

use std::fmt;

/// The system gave no random bytes: no key can be made.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed: {0}; keys cannot be made without it")]
pub struct RandomError(pub getrandom::Error);

/// Fill `out` with random bytes from the system.
///
/// # Errors
/// If the system has none, which only happens on broken installations.
pub fn random(out: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(out).map_err(RandomError)
}

/// Writes the name of a secret's type and nothing of the secret.
fn redacted(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(f, "{name}(secret)")
}
