//! Network frames as the bytes that the protocol core carries.
//!
//! Owns the two adapters between `dataplane` and `consensus`, which never see each other. Always
//! true: a payload shares its frame's slot; nothing is copied. Must not: allocate from the heap.

use tetrarch_consensus::{Payload, PayloadPool};
use tetrarch_dataplane::frame::{Frame, FramePool};

/// Shared bytes of a frame. The payload type of every node.
#[derive(Clone, Debug)]
pub struct FramePayload(pub Frame);

impl Payload for FramePayload {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    #[inline]
    fn size(&self) -> usize {
        self.0.size()
    }

    fn slice(&self, start: usize, size: usize) -> Option<Self> {
        self.0.slice(start, size).map(Self)
    }

    fn into_slice(self, start: usize, size: usize) -> Option<Self> {
        self.0.into_slice(start, size).map(Self)
    }
}

/// Where the core's own bytes come from: slots of the node's arena.
pub struct FramePayloadPool(pub FramePool);

impl PayloadPool<FramePayload> for FramePayloadPool {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<FramePayload> {
        let mut frame = self.0.alloc(size)?;
        fill(&mut frame.bytes_mut()[..size]);
        // `alloc` gave a slot of at least `size` bytes, and slots are below 2^32.
        Some(FramePayload(frame.freeze(size as u32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};

    #[test]
    fn the_pool_gives_backpressure_and_slices_share_the_slot() {
        let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 64, count: 1 }] };
        let arena = Arena::heap(&spec).unwrap();
        let mut pool = FramePayloadPool(arena.pool());
        let whole = pool.build(6, &mut |bytes| bytes.copy_from_slice(b"abcdef")).unwrap();
        let part = whole.slice(2, 3).unwrap();
        assert_eq!((whole.bytes(), part.bytes()), (&b"abcdef"[..], &b"cde"[..]));
        assert!(pool.build(1, &mut |_| {}).is_none(), "the only slot is in use");
        drop((whole, part));
        assert!(pool.build(65, &mut |_| {}).is_none(), "larger than any slot");
        assert!(pool.build(64, &mut |bytes| bytes.fill(1)).is_some());
    }
}
