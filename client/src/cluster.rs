//! The files that say what a cluster is: `cluster.toml` (public, the same for everybody) and the
//! key files (one owner each, mode 0600).
//!
//! Owns their text form. Always true: what is loaded is valid as a whole (enough members, every id,
//! address and key once), and every error names file, field, value and remedy. Must not: print a
//! secret, or read a key file that others may read.

mod error;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub use error::ClusterError;
use serde::{Deserialize, Serialize};
use tetrarch_consensus::config::ViewError;
use tetrarch_consensus::limits::{DEPTH_MAX, decisions_told};
use tetrarch_consensus::{FaultModel, ReplicaId, View, ViewId};
use tetrarch_dataplane::crypto::keys::{KeyError, StaticPublic, StaticSecret};
use tetrarch_dataplane::crypto::signature::{SigningKey, VerifyingKey};
use tetrarch_dataplane::handshake::Directory;
use tetrarch_dataplane::types::{OpenError, PeerId};

/// Name of the public file inside a cluster directory.
pub const CLUSTER_FILE: &str = "cluster.toml";

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
    /// The replicas, ascending by id.
    pub members: Vec<Member>,
    /// The clients, ascending by index, without gaps.
    pub clients: Vec<ClientEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Head,
    #[serde(default)]
    replica: Vec<ReplicaEntry>,
    #[serde(default)]
    client: Vec<ClientKeys>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    id: String,
    model: String,
    f: usize,
    #[serde(default = "one")]
    depth: usize,
    #[serde(default = "checkpoint_every")]
    checkpoint_every: u64,
    #[serde(default = "reply_cache_mib")]
    reply_cache_mib: usize,
}

/// Decisions from one checkpoint to the next, unless a file says otherwise: at a few thousand decisions a
/// second the log of some seconds is replayed at a start, and a checkpoint of some tens of megabytes costs
/// less than writing the log does.
pub const CHECKPOINT_EVERY: u64 = 8192;

fn checkpoint_every() -> u64 {
    CHECKPOINT_EVERY
}

/// Memory for kept replies, MiB, unless a file says otherwise: a window of small ones for 16000 sessions.
pub const REPLY_CACHE_MIB: usize = 64;

fn reply_cache_mib() -> usize {
    REPLY_CACHE_MIB
}

/// The depth of a file that names none.
fn one() -> usize {
    1
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaEntry {
    id: u16,
    address: String,
    static_key: String,
    signing_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientKeys {
    index: u32,
    static_key: String,
    signing_key: String,
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
        let raw: File = parse_toml(text, file)?;
        let id = parse_id(&raw.cluster.id, file)?;
        let model = parse_model(&raw.cluster.model, file)?;
        let mut members = Vec::with_capacity(raw.replica.len());
        for entry in &raw.replica {
            members.push(member(entry, file)?);
        }
        let mut clients = Vec::with_capacity(raw.client.len());
        for (at, entry) in raw.client.iter().enumerate() {
            clients.push(client(at, entry, file)?);
        }
        members.sort_by_key(|member| member.id);
        let Head { f, depth, checkpoint_every, reply_cache_mib, .. } = raw.cluster;
        let cluster =
            Self { id, model, f, depth, checkpoint_every, reply_cache_mib, members, clients };
        cluster.check(file)?;
        Ok(cluster)
    }

    /// Everything that no single entry shows: numbers of members, repeated addresses and keys.
    ///
    /// # Errors
    /// The first thing that is wrong; `file` is where it is said to be.
    pub fn check(&self, file: &Path) -> Result<(), ClusterError> {
        self.check_view(file)?;
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
        for (peer, key) in members.chain(clients) {
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
        View::new(ViewId(0), members, self.f, self.model)
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
        Directory::new(members.chain(clients))
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
        let file = File {
            cluster: Head {
                id: format!("{:016x}", self.id),
                model: model_name(self.model).into(),
                f: self.f,
                depth: self.depth,
                checkpoint_every: self.checkpoint_every,
                reply_cache_mib: self.reply_cache_mib,
            },
            replica: self.members.iter().map(ReplicaEntry::from).collect(),
            client: self.clients.iter().map(ClientKeys::from).collect(),
        };
        let body = toml::to_string(&file).expect("plain strings and numbers are always TOML");
        format!(
            "# The public part of a Tetrarch cluster. Every replica and client needs the same copy;\n\
             # nothing in it is secret. The private keys are in the *.key files.\n\n{body}"
        )
    }
}

impl From<&Member> for ReplicaEntry {
    fn from(member: &Member) -> Self {
        Self {
            id: member.id.0,
            address: member.address.clone(),
            static_key: member.static_key.to_hex(),
            signing_key: member.signing_key.to_hex(),
        }
    }
}

impl From<&ClientEntry> for ClientKeys {
    fn from(client: &ClientEntry) -> Self {
        Self {
            index: client.index,
            static_key: client.static_key.to_hex(),
            signing_key: client.signing_key.to_hex(),
        }
    }
}

/// The private half of one identity. Wiped when dropped, never printed.
#[derive(Debug)]
pub struct PrivateKeys {
    /// For links and, with each other side's public key, for MAC vectors.
    pub static_secret: StaticSecret,
    /// For states (replicas) and requests (clients).
    pub signing_key: SigningKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    static_secret: String,
    signing_seed: String,
}

impl PrivateKeys {
    /// New random keys.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { static_secret: StaticSecret::generate()?, signing_key: SigningKey::generate()? })
    }

    /// Loads a key file; refuses one that others than its owner may read or write.
    ///
    /// # Errors
    /// The file cannot be read, has the wrong mode, or holds no keys.
    pub fn load(file: &Path) -> Result<Self, ClusterError> {
        let hint = "is this the machine that holds this identity's keys?";
        let meta = std::fs::metadata(file).map_err(|error| unreadable(file, &error, hint))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ClusterError::new(
                file,
                "mode",
                format!("{mode:04o}"),
                "others than the owner can reach this private key",
                format!("run `chmod 600 {}`", file.display()),
            ));
        }
        Self::parse(&read(file, hint)?, file)
    }

    /// Reads the text of a key file; `file` is its name in errors, which show nothing of the text.
    ///
    /// # Errors
    /// The text holds no keys.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ClusterError> {
        let raw: KeyFile = parse_toml(text, file).map_err(|error| {
            // What TOML says may quote the text, and the text is secret.
            let problem = "not the form of a key file: static_secret and signing_seed in quotes";
            ClusterError::new(file, error.field, "", problem, "restore the file from a backup")
        })?;
        let bad = |field: &str, error: KeyError| {
            ClusterError::new(file, field, "", error.to_string(), "restore the file from a backup")
        };
        let static_secret =
            StaticSecret::from_hex(&raw.static_secret).map_err(|e| bad("static_secret", e))?;
        let signing_key =
            SigningKey::from_hex(&raw.signing_seed).map_err(|e| bad("signing_seed", e))?;
        Ok(Self { static_secret, signing_key })
    }

    /// Writes a new key file with mode 0600; refuses to replace one.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn store(&self, file: &Path, owner: &str) -> Result<(), ClusterError> {
        let options =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let text = format!(
            "# PRIVATE keys of {owner}. Whoever reads this file can act as {owner}.\n\
             static_secret = \"{}\"\nsigning_seed = \"{}\"\n",
            *self.static_secret.to_hex(),
            *self.signing_key.to_hex(),
        );
        options
            .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
            .map_err(|error| {
                ClusterError::new(
                    file,
                    "",
                    "",
                    format!("cannot write: {error}"),
                    "choose a new directory, or remove the old file if it is really not needed",
                )
            })
    }

    /// Are these the keys that `cluster.toml` lists for `owner`?
    ///
    /// # Errors
    /// The name of the public key that does not fit.
    pub fn check_fits(
        &self,
        file: &Path,
        owner: &str,
        static_key: &StaticPublic,
        signing_key: &VerifyingKey,
    ) -> Result<(), ClusterError> {
        let mismatch = |field: &str, listed: String| {
            ClusterError::new(
                file,
                field,
                "",
                format!(
                    "does not fit the public key {listed} that {CLUSTER_FILE} lists for {owner}"
                ),
                format!(
                    "use the key file that was made together with this {CLUSTER_FILE}, or another \
                     id; two clusters' directories may have been mixed"
                ),
            )
        };
        if self.static_secret.public() != *static_key {
            return Err(mismatch("static_secret", static_key.to_hex()));
        }
        if self.signing_key.verifying_key() != *signing_key {
            return Err(mismatch("signing_seed", signing_key.to_hex()));
        }
        Ok(())
    }
}

/// The name of a model in `cluster.toml` and on the command line.
pub fn model_name(model: FaultModel) -> &'static str {
    match model {
        FaultModel::Byzantine => "byzantine",
        FaultModel::Crash => "crash",
    }
}

/// Parses TOML; the error names the line.
///
/// # Errors
/// The text is not TOML, misses a field, or has one that does not exist.
pub fn parse_toml<T: serde::de::DeserializeOwned>(
    text: &str,
    file: &Path,
) -> Result<T, ClusterError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map(|before| format!("line {}", before.matches('\n').count() + 1));
        let message = error.message().trim().to_owned();
        let remedy = if message.contains("unknown field") {
            "remove the field or correct its spelling"
        } else if message.contains("missing field") {
            "add the field"
        } else {
            "correct the line"
        };
        ClusterError::new(file, line.unwrap_or_default(), "", message, remedy)
    })
}

fn read(file: &Path, hint: &str) -> Result<String, ClusterError> {
    std::fs::read_to_string(file).map_err(|error| unreadable(file, &error, hint))
}

fn unreadable(file: &Path, error: &std::io::Error, hint: &str) -> ClusterError {
    ClusterError::new(file, "", "", format!("cannot read: {error}"), hint)
}

fn parse_id(text: &str, file: &Path) -> Result<u64, ClusterError> {
    let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or_else(|| {
        ClusterError::new(
            file,
            "cluster.id",
            format!("{text:?}"),
            "not a cluster id",
            "use the 16 hexadecimal digits that `tetrarch init` wrote",
        )
    })
}

fn parse_model(text: &str, file: &Path) -> Result<FaultModel, ClusterError> {
    match text {
        "byzantine" => Ok(FaultModel::Byzantine),
        "crash" => Ok(FaultModel::Crash),
        _ => Err(ClusterError::new(
            file,
            "cluster.model",
            format!("{text:?}"),
            "no such fault model",
            "use \"byzantine\" (n >= 3f + 1) or \"crash\" (n >= 2f + 1)",
        )),
    }
}

fn member(entry: &ReplicaEntry, file: &Path) -> Result<Member, ClusterError> {
    let at = |field: &str| format!("replica {} {field}", entry.id);
    let port = entry.address.rsplit_once(':').and_then(|(host, port)| {
        port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty())
    });
    if port.is_none() {
        return Err(ClusterError::new(
            file,
            at("address"),
            format!("{:?}", entry.address),
            "not an address",
            "write host:port, such as 10.0.0.1:7000 or [::1]:7000",
        ));
    }
    Ok(Member {
        id: ReplicaId(entry.id),
        address: entry.address.clone(),
        static_key: static_key(&entry.static_key, file, at("static_key"))?,
        signing_key: verifying_key(&entry.signing_key, file, at("signing_key"))?,
    })
}

fn client(at: usize, entry: &ClientKeys, file: &Path) -> Result<ClientEntry, ClusterError> {
    if entry.index as usize != at {
        return Err(ClusterError::new(
            file,
            "client.index",
            entry.index,
            format!("the [[client]] entry at position {at} must have index {at}"),
            "list the clients in order, each once, without gaps",
        ));
    }
    let name = |field: &str| format!("client {at} {field}");
    Ok(ClientEntry {
        index: entry.index,
        static_key: static_key(&entry.static_key, file, name("static_key"))?,
        signing_key: verifying_key(&entry.signing_key, file, name("signing_key"))?,
    })
}

fn static_key(text: &str, file: &Path, field: String) -> Result<StaticPublic, ClusterError> {
    StaticPublic::from_hex(text).map_err(|error| bad_key(text, file, field, &error))
}

fn verifying_key(text: &str, file: &Path, field: String) -> Result<VerifyingKey, ClusterError> {
    VerifyingKey::from_hex(text).map_err(|error| bad_key(text, file, field, &error))
}

fn bad_key(text: &str, file: &Path, field: String, error: &KeyError) -> ClusterError {
    let remedy = "copy the key again from the directory that `tetrarch init` made";
    ClusterError::new(file, field, format!("{text:?}"), error.to_string(), remedy)
}
