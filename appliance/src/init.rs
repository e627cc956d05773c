//! `tetrarch init`: makes a cluster directory with keys and configuration.
//!
//! Owns what a new cluster looks like. Always true: nothing that exists is overwritten; what is
//! written loads without errors; private keys have mode 0600 from their first byte. Must not: leave
//! half a cluster behind where a whole one was there before.

use std::fs;
use std::io::Write;
use std::path::Path;

use tetrarch_client::cluster::{
    CHECKPOINT_EVERY, CLUSTER_FILE, ClientEntry, Cluster, ClusterError, Member, PrivateKeys,
    REPLY_CACHE_MIB, ViewManager,
};
use tetrarch_consensus::quorum::Quorums;
use tetrarch_consensus::{FaultModel, ReplicaId, ViewId};
use tetrarch_dataplane::crypto::{self, keys::KeyError, keys::hex_encode};
use tetrarch_dataplane::transport::choice::TransportKind;

use crate::config::{
    IoUringFile, LimitsFile, LogFile, PlacementFile, ReplicaFile, TransferFile, replica_file_name,
};
use crate::service::ServiceKind;

/// What `init` is asked for.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// How many replicas.
    pub replicas: u16,
    /// Faults to tolerate; `None`: as many as the model allows.
    pub f: Option<usize>,
    /// Instances of consensus that may run at the same time.
    pub depth: usize,
    /// Which faults.
    pub model: FaultModel,
    /// How many client identities.
    pub clients: u32,
    /// Replica i listens at this plus i, its metrics at this plus n plus i.
    pub base_port: u16,
    /// Replica i runs on host i, counted around.
    pub hosts: Vec<String>,
    /// What is replicated.
    pub service: ServiceKind,
    /// The one timeout.
    pub request_timeout_ms: u64,
    /// Do replicas keep logs?
    pub durable: bool,
    /// Decisions from one checkpoint to the next; 0: none.
    pub checkpoint_every: u64,
    /// What moves the bytes.
    pub transport: TransportKind,
    /// Where stages run.
    pub placement: PlacementFile,
    /// Memory for messages in flight, MiB; `None`: the default.
    pub frames_mib: Option<usize>,
}

/// Makes the directory and its files.
///
/// # Errors
/// The options contradict each other, the directory holds a cluster already, or a file cannot be
/// written.
pub fn init(directory: &Path, options: &InitOptions) -> Result<Cluster, ClusterError> {
    let file = directory.join(CLUSTER_FILE);
    let n = usize::from(options.replicas);
    let f = options.f.unwrap_or_else(|| Quorums::faults_tolerated(n, options.model));
    check_options(directory, options)?;
    let addresses: Vec<String> = (0..options.replicas)
        .map(|replica| address(options, replica, options.base_port + replica))
        .collect();
    let generated = generate(&addresses, f, options.model, options.clients);
    let no_random =
        |error: String| ClusterError::new(&file, "", "", error, "try again on a working system");
    let (mut cluster, replica_keys, client_keys) =
        generated.map_err(|error| no_random(error.to_string()))?;
    let manager_keys = PrivateKeys::generate().map_err(|error| no_random(error.to_string()))?;
    cluster.view_manager = Some(ViewManager {
        static_key: manager_keys.static_secret.public(),
        signing_key: manager_keys.signing_key.verifying_key(),
    });
    cluster.depth = options.depth;
    cluster.checkpoint_every = options.checkpoint_every;
    cluster.check(&file)?;
    let mut seed = [0; 16];
    crypto::random(&mut seed).map_err(|error| no_random(error.to_string()))?;
    let seed = hex_encode(&seed);
    fs::create_dir_all(directory).map_err(|error| {
        let problem = format!("cannot create: {error}");
        ClusterError::new(directory, "", "", problem, "choose a directory that you may write to")
    })?;
    for (member, keys) in cluster.members.iter().zip(&replica_keys) {
        let id = member.id.0;
        keys.store(&directory.join(format!("replica-{id}.key")), &format!("replica {id}"))?;
        write_new(&directory.join(replica_file_name(id)), &replica_toml(options, id, &seed))?;
    }
    for (client, keys) in cluster.clients.iter().zip(&client_keys) {
        let index = client.index;
        keys.store(&directory.join(client_key_name(index)), &format!("client {index}"))?;
    }
    manager_keys.store(&directory.join(VIEW_MANAGER_KEY), "the view manager")?;
    // Last: a directory with this file is a whole cluster.
    write_new(&file, &cluster.to_toml())?;
    Ok(cluster)
}

/// Name of the private key file of the View Manager.
pub const VIEW_MANAGER_KEY: &str = "view-manager.key";

/// Name of the private key file of client `index`.
pub fn client_key_name(index: u32) -> String {
    format!("client-{index}.key")
}

fn check_options(directory: &Path, options: &InitOptions) -> Result<(), ClusterError> {
    let wrong = |field: &str, value: String, problem: &str, remedy: &str| {
        Err(ClusterError::new(directory, field, value, problem, remedy))
    };
    let occupied = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        let remedy = "choose a new directory; nothing was changed";
        return wrong("", String::new(), "the directory is not empty", remedy);
    }
    if options.replicas == 0 {
        return wrong("--replicas", "0".into(), "nobody would answer", "use at least 4");
    }
    if options.clients == 0 || options.clients > 65_536 {
        let value = options.clients.to_string();
        return wrong("--clients", value, "out of range", "use 1 to 65536");
    }
    let last = u32::from(options.base_port) + 2 * u32::from(options.replicas);
    if options.base_port == 0 || last > 65_536 {
        let value = options.base_port.to_string();
        let problem = "every replica needs two ports from here on";
        return wrong("--base-port", value, problem, "use a number such as 7000");
    }
    if options.hosts.iter().any(|host| host.trim().is_empty()) {
        let value = format!("{:?}", options.hosts.join(","));
        return wrong("--hosts", value, "an empty name", "list host names, separated by commas");
    }
    Ok(())
}

/// A cluster, and the private keys of its members and of its clients.
pub type Generated = (Cluster, Vec<PrivateKeys>, Vec<PrivateKeys>);

/// A new cluster with new keys: replica i at `addresses[i]`.
///
/// # Errors
/// The system has no random bytes.
pub fn generate(
    addresses: &[String],
    f: usize,
    model: FaultModel,
    clients: u32,
) -> Result<Generated, KeyError> {
    let mut id = [0; 8];
    crypto::random(&mut id)?;
    let mut members = Vec::with_capacity(addresses.len());
    let mut replica_keys = Vec::with_capacity(addresses.len());
    for (replica, address) in (0..).zip(addresses) {
        let keys = PrivateKeys::generate()?;
        members.push(Member {
            id: ReplicaId(replica),
            address: address.clone(),
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        });
        replica_keys.push(keys);
    }
    let mut entries = Vec::new();
    let mut client_keys = Vec::new();
    for index in 0..clients {
        let keys = PrivateKeys::generate()?;
        entries.push(ClientEntry {
            index,
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        });
        client_keys.push(keys);
    }
    let id = u64::from_le_bytes(id);
    let cluster = Cluster {
        id,
        model,
        f,
        depth: 1,
        checkpoint_every: CHECKPOINT_EVERY,
        reply_cache_mib: REPLY_CACHE_MIB,
        view_id: ViewId(0),
        first: None,
        view_manager: None,
        members,
        clients: entries,
    };
    Ok((cluster, replica_keys, client_keys))
}

fn address(options: &InitOptions, replica: u16, port: u16) -> String {
    let hosts = &options.hosts;
    let host = match hosts.len() {
        0 => "127.0.0.1",
        count => hosts[usize::from(replica) % count].trim(),
    };
    // A bare IPv6 address needs brackets before a port.
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn replica_toml(options: &InitOptions, id: u16, seed: &str) -> String {
    let mut limits = LimitsFile::default();
    if let Some(frames_mib) = options.frames_mib {
        limits.frames_mib = frames_mib;
    }
    let file = ReplicaFile {
        id,
        service: options.service.name().into(),
        service_seed: seed.into(),
        key_file: Some(format!("replica-{id}.key")),
        data_dir: Some(format!("replica-{id}.data")),
        listen: None,
        metrics: address(options, id, options.base_port + options.replicas + id),
        request_timeout_ms: options.request_timeout_ms,
        durability: if options.durable { "durable" } else { "volatile" }.into(),
        log: LogFile::default(),
        transfer: TransferFile::default(),
        transport: options.transport.name().into(),
        io_uring: IoUringFile::default(),
        placement: options.placement.clone(),
        limits,
    };
    let body = toml::to_string(&file).expect("plain strings and numbers are always TOML");
    format!(
        "# Replica {id} of the cluster in {CLUSTER_FILE}. Its addresses for members and clients are \
         there.\n\n{body}"
    )
}

pub(crate) fn write_new(file: &Path, text: &str) -> Result<(), ClusterError> {
    let mut options = fs::OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|error| {
            let remedy = "choose a new, empty directory";
            ClusterError::new(file, "", "", format!("cannot write: {error}"), remedy)
        })
}
