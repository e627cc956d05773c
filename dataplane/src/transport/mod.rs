//! Back ends that move messages.
//!
//! Owns nothing itself: each folder is one device, or what several share. Always true: every back
//! end passes [`conformance`]. Must not: know keys or protocols.

pub mod conformance;
pub mod memory;
pub(crate) mod stream;
pub mod tcp;
