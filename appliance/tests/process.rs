//! Real processes on loopback: a cluster that loses a replica to SIGKILL, and clean ends.

#[path = "support/processes.rs"]
mod processes;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use processes::{LIMIT, Processes, TETRARCH, command, get, run, signal, text, wait};
use tetrarch_client::{Client, ClientConfig};
use tetrarch_dataplane::transport::choice::{self, TransportKind};
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_services::null::write_operation;

fn operation() -> [u8; 8] {
    let mut operation = [0; 8];
    assert!(write_operation(&mut operation, 3));
    operation
}

#[test]
fn four_processes_order_requests_and_survive_a_sigkill() {
    let mut cluster = Processes::init("cluster");
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    (0..4).for_each(|id| cluster.wait_for_links(id, 3));
    let mut config = ClientConfig::load(&cluster.directory, 0).expect("made by init");
    config.request_timeout = Duration::from_millis(1000);
    config.connect_timeout = LIMIT;
    config.operation_timeout = LIMIT;
    let client = Client::connect(config).expect("four replicas run");
    let session = client.session().expect("the first one");
    for _ in 0..20 {
        assert_eq!(session.invoke(&operation()).expect("ordered"), [0; 3]);
    }

    let mut leader = cluster.replicas[0].take().expect("it runs");
    leader.kill().expect("our child");
    leader.wait().expect("our child");
    for _ in 0..20 {
        assert_eq!(session.invoke(&operation()).expect("ordered without the leader"), [0; 3]);
    }

    let (status, output) = cluster.status();
    assert!(output.status.success(), "three of four are enough");
    assert_eq!(status["replicas"][0]["reachable"], false);
    for id in 1..4 {
        let replica = &status["replicas"][id];
        assert_eq!(replica["reachable"], true);
        assert!(replica["regency"].as_u64() >= Some(1), "{replica}");
        assert!(replica["leader"] != 0, "{replica}");
    }
    let table = run(&["status", text(&cluster.directory)], &[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("unreachable") && table.contains("3 of 4 answer"), "{table}");

    // The same replica comes back without its memory. It says so, and disturbs nobody.
    cluster.replicas[0] = Some(cluster.spawn(0));
    cluster.wait_for_links(0, 3);
    for _ in 0..20 {
        session.invoke(&operation()).expect("ordered beside a learner");
    }
    assert!(cluster.log(0).contains("restarted"), "{}", cluster.log(0));
    wait("the learner catches up", || cluster.log(0).contains("caught up"));

    drop(client);
    for id in 0..4 {
        let child = cluster.replicas[id].as_mut().expect("it runs");
        assert_eq!(signal(child, "-TERM"), Some(0), "{}", cluster.log(id));
        assert!(cluster.log(id).contains("stopped: decided"), "{}", cluster.log(id));
    }
}

/// A client that keeps its own record of what was acknowledged, while replicas are killed: all at once,
/// or more than the protocol tolerates.
#[test]
fn a_durable_cluster_keeps_what_it_acknowledged_when_all_are_killed() {
    let mut cluster = Processes::init_with("durable", "kv", &["--durable"]);
    let start = |cluster: &mut Processes, ids: &[usize]| {
        for &id in ids {
            // At once: the system takes its sockets from it a little later.
            cluster.replicas[id] = Some(cluster.spawn(id));
        }
    };
    cluster.replicas = (0..4).map(|_| None).collect();
    start(&mut cluster, &[0, 1, 2, 3]);
    let mut config = ClientConfig::load(&cluster.directory, 0).expect("made by init");
    config.request_timeout = Duration::from_millis(1000);
    (config.connect_timeout, config.operation_timeout) = (LIMIT, LIMIT);
    let client = Client::connect(config).expect("four replicas run");
    let session = client.session().expect("the first one");
    let acknowledged = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        // One request at a time: what is acknowledged is a prefix.
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Acquire) {
                let (key, value) = (format!("key-{number}"), format!("value-{number}"));
                session.invoke(&command(&["SET", &key, &value])).expect("written in the end");
                number += 1;
                acknowledged.store(number, Ordering::Release);
            }
            number
        });
        for ids in [&[0, 1, 2, 3][..], &[3, 2, 1, 0], &[0, 2], &[0, 1, 2, 3]] {
            let before = acknowledged.load(Ordering::Acquire);
            wait("writes are acknowledged", || acknowledged.load(Ordering::Acquire) > before + 40);
            for &id in ids {
                cluster.replicas[id].as_mut().expect("it runs").kill().expect("our child");
            }
            for &id in ids {
                cluster.replicas[id].take().expect("it ran").wait().expect("our child");
            }
            start(&mut cluster, ids);
        }
        let before = acknowledged.load(Ordering::Acquire);
        wait("writes are acknowledged at last", || acknowledged.load(Ordering::Acquire) > before);
        stop.store(true, Ordering::Release);
        writer.join().expect("no panic")
    });
    for number in 0..written {
        let value = get(&session, &format!("key-{number}"));
        assert_eq!(value, Some(format!("value-{number}")), "of {written}");
    }
    for id in 0..4 {
        // Three are enough to write: the fourth may not be back yet.
        wait("the log is read", || cluster.log(id).contains("records in"));
        assert!(!cluster.log(id).contains("misbehaviour"), "{}", cluster.log(id));
    }
    // One whose log is lost says so, and learns.
    cluster.replicas[3].as_mut().expect("it runs").kill().expect("our child");
    cluster.replicas[3].take().expect("it ran").wait().expect("our child");
    let log = |what: &str| run(&["log", what, text(&cluster.directory)], &["--id", "3"]);
    let (verified, dumped) = (log("verify"), log("dump"));
    let printed = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert!(printed(&verified).contains("whole: records 1 to"), "{}", printed(&verified));
    let lines = printed(&dumped);
    for record in
        ["memory whole", "write cid=", "accept cid=", "decided cid=", "installed regency="]
    {
        assert!(lines.contains(record), "no {record} in\n{lines}");
    }
    let directory = cluster.directory.join("replica-3.data").join("log");
    let segment = directory.join(format!("{:016}.segment", 1));
    let mut bytes = fs::read(&segment).expect("the first segment");
    // In the first group: a replica that was slow may have no second one there.
    bytes[4096 + 40] ^= 1;
    fs::write(&segment, bytes).expect("ours");
    let damaged = log("verify");
    let error = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(!damaged.status.success() && error.contains("damaged at byte"), "{error}");
    let refused = run(&["replica", text(&cluster.directory)], &["--id", "3"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("damaged at byte"), "{error}");
    fs::remove_dir_all(directory).expect("its log");
    start(&mut cluster, &[3]);
    cluster.wait_for_links(3, 3);
    for _ in 0..20 {
        assert!(get(&session, "key-0").is_some());
    }
    assert!(cluster.log(3).contains("its records are gone"), "{}", cluster.log(3));
    wait("the learner catches up", || cluster.log(3).contains("caught up"));
}

/// Nothing but checkpoints stands for the first records of the log: they are begun with, checked offline,
/// passed over when they are damaged, and missed when they are gone.
// rule: CKP.3
// rule: CKP.4
#[test]
fn a_log_is_cut_behind_checkpoints_and_a_damaged_one_is_passed_over() {
    let mut cluster = Processes::init_with("checkpoints", "kv", &["--durable"]);
    cluster.edit("cluster.toml", "checkpoint_every = 8192", "checkpoint_every = 64");
    for id in 0..4 {
        // Two megabytes and a little for each group, twice: the smallest there is.
        let log = "[log]\nsegment_mib = 7\ngroup_mib = 3\naccess = \"plain\"\n[limits]";
        cluster.edit(&format!("replica-{id}.toml"), "[limits]", log);
    }
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    let mut config = ClientConfig::load(&cluster.directory, 0).expect("made by init");
    config.request_timeout = Duration::from_millis(1000);
    (config.connect_timeout, config.operation_timeout) = (LIMIT, LIMIT);
    let client = Client::connect(config).expect("four replicas run");
    let session = client.session().expect("the first one");
    let data = |id: usize| cluster.directory.join(format!("replica-{id}.data"));
    let first_segment = |id: usize| data(id).join("log").join(format!("{:016}.segment", 1));
    let mut written = 0;
    // One request is one decision. Large ones fill a segment soon.
    let large = "x".repeat(16 * 1024);
    let mut write = || {
        for _ in 0..50 {
            let key = format!("key-{}", written % 100);
            let value = format!("{written} {large}");
            session.invoke(&command(&["SET", &key, &value])).expect("written in the end");
            written += 1;
        }
        written
    };
    let begun = Instant::now();
    while (0..4).any(|id| first_segment(id).exists()) {
        assert!(write() < 20_000 && begun.elapsed() < LIMIT, "the log is cut in the end");
    }
    let written = write();
    let stop = |child: &mut Option<Child>| {
        let mut child = child.take().expect("it runs");
        child.kill().expect("our child");
        child.wait().expect("our child");
    };
    cluster.replicas.iter_mut().for_each(stop);
    let tool = |tool: &str, what: &str, id: usize| {
        let output = run(&[tool, what, text(&cluster.directory)], &["--id", &id.to_string()]);
        let printed = [&output.stdout[..], &output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
    };
    for id in 0..4 {
        let (holds, lines) = tool("checkpoint", "verify", id);
        assert!(holds && lines.matches(" holds: ").count() == 2, "{lines}");
        let (listed, lines) = tool("checkpoint", "list", id);
        assert!(listed && lines.matches(" instance ").count() == 2, "{lines}");
        let (whole, lines) = tool("log", "verify", id);
        assert!(whole && !lines.contains("records 1 to"), "{lines}");
    }
    // Where two replicas have a checkpoint of one instance, it is the same.
    let mut roots = std::collections::BTreeMap::new();
    for line in (0..4).map(|id| tool("checkpoint", "list", id).1).collect::<String>().lines() {
        let field = |name: &str| {
            let mut words = line.split(' ').skip_while(|word| *word != name);
            words.nth(1).unwrap_or_default().to_owned()
        };
        let (instance, root) = (field("instance"), field("root"));
        assert_eq!(*roots.entry(instance).or_insert(root.clone()), root, "{line}");
    }
    let checkpoints = |id: usize| {
        let entries = fs::read_dir(data(id).join("checkpoints")).expect("a directory");
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // The last one may not be finished.
        paths.retain(|path| path.extension().is_some_and(|it| it == "checkpoint"));
        paths.sort();
        paths
    };
    // A bit of the newest of one replica is wrong, and another one has none at all.
    let newest = checkpoints(1).pop().expect("there are two");
    let mut bytes = fs::read(&newest).expect("ours");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&newest, bytes).expect("ours");
    let (holds, lines) = tool("checkpoint", "verify", 1);
    assert!(!holds && lines.contains("does not have its digest"), "{lines}");
    for path in checkpoints(2) {
        fs::remove_file(path).expect("ours");
    }
    let refused = run(&["replica", text(&cluster.directory)], &["--id", "2"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("there is no checkpoint in"), "{error}");
    for id in [0, 1, 3] {
        cluster.replicas[id] = Some(cluster.spawn(id));
    }
    for key in 0..100 {
        let newest = (written - 100..written).find(|at| at % 100 == key).expect("one of them");
        let value = get(&session, &format!("key-{key}"));
        let number = value.as_ref().and_then(|value| value.split(' ').next()).map(str::to_owned);
        assert_eq!(number, Some(newest.to_string()), "key-{key} of {written}");
    }
    for id in [0, 1, 3] {
        let log = cluster.log(id);
        assert!(log.contains("from checkpoint") && !log.contains("misbehaviour"), "{log}");
    }
    let log = cluster.log(1);
    assert!(log.contains("set aside, and the one before it used"), "{log}");
}

/// Two replicas and the client over io_uring, two replicas over epoll: the bytes are the same. Where
/// io_uring is forbidden, all use epoll, and those that would rather not say why.
#[test]
fn replicas_with_different_transports_are_one_cluster() {
    let mut cluster = Processes::init("transports");
    let probe = choice::open(TransportKind::IoUring.into(), TcpConfig::default());
    let (ring, says) = match probe {
        Ok(_) => (TransportKind::IoUring, "transport: io_uring"),
        Err(_) => (TransportKind::Auto, "uses TCP over epoll: cannot use io_uring"),
    };
    for (id, kind) in [TransportKind::Tcp, ring, ring, TransportKind::Tcp].iter().enumerate() {
        let file = cluster.directory.join(format!("replica-{id}.toml"));
        let text = fs::read_to_string(&file).expect("made by init");
        assert!(text.contains("transport = \"auto\""), "{text}");
        let text = text.replace("\"auto\"", &format!("\"{kind}\""));
        fs::write(&file, text).expect("ours");
    }
    cluster.replicas = (0..4).map(|id| Some(cluster.spawn(id))).collect();
    (0..4).for_each(|id| cluster.wait_for_links(id, 3));
    let mut config = ClientConfig::load(&cluster.directory, 0).expect("made by init");
    (config.connect_timeout, config.operation_timeout) = (LIMIT, LIMIT);
    config.transport = ring.into();
    let client = Client::connect(config).expect("four replicas run");
    let session = client.session().expect("the first one");
    for _ in 0..20 {
        assert_eq!(session.invoke(&operation()).expect("ordered"), [0; 3]);
    }
    for (id, line) in ["transport: tcp", says, says, "transport: tcp"].iter().enumerate() {
        assert!(cluster.log(id).contains(line), "{}", cluster.log(id));
    }
}

#[test]
fn the_cluster_command_runs_all_and_stops_all() {
    let cluster = Processes::init("command");
    let mut command = Command::new(TETRARCH);
    command.args(["cluster", text(&cluster.directory)]).stdin(Stdio::null());
    let mut parent = command.stderr(Stdio::piped()).spawn().expect("the binary was built");
    let stderr = parent.stderr.take().expect("piped");
    let log = std::thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
    });
    (0..4).for_each(|id| cluster.wait_for_links(id, 3));
    let code = signal(&mut parent, "-TERM");
    // The children hold the other end of the pipe: the log ends when all of them have.
    let log = log.join().expect("no panic");
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("stopped: decided").count(), 4, "{log}");
    let (status, output) = cluster.status();
    assert_eq!(output.status.code(), Some(2), "nobody answers any more");
    for id in 0..4 {
        assert_eq!(status["replicas"][id]["reachable"], false);
    }
}

#[test]
fn a_replica_that_cannot_start_says_why_and_fails() {
    let cluster = Processes::init("start");
    let fails = |arguments: &[&str]| {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let directory = text(&cluster.directory);
    let error = fails(&["replica", directory, "--id", "8"]);
    assert!(error.contains("replica-8.toml") && error.contains("--id"), "{error}");
    let key = cluster.directory.join("replica-1.key");
    fs::copy(cluster.directory.join("replica-2.key"), &key).expect("ours");
    let error = fails(&["replica", directory, "--id", "1"]);
    assert!(error.contains("does not fit") && error.contains("replica-1.key"), "{error}");
    let error = fails(&["init", directory]);
    assert!(error.contains("not empty"), "{error}");
}
