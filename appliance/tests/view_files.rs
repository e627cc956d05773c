//! Files of the View Manager and of replicas whose keys are made on their own machines.

use std::fs;
use std::path::{Path, PathBuf};

use tetrarch_appliance::config::{PlacementFile, Plan};
use tetrarch_appliance::init::{InitOptions, init};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::view::change::{Change, difference, meaning, next};
use tetrarch_appliance::view::keys::{KeysOptions, Made, make};
use tetrarch_client::cluster::{CHECKPOINT_EVERY, Cluster, PublicKeys};
use tetrarch_consensus::{FaultModel, ReplicaId, ViewId};
use tetrarch_dataplane::transport::choice::TransportKind;

struct Directory(PathBuf);

impl Directory {
    fn cluster(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tetrarch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let options = InitOptions {
            replicas: 4,
            f: None,
            depth: 1,
            checkpoint_every: CHECKPOINT_EVERY,
            model: FaultModel::Byzantine,
            clients: 1,
            base_port: 17_300,
            hosts: Vec::new(),
            service: ServiceKind::Kv,
            request_timeout_ms: 2000,
            durable: false,
            transport: TransportKind::Auto,
            placement: PlacementFile::default(),
            frames_mib: None,
        };
        init(&path, &options).expect("a new cluster");
        Self(path)
    }

    fn load(&self) -> Cluster {
        Cluster::load(&self.0).expect("valid")
    }

    fn make(&self, options: &KeysOptions) -> Made {
        make(&self.0, options).expect("nothing is in the way")
    }

    fn error(&self, options: &KeysOptions) -> String {
        make(&self.0, options).expect_err("something is missing").to_string()
    }

    /// Rewrites cluster.toml, as when a view begins.
    fn become_(&self, cluster: &Cluster) {
        fs::write(self.0.join("cluster.toml"), cluster.to_toml()).expect("ours");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options(id: u16) -> KeysOptions {
    let address = Some(format!("127.0.0.1:{}", 17_310 + id));
    KeysOptions { id, address, metrics: Some(format!("127.0.0.1:{}", 17_330 + id)), like: None }
}

fn public(made: &Made) -> PublicKeys {
    PublicKeys::load(&made.public).expect("it was made just now")
}

fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn keys_made_elsewhere_make_a_member_that_loads() {
    let directory = Directory::cluster("view-join");
    says(
        &directory.error(&KeysOptions { address: None, ..options(4) }),
        &["--address", "no member yet", "host:port"],
    );
    let error = directory.error(&KeysOptions { metrics: None, ..options(4) });
    says(&error, &["--metrics", "host:port"]);
    let bad = KeysOptions { address: Some("nowhere".into()), ..options(4) };
    says(&directory.error(&bad), &["replica-4.public", "address = \"nowhere\""]);
    assert!(!directory.0.join("replica-4.key").exists(), "nothing is left of what failed");
    let made = directory.make(&options(4));
    assert!(made.private.ends_with("replica-4.key") && made.config.is_some());
    let shown = fs::read_to_string(&made.public).expect("written");
    let secret = fs::read_to_string(&made.private).expect("written");
    let secret = secret.lines().find_map(|line| line.split('"').nth(1)).expect("a key");
    assert!(!shown.contains(secret));
    says(&directory.error(&KeysOptions { like: Some(9), ..options(5) }), &["replica-9.toml"]);

    let current = directory.load();
    let change = Change { add: vec![public(&made)], ..Change::default() };
    let cluster = next(&current, &change).expect("a possible view");
    assert_eq!((cluster.view_id, cluster.members.len(), cluster.f), (ViewId(1), 5, 1));
    says(&difference(&current, &cluster), &["+ replica 4 at 127.0.0.1:17314", "n = 4", "n = 5"]);
    says(&meaning(&cluster), &["view 1: 5 replicas, f = 1 (byzantine)", "replica 4"]);
    directory.become_(&cluster);
    let plan = Plan::load(&directory.0, 4).expect("a member");
    assert_eq!((plan.listen.port(), plan.metrics.port()), (17_314, 17_334));
    assert_eq!(plan.service_seed, Plan::load(&directory.0, 0).expect("as before").service_seed);
}

#[test]
fn a_replica_has_two_keys_while_they_change() {
    let directory = Directory::cluster("view-rekey");
    let at = KeysOptions { address: None, metrics: None, ..options(2) };
    let made = directory.make(&at);
    assert!(made.private.ends_with("replica-2.next.key") && made.config.is_none());
    let error = directory.error(&at);
    says(&error, &["replica-2.next.key", "cannot write"]);
    let before = Plan::load(&directory.0, 2).expect("still a member");
    let current = directory.load();
    let listed = |cluster: &Cluster| cluster.members[2].static_key;
    assert_eq!(before.keys.static_secret.public(), listed(&current));
    let other = before.other_keys.expect("the ones just made");
    assert_eq!(other.static_secret.public(), public(&made).member.static_key);

    let change = Change { rekey: vec![public(&made)], ..Change::default() };
    let cluster = next(&current, &change).expect("a possible view");
    says(&difference(&current, &cluster), &["~ replica 2 gets the keys"]);
    directory.become_(&cluster);
    let after = Plan::load(&directory.0, 2).expect("a member");
    assert_eq!(after.keys.static_secret.public(), listed(&cluster));
    let other = after.other_keys.expect("the ones before");
    assert_eq!(other.static_secret.public(), listed(&current));
    let again = next(&cluster, &change).expect_err("nothing new").to_string();
    says(&again, &["replica = 2", "has these keys already", "tetrarch view keys"]);
    // And once more: the keys that are in use take their place first.
    let third = directory.make(&at);
    assert!(third.private.ends_with("replica-2.next.key"));
    let plan = Plan::load(&directory.0, 2).expect("a member");
    assert_eq!(plan.keys.static_secret.public(), listed(&cluster));
    assert_ne!(public(&third).member.static_key, listed(&cluster));
}

#[test]
fn changes_that_cannot_be_say_why() {
    let directory = Directory::cluster("view-wrong");
    let current = directory.load();
    let error = |change: Change| next(&current, &change).expect_err("impossible").to_string();
    let remove = |ids: &[u16]| ids.iter().map(|id| ReplicaId(*id)).collect();
    says(&error(Change::default()), &["nothing would change"]);
    let gone = Change { remove: remove(&[9]), ..Change::default() };
    says(&error(gone), &["replica = 9", "not a member", "0, 1, 2, 3"]);
    let few = Change { remove: remove(&[3]), ..Change::default() };
    says(&error(few), &["cluster.f = 1", "3 replicas", "at least 4"]);
    says(&error(Change { f: Some(2), ..Change::default() }), &["cluster.f = 2", "at least 7"]);
    let made = directory.make(&options(4));
    let twice = Change { add: vec![public(&made), public(&made)], ..Change::default() };
    says(&error(twice), &["replica = 4", "a member has this id"]);
    let mut other = public(&made);
    other.cluster ^= 1;
    let other = Change { add: vec![other], ..Change::default() };
    says(&error(other), &["replica = 4", "made for cluster"]);
    let mut stranger = public(&made);
    stranger.member.id = ReplicaId(8);
    let rekey = Change { rekey: vec![stranger], ..Change::default() };
    says(&error(rekey), &["replica = 8", "not a member", "tetrarch view add"]);
    // All members at once would leave nobody who knows anything.
    let more: Vec<_> = (5..12).map(|id| public(&directory.make(&options(id)))).collect();
    let all = Change { remove: remove(&[0, 1, 2, 3]), add: more, ..Change::default() };
    says(&error(all), &["view = 1", "have to stay", "nothing was changed"]);
}

#[test]
fn a_cluster_file_of_before_has_no_view_manager() {
    let directory = Directory::cluster("view-old");
    let mut cluster = directory.load();
    cluster.view_manager = None;
    let text = cluster.to_toml().replace("view = 0\n", "");
    assert!(!text.contains("view_manager"));
    let old = Cluster::parse(&text, Path::new("cluster.toml")).expect("as it was");
    assert!(old.view_manager.is_none() && old.view_id == ViewId(0));
}
