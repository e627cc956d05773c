//! A client whose members change: over the memory transport, and over TCP with a file that is old.

use super::*;
use tetrarch_consensus::membership::ViewRequest;
use tetrarch_consensus::{ReplicaId, ViewId};

/// A driver that knows the first four of seven replicas. Replica i is at `port(i)`.
struct Moving {
    world: World,
    test: TestCluster,
    switch: Switch,
}

fn port(replica: u16) -> Port {
    Port(100 + replica)
}

/// Seven replicas and a client, with keys of their own.
fn seven() -> TestCluster {
    TestCluster::at(&(0..7).map(|at| port(at).address()).collect::<Vec<_>>())
}

impl Moving {
    fn new() -> Self {
        let test = seven();
        let switch = Switch::new(SwitchConfig { queue_max: 4096, ..SwitchConfig::default() });
        let replicas = (0..7).map(|at| replica(&test, &switch, at)).collect();
        let dial: Vec<_> = (0..4).map(|at| (PeerId::replica(at), port(at))).collect();
        let mut transport = MemoryTransport::new(&switch, Port(20), &dial);
        let mut config = seven().into_config();
        config.cluster = test.of(&[0, 1, 2, 3]);
        config.keys = test.client_keys.clone();
        let driver = ClientDriver::over(&config, &mut transport, Matching::Equal).unwrap();
        let completions = Vec::new();
        let world = World { driver, replicas, now: Instant(1 << 60), completions };
        Self { world, test, switch }
    }

    /// These replicas are in the view from now on.
    fn enter(&mut self, replicas: &[usize], view: &ViewRequest) {
        for at in replicas {
            self.world.replicas[*at].enter(*at as u16, view);
        }
    }

    fn view(&self) -> ViewId {
        self.world.driver.cluster().view_id
    }

    /// Requests of session 0 that were executed otherwise than once by these replicas.
    fn not_once(&self, replicas: &[usize]) -> usize {
        let times = |at: &usize| self.world.replicas[*at].executed.values();
        replicas.iter().flat_map(times).filter(|times| **times != 1).count()
    }
}

fn replica(test: &TestCluster, switch: &Switch, at: u16) -> FakeReplica {
    let mut transport = MemoryTransport::new(switch, port(at), &[]);
    let endpoint = transport.open(0, small_arena().pool()).unwrap();
    FakeReplica::new(test, at.into(), endpoint)
}

#[test]
fn a_client_follows_with_everything_that_is_in_flight() {
    // rule: CLI.11, CLI.12
    let mut moving = Moving::new();
    moving.world.turns(200);
    assert_eq!(moving.world.driver.connected(), 4);
    let first = moving.world.submit(0, Mode::Ordered, b"first");
    moving.world.turns(20);
    assert_eq!(moving.world.results(), [(first, b"first".to_vec())]);
    // Replica 0 goes, and 4 comes. 3 does not know yet.
    let next = moving.test.next(1, &[1, 2, 3, 4]);
    moving.enter(&[1, 2, 4], &next);
    let mut open: Vec<_> = (0..10u8)
        .map(|at| (moving.world.submit(u32::from(at) % 2, Mode::Ordered, &[at]), vec![at]))
        .collect();
    open.push((moving.world.submit(0, Mode::ReadOnly, b"read"), b"read".to_vec()));
    moving.world.turns(300);
    assert_eq!((moving.view(), moving.world.driver.counts().followed), (ViewId(1), 1));
    assert_eq!((moving.world.driver.connected(), moving.world.driver.needed()), (4, 3));
    let mut results = moving.world.results();
    results.sort();
    open.sort();
    assert_eq!(results, open);
    assert_eq!(moving.not_once(&[1, 2, 4]), 0);
    let told: usize = moving.world.replicas.iter().map(|replica| replica.told).sum();
    assert!(told >= 2);
    // Who is gone has no link; who stayed behind serves when it is there.
    let seen = moving.world.replicas[0].seen;
    moving.enter(&[3], &next);
    moving.world.replicas[4].manner = Manner::Silent;
    let last = moving.world.submit(1, Mode::Ordered, b"last");
    moving.world.turns(50);
    assert_eq!(moving.world.results(), [(last, b"last".to_vec())]);
    assert_eq!(moving.world.replicas[0].seen, seen);
    assert_eq!(moving.world.driver.counts().malformed, 0);
}

/// Between the client's file and now all members but one were replaced: that one cannot vouch alone, but those
/// that it names can be asked.
#[test]
fn one_member_that_it_still_knows_leads_a_client_to_the_others() {
    // rule: CLI.12
    let mut moving = Moving::new();
    let next = moving.test.next(3, &[3, 4, 5, 6]);
    moving.enter(&[3, 4, 5, 6], &next);
    (0..3).for_each(|at| moving.switch.cut(Port(20), port(at)));
    let ticket = moving.world.submit(0, Mode::Ordered, b"hello");
    moving.world.turns(3000);
    assert_eq!(moving.view(), ViewId(3));
    assert_eq!(moving.world.results(), [(ticket, b"hello".to_vec())]);
    assert_eq!(moving.not_once(&[3, 4, 5, 6]), 0);
}

/// A member with another machine: address and keys are new, the name is not.
#[test]
fn a_member_is_reached_at_its_new_address_with_its_new_keys() {
    // rule: CLI.12
    let mut moving = Moving::new();
    moving.world.turns(200);
    let mut members = moving.test.cluster.membership().members()[..4].to_vec();
    let moved = moving.test.cluster.membership().members()[6].clone();
    members[2] = tetrarch_consensus::membership::Member { id: ReplicaId(2), ..moved };
    let next = moving.test.sign(1, members);
    moving.enter(&[0, 1, 3], &next);
    // The machine of replica 6, under another name.
    let test = &moving.test;
    moving.world.replicas.pop();
    let endpoint = MemoryTransport::new(&moving.switch, port(6), &[]).open(0, small_arena().pool());
    let mut other = FakeReplica::named(test, 2, 6, endpoint.unwrap());
    other.enter(2, &next);
    moving.world.replicas.push(other);
    moving.world.replicas[3].manner = Manner::Silent;
    let ticket = moving.world.submit(0, Mode::Ordered, b"hello");
    moving.world.turns(2000);
    assert_eq!(moving.world.results(), [(ticket, b"hello".to_vec())]);
    assert_eq!(moving.world.replicas.last().map(|other| other.seen > 0), Some(true));
}

#[test]
fn what_the_view_manager_did_not_sign_for_this_cluster_is_refused() {
    // rule: CLI.12, VIEW.1
    let mut moving = Moving::new();
    moving.world.turns(200);
    let stranger = seven();
    let members = || moving.test.cluster.membership().members()[..4].to_vec();
    let mut forged = moving.test.sign(1, members());
    forged.signature[5] ^= 1;
    let other_key = stranger.sign(1, members());
    let mut twice = members();
    twice[1].address = twice[2].address.clone();
    let unusable = moving.test.sign(1, twice);
    for (round, news) in [forged, other_key, unusable].iter().enumerate() {
        moving.enter(&[0, 1, 2, 3], news);
        moving.world.submit(0, Mode::Ordered, b"x");
        moving.world.turns(40);
        assert_eq!(moving.view(), ViewId(0), "{round}");
        let malformed = moving.world.driver.counts().malformed;
        assert!(malformed >= 4 * (round as u64 + 1), "{round}: {malformed}");
    }
    // However often it is told, few are looked at.
    for _ in 0..60 {
        moving.world.submit(1, Mode::ReadOnly, b"x");
    }
    let before = moving.world.driver.counts().malformed;
    moving.world.turns(20);
    assert!(moving.world.driver.counts().malformed - before <= 4, "once in a while each");
    // Nothing of it stands in the way of what is true.
    let next = moving.test.next(1, &[0, 1, 2, 3]);
    moving.enter(&[0, 1, 2, 3], &next);
    moving.world.turns(3000);
    assert_eq!(moving.view(), ViewId(1));
    assert_eq!(moving.world.driver.in_flight(), 0);
}

#[test]
fn a_client_with_an_old_file_finds_the_present_members_before_it_starts() {
    // rule: CLI.12
    let (_replicas, config) = TcpReplicas::start_in_view(3, &[3, 4, 5, 6]);
    let client = Client::connect(config).unwrap();
    let session = client.session().unwrap();
    assert_eq!(session.invoke(b"put").unwrap(), b"put");
    assert_eq!(session.query(b"get").unwrap(), b"get");
}
