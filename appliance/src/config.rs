//! `replica-N.toml`, and everything that is checked before a replica starts.
//!
//! Owns the plan made of the file. Always true: a plan is valid as a whole, so nothing
//! later fails for configuration's sake; each error names file, field, value and remedy. Must not:
//! guess what was meant.

mod file;
mod placement;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use file::{
    CoreFile, IoUringFile, LimitsFile, LogFile, PlacementFile, ReplicaFile, TransferFile,
};
use tetrarch_client::cluster::{Cluster, ClusterError, Member, PrivateKeys, parse_toml};
use tetrarch_consensus::limits::{
    BATCH_REQUESTS_MAX, BATCH_SIZE_MAX, OPERATION_SIZE_MAX, SESSION_WINDOW,
};
use tetrarch_consensus::membership::Membership;
use tetrarch_consensus::{Config, ReplicaId, ViewId};
use tetrarch_dataplane::crypto::keys::hex_decode;
use tetrarch_dataplane::storage::LogConfig;
use tetrarch_dataplane::storage::file::Access;
use tetrarch_dataplane::transport::choice::TransportChoice;

use crate::budget::Sizes;
use crate::checkpoint::transfer::Rates;
use crate::info;
use crate::placement::Placement;
use crate::ports;
use crate::recovery::{CheckpointPlan, LOG_GROUP_SIZE_MIN, LogPlan, checkpoints_path, log_path};
use crate::service::{self, Seed, ServiceKind};
use crate::view::kept::newest_known;
use crate::view::keys::{key_name, next_key_name};

/// The error of every check.
pub type ConfigError = ClusterError;

const MIB: usize = 1024 * 1024;

/// More than any network moves.
const RATE_MIB_MAX: usize = 1 << 20;

/// Everything a replica needs to start, checked.
#[derive(Debug)]
pub struct Plan {
    /// Which replica.
    pub id: ReplicaId,
    /// The view that `cluster.toml` describes.
    pub listed: ViewId,
    /// The public part of the cluster, in the newest view that this replica knows of.
    pub cluster: Cluster,
    /// This replica's private keys.
    pub keys: PrivateKeys,
    /// Those before them, or those that a later view may name.
    pub other_keys: Option<PrivateKeys>,
    /// What it replicates.
    pub service: ServiceKind,
    /// The seed that all replicas of the cluster give their service.
    pub service_seed: Seed,
    /// Where it listens for members and clients.
    pub listen: SocketAddr,
    /// Where it serves metrics and status.
    pub metrics: SocketAddr,
    /// Where it remembers that it ran, and keeps its log.
    pub data_dir: PathBuf,
    /// Its log; `None`: it is volatile.
    pub log: Option<LogPlan>,
    /// Its checkpoints, if the cluster takes any.
    pub checkpoints: CheckpointPlan,
    /// What moves the bytes.
    pub transport: TransportChoice,
    /// Where stages run.
    pub placement: Placement,
    /// What its memory is sized by.
    pub sizes: Sizes,
    /// What the core is told.
    pub core: Config,
    /// Connections that have not proved who they are, at a time.
    pub half_open_max: usize,
}

/// Name of the file of replica `id`.
pub fn replica_file_name(id: u16) -> String {
    format!("replica-{id}.toml")
}

/// Loads `replica-ID.toml` without checking it against the cluster: `status` needs its address only.
///
/// # Errors
/// It cannot be read or has fields that do not exist.
pub fn load_replica_file(directory: &Path, id: u16) -> Result<(PathBuf, ReplicaFile), ConfigError> {
    let file = directory.join(replica_file_name(id));
    let text = std::fs::read_to_string(&file).map_err(|error| {
        ConfigError::new(
            &file,
            "",
            "",
            format!("cannot read: {error}"),
            "name a replica of this cluster directory with --id",
        )
    })?;
    let parsed = parse_toml(&text, &file)?;
    Ok((file, parsed))
}

/// Where the replica of a file remembers that it ran, and keeps its log.
pub fn data_dir(directory: &Path, file: &ReplicaFile) -> PathBuf {
    let default = || format!("replica-{}.data", file.id);
    directory.join(file.data_dir.clone().unwrap_or_else(default))
}

/// What a replica's file says about where it runs, checked: for somebody without its keys.
#[derive(Debug)]
pub struct PlacementPlan {
    /// Which replica.
    pub id: u16,
    /// Where stages run.
    pub placement: Placement,
    /// What its memory is sized by.
    pub sizes: Sizes,
}

impl PlacementPlan {
    /// Loads it from the file of replica `id` of the cluster directory.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(directory: &Path, id: u16) -> Result<Self, ConfigError> {
        let (file, raw) = load_replica_file(directory, id)?;
        let cluster = Cluster::load(directory)?;
        let check = Check { file: &file, directory };
        let sizes = check.sizes(&raw.limits, &cluster)?;
        Ok(Self { id, placement: check.placement(&raw.placement)?, sizes })
    }
}

impl Plan {
    /// Loads and checks everything that replica `id` of the cluster directory needs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(directory: &Path, id: u16) -> Result<Self, ConfigError> {
        let cluster = Cluster::load(directory)?;
        let (file, raw) = load_replica_file(directory, id)?;
        let data_dir = data_dir(directory, &raw);
        let listed = cluster.view_id;
        let cluster = newest_known(cluster, &data_dir)?;
        let check = Check { file: &file, directory };
        if raw.id != id {
            return Err(check.wrong(
                "id",
                raw.id,
                format!("this file is for replica {id}, by its name"),
                "restore the file of this replica; copying another one's makes two with one id",
            ));
        }
        let Some(member) = cluster.member(ReplicaId(id)) else {
            return Err(check.wrong(
                "id",
                id,
                format!("it is no member of view {} of the cluster in cluster.toml", cluster.view_id),
                "let the View Manager add it (`tetrarch view add`) and bring the new cluster.toml here; --join \
                 waits for that; or use another --id",
            ));
        };
        let (keys, other_keys) = check.keys(&raw, member)?;
        let service = check.service(&raw.service)?;
        let service_seed = check.seed(&raw.service_seed)?;
        let listen = check.address("listen", raw.listen.as_ref().unwrap_or(&member.address))?;
        let metrics = check.address("metrics", &raw.metrics)?;
        if listen == metrics {
            return Err(check.wrong(
                "metrics",
                metrics,
                "the same address as the one for members and clients",
                "give metrics a port of its own",
            ));
        }
        let transport = check.transport(&raw)?;
        let placement = check.placement(&raw.placement)?;
        let core = check.core(&raw, &cluster)?;
        let sizes = check.sizes(&raw.limits, &cluster)?;
        let checkpoints = check.checkpoints(&raw, &data_dir)?;
        let log = check.log(&raw, &data_dir, &checkpoints)?;
        let half_open_max = raw.limits.unauthenticated_connections_max;
        check.range("limits.unauthenticated_connections_max", half_open_max, 4, 65_536)?;
        let id = ReplicaId(id);
        Ok(Self {
            id,
            listed,
            cluster,
            keys,
            other_keys,
            service,
            service_seed,
            listen,
            metrics,
            data_dir,
            log,
            checkpoints,
            transport,
            placement,
            sizes,
            core,
            half_open_max,
        })
    }

    /// Lets the replica start in the view that `start` describes.
    ///
    /// # Errors
    /// It does not name this replica, or has keys that cannot be used.
    pub fn start_in(&mut self, start: &Membership) -> Result<(), ConfigError> {
        self.cluster = self.cluster.with_membership(start, &self.data_dir)?;
        self.core.view = start.view().clone();
        Ok(())
    }

    /// Are the ports free, after `patience` at the latest? Asked last, directly before they are used.
    ///
    /// # Errors
    /// Which address, and what to do.
    pub fn check_ports(&self, directory: &Path, patience: Duration) -> Result<(), ConfigError> {
        let file = directory.join(replica_file_name(self.id.0));
        let check = Check { file: &file, directory };
        for (field, address) in [("listen", self.listen), ("metrics", self.metrics)] {
            let mut taken = || {
                info!("{field} = {address}: taken; waiting for at most {patience:?}");
            };
            ports::wait(address, patience, &mut taken).map_err(|error| {
                let remedy = match error.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        "another process listens there (this replica, started twice?): stop it, or \
                         choose another port here and, for listen, in every cluster.toml"
                    }
                    std::io::ErrorKind::AddrNotAvailable => {
                        "use an address of this machine, or 0.0.0.0 for all of them"
                    }
                    _ => "choose an address and port that this user may use",
                };
                check.wrong(field, address, format!("cannot listen: {error}"), remedy)
            })?;
        }
        Ok(())
    }
}

/// Checks of one file.
struct Check<'a> {
    file: &'a Path,
    directory: &'a Path,
}

impl Check<'_> {
    fn wrong(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        ConfigError::new(self.file, field, value, problem, remedy)
    }

    /// The keys that the cluster knows this replica by, and others that were made for it, if any: while
    /// keys are changed there are two files.
    fn keys(
        &self,
        raw: &ReplicaFile,
        member: &Member,
    ) -> Result<(PrivateKeys, Option<PrivateKeys>), ConfigError> {
        let name = raw.key_file.clone().unwrap_or_else(|| key_name(raw.id));
        let (file, next) = (self.directory.join(name), self.directory.join(next_key_name(raw.id)));
        let keys = PrivateKeys::load(&file)?;
        let owner = format!("replica {}", raw.id);
        let fits = |keys: &PrivateKeys, file: &Path| {
            keys.check_fits(file, &owner, &member.static_key, &member.signing_key)
        };
        if !next.exists() {
            fits(&keys, &file)?;
            return Ok((keys, None));
        }
        let next_keys = PrivateKeys::load(&next)?;
        match (fits(&keys, &file), fits(&next_keys, &next)) {
            (Ok(()), _) => Ok((keys, Some(next_keys))),
            (Err(_), Ok(())) => Ok((next_keys, Some(keys))),
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn service(&self, name: &str) -> Result<ServiceKind, ConfigError> {
        ServiceKind::from_name(name).ok_or_else(|| {
            self.wrong(
                "service",
                format!("{name:?}"),
                "no such service",
                format!("use one of {}", service::names()),
            )
        })
    }

    /// The value is not shown: it is nobody's business in a log.
    fn seed(&self, text: &str) -> Result<Seed, ConfigError> {
        let bytes = hex_decode::<16>(text).map_err(|error| {
            let remedy = "use the 32 hexadecimal digits of the other replicas' files";
            self.wrong("service_seed", "", error.to_string(), remedy)
        })?;
        let seed = u128::from_le_bytes(bytes);
        Ok([seed as u64, (seed >> 64) as u64])
    }

    fn address(&self, field: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        let resolved = text.to_socket_addrs().ok().and_then(|mut all| all.next());
        resolved.filter(|address| address.port() != 0).ok_or_else(|| {
            self.wrong(
                field,
                format!("{text:?}"),
                "not an address, or its host name does not resolve",
                "write host:port, such as 127.0.0.1:7000",
            )
        })
    }

    fn range(
        &self,
        field: &str,
        value: usize,
        least: usize,
        most: usize,
    ) -> Result<(), ConfigError> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let remedy = format!("use {least} to {most}");
        Err(self.wrong(field, value, "out of range", remedy))
    }

    fn checkpoints(
        &self,
        raw: &ReplicaFile,
        data_dir: &Path,
    ) -> Result<CheckpointPlan, ConfigError> {
        let TransferFile { rate_mib, peer_rate_mib, state_max_gib: _ } = raw.transfer;
        self.range("transfer.rate_mib", rate_mib, 0, RATE_MIB_MAX)?;
        self.range("transfer.peer_rate_mib", peer_rate_mib, 0, RATE_MIB_MAX)?;
        Ok(CheckpointPlan {
            path: checkpoints_path(data_dir),
            pause_max: Duration::from_millis(raw.log.checkpoint_pause_max_ms),
            rates: Rates { all: rate(rate_mib), each: rate(peer_rate_mib) },
        })
    }

    fn log(
        &self,
        raw: &ReplicaFile,
        data_dir: &Path,
        checkpoints: &CheckpointPlan,
    ) -> Result<Option<LogPlan>, ConfigError> {
        let durable = match raw.durability.as_str() {
            "volatile" => false,
            "durable" => true,
            other => {
                let remedy = "use \"volatile\" or \"durable\"";
                return Err(self.wrong("durability", format!("{other:?}"), "no such mode", remedy));
            }
        };
        let LogFile { segment_mib, group_mib, access, .. } = &raw.log;
        self.range("log.group_mib", *group_mib, LOG_GROUP_SIZE_MIN / MIB, 64)?;
        self.range("log.segment_mib", *segment_mib, 2 * group_mib + 1, 64 * 1024)?;
        let access = match access.as_str() {
            "auto" => Access::Auto,
            "direct" => Access::Direct,
            "io_uring" => Access::Uring,
            "plain" => Access::Plain,
            other => {
                let remedy = "use \"auto\", \"direct\", \"io_uring\" or \"plain\"";
                return Err(self.wrong("log.access", format!("{other:?}"), "no such way", remedy));
            }
        };
        let config = LogConfig {
            segment_size: (segment_mib * MIB) as u64,
            group_size_max: group_mib * MIB,
            ..LogConfig::default()
        };
        let checkpoints = checkpoints.clone();
        Ok(durable.then(|| LogPlan { path: log_path(data_dir), config, access, checkpoints }))
    }

    fn transport(&self, raw: &ReplicaFile) -> Result<TransportChoice, ConfigError> {
        let Ok(kind) = raw.transport.parse() else {
            return Err(self.wrong(
                "transport",
                format!("{:?}", raw.transport),
                "no such transport",
                "use \"auto\", \"io_uring\" or \"tcp\"",
            ));
        };
        let IoUringFile { zero_copy_from, napi_busy_poll_us } = raw.io_uring;
        if let Some(from) = zero_copy_from {
            self.range("io_uring.zero_copy_from", from, 4097, 1 << 30)?;
        }
        if let Some(micros) = napi_busy_poll_us {
            self.range("io_uring.napi_busy_poll_us", micros as usize, 1, 1_000_000)?;
        }
        let napi_busy_poll = napi_busy_poll_us.map(Duration::from_micros);
        Ok(TransportChoice { kind, zero_copy_from, napi_busy_poll })
    }

    fn core(&self, raw: &ReplicaFile, cluster: &Cluster) -> Result<Config, ConfigError> {
        let limits = &raw.limits;
        let timeout = usize::try_from(raw.request_timeout_ms).unwrap_or(usize::MAX);
        self.range("request_timeout_ms", timeout, 20, 600_000)?;
        let requests = limits.batch_requests_max;
        self.range("limits.batch_requests_max", requests, 1, BATCH_REQUESTS_MAX)?;
        // A batch that cannot hold the largest operation would leave it pending for ever.
        let least = OPERATION_SIZE_MAX + 4096;
        self.range("limits.batch_size_max", limits.batch_size_max, least, BATCH_SIZE_MAX)?;
        self.range("limits.inline_body_max", limits.inline_body_max, 0, BATCH_SIZE_MAX)?;
        self.range("limits.pending_max", limits.pending_max, 1, 1 << 24)?;
        self.range("limits.pending_mib", limits.pending_mib, 1, 65_536)?;
        let sessions = limits.sessions_per_client_max as usize;
        self.range("limits.sessions_per_client_max", sessions, 1, 1 << 20)?;
        let skew = usize::try_from(limits.clock_skew_max_ms).unwrap_or(usize::MAX);
        self.range("limits.clock_skew_max_ms", skew, 1, 60_000)?;
        let mut config = Config::new(ReplicaId(raw.id), cluster.view());
        config.first = cluster.managed_from();
        config.request_timeout = Duration::from_millis(raw.request_timeout_ms);
        config.depth = cluster.depth;
        config.checkpoint_every = cluster.checkpoint_every;
        config.batch_requests_max = requests;
        config.batch_size_max = limits.batch_size_max;
        config.inline_body_max = limits.inline_body_max;
        config.pending_max = limits.pending_max;
        config.pending_size_max = limits.pending_mib * MIB;
        config.sessions_per_client_max = limits.sessions_per_client_max;
        config.clients_max = cluster.clients.len() as u32;
        config.decision_log_size = limits.decision_log_mib * MIB;
        let largest = usize::try_from(raw.transfer.state_max_gib).unwrap_or(usize::MAX);
        self.range("transfer.state_max_gib", largest, 1, 1 << 20)?;
        config.state_size_max = raw.transfer.state_max_gib << 30;
        config.chunk_rate = rate(raw.transfer.rate_mib);
        config.clock_skew_max = Duration::from_millis(limits.clock_skew_max_ms);
        Ok(config)
    }

    fn sizes(&self, limits: &LimitsFile, cluster: &Cluster) -> Result<Sizes, ConfigError> {
        if let Some(mib) = limits.reply_cache_mib {
            return Err(self.wrong(
                "limits.reply_cache_mib",
                mib,
                "replies that are kept are part of checkpoints, so this may not differ between replicas",
                format!(
                    "remove it here, and write reply_cache_mib = {mib} under [cluster] in every cluster.toml"
                ),
            ));
        }
        self.range("limits.frames_mib", limits.frames_mib, 16, 65_536)?;
        self.range("limits.decision_log_mib", limits.decision_log_mib, 1, 65_536)?;
        Ok(Sizes {
            frames_size: limits.frames_mib * MIB,
            decision_log_size: limits.decision_log_mib * MIB,
            reply_cache_size: cluster.reply_cache_mib * MIB,
        })
    }
}

/// Bytes of kept replies of one session: a window of replies of 4 KiB.
pub const REPLY_CACHE_SESSION_SIZE: usize = SESSION_WINDOW * 4096;

/// Bytes in a second; 0 is no limit.
fn rate(mib: usize) -> u64 {
    if mib == 0 { u64::MAX } else { (mib * MIB) as u64 }
}
