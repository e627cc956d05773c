//! Everything that can happen to a replica's core.

use crate::message::{Message, Request};
use crate::types::{ConsensusId, Lsn, ReplicaId};
use crate::verified::Verified;

/// One event. The core sees nothing else.
#[derive(Clone, Debug)]
pub enum Input<P> {
    /// An ordered request, from the client that made it.
    Request(Verified<Request<P>>),
    /// A message of another member.
    Peer {
        /// Who sent it, proved by the link.
        from: ReplicaId,
        /// What.
        message: Verified<Message<P>>,
    },
    /// `now` has reached `next_deadline()`.
    Deadline,
    /// A link to a member was made (again): what was in flight before may be lost.
    Connected(ReplicaId),
    /// Everything up to this is on stable storage.
    Durable(Lsn),
    /// The application has executed this instance.
    Executed(ConsensusId),
}
