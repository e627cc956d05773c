//! BFTMapList: a map from strings to lists of strings (J. Sousa, "Byzantine State Machine
//! Replication for the Masses", 2018, section 4.5.3).
//!
//! Always true: the digest depends on the content alone; a request that fails has changed nothing.

mod op;

use std::cell::RefCell;
use std::collections::BTreeMap;

use tetrarch_consensus::limits::OPERATION_SIZE_MAX;
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};

use crate::stream::{StreamReader, StreamWriter};
use crate::wire::{put_length, put_string, string_size};

pub use op::{Answer, Operation};

const MAGIC: [u8; 8] = *b"tetrmap1";
/// Bytes that an entry weighs beside its content.
const ENTRY_OVERHEAD: usize = 64;
/// Parts of the map with a digest of their own, chosen by the first byte of the key's hash.
const SHARDS: usize = 256;

/// The limits. Every replica of a cluster must use the same ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapListLimits {
    /// Bytes of a key or an entry.
    pub string_size_max: usize,
    /// Entries of one list.
    pub entries_max: usize,
    /// Bytes of all keys and entries, with a fixed overhead for each.
    pub state_size_max: usize,
}

impl Default for MapListLimits {
    fn default() -> Self {
        Self { string_size_max: 64 * 1024, entries_max: 1 << 20, state_size_max: 1 << 31 }
    }
}

/// Checks operations without a map.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapListValidator;

impl RequestValidator for MapListValidator {
    fn valid(&self, operation: &[u8]) -> bool {
        Operation::parse(operation).is_ok()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Shard {
    lists: BTreeMap<Box<[u8]>, Vec<Box<[u8]>>>,
    /// Changed since its digest was taken.
    dirty: std::cell::Cell<bool>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    shards: Vec<Shard>,
    len: usize,
    weight: usize,
}

/// The service.
#[derive(Debug)]
pub struct MapListService {
    limits: MapListLimits,
    state: State,
    scratch: RefCell<Vec<u8>>,
    digests: RefCell<Vec<[u8; 32]>>,
}

impl MapListService {
    /// An empty map.
    pub fn new(limits: MapListLimits) -> Self {
        Self {
            limits,
            state: State::new(),
            scratch: RefCell::new(Vec::with_capacity(OPERATION_SIZE_MAX)),
            digests: RefCell::new(vec![[0; 32]; SHARDS]),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.state.len
    }

    /// Are there no keys?
    pub fn is_empty(&self) -> bool {
        self.state.len == 0
    }

    fn preamble(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for limit in
            [self.limits.string_size_max, self.limits.entries_max, self.limits.state_size_max]
        {
            out.extend_from_slice(&(limit as u64).to_le_bytes());
        }
        out
    }
}

impl StateMachine for MapListService {
    fn execute(
        &mut self,
        _context: &Context,
        request: &RequestView<'_>,
        replies: &mut dyn Replies,
    ) {
        let scratch = self.scratch.get_mut();
        scratch.clear();
        match Operation::parse(request.operation) {
            Ok(operation) if operation.is_read_only() => self.state.read(&operation, scratch),
            Ok(operation) => self.state.write(&self.limits, &operation).write(scratch),
            Err(_) => Answer::Malformed.write(scratch),
        }
        replies.reply(request.client, scratch.len()).copy_from_slice(scratch);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let scratch = &mut *self.scratch.borrow_mut();
        scratch.clear();
        match Operation::parse(request.operation) {
            Ok(operation) if operation.is_read_only() => self.state.read(&operation, scratch),
            _ => Answer::Malformed.write(scratch),
        }
        replies.reply(request.client, scratch.len()).copy_from_slice(scratch);
    }

    fn digest(&self) -> Digest {
        let digests = &mut *self.digests.borrow_mut();
        for (shard, digest) in self.state.shards.iter().zip(digests.iter_mut()) {
            if !shard.dirty.take() {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            for (key, list) in &shard.lists {
                write_list(key, list, &mut |bytes| {
                    hasher.update(bytes);
                });
            }
            *digest = *hasher.finalize().as_bytes();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.preamble());
        hasher.update(digests.as_flattened());
        Digest(*hasher.finalize().as_bytes())
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        let mut writer = StreamWriter::new(out);
        writer.bytes(&self.preamble());
        writer.u64(self.state.len as u64);
        for shard in &self.state.shards {
            for (key, list) in &shard.lists {
                write_list(key, list, &mut |bytes| writer.bytes(bytes));
            }
        }
        writer.finish();
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let mut reader = StreamReader::new(read);
        let mut found = self.preamble();
        reader.exact(&mut found)?;
        if found != self.preamble() {
            return Err(BadSnapshot);
        }
        let mut state = State::new();
        let mut last: Option<(usize, Vec<u8>)> = None;
        for _ in 0..reader.count(usize::MAX)? {
            let key = reader.string(self.limits.string_size_max)?;
            let place = (shard_of(&key), key);
            if last.as_ref().is_some_and(|last| *last >= place) {
                return Err(BadSnapshot);
            }
            let count = reader.count(self.limits.entries_max)?;
            let list = (0..count)
                .map(|_| reader.string(self.limits.string_size_max).map(Vec::into_boxed_slice));
            let list = list.collect::<Result<Vec<_>, _>>()?;
            state.put(&place.1, list);
            last = Some(place);
        }
        reader.end()?;
        self.state = state;
        Ok(())
    }
}

fn write_list(key: &[u8], list: &[Box<[u8]>], out: &mut dyn FnMut(&[u8])) {
    out(&(key.len() as u64).to_le_bytes());
    out(key);
    out(&(list.len() as u64).to_le_bytes());
    for entry in list {
        out(&(entry.len() as u64).to_le_bytes());
        out(entry);
    }
}

/// The part of the map that a key belongs to. BLAKE3 because nobody can aim at a part cheaply, and
/// the cost is small beside ordering a request.
fn shard_of(key: &[u8]) -> usize {
    usize::from(blake3::hash(key).as_bytes()[0])
}

fn weight(list: &[Box<[u8]>]) -> usize {
    list.iter().map(|entry| entry.len() + ENTRY_OVERHEAD).sum()
}

impl State {
    fn new() -> Self {
        let shard = Shard { lists: BTreeMap::new(), dirty: std::cell::Cell::new(true) };
        Self { shards: vec![shard; SHARDS], len: 0, weight: 0 }
    }

    fn list(&self, key: &[u8]) -> Option<&Vec<Box<[u8]>>> {
        self.shards[shard_of(key)].lists.get(key)
    }

    /// Sets a list and says whether there was one.
    fn put(&mut self, key: &[u8], list: Vec<Box<[u8]>>) -> bool {
        let shard = &mut self.shards[shard_of(key)];
        shard.dirty.set(true);
        self.weight += weight(&list);
        if let Some(old) = shard.lists.get_mut(key) {
            self.weight -= weight(old);
            *old = list;
            return true;
        }
        self.weight += key.len() + ENTRY_OVERHEAD;
        self.len += 1;
        shard.lists.insert(key.into(), list);
        false
    }

    fn write(&mut self, limits: &MapListLimits, operation: &Operation<'_>) -> Answer<'static> {
        match *operation {
            Operation::Put { key, entries } => {
                let long = |bytes: &[u8]| bytes.len() > limits.string_size_max;
                if long(key) || entries.len() > limits.entries_max || entries.iter().any(long) {
                    return Answer::TooLarge;
                }
                if self.weight >= limits.state_size_max {
                    return Answer::Full;
                }
                Answer::Flag(self.put(key, entries.iter().map(Into::into).collect()))
            }
            Operation::PutEntry { key, entry } => {
                if key.len().max(entry.len()) > limits.string_size_max {
                    return Answer::TooLarge;
                }
                if self.weight >= limits.state_size_max {
                    return Answer::Full;
                }
                let shard = &mut self.shards[shard_of(key)];
                let Some(list) = shard.lists.get_mut(key) else { return Answer::Flag(false) };
                if list.len() >= limits.entries_max {
                    return Answer::TooLarge;
                }
                shard.dirty.set(true);
                self.weight += entry.len() + ENTRY_OVERHEAD;
                list.push(entry.into());
                Answer::Flag(true)
            }
            Operation::Remove { key } => {
                let shard = &mut self.shards[shard_of(key)];
                let Some(list) = shard.lists.remove(key) else { return Answer::Flag(false) };
                shard.dirty.set(true);
                self.weight -= weight(&list) + key.len() + ENTRY_OVERHEAD;
                self.len -= 1;
                Answer::Flag(true)
            }
            _ => Answer::Malformed,
        }
    }

    fn read(&self, operation: &Operation<'_>, out: &mut Vec<u8>) {
        match *operation {
            Operation::Size => Answer::Number(self.len as u64).write(out),
            Operation::ContainsKey { key } => Answer::Flag(self.list(key).is_some()).write(out),
            Operation::Get { key } => {
                let Some(list) = self.list(key) else { return Answer::Absent.write(out) };
                let size = list.iter().map(|entry| string_size(entry.len())).sum::<usize>();
                if size + 8 > OPERATION_SIZE_MAX {
                    return Answer::TooLarge.write(out);
                }
                out.push(op::LIST);
                put_length(out, list.len());
                list.iter().for_each(|entry| put_string(out, entry));
            }
            _ => Answer::Malformed.write(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::command::Args;
    use crate::testing::{Cell, check_snapshot};
    use proptest::prelude::*;

    fn run(cell: &mut Cell<MapListService>, operation: &Operation<'_>) -> Answer<'static> {
        let mut bytes = Vec::new();
        operation.write(&mut bytes);
        assert!(MapListValidator.valid(&bytes));
        let reply = cell.execute(1, &bytes);
        if operation.is_read_only() {
            assert_eq!(cell.query(1, &bytes), reply);
        }
        match Answer::parse(&reply).expect("well-formed") {
            Answer::List(list) => Answer::Number(list.len() as u64),
            Answer::Flag(flag) => Answer::Flag(flag),
            Answer::Number(number) => Answer::Number(number),
            Answer::Absent => Answer::Absent,
            Answer::TooLarge => Answer::TooLarge,
            Answer::Full => Answer::Full,
            Answer::Malformed => Answer::Malformed,
        }
    }

    #[test]
    fn behaves_as_the_thesis_says() {
        let mut cell = Cell::new(MapListService::new(MapListLimits::default()));
        let entries = Args::Words(&[b"a", b"b"]);
        assert_eq!(run(&mut cell, &Operation::Size), Answer::Number(0));
        let put = Operation::Put { key: b"k", entries };
        assert_eq!(run(&mut cell, &put), Answer::Flag(false));
        assert_eq!(run(&mut cell, &put), Answer::Flag(true));
        let more = Operation::PutEntry { key: b"k", entry: b"c" };
        assert_eq!(run(&mut cell, &more), Answer::Flag(true));
        assert_eq!(run(&mut cell, &Operation::Get { key: b"k" }), Answer::Number(3));
        assert_eq!(run(&mut cell, &Operation::ContainsKey { key: b"k" }), Answer::Flag(true));
        let nowhere = Operation::PutEntry { key: b"x", entry: b"c" };
        assert_eq!(run(&mut cell, &nowhere), Answer::Flag(false));
        assert_eq!(run(&mut cell, &Operation::Get { key: b"x" }), Answer::Absent);
        check_snapshot(&cell.service, &mut MapListService::new(MapListLimits::default()));
        assert_eq!(run(&mut cell, &Operation::Remove { key: b"k" }), Answer::Flag(true));
        assert_eq!(run(&mut cell, &Operation::Remove { key: b"k" }), Answer::Flag(false));
        assert_eq!(run(&mut cell, &Operation::Size), Answer::Number(0));
        assert_eq!(cell.service.state.weight, 0);
        let empty = MapListService::new(MapListLimits::default());
        assert_eq!(cell.service.digest(), empty.digest(), "no trace of its history");
    }

    #[test]
    fn limits_are_kept() {
        let limits = MapListLimits {
            string_size_max: 4,
            entries_max: 2,
            state_size_max: 3 * ENTRY_OVERHEAD,
        };
        let mut cell = Cell::new(MapListService::new(limits));
        let long = Operation::Put { key: b"12345", entries: Args::Words(&[]) };
        assert_eq!(run(&mut cell, &long), Answer::TooLarge);
        let many = Operation::Put { key: b"k", entries: Args::Words(&[b"1", b"2", b"3"]) };
        assert_eq!(run(&mut cell, &many), Answer::TooLarge);
        let two = Operation::Put { key: b"k", entries: Args::Words(&[b"1", b"2"]) };
        assert_eq!(run(&mut cell, &two), Answer::Flag(false));
        assert_eq!(run(&mut cell, &Operation::PutEntry { key: b"k", entry: b"" }), Answer::Full);
        assert_eq!(run(&mut cell, &Operation::Remove { key: b"k" }), Answer::Flag(true));
    }

    proptest! {
        #[test]
        fn any_operation_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut cell = Cell::new(MapListService::new(MapListLimits::default()));
            prop_assert!(Answer::parse(&cell.execute(1, &bytes)).is_ok());
            prop_assert!(Answer::parse(&cell.query(1, &bytes)).is_ok());
        }

        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0..5u8, 0..6u8), 0..80)) {
            let mut cell = Cell::new(MapListService::new(MapListLimits::default()));
            let mut model: BTreeMap<u8, usize> = BTreeMap::new();
            for (what, key) in steps {
                let name = &[key][..];
                match what {
                    0 => {
                        let entries = Args::Words(&[b"x"]);
                        let was = model.insert(key, 1).is_some();
                        let put = Operation::Put { key: name, entries };
                        prop_assert_eq!(run(&mut cell, &put), Answer::Flag(was));
                    }
                    1 => {
                        let was = model.remove(&key).is_some();
                        let remove = Operation::Remove { key: name };
                        prop_assert_eq!(run(&mut cell, &remove), Answer::Flag(was));
                    }
                    2 => {
                        let entry = Operation::PutEntry { key: name, entry: b"yy" };
                        let was = model.get_mut(&key).map(|count| *count += 1).is_some();
                        prop_assert_eq!(run(&mut cell, &entry), Answer::Flag(was));
                    }
                    3 => {
                        let get = run(&mut cell, &Operation::Get { key: name });
                        let expected = model
                            .get(&key)
                            .map_or(Answer::Absent, |&count| Answer::Number(count as u64));
                        prop_assert_eq!(get, expected);
                    }
                    _ => {
                        let size = run(&mut cell, &Operation::Size);
                        prop_assert_eq!(size, Answer::Number(model.len() as u64));
                    }
                }
            }
        }
    }
}
