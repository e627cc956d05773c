//! What replicas and clients say to each other. Values here, bytes in `codec` and `reply`.

pub mod codec;
pub mod reply;
mod transfer;

use alloc::boxed::Box;
use alloc::vec::Vec;

pub use self::transfer::{Chunk, FetchChunks, FetchState, Offer, StateOffer};

use crate::batch::{Batch, REQUEST_HEADER_SIZE, RequestView, Selection, SparseBatch};
use crate::limits::WRITE_SET_MAX;
use crate::payload::Payload;
use crate::types::{
    ClientId, ConsensusId, Digest, Epoch, Regency, ReplicaId, ReplicaSet, Sequence, ViewId,
};

/// Kinds, as numbers on the wire. Never reused: a retired kind keeps its number.
pub mod kind {
    /// A client's request, ordered or read-only.
    pub const REQUEST: u8 = 1;
    /// A replica's answer to a request.
    pub const REPLY: u8 = 2;
    /// Requests that timed out once at the sender.
    pub const FORWARDED: u8 = 3;
    /// The leader's value for an instance.
    pub const PROPOSE: u8 = 4;
    /// First vote.
    pub const WRITE: u8 = 5;
    /// Second vote.
    pub const ACCEPT: u8 = 6;
    /// "This proposal does not convince me."
    pub const REFUSE: u8 = 7;
    /// "I want the next regency."
    pub const STOP: u8 = 8;
    /// A replica's signed state, for the new leader.
    pub const STOPDATA: u8 = 9;
    /// The new leader's collection of states, and the value to go on with.
    pub const SYNC: u8 = 10;
    /// How far the sender is.
    pub const STATUS: u8 = 11;
    /// "Send me these decisions."
    pub const FETCH: u8 = 12;
    /// A decision that the sender made or learned.
    pub const DECIDED: u8 = 13;
    /// "Send me the batch with this digest."
    pub const FETCH_BATCH: u8 = 14;
    /// A batch, for its digest.
    pub const BATCH_BODY: u8 = 15;
    /// "Send me these bodies of the proposal."
    pub const FETCH_BODIES: u8 = 16;
    /// Bodies that a proposal left out.
    pub const BODIES: u8 = 17;
    /// "Which checkpoints do you have?"
    pub const FETCH_STATE: u8 = 18;
    /// Checkpoints that the sender has.
    pub const STATE_OFFER: u8 = 19;
    /// "Send me these chunks of a checkpoint."
    pub const FETCH_CHUNKS: u8 = 20;
    /// A chunk of a checkpoint.
    pub const CHUNK: u8 = 21;
}

/// Kinds of proof after a message body, as numbers in the link header's `auth` field.
pub mod proof {
    /// None: the link MAC is enough.
    pub const NONE: u8 = 0;
    /// A MAC for each member of the view.
    pub const MAC_VECTOR: u8 = 1;
    /// An Ed25519 signature of the sender.
    pub const SIGNATURE: u8 = 2;
}

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Ends before it should.
    Truncated,
    /// Goes on after it should.
    Trailing,
    /// A reserved field is not zero, or a flag is unknown.
    Reserved,
    /// A field is longer than its limit.
    TooLong,
    /// More elements than their limit.
    TooMany,
    /// Two fields contradict each other.
    Inconsistent,
    /// A kind, or a tag inside a message, that does not exist.
    Unknown,
}

/// A client's request, authenticated. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Request<P> {
    /// Session.
    pub client: ClientId,
    /// Number within the session.
    pub sequence: Sequence,
    /// Digest of the body.
    pub digest: Digest,
    /// Answer from the current state, do not order. Such a request never enters the core.
    pub read_only: bool,
    /// Kind of proof.
    pub auth: u8,
    /// Bytes of the body; the rest of `payload` is the proof.
    pub body_size: u32,
    /// Body, then proof.
    pub payload: P,
}

impl<P: Payload> Request<P> {
    /// The request as the application sees it.
    pub fn view(&self) -> RequestView<'_> {
        let (body, proof) = self.payload.bytes().split_at(self.body_size as usize);
        RequestView {
            client: self.client,
            sequence: self.sequence,
            digest: self.digest,
            operation: &body[REQUEST_HEADER_SIZE..],
            body,
            auth: self.auth,
            proof,
        }
    }
}

/// Where in the protocol's history a vote belongs. The first fields of every consensus message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// Membership.
    pub view: ViewId,
    /// Instance.
    pub cid: ConsensusId,
    /// Attempt within the instance.
    pub epoch: Epoch,
}

/// The leader's value for an instance.
#[derive(Clone, Debug)]
pub struct Propose<P> {
    /// Instance and epoch.
    pub at: Position,
    /// The value.
    pub batch: Batch<P>,
}

/// The leader's value for an instance, without some of its bodies (rule BODY.1).
#[derive(Clone, Debug)]
pub struct ProposeSparse<P> {
    /// Instance and epoch.
    pub at: Position,
    /// The value.
    pub batch: SparseBatch<P>,
}

/// WRITE or ACCEPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Instance and epoch.
    pub at: Position,
    /// The value voted for.
    pub digest: Digest,
}

/// Why a proposal does not convince a member (rule VAL.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefuseReason {
    /// A request of this session has a proof that is wrong for the sender. The first one in the
    /// batch; others show up in later proposals.
    Proof(ClientId),
    /// The timestamp is too far ahead of the sender's clock.
    Clock,
}

/// "I will not WRITE this proposal unless others vouch for it."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refuse {
    /// Instance and epoch of the proposal.
    pub at: Position,
    /// The proposal.
    pub digest: Digest,
    /// Why.
    pub reason: RefuseReason,
}

/// "I want regency `regency`."
#[derive(Clone, Debug)]
pub struct Stop<P> {
    /// Membership.
    pub view: ViewId,
    /// The regency asked for.
    pub regency: Regency,
    /// Requests that the current leader does not order, at most `REQUEST_LIST_MAX`.
    pub requests: Batch<P>,
}

/// A value and the epoch that it was written or decided in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// When.
    pub epoch: Epoch,
    /// What.
    pub digest: Digest,
}

/// The (epoch, digest) pairs for which a replica sent WRITE in one instance. One pair a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteSet {
    entries: [Written; WRITE_SET_MAX],
    size: u8,
}

impl WriteSet {
    /// Nothing written.
    pub const EMPTY: WriteSet = WriteSet {
        entries: [Written { epoch: Epoch(0), digest: Digest::ZERO }; WRITE_SET_MAX],
        size: 0,
    };

    /// The pairs.
    pub fn as_slice(&self) -> &[Written] {
        &self.entries[..usize::from(self.size)]
    }

    /// Drops pairs older than `epoch` (rule SYNC.6).
    pub fn forget_before(&mut self, epoch: Epoch) {
        let mut kept = Self::EMPTY;
        for written in self.as_slice() {
            if written.epoch >= epoch {
                kept.insert(*written);
            }
        }
        *self = kept;
    }

    /// Adds `written`; replaces an earlier pair with the same digest, else the oldest when full.
    pub fn insert(&mut self, written: Written) {
        self.insert_within(WRITE_SET_MAX, written);
    }

    /// Like [`WriteSet::insert`], in a set that is full with `max` pairs (1 to `WRITE_SET_MAX`).
    pub fn insert_within(&mut self, max: usize, written: Written) {
        let size = usize::from(self.size);
        let same = self.as_slice().iter().position(|entry| entry.digest == written.digest);
        let oldest = || (0..size).min_by_key(|&at| self.entries[at].epoch).unwrap_or(0);
        let at = match same {
            Some(at) => at,
            None if size < max.min(WRITE_SET_MAX) => {
                self.size += 1;
                size
            }
            None => oldest(),
        };
        self.entries[at] = written;
    }
}

/// What a replica says of one instance that is open for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenState {
    /// The newest value with a WRITE certificate (valts, val). In crash-only mode, the last value
    /// accepted.
    pub certified: Option<Written>,
    /// Every value written.
    pub write_set: WriteSet,
}

impl OpenState {
    /// Nothing written, nothing certified.
    pub const BLANK: OpenState = OpenState { certified: None, write_set: WriteSet::EMPTY };

    /// Is there nothing to say?
    pub fn is_blank(&self) -> bool {
        self.certified.is_none() && self.write_set.as_slice().is_empty()
    }
}

/// What a replica says of itself at a synchronisation (rule SYNC.5). What is signed is
/// `codec::encode_state`, so nothing outside it is promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaState {
    /// Membership.
    pub view: ViewId,
    /// The regency being installed: binds the state to this synchronisation.
    pub regency: Regency,
    /// Who says this.
    pub replica: ReplicaId,
    /// Last instance decided; 0 when none.
    pub decided: ConsensusId,
    /// What was decided in `decided` and the instances before it, the newest first: two for each
    /// instance of the depth, or all there are.
    pub decisions: Vec<Digest>,
    /// The open instances from `decided + 1` on, without blank ones at the end.
    pub open: Vec<OpenState>,
}

/// A state and the Ed25519 signature of its replica over `codec::encode_state`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedState {
    /// What is claimed, and by whom.
    pub state: ReplicaState,
    /// Zero until egress has signed.
    pub signature: [u8; 64],
}

/// The new leader's collection of states.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Membership.
    pub view: ViewId,
    /// The regency that starts.
    pub regency: Regency,
    /// Signed states of distinct members, at least n - f. Everybody recomputes the choice from them.
    pub states: Vec<SignedState>,
}

/// How far the sender is. Sent periodically and to a peer that connects: what a lost connection lost
/// is found out from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Membership.
    pub view: ViewId,
    /// Installed regency.
    pub regency: Regency,
    /// The regency that the sender wants; equal to `regency` when it is content. A wish that is not
    /// repeated here is withdrawn (rule SYNC.3).
    pub wanted: Regency,
    /// Is the sender waiting for the SYNC of `regency`?
    pub stopped: bool,
    /// Last instance decided.
    pub decided: ConsensusId,
    /// Oldest decision the sender can still send; `decided + 1` when it keeps none.
    pub log_start: ConsensusId,
    /// In instance `decided + 1`: whose WRITEs and ACCEPTs of the current epoch the sender has. Peers
    /// send theirs again when they are missing, and those for the instances above it.
    pub written: ReplicaSet,
    /// See `written`.
    pub accepted: ReplicaSet,
    /// Bit i: does the sender have the proposal of instance `decided + 1 + i` in the current epoch?
    pub proposed: u32,
    /// Bit i: does the sender know what instance `decided + 1 + i` decided, though it has not delivered
    /// it yet? Then nobody need tell it.
    pub learned: u32,
}

/// "Send me decisions `from ..= to`."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Membership.
    pub view: ViewId,
    /// First instance.
    pub from: ConsensusId,
    /// Last instance.
    pub to: ConsensusId,
    /// With the batches, or only the claims? One peer is asked for bytes, all for claims.
    pub with_batches: bool,
}

/// "Instance `at.cid` decided `digest` in epoch `at.epoch`." f + 1 such claims of distinct members
/// make a decision (rule LAG.2).
#[derive(Clone, Debug)]
pub struct Decided<P> {
    /// Instance and epoch.
    pub at: Position,
    /// The value.
    pub digest: Digest,
    /// Its bytes, if asked for.
    pub batch: Option<Batch<P>>,
}

/// "Send me the batch with this digest." For a value that is certified, decided or bound (LAG.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchBatch {
    /// Membership.
    pub view: ViewId,
    /// Instance that the batch was proposed in.
    pub cid: ConsensusId,
    /// Which batch.
    pub digest: Digest,
}

/// The answer to [`FetchBatch`]. Proves itself by its digest.
#[derive(Clone, Debug)]
pub struct BatchBody<P> {
    /// Membership.
    pub view: ViewId,
    /// Instance that the batch was proposed in.
    pub cid: ConsensusId,
    /// The batch.
    pub batch: Batch<P>,
}

/// "Send me these bodies of the proposal." (Rule BODY.4)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchBodies {
    /// Instance and epoch of the proposal.
    pub at: Position,
    /// The proposal.
    pub digest: Digest,
    /// The places in it of the requests whose bodies the sender lacks.
    pub which: Selection,
}

/// The answer to [`FetchBodies`]. Each body proves itself by the digest that the proposal names.
#[derive(Clone, Debug)]
pub struct Bodies<P> {
    /// Instance and epoch of the proposal.
    pub at: Position,
    /// The proposal.
    pub digest: Digest,
    /// The requests, in the order of the proposal.
    pub requests: Batch<P>,
}

/// What one replica says to another.
#[derive(Clone, Debug)]
pub enum Message<P> {
    /// Requests that timed out once at the sender.
    Forwarded(Batch<P>),
    /// The leader's value.
    Propose(Propose<P>),
    /// The leader's value without some of its bodies.
    ProposeSparse(ProposeSparse<P>),
    /// First vote.
    Write(Vote),
    /// Second vote.
    Accept(Vote),
    /// A proposal holds requests that do not convince the sender.
    Refuse(Refuse),
    /// Next regency, please.
    Stop(Stop<P>),
    /// State for the new leader. Boxed: a state is large and rare, and every message is moved often.
    StopData(Box<SignedState>),
    /// The new leader's collection.
    Sync(Sync),
    /// How far the sender is.
    Status(Status),
    /// Asks for decisions.
    Fetch(Fetch),
    /// A decision.
    Decided(Decided<P>),
    /// Asks for a batch by its digest.
    FetchBatch(FetchBatch),
    /// A batch.
    BatchBody(BatchBody<P>),
    /// Asks for bodies that a proposal left out.
    FetchBodies(FetchBodies),
    /// Bodies that a proposal left out.
    Bodies(Bodies<P>),
    /// Asks for checkpoints.
    FetchState(FetchState),
    /// Checkpoints that the sender has.
    StateOffer(StateOffer),
    /// Asks for chunks of a checkpoint.
    FetchChunks(FetchChunks),
    /// A chunk of a checkpoint.
    Chunk(Chunk<P>),
}

impl<P> Message<P> {
    /// The kind on the wire.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Forwarded(_) => kind::FORWARDED,
            Self::Propose(_) | Self::ProposeSparse(_) => kind::PROPOSE,
            Self::Write(_) => kind::WRITE,
            Self::Accept(_) => kind::ACCEPT,
            Self::Refuse(_) => kind::REFUSE,
            Self::Stop(_) => kind::STOP,
            Self::StopData(_) => kind::STOPDATA,
            Self::Sync(_) => kind::SYNC,
            Self::Status(_) => kind::STATUS,
            Self::Fetch(_) => kind::FETCH,
            Self::Decided(_) => kind::DECIDED,
            Self::FetchBatch(_) => kind::FETCH_BATCH,
            Self::BatchBody(_) => kind::BATCH_BODY,
            Self::FetchBodies(_) => kind::FETCH_BODIES,
            Self::Bodies(_) => kind::BODIES,
            Self::FetchState(_) => kind::FETCH_STATE,
            Self::StateOffer(_) => kind::STATE_OFFER,
            Self::FetchChunks(_) => kind::FETCH_CHUNKS,
            Self::Chunk(_) => kind::CHUNK,
        }
    }
}
