//! Registered memory that sends leave from and that arrives is put into.
//!
//! Owns the chunks, which are slots of an arena of their own, and says which are free. Always true: a chunk is
//! with the device from [`Chunks::lend`] until [`Chunks::back`], and nobody looks into it meanwhile; nobody
//! remote can name it. Must not: know whose it is.

use std::sync::Arc;

use super::verbs::{Domain, Part, ReceiveWork, Region};
use crate::arena::{Arena, ArenaSpec, SlotClass};
use crate::frame::FrameMut;
use crate::types::OpenError;

/// Chunks of one kind at most: a completion names them by 16 bits.
pub(super) const COUNT_MAX: usize = 1 << 16;

struct Chunk {
    memory: FrameMut,
    with_device: bool,
}

/// The chunks of one kind of an endpoint.
pub(super) struct Chunks {
    /// Before the memory, so that it goes first.
    region: Region,
    chunks: Box<[Chunk]>,
    free: Vec<u16>,
}

impl Chunks {
    /// `count` chunks of `size` bytes, all free.
    ///
    /// # Errors
    /// There is not enough memory, or the device may not reach so much.
    pub(super) fn new(domain: &Arc<Domain>, count: usize, size: usize) -> Result<Self, OpenError> {
        let count = count.clamp(1, COUNT_MAX);
        let class = SlotClass { slot_size: size as u32, count: count as u32 };
        let arena = Arena::heap(&ArenaSpec { classes: vec![class] })?;
        let pool = arena.pool();
        let chunk = |memory| Chunk { memory, with_device: false };
        let chunks = std::iter::from_fn(|| pool.alloc(size)).map(chunk).collect();
        let (start, bytes) = arena.regions().next().unwrap_or((std::ptr::null(), 0));
        // SAFETY: the chunks hold the memory; they are dropped after the region, being declared after it.
        let region = unsafe { Region::new(domain, start, bytes) };
        let region = region.map_err(|source| super::registration_failed(bytes, source))?;
        Ok(Self { region, chunks, free: (0..=(count - 1) as u16).rev().collect() })
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// One that is free.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// It is free again: the device has it no more.
    pub(super) fn give(&mut self, chunk: u16) {
        self.chunks[usize::from(chunk)].with_device = false;
        self.free.push(chunk);
    }

    /// Its bytes.
    ///
    /// # Panics
    /// If it is with the device.
    pub(super) fn bytes(&self, chunk: u16) -> &[u8] {
        let chunk = &self.chunks[usize::from(chunk)];
        assert!(!chunk.with_device, "the device writes there");
        chunk.memory.bytes()
    }

    /// As [`Chunks::bytes`], to write.
    ///
    /// # Panics
    /// If it is with the device.
    pub(super) fn bytes_mut(&mut self, chunk: u16) -> &mut [u8] {
        let chunk = &mut self.chunks[usize::from(chunk)];
        assert!(!chunk.with_device, "the device reads there");
        chunk.memory.bytes_mut()
    }

    /// The device will have it, to receive into.
    pub(super) fn lend(&mut self, chunk: u16, work: u64) -> ReceiveWork {
        let key = self.region.key();
        let bytes = self.bytes_mut(chunk);
        let (address, size) = (bytes.as_mut_ptr(), bytes.len() as u32);
        self.chunks[usize::from(chunk)].with_device = true;
        ReceiveWork { work, address, size, key }
    }

    /// The first `size` bytes, to transmit. The chunk is with the device if `keep`.
    pub(super) fn part(&mut self, chunk: u16, size: usize, keep: bool) -> Part {
        let key = self.region.key();
        let address = self.bytes(chunk)[..size].as_ptr();
        self.chunks[usize::from(chunk)].with_device = keep;
        Part { address, size: size as u32, key }
    }

    /// The device is done with it.
    pub(super) fn back(&mut self, chunk: u16) {
        self.chunks[usize::from(chunk)].with_device = false;
    }
}
