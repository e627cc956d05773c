//! What a client is told when it starts: the cluster, who it is, its limits.
//!
//! Owns `client-N.toml`, which may be missing. Always true: a loaded configuration fits the
//! cluster's public file. Must not: guess what was meant.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tetrarch_consensus::batch::REQUEST_HEADER_SIZE;
use tetrarch_consensus::limits::{
    OPERATION_SIZE_MAX, REQUEST_PROOF_SIZE_MAX, RESULT_SIZE_MAX, SESSION_WINDOW,
};
use tetrarch_consensus::message::reply::REPLY_HEADER_SIZE;
use tetrarch_consensus::smr::client::{Authentication, HELD_LARGE_MAX, ReplyForm};
use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
use tetrarch_dataplane::transport::choice::{TransportChoice, TransportKind};

use crate::cluster::{Cluster, ClusterError, PrivateKeys, parse_toml};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes that one link may have queued at least: below this, a burst would be dropped.
const LINK_QUEUE_MIN: usize = 256 * KIB;

/// Seconds from the UNIX epoch to the start of 2024, from which incarnations count.
const INCARNATION_EPOCH_S: u64 = 1_704_067_200;

/// Incarnations a second: 2^32 of them last for 34 years.
const INCARNATIONS_PER_S: u32 = 4;

/// Slots for the largest messages at least.
const LARGE_SLOTS_MIN: usize = 8;

/// `client-N.toml`: every field has a default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Private keys, relative to the cluster directory.
    key_file: Option<String>,
    request_timeout_ms: u64,
    operation_timeout_ms: u64,
    connect_timeout_ms: u64,
    sessions_max: u32,
    window: usize,
    authentication: Proof,
    transport: String,
    reply: Form,
    request_memory_mib: usize,
    reply_memory_mib: usize,
}

/// `authentication` in the file.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Proof {
    Mac,
    Signature,
}

/// `reply` in the file.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Form {
    Digest,
    Full,
}

impl From<Form> for ReplyForm {
    fn from(form: Form) -> Self {
        match form {
            Form::Digest => Self::Digest,
            Form::Full => Self::Full,
        }
    }
}

impl From<Proof> for Authentication {
    fn from(proof: Proof) -> Self {
        match proof {
            Proof::Mac => Self::MacVector,
            Proof::Signature => Self::Signature,
        }
    }
}

impl Default for File {
    fn default() -> Self {
        Self {
            key_file: None,
            request_timeout_ms: 2000,
            operation_timeout_ms: 30_000,
            connect_timeout_ms: 10_000,
            sessions_max: 4096,
            window: SESSION_WINDOW,
            authentication: Proof::Mac,
            transport: TransportKind::default().name().into(),
            reply: Form::Digest,
            request_memory_mib: 64,
            reply_memory_mib: 64,
        }
    }
}

/// Everything a client needs to start.
#[derive(Debug)]
pub struct ClientConfig {
    /// The public part of the cluster.
    pub cluster: Cluster,
    /// Index in the cluster's client list.
    pub index: u32,
    /// This client's private keys.
    pub keys: PrivateKeys,
    /// The replicas' request timeout. Requests are sent again after half of it.
    pub request_timeout: Duration,
    /// How long a blocking operation waits for its result, and when a callback is told that there
    /// is none.
    pub operation_timeout: Duration,
    /// How long [`Client::connect`](crate::Client::connect) waits for enough replicas.
    pub connect_timeout: Duration,
    /// Sessions at most. The replicas have a limit of their own, 4096 by default.
    pub sessions_max: u32,
    /// Ordered operations of a session in flight at most, and as many read-only ones.
    pub window: usize,
    /// How ordered requests are proved when they are sent first. Signatures cost every replica more
    /// than all else it does for a small request; they are for clients that shall not be trusted to
    /// give each replica the same proof.
    pub authentication: Authentication,
    /// What moves the bytes. An io_uring stays with the thread that first polls the client's
    /// driver; a [`Client`](crate::Client) has such a thread of its own.
    pub transport: TransportChoice,
    /// Who sends results in full. One member saves bytes; all save the wait for a member that turns
    /// out to be dead or slow.
    pub reply: ReplyForm,
    /// Memory for requests in flight, in bytes.
    pub request_memory: usize,
    /// Memory for replies that were received and results that are in use, in bytes.
    pub reply_memory: usize,
    /// Larger at each start of this client. `None`: from the clock, see [`fresh_incarnation`].
    pub incarnation: Option<u32>,
}

impl ClientConfig {
    /// The defaults for client `index` of `cluster`.
    pub fn new(cluster: Cluster, index: u32, keys: PrivateKeys) -> Self {
        let file = File::default();
        Self {
            cluster,
            index,
            keys,
            request_timeout: Duration::from_millis(file.request_timeout_ms),
            operation_timeout: Duration::from_millis(file.operation_timeout_ms),
            connect_timeout: Duration::from_millis(file.connect_timeout_ms),
            sessions_max: file.sessions_max,
            window: file.window,
            authentication: file.authentication.into(),
            transport: TransportChoice::default(),
            reply: file.reply.into(),
            request_memory: file.request_memory_mib * MIB,
            reply_memory: file.reply_memory_mib * MIB,
            incarnation: None,
        }
    }

    /// Loads client `index` of the cluster directory: `cluster.toml`, `client-N.toml` if there is
    /// one, and the private keys in `client-N.key`.
    ///
    /// # Errors
    /// The first thing that is wrong, with file, field, value and remedy.
    pub fn load(directory: &Path, index: u32) -> Result<Self, ClusterError> {
        let cluster = Cluster::load(directory)?;
        let name = directory.join(format!("client-{index}.toml"));
        let file = match std::fs::read_to_string(&name) {
            Ok(text) => parse_toml(&text, &name)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(error) => {
                let problem = format!("cannot read: {error}");
                let remedy = "make it readable, or remove it to use the defaults";
                return Err(ClusterError::new(&name, "", "", problem, remedy));
            }
        };
        let Some(entry) = cluster.client(index) else {
            return Err(ClusterError::new(
                &directory.join(crate::cluster::CLUSTER_FILE),
                "client",
                index,
                format!("the cluster has {} clients, counted from 0", cluster.clients.len()),
                "use another client index, or add a [[client]] entry on every replica",
            ));
        };
        let key_name = file.key_file.clone().unwrap_or_else(|| format!("client-{index}.key"));
        let key_file: PathBuf = directory.join(key_name);
        let keys = PrivateKeys::load(&key_file)?;
        let owner = format!("client {index}");
        keys.check_fits(&key_file, &owner, &entry.static_key, &entry.signing_key)?;
        check(&file, &name)?;
        let transport = transport(&file, &name)?;
        Ok(Self {
            transport,
            request_timeout: Duration::from_millis(file.request_timeout_ms),
            operation_timeout: Duration::from_millis(file.operation_timeout_ms),
            connect_timeout: Duration::from_millis(file.connect_timeout_ms),
            sessions_max: file.sessions_max,
            window: file.window,
            authentication: file.authentication.into(),
            reply: file.reply.into(),
            request_memory: file.request_memory_mib * MIB,
            reply_memory: file.reply_memory_mib * MIB,
            ..Self::new(cluster, index, keys)
        })
    }

    /// Slots for the encoded operations in flight. When they are used up, nothing more is taken
    /// from the caller until something ended. They are few enough for a link to queue them all: what
    /// a link does not take is only sent again after a pause.
    pub(crate) fn body_arena(&self) -> ArenaSpec {
        arena(self.request_memory / 8, REQUEST_HEADER_SIZE + OPERATION_SIZE_MAX, LARGE_SLOTS_MIN)
    }

    /// Slots for messages on their way. They are apart from the operations', because those stay
    /// until they are answered: could they take the last slot, none of them would ever leave.
    pub(crate) fn message_arena(&self) -> ArenaSpec {
        let largest = REQUEST_HEADER_SIZE + OPERATION_SIZE_MAX + REQUEST_PROOF_SIZE_MAX;
        arena(self.request_memory / 8 * 7, largest, LARGE_SLOTS_MIN)
    }

    /// Bytes that one link may have queued. `f` replicas that do not read, together, leave a
    /// quarter of the slots that hold a message of any one size, or they would stop all others.
    pub(crate) fn link_queue_size(&self) -> usize {
        let most = slots_worth(&self.message_arena()) / 4 * 3;
        (most / self.cluster.f.max(1)).max(LINK_QUEUE_MIN)
    }

    /// Slots for replies.
    pub(crate) fn reply_arena(&self) -> ArenaSpec {
        // Each replica may leave one half sent, and some results wait for others.
        let large_slots = self.cluster.members.len() + HELD_LARGE_MAX + LARGE_SLOTS_MIN;
        arena(self.reply_memory, REPLY_HEADER_SIZE + RESULT_SIZE_MAX, large_slots)
    }
}

/// Size classes for `memory` bytes. Slot sizes about double, so that a message wastes half of its
/// slot at most; a class that is used up borrows from larger ones. A few slots hold the largest,
/// however little memory was given.
fn arena(memory: usize, size_max: usize, large_slots_min: usize) -> ArenaSpec {
    /// Size, share of the memory in percent, and slots at least. Room for headers and proofs beside
    /// round sizes.
    const SHARES: [(usize, usize, usize); 9] = [
        (256, 16, 64),
        (KIB + 256, 20, 64),
        (2 * KIB + 512, 6, 4),
        (5 * KIB, 8, 4),
        (10 * KIB, 5, 4),
        (20 * KIB, 5, 4),
        (40 * KIB, 5, 4),
        (80 * KIB, 5, 4),
        (160 * KIB, 12, 4),
    ];
    let class = |(size, percent, least): (usize, usize, usize)| {
        let count = (memory / 100 * percent / size).clamp(least, 1 << 20);
        SlotClass { slot_size: size as u32, count: count as u32 }
    };
    let largest = class((size_max, 18, large_slots_min));
    ArenaSpec { classes: SHARES.map(class).into_iter().chain([largest]).collect() }
}

/// Bytes of messages of one size that use up all slots they fit, whatever that size is.
fn slots_worth(spec: &ArenaSpec) -> usize {
    let mut slots: usize = spec.classes.iter().map(|class| class.count as usize).sum();
    let mut least = usize::MAX;
    for pair in spec.classes.windows(2) {
        slots -= pair[0].count as usize;
        // The smallest message that no longer fits the smaller class.
        least = least.min((pair[0].slot_size as usize + 1) * slots);
    }
    least
}

fn transport(file: &File, name: &Path) -> Result<TransportChoice, ClusterError> {
    let kind = file.transport.parse::<TransportKind>();
    kind.map(TransportChoice::from).map_err(|_| {
        let remedy = "use \"auto\", \"io_uring\" or \"tcp\"";
        let value = format!("{:?}", file.transport);
        ClusterError::new(name, "transport", value, "no such transport", remedy)
    })
}

fn check(file: &File, name: &Path) -> Result<(), ClusterError> {
    let bounds: [(&str, u64, u64, u64); 7] = [
        ("request_timeout_ms", file.request_timeout_ms, 10, 600_000),
        ("operation_timeout_ms", file.operation_timeout_ms, 10, 86_400_000),
        ("connect_timeout_ms", file.connect_timeout_ms, 10, 600_000),
        ("sessions_max", file.sessions_max.into(), 1, 1 << 20),
        ("window", file.window as u64, 1, SESSION_WINDOW as u64),
        ("request_memory_mib", file.request_memory_mib as u64, 1, 1 << 16),
        ("reply_memory_mib", file.reply_memory_mib as u64, 1, 1 << 16),
    ];
    match bounds.iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
        None => Ok(()),
        Some((field, value, least, most)) => Err(ClusterError::new(
            name,
            *field,
            value,
            "out of range",
            format!("use {least} to {most}"),
        )),
    }
}

/// A number that is larger at each start of a client, from the wall clock: quarters of a second
/// since 2024. Waits for the next quarter to begin, at most 250 ms, so that a client that ends and
/// starts again never has the number that it had before. Two processes must not run as one client
/// at a time.
pub fn fresh_incarnation() -> u32 {
    let tick = Duration::from_secs(1) / INCARNATIONS_PER_S;
    let epoch = UNIX_EPOCH + Duration::from_secs(INCARNATION_EPOCH_S);
    let since = || SystemTime::now().duration_since(epoch).unwrap_or_default();
    let ticks = |time: Duration| time.as_nanos() / tick.as_nanos();
    let first = ticks(since());
    loop {
        let now = since();
        if ticks(now) != first {
            // A clock that was set back: also another number.
            return u32::try_from(ticks(now)).unwrap_or(u32::MAX).max(1);
        }
        let into = Duration::from_nanos((now.as_nanos() % tick.as_nanos()) as u64);
        std::thread::sleep(tick - into);
        if now.is_zero() {
            // Before 2024: the clock is wrong, and the replicas will say so.
            return 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;

    #[test]
    fn incarnations_grow_at_each_start() {
        let first = fresh_incarnation();
        let second = fresh_incarnation();
        assert!(1 < first && first < second, "{first} {second}");
    }

    #[test]
    fn arenas_hold_the_largest_message_however_small_they_are() {
        let config = ClientConfig { request_memory: 1, ..TestCluster::new(4).into_config() };
        let largest = config.body_arena().classes.iter().map(|class| class.slot_size).max();
        assert!(largest.unwrap() as usize > OPERATION_SIZE_MAX);
        let config = ClientConfig { reply_memory: 64 * MIB, ..config };
        let size = config.reply_arena().size();
        assert!((48 * MIB..72 * MIB).contains(&size), "{size}");
    }

    #[test]
    fn replicas_that_do_not_read_leave_slots_for_messages_of_any_size() {
        for n in [4, 7, 10] {
            let config =
                ClientConfig { request_memory: 64 * MIB, ..TestCluster::new(n).into_config() };
            let (spec, queue) = (config.message_arena(), config.link_queue_size());
            assert!(queue >= LINK_QUEUE_MIN, "{n}: {queue}");
            for pair in spec.classes.windows(2) {
                let fits = |class: &&SlotClass| class.slot_size >= pair[1].slot_size;
                let slots: u32 = spec.classes.iter().filter(fits).map(|class| class.count).sum();
                let held = config.cluster.f * queue / (pair[0].slot_size as usize + 1);
                assert!(held < slots as usize, "{n}: {held} of {slots}");
            }
            let large = 100 * KIB;
            let fits = |class: &&SlotClass| class.slot_size as usize > large;
            let bodies = config.body_arena();
            let count: u32 = bodies.classes.iter().filter(fits).map(|class| class.count).sum();
            assert!(n > 4 || count as usize * large <= queue, "{count} in {queue}");
            let memory = bodies.size() + spec.size();
            assert!((48 * MIB..72 * MIB).contains(&memory), "{memory}");
        }
    }

    fn directory(name: &str) -> (PathBuf, TestCluster) {
        let directory =
            std::env::temp_dir().join(format!("tetrarch-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let test = TestCluster::new(4);
        std::fs::write(directory.join("cluster.toml"), test.cluster.to_toml()).unwrap();
        test.client_keys.store(&directory.join("client-0.key"), "client 0").unwrap();
        (directory, test)
    }

    #[test]
    fn a_client_is_loaded_from_its_cluster_directory() {
        let (directory, test) = directory("client-config");
        let config = ClientConfig::load(&directory, 0).unwrap();
        assert_eq!((config.cluster.id, config.window), (test.cluster.id, SESSION_WINDOW));
        let error = ClientConfig::load(&directory, 1).unwrap_err().to_string();
        assert!(error.contains("has 1 clients"), "{error}");
        let file = directory.join("client-0.toml");
        std::fs::write(&file, "window = 8\nrequest_timeout_ms = 500\n").unwrap();
        let config = ClientConfig::load(&directory, 0).unwrap();
        assert_eq!((config.window, config.request_timeout.as_millis()), (8, 500));
        assert_eq!(config.authentication, Authentication::MacVector);
        assert_eq!(config.reply, ReplyForm::Digest);
        std::fs::write(&file, "authentication = \"signature\"\nreply = \"full\"").unwrap();
        let config = ClientConfig::load(&directory, 0).unwrap();
        assert_eq!(config.authentication, Authentication::Signature);
        assert_eq!(config.reply, ReplyForm::Full);
        for (text, expected) in [
            ("window = 65", "window = 65: out of range; use 1 to 64"),
            ("widow = 6", "unknown field"),
            ("authentication = \"none\"", "expected `mac` or `signature`"),
            ("transport = \"udp\"", "transport = \"udp\": no such transport; use \"auto\""),
            ("reply = \"hash\"", "expected `digest` or `full`"),
            ("key_file = \"nowhere.key\"", "cannot read"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = ClientConfig::load(&directory, 0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
