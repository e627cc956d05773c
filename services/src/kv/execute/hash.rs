//! Commands on hashes.

use super::{Store, View};
use crate::kv::command::{Args, Command, HashPart};
use crate::kv::reply::{Failure, ReplyWriter, Stop};
use crate::kv::value::{Hash, Kind, Value};
use crate::wire::{decimal, write_decimal};

fn hash(value: &Value) -> Option<&Hash> {
    if let Value::Hash(hash) = value { Some(hash) } else { None }
}

pub(super) fn read(
    view: &View<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    let field_of = |key: &[u8], field: &[u8]| {
        view.value(key, hash).map(|hash| hash.and_then(|hash| hash.fields().get(field)))
    };
    match *command {
        Command::HGet { key, field } => match field_of(key, field)? {
            Some(value) => out.bulk(value)?,
            None => out.nil(),
        },
        Command::HExists { key, field } => {
            out.integer(i64::from(field_of(key, field)?.is_some()));
        }
        Command::HStrLen { key, field } => {
            out.count(field_of(key, field)?.map_or(0, |value| value.len()));
        }
        Command::HLen { key } => {
            out.count(view.value(key, hash)?.map_or(0, |hash| hash.fields().len()));
        }
        Command::HMGet { key, fields } => {
            let hash = view.value(key, hash)?;
            out.array(fields.len())?;
            for field in fields.iter() {
                match hash.and_then(|hash| hash.fields().get(field)) {
                    Some(value) => out.bulk(value)?,
                    None => {
                        out.fits(1)?;
                        out.nil();
                    }
                }
            }
        }
        Command::HRead { key, part } => {
            let hash = view.value(key, hash)?;
            let len = hash.map_or(0, |hash| hash.fields().len());
            match part {
                HashPart::All => out.map(len)?,
                HashPart::Fields | HashPart::Values => out.array(len)?,
            }
            for (field, value) in hash.iter().flat_map(|hash| hash.fields()) {
                if part != HashPart::Values {
                    out.bulk(field)?;
                }
                if part != HashPart::Fields {
                    out.bulk(value)?;
                }
            }
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

pub(super) fn write(
    store: &mut Store<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::HSet { key, pairs, status } => {
            let added = set(store, key, pairs)?;
            if status {
                out.ok();
            } else {
                out.count(added);
            }
        }
        Command::HSetNx { key, field, value } => {
            let absent = match store.view().value(key, hash)? {
                Some(hash) => !hash.fields().contains_key(field),
                None => true,
            };
            if absent {
                set(store, key, Args::Words(&[field, value]))?;
            }
            out.integer(i64::from(absent));
        }
        Command::HDel { key, fields } => {
            let removed = store.keys.edit(key, store.now_ms, |value| {
                let Value::Hash(hash) = value else { return Err(Failure::WrongType) };
                Ok(fields.iter().filter(|field| hash.remove(field)).count())
            });
            out.count(removed.unwrap_or(Ok(0))?);
        }
        Command::HIncrBy { key, field, delta } => {
            let old = match store.view().value(key, hash)? {
                Some(hash) => hash.fields().get(field),
                None => None,
            };
            let old = match old {
                Some(text) => decimal(text).ok_or(Failure::HashNotInteger)?,
                None => 0,
            };
            let new = old.checked_add(delta).ok_or(Failure::Overflow)?;
            let text = &mut [0; 20];
            set(store, key, Args::Words(&[field, write_decimal(new, text)]))?;
            out.integer(new);
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

/// Sets fields, and says how many are new.
fn set(store: &mut Store<'_>, key: &[u8], pairs: Args<'_>) -> Result<usize, Failure> {
    store.check_growth(key)?;
    pairs.iter().try_for_each(|bytes| store.check_value(bytes))?;
    let max = store.limits.elements_max;
    store.keys.edit_or_create(key, store.now_ms, Kind::Hash, |value| {
        let Value::Hash(hash) = value else { return Err(Failure::WrongType) };
        let len = hash.fields().len();
        if len + pairs.len() / 2 > max {
            let new = pairs.pairs().filter(|(field, _)| !hash.fields().contains_key(*field));
            if len + new.count() > max {
                return Err(Failure::TooManyElements);
            }
        }
        Ok(pairs.pairs().filter(|(field, value)| hash.insert(field, value)).count())
    })
}
