//! Whole nodes over the memory transport, in one thread.

mod support;

use std::time::Duration;

use support::World;
use tetrarch_consensus::ClientId;
use tetrarch_consensus::batch::Replier;
use tetrarch_consensus::limits::FULL_RESULT_SIZE_MAX;
use tetrarch_consensus::message::kind;
use tetrarch_consensus::message::reply::{REPLY_HEADER_SIZE, Status};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::reject::Reject;

const ALL: [u16; 4] = [0, 1, 2, 3];

/// An operation of the null service that asks for an answer of `size` bytes.
fn operation(size: u32) -> Vec<u8> {
    [&size.to_le_bytes()[..], b"load"].concat()
}

#[test]
fn every_replica_answers_every_request_once_and_all_agree() {
    let mut world = World::new(4, 2);
    world.connect();
    for counter in 1..=50 {
        for session in 0..4 {
            for client in &mut world.clients {
                client.send(session, counter, &operation(10), &ALL);
            }
        }
        world.tick();
    }
    let done = |world: &World| world.clients.iter().all(|client| client.replies.len() == 50 * 16);
    assert!(world.run_until(200, done), "{} replies", world.clients[0].replies.len());
    for client in &world.clients {
        for (session, counter) in (0..4).flat_map(|s| (1..=50).map(move |c| (s, c))) {
            assert_eq!(client.answers(session, counter), 4);
        }
        assert!(client.replies.iter().all(|(_, _, result)| result.len() == 10));
    }
    let digests: Vec<_> = world.alive().map(|node| node.service().digest()).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    for metrics in &world.metrics {
        assert_eq!(metrics.requests_executed.get(), 400);
        assert_eq!(metrics.requests.get(), 400);
        assert_eq!(metrics.regency.get(), 0);
        assert_eq!(metrics.evidence.get(), 0);
        assert_eq!(metrics.decided.get(), metrics.executed.get());
    }
}

#[test]
fn a_repeated_request_is_answered_from_the_cache_and_not_executed_again() {
    let mut world = World::new(4, 1);
    world.connect();
    world.clients[0].send(0, 1, &operation(4), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 1) == 4));
    world.clients[0].send(0, 1, &operation(4), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 1) == 8));
    for metrics in &world.metrics {
        assert_eq!(metrics.requests_executed.get(), 1);
        assert_eq!(metrics.replies_resent.get(), 1);
    }
}

#[test]
fn the_replier_answers_in_full_and_the_others_with_its_digest() {
    // rule: CLI.7, CLI.8
    let mut world = World::new(4, 1);
    world.connect();
    world.clients[0].replier = Replier::member(2);
    let large = FULL_RESULT_SIZE_MAX as u32 + 1;
    let whole = |world: &World| -> Vec<u32> {
        let replies = world.clients[0].replies.iter();
        let mut whole: Vec<_> =
            replies.filter(|(_, header, _)| !header.digest).map(|(from, ..)| *from).collect();
        whole.sort_unstable();
        whole
    };
    for (counter, read_only) in [(1, false), (1, true)] {
        let client = ClientId::new(0, 0);
        world.clients[0].send_as(client, counter, &operation(large), &ALL, read_only, None);
        assert!(world.run_until(100, |world| world.clients[0].answers(0, counter) == 4));
        assert_eq!(whole(&world), [2], "read-only: {read_only}");
        // The digest is that of the whole reply, as the link that carries it computes it.
        let replies = std::mem::take(&mut world.clients[0].replies);
        let (_, header, result) = replies.iter().find(|(_, header, _)| !header.digest).unwrap();
        let mut body = vec![0; REPLY_HEADER_SIZE];
        header.write(&mut body);
        body.extend_from_slice(result);
        let digests = replies.iter().filter(|(_, header, _)| header.digest);
        assert!(digests.clone().all(|(_, _, digest)| digest[..] == body_digest(&body)));
        assert_eq!(digests.count(), 3);
    }
    // Asked again: in full, by everybody. What is small never comes as a digest.
    world.clients[0].send(0, 1, &operation(large), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].replies.len() == 4));
    assert_eq!(whole(&world), ALL.map(u32::from));
    world.clients[0].replies.clear();
    world.clients[0].send(0, 2, &operation(large - 1), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].replies.len() == 4));
    assert_eq!(whole(&world), ALL.map(u32::from));
    // A place that no member has: nobody sends the result, and it is there for who asks again.
    world.clients[0].replies.clear();
    world.clients[0].replier = Replier::member(9);
    world.clients[0].send(0, 3, &operation(large), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 3) == 4));
    assert_eq!(whole(&world), [0; 0]);
    world.clients[0].replies.clear();
    world.clients[0].send(0, 3, &operation(large), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 3) == 4));
    assert_eq!(whole(&world), ALL.map(u32::from));
}

#[test]
fn a_read_only_request_is_answered_by_all_without_being_ordered() {
    let mut world = World::new(4, 1);
    world.connect();
    let client = ClientId::new(0, 3);
    world.clients[0].send_as(client, 1, &operation(7), &ALL, true, None);
    assert!(world.run_until(100, |world| world.clients[0].answers(3, 1) == 4));
    assert!(world.clients[0].replies.iter().all(|(_, header, _)| header.read_only));
    assert!(world.metrics.iter().all(|metrics| metrics.decided.get() == 0));
    assert!(world.metrics.iter().all(|metrics| metrics.queries.get() == 1));
}

#[test]
fn the_death_of_the_leader_is_survived() {
    let mut world = World::new(4, 1);
    world.connect();
    world.clients[0].send(0, 1, &operation(4), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 1) == 4));
    world.nodes[0] = None;
    // By hand: a real client signs what it sends again, and only signed requests depose a leader.
    let test = &world.test;
    let key = test.client_keys[0].signing_key.clone();
    let body =
        tetrarch_appliance::testing::request_bytes(ClientId::new(0, 0), 2, &operation(4), false);
    let cluster = test.cluster.id;
    send_signed(&mut world, cluster, &key, &body, &ALL[1..]);
    assert!(world.run_until(5000, |world| world.clients[0].answers(0, 2) == 3));
    for metrics in &world.metrics[1..] {
        assert!(metrics.regency.get() >= 1);
        assert_ne!(metrics.leader.get(), 0);
    }
}

fn send_signed(
    world: &mut World,
    cluster: u64,
    key: &tetrarch_dataplane::crypto::signature::SigningKey,
    body: &[u8],
    to: &[u16],
) {
    use tetrarch_consensus::Digest;
    use tetrarch_consensus::message::{codec, proof};
    use tetrarch_dataplane::crypto::hash::body_digest;
    let digest = body_digest(body);
    let signature = key.sign(&codec::request_to_sign(cluster, &Digest(digest)));
    for replica in to {
        world.clients[0].send_with_proof(body, proof::SIGNATURE, &signature, *replica);
    }
}

#[test]
fn a_burst_of_signed_requests_loses_only_those_that_are_forged() {
    // rule: CLI.4, VAL.8
    let mut world = World::new(4, 2);
    world.connect();
    let cluster = world.test.cluster.id;
    let keys = [0, 1].map(|client: usize| world.test.client_keys[client].signing_key.clone());
    for session in 0..150 {
        let client = ClientId::new(0, session);
        let body = tetrarch_appliance::testing::request_bytes(client, 1, &operation(4), false);
        send_signed(&mut world, cluster, &keys[usize::from(session % 50 == 7)], &body, &ALL);
    }
    assert!(world.run_until(200, |world| world.clients[0].replies.len() == 4 * 147));
    for session in 0..150 {
        let expected = if session % 50 == 7 { 0 } else { 4 };
        assert_eq!(world.clients[0].answers(session, 1), expected, "session {session}");
    }
    for metrics in &world.metrics {
        assert_eq!((metrics.requests.get(), metrics.reject(Reject::BadProof)), (147, 3));
        // Of those that are remembered as proved a few may have taken the place of others.
        let checked = metrics.signatures.get();
        assert!((150..160).contains(&checked), "{checked}: once each, not again in a proposal");
        assert_eq!(metrics.regency.get(), 0);
    }
}

#[test]
fn a_node_that_stood_still_catches_up_under_load() {
    let mut world = World::new(4, 1);
    world.connect();
    let mut counters = [0; 64];
    let mut load = |world: &mut World, ticks: u32| {
        for tick in 0..ticks {
            for (session, counter) in counters.iter_mut().enumerate() {
                if (tick as usize + session).is_multiple_of(4) {
                    *counter += 1;
                    world.clients[0].send(session as u32, *counter, &operation(4), &ALL);
                }
            }
            world.tick();
        }
    };
    load(&mut world, 20);
    world.paused = Some(2);
    load(&mut world, 200);
    world.paused = None;
    load(&mut world, 500);
    let behind = world.metrics[0].decided.get() - world.metrics[2].decided.get();
    assert!(behind < 300, "{behind} instances behind after running again for 500 ms");
    let caught_up = |world: &World| {
        world.metrics.iter().all(|metrics| metrics.decided.get() == world.metrics[0].decided.get())
    };
    assert!(world.run_until(1000, caught_up));
    assert!(world.metrics.iter().all(|metrics| metrics.regency.get() == 0));
    let digests: Vec<_> = world.alive().map(|node| node.service().digest()).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
fn garbage_is_counted_by_reason_and_disturbs_nobody() {
    let mut world = World::new(4, 2);
    world.connect();
    let wrong = |world: &World, reason| world.metrics[1].reject(reason);
    // A kind that clients may not send, a body that is no request, a proof that does not hold, a
    // session of somebody else, a session that may not exist, a command that is none.
    world.clients[1].send_raw(kind::PROPOSE, b"not mine to send", 1);
    world.clients[1].send_raw(kind::REQUEST, b"short", 1);
    let own = ClientId::new(1, 0);
    world.clients[1].send_as(own, 1, &operation(1), &[1], false, Some(16));
    world.clients[1].send_as(ClientId::new(0, 0), 1, &operation(1), &[1], false, None);
    world.clients[1].send_as(ClientId::new(1, 5000), 1, &operation(1), &[1], false, None);
    world.clients[1].send_as(own, 2, &u32::MAX.to_le_bytes(), &[1], false, None);
    assert!(world.run_until(100, |world| {
        wrong(world, Reject::NotAllowed) == 4
            && wrong(world, Reject::Malformed) == 1
            && wrong(world, Reject::BadProof) == 1
    }));
    let refused: Vec<_> = world.clients[1]
        .replies
        .iter()
        .filter(|(_, header, _)| header.status == Status::Refused)
        .map(|(from, header, _)| (*from, header.client.session(), header.sequence.counter()))
        .collect();
    assert_eq!(refused, [(1, 5000, 1), (1, 0, 2)]);
    // Bytes of every kind from a client whose link is good: each is dropped and counted.
    let before: u64 = Reject::ALL.iter().map(|reason| wrong(&world, *reason)).sum();
    for kind in 0..250u8 {
        world.clients[1].send_raw(kind, &[kind; 100], 1);
        world.tick();
    }
    let after: u64 = Reject::ALL.iter().map(|reason| wrong(&world, *reason)).sum();
    assert_eq!(after - before, 250);
    world.clients[0].send(0, 1, &operation(3), &ALL);
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 1) == 4));
    assert_eq!(world.metrics[1].regency.get(), 0);
}

#[test]
fn every_frame_comes_back() {
    let mut world = World::new(4, 1);
    world.connect();
    for counter in 1..=100 {
        world.clients[0].send(0, counter, &operation(2000), &ALL);
        world.tick();
    }
    assert!(world.run_until(100, |world| world.clients[0].answers(0, 100) == 4));
    // The decision log keeps the batches of the last decisions, one frame each, and nothing else
    // stays: no request, no vote, no reply.
    world.run_until(3000, |_| false);
    for (arena, node) in world.arenas.iter().zip(&world.nodes) {
        let node = node.as_ref().expect("alive");
        let used = arena.total_slots() - arena.free_slots();
        let kept = node.core().decided().0 as usize;
        assert!(used <= kept + 8, "{used} slots in use with {kept} decisions");
    }
    world.nodes.clear();
    world.now = world.now + Duration::from_secs(1);
    for arena in &world.arenas {
        assert_eq!(arena.free_slots(), arena.total_slots(), "a frame leaked");
    }
}
