//! The store as bytes, and its digest.
//!
//! Always true: equal states give equal bytes, whatever their history; bytes that are not exactly
//! what [`write`] would have written for some state are refused.

use tetrarch_consensus::{BadSnapshot, Digest};

use super::keyspace::{Entry, Keyspace, SHARDS};
use super::limits::Limits;
use super::text_value::Text;
use super::value::{Kind, Value};
use super::{KvConfig, State};
use crate::stream::{StreamReader, StreamWriter};
use crate::wire::put_length;

const MAGIC: [u8; 8] = *b"tetrkv01";
/// `expires_ms` of a key that does not expire.
const NEVER: u64 = u64::MAX;
/// Sessions that can be skipping at a time: far more than a cluster has.
const SKIPPING_MAX: usize = 1 << 24;

/// Writes configuration and state.
pub(super) fn write(config: &KvConfig, state: &State, out: &mut dyn FnMut(&[u8])) {
    let mut writer = StreamWriter::new(out);
    writer.bytes(&before_keys(config, state));
    for (_, entry) in state.keys.walk(0) {
        write_entry(entry, &mut |bytes| writer.bytes(bytes));
    }
    writer.finish();
}

/// Begins a snapshot of `state` as it is now. What comes before the keys is returned.
pub(super) fn begin(config: &KvConfig, state: &mut State) -> Vec<u8> {
    state.keys.begin_walk();
    before_keys(config, state)
}

/// Writes keys of a snapshot that was begun: whole shards, until there are `size` bytes. `true`: there are
/// no more.
pub(super) fn continue_keys(state: &mut State, size: usize, out: &mut dyn FnMut(&[u8])) -> bool {
    let mut written = 0;
    let mut writer = StreamWriter::new(out);
    let mut more = true;
    while more && written < size {
        more = state.keys.walk_on(&mut |entry| {
            write_entry(entry, &mut |bytes| {
                written += bytes.len();
                writer.bytes(bytes);
            });
        });
        // A shard without keys takes time, too.
        written += 16;
    }
    writer.finish();
    !more
}

fn before_keys(config: &KvConfig, state: &State) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_preamble(config, state, &mut bytes);
    bytes.extend_from_slice(&(state.keys.len() as u64).to_le_bytes());
    bytes
}

/// Reads a state that was written with the same configuration.
pub(super) fn read(
    config: &KvConfig,
    read: &mut dyn FnMut(&mut [u8]) -> usize,
) -> Result<State, BadSnapshot> {
    let mut reader = StreamReader::new(read);
    let mut expected = MAGIC.to_vec();
    put_config(config, &mut expected);
    let mut found = vec![0; expected.len()];
    reader.exact(&mut found)?;
    if found != expected {
        return Err(BadSnapshot);
    }
    let mut state = State::new(config);
    state.now_ns = reader.u64()?;
    let mut last = None;
    for _ in 0..reader.count(SKIPPING_MAX)? {
        let client = reader.u64()?;
        if last.is_some_and(|last| last >= client) {
            return Err(BadSnapshot);
        }
        last = Some(client);
        state.skipping.insert(client, u16::from_le_bytes(reader.array()?));
    }
    let mut last: Option<(u64, Vec<u8>)> = None;
    for _ in 0..reader.count(usize::MAX)? {
        let (key, value, expires_ms) = read_entry(&mut reader, &config.limits)?;
        let place = (state.keys.position(&key), key);
        if last.as_ref().is_some_and(|last| *last >= place) {
            return Err(BadSnapshot);
        }
        state.keys.restore(&place.1, value, expires_ms);
        last = Some(place);
    }
    reader.end()?;
    Ok(state)
}

/// The digest of a state: of everything that a snapshot holds, shard by shard. Only shards that
/// changed since the last call are hashed again; `shards` keeps the digests of the others.
pub(super) fn digest(config: &KvConfig, state: &State, shards: &mut Vec<[u8; 32]>) -> Digest {
    shards.resize(SHARDS, [0; 32]);
    for index in state.keys.take_dirty() {
        let mut hasher = blake3::Hasher::new();
        // Joined to pieces that are worth a call.
        let mut buffer = Vec::new();
        for entry in state.keys.shard(index) {
            write_entry(entry, &mut |bytes| buffer.extend_from_slice(bytes));
            if buffer.len() >= 16 * 1024 {
                hasher.update(&buffer);
                buffer.clear();
            }
        }
        hasher.update(&buffer);
        shards[index] = *hasher.finalize().as_bytes();
    }
    let mut preamble = Vec::new();
    put_preamble(config, state, &mut preamble);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&preamble);
    hasher.update(shards.as_flattened());
    Digest(*hasher.finalize().as_bytes())
}

fn put_preamble(config: &KvConfig, state: &State, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    put_config(config, out);
    out.extend_from_slice(&state.now_ns.to_le_bytes());
    out.extend_from_slice(&(state.skipping.len() as u64).to_le_bytes());
    for (client, attempt) in &state.skipping {
        out.extend_from_slice(&client.to_le_bytes());
        out.extend_from_slice(&attempt.to_le_bytes());
    }
}

/// Replicas with different limits or seeds would part sooner or later: they differ from the start.
fn put_config(config: &KvConfig, out: &mut Vec<u8>) {
    let mut limits = Vec::new();
    config.limits.encode(&mut limits);
    put_length(out, limits.len());
    out.extend_from_slice(&limits);
    for word in config.seed {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn write_entry(entry: &Entry, out: &mut dyn FnMut(&[u8])) {
    put(out, entry.key());
    out(&entry.expires_ms().unwrap_or(NEVER).to_le_bytes());
    out(&[entry.value().kind() as u8]);
    match entry.value() {
        Value::String(bytes) => put(out, bytes),
        Value::List(list) => {
            out(&(list.items().len() as u64).to_le_bytes());
            list.items().iter().for_each(|item| put(out, item));
        }
        Value::Hash(hash) => {
            out(&(hash.fields().len() as u64).to_le_bytes());
            for (field, value) in hash.fields() {
                put(out, field);
                put(out, value);
            }
        }
        Value::Set(set) => {
            out(&(set.members().len() as u64).to_le_bytes());
            set.members().iter().for_each(|member| put(out, member));
        }
    }
}

fn put(out: &mut dyn FnMut(&[u8]), bytes: &[u8]) {
    out(&(bytes.len() as u64).to_le_bytes());
    out(bytes);
}

type Restored = (Vec<u8>, Value, Option<u64>);

fn read_entry(reader: &mut StreamReader<'_>, limits: &Limits) -> Result<Restored, BadSnapshot> {
    let key = reader.string(limits.key_size_max)?;
    let expires_ms = reader.u64()?;
    let expires_ms = (expires_ms != NEVER).then_some(expires_ms);
    let kind = Kind::of_number(reader.u8()?).ok_or(BadSnapshot)?;
    let max = limits.value_size_max;
    if kind == Kind::String {
        return Ok((key, Value::String(Text::from_vec(reader.string(max)?)), expires_ms));
    }
    let mut value = Value::empty(kind);
    // Fields and members come in order, each once: otherwise two snapshots would mean one state.
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..reader.count(limits.elements_max)? {
        let item = reader.string(max)?;
        match &mut value {
            Value::String(_) => return Err(BadSnapshot),
            Value::List(list) => {
                list.push(false, &item);
                continue;
            }
            Value::Hash(hash) => hash.insert(&item, &reader.string(max)?),
            Value::Set(set) => set.insert(&item),
        };
        if last.as_ref().is_some_and(|last| *last >= item) {
            return Err(BadSnapshot);
        }
        last = Some(item);
    }
    if value.is_vanished() { Err(BadSnapshot) } else { Ok((key, value, expires_ms)) }
}

impl State {
    pub(super) fn new(config: &KvConfig) -> Self {
        Self { keys: Keyspace::new(config.seed), now_ns: 0, skipping: Default::default() }
    }
}
