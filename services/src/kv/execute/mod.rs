//! What each command does.
//!
//! Always true: a command that fails, or whose reply has no room, has changed nothing. Reads take
//! the keyspace shared, so that the same code answers ordered and read-only requests.

mod hash;
mod keys;
mod list;
mod set;
mod string;

use super::command::{Command, Literal};
use super::keyspace::{Entry, Keyspace};
use super::limits::Limits;
use super::reply::{Failure, ReplyWriter, Stop};
use super::value::{Kind, Value};

/// The keyspace as a read sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub keys: &'a Keyspace,
    pub limits: &'a Limits,
    pub now_ms: u64,
    /// The time is not known: an answer that depends on it is refused with [`Stop::Order`].
    pub timeless: bool,
}

impl<'a> View<'a> {
    /// A visible key.
    fn get(&self, key: &[u8]) -> Result<Option<&'a Entry>, Stop> {
        // Without a time, nothing has expired yet: an entry that will is found, and refused.
        let now_ms = if self.timeless { 0 } else { self.now_ms };
        let entry = self.keys.get(key, now_ms);
        if self.timeless && entry.is_some_and(|entry| entry.expires_ms().is_some()) {
            return Err(Stop::Order);
        }
        Ok(entry)
    }

    /// The value of a visible key, as the type that `cast` wants.
    fn value<T>(
        &self,
        key: &[u8],
        cast: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Stop> {
        let Some(entry) = self.get(key)? else { return Ok(None) };
        cast(entry.value()).map(Some).ok_or(Stop::Failure(Failure::WrongType))
    }

    /// Refuses an answer about all keys when it depends on the time.
    fn whole(&self) -> Result<(), Stop> {
        if self.timeless && self.keys.has_volatile() { Err(Stop::Order) } else { Ok(()) }
    }
}

/// The keyspace as a write sees it.
pub(super) struct Store<'a> {
    pub keys: &'a mut Keyspace,
    pub limits: &'a Limits,
    pub now_ms: u64,
}

impl Store<'_> {
    fn view(&self) -> View<'_> {
        View { keys: self.keys, limits: self.limits, now_ms: self.now_ms, timeless: false }
    }

    /// May a command that makes the store larger run?
    fn check_growth(&self, key: &[u8]) -> Result<(), Failure> {
        if key.len() > self.limits.key_size_max {
            return Err(Failure::KeyTooLong);
        }
        if self.keys.weight() >= self.limits.state_size_max {
            return Err(Failure::OutOfMemory);
        }
        Ok(())
    }

    fn check_value(&self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() > self.limits.value_size_max { Err(Failure::ValueTooLong) } else { Ok(()) }
    }

    /// Does a visible key have another type than `kind`?
    fn check_kind(&self, key: &[u8], kind: Kind) -> Result<(), Failure> {
        match self.keys.get(key, self.now_ms) {
            Some(entry) if entry.value().kind() != kind => Err(Failure::WrongType),
            _ => Ok(()),
        }
    }
}

/// Executes a command of an ordered operation.
pub(super) fn execute(
    store: &mut Store<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    use Command as C;
    match *command {
        C::GetDel { .. } | C::Set { .. } | C::MSet { .. } | C::Append { .. } | C::IncrBy { .. } => {
            string::write(store, command, out)
        }
        C::Del { .. } | C::Expire { .. } | C::Persist { .. } | C::Flush => {
            keys::write(store, command, out)
        }
        C::Push { .. } | C::Pop { .. } => list::write(store, command, out),
        C::HSet { .. } | C::HSetNx { .. } | C::HDel { .. } | C::HIncrBy { .. } => {
            hash::write(store, command, out)
        }
        C::SAdd { key, members } => set::add(store, key, members, out),
        C::SRem { key, members } => set::remove(store, key, members, out),
        _ => query(&store.view(), command, out),
    }
}

/// Executes a command that changes nothing.
pub(super) fn query(
    view: &View<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    use Command as C;
    match *command {
        C::Literal { kind, text } => match kind {
            Literal::Error => out.error(text),
            Literal::Status => out.status(text),
            Literal::Bulk => out.bulk(text),
        },
        C::Get { key } => string::get(view, key, out),
        C::MGet { keys } => string::mget(view, keys, out),
        C::StrLen { key } => string::strlen(view, key, out),
        C::Exists { .. }
        | C::Type { .. }
        | C::Ttl { .. }
        | C::Scan { .. }
        | C::Keys { .. }
        | C::DbSize => keys::read(view, command, out),
        C::LRange { .. } | C::LLen { .. } | C::LIndex { .. } => list::read(view, command, out),
        C::HGet { .. }
        | C::HMGet { .. }
        | C::HRead { .. }
        | C::HLen { .. }
        | C::HExists { .. }
        | C::HStrLen { .. } => hash::read(view, command, out),
        C::SMembers { .. } | C::SIsMember { .. } | C::SMIsMember { .. } | C::SCard { .. } => {
            set::read(view, command, out)
        }
        _ => Err(Failure::NotReadOnly.into()),
    }
}
