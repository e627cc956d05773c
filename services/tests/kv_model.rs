//! The store against a naive model, and against itself: equal batches, equal digests; a snapshot is
//! the state; any bytes are answered.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tetrarch_consensus::{
    ClientId, ConsensusId, Context, Digest, Replies, RequestValidator, RequestView, Sequence,
    StateMachine, ViewId,
};
use tetrarch_services::kv::op::{Operation, OperationWriter};
use tetrarch_services::kv::reply::{Failure, Reply};
use tetrarch_services::kv::{KvConfig, KvService, KvValidator, limits::Limits, text};
use tetrarch_services::wire::Reader;

struct Kept(Vec<u8>);

impl Replies for Kept {
    fn reply(&mut self, _to: ClientId, size: usize) -> &mut [u8] {
        self.0 = vec![0; size];
        &mut self.0
    }
}

fn view(operation: &[u8]) -> RequestView<'_> {
    RequestView {
        client: ClientId(1),
        sequence: Sequence(1),
        digest: Digest([0; 32]),
        operation,
        body: operation,
        auth: 0,
        proof: &[],
    }
}

fn execute(service: &mut KvService, now_ms: u64, operation: &[u8]) -> Vec<u8> {
    let context = Context {
        cid: ConsensusId(1),
        view: ViewId(0),
        timestamp_ns: now_ms * 1_000_000,
        seed: now_ms,
    };
    let mut kept = Kept(Vec::new());
    service.execute(&context, &view(operation), &mut kept);
    service.end_batch(&context);
    kept.0
}

fn query(service: &KvService, operation: &[u8]) -> Vec<u8> {
    let mut kept = Kept(Vec::new());
    service.query(&view(operation), &mut kept);
    kept.0
}

fn snapshot(service: &KvService) -> Vec<u8> {
    let mut bytes = Vec::new();
    service.snapshot(&mut |piece| bytes.extend_from_slice(piece));
    bytes
}

fn restore(service: &mut KvService, mut bytes: &[u8]) -> bool {
    let read = &mut |into: &mut [u8]| {
        let size = into.len().min(bytes.len());
        into[..size].copy_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
        size
    };
    service.restore(read).is_ok()
}

fn operation(command: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    let mut writer = OperationWriter::new();
    writer.push(&text::parse(&words).unwrap_or_else(|error| panic!("{command}: {error:?}")));
    writer.bytes().to_vec()
}

/// A reply as the model gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Ok,
    Nil,
    Number(i64),
    Text(String),
    List(Vec<String>),
    WrongType,
    NotInteger,
}

fn answer(reply: &[u8]) -> Answer {
    let mut reader = Reader::new(reply);
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let first = Reply::read(&mut reader).expect("a reply");
    let answer = match first {
        Reply::Ok => Answer::Ok,
        Reply::Nil | Reply::NilArray => Answer::Nil,
        Reply::Integer(number) => Answer::Number(number),
        Reply::Bulk(bytes) | Reply::Status(bytes) => Answer::Text(string(bytes)),
        Reply::Failure(Failure::WrongType) => Answer::WrongType,
        Reply::Failure(Failure::NotInteger) => Answer::NotInteger,
        Reply::Array(_) | Reply::Map(_) | Reply::Set(_) => {
            let elements = (0..first.children()).map(|_| match Reply::read(&mut reader) {
                Ok(Reply::Bulk(bytes)) => string(bytes),
                other => panic!("{other:?}"),
            });
            Answer::List(elements.collect())
        }
        other => panic!("{other:?}"),
    };
    assert!(reader.is_empty());
    answer
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    List(Vec<String>),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
}

/// The model: plain maps and vectors, everything copied.
#[derive(Clone, Default, Debug)]
struct Model {
    keys: BTreeMap<String, (Value, Option<u64>)>,
    now_ms: u64,
}

impl Model {
    fn value(&mut self, key: &str) -> Option<&mut Value> {
        if self.keys.get(key).is_some_and(|(_, at)| at.is_some_and(|at| at < self.now_ms)) {
            self.keys.remove(key);
        }
        self.keys.get_mut(key).map(|(value, _)| value)
    }

    fn tidy(&mut self, key: &str) {
        let empty = match self.keys.get(key) {
            Some((Value::List(list), _)) => list.is_empty(),
            Some((Value::Hash(hash), _)) => hash.is_empty(),
            Some((Value::Set(set), _)) => set.is_empty(),
            _ => false,
        };
        if empty {
            self.keys.remove(key);
        }
    }

    fn run(&mut self, command: &str) -> Answer {
        let words: Vec<&str> = command.split(' ').collect();
        let (name, key) = (words[0], words[1]);
        let fresh = self.value(key).is_none();
        let kind = match name {
            "LPUSH" | "RPUSH" | "LPOP" | "RPOP" | "LRANGE" | "LLEN" => Value::List(vec![]),
            "HSET" | "HDEL" | "HGET" | "HGETALL" => Value::Hash(BTreeMap::new()),
            "SADD" | "SREM" | "SMEMBERS" | "SISMEMBER" => Value::Set(BTreeSet::new()),
            _ => Value::Text(String::new()),
        };
        let answer = match name {
            "SET" => {
                let at = words.get(4).map(|ms| self.now_ms + ms.parse::<u64>().expect("ms"));
                self.keys.insert(key.into(), (Value::Text(words[2].into()), at));
                return Answer::Ok;
            }
            "DEL" => return Answer::Number(i64::from(self.keys.remove(key).is_some())),
            "EXISTS" => return Answer::Number(i64::from(!fresh)),
            "PEXPIRE" => {
                let at = self.now_ms + words[2].parse::<u64>().expect("ms");
                if let Some(entry) = self.keys.get_mut(key) {
                    entry.1 = Some(at);
                }
                return Answer::Number(i64::from(!fresh));
            }
            "PERSIST" => {
                let entry = self.keys.get_mut(key);
                let had = entry.is_some_and(|entry| entry.1.take().is_some());
                return Answer::Number(i64::from(had));
            }
            "PTTL" => {
                return Answer::Number(match self.keys.get(key) {
                    None => -2,
                    Some((_, None)) => -1,
                    Some((_, Some(at))) => (at - self.now_ms) as i64,
                });
            }
            "GET" if fresh => return Answer::Nil,
            "INCRBY" if fresh => {
                self.keys.insert(key.into(), (Value::Text(words[2].into()), None));
                return Answer::Number(words[2].parse().expect("a number"));
            }
            _ => {
                let value = &mut self.keys.entry(key.into()).or_insert((kind, None)).0;
                apply(name, &words, value)
            }
        };
        self.tidy(key);
        answer
    }
}

fn apply(name: &str, words: &[&str], value: &mut Value) -> Answer {
    let number = |n: usize| Answer::Number(n as i64);
    let text = |text: Option<String>| text.map_or(Answer::Nil, Answer::Text);
    let given = words.get(2).copied().unwrap_or_default();
    match (name, value) {
        ("GET", Value::Text(old)) => Answer::Text(old.clone()),
        ("APPEND", Value::Text(old)) => {
            old.push_str(given);
            number(old.len())
        }
        ("INCRBY", Value::Text(old)) => {
            let Ok(before) = old.parse::<i64>() else { return Answer::NotInteger };
            let after = before + given.parse::<i64>().expect("a number");
            *old = after.to_string();
            Answer::Number(after)
        }
        ("LPUSH", Value::List(list)) => {
            words[2..].iter().for_each(|word| list.insert(0, (*word).into()));
            number(list.len())
        }
        ("RPUSH", Value::List(list)) => {
            list.extend(words[2..].iter().map(|word| (*word).to_owned()));
            number(list.len())
        }
        ("LPOP", Value::List(list)) => text((!list.is_empty()).then(|| list.remove(0))),
        ("RPOP", Value::List(list)) => text(list.pop()),
        ("LRANGE", Value::List(list)) => Answer::List(list.clone()),
        ("LLEN", Value::List(list)) => number(list.len()),
        ("HSET", Value::Hash(hash)) => {
            number(usize::from(hash.insert(given.into(), words[3].into()).is_none()))
        }
        ("HDEL", Value::Hash(hash)) => number(usize::from(hash.remove(given).is_some())),
        ("HGET", Value::Hash(hash)) => text(hash.get(given).cloned()),
        ("HGETALL", Value::Hash(hash)) => {
            Answer::List(hash.iter().flat_map(|(f, v)| [f.clone(), v.clone()]).collect())
        }
        ("SADD", Value::Set(set)) => number(usize::from(set.insert(given.into()))),
        ("SREM", Value::Set(set)) => number(usize::from(set.remove(given))),
        ("SMEMBERS", Value::Set(set)) => Answer::List(set.iter().cloned().collect()),
        ("SISMEMBER", Value::Set(set)) => number(usize::from(set.contains(given))),
        _ => Answer::WrongType,
    }
}

fn command() -> impl Strategy<Value = String> {
    let key = || (0..6u8).prop_map(|key| format!("k{key}"));
    let word = || (0..5u8).prop_map(|word| format!("w{word}"));
    let ms = || 1..30u32;
    prop_oneof![
        (key(), word()).prop_map(|(k, w)| format!("SET {k} {w}")),
        (key(), 0..100u8).prop_map(|(k, n)| format!("SET {k} {n}")),
        (key(), word(), ms()).prop_map(|(k, w, ms)| format!("SET {k} {w} PX {ms}")),
        (key(), word()).prop_map(|(k, w)| format!("APPEND {k} {w}")),
        (key(), 0..100u8).prop_map(|(k, n)| format!("INCRBY {k} {n}")),
        (key(), word(), word()).prop_map(|(k, a, b)| format!("LPUSH {k} {a} {b}")),
        (key(), word()).prop_map(|(k, w)| format!("RPUSH {k} {w}")),
        (key(), word(), word()).prop_map(|(k, a, b)| format!("HSET {k} {a} {b}")),
        (key(), word()).prop_map(|(k, w)| format!("HGET {k} {w}")),
        (key(), word()).prop_map(|(k, w)| format!("HDEL {k} {w}")),
        (key(), word()).prop_map(|(k, w)| format!("SADD {k} {w}")),
        (key(), word()).prop_map(|(k, w)| format!("SREM {k} {w}")),
        (key(), word()).prop_map(|(k, w)| format!("SISMEMBER {k} {w}")),
        (key(), ms()).prop_map(|(k, ms)| format!("PEXPIRE {k} {ms}")),
        (
            key(),
            prop::sample::select(vec![
                "GET", "DEL", "EXISTS", "PERSIST", "PTTL", "LPOP", "RPOP", "LLEN", "HGETALL",
                "SMEMBERS"
            ])
        )
            .prop_map(|(k, name)| format!("{name} {k}")),
        key().prop_map(|k| format!("LRANGE {k} 0 -1")),
    ]
}

fn new() -> KvService {
    KvService::new(KvConfig { seed: [3, 4], limits: Limits::default() })
}

proptest! {
    #[test]
    fn agrees_with_the_model(steps in prop::collection::vec((command(), 0..4u64), 1..150)) {
        let (mut service, mut twin) = (new(), new());
        let mut model = Model { now_ms: 1_000, ..Model::default() };
        for (at, (command, pause)) in steps.iter().enumerate() {
            model.now_ms += pause;
            let operation = operation(command);
            prop_assert!(KvValidator.valid(&operation));
            // What a read-only request answers, an ordered one does.
            let queried = query(&service, &operation);
            let reply = execute(&mut service, model.now_ms, &operation);
            let kind = Reply::read(&mut Reader::new(&queried)).expect("a reply");
            if !matches!(kind, Reply::Order | Reply::Failure(Failure::NotReadOnly)) {
                prop_assert_eq!(&queried, &reply, "{}", command);
            }
            prop_assert_eq!(answer(&reply), model.run(command), "{}", command);
            execute(&mut twin, model.now_ms, &operation);
            if at % 16 == 0 {
                // Taken at different times by the two.
                prop_assert_eq!(service.digest(), twin.digest());
            }
        }
        let bytes = snapshot(&service);
        let mut restored = new();
        prop_assert!(restore(&mut restored, &bytes));
        prop_assert_eq!(restored.digest(), service.digest());
        prop_assert_eq!(twin.digest(), service.digest());
        prop_assert_eq!(snapshot(&restored), bytes);
        let next = operation("RPUSH k0 x");
        let now = model.now_ms + 1;
        prop_assert_eq!(execute(&mut restored, now, &next), execute(&mut service, now, &next));
        prop_assert_eq!(restored.digest(), service.digest());
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..80), valid in any::<bool>()) {
        let mut service = new();
        let bytes = if valid { [&[1, 0, 0, 0, 1, 0][..], &bytes].concat() } else { bytes };
        let valid = KvValidator.valid(&bytes);
        let reply = execute(&mut service, 1, &bytes);
        let first = Reply::read(&mut Reader::new(&reply));
        prop_assert_eq!(valid, first != Ok(Reply::Failure(Failure::Malformed)));
        query(&service, &bytes);
    }

    #[test]
    fn an_operation_has_one_encoding(commands in prop::collection::vec(command(), 1..20)) {
        let mut writer = OperationWriter::new();
        for command in &commands {
            let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            writer.push(&text::parse(&words).expect("well-formed"));
        }
        let operation = Operation::parse(writer.bytes()).expect("well-formed");
        let mut again = OperationWriter::new();
        operation.commands().for_each(|command| again.push(&command));
        prop_assert_eq!(again.bytes(), writer.bytes());
        for end in 0..writer.bytes().len() {
            prop_assert!(Operation::parse(&writer.bytes()[..end]).is_err());
        }
    }

    #[test]
    fn a_snapshot_in_pieces_is_of_the_moment_when_it_was_begun(
        before in prop::collection::vec(command(), 0..80),
        meanwhile in prop::collection::vec((command(), 0..8000usize), 1..60),
        flush in any::<bool>(),
    ) {
        let (mut service, mut twin) = (new(), new());
        let mut now_ms = 1_000;
        let mut run = |service: &mut KvService, twin: &mut KvService, command: &str| {
            now_ms += 1;
            execute(service, now_ms, &operation(command));
            execute(twin, now_ms, &operation(command));
        };
        before.iter().for_each(|command| run(&mut service, &mut twin, command));
        let whole = snapshot(&service);
        // One that was begun and left is no obstacle.
        prop_assert!(service.begin_snapshot());
        service.continue_snapshot(3000, &mut |_| {});
        prop_assert!(service.begin_snapshot());
        let (mut pieces, mut done) = (Vec::new(), false);
        let mut write = |service: &mut KvService, size| {
            service.continue_snapshot(size, &mut |piece| pieces.extend_from_slice(piece))
        };
        for (at, (command, size)) in meanwhile.iter().enumerate() {
            done = done || write(&mut service, *size);
            if flush && at == meanwhile.len() / 2 {
                run(&mut service, &mut twin, "FLUSHALL");
            }
            run(&mut service, &mut twin, command);
        }
        while !done {
            done = write(&mut service, 5000);
        }
        prop_assert!(pieces == whole, "{} bytes, not {}", pieces.len(), whole.len());
        prop_assert!(snapshot(&service) == snapshot(&twin), "the walk changed the store");
        prop_assert_eq!(service.digest(), twin.digest());
    }

    #[test]
    fn a_bent_snapshot_is_refused_or_is_another_state(
        commands in prop::collection::vec(command(), 1..20),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut service = new();
        for command in &commands {
            execute(&mut service, 5, &operation(command));
        }
        let mut bytes = snapshot(&service);
        let at = at.index(bytes.len());
        let mut other = new();
        prop_assert!(!restore(&mut other, &bytes[..at]), "cut");
        bytes[at] ^= 1 << bit;
        if restore(&mut other, &bytes) {
            prop_assert_ne!(other.digest(), service.digest());
            prop_assert_eq!(snapshot(&other), bytes);
        }
    }
}

#[test]
fn the_digest_forgets_history() {
    let mut service = new();
    let empty = {
        let mut service = new();
        execute(&mut service, 9, &operation("DBSIZE"));
        service.digest()
    };
    for command in ["SET a b", "RPUSH l x", "HSET h f v", "SADD s m", "SET e v PX 5", "FLUSHALL"] {
        execute(&mut service, 9, &operation(command));
    }
    assert_eq!(service.digest(), empty);
}

#[test]
fn a_session_skips_until_its_next_attempt() {
    let mut service = new();
    let value = vec![b'x'; 200_000];
    let words: [&[u8]; 3] = [b"SET", b"k", &value];
    let mut writer = OperationWriter::new();
    writer.push(&text::parse(&words).expect("well-formed"));
    execute(&mut service, 1, writer.bytes());
    let commands: [&[&[u8]]; 3] = [&[b"GET", b"k"], &[b"GET", b"k"], &[b"INCR", b"n"]];
    let mut writer = OperationWriter::new();
    for words in commands {
        writer.push(&text::parse(words).expect("well-formed"));
    }
    let kinds = |reply: &[u8]| {
        let mut reader = Reader::new(reply);
        let mut kinds = Vec::new();
        while let Ok(reply) = Reply::read(&mut reader) {
            kinds.push(match reply {
                Reply::Bulk(_) => 'b',
                Reply::Integer(_) => 'i',
                Reply::Skipped => 's',
                _ => '?',
            });
        }
        kinds.into_iter().collect::<String>()
    };
    assert_eq!(kinds(&execute(&mut service, 2, writer.bytes())), "bss");
    let later = operation("INCR n");
    assert_eq!(kinds(&execute(&mut service, 3, &later)), "s", "not before what was skipped");
    let digest = service.digest();
    let mut restored = new();
    assert!(restore(&mut restored, &snapshot(&service)));
    assert_eq!(restored.digest(), digest);
    assert_eq!(kinds(&execute(&mut restored, 3, &later)), "s", "a snapshot remembers");
    let mut writer = OperationWriter::new();
    writer.set_attempt(1);
    writer.push(&text::parse(&[b"INCR", b"n"]).expect("well-formed"));
    assert_eq!(kinds(&execute(&mut service, 4, writer.bytes())), "i");
    assert_ne!(service.digest(), digest);
}
