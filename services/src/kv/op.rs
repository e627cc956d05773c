//! The store's operation: one or several commands that are ordered and executed together.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | flags: bit 0 transaction, the rest zero |
//! | 2 | 2 | attempt |
//! | 4 | 2 | count of commands, 1 to `COMMANDS_MAX` |
//! | 6 | | for each command: as `super::codec` says |
//!
//! Always true: parsing is total, and an operation that parses can be executed to its end.

use super::codec::{decode, encode};
use super::command::Command;
use super::limits::COMMANDS_MAX;
use crate::wire::{Malformed, Reader};

/// Bytes before the first command.
pub const HEADER_SIZE: usize = 6;
const FORMAT: u8 = 1;
const TRANSACTION: u8 = 1;

/// A parsed operation, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// All replies are given, whatever their size: the commands are one MULTI/EXEC. Otherwise a
    /// command whose reply has no room left, and all after it, are skipped.
    pub transaction: bool,
    /// Operations of one session after a skipped command are skipped too, until this changes: see
    /// [`super::KvService`].
    pub attempt: u16,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Operation<'a> {
    /// Checks a whole operation.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let operation = Self::parse_header(bytes)?;
        let mut reader = Reader::new(operation.bytes);
        for _ in 0..operation.count {
            decode(&mut reader)?;
        }
        if reader.is_empty() { Ok(operation) } else { Err(Malformed) }
    }

    fn parse_header(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(Malformed);
        }
        let flags = reader.u8()?;
        if flags & !TRANSACTION != 0 {
            return Err(Malformed);
        }
        let attempt = reader.u16()?;
        let count = usize::from(reader.u16()?);
        if count == 0 || count > COMMANDS_MAX {
            return Err(Malformed);
        }
        let transaction = flags & TRANSACTION != 0;
        Ok(Self { transaction, attempt, count, bytes: reader.rest() })
    }

    /// How many commands: at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The commands, in order.
    pub fn commands(&self) -> impl Iterator<Item = Command<'a>> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| decode(&mut reader).ok())
    }

    /// May it be answered without being ordered?
    pub fn is_read_only(&self) -> bool {
        self.commands().all(|command| command.is_read_only())
    }

    /// The commands from number `first` on, as bytes for [`OperationWriter::push_encoded`].
    pub fn tail(&self, first: usize) -> &'a [u8] {
        let mut reader = Reader::new(self.bytes);
        for _ in 0..first {
            if decode(&mut reader).is_err() {
                return &[];
            }
        }
        reader.rest()
    }
}

/// Builds an operation. Reusable: [`OperationWriter::clear`] keeps the memory.
#[derive(Clone, Debug)]
pub struct OperationWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl Default for OperationWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl OperationWriter {
    /// An operation without commands. It is well-formed after the first command.
    pub fn new() -> Self {
        Self { bytes: vec![FORMAT, 0, 0, 0, 0, 0], count: 0 }
    }

    /// Removes all commands and the flags.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER_SIZE);
        self.bytes[1..].fill(0);
        self.count = 0;
    }

    /// How many commands.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Makes it a transaction.
    pub fn set_transaction(&mut self) {
        self.bytes[1] |= TRANSACTION;
    }

    /// Sets the attempt.
    pub fn set_attempt(&mut self, attempt: u16) {
        self.bytes[2..4].copy_from_slice(&attempt.to_le_bytes());
    }

    /// Appends a command.
    pub fn push(&mut self, command: &Command<'_>) {
        encode(&mut self.bytes, command);
        self.count_up(1);
    }

    /// Appends `count` commands that are encoded already.
    pub fn push_encoded(&mut self, count: usize, commands: &[u8]) {
        self.bytes.extend_from_slice(commands);
        self.count_up(count);
    }

    /// Takes back everything after `size` bytes and `count` commands.
    pub fn truncate(&mut self, size: usize, count: usize) {
        self.bytes.truncate(size.max(HEADER_SIZE));
        self.count = 0;
        self.count_up(count);
    }

    /// The operation.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn count_up(&mut self, by: usize) {
        self.count += by;
        // A count that does not fit is above COMMANDS_MAX either way, and refused as such.
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        self.bytes[4..6].copy_from_slice(&count.to_le_bytes());
    }
}
