//! Back ends that move messages.
//!
//! Owns nothing itself: each folder is one device, or what several share. Always true: every back
//! end passes [`conformance`]. Must not: know keys or protocols.

pub mod choice;
pub mod conformance;
pub mod memory;
#[cfg(feature = "rdma")]
#[expect(unsafe_code, reason = "the verbs libraries are C, and devices work on memory by address")]
pub mod rdma;
pub(crate) mod stream;
pub mod tcp;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the kernel works on memory that it is given by address")]
pub mod uring;
