//! The files that say what a cluster is: `cluster.toml` (public, the same for everybody) and the
//! key files (one owner each, mode 0600).
//!
//! Owns what they mean. Always true: what is loaded is valid as a whole (enough members, every id,
//! address and key once), and every error names file, field, value and remedy. Must not: know how a key
//! file is kept.

mod error;
mod form;
mod keys;
mod membership;
mod public_keys;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::ClusterError;
pub use form::{model_name, parse_toml};
pub use keys::PrivateKeys;
pub use public_keys::PublicKeys;
use tetrarch_consensus::config::ViewError;
use tetrarch_consensus::limits::{DEPTH_MAX, decisions_told};
use tetrarch_consensus::membership::{Membership, VIEW_MANAGER};
use tetrarch_consensus::{FaultModel, ReplicaId, View, ViewId};
use tetrarch_dataplane::crypto::keys::StaticPublic;
use tetrarch_dataplane::crypto::signature::VerifyingKey;
use tetrarch_dataplane::handshake::Directory;
use tetrarch_dataplane::types::{OpenError, PeerId};

/// Name of the public file inside a cluster directory.
pub const CLUSTER_FILE: &str = "cluster.toml";

/// Decisions from one checkpoint to the next, unless a file says otherwise: at a few thousand decisions a
/// second the log of some seconds is replayed at a start, and a checkpoint of some tens of megabytes costs
/// less than writing the log does.
pub const CHECKPOINT_EVERY: u64 = 8192;

/// Memory for kept replies, MiB, unless a file says otherwise: a window of small ones for 16000 sessions.
pub const REPLY_CACHE_MIB: usize = 64;

/// A replica as everybody knows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its stable id.
    pub id: ReplicaId,
    /// Where others reach it, `host:port`.
    pub address: String,
    /// Proves who it is on links and shares keys with clients.
    pub static_key: StaticPublic,
    /// Verifies the states it signs.
    pub signing_key: VerifyingKey,
}

/// A client identity as everybody knows it.
#[derive(Clone, Debug)]
pub struct ClientEntry {
    /// Its index: the upper half of its sessions' ids.
    pub index: u32,
    /// Proves who it is on links and shares keys with replicas.
    pub static_key: StaticPublic,
    /// Verifies the requests it signs.
    pub signing_key: VerifyingKey,
}

/// Who may change the cluster's membership, as everybody knows it: on links it is the client
/// [`VIEW_MANAGER`].
#[derive(Clone, Debug)]
pub struct ViewManager {
    /// Proves who it is on links and shares keys with replicas.
    pub static_key: StaticPublic,
    /// Verifies the memberships and the requests it signs.
    pub signing_key: VerifyingKey,
}

/// What is public about a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Random; part of every handshake and message, so that clusters cannot be mixed up.
    pub id: u64,
    /// Which faults are tolerated.
    pub model: FaultModel,
    /// How many.
    pub f: usize,
    /// Instances of consensus that may run at the same time.
    pub depth: usize,
    /// Decisions from one checkpoint of a durable replica to the next; 0: there are none.
    pub checkpoint_every: u64,
    /// Memory of each replica for kept replies, MiB. What is kept is part of a checkpoint.
    pub reply_cache_mib: usize,
    /// Which view the members and `f` are: one more with each change.
    pub view_id: ViewId,
    /// What the members and `f` were in the first view, if this is a later one.
    pub first: Option<Membership>,
    /// Who may change them; `None`: nobody, for good.
    pub view_manager: Option<ViewManager>,
    /// The replicas, ascending by id.
    pub members: Vec<Member>,
    /// The clients, ascending by index, without gaps.
    pub clients: Vec<ClientEntry>,
}

impl Cluster {
    /// Loads and checks `cluster.toml` of the cluster directory `directory`.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong.
    pub fn load(directory: &Path) -> Result<Self, ClusterError> {
        let file = directory.join(CLUSTER_FILE);
        let text = read(&file, "make a cluster with `tetrarch init DIR` or name its directory")?;
        Self::parse(&text, &file)
    }

    /// Checks the text of a `cluster.toml`; `file` is its name in errors.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ClusterError> {
        let cluster = form::parse(text, file)?;
        cluster.check(file)?;
        Ok(cluster)
    }

    /// Everything that no single entry shows: numbers of members, repeated addresses and keys.
    ///
    /// # Errors
    /// The first thing that is wrong; `file` is where it is said to be.
    pub fn check(&self, file: &Path) -> Result<(), ClusterError> {
        self.check_view(file)?;
        self.check_first(file)?;
        if !(1..=DEPTH_MAX).contains(&self.depth) {
            return Err(ClusterError::new(
                file,
                "cluster.depth",
                self.depth,
                "no such number of instances may run at the same time",
                format!("use 1 to {DEPTH_MAX}, the same for all replicas"),
            ));
        }
        let least = decisions_told(DEPTH_MAX) as u64;
        if self.checkpoint_every != 0 && !(least..=1 << 40).contains(&self.checkpoint_every) {
            return Err(ClusterError::new(
                file,
                "cluster.checkpoint_every",
                self.checkpoint_every,
                "checkpoints cannot be so many decisions apart",
                format!("use {least} or more, the same for all replicas, or 0 for none"),
            ));
        }
        if !(1..=65_536).contains(&self.reply_cache_mib) {
            return Err(ClusterError::new(
                file,
                "cluster.reply_cache_mib",
                self.reply_cache_mib,
                "out of range",
                "use 1 to 65536, the same for all replicas",
            ));
        }
        let mut addresses = BTreeMap::new();
        for member in &self.members {
            if let Some(other) = addresses.insert(member.address.as_str(), member.id) {
                return Err(ClusterError::new(
                    file,
                    format!("replica {} address", member.id),
                    &member.address,
                    format!("replica {other} has the same address"),
                    "give each replica an address of its own",
                ));
            }
        }
        self.directory().map_err(|error| {
            ClusterError::new(
                file,
                "static_key",
                "",
                error.to_string(),
                "each replica and client needs its own keys: make them with `tetrarch init`",
            )
        })?;
        let mut signing = BTreeMap::new();
        let members = self.members.iter().map(|m| (PeerId::replica(m.id.0), &m.signing_key));
        let clients = self.clients.iter().map(|c| (PeerId::client(c.index), &c.signing_key));
        let manager =
            self.view_manager.iter().map(|m| (PeerId::client(VIEW_MANAGER), &m.signing_key));
        for (peer, key) in members.chain(clients).chain(manager) {
            if let Some(other) = signing.insert(key.to_bytes(), peer) {
                return Err(ClusterError::new(
                    file,
                    format!("signing_key of {peer}"),
                    key.to_hex(),
                    format!("{other} has the same key"),
                    "each replica and client needs its own keys: make them with `tetrarch init`",
                ));
            }
        }
        Ok(())
    }

    fn check_view(&self, file: &Path) -> Result<(), ClusterError> {
        let model = model_name(self.model);
        let error = match self.try_view() {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let text = error.to_string();
        Err(match error {
            ViewError::Repeated(id) => ClusterError::new(
                file,
                "replica.id",
                id,
                text,
                "give each [[replica]] an id of its own",
            ),
            ViewError::TooFew { needed, .. } => ClusterError::new(
                file,
                "cluster.f",
                self.f,
                format!("{text} in the {model} model"),
                format!("list at least {needed} [[replica]] entries or lower f"),
            ),
            ViewError::TooMany(n) => {
                ClusterError::new(file, "replica", n, text, "list fewer [[replica]] entries")
            }
        })
    }

    fn try_view(&self) -> Result<View, ViewError> {
        let members = self.members.iter().map(|member| member.id).collect();
        View::new(self.view_id, members, self.f, self.model)
    }

    /// The membership, with its thresholds.
    ///
    /// # Panics
    /// When the cluster was put together by hand and never passed [`Cluster::check`].
    pub fn view(&self) -> View {
        self.try_view().expect("a loaded cluster was checked")
    }

    /// Who has which key: replicas and clients.
    ///
    /// # Errors
    /// A name or key that appears twice.
    pub fn directory(&self) -> Result<Directory, OpenError> {
        let members = self.members.iter().map(|m| (PeerId::replica(m.id.0), m.static_key));
        let clients = self.clients.iter().map(|c| (PeerId::client(c.index), c.static_key));
        let manager =
            self.view_manager.iter().map(|m| (PeerId::client(VIEW_MANAGER), m.static_key));
        Directory::new(members.chain(clients).chain(manager))
    }

    /// The member with this id.
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The client with this index.
    pub fn client(&self, index: u32) -> Option<&ClientEntry> {
        self.clients.get(index as usize)
    }

    /// The text of `cluster.toml`.
    pub fn to_toml(&self) -> String {
        form::text(self)
    }
}

fn read(file: &Path, hint: &str) -> Result<String, ClusterError> {
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error, hint))
}

fn unreadable(file: &Path, error: &std::io::Error, hint: &str) -> ClusterError {
    ClusterError::new(file, "", "", format!("cannot read: {error}"), hint)
}
