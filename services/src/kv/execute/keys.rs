//! Commands on keys of any type, and on the keyspace.

use super::{Store, View};
use crate::kv::command::{Command, Deadline, ExpireIf, Spelling, TtlForm};
use crate::kv::glob;
use crate::kv::keyspace::Entry;
use crate::kv::limits::SCAN_VISITED_MAX;
use crate::kv::reply::{Failure, ReplyWriter, Stop, bulk_size};
use crate::kv::value::Kind;
use crate::wire::length_size;

pub(super) fn read(
    view: &View<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::Exists { keys } => {
            let mut count = 0;
            for key in keys.iter() {
                count += usize::from(view.get(key)?.is_some());
            }
            out.count(count);
        }
        Command::Type { key } => {
            let name = view.get(key)?.map_or("none", |entry| entry.value().kind().name());
            out.status(name.as_bytes())?;
        }
        Command::Ttl { key, form } => out.integer(match view.get(key)? {
            None => -2,
            Some(entry) => remaining(view.now_ms, entry, form),
        }),
        Command::Scan { cursor, pattern, count, kind } => {
            view.whole()?;
            scan(view, &Scan { cursor, pattern, count, kind }, out)?;
        }
        Command::Keys { pattern } => {
            view.whole()?;
            if view.keys.len() > view.limits.keys_visited_max {
                return Err(Failure::TooManyKeys.into());
            }
            let mut found = Page::default();
            for (_, entry) in view.keys.walk(0) {
                if entry.is_live(view.now_ms) && glob::matches(pattern, entry.key()) {
                    out.fits(found.size + bulk_size(entry.key().len()) + 8)?;
                    found.push(entry.key());
                }
            }
            found.write(out)?;
        }
        Command::DbSize => {
            view.whole()?;
            out.count(view.keys.len());
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

fn remaining(now_ms: u64, entry: &Entry, form: TtlForm) -> i64 {
    let Some(expires_ms) = entry.expires_ms() else { return -1 };
    let millis = if form.absolute { expires_ms } else { expires_ms.saturating_sub(now_ms) };
    let value = if form.millis { millis } else { millis.saturating_add(500) / 1000 };
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Keys on their way into a reply.
#[derive(Default)]
struct Page<'a> {
    keys: Vec<&'a [u8]>,
    /// Bytes that they take in a reply.
    size: usize,
}

impl<'a> Page<'a> {
    fn push(&mut self, key: &'a [u8]) {
        self.keys.push(key);
        self.size += bulk_size(key.len());
    }

    fn write(&self, out: &mut ReplyWriter<'_>) -> Result<(), Stop> {
        out.array(self.keys.len())?;
        self.keys.iter().try_for_each(|key| out.bulk(key))
    }
}

struct Scan<'a> {
    cursor: u64,
    pattern: Option<&'a [u8]>,
    count: u32,
    kind: Option<Option<Kind>>,
}

/// One page, and the cursor of the next: the position after the last key looked at. Keys with equal
/// positions are never parted, so a key that stays is seen by every complete iteration.
fn scan(view: &View<'_>, scan: &Scan<'_>, out: &mut ReplyWriter<'_>) -> Result<(), Stop> {
    // The array, the cursor in decimal, the inner array.
    const OVERHEAD: usize = 2 + 2 + 20 + 5;
    let visits = (scan.count as usize).clamp(1, SCAN_VISITED_MAX);
    let mut page = Page::default();
    let mut last = None;
    let mut next = 0;
    for (visited, (position, entry)) in view.keys.walk(scan.cursor).enumerate() {
        let new = last != Some(position);
        if new && visited >= visits {
            next = position;
            break;
        }
        last = Some(position);
        let wanted = entry.is_live(view.now_ms)
            && scan.kind.is_none_or(|kind| kind == Some(entry.value().kind()))
            && scan.pattern.is_none_or(|pattern| glob::matches(pattern, entry.key()));
        if !wanted {
            continue;
        }
        let size = OVERHEAD + length_size(page.size) + page.size + bulk_size(entry.key().len());
        if out.fits(size).is_err() && new && !page.keys.is_empty() {
            next = position;
            break;
        }
        page.push(entry.key());
    }
    out.array(2)?;
    // Never zero except at the end: a later position is larger than the first.
    out.bulk(next.to_string().as_bytes())?;
    page.write(out)
}

pub(super) fn write(
    store: &mut Store<'_>,
    command: &Command<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), Stop> {
    match *command {
        Command::Del { keys } => {
            let now_ms = store.now_ms;
            out.count(keys.iter().filter(|key| store.keys.remove(key, now_ms)).count());
        }
        Command::Expire { key, deadline, condition, spelling } => {
            let expires = expire(store, key, deadline, condition, spelling)?;
            out.integer(i64::from(expires));
        }
        Command::Persist { key } => {
            let entry = store.keys.get(key, store.now_ms);
            let expires = entry.is_some_and(|entry| entry.expires_ms().is_some());
            if expires {
                store.keys.set_expiry(key, None);
            }
            out.integer(i64::from(expires));
        }
        Command::Flush => {
            store.keys.clear();
            out.ok();
        }
        _ => return Err(Failure::Malformed.into()),
    }
    Ok(())
}

fn expire(
    store: &mut Store<'_>,
    key: &[u8],
    deadline: Deadline,
    condition: ExpireIf,
    spelling: Spelling,
) -> Result<bool, Failure> {
    let failure = Failure::ExpireTime(spelling);
    let now = i64::try_from(store.now_ms).map_err(|_| failure)?;
    let at = match deadline {
        Deadline::In(millis) => millis.checked_add(now).ok_or(failure)?,
        Deadline::At(millis) => millis,
    };
    let Some(entry) = store.keys.get(key, store.now_ms) else { return Ok(false) };
    let current = entry.expires_ms().map(|current| i64::try_from(current).unwrap_or(i64::MAX));
    let wanted = match condition {
        ExpireIf::Always => true,
        ExpireIf::Absent => current.is_none(),
        ExpireIf::Present => current.is_some(),
        ExpireIf::Later => current.is_some_and(|current| at > current),
        ExpireIf::Earlier => current.is_none_or(|current| at < current),
        ExpireIf::PresentEarlier => current.is_some_and(|current| at < current),
    };
    if !wanted {
        return Ok(false);
    }
    match u64::try_from(at) {
        Ok(at) if at > store.now_ms => store.keys.set_expiry(key, Some(at)),
        // In the past: the key goes at once.
        _ => {
            store.keys.remove(key, store.now_ms);
        }
    }
    Ok(true)
}
