//! `tetrarch log`: a replica's log, read while the replica is down.
//!
//! Owns what is checked offline: everything that the public part of the cluster can tell. Always true: the log
//! is left as it is. Must not: need a private key.
//!
//! Checked are the segments and records themselves, that the records follow from each other (they are
//! replayed into a core, as at a start), that each body has the digest its batch names, and that its client
//! exists. Signatures of requests are checked and counted; one that does not hold is no fault of the
//! log, because a replica that has the request from its client decides it whatever proof the leader
//! sent. Votes carry no proof for others (docs/PROTOCOL.md, "Why no ACCEPT is signed").

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tetrarch_client::cluster::Cluster;
use tetrarch_consensus::limits::ACTIONS_MAX;
use tetrarch_consensus::message::{codec, proof};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::{
    Action, Actions, Batch, Config, Instant, Payload, Record, ReplicaId, RequestView,
};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::storage::disk::PlainDirectory;
use tetrarch_dataplane::storage::{Owner, log};

use crate::config::{data_dir, load_replica_file};
use crate::recovery::log_path;

/// What was found in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    decided: u64,
    requests: u64,
    signatures: u64,
    bad_signatures: u64,
}

/// Checks the log of replica `id` of a cluster directory; with `dump`, prints a line for each record.
///
/// # Errors
/// There is none, it is in use, or something in it is wrong: the first such thing.
pub fn run(directory: &Path, id: u16, dump: bool) -> Result<()> {
    let cluster = Cluster::load(directory)?;
    let (_, file) = load_replica_file(directory, id)?;
    if cluster.member(ReplicaId(id)).is_none() {
        bail!("id = {id}: cluster.toml lists no such replica; use another --id");
    }
    let path = log_path(&data_dir(directory, &file));
    if !path.exists() {
        bail!(
            "{}: there is no log; it is made by a replica with durability = \"durable\"",
            path.display()
        );
    }
    let mut config = Config::new(ReplicaId(id), cluster.view());
    config.depth = cluster.depth;
    config.clients_max = cluster.clients.len() as u32;
    config.sessions_per_client_max = file.limits.sessions_per_client_max;
    let mut reader = Reader {
        core: Replica::new(config, Box::new(HeapPool), Instant(0)),
        actions: Actions::with_capacity(ACTIONS_MAX),
        counts: Counts::default(),
        cluster: &cluster,
        dump,
    };
    let mut wrong = None;
    let mut each = |lsn: tetrarch_dataplane::storage::Lsn, record: &[u8]| {
        if wrong.is_none() {
            wrong = reader.record(lsn.0, record).err().map(|error| (lsn, error));
        }
    };
    let (owner, recovered) = log::inspect(&mut PlainDirectory::open(&path)?, &mut each)?;
    if let Some((lsn, error)) = wrong {
        bail!("log {}: record {lsn}: {error}", path.display());
    }
    let expected = Owner { cluster: cluster.id, replica: id };
    if owner.is_some_and(|owner| owner != expected) {
        bail!("log {}: it is of {owner:?}, not of {expected:?}; correct data_dir", path.display());
    }
    let Counts { decided, requests, signatures, bad_signatures } = reader.counts;
    let torn = if recovered.torn { "; ends with an interrupted write" } else { "" };
    println!(
        "{}: whole: records {} to {} in {} segments{torn}; {decided} decisions with {requests} \
         requests, {signatures} signed ({bad_signatures} signatures do not hold)",
        path.display(),
        recovered.first,
        recovered.last,
        recovered.segments,
    );
    Ok(())
}

struct Reader<'a> {
    core: Replica<SharedBytes>,
    actions: Actions<Action<SharedBytes>>,
    counts: Counts,
    cluster: &'a Cluster,
    dump: bool,
}

impl Reader<'_> {
    fn record(&mut self, lsn: u64, bytes: &[u8]) -> Result<()> {
        if self.dump {
            let record: Record<SharedBytes> =
                Record::decode(bytes, &mut HeapPool).map_err(|error| anyhow!("{error}"))?;
            println!("{lsn} {}", line(&record));
        }
        self.core.restore(Instant(0), bytes, &mut self.actions)?;
        let actions: Vec<_> = self.actions.drain().collect();
        for action in actions {
            if let Action::Execute { context, batch, .. } = action {
                self.counts.decided = context.cid.0;
                self.batch(&batch)?;
            }
        }
        Ok(())
    }

    fn batch(&mut self, batch: &Batch<SharedBytes>) -> Result<()> {
        for request in batch.requests() {
            self.counts.requests += 1;
            if body_digest(request.body) != request.digest.0 {
                bail!(
                    "the body of request {} of session {} has another digest than the decision names",
                    request.sequence,
                    request.client
                );
            }
            self.signature(&request)?;
        }
        Ok(())
    }

    fn signature(&mut self, request: &RequestView<'_>) -> Result<()> {
        let Some(client) = self.cluster.client(request.client.identity()) else {
            bail!("session {} is of no client in cluster.toml", request.client);
        };
        if request.auth == proof::SIGNATURE {
            self.counts.signatures += 1;
            let signed = codec::request_to_sign(self.cluster.id, &request.digest);
            let signature = request.proof.try_into();
            let holds = signature.is_ok_and(|proof| client.signing_key.verify(&signed, proof));
            self.counts.bad_signatures += u64::from(!holds);
        }
        Ok(())
    }
}

/// A record in a line.
fn line(record: &Record<SharedBytes>) -> String {
    match record {
        Record::MemoryLost { .. } => "memory lost".into(),
        Record::MemoryWhole { .. } => "memory whole".into(),
        Record::Installed { regency, .. } => format!("installed regency={regency}"),
        Record::Synchronised { regency, resume, .. } => {
            let (start, bound) = (resume.start, resume.bound.len());
            format!("synchronised regency={regency} start={start} bound={bound}")
        }
        Record::Written { at, batch } => {
            let (size, digest) = (batch.payload().bytes().len(), batch.digest);
            let count = batch.len();
            format!(
                "write cid={} epoch={} {digest:?} requests={count} bytes={size}",
                at.cid, at.epoch
            )
        }
        Record::Accepted(vote) => {
            format!("accept cid={} epoch={} {:?}", vote.at.cid, vote.at.epoch, vote.digest)
        }
        Record::Decided { at, digest, claimed, batch } => {
            let how = if *claimed { "learned" } else { "decided" };
            let with = if batch.is_some() { " with batch" } else { "" };
            format!("{how} cid={} epoch={} {digest:?}{with}", at.cid, at.epoch)
        }
    }
}
