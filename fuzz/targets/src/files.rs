//! Files that people edit.
//!
//! Owns the targets for configuration and key files. Those that the loaders read from a directory are
//! written to one of this process' own; fields that name other files or hosts are left out, so that a
//! target opens no file and asks no name server of the input's choice.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tetrarch_appliance::config::{Plan, ReplicaFile};
use tetrarch_client::ClientConfig;
use tetrarch_client::cluster::{Cluster, PrivateKeys, parse_toml};
use tetrarch_consensus::{FaultModel, ReplicaId};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::crypto::signature::SigningKey;

/// The cluster of [`cluster_text`].
pub const CLUSTER: u64 = 0xa1;

/// A cluster description that parses is the same after it was written and read again.
pub fn cluster_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("cluster.toml");
    match Cluster::parse(text, file) {
        Ok(cluster) => {
            let again =
                Cluster::parse(&cluster.to_toml(), file).expect("what we write can be read");
            assert_eq!(again.to_toml(), cluster.to_toml());
            // Neither panics for a cluster that was accepted.
            let _ = (cluster.view(), cluster.directory());
        }
        Err(error) => assert!(!error.problem.is_empty() && !error.remedy.is_empty()),
    }
}

/// A replica's file that parses is the same after it was written and read again, and either makes a
/// plan or says what is wrong.
pub fn replica_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(raw) = parse_toml::<ReplicaFile>(text, Path::new("replica-0.toml")) else { return };
    let again = toml::to_string(&raw).expect("what was read can be written");
    let reread: ReplicaFile =
        parse_toml(&again, Path::new("replica-0.toml")).expect("what we write can be read");
    assert_eq!(format!("{reread:?}"), format!("{raw:?}"));
    let numeric = |address: &String| address.parse::<SocketAddr>().is_ok();
    let outside = raw.key_file.is_some() || raw.data_dir.is_some();
    if outside || !numeric(&raw.metrics) || !raw.listen.as_ref().is_none_or(numeric) {
        return;
    }
    let directory = directory();
    std::fs::write(directory.join("replica-0.toml"), text).expect("our own directory");
    match Plan::load(directory, 0) {
        Ok(plan) => {
            assert_eq!((plan.id, plan.core.id), (ReplicaId(raw.id), ReplicaId(0)));
            assert_ne!(plan.listen, plan.metrics);
            assert_eq!(plan.core.request_timeout.as_millis(), raw.request_timeout_ms.into());
        }
        Err(error) => assert!(!error.problem.is_empty() && !error.remedy.is_empty()),
    }
}

/// A client's file either makes a configuration or the error says what to do.
pub fn client_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(table) = text.parse::<toml::Table>() else { return };
    if table.contains_key("key_file") {
        return;
    }
    let directory = directory();
    std::fs::write(directory.join("client-0.toml"), text).expect("our own directory");
    match ClientConfig::load(directory, 0) {
        Ok(config) => assert!(config.window >= 1 && config.sessions_max >= 1),
        Err(error) => assert!(!error.problem.is_empty() && !error.remedy.is_empty()),
    }
}

/// Keys that parse are the ones that the text names; an error shows nothing of the text.
pub fn key_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("replica-0.key");
    match PrivateKeys::parse(text, file) {
        Ok(keys) => {
            let again = PrivateKeys::parse(&key_text(&keys), file).expect("the same keys");
            assert_eq!(again.static_secret.as_bytes(), keys.static_secret.as_bytes());
            assert_eq!(*again.signing_key.to_hex(), *keys.signing_key.to_hex());
            let lower = text.to_ascii_lowercase();
            assert!(lower.contains(keys.static_secret.to_hex().as_str()) || text.contains('\\'));
        }
        Err(error) => {
            let shown = error.to_string();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| word.len() >= 12) {
                assert!(!shown.contains(word), "{shown}");
            }
        }
    }
}

fn key_text(keys: &PrivateKeys) -> String {
    let (secret, seed) = (keys.static_secret.to_hex(), keys.signing_key.to_hex());
    format!("static_secret = \"{}\"\nsigning_seed = \"{}\"\n", *secret, *seed)
}

/// Private keys that everybody can compute: replica i of [`cluster_text`] has seed i + 1, its client 5.
pub fn keys(seed: u8) -> PrivateKeys {
    PrivateKeys {
        static_secret: StaticSecret::from_bytes(&[seed; 32]),
        signing_key: SigningKey::from_seed(&[seed; 32]),
    }
}

/// A cluster directory whose `replica-0.toml` and `client-0.toml` the targets write.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let name = format!("tetrarch-fuzz-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("the temporary directory can be written to");
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(file).expect("our own directory");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("our own directory");
        };
        write("cluster.toml", &cluster_text());
        write("replica-0.key", &key_text(&keys(1)));
        write("client-0.key", &key_text(&keys(5)));
        directory
    })
}

/// Four replicas and a client, with keys that everybody can compute.
pub fn cluster_text() -> String {
    let public = |seed: u8| {
        let keys = keys(seed);
        let (key, signing) = (keys.static_secret.public(), keys.signing_key.verifying_key());
        format!("static_key = \"{}\"\nsigning_key = \"{}\"\n", key.to_hex(), signing.to_hex())
    };
    let model = tetrarch_client::cluster::model_name(FaultModel::Byzantine);
    let mut text = format!("[cluster]\nid = \"00000000000000a1\"\nmodel = \"{model}\"\nf = 1\n");
    for id in 0..4u8 {
        let address = format!("127.0.0.1:{}", 7000 + u16::from(id));
        text += &format!("[[replica]]\nid = {id}\naddress = \"{address}\"\n{}", public(id + 1));
    }
    text + &format!("[[client]]\nindex = 0\n{}", public(5))
}
