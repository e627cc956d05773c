//! What wakes a ring.
//!
//! Owns an event descriptor. Always true: signalling never blocks. Must not: be read; the ring
//! learns of each signal whatever the counter says.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::transport::stream::wake::Signal;

/// An event descriptor.
pub(super) struct Event(File);

impl Event {
    /// A new one.
    ///
    /// # Errors
    /// The system is out of file descriptors.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self(File::from(owned)))
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Signal for Event {
    fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }
}
