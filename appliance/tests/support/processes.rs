//! A cluster of real processes on loopback, for tests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tetrarch_appliance::ports::free_range;
use tetrarch_client::{Client, ClientConfig, Session};
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::kv::text as kv_text;
use tetrarch_services::wire::Reader;

pub const TETRARCH: &str = env!("CARGO_BIN_EXE_tetrarch");

/// No test takes longer; a process that hangs fails it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A cluster directory and its processes. Both are gone when the test ends, also when it fails.
pub struct Processes {
    pub directory: PathBuf,
    pub replicas: Vec<Option<Child>>,
}

impl Processes {
    pub fn init(name: &str) -> Self {
        Self::init_with(name, "null", &[])
    }

    pub fn init_with(name: &str, service: &str, more: &[&str]) -> Self {
        let directory =
            std::env::temp_dir().join(format!("tetrarch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        // Four for members and clients, four for metrics.
        let port = free_range(8).expect("a machine with free ports").to_string();
        let made = run(
            &[
                "init",
                text(&directory),
                "--service",
                service,
                "--base-port",
                &port,
                "--frames-mib",
                "16",
            ],
            &[&["--request-timeout-ms", "1000", "--clients", "2"], more].concat(),
        );
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { directory, replicas: Vec::new() }
    }

    pub fn spawn(&self, id: usize) -> Child {
        self.spawn_with(id, &[])
    }

    /// One that waits until cluster.toml names it.
    pub fn spawn_joiner(&self, id: usize) -> Child {
        self.spawn_with(id, &["--join"])
    }

    fn spawn_with(&self, id: usize, more: &[&str]) -> Child {
        let log = fs::File::create(self.log_path(id)).expect("a writable directory");
        let mut command = Command::new(TETRARCH);
        command.args(["replica", text(&self.directory), "--id", &id.to_string()]);
        command.args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().expect("the binary was built")
    }

    pub fn log_path(&self, id: usize) -> PathBuf {
        self.directory.join(format!("replica-{id}.log"))
    }

    pub fn log(&self, id: usize) -> String {
        fs::read_to_string(self.log_path(id)).unwrap_or_default()
    }

    /// Replaces what is in a file of the directory.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.directory.join(name);
        let text = fs::read_to_string(&path).expect("made by init");
        assert!(text.contains(from), "{name}: no {from}");
        fs::write(path, text.replace(from, to)).expect("ours");
    }

    /// Kills a replica and waits for its end.
    pub fn kill(&mut self, id: usize) {
        let mut child = self.replicas[id].take().expect("it runs");
        child.kill().expect("our child");
        child.wait().expect("our child");
    }

    /// A client of four replicas, with patience.
    pub fn client(&self) -> Client {
        let mut config = ClientConfig::load(&self.directory, 0).expect("made by init");
        config.request_timeout = Duration::from_millis(1000);
        (config.connect_timeout, config.operation_timeout) = (LIMIT, LIMIT);
        Client::connect(config).expect("replicas run")
    }

    /// Makes keys for a replica that is no member yet.
    pub fn make_keys(&self, id: usize) -> String {
        let port = free_range(2).expect("a machine with ports");
        let at = |port: u16| format!("127.0.0.1:{port}");
        let made = run(
            &["view", "keys", text(&self.directory), "--id", &id.to_string()],
            &["--address", &at(port), "--metrics", &at(port + 1)],
        );
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.directory.join(format!("replica-{id}.public")).display().to_string()
    }

    /// `tetrarch view WHAT` of this cluster: whether it went well, and all that it said.
    pub fn view(&self, what: &str, more: &[&str]) -> (bool, String) {
        let output = run(&["view", what, text(&self.directory)], more);
        let said = [&output.stdout[..], &output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Until `id` is in view `view`.
    pub fn wait_for_view(&self, id: usize, view: u64) {
        wait(&format!("replica {id} is in view {view}"), || {
            let status = self.status().0;
            let mut replicas = status["replicas"].as_array().into_iter().flatten();
            replicas.any(|it| it["id"] == id && it["view"] == view && it["joining"] == false)
        });
    }

    pub fn status(&self) -> (serde_json::Value, Output) {
        let output = run(&["status", text(&self.directory)], &["--json"]);
        let json = serde_json::from_slice(&output.stdout).expect("status --json prints JSON");
        (json, output)
    }

    /// Until `id` says that it has links with `peers` others.
    pub fn wait_for_links(&self, id: usize, peers: u64) {
        wait(&format!("replica {id} has {peers} links"), || {
            self.status().0["replicas"][id]["peers_up"].as_u64() == Some(peers)
        });
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (id, child) in self.replicas.iter_mut().enumerate() {
            if let Some(mut child) = child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                let log = fs::read_to_string(self.directory.join(format!("replica-{id}.log")));
                eprintln!("--- replica {id}\n{}", log.unwrap_or_default());
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a plain temporary directory")
}

pub fn run(first: &[&str], second: &[&str]) -> Output {
    let mut command = Command::new(TETRARCH);
    command.args(first).args(second).stdin(Stdio::null()).output().expect("the binary was built")
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends a signal by name and waits for the exit code.
pub fn signal(child: &mut Child, name: &str) -> Option<i32> {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.expect("kill exists").success());
    let mut code = None;
    wait("the process ends", || match child.try_wait().expect("our child") {
        Some(status) => {
            code = status.code();
            true
        }
        None => false,
    });
    code
}

/// A command of the key-value store.
pub fn command(words: &[&str]) -> Vec<u8> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut writer = OperationWriter::new();
    writer.push(&kv_text::parse(&words).expect("a command"));
    writer.bytes().to_vec()
}

pub fn get(session: &Session, key: &str) -> Option<String> {
    let answer = session.invoke(&command(&["GET", key])).expect("ordered");
    match Reply::read(&mut Reader::new(&answer)).expect("a reply") {
        Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}
