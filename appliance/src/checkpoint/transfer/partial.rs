//! A checkpoint that is being fetched, on the disk.
//!
//! Owns the file, and what is known of it in memory: 32 bytes for each chunk. Always true: what is said to be there
//! had its digest when it was written or read back; the file is named as a checkpoint only when the digests have
//! the root and all of it is durable. Must not: decide what is fetched.
//!
//! The chunks are at their places, and the digest of each behind all of them, so that nothing is moved when the last
//! one is here. A digest of zeros stands for a chunk that is missing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tetrarch_consensus::{Lsn, spec};
use tetrarch_dataplane::crypto::merkle;
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::types::Digest;

use super::super::file::{self, CheckpointFile, FileError, Header, Kind, SYNCED_CHUNKS};
use super::super::image;
use super::super::store::Store;
use super::super::{CHUNK_SIZE, Position, Target, chunk_count, chunk_size};
use super::syncing::Syncing;

/// See the module.
pub struct Partial {
    store: Store,
    /// Its path is where it is while it has its name, and a name in messages when it has none.
    file: CheckpointFile,
    /// Of each chunk that is there; zeros of the others.
    leaves: Vec<Digest>,
    missing: u64,
    /// Chunks written since the last sync.
    unsynced: usize,
    /// Syncs what is written in pieces, from the first piece on.
    syncing: Option<Syncing>,
}

impl Partial {
    /// Goes on with what is on the disk of this image, read back and compared with its digests. Anything else that is
    /// there is thrown away.
    ///
    /// # Errors
    /// As the system says.
    pub fn begin(store: &Store, owner: Owner, target: Target) -> Result<Self, FileError> {
        spec!("ST.4");
        if store.is_durable()
            && let Some(mut found) = Self::find(store, owner)
            && found.file.header.target() == target
        {
            found.look()?;
            return Ok(found);
        }
        Self::create(store, owner, target)
            .map_err(|source| store.error("begin to fetch one", source))
    }

    /// A whole image of which a crash left open whether it was installed. It was not read yet.
    pub fn find_whole(store: &Store, owner: Owner) -> Option<Self> {
        let mut found = Self::find(store, owner)?;
        found.count_missing();
        (found.missing == 0).then_some(found)
    }

    /// What is there of any image, read and compared; nothing is changed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn found(store: &Store, owner: Owner) -> Result<Option<Self>, FileError> {
        let mut found = Self::find(store, owner);
        found.iter_mut().try_for_each(Self::look)?;
        Ok(found)
    }

    /// What is there, as its header and its digests say.
    fn find(store: &Store, owner: Owner) -> Option<Self> {
        let path = store.fetched();
        let file = File::options().read(true).write(true).open(&path).ok()?;
        let header = file::read_header((&path, &file), owner, Kind::Partial).ok()?;
        let file = CheckpointFile::new(path, file, header);
        let leaves = file.leaves().ok()?;
        Some(Self { store: store.clone(), file, leaves, missing: 0, unsynced: 0, syncing: None })
    }

    fn create(store: &Store, owner: Owner, target: Target) -> io::Result<Self> {
        let position = Position { cid: target.cid, base: Lsn(0) };
        let header = Header { owner, position, size: target.size, root: target.root };
        let path = store.fetched();
        let file = store.create(&path)?;
        header.write(&file, Kind::Partial)?;
        let size = header.file_size().ok_or(io::ErrorKind::FileTooLarge)?;
        file.set_len(size)?;
        let missing = chunk_count(target.size);
        let leaves = vec![[0; 32]; missing as usize];
        let file = CheckpointFile::new(path, file, header);
        Ok(Self { store: store.clone(), file, leaves, missing, unsynced: 0, syncing: None })
    }

    /// Reads back what is said to be there, and forgets what does not have its digest.
    fn look(&mut self) -> Result<(), FileError> {
        let mut chunk = vec![0; CHUNK_SIZE];
        for (index, leaf) in (0..).zip(&mut self.leaves) {
            if *leaf == [0; 32] {
                continue;
            }
            let bytes = &mut chunk[..chunk_size(self.file.header.size, index)];
            self.file.read_chunk(index, bytes)?;
            if merkle::leaf(bytes) != *leaf {
                *leaf = [0; 32];
            }
        }
        self.count_missing();
        Ok(())
    }

    fn count_missing(&mut self) {
        self.missing = self.leaves.iter().filter(|leaf| **leaf == [0; 32]).count() as u64;
    }

    /// Which image this is.
    pub fn target(&self) -> Target {
        self.file.header.target()
    }

    /// Chunks that are not there.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Chunks in all.
    pub fn count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Bit i % 64 of word i / 64: chunk i is there.
    pub fn have(&self) -> Box<[u64]> {
        let word = |leaves: &[Digest]| {
            let bits = leaves.iter().enumerate();
            bits.fold(0, |word, (bit, leaf)| word | u64::from(*leaf != [0; 32]) << bit)
        };
        self.leaves.chunks(64).map(word).collect()
    }

    /// Writes a chunk that was verified and has this digest. `false`: there is no such chunk, or it is there already.
    ///
    /// # Errors
    /// As the system says. What was written before may be lost then, even if it can be read now: discard all of it.
    pub fn put(&mut self, index: u64, leaf: &Digest, bytes: &[u8]) -> Result<bool, FileError> {
        let header = self.file.header;
        let place = usize::try_from(index).ok().and_then(|at| self.leaves.get_mut(at));
        let Some(place) = place.filter(|leaf| **leaf == [0; 32]) else {
            return Ok(false);
        };
        if bytes.len() != chunk_size(header.size, index) {
            return Ok(false);
        }
        let write = |file: &File| {
            file.write_all_at(bytes, Header::chunk_at(index))?;
            file.write_all_at(leaf, header.leaf_at(index))
        };
        self.file.change(write).map_err(|source| self.store.error("write one", source))?;
        *place = *leaf;
        self.missing -= 1;
        self.unsynced += 1;
        if self.store.is_durable() && self.unsynced >= SYNCED_CHUNKS {
            self.unsynced = 0;
            self.sync_piece().map_err(|source| self.store.error("sync one", source))?;
        }
        Ok(true)
    }

    /// What is written in pieces does not hold up the log's next sync for long, nor is all of it to be synced at the end.
    fn sync_piece(&mut self) -> io::Result<()> {
        if self.syncing.is_none() {
            self.syncing = Some(Syncing::start(self.file.change(File::try_clone)?)?);
        }
        self.syncing.as_mut().map_or(Ok(()), Syncing::piece)
    }

    /// Makes it durable, when nothing is missing. It is not read once more: each chunk was compared when it came, or
    /// when it was read back, and is again when it is installed ([`Partial::image`]).
    ///
    /// # Errors
    /// It does not have its root, or the system refuses.
    pub fn complete(&mut self) -> Result<(), FileError> {
        spec!("ST.4");
        assert!(self.missing == 0, "chunks are missing");
        let Target { size, root, .. } = self.target();
        if merkle::root(size, CHUNK_SIZE as u64, &mut self.leaves.clone()) != root {
            return Err(self.file.damaged_leaves());
        }
        if self.store.is_durable() {
            let pieces = self.syncing.take().map_or(Ok(()), Syncing::finish);
            let synced = pieces.and_then(|()| self.file.change(File::sync_all));
            let synced = synced.and_then(|()| self.store.sync());
            synced.map_err(|source| self.store.error("sync one", source))?;
        }
        Ok(())
    }

    /// The file alone.
    pub fn into_file(self) -> CheckpointFile {
        self.file
    }

    /// The file.
    pub fn file(&self) -> &CheckpointFile {
        &self.file
    }

    /// The bytes of it, each chunk compared with its digest as it is read.
    pub fn image(&self) -> image::Reader<impl Read + '_> {
        image::Reader::new(self.file.checked_image(&self.leaves), self.file.header.size)
    }

    /// It is a checkpoint of this replica from now on, with this base. After an error it is on the disk as it was.
    ///
    /// # Errors
    /// As the system says.
    pub fn adopt(self, base: Lsn) -> Result<CheckpointFile, FileError> {
        spec!("ST.5", "CKP.3");
        let mut header = self.file.header;
        header.position.base = base;
        let name = || {
            if !self.store.is_durable() {
                return Ok(self.file.path().to_path_buf());
            }
            self.file
                .change(|file| header.write(file, Kind::Whole).and_then(|()| file.sync_all()))?;
            self.store.name(self.file.path(), header.position)
        };
        let path: PathBuf = name().map_err(|source| self.store.error("name one", source))?;
        Ok(self.file.renamed(path, header))
    }

    /// It is of no use any more.
    pub fn discard(self) {
        if self.store.is_durable() {
            // The next one would be written over it.
            let _ = fs::remove_file(self.file.path());
        }
    }
}
