//! The few operations on files that a log needs.
//!
//! Owns the seam between a log and its files, and the plain back end: `pwrite` and `fdatasync`. Always true: a
//! log reaches files through these traits only, so faults can be put below it. Must not: know the
//! format.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::format::BLOCK_SIZE;

/// A directory of files that are all the log's.
pub trait Directory: Send {
    /// Where it is, for messages.
    fn path(&self) -> &Path;
    /// The names of all files.
    ///
    /// # Errors
    /// As the system says.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// A new file of `size` bytes, all zero, whose blocks are reserved. Replaces one of this name.
    ///
    /// # Errors
    /// As the system says; above all that the disk is full.
    fn create(&mut self, name: &str, size: u64) -> io::Result<Box<dyn LogFile>>;
    /// A file that is there.
    ///
    /// # Errors
    /// As the system says.
    fn open(&mut self, name: &str) -> io::Result<Box<dyn LogFile>>;
    /// Cuts a file off behind its first `size` bytes, durably. Those before stay as they are, whatever
    /// happens.
    ///
    /// # Errors
    /// As the system says.
    fn shrink(&mut self, name: &str, size: u64) -> io::Result<()>;
    /// Gives a file another name. Replaces one that has it.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes all of [`Directory::create`], [`Directory::rename`] and [`Directory::remove`] durable.
    ///
    /// # Errors
    /// As the system says: after one nothing is known of what is durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file of a log.
pub trait LogFile: Send {
    /// Bytes.
    ///
    /// # Errors
    /// As the system says.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// As the system says; the file ends before.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Writes whole blocks at a multiple of the block size, and returns when they are on stable storage.
    ///
    /// # Errors
    /// As the system says: after one nothing is known of what is durable, and the file is not to be
    /// written again.
    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()>;
}

/// Name of the file that keeps a second process away.
const LOCK: &str = "lock";

/// A directory of the system's, used by this process alone.
pub struct PlainDirectory {
    path: PathBuf,
    directory: File,
    /// Holds the lock while it is open.
    _lock: File,
}

impl PlainDirectory {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// Another process has it, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let io = |path: &Path, operation, source| {
            let path = path.to_path_buf();
            StorageError::Io { path, operation, source }
        };
        fs::create_dir_all(path).map_err(|source| io(path, "make the directory", source))?;
        // The directory itself has to survive, too.
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|source| io(parent, "sync the directory", source))?;
        }
        let directory = File::open(path).map_err(|source| io(path, "open", source))?;
        let lock_path = path.join(LOCK);
        let lock = File::create(&lock_path).map_err(|source| io(&lock_path, "create", source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path: lock_path }),
            Err(TryLockError::Error(source)) => Err(io(&lock_path, "lock", source)),
        }
    }

    /// The path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Directory for PlainDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != LOCK {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&mut self, name: &str, size: u64) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(PlainFile(create_zeroed(&self.join(name), size)?)))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn LogFile>> {
        let file = File::options().read(true).write(true).open(self.join(name))?;
        Ok(Box::new(PlainFile(file)))
    }

    fn shrink(&mut self, name: &str, size: u64) -> io::Result<()> {
        let file = File::options().write(true).open(self.join(name))?;
        file.set_len(size)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.join(from), self.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.join(name))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// Bytes of zeros that are written at once: groups of the log wait behind no more than that.
pub(super) const ZEROS_SIZE: usize = 512 * 1024;

/// Writes zeros rather than reserving blocks: a sync of blocks that were never written has to sync the
/// file system's own tables as well, each time.
///
/// Past the page cache where that works: zeros that collect there delay the syncs of others, and cost a
/// copy.
pub(super) fn create_zeroed(path: &Path, size: u64) -> io::Result<File> {
    create_zeroed_slowly(path, size, &mut || ())
}

/// As [`create_zeroed`], and calls `rest` after each write.
pub(super) fn create_zeroed_slowly(
    path: &Path,
    size: u64,
    rest: &mut dyn FnMut(),
) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let memory = vec![0; ZEROS_SIZE + BLOCK_SIZE];
    let start = memory.as_ptr().align_offset(BLOCK_SIZE).min(BLOCK_SIZE);
    let zeros = &memory[start..start + ZEROS_SIZE];
    let mut fill = |file: &File| {
        let mut at = 0;
        while at < size {
            let count = zeros.len().min((size - at) as usize);
            file.write_all_at(&zeros[..count], at)?;
            at += count as u64;
            rest();
        }
        Ok(())
    };
    let direct = open_direct(path).and_then(|direct| fill(&direct));
    let filled = direct.or_else(|_| fill(&file)).and_then(|()| file.sync_all());
    if filled.is_err() {
        // Half a file helps nobody, and its room may be what was missing.
        let _ = fs::remove_file(path);
    }
    filled.map(|()| file)
}

/// Opens a file to be written past the page cache, from and to whole blocks.
#[cfg(target_os = "linux")]
pub(super) fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).custom_flags(libc::O_DIRECT).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A file of the system's.
struct PlainFile(File);

impl LogFile for PlainFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }

    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.0.write_all_at(blocks, offset)?;
        self.0.sync_data()
    }
}
