//! Blocks written with one entry to the kernel for a write and its sync.
//!
//! Owns the ring, and memory that the kernel knows. Always true: when a call returns, the kernel works on none of
//! its operations any more; a write that was cut short is continued, and only what a sync covered counts.
//! Must not: be preferred to two system calls without a measurement: the kernel hands each sync of a ring to
//! another thread (`docs/adr/0029-segments-used-again.md`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::{IoUring, opcode, squeue, types};

use super::direct::DirectWrite;
use super::format::BLOCK_SIZE;

/// Bytes of the memory that the kernel knows: larger groups take several writes and one sync.
const CHUNK_SIZE: usize = 1 << 20;
/// One ring for all files of a log.
#[derive(Clone)]
pub struct SharedRing(Arc<Mutex<Ring>>);

impl SharedRing {
    /// For groups of at most `group_size_max` bytes.
    ///
    /// # Errors
    /// io_uring does not work here.
    pub fn new(group_size_max: usize) -> io::Result<Self> {
        let size = CHUNK_SIZE.min(group_size_max.next_multiple_of(BLOCK_SIZE));
        Ok(Self(Arc::new(Mutex::new(Ring::new(size)?))))
    }
}

impl DirectWrite for SharedRing {
    fn write_durably(&self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.write_durably(file, offset, blocks)
    }
}

/// A ring of two operations, and whole pages of memory that are registered with it.
struct Ring {
    ring: IoUring,
    memory: Vec<u8>,
    /// Where in `memory` the first whole block begins.
    start: usize,
    size: usize,
}

/// What the completions are told apart by.
const WRITE: u64 = 1;
const SYNC: u64 = 2;

impl Ring {
    fn new(size: usize) -> io::Result<Self> {
        let ring = IoUring::new(4)?;
        let memory = vec![0u8; size + BLOCK_SIZE];
        let start = memory.as_ptr().align_offset(BLOCK_SIZE);
        if start > BLOCK_SIZE {
            return Err(io::Error::other("memory cannot be aligned"));
        }
        let mut this = Self { ring, memory, start, size };
        let base = this.memory[this.start..].as_mut_ptr().cast();
        let known = [libc::iovec { iov_base: base, iov_len: this.size }];
        // SAFETY: the memory is a part of `memory`, which is never resized, and is freed after the ring
        // (fields drop in order), or never, if an operation may still use it (`complete`).
        unsafe { this.ring.submitter().register_buffers(&known)? };
        Ok(this)
    }

    fn write_durably(&mut self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let (mut offset, mut left) = (offset, blocks);
        while !left.is_empty() {
            let size = left.len().min(self.size);
            let (chunk, rest) = left.split_at(size);
            self.memory[self.start..self.start + size].copy_from_slice(chunk);
            self.write_chunk(file, offset, size, rest.is_empty())?;
            offset += size as u64;
            left = rest;
        }
        Ok(())
    }

    /// Writes the first `size` bytes of the memory; the last chunk with a sync that covers all of
    /// them.
    fn write_chunk(&mut self, file: &File, offset: u64, size: usize, sync: bool) -> io::Result<()> {
        let mut done = 0;
        loop {
            let (written, synced) = self.submit(file, offset, done..size, sync)?;
            done += written;
            if done == size && (synced || !sync) {
                return Ok(());
            }
            // A write that is cut short breaks the link, and its sync does not run.
            if written == 0 || !done.is_multiple_of(BLOCK_SIZE) {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }

    /// Writes `part` of the memory, and syncs if that is wanted. Returns how many bytes were written,
    /// and whether the sync ran after them.
    fn submit(
        &mut self,
        file: &File,
        offset: u64,
        part: std::ops::Range<usize>,
        sync: bool,
    ) -> io::Result<(usize, bool)> {
        let descriptor = types::Fd(file.as_raw_fd());
        let size = u32::try_from(part.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let from = self.memory[self.start + part.start..].as_ptr();
        let place = offset + part.start as u64;
        let write = opcode::WriteFixed::new(descriptor, from, size, 0).offset(place).build();
        let write = write.user_data(WRITE);
        let fsync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build();
        let linked = [write.clone().flags(squeue::Flags::IO_LINK), fsync.user_data(SYNC)];
        let entries = if sync { &linked[..] } else { std::slice::from_ref(&write) };
        // SAFETY: the memory is registered and outlives the ring, nobody writes it until `complete` has
        // seen the last completion, and the file is open until then.
        let pushed = unsafe { self.ring.submission().push_multiple(entries) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))?;
        let results = self.complete(entries.len())?;
        match results[0] {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            written => match results[1] {
                0 => Ok((written as usize, sync)),
                // Cancelled, because the write was cut short.
                error if error == -libc::ECANCELED => Ok((written as usize, false)),
                error => Err(io::Error::from_raw_os_error(-error)),
            },
        }
    }

    /// Waits until all of `count` operations are over. Their results, of the write and of the sync.
    fn complete(&mut self, count: usize) -> io::Result<[i32; 2]> {
        let (mut seen, mut results) = (0, [0; 2]);
        while seen < count {
            if let Err(error) = self.ring.submit_and_wait(1) {
                let later = [libc::EINTR, libc::EAGAIN, libc::EBUSY];
                if error.raw_os_error().is_none_or(|number| !later.contains(&number)) {
                    // The kernel may still read the memory: it is never freed.
                    std::mem::forget(std::mem::take(&mut self.memory));
                    self.memory = vec![0; self.start + self.size];
                    return Err(error);
                }
            }
            for entry in self.ring.completion() {
                seen += 1;
                results[usize::from(entry.user_data() == SYNC)] = entry.result();
            }
        }
        Ok(results)
    }
}
