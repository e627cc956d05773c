//! Network frames as the bytes that the client core carries.
//!
//! Owns the adapter between `dataplane` and `consensus`. Always true: bytes share their frame's slot;
//! nothing is copied. Must not: allocate from the heap.

use std::ops::Deref;

use tetrarch_consensus::{Payload, PayloadPool};
use tetrarch_dataplane::frame::{Frame, FramePool};

/// Shared bytes of a frame: a result, as it came from the network. Drop it soon, or copy it: as long
/// as it lives, a slot of the client's receive memory is taken.
#[derive(Clone, Debug)]
pub struct Bytes(pub(crate) Frame);

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Payload for Bytes {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn slice(&self, start: usize, size: usize) -> Option<Self> {
        self.0.slice(start, size).map(Self)
    }

    fn into_slice(self, start: usize, size: usize) -> Option<Self> {
        self.0.into_slice(start, size).map(Self)
    }
}

/// Memory of requests: slots of the client's arena.
pub(crate) struct BytesPool(pub(crate) FramePool);

impl PayloadPool<Bytes> for BytesPool {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<Bytes> {
        let mut frame = self.0.alloc(size)?;
        fill(&mut frame.bytes_mut()[..size]);
        let size = u32::try_from(size).expect("a slot is smaller than 2^32 bytes");
        Some(Bytes(frame.freeze(size)))
    }

    fn alter(&mut self, payload: Bytes, change: &mut dyn FnMut(&mut [u8])) -> Result<Bytes, Bytes> {
        let size = payload.0.size();
        match payload.0.into_mut() {
            Ok(mut frame) => {
                change(&mut frame.bytes_mut()[..size]);
                Ok(Bytes(frame.freeze(size as u32)))
            }
            Err(shared) => {
                let mut write = |out: &mut [u8]| {
                    out.copy_from_slice(shared.bytes());
                    change(out);
                };
                self.build(size, &mut write).ok_or(Bytes(shared))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};

    #[test]
    fn requests_live_in_slots_and_an_empty_pool_is_backpressure() {
        let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 64, count: 1 }] };
        let arena = Arena::heap(&spec).unwrap();
        let mut pool = BytesPool(arena.pool());
        let bytes = pool.build(6, &mut |out| out.copy_from_slice(b"abcdef")).unwrap();
        assert_eq!(
            (&bytes[..], bytes.slice(2, 3).unwrap().as_ref()),
            (&b"abcdef"[..], &b"cde"[..])
        );
        assert!(pool.build(1, &mut |_| {}).is_none());
        drop(bytes);
        assert!(pool.build(65, &mut |_| {}).is_none());
        assert!(pool.build(64, &mut |_| {}).is_some());
    }

    #[test]
    fn bytes_that_nobody_shares_change_where_they_are() {
        let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 64, count: 1 }] };
        let arena = Arena::heap(&spec).unwrap();
        let mut pool = BytesPool(arena.pool());
        let bytes = pool.build(3, &mut |out| out.copy_from_slice(b"abc")).unwrap();
        let other = bytes.clone();
        let bytes = pool.alter(bytes, &mut |_| panic!("no memory")).unwrap_err();
        drop(other);
        let bytes = pool.alter(bytes, &mut |out| out[0] = b'x').unwrap();
        assert_eq!((&bytes[..], arena.free_slots()), (&b"xbc"[..], 0));
    }
}
