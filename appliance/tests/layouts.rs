//! The same node in every layout: its stages on one thread, and on threads of their own over TCP.

mod support;

use std::time::{Duration, Instant};

use support::World;
use tetrarch_appliance::budget::Sizes;
use tetrarch_appliance::demo::free_ports;
use tetrarch_appliance::placement::{CorePlan, Placement, stage_kind};
use tetrarch_appliance::running::{Running, Start};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_appliance::testing::{TestCluster, request_bytes};
use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_client::{Client, ClientConfig};
use tetrarch_consensus::message::{codec, kind, proof};
use tetrarch_consensus::smr::client::Authentication;
use tetrarch_consensus::{ClientId, Config, Digest, ReplicaId};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::reject::Reject;
use tetrarch_dataplane::stage::IdlePolicy;
use tetrarch_dataplane::transport::choice::TransportChoice;

const ALL: [u16; 4] = [0, 1, 2, 3];
const SESSIONS: u32 = 40;
const ROUNDS: u32 = 5;

/// An operation of the null service that asks for an answer of `size` bytes.
fn operation(size: u32) -> Vec<u8> {
    [&size.to_le_bytes()[..], b"load"].concat()
}

fn plans() -> impl Iterator<Item = IngressPlan> {
    [(true, 0), (true, 1), (true, 3), (false, 1), (false, 2)]
        .into_iter()
        .map(|(inline, workers)| IngressPlan { inline, workers })
}

/// Requests with MAC vectors and with signatures, forged ones, refused ones, queries and garbage.
fn send_mixture(world: &mut World, counter: u32) {
    let cluster = world.test.cluster.id;
    let key = world.test.client_keys[0].signing_key.clone();
    let client = &mut world.clients[0];
    for session in 0..SESSIONS {
        let id = ClientId::new(0, session);
        if session % 2 == 0 {
            client.send(session, counter, &operation(8), &ALL);
            continue;
        }
        let body = request_bytes(id, counter, &operation(8), false);
        let message = codec::request_to_sign(cluster, &Digest(body_digest(&body)));
        let mut signature = key.sign(&message);
        for replica in ALL {
            client.send_with_proof(&body, proof::SIGNATURE, &signature, replica);
        }
        // The same for a request that nobody will execute.
        signature[5] ^= 1;
        let forged = request_bytes(id, counter, &operation(9), false);
        client.send_with_proof(&forged, proof::SIGNATURE, &signature, 1);
    }
    client.send_as(ClientId::new(0, 100), counter, &operation(7), &ALL, true, None);
    client.send_as(ClientId::new(0, 5000), counter, &operation(1), &[2], false, None);
    client.send_raw(kind::REQUEST, b"short", 3);
}

/// What is done and what is counted does not depend on where ingress is.
#[test]
fn every_layout_does_and_counts_the_same() {
    for plan in plans() {
        let mut world = World::with_ingress(4, 1, plan);
        world.connect();
        for counter in 1..=ROUNDS {
            send_mixture(&mut world, counter);
            world.tick();
        }
        let done = |world: &World| {
            (0..SESSIONS).all(|session| world.clients[0].answers(session, ROUNDS) == 4)
        };
        assert!(world.run_until(200, done), "{plan:?}: not answered");
        for (counter, session) in (1..=ROUNDS).flat_map(|c| (0..SESSIONS).map(move |s| (c, s))) {
            assert_eq!(world.clients[0].answers(session, counter), 4, "{plan:?}");
        }
        let rounds = u64::from(ROUNDS);
        let signed = u64::from(SESSIONS / 2) * rounds;
        for (replica, metrics) in world.metrics.iter().enumerate() {
            let counted = [
                metrics.requests.get(),
                metrics.queries.get(),
                metrics.requests_executed.get(),
                metrics.reject(Reject::BadProof),
                metrics.reject(Reject::NotAllowed),
                metrics.reject(Reject::Malformed),
            ];
            let forged = if replica == 1 { signed } else { 0 };
            let refused = if replica == 2 { rounds } else { 0 };
            let garbage = if replica == 3 { rounds } else { 0 };
            let all = u64::from(SESSIONS) * rounds;
            let expected = [all, rounds, all, forged, refused, garbage];
            assert_eq!(counted, expected, "replica {replica}, {plan:?}");
            // A proposal can overtake a request on its way through another worker, once.
            let twice = if plan.workers > 0 { signed } else { 0 };
            let signatures = metrics.signatures.get() - (signed + forged);
            assert!(signatures <= twice, "replica {replica}, {plan:?}: {signatures} too many");
            assert_eq!((metrics.regency.get(), metrics.evidence.get()), (0, 0));
        }
        let digests: Vec<_> = world.alive().map(|node| node.service().digest()).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{plan:?}");
    }
}

/// A leader that dies is replaced, and no frame is lost on the way through the workers.
#[test]
fn every_layout_survives_its_leader_and_returns_its_frames() {
    for plan in plans() {
        let mut world = World::with_ingress(4, 1, plan);
        world.connect();
        send_mixture(&mut world, 1);
        assert!(world.run_until(100, |world| world.clients[0].answers(0, 1) == 4), "{plan:?}");
        world.nodes[0] = None;
        send_mixture(&mut world, 2);
        let done =
            |world: &World| (0..SESSIONS).all(|session| world.clients[0].answers(session, 2) == 3);
        assert!(world.run_until(5000, done), "{plan:?}: no new leader");
        assert!(world.metrics[1..].iter().all(|metrics| metrics.regency.get() >= 1));
        world.nodes.clear();
        for arena in &world.arenas {
            assert_eq!(arena.free_slots(), arena.total_slots(), "{plan:?}: a frame leaked");
        }
    }
}

fn start(cluster: &Cluster, id: u16, keys: PrivateKeys, placement: Placement) -> Running {
    let mut core = Config::new(ReplicaId(id), cluster.view());
    core.clients_max = cluster.clients.len() as u32;
    core.request_timeout = Duration::from_secs(10);
    let started = Running::start(Start {
        id: ReplicaId(id),
        cluster: cluster.clone(),
        keys,
        other_keys: None,
        service: ServiceKind::Null.build([0; 2]),
        listen: cluster.members[usize::from(id)].address.parse().expect("an address"),
        metrics: None,
        transport: TransportChoice::default(),
        placement,
        sizes: Sizes { frames_size: 16 << 20, reply_cache_size: 1 << 20, ..Sizes::default() },
        core,
        half_open_max: 16,
    });
    started.expect("the replica starts")
}

/// Four replicas, each in a layout of its own, with threads, over TCP.
fn serves(placements: [Placement; 4], requests: u32) {
    let TestCluster { mut cluster, replica_keys, client_keys } = TestCluster::new(4, 1, 2);
    for (member, address) in
        cluster.members.iter_mut().zip(free_ports(4).expect("a machine with free ports"))
    {
        member.address = address.to_string();
    }
    let replicas: Vec<Running> = (0..)
        .zip(replica_keys.into_iter().zip(placements))
        .map(|(id, (keys, placement))| start(&cluster, id, keys, placement))
        .collect();
    for (index, keys) in (0..).zip(client_keys) {
        let mut config = ClientConfig::new(cluster.clone(), index, keys);
        config.authentication =
            [Authentication::MacVector, Authentication::Signature][index as usize];
        let client = Client::connect(config).expect("connects");
        let session = client.session().expect("a session");
        for _ in 0..requests {
            session.invoke(&operation(16)).expect("answered");
        }
    }
    let end = Instant::now() + Duration::from_secs(60);
    for replica in &replicas {
        let metrics = &replica.subject().metrics;
        while metrics.requests_executed.get() < u64::from(2 * requests) {
            assert!(Instant::now() < end, "replica {} is behind", replica.subject().id);
            std::thread::sleep(Duration::from_millis(5));
        }
        // A request and the proposal that holds it can be checked on two cores at the same time.
        let signatures = metrics.signatures.get();
        assert!((requests.into()..=2 * u64::from(requests)).contains(&signatures), "{signatures}");
    }
    for replica in replicas {
        let threads = replica.stop().expect("stops");
        assert!(threads.iter().all(|report| report.worked > 0), "a core never worked");
    }
}

#[test]
fn replicas_in_different_layouts_serve_together() {
    let table = |cores: &[&[&str]]| {
        let core = |names: &&[&str]| CorePlan {
            stages: names.iter().map(|name| stage_kind(name).expect("a stage")).collect(),
            cpu: None,
        };
        let cores = cores.iter().map(core).collect();
        Placement::table(IdlePolicy::Park, cores).expect("a table")
    };
    let spread = |cores| Placement::spread(IdlePolicy::Park, cores);
    let away = table(&[&["network", "ordering"], &["ingress", "execution"]]);
    let apart = table(&[&["network"], &["ordering"], &["execution"], &["ingress"]]);
    serves([Placement::fused(IdlePolicy::Park), spread(2), away.clone(), apart.clone()], 40);
    serves([apart, spread(4), spread(3), away], 40);
}
