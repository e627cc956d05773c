//! Four nodes and a client in one thread, over the memory transport, in time that the test moves.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use tetrarch_appliance::budget::{Budget, Sizes};
use tetrarch_appliance::metrics::Metrics;
use tetrarch_appliance::node::{Node, Parts};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::stage::Events;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_appliance::testing::{TestCluster, request_bytes_in};
use tetrarch_client::cluster::{Member, PrivateKeys, ViewManager};
use tetrarch_consensus::batch::{Replier, RequestHeader};
use tetrarch_consensus::membership::VIEW_MANAGER;
use tetrarch_consensus::message::reply::{ReplyHeader, Status};
use tetrarch_consensus::message::{kind, proof};
use tetrarch_consensus::{ClientId, Config, ReplicaId, ViewId};
use tetrarch_dataplane::alloc_guard;
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size, write_vector};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::stage::Progress;
use tetrarch_dataplane::transport::memory::{Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::{Instant, PeerId};

/// Where time begins: some day, as replicas compare it with the wall clock's meaning.
pub const START: Instant = Instant(1_700_000_000_000_000_000);

/// A small node's memory.
pub const SIZES: Sizes =
    Sizes { frames_size: 16 << 20, decision_log_size: 4 << 20, reply_cache_size: 4 << 20 };

pub struct World {
    pub test: TestCluster,
    pub switch: Switch,
    pub nodes: Vec<Option<Node>>,
    pub events: Vec<Events>,
    pub metrics: Vec<Arc<Metrics>>,
    /// They keep their memory alive, and say whether all of it came back.
    pub arenas: Vec<Arena>,
    pub clients: Vec<TestClient>,
    pub now: Instant,
    /// A node that gets no turns: what SIGSTOP does.
    pub paused: Option<usize>,
    /// Where the nodes' ingress is.
    pub ingress: IngressPlan,
}

impl World {
    pub fn new(n: u16, clients: u32) -> Self {
        Self::with(n, clients, IngressPlan::default(), |_| {})
    }

    pub fn with_ingress(n: u16, clients: u32, ingress: IngressPlan) -> Self {
        Self::with(n, clients, ingress, |_| {})
    }

    /// With cores configured by `configure`.
    pub fn with(n: u16, clients: u32, ingress: IngressPlan, configure: fn(&mut Config)) -> Self {
        Self::rekeyed(n, clients, ingress, configure, None)
    }

    /// With other keys beside those of one replica.
    pub fn rekeyed(
        n: u16,
        clients: u32,
        ingress: IngressPlan,
        configure: fn(&mut Config),
        other: Option<(u16, &PrivateKeys)>,
    ) -> Self {
        Self::build(n, clients, ingress, configure, other, None)
    }

    /// With a View Manager, who has these keys and is the last of the clients.
    pub fn managed(n: u16, clients: u32, keys: &PrivateKeys) -> Self {
        let mut world = Self::build(n, clients, IngressPlan::default(), |_| {}, None, Some(keys));
        let port = Port(2000);
        let manager = TestClient::of(&world.test, &world.switch, VIEW_MANAGER, keys, port);
        world.clients.push(manager);
        world
    }

    fn build(
        n: u16,
        clients: u32,
        ingress: IngressPlan,
        configure: fn(&mut Config),
        other: Option<(u16, &PrivateKeys)>,
        manager: Option<&PrivateKeys>,
    ) -> Self {
        let mut test = TestCluster::new(n, usize::from((n - 1) / 3), clients);
        test.cluster.view_manager = manager.map(|keys| ViewManager {
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        });
        for member in &mut test.cluster.members {
            member.address = Port(member.id.0).address().to_string();
        }
        let switch = Switch::new(SwitchConfig::default());
        let mut world = Self {
            test,
            switch,
            nodes: Vec::new(),
            events: Vec::new(),
            metrics: Vec::new(),
            arenas: Vec::new(),
            clients: Vec::new(),
            now: START,
            paused: None,
            ingress,
        };
        for id in 0..n {
            let other = other.filter(|(whose, _)| *whose == id).map(|(_, keys)| keys);
            world.add_node(id, configure, other);
        }
        for index in 0..clients {
            let client = TestClient::new(&world.test, &world.switch, index);
            world.clients.push(client);
        }
        world
    }

    fn add_node(&mut self, id: u16, configure: fn(&mut Config), other_keys: Option<&PrivateKeys>) {
        let keys = &self.test.replica_keys[usize::from(id)];
        let arena =
            Arena::heap(&Budget::with_workers(SIZES, self.ingress.workers).arena).expect("memory");
        let port = Port(id);
        for lower in 0..id {
            self.switch.dial(port, Port(lower), PeerId::replica(lower));
        }
        let endpoint = Box::new(self.switch.attach(port, arena.pool()).expect("a free port"));
        let secret = keys.static_secret.clone();
        let identity = Identity { peer: PeerId::replica(id), secret };
        let directory = self.test.cluster.directory().expect("distinct keys");
        let config = LinkConfig::default();
        let pool = arena.pool();
        let links =
            Links::new(endpoint, identity, directory, self.test.cluster.id, config, pool.clone())
                .expect("room for bundles");
        let metrics = Arc::new(Metrics::new());
        let (service, validator) = ServiceKind::Null.build([0; 2]);
        let mut core = Config::new(ReplicaId(id), self.test.cluster.view());
        core.request_timeout = Duration::from_millis(500);
        core.decision_log_size = SIZES.decision_log_size;
        core.clients_max = self.test.cluster.clients.len() as u32;
        core.first = self.test.cluster.managed_from();
        configure(&mut core);
        let parts = Parts {
            config: core,
            cluster: &self.test.cluster,
            keys,
            other_keys,
            links,
            pool,
            service,
            validator,
            reply_cache_size: SIZES.reply_cache_size,
            reply_cache_session_size: 1 << 16,
            metrics: Arc::clone(&metrics),
        };
        let (node, events) = Node::with_ingress(parts, self.ingress, self.now).expect("good keys");
        self.nodes.push(Some(node));
        self.events.push(events);
        self.metrics.push(metrics);
        self.arenas.push(arena);
    }

    /// As [`World::tick`], and says how often the nodes allocated. What clients and the switch do on
    /// the clients' side is not counted.
    pub fn tick_counted(&mut self) -> u64 {
        self.now = self.now + Duration::from_millis(1);
        let mut allocations = 0;
        for _ in 0..1000 {
            let (nodes, now) = (&mut self.nodes, self.now);
            let (mut progress, count) = alloc_guard::count_allocations(|| {
                nodes.iter_mut().flatten().fold(Progress::Idle, |all, node| all.or(node.turn(now)))
            });
            allocations += count;
            for client in &mut self.clients {
                progress = progress.or(client.turn(now));
            }
            if progress == Progress::Idle {
                return allocations;
            }
        }
        panic!("the nodes work for ever without time passing");
    }

    /// Moves time by a millisecond and lets everybody work until nobody has anything to do.
    pub fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        for _ in 0..1000 {
            let mut progress = Progress::Idle;
            for (id, node) in self.nodes.iter_mut().enumerate() {
                if let Some(node) = node.as_mut().filter(|_| self.paused != Some(id)) {
                    progress = progress.or(node.turn(self.now));
                }
            }
            for client in &mut self.clients {
                progress = progress.or(client.turn(self.now));
            }
            if progress == Progress::Idle {
                return;
            }
        }
        panic!("the nodes work for ever without time passing");
    }

    /// Ticks until `done`, at most `ticks` times.
    pub fn run_until(&mut self, ticks: u32, mut done: impl FnMut(&World) -> bool) -> bool {
        for _ in 0..ticks {
            if done(self) {
                return true;
            }
            self.tick();
        }
        done(self)
    }

    /// Until every link is up.
    pub fn connect(&mut self) {
        let n = self.nodes.len();
        let up = |world: &World| {
            let peers = |client: &TestClient| {
                (0..n as u16).all(|id| client.links.is_up(PeerId::replica(id)))
            };
            world
                .metrics
                .iter()
                .all(|metrics| metrics.peers_up.get().count_ones() as usize == n - 1)
                && world.clients.iter().all(peers)
        };
        assert!(self.run_until(2000, up), "links come up");
    }

    pub fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }
}

/// A client by hand: sends what the test says and keeps what comes.
pub struct TestClient {
    pub index: u32,
    pub links: Links,
    pool: FramePool,
    _arena: Arena,
    /// By member index: those of another view are for the test to set.
    pub keys: Vec<PairKey>,
    received: Burst<Received>,
    /// Replies: who, header, result.
    pub replies: Vec<(u32, ReplyHeader, Vec<u8>)>,
    /// Who is asked for whole results.
    pub replier: Replier,
    /// That its requests name.
    pub view: ViewId,
    /// Without this, replies are only counted: for tests that must not allocate.
    pub keep: bool,
    pub count: u64,
}

impl TestClient {
    fn new(test: &TestCluster, switch: &Switch, index: u32) -> Self {
        let keys = &test.client_keys[index as usize];
        Self::of(test, switch, index, keys, Port(1000 + index as u16))
    }

    fn of(test: &TestCluster, switch: &Switch, index: u32, keys: &PrivateKeys, port: Port) -> Self {
        let classes = vec![
            SlotClass { slot_size: 512, count: 4096 },
            SlotClass { slot_size: 512 * 1024, count: 8 },
        ];
        let arena = Arena::heap(&ArenaSpec { classes }).expect("memory");
        for member in &test.cluster.members {
            switch.dial(port, Port(member.id.0), PeerId::replica(member.id.0));
        }
        let endpoint = Box::new(switch.attach(port, arena.pool()).expect("a free port"));
        let secret = keys.static_secret.clone();
        let pair =
            |member: &Member| PairKey::for_client(&secret, &member.static_key, test.cluster.id);
        let pairs = test.cluster.members.iter().map(|it| pair(it).expect("secrecy")).collect();
        let identity = Identity { peer: PeerId::client(index), secret: secret.clone() };
        let directory = test.cluster.directory().expect("distinct keys");
        let pool = arena.pool();
        let config = LinkConfig::default();
        let links =
            Links::new(endpoint, identity, directory, test.cluster.id, config, pool.clone())
                .expect("room for bundles");
        Self {
            index,
            links,
            pool,
            _arena: arena,
            keys: pairs,
            received: Burst::with_capacity(64),
            replies: Vec::new(),
            replier: Replier::EVERYONE,
            view: ViewId(0),
            keep: true,
            count: 0,
        }
    }

    fn turn(&mut self, now: Instant) -> Progress {
        self.links.flush(now);
        while self.links.event().is_some() {}
        let count = self.links.rx_burst(now, &mut self.received);
        while let Some(message) = self.received.pop_front() {
            assert_eq!(message.kind, kind::REPLY);
            let header = ReplyHeader::parse(message.body()).expect("well formed");
            assert_eq!(header.client.0, message.session);
            self.count += 1;
            if self.keep {
                let result = message.body()[32..].to_vec();
                self.replies.push((message.peer.index(), header, result));
            }
        }
        if count > 0 { Progress::Worked } else { Progress::Idle }
    }

    /// Sends request `counter` of `session` to `to`.
    pub fn send(&mut self, session: u32, counter: u32, operation: &[u8], to: &[u16]) {
        self.send_as(ClientId::new(self.index, session), counter, operation, to, false, None);
    }

    /// The same with everything that can be wrong.
    pub fn send_as(
        &mut self,
        client: ClientId,
        counter: u32,
        operation: &[u8],
        to: &[u16],
        read_only: bool,
        spoil: Option<usize>,
    ) {
        let mut body = request_bytes_in(self.view, client, counter, operation, read_only);
        let header = RequestHeader::parse(&body).expect("well formed");
        RequestHeader { replier: self.replier, ..header }.write(&mut body);
        let digest = body_digest(&body);
        let mut vector = vec![0; vector_size(self.keys.len())];
        write_vector(&self.keys, &digest, &mut vector);
        if let Some(byte) = spoil {
            vector[byte] ^= 1;
        }
        let frame = self.pool.copy_from(&[&body[..], &vector[..]].concat()).expect("room");
        for replica in to {
            self.links.tx(Outgoing {
                to: PeerId::replica(*replica),
                kind: kind::REQUEST,
                auth: proof::MAC_VECTOR,
                session: client.0,
                proof_size: vector.len() as u16,
                body_digest: Some(digest),
                frame: Some(frame.clone()),
            });
        }
    }

    /// Sends a request of this body with a proof made elsewhere.
    pub fn send_with_proof(&mut self, body: &[u8], auth: u8, proof: &[u8], to: u16) {
        let frame = self.pool.copy_from(&[body, proof].concat()).expect("room");
        let session = u64::from_le_bytes(body[..8].try_into().expect("a request"));
        self.links.tx(Outgoing {
            to: PeerId::replica(to),
            kind: kind::REQUEST,
            auth,
            session,
            proof_size: proof.len() as u16,
            body_digest: None,
            frame: Some(frame),
        });
    }

    /// Sends raw bytes as a message of `kind`.
    pub fn send_raw(&mut self, kind: u8, body: &[u8], to: u16) {
        let frame = self.pool.copy_from(body).expect("room");
        self.links.tx(Outgoing {
            to: PeerId::replica(to),
            kind,
            auth: proof::NONE,
            session: ClientId::new(self.index, 0).0,
            proof_size: 0,
            body_digest: None,
            frame: Some(frame),
        });
    }

    /// Members that answered request `counter` of `session` with success.
    pub fn answers(&self, session: u32, counter: u32) -> usize {
        let client = ClientId::new(self.index, session);
        self.replies
            .iter()
            .filter(|(_, header, _)| {
                header.client == client
                    && header.sequence.counter() == counter
                    && header.status == Status::Ok
            })
            .count()
    }
}
