//! Everything a replica's core can want.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::batch::{Batch, Selection};
use crate::checkpoint::Ordered;
use crate::membership::{ViewAnswer, ViewRequest};
use crate::message::{Message, Position};
use crate::record::Record;
use crate::state_machine::Context;
use crate::types::{ClientId, ConsensusId, Digest, Lsn, Regency, ReplicaId, Sequence, ViewId};

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recipients {
    /// Every other member of the view.
    Others,
    /// One member.
    One(ReplicaId),
}

/// One duty of the driver, to be carried out in order.
#[derive(Clone, Debug)]
pub enum Action<P> {
    /// Transmit once everything up to `after` is durable.
    ///
    /// A STOPDATA leaves the core with a zero signature: the driver signs it with the member's key
    /// before it goes anywhere. That holds too when it goes to this replica itself (the leader's own
    /// state, the only message a core ever sends to itself): the driver signs it and hands it back
    /// as `Input::Peer` from this replica, so that it can travel inside a SYNC. Messages to itself
    /// need no link.
    Send {
        /// To whom.
        to: Recipients,
        /// What.
        message: Message<P>,
        /// 0: at once.
        after: Lsn,
    },
    /// Append this to the log. Comes before everything that has to wait for it.
    Persist {
        /// Its number, one more than that of the record before.
        lsn: Lsn,
        /// What.
        record: Record<P>,
    },
    /// Execute the selected requests of a decided batch, in order, then answer each client and feed
    /// back `Input::Executed`. Comes once for each instance, in order, without gaps but those that an
    /// `Install` leaves.
    Execute {
        /// What the application may know.
        context: Context,
        /// The decided value.
        batch: Batch<P>,
        /// Which requests: the others are duplicates or do not follow their session's last one
        /// (rule SMR.9).
        selection: Selection,
        /// The batch is one request of the View Manager, which is not for the application: this is its
        /// result (rule VIEW.3).
        view_answer: Option<ViewAnswer>,
        /// What has to be durable before anybody hears of it (rule DUR.3).
        after: Lsn,
    },
    /// Take a checkpoint of the application as it is after the last `Execute`, and of the replies kept. It
    /// counts when it is durable itself and the record `base` is (rule CKP.3); then feed back
    /// `Input::Checkpointed`.
    Checkpoint {
        /// The record from which a replay behind this checkpoint begins; 0 when no records are made.
        base: Lsn,
        /// The core's share.
        ordered: Arc<Ordered>,
    },
    /// Send a chunk of a checkpoint of this replica, with its path (`Message::Chunk`), or nothing if it is
    /// not there any more. Keep what it is read from for a timeout after the last of these (rule ST.4).
    SendChunk {
        /// To whom.
        to: ReplicaId,
        /// Which checkpoint.
        cid: ConsensusId,
        /// Its root.
        root: Digest,
        /// Which chunk.
        index: u32,
    },
    /// The chunks of this image are going to come. Make room for them and feed back `Input::Resumed`. What is
    /// left of a transfer of another image is of no use any more.
    BeginTransfer {
        /// The last instance that was executed.
        cid: ConsensusId,
        /// Bytes.
        size: u64,
        /// Root over its chunks.
        root: Digest,
    },
    /// Keep a chunk of it, which is genuine, and feed back `Input::Stored`. With the last one, when all of them
    /// together have the root and are durable, feed back `Input::TransferReady`.
    StoreChunk {
        /// Which image.
        cid: ConsensusId,
        /// Which chunk.
        index: u32,
        /// The digest of its bytes.
        leaf: Digest,
        /// Its bytes.
        payload: P,
    },
    /// Nothing of this transfer is needed any more.
    EndTransfer {
        /// Which image.
        cid: ConsensusId,
    },
    /// Replace the application and the replies kept by those of the image that was transferred, after every
    /// `Execute` before; then feed back `Input::Executed`. The image is a checkpoint of this replica from
    /// now on, with the record `base` (rule ST.5).
    Install {
        /// The record from which a replay behind it begins; 0 when no records are made.
        base: Lsn,
        /// The instance after which it was taken.
        cid: ConsensusId,
    },
    /// Something about a transfer that operators should know. Nothing has to be done.
    Transfer(TransferNote),
    /// There is no room for a request: tell its client, with `Status::Busy`.
    AnswerBusy {
        /// Session.
        client: ClientId,
        /// Request.
        sequence: Sequence,
    },
    /// A client asked again for something already executed: answer from the reply cache.
    ResendReply {
        /// Session.
        client: ClientId,
        /// Request.
        sequence: Sequence,
    },
    /// A new leader is in charge. For operators and tests; nothing has to be done.
    Installed {
        /// The regency.
        regency: Regency,
        /// Its leader.
        leader: ReplicaId,
    },
    /// Everything in this replica's view is decided here, and another view follows. Links to those of its
    /// members that are new are needed from now on; all others stay.
    ViewEnded {
        /// What follows.
        next: Box<ViewRequest>,
    },
    /// This replica is in another view from now on: whatever is proved, sent or answered by place in the
    /// view goes by this one. Requests that clients made for the view before are void, and those that
    /// are pending are forgotten: their clients have to hear of the view.
    ViewEntered {
        /// Which, with the View Manager's signature.
        entered: Box<ViewRequest>,
        /// Its first instance.
        since: ConsensusId,
        /// Its leader.
        leader: ReplicaId,
    },
    /// This replica is in no later view, and the members of that one need it no more: it may end.
    Retired {
        /// The view that does without it.
        view: ViewId,
    },
    /// The others have truncated the decisions this replica needs: it cannot catch up by itself.
    Behind {
        /// Last instance this replica decided.
        decided: ConsensusId,
        /// Oldest instance that f + 1 others can still send.
        available: ConsensusId,
    },
    /// Proof of misbehaviour: something for the operator.
    Report(Evidence),
}

/// What happens to a transfer of a checkpoint to this replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferNote {
    /// A member did not send what it was asked for in time: others are asked first from now on.
    SlowSource {
        /// Who.
        member: ReplicaId,
        /// Which image.
        cid: ConsensusId,
    },
    /// The image cannot be had from enough members any more: a newer one is fetched.
    Vanished {
        /// Which image.
        cid: ConsensusId,
    },
    /// The only image to be had is larger than this replica may take.
    TooLarge {
        /// Which image.
        cid: ConsensusId,
        /// Its bytes.
        size: u64,
    },
    /// This replica cannot go on from an image that is genuine: its limits differ from those of the others.
    Refused {
        /// Which image.
        cid: ConsensusId,
    },
}

/// What a faulty member or client was caught at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// Two values for one position from one member.
    Equivocation {
        /// Who.
        member: ReplicaId,
        /// Where.
        at: Position,
        /// First value seen.
        first: Digest,
        /// Second value.
        second: Digest,
    },
    /// A leader proposed a batch that violates gamma.
    InvalidProposal {
        /// Who.
        member: ReplicaId,
        /// Where.
        at: Position,
    },
    /// A client's proof convinces some replicas only. Either the client is faulty, or a leader that
    /// spoiled the proof on its way into a proposal: the client's requests count only signed from now.
    HalfValidProof {
        /// Whose.
        client: ClientId,
        /// Which proposal it was found in.
        at: Position,
    },
    /// A leader was given up while its proposal named a request whose body was nowhere to be had: it
    /// has invented the request, or keeps it back together with its client.
    IncompleteProposal {
        /// The leader.
        member: ReplicaId,
        /// Whose request.
        client: ClientId,
        /// Which proposal.
        at: Position,
    },
    /// A chunk that is not of the checkpoint that its sender has, or says that it has.
    FalseChunk {
        /// Who.
        member: ReplicaId,
        /// Which checkpoint.
        cid: ConsensusId,
        /// Which chunk.
        index: u32,
    },
    /// A checkpoint that is offered and is not the one that one-correct members have.
    FalseOffer {
        /// Who.
        member: ReplicaId,
        /// Which checkpoint.
        cid: ConsensusId,
        /// What it says the root is.
        root: Digest,
    },
    /// A SYNC or STOPDATA that does not hold together.
    InvalidSynchronization {
        /// Who.
        member: ReplicaId,
        /// For which regency.
        regency: Regency,
    },
}
