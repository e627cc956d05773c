//! A service that does nothing, to measure what is around it: x bytes in, y bytes out.
//!
//! An operation is the reply's size (4 bytes, little endian) and any number of bytes of load. An
//! empty operation asks for an empty reply, so that 0/0 is really nothing. Always true: the digest
//! covers every operation executed, in order.

use tetrarch_consensus::limits::OPERATION_SIZE_MAX;
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};

use crate::stream::{StreamReader, StreamWriter};

const MAGIC: [u8; 8] = *b"tetrnull";

/// Bytes of the smallest operation that asks for a reply that is not empty.
pub const OPERATION_SIZE_MIN: usize = 4;

/// Writes an operation of `out.len()` bytes that asks for `reply_size` bytes. Shorter than
/// [`OPERATION_SIZE_MIN`], it can only ask for an empty reply.
///
/// Returns whether the operation can say so.
pub fn write_operation(out: &mut [u8], reply_size: u32) -> bool {
    out.fill(0);
    match out.first_chunk_mut::<4>() {
        Some(size) => {
            *size = reply_size.to_le_bytes();
            true
        }
        None => reply_size == 0,
    }
}

fn reply_size(operation: &[u8]) -> Option<usize> {
    match operation.first_chunk::<4>() {
        Some(size) => {
            let size = u32::from_le_bytes(*size) as usize;
            (size <= OPERATION_SIZE_MAX).then_some(size)
        }
        None => operation.iter().all(|&byte| byte == 0).then_some(0),
    }
}

/// Checks operations: a reply size within the limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullValidator;

impl RequestValidator for NullValidator {
    fn valid(&self, operation: &[u8]) -> bool {
        reply_size(operation).is_some()
    }
}

/// The service: a count of what it executed, and a chain over it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NullService {
    executed: u64,
    /// Mixes who asked for what, in order. Cheap, so that it does not show in measurements; it is
    /// hashed properly in the digest, but finds accidents, not attacks.
    chain: u64,
}

impl NullService {
    /// Nothing executed.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations were executed.
    pub fn executed(&self) -> u64 {
        self.executed
    }
}

impl StateMachine for NullService {
    fn execute(
        &mut self,
        _context: &Context,
        request: &RequestView<'_>,
        replies: &mut dyn Replies,
    ) {
        self.executed += 1;
        for word in [request.client.0, request.sequence.0, request.operation.len() as u64] {
            self.chain = (self.chain ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        answer(request, replies);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        answer(request, replies);
    }

    fn digest(&self) -> Digest {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.executed.to_le_bytes());
        bytes[8..].copy_from_slice(&self.chain.to_le_bytes());
        Digest(*blake3::hash(&bytes).as_bytes())
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StreamWriter::new(out);
        writer.bytes(&MAGIC);
        writer.u64(self.executed);
        writer.u64(self.chain);
        writer.finish();
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let mut reader = StreamReader::new(read);
        if reader.array()? != MAGIC {
            return Err(BadSnapshot);
        }
        let state = Self { executed: reader.u64()?, chain: reader.u64()? };
        reader.end()?;
        *self = state;
        Ok(())
    }
}

fn answer(request: &RequestView<'_>, replies: &mut dyn Replies) {
    // A size beyond the limit does not pass the validator; it is answered with nothing.
    let size = reply_size(request.operation).unwrap_or(0);
    replies.reply(request.client, size).fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cell;

    #[test]
    fn the_reply_has_the_size_that_the_request_names() {
        let mut cell = Cell::new(NullService::new());
        let mut operation = [0; 100];
        assert!(write_operation(&mut operation, 1024));
        assert!(NullValidator.valid(&operation));
        assert_eq!(cell.execute(1, &operation).len(), 1024);
        assert_eq!(cell.query(1, &operation).len(), 1024);
        assert_eq!(cell.execute(1, &[]).len(), 0);
        assert!(!write_operation(&mut [0; 3], 1));
        assert!(write_operation(&mut [0; 3], 0));
        assert!(!NullValidator.valid(&[0xff; 4]));
        assert_eq!(cell.execute(1, &[0xff; 4]).len(), 0);
        assert_eq!(cell.service.executed(), 3);
    }

    #[test]
    fn the_digest_tells_orders_apart_and_a_snapshot_keeps_it() {
        let (mut a, mut b) = (Cell::new(NullService::new()), Cell::new(NullService::new()));
        a.execute(1, &[]);
        a.execute(2, &[]);
        b.execute(2, &[]);
        b.execute(1, &[]);
        assert_ne!(a.service.digest(), b.service.digest());
        crate::testing::check_snapshot(&a.service, &mut NullService::new());
    }
}
