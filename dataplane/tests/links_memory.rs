//! Links over a switch that holds every message, in simulated time: what an attacker on the wire
//! can and cannot do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::*;
use tetrarch_dataplane::arena::Arena;
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::endpoint::{ConnEvent, Endpoint, RawOutgoing};
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::header::Header;
use tetrarch_dataplane::limits::HEADER_SIZE;
use tetrarch_dataplane::links::{KIND_HELLO, LinkConfig, LinkEvent, ReplayPolicy};
use tetrarch_dataplane::middleware::fault::{Fault, FaultConfig};
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::transport::memory::{Delivery, InFlight, Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::{Instant, PeerId};

/// Replica 0 at port 0 is dialled by replica 1 at port 1.
struct World {
    switch: Switch,
    nodes: [Node; 2],
    now: Instant,
    /// Every message that was on the wire.
    seen: Vec<InFlight>,
}

fn switch() -> Switch {
    Switch::new(SwitchConfig { delivery: Delivery::Held, ..SwitchConfig::default() })
}

fn node(switch: &Switch, port: u16, peer: PeerId, cluster: u64, directory: Directory) -> Node {
    let arena = arena();
    let endpoint = Box::new(switch.attach(Port(port), arena.pool()).unwrap());
    let identity = Identity { peer, secret: secret(peer) };
    Node::with(identity, directory, cluster, LinkConfig::default(), arena, endpoint)
}

impl World {
    fn new() -> Self {
        let switch = switch();
        switch.dial(Port(1), Port(0), replica(0));
        let nodes = [0, 1].map(|i| node(&switch, i, replica(i), CLUSTER, directory()));
        Self::with(switch, nodes)
    }

    fn with(switch: Switch, nodes: [Node; 2]) -> Self {
        Self { switch, nodes, now: Instant(1_000_000_000), seen: Vec::new() }
    }

    fn up() -> Self {
        let mut world = Self::new();
        world.settle();
        assert!(world.nodes[0].links.is_up(replica(1)) && world.nodes[1].links.is_up(replica(0)));
        world
    }

    fn turn(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.turn(self.now));
    }

    /// Deliver everything, in order, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.turn();
            while let Some(message) = self.switch.take() {
                self.seen.push(message.clone());
                self.switch.deliver(message);
            }
        }
        self.turn();
    }

    /// The messages that wait, taken off the wire.
    fn taken(&mut self) -> Vec<InFlight> {
        self.turn();
        std::iter::from_fn(|| self.switch.take()).collect()
    }

    fn rejects(&self, node: usize, reason: Reject) -> u64 {
        self.nodes[node].links.rejects().get(reason)
    }

    fn assert_slots_home(mut self) {
        let arenas: Vec<Arena> = {
            self.seen.clear();
            let Self { nodes, switch, .. } = self;
            while switch.take().is_some() {}
            nodes.into_iter().flat_map(|node| [node.arena, node.tx_arena]).collect()
        };
        for arena in arenas {
            assert_eq!(arena.free_slots(), arena.total_slots());
        }
    }
}

#[test]
fn messages_pass_both_ways_with_proof_and_digest() {
    let mut world = World::up();
    let large = vec![7; 300_000];
    for (from, to) in [(0, 1), (1, 0)] {
        let node = &mut world.nodes[from];
        assert!(node.send(replica(to), 1, b"", 0));
        assert!(node.send(replica(to), 2, b"body", 0));
        assert!(node.send(replica(to), 3, b"body and proof", 5));
        assert!(node.send(replica(to), 249, &large, 64));
    }
    world.settle();
    for (from, to) in [(0u16, 1usize), (1, 0)] {
        let received = &world.nodes[to].received;
        assert_eq!(received.len(), 4);
        assert!(received.iter().all(|message| message.peer == replica(from)));
        assert!(received.iter().all(|message| message.session == 5));
        assert_eq!((received[0].body(), received[0].proof()), (&b""[..], &b""[..]));
        assert_eq!((received[2].body(), received[2].proof()), (&b"body and "[..], &b"proof"[..]));
        assert_eq!(received[3].frame.bytes(), large);
        assert_eq!(received[3].kind, 249);
        assert_eq!(world.nodes[to].events, [LinkEvent::Up(replica(from))]);
        assert_eq!(world.nodes[to].links.rejects().total(), 0);
    }
    world.assert_slots_home();
}

#[test]
fn what_cannot_be_sent_is_refused_and_counted() {
    let mut world = World::up();
    let node = &mut world.nodes[0];
    assert!(!node.send(replica(2), 1, b"x", 0), "no session");
    assert!(!node.send(PeerId::client(77), 1, b"x", 0), "nobody");
    assert!(!node.send(replica(1), KIND_HELLO, b"x", 0), "reserved");
    assert_eq!(world.rejects(0, Reject::NoSession), 2);
    assert_eq!(world.rejects(0, Reject::Malformed), 1);
}

/// Every byte of header, body and proof is protected; the link survives unless the bytes that frame
/// the message were hit.
#[test]
fn no_altered_byte_gets_through() {
    let mut world = World::up();
    let body = [b"a body of some bytes".as_slice(), b"proof"].concat();
    let size = HEADER_SIZE + body.len();
    for at in 0..size {
        for mask in [1, 0x80] {
            world.settle();
            assert!(world.nodes[0].links.is_up(replica(1)));
            let before: u64 = world.nodes[1].links.rejects().total();
            let malformed = world.nodes[1].links.counts().malformed;
            assert!(world.nodes[0].send(replica(1), 1, &body, 5));
            let mut taken = world.taken();
            assert_eq!(taken.len(), 1);
            taken[0].flip(at, mask);
            world.switch.deliver(taken.remove(0));
            world.turn();
            assert!(world.nodes[1].received.is_empty(), "byte {at} altered and delivered");
            let counted = world.nodes[1].links.rejects().total() - before
                + (world.nodes[1].links.counts().malformed - malformed);
            assert_eq!(counted, 1, "byte {at} counted once");
            world.now = world.now + Duration::from_millis(100);
        }
    }
    for reason in [Reject::BadTag, Reject::BadDigest, Reject::WrongCluster, Reject::NotAllowed] {
        assert!(world.rejects(1, reason) > 0, "{reason}");
    }
    world.settle();
    assert!(world.nodes[0].send(replica(1), 1, b"still works", 0));
    world.settle();
    assert_eq!(world.nodes[1].take(), [b"still works"]);
    world.assert_slots_home();
}

#[test]
fn a_message_is_accepted_once() {
    let mut world = World::up();
    assert!(world.nodes[0].send(replica(1), 1, b"pay", 0));
    let taken = world.taken();
    for _ in 0..3 {
        world.switch.deliver(taken[0].clone());
    }
    world.settle();
    assert_eq!(world.nodes[1].take(), [b"pay"]);
    assert_eq!(world.rejects(1, Reject::Replay), 2);
}

/// A recording of a whole connection, played on a new one, makes the acceptor compute one answer
/// and nothing else; the real link stays.
#[test]
fn a_recorded_connection_is_worthless() {
    let mut world = World::up();
    assert!(world.nodes[1].send(replica(0), 1, b"pay", 0));
    world.settle();
    assert_eq!(world.nodes[0].take(), [b"pay"]);
    let recording: Vec<_> =
        world.seen.iter().filter(|message| message.from == Port(1)).cloned().collect();
    assert!(recording.len() >= 3);

    world.switch.dial(Port(9), Port(0), replica(0));
    let attacker_arena = arena();
    let mut attacker = world.switch.attach(Port(9), attacker_arena.pool()).unwrap();
    attacker.flush(world.now);
    let Some(ConnEvent::Opened { conn, .. }) = attacker.events() else {
        panic!("the attacker can connect");
    };
    for message in recording {
        let out = RawOutgoing { conn, header: message.header, body: message.body };
        assert!(attacker.tx(out).is_ok());
        world.settle();
    }
    let mut answers = Burst::with_capacity(8);
    assert_eq!(attacker.rx_burst(&mut answers), 1, "one handshake answer, which is of no use");
    assert!(world.nodes[0].take().is_empty());
    assert_eq!(world.rejects(0, Reject::BadTag), 2, "the recorded ping and the recorded message");
    assert_eq!(world.nodes[0].events, [LinkEvent::Up(replica(1))], "the link never went down");
    assert!(world.nodes[1].send(replica(0), 1, b"genuine", 0));
    world.settle();
    assert_eq!(world.nodes[0].take(), [b"genuine"]);
    // The useless connection is closed when its time is over.
    world.now = world.now + Duration::from_secs(4);
    world.settle();
    assert_eq!(world.rejects(0, Reject::HandshakeTimeout), 1);
}

/// The same peer from another address, after it restarted: the new session replaces the old one.
#[test]
fn a_second_session_replaces_the_first() {
    let mut world = World::up();
    world.switch.dial(Port(5), Port(0), replica(0));
    let mut again = node(&world.switch, 5, replica(1), CLUSTER, directory());
    world.nodes[0].events.clear();
    for _ in 0..10 {
        again.turn(world.now);
        world.settle();
    }
    let (down, up) = (LinkEvent::Down(replica(1)), LinkEvent::Up(replica(1)));
    assert_eq!(world.nodes[0].events[..2], [down, up]);
    assert_eq!(
        world.nodes[1].events[..2],
        [LinkEvent::Up(replica(0)), LinkEvent::Down(replica(0))]
    );
    assert!(world.nodes[0].send(replica(1), 1, b"to the new one", 0));
    world.settle();
    again.turn(world.now);
    assert_eq!(again.take(), [b"to the new one"]);
}

#[test]
fn pings_keep_a_link_and_silence_ends_it() {
    let mut world = World::up();
    for _ in 0..600 {
        world.now = world.now + Duration::from_millis(100);
        world.settle();
    }
    assert_eq!(world.nodes[0].events, [LinkEvent::Up(replica(1))]);
    assert_eq!(world.nodes[1].events, [LinkEvent::Up(replica(0))]);
    assert_eq!(world.nodes[0].links.rejects().total(), 0);
    // The network loses everything from now on.
    for _ in 0..70 {
        world.now = world.now + Duration::from_millis(100);
        drop(world.taken());
    }
    assert_eq!(world.nodes[0].events.get(1), Some(&LinkEvent::Down(replica(1))));
    assert_eq!(world.nodes[1].events.get(1), Some(&LinkEvent::Down(replica(0))));
    // And heals.
    world.now = world.now + Duration::from_secs(5);
    world.settle();
    world.now = world.now + Duration::from_secs(1);
    world.settle();
    assert!(world.nodes[0].links.is_up(replica(1)) && world.nodes[1].links.is_up(replica(0)));
}

#[test]
fn deadlines_are_told() {
    let world = World::up();
    let next = world.nodes[0].links.next_deadline().unwrap();
    assert!(next > world.now && next.since(world.now) <= Duration::from_secs(1));
}

#[test]
fn a_peer_with_a_wrong_key_is_refused_and_named() {
    let switch = switch();
    switch.dial(Port(1), Port(0), replica(0));
    // Node 1 presents a key that the directory of node 0 does not have.
    let acceptor = node(&switch, 0, replica(0), CLUSTER, directory());
    let arena = arena();
    let endpoint = Box::new(switch.attach(Port(1), arena.pool()).unwrap());
    let identity = Identity { peer: replica(1), secret: secret(replica(50)) };
    let config = LinkConfig::default();
    let dialler = Node::with(identity, directory(), CLUSTER, config, arena, endpoint);
    let mut world = World::with(switch, [acceptor, dialler]);
    for _ in 0..30 {
        world.now = world.now + Duration::from_millis(100);
        world.settle();
    }
    assert_eq!(world.nodes[0].links.up_count() + world.nodes[1].links.up_count(), 0);
    assert!(world.rejects(0, Reject::UnknownPeer) > 5, "it tried again and again");
    assert_eq!(world.nodes[0].diagnoses.len(), 1, "and was reported once");
    let text = &world.nodes[0].diagnoses[0];
    assert!(text.contains("replica 1") && text.contains("not in the configuration"), "{text}");
    assert!(world.nodes[1].diagnoses[0].contains("closed the connection"));
}

#[test]
fn a_peer_with_anothers_number_is_refused_and_named() {
    let switch = switch();
    switch.dial(Port(1), Port(0), replica(0));
    let acceptor = node(&switch, 0, replica(0), CLUSTER, directory());
    let arena = arena();
    let endpoint = Box::new(switch.attach(Port(1), arena.pool()).unwrap());
    let identity = Identity { peer: replica(2), secret: secret(replica(3)) };
    let config = LinkConfig::default();
    let dialler = Node::with(identity, directory(), CLUSTER, config, arena, endpoint);
    let mut world = World::with(switch, [acceptor, dialler]);
    world.settle();
    assert_eq!(world.rejects(0, Reject::HandshakeFailed), 1);
    let text = &world.nodes[0].diagnoses[0];
    assert!(text.contains("claims to be replica 2 with the key of replica 3"), "{text}");
}

#[test]
fn an_unknown_peer_is_refused_and_named() {
    let switch = switch();
    switch.dial(Port(1), Port(0), replica(0));
    let small = Directory::new([(replica(0), public(replica(0)))]).unwrap();
    let acceptor = node(&switch, 0, replica(0), CLUSTER, small);
    let dialler = node(&switch, 1, replica(1), CLUSTER, directory());
    let mut world = World::with(switch, [acceptor, dialler]);
    world.settle();
    assert_eq!(world.rejects(0, Reject::UnknownPeer), 1);
    assert!(world.nodes[0].diagnoses[0].contains("replica 1 is not in the configuration"));
}

#[test]
fn an_acceptor_with_a_wrong_key_is_refused() {
    let switch = switch();
    switch.dial(Port(1), Port(0), replica(0));
    let peers = [(replica(0), public(replica(40))), (replica(1), public(replica(1)))];
    let acceptor = node(&switch, 0, replica(0), CLUSTER, directory());
    let dialler = node(&switch, 1, replica(1), CLUSTER, Directory::new(peers).unwrap());
    let mut world = World::with(switch, [acceptor, dialler]);
    world.settle();
    assert_eq!(world.rejects(0, Reject::HandshakeFailed), 1);
    assert!(world.nodes[0].diagnoses[0].contains("does not decrypt"));
    assert!(!world.nodes[1].links.is_up(replica(0)));
}

#[test]
fn another_cluster_is_told_apart() {
    let switch = switch();
    switch.dial(Port(1), Port(0), replica(0));
    let acceptor = node(&switch, 0, replica(0), CLUSTER, directory());
    let dialler = node(&switch, 1, replica(1), 0xbad, directory());
    let mut world = World::with(switch, [acceptor, dialler]);
    world.settle();
    assert_eq!(world.rejects(0, Reject::WrongCluster), 1);
    assert!(world.nodes[0].diagnoses[0].contains("0000000000000bad"));
}

#[test]
fn silent_connections_are_bounded_and_closed() {
    let switch = switch();
    let arena = arena();
    let endpoint = Box::new(switch.attach(Port(0), arena.pool()).unwrap());
    let config = LinkConfig { half_open_max: 10, ..LinkConfig::default() };
    let identity = Identity { peer: replica(0), secret: secret(replica(0)) };
    let mut node = Node::with(identity, directory(), CLUSTER, config, arena, endpoint);
    let silent_arena = support::arena();
    let silent: Vec<_> = (0..30)
        .map(|i| {
            switch.dial(Port(100 + i), Port(0), replica(0));
            let mut endpoint = switch.attach(Port(100 + i), silent_arena.pool()).unwrap();
            endpoint.flush(Instant(1));
            endpoint
        })
        .collect();
    node.turn(Instant(1));
    assert_eq!(node.links.rejects().get(Reject::TooManyConnections), 20);
    node.turn(Instant(1) + Duration::from_secs(3));
    assert_eq!(node.links.rejects().get(Reject::HandshakeTimeout), 10);
    drop(silent);
}

/// Over a network that drops, duplicates, alters, delays and reorders, what is delivered was sent,
/// once.
#[test]
fn a_hostile_network_only_loses() {
    let switch = Switch::new(SwitchConfig::default());
    switch.dial(Port(1), Port(0), replica(0));
    let mut nodes = [0, 1].map(|i| {
        let arena = arena();
        let endpoint = Box::new(switch.attach(Port(i), arena.pool()).unwrap());
        let faults = FaultConfig {
            seed: 11 + u64::from(i),
            drop_per_mille: 50,
            duplicate_per_mille: 50,
            corrupt_per_mille: 50,
            reorder_per_mille: 50,
            delay_per_mille: 50,
            delay_max: Duration::from_millis(20),
            held_max: 64,
        };
        let endpoint = Box::new(Fault::new(endpoint, faults, arena.pool()));
        let config = LinkConfig { replay: ReplayPolicy::Window, ..LinkConfig::default() };
        let identity = Identity { peer: replica(i), secret: secret(replica(i)) };
        Node::with(identity, directory(), CLUSTER, config, arena, endpoint)
    });
    let mut now = Instant(1_000_000_000);
    let mut sent = 0u32;
    let mut delivered = std::collections::HashSet::new();
    for _ in 0..20_000 {
        now = now + Duration::from_millis(1);
        for node in &mut nodes {
            node.turn(now);
        }
        let body = [&sent.to_le_bytes()[..], &[9; 100]].concat();
        if nodes[1].send(replica(0), 1, &body, 0) {
            sent += 1;
        }
        for body in nodes[0].take() {
            assert_eq!(body[4..], [9; 100]);
            let number = u32::from_le_bytes(body[..4].try_into().unwrap());
            assert!(number < sent && delivered.insert(number), "{number} was delivered twice");
        }
    }
    assert!(sent > 2_000 && delivered.len() > sent as usize / 2, "{} of {sent}", delivered.len());
    let rejects = nodes[0].links.rejects();
    for reason in [Reject::Replay, Reject::BadTag, Reject::BadDigest] {
        assert!(rejects.get(reason) > 0, "{reason}");
    }
}

/// Header fields that only the sender's own key can vouch for.
#[test]
fn the_header_names_the_sender() {
    let mut world = World::up();
    assert!(world.nodes[0].send(replica(1), 1, b"x", 0));
    let taken = world.taken();
    let header = Header::parse(&taken[0].header).unwrap();
    assert_eq!((header.sender, header.cluster), (0, CLUSTER));
}
