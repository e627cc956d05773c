//! `tetrarch checkpoint`: a replica's checkpoints, read while the replica is down.
//!
//! Owns what is checked offline: everything that one replica's files can tell. Always true: the files are left
//! as they are; all are looked at, whatever is wrong with one. Must not: need a private key.

use std::path::Path;

use anyhow::{Result, bail};
use tetrarch_client::cluster::Cluster;
use tetrarch_consensus::membership::is_view_manager;
use tetrarch_consensus::{ClientId, Digest, Ordered, ReplicaId};
use tetrarch_dataplane::storage::Owner;

use crate::checkpoint::file::CheckpointFile;
use crate::checkpoint::image;
use crate::checkpoint::store::Store;
use crate::config::{Plan, REPLY_CACHE_SESSION_SIZE};
use crate::recovery::checkpoints_path;
use crate::reply_cache::ReplyCache;

/// Prints the checkpoints of replica `id` of a cluster directory, the newest first; with `verify`, after
/// checking them.
///
/// # Errors
/// There is none, or one of them does not hold.
pub fn run(directory: &Path, id: u16, verify: bool) -> Result<()> {
    let cluster = Cluster::load(directory)?;
    if cluster.member(ReplicaId(id)).is_none() {
        bail!("id = {id}: cluster.toml lists no such replica; use another --id");
    }
    let plan = Plan::load(directory, id)?;
    let store = Store::new(checkpoints_path(&plan.data_dir));
    let paths = store.list()?;
    if paths.is_empty() {
        bail!(
            "{}: there is no checkpoint; they are made by a replica with durability = \"durable\", every \
             cluster.checkpoint_every = {} decisions",
            store.path().display(),
            cluster.checkpoint_every
        );
    }
    let owner = Owner { cluster: cluster.id, replica: id };
    let mut bad = 0;
    for path in &paths {
        let line = match verify {
            false => CheckpointFile::open(path, owner).map(|file| line(&file)).map_err(Into::into),
            true => check(path, owner, &plan),
        };
        match line {
            Ok(line) => println!("{line}"),
            Err(error) => {
                println!("{error:#}");
                bad += 1;
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of {} checkpoints do not hold", paths.len());
    }
    Ok(())
}

fn line(file: &CheckpointFile) -> String {
    let header = &file.header;
    format!(
        "{}: instance {} base {} bytes {} root {}",
        file.path().display(),
        header.position.cid,
        header.position.base,
        header.size,
        hex(&header.root)
    )
}

/// Everything that a start relies on, and what the state is.
fn check(path: &Path, owner: Owner, plan: &Plan) -> Result<String> {
    let file = CheckpointFile::open(path, owner)?;
    file.verify()?;
    let cache_size = plan.sizes.reply_cache_size;
    let mut cache = ReplyCache::new(cache_size, REPLY_CACHE_SESSION_SIZE);
    let (mut service, _) = plan.service.build(plan.service_seed);
    let mut reader = image::Reader::new(file.image()?, file.header.size);
    let wrong = |error| anyhow::anyhow!("checkpoint {}: {error}", path.display());
    let ordered = reader.ordered().map_err(wrong)?;
    let Ordered { cid, sessions, .. } = &ordered;
    if *cid != file.header.position.cid {
        bail!("checkpoint {}: it holds instance {cid}", path.display());
    }
    let clients = plan.cluster.clients.len();
    let known = |client: &ClientId| {
        let listed = (client.identity() as usize) < clients || is_view_manager(*client);
        listed && client.session() < plan.core.sessions_per_client_max
    };
    if let Some((client, _)) = sessions.iter().find(|(client, _)| !known(client)) {
        bail!(
            "checkpoint {}: session {client} is beyond the clients of cluster.toml or \
             limits.sessions_per_client_max",
            path.display()
        );
    }
    reader.state(&ordered, &mut cache, &mut *service).map_err(wrong)?;
    let Digest(state) = service.digest();
    Ok(format!(
        "{} holds: {} sessions, {} bytes of replies, state {}",
        line(&file),
        sessions.len(),
        cache.size(),
        hex(&state)
    ))
}

/// The first 16 bytes: enough to compare.
fn hex(digest: &[u8; 32]) -> String {
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
