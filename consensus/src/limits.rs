//! Every maximum of the protocol core, with its reason.

/// Members of a view: one bit each in a `u64`.
pub const REPLICAS_MAX: usize = 64;

/// Requests in one batch: the selection mask of a batch is an array of this many bits.
pub const BATCH_REQUESTS_MAX: usize = 1024;

/// Encoded bytes of one batch. Bounds the largest frame.
pub const BATCH_SIZE_MAX: usize = 1024 * 1024;

/// Bytes of one operation. A batch must hold several, or one client could fill every batch.
pub const OPERATION_SIZE_MAX: usize = 256 * 1024;

/// Bytes of one result. Larger than an operation, as a request may ask for several values; bounds
/// what a reply cache keeps and the largest frame of a reply.
pub const RESULT_SIZE_MAX: usize = 1024 * 1024;

/// Bytes of the proof after a request body: 2 bytes of header and 16 a replica, or a signature.
pub const REQUEST_PROOF_SIZE_MAX: usize = 2 + 16 * REPLICAS_MAX;

/// Requests that a STOP or FORWARDED carries. More are sent in the next one.
pub const REQUEST_LIST_MAX: usize = 64;

/// (epoch, digest) pairs of a write set: only epochs that failed while their proposals differed add
/// pairs, a pair whose digest is written again is replaced, and what a certificate has overtaken is
/// dropped (rules SYNC.6, SYNC.12). Bounds a signed state to about a kilobyte.
pub const WRITE_SET_MAX: usize = 32;

/// Unexecuted requests of one session at most: the client's window.
pub const SESSION_WINDOW: usize = 64;

/// Encoded bytes of one client's pending requests, all its sessions together: what a client that
/// floods can make a replica hold.
pub const PENDING_SIZE_PER_CLIENT_MAX: usize = 16 * 1024 * 1024;

/// Decisions that are kept to help others, unless their bytes reach `DECISION_LOG_SIZE_MAX` first.
pub const DECISION_LOG_MAX: usize = 1024;

/// Encoded bytes of the kept decisions.
pub const DECISION_LOG_SIZE_MAX: usize = 32 * 1024 * 1024;

/// Decisions one FETCH asks for at most: answering must not starve ordering.
pub const FETCH_MAX: u64 = 16;

/// Encoded bytes of decisions that one FETCH is answered with, about: later ones are only claimed.
pub const FETCH_SIZE_MAX: usize = 4 * 1024 * 1024;

/// Messages kept for the next instance or a later regency, for each peer.
pub const OUT_OF_CONTEXT_MAX: usize = 64;

/// How many of them may be proposals, which are large.
pub const OUT_OF_CONTEXT_PROPOSALS_MAX: usize = 2;

/// Decided instances that may wait for execution before no new one is started.
pub const EXECUTION_LAG_MAX: u64 = 8;

/// Levels that the choice of a SYNC can bind: two (rule SYNC.8), and a margin that is never used.
pub const SYNC_LEVELS_MAX: usize = 4;

/// Actions that one step can append at most.
pub const ACTIONS_MAX: usize = 256;
