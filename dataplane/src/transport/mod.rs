//! Back ends that move messages.
//!
//! Owns nothing itself: each folder is one device, or what several share. Always true: every back
//! end passes [`conformance`]. Must not: know keys or protocols.

pub mod choice;
pub mod conformance;
pub mod memory;
pub(crate) mod stream;
pub mod tcp;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the kernel works on memory that it is given by address")]
pub mod uring;
