//! The replicated service of the simulator: a few registers, each with a version.
//!
//! Always true: a version counts the writes of its register, so every answer says exactly where in the
//! order of that register's writes it belongs; linearizability is then a comparison of numbers. Must
//! not: look at anything but the operation.

use crate::rng::mix;

/// Registers.
pub const KEYS: usize = 6;

/// One operation, as values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Sets a register and answers what it held before.
    Put(u8, u64),
    /// Adds to a register and answers the sum.
    Add(u8, u64),
    /// Answers a register.
    Get(u8),
}

/// Version of the register after the operation, and a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Answer {
    /// Writes of this register so far, this one included.
    pub version: u64,
    /// The operation's value.
    pub value: u64,
}

/// Bytes of an operation.
pub const OPERATION_SIZE: usize = 10;

impl Operation {
    /// As bytes.
    pub fn encode(self) -> [u8; OPERATION_SIZE] {
        let (tag, key, value) = match self {
            Self::Put(key, value) => (1, key, value),
            Self::Add(key, value) => (2, key, value),
            Self::Get(key) => (3, key, 0),
        };
        let mut bytes = [0; OPERATION_SIZE];
        bytes[0] = tag;
        bytes[1] = key;
        bytes[2..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    /// From bytes: `None` is what the service's validator refuses.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; OPERATION_SIZE] = bytes.try_into().ok()?;
        let key = bytes[1];
        if usize::from(key) >= KEYS {
            return None;
        }
        let value = u64::from_le_bytes(bytes[2..].try_into().ok()?);
        match bytes[0] {
            1 => Some(Self::Put(key, value)),
            2 => Some(Self::Add(key, value)),
            // A read may carry a number of its own, so that no two requests are equal bytes.
            3 => Some(Self::Get(key)),
            _ => None,
        }
    }

    /// Which register.
    pub fn key(self) -> u8 {
        match self {
            Self::Put(key, _) | Self::Add(key, _) | Self::Get(key) => key,
        }
    }

    /// Does it write?
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get(_))
    }
}

/// The registers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    registers: [(u64, u64); KEYS],
}

impl Service {
    /// Executes an ordered operation.
    pub fn execute(&mut self, operation: Operation) -> Answer {
        let (version, value) = &mut self.registers[usize::from(operation.key())];
        let answer = match operation {
            Operation::Put(_, new) => std::mem::replace(value, new),
            Operation::Add(_, more) => {
                *value = value.wrapping_add(more);
                *value
            }
            Operation::Get(_) => *value,
        };
        *version += u64::from(operation.writes());
        Answer { version: *version, value: answer }
    }

    /// Answers a read from the current state.
    pub fn query(&self, operation: Operation) -> Answer {
        let (version, value) = self.registers[usize::from(operation.key())];
        Answer { version, value }
    }

    /// All registers: version and value.
    pub fn registers(&self) -> &[(u64, u64); KEYS] {
        &self.registers
    }

    /// A service with these registers.
    pub fn from_registers(registers: [(u64, u64); KEYS]) -> Self {
        Self { registers }
    }

    /// A digest of the whole state.
    pub fn digest(&self) -> u64 {
        self.registers.iter().fold(0, |sum, &(version, value)| mix(mix(sum ^ version) ^ value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_survive_encoding_and_nonsense_is_refused() {
        for operation in [Operation::Put(1, 9), Operation::Add(0, 3), Operation::Get(5)] {
            assert_eq!(Operation::decode(&operation.encode()), Some(operation));
        }
        assert_eq!(Operation::decode(&[9; OPERATION_SIZE]), None);
        assert_eq!(Operation::decode(b"short"), None);
    }

    #[test]
    fn a_version_counts_writes() {
        let mut service = Service::default();
        assert_eq!(service.execute(Operation::Put(1, 9)), Answer { version: 1, value: 0 });
        assert_eq!(service.execute(Operation::Add(1, 2)), Answer { version: 2, value: 11 });
        assert_eq!(service.execute(Operation::Get(1)), Answer { version: 2, value: 11 });
        assert_eq!(service.query(Operation::Get(2)), Answer { version: 0, value: 0 });
    }
}
