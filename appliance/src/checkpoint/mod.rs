//! Checkpoints of a node, on its disk.
//!
//! Owns what is in one (`image`, made in `chunks`), how it lies in a file (`file`), which files there are (`store`) and the thread that
//! writes them (`writer`). Always true: a file has its name only when all of it is durable; what does not
//! hold is never used. Must not: stop a stage for longer than copying the state takes.

pub mod chunks;
pub mod file;
pub mod image;
pub mod store;
#[cfg(test)]
mod tests;
pub mod writer;

use chunks::Chunks;
use tetrarch_consensus::{ConsensusId, Lsn};

/// Bytes that are checked, and later transferred, at a time.
pub const CHUNK_SIZE: usize = 256 * 1024;

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
}
