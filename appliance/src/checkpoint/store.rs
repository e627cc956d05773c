//! The directory of a replica's checkpoints.
//!
//! Owns the names of files, and how a new one appears. Always true: a file that has its name is durable as a
//! whole, and so is its name; the newest two stay. Must not: judge what is in a file.
//!
//! A volatile replica has checkpoints for others, not for itself: its files have no names and are gone with its
//! process. They take room on the disk all the same.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tetrarch_consensus::{ConsensusId, spec};
use tetrarch_dataplane::storage::Owner;

use super::Position;
use super::chunks::Chunks;
use super::file::{self, CheckpointFile, FileError};

const SUFFIX: &str = ".checkpoint";
/// The name under which one is made.
const UNFINISHED: &str = "checkpoint.new";
/// The name of one that is being fetched.
const FETCHED: &str = "transfer.part";
/// What is appended to the names of those that cannot be used.
const SET_ASIDE: &str = ".unusable";
/// How many stay.
const KEPT: usize = 2;

/// See the module.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    /// Do its files have names?
    named: bool,
}

impl Store {
    /// The checkpoints in this directory, which is made with the first one.
    pub fn new(path: PathBuf) -> Self {
        Self { path, named: true }
    }

    /// Files without names in this directory, for as long as they are open.
    pub fn unnamed(path: PathBuf) -> Self {
        Self { path, named: false }
    }

    /// Does what is here outlive the process?
    pub fn is_durable(&self) -> bool {
        self.named
    }

    /// Where the one is that is being fetched, if it has a name.
    pub(super) fn fetched(&self) -> PathBuf {
        self.path.join(FETCHED)
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

    /// The newest of those before instance `cid` whose header holds. The rest of it is looked at when somebody asks for
    /// it.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn before(
        &self,
        owner: Owner,
        cid: ConsensusId,
    ) -> Result<Option<CheckpointFile>, FileError> {
        let paths = self.list()?.into_iter();
        let mut older = paths.filter(|path| number(path).is_some_and(|number| number < cid.0));
        Ok(older.find_map(|path| CheckpointFile::open(&path, owner).ok()))
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
    ) -> Result<CheckpointFile, FileError> {
        spec!("CKP.3");
        let made = self.make(owner, position, image);
        let made = made.inspect_err(|_| {
            // Half a file helps nobody, and its room may be what was missing.
            let _ = fs::remove_file(self.path.join(UNFINISHED));
        });
        let made = made.map_err(|source| self.error("write", source))?;
        if self.named {
            self.remove_old()?;
        }
        Ok(made)
    }

    fn remove_old(&self) -> Result<(), FileError> {
        for old in self.list()?.into_iter().skip(KEPT) {
            fs::remove_file(&old).map_err(|source| self.error("remove an old one", source))?;
        }
        Ok(())
    }

    fn make(&self, owner: Owner, position: Position, image: &Chunks) -> io::Result<CheckpointFile> {
        let unfinished = self.path.join(UNFINISHED);
        let file = self.create(&unfinished)?;
        let header = file::write(&file, owner, position, image, self.named)?;
        let path = if self.named { self.name(&unfinished, position)? } else { unfinished };
        Ok(CheckpointFile::new(path, file, header))
    }

    /// A new, empty file at `path`; it loses its name at once if files have none here.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        if !self.path.is_dir() {
            fs::create_dir_all(&self.path)?;
            if let Some(parent) = self.path.parent().filter(|it| !it.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        if !self.named {
            fs::remove_file(path)?;
        }
        Ok(file)
    }

    /// Gives a durable file of a position its name, durably.
    pub(super) fn name(&self, file: &Path, position: Position) -> io::Result<PathBuf> {
        let path = self.path.join(format!("{:016}{SUFFIX}", position.cid.0));
        fs::rename(file, &path)?;
        self.sync()?;
        Ok(path)
    }

    /// Makes the names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
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
        self.sync().map_err(|source| self.error("sync the directory", source))
    }

    pub(super) fn error(&self, operation: &'static str, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), operation, source }
    }
}

/// The instance in a file's name, if it is the name of a checkpoint.
pub(crate) fn number(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    if number.len() == 16 { number.parse().ok() } else { None }
}
