//! Checkpoints and their transfer, as a node would keep them.
//!
//! Owns images, and what each replica has stored of one. Always true: a chunk is stored once, and is what is in the
//! image. Must not: know a Merkle tree: a chunk implies the root of the image that it is a part of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tetrarch_consensus::message::Chunk;
use tetrarch_consensus::*;

use super::{Bytes, Cluster, Envelope, Executed, request, timeout};

/// Bytes of a chunk, and of an image.
pub const CHUNK: usize = 64;
pub const IMAGE: usize = 20 * CHUNK - 7;
pub const CHUNKS: u32 = 20;

/// A checkpoint.
#[derive(Clone)]
pub struct Image {
    pub root: Digest,
    pub bytes: Vec<u8>,
    pub ordered: Ordered,
    executed: Vec<Executed>,
}

/// See the module.
#[derive(Default)]
pub struct Transfers {
    pub images: BTreeMap<u64, Image>,
    /// What is there of an image that is not whole.
    pub partial: BTreeMap<u16, (u64, Vec<u64>)>,
    pub todo: VecDeque<(u16, Input<Bytes>)>,
    /// Chunks that were stored, by whom.
    pub stored: BTreeMap<u16, usize>,
    /// Who sends chunks that are changed, and who sends none.
    pub liars: BTreeSet<u16>,
    pub silent: BTreeSet<u16>,
    /// Who stores nothing more.
    pub stuck: BTreeSet<u16>,
}

fn image(ordered: &Ordered, executed: &[Executed]) -> Image {
    let cid = ordered.cid.0;
    let bytes: Vec<u8> = (0..IMAGE).map(|at| (at as u64 * (cid + 3) / 8) as u8).collect();
    let root = Digest(*blake3::hash(&bytes).as_bytes());
    Image { root, bytes, ordered: ordered.clone(), executed: executed.to_vec() }
}

impl Image {
    fn chunk(&self, index: u32) -> &[u8] {
        self.bytes.chunks(CHUNK).nth(index as usize).unwrap_or_default()
    }
}

impl Cluster {
    /// A checkpoint is taken, and durable at once.
    pub fn take(&mut self, id: u16, ordered: &Ordered) {
        let executed = &self.executed[&id];
        assert_eq!(executed.len() as u64, ordered.cid.0, "it comes behind its instance");
        let image = image(ordered, executed);
        let cid = ordered.cid;
        let input = Input::Checkpointed { cid, size: IMAGE as u64, root: image.root };
        let known = self.transfers.images.entry(cid.0).or_insert(image);
        assert_eq!(&known.ordered, ordered, "everybody's is the same");
        self.transfers.todo.push_back((id, input));
    }

    /// What a node does for a transfer.
    pub fn transfer(&mut self, id: u16, action: &Action<Bytes>) {
        match action {
            Action::SendChunk { to, cid, root, index } => {
                self.send_chunk(id, *to, *cid, *root, *index)
            }
            Action::BeginTransfer { cid, size, root } => {
                assert_eq!(*size, IMAGE as u64);
                let kept = self.transfers.partial.remove(&id).filter(|(of, _)| *of == cid.0);
                let (_, have) = kept.unwrap_or((cid.0, vec![0]));
                self.transfers.partial.insert(id, (cid.0, have.clone()));
                let input = Input::Resumed { cid: *cid, root: *root, have: have.into() };
                self.transfers.todo.push_back((id, input));
                self.complete(id);
            }
            Action::StoreChunk { cid, index, payload, .. } => {
                assert_eq!(payload.bytes(), self.transfers.images[&cid.0].chunk(*index), "genuine");
                if self.transfers.stuck.contains(&id) {
                    return;
                }
                let (of, have) = self.transfers.partial.get_mut(&id).expect("it was begun");
                assert_eq!(*of, cid.0);
                assert!(have[0] & 1 << index == 0, "once");
                have[0] |= 1 << index;
                *self.transfers.stored.entry(id).or_default() += 1;
                let input = Input::Stored { cid: *cid, index: *index };
                self.transfers.todo.push_back((id, input));
                self.complete(id);
            }
            Action::EndTransfer { .. } => drop(self.transfers.partial.remove(&id)),
            Action::Install { cid, .. } => {
                let (of, _) = self.transfers.partial.remove(&id).expect("a whole one");
                assert_eq!(of, cid.0);
                self.executed.insert(id, self.transfers.images[&cid.0].executed.clone());
            }
            _ => {}
        }
    }

    fn complete(&mut self, id: u16) {
        let (cid, have) = &self.transfers.partial[&id];
        if have[0] == (1 << CHUNKS) - 1 {
            let ordered = self.transfers.images[cid].ordered.clone();
            self.transfers.todo.push_back((id, Input::TransferReady(Box::new(ordered))));
        }
    }

    fn send_chunk(&mut self, id: u16, to: ReplicaId, cid: ConsensusId, root: Digest, index: u32) {
        let image = &self.transfers.images[&cid.0];
        assert_eq!(image.root, root);
        let mut bytes = image.chunk(index).to_vec();
        if self.transfers.liars.contains(&id) {
            bytes[0] ^= 1;
        }
        let payload = Bytes::from(&bytes[..]);
        let chunk = Chunk::new(self.view.id(), (cid, index, IMAGE as u64), 0, payload);
        let message = Message::Chunk(chunk.expect("bytes without a path"));
        if !self.transfers.silent.contains(&id) {
            self.queue.push_back(Envelope { from: id, to: to.0, message });
        }
    }

    /// What ingress does: says which root a chunk implies.
    pub fn imply(&self, chunk: &mut Chunk<Bytes>) {
        let image = self.transfers.images.get(&chunk.cid.0);
        let genuine = image.filter(|image| image.chunk(chunk.index) == chunk.bytes());
        chunk.root = genuine.map_or(Digest([0xbd; 32]), |image| image.root);
    }
}

/// Four replicas with checkpoints, that keep the last decisions only because the requests are large.
pub fn four(records: bool) -> Cluster {
    four_of(None, records)
}

/// The same, with members that a View Manager may change if the first ones are given.
pub fn four_of(first: Option<Box<Membership>>, records: bool) -> Cluster {
    let mut cluster = Cluster::four();
    (cluster.depth, cluster.checkpoint_every, cluster.first) = (2, 4, first);
    for id in 0..4 {
        cluster.start(id, false);
        if records {
            go_on(&mut cluster, id);
        }
    }
    cluster
}

pub fn go_on(cluster: &mut Cluster, id: u16) {
    let mut actions = Actions::with_capacity(limits::ACTIONS_MAX);
    cluster.replicas.get_mut(&id).expect("a member").go_on_after(Lsn(0), &mut actions);
    cluster.step(id, Input::Durable(Lsn(1)));
}

/// Decides instances from `from` to `to`, of which two fit into what a replica keeps for others.
pub fn decide(cluster: &mut Cluster, from: u32, to: u32) {
    for counter in from..=to {
        let text = format!("{counter} {}", "x".repeat(250_000));
        let made: Vec<_> =
            (0..4).map(|client| request(client, counter, &text, true, &[])).collect();
        for id in cluster.replicas.keys().copied().collect::<Vec<_>>() {
            made.iter().for_each(|made| cluster.request(id, made));
        }
        cluster.run(timeout() / 8);
    }
}

/// Replica 3 was away while the others decided `to`; nobody keeps what it lacks.
pub fn left_behind(records: bool, to: u32) -> Cluster {
    let mut cluster = four(records);
    decide(&mut cluster, 1, 1);
    cluster.cut.insert(3);
    decide(&mut cluster, 2, to);
    let decided = cluster.decided(0);
    assert!(decided >= u64::from(to) && cluster.replica(0).log_start().0 > cluster.decided(3) + 2);
    cluster.log.clear();
    cluster
}

pub fn come_back(cluster: &mut Cluster) {
    cluster.cut.remove(&3);
    (0..3).for_each(|id| cluster.connect(3, id));
    cluster.run(timeout() * 2);
}

/// The instance of the newest checkpoint.
pub fn newest(cluster: &Cluster) -> u64 {
    *cluster.transfers.images.keys().max().expect("there are some")
}

pub fn said(cluster: &Cluster, what: &str) -> usize {
    cluster.log.iter().filter(|line| line.contains(what)).count()
}

/// The records of a replica, as bytes.
pub fn records_of(cluster: &Cluster, id: u16) -> Vec<Vec<u8>> {
    let bytes = |record: &Record<_>| {
        let mut bytes = Vec::new();
        let batch = record.encode(&mut bytes);
        bytes.extend_from_slice(batch);
        bytes
    };
    let mine = cluster.records.iter().filter(|(of, ..)| *of == id);
    mine.map(|(.., record)| bytes(record)).collect()
}
