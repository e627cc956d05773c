//! Everything that can happen to a replica's core.

use alloc::boxed::Box;

use crate::checkpoint::Ordered;
use crate::message::{Message, Request};
use crate::types::{ConsensusId, Digest, Lsn, ReplicaId};
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
    /// The application has executed this instance, or goes on from it (`Action::Install`).
    Executed(ConsensusId),
    /// A checkpoint of this replica counts (rule CKP.3): others may have it.
    Checkpointed {
        /// The last instance that was executed.
        cid: ConsensusId,
        /// Bytes of its image, at least 1.
        size: u64,
        /// Merkle root over the chunks of the image.
        root: Digest,
    },
    /// Chunks may be stored. What is here of them already, from an attempt before, is genuine.
    Resumed {
        /// Which image.
        cid: ConsensusId,
        /// Its root.
        root: Digest,
        /// Bit i % 64 of word i / 64: chunk i is here. Missing words are zero.
        have: Box<[u64]>,
    },
    /// A chunk was stored: there is room for another one.
    Stored {
        /// Of which image.
        cid: ConsensusId,
        /// Which chunk.
        index: u32,
    },
    /// The whole image is here and durable, and this is the core's share of it.
    TransferReady(Box<Ordered>),
    /// The image cannot be kept, or does not hold together after all.
    TransferFailed {
        /// Which image.
        cid: ConsensusId,
    },
}
