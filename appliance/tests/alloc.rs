//! In steady state a node allocates nothing: whole nodes under a frozen allocator.

mod support;

use std::alloc::System;

use support::World;
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_consensus::batch::Replier;
use tetrarch_dataplane::alloc_guard::FrozenAllocator;

#[global_allocator]
static ALLOCATOR: FrozenAllocator<System> = FrozenAllocator::new(System);

const ALL: [u16; 4] = [0, 1, 2, 3];
const SESSIONS: u32 = 16;

/// A request of each session, with an answer of `size` bytes, then everybody's work.
fn round(world: &mut World, counter: u32, size: u32) -> u64 {
    let operation = [&size.to_le_bytes()[..], &[7; 100]].concat();
    for session in 0..SESSIONS {
        world.clients[0].send(session, counter, &operation, &ALL);
    }
    world.tick_counted()
}

#[test]
fn steady_state_allocates_nothing_in_any_stage() {
    for (inline, workers) in [(true, 0), (false, 2)] {
        steady_state(IngressPlan { inline, workers });
    }
}

fn steady_state(ingress: IngressPlan) {
    let mut world = World::with_ingress(4, 1, ingress);
    world.connect();
    world.clients[0].keep = false;
    world.clients[0].replier = Replier::member(1);
    // Tables grow to their sizes: sessions, kept replies, the decision log, queues of the switch.
    for counter in 1..=1500 {
        round(&mut world, counter, 200);
    }
    let before = world.metrics[0].requests_executed.get();
    let allocations: u64 = (1501..=2000).map(|counter| round(&mut world, counter, 200)).sum();
    let executed = world.metrics[0].requests_executed.get() - before;
    assert_eq!(executed, 500 * u64::from(SESSIONS), "the work was done");
    assert_eq!(allocations, 0, "allocations of four nodes in {executed} requests");
    let replies = u64::from(SESSIONS) * 2000 * 4;
    assert_eq!(world.clients[0].count, replies, "and answered");
}
