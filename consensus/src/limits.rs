//! Every maximum of the protocol core, with its reason.

/// Members of a view: one bit each in a `u64`.
pub const REPLICAS_MAX: usize = 64;

/// Bytes of a member's address: a name of the DNS has fewer, and a port behind it.
pub const ADDRESS_SIZE_MAX: usize = 255;

/// Requests in one batch: the selection mask of a batch is an array of this many bits.
pub const BATCH_REQUESTS_MAX: usize = 1024;

/// Encoded bytes of one batch. Bounds the largest frame.
pub const BATCH_SIZE_MAX: usize = 1024 * 1024;

/// Bytes of one operation. A batch must hold several, or one client could fill every batch.
pub const OPERATION_SIZE_MAX: usize = 256 * 1024;

/// Bytes of one result. Larger than an operation, as a request may ask for several values; bounds
/// what a reply cache keeps and the largest frame of a reply.
pub const RESULT_SIZE_MAX: usize = 1024 * 1024;

/// Bytes of a result that every member sends in full: a digest in its place would cost another hash
/// and save fewer bytes than that hash costs to send.
pub const FULL_RESULT_SIZE_MAX: usize = 128;

/// Bytes of a notice (rule CLI.13) at most: clients keep copies of those that others have not confirmed yet.
pub const NOTICE_SIZE_MAX: usize = 4096;

/// Notices that a batch may give rise to. As many as it has requests at most: an answer and a notice for each.
pub const NOTICES_MAX: usize = BATCH_REQUESTS_MAX;

/// Bytes of one entry of a client's MAC vector.
pub const MAC_SIZE: usize = 16;

/// Bytes of a client's signature.
pub const SIGNATURE_SIZE: usize = 64;

/// Bytes of the proof after a request body: a MAC for each replica, or a signature.
pub const REQUEST_PROOF_SIZE_MAX: usize = MAC_SIZE * REPLICAS_MAX;

/// Requests that a STOP or FORWARDED carries. More are sent in the next one.
pub const REQUEST_LIST_MAX: usize = 64;

/// Instances that may be open at once: one bit each in the `u32` of a STATUS, and few enough that the
/// states of a SYNC fit into a frame.
pub const DEPTH_MAX: usize = 32;

/// (epoch, digest) pairs of a write set: only epochs that failed while their proposals differed add
/// pairs, a pair whose digest is written again is replaced, and what a certificate has overtaken is
/// dropped (rules SYNC.6, SYNC.12).
pub const WRITE_SET_MAX: usize = 32;

/// Pairs of the write set of each of `depth` open instances: together they bound a signed state to
/// about a kilobyte at depth 1, and to 13 kilobytes at the largest.
pub const fn write_set_max(depth: usize) -> usize {
    let share = WRITE_SET_MAX / depth;
    if share > 8 { share } else { 8 }
}

/// Bytes of the largest request bodies that travel inside proposals, by default: none does. To hash and
/// check a body again costs more than to find the request that its client has sent.
pub const INLINE_BODY_MAX: usize = 0;

/// Encoded bytes of the bodies that one member is sent in one patience, about: as many as a batch holds.
pub const BODIES_SIZE_MAX: usize = BATCH_SIZE_MAX;

/// Timeouts for which a leader remembers which clients' bodies members lack: long against the patience
/// that a proposal waits when it forgets too early.
pub const LACKING_TIMEOUTS: u32 = 64;

/// Unexecuted requests of one session at most: the client's window.
pub const SESSION_WINDOW: usize = 64;

/// Requests of one session, from its last executed one on, that a replica takes in: several windows,
/// because a client whose requests were answered by others goes on while a slower replica has not
/// decided them, and its bodies would be missing there for every following proposal.
pub const ADMISSION_WINDOW: usize = 4 * SESSION_WINDOW;

/// Encoded bytes of one client's pending requests, all its sessions together: what a client that
/// floods can make a replica hold.
pub const PENDING_SIZE_PER_CLIENT_MAX: usize = 16 * 1024 * 1024;

/// Requests pending, by default, before only the next two of each session are taken in: sixteen of the
/// largest batches, more than a cluster orders between two messages of a client, and less than it
/// orders in the time after which clients ask again.
pub const PENDING_MAX: usize = 16 * BATCH_REQUESTS_MAX;

/// Encoded bytes, likewise. A node with few frames allows less.
pub const PENDING_SIZE_MAX: usize = 32 * 1024 * 1024;

/// Decisions that are kept to help others, unless their bytes reach the configured size first: half a
/// minute of the fastest cluster measured, as an index of about five megabytes.
pub const DECISION_LOG_MAX: usize = 65_536;

/// Encoded bytes of the kept decisions, by default.
pub const DECISION_LOG_SIZE_MAX: usize = 64 * 1024 * 1024;

/// Decisions one FETCH asks for at most: enough that one that is behind learns faster than the others
/// decide, few enough that answering does not starve ordering.
pub const FETCH_MAX: u64 = 64;

/// Encoded bytes of decisions that one FETCH is answered with, about: later ones are only claimed.
pub const FETCH_SIZE_MAX: usize = 1024 * 1024;

/// Bytes that one member is sent in a patience because it asks or lags, besides twice what is decided in
/// that time: eight of the largest answers, so that a member that is behind learns as fast as it can, and
/// one that only asks takes a small part of what a replica can send.
pub const HELP_SIZE_MAX: u64 = 8 * FETCH_SIZE_MAX as u64;

/// What a small message counts in that, in bytes: about as long it takes to make and to send.
pub const HELP_WEIGHT: u64 = 4096;

/// Instances ahead of the open one for which claims are counted: several FETCHes, so that the next
/// ones are answered while the first is used up.
pub const CLAIMS_MAX: u64 = 4 * FETCH_MAX;

/// Instances ahead of the open one whose proposals and refusals are kept, for each member.
pub const OUT_OF_CONTEXT_MAX: u64 = 256;

/// Encoded bytes of the proposals that are kept for each member.
pub const OUT_OF_CONTEXT_SIZE_MAX: usize = 8 * 1024 * 1024;

/// Instances ahead of the open one whose votes are kept, for each member: connections are read one
/// after the other, so many votes of one may come before a proposal of another.
pub const OUT_OF_CONTEXT_VOTES_MAX: u64 = 1024;

/// Decided instances that may wait for execution before no new one is started.
pub const EXECUTION_LAG_MAX: u64 = 8;

/// Last decisions that a state names: two for each instance that may be open (rule SYNC.5). As many
/// levels can the choice of a SYNC bind.
pub const fn decisions_told(depth: usize) -> usize {
    2 * depth
}

/// Requests that make a batch worth its votes while others are under way (rule SMR.5): a replica reads
/// and sends about three small messages for each member and batch, so with these many requests they
/// are a small part of what it does.
pub const BATCH_WORTH_REQUESTS: usize = 64;

/// Encoded bytes that make a batch worth its votes.
pub const BATCH_WORTH_SIZE: usize = 64 * 1024;

/// Requests of clients that one step takes in at most: a burst.
pub const REQUESTS_PER_STEP_MAX: usize = 64;

/// Bytes of one chunk of a checkpoint's image: a frame of the largest class but one, and 8192 leaves for 2 GiB.
pub const CHUNK_SIZE_MAX: usize = 256 * 1024;

/// Bytes of the largest image that a replica takes from others, by default. What it needs at once for a larger one
/// is a bit for each chunk.
pub const STATE_SIZE_MAX: u64 = 64 << 30;

/// Bytes of chunks in a second that a replica sends, by default.
pub const CHUNK_RATE: u64 = 64 << 20;

/// Digests on the path from a chunk to the root: enough for 2^31 chunks. What is sent with a chunk's bytes is a KiB
/// then, as much as a proof may have on a link.
pub const CHUNK_PATH_MAX: usize = 31;

/// Chunks that a FETCH_CHUNKS asks for at most: a MiB, so that the questions are few.
pub const CHUNKS_PER_FETCH_MAX: usize = 4;

/// Chunks that one member may owe: twice as many, so that it always has something to send.
pub const CHUNKS_PER_SOURCE_MAX: usize = 2 * CHUNKS_PER_FETCH_MAX;

/// Chunks that a replica has asked for, or got and not stored yet: eight MiB.
pub const CHUNKS_UNDER_WAY_MAX: usize = 32;

/// Chunks that one member may wait for at another: all it may be owed, asked for twice.
pub const CHUNKS_QUEUED_MAX: usize = 2 * CHUNKS_PER_SOURCE_MAX;

/// Checkpoints that a member offers at once: the two that it keeps, and an older one that is being fetched.
pub const OFFERS_MAX: usize = 3;

/// Actions that one step can append at most: for each instance that may be open a claim, a proposal
/// and two votes that a member lacks, and again a proposal, two votes and a delivery; or an answer to
/// each request instead of the former.
pub const ACTIONS_MAX: usize = 512;
