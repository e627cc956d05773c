//! What one ordered request costs one replica: four real nodes and a real client in one thread.
//!
//! Owns a cluster on the memory transport whose time the caller moves, with real keys, full batches
//! and requests and replies of no bytes. Always true: every turn of the replica under measurement in
//! steady state, and nothing else, happens inside [`counted_turn`], so a profiler that collects only
//! there sees one replica: its links, stages and core, and its side of the transport. Must not: read
//! a clock.

use std::sync::Arc;
use std::time::Duration;

use tetrarch_appliance::budget::{Budget, Sizes};
use tetrarch_appliance::metrics::Metrics;
use tetrarch_appliance::node::{Node, Parts};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::stage::Events;
use tetrarch_appliance::testing::TestCluster;
use tetrarch_client::cluster::PrivateKeys;
use tetrarch_client::{
    Busy, ClientConfig, ClientDriver, Completion, Matching, Mode, Outcome, Ticket,
};
use tetrarch_consensus::limits::BATCH_REQUESTS_MAX;
use tetrarch_consensus::{Config, ReplicaId};
use tetrarch_dataplane::arena::Arena;
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::links::{LinkConfig, Links};
use tetrarch_dataplane::stage::Progress;
use tetrarch_dataplane::transport::memory::{MemoryTransport, Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::{Instant, PeerId};

use super::Case;

/// The cases: a turn is a request.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "replica_leader_request",
        what: "0/0, full batches, leader",
        run: |turns| run(Role::Leader, turns),
    },
    Case {
        name: "replica_follower_request",
        what: "0/0, full batches, follower",
        run: |turns| run(Role::Follower, turns),
    },
    Case {
        name: CLIENT_REQUEST,
        what: "0/0, full batches, client of 4 replicas",
        run: |turns| run(Role::Client, turns),
    },
];

const CLIENT_REQUEST: &str = "client_request";

/// The name by which a profiler finds what is counted in a case.
pub(super) fn counted(case: &str) -> &'static str {
    if case == CLIENT_REQUEST { "counted_client" } else { "counted_turn" }
}

/// Where time begins: some day, as replicas compare it with the wall clock's meaning.
const START: Instant = Instant(1_700_000_000_000_000_000);

/// A small node's memory: it is touched before anything is counted.
const SIZES: Sizes =
    Sizes { frames_size: 32 << 20, decision_log_size: 8 << 20, reply_cache_size: 32 << 20 };

/// Replicas of the cluster: f = 1.
const REPLICAS: u16 = 4;

/// Sessions with one request in flight each: while one batch is in consensus and the replies to another
/// are on their way, the next one waits.
const SESSIONS: u32 = 4 * BATCH_REQUESTS_MAX as u32;

/// Batches before counting begins: tables have grown, and batches are full.
const WARM_UP: u64 = 6;

/// Rounds until an operation must have ended. A round without progress moves time.
const ROUNDS_MAX: u32 = 10_000;

/// Which replica is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The one that proposes.
    Leader,
    /// One that only votes.
    Follower,
    /// None: the client.
    Client,
}

impl Role {
    /// The replica that is measured, or the one whose progress is watched.
    fn index(self) -> usize {
        match self {
            Self::Leader | Self::Client => 0,
            Self::Follower => 2,
        }
    }
}

/// One turn of the replica under measurement. Never inlined: profilers know it by its name.
#[inline(never)]
pub fn counted_turn(node: &mut Node, now: Instant) -> Progress {
    node.turn(now)
}

/// A poll of the client under measurement.
#[inline(never)]
fn counted_client_poll(
    client: &mut ClientDriver,
    now: Instant,
    completions: &mut Vec<Completion>,
) -> bool {
    client.poll(now, completions)
}

/// A request of the client under measurement.
#[inline(never)]
fn counted_client_submit(
    client: &mut ClientDriver,
    now: Instant,
    session: u32,
) -> Result<Ticket, Busy> {
    client.submit(now, session, Mode::Ordered, &[])
}

/// Lets a cluster order `requests` requests, a multiple of [`BATCH_REQUESTS_MAX`], in full batches,
/// with every turn of who has `role` inside [`counted_turn`] or its like.
pub fn run(role: Role, requests: u64) {
    let batch = BATCH_REQUESTS_MAX as u64;
    assert!(requests.is_multiple_of(batch), "{requests} requests are no whole batches of {batch}");
    let mut world = World::new();
    world.connect();
    world.order(role, WARM_UP * batch);
    world.counted = Some(role);
    let instances = world.instances(role);
    let ordered = world.order(role, requests);
    assert_eq!(
        (ordered, world.instances(role) - instances),
        (requests, requests / batch),
        "requests and instances: batches must be full"
    );
}

struct World {
    test: TestCluster,
    switch: Switch,
    nodes: Vec<Node>,
    metrics: Vec<Arc<Metrics>>,
    /// Nobody listens; nodes say when they could not tell.
    _events: Vec<Events>,
    /// They keep their memory alive.
    _arenas: Vec<Arena>,
    client: ClientDriver,
    completions: Vec<Completion>,
    /// Sessions without a request in flight.
    idle: Vec<u32>,
    now: Instant,
    /// Whose turns are counted.
    counted: Option<Role>,
}

impl World {
    fn new() -> Self {
        let test = TestCluster::managed(REPLICAS, usize::from(REPLICAS - 1) / 3, 1);
        let switch = Switch::new(SwitchConfig {
            queue_max: 8 * BATCH_REQUESTS_MAX,
            ..SwitchConfig::default()
        });
        let client = client(&test, &switch);
        let mut world = Self {
            test,
            switch,
            nodes: Vec::new(),
            metrics: Vec::new(),
            _events: Vec::new(),
            _arenas: Vec::new(),
            client,
            completions: Vec::with_capacity(SESSIONS as usize),
            idle: (0..SESSIONS).collect(),
            now: START,
            counted: None,
        };
        (0..REPLICAS).for_each(|id| world.add_node(id));
        world
    }

    fn add_node(&mut self, id: u16) {
        let keys = &self.test.replica_keys[usize::from(id)];
        let arena = Arena::heap(&Budget::new(SIZES).arena).expect("memory for a small node");
        let port = Port(id);
        (0..id).for_each(|lower| self.switch.dial(port, Port(lower), PeerId::replica(lower)));
        let endpoint = Box::new(self.switch.attach(port, arena.pool()).expect("a free port"));
        let identity = Identity { peer: PeerId::replica(id), secret: keys.static_secret.clone() };
        let directory = self.test.cluster.directory().expect("distinct keys");
        let (cluster, config, pool) = (self.test.cluster.id, LinkConfig::default(), arena.pool());
        let links = Links::new(endpoint, identity, directory, cluster, config, pool.clone())
            .expect("room for bundles");
        let metrics = Arc::new(Metrics::new());
        let (service, validator) = ServiceKind::Null.build([0; 2]);
        let mut core = Config::new(ReplicaId(id), self.test.cluster.view());
        core.first = Some(Box::new(self.test.cluster.membership()));
        core.decision_log_size = SIZES.decision_log_size;
        core.clients_max = self.test.cluster.clients.len() as u32;
        let parts = Parts {
            config: core,
            cluster: &self.test.cluster,
            keys,
            other_keys: None,
            links,
            pool,
            service,
            validator,
            reply_cache_size: SIZES.reply_cache_size,
            reply_cache_session_size: 1 << 16,
            metrics: Arc::clone(&metrics),
        };
        let (node, events) = Node::new(parts, self.now).expect("keys that were just made");
        self.nodes.push(node);
        self._events.push(events);
        self.metrics.push(metrics);
        self._arenas.push(arena);
    }

    /// Until every link is up.
    fn connect(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let others = u64::from(REPLICAS) - 1;
            let linked =
                |metrics: &Arc<Metrics>| u64::from(metrics.peers_up.get().count_ones()) == others;
            if self.metrics.iter().all(linked) && self.client.connected() == self.nodes.len() {
                return;
            }
            self.round();
        }
        panic!("the links do not come up");
    }

    /// Keeps one request of each session in flight until the replica in `role` has executed
    /// `requests` more. Returns how many it were.
    fn order(&mut self, role: Role, requests: u64) -> u64 {
        let before = self.executed(role);
        for _ in 0..ROUNDS_MAX {
            let executed = self.executed(role) - before;
            if executed >= requests {
                return executed;
            }
            while let Some(session) = self.idle.pop() {
                let taken = if self.counted == Some(Role::Client) {
                    counted_client_submit(&mut self.client, self.now, session)
                } else {
                    self.client.submit(self.now, session, Mode::Ordered, &[])
                };
                taken.expect("one operation in flight for each session");
            }
            self.round();
            for completion in self.completions.drain(..) {
                assert!(matches!(completion.outcome, Outcome::Done(_)), "{completion:?}");
                self.idle.push(completion.session);
            }
        }
        panic!("{requests} requests are not answered");
    }

    /// A turn of everybody.
    fn round(&mut self) -> Progress {
        let mut progress = Progress::Idle;
        for (id, node) in self.nodes.iter_mut().enumerate() {
            progress = progress.or(match self.counted {
                Some(role) if role != Role::Client && role.index() == id => {
                    counted_turn(node, self.now)
                }
                _ => node.turn(self.now),
            });
        }
        let worked = if self.counted == Some(Role::Client) {
            counted_client_poll(&mut self.client, self.now, &mut self.completions)
        } else {
            self.client.poll(self.now, &mut self.completions)
        };
        if worked {
            progress = Progress::Worked;
        }
        // A request takes some time, as it does outside: keep-alives and deadlines come, rarely.
        let step = if progress == Progress::Worked { 20 } else { 1000 };
        self.now = self.now + Duration::from_micros(step);
        progress
    }

    fn executed(&self, role: Role) -> u64 {
        self.metrics[role.index()].requests_executed.get()
    }

    fn instances(&self, role: Role) -> u64 {
        self.metrics[role.index()].decided.get()
    }
}

fn client(test: &TestCluster, switch: &Switch) -> ClientDriver {
    let PrivateKeys { static_secret, signing_key } = &test.client_keys[0];
    let keys =
        PrivateKeys { static_secret: static_secret.clone(), signing_key: signing_key.clone() };
    let mut config = ClientConfig::new(test.cluster.clone(), 0, keys);
    config.sessions_max = SESSIONS;
    config.incarnation = Some(1);
    let member = |id: u16| (PeerId::replica(id), Port(id));
    let members: Vec<_> = (0..REPLICAS).map(member).collect();
    let mut transport = MemoryTransport::new(switch, Port(REPLICAS), &members);
    ClientDriver::over(&config, &mut transport, Matching::Equal).expect("keys that were just made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_full_at_leader_and_follower() {
        for role in [Role::Leader, Role::Follower, Role::Client] {
            run(role, 4 * BATCH_REQUESTS_MAX as u64);
        }
    }
}
