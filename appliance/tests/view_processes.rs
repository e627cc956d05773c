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

/// What is asked for in vain changes nothing, and says what to do.
// rule: VIEW.2
#[test]
fn what_cannot_be_asked_for_says_why() {
    let cluster = cluster("views-errors", &[]);
    let file = |name: &str| cluster.directory.join(name);
    let view = |what: &str, more: &[&str]| cluster.view(what, more);
    says(&view("show", &[]), true, &["view 0: 4 replicas, f = 1 (byzantine), 3 decide"]);
    says(&view("remove", &["9"]), false, &["replica = 9", "not a member", "0, 1, 2, 3"]);
    says(&view("remove", &["3"]), false, &["cluster.f = 1", "at least 4"]);
    says(&view("set-f", &["2"]), false, &["cluster.f = 2", "at least 7"]);
    says(&view("set-f", &["1"]), false, &["nothing would change"]);
    says(
        &view("add", &["--keys", "nowhere.public"]),
        false,
        &["nowhere.public", "tetrarch view keys"],
    );
    let keys = cluster.make_keys(4);
    let rotate = view("rotate-keys", &["--keys", &keys]);
    says(&rotate, false, &["replica = 4", "not a member", "tetrarch view add"]);
    says(
        &view("add", &["--keys", &keys, "--dry-run"]),
        true,
        &["+ replica 4", "leave --dry-run out"],
    );

    // Nobody but the View Manager, with the keys that the cluster knows.
    let key = file("view-manager.key");
    let kept = fs::read(&key).expect("made by init");
    fs::copy(file("client-0.key"), &key).expect("ours");
    says(&view("add", &["--keys", &keys]), false, &["view-manager.key", "the view manager"]);
    fs::remove_file(&key).expect("ours");
    says(&view("add", &["--keys", &keys]), false, &["view-manager.key", "cannot read"]);
    fs::copy(file("client-0.key"), &key).expect("ours");
    fs::write(&key, kept).expect("ours");

    // Too few members stay: two of four may not go in one step.
    let more = [cluster.make_keys(5), cluster.make_keys(6)];
    says(&view("add", &["--keys", &keys, "--keys", &more[0]]), true, &["decided: view 1"]);
    assert!(!file("cluster.view-1.toml").exists());
    says(&view("add", &["--keys", &keys]), false, &["replica = 4", "a member has this id"]);
    let gone = view("remove", &["0", "1", "2", "3"]);
    says(&gone, false, &["2 replicas cannot tolerate f = 1"]);

    // An old file does no harm: what is asked for is made of the view that rules.
    (0..4).for_each(|id| cluster.wait_for_view(id, 1));
    fs::copy(file("cluster.view-0.toml"), file("cluster.toml")).expect("kept");
    let stale = ["cluster.toml describes view 0, and view 1 rules", "bring the newest one here"];
    says(&view("show", &[]), true, &stale);
    let asked = view("add", &["--keys", &more[1]]);
    let parts =
        ["view 1 rules, and cluster.toml here describes view 0", "n = 6, f = 1", "decided: view 2"];
    says(&asked, true, &parts);
    (0..4).for_each(|id| cluster.wait_for_view(id, 2));
    let status = cluster.status().0;
    assert_eq!((&status["view"], &status["listed_view"]), (&2.into(), &2.into()));
    for id in 0..4 {
        assert!(!cluster.log(id).contains("misbehaviour"), "{}", cluster.log(id));
    }
}

/// New keys are made on the replica's machine and named by a view. A replica that was not started since they were
/// made learns of them at its next start.
#[test]
fn keys_change_while_replicas_work() {
    let mut cluster = cluster("views-keys", &["--durable"]);
    let mut record = Record::default();
    let client = cluster.client();
    record.write(&client.session().expect("the first one"), 20);
    drop(client);
    let remake = |id: usize| {
        let made = run(&["view", "keys", text(&cluster.directory)], &["--id", &id.to_string()]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        cluster.directory.join(format!("replica-{id}.public")).display().to_string()
    };
    let (two, three) = (remake(2), remake(3));
    cluster.kill(2);
    cluster.replicas[2] = Some(cluster.spawn(2));
    cluster.wait_for_links(2, 3);
    let asked = cluster.view("rotate-keys", &["--keys", &two, "--keys", &three]);
    says(
        &asked,
        true,
        &["~ replica 2 gets the keys", "~ replica 3 gets the keys", "decided: view 1"],
    );
    for id in 0..3 {
        cluster.wait_for_view(id, 1);
    }
    wait("it lacks its keys", || {
        cluster.log(3).contains("names replica 3 with keys that are not here")
    });
    cluster.kill(3);
    cluster.replicas[3] = Some(cluster.spawn(3));
    for id in 0..4 {
        cluster.wait_for_view(id, 1);
        cluster.wait_for_links(id, 3);
    }
    // Each of them is needed once.
    let client = cluster.client();
    let session = client.session().expect("the first one");
    for id in [0, 1] {
        cluster.kill(id);
        record.write(&session, 20);
        cluster.replicas[id] = Some(cluster.spawn(id));
        cluster.wait_for_links(id, 3);
    }
    record.check(&session);
    // And the keys of before are of no use any more.
    assert!(cluster.log(3).contains("in view 1") || cluster.view("show", &[]).1.contains("view 1"));
}

/// Who joins when nobody keeps the first decisions any more begins with a checkpoint of the view that names it.
// rule: ST.5
#[test]
fn one_that_joins_late_gets_a_checkpoint() {
    let mut cluster = Processes::init_with("views-late", "kv", &["--durable"]);
    cluster.edit("cluster.toml", "checkpoint_every = 8192", "checkpoint_every = 64");
    for id in 0..4 {
        cluster.edit(
            &format!("replica-{id}.toml"),
            "decision_log_mib = 64",
            "decision_log_mib = 10",
        );
    }
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    let client = cluster.client();
    let session = client.session().expect("the first one");
    let (large, mut written) = ("x".repeat(100 * 1024), 0);
    let mut write = |session: &Session, count: usize| {
        for _ in 0..count {
            let (key, value) = (format!("key-{}", written % 20), format!("{written} {large}"));
            session.invoke(&command(&["SET", &key, &value])).expect("written in the end");
            written += 1;
        }
        written
    };
    write(&session, 200);
    let keys = cluster.make_keys(4);
    let joiner = cluster.spawn_joiner(4);
    cluster.replicas.push(Some(joiner));
    says(&cluster.view("add", &["--keys", &keys]), true, &["decided: view 1"]);
    (0..4).for_each(|id| cluster.wait_for_view(id, 1));
    wait("it begins with what the others have", || {
        write(&session, 20);
        cluster.log(4).contains(": installed in")
    });
    wait("it is in the view", || {
        write(&session, 1);
        cluster.log(4).contains("view 1 begins")
    });
    cluster.wait_for_view(4, 1);
    // Four of five are needed, so it is one of them.
    cluster.kill(0);
    let written = write(&session, 60);
    for key in 0..20 {
        let newest = (0..written).rev().find(|at| at % 20 == key).expect("one of them");
        let value = get(&session, &format!("key-{key}")).expect("written");
        assert_eq!(value.split(' ').next(), Some(newest.to_string().as_str()));
    }
    assert!(!cluster.log(4).contains("misbehaviour"), "{}", cluster.log(4));
}
