//! docs/WIRE.md says what the code does: kinds, sizes and names that stand in both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tetrarch_consensus::Selection;
use tetrarch_consensus::batch::{BATCH_HEADER_SIZE, IDENTITY_SIZE, LAYOUT_SIZE};
use tetrarch_consensus::limits::{
    ADDRESS_SIZE_MAX, DEPTH_MAX, OPERATION_SIZE_MAX, RESULT_SIZE_MAX, WRITE_SET_MAX, decisions_told,
};
use tetrarch_consensus::membership::{VIEW_MANAGER, VIEW_PREFIX};
use tetrarch_consensus::message::codec::{REQUEST_PREFIX, STATE_PREFIX};
use tetrarch_consensus::message::kind;
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::handshake::{HELLO_SIZE, REPLY_SIZE};
use tetrarch_dataplane::limits::{FRAME_SIZE_MAX, PROOF_SIZE_MAX};
use tetrarch_dataplane::links::{KIND_BUNDLE, KIND_HELLO, KIND_PING, KIND_REPLY};

fn document() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("fuzz/targets");
    fs::read_to_string(root.join("docs/WIRE.md")).expect("docs/WIRE.md")
}

/// A number as the document writes it: groups of three digits from five digits on.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[test]
fn kinds_have_the_numbers_of_the_code() {
    let document = document();
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        Some((cells.next()?.parse::<u8>().ok()?, cells.next()?.to_owned()))
    });
    // Rows of the kind table: a number and a name in capitals.
    let capital = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let listed: BTreeMap<u8, String> =
        rows.filter(|(_, name)| !name.is_empty() && capital(name)).collect();
    let expected = [
        (kind::REQUEST, "REQUEST"),
        (kind::REPLY, "REPLY"),
        (kind::FORWARDED, "FORWARDED"),
        (kind::PROPOSE, "PROPOSE"),
        (kind::WRITE, "WRITE"),
        (kind::ACCEPT, "ACCEPT"),
        (kind::REFUSE, "REFUSE"),
        (kind::STOP, "STOP"),
        (kind::STOPDATA, "STOPDATA"),
        (kind::SYNC, "SYNC"),
        (kind::STATUS, "STATUS"),
        (kind::FETCH, "FETCH"),
        (kind::DECIDED, "DECIDED"),
        (kind::FETCH_BATCH, "FETCH_BATCH"),
        (kind::BATCH_BODY, "BATCH_BODY"),
        (kind::FETCH_BODIES, "FETCH_BODIES"),
        (kind::BODIES, "BODIES"),
        (kind::FETCH_STATE, "FETCH_STATE"),
        (kind::STATE_OFFER, "STATE_OFFER"),
        (kind::FETCH_CHUNKS, "FETCH_CHUNKS"),
        (kind::CHUNK, "CHUNK"),
        (KIND_HELLO, "HELLO"),
        (KIND_REPLY, "HELLO_REPLY"),
        (KIND_PING, "PING"),
        (KIND_BUNDLE, "BUNDLE"),
    ];
    let expected: BTreeMap<u8, String> =
        expected.into_iter().map(|(number, name)| (number, name.to_owned())).collect();
    assert_eq!(listed, expected);
}

#[test]
fn sizes_are_those_of_the_code() {
    let document = document();
    let text = |prefix: &[u8; 32]| {
        let end = prefix.iter().position(|byte| *byte == 0).unwrap_or(prefix.len());
        format!("`{}`", String::from_utf8_lossy(&prefix[..end]))
    };
    for expected in [
        format!("96 to {}", grouped(FRAME_SIZE_MAX)),
        format!("at most {} |", grouped(PROOF_SIZE_MAX)),
        format!("HELLO, {HELLO_SIZE} bytes"),
        format!("HELLO_REPLY, {REPLY_SIZE} bytes"),
        format!("at most {}, and exactly what follows", grouped(OPERATION_SIZE_MAX)),
        format!("at most {}; 0 unless", grouped(RESULT_SIZE_MAX)),
        format!("| {BATCH_HEADER_SIZE} | {IDENTITY_SIZE} x count | identities"),
        format!("| {LAYOUT_SIZE} x count | layout"),
        format!("digest 32, which {}: bit i", Selection::SIZE),
        format!("pairs in the write set, at most {WRITE_SET_MAX},"),
        format!("| decisions, at most {} |", decisions_told(DEPTH_MAX)),
        format!("| open instances, at most {DEPTH_MAX} |"),
        text(&REQUEST_PREFIX),
        text(&STATE_PREFIX),
        text(&VIEW_PREFIX),
        format!("client index {}, with", grouped(VIEW_MANAGER as usize)),
        format!("address size 1 (1 to {ADDRESS_SIZE_MAX})"),
    ] {
        assert!(document.contains(&expected), "docs/WIRE.md does not say {expected:?}");
    }
}

/// The digest that links compute of a body is that of a batch whose identities are the body.
#[test]
fn links_and_batches_have_one_rule_for_digests() {
    let bytes: Vec<u8> = (0..5000u32).map(|at| (at * 7 + at / 256) as u8).collect();
    for size in (0..300).chain([1023, 1024, 1025, 4096, 4999]) {
        let body = &bytes[..size];
        assert_eq!(tetrarch_consensus::batch::body_digest(body).0, body_digest(body), "{size}");
    }
}
