//! What the gateway needs of a cluster: sessions that take operations and give replies later.
//!
//! The gateway is written against this, so that its tests, and anybody who wants to look at the
//! protocol side alone, can run it without a cluster ([`super::local`]).

use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

/// How an operation is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Ordered with all others.
    Ordered,
    /// From the replicas' current state, when enough of them agree. The operation must not write.
    ReadOnly,
}

/// Why an operation was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The session, or the client as a whole, has as many in flight as it may. Try again after
    /// the next completion.
    Busy,
    /// Nor was there room for any operation of the session as long as operations are waited for: the
    /// replicas are overloaded.
    Overloaded,
    /// Not now and not by waiting a moment: no quorum of replicas is connected.
    Unavailable,
    /// It can never be sent: larger than an operation may be.
    TooLarge,
}

/// Why there is no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No quorum answered in time. Whether an ordered operation was or will be executed is unknown.
    Timeout,
    /// Too few replicas are connected.
    Unavailable,
    /// It was executed, but its reply is not to be had any more.
    Forgotten,
    /// It was not executed, and never will be.
    Refused,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Timeout => {
                "TRYAGAIN no quorum of replicas answered in time; a command that writes may or may \
                 not take effect"
            }
            Failure::Unavailable => {
                "CLUSTERDOWN too few replicas are connected; a command that writes may or may not \
                 take effect"
            }
            Failure::Forgotten => "ERR the command was executed, but its reply was lost",
            Failure::Refused => {
                "ERR the replicas refused the operation: do they run the `kv` service, and have \
                 they a session for this connection? Nothing was executed"
            }
        })
    }
}

/// The answer to one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// What the operation was submitted with.
    pub tag: u64,
    /// The service's reply.
    pub outcome: Result<Vec<u8>, Failure>,
}

/// A cluster as INFO shows it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// One line, what kind of cluster it is.
    pub description: String,
    /// Replicas in the cluster.
    pub replicas: usize,
    /// Replicas that this gateway is connected to.
    pub replicas_connected: usize,
    /// Faulty replicas that are tolerated.
    pub faults_tolerated: usize,
    /// More lines for INFO, name and value.
    pub more: Vec<(String, String)>,
}

/// Sessions of a replicated store. Operations of one session are executed in the order in which
/// they were submitted (those of one mode; the gateway never mixes modes in flight).
pub trait Cluster {
    /// How many sessions there are: numbers below this can be used.
    fn sessions(&self) -> u32;

    /// Starts an operation. `tag` comes back in its completion, exactly once.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was started.
    fn submit(
        &mut self,
        session: u32,
        mode: Mode,
        tag: u64,
        operation: &[u8],
    ) -> Result<(), Refusal>;

    /// Does what there is to do without waiting, and appends what is complete.
    fn poll(&mut self, completions: &mut Vec<Completion>);

    /// Becomes readable when [`Cluster::poll`] has something to do. `None` when the cluster can only
    /// be asked.
    fn fd(&self) -> Option<RawFd> {
        None
    }

    /// How long [`Cluster::poll`] may wait to be called, at most: retransmissions are due then.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// What INFO says.
    fn facts(&self) -> Facts;
}
