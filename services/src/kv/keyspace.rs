//! The keys: found by hash, walked in hash order, expired by the cluster's time.
//!
//! Always true: the order of a walk is a function of the keys present and of the seed, never of
//! history or of table sizes, so a cursor of SCAN stays good while keys come and go; an expired key
//! is invisible to every reader whether or not it was removed yet. Must not: read a clock.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::siphash::siphash;
use super::text_value::Text;
use super::value::{Kind, Value};

/// Bits of a key's position. A cursor is a position, and clients that hold numbers as double
/// precision floats must be able to give it back.
const POSITION_BITS: u32 = 52;
/// Parts of the keyspace that have a digest of their own: a batch dirties few of them.
pub(super) const SHARDS: usize = 4096;
const SHARD_SHIFT: u32 = POSITION_BITS - SHARDS.trailing_zeros();

/// Bytes that a key weighs beside its name and value.
const KEY_OVERHEAD: usize = 96;

/// `expires_ms` of a key that does not expire.
const NEVER: u64 = u64::MAX;

/// One key.
#[derive(Clone, Debug)]
pub struct Entry {
    key: Text,
    value: Value,
    /// Visible up to and including this millisecond.
    expires_ms: u64,
    /// The next larger key with the same position. Almost always none.
    next: Option<Box<Entry>>,
}

impl Entry {
    /// The name.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What it holds.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The last millisecond at which it is visible, if it expires.
    pub fn expires_ms(&self) -> Option<u64> {
        (self.expires_ms != NEVER).then_some(self.expires_ms)
    }

    /// Is it visible at this time?
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.expires_ms >= now_ms
    }

    fn weight(&self) -> usize {
        KEY_OVERHEAD + self.key.len() + self.value.weight()
    }
}

/// What a write does to a key's expiry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// Leaves it.
    Keep,
    /// Removes it.
    Clear,
    /// Sets it to this millisecond.
    At(u64),
}

/// The keys of a shard, by position. Boxed, so that a search touches little memory.
type Entries = BTreeMap<u64, Box<Entry>>;

#[derive(Clone, Default, Debug)]
struct Shard {
    entries: Entries,
    /// Changed since its digest was taken.
    dirty: Cell<bool>,
}

/// A walk over the keys as they were when it began, in steps between which they change.
#[derive(Clone, Debug)]
struct Walk {
    /// The next shard.
    next: usize,
    /// Shards from there on that have changed since, as they were.
    aside: BTreeMap<usize, Entries>,
}

/// All keys.
#[derive(Clone, Debug)]
pub struct Keyspace {
    seed: [u64; 2],
    mask: u64,
    shards: Vec<Shard>,
    /// Which shards have keys, one bit each.
    occupied: [u64; SHARDS / 64],
    /// (time, key) of every key that expires.
    volatile: BTreeSet<(u64, Box<[u8]>)>,
    len: usize,
    weight: usize,
    /// For a snapshot that is being written.
    walk: Option<Walk>,
}

impl Keyspace {
    /// No keys. The seed must be the same on all replicas of a cluster, and is best not known to
    /// its clients.
    pub fn new(seed: [u64; 2]) -> Self {
        Self {
            seed,
            mask: (1 << POSITION_BITS) - 1,
            shards: vec![Shard { entries: BTreeMap::new(), dirty: Cell::new(true) }; SHARDS],
            occupied: [0; SHARDS / 64],
            volatile: BTreeSet::new(),
            len: 0,
            weight: 0,
            walk: None,
        }
    }

    /// Keys, including those that expired and were not removed yet.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Are there no keys?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that count against `state_size_max`.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Does any key expire? Then what a walk sees depends on the time.
    pub fn has_volatile(&self) -> bool {
        !self.volatile.is_empty()
    }

    /// A key's place in the order of a walk.
    pub fn position(&self, key: &[u8]) -> u64 {
        siphash::<1, 3>(self.seed, key) & self.mask
    }

    /// A visible key.
    pub fn get(&self, key: &[u8], now_ms: u64) -> Option<&Entry> {
        let position = self.position(key);
        let mut entry = &**self.shards[shard_of(position)].entries.get(&position)?;
        while *entry.key != *key {
            entry = entry.next.as_deref()?;
        }
        entry.is_live(now_ms).then_some(entry)
    }

    /// Lets `change` alter the value of a visible key. A collection that is empty afterwards is
    /// removed. `None` when there is no such key.
    pub fn edit<R>(
        &mut self,
        key: &[u8],
        now_ms: u64,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        let position = self.position(key);
        self.put_aside(shard_of(position));
        let shard = &mut self.shards[shard_of(position)];
        let entry = find(&mut shard.entries, position, key)?;
        if !entry.is_live(now_ms) {
            self.take(position, key);
            return None;
        }
        let before = entry.value.weight();
        let result = change(&mut entry.value);
        let vanished = entry.value.is_vanished();
        self.weight = self.weight - before + entry.value.weight();
        shard.dirty.set(true);
        if vanished {
            self.take(position, key);
        }
        Some(result)
    }

    /// As [`Keyspace::edit`]; a key that does not exist starts as an empty value of `kind`.
    pub fn edit_or_create<R>(
        &mut self,
        key: &[u8],
        now_ms: u64,
        kind: Kind,
        change: impl FnOnce(&mut Value) -> R,
    ) -> R {
        let mut change = Some(change);
        let edited = self.edit(key, now_ms, |value| change.take().map(|change| change(value)));
        if let Some(Some(result)) = edited {
            return result;
        }
        let change = change.take().expect("a key that is not there was not edited");
        let mut value = Value::empty(kind);
        let result = change(&mut value);
        if !value.is_vanished() {
            self.insert(Entry { key: Text::new(key), value, expires_ms: NEVER, next: None });
        }
        result
    }

    /// Makes `key` a string, whatever it was.
    pub fn set_string(&mut self, key: &[u8], now_ms: u64, bytes: &[u8], expiry: Expiry) {
        let position = self.position(key);
        self.put_aside(shard_of(position));
        let shard = &mut self.shards[shard_of(position)];
        let Some(entry) = find(&mut shard.entries, position, key) else {
            let expires_ms = if let Expiry::At(at) = expiry { at } else { NEVER };
            let value = Value::String(Text::new(bytes));
            self.insert(Entry { key: Text::new(key), value, expires_ms, next: None });
            return;
        };
        shard.dirty.set(true);
        let before = entry.value.weight();
        match &mut entry.value {
            Value::String(old) => old.set(bytes),
            value => *value = Value::String(Text::new(bytes)),
        }
        let old = entry.expires_ms;
        let new = match expiry {
            Expiry::Keep if entry.is_live(now_ms) => old,
            Expiry::Keep | Expiry::Clear => NEVER,
            Expiry::At(at) => at,
        };
        entry.expires_ms = new;
        self.weight = self.weight - before + bytes.len();
        self.move_expiry(key, old, new);
    }

    /// Changes when a visible key expires. The caller has seen that it exists.
    pub fn set_expiry(&mut self, key: &[u8], expires_ms: Option<u64>) {
        let position = self.position(key);
        self.put_aside(shard_of(position));
        let shard = &mut self.shards[shard_of(position)];
        let Some(entry) = find(&mut shard.entries, position, key) else { return };
        shard.dirty.set(true);
        let old = entry.expires_ms;
        entry.expires_ms = expires_ms.unwrap_or(NEVER);
        let new = entry.expires_ms;
        self.move_expiry(key, old, new);
    }

    /// Removes a key and says whether it was visible.
    pub fn remove(&mut self, key: &[u8], now_ms: u64) -> bool {
        let position = self.position(key);
        self.take(position, key).is_some_and(|entry| entry.is_live(now_ms))
    }

    /// Removes every key.
    pub fn clear(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if shard.entries.is_empty() {
                continue;
            }
            let entries = std::mem::take(&mut shard.entries);
            shard.dirty.set(true);
            // Nothing is copied: the walk takes them over.
            if let Some(walk) = self.walk.as_mut().filter(|walk| index >= walk.next) {
                walk.aside.entry(index).or_insert(entries);
            }
        }
        self.occupied = [0; SHARDS / 64];
        self.volatile.clear();
        self.len = 0;
        self.weight = 0;
    }

    /// Removes at most `max` keys that are no longer visible, oldest first.
    pub fn expire(&mut self, now_ms: u64, max: usize) {
        for _ in 0..max {
            match self.volatile.first() {
                Some((at, _)) if *at < now_ms => {}
                _ => return,
            }
            let Some((_, key)) = self.volatile.pop_first() else { return };
            let position = self.position(&key);
            self.take(position, &key);
        }
    }

    /// The keys from `position` on, in order, visible or not.
    pub fn walk(&self, position: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let first = shard_of(position.min(self.mask));
        let rest = (first + 1..SHARDS).filter(|&shard| self.is_occupied(shard));
        std::iter::once(first)
            .chain(rest)
            .flat_map(move |shard| self.shards[shard].entries.range(position..))
            .flat_map(|(&position, entry)| {
                std::iter::successors(Some(&**entry), |entry| entry.next.as_deref())
                    .map(move |entry| (position, entry))
            })
    }

    /// The keys of one shard, in order.
    pub(super) fn shard(&self, shard: usize) -> impl Iterator<Item = &Entry> {
        entries(&self.shards[shard].entries)
    }

    /// Begins a walk over the keys as they are now.
    pub(super) fn begin_walk(&mut self) {
        self.walk = Some(Walk { next: 0, aside: BTreeMap::new() });
    }

    /// The next shard of the walk that was begun, in the order of [`Keyspace::walk`]: calls `each` for its
    /// keys as they were then. `false`: there is none left.
    pub(super) fn walk_on(&mut self, each: &mut dyn FnMut(&Entry)) -> bool {
        let Some(walk) = &mut self.walk else { return false };
        let Some(shard) = self.shards.get(walk.next) else {
            self.walk = None;
            return false;
        };
        let aside = walk.aside.remove(&walk.next);
        entries(aside.as_ref().unwrap_or(&shard.entries)).for_each(each);
        walk.next += 1;
        true
    }

    /// This shard is about to change: a walk that has not come to it needs it as it is.
    #[inline]
    fn put_aside(&mut self, index: usize) {
        if let Some(walk) = &mut self.walk
            && index >= walk.next
        {
            let shard = &self.shards[index];
            walk.aside.entry(index).or_insert_with(|| shard.entries.clone());
        }
    }

    /// Which shards changed since the last call.
    pub(super) fn take_dirty(&self) -> impl Iterator<Item = usize> + '_ {
        self.shards
            .iter()
            .enumerate()
            .filter_map(|(index, shard)| shard.dirty.take().then_some(index))
    }

    /// Adds a key of a snapshot.
    pub(super) fn restore(&mut self, key: &[u8], value: Value, expires_ms: Option<u64>) {
        let expires_ms = expires_ms.unwrap_or(NEVER);
        self.insert(Entry { key: Text::new(key), value, expires_ms, next: None });
    }

    fn is_occupied(&self, shard: usize) -> bool {
        self.occupied[shard / 64] & (1 << (shard % 64)) != 0
    }

    fn move_expiry(&mut self, key: &[u8], old: u64, new: u64) {
        if old == new {
            return;
        }
        let name: Box<[u8]> = key.into();
        if old != NEVER {
            let pair = (old, name);
            self.volatile.remove(&pair);
            if new != NEVER {
                self.volatile.insert((new, pair.1));
            }
        } else {
            self.volatile.insert((new, name));
        }
    }

    /// Adds a key that is not there.
    fn insert(&mut self, mut entry: Entry) {
        let position = self.position(&entry.key);
        let index = shard_of(position);
        self.put_aside(index);
        self.len += 1;
        self.weight += entry.weight();
        if entry.expires_ms != NEVER {
            self.volatile.insert((entry.expires_ms, (&*entry.key).into()));
        }
        self.occupied[index / 64] |= 1 << (index % 64);
        let shard = &mut self.shards[index];
        shard.dirty.set(true);
        let Some(first) = shard.entries.get_mut(&position) else {
            shard.entries.insert(position, Box::new(entry));
            return;
        };
        if *entry.key < *first.key {
            let second = std::mem::replace(&mut **first, entry);
            first.next = Some(Box::new(second));
            return;
        }
        let mut link = &mut first.next;
        while link.as_ref().is_some_and(|next| *next.key < *entry.key) {
            link = &mut link.as_mut().expect("it was there a line above").next;
        }
        entry.next = link.take();
        *link = Some(Box::new(entry));
    }

    /// Takes a key out, visible or not.
    fn take(&mut self, position: u64, key: &[u8]) -> Option<Entry> {
        let index = shard_of(position);
        self.put_aside(index);
        let shard = &mut self.shards[index];
        let first = shard.entries.get_mut(&position)?;
        let taken = if *first.key == *key {
            match first.next.take() {
                Some(next) => std::mem::replace(&mut **first, *next),
                None => *shard.entries.remove(&position)?,
            }
        } else {
            let mut link = &mut first.next;
            while link.as_ref().is_some_and(|next| *next.key != *key) {
                link = &mut link.as_mut().expect("it was there a line above").next;
            }
            let mut taken = link.take()?;
            *link = taken.next.take();
            *taken
        };
        shard.dirty.set(true);
        if shard.entries.is_empty() {
            self.occupied[index / 64] &= !(1 << (index % 64));
        }
        self.len -= 1;
        self.weight -= taken.weight();
        if taken.expires_ms != NEVER {
            // `expire` has taken its own already.
            self.volatile.remove(&(taken.expires_ms, (&*taken.key).into()));
        }
        Some(taken)
    }

    /// Makes positions collide, to test what happens then.
    #[cfg(test)]
    pub(super) fn with_positions(seed: [u64; 2], mask: u64) -> Self {
        Self { mask, ..Self::new(seed) }
    }
}

/// The keys of a shard, in order.
fn entries(entries: &Entries) -> impl Iterator<Item = &Entry> {
    entries
        .values()
        .flat_map(|entry| std::iter::successors(Some(&**entry), |entry| entry.next.as_deref()))
}

fn shard_of(position: u64) -> usize {
    (position >> SHARD_SHIFT) as usize
}

fn find<'a>(
    entries: &'a mut BTreeMap<u64, Box<Entry>>,
    position: u64,
    key: &[u8],
) -> Option<&'a mut Entry> {
    let mut entry = &mut **entries.get_mut(&position)?;
    while *entry.key != *key {
        entry = entry.next.as_deref_mut()?;
    }
    Some(entry)
}

#[cfg(test)]
mod tests;
