//! What is in a checkpoint, as bytes: equal at all correct replicas (rule CKP.1).
//!
//! Owns the order of the parts. Always true: every part says how long it is but the last, so nothing is read
//! twice. Must not: know where the bytes are kept.
//!
//! | size | little endian |
//! |---|---|
//! | 8 | bytes of the core's share |
//! | | the core's share, [`Ordered`] |
//! | 8 | bytes of the kept replies |
//! | | the kept replies, [`ReplyCache::write`] |
//! | to the end | the service's snapshot |

use std::io::{self, Read};

use tetrarch_consensus::{Ordered, StateMachine, spec};

use super::chunks::Chunks;
use crate::reply_cache::ReplyCache;

/// Why bytes are no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// They could not be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The core's share does not hold together.
    #[error("the core's share is malformed ({0:?})")]
    Ordered(tetrarch_consensus::message::Malformed),
    /// The replies do not hold together.
    #[error(
        "the kept replies are malformed, or more than cluster.reply_cache_mib allows: was it larger?"
    )]
    Replies,
    /// The service does not know it.
    #[error(
        "the service's snapshot is refused: is it of another service, or of another service_seed?"
    )]
    Service,
    /// A part is longer than the whole.
    #[error("a part of {0} bytes is longer than what is left")]
    Part(u64),
}

/// Appends all of an image to `out` but the service's snapshot. `part` is memory that is used again: who takes
/// one checkpoint after the other allocates nothing.
pub fn begin(ordered: &Ordered, cache: &mut ReplyCache, part: &mut Vec<u8>, out: &mut Chunks) {
    spec!("CKP.1");
    part.clear();
    ordered.encode(part);
    out.push(&(part.len() as u64).to_le_bytes());
    out.push(part);
    let (size, start) = (cache.written_size(), out.size() + size_of::<u64>());
    out.push(&size.to_le_bytes());
    cache.write(&mut |bytes| out.push(bytes));
    assert!((out.size() - start) as u64 == size, "the replies are as long as they said");
}

/// Reads an image of `size` bytes.
pub struct Reader<R> {
    from: R,
    left: u64,
}

impl<R: Read> Reader<R> {
    /// From its first byte on.
    pub fn new(from: R, size: u64) -> Self {
        Self { from, left: size }
    }

    /// What it reads from.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> R {
        self.from
    }

    /// The first part.
    ///
    /// # Errors
    /// It cannot be read, or is malformed.
    pub fn ordered(&mut self) -> Result<Ordered, ImageError> {
        let bytes = self.part()?;
        Ordered::decode(&bytes).map_err(ImageError::Ordered)
    }

    /// Then the others, which go with the first: replaces what `cache` and `service` hold. After an error neither must be used.
    ///
    /// # Errors
    /// Something cannot be read, or is malformed.
    pub fn state(
        mut self,
        ordered: &Ordered,
        cache: &mut ReplyCache,
        service: &mut dyn StateMachine,
    ) -> Result<(), ImageError> {
        let replies = self.part()?;
        cache.read(&replies, &ordered.sessions).map_err(|_| ImageError::Replies)?;
        drop(replies);
        let mut failure = None;
        let Self { from, left } = &mut self;
        let mut from = from.take(*left);
        let mut read = |into: &mut [u8]| match from.read(into) {
            Ok(count) => count,
            Err(error) => {
                failure = Some(error);
                0
            }
        };
        let restored = service.restore(&mut read);
        match (failure, restored) {
            (Some(error), _) => Err(error.into()),
            (None, restored) => restored.map_err(|_| ImageError::Service),
        }
    }

    fn part(&mut self) -> Result<Vec<u8>, ImageError> {
        let mut size = [0; 8];
        self.take(&mut size)?;
        let size = u64::from_le_bytes(size);
        if size > self.left {
            return Err(ImageError::Part(size));
        }
        let mut bytes = vec![0; size as usize];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<(), ImageError> {
        self.left =
            self.left.checked_sub(into.len() as u64).ok_or(ImageError::Part(into.len() as u64))?;
        Ok(self.from.read_exact(into)?)
    }
}
