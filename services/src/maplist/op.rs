//! Operations and answers of BFTMapList, as bytes.
//!
//! An operation is an opcode, a key (except `size`) and what follows: strings as LEB128 length and
//! bytes. Always true: parsing is total.

use crate::kv::command::Args;
use crate::wire::{Malformed, Reader, put_length, put_string};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const SIZE: u8 = 3;
const CONTAINS_KEY: u8 = 4;
const PUT_ENTRY: u8 = 5;
const GET: u8 = 6;

const FLAG: u8 = 1;
const NUMBER: u8 = 2;
pub(super) const LIST: u8 = 3;
const ABSENT: u8 = 4;
const TOO_LARGE: u8 = 5;
const FULL: u8 = 6;
const MALFORMED: u8 = 7;

/// A request to the map.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operation<'a> {
    /// Sets the list of `key`. Answer: was there one before?
    Put {
        /// The key.
        key: &'a [u8],
        /// The list.
        entries: Args<'a>,
    },
    /// Removes `key`. Answer: was it there?
    Remove {
        /// The key.
        key: &'a [u8],
    },
    /// Counts the keys.
    Size,
    /// Answer: is `key` there?
    ContainsKey {
        /// The key.
        key: &'a [u8],
    },
    /// Appends to the list of `key`. Answer: is there one?
    PutEntry {
        /// The key.
        key: &'a [u8],
        /// What is appended.
        entry: &'a [u8],
    },
    /// Answer: the list of `key`.
    Get {
        /// The key.
        key: &'a [u8],
    },
}

impl<'a> Operation<'a> {
    /// Reads an operation.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let opcode = reader.u8()?;
        let operation = if opcode == SIZE {
            Operation::Size
        } else {
            let key = reader.string()?;
            match opcode {
                PUT => Operation::Put { key, entries: read_list(&mut reader)? },
                REMOVE => Operation::Remove { key },
                CONTAINS_KEY => Operation::ContainsKey { key },
                PUT_ENTRY => Operation::PutEntry { key, entry: reader.string()? },
                GET => Operation::Get { key },
                _ => return Err(Malformed),
            }
        };
        if reader.is_empty() { Ok(operation) } else { Err(Malformed) }
    }

    /// Appends the operation to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut put = |opcode, key| {
            out.push(opcode);
            put_string(out, key);
        };
        match *self {
            Operation::Put { key, entries } => {
                put(PUT, key);
                put_length(out, entries.len());
                entries.iter().for_each(|entry| put_string(out, entry));
            }
            Operation::Remove { key } => put(REMOVE, key),
            Operation::Size => out.push(SIZE),
            Operation::ContainsKey { key } => put(CONTAINS_KEY, key),
            Operation::PutEntry { key, entry } => {
                put(PUT_ENTRY, key);
                put_string(out, entry);
            }
            Operation::Get { key } => put(GET, key),
        }
    }

    /// Does it leave the map as it is?
    pub fn is_read_only(&self) -> bool {
        matches!(self, Operation::Size | Operation::ContainsKey { .. } | Operation::Get { .. })
    }
}

/// What the map answers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Answer<'a> {
    /// Yes or no, as the operation says.
    Flag(bool),
    /// A count.
    Number(u64),
    /// A list.
    List(Args<'a>),
    /// There is no such key.
    Absent,
    /// A string, a list or an answer beyond the limits. Nothing was changed.
    TooLarge,
    /// The map is full. Nothing was changed.
    Full,
    /// The operation is not one, or writes and came as read-only.
    Malformed,
}

impl<'a> Answer<'a> {
    /// Reads an answer.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let answer = match reader.u8()? {
            FLAG => match reader.u8()? {
                0 => Answer::Flag(false),
                1 => Answer::Flag(true),
                _ => return Err(Malformed),
            },
            NUMBER => Answer::Number(reader.u64()?),
            LIST => Answer::List(read_list(&mut reader)?),
            ABSENT => Answer::Absent,
            TOO_LARGE => Answer::TooLarge,
            FULL => Answer::Full,
            MALFORMED => Answer::Malformed,
            _ => return Err(Malformed),
        };
        if reader.is_empty() { Ok(answer) } else { Err(Malformed) }
    }

    /// Appends the answer to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Answer::Flag(flag) => out.extend_from_slice(&[FLAG, u8::from(flag)]),
            Answer::Number(number) => {
                out.push(NUMBER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Answer::List(entries) => {
                out.push(LIST);
                put_length(out, entries.len());
                entries.iter().for_each(|entry| put_string(out, entry));
            }
            Answer::Absent => out.push(ABSENT),
            Answer::TooLarge => out.push(TOO_LARGE),
            Answer::Full => out.push(FULL),
            Answer::Malformed => out.push(MALFORMED),
        }
    }
}

fn read_list<'a>(reader: &mut Reader<'a>) -> Result<Args<'a>, Malformed> {
    let count = reader.length()?;
    let bytes = reader.rest();
    for _ in 0..count {
        // Each string takes at least a byte, so a false count ends with the bytes.
        reader.string()?;
    }
    Ok(Args::Encoded { count, bytes: &bytes[..bytes.len() - reader.rest().len()] })
}
