//! Large bodies that the kernel transmits from where they are.
//!
//! Owns the frames that the kernel still reads, and which memory it knows. Always true: a frame is
//! held until the kernel said that it lets go of it. Must not: grow.

use std::io;

use io_uring::Submitter;

use crate::arena::{Arena, FramePool};
use crate::frame::Frame;

/// Frames that the kernel may read at a time.
const FLIGHTS_MAX: usize = 64;
/// The kernel takes no larger piece of memory.
const REGION_SIZE_MAX: usize = 1 << 30;

/// A frame that the kernel reads.
struct Flight {
    #[expect(dead_code, reason = "held for its memory")]
    frame: Frame,
    /// Its place in the batch that sent it.
    at: u32,
}

/// Memory that the kernel knows, so that it need not look up its pages each time.
#[derive(Clone)]
pub(super) struct Region {
    start: usize,
    size: usize,
    /// Keeps the memory: its addresses must not come to mean something else.
    _pool: FramePool,
}

impl Region {
    /// The memory of an arena, in pieces that the kernel takes.
    pub(super) fn of(arena: &Arena) -> Vec<Region> {
        let region = |(base, size): (*const u8, usize)| Region {
            start: base as usize,
            size: size.min(REGION_SIZE_MAX),
            _pool: arena.pool(),
        };
        arena.regions().map(region).collect()
    }
}

/// All transmissions without a copy of one endpoint.
pub(super) struct ZeroCopy {
    /// The smallest body, in bytes, that is worth it.
    from: usize,
    flights: Box<[Option<Flight>]>,
    free: Vec<u32>,
    regions: Vec<Region>,
}

impl ZeroCopy {
    /// For bodies of at least `from` bytes; `None`: never.
    pub(super) fn new(from: Option<usize>) -> Self {
        let count = if from.is_some() { FLIGHTS_MAX } else { 0 };
        Self {
            from: from.unwrap_or(usize::MAX),
            flights: (0..count).map(|_| None).collect(),
            free: (0..count as u32).rev().collect(),
            regions: Vec::new(),
        }
    }

    /// Make memory known to the kernel.
    ///
    /// # Errors
    /// It may not pin that much: everything works without.
    pub(super) fn register(
        &mut self,
        submitter: &Submitter<'_>,
        regions: Vec<Region>,
    ) -> io::Result<()> {
        if regions.is_empty() || self.flights.is_empty() {
            return Ok(());
        }
        let slice = |region: &Region| libc::iovec {
            iov_base: region.start as *mut libc::c_void,
            iov_len: region.size,
        };
        let slices: Vec<_> = regions.iter().map(slice).collect();
        // SAFETY: each region is memory of an arena, which its pool keeps as long as we are; we
        // outlive the ring's last operation. The kernel only reads frames, at our request.
        unsafe { submitter.register_buffers(&slices)? };
        self.regions = regions;
        Ok(())
    }

    /// Bodies of this size are for [`ZeroCopy::begin`]; above the largest size if there is no place.
    pub(super) fn body_max(&self) -> usize {
        if self.free.is_empty() { usize::MAX } else { self.from }
    }

    /// A place for one more frame, and the number of the registered memory that holds it.
    pub(super) fn reserve(&mut self, frame: &Frame) -> Option<(u32, Option<u16>)> {
        let flight = self.free.pop()?;
        let (start, end) = (frame.bytes().as_ptr() as usize, frame.size());
        let within =
            |region: &Region| start >= region.start && start + end <= region.start + region.size;
        Some((flight, self.regions.iter().position(within).map(|at| at as u16)))
    }

    /// `frame` is the kernel's, sent as number `at` of the batch.
    pub(super) fn begin(&mut self, flight: u32, frame: Frame, at: u32) {
        self.flights[flight as usize] = Some(Flight { frame, at });
    }

    /// The place in its batch of a transmission that has its result.
    pub(super) fn place(&self, flight: u32) -> Option<u32> {
        Some(self.flights.get(flight as usize)?.as_ref()?.at)
    }

    /// The kernel lets go of the frame.
    pub(super) fn end(&mut self, flight: u32) {
        if self.flights[flight as usize].take().is_some() {
            self.free.push(flight);
        }
    }
}
