//! What both sides tell each other while they connect.
//!
//! Owns its bytes (docs/WIRE.md). Always true: what was parsed lets both sides make progress. Must not: be
//! believed beyond that: whoever says it is not known yet.

use super::credits::CREDITS_MAX;
use crate::limits::HEADER_SIZE;
use crate::transport::stream::tx_queue::COPY_MAX;

/// Bytes of a hello.
pub(super) const HELLO_SIZE: usize = 16;
/// A send must hold at least a header and the largest body that is copied beside it.
pub(super) const CHUNK_SIZE_MIN: u32 = (HEADER_SIZE + COPY_MAX) as u32;
/// More is gained by more chunks.
pub(super) const CHUNK_SIZE_MAX: u32 = 1 << 20;

const MAGIC: [u8; 4] = *b"TTRR";
const VERSION: u8 = 1;

/// What one side has to receive into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Bytes of a send at most.
    pub(super) chunk_size: u32,
    /// Sends that may come before more credits are given.
    pub(super) credits: u16,
}

impl Hello {
    pub(super) fn to_bytes(self) -> [u8; HELLO_SIZE] {
        let mut bytes = [0; HELLO_SIZE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[6..8].copy_from_slice(&self.credits.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.chunk_size.to_le_bytes());
        bytes
    }

    /// `None`: not ours, not our version, or of no use. The connection manager may append zeros.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (hello, rest) = bytes.split_first_chunk::<HELLO_SIZE>()?;
        let credits = u16::from_le_bytes([hello[6], hello[7]]);
        let chunk_size = u32::from_le_bytes([hello[8], hello[9], hello[10], hello[11]]);
        let ours = hello[..4] == MAGIC && hello[4] == VERSION && hello[5] == 0;
        let padded = hello[12..].iter().chain(rest).all(|byte| *byte == 0);
        let useful = (1..=CREDITS_MAX).contains(&u32::from(credits))
            && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&chunk_size);
        (ours && padded && useful).then_some(Self { chunk_size, credits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_says_what_it_said_and_nothing_else_is_one() {
        let hello = Hello { chunk_size: 16384, credits: 2 };
        let bytes = hello.to_bytes();
        assert_eq!(bytes, *b"TTRR\x01\0\x02\0\0\x40\0\0\0\0\0\0");
        let mut padded = bytes.to_vec();
        padded.resize(196, 0);
        assert_eq!((Hello::parse(&bytes), Hello::parse(&padded)), (Some(hello), Some(hello)));
        for at in [0, 4, 5, 12, 15] {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Hello::parse(&other), None, "byte {at}");
        }
        padded[100] = 1;
        for bad in [&padded[..], &[], &bytes[..15]] {
            assert_eq!(Hello::parse(bad), None);
        }
        for (chunk_size, credits) in [(CHUNK_SIZE_MIN - 1, 2), (CHUNK_SIZE_MAX + 1, 2), (16384, 0)]
        {
            assert_eq!(Hello::parse(&Hello { chunk_size, credits }.to_bytes()), None);
        }
    }
}
