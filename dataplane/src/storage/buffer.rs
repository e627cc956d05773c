//! Memory from which a disk takes whole blocks without a copy.
//!
//! Owns the bytes of a group while it is filled and written. Always true: they begin at a multiple of the block
//! size; nothing is allocated after the start. Must not: grow.

use std::ops::{Deref, DerefMut};

use super::format::BLOCK_SIZE;

/// Bytes that are appended to, with room for so many blocks.
pub struct Buffer {
    memory: Vec<u8>,
    /// Where in `memory` the first whole block begins.
    start: usize,
    len: usize,
}

impl Buffer {
    /// Empty, with room for `size` bytes, rounded up to whole blocks.
    pub fn with_room(size: usize) -> Self {
        let memory = vec![0; size.next_multiple_of(BLOCK_SIZE) + BLOCK_SIZE];
        let start = memory.as_ptr().align_offset(BLOCK_SIZE);
        assert!(start <= BLOCK_SIZE, "memory can be aligned");
        Self { memory, start, len: 0 }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut this = Self::with_room(bytes.len());
        this.push(bytes);
        this
    }

    /// Forgets all bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeros up to a length of `len`.
    ///
    /// # Panics
    /// If there is no room for them, or it is longer already.
    pub fn pad(&mut self, len: usize) {
        self.memory[self.start + self.len..self.start + len].fill(0);
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_holds_what_was_appended() {
        for size in [1, 4096, 10_000] {
            let mut buffer = Buffer::with_room(size);
            assert_eq!(buffer.as_ptr().align_offset(BLOCK_SIZE), 0);
            buffer.push(&[1; 1]);
            buffer.pad(size);
            assert!(buffer[0] == 1 && buffer[1..].iter().all(|byte| *byte == 0));
            buffer[size - 1] = 9;
            buffer.clear();
            buffer.pad(size.next_multiple_of(BLOCK_SIZE));
            assert!(buffer.iter().all(|byte| *byte == 0), "nothing old is left");
        }
    }
}
