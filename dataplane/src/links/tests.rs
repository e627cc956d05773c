//! Links that bundle, over a switch in memory, with a peer that can seal what it likes.

use super::*;
use crate::arena::{Arena, ArenaSpec, SlotClass};
use crate::crypto::hash::body_digest;
use crate::crypto::keys::StaticSecret;
use crate::header::Header;
use crate::limits::{BUNDLED_SIZE_MAX, TAG_SIZE};
use crate::transport::memory::{Delivery, InFlight, Port, Switch, SwitchConfig};
use proptest::prelude::*;

const CLUSTER: u64 = 7;

struct Side {
    links: Links,
    arena: Arena,
}

struct World {
    switch: Switch,
    sides: [Side; 2],
    now: Instant,
}

fn replica(i: u16) -> PeerId {
    PeerId::replica(i)
}

fn secret(i: u16) -> StaticSecret {
    StaticSecret::from_bytes(&[i as u8 + 1; 32])
}

fn arena() -> Arena {
    let class = |slot_size, count| SlotClass { slot_size, count };
    let classes = vec![class(64, 64), class(640, 512), class(5120, 64), class(40_000, 64)];
    Arena::heap(&ArenaSpec { classes }).unwrap()
}

impl World {
    /// Replica 1 has dialled replica 0.
    fn new(delivery: Delivery, config: &LinkConfig, queue_max: usize) -> Self {
        let config_of_switch = SwitchConfig { delivery, queue_max, ..SwitchConfig::default() };
        let switch = Switch::new(config_of_switch);
        switch.dial(Port(1), Port(0), replica(0));
        let sides = [0, 1].map(|i| {
            let arena = arena();
            let endpoint = Box::new(switch.attach(Port(i), arena.pool()).unwrap());
            let known = [0, 1].map(|i| (replica(i), secret(i).public()));
            let identity = Identity { peer: replica(i), secret: secret(i) };
            let directory = Directory::new(known).unwrap();
            let (config, pool) = (config.clone(), arena.pool());
            let links = Links::new(endpoint, identity, directory, CLUSTER, config, pool).unwrap();
            Side { links, arena }
        });
        let mut world = Self { switch, sides, now: Instant(1_000_000_000) };
        for _ in 0..10 {
            assert!(world.receive(0).is_empty() && world.receive(1).is_empty());
            world.flush();
            while let Some(message) = world.switch.take() {
                world.switch.deliver(message);
            }
        }
        assert!(world.sides[0].links.is_up(replica(1)) && world.sides[1].links.is_up(replica(0)));
        world
    }

    fn held() -> Self {
        Self::new(Delivery::Held, &LinkConfig::default(), 1000)
    }

    fn flush(&mut self) {
        self.sides.iter_mut().for_each(|side| side.links.flush(self.now));
    }

    /// Sends from replica 0 to replica 1.
    fn send(&mut self, kind: u8, payload: &[u8], proof_size: u16) -> bool {
        let side = &mut self.sides[0];
        let Some(frame) = side.arena.pool().copy_from(payload) else { return false };
        side.links.tx(Outgoing {
            to: replica(1),
            kind,
            auth: 1,
            session: payload.len() as u64,
            proof_size,
            body_digest: None,
            frame: Some(frame),
        })
    }

    /// What was put on the wire.
    fn wire(&mut self) -> Vec<InFlight> {
        self.sides[0].links.flush(self.now);
        std::iter::from_fn(|| self.switch.take()).collect()
    }

    fn receive(&mut self, side: usize) -> Vec<Received> {
        self.receive_some(side, BURST_MAX)
    }

    fn receive_some(&mut self, side: usize, capacity: usize) -> Vec<Received> {
        let mut burst = Burst::with_capacity(capacity);
        let count = self.sides[side].links.rx_burst(self.now, &mut burst);
        assert_eq!(count, burst.len());
        burst.drain().collect()
    }

    fn reject(&self, reason: Reject) -> u64 {
        self.sides[1].links.rejects().get(reason)
    }

    /// Replica 0 tags and sends anything as a bundle of `count` messages.
    fn seal(&mut self, count: u64, payload: &[u8], change: impl FnOnce(&mut Header)) -> InFlight {
        let id = self.sides[0].links.peers[1].conn.unwrap();
        let mut header = Header {
            kind: KIND_BUNDLE,
            auth: 0,
            size: (HEADER_SIZE + payload.len()) as u32,
            sender: 0,
            proof_size: 0,
            cluster: CLUSTER,
            session: count,
            sequence: 0,
            body_digest: Digest::default(),
            tag: [0; TAG_SIZE],
        };
        change(&mut header);
        let frame = self.sides[0].arena.pool().copy_from(payload).unwrap();
        assert!(self.sides[0].links.send_tagged(id, header, Some(frame)).is_ok());
        self.wire().remove(0)
    }
}

fn kind_of(message: &InFlight) -> u8 {
    Header::parse(&message.header).unwrap().kind
}

/// Every peer may send bundles: links that could not receive one are not made.
#[test]
fn links_without_room_for_a_bundle_are_refused() {
    let refused = |slot_size, config| {
        let switch = Switch::new(SwitchConfig::default());
        let classes = vec![SlotClass { slot_size, count: 8 }];
        let pool = Arena::heap(&ArenaSpec { classes }).unwrap().pool();
        let endpoint = Box::new(switch.attach(Port(0), pool.clone()).unwrap());
        let identity = Identity { peer: replica(0), secret: secret(0) };
        let directory = Directory::new([(replica(0), secret(0).public())]).unwrap();
        let links = Links::new(endpoint, identity, directory, CLUSTER, config, pool);
        links.err().map(|error| error.to_string())
    };
    let error = refused(4095, LinkConfig::default()).unwrap();
    assert!(error.starts_with("arena.classes = slots of at most 4095 bytes"), "{error}");
    assert!(error.ends_with("add a class of slots of 4096 bytes or more"), "{error}");
    assert_eq!(refused(4096, LinkConfig::default()), None);
    let least = (HEADER_SIZE + BUNDLE_SIZE_MAX) as u32;
    let client = |size| LinkConfig { message_size_max_client: size, ..LinkConfig::default() };
    let replica = |size| LinkConfig { message_size_max_replica: size, ..LinkConfig::default() };
    assert_eq!((refused(4096, client(least)), refused(4096, replica(least))), (None, None));
    for (config, field) in [(client(least - 1), "_client"), (replica(least - 1), "_replica")] {
        let error = refused(4096, config).unwrap();
        assert!(error.starts_with(&format!("message_size_max{field} = ")), "{error}");
        assert!(error.ends_with(&format!("use {least} or more")), "{error}");
    }
}

#[test]
fn small_messages_of_a_turn_share_a_header_and_keep_their_order() {
    let mut world = World::held();
    for number in 0..40u8 {
        assert!(world.send(number, &[number; 100], 10));
    }
    assert!(world.send(90, &[9; BUNDLED_SIZE_MAX + 1], 1));
    assert!(world.send(91, b"alone", 0));
    let wire = world.wire();
    let kinds: Vec<_> = wire.iter().map(kind_of).collect();
    assert_eq!(kinds, [KIND_BUNDLE, KIND_BUNDLE, 90, 91]);
    assert!(wire.into_iter().all(|message| world.switch.deliver(message)));
    let received = world.receive(1);
    let kinds: Vec<_> = received.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, (0..40).chain([90, 91]).collect::<Vec<_>>());
    for message in &received {
        assert_eq!((message.peer, message.auth), (replica(0), 1));
        assert_eq!(message.body_digest, body_digest(message.body()));
        assert_eq!(message.session, message.frame.size() as u64);
    }
    assert_eq!((received[3].body(), received[3].proof()), (&[3; 90][..], &[3; 10][..]));
    assert_eq!(world.sides[0].links.bundles().tx, 2);
    assert_eq!(world.sides[1].links.bundles().rx, 2);
    assert_eq!(world.sides[1].links.rejects().total(), 0);
}

#[test]
fn no_altered_byte_of_a_bundle_gets_through_and_none_twice() {
    let mut world = World::held();
    for at in 0..HEADER_SIZE + 2 * (16 + 20) {
        assert!(world.send(1, &[1; 20], 0) && world.send(2, &[2; 20], 5));
        let mut wire = world.wire();
        assert_eq!(wire.len(), 1);
        let whole = wire[0].clone();
        wire[0].flip(at, 1);
        let before = world.sides[1].links.rejects().total();
        let malformed = world.sides[1].links.counts().malformed;
        assert!(world.switch.deliver(wire.remove(0)));
        assert!(world.receive(1).is_empty(), "byte {at} altered and something delivered");
        let counts = world.sides[1].links.counts();
        let counted =
            world.sides[1].links.rejects().total() - before + counts.malformed - malformed;
        assert_eq!(counted, 1, "byte {at} counted once");
        if counts.malformed > malformed {
            // The bytes that frame a message were hit: the connection is gone.
            world = World::held();
            continue;
        }
        for round in 0..2 {
            assert!(world.switch.deliver(whole.clone()));
            assert_eq!(world.receive(1).len(), if round == 0 { 2 } else { 0 });
        }
        assert!(world.reject(Reject::Replay) > 0);
    }
}

/// What is skipped in a burst takes nothing along, and leaves nothing behind.
#[test]
fn a_repeated_bundle_between_others_changes_nothing_about_them() {
    let mut world = World::held();
    let mut sealed = |sizes: &[usize]| {
        for &size in sizes {
            assert!(world.send(size as u8, &vec![size as u8; size], 0));
        }
        world.wire().remove(0)
    };
    let [first, lone, second] = [sealed(&[1, 2, 3]), sealed(&[4]), sealed(&[50, 60])];
    let cut = world.seal(2, b"no messages", |_| ());
    let last = world.seal(1, &[&[7, 0, 0, 0, 1][..], &[0; 11], &[7]].concat(), |_| ());
    for message in [&first, &first, &lone, &lone, &first, &second, &second, &cut, &last] {
        assert!(world.switch.deliver(message.clone()));
    }
    let received = world.receive(1);
    let sizes: Vec<_> = received.iter().map(|message| message.frame.size()).collect();
    assert_eq!(sizes, [1, 2, 3, 4, 50, 60, 1]);
    for message in &received {
        assert!(message.body().iter().all(|byte| *byte == message.kind));
        assert_eq!(message.body_digest, body_digest(message.body()));
    }
    assert_eq!((world.reject(Reject::Replay), world.reject(Reject::Malformed)), (4, 1));
}

/// The keys of a member are no licence: what it seals is handed out whole or not at all.
#[test]
fn a_sealed_bundle_that_is_none_is_dropped_whole_and_counted() {
    let mut world = World::held();
    let message = |kind: u8, proof: u8, payload: &[u8]| {
        let mut bytes = vec![kind, 0, proof, 0];
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(5u64.to_le_bytes());
        bytes.extend(payload);
        bytes
    };
    let good = message(1, 0, b"good");
    let with = |last: Vec<u8>| [good.clone(), last].concat();
    let cases = [
        (0, vec![]),
        (0, good.clone()),
        (1, vec![]),
        (2, good.clone()),
        (1, with(good.clone())),
        (u64::MAX, good.clone()),
        (33, good.repeat(33)),
        (1, with(vec![0])),
        (2, with(message(KIND_PING, 0, b""))),
        (2, with(message(KIND_BUNDLE, 0, &good))),
        (2, with(message(1, 6, b"proof"))),
        (2, with(message(1, 0, &[0; BUNDLED_SIZE_MAX + 1]))),
        (2, with(vec![1, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1])),
    ];
    for (at, (count, payload)) in cases.into_iter().enumerate() {
        let sealed = world.seal(count, &payload, |_| ());
        assert!(world.switch.deliver(sealed));
        assert!(world.receive(1).is_empty(), "case {at}");
        assert_eq!(world.reject(Reject::Malformed), at as u64 + 1, "case {at}");
    }
    let before = world.reject(Reject::Malformed);
    let changes: [fn(&mut Header); 3] = [
        |header| header.auth = 1,
        |header| header.proof_size = 4,
        |header| header.body_digest = [1; 32],
    ];
    for change in changes {
        let sealed = world.seal(1, &good, change);
        assert!(world.switch.deliver(sealed));
        assert!(world.receive(1).is_empty());
    }
    assert_eq!(world.reject(Reject::Malformed), before + 3);
    assert_eq!(world.sides[1].links.rejects().total(), before + 3, "each was counted once");
    let sealed = world.seal(1, &good, |_| ());
    assert!(world.switch.deliver(sealed));
    assert_eq!(world.receive(1).len(), 1, "a bundle of one is one");
    assert!(world.sides[1].links.is_up(replica(0)));
}

/// What was taken arrives, also when the transport was full at the flush; what was not is not sent.
#[test]
fn a_full_transport_refuses_and_loses_nothing() {
    let mut world = World::new(Delivery::Immediate, &LinkConfig::default(), 3);
    let (mut taken, mut got, mut refused) = (Vec::new(), Vec::new(), 0);
    for number in 0..1000u32 {
        let large = number % 50 == 7;
        let mut payload = vec![0; if large { 600 } else { 300 }];
        payload[..4].copy_from_slice(&number.to_le_bytes());
        match world.send(1, &payload, 0) {
            true => taken.push(number),
            false => refused += 1,
        }
        if number % 10 == 0 {
            world.flush();
        }
        if number % 100 == 0 {
            got.extend(world.receive(1));
        }
    }
    assert!(refused > 300 && taken.len() > 100, "{refused} refused");
    assert_eq!(world.sides[0].links.rejects().get(Reject::QueueFull), refused);
    assert!(world.sides[0].links.next_deadline().is_some_and(|at| at <= world.now + RETRY_AFTER));
    for _ in 0..100 {
        got.extend(world.receive(1));
        world.flush();
    }
    let got: Vec<u32> = got
        .iter()
        .map(|message| u32::from_le_bytes(*message.frame.bytes().first_chunk().unwrap()))
        .collect();
    assert_eq!(got, taken);
}

/// A kept message of a few bytes holds its bundle back, but only so many bundles.
#[test]
fn messages_are_copied_when_too_many_bundles_are_held() {
    let config = LinkConfig { held_bundles_max: 3, ..LinkConfig::default() };
    let mut world = World::new(Delivery::Immediate, &config, 1000);
    let mut kept = Vec::new();
    for _ in 0..10 {
        (0..30).for_each(|_| assert!(world.send(1, &[1; 100], 0)));
        world.flush();
        kept.push(world.receive(1).swap_remove(7));
    }
    let pool = world.sides[1].arena.pool();
    let large = |pool: &FramePool| 128 - pool.free_slots_for(4096);
    assert_eq!(large(&pool), 3);
    assert!(kept.iter().all(|message| message.frame.bytes() == [1; 100]));
    kept.clear();
    (0..3).for_each(|_| world.flush());
    assert_eq!(world.sides[1].arena.free_slots(), world.sides[1].arena.total_slots());
}

#[test]
fn without_a_slot_for_a_bundle_each_message_goes_alone() {
    let mut world = World::held();
    let pool = world.sides[0].arena.pool();
    let taken: Vec<_> =
        std::iter::from_fn(|| (pool.free_slots_for(4096) > 0).then(|| pool.alloc(4096))).collect();
    for number in 0..5 {
        assert!(world.send(number, b"small", 0));
    }
    let kinds: Vec<_> = world.wire().iter().map(kind_of).collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4]);
    drop(taken);
}

proptest! {
    /// Any messages, flushed anywhere, received in portions of any size, arrive in order, unaltered.
    #[test]
    fn what_is_sent_arrives_in_order_whatever_shares_a_header(
        steps in proptest::collection::vec(
            (prop_oneof![4 => 0usize..200, 2 => 400usize..600, 1 => 0usize..5000], any::<u16>(), 0u8..12),
            1..150,
        ),
        capacity in 1usize..100,
        known in any::<bool>(),
    ) {
        let mut world = World::new(Delivery::Immediate, &LinkConfig::default(), 1000);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (size, proof, then) in steps {
            let payload: Vec<u8> = (0..size).map(|at| (at + sent.len()) as u8).collect();
            let proof = proof % (size.min(1024) as u16 + 1);
            let frame = world.sides[0].arena.pool().copy_from(&payload).unwrap();
            let body = &payload[..size - usize::from(proof)];
            let taken = world.sides[0].links.tx(Outgoing {
                to: replica(1),
                kind: then,
                auth: 0,
                session: sent.len() as u64,
                proof_size: proof,
                body_digest: known.then(|| body_digest(body)),
                frame: (size > 0).then_some(frame),
            });
            prop_assert!(taken);
            sent.push((then, proof, body_digest(body), payload));
            match then {
                0 => world.flush(),
                1 => got.extend(world.receive_some(1, capacity)),
                _ => {}
            }
        }
        for _ in 0..200 {
            world.flush();
            got.extend(world.receive_some(1, capacity));
        }
        prop_assert_eq!(got.len(), sent.len());
        for (at, (message, (kind, proof, digest, payload))) in got.iter().zip(&sent).enumerate() {
            prop_assert_eq!((message.kind, message.proof_size, message.session), (*kind, *proof, at as u64));
            prop_assert_eq!(message.frame.bytes(), &payload[..]);
            prop_assert_eq!(&message.body_digest, digest);
        }
        prop_assert_eq!(world.sides[1].links.rejects().total(), 0);
        drop(got);
        for side in [0, 1] {
            (0..40).for_each(|_| world.flush());
            let arena = &world.sides[side].arena;
            prop_assert_eq!(arena.free_slots(), arena.total_slots());
        }
    }
}
