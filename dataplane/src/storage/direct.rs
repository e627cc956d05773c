//! Files that are written past the page cache.
//!
//! Owns the directory of such files, and the way with two system calls. Always true: what is read goes through the page
//! cache, what is written does not. Must not: be on a path of its own where O_DIRECT is missing:
//! [`DirectDirectory::over`] says so, and gives the plain directory back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::buffer::Buffer;
use super::disk::{Directory, LogFile, PlainDirectory, create_zeroed, open_direct};
use super::format::BLOCK_SIZE;

/// The file with which a directory is tried.
const TRIAL: &str = "trial.new";

/// A way to write blocks of a file that was opened with O_DIRECT.
pub trait DirectWrite: Clone + Send + 'static {
    /// Writes whole blocks at a multiple of the block size, and returns when they are on stable storage.
    ///
    /// # Errors
    /// As the system says.
    fn write_durably(&self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()>;
}

/// `pwrite` and `fdatasync` by the thread that wants it.
#[derive(Clone, Copy, Debug)]
pub struct SystemCalls;

impl DirectWrite for SystemCalls {
    fn write_durably(&self, file: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        if blocks.as_ptr().align_offset(BLOCK_SIZE) == 0 {
            file.write_all_at(blocks, offset)?;
        } else {
            file.write_all_at(&Buffer::copy_of(blocks), offset)?;
        }
        file.sync_data()
    }
}

/// A directory whose files are written past the page cache.
pub struct DirectDirectory<W> {
    plain: PlainDirectory,
    way: W,
}

impl<W: DirectWrite> DirectDirectory<W> {
    /// Files of `plain`, written by `way`.
    ///
    /// # Errors
    /// It does not work here: the plain directory and why not.
    pub fn over(mut plain: PlainDirectory, way: W) -> Result<Self, (PlainDirectory, StorageError)> {
        let trial = plain.join(TRIAL);
        let tried = create_zeroed(&trial, BLOCK_SIZE as u64)
            .and_then(|_| way.write_durably(&open_direct(&trial)?, 0, &[1; BLOCK_SIZE]));
        let _ = plain.remove(TRIAL);
        match tried {
            Ok(()) => Ok(Self { plain, way }),
            Err(source) => {
                let path = plain.path().to_path_buf();
                let operation = "write past the page cache (O_DIRECT)";
                Err((plain, StorageError::Io { path, operation, source }))
            }
        }
    }

    fn file(&self, path: PathBuf) -> io::Result<Box<dyn LogFile>> {
        let plain = File::open(&path)?;
        let direct = open_direct(&path)?;
        Ok(Box::new(DirectFile { plain, direct, way: self.way.clone() }))
    }
}

impl<W: DirectWrite> Directory for DirectDirectory<W> {
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

    fn shrink(&mut self, name: &str, size: u64) -> io::Result<()> {
        self.plain.shrink(name, size)
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
struct DirectFile<W> {
    plain: File,
    direct: File,
    way: W,
}

impl<W: DirectWrite> LogFile for DirectFile<W> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.plain.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.plain.read_exact_at(into, offset)
    }

    fn write_durably(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.way.write_durably(&self.direct, offset, blocks)
    }
}
