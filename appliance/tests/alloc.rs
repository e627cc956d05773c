//! In steady state a node allocates nothing: whole nodes under a frozen allocator.

mod support;

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::World;
use tetrarch_appliance::checkpoint::chunks::Chunks;
use tetrarch_appliance::checkpoint::transfer::{Install, State};
use tetrarch_appliance::checkpoint::{CheckpointSink, Position};
use tetrarch_appliance::stage::dispatch::IngressPlan;
use tetrarch_consensus::batch::Replier;
use tetrarch_consensus::{Config, ConsensusId};
use tetrarch_dataplane::alloc_guard::FrozenAllocator;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::storage::{Lsn, Storage, StorageCounts, StorageError};

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

/// A disk that is done when it is asked: what is left are the stages.
struct Instantly {
    next: Lsn,
    durable: Arc<AtomicU64>,
    counts: StorageCounts,
}

impl Storage for Instantly {
    fn room(&self) -> usize {
        1 << 22
    }
    fn append(&mut self, lsn: Lsn, parts: &[&[u8]]) {
        assert!(lsn == self.next && parts.iter().any(|part| !part.is_empty()));
        self.next = lsn.next();
        self.counts.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
    }
    fn flush(&mut self) {
        self.counts.groups += u64::from(self.durable() < Lsn(self.next.0 - 1));
        self.durable.store(self.next.0 - 1, Ordering::Release);
    }
    fn durable(&mut self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }
    fn watermark(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.durable)
    }
    fn failure(&self) -> Option<Arc<StorageError>> {
        None
    }
    fn truncate(&mut self, _below: Lsn) {}
    fn wake(&mut self, _waker: Waker) {}
    fn counts(&self) -> StorageCounts {
        self.counts
    }
}

#[test]
fn steady_state_allocates_nothing_in_any_stage() {
    for (inline, workers) in [(true, 0), (false, 2)] {
        steady_state(IngressPlan { inline, workers }, false);
    }
}

#[test]
fn keeping_records_allocates_nothing() {
    steady_state(IngressPlan { inline: true, workers: 0 }, true);
}

/// Checkpoints that nobody writes.
#[derive(Default)]
struct Unwritten {
    image: Option<Chunks>,
    taken: Arc<AtomicU64>,
}

impl CheckpointSink for Unwritten {
    fn begin(&mut self) -> Option<Chunks> {
        let mut image = self.image.take().unwrap_or_default();
        image.clear();
        Some(image)
    }
    fn copy(&mut self, piece: &mut dyn FnMut()) {
        piece();
    }
    fn take(&mut self, _position: Position, image: Chunks) {
        assert!(image.size() > 100 * SESSIONS as usize, "the replies are in it");
        self.image = Some(image);
        self.taken.fetch_add(1, Ordering::Relaxed);
    }
    fn leave_out(&mut self) {
        unreachable!("one is taken at once");
    }
    fn abandon(&mut self, _image: Chunks) {
        unreachable!("no state is replaced");
    }
    fn install(&mut self, _install: Install) {
        unreachable!("no state is replaced");
    }
    fn installed(&mut self) -> Option<(ConsensusId, State)> {
        None
    }
}

fn steady_state(ingress: IngressPlan, durable: bool) {
    // With records a base goes with each: it takes memory.
    let configure = match durable {
        true => |config: &mut Config| config.checkpoint_every = 0,
        false => |config: &mut Config| config.checkpoint_every = 64,
    };
    let mut world = World::with(4, 1, ingress, configure);
    let taken = Arc::new(AtomicU64::new(0));
    for node in world.nodes.iter_mut().flatten() {
        let sink = Unwritten { taken: Arc::clone(&taken), ..Default::default() };
        node.keep_checkpoints(Box::new(sink), Arc::default());
    }
    for node in world.nodes.iter_mut().flatten().filter(|_| durable) {
        let (durable, counts) = (Arc::default(), StorageCounts::default());
        node.keep_records(Box::new(Instantly { next: Lsn(1), durable, counts }), false);
    }
    world.connect();
    world.clients[0].keep = false;
    world.clients[0].replier = Replier::member(1);
    // Tables grow to their sizes: sessions, kept replies, the decision log, queues of the switch.
    for counter in 1..=1500 {
        round(&mut world, counter, 200);
    }
    let taken_before = taken.load(Ordering::Relaxed);
    let before = world.metrics[0].requests_executed.get();
    let allocations: u64 = (1501..=2000).map(|counter| round(&mut world, counter, 200)).sum();
    let executed = world.metrics[0].requests_executed.get() - before;
    assert_eq!(executed, 500 * u64::from(SESSIONS), "the work was done");
    assert_eq!(allocations, 0, "allocations of four nodes in {executed} requests");
    let taken = taken.load(Ordering::Relaxed) - taken_before;
    assert_eq!(taken >= 4 * 500 / 64, !durable, "{taken} checkpoints");
    let replies = u64::from(SESSIONS) * 2000 * 4;
    assert_eq!(world.clients[0].count, replies, "and answered");
    let appended = world.metrics[0].log_appended.get();
    assert_eq!(appended > 0, durable, "{appended} records");
    // The record of the last decision goes with what comes next.
    let (durable_to, groups) = (&world.metrics[0].log_durable, &world.metrics[0].log_groups);
    assert!(appended - durable_to.get() <= 1);
    let (groups, decided) = (groups.get(), world.metrics[0].decided.get());
    assert!(groups < 2 * decided + decided / 4, "{groups} groups in {decided} instances");
}
