//! The bytes of an image while it is made and written.
//!
//! Owns memory in chunks. Always true: all chunks are full but the last, and what is there is never moved, so
//! that growing takes no longer than what is added. Must not: give memory back; the next image needs it.

use super::CHUNK_SIZE;

/// See the module.
#[derive(Default)]
pub struct Chunks {
    chunks: Vec<Vec<u8>>,
    /// Of the chunks those that hold something.
    used: usize,
}

impl Chunks {
    /// Forgets what is there and keeps the memory.
    pub fn clear(&mut self) {
        self.chunks[..self.used].iter_mut().for_each(Vec::clear);
        self.used = 0;
    }

    /// Appends bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let full = |last: &Vec<u8>| last.len() == CHUNK_SIZE;
            if self.used == 0 || full(&self.chunks[self.used - 1]) {
                if self.used == self.chunks.len() {
                    self.chunks.push(Vec::with_capacity(CHUNK_SIZE));
                }
                self.used += 1;
            }
            let last = &mut self.chunks[self.used - 1];
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_SIZE - last.len()));
            last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.used.checked_sub(1).map_or(0, |full| full * CHUNK_SIZE + self.chunks[full].len())
    }

    /// The chunks, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.chunks[..self.used].iter().map(Vec::as_slice)
    }
}
