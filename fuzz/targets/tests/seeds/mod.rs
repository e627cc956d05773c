//! What a fuzzer starts from: the golden vectors, files that `tetrarch init` would write, and the
//! commands of the golden scripts. Made here and not copied, so that they follow the formats.

mod member;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tetrarch_consensus::message::kind;
use tetrarch_consensus::{
    ClientId, ConsensusId, Context, Digest, Replies, RequestView, Sequence, StateMachine, ViewId,
};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::handshake::{Dialler, Directory, Identity, accept};
use tetrarch_dataplane::types::PeerId;
use tetrarch_services::kv::command::Args;
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::{KvConfig, KvService, text};
use tetrarch_services::maplist::{MapListLimits, MapListService, Operation};
use tetrarch_services::null::NullService;

/// Target, file name, bytes.
pub struct Seed {
    pub target: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("fuzz/targets").into()
}

fn seed(target: &'static str, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { target, name: name.into(), bytes: bytes.into() }
}

pub fn all() -> Vec<Seed> {
    let mut seeds = vectors();
    seeds.extend(handshakes());
    seeds.extend(files());
    seeds.extend(redis());
    seeds.extend(maplist());
    seeds.extend(null());
    seeds.extend(member::all());
    seeds
}

/// The bytes of a golden vector: hexadecimal digits, comments, white space.
fn vector(file: &str) -> Vec<u8> {
    let text = fs::read_to_string(root().join(file)).expect("a golden vector");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let digits: Vec<u8> = lines.flat_map(str::bytes).filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("digits only")
    };
    digits.chunks_exact(2).map(pair).collect()
}

fn vectors() -> Vec<Seed> {
    const MESSAGES: [(&str, u8); 23] = [
        ("forwarded", kind::FORWARDED),
        ("propose", kind::PROPOSE),
        ("propose_sparse", kind::PROPOSE),
        ("propose_bare", kind::PROPOSE),
        ("write", kind::WRITE),
        ("accept", kind::ACCEPT),
        ("refuse_clock", kind::REFUSE),
        ("refuse_proof", kind::REFUSE),
        ("stop", kind::STOP),
        ("stopdata", kind::STOPDATA),
        ("sync", kind::SYNC),
        ("status", kind::STATUS),
        ("fetch", kind::FETCH),
        ("decided_batch", kind::DECIDED),
        ("decided_claim", kind::DECIDED),
        ("fetch_batch", kind::FETCH_BATCH),
        ("batch_body", kind::BATCH_BODY),
        ("fetch_bodies", kind::FETCH_BODIES),
        ("bodies", kind::BODIES),
        ("fetch_state", kind::FETCH_STATE),
        ("state_offer", kind::STATE_OFFER),
        ("fetch_chunks", kind::FETCH_CHUNKS),
        ("chunk", kind::CHUNK),
    ];
    let file = |name: &str| format!("consensus/src/message/vectors/{name}.hex");
    let mut seeds: Vec<_> = MESSAGES
        .iter()
        .map(|(name, kind)| seed("message", *name, [&[*kind], &vector(&file(name))[..]].concat()))
        .collect();
    seeds.push(seed("request", "golden", vector(&file("request"))));
    for name in ["reply", "digest_reply", "outdated_reply"] {
        seeds.push(seed("reply", name, vector(&file(name))));
    }
    seeds.push(seed("link_header", "golden", vector("dataplane/src/vectors/header_v4.hex")));
    let bundle = vector("dataplane/src/vectors/bundle.hex");
    seeds.push(seed("bundle", "golden", [&[2], &bundle[..]].concat()));
    seeds
}

/// Handshakes of another cluster with the same keys: well-formed, and refused.
fn handshakes() -> Vec<Seed> {
    let secret = |id: u16| StaticSecret::from_bytes(&[id as u8 + 1; 32]);
    let identity = |id| Identity { peer: PeerId::replica(id), secret: secret(id) };
    let peers = [0, 1].map(|id| (PeerId::replica(id), secret(id).public()));
    let directory = Directory::new(peers).expect("distinct");
    let started = Dialler::start(&identity(1), &directory, 8, PeerId::replica(0));
    let (_, hello) = started.expect("listed");
    let (_, reply) = match accept(&identity(0), &directory, 8, &hello) {
        Ok(accepted) => (accepted.peer, accepted.reply),
        Err(error) => panic!("both sides are honest: {error}"),
    };
    let delivered = [7, 0, 0, 0].repeat(40);
    let mut attacked = delivered.clone();
    for (at, fate) in [(9, 1), (13, 2), (17, 3), (21, 0), (25, 4), (33, 2), (37, 5)] {
        attacked[at * 4..][..4].copy_from_slice(&[fate, at as u8, 0, 0x10]);
    }
    vec![
        seed("handshake", "hello", hello),
        seed("handshake", "reply", reply),
        seed("links", "delivered", delivered),
        seed("links", "attacked", attacked),
    ]
}

fn files() -> Vec<Seed> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = format!("tetrarch-seeds-{}-{call}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let options = tetrarch_appliance::init::InitOptions {
        replicas: 4,
        f: None,
        depth: 1,
        model: tetrarch_consensus::FaultModel::Byzantine,
        clients: 2,
        base_port: 7000,
        hosts: vec!["127.0.0.1".into()],
        service: tetrarch_appliance::service::ServiceKind::Kv,
        request_timeout_ms: 2000,
        placement: tetrarch_appliance::config::PlacementFile::default(),
        durable: false,
        checkpoint_every: 8192,
        transport: tetrarch_dataplane::transport::choice::TransportKind::Auto,
        frames_mib: None,
    };
    tetrarch_appliance::init::init(&directory, &options).expect("a new directory");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("init wrote it");
    let replica = read("replica-0.toml");
    // The target opens no file of the input's choice, so the plan is made only without these.
    let outside = |line: &&str| !line.starts_with("key_file") && !line.starts_with("data_dir");
    let plain: Vec<_> = replica.lines().filter(outside).collect();
    let client = "request_timeout_ms = 500\noperation_timeout_ms = 30000\nwindow = 8\n\
                  connect_timeout_ms = 100\nsessions_max = 2\nrequest_memory_mib = 1\n";
    let seeds = vec![
        seed("cluster_config", "init", read("cluster.toml")),
        seed("replica_config", "init", replica.clone()),
        seed("replica_config", "plain", plain.join("\n")),
        seed("client_config", "plain", client),
        seed("key_file", "init", read("replica-0.key")),
    ];
    fs::remove_dir_all(&directory).expect("our own directory");
    seeds
}

struct Nowhere(Vec<u8>);

impl Replies for Nowhere {
    fn reply(&mut self, _to: ClientId, size: usize) -> &mut [u8] {
        self.0.resize(size, 0);
        &mut self.0
    }
}

fn execute(service: &mut impl StateMachine, operation: &[u8]) -> Vec<u8> {
    let context = Context {
        cid: ConsensusId(1),
        view: ViewId(0),
        timestamp_ns: 1_700_000_000_000_000_000,
        seed: 0,
    };
    let view = RequestView {
        client: ClientId(1),
        sequence: Sequence(1),
        digest: Digest::ZERO,
        operation,
        body: operation,
        auth: 0,
        proof: &[],
    };
    let mut replies = Nowhere(Vec::new());
    service.execute(&context, &view, &mut replies);
    service.end_batch(&context);
    replies.0
}

fn snapshot(kind: u8, service: &impl StateMachine) -> Vec<u8> {
    let mut bytes = vec![kind, 255];
    service.snapshot(&mut |piece| bytes.extend_from_slice(piece));
    bytes
}

/// A piece as `kv_operation` and `maplist_operation` cut them.
fn piece(out: &mut Vec<u8>, operation: &[u8]) {
    // 255 would mean all that is left.
    if operation.len() < 255 {
        out.push(operation.len() as u8);
        out.extend_from_slice(operation);
    }
}

/// The golden scripts of the store: as what a client sends, as operations, as replies, as a state.
fn redis() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let scripts = fs::read_dir(root().join("services/tests/golden")).expect("golden scripts");
    let mut scripts: Vec<_> = scripts.map(|entry| entry.expect("readable").path()).collect();
    scripts.sort();
    let mut service = KvService::new(KvConfig::default());
    for script in scripts {
        let name = script.file_stem().expect("a script").to_string_lossy().into_owned();
        let text = fs::read_to_string(&script).expect("a script");
        let commands: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(mark, _)| matches!(*mark, ">" | "%" | "~"))
            .map(|(_, command)| command)
            .collect();
        for (part, commands) in commands.chunks(12).enumerate() {
            let (mut lines, mut arrays) = (Vec::new(), Vec::new());
            let (mut operations, mut replies) = (Vec::new(), Vec::new());
            for command in commands {
                lines.extend_from_slice(format!("{command}\r\n").as_bytes());
                let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
                arrays.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
                for word in &words {
                    arrays.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                    arrays.extend_from_slice(word);
                    arrays.extend_from_slice(b"\r\n");
                }
                let Ok(command) = text::parse(&words) else { continue };
                let mut writer = OperationWriter::new();
                writer.push(&command);
                piece(&mut operations, writer.bytes());
                replies.extend_from_slice(&execute(&mut service, writer.bytes()));
            }
            seeds.push(seed("resp", format!("{name}-{part}-lines"), lines));
            seeds.push(seed("resp", format!("{name}-{part}-arrays"), arrays));
            seeds.push(seed("kv_operation", format!("{name}-{part}"), operations));
            seeds.push(seed("kv_reply", format!("{name}-{part}"), replies));
        }
        seeds.push(seed("snapshot", format!("kv-{name}"), snapshot(0, &service)));
    }
    seeds
}

fn maplist() -> Vec<Seed> {
    let entries: [&[u8]; 3] = [b"one", b"", b"three"];
    let (key, entry) = (&b"key"[..], &b"four"[..]);
    let operations = [
        Operation::Put { key, entries: Args::Words(&entries) },
        Operation::PutEntry { key, entry },
        Operation::Get { key },
        Operation::ContainsKey { key },
        Operation::Size,
        Operation::Get { key: b"none" },
        Operation::Put { key: b"other", entries: Args::Words(&entries[..1]) },
        Operation::Remove { key: b"other" },
    ];
    let mut service = MapListService::new(MapListLimits::default());
    let (mut pieces, mut seeds) = (Vec::new(), Vec::new());
    for (number, operation) in operations.iter().enumerate() {
        let mut bytes = Vec::new();
        operation.write(&mut bytes);
        piece(&mut pieces, &bytes);
        let answer = execute(&mut service, &bytes);
        seeds.push(seed("maplist_answer", format!("{number}"), answer));
    }
    seeds.push(seed("maplist_operation", "all", pieces));
    seeds.push(seed("snapshot", "maplist", snapshot(1, &service)));
    seeds
}

fn null() -> Vec<Seed> {
    let mut service = NullService::new();
    let operation = [16, 0, 0, 0, 1, 2, 3];
    execute(&mut service, &operation);
    vec![
        seed("null_operation", "empty", []),
        seed("null_operation", "sixteen", operation),
        seed("snapshot", "null", snapshot(2, &service)),
    ]
}
