//! What a core is told when it starts: the view, who it is, and one timeout.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::limits::{
    BATCH_REQUESTS_MAX, BATCH_SIZE_MAX, CHUNK_RATE, CHUNK_SIZE_MAX, DECISION_LOG_MAX,
    DECISION_LOG_SIZE_MAX, INLINE_BODY_MAX, MAC_SIZE, PENDING_MAX, PENDING_SIZE_MAX, REPLICAS_MAX,
    SIGNATURE_SIZE, STATE_SIZE_MAX,
};
use crate::membership::Membership;
use crate::quorum::Quorums;
use crate::{ReplicaId, ViewId};

/// Which faults the cluster tolerates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultModel {
    /// f replicas do anything at all; n >= 3f + 1.
    Byzantine,
    /// f replicas stop; n >= 2f + 1. No WRITE phase, majority quorums.
    Crash,
}

/// A membership: who votes, and how many of them may be faulty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    id: ViewId,
    members: Vec<ReplicaId>,
    quorums: Quorums,
}

/// Why a membership is impossible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViewError {
    /// A member is listed twice.
    Repeated(ReplicaId),
    /// Fewer members than the fault model needs for `f`.
    TooFew {
        /// Members given.
        n: usize,
        /// Faults to tolerate.
        f: usize,
        /// Members needed.
        needed: usize,
    },
    /// More than [`REPLICAS_MAX`] members.
    TooMany(usize),
}

impl fmt::Display for ViewError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated(id) => write!(out, "replica {id} is listed twice"),
            Self::TooFew { n, f, needed } => {
                write!(out, "{n} replicas cannot tolerate f = {f}: at least {needed} are needed")
            }
            Self::TooMany(n) => write!(out, "{n} replicas are more than {REPLICAS_MAX}"),
        }
    }
}

impl core::error::Error for ViewError {}

impl View {
    /// A view of `members` (in any order) that tolerates `f` faults.
    ///
    /// # Errors
    /// [`ViewError`] names the member or the number that is wrong.
    pub fn new(
        id: ViewId,
        mut members: Vec<ReplicaId>,
        f: usize,
        model: FaultModel,
    ) -> Result<Self, ViewError> {
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ViewError::Repeated(pair[0]));
        }
        if members.len() > REPLICAS_MAX {
            return Err(ViewError::TooMany(members.len()));
        }
        let quorums = Quorums::new(members.len(), f, model)?;
        Ok(Self { id, members, quorums })
    }

    /// Which membership this is.
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// Members, ascending.
    pub fn members(&self) -> &[ReplicaId] {
        &self.members
    }

    /// How many members.
    pub fn n(&self) -> usize {
        self.members.len()
    }

    /// All thresholds.
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    /// Position of `id` in the member list; `None` when it is not a member.
    pub fn index_of(&self, id: ReplicaId) -> Option<usize> {
        self.members.binary_search(&id).ok()
    }

    /// Bytes of the largest proof that a client may use in this view: a MAC vector or a signature.
    pub fn request_proof_size_max(&self) -> usize {
        (MAC_SIZE * self.members.len()).max(SIGNATURE_SIZE)
    }

    /// The leader of `regency`: an index into the sorted member list, never an id computed by
    /// arithmetic, so that views with gaps work (rule SMR.2).
    pub fn leader(&self, regency: crate::Regency) -> ReplicaId {
        self.members[regency.0 as usize % self.members.len()]
    }
}

/// Everything a replica's core needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this replica is. Must be a member of `view`.
    pub id: ReplicaId,
    /// The view in which it starts: the first one; or for a member that joins, the later one that names
    /// it.
    pub view: View,
    /// The membership of the first view, if others may follow it; `None`: there is no View Manager, and
    /// no view follows (rule VIEW.1).
    pub first: Option<Box<Membership>>,
    /// How long a request may be the oldest pending one without any progress before the replica
    /// forwards it, and again before it asks for another leader. The one timeout: every other
    /// period is derived from it (rule TIME.6).
    pub request_timeout: Duration,
    /// Instances that may be open at the same time, 1 to `DEPTH_MAX`. The same for all members: what a
    /// state tells, and what a choice is made of, depends on it (rules SMR.1, SYNC.8).
    pub depth: usize,
    /// A checkpoint every so many decisions, if records are made; 0: none. Two for each instance of the
    /// depth at least, and the same for all members (rule CKP.1).
    pub checkpoint_every: u64,
    /// Requests per batch at most.
    pub batch_requests_max: usize,
    /// Encoded bytes per batch at most.
    pub batch_size_max: usize,
    /// Request bodies up to so many bytes travel inside proposals; larger ones are left out (rule
    /// BODY.1). 0: all are left out.
    pub inline_body_max: usize,
    /// Sessions of one client at most: ids above are refused, so the session table is bounded by
    /// the client list times this.
    pub sessions_per_client_max: u32,
    /// Requests that may be pending before only the next two of each session are taken in.
    pub pending_max: usize,
    /// Encoded bytes, likewise.
    pub pending_size_max: usize,
    /// Clients in the cluster's client list.
    pub clients_max: u32,
    /// How far ahead of the local clock a proposed timestamp may be.
    pub clock_skew_max: Duration,
    /// Encoded bytes of decisions kept to help members that are behind; two of the largest batches
    /// at least. Reserved at the start.
    pub decision_log_size: usize,
    /// Bytes of a chunk of a checkpoint's image, 1 to `CHUNK_SIZE_MAX`. The same for all members: a root
    /// depends on it (rule ST.2).
    pub chunk_size: usize,
    /// Bytes of the largest image that this replica takes from others (rule ST.1).
    pub state_size_max: u64,
    /// Bytes of chunks in a second that this replica sends to all others together (rule ST.4).
    pub chunk_rate: u64,
    /// Decisions kept for that beside those above the older checkpoint, up to `DECISION_LOG_MAX` in all. Who
    /// lacks more gets a checkpoint (rule ST.1).
    pub decision_log_max: usize,
    /// The replica ran before and lost its memory: it must not vote in any instance it may have
    /// voted in already (rule LAG.5).
    pub restarted: bool,
    /// Protocol checks. All on, except in tests that prove that the simulator notices.
    pub(crate) checks: Checks,
}

impl Config {
    /// The defaults for member `id` of `view`.
    pub fn new(id: ReplicaId, view: View) -> Self {
        Self {
            id,
            view,
            first: None,
            request_timeout: Duration::from_secs(2),
            depth: 1,
            checkpoint_every: 0,
            batch_requests_max: BATCH_REQUESTS_MAX,
            batch_size_max: BATCH_SIZE_MAX,
            inline_body_max: INLINE_BODY_MAX,
            sessions_per_client_max: 4096,
            pending_max: PENDING_MAX,
            pending_size_max: PENDING_SIZE_MAX,
            clients_max: 64,
            clock_skew_max: Duration::from_secs(1),
            decision_log_size: DECISION_LOG_SIZE_MAX,
            decision_log_max: DECISION_LOG_MAX,
            chunk_size: CHUNK_SIZE_MAX,
            state_size_max: STATE_SIZE_MAX,
            chunk_rate: CHUNK_RATE,
            restarted: false,
            checks: Checks::ALL,
        }
    }

    /// The same configuration without one of the protocol's checks. For tests that prove that the
    /// simulator's checkers can fail.
    #[cfg(any(test, feature = "mutants"))]
    #[must_use]
    pub fn without(mut self, check: Check) -> Self {
        match check {
            Check::Validity => self.checks.validity = false,
            Check::VotesPerDigest => self.checks.votes_per_digest = false,
            Check::ProofBinding => self.checks.proof_binding = false,
            Check::StopDataValidation => self.checks.stop_data_validation = false,
            Check::DuplicateSuppression => self.checks.duplicate_suppression = false,
            Check::BodyDigests => self.checks.body_digests = false,
            Check::OfferQuorum => self.checks.offer_quorum = false,
            Check::ChunkRoots => self.checks.chunk_roots = false,
            Check::Handover => self.checks.handover = false,
            Check::ViewQuorums => self.checks.view_quorums = false,
        }
        self
    }
}

/// A check that a test can switch off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// gamma before WRITE.
    Validity,
    /// Votes counted per digest.
    VotesPerDigest,
    /// Claims and proofs bound to view, instance, epoch and digest.
    ProofBinding,
    /// STOPDATA validated by the leader, and again inside SYNC by everybody.
    StopDataValidation,
    /// A repeated request is kept out of batches (VAL.1) and skipped at execution (SMR.9).
    DuplicateSuppression,
    /// Bodies that complete a proposal compared by digest (BODY.2).
    BodyDigests,
    /// An image counts when one-correct members offer it (ST.1).
    OfferQuorum,
    /// Chunks compared by the root that they imply (ST.2).
    ChunkRoots,
    /// A view is entered when enough members are known to have its beginning (VIEW.5).
    Handover,
    /// The thresholds of the view that votes are for, not of the one before (VIEW.6).
    ViewQuorums,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    pub(crate) validity: bool,
    pub(crate) votes_per_digest: bool,
    pub(crate) proof_binding: bool,
    pub(crate) stop_data_validation: bool,
    pub(crate) duplicate_suppression: bool,
    pub(crate) body_digests: bool,
    pub(crate) offer_quorum: bool,
    pub(crate) chunk_roots: bool,
    pub(crate) handover: bool,
    pub(crate) view_quorums: bool,
}

impl Checks {
    const ALL: Checks = Checks {
        validity: true,
        votes_per_digest: true,
        proof_binding: true,
        stop_data_validation: true,
        duplicate_suppression: true,
        body_digests: true,
        offer_quorum: true,
        chunk_roots: true,
        handover: true,
        view_quorums: true,
    };
}
