//! Answers about the gateway itself: INFO, HELLO, CONFIG GET, COMMAND, TIME.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cluster::Facts;
use super::session::Counters;
use crate::kv::glob;
use crate::kv::table::Spec;
use crate::resp::RespWriter;

/// The version of Redis whose behaviour the gateway follows; clients choose features by it.
const REDIS_VERSION: &str = "7.0.15";

/// Time since the UNIX epoch.
fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since the UNIX epoch.
pub(super) fn now_s() -> u64 {
    now().as_secs()
}

/// TIME: this gateway's clock, not the cluster's.
pub(super) fn write_time(w: &mut RespWriter<'_>) {
    let now = now();
    w.array(2);
    w.bulk(now.as_secs().to_string().as_bytes());
    w.bulk(now.subsec_micros().to_string().as_bytes());
}

/// The reply to HELLO.
pub(super) fn write_hello(w: &mut RespWriter<'_>, id: u64) {
    let version = if w.is_resp3() { 3 } else { 2 };
    w.map(7);
    w.bulk(b"server");
    w.bulk(b"redis");
    w.bulk(b"version");
    w.bulk(REDIS_VERSION.as_bytes());
    w.bulk(b"proto");
    w.integer(version);
    w.bulk(b"id");
    w.integer(i64::try_from(id).unwrap_or(i64::MAX));
    w.bulk(b"mode");
    w.bulk(b"standalone");
    w.bulk(b"role");
    w.bulk(b"master");
    w.bulk(b"modules");
    w.array(0);
}

/// The reply to CONFIG GET.
pub(super) fn write_config(patterns: &[&[u8]], connections_max: usize, w: &mut RespWriter<'_>) {
    let connections_max = connections_max.to_string();
    let all = [
        ("appendonly", "no"),
        ("databases", "1"),
        ("maxclients", connections_max.as_str()),
        ("maxmemory", "0"),
        ("save", ""),
        ("timeout", "0"),
    ];
    let wanted = |name: &str| {
        patterns.iter().any(|p| glob::matches(&p.to_ascii_lowercase(), name.as_bytes()))
    };
    let found: Vec<_> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    w.map(found.len());
    for (name, value) in found {
        w.bulk(name.as_bytes());
        w.bulk(value.as_bytes());
    }
}

/// One entry of COMMAND.
pub(super) fn write_spec(spec: &Spec, w: &mut RespWriter<'_>) {
    let flag = if spec.writes { "write" } else { "readonly" };
    write_entry(spec.name, spec.arity, flag, spec.keys, w);
}

/// One entry of COMMAND, of a command without keys that is answered here.
pub(super) fn write_local(name: &str, arity: i8, w: &mut RespWriter<'_>) {
    write_entry(name, arity, "fast", (0, 0, 0), w);
}

fn write_entry(name: &str, arity: i8, flag: &str, keys: (i8, i8, i8), w: &mut RespWriter<'_>) {
    w.array(6);
    w.bulk(name.as_bytes());
    w.integer(arity.into());
    w.set(1);
    w.status(flag);
    w.integer(keys.0.into());
    w.integer(keys.1.into());
    w.integer(keys.2.into());
}

/// The text of INFO: the sections named, or all.
pub(super) fn text(sections: &[&[u8]], counters: &Counters, facts: &Facts) -> String {
    let all = sections.is_empty()
        || sections.iter().any(|section| {
            [&b"all"[..], b"everything", b"default"]
                .iter()
                .any(|name| section.eq_ignore_ascii_case(name))
        });
    let wanted = |name: &str| {
        all || sections.iter().any(|section| section.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut out = String::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        if !wanted(name) {
            return;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        let (first, rest) = name.split_at(1);
        let _ = write!(out, "# {}{rest}\r\n", first.to_ascii_uppercase());
        for (name, value) in lines {
            let _ = write!(out, "{name}:{value}\r\n");
        }
    };
    section(
        "server",
        &[
            ("redis_version", REDIS_VERSION.into()),
            ("redis_mode", "standalone".into()),
            ("tetrarch_version", env!("CARGO_PKG_VERSION").into()),
            ("process_id", std::process::id().to_string()),
            ("tcp_port", counters.port.to_string()),
            ("uptime_in_seconds", now_s().saturating_sub(counters.started_s).to_string()),
        ],
    );
    section("clients", &[("connected_clients", counters.connections.to_string())]);
    section(
        "stats",
        &[
            ("total_connections_received", counters.connections_total.to_string()),
            ("rejected_connections", counters.connections_refused.to_string()),
            ("total_commands_processed", counters.commands.to_string()),
            ("protocol_errors", counters.protocol_errors.to_string()),
        ],
    );
    let mut lines = vec![
        ("role", "master".to_owned()),
        ("connected_slaves", "0".to_owned()),
        ("tetrarch_cluster", facts.description.clone()),
        ("tetrarch_replicas", facts.replicas.to_string()),
        ("tetrarch_replicas_connected", facts.replicas_connected.to_string()),
        ("tetrarch_faults_tolerated", facts.faults_tolerated.to_string()),
    ];
    lines.extend(facts.more.iter().map(|(name, value)| (name.as_str(), value.clone())));
    section("replication", &lines);
    out
}
