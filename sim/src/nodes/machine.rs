//! The simulator's registers as the application of a real node.
//!
//! Always true: what was executed is noted in order, batch by batch, and nothing else is. Must not: be
//! different on different nodes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tetrarch_consensus::limits::FULL_RESULT_SIZE_MAX;
use tetrarch_consensus::{
    BadSnapshot, ClientId, Context, Digest, Replies, RequestValidator, RequestView, Sequence,
    StateMachine,
};

use crate::service::{Answer, KEYS, Operation, Service};

/// One executed request.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Session.
    pub client: ClientId,
    /// Number.
    pub sequence: Sequence,
    /// Digest of the body.
    pub digest: Digest,
    /// The operation's bytes.
    pub bytes: Vec<u8>,
    /// The operation.
    pub operation: Operation,
    /// Its result.
    pub answer: Answer,
}

/// One executed batch.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Instance and time.
    pub context: Context,
    /// What was executed, in order.
    pub executed: Vec<Executed>,
    /// Digest of the service after it.
    pub state: u64,
}

/// What a node's application did, read from outside.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<VecDeque<Entry>>>);

impl Journal {
    /// The oldest batch that was not read.
    pub fn pop(&self) -> Option<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn push(&self, entry: Entry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(entry);
    }
}

/// Bytes of an answer: enough that only one member sends it whole.
pub const ANSWER_SIZE: usize = FULL_RESULT_SIZE_MAX + 16;

/// An answer as bytes.
pub fn encode(answer: Answer) -> [u8; ANSWER_SIZE] {
    let mut bytes = [0; ANSWER_SIZE];
    bytes[..8].copy_from_slice(&answer.version.to_le_bytes());
    bytes[8..16].copy_from_slice(&answer.value.to_le_bytes());
    bytes
}

/// An answer from bytes.
pub fn decode(bytes: &[u8]) -> Option<Answer> {
    let bytes: &[u8; ANSWER_SIZE] = bytes.try_into().ok()?;
    let (version, value) = (&bytes[..8], &bytes[8..16]);
    if bytes[16..].iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Answer {
        version: u64::from_le_bytes(version.try_into().ok()?),
        value: u64::from_le_bytes(value.try_into().ok()?),
    })
}

/// See the module.
#[derive(Debug, Default)]
pub struct Registers {
    service: Service,
    open: Vec<Executed>,
    journal: Journal,
}

impl Registers {
    /// Empty registers that note what they do in `journal`.
    pub fn new(journal: Journal) -> Self {
        Self { service: Service::default(), open: Vec::new(), journal }
    }
}

impl StateMachine for Registers {
    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let operation = Operation::decode(request.operation).expect("the validator passed it");
        let answer = self.service.execute(operation);
        replies.reply(request.client, ANSWER_SIZE).copy_from_slice(&encode(answer));
        self.open.push(Executed {
            client: request.client,
            sequence: request.sequence,
            digest: request.digest,
            bytes: request.operation.to_vec(),
            operation,
            answer,
        });
    }

    fn end_batch(&mut self, context: &Context) {
        let executed = std::mem::take(&mut self.open);
        let state = self.service.digest();
        self.journal.push(Entry { context: *context, executed, state });
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let operation = Operation::decode(request.operation).expect("the validator passed it");
        let answer = self.service.query(operation);
        replies.reply(request.client, ANSWER_SIZE).copy_from_slice(&encode(answer));
    }

    fn digest(&self) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.service.digest().to_le_bytes());
        Digest(bytes)
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        for &(version, value) in self.service.registers() {
            out(&encode(Answer { version, value }));
        }
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let mut registers = [(0, 0); KEYS];
        for register in &mut registers {
            let mut bytes = [0; ANSWER_SIZE];
            if read(&mut bytes) != ANSWER_SIZE {
                return Err(BadSnapshot);
            }
            let answer = decode(&bytes).ok_or(BadSnapshot)?;
            *register = (answer.version, answer.value);
        }
        self.service = Service::from_registers(registers);
        Ok(())
    }
}

/// Which operations the registers know.
#[derive(Clone, Copy, Debug)]
pub struct Validator;

impl RequestValidator for Validator {
    fn valid(&self, operation: &[u8]) -> bool {
        Operation::decode(operation).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_gives_the_registers_back() {
        let mut registers = Registers::default();
        registers.service.execute(Operation::Put(2, 9));
        let mut bytes = Vec::new();
        registers.snapshot(&mut |part| bytes.extend_from_slice(part));
        let mut copy = Registers::default();
        let mut rest = &bytes[..];
        let mut read = |into: &mut [u8]| {
            let size = into.len().min(rest.len());
            into[..size].copy_from_slice(&rest[..size]);
            rest = &rest[size..];
            size
        };
        copy.restore(&mut read).expect("a whole snapshot");
        assert_eq!(copy.digest(), registers.digest());
        assert!(copy.restore(&mut |_| 0).is_err());
    }
}
