//! What a completion is called.
//!
//! Owns the meaning of the 64 bits. Always true: a name of a connection that is gone is nobody's, as names of
//! connections are not used again soon. Must not: be read from the wire; it never leaves this machine.

use crate::endpoint::ConnId;

/// Work that ends with a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A receive into a chunk.
    Receive {
        /// Whose.
        conn: ConnId,
        /// Into which.
        chunk: u16,
    },
    /// A send, and all of the connection before it.
    Send {
        /// Whose.
        conn: ConnId,
        /// Its number in the connection, modulo 2^31.
        number: u32,
    },
}

const SEND: u64 = 1 << 63;
/// Numbers of sends wrap here.
pub(super) const NUMBER_MASK: u32 = (1 << 31) - 1;

impl Work {
    pub(super) fn to_bits(self) -> u64 {
        match self {
            Work::Receive { conn, chunk } => u64::from(chunk) << 32 | u64::from(conn.0),
            Work::Send { conn, number } => {
                SEND | u64::from(number & NUMBER_MASK) << 32 | u64::from(conn.0)
            }
        }
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let conn = ConnId(bits as u32);
        if bits & SEND == 0 {
            Work::Receive { conn, chunk: (bits >> 32) as u16 }
        } else {
            Work::Send { conn, number: (bits >> 32) as u32 & NUMBER_MASK }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let conn = ConnId(0xfffe_8001);
        let all = [
            Work::Receive { conn, chunk: 0 },
            Work::Receive { conn, chunk: u16::MAX },
            Work::Send { conn, number: 0 },
            Work::Send { conn, number: NUMBER_MASK },
        ];
        for work in all {
            assert_eq!(Work::from_bits(work.to_bits()), work);
        }
        let mut bits = all.map(Work::to_bits).to_vec();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), all.len());
    }
}
