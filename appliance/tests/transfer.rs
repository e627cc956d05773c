//! Replicas that were away longer than the others keep decisions, as real processes: they get a checkpoint.

#[path = "support/processes.rs"]
mod processes;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use processes::{Processes, command, get, run, text, wait};
use tetrarch_client::Session;

/// Bytes of each value; a hundred of them are some forty chunks.
const VALUE_SIZE: usize = 100 * 1024;
const KEYS: u64 = 100;

/// Four replicas that take checkpoints often, keep few decisions and send at `rate` MiB a second.
fn cluster(name: &str, more: &[&str], rate: usize) -> Processes {
    // A hundred decisions of such values: more than there are between two checkpoints.
    cluster_with(name, more, rate, 10)
}

/// The same, with so many MiB for decisions.
fn cluster_with(name: &str, more: &[&str], rate: usize, memory: usize) -> Processes {
    let mut cluster = Processes::init_with(name, "kv", more);
    cluster.edit("cluster.toml", "checkpoint_every = 8192", "checkpoint_every = 64");
    for id in 0..4 {
        let file = format!("replica-{id}.toml");
        let memory = format!("decision_log_mib = {memory}");
        cluster.edit(&file, "decision_log_mib = 64", &memory);
        let transfer = format!("[transfer]\nrate_mib = {rate}\npeer_rate_mib = {rate}\n[limits]");
        cluster.edit(&file, "[limits]", &transfer);
    }
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    cluster
}

/// Writes values until `count` more decisions were made, with a round over all keys at least.
struct Writer<'a> {
    session: &'a Session,
    written: u64,
}

impl Writer<'_> {
    fn write(&mut self, count: u64) {
        for _ in 0..count {
            let key = format!("key-{}", self.written % KEYS);
            let value = format!("{} {}", self.written, "x".repeat(VALUE_SIZE));
            self.session.invoke(&command(&["SET", &key, &value])).expect("written in the end");
            self.written += 1;
        }
    }

    /// What was acknowledged is what is read.
    fn check(&self) {
        for key in 0..KEYS {
            let newest = self.written.saturating_sub(KEYS)..self.written;
            let newest = newest.into_iter().find(|at| at % KEYS == key).expect("one of them");
            let value = get(self.session, &format!("key-{key}")).expect("written");
            let number = value.split(' ').next().map(str::to_owned);
            assert_eq!(number, Some(newest.to_string()), "key-{key} of {}", self.written);
        }
    }
}

fn replica(cluster: &Processes, id: usize) -> serde_json::Value {
    cluster.status().0["replicas"][id].clone()
}

fn number(status: &serde_json::Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or(0)
}

/// Until `id` has executed what another one has, while nobody writes.
fn wait_until_even(cluster: &Processes, id: usize, with: usize) {
    wait("it catches up", || {
        let status = cluster.status().0;
        let executed = |id: usize| number(&status["replicas"][id], "executed");
        executed(id) > 0 && executed(id) == executed(with)
    });
}

/// Until so many chunks of the checkpoint that `id` fetches are there.
fn wait_for_chunks(cluster: &Processes, id: usize, chunks: u64) {
    wait("some chunks", || number(&replica(cluster, id)["transfer"], "chunks") >= chunks);
}

fn checkpoints(cluster: &Processes, id: usize) -> PathBuf {
    cluster.directory.join(format!("replica-{id}.data")).join("checkpoints")
}

/// What `log verify` says of a log that holds.
fn verify_log(cluster: &Processes, id: usize) -> String {
    let id = id.to_string();
    let output = run(&["log", "verify", text(&cluster.directory)], &["--id", &id]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `N` of the last line of the log with `before N after`.
fn number_in(log: &str, before: &str, after: &str) -> Option<u64> {
    let line = log.lines().rev().find(|line| line.contains(before) && line.contains(after))?;
    line.split(before).nth(1)?.split(after).next()?.trim().parse().ok()
}

// rule: ST.5
#[test]
fn a_replica_that_was_away_too_long_gets_a_checkpoint_and_serves() {
    let mut cluster = cluster("away", &["--durable"], 64);
    let client = cluster.client();
    let session = client.session().expect("the first one");
    let mut writer = Writer { session: &session, written: 0 };
    writer.write(80);
    cluster.kill(3);
    writer.write(200);
    cluster.replicas[3] = Some(cluster.spawn(3));
    wait("it is installed", || cluster.log(3).contains(": installed in"));
    writer.write(10);
    wait_until_even(&cluster, 3, 0);
    assert!(cluster.log(3).contains("behind: decided"), "{}", cluster.log(3));
    assert!(!replica(&cluster, 3)["behind"].as_bool().expect("a flag"));

    // Its disk is empty, but for the mark that it ran: it learns, and is sent a state all the same.
    cluster.kill(3);
    let verified = verify_log(&cluster, 3);
    assert!(verified.contains("whole: records"), "what was not here is no gap: {verified}");
    let data = cluster.directory.join("replica-3.data");
    fs::remove_dir_all(data.join("log")).expect("its log");
    fs::remove_dir_all(data.join("checkpoints")).expect("its checkpoints");
    writer.write(200);
    cluster.replicas[3] = Some(cluster.spawn(3));
    wait("it is installed", || cluster.log(3).contains(": installed in"));
    // As many decisions as show that it can contradict nobody, and a checkpoint of its own behind that.
    writer.write(130);
    wait("the learner votes", || cluster.log(3).contains("caught up"));
    wait_until_even(&cluster, 3, 0);

    // Three are needed now, so it is one of them.
    cluster.kill(0);
    writer.write(130);
    writer.check();
    wait_until_even(&cluster, 3, 1);
    for id in 1..4 {
        assert!(!cluster.log(id).contains("misbehaviour"), "{}", cluster.log(id));
        cluster.kill(id);
    }
    // Its state is that of the others: where two have a checkpoint of one instance, it is the same.
    let list = |id: usize| {
        let list =
            run(&["checkpoint", "verify", text(&cluster.directory)], &["--id", &id.to_string()]);
        assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stdout));
        String::from_utf8_lossy(&list.stdout).into_owned()
    };
    let mut roots: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for id in 1..4 {
        for line in list(id).lines() {
            let field = |name: &str| {
                let mut words = line.split(' ').skip_while(|word| *word != name);
                words.nth(1).unwrap_or_default().to_owned()
            };
            roots.entry(field("instance")).or_default().push((id, field("root")));
        }
    }
    let mut shared = roots.values().filter(|of| of.len() > 1 && of.iter().any(|(id, _)| *id == 3));
    assert!(shared.clone().next().is_some(), "{roots:?}");
    assert!(shared.all(|of| of.iter().all(|(_, root)| *root == of[0].1)), "{roots:?}");
    // And it starts from what it has.
    for id in 1..4 {
        cluster.replicas[id] = Some(cluster.spawn(id));
    }
    writer.check();
    assert!(cluster.log(3).contains("from checkpoint"), "{}", cluster.log(3));
}

// rule: ST.3
// rule: ST.4
#[test]
fn a_transfer_goes_on_when_the_receiver_or_a_source_is_killed_and_past_a_damaged_file() {
    let mut cluster = cluster("killed", &["--durable"], 1);
    let client = cluster.client();
    let session = client.session().expect("the first one");
    let mut writer = Writer { session: &session, written: 0 };
    writer.write(10);
    cluster.kill(3);
    writer.write(200);
    wait("checkpoints are written", || {
        (0..3).all(|id| cluster.log(id).contains("checkpoint 192: durable"))
    });
    // The disk of one source is bad: it notices, and sends nothing false.
    let newest = checkpoints(&cluster, 1).join(format!("{:016}.checkpoint", 192));
    let file = fs::File::options().write(true).open(&newest).expect("ours");
    let size = file.metadata().expect("ours").len();
    (4096..size).step_by(100_000).for_each(|at| file.write_all_at(b"bad", at).expect("ours"));

    cluster.replicas[3] = Some(cluster.spawn(3));
    wait_for_chunks(&cluster, 3, 8);
    cluster.kill(3);
    let verified = verify_log(&cluster, 3);
    assert!(verified.contains("of checkpoint 192 are there and hold"), "{verified}");
    cluster.replicas[3] = Some(cluster.spawn(3));
    wait_for_chunks(&cluster, 3, 16);
    let log = cluster.log(3);
    let kept = number_in(&log, "chunks, of which ", " are here").expect("it went on");
    assert!(kept >= 8, "{kept} chunks were kept: {log}");
    // Of the two good sources one is left.
    cluster.kill(2);
    wait("it is installed", || cluster.log(3).contains(": installed in"));
    let log = cluster.log(3);
    let fetched = number_in(&log, ": fetched ", " chunks").expect("it said so");
    let all = number_in(&log, " MiB in ", " chunks").expect("it said so");
    assert!(fetched + kept == all && fetched < all, "{fetched} and {kept} of {all}: {log}");
    assert!(!log.contains("misbehaviour"), "a bad disk is no lie: {log}");
    assert!(cluster.log(1).contains("it is given to nobody any more"), "{}", cluster.log(1));
    writer.write(100);
    writer.check();
    wait_until_even(&cluster, 3, 0);
}

#[test]
fn a_volatile_replica_that_restarts_gets_a_checkpoint() {
    let mut cluster = cluster("volatile", &[], 64);
    let client = cluster.client();
    let session = client.session().expect("the first one");
    let mut writer = Writer { session: &session, written: 0 };
    writer.write(200);
    cluster.kill(3);
    writer.write(10);
    cluster.replicas[3] = Some(cluster.spawn(3));
    wait("it is installed", || cluster.log(3).contains(": installed in"));
    writer.write(10);
    wait("the learner votes", || cluster.log(3).contains("caught up"));
    wait_until_even(&cluster, 3, 0);
    for id in 0..4 {
        let left = fs::read_dir(checkpoints(&cluster, id)).expect("a directory").count();
        assert_eq!(left, 0, "what a volatile replica writes has no name");
    }
    cluster.kill(0);
    writer.write(20);
    writer.check();
}

/// Memory holds twenty decisions of such values, 64 lie between two checkpoints, and another replica is gone for good:
/// nothing is decided before this one is level, and the others take a checkpoint for it where they stand.
// rule: CKP.6
#[test]
fn a_cluster_that_stands_still_takes_a_checkpoint_for_the_one_that_it_needs() {
    let mut cluster = cluster_with("standstill", &["--durable"], 64, 1);
    let client = cluster.client();
    let session = client.session().expect("the first one");
    let mut writer = Writer { session: &session, written: 0 };
    writer.write(10);
    cluster.kill(3);
    writer.write(170);
    wait("checkpoints are written", || {
        (0..3).all(|id| cluster.log(id).contains("checkpoint 128: durable"))
    });
    cluster.kill(2);
    cluster.replicas[3] = Some(cluster.spawn(3));
    writer.write(20);
    writer.check();
    wait_until_even(&cluster, 3, 0);
}
