//! The image of a checkpoint as others get it: bytes in small chunks, and the tree over them.
//!
//! Always true: the root is that of the real tree over these chunks, so what a chunk with its path implies is
//! computed as in a node. Must not: know what the bytes say.

use tetrarch_consensus::message::Chunk;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{ConsensusId, Digest, ViewId};
use tetrarch_dataplane::crypto::merkle::{self, Tree};

/// See the module.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Vec<u8>,
    chunk_size: usize,
    root: Digest,
}

impl Image {
    /// The image with these bytes, at least one.
    pub fn new(bytes: Vec<u8>, chunk_size: usize) -> Self {
        assert!(!bytes.is_empty(), "an image says something");
        let mut image = Self { bytes, chunk_size, root: Digest::ZERO };
        image.root = Digest(image.tree().root(image.size(), chunk_size as u64));
        image
    }

    fn tree(&self) -> Tree {
        let leaves: Vec<_> = self.bytes.chunks(self.chunk_size).map(merkle::leaf).collect();
        Tree::new(&leaves)
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Root over its chunks.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// The bytes of a chunk, if there is one.
    pub fn chunk(&self, index: u32) -> Option<&[u8]> {
        self.bytes.chunks(self.chunk_size).nth(index as usize)
    }

    /// The message with a chunk of the checkpoint at `cid`.
    pub fn message(
        &self,
        view: ViewId,
        cid: ConsensusId,
        index: u32,
    ) -> Option<Chunk<SharedBytes>> {
        let bytes = self.chunk(index)?;
        let path: Vec<_> = self.tree().path(u64::from(index)).collect();
        let payload = [bytes, path.as_flattened()].concat();
        let place = (cid, index, self.size());
        Chunk::new(view, place, path.len(), SharedBytes::from(&payload[..])).ok()
    }
}

/// The root that a chunk with its path implies; of no image if it is none.
pub fn implied_root(chunk: &Chunk<SharedBytes>, chunk_size: usize) -> Digest {
    let index = u64::from(chunk.index);
    let leaf = (&chunk.leaf.0, chunk.bytes().len());
    let root = merkle::implied_root(leaf, index, chunk.size, chunk_size as u64, chunk.path());
    root.map_or(Digest::ZERO, Digest)
}
