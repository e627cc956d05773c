//! Commands on strings.

use super::{Store, View};
use crate::kv::command::{Args, Command, Deadline, SetExpiry, SetIf, SetReply, Spelling};
use crate::kv::keyspace::Expiry;
use crate::kv::reply::{Failure, ReplyWriter, Stop};
use crate::kv::value::{Kind, Value};
use crate::wire::{decimal, write_decimal};

fn string(value: &Value) -> Option<&[u8]> {
    if let Value::String(bytes) = value { Some(bytes) } else { None }
}

pub(super) fn get(view: &View<'_>, key: &[u8], out: &mut ReplyWriter<'_>) -> Result<(), Stop> {
    match view.value(key, string)? {
        Some(bytes) => out.bulk(bytes)?,
        None => out.nil(),
    }
    Ok(())
}

pub(super) fn mget(view: &View<'_>, keys: Args<'_>, out: &mut ReplyWriter<'_>) -> Result<(), Stop> {
    out.array(keys.len())?;
    for key in keys.iter() {
        // A key of another type counts as absent here.
        match view.get(key)?.and_then(|entry| string(entry.value())) {
            Some(bytes) => out.bulk(bytes)?,
            None => {
                out.fits(1)?;
                out.nil();
            }
        }
    }
    Ok(())
}

pub(super) fn strlen(view: &View<'_>, key: &[u8], out: &mut ReplyWriter<'_>) -> Result<(), Stop> {
    out.count(view.value(key, string)?.map_or(0, <[u8]>::len));
    Ok(())
}

pub(super) fn write(
    store: &mut Store<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::Set { key, value, condition, reply, expiry, spelling } => {
            let expiry = match expiry {
                SetExpiry::Clear => Expiry::Clear,
                SetExpiry::Keep => Expiry::Keep,
                SetExpiry::Deadline(at) => Expiry::At(positive_time(store.now_ms, at, spelling)?),
            };
            set(store, &SetRequest { key, value, condition, reply, expiry }, out)
        }
        Command::GetDel { key } => {
            get(&store.view(), key, out)?;
            store.keys.remove(key, store.now_ms);
            Ok(())
        }
        Command::MSet { pairs } => {
            for (key, value) in pairs.pairs() {
                store.check_growth(key)?;
                store.check_value(value)?;
            }
            for (key, value) in pairs.pairs() {
                store.keys.set_string(key, store.now_ms, value, Expiry::Clear);
            }
            out.ok();
            Ok(())
        }
        Command::Append { key, value } => append(store, key, value, out),
        Command::IncrBy { key, delta } => increment(store, key, delta, out),
        _ => Err(Failure::Malformed.into()),
    }
}

struct SetRequest<'a> {
    key: &'a [u8],
    value: &'a [u8],
    condition: SetIf,
    reply: SetReply,
    expiry: Expiry,
}

fn set(
    store: &mut Store<'_>,
    request: &SetRequest<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    let &SetRequest { key, value, condition, reply, expiry } = request;
    store.check_growth(key)?;
    store.check_value(value)?;
    if reply == SetReply::Old {
        get(&store.view(), key, out)?;
    }
    let wanted = match condition {
        SetIf::Always => true,
        SetIf::Absent => store.keys.get(key, store.now_ms).is_none(),
        SetIf::Present => store.keys.get(key, store.now_ms).is_some(),
    };
    if wanted {
        store.keys.set_string(key, store.now_ms, value, expiry);
    }
    match (reply, wanted) {
        (SetReply::Old, _) => {}
        (SetReply::Status, true) => out.ok(),
        (SetReply::Status, false) => out.nil(),
        (SetReply::Flag, wanted) => out.integer(i64::from(wanted)),
    }
    Ok(())
}

/// The millisecond that a SET's deadline means: positive, and not beyond 63 bits.
fn positive_time(now_ms: u64, deadline: Deadline, spelling: Spelling) -> Result<u64, Failure> {
    let failure = Failure::ExpireTime(spelling);
    let (millis, base) = match deadline {
        Deadline::In(millis) => (millis, i64::try_from(now_ms).map_err(|_| failure)?),
        Deadline::At(millis) => (millis, 0),
    };
    if millis <= 0 {
        return Err(failure);
    }
    let at = millis.checked_add(base).ok_or(failure)?;
    u64::try_from(at).map_err(|_| failure)
}

fn append(
    store: &mut Store<'_>,
    key: &[u8],
    value: &[u8],
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    store.check_growth(key)?;
    store.check_value(value)?;
    let max = store.limits.value_size_max;
    let size = store.keys.edit_or_create(key, store.now_ms, Kind::String, |old| {
        let Value::String(bytes) = old else { return Err(Failure::WrongType) };
        if bytes.len() + value.len() > max {
            return Err(Failure::ValueTooLong);
        }
        bytes.append(value);
        Ok(bytes.len())
    })?;
    out.count(size);
    Ok(())
}

fn increment(
    store: &mut Store<'_>,
    key: &[u8],
    delta: i64,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    store.check_growth(key)?;
    let edited = store.keys.edit(key, store.now_ms, |old| {
        let Value::String(bytes) = old else { return Err(Failure::WrongType) };
        let value = decimal(bytes).ok_or(Failure::NotInteger)?;
        let value = value.checked_add(delta).ok_or(Failure::Overflow)?;
        bytes.set(write_decimal(value, &mut [0; 20]));
        Ok(value)
    });
    let value = match edited {
        Some(value) => value?,
        None => {
            let text = &mut [0; 20];
            let text = write_decimal(delta, text);
            store.keys.set_string(key, store.now_ms, text, Expiry::Clear);
            delta
        }
    };
    out.integer(value);
    Ok(())
}
