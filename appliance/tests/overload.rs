//! More than the nodes have room for: they say so, stay within their memory, and go on.

mod support;

use support::World;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_consensus::ClientId;
use tetrarch_consensus::limits::OPERATION_SIZE_MAX;
use tetrarch_consensus::message::reply::Status;
use tetrarch_dataplane::reject::Reject;

const ALL: [u16; 4] = [0, 1, 2, 3];
const SESSIONS: u32 = 8;
const COUNTERS: u32 = 60;
const PENDING_MAX: usize = 32;

/// Busy answers of each member so far.
fn told_busy(world: &World, client: usize) -> [usize; 4] {
    let mut told = [0; 4];
    for (from, header, _) in &world.clients[client].replies {
        told[*from as usize] += usize::from(header.status == Status::Busy);
    }
    told
}

fn operation(size: usize) -> Vec<u8> {
    [&4u32.to_le_bytes()[..], &vec![7; size - 4]].concat()
}

#[test]
fn a_flood_is_told_busy_and_everything_is_executed_once_in_the_end() {
    // rule: SMR.14, CLI.9
    let mut world =
        World::with(4, 1, IngressPlan::default(), |core| core.pending_max = PENDING_MAX);
    world.connect();
    let send_missing = |world: &mut World| {
        for counter in 1..=COUNTERS {
            for session in 0..SESSIONS {
                if world.clients[0].answers(session, counter) < 3 {
                    world.clients[0].send(session, counter, &operation(4), &ALL);
                }
            }
        }
    };
    // All at once: what an open loop does that has fallen behind.
    send_missing(&mut world);
    let mut most = 0;
    let mut rounds = 0;
    while (0..SESSIONS).any(|session| world.clients[0].answers(session, COUNTERS) < 3) {
        for _ in 0..20 {
            world.tick();
            most = world.metrics.iter().map(|metrics| metrics.pending.get()).fold(most, u64::max);
        }
        send_missing(&mut world);
        rounds += 1;
        assert!(rounds < 100, "the oldest request of each session has room");
    }
    assert!(most <= (2 * PENDING_MAX + 2 * SESSIONS as usize) as u64, "{most} pending");
    let told = told_busy(&world, 0);
    assert!(told.iter().all(|&count| count > 0), "{told:?}");
    for metrics in &world.metrics {
        assert_eq!(metrics.requests_executed.get(), u64::from(SESSIONS * COUNTERS));
        assert!(metrics.requests_busy.get() > 0);
        assert_eq!(metrics.regency.get(), 0, "nobody blames the leader");
    }
}

#[test]
fn a_client_that_fills_its_share_keeps_no_other_from_being_served() {
    // rule: SMR.14
    let mut world = World::new(4, 2);
    world.connect();
    let idle: Vec<_> = world.arenas.iter().map(|arena| arena.free_slots()).collect();
    // Requests that nobody can order, because those before them never come.
    for round in 0..4 {
        for session in 0..200 {
            let client = ClientId::new(0, session);
            let size = (OPERATION_SIZE_MAX / 2) >> (session % 8);
            world.clients[0].send_as(client, 2 + round, &operation(size), &ALL, false, None);
            if session % 4 == 3 {
                world.tick();
            }
        }
        let counter = round + 1;
        world.clients[1].send(0, counter, &operation(1000), &ALL);
        assert!(world.run_until(20, |world| world.clients[1].answers(0, counter) == 4));
    }
    assert!(told_busy(&world, 0).iter().all(|&count| count > 0), "the flood is told");
    assert_eq!(told_busy(&world, 1), [0; 4], "and nobody else");
    for (metrics, (arena, idle)) in world.metrics.iter().zip(world.arenas.iter().zip(idle)) {
        assert_eq!(metrics.reject(Reject::Overload), 0, "memory for members was never short");
        assert_eq!(metrics.clients_up.get(), 2, "no link was closed");
        assert!(arena.free_slots() > idle / 2, "{} of {idle} slots", arena.free_slots());
    }
    // What cannot be ordered blames nobody, and it can be as soon as what it waits for comes.
    world.run_until(2000, |_| false);
    assert_eq!(world.metrics[0].regency.get(), 0);
    world.clients[0].send(7, 1, &operation(1000), &ALL);
    assert!(world.run_until(20, |world| world.clients[0].answers(7, 2) == 4));
}

#[test]
fn when_frames_run_short_clients_are_told_so_and_members_go_on() {
    // rule: SMR.14
    let mut world = World::new(4, 2);
    world.connect();
    // Two members alone order nothing, so whatever comes stays.
    (world.nodes[1], world.nodes[2]) = (None, None);
    for session in 0..400 {
        let client = ClientId::new(session % 2, session / 2);
        let sender = &mut world.clients[session as usize % 2];
        sender.send_as(client, 1, &operation(OPERATION_SIZE_MAX / 4), &[0, 3], false, None);
        world.tick();
    }
    for id in [0, 3] {
        let metrics = &world.metrics[id];
        assert!(metrics.reject(Reject::Overload) > 0);
        let told = told_busy(&world, 0)[id] + told_busy(&world, 1)[id];
        assert!(told > 0, "they are told");
        assert_eq!(metrics.clients_up.get(), 2, "no link was closed");
        assert_eq!(metrics.reject(Reject::PoolExhausted), 0, "there is memory for members");
        assert_ne!(metrics.peers_up.get(), 0, "whose links stay");
    }
}
