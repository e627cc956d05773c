//! What a node's stages do when they are told of another view: links, proofs, places.

mod support;

use std::time::Duration;

use support::World;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_appliance::testing::{request_bytes, request_bytes_in};
use tetrarch_client::cluster::PrivateKeys;
use tetrarch_consensus::membership::{Membership, VIEW_MANAGER, ViewAnswer, ViewRequest};
use tetrarch_consensus::message::reply::{ReplyHeader, Status};
use tetrarch_consensus::message::{codec, proof};
use tetrarch_consensus::{ClientId, Digest, Sequence, ViewId};
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size, write_vector};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::transport::memory::Port;
use tetrarch_dataplane::types::PeerId;

/// View `view` with these replicas.
fn membership(world: &World, view: u32, ids: &[u16]) -> Membership {
    let first = world.test.cluster.membership();
    let members = first.members().iter().filter(|member| ids.contains(&member.id.0)).cloned();
    let (cluster, model) = (first.cluster(), first.model());
    Membership::new(cluster, ViewId(view), 1, model, members.collect()).expect("possible")
}

/// As if the View Manager had asked for it: nodes do not look at that again.
fn asked(next: &Membership) -> ViewRequest {
    ViewRequest { next: next.clone(), signature: [9; 64] }
}

/// To be answered with four bytes.
const OPERATION: &[u8] = b"\x04\0\0\0load";

fn replica(id: u16) -> PeerId {
    PeerId::replica(id)
}

impl World {
    fn enter(&self, ids: &[usize], next: &Membership) {
        for node in ids.iter().filter_map(|id| self.nodes[*id].as_ref()) {
            node.herald().ended(next.clone());
            node.herald().entered(asked(next)).expect("its keys are there");
        }
    }

    fn is_up(&self, a: usize, b: u16) -> bool {
        self.nodes[a].as_ref().is_some_and(|node| node.is_up(replica(b)))
    }

    /// Lets time pass, in steps in which pings keep links alive.
    fn pass(&mut self, time: Duration) {
        let step = Duration::from_millis(500);
        for _ in 0..time.as_millis() / step.as_millis() {
            self.now = self.now + step;
            self.tick();
        }
    }

    fn ticks(&mut self) {
        (0..100).for_each(|_| self.tick());
    }
}

#[test]
fn who_leaves_is_linked_for_a_while_and_who_comes_from_the_moment_that_it_is_decided() {
    let mut world = World::new(5, 0);
    world.connect();
    // All the others dial replica 0.
    let (all, rest) = ([0, 1, 2, 3, 4], [1, 2, 3, 4]);
    let without = membership(&world, 1, &[1, 2, 3, 4]);
    world.enter(&rest, &without);
    world.ticks();
    for id in rest {
        assert!(world.is_up(id, 0), "{id}: it may have to learn how its view ended");
        let own = 1 << (id - 1);
        assert_eq!(world.metrics[id].peers_up.get(), 0b1111 & !own, "by places in the new view");
    }
    world.pass(Duration::from_secs(62));
    assert!(rest.iter().all(|id| !world.is_up(*id, 0)), "it had its time");
    assert!(world.is_up(1, 4) && world.is_up(3, 2));
    world.paused = None;
    let again = membership(&world, 2, &[0, 1, 2, 3, 4]);
    for id in rest {
        let node = world.nodes[id].as_ref().expect("it runs");
        node.herald().ended(again.clone());
    }
    world.pass(Duration::from_secs(3));
    assert!(rest.iter().all(|id| world.is_up(*id, 0)), "before the view that names it begins");
    assert_eq!(world.metrics[1].peers_up.get(), 0b1110, "it has no place yet");
    world.enter(&all, &again);
    world.ticks();
    assert_eq!(world.metrics[1].peers_up.get(), 0b11101);
    assert!(rest.iter().all(|id| world.is_up(*id, 0)));
}

#[test]
fn a_replica_that_calls_after_its_time_is_refused() {
    let mut world = World::new(5, 0);
    world.connect();
    let next = membership(&world, 1, &[0, 1, 2, 3]);
    world.enter(&[0, 1, 2, 3], &next);
    world.pass(Duration::from_secs(70));
    // Replica 4, which was told nothing, dials again and again.
    for id in 0..4 {
        assert!(!world.is_up(id, 4));
        assert!(world.metrics[id].reject(Reject::UnknownPeer) > 0, "{id}");
    }
    assert!(world.is_up(0, 1) && world.is_up(2, 3));
}

/// MAC vectors have an entry for each member, in the order of the view that they were made for.
#[test]
fn proofs_go_by_the_places_of_the_view() {
    let offload = IngressPlan { inline: false, workers: 2 };
    for ingress in [IngressPlan::default(), offload] {
        let mut world = World::with_ingress(5, 1, ingress);
        world.connect();
        let keys = world.test.pair_keys(0);
        let mut counter = 0;
        let mut send = |world: &mut World, view: u32, keys: &[PairKey], to: u16| {
            counter += 1;
            let client = ClientId::new(0, counter);
            let body = request_bytes_in(ViewId(view), client, 1, OPERATION, false);
            let mut vector = vec![0; vector_size(keys.len())];
            write_vector(keys, &body_digest(&body), &mut vector);
            let metrics = std::sync::Arc::clone(&world.metrics[usize::from(to)]);
            let before = (metrics.requests.get(), metrics.reject(Reject::BadProof));
            world.clients[0].send_with_proof(&body, proof::MAC_VECTOR, &vector, to);
            // What workers count is looked at ten times a second.
            (0..150).for_each(|_| world.tick());
            let taken = metrics.requests.get() - before.0;
            let refused = metrics.reject(Reject::BadProof) - before.1;
            assert_eq!(taken + refused, 1);
            taken == 1
        };
        assert!(send(&mut world, 0, &keys, 2), "in the first view, replica 2 has the third place");
        assert!(!send(&mut world, 0, &keys[1..], 2), "a vector for somebody else");
        let next = membership(&world, 1, &[1, 2, 3, 4]);
        world.enter(&[1, 2, 3, 4], &next);
        assert!(send(&mut world, 1, &keys[1..], 2), "in the second one it has the second");
        assert!(!send(&mut world, 1, &keys, 2), "a vector for the view before");
    }
}

/// A request is taken in the view that it was made for. In an earlier one nobody is told anything; in a later one
/// the client is told which that is, but not with each request.
#[test]
fn a_client_of_an_earlier_view_is_told_of_the_present_one() {
    // rule: CLI.11
    let offload = IngressPlan { inline: false, workers: 2 };
    for ingress in [IngressPlan::default(), offload] {
        let mut world = World::with_ingress(5, 1, ingress);
        world.connect();
        let next = membership(&world, 1, &[1, 2, 3, 4]);
        world.enter(&[1, 2], &next);
        world.ticks();
        let at_once: Vec<_> = std::mem::take(&mut world.clients[0].replies);
        let told = |it: &(u32, ReplyHeader, Vec<u8>)| (it.1.status, it.1.view, it.1.sequence);
        assert_eq!(at_once.len(), 2, "by those that entered it, unasked");
        let expected = (Status::Outdated, ViewId(1), Sequence::NONE);
        assert!(at_once.iter().all(|it| told(it) == expected));
        world.pass(Duration::from_secs(1));
        let (everybody, mut counter) = ([0, 1, 2], 0);
        let mut ask = |world: &mut World, view: u32, read_only: bool| {
            counter += 1;
            let client = &mut world.clients[0];
            client.view = ViewId(view);
            client.send_as(ClientId::new(0, 0), counter, OPERATION, &everybody, read_only, None);
        };
        for read_only in [false, true, false] {
            ask(&mut world, 0, read_only);
        }
        (0..150).for_each(|_| world.tick());
        let mut told: Vec<_> = std::mem::take(&mut world.clients[0].replies);
        told.sort_by_key(|(from, ..)| *from);
        told.retain(|(_, header, _)| header.status == Status::Outdated);
        let from: Vec<_> = told.iter().map(|(from, ..)| *from).collect();
        // Requests were told of at different times on the way through workers.
        assert_eq!(from, [1, 2], "once each, and not by who is where the client is");
        for (_, header, result) in &told {
            assert_eq!((header.view, header.sequence.incarnation()), (ViewId(1), 1));
            assert_eq!(ViewRequest::decode(result), Ok(asked(&next)));
        }
        for id in [1, 2] {
            assert_eq!(world.metrics[id].reject(Reject::OldView), 3);
        }
        world.pass(Duration::from_secs(1));
        ask(&mut world, 0, false);
        (0..150).for_each(|_| world.tick());
        let again = world.clients[0].replies.iter();
        assert_eq!(
            again.filter(|it| it.1.status == Status::Outdated).count(),
            2,
            "in case it was lost"
        );
        // Nobody in the first view knows what a request for the second one is worth.
        let before = world.metrics[0].requests.get();
        ask(&mut world, 1, false);
        (0..150).for_each(|_| world.tick());
        assert_eq!(world.metrics[0].reject(Reject::LaterView), 1);
        assert_eq!(world.metrics[0].requests.get(), before);
    }
}

/// Replica 1 gets other keys while nobody else has heard of it, then everybody does.
#[test]
fn links_go_over_to_the_keys_that_the_view_names() {
    let other = PrivateKeys::generate().expect("random bytes");
    let plan = IngressPlan::default();
    let mut world = World::rekeyed(4, 1, plan, |_| {}, Some((1, &other)));
    world.connect();
    let first = membership(&world, 1, &[0, 1, 2, 3]);
    let mut members = first.members().to_vec();
    members[1].static_key = other.static_secret.public().to_bytes();
    members[1].signing_key = other.signing_key.verifying_key().to_bytes();
    let next = Membership::new(first.cluster(), first.id(), 1, first.model(), members);
    let next = next.expect("possible");
    world.enter(&[1], &next);
    world.ticks();
    world.switch.cut(Port(1), Port(0));
    world.switch.cut(Port(1), Port(2));
    world.ticks();
    assert!(!world.is_up(1, 0) && !world.is_up(2, 1));
    world.switch.heal(Port(1), Port(0));
    world.switch.heal(Port(1), Port(2));
    world.pass(Duration::from_secs(2));
    assert!(world.is_up(1, 0) && world.is_up(2, 1), "others know the keys before these only");
    world.enter(&[0, 2, 3], &next);
    world.pass(Duration::from_secs(5));
    for id in [0, 2, 3] {
        assert!(world.is_up(1, id) && world.is_up(usize::from(id), 1), "{id}");
    }
    // A client proves its requests with the key that it shares with the new one.
    let client = &world.test.client_keys[0].static_secret;
    let shared = PairKey::for_client(client, &other.static_secret.public(), first.cluster());
    let mut keys = world.test.pair_keys(0);
    keys[1] = shared.expect("secrecy");
    let body = request_bytes_in(ViewId(1), ClientId::new(0, 0), 1, OPERATION, false);
    let mut vector = vec![0; vector_size(keys.len())];
    write_vector(&keys, &body_digest(&body), &mut vector);
    let before = world.metrics[1].requests.get();
    world.clients[0].send_with_proof(&body, proof::MAC_VECTOR, &vector, 1);
    world.ticks();
    assert_eq!(world.metrics[1].requests.get() - before, 1);
}

#[test]
fn a_view_with_keys_that_are_not_here_is_not_entered() {
    let mut world = World::new(4, 0);
    world.connect();
    let first = membership(&world, 1, &[0, 1, 2, 3]);
    let mut members = first.members().to_vec();
    members[2].static_key = [7; 32];
    let next = Membership::new(first.cluster(), first.id(), 1, first.model(), members);
    let node = world.nodes[2].as_ref().expect("it runs");
    let error = node.herald().entered(asked(&next.expect("possible")));
    let error = error.expect_err("whose keys?");
    assert!(error.to_string().contains("replica-2.next.key"), "{error}");
    world.ticks();
    assert_eq!(world.metrics[2].peers_up.get(), 0b1011, "as before");
}

impl World {
    /// The View Manager asks for `next` with its request `counter`.
    fn ask(&mut self, keys: &PrivateKeys, counter: u32, next: &Membership) {
        let signature = keys.signing_key.sign(&ViewRequest::signed_bytes(next));
        let mut operation = Vec::new();
        ViewRequest { next: next.clone(), signature }.encode(&mut operation);
        let session = ClientId::new(VIEW_MANAGER, 0);
        let body = request_bytes(session, counter, &operation, false);
        let digest = Digest(body_digest(&body));
        let signed = codec::request_to_sign(self.test.cluster.id, &digest);
        let proof = keys.signing_key.sign(&signed);
        let to: Vec<u16> = (0..self.nodes.len() as u16).collect();
        let manager = self.clients.last_mut().expect("the View Manager");
        for id in to {
            manager.send_with_proof(&body, proof::SIGNATURE, &proof, id);
        }
    }

    fn view(&self, id: usize) -> u32 {
        self.nodes[id].as_ref().expect("it runs").core().view().id().0
    }
}

/// What a client was answered, beside which view its replicas are in.
fn answered(world: &World, client: usize) -> impl Iterator<Item = &(u32, ReplyHeader, Vec<u8>)> {
    let replies = world.clients[client].replies.iter();
    replies.filter(|(_, header, _)| header.status != Status::Outdated)
}

/// Nodes, with their links, proofs and places, go where the View Manager wants them, and back.
#[test]
fn whole_nodes_go_from_view_to_view() {
    let keys = PrivateKeys::generate().expect("random bytes");
    let mut world = World::managed(5, 1, &keys);
    world.connect();
    world.clients[0].send(0, 1, OPERATION, &[0, 1, 2, 3, 4]);
    assert!(world.run_until(200, |world| world.clients[0].answers(0, 1) == 5));

    // Replica 0, which leads, goes.
    let rest = membership(&world, 1, &[1, 2, 3, 4]);
    world.ask(&keys, 1, &rest);
    assert!(world.run_until(5000, |world| (1..5).all(|id| world.view(id) == 1)));
    let answers = answered(&world, 1).map(|it| it.2.clone()).collect::<Vec<_>>();
    assert!(answers.len() >= 3 && answers.iter().all(|answer| *answer == answers[0]));
    let answer = ViewAnswer::decode(&answers[0]).expect("of this release");
    assert!(matches!(answer, ViewAnswer::Accepted { view: ViewId(1), .. }), "{answer:?}");
    world.clients[0].keys.remove(0);
    world.clients[0].view = ViewId(1);
    for counter in 2..20 {
        world.clients[0].send(0, counter, OPERATION, &[1, 2, 3, 4]);
        let done = |world: &World| world.clients[0].answers(0, counter) == 4;
        assert!(world.run_until(500, done), "request {counter}");
    }
    let views = |world: &World| {
        let of = |it: &(u32, ReplyHeader, Vec<u8>)| (it.1.sequence.counter(), it.1.view);
        answered(world, 0).map(of).collect::<Vec<_>>()
    };
    assert!(views(&world).iter().all(|(counter, view)| view.0 == u32::from(*counter > 1)));
    assert_eq!(world.metrics[1].peers_up.get(), 0b1110);
}
