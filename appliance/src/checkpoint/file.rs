//! One checkpoint in a file.
//!
//! Owns the format. Always true: the root in the header covers every byte of the image; the header's own sum
//! covers the header. Must not: look into the image.
//!
//! | offset | size | little endian |
//! |---|---|---|
//! | 0 | 8 | `TTRCKPT2` |
//! | 8 | 8 | cluster |
//! | 16 | 2 | replica |
//! | 18 | 6 | zero |
//! | 24 | 8 | last instance that was executed |
//! | 32 | 8 | the record from which a replay behind it begins |
//! | 40 | 8 | bytes of the image |
//! | 48 | 8 | bytes of a chunk |
//! | 56 | 32 | root over the chunks (`dataplane::crypto::merkle`) |
//! | 88 | 32 | BLAKE3 of everything before |
//! | 4096 | | the image |
//! | | 32 each | a digest for each chunk |
//!
//! A file that is being fetched (`transfer::partial`) has its header, with `TTRPART2` and no record, at 2048, and zeros in the place
//! of everything that is missing. When it is whole the other header is written in addition, so that a write that is
//! interrupted destroys neither.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tetrarch_consensus::{ConsensusId, Lsn};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::merkle;
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::types::Digest;

use super::chunks::Chunks;
use super::{CHUNK_SIZE, Position, Target, chunk_count, chunk_size};

/// Where the image begins.
const IMAGE: u64 = 4096;
/// Chunks that are written before a sync.
pub(super) const SYNCED_CHUNKS: usize = 32;
const SUM_AT: usize = 88;
const HEADER_SIZE: usize = SUM_AT + 32;

/// Which of a file's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// All of it is there.
    Whole,
    /// It is being fetched.
    Partial,
}

impl Kind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Whole => *b"TTRCKPT2",
            Self::Partial => *b"TTRPART2",
        }
    }

    /// Where the header is.
    fn offset(self) -> u64 {
        match self {
            Self::Whole => 0,
            Self::Partial => IMAGE / 2,
        }
    }
}

/// What a file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose it is.
    pub owner: Owner,
    /// Where it belongs.
    pub position: Position,
    /// Bytes of the image.
    pub size: u64,
    /// Root over its chunks.
    pub root: Digest,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("checkpoint {}: cannot {operation}: {source}; look at the disk", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold.
    #[error("checkpoint {}: damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It is somebody else's.
    #[error("checkpoint {}: it is of {found:?}, not of {expected:?}; correct data_dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Whose it should be.
        expected: Owner,
    },
}

impl Header {
    /// What everybody calls this checkpoint.
    pub fn target(&self) -> Target {
        Target { cid: self.position.cid, size: self.size, root: self.root }
    }

    /// Bytes of the file.
    pub(super) fn file_size(&self) -> Option<u64> {
        let leaves = chunk_count(self.size).checked_mul(size_of::<Digest>() as u64)?;
        IMAGE.checked_add(self.size)?.checked_add(leaves)
    }

    /// Where chunk `index` is.
    pub(super) fn chunk_at(index: u64) -> u64 {
        IMAGE + index * CHUNK_SIZE as u64
    }

    /// Where the digest of chunk `index` is.
    pub(super) fn leaf_at(&self, index: u64) -> u64 {
        IMAGE + self.size + index * size_of::<Digest>() as u64
    }

    /// Writes it where it belongs.
    pub(super) fn write(&self, file: &File, kind: Kind) -> io::Result<()> {
        file.write_all_at(&self.encode(kind), kind.offset())
    }

    fn encode(&self, kind: Kind) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let Position { cid, base } = self.position;
        bytes[..8].copy_from_slice(&kind.magic());
        bytes[16..18].copy_from_slice(&self.owner.replica.to_le_bytes());
        let numbers = [self.owner.cluster, cid.0, base.0, self.size, CHUNK_SIZE as u64];
        for (at, number) in [8, 24, 32, 40, 48].into_iter().zip(numbers) {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..SUM_AT].copy_from_slice(&self.root);
        let sum = body_digest(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum);
        bytes
    }

    fn decode(kind: Kind, bytes: &[u8; HEADER_SIZE]) -> Result<Self, &'static str> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        if bytes[..8] != kind.magic() {
            return Err("it does not begin like a checkpoint");
        }
        if body_digest(&bytes[..SUM_AT])[..] != bytes[SUM_AT..] {
            return Err("the header's sum is another one");
        }
        if number(48) != CHUNK_SIZE as u64 {
            return Err("its chunks have another size than this release makes");
        }
        let replica = u16::from_le_bytes([bytes[16], bytes[17]]);
        let owner = Owner { cluster: number(8), replica };
        let position = Position { cid: ConsensusId(number(24)), base: Lsn(number(32)) };
        let mut root = [0; 32];
        root.copy_from_slice(&bytes[56..SUM_AT]);
        Ok(Self { owner, position, size: number(40), root })
    }
}

/// Writes a whole checkpoint to an empty file; `durable`: and syncs it.
///
/// # Errors
/// As the system says.
pub fn write(
    file: &File,
    owner: Owner,
    position: Position,
    image: &Chunks,
    durable: bool,
) -> io::Result<Header> {
    // What is not written of the first block stays zero.
    file.set_len(IMAGE)?;
    let mut leaves = Vec::with_capacity(image.iter().len());
    let mut at = IMAGE;
    for (number, chunk) in image.iter().enumerate() {
        leaves.push(merkle::leaf(chunk));
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
        // What is written in pieces does not hold up the log's next sync for long.
        if durable && number % SYNCED_CHUNKS == SYNCED_CHUNKS - 1 {
            file.sync_data()?;
        }
    }
    file.write_all_at(leaves.as_flattened(), at)?;
    let size = image.size() as u64;
    let root = merkle::root(size, CHUNK_SIZE as u64, &mut leaves);
    let header = Header { owner, position, size, root };
    header.write(file, Kind::Whole)?;
    if durable {
        file.sync_all()?;
    }
    Ok(header)
}

/// Reads and checks the header of an open file of this kind: everything but the image.
pub(super) fn read_header(
    (path, file): (&Path, &File),
    owner: Owner,
    kind: Kind,
) -> Result<Header, FileError> {
    let io =
        |operation| move |source| FileError::Io { path: path.to_path_buf(), operation, source };
    let damaged = |what: String| FileError::Damaged { path: path.to_path_buf(), what };
    let length = file.metadata().map_err(io("read the size of"))?.len();
    let mut bytes = [0; HEADER_SIZE];
    if length < IMAGE {
        return Err(damaged(format!("it ends after {length} bytes")));
    }
    file.read_exact_at(&mut bytes, kind.offset()).map_err(io("read"))?;
    let header = Header::decode(kind, &bytes).map_err(|what| damaged(what.into()))?;
    if header.owner != owner {
        let (path, found) = (path.to_path_buf(), header.owner);
        return Err(FileError::Foreign { path, found, expected: owner });
    }
    if header.file_size() != Some(length) {
        return Err(damaged(format!("{length} bytes are not what its header says")));
    }
    Ok(header)
}

/// A checkpoint's file, open for reading.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    file: File,
    /// What it says of itself.
    pub header: Header,
}

impl CheckpointFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The header does not hold, or is not of `owner`.
    pub fn open(path: &Path, owner: Owner) -> Result<Self, FileError> {
        let opened = File::open(path);
        let io = |source| FileError::Io { path: path.to_path_buf(), operation: "open", source };
        let file = opened.map_err(io)?;
        let header = read_header((path, &file), owner, Kind::Whole)?;
        Ok(Self::new(path.to_path_buf(), file, header))
    }

    /// A file that was written with this header.
    pub(super) fn new(path: PathBuf, file: File, header: Header) -> Self {
        Self { path, file, header }
    }

    /// Writes to it, before it is used.
    pub(super) fn change<T>(&self, write: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        write(&self.file)
    }

    /// The same file, with another name and header.
    pub(super) fn renamed(self, path: PathBuf, header: Header) -> Self {
        Self { path, header, ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all of it and compares it with its digests. Needs memory for one chunk and 32 bytes for each.
    ///
    /// # Errors
    /// It cannot be read, or does not hold; says which chunk.
    pub fn verify(&self) -> Result<(), FileError> {
        let Header { size, root, .. } = self.header;
        let mut leaves = self.leaves()?;
        let mut chunk = vec![0; CHUNK_SIZE];
        for (number, leaf) in (0..).zip(&leaves) {
            let bytes = &mut chunk[..chunk_size(size, number)];
            self.read_chunk(number, bytes)?;
            if merkle::leaf(bytes) != *leaf {
                return Err(self.damaged_chunk(number));
            }
        }
        if merkle::root(size, CHUNK_SIZE as u64, &mut leaves) != root {
            return Err(self.damaged_leaves());
        }
        Ok(())
    }

    /// The digests of its chunks, as they are in the file.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn leaves(&self) -> Result<Vec<Digest>, FileError> {
        // The header was compared with the size of the file, so this is no more than is there.
        let mut leaves = vec![[0; 32]; chunk_count(self.header.size) as usize];
        self.read(leaves.as_flattened_mut(), self.header.leaf_at(0))?;
        Ok(leaves)
    }

    /// Fills `into` with the first bytes of chunk `index`.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_chunk(&self, index: u64, into: &mut [u8]) -> Result<(), FileError> {
        self.read(into, Header::chunk_at(index))
    }

    /// What is said of a chunk that does not have its digest.
    pub fn damaged_chunk(&self, index: u64) -> FileError {
        let count = chunk_count(self.header.size);
        self.damaged(format!("chunk {index} of {count} does not have its digest"))
    }

    /// What is said when its digests do not have its root.
    pub fn damaged_leaves(&self) -> FileError {
        self.damaged("the digests of its chunks do not have its root".into())
    }

    fn damaged(&self, what: String) -> FileError {
        FileError::Damaged { path: self.path.clone(), what }
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), FileError> {
        let read = self.file.read_exact_at(into, at);
        let error = |source| FileError::Io { path: self.path.clone(), operation: "read", source };
        read.map_err(error)
    }

    /// The image, from its first byte on; each chunk is compared with its digest, of which `leaves` are all, before
    /// anything of it is handed out.
    pub fn checked_image<'a>(&'a self, leaves: &'a [Digest]) -> impl Read + 'a {
        Checked { file: self, leaves, next: 0, chunk: Vec::with_capacity(CHUNK_SIZE), at: 0 }
    }

    /// The image, from its first byte on, of a file that was verified.
    ///
    /// # Errors
    /// As the system says.
    pub fn image(&self) -> io::Result<impl Read> {
        let from = At { file: self.file.try_clone()?, at: IMAGE, end: IMAGE + self.header.size };
        Ok(BufReader::with_capacity(CHUNK_SIZE, from))
    }
}

/// Reads an image chunk by chunk.
struct Checked<'a> {
    file: &'a CheckpointFile,
    leaves: &'a [Digest],
    /// The chunk to be read next.
    next: u64,
    /// The one before it, and how much of it was handed out.
    chunk: Vec<u8>,
    at: usize,
}

impl Checked<'_> {
    fn fill(&mut self) -> Result<(), FileError> {
        let Some(leaf) = self.leaves.get(self.next as usize) else { return Ok(()) };
        self.chunk.resize(chunk_size(self.file.header.size, self.next), 0);
        self.file.read_chunk(self.next, &mut self.chunk)?;
        if merkle::leaf(&self.chunk) != *leaf {
            return Err(self.file.damaged_chunk(self.next));
        }
        (self.next, self.at) = (self.next + 1, 0);
        Ok(())
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            self.fill().map_err(io::Error::other)?;
        }
        let left = &self.chunk[self.at..];
        let count = into.len().min(left.len());
        into[..count].copy_from_slice(&left[..count]);
        self.at += count;
        Ok(count)
    }
}

/// A part of a file, read from its beginning.
struct At {
    file: File,
    at: u64,
    end: u64,
}

impl Read for At {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        let read = self.file.read_at(&mut into[..count], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
