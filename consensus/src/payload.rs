//! Bytes that the core carries and does not own: a network frame in a node, a shared slice in a test.

use alloc::sync::Arc;

/// Shared immutable bytes. A clone is a reference count, not a copy.
pub trait Payload: Clone {
    /// The bytes. They never change.
    fn bytes(&self) -> &[u8];

    /// How many bytes.
    fn size(&self) -> usize {
        self.bytes().len()
    }

    /// A part of the same bytes, sharing their memory. `None` when the range is out of bounds.
    fn slice(&self, start: usize, size: usize) -> Option<Self>
    where
        Self: Sized;

    /// As [`Payload::slice`], for who needs the rest no more: nothing has to be counted.
    fn into_slice(self, start: usize, size: usize) -> Option<Self>
    where
        Self: Sized,
    {
        self.slice(start, size)
    }
}

/// Where the core gets memory for the bytes it makes itself: proposals, request lists.
pub trait PayloadPool<P: Payload> {
    /// `size` bytes written by `fill`, or `None` when the pool is empty: backpressure, tried again
    /// later, never an error.
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<P>;

    /// What becomes of the bytes of `payload` with `change`: in their own memory if nobody shares it and
    /// the pool can do that, else in other memory of the pool.
    ///
    /// # Errors
    /// Gives `payload` back as it is when the pool is empty.
    fn alter(&mut self, payload: P, change: &mut dyn FnMut(&mut [u8])) -> Result<P, P> {
        let bytes = payload.bytes();
        let built = self.build(bytes.len(), &mut |out| {
            out.copy_from_slice(bytes);
            change(out);
        });
        built.ok_or(payload)
    }
}

/// A part of a shared allocation: the payload of tests, of the simulator's core level and of
/// clients, where an allocation per message is nothing to worry about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedBytes {
    bytes: Arc<[u8]>,
    start: usize,
    size: usize,
}

impl SharedBytes {
    /// Shares `bytes`.
    pub fn new(bytes: Arc<[u8]>) -> Self {
        let size = bytes.len();
        Self { bytes, start: 0, size }
    }
}

impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.into())
    }
}

impl Payload for SharedBytes {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }

    fn size(&self) -> usize {
        self.size
    }

    fn slice(&self, start: usize, size: usize) -> Option<Self> {
        if start.checked_add(size)? > self.size {
            return None;
        }
        Some(Self { bytes: self.bytes.clone(), start: self.start + start, size })
    }
}

/// Allocates from the heap, without limit. For tests, the simulator's core level and clients.
#[derive(Clone, Copy, Default, Debug)]
pub struct HeapPool;

impl PayloadPool<SharedBytes> for HeapPool {
    fn build(&mut self, size: usize, fill: &mut dyn FnMut(&mut [u8])) -> Option<SharedBytes> {
        let mut bytes = alloc::vec![0u8; size];
        fill(&mut bytes);
        Some(SharedBytes::new(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_stays_inside_its_payload() {
        let whole = SharedBytes::from(&b"abcdef"[..]);
        let part = whole.slice(1, 4).expect("inside");
        assert_eq!(part.bytes(), b"bcde");
        assert_eq!(part.slice(1, 2).expect("inside").bytes(), b"cd");
        assert!(part.slice(1, 4).is_none());
        assert!(part.slice(usize::MAX, 2).is_none());
    }
}
