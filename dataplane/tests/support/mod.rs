//! What the link tests share: keys, nodes, and pumps with a time limit.
//!
//! Not every test file uses everything.
#![allow(dead_code, clippy::unwrap_used)]

use std::time::Duration;

use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::{StaticPublic, StaticSecret};
use tetrarch_dataplane::endpoint::Endpoint;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::links::{LinkConfig, LinkEvent, Links, Outgoing, Received};
use tetrarch_dataplane::transport::choice::{self, Chosen, TransportKind};
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_dataplane::types::{Instant, PeerId};

pub const CLUSTER: u64 = 0x7e7a;
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn replica(i: u16) -> PeerId {
    PeerId::replica(i)
}

/// The same secret for the same peer in every test.
pub fn secret(peer: PeerId) -> StaticSecret {
    StaticSecret::from_bytes(&body_digest(&peer.0.to_le_bytes()))
}

pub fn public(peer: PeerId) -> StaticPublic {
    secret(peer).public()
}

/// Replicas 0..4 and clients 0..4.
pub fn directory() -> Directory {
    let peers = (0..4).map(replica).chain((0..4).map(PeerId::client));
    Directory::new(peers.map(|peer| (peer, public(peer)))).unwrap()
}

pub fn arena() -> Arena {
    let class = |slot_size, count| SlotClass { slot_size, count };
    let classes = vec![class(512, 4096), class(16384, 64), class(2_200_000, 4)];
    Arena::heap(&ArenaSpec { classes }).unwrap()
}

/// io_uring, or epoll with a word about it where there is none.
pub fn ring_or_epoll() -> TransportKind {
    match choice::open(TransportKind::Auto.into(), TcpConfig::default()).unwrap().fallback {
        None => TransportKind::IoUring,
        Some(line) => {
            eprintln!("{line}");
            TransportKind::Tcp
        }
    }
}

/// A transport that listens at any port of the loopback interface.
pub fn listening(kind: TransportKind) -> Chosen {
    let listen = Some(([127, 0, 0, 1], 0).into());
    choice::open(kind.into(), TcpConfig { listen, ..TcpConfig::default() }).unwrap()
}

/// A transport that dials replica 0 there.
pub fn dialling(kind: TransportKind, listening: &Chosen) -> Chosen {
    let dial = vec![(replica(0), listening.local_address.unwrap())];
    choice::open(kind.into(), TcpConfig { dial, ..TcpConfig::default() }).unwrap()
}

/// A peer with its links.
pub struct Node {
    pub links: Links,
    /// What the endpoint receives into.
    pub arena: Arena,
    /// What we send from. With one arena for both, two nodes that fill theirs with outgoing
    /// messages would wait for each other.
    pub tx_arena: Arena,
    pub received: Vec<Received>,
    pub events: Vec<LinkEvent>,
    pub diagnoses: Vec<String>,
    burst: Burst<Received>,
}

impl Node {
    pub fn new(peer: PeerId, arena: Arena, endpoint: Box<dyn Endpoint>) -> Self {
        let identity = Identity { peer, secret: secret(peer) };
        Self::with(identity, directory(), CLUSTER, LinkConfig::default(), arena, endpoint)
    }

    pub fn with(
        identity: Identity,
        directory: Directory,
        cluster: u64,
        config: LinkConfig,
        arena: Arena,
        endpoint: Box<dyn Endpoint>,
    ) -> Self {
        let tx_arena = self::arena();
        let links =
            Links::new(endpoint, identity, directory, cluster, config, tx_arena.pool()).unwrap();
        let burst = Burst::with_capacity(64);
        let (received, events, diagnoses) = Default::default();
        Self { links, arena, tx_arena, received, events, diagnoses, burst }
    }

    pub fn turn(&mut self, now: Instant) {
        self.links.rx_burst(now, &mut self.burst);
        self.received.extend(self.burst.drain());
        self.events.extend(std::iter::from_fn(|| self.links.event()));
        let found = std::iter::from_fn(|| self.links.diagnosis());
        self.diagnoses.extend(found.map(|found| found.to_string()));
        self.links.flush(now);
    }

    /// Send `body`, of which the last `proof_size` bytes are proof.
    pub fn send(&mut self, to: PeerId, kind: u8, body: &[u8], proof_size: u16) -> bool {
        let frame = if body.is_empty() {
            None
        } else {
            match self.tx_arena.pool().copy_from(body) {
                Some(frame) => Some(frame),
                None => return false,
            }
        };
        self.links.tx(Outgoing {
            to,
            kind,
            auth: u8::from(proof_size > 0),
            session: 5,
            proof_size,
            body_digest: None,
            frame,
        })
    }

    /// Bodies and proofs received, forgetting them.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.received.drain(..).map(|message| message.frame.bytes().to_vec()).collect()
    }
}

/// Turn all nodes by the system's clock until `done`.
pub fn until(nodes: &mut [&mut Node], what: &str, mut done: impl FnMut(&mut [&mut Node]) -> bool) {
    let clock = SystemClock::new();
    let limit = clock.now() + PATIENCE;
    loop {
        for node in nodes.iter_mut() {
            node.turn(clock.now());
        }
        if done(nodes) {
            return;
        }
        assert!(clock.now() < limit, "timed out: {what}");
        nodes[0].links.park(Duration::from_millis(1));
    }
}

pub fn until_up(nodes: &mut [&mut Node], a: PeerId, b: PeerId) {
    until(nodes, "both links up", |nodes| nodes[0].links.is_up(b) && nodes[1].links.is_up(a));
}
