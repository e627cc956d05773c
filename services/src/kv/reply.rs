//! What the store answers: a compact form that a gateway turns into RESP2 or RESP3.
//!
//! The reply to an operation is one reply for each of its commands, back to back. Each starts with a
//! tag; lengths and counts are LEB128, integers eight bytes little endian.

use super::command::Spelling;
use crate::wire::{Malformed, Reader, length_size, put_length, put_string, string_size};

/// The tags. Never reused.
mod tag {
    pub const OK: u8 = 1;
    pub const STATUS: u8 = 2;
    pub const NIL: u8 = 3;
    pub const NIL_ARRAY: u8 = 4;
    pub const INTEGER: u8 = 5;
    pub const BULK: u8 = 6;
    pub const FAILURE: u8 = 7;
    pub const ERROR: u8 = 8;
    pub const ARRAY: u8 = 9;
    pub const MAP: u8 = 10;
    pub const SET: u8 = 11;
    pub const SKIPPED: u8 = 12;
    pub const ORDER: u8 = 13;
}

/// Room kept for each command that is still to come: the largest reply of fixed size.
pub(super) const FIXED_SIZE_MAX: usize = 10;

/// Why a command failed at execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The key holds another type.
    WrongType,
    /// A string is not an integer.
    NotInteger,
    /// A hash value is not an integer.
    HashNotInteger,
    /// Beyond 64 bits.
    Overflow,
    /// A key longer than the limit.
    KeyTooLong,
    /// A value longer than the limit.
    ValueTooLong,
    /// A collection with more elements than the limit.
    TooManyElements,
    /// The store is full.
    OutOfMemory,
    /// The reply does not fit.
    ReplyTooLong,
    /// Too many keys for KEYS.
    TooManyKeys,
    /// The operation is not well-formed.
    Malformed,
    /// A change in a read-only request.
    NotReadOnly,
    /// A time that is not positive or too large, in the command of this spelling.
    ExpireTime(Spelling),
}

impl Failure {
    const PLAIN: [Failure; 12] = [
        Failure::WrongType,
        Failure::NotInteger,
        Failure::HashNotInteger,
        Failure::Overflow,
        Failure::KeyTooLong,
        Failure::ValueTooLong,
        Failure::TooManyElements,
        Failure::OutOfMemory,
        Failure::ReplyTooLong,
        Failure::TooManyKeys,
        Failure::Malformed,
        Failure::NotReadOnly,
    ];
    const EXPIRE_TIME: u8 = 128;

    fn number(self) -> u8 {
        match self {
            Failure::ExpireTime(spelling) => Self::EXPIRE_TIME + spelling as u8,
            plain => {
                Self::PLAIN.iter().position(|&other| other == plain).map_or(u8::MAX, |at| at as u8)
            }
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        match number.checked_sub(Self::EXPIRE_TIME) {
            Some(spelling) => {
                Spelling::ALL.get(usize::from(spelling)).copied().map(Failure::ExpireTime)
            }
            None => Self::PLAIN.get(usize::from(number)).copied(),
        }
    }

    /// The error line, without the minus. Redis' own words where Redis has them.
    pub fn text(self) -> &'static str {
        match self {
            Failure::WrongType => {
                "WRONGTYPE Operation against a key holding the wrong kind of value"
            }
            Failure::NotInteger => "ERR value is not an integer or out of range",
            Failure::HashNotInteger => "ERR hash value is not an integer",
            Failure::Overflow => "ERR increment or decrement would overflow",
            Failure::KeyTooLong => "ERR key exceeds the maximum size (key_size_max)",
            Failure::ValueTooLong => "ERR string exceeds maximum allowed size (value_size_max)",
            Failure::TooManyElements => {
                "ERR the key would hold more elements than allowed (elements_max)"
            }
            Failure::OutOfMemory => {
                "OOM command not allowed when used memory > 'maxmemory' (state_size_max)."
            }
            Failure::ReplyTooLong => {
                "ERR the reply is larger than 256 KiB: read less at a time (LRANGE, HMGET, SCAN)"
            }
            Failure::TooManyKeys => "ERR too many keys for KEYS (keys_visited_max): use SCAN",
            Failure::Malformed => "ERR the operation is malformed",
            Failure::NotReadOnly => "ERR a command that writes cannot be read-only",
            Failure::ExpireTime(spelling) => match spelling {
                Spelling::Set => "ERR invalid expire time in 'set' command",
                Spelling::SetEx => "ERR invalid expire time in 'setex' command",
                Spelling::PSetEx => "ERR invalid expire time in 'psetex' command",
                Spelling::Expire => "ERR invalid expire time in 'expire' command",
                Spelling::PExpire => "ERR invalid expire time in 'pexpire' command",
                Spelling::ExpireAt => "ERR invalid expire time in 'expireat' command",
                Spelling::PExpireAt => "ERR invalid expire time in 'pexpireat' command",
            },
        }
    }
}

/// Why a command has no reply of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// It failed; the reply says how.
    Failure(Failure),
    /// Its reply does not fit the room that is left. Nothing was changed.
    NoRoom,
    /// Its reply depends on the time, which only an ordered request knows.
    Order,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failure(failure)
    }
}

/// Writes replies into a buffer, never beyond a limit.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> ReplyWriter<'a> {
    /// Appends to `out` until it has `limit` bytes.
    pub(super) fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { out, limit }
    }

    /// How much was written.
    pub(super) fn size(&self) -> usize {
        self.out.len()
    }

    /// Forgets everything after `size`.
    pub(super) fn truncate(&mut self, size: usize) {
        self.out.truncate(size);
    }

    /// Moves the limit: what is kept for later commands shrinks as they are executed.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Is there room for `size` more bytes?
    pub(super) fn fits(&self, size: usize) -> Result<(), Stop> {
        if size <= self.limit.saturating_sub(self.out.len()) { Ok(()) } else { Err(Stop::NoRoom) }
    }

    /// Is there room for a bulk string of `size` bytes?
    pub(super) fn fits_bulk(&self, size: usize) -> Result<(), Stop> {
        self.fits(bulk_size(size))
    }

    /// OK. Fixed size: room is always kept for it.
    pub(super) fn ok(&mut self) {
        self.out.push(tag::OK);
    }

    /// No value. Fixed size.
    pub(super) fn nil(&mut self) {
        self.out.push(tag::NIL);
    }

    /// No array. Fixed size.
    pub(super) fn nil_array(&mut self) {
        self.out.push(tag::NIL_ARRAY);
    }

    /// An integer. Fixed size.
    pub(super) fn integer(&mut self, value: i64) {
        self.out.push(tag::INTEGER);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// A count. Fixed size.
    pub(super) fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A failure. Fixed size.
    pub(super) fn failure(&mut self, failure: Failure) {
        self.out.extend_from_slice(&[tag::FAILURE, failure.number()]);
    }

    /// Not executed. Fixed size.
    pub(super) fn skipped(&mut self) {
        self.out.push(tag::SKIPPED);
    }

    /// To be ordered. Fixed size.
    pub(super) fn order(&mut self) {
        self.out.push(tag::ORDER);
    }

    /// A status line.
    pub(super) fn status(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.string(tag::STATUS, text)
    }

    /// An error line.
    pub(super) fn error(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.string(tag::ERROR, text)
    }

    /// A byte string.
    pub(super) fn bulk(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.string(tag::BULK, bytes)
    }

    /// The start of an array of `count` replies.
    pub(super) fn array(&mut self, count: usize) -> Result<(), Stop> {
        self.aggregate(tag::ARRAY, count)
    }

    /// The start of a map of `count` pairs.
    pub(super) fn map(&mut self, count: usize) -> Result<(), Stop> {
        self.aggregate(tag::MAP, count)
    }

    /// The start of a set of `count` replies.
    pub(super) fn set(&mut self, count: usize) -> Result<(), Stop> {
        self.aggregate(tag::SET, count)
    }

    fn string(&mut self, tag: u8, bytes: &[u8]) -> Result<(), Stop> {
        self.fits_bulk(bytes.len())?;
        self.out.push(tag);
        put_string(self.out, bytes);
        Ok(())
    }

    fn aggregate(&mut self, tag: u8, count: usize) -> Result<(), Stop> {
        self.fits(1 + length_size(count))?;
        self.out.push(tag);
        put_length(self.out, count);
        Ok(())
    }
}

/// Bytes of a bulk string of `size` bytes.
pub(super) fn bulk_size(size: usize) -> usize {
    1 + string_size(size)
}

/// One reply, or the start of an aggregate: its elements follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// OK.
    Ok,
    /// Another status line.
    Status(&'a [u8]),
    /// No value.
    Nil,
    /// No array.
    NilArray,
    /// An integer.
    Integer(i64),
    /// A byte string.
    Bulk(&'a [u8]),
    /// An error that the store found.
    Failure(Failure),
    /// An error line that came with the operation.
    Error(&'a [u8]),
    /// As many replies follow.
    Array(usize),
    /// As many pairs of replies follow.
    Map(usize),
    /// As many distinct replies follow.
    Set(usize),
    /// Not executed, nor anything after it: its reply does not fit beside those before it. To be
    /// sent again with the next attempt number.
    Skipped,
    /// Only an ordered request can tell, because the answer depends on the time.
    Order,
}

impl<'a> Reply<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            tag::OK => Reply::Ok,
            tag::STATUS => Reply::Status(reader.string()?),
            tag::NIL => Reply::Nil,
            tag::NIL_ARRAY => Reply::NilArray,
            tag::INTEGER => Reply::Integer(reader.i64()?),
            tag::BULK => Reply::Bulk(reader.string()?),
            tag::FAILURE => Reply::Failure(Failure::of_number(reader.u8()?).ok_or(Malformed)?),
            tag::ERROR => Reply::Error(reader.string()?),
            tag::ARRAY => Reply::Array(reader.length()?),
            tag::MAP => Reply::Map(reader.length()?),
            tag::SET => Reply::Set(reader.length()?),
            tag::SKIPPED => Reply::Skipped,
            tag::ORDER => Reply::Order,
            _ => return Err(Malformed),
        })
    }

    /// How many replies belong to it.
    pub fn children(&self) -> usize {
        match *self {
            Reply::Array(count) | Reply::Set(count) => count,
            Reply::Map(count) => count.saturating_mul(2),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn failures_have_distinct_numbers_that_come_back() {
        let times = Spelling::ALL.map(Failure::ExpireTime);
        for failure in Failure::PLAIN.into_iter().chain(times) {
            assert_eq!(Failure::of_number(failure.number()), Some(failure));
            if let Failure::ExpireTime(spelling) = failure {
                assert!(failure.text().contains(&format!("'{}'", spelling.name())));
            }
        }
    }

    #[test]
    fn a_writer_stops_at_its_limit() {
        let mut out = Vec::new();
        let mut writer = ReplyWriter::new(&mut out, 6);
        assert_eq!(writer.bulk(b"abcde"), Err(Stop::NoRoom));
        assert_eq!(writer.bulk(b"abcd"), Ok(()));
        assert_eq!(writer.array(1), Err(Stop::NoRoom));
        assert_eq!(out.len(), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut reader = Reader::new(&bytes);
            while Reply::read(&mut reader).is_ok() {}
        }
    }
}
