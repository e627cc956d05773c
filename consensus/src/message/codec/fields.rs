//! Fields, one after the other, little endian.
//!
//! Owns a cursor for each direction. Always true: a reader never looks beyond its bytes, whatever
//! they say. Must not: know any message.

use crate::message::Malformed;
use crate::types::Digest;

/// Writes fields into memory that the caller has sized.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn written(&self) -> usize {
        self.at
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.bytes[self.at..self.at + value.len()].copy_from_slice(value);
        self.at += value.len();
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes[self.at..self.at + count].fill(0);
        self.at += count;
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

/// Reads fields of bytes that nobody has checked.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let value = self.bytes[self.at..].first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.at += N;
        Ok(*value)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let [value] = self.array()?;
        Ok(value)
    }

    /// A byte that is 0 or 1: anything else would give one message two encodings.
    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Reserved),
        }
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, Malformed> {
        Ok(Digest(self.array()?))
    }

    /// The next `count` bytes.
    pub(crate) fn slice(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let value = self.bytes[self.at..].get(..count).ok_or(Malformed::Truncated)?;
        self.at += count;
        Ok(value)
    }

    /// Reserved bytes: all zero.
    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), Malformed> {
        let field = self.bytes[self.at..].get(..count).ok_or(Malformed::Truncated)?;
        if field.iter().any(|&byte| byte != 0) {
            return Err(Malformed::Reserved);
        }
        self.at += count;
        Ok(())
    }

    /// Everything was read.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.left() == 0 { Ok(()) } else { Err(Malformed::Trailing) }
    }
}
