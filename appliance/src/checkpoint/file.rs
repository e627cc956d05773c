//! One checkpoint in a file.
//!
//! Owns the format. Always true: the root in the header covers every byte of the image; the header's own sum
//! covers the header. Must not: look into the image.
//!
//! | offset | size | little endian |
//! |---|---|---|
//! | 0 | 8 | `TTRCKPT1` |
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
use super::{CHUNK_SIZE, Position};

const MAGIC: [u8; 8] = *b"TTRCKPT1";
/// Where the image begins.
const IMAGE: u64 = 4096;
const SUM_AT: usize = 88;
const HEADER_SIZE: usize = SUM_AT + 32;

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
    fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let Position { cid, base } = self.position;
        bytes[..8].copy_from_slice(&MAGIC);
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

    fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<Self, &'static str> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        if bytes[..8] != MAGIC {
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

/// Writes a whole checkpoint to a new file at `path` and syncs it. Returns the root.
///
/// # Errors
/// As the system says.
pub fn write(path: &Path, owner: Owner, position: Position, image: &Chunks) -> io::Result<Digest> {
    let file = File::create(path)?;
    let mut leaves = Vec::with_capacity(image.iter().len());
    let mut at = IMAGE;
    for (number, chunk) in image.iter().enumerate() {
        leaves.push(merkle::leaf(number as u64, chunk));
        file.write_all_at(chunk, at)?;
        at += chunk.len() as u64;
        // What is written in pieces does not hold up the log's next sync for long.
        if number % 32 == 31 {
            file.sync_data()?;
        }
    }
    file.write_all_at(leaves.as_flattened(), at)?;
    let size = image.size() as u64;
    let root = merkle::root(size, CHUNK_SIZE as u64, &mut leaves);
    let header = Header { owner, position, size, root };
    let mut block = [0; IMAGE as usize];
    block[..HEADER_SIZE].copy_from_slice(&header.encode());
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    Ok(root)
}

/// A checkpoint's file, open for reading.
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
        let io =
            |operation| move |source| FileError::Io { path: path.to_path_buf(), operation, source };
        let damaged = |what: String| FileError::Damaged { path: path.to_path_buf(), what };
        let file = File::open(path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("read the size of"))?.len();
        let mut bytes = [0; HEADER_SIZE];
        if length < IMAGE {
            return Err(damaged(format!("it ends after {length} bytes")));
        }
        file.read_exact_at(&mut bytes, 0).map_err(io("read"))?;
        let header = Header::decode(&bytes).map_err(|what| damaged(what.into()))?;
        if header.owner != owner {
            let (path, found) = (path.to_path_buf(), header.owner);
            return Err(FileError::Foreign { path, found, expected: owner });
        }
        let chunks = header.size.div_ceil(CHUNK_SIZE as u64);
        let expected = chunks.checked_mul(32).and_then(|it| it.checked_add(header.size));
        if expected.and_then(|it| it.checked_add(IMAGE)) != Some(length) {
            return Err(damaged(format!("{length} bytes are not what its header says")));
        }
        Ok(Self { path: path.to_path_buf(), file, header })
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
        let damaged = |what: String| FileError::Damaged { path: self.path.clone(), what };
        let read = |into: &mut [u8], at: u64| {
            let read = self.file.read_exact_at(into, at);
            read.map_err(|source| FileError::Io {
                path: self.path.clone(),
                operation: "read",
                source,
            })
        };
        let count = size.div_ceil(CHUNK_SIZE as u64) as usize;
        let mut leaves = vec![[0; 32]; count];
        read(leaves.as_flattened_mut(), IMAGE + size)?;
        let mut chunk = vec![0; CHUNK_SIZE];
        for (number, leaf) in leaves.iter().enumerate() {
            let at = number as u64 * CHUNK_SIZE as u64;
            let bytes = &mut chunk[..(size - at).min(CHUNK_SIZE as u64) as usize];
            read(bytes, IMAGE + at)?;
            if merkle::leaf(number as u64, bytes) != *leaf {
                let what = format!("chunk {number} of {count} does not have its digest");
                return Err(damaged(what));
            }
        }
        if merkle::root(size, CHUNK_SIZE as u64, &mut leaves) != root {
            return Err(damaged("the digests of its chunks do not have its root".into()));
        }
        Ok(())
    }

    /// The image, from its first byte on.
    ///
    /// # Errors
    /// As the system says.
    pub fn image(&self) -> io::Result<impl Read> {
        let from = At { file: self.file.try_clone()?, at: IMAGE, end: IMAGE + self.header.size };
        Ok(BufReader::with_capacity(CHUNK_SIZE, from))
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
