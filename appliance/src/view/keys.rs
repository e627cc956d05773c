//! `tetrarch view keys`: keys and configuration of a replica that shall become a member, or shall change
//! its keys, made on its own machine.
//!
//! Owns the files that it writes. Always true: the private keys never leave the directory; nothing that
//! exists is overwritten; what is written loads. Must not: change who the members are.

use std::fs;
use std::path::{Path, PathBuf};

use tetrarch_client::cluster::{
    CLUSTER_FILE, Cluster, ClusterError, Member, PrivateKeys, PublicKeys,
};
use tetrarch_consensus::ReplicaId;

use crate::config::{ReplicaFile, load_replica_file, replica_file_name};
use crate::init::write_new;

/// What keys are made for.
#[derive(Clone, Debug)]
pub struct KeysOptions {
    /// The replica.
    pub id: u16,
    /// Where others will reach it; `None`: where cluster.toml says, if it is a member.
    pub address: Option<String>,
    /// Where it serves metrics, if it has no file yet.
    pub metrics: Option<String>,
    /// Whose file it takes all other settings from, if it has none yet; `None`: of the first there is.
    pub like: Option<u16>,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The private keys. They stay here.
    pub private: PathBuf,
    /// The public keys, for the View Manager.
    pub public: PathBuf,
    /// Its configuration, if it had none.
    pub config: Option<PathBuf>,
}

/// Name of the private key file of replica `id`, if its own file names no other.
pub fn key_name(id: u16) -> String {
    format!("replica-{id}.key")
}

/// Name of the private keys that replica `id` will have when the view that names them rules.
pub fn next_key_name(id: u16) -> String {
    format!("replica-{id}.next.key")
}

/// Name of the file that travels to the View Manager.
pub fn public_name(id: u16) -> String {
    format!("replica-{id}.public")
}

/// Makes keys, and a configuration if there is none.
///
/// # Errors
/// A file is missing that is needed, or is there that would be overwritten.
pub fn make(directory: &Path, options: &KeysOptions) -> Result<Made, ClusterError> {
    let cluster = Cluster::load(directory)?;
    let id = options.id;
    let old = cluster.member(ReplicaId(id));
    let address = options.address.clone().or_else(|| old.map(|member| member.address.clone()));
    let address = address.ok_or_else(|| {
        let problem = "it is no member yet, so nobody knows where it will be";
        let remedy = "say where others will reach it: host:port";
        ClusterError::new(directory, "--address", "", problem, remedy)
    })?;
    let private = private_file(directory, id, old)?;
    let public = directory.join(public_name(id));
    let keys = PrivateKeys::generate().map_err(|error| {
        ClusterError::new(&private, "", "", error.to_string(), "try again on a working system")
    })?;
    let member = Member {
        id: ReplicaId(id),
        address,
        static_key: keys.static_secret.public(),
        signing_key: keys.signing_key.verifying_key(),
    };
    let text = PublicKeys { cluster: cluster.id, member }.text();
    // Before anything is written: what is written shall load.
    PublicKeys::parse(&text, &public)?;
    let config = directory.join(replica_file_name(id));
    let config = if config.exists() {
        None
    } else {
        write_new(&config, &config_like_others(directory, &cluster, options)?)?;
        Some(config)
    };
    keys.store(&private, &format!("replica {id}"))?;
    if public.exists() {
        // Of keys that were made before, and are still where they were.
        fs::remove_file(&public).map_err(|error| {
            let problem = format!("cannot replace: {error}");
            ClusterError::new(&public, "", "", problem, "remove it, and the keys made just now")
        })?;
    }
    write_new(&public, &text)?;
    Ok(Made { private, public, config })
}

/// Where new private keys go: to the place of keys that are in use only if there are none.
fn private_file(
    directory: &Path,
    id: u16,
    member: Option<&Member>,
) -> Result<PathBuf, ClusterError> {
    let exists = directory.join(replica_file_name(id)).exists();
    let named = if exists { load_replica_file(directory, id)?.1.key_file } else { None };
    let current = directory.join(named.unwrap_or_else(|| key_name(id)));
    let next = directory.join(next_key_name(id));
    let is_in_use = |keys: &PrivateKeys| {
        member.is_some_and(|member| member.static_key == keys.static_secret.public())
    };
    if next.exists() && is_in_use(&PrivateKeys::load(&next)?) {
        // The change to them is over: those before them are of no use any more.
        fs::rename(&next, &current).map_err(|error| {
            let problem = format!("cannot take the place of {}: {error}", current.display());
            ClusterError::new(&next, "", "", problem, "make the directory writable")
        })?;
    }
    Ok(if current.exists() { next } else { current })
}

/// What must be the same for all replicas is taken from another one's file.
fn config_like_others(
    directory: &Path,
    cluster: &Cluster,
    options: &KeysOptions,
) -> Result<String, ClusterError> {
    let id = options.id;
    let exists = |id: &u16| directory.join(replica_file_name(*id)).exists();
    let like = options.like.or_else(|| {
        let mut ids = cluster.members.iter().map(|member| member.id.0);
        ids.find(exists)
    });
    let Some(like) = like else {
        let problem = format!("there is no {} and no other replica's file", replica_file_name(id));
        let remedy = format!(
            "copy the file of a replica (such as {}) here: what it replicates, and from which seed, must \
             be the same for all",
            replica_file_name(0)
        );
        return Err(ClusterError::new(directory, "", "", problem, remedy));
    };
    let (_, file) = load_replica_file(directory, like)?;
    let metrics = options.metrics.clone().ok_or_else(|| {
        let problem = "it has no file yet, so nobody knows where it will serve metrics and status";
        ClusterError::new(directory, "--metrics", "", problem, "say where: host:port")
    })?;
    let file = ReplicaFile {
        id,
        key_file: Some(key_name(id)),
        data_dir: Some(format!("replica-{id}.data")),
        listen: None,
        metrics,
        ..file
    };
    let body = toml::to_string(&file).expect("plain strings and numbers are always TOML");
    Ok(format!(
        "# Replica {id} of the cluster in {CLUSTER_FILE}, like replica {like}. Its addresses for members \
         and clients are there.\n\n{body}"
    ))
}
