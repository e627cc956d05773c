//! Checkpoints of a node, on its disk.
//!
//! Owns what is in one (`image`, made in `chunks`), how it lies in a file (`file`), which files there are (`store`), the thread that
//! writes them (`writer`), and the one that fetches one and serves them to others (`transfer`). Always true: a file has its name only when all of it is durable; what does not
//! hold is never used. Must not: stop a stage for longer than copying the state takes.

pub mod chunks;
mod companion;
pub mod file;
pub mod image;
pub mod keeping;
pub mod shelf;
pub mod store;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod writer;

use chunks::Chunks;
use tetrarch_consensus::{ConsensusId, Lsn};
use tetrarch_dataplane::types::Digest;
use transfer::{Install, State};

/// Bytes that are checked, and transferred, at a time.
pub const CHUNK_SIZE: usize = 256 * 1024;

/// Chunks of an image of `size` bytes.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_SIZE as u64)
}

/// Bytes of chunk `index` of an image of `size` bytes: 0 if there is none.
pub fn chunk_size(size: u64, index: u64) -> usize {
    let before = index.saturating_mul(CHUNK_SIZE as u64);
    size.saturating_sub(before).min(CHUNK_SIZE as u64) as usize
}

/// What everybody calls a checkpoint: equal at all correct replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The last instance that was executed.
    pub cid: ConsensusId,
    /// Bytes of its image.
    pub size: u64,
    /// Root over its chunks.
    pub root: Digest,
}

/// Where a checkpoint belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The last instance that was executed.
    pub cid: ConsensusId,
    /// The record from which a replay behind it begins.
    pub base: Lsn,
}

/// Where a node's checkpoints go.
pub trait CheckpointSink: Send {
    /// Memory for an image, unless the one before is still being written: then this one is left out.
    fn begin(&mut self) -> Option<Chunks>;
    /// Runs one piece of the copying, while execution waits, and notes for how long.
    fn copy(&mut self, piece: &mut dyn FnMut());
    /// The image is complete. Returns before it is durable.
    fn take(&mut self, position: Position, image: Chunks);
    /// One is due while the one before is still being copied: it is left out.
    fn leave_out(&mut self);
    /// The copying is given up, because the state is replaced.
    fn abandon(&mut self, image: Chunks);
    /// The state is to be replaced by the one that was fetched. It is away until it comes back replaced.
    fn install(&mut self, install: Install);
    /// The state that came back, and the instance that it is of.
    fn installed(&mut self) -> Option<(ConsensusId, State)>;
}
