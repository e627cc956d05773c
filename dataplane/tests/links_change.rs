//! Links whose peers and keys change while they run, over a switch in simulated time.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use support::*;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::links::{LinkConfig, LinkEvent};
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::transport::memory::{Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::{Instant, PeerId};

/// Replicas at the ports of their numbers; each dials those below it, if it knows them.
struct World {
    switch: Switch,
    nodes: Vec<Node>,
    now: Instant,
}

/// A replica's key with this number of its own.
fn key(id: u16, version: u8) -> StaticSecret {
    let mut bytes = [version + 1; 32];
    // The lowest bits of the first byte do not count.
    bytes[8..10].copy_from_slice(&(id + 100).to_le_bytes());
    StaticSecret::from_bytes(&bytes)
}

/// Replicas with the versions of their keys, and client 3.
fn peers(known: &[(u16, u8)]) -> Directory {
    let replicas = known.iter().map(|(id, version)| (replica(*id), key(*id, *version).public()));
    let client = PeerId::client(3);
    Directory::new(replicas.chain([(client, public(client))])).unwrap()
}

fn dials(own: u16, known: &[(u16, u8)]) -> Vec<(PeerId, SocketAddr)> {
    let below = known.iter().filter(|(id, _)| *id < own);
    below.map(|(id, _)| (replica(*id), Port(*id).address())).collect()
}

impl World {
    fn new(count: u16, known: &[(u16, u8)]) -> Self {
        let switch = Switch::new(SwitchConfig::default());
        let node = |id| {
            let arena = arena();
            let endpoint = Box::new(switch.attach(Port(id), arena.pool()).unwrap());
            let identity = Identity { peer: replica(id), secret: key(id, 0) };
            let config = LinkConfig::default();
            Node::with(identity, peers(known), CLUSTER, config, arena, endpoint)
        };
        let nodes = (0..count).map(node).collect();
        let mut world = Self { switch, nodes, now: Instant(1_000_000_000) };
        (0..count).for_each(|id| world.tell(id, known));
        world.settle();
        world
    }

    fn tell(&mut self, id: u16, known: &[(u16, u8)]) {
        let links = &mut self.nodes[usize::from(id)].links;
        links.set_peers(peers(known), &dials(id, known));
    }

    fn turn(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        self.nodes.iter_mut().for_each(|node| node.turn(self.now));
    }

    fn settle(&mut self) {
        (0..30).for_each(|_| self.turn());
    }

    fn links(&self, id: u16) -> &tetrarch_dataplane::links::Links {
        &self.nodes[usize::from(id)].links
    }

    fn are_up(&self, a: u16, b: u16) -> bool {
        self.links(a).is_up(replica(b)) && self.links(b).is_up(replica(a))
    }

    fn send(&mut self, from: u16, to: u16, body: &[u8]) -> bool {
        self.nodes[usize::from(from)].send(replica(to), 1, body, 0)
    }

    fn rejected(&self, id: u16, reason: Reject) -> u64 {
        self.links(id).rejects().get(reason)
    }

    fn assert_slots_home(&mut self) {
        for node in &mut self.nodes {
            node.take();
            node.links.give_back();
            assert_eq!(node.arena.free_slots(), node.arena.total_slots());
            assert_eq!(node.tx_arena.free_slots(), node.tx_arena.total_slots());
        }
    }
}

#[test]
fn a_removed_peer_is_left_and_refused_when_it_calls_again() {
    let mut world = World::new(3, &[(0, 0), (1, 0), (2, 0)]);
    assert!(world.are_up(0, 1) && world.are_up(0, 2) && world.are_up(1, 2));
    // They wait for each other when their receiver is removed.
    assert!(world.send(0, 1, b"never sent") && world.send(0, 1, b"nor this"));
    world.tell(0, &[(0, 0), (2, 0)]);
    assert!(!world.links(0).is_up(replica(1)) && world.links(0).is_up(replica(2)));
    assert!(!world.send(0, 1, b"to nobody"), "no session");
    world.settle();
    assert_eq!(world.nodes[0].events.last(), Some(&LinkEvent::Down(replica(1))));
    assert!(world.nodes[1].take().is_empty());
    for _ in 0..10 {
        world.settle();
    }
    assert!(world.rejected(0, Reject::UnknownPeer) > 5, "it tried again and again");
    let text = world.nodes[0].diagnoses.last().unwrap();
    assert!(text.contains("replica 1 is not in the configuration"), "{text}");
    // The others noticed nothing.
    let downs =
        |node: &Node| node.events.iter().filter(|it| matches!(it, LinkEvent::Down(_))).count();
    assert_eq!([0, 1, 2].map(|at| downs(&world.nodes[at])), [1, 1, 0]);
    // It may come back.
    world.tell(0, &[(0, 0), (1, 0), (2, 0)]);
    world.settle();
    assert!(world.are_up(0, 1));
    assert!(world.send(0, 1, b"welcome back"));
    world.settle();
    assert_eq!(world.nodes[1].take(), [b"welcome back"]);
    world.assert_slots_home();
}

#[test]
fn a_peer_between_others_is_added_and_all_keep_their_links() {
    let mut world = World::new(4, &[(0, 0), (3, 0)]);
    assert!(world.are_up(0, 3) && !world.links(1).is_up(replica(0)));
    let all = [(0, 0), (1, 0), (3, 0)];
    // Not everybody learns it at the same time.
    for id in [3, 1, 0] {
        world.tell(id, &all);
        world.settle();
        assert!(world.are_up(0, 3));
    }
    world.now = world.now + Duration::from_millis(100);
    world.settle();
    assert!(world.are_up(0, 1) && world.are_up(1, 3) && world.are_up(0, 3));
    assert!(world.send(0, 3, b"to three") && world.send(0, 1, b"to one"));
    world.settle();
    assert_eq!(
        (world.nodes[3].take(), world.nodes[1].take()),
        (vec![b"to three".to_vec()], vec![b"to one".to_vec()])
    );
    assert_eq!(world.nodes[3].events, [LinkEvent::Up(replica(0)), LinkEvent::Up(replica(1))]);
    world.assert_slots_home();
}

/// Replica 1 has a new key; the others learn it one after the other. Nobody is without a link for
/// longer than it takes to dial again, and in the end nobody takes the old key.
#[test]
fn a_key_is_changed_under_links() {
    let (old, new) = ([(0, 0), (1, 0), (2, 0)], [(0, 0), (1, 1), (2, 0)]);
    let mut world = World::new(3, &old);
    // Before it knows whether the others know.
    world.nodes[1].links.set_secret(key(1, 1), Some(key(1, 0)));
    world.tell(1, &new);
    // All links break: it is the dialler of one and the acceptor of the other.
    for other in [0, 2] {
        world.switch.cut(Port(1), Port(other));
    }
    world.settle();
    assert!(!world.are_up(0, 1) && !world.are_up(1, 2));
    for other in [0, 2] {
        world.switch.heal(Port(1), Port(other));
    }
    world.settle();
    assert!(world.are_up(0, 1) && world.are_up(1, 2), "with the key that the others know");
    world.nodes.iter_mut().for_each(|node| node.events.clear());
    world.tell(0, &new);
    world.tell(2, &new);
    world.settle();
    assert!(world.are_up(0, 1) && world.are_up(1, 2));
    assert!(world.nodes[0].events.is_empty(), "the link outlives the key");
    world.now = world.now + LinkConfig::default().rekey_after;
    world.settle();
    assert!(world.are_up(0, 1) && world.are_up(1, 2));
    let again = [LinkEvent::Down(replica(1)), LinkEvent::Up(replica(1))];
    assert_eq!(world.nodes[0].events, again, "and is made again with the new one");
    // Somebody who found the old key.
    let arena = arena();
    let endpoint = Box::new(world.switch.attach(Port(9), arena.pool()).unwrap());
    let identity = Identity { peer: replica(1), secret: key(1, 0) };
    let config = LinkConfig::default();
    world.switch.dial(Port(9), Port(0), replica(0));
    world.nodes.push(Node::with(identity, peers(&old), CLUSTER, config, arena, endpoint));
    world.settle();
    assert!(world.rejected(0, Reject::UnknownPeer) > 0);
    assert!(!world.nodes[3].links.is_up(replica(0)) && world.are_up(0, 1));
    world.nodes.pop();
    world.settle();
    world.assert_slots_home();
}

/// The old key was used when the handshake began, and is nobody's when it would end.
#[test]
fn a_handshake_with_a_key_of_before_does_not_complete() {
    for (id, state) in [(0, "accepted"), (1, "dialled")] {
        for turns in 0..4 {
            let known = [(0, 0), (1, 0)];
            let mut world = World::new(2, &[(0, 0)]);
            world.tell(0, &known);
            world.tell(1, &known);
            for _ in 0..turns {
                world.turn();
            }
            let was_up = world.links(id).is_up(replica(1 - id));
            let other = if id == 0 { [(0, 0), (1, 5)] } else { [(0, 5), (1, 0)] };
            world.tell(id, &other);
            world.nodes[usize::from(id)].events.clear();
            world.settle();
            let up = LinkEvent::Up(replica(1 - id));
            let events = &world.nodes[usize::from(id)].events;
            assert!(was_up || !events.contains(&up), "{state}, {turns} turns: {events:?}");
            world.now = world.now + LinkConfig::default().rekey_after;
            world.settle();
            assert!(!world.links(id).is_up(replica(1 - id)), "{state}, {turns} turns");
            world.tell(id, &known);
            world.now = world.now + Duration::from_secs(1);
            world.settle();
            assert!(world.are_up(0, 1), "{state}, {turns} turns");
            world.assert_slots_home();
        }
    }
}

/// What happens to one node at a time.
#[derive(Clone, Debug)]
enum Step {
    /// It believes in these members, with versions of their keys.
    Tell(u16, Vec<(u16, u8)>),
    /// Its own key has another version; it keeps the one before, too.
    Rekey(u16, u8),
    Cut(u16, u16),
    Heal(u16, u16),
    Send(u16, u16),
    Turns(u8),
}

const COUNT: u16 = 5;

fn step() -> impl Strategy<Value = Step> {
    let id = 0..COUNT;
    let known = proptest::collection::vec(proptest::option::weighted(0.8, 0u8..2), COUNT as usize)
        .prop_map(|all| {
            let known = (0..).zip(all);
            known.filter_map(|(id, version)| Some((id, version?))).collect::<Vec<_>>()
        });
    prop_oneof![
        3 => (id.clone(), known).prop_map(|(id, known)| Step::Tell(id, known)),
        1 => (id.clone(), 0u8..2).prop_map(|(id, version)| Step::Rekey(id, version)),
        1 => (id.clone(), id.clone()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => (id.clone(), id.clone()).prop_map(|(a, b)| Step::Heal(a, b)),
        4 => (id.clone(), id).prop_map(|(a, b)| Step::Send(a, b)),
        3 => (1u8..10).prop_map(Step::Turns),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever changes in whatever order: who is up is known; nothing comes from who is not; and when
    /// all agree, all are linked and nothing is held.
    #[test]
    fn links_follow_any_change(steps in proptest::collection::vec(step(), 1..60)) {
        let all: Vec<_> = (0..COUNT).map(|id| (id, 0)).collect();
        let mut world = World::new(COUNT, &all);
        let mut known = vec![all; usize::from(COUNT)];
        for step in steps {
            match step {
                Step::Tell(id, members) => {
                    world.tell(id, &members);
                    known[usize::from(id)] = members;
                }
                Step::Rekey(id, version) => {
                    let links = &mut world.nodes[usize::from(id)].links;
                    links.set_secret(key(id, version), Some(key(id, 1 - version)));
                }
                Step::Cut(a, b) => world.switch.cut(Port(a), Port(b)),
                Step::Heal(a, b) => world.switch.heal(Port(a), Port(b)),
                Step::Send(a, b) => {
                    let up = world.links(a).is_up(replica(b));
                    let sent = world.send(a, b, &[a as u8; 100]);
                    prop_assert!(up || !sent);
                }
                Step::Turns(count) => (0..count).for_each(|_| world.turn()),
            }
            for (node, known) in world.nodes.iter_mut().zip(&known) {
                let is_known = |peer| known.iter().any(|(id, _)| replica(*id) == peer);
                for id in 0..COUNT {
                    prop_assert!(!node.links.is_up(replica(id)) || is_known(replica(id)));
                }
                for message in node.received.drain(..) {
                    let id = message.peer.index() as u8;
                    prop_assert_eq!(message.frame.bytes(), &[id; 100][..]);
                }
            }
        }
        let last: Vec<_> = (0..COUNT).map(|id| (id, 1)).collect();
        for id in 0..COUNT {
            (0..COUNT).for_each(|other| world.switch.heal(Port(id), Port(other)));
            world.nodes[usize::from(id)].links.set_secret(key(id, 1), Some(key(id, 0)));
            world.tell(id, &last);
        }
        (0..40).for_each(|_| world.settle());
        for (a, b) in (0..COUNT).flat_map(|a| (0..a).map(move |b| (a, b))) {
            prop_assert!(world.are_up(a, b), "{} and {}", a, b);
        }
        for (at, node) in world.nodes.iter().enumerate() {
            // What the user was told is how it is.
            for id in (0..COUNT).filter(|id| usize::from(*id) != at) {
                let of = |event: &&LinkEvent| matches!(event, LinkEvent::Up(p) | LinkEvent::Down(p) if *p == replica(id));
                prop_assert_eq!(node.events.iter().rfind(of), Some(&LinkEvent::Up(replica(id))));
            }
        }
        world.assert_slots_home();
    }
}
