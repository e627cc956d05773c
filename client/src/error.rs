//! What can go wrong for a user of the library. Every text says what to do.

use std::time::Duration;

use tetrarch_consensus::limits::{OPERATION_SIZE_MAX, RESULT_SIZE_MAX};
use tetrarch_consensus::smr::client::{Busy, Heard};
use tetrarch_dataplane::types::OpenError;

use crate::cluster::ClusterError;

/// Why a client could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file, or a value in it.
    #[error(transparent)]
    Config(#[from] ClusterError),
    /// Memory, a socket, a thread.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Too few replicas could be reached in time.
    #[error(
        "connected to {connected} of {of} replicas within {after:?}; {needed} are needed: are they \
         running, at the addresses in cluster.toml, with the same cluster.toml?"
    )]
    Unreachable {
        /// Links that were made.
        connected: usize,
        /// Replicas in the cluster.
        of: usize,
        /// Replicas that an answer needs.
        needed: usize,
        /// How long was waited.
        after: Duration,
    },
}

/// Why an operation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Too few replicas gave the same answer in time. The operation may be executed yet: it stays
    /// in flight.
    #[error(
        "replies from {} of {} replicas after {after:?}; {} equal ones are needed, and {connected} \
         replicas are connected",
        heard.members, heard.of, heard.needed
    )]
    Timeout {
        /// Who answered.
        heard: Heard,
        /// Links that are up.
        connected: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The operation was executed, but there is no result to be had.
    #[error(
        "the operation was executed, but its result is larger than {RESULT_SIZE_MAX} bytes, or so \
         old that no replica keeps it; ask for less at a time, or do not ask again for old results"
    )]
    Forgotten,
    /// The operation was not and will not be executed.
    #[error(
        "the replicas refused the operation: it is not a command of their service, an earlier \
         operation of the same session was refused, or this client's clock went back since it ran \
         last"
    )]
    Refused,
    /// Larger than an operation may be.
    #[error("an operation of {size} bytes is larger than {OPERATION_SIZE_MAX}; send it in parts")]
    OperationSize {
        /// Its size.
        size: usize,
    },
    /// As much is in flight as may be.
    #[error("{0}; try again when an operation has completed")]
    Busy(Busy),
    /// Every session is in use.
    #[error("all {max} sessions are in use; drop one, or raise sessions_max")]
    Sessions {
        /// How many there are.
        max: u32,
    },
    /// The client was closed, or its thread ended.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    pub(crate) fn from_busy(busy: Busy, size: usize) -> Self {
        match busy {
            Busy::OperationSize => Self::OperationSize { size },
            other => Self::Busy(other),
        }
    }
}
