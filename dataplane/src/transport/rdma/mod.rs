//! RDMA: queue pairs of reliable connections, over the verbs libraries.
//!
//! Owns the choice of a device and the bindings; the transport itself is being built on them. Always true: no
//! memory is registered for remote access. Must not: be named by a configuration yet.

pub mod device;
mod verbs;
