//! The form of `replica-N.toml`.
//!
//! Owns the names of its fields and what holds where one is left out. Always true: a field that does not exist is
//! refused. Must not: judge values.

use serde::{Deserialize, Serialize};
use tetrarch_consensus::limits::{
    BATCH_REQUESTS_MAX, BATCH_SIZE_MAX, CHUNK_RATE, INLINE_BODY_MAX, PENDING_MAX, PENDING_SIZE_MAX,
    STATE_SIZE_MAX,
};
use tetrarch_dataplane::stage::IdlePolicy;
use tetrarch_dataplane::storage::LogConfig;
use tetrarch_dataplane::transport::choice::TransportKind;

use super::MIB;
use crate::budget::Sizes;
use crate::placement::idle_name;

/// `replica-N.toml`.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct ReplicaFile {
    /// Which replica this file is for.
    pub id: u16,
    /// `kv`, `maplist` or `null`.
    pub service: String,
    /// 32 hexadecimal digits, the same for all replicas; clients should not know it.
    #[serde(default = "default_seed")]
    pub service_seed: String,
    /// Private keys, relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Where the replica remembers that it ran and keeps its log, relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// Where to listen, if not at the address in `cluster.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Where to serve metrics and status.
    pub metrics: String,
    /// How long the oldest request may wait before the leader is suspected, ms. The one timeout.
    #[serde(default = "default_timeout")]
    pub request_timeout_ms: u64,
    /// What survives when replicas go down: `volatile` or `durable`.
    #[serde(default = "default_durability")]
    pub durability: String,
    /// What moves the bytes: `auto`, `io_uring` or `tcp`.
    #[serde(default = "default_transport")]
    pub transport: String,
    /// The log of a durable replica.
    #[serde(default, skip_serializing_if = "LogFile::is_default")]
    pub log: LogFile,
    /// Checkpoints on their way between replicas.
    #[serde(default, skip_serializing_if = "TransferFile::is_default")]
    pub transfer: TransferFile,
    /// What only io_uring does.
    #[serde(default, skip_serializing_if = "IoUringFile::is_default")]
    pub io_uring: IoUringFile,
    /// Where stages run.
    #[serde(default)]
    pub placement: PlacementFile,
    /// Limits.
    #[serde(default)]
    pub limits: LimitsFile,
}

fn default_seed() -> String {
    "0".repeat(32)
}

fn default_timeout() -> u64 {
    2000
}

fn default_durability() -> String {
    "volatile".into()
}

/// `[log]`. Ignored by a volatile replica.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct LogFile {
    /// Size of one file of the log, MiB.
    pub segment_mib: usize,
    /// Bytes that are written and synced at once at most, MiB. Three such buffers are reserved.
    pub group_mib: usize,
    /// What reaches the disk: `auto`, `direct` (O_DIRECT), `io_uring` (with O_DIRECT) or `plain`.
    pub access: String,
    /// What taking a checkpoint may stop execution for before operators are told, ms.
    pub checkpoint_pause_max_ms: u64,
}

impl Default for LogFile {
    fn default() -> Self {
        let LogConfig { segment_size, group_size_max, .. } = LogConfig::default();
        Self {
            segment_mib: segment_size as usize / MIB,
            group_mib: group_size_max / MIB,
            access: "auto".into(),
            checkpoint_pause_max_ms: 1000,
        }
    }
}

impl LogFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[transfer]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct TransferFile {
    /// How much of its checkpoints this replica sends to the others in a second, MiB; 0: as much as it can.
    pub rate_mib: usize,
    /// Likewise to one of them.
    pub peer_rate_mib: usize,
    /// The largest image of a state that this replica fetches, GiB.
    pub state_max_gib: u64,
}

impl Default for TransferFile {
    fn default() -> Self {
        let rate_mib = CHUNK_RATE as usize / MIB;
        Self { rate_mib, peer_rate_mib: rate_mib, state_max_gib: STATE_SIZE_MAX >> 30 }
    }
}

impl TransferFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn default_transport() -> String {
    TransportKind::default().name().into()
}

/// `[io_uring]`. Ignored where another transport is used.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct IoUringFile {
    /// Messages of this many bytes or more are transmitted without a copy; left out: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy_from: Option<usize>,
    /// How long a parked core polls the network device before it sleeps, us; left out: not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub napi_busy_poll_us: Option<u64>,
}

impl IoUringFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[placement]`.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementFile {
    /// `fused`, `spread`, or `table` for what `core` says.
    pub layout: String,
    /// `park`, `adaptive` or `spin`.
    pub idle: String,
    /// Processors to pin to; empty: none. Of the spread layout their number says how many there are.
    pub cores: Vec<usize>,
    /// The table: one entry for each core.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub core: Vec<CoreFile>,
}

/// `[[placement.core]]`.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct CoreFile {
    /// Names of stages: `network`, `ingress`, `ordering`, `execution`.
    pub stages: Vec<String>,
    /// The processor to pin to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<usize>,
}

impl Default for PlacementFile {
    fn default() -> Self {
        Self {
            layout: "fused".into(),
            idle: idle_name(IdlePolicy::Park).into(),
            cores: Vec::new(),
            core: Vec::new(),
        }
    }
}

/// `[limits]`.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsFile {
    /// Requests per batch.
    pub batch_requests_max: usize,
    /// Encoded bytes per batch.
    pub batch_size_max: usize,
    /// Bytes of the largest request bodies that a leader sends inside proposals; larger ones are left
    /// out, because the clients sent them to all. 0: all are left out.
    pub inline_body_max: usize,
    /// Requests that may be pending. Beyond that only the next two of each session are admitted, and
    /// clients are told Busy; a replica that does not lead has room for as many again.
    pub pending_max: usize,
    /// Likewise MiB of requests; never more than a sixteenth of `frames_mib`.
    pub pending_mib: usize,
    /// Sessions of one client.
    pub sessions_per_client_max: u32,
    /// Memory for messages in flight, MiB.
    pub frames_mib: usize,
    /// Decisions kept to help replicas that are behind, MiB.
    pub decision_log_mib: usize,
    /// Where memory for kept replies was sized before `cluster.toml` said it: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_cache_mib: Option<usize>,
    /// How far ahead of this clock a proposed time may be, ms.
    pub clock_skew_max_ms: u64,
    /// Connections that have not proved who they are, at a time.
    pub unauthenticated_connections_max: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        let sizes = Sizes::default();
        Self {
            batch_requests_max: BATCH_REQUESTS_MAX,
            batch_size_max: BATCH_SIZE_MAX,
            inline_body_max: INLINE_BODY_MAX,
            pending_max: PENDING_MAX,
            pending_mib: PENDING_SIZE_MAX / MIB,
            sessions_per_client_max: 4096,
            frames_mib: sizes.frames_size / MIB,
            decision_log_mib: sizes.decision_log_size / MIB,
            reply_cache_mib: None,
            clock_skew_max_ms: 1000,
            unauthenticated_connections_max: 128,
        }
    }
}
