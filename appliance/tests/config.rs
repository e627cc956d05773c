//! Every error of a configuration names file, field, value and remedy.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tetrarch_appliance::config::{PlacementFile, Plan};
use tetrarch_appliance::init::{InitOptions, init};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_client::cluster::{CHECKPOINT_EVERY, Cluster, PrivateKeys};
use tetrarch_consensus::FaultModel;
use tetrarch_dataplane::transport::choice::TransportKind;

/// A directory that is gone when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tetrarch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    /// A new cluster in a new directory.
    fn cluster(name: &str) -> Self {
        let directory = Self::new(name);
        init(&directory.0, &options()).expect("a new cluster");
        directory
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.0.join(file);
        let text = fs::read_to_string(&path).expect("written by init");
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        fs::write(&path, text.replacen(from, to, 1)).expect("writable");
    }

    /// What `tetrarch replica --id ID` would say.
    fn error(&self, id: u16) -> String {
        Plan::load(&self.0, id).expect_err("it must not load").to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options() -> InitOptions {
    InitOptions {
        replicas: 4,
        f: None,
        depth: 1,
        model: FaultModel::Byzantine,
        clients: 2,
        base_port: 17000,
        hosts: Vec::new(),
        service: ServiceKind::Kv,
        request_timeout_ms: 2000,
        durable: false,
        checkpoint_every: CHECKPOINT_EVERY,
        transport: TransportKind::Auto,
        placement: PlacementFile::default(),
        frames_mib: None,
    }
}

fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn what_init_writes_loads_for_everybody_and_is_secret_where_it_must_be() {
    let directory = Directory::cluster("init");
    for id in 0..4 {
        let plan = Plan::load(&directory.0, id).expect("valid");
        assert_eq!((plan.id.0, plan.cluster.f), (id, 1));
        assert_eq!(plan.listen.port(), 17000 + id);
        assert_eq!(plan.metrics.port(), 17004 + id);
        assert_eq!(plan.core.clients_max, 2);
    }
    let secret =
        ["replica-0.key", "replica-3.key", "client-0.key", "client-1.key", "view-manager.key"];
    for name in secret {
        let mode = fs::metadata(directory.0.join(name)).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let text = fs::read_to_string(directory.0.join("cluster.toml")).expect("written");
    let again = Cluster::parse(&text, Path::new("cluster.toml")).expect("valid");
    assert_eq!(again.to_toml(), text);
    let manager = again.view_manager.expect("the cluster can be changed");
    let keys = PrivateKeys::load(&directory.0.join("view-manager.key")).expect("valid");
    assert_eq!(keys.static_secret.public(), manager.static_key);
    assert_eq!(keys.signing_key.verifying_key().to_bytes(), manager.signing_key.to_bytes());
    let secret = fs::read_to_string(directory.0.join("replica-0.key")).expect("written");
    let secret = secret.lines().find_map(|line| line.split('"').nth(1)).expect("a key");
    assert!(!text.contains(secret));
}

#[test]
fn init_refuses_to_overwrite_and_impossible_numbers() {
    let directory = Directory::cluster("refuse");
    let error = init(&directory.0, &options()).expect_err("not empty").to_string();
    says(&error, &["not empty", "nothing was changed"]);
    let fail = |change: &dyn Fn(&mut InitOptions)| {
        let fresh = Directory::new("refuse-options");
        let mut options = options();
        change(&mut options);
        let error = init(&fresh.0, &options).expect_err("impossible").to_string();
        assert!(!fresh.0.join("cluster.toml").exists(), "half a cluster was left");
        error
    };
    let error = fail(&|options| options.f = Some(2));
    says(&error, &["cluster.f = 2", "4 replicas", "at least 7", "lower f"]);
    let error = fail(&|options| options.base_port = 65_530);
    says(&error, &["--base-port", "65530", "two ports"]);
    says(&fail(&|options| options.clients = 0), &["--clients", "1 to 65536"]);
    says(&fail(&|options| options.replicas = 0), &["--replicas"]);
    says(&fail(&|options| options.hosts = vec!["a".into(), " ".into()]), &["--hosts"]);
}

#[test]
fn too_few_replicas_and_repeated_ids_addresses_and_keys() {
    let directory = Directory::cluster("members");
    directory.edit("cluster.toml", "f = 1", "f = 2");
    says(&directory.error(0), &["cluster.toml", "f = 2", "4 replicas", "at least 7"]);
    directory.edit("cluster.toml", "f = 2", "f = 1");
    directory.edit("cluster.toml", "depth = 1", "depth = 33");
    says(&directory.error(0), &["cluster.toml", "cluster.depth = 33", "use 1 to 32"]);
    directory.edit("cluster.toml", "depth = 33", "depth = 1");
    directory.edit("cluster.toml", "reply_cache_mib = 64", "reply_cache_mib = 0");
    says(&directory.error(0), &["cluster.toml", "cluster.reply_cache_mib = 0", "use 1 to 65536"]);
    directory.edit("cluster.toml", "reply_cache_mib = 0", "reply_cache_mib = 9");
    assert_eq!(Plan::load(&directory.0, 0).expect("valid").sizes.reply_cache_size, 9 << 20);
    directory.edit("cluster.toml", "id = 2\n", "id = 1\n");
    says(&directory.error(0), &["cluster.toml", "replica.id = 1", "twice", "id of its own"]);
    directory.edit(
        "cluster.toml",
        "id = 1\naddress = \"127.0.0.1:17002",
        "id = 2\naddress = \"127.0.0.1:17001",
    );
    let parts = ["cluster.toml", "127.0.0.1:17001", "replica 1 has the same", "of its own"];
    says(&directory.error(0), &parts);
    directory.edit(
        "cluster.toml",
        "id = 2\naddress = \"127.0.0.1:17001",
        "id = 2\naddress = \"127.0.0.1:17002",
    );
    let text = fs::read_to_string(directory.0.join("cluster.toml")).expect("written");
    let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("static_key")).collect();
    directory.edit("cluster.toml", keys[1], keys[0]);
    says(&directory.error(0), &["cluster.toml", "same key", "keys"]);
}

#[test]
fn a_wrong_key_wrong_permissions_and_a_missing_key() {
    let directory = Directory::cluster("keys");
    let key = |id: u16| directory.0.join(format!("replica-{id}.key"));
    fs::copy(key(1), key(0)).expect("writable");
    let parts = ["replica-0.key", "does not fit", "replica 0", "made together"];
    says(&directory.error(0), &parts);
    fs::set_permissions(key(1), fs::Permissions::from_mode(0o644)).expect("ours");
    says(&directory.error(1), &["replica-1.key", "mode = 0644", "chmod 600"]);
    fs::remove_file(key(2)).expect("ours");
    says(&directory.error(2), &["replica-2.key", "cannot read"]);
    directory.edit("replica-3.key", "static_secret = \"", "static_secret = \"zz");
    let error = directory.error(3);
    says(&error, &["replica-3.key", "static_secret"]);
    assert!(!error.contains("zz"), "a secret is shown: {error}");
}

#[test]
fn fields_that_do_not_exist_and_values_that_cannot_be() {
    let directory = Directory::cluster("fields");
    let file = "replica-0.toml";
    for (from, to, parts) in [
        ("service = \"kv\"", "service = \"redis\"", &["service = \"redis\"", "\"kv\""][..]),
        ("service = \"kv\"", "servise = \"kv\"", &["line 4", "unknown field", "spelling"]),
        ("id = 0", "id = 7", &["id = 7", "for replica 0", "two with one id"]),
        ("metrics = \"127.0.0.1:17004\"", "metrics = \"nowhere\"", &["metrics", "host:port"]),
        ("metrics = \"127.0.0.1:17004\"", "metrics = \"127.0.0.1:17000\"", &["same address"]),
        ("transport = \"auto\"", "transport = \"udp\"", &["transport = \"udp\"", "io_uring"]),
        (
            "durability = \"volatile\"",
            "durability = \"eternal\"",
            &["durability = \"eternal\"", "\"durable\""],
        ),
        ("transport = \"auto\"", "log = { group_mib = 1 }", &["log.group_mib = 1", "use 2 to 64"]),
        ("transport = \"auto\"", "log = { segment_mib = 8 }", &["log.segment_mib = 8", "use 9 to"]),
        (
            "transport = \"auto\"",
            "log = { access = \"mmap\" }",
            &["log.access = \"mmap\"", "plain"],
        ),
        (
            "transport = \"auto\"",
            "io_uring = { zero_copy_from = 9 }",
            &["zero_copy_from = 9", "4097"],
        ),
        ("layout = \"fused\"", "layout = \"wide\"", &["placement.layout = \"wide\"", "spread"]),
        ("idle = \"park\"", "idle = \"nap\"", &["placement.idle = \"nap\"", "adaptive"]),
        ("cores = []", "cores = [9999]", &["placement.cores = 9999", "no such processor", "use"]),
        ("cores = []", "cores = [0, 1]", &["placement.cores = [0, 1]", "needs 1"]),
        ("layout = \"fused\"", "layout = \"table\"", &["placement.core = 0 cores", "list 1 to"]),
        (
            "cores = []",
            "cores = []\n[[placement.core]]\nstages = [\"network\"]",
            &["placement.layout = \"fused\"", "layout = \"table\""],
        ),
        ("request_timeout_ms = 2000", "request_timeout_ms = 1", &["request_timeout_ms = 1", "20"]),
        ("frames_mib = 128", "frames_mib = 1", &["limits.frames_mib = 1", "use 16 to"]),
        ("batch_requests_max = 1024", "batch_requests_max = 0", &["limits.batch_requests_max = 0"]),
        ("batch_size_max = ", "batch_size_max = 1", &["limits.batch_size_max = 1"]),
        ("inline_body_max = ", "inline_body_max = 9999999", &["limits.inline_body_max = 9999999"]),
        ("pending_max = ", "pending_max = 0 #", &["limits.pending_max = 0", "use 1 to"]),
        ("pending_mib = ", "pending_mib = 0 #", &["limits.pending_mib = 0", "use 1 to"]),
        ("service_seed = \"", "service_seed = \"x", &["service_seed", "hex"]),
        (
            "transport = \"auto\"",
            "transfer = { rate_mib = 1048577 }",
            &["transfer.rate_mib = 1048577", "use 0 to"],
        ),
        (
            "transport = \"auto\"",
            "transfer = { peer_rate_mib = 9999999 }",
            &["transfer.peer_rate_mib = 9999999", "1048576"],
        ),
        (
            "transport = \"auto\"",
            "transfer = { state_max_gib = 0 }",
            &["transfer.state_max_gib = 0", "use 1"],
        ),
        (
            "[limits]",
            "[limits]\nreply_cache_mib = 7",
            &["limits.reply_cache_mib = 7", "remove it here", "[cluster] in every cluster.toml"],
        ),
    ] {
        let path = directory.0.join(file);
        let good = fs::read_to_string(&path).expect("written by init");
        directory.edit(file, from, to);
        let error = directory.error(0);
        says(&error, parts);
        says(&error, &[file]);
        fs::write(&path, good).expect("writable");
    }
    says(&directory.error(9), &["replica-9.toml", "--id"]);
    directory.edit("cluster.toml", "model = \"byzantine\"", "model = \"nice\"");
    says(&directory.error(0), &["cluster.model = \"nice\"", "crash"]);
}

#[test]
fn a_port_in_use_is_named_with_its_field() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = taken.local_addr().expect("bound").port();
    let directory = Directory::cluster("ports");
    directory.edit("replica-0.toml", "127.0.0.1:17004", &format!("127.0.0.1:{port}"));
    let plan = Plan::load(&directory.0, 0).expect("valid but for the port");
    let error = plan.check_ports(&directory.0, Duration::ZERO).expect_err("taken").to_string();
    let place = format!("metrics = 127.0.0.1:{port}");
    says(&error, &["replica-0.toml", &place, "in use", "stop it", "another port"]);
}

#[test]
fn a_directory_that_is_no_cluster() {
    let directory = Directory::new("none");
    says(&directory.error(0), &["cluster.toml", "cannot read", "tetrarch init"]);
}

#[test]
fn a_table_places_stages_and_says_which_core_is_wrong() {
    let directory = Directory::cluster("table");
    let file = "replica-0.toml";
    let table = |first: &str, second: &str| {
        format!(
            "layout = \"table\"\nidle = \"adaptive\"\n[[placement.core]]\nstages = [{first}]\n\
             [[placement.core]]\nstages = [{second}]\n"
        )
    };
    directory.edit(file, "layout = \"fused\"\nidle = \"park\"\ncores = []\n", "PLACEMENT");
    let good = fs::read_to_string(directory.0.join(file)).expect("written by init");
    let with = |first: &str, second: &str| {
        let text = good.replace("PLACEMENT", &table(first, second));
        fs::write(directory.0.join(file), text).expect("a writable directory");
    };
    with("\"network\", \"ordering\"", "\"ingress\", \"execution\"");
    let plan = Plan::load(&directory.0, 0).expect("a good table");
    assert_eq!(
        plan.placement.to_string(),
        "network + ordering on any cpu | ingress + execution on any cpu, idle: adaptive"
    );
    for (first, second, parts) in [
        ("\"network\"", "\"egress\"", &["placement.core[1].stages", "egress", "wherever"][..]),
        ("\"network\"", "\"ingress\"", &["placement.core = 2 cores", "\"ordering\" is nowhere"]),
        ("\"network\"", "", &["placement.core[1].stages = []", "without stages"]),
    ] {
        with(first, second);
        says(&directory.error(0), parts);
    }
    let all = "\"network\", \"ingress\", \"ordering\", \"execution\"";
    with(all, "\"ingress\"]\ncpu = 9999 #");
    says(&directory.error(0), &["placement.core.cpu = 9999", "no such processor"]);
}
