//! Memory that the kernel receives into.
//!
//! Owns the chunks, which are slots of an arena of their own, and the ring through which they are
//! given to the kernel. Always true: a chunk is the kernel's from [`Buffers::give`] until the
//! completion that names it, then ours, and part of at most one [`Chain`]. Must not: look into them.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::arena::{Arena, ArenaSpec, SlotClass};
use crate::frame::FrameMut;
use crate::types::OpenError;

/// The only group of provided buffers of a ring.
pub(super) const GROUP: u16 = 0;
/// Chunks at most: the kernel's limit.
const COUNT_MAX: usize = 1 << 15;
/// The kernel wants the ring at a page.
const RING_ALIGN: usize = 4096;
const NOBODY: u16 = u16::MAX;

/// Received bytes of one connection, oldest first, that were not taken yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: u16,
    last: u16,
    count: u16,
}

impl Chain {
    pub(super) const fn new() -> Self {
        Self { first: NOBODY, last: NOBODY, count: 0 }
    }

    /// Chunks in it.
    pub(super) fn len(&self) -> usize {
        usize::from(self.count)
    }
}

/// A chunk as long as it is ours.
struct Chunk {
    memory: FrameMut,
    start: usize,
    end: usize,
    next: u16,
    with_kernel: bool,
}

/// The chunks of one endpoint.
pub(super) struct Buffers {
    ring: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    chunks: Box<[Chunk]>,
    with_kernel: usize,
}

// SAFETY: the memory behind `ring` belongs to this value alone, beside the kernel, which does not
// care about threads.
unsafe impl Send for Buffers {}

impl Buffers {
    /// `count` chunks of `size` bytes, all of them ours.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(super) fn new(count: usize, size: usize) -> Result<Self, OpenError> {
        let count = count.clamp(1, COUNT_MAX);
        let slot = SlotClass { slot_size: size as u32, count: count as u32 };
        let pool = Arena::heap(&ArenaSpec { classes: vec![slot] })?.pool();
        let chunk = |memory| Chunk { memory, start: 0, end: 0, next: NOBODY, with_kernel: false };
        let chunks = std::iter::from_fn(|| pool.alloc(size)).map(chunk).collect();
        let entries = count.next_power_of_two();
        let size = entries * size_of::<BufRingEntry>();
        let what = || OpenError::OutOfMemory { what: "the ring of receive buffers".into(), size };
        let layout = Layout::from_size_align(size, RING_ALIGN).map_err(|_| what())?;
        // SAFETY: the size is not zero: there is at least one entry.
        let ring = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(what)?;
        let (ring, mask) = (ring.cast(), (entries - 1) as u16);
        Ok(Self { ring, layout, mask, tail: 0, chunks, with_kernel: 0 })
    }

    /// Make the ring known and give all chunks. `self` must outlive the ring of `submitter`, or at
    /// least its last operation.
    ///
    /// # Errors
    /// The kernel does not have provided buffers, or may not pin more memory.
    pub(super) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let (address, entries) = (self.ring.as_ptr() as u64, self.mask + 1);
        // SAFETY: the memory has room for `entries` and is freed only when `self` is dropped, which
        // the endpoint does after the ring is quiet.
        unsafe { submitter.register_buf_ring_with_flags(address, entries, GROUP, 0)? };
        for chunk in 0..self.chunks.len() {
            self.give(chunk as u16);
        }
        Ok(())
    }

    /// Are there chunks for the kernel to fill?
    pub(super) fn any_with_kernel(&self) -> bool {
        self.with_kernel > 0
    }

    /// How many chunks there are.
    pub(super) fn count(&self) -> usize {
        self.chunks.len()
    }

    /// Let the kernel fill a chunk.
    fn give(&mut self, id: u16) {
        let chunk = &mut self.chunks[usize::from(id)];
        assert!(!chunk.with_kernel, "a chunk is given once");
        (chunk.with_kernel, chunk.next) = (true, NOBODY);
        let memory = chunk.memory.bytes_mut();
        // SAFETY: the index is masked to the ring's entries. The kernel reads an entry only after
        // the tail has passed it, so nobody else accesses this one now.
        let entry = unsafe { &mut *self.ring.as_ptr().add(usize::from(self.tail & self.mask)) };
        entry.set_addr(memory.as_mut_ptr() as u64);
        entry.set_len(memory.len() as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies within the first entry, is aligned, and lives as long as the ring;
        // the kernel reads it with acquire semantics. We write it only here.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.with_kernel += 1;
    }

    /// The kernel filled `count` bytes of a chunk: it is ours, behind the others of `chain`.
    ///
    /// # Panics
    /// If it was not the kernel's.
    pub(super) fn filled(&mut self, id: u16, count: usize, chain: &mut Chain) {
        self.taken(id);
        let chunk = &mut self.chunks[usize::from(id)];
        (chunk.start, chunk.end, chunk.next) = (0, count.min(chunk.memory.capacity()), NOBODY);
        match chain.last {
            NOBODY => chain.first = id,
            last => self.chunks[usize::from(last)].next = id,
        }
        chain.last = id;
        chain.count += 1;
    }

    /// The kernel filled a chunk of a connection that is gone: it may fill it again.
    pub(super) fn refuse(&mut self, id: u16) {
        self.taken(id);
        self.give(id);
    }

    fn taken(&mut self, id: u16) {
        let chunk = &mut self.chunks[usize::from(id)];
        assert!(chunk.with_kernel, "the kernel fills what it was given");
        chunk.with_kernel = false;
        self.with_kernel -= 1;
    }

    /// The oldest bytes of a chain.
    pub(super) fn first<'a>(&'a self, chain: &Chain) -> Option<&'a [u8]> {
        let chunk = self.chunks.get(usize::from(chain.first))?;
        Some(&chunk.memory.bytes()[chunk.start..chunk.end])
    }

    /// The first `count` of the oldest bytes were taken. A chunk without more is the kernel's again.
    pub(super) fn consume(&mut self, chain: &mut Chain, count: usize) {
        let Some(chunk) = self.chunks.get_mut(usize::from(chain.first)) else {
            return;
        };
        chunk.start += count;
        assert!(chunk.start <= chunk.end, "no more is taken than there is");
        if chunk.start == chunk.end {
            self.pop(chain);
        }
    }

    /// Nobody wants these bytes.
    pub(super) fn discard(&mut self, chain: &mut Chain) {
        while chain.count > 0 {
            self.pop(chain);
        }
    }

    fn pop(&mut self, chain: &mut Chain) {
        let id = chain.first;
        chain.first = self.chunks[usize::from(id)].next;
        chain.count -= 1;
        if chain.count == 0 {
            *chain = Chain::new();
        }
        self.give(id);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`. The kernel is done with it: an endpoint
        // drops its buffers only when its ring is quiet, and leaks them otherwise.
        unsafe { std::alloc::dealloc(self.ring.as_ptr().cast(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_round_between_kernel_and_chains() {
        let mut buffers = Buffers::new(3, 4096).unwrap();
        (0..3).for_each(|id| buffers.give(id));
        let (mut a, mut b) = (Chain::new(), Chain::new());
        buffers.filled(2, 10, &mut a);
        buffers.filled(0, 20, &mut b);
        buffers.filled(1, 4096, &mut a);
        assert!(!buffers.any_with_kernel());
        assert_eq!((a.len(), b.len()), (2, 1));
        assert_eq!(buffers.first(&a).map(<[u8]>::len), Some(10));
        buffers.consume(&mut a, 4);
        assert_eq!(buffers.first(&a).map(<[u8]>::len), Some(6));
        buffers.consume(&mut a, 6);
        assert_eq!(buffers.first(&a).map(<[u8]>::len), Some(4096));
        assert_eq!(buffers.with_kernel, 1);
        buffers.discard(&mut a);
        buffers.consume(&mut b, 20);
        assert_eq!((a.len(), b.len(), buffers.with_kernel), (0, 0, 3));
        assert!(buffers.first(&a).is_none());
        buffers.refuse(1);
        assert_eq!(buffers.with_kernel, 3);
    }

    #[test]
    #[should_panic(expected = "fills what it was given")]
    fn a_chunk_is_filled_once() {
        let mut buffers = Buffers::new(1, 4096).unwrap();
        buffers.give(0);
        let mut chain = Chain::new();
        buffers.filled(0, 1, &mut chain);
        buffers.filled(0, 1, &mut chain);
    }
}
