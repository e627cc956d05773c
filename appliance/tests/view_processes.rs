//! Real processes whose members change while they work.

#[path = "support/processes.rs"]
mod processes;

use std::fs;
use std::process::Child;

use processes::{Processes, command, get, run, text, wait};
use tetrarch_client::Session;

/// Four replicas that take checkpoints often.
fn cluster(name: &str, more: &[&str]) -> Processes {
    let mut cluster = Processes::init_with(name, "kv", more);
    cluster.edit("cluster.toml", "checkpoint_every = 8192", "checkpoint_every = 64");
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    (0..4).for_each(|id| cluster.wait_for_links(id, 3));
    cluster
}

/// Writes keys, each once.
#[derive(Default)]
struct Record(usize);

impl Record {
    fn write(&mut self, session: &Session, count: usize) {
        for number in self.0..self.0 + count {
            let (key, value) = (format!("key-{number}"), format!("value-{number}"));
            session.invoke(&command(&["SET", &key, &value])).expect("written in the end");
        }
        self.0 += count;
    }

    fn check(&self, session: &Session) {
        for number in 0..self.0 {
            let value = get(session, &format!("key-{number}"));
            assert_eq!(value, Some(format!("value-{number}")), "of {}", self.0);
        }
    }
}

fn says(said: &(bool, String), well: bool, parts: &[&str]) {
    assert_eq!(said.0, well, "{}", said.1);
    for part in parts {
        assert!(said.1.contains(part), "{part:?} is missing in: {}", said.1);
    }
}

/// Until a process has ended by itself; its exit code.
fn end(child: &mut Option<Child>) -> Option<i32> {
    let mut child = child.take().expect("it ran");
    let mut code = None;
    wait("it ends by itself", || match child.try_wait().expect("our child") {
        Some(status) => {
            code = status.code();
            true
        }
        None => false,
    });
    code
}

// rule: VIEW.5
// rule: VIEW.8
// rule: VIEW.9
#[test]
fn members_come_go_and_restart_in_later_views() {
    let mut cluster = cluster("views", &["--durable"]);
    let mut record = Record::default();
    let client = cluster.client();
    record.write(&client.session().expect("the first one"), 100);
    drop(client);

    // The new one is there before anybody knows of it, and is not needed by then.
    let keys = cluster.make_keys(4);
    cluster.replicas.push(Some(cluster.spawn_joiner(4)));
    wait("it waits", || cluster.log(4).contains("waiting for a cluster.toml that names replica 4"));
    let added = cluster.view("add", &["--keys", &keys]);
    says(&added, true, &["+ replica 4", "n = 4, f = 1", "n = 5, f = 1", "decided: view 1 rules"]);
    for id in 0..5 {
        cluster.wait_for_view(id, 1);
    }
    let client = cluster.client();
    record.write(&client.session().expect("the first one"), 100);
    drop(client);

    // The leader goes, and ends when it is not needed.
    says(&cluster.view("remove", &["0"]), true, &["- replica 0", "decided: view 2 rules"]);
    assert_eq!(end(&mut cluster.replicas[0]), Some(0), "{}", cluster.log(0));
    assert!(cluster.log(0).contains("view 2 works without this replica"), "{}", cluster.log(0));
    let client = cluster.client();
    record.write(&client.session().expect("the first one"), 100);
    drop(client);
    for id in 1..5 {
        cluster.wait_for_view(id, 2);
        assert!(!cluster.log(id).contains("misbehaviour"), "{}", cluster.log(id));
    }
    let started = cluster.spawn(0);
    cluster.replicas[0] = Some(started);
    assert_eq!(end(&mut cluster.replicas[0]), Some(1), "{}", cluster.log(0));
    assert!(cluster.log(0).contains("no member of view 2"), "{}", cluster.log(0));

    // All of them come back to the view that they were in, whatever the file says that they find.
    (1..5).for_each(|id| cluster.kill(id));
    for id in [1, 4] {
        let verify =
            |what| run(&[what, "verify", text(&cluster.directory)], &["--id", &id.to_string()]);
        for output in [verify("log"), verify("checkpoint")] {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let file = cluster.directory.join("cluster.toml");
    let newest = fs::read(&file).expect("written by tetrarch view");
    fs::copy(cluster.directory.join("cluster.view-0.toml"), &file).expect("kept");
    for id in 1..5 {
        cluster.replicas[id] = Some(cluster.spawn(id));
    }
    for id in 1..5 {
        let found = "in view 2 (replicas 1, 2, 3, 4, f = 1), as this replica remembers";
        wait("it is back", || cluster.log(id).contains(found));
        assert!(cluster.log(id).contains("cluster.toml here describes view 0"));
    }
    // Who asks with the old file is told so.
    let (status, _) = cluster.status();
    assert_eq!((&status["view"], &status["listed_view"]), (&2.into(), &0.into()));
    fs::write(&file, newest).expect("ours");
    let client = cluster.client();
    let session = client.session().expect("the first one");
    record.write(&session, 100);
    record.check(&session);
    // Three of four are needed now, so the new one is among those that decide.
    cluster.kill(1);
    record.write(&session, 100);
    record.check(&session);
}

/// What a volatile replica was told of views outlives it, though nothing else does.
#[test]
fn a_volatile_replica_comes_back_in_a_later_view() {
    let mut cluster = cluster("views-volatile", &[]);
    let mut record = Record::default();
    let keys = cluster.make_keys(7);
    let joiner = cluster.spawn_joiner(7);
    cluster.replicas.resize_with(7, || None);
    cluster.replicas.push(Some(joiner));
    says(&cluster.view("replace", &["0", "--keys", &keys]), true, &["- replica 0", "+ replica 7"]);
    assert_eq!(end(&mut cluster.replicas[0]), Some(0), "{}", cluster.log(0));
    cluster.wait_for_view(7, 1);
    let client = cluster.client();
    let session = client.session().expect("the first one");
    record.write(&session, 100);
    for id in [7, 2] {
        cluster.kill(id);
        record.write(&session, 20);
        cluster.replicas[id] = Some(cluster.spawn(id));
        cluster.wait_for_view(id, 1);
        wait("it has caught up", || {
            record.write(&session, 20);
            cluster.log(id).contains("caught up")
        });
    }
    record.check(&session);
}
