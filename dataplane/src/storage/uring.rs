//! Files written past the page cache, with one entry to the kernel for a write and its sync.
//!
//! Owns the ring, and memory that the kernel knows. Always true: when a call returns, the kernel works on none of
//! its operations any more; a write that was cut short is continued, and only what a sync covered counts.
//! Must not: be on a path of its own where O_DIRECT or io_uring is missing: [`UringDirectory::over`]
//! says so, and gives the plain directory back.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use io_uring::{IoUring, opcode, squeue, types};

use super::StorageError;
use super::disk::{Directory, LogFile, PlainDirectory, create_zeroed};
use super::format::BLOCK_SIZE;

/// Bytes of the memory that the kernel knows: larger groups take several writes and one sync.
const CHUNK_SIZE: usize = 1 << 20;
/// The file with which a directory is tried.
const TRIAL: &str = "trial.new";

/// A directory whose files are written through io_uring.
pub struct UringDirectory {
    plain: PlainDirectory,
    ring: Arc<Mutex<Ring>>,
}

impl UringDirectory {
    /// Files of `plain`, in groups of at most `group_size_max` bytes.
    ///
    /// # Errors
    /// O_DIRECT or io_uring does not work here: the plain directory and why not.
    pub fn over(
        mut plain: PlainDirectory,
        group_size_max: usize,
    ) -> Result<Self, (PlainDirectory, StorageError)> {
        let path = plain.path().to_path_buf();
        match try_out(&plain, group_size_max) {
            Ok(ring) => {
                let _ = plain.remove(TRIAL);
                Ok(Self { plain, ring: Arc::new(Mutex::new(ring)) })
            }
            Err((operation, source)) => {
                let _ = plain.remove(TRIAL);
                Err((plain, StorageError::Io { path, operation, source }))
            }
        }
    }

    fn file(&self, path: PathBuf) -> io::Result<Box<dyn LogFile>> {
        let plain = File::open(&path)?;
        let direct = open_direct(&path)?;
        Ok(Box::new(UringFile { plain, direct, ring: Arc::clone(&self.ring) }))
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    File::options().write(true).custom_flags(libc::O_DIRECT).open(path)
}

/// A ring that has written a block to the directory.
fn try_out(
    plain: &PlainDirectory,
    group_size_max: usize,
) -> Result<Ring, (&'static str, io::Error)> {
    let mut ring = Ring::new(CHUNK_SIZE.min(group_size_max.next_multiple_of(BLOCK_SIZE)))
        .map_err(|error| ("use io_uring", error))?;
    let trial = plain.join(TRIAL);
    let write = || {
        create_zeroed(&trial, BLOCK_SIZE as u64)?;
        ring.write_durably(&open_direct(&trial)?, 0, &[1; BLOCK_SIZE])?;
        Ok(ring)
    };
    write().map_err(|error| ("write past the page cache (O_DIRECT)", error))
}

impl Directory for UringDirectory {
    fn path(&self) -> &Path {
        self.plain.path()
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.plain.list()
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<Box<dyn LogFile>> {
        let path = self.plain.join(name);
        create_zeroed(&path, size)?;
        self.file(path)
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn LogFile>> {
        self.file(self.plain.join(name))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.plain.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.plain.remove(name)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.plain.sync()
    }
}

/// A file that is read through the page cache and written past it.
struct UringFile {
    plain: File,
    direct: File,
    ring: Arc<Mutex<Ring>>,
}

impl LogFile for UringFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.plain.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.plain.read_exact_at(into, offset)
    }

    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.write_durably(&self.direct, offset, blocks)
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
