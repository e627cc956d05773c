//! One function per parser of bytes that somebody else chose.
//!
//! Owns what a fuzz target does with its input, so that the fuzzer and the plain test that replays the
//! corpora run the same code. Always true: a target panics only when the code under it broke its
//! promise; apart from keys that a handshake draws, it does the same for the same input. Must not: know libFuzzer.

mod files;
mod member;
mod services;
mod snapshots;
mod wire;

pub use files::{cluster_text, keys};
pub use member::{START, play as play_member};

/// A target: its name, which is also its corpus' folder, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("link_header", wire::link_header),
    ("bundle", wire::bundle),
    ("handshake", wire::handshake),
    ("links", wire::links),
    ("member", member::member),
    ("message", wire::message),
    ("request", wire::request),
    ("reply", wire::reply),
    ("cluster_config", files::cluster_config),
    ("replica_config", files::replica_config),
    ("client_config", files::client_config),
    ("key_file", files::key_file),
    ("resp", services::resp),
    ("kv_operation", services::kv_operation),
    ("kv_reply", services::kv_reply),
    ("maplist_operation", services::maplist_operation),
    ("maplist_answer", services::maplist_answer),
    ("null_operation", services::null_operation),
    ("snapshot", snapshots::snapshot),
];

/// Runs the target called `name`: what `fuzz_targets/` calls.
///
/// # Panics
/// No target has this name, or the target found a fault.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    let (_, target) = target.expect("fuzz_targets/ holds only names of TARGETS");
    target(data);
}
