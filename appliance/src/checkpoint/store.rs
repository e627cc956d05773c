//! The directory of a replica's checkpoints.
//!
//! Owns the names of files, and how a new one appears. Always true: a file that has its name is durable as a
//! whole, and so is its name; the newest two stay. Must not: judge what is in a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tetrarch_consensus::spec;
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::types::Digest;

use super::Position;
use super::chunks::Chunks;
use super::file::{self, FileError};

const SUFFIX: &str = ".checkpoint";
/// The name under which one is made.
const UNFINISHED: &str = "checkpoint.new";
/// What is appended to the names of those that cannot be used.
const SET_ASIDE: &str = ".unusable";
/// How many stay.
const KEPT: usize = 2;

/// See the module.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The checkpoints in this directory, which is made with the first one.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that have their names, the newest first.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn list(&self) -> Result<Vec<PathBuf>, FileError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("list the directory", source)),
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| self.error("list the directory", source))?;
            if number(&entry.path()).is_some() {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        paths.reverse();
        Ok(paths)
    }

    /// Adds a checkpoint. When it returns, it is durable; then all but two are removed.
    ///
    /// # Errors
    /// As the system says. What was there before is there still.
    pub fn add(
        &self,
        owner: Owner,
        position: Position,
        image: &Chunks,
    ) -> Result<Digest, FileError> {
        spec!("CKP.3");
        let made = self.make(owner, position, image);
        let root = made.inspect_err(|_| {
            // Half a file helps nobody, and its room may be what was missing.
            let _ = fs::remove_file(self.path.join(UNFINISHED));
        });
        let root = root.map_err(|source| self.error("write", source))?;
        for old in self.list()?.into_iter().skip(KEPT) {
            fs::remove_file(&old).map_err(|source| self.error("remove an old one", source))?;
        }
        Ok(root)
    }

    fn make(&self, owner: Owner, position: Position, image: &Chunks) -> io::Result<Digest> {
        if !self.path.is_dir() {
            fs::create_dir_all(&self.path)?;
            if let Some(parent) = self.path.parent().filter(|it| !it.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        let unfinished = self.path.join(UNFINISHED);
        let root = file::write(&unfinished, owner, position, image)?;
        fs::rename(&unfinished, self.path.join(format!("{:016}{SUFFIX}", position.cid.0)))?;
        File::open(&self.path)?.sync_all()?;
        Ok(root)
    }

    /// One that cannot be used, now or later: it keeps its bytes, and loses its name.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_aside(&self, path: &Path) -> Result<(), FileError> {
        spec!("CKP.4");
        let mut name = path.to_path_buf().into_os_string();
        name.push(SET_ASIDE);
        fs::rename(path, name).map_err(|source| self.error("rename one", source))?;
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|source| self.error("sync the directory", source))
    }

    fn error(&self, operation: &'static str, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), operation, source }
    }
}

/// The instance in a file's name, if it is the name of a checkpoint.
fn number(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    if number.len() == 16 { number.parse().ok() } else { None }
}
