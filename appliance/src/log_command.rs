//! `tetrarch log`: a replica's log, read while the replica is down.
//!
//! Owns what is checked offline: everything that the public part of the cluster can tell. Always true: the log
//! is left as it is. Must not: need a private key.
//!
//! Checked are the segments and records themselves, that the records follow from each other (they are
//! replayed into a core, as at a start; from the oldest checkpoint on if those before it were given up, and from the newest that was transferred), that each body has the digest its batch names, and that its client
//! exists. Signatures of requests are checked and counted; one that does not hold is no fault of the
//! log, because a replica that has the request from its client decides it whatever proof the leader
//! sent. Votes carry no proof for others (docs/PROTOCOL.md, "Why no ACCEPT is signed").

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use tetrarch_client::cluster::Cluster;
use tetrarch_consensus::limits::ACTIONS_MAX;
use tetrarch_consensus::membership::is_view_manager;
use tetrarch_consensus::message::{codec, proof};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::smr::{Replica, RestoreError};
use tetrarch_consensus::{
    Action, Actions, Batch, Config, Instant, Payload, Record, ReplicaId, RequestView,
};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::storage::disk::PlainDirectory;
use tetrarch_dataplane::storage::{Lsn, Owner, log};

use crate::checkpoint::file::CheckpointFile;
use crate::checkpoint::image;
use crate::checkpoint::store::Store;
use crate::checkpoint::transfer::partial::Partial;
use crate::config::{data_dir, load_replica_file};
use crate::recovery::{checkpoints_path, is_base, log_path};
use crate::view::kept::beginning;

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
    let data_dir = data_dir(directory, &file);
    let cluster = beginning(&cluster, ReplicaId(id), &data_dir)?;
    let path = log_path(&data_dir);
    if !path.exists() {
        bail!(
            "{}: there is no log; it is made by a replica with durability = \"durable\"",
            path.display()
        );
    }
    let mut config = Config::new(ReplicaId(id), cluster.view());
    config.first = cluster.managed_from();
    config.depth = cluster.depth;
    config.clients_max = cluster.clients.len() as u32;
    config.sessions_per_client_max = file.limits.sessions_per_client_max;
    let owner = Owner { cluster: cluster.id, replica: id };
    let store = Store::new(checkpoints_path(&data_dir));
    let fetched = Partial::found(&store, owner)?;
    let mut reader = Reader {
        core: Replica::new(config.clone(), Box::new(HeapPool), Instant(0)),
        store,
        fetched,
        owner,
        started: false,
        behind: None,
        from: None,
        actions: Actions::with_capacity(ACTIONS_MAX),
        counts: Counts::default(),
        cluster: &cluster,
        dump,
    };
    reader.tell_fetched();
    let (found, recovered) = loop {
        let mut wrong = None;
        let mut each = |lsn: Lsn, record: &[u8]| {
            if wrong.is_none() {
                wrong = reader.record(lsn.0, record).err().map(|error| (lsn, error));
            }
        };
        let inspected = log::inspect(&mut PlainDirectory::open(&path)?, &mut each)?;
        match wrong {
            None => break inspected,
            Some((lsn, error)) if is_transferred(&error) => {
                let core = Replica::new(config.clone(), Box::new(HeapPool), Instant(0));
                reader.begin_behind(lsn.0, core);
            }
            Some((lsn, error)) => bail!("log {}: record {lsn}: {error}", path.display()),
        }
    };
    if found.is_some_and(|found| found != owner) {
        bail!("log {}: it is of {found:?}, not of {owner:?}; correct data_dir", path.display());
    }
    if let Some(file) = &reader.from {
        bail!(
            "log {}: begins with record {}, and does not hold the base of checkpoint {}",
            path.display(),
            recovered.first,
            file.path().display()
        );
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

/// Is this a record that no replay passes, because the decisions before it were never here?
fn is_transferred(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(RestoreError::Transferred(_)))
}

struct Reader<'a> {
    core: Replica<SharedBytes>,
    store: Store,
    /// What is there of an image that is being fetched, or was not named yet.
    fetched: Option<Partial>,
    owner: Owner,
    started: bool,
    /// The replay begins with this record.
    behind: Option<u64>,
    /// The log does not begin at the beginning: what follows from what is known from this one's base on.
    from: Option<CheckpointFile>,
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
        if !std::mem::replace(&mut self.started, true) {
            self.from = match self.behind {
                Some(base) => Some(self.transferred(base)?),
                None if lsn > 1 => Some(self.oldest_checkpoint(lsn)?),
                None => None,
            };
        }
        if let Some(file) = self.from.take() {
            if is_base(&file, Lsn(lsn), bytes) {
                return self.begin_at(&file, bytes);
            }
            self.core.pass_over(bytes)?;
            self.from = Some(file);
            return Ok(());
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

    /// Says what there is of an image that is being fetched.
    fn tell_fetched(&self) {
        if let Some(fetched) = &self.fetched {
            let there = fetched.count() - fetched.missing();
            println!(
                "{}: {there} of {} chunks of checkpoint {} are there and hold",
                fetched.file().path().display(),
                fetched.count(),
                fetched.target().cid
            );
        }
    }

    /// Once more from the beginning, with the replay from record `base` on, which says that a state was transferred.
    fn begin_behind(&mut self, base: u64, core: Replica<SharedBytes>) {
        (self.core, self.behind, self.started, self.from) = (core, Some(base), false, None);
        self.counts = Counts::default();
        // Everything up to there was printed.
        self.dump = false;
    }

    /// The checkpoint that record `base` says was transferred.
    fn transferred(&mut self, base: u64) -> Result<CheckpointFile> {
        for path in self.store.list()? {
            let opened = CheckpointFile::open(&path, self.owner);
            match opened.and_then(|file| file.verify().map(|()| file)) {
                Ok(file) if file.header.position.base.0 == base => return Ok(file),
                Ok(_) => {}
                Err(error) => println!("{error}"),
            }
        }
        let fetched = self.fetched.take().filter(|fetched| fetched.missing() == 0);
        fetched.map(Partial::into_file).ok_or_else(|| {
            anyhow!(
                "record {base}: a state was transferred, and no checkpoint in {} holds that belongs there",
                self.store.path().display()
            )
        })
    }

    /// The oldest checkpoint that holds and has its base behind `first`.
    fn oldest_checkpoint(&self, first: u64) -> Result<CheckpointFile> {
        for path in self.store.list()?.iter().rev() {
            let opened = CheckpointFile::open(path, self.owner);
            match opened.and_then(|file| file.verify().map(|()| file)) {
                Ok(file) if file.header.position.base.0 >= first => return Ok(file),
                Ok(_) => {}
                Err(error) => println!("{error}"),
            }
        }
        bail!(
            "the log begins here, and no checkpoint in {} holds that could be used in place of the records \
             before it",
            self.store.path().display()
        )
    }

    fn begin_at(&mut self, file: &CheckpointFile, base: &[u8]) -> Result<()> {
        let ordered = image::Reader::new(file.image()?, file.header.size).ordered()?;
        self.counts.decided = ordered.cid.0;
        Ok(self.core.begin_at(Instant(0), &ordered, base)?)
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
        let manager =
            self.cluster.view_manager.as_ref().filter(|_| is_view_manager(request.client));
        let listed = self.cluster.client(request.client.identity()).map(|it| &it.signing_key);
        let Some(key) = listed.or(manager.map(|it| &it.signing_key)) else {
            bail!("session {} is of no client in cluster.toml", request.client);
        };
        if request.auth == proof::SIGNATURE {
            self.counts.signatures += 1;
            let signed = codec::request_to_sign(self.cluster.id, &request.digest);
            let signature = request.proof.try_into();
            let holds = signature.is_ok_and(|proof| key.verify(&signed, proof));
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
        Record::Entered { view } => format!("entered view={view}"),
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
        Record::Transferred { root, base } => format!(
            "transferred cid={} {root:?} regency={} stopped={} mute={}",
            base.state.decided, base.state.regency, base.stopped, base.mute
        ),
        Record::Base(base) => format!(
            "base cid={} regency={} stopped={} mute={} written={} accepted={}",
            base.state.decided,
            base.state.regency,
            base.stopped,
            base.mute,
            base.wrote.len(),
            base.accepted.len()
        ),
        Record::Decided { at, digest, claimed, batch } => {
            let how = if *claimed { "learned" } else { "decided" };
            let with = if batch.is_some() { " with batch" } else { "" };
            format!("{how} cid={} epoch={} {digest:?}{with}", at.cid, at.epoch)
        }
    }
}
