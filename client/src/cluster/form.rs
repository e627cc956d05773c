//! The text of `cluster.toml`.
//!
//! Owns its fields and defaults. Always true: reading what was written gives the same cluster. Must not:
//! judge more than one entry at a time.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tetrarch_consensus::limits::ADDRESS_SIZE_MAX;
use tetrarch_consensus::membership::Membership;
use tetrarch_consensus::{FaultModel, ReplicaId, ViewId};
use tetrarch_dataplane::crypto::keys::{KeyError, StaticPublic, hex_decode, hex_encode};
use tetrarch_dataplane::crypto::signature::VerifyingKey;

use super::{
    CHECKPOINT_EVERY, ClientEntry, Cluster, ClusterError, Member, REPLY_CACHE_MIB, ViewManager,
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: Head,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    view_manager: Option<ManagerKeys>,
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
    #[serde(default)]
    view: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_view: Option<String>,
    #[serde(default = "one")]
    depth: usize,
    #[serde(default = "checkpoint_every")]
    checkpoint_every: u64,
    #[serde(default = "reply_cache_mib")]
    reply_cache_mib: usize,
}

fn checkpoint_every() -> u64 {
    CHECKPOINT_EVERY
}

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManagerKeys {
    static_key: String,
    signing_key: String,
}

/// What the text says, entry by entry.
pub(super) fn parse(text: &str, file: &Path) -> Result<Cluster, ClusterError> {
    let raw: File = parse_toml(text, file)?;
    let id = parse_id(&raw.cluster.id, "cluster.id", file)?;
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
    let view_manager = raw.view_manager.map(|keys| manager(&keys, file)).transpose()?;
    let first = raw.cluster.first_view.map(|text| membership(&text, file)).transpose()?;
    let Head { f, view, depth, checkpoint_every, reply_cache_mib, .. } = raw.cluster;
    let view_id = ViewId(view);
    Ok(Cluster {
        id,
        model,
        f,
        depth,
        checkpoint_every,
        reply_cache_mib,
        view_id,
        first,
        view_manager,
        members,
        clients,
    })
}

/// The text of a cluster.
pub(super) fn text(cluster: &Cluster) -> String {
    let file = File {
        cluster: Head {
            id: format!("{:016x}", cluster.id),
            model: model_name(cluster.model).into(),
            f: cluster.f,
            view: cluster.view_id.0,
            first_view: cluster.first.as_ref().map(membership_text),
            depth: cluster.depth,
            checkpoint_every: cluster.checkpoint_every,
            reply_cache_mib: cluster.reply_cache_mib,
        },
        view_manager: cluster.view_manager.as_ref().map(ManagerKeys::from),
        replica: cluster.members.iter().map(ReplicaEntry::from).collect(),
        client: cluster.clients.iter().map(ClientKeys::from).collect(),
    };
    let body = toml::to_string(&file).expect("plain strings and numbers are always TOML");
    format!(
        "# The public part of a Tetrarch cluster. Every replica and client needs the same copy;\n\
         # nothing in it is secret. The private keys are in the *.key files.\n\n{body}"
    )
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

impl From<&ViewManager> for ManagerKeys {
    fn from(manager: &ViewManager) -> Self {
        let (static_key, signing_key) = (manager.static_key.to_hex(), manager.signing_key.to_hex());
        Self { static_key, signing_key }
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

pub(super) fn parse_id(text: &str, field: &str, file: &Path) -> Result<u64, ClusterError> {
    let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or_else(|| {
        ClusterError::new(
            file,
            field,
            format!("{text:?}"),
            "not a cluster id",
            "use the 16 hexadecimal digits that `tetrarch init` wrote",
        )
    })
}

/// A membership as the hexadecimal digits of its bytes: nobody edits it.
fn membership_text(membership: &Membership) -> String {
    let mut bytes = Vec::with_capacity(membership.encoded_size());
    membership.encode(&mut bytes);
    hex_encode(&bytes)
}

fn membership(text: &str, file: &Path) -> Result<Membership, ClusterError> {
    let byte = |digits: &[u8]| {
        let [byte] = hex_decode(str::from_utf8(digits).ok()?).ok()?;
        Some(byte)
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    bytes.and_then(|bytes| Membership::decode(&bytes).ok()).ok_or_else(|| {
        let remedy = "copy the file that `tetrarch view` wrote; only it changes this line";
        ClusterError::new(file, "cluster.first_view", "", "not a membership", remedy)
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
    Ok(Member {
        id: ReplicaId(entry.id),
        address: address(&entry.address, file, at("address"))?,
        static_key: static_key(&entry.static_key, file, at("static_key"))?,
        signing_key: verifying_key(&entry.signing_key, file, at("signing_key"))?,
    })
}

/// A text that others can dial.
pub(super) fn address(text: &str, file: &Path, field: String) -> Result<String, ClusterError> {
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty())
    });
    let fits = text.len() <= ADDRESS_SIZE_MAX && !text.chars().any(char::is_control);
    if port.is_none() || !fits {
        return Err(ClusterError::new(
            file,
            field,
            format!("{text:?}"),
            "not an address",
            format!(
                "write host:port, such as 10.0.0.1:7000 or [::1]:7000, of at most {ADDRESS_SIZE_MAX} bytes"
            ),
        ));
    }
    Ok(text.to_owned())
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

fn manager(keys: &ManagerKeys, file: &Path) -> Result<ViewManager, ClusterError> {
    let name = |field: &str| format!("view_manager {field}");
    Ok(ViewManager {
        static_key: static_key(&keys.static_key, file, name("static_key"))?,
        signing_key: verifying_key(&keys.signing_key, file, name("signing_key"))?,
    })
}

pub(super) fn static_key(
    text: &str,
    file: &Path,
    field: String,
) -> Result<StaticPublic, ClusterError> {
    StaticPublic::from_hex(text).map_err(|error| bad_key(text, file, field, &error))
}

pub(super) fn verifying_key(
    text: &str,
    file: &Path,
    field: String,
) -> Result<VerifyingKey, ClusterError> {
    VerifyingKey::from_hex(text).map_err(|error| bad_key(text, file, field, &error))
}

fn bad_key(text: &str, file: &Path, field: String, error: &KeyError) -> ClusterError {
    let remedy = "copy the key again from the directory that `tetrarch init` made";
    ClusterError::new(file, field, format!("{text:?}"), error.to_string(), remedy)
}
