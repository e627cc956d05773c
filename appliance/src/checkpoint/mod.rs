//! Checkpoints of a node, on its disk.
//!
//! Owns what is in one (`image`), how it lies in a file (`file`), which files there are (`store`) and the thread that
//! writes them (`writer`). Always true: a file has its name only when all of it is durable; what does not
//! hold is never used. Must not: stop a stage for longer than copying the state takes.

pub mod file;
pub mod image;
pub mod store;
#[cfg(test)]
mod tests;
pub mod writer;

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
    /// Takes one, whose image `fill` appends to memory, unless the one before is still being written.
    /// Returns before it is durable.
    fn take(&mut self, position: Position, fill: &mut dyn FnMut(&mut Vec<u8>));
}
