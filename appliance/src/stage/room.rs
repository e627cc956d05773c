//! For whom is there memory?
//!
//! Owns the thresholds. Always true: while frames run short, clients wait before members do, and
//! batches whose time has not come before what the open instance needs. Must not: allocate.

use std::sync::Arc;

use tetrarch_consensus::{ConsensusId, Input, Message, Payload};
use tetrarch_dataplane::frame::FramePool;

use crate::metrics::Metrics;
use crate::payload::FramePayload;

/// For whom there is memory, from those who come first to those who come last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Room {
    /// What the open instance needs.
    Members,
    /// Proposed and decided batches that came before their time, too.
    Early,
    /// Everybody.
    Clients,
}

/// Looks at the frames of a node.
#[derive(Clone)]
pub struct Gauge {
    pool: FramePool,
    /// How many of the largest slots there are.
    large_slots: usize,
    metrics: Arc<Metrics>,
}

impl Gauge {
    /// A gauge of `pool`, made while all of it is free. What was decided is read from `metrics`.
    pub fn new(pool: FramePool, metrics: Arc<Metrics>) -> Self {
        let large_slots = pool.free_slots_for(pool.slot_size_max());
        Self { pool, large_slots, metrics }
    }

    /// For whom is there memory now? Every message fits a slot of the largest size, so their number
    /// says how much can still come, whatever its size.
    pub fn look(&self) -> Room {
        let free = self.pool.free_slots_for(self.pool.slot_size_max());
        if free >= self.large_slots / 2 {
            Room::Clients
        } else if free >= self.large_slots / 4 {
            Room::Early
        } else {
            Room::Members
        }
    }

    /// Is this better fetched (again) when its time comes, if there is a place to receive it then?
    pub fn is_early(&self, input: &Input<FramePayload>) -> bool {
        let open = ConsensusId(self.metrics.decided.get() + 1);
        matches!(input, Input::Peer { message, .. } if is_early(message.get(), open))
    }
}

/// Is this a batch that the core could only keep until its instance is open, proposed or decided?
/// Enough of either would leave no slot to receive what the open instance lacks, and so stay for
/// ever.
fn is_early<P: Payload>(message: &Message<P>, open: ConsensusId) -> bool {
    match message {
        Message::Propose(propose) => propose.at.cid > open,
        Message::ProposeSparse(propose) => propose.at.cid > open,
        Message::Decided(decided) => decided.batch.is_some() && decided.at.cid > open,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::FramePayload;
    use tetrarch_consensus::message::{Decided, Position, Propose};
    use tetrarch_consensus::{Batch, Digest, Epoch, ViewId};
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};

    #[test]
    fn batches_before_their_time_give_way_and_claims_do_not() {
        let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 64, count: 1 }] };
        let frame = Arena::heap(&spec).unwrap().pool().copy_from(&[0; 16]).unwrap();
        let batch = Batch::parse(FramePayload(frame)).unwrap();
        let at = |cid| Position { view: ViewId(0), cid: ConsensusId(cid), epoch: Epoch(0) };
        let propose = |cid| Message::Propose(Propose { at: at(cid), batch: batch.clone() });
        let decided =
            |cid, batch| Message::Decided(Decided { at: at(cid), digest: Digest::ZERO, batch });
        let open = ConsensusId(7);
        assert!(is_early(&propose(8), open) && is_early(&decided(8, Some(batch.clone())), open));
        assert!(!is_early(&propose(7), open) && !is_early(&decided(7, Some(batch.clone())), open));
        assert!(!is_early(&decided(8, None), open));
    }
}
