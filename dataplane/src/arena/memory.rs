//! The bytes of one slot class.
//!
//! Owns where they come from: huge pages that the system has reserved, as long as there are some, or
//! the heap. Always true: every page was written before anybody uses it, so that a machine with too
//! little memory fails at start and a pinned core meets no page fault later. Must not: know slots.

use crate::types::OpenError;
use std::alloc::Layout;
use std::ptr::NonNull;

/// The memory of a class starts at a page, so that devices and direct IO can use it as it is.
const CLASS_ALIGN: usize = 4096;

/// A class of at least this size starts at a huge page.
const HUGE_PAGE: usize = 2 * 1024 * 1024;

/// The memory of all slots of a class.
pub(super) struct Memory {
    base: NonNull<u8>,
    size: usize,
    source: Source,
}

/// Where to give it back.
enum Source {
    Heap(Layout),
    /// Mapped in huge pages, so many bytes.
    HugePages(usize),
}

// SAFETY: `base` is only used to make slots, to report regions and to free.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing is written through a shared `Memory`.
unsafe impl Sync for Memory {}

impl Memory {
    /// `size` zeroed bytes; `size` is not zero.
    pub(super) fn new(class: usize, size: usize) -> Result<Self, OpenError> {
        assert!(size > 0, "the specification was checked");
        if let Some((base, mapped)) = map_huge_pages(size) {
            return Ok(Self { base, size, source: Source::HugePages(mapped) });
        }
        let error = || OpenError::OutOfMemory { what: format!("slot class {class}"), size };
        let align = if size >= HUGE_PAGE { HUGE_PAGE } else { CLASS_ALIGN };
        let layout = Layout::from_size_align(size, align).map_err(|_| error())?;
        // SAFETY: the size is not zero (asserted).
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) }).ok_or_else(error)?;
        if align == HUGE_PAGE {
            advise_huge_pages(base, size);
        }
        // SAFETY: `base` has `size` bytes and nobody else knows them yet.
        unsafe { base.write_bytes(0, size) };
        Ok(Self { base, size, source: Source::Heap(layout) })
    }

    /// Where it begins.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Is it in huge pages that were reserved?
    pub(super) fn is_huge(&self) -> bool {
        matches!(self.source, Source::HugePages(_))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // No slot is in use: each one holds a count of the `Shared` that owns this memory.
        match self.source {
            // SAFETY: allocated with this layout in `new`, freed only here.
            Source::Heap(layout) => unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) },
            Source::HugePages(mapped) => unmap(self.base, mapped),
        }
    }
}

/// Zeroed memory in reserved huge pages, and how many bytes were mapped; `None` when they do not
/// suffice. The pages are taken here, as far as the system can do that without killing the process
/// when a limit (of a cgroup) is met: Linux 5.14 and later.
#[cfg(target_os = "linux")]
fn map_huge_pages(size: usize) -> Option<(NonNull<u8>, usize)> {
    if size < HUGE_PAGE {
        return None;
    }
    let mapped = size.checked_next_multiple_of(HUGE_PAGE)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the system chooses touches no memory of ours.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), mapped, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return None;
    }
    let base = NonNull::new(address.cast::<u8>())?;
    // SAFETY: the mapping that was just made, whole. It only makes the pages present.
    let populated = unsafe { libc::madvise(address, mapped, libc::MADV_POPULATE_WRITE) };
    if populated != 0 {
        unmap(base, mapped);
        return None;
    }
    Some((base, mapped))
}

#[cfg(not(target_os = "linux"))]
fn map_huge_pages(_size: usize) -> Option<(NonNull<u8>, usize)> {
    None
}

#[cfg(target_os = "linux")]
fn unmap(base: NonNull<u8>, mapped: usize) {
    // SAFETY: mapped with this size in `map_huge_pages`; nobody uses it any more. It fails only for
    // an address that was not mapped.
    unsafe { libc::munmap(base.as_ptr().cast(), mapped) };
}

#[cfg(not(target_os = "linux"))]
fn unmap(_base: NonNull<u8>, _mapped: usize) {}

/// Ask for huge pages: fewer address translations for a device and a core. It is advice: a system
/// that cannot follow it uses small pages, and nothing else changes.
fn advise_huge_pages(base: NonNull<u8>, size: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: whole huge pages of memory that we own, at an aligned address; the advice changes how
    // pages are backed, never what they hold.
    unsafe {
        libc::madvise(base.as_ptr().cast(), size - size % HUGE_PAGE, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (base, size);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Holds with and without reserved pages on the machine that runs it.
    #[test]
    fn memory_is_zeroed_and_aligned_whatever_pages_it_is_in() {
        for size in [1, 4096, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 64] {
            let memory = Memory::new(0, size).expect("a few MiB");
            assert_eq!(memory.size(), size);
            let align = if size >= HUGE_PAGE { HUGE_PAGE } else { CLASS_ALIGN };
            assert_eq!(memory.base().as_ptr() as usize % align, 0);
            // SAFETY: `size` initialised bytes that nobody writes.
            let bytes = unsafe { std::slice::from_raw_parts(memory.base().as_ptr(), size) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            assert!(size >= HUGE_PAGE || !memory.is_huge());
        }
    }

    #[test]
    fn more_than_there_can_be_is_refused() {
        assert!(map_huge_pages(usize::MAX).is_none());
        assert!(map_huge_pages(1 << 50).is_none());
        assert!(Memory::new(3, usize::MAX / 2 + 1).is_err());
    }
}
