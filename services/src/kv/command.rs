//! The commands that the store executes, parsed.
//!
//! Many Redis commands are spellings of one of these: SETEX is a SET, DECR an INCRBY. What can be
//! wrong with a command without looking at the store was found before one of these exists.

use super::value::Kind;
use crate::wire::Reader;

/// A list of byte strings: words of a client's command, or still encoded in an operation.
#[derive(Clone, Copy, Debug)]
pub enum Args<'a> {
    /// Borrowed from a client's command.
    Words(&'a [&'a [u8]]),
    /// `count` strings in `bytes`, checked when the operation was parsed.
    Encoded {
        /// How many.
        count: usize,
        /// Lengths and strings.
        bytes: &'a [u8],
    },
}

impl<'a> Args<'a> {
    /// How many strings.
    pub fn len(&self) -> usize {
        match self {
            Args::Words(words) => words.len(),
            Args::Encoded { count, .. } => *count,
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The strings.
    pub fn iter(&self) -> ArgsIter<'a> {
        match *self {
            Args::Words(words) => ArgsIter::Words(words.iter()),
            Args::Encoded { bytes, .. } => ArgsIter::Encoded(Reader::new(bytes)),
        }
    }

    /// The strings two by two.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut strings = self.iter();
        std::iter::from_fn(move || Some((strings.next()?, strings.next()?)))
    }
}

impl PartialEq for Args<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// Iterator over [`Args`].
#[derive(Clone, Debug)]
pub enum ArgsIter<'a> {
    /// Over words.
    Words(std::slice::Iter<'a, &'a [u8]>),
    /// Over encoded strings.
    Encoded(Reader<'a>),
}

impl<'a> Iterator for ArgsIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            ArgsIter::Words(words) => words.next().copied(),
            ArgsIter::Encoded(reader) => reader.string().ok(),
        }
    }
}

/// An answer that is known before execution: the place of a command that failed to parse, or of a
/// PING, inside a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Literal {
    /// An error line.
    Error = 0,
    /// A status line.
    Status = 1,
    /// A bulk string.
    Bulk = 2,
}

/// When a SET takes place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SetIf {
    /// Always.
    Always = 0,
    /// NX: only when the key does not exist.
    Absent = 1,
    /// XX: only when it does.
    Present = 2,
}

/// What a SET answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SetReply {
    /// OK, or nil when the condition failed.
    Status = 0,
    /// The value before (GET, GETSET).
    Old = 1,
    /// 1 or 0 (SETNX).
    Flag = 2,
}

/// A point in time as clients give it, in milliseconds: checked for overflow only at execution,
/// when the cluster's time is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// From now.
    In(i64),
    /// Since the UNIX epoch.
    At(i64),
}

/// What a SET does to the expiry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetExpiry {
    /// The key does not expire afterwards.
    Clear,
    /// KEEPTTL.
    Keep,
    /// EX, PX, EXAT, PXAT.
    Deadline(Deadline),
}

/// When an EXPIRE takes place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExpireIf {
    /// Always.
    Always = 0,
    /// NX: only when the key does not expire yet.
    Absent = 1,
    /// XX: only when it does.
    Present = 2,
    /// GT: only when it then expires later. A key that does not expire counts as infinitely late.
    Later = 3,
    /// LT: only when it then expires earlier.
    Earlier = 4,
    /// XX LT: only when it expires, and then expires earlier.
    PresentEarlier = 5,
}

/// What TTL, PTTL, EXPIRETIME and PEXPIRETIME ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TtlForm {
    /// Milliseconds instead of seconds.
    pub millis: bool,
    /// Since the UNIX epoch instead of from now.
    pub absolute: bool,
}

/// Which command an "invalid expire time in '...' command" names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Spelling {
    /// SET
    Set = 0,
    /// SETEX
    SetEx = 1,
    /// PSETEX
    PSetEx = 2,
    /// EXPIRE
    Expire = 3,
    /// PEXPIRE
    PExpire = 4,
    /// EXPIREAT
    ExpireAt = 5,
    /// PEXPIREAT
    PExpireAt = 6,
}

impl Spelling {
    /// All of them, by number.
    pub const ALL: [Spelling; 7] = [
        Spelling::Set,
        Spelling::SetEx,
        Spelling::PSetEx,
        Spelling::Expire,
        Spelling::PExpire,
        Spelling::ExpireAt,
        Spelling::PExpireAt,
    ];

    /// In lower case, as in error messages.
    pub fn name(self) -> &'static str {
        match self {
            Spelling::Set => "set",
            Spelling::SetEx => "setex",
            Spelling::PSetEx => "psetex",
            Spelling::Expire => "expire",
            Spelling::PExpire => "pexpire",
            Spelling::ExpireAt => "expireat",
            Spelling::PExpireAt => "pexpireat",
        }
    }
}

/// What to read of a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HashPart {
    /// HGETALL
    All = 0,
    /// HKEYS
    Fields = 1,
    /// HVALS
    Values = 2,
}

/// One command. The fields are named as in the Redis documentation.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the Redis command of that name")]
pub enum Command<'a> {
    Literal {
        kind: Literal,
        text: &'a [u8],
    },
    Get {
        key: &'a [u8],
    },
    GetDel {
        key: &'a [u8],
    },
    MGet {
        keys: Args<'a>,
    },
    StrLen {
        key: &'a [u8],
    },
    Set {
        key: &'a [u8],
        value: &'a [u8],
        condition: SetIf,
        reply: SetReply,
        expiry: SetExpiry,
        spelling: Spelling,
    },
    MSet {
        pairs: Args<'a>,
    },
    Append {
        key: &'a [u8],
        value: &'a [u8],
    },
    IncrBy {
        key: &'a [u8],
        delta: i64,
    },
    Del {
        keys: Args<'a>,
    },
    Exists {
        keys: Args<'a>,
    },
    Type {
        key: &'a [u8],
    },
    Expire {
        key: &'a [u8],
        deadline: Deadline,
        condition: ExpireIf,
        spelling: Spelling,
    },
    Ttl {
        key: &'a [u8],
        form: TtlForm,
    },
    Persist {
        key: &'a [u8],
    },
    Push {
        key: &'a [u8],
        head: bool,
        existing: bool,
        items: Args<'a>,
    },
    Pop {
        key: &'a [u8],
        head: bool,
        count: Option<u32>,
    },
    LRange {
        key: &'a [u8],
        start: i64,
        stop: i64,
    },
    LLen {
        key: &'a [u8],
    },
    LIndex {
        key: &'a [u8],
        index: i64,
    },
    HSet {
        key: &'a [u8],
        pairs: Args<'a>,
        status: bool,
    },
    HSetNx {
        key: &'a [u8],
        field: &'a [u8],
        value: &'a [u8],
    },
    HGet {
        key: &'a [u8],
        field: &'a [u8],
    },
    HMGet {
        key: &'a [u8],
        fields: Args<'a>,
    },
    HDel {
        key: &'a [u8],
        fields: Args<'a>,
    },
    HRead {
        key: &'a [u8],
        part: HashPart,
    },
    HLen {
        key: &'a [u8],
    },
    HExists {
        key: &'a [u8],
        field: &'a [u8],
    },
    HStrLen {
        key: &'a [u8],
        field: &'a [u8],
    },
    HIncrBy {
        key: &'a [u8],
        field: &'a [u8],
        delta: i64,
    },
    SAdd {
        key: &'a [u8],
        members: Args<'a>,
    },
    SRem {
        key: &'a [u8],
        members: Args<'a>,
    },
    SMembers {
        key: &'a [u8],
    },
    SIsMember {
        key: &'a [u8],
        member: &'a [u8],
    },
    SMIsMember {
        key: &'a [u8],
        members: Args<'a>,
    },
    SCard {
        key: &'a [u8],
    },
    /// `kind`: `None` any type, `Some(None)` a type that no key has.
    Scan {
        cursor: u64,
        pattern: Option<&'a [u8]>,
        count: u32,
        kind: Option<Option<Kind>>,
    },
    Keys {
        pattern: &'a [u8],
    },
    DbSize,
    Flush,
}

impl Command<'_> {
    /// Does it leave the store as it is? Such a command may be answered without being ordered.
    pub fn is_read_only(&self) -> bool {
        use Command as C;
        match self {
            C::Literal { .. } | C::Get { .. } | C::MGet { .. } | C::StrLen { .. } => true,
            C::Exists { .. } | C::Type { .. } | C::Ttl { .. } => true,
            C::LRange { .. } | C::LLen { .. } | C::LIndex { .. } => true,
            C::HGet { .. } | C::HMGet { .. } | C::HRead { .. } | C::HLen { .. } => true,
            C::HExists { .. } | C::HStrLen { .. } => true,
            C::SMembers { .. } | C::SIsMember { .. } | C::SMIsMember { .. } | C::SCard { .. } => {
                true
            }
            C::Scan { .. } | C::Keys { .. } | C::DbSize => true,
            C::GetDel { .. } | C::Set { .. } | C::MSet { .. } | C::Append { .. } => false,
            C::IncrBy { .. } | C::Del { .. } | C::Expire { .. } | C::Persist { .. } => false,
            C::Push { .. } | C::Pop { .. } => false,
            C::HSet { .. } | C::HSetNx { .. } | C::HDel { .. } | C::HIncrBy { .. } => false,
            C::SAdd { .. } | C::SRem { .. } | C::Flush => false,
        }
    }
}
