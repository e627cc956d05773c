//! The store's limits. Every replica of a cluster must use the same ones: they decide which
//! commands fail, so they are part of the digest.

use tetrarch_consensus::limits::OPERATION_SIZE_MAX;

use crate::wire::put_length;

/// Bytes of one reply to one operation. The same as an operation: a value that fits in can be read.
pub const REPLY_SIZE_MAX: usize = OPERATION_SIZE_MAX;

/// Commands in one operation. Bounds what one request makes a replica do.
pub const COMMANDS_MAX: usize = 1024;

/// Keys that one SCAN looks at, whatever COUNT says.
pub const SCAN_VISITED_MAX: usize = 4096;

/// Expired keys removed at the end of one batch. What is left over is invisible already, and
/// removed by later batches.
pub const EXPIRED_PER_BATCH_MAX: usize = 2048;

/// What clients may store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a key.
    pub key_size_max: usize,
    /// Bytes of a string value, a list element, a hash field, a hash value or a set member.
    pub value_size_max: usize,
    /// Elements of one list, hash or set.
    pub elements_max: usize,
    /// Keys that KEYS looks at; a larger keyspace must use SCAN.
    pub keys_visited_max: usize,
    /// Bytes of all keys and values together, with a fixed overhead for each.
    pub state_size_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_size_max: 16 * 1024,
            // One value and the bytes around it fit one reply.
            value_size_max: REPLY_SIZE_MAX - 1024,
            elements_max: 1 << 20,
            keys_visited_max: 1 << 20,
            state_size_max: 1 << 31,
        }
    }
}

impl Limits {
    /// Appends the limits: part of the digest and of a snapshot.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for limit in [
            self.key_size_max,
            self.value_size_max,
            self.elements_max,
            self.keys_visited_max,
            self.state_size_max,
        ] {
            put_length(out, limit);
        }
    }
}
