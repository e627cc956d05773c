//! What the transports over TCP connections share, whatever moves the bytes.
//!
//! Owns the configuration, the connection table with its limits, dialling, whose turn it is, and the
//! way between a byte stream and messages. Always true: nothing here does IO or reads a clock, so both
//! transports treat hostile, slow and silent peers alike. Must not: know epoll or rings.

pub(in crate::transport) mod backoff;
mod config;
pub(in crate::transport) mod device;
pub(in crate::transport) mod dial;
pub(in crate::transport) mod reassembly;
pub(in crate::transport) mod table;
pub(in crate::transport) mod tx_queue;
pub(in crate::transport) mod wake;

pub use config::TcpConfig;
pub(in crate::transport) use config::bind;
