//! Trusted counters: certificates that bind a number nobody can reuse to a message.
//!
//! Owns the certificate [`Ui`], the [`TrustedCounter`] and [`UiVerifier`] traits and the identities
//! they speak of. Always true: nothing here performs IO, allocates or needs `std`, so that the same
//! types work inside an enclave. Must not: know any protocol, transport or back end.
#![no_std]
#![forbid(unsafe_code)]

mod counter;
mod ids;
mod ui;

pub use counter::{CounterError, TrustedCounter, UiVerifier};
pub use ids::{Digest, ReplicaId};
pub use ui::{UI_CERTIFICATE_SIZE_MAX, Ui, UiCertificate};
