//! One function per parser of bytes that somebody else chose.
//!
//! Owns what a fuzz target does with its input, so that the fuzzer and the plain test that replays the
//! corpora run the same code. Always true: a target panics only when a parser broke its promise.

use std::path::Path;

use tetrarch_client::cluster::Cluster;
use tetrarch_consensus::batch::RequestHeader;
use tetrarch_consensus::message::codec;
use tetrarch_consensus::message::reply::ReplyHeader;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::handshake::{Dialler, Directory, Identity, accept};
use tetrarch_dataplane::header::Header;
use tetrarch_dataplane::types::PeerId;

/// A target: its name, which is also its corpus' folder, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("link_header", link_header),
    ("message", message),
    ("request", request),
    ("reply", reply),
    ("handshake", handshake),
    ("cluster_config", cluster_config),
    ("resp", resp),
    ("kv_operation", kv_operation),
];

/// A link header that parses is written back to the same bytes.
pub fn link_header(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.to_bytes()[..], data[..header.to_bytes().len()]);
    }
}

/// The first byte is the kind. A message that parses is encoded to the same bytes.
pub fn message(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let Ok(message) = codec::decode(*kind, SharedBytes::from(body)) else { return };
    let mut again = vec![0; codec::encoded_size(&message)];
    let size = codec::encode(&message, &mut again);
    assert_eq!(&again[..size], body);
}

/// A request body that parses is written back.
pub fn request(data: &[u8]) {
    if let Ok(header) = RequestHeader::parse(data) {
        let mut again = data.to_vec();
        header.write(&mut again);
        assert_eq!(again, data);
    }
}

/// A reply body that parses is written back.
pub fn reply(data: &[u8]) {
    if let Ok(header) = ReplyHeader::parse(data) {
        let mut again = data.to_vec();
        header.write(&mut again);
        assert_eq!(again, data);
    }
}

/// Either side of a handshake, against keys of our own. Nobody gets in who has no key.
pub fn handshake(data: &[u8]) {
    let secrets = [StaticSecret::from_bytes(&[1; 32]), StaticSecret::from_bytes(&[2; 32])];
    let peers = secrets.iter().zip(0..).map(|(key, id)| (PeerId::replica(id), key.public()));
    let Ok(directory) = Directory::new(peers) else { return };
    let [first, second] = secrets;
    let acceptor = Identity { peer: PeerId::replica(0), secret: first };
    let dialler = Identity { peer: PeerId::replica(1), secret: second };
    assert!(accept(&acceptor, &directory, 7, data).is_err(), "a handshake without its key");
    if let Ok((dialler, _)) = Dialler::start(&dialler, &directory, 7, acceptor.peer) {
        assert!(dialler.finish(data).is_err(), "a reply without the acceptor's key");
    }
}

/// A cluster description that parses is the same after it was written and read again.
pub fn cluster_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("cluster.toml");
    if let Ok(cluster) = Cluster::parse(text, file) {
        let again = Cluster::parse(&cluster.to_toml(), file).expect("what we write can be read");
        assert_eq!(again.to_toml(), cluster.to_toml());
    }
}
