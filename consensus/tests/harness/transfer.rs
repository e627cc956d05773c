//! Checkpoints and their transfer, as a node would keep them.
//!
//! Owns images, and what each replica has stored of one. Always true: a chunk is stored once, and is what is in the
//! image. Must not: know a Merkle tree: a chunk implies the root of the image that it is a part of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tetrarch_consensus::message::Chunk;
use tetrarch_consensus::*;

use super::{Bytes, Cluster, Envelope, Executed};

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
