//! Commands on lists.

use super::{Store, View};
use crate::kv::command::{Args, Command};
use crate::kv::reply::{Failure, ReplyWriter, Stop, bulk_size};
use crate::kv::value::{Kind, List, Value};

fn list(value: &Value) -> Option<&List> {
    if let Value::List(list) = value { Some(list) } else { None }
}

pub(super) fn read(
    view: &View<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::LLen { key } => {
            out.count(view.value(key, list)?.map_or(0, |list| list.items().len()));
        }
        Command::LIndex { key, index } => {
            let list = view.value(key, list)?;
            let item = list.and_then(|list| {
                let index = from_start(index, list.items().len());
                list.items().get(usize::try_from(index).ok()?)
            });
            match item {
                Some(item) => out.bulk(item)?,
                None => out.nil(),
            }
        }
        Command::LRange { key, start, stop } => {
            let Some(list) = view.value(key, list)? else { return out.array(0) };
            let len = list.items().len();
            let start = usize::try_from(from_start(start, len)).unwrap_or(0);
            let end = usize::try_from(from_start(stop, len))
                .map_or(0, |stop| stop.saturating_add(1).min(len));
            out.array(end.saturating_sub(start))?;
            if start < end {
                list.items().range(start..end).try_for_each(|item| out.bulk(item))?;
            }
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

/// An index from the start, for one that counts from the end when negative.
fn from_start(index: i64, len: usize) -> i64 {
    if index < 0 { index.saturating_add(len as i64) } else { index }
}

pub(super) fn write(
    store: &mut Store<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::Push { key, head, existing, items } => {
            if existing && store.keys.get(key, store.now_ms).is_none() {
                out.count(0);
                return Ok(());
            }
            out.count(push(store, key, head, items)?);
            Ok(())
        }
        Command::Pop { key, head, count } => pop(store, key, head, count, out),
        _ => Err(Failure::Malformed.into()),
    }
}

fn push(store: &mut Store<'_>, key: &[u8], head: bool, items: Args<'_>) -> Result<usize, Failure> {
    store.check_growth(key)?;
    items.iter().try_for_each(|item| store.check_value(item))?;
    let max = store.limits.elements_max;
    store.keys.edit_or_create(key, store.now_ms, Kind::List, |value| {
        let Value::List(list) = value else { return Err(Failure::WrongType) };
        if list.items().len() + items.len() > max {
            return Err(Failure::TooManyElements);
        }
        items.iter().for_each(|item| list.push(head, item));
        Ok(list.items().len())
    })
}

fn pop(
    store: &mut Store<'_>,
    key: &[u8],
    head: bool,
    count: Option<u32>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    let popped = store.keys.edit(key, store.now_ms, |value| -> Result<(), Stop> {
        let Value::List(list) = value else { return Err(Failure::WrongType.into()) };
        let wanted = count.map_or(1, |count| count as usize).min(list.items().len());
        let sizes = list.items().iter().map(|item| bulk_size(item.len()));
        let size = if head {
            sizes.take(wanted).sum::<usize>()
        } else {
            sizes.rev().take(wanted).sum::<usize>()
        };
        // Checked before the first is taken: a pop that cannot be answered must not happen.
        out.fits(size + bulk_size(0) + 5)?;
        if count.is_some() {
            out.array(wanted)?;
        }
        for _ in 0..wanted {
            if let Some(item) = list.pop(head) {
                out.bulk(&item)?;
            }
        }
        Ok(())
    });
    match (popped, count) {
        (Some(result), _) => result?,
        (None, Some(_)) => out.nil_array(),
        (None, None) => out.nil(),
    }
    Ok(())
}
