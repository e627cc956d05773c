//! Commands on sets.

use super::{Store, View};
use crate::kv::command::{Args, Command};
use crate::kv::reply::{Failure, ReplyWriter, Stop};
use crate::kv::value::{Kind, Set, Value};

fn set(value: &Value) -> Option<&Set> {
    if let Value::Set(set) = value { Some(set) } else { None }
}

pub(super) fn read(
    view: &View<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::SMembers { key } => {
            let set = view.value(key, set)?;
            out.set(set.map_or(0, |set| set.members().len()))?;
            set.iter().flat_map(|set| set.members()).try_for_each(|member| out.bulk(member))?;
        }
        Command::SIsMember { key, member } => {
            let set = view.value(key, set)?;
            out.integer(i64::from(set.is_some_and(|set| set.members().contains(member))));
        }
        Command::SMIsMember { key, members } => {
            let set = view.value(key, set)?;
            out.array(members.len())?;
            for member in members.iter() {
                out.fits(9)?;
                out.integer(i64::from(set.is_some_and(|set| set.members().contains(member))));
            }
        }
        Command::SCard { key } => {
            out.count(view.value(key, set)?.map_or(0, |set| set.members().len()));
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

pub(super) fn add(
    store: &mut Store<'_>,
    key: &[u8],
    members: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    store.check_growth(key)?;
    members.iter().try_for_each(|member| store.check_value(member))?;
    let max = store.limits.elements_max;
    let added = store.keys.edit_or_create(key, store.now_ms, Kind::Set, |value| {
        let Value::Set(set) = value else { return Err(Failure::WrongType) };
        let len = set.members().len();
        if len + members.len() > max {
            let new = members.iter().filter(|member| !set.members().contains(*member));
            if len + new.count() > max {
                return Err(Failure::TooManyElements);
            }
        }
        Ok(members.iter().filter(|member| set.insert(member)).count())
    })?;
    out.count(added);
    Ok(())
}

pub(super) fn remove(
    store: &mut Store<'_>,
    key: &[u8],
    members: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    store.check_kind(key, Kind::Set)?;
    let removed = store.keys.edit(key, store.now_ms, |value| {
        let Value::Set(set) = value else { return 0 };
        members.iter().filter(|member| set.remove(member)).count()
    });
    out.count(removed.unwrap_or(0));
    Ok(())
}
