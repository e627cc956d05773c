//! Client library of a Tetrarch cluster: blocking and asynchronous, many operations in flight.
//!
//! Owns the client's links, its keys, and the files that describe a cluster. Always true: a result
//! was given by enough replicas, so that a correct one is among any wrong ones that remain. Must
//! not: know what operations mean.
//!
//! [`Client`] has a thread of its own; [`ClientDriver`] is polled by the caller's loop. Both carry
//! any number of sessions over one connection to each replica.

pub mod client;
pub mod cluster;
pub mod config;
pub mod driver;
pub mod error;
pub mod names;
pub mod payload;
mod proofs;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use client::{Client, OperationResult, Pending, Session};
pub use cluster::Cluster;
pub use config::{ClientConfig, fresh_incarnation};
pub use driver::{ClientDriver, Completion, DriverCounts};
pub use error::{ClientError, ConnectError};
pub use payload::Bytes;
pub use tetrarch_consensus::smr::client::{
    Authentication, Busy, Comparator, Extractor, Heard, Matching, Mode, Notice, Outcome, ReplyForm,
    Ticket,
};
// What a caller of [`ClientDriver`] needs to tell it the time.
pub use tetrarch_dataplane::clock::{Clock, SystemClock};
