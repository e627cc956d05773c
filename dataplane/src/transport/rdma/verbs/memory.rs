//! Memory that devices may reach.
//!
//! Owns protection domains and registrations. Always true: registered memory is written by the device only on
//! behalf of receives that we posted, and by nobody remote: no registration grants a remote right. Must not:
//! own the memory.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::device::Device;
use super::sys;

/// What queues and memory must share to be used together.
pub(in crate::transport::rdma) struct Domain {
    domain: NonNull<sys::ibv_pd>,
    device: Device,
}

// SAFETY: the library locks what several threads use of a domain; it is freed once, by the last owner.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    pub(in crate::transport::rdma) fn new(device: Device) -> io::Result<Arc<Self>> {
        // SAFETY: the context is open.
        let domain = unsafe { sys::ibv_alloc_pd(device.context()) };
        let domain = NonNull::new(domain).ok_or_else(io::Error::last_os_error)?;
        Ok(Arc::new(Self { domain, device }))
    }

    pub(in crate::transport::rdma) fn device(&self) -> Device {
        self.device
    }

    pub(super) fn pointer(&self) -> *mut sys::ibv_pd {
        self.domain.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: what was made from it holds a count, so there is nothing left.
        unsafe { sys::ibv_dealloc_pd(self.domain.as_ptr()) };
    }
}

/// Memory that the device may read and, for receives, write. Nobody remote may do either.
pub(in crate::transport::rdma) struct Region {
    region: NonNull<sys::ibv_mr>,
    start: usize,
    size: usize,
    _domain: Arc<Domain>,
}

// SAFETY: a registration is a name for memory; it is given back once.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Registers `size` bytes from `start`.
    ///
    /// # Safety
    /// The memory outlives the region.
    pub(in crate::transport::rdma) unsafe fn new(
        domain: &Arc<Domain>,
        start: *const u8,
        size: usize,
    ) -> io::Result<Self> {
        let access = sys::IBV_ACCESS_LOCAL_WRITE as i32;
        let address = start.cast_mut().cast();
        // SAFETY: the domain is there; the memory is, by contract.
        let region = unsafe { sys::tetrarch_reg_mr(domain.pointer(), address, size, access) };
        let region = NonNull::new(region).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { region, start: start as usize, size, _domain: Arc::clone(domain) })
    }

    /// The name under which our own work requests refer to it.
    pub(in crate::transport::rdma) fn key(&self) -> u32 {
        // SAFETY: it is registered as long as we are there.
        unsafe { self.region.as_ref() }.lkey
    }

    /// Does it begin there?
    pub(in crate::transport::rdma) fn starts_at(&self, start: *const u8) -> bool {
        self.start == start as usize
    }

    /// Are these bytes within it?
    pub(in crate::transport::rdma) fn contains(&self, bytes: &[u8]) -> bool {
        let from = bytes.as_ptr() as usize;
        from >= self.start && from - self.start + bytes.len() <= self.size
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: given back once. Queue pairs that could use it are gone: their owners drop them first.
        unsafe { sys::ibv_dereg_mr(self.region.as_ptr()) };
    }
}
