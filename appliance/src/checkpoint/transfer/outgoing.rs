//! Serving: chunks of this replica's checkpoints on their way to others.
//!
//! Owns who wants which chunks, and how fast they leave. Always true: what leaves was read from the disk and compared
//! with its digest, which has the root; so many chunks as configured leave in a second, in all and to one member; few
//! are in memory at a time, and none while memory is short. Must not: decide who may have them (the core does).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tetrarch_consensus::limits::CHUNK_PATH_MAX;
use tetrarch_consensus::message::codec::{CHUNK_TRAILER_SIZE, chunk_trailer};
use tetrarch_consensus::{ConsensusId, Digest, ReplicaId, ViewId, spec};
use tetrarch_dataplane::crypto::merkle::{self, Tree};
use tetrarch_dataplane::frame::{Frame, FramePool};
use tetrarch_dataplane::ring::Producer;

use super::Parcel;
use crate::checkpoint::file::{CheckpointFile, FileError};
use crate::checkpoint::shelf::Shelf;
use crate::checkpoint::{CHUNK_SIZE, chunk_size};
use crate::metrics::Metrics;
use crate::stage::room::{Gauge, Room};
use crate::warning;

/// Chunks that one member may want at a time: more than the core lets it ask for.
const WANTED_MAX: usize = 64;
/// A checkpoint stays open after the last question for it as long as that.
const OPEN_FOR: Duration = Duration::from_secs(30);
/// Checkpoints open at a time: those that are kept, and one that somebody is still fetching.
pub(super) const OPEN_MAX: usize = 3;
/// Chunks that are in memory on their way at a time, if there is memory.
pub const ON_THE_WAY_MAX: usize = 8;
/// How often is looked whether one has left.
const LOOK: Duration = Duration::from_micros(500);

/// How fast chunks leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Bytes in a second, to all members together.
    pub all: u64,
    /// Likewise to one.
    pub each: u64,
}

/// See the module.
pub struct Outgoing {
    shelf: Arc<Shelf>,
    view: ViewId,
    rates: Rates,
    pool: FramePool,
    gauge: Gauge,
    open: Vec<Open>,
    customers: Vec<Customer>,
    /// Whose turn it is.
    turn: usize,
    /// When the next chunk may leave.
    next: Instant,
    /// Chunks that have not left yet.
    on_the_way: Vec<Frame>,
    on_the_way_max: usize,
    metrics: Arc<Metrics>,
}

/// A checkpoint that somebody fetches.
struct Open {
    file: Arc<CheckpointFile>,
    tree: Tree,
    asked: Instant,
}

/// A member that wants chunks.
struct Customer {
    member: ReplicaId,
    wanted: VecDeque<(ConsensusId, Digest, u32)>,
    next: Instant,
}

impl Outgoing {
    /// Serves what is on `shelf` to members of `view`, in frames of `pool`; made while all of the pool is free.
    pub fn new(
        shelf: Arc<Shelf>,
        view: ViewId,
        rates: Rates,
        pool: FramePool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        let most = pool.free_slots_for(CHUNK_SIZE + CHUNK_TRAILER_SIZE) / 8;
        let on_the_way_max = most.clamp(1, ON_THE_WAY_MAX);
        Self {
            shelf,
            view,
            rates,
            gauge: Gauge::new(pool.clone(), Arc::clone(&metrics)),
            pool,
            open: Vec::new(),
            customers: Vec::new(),
            turn: 0,
            next: now,
            on_the_way: Vec::with_capacity(on_the_way_max),
            on_the_way_max,
            metrics,
        }
    }

    /// What is sent from now on is sent in `view`.
    pub fn enter(&mut self, view: ViewId) {
        self.view = view;
    }

    /// A member wants a chunk.
    pub fn want(
        &mut self,
        now: Instant,
        member: ReplicaId,
        (cid, root): (ConsensusId, Digest),
        index: u32,
    ) {
        let known = self.customers.iter().position(|customer| customer.member == member);
        let at = known.unwrap_or_else(|| {
            self.customers.push(Customer { member, wanted: VecDeque::new(), next: now });
            self.customers.len() - 1
        });
        let wanted = &mut self.customers[at].wanted;
        if wanted.len() < WANTED_MAX {
            wanted.push_back((cid, root, index));
        } else {
            self.metrics.chunks_not_sent.add(1);
        }
    }

    /// Sends as much as may leave now. `true`: something did.
    pub fn send(&mut self, now: Instant, parcels: &mut Producer<Parcel>) -> bool {
        self.on_the_way.retain(|frame| !frame.is_only());
        self.open.retain(|open| now.duration_since(open.asked) < OPEN_FOR);
        let mut sent = false;
        while self.may_send(now)
            && parcels.room() > 0
            && let Some(at) = self.next_customer(now)
        {
            let customer = &mut self.customers[at];
            let Some((cid, root, index)) = customer.wanted.pop_front() else { break };
            let to = customer.member;
            let Some((frame, digest)) = self.chunk(now, (cid, &root), index) else {
                self.metrics.chunks_not_sent.add(1);
                continue;
            };
            let size = frame.size() as u64;
            self.next = pace(now, self.next, size, self.rates.all);
            let customer = &mut self.customers[at];
            customer.next = pace(now, customer.next, size, self.rates.each);
            self.on_the_way.push(frame.clone());
            let pushed = parcels.push(Parcel { to, frame, digest });
            debug_assert!(pushed.is_ok(), "the room was checked");
            self.metrics.chunks_sent.add(1);
            self.metrics.chunk_bytes_sent.add(size);
            sent = true;
        }
        sent
    }

    fn may_send(&self, now: Instant) -> bool {
        self.on_the_way.len() < self.on_the_way_max
            && self.next <= now
            // Ordering needs memory more.
            && self.gauge.look() == Room::Clients
    }

    /// How long there is nothing to do; `None`: until somebody wants something.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let waiting = self.customers.iter().filter(|customer| !customer.wanted.is_empty());
        let first = waiting.map(|customer| customer.next).min()?;
        Some(first.max(self.next).saturating_duration_since(now).max(LOOK))
    }

    /// The next one, in turn, that wants something and may have it now.
    fn next_customer(&mut self, now: Instant) -> Option<usize> {
        let count = self.customers.len();
        let at = (0..count).map(|above| (self.turn + above) % count).find(|&at| {
            let customer = &self.customers[at];
            !customer.wanted.is_empty() && customer.next <= now
        })?;
        self.turn = at + 1;
        Some(at)
    }

    /// A chunk with its path, and its digest. `None`: it is not here, or there is no memory.
    fn chunk(
        &mut self,
        now: Instant,
        (cid, root): (ConsensusId, &Digest),
        index: u32,
    ) -> Option<(Frame, [u8; 32])> {
        spec!("ST.2", "ST.4");
        let at = self.find(now, cid, root)?;
        let Open { file, tree, .. } = &self.open[at];
        let (size, number) = (file.header.size, u64::from(index));
        let leaf = tree.leaf(number)?;
        if tree.path(number).count() > CHUNK_PATH_MAX {
            return None;
        }
        let whole = chunk_size(size, number) + CHUNK_TRAILER_SIZE;
        let mut frame = self.pool.alloc(whole)?;
        let (chunk, rest) = frame.bytes_mut()[..whole].split_at_mut(whole - CHUNK_TRAILER_SIZE);
        rest.copy_from_slice(&chunk_trailer(self.view, (cid, index, size), tree.path(number)));
        let read = file.read_chunk(number, chunk).and_then(|()| {
            // The digest that the link needs, too: that of the body.
            let holds = merkle::leaf(chunk) == leaf;
            holds.then_some(()).ok_or_else(|| file.damaged_chunk(number))
        });
        match read {
            // Slots are below 2^32.
            Ok(()) => Some((frame.freeze(whole as u32), leaf)),
            Err(error) => {
                self.give_up(root, &error);
                None
            }
        }
    }

    /// The place of this checkpoint among those that are open.
    fn find(&mut self, now: Instant, cid: ConsensusId, root: &Digest) -> Option<usize> {
        let is = |open: &Open| open.file.header.root == root.0;
        if let Some(at) = self.open.iter().position(is) {
            self.open[at].asked = now;
            return Some(at);
        }
        let file = self.shelf.find(cid, &root.0)?;
        let size = file.header.size;
        let tree = file.leaves().map(|leaves| Tree::new(&leaves)).and_then(|tree| {
            let holds = tree.root(size, CHUNK_SIZE as u64) == root.0;
            holds.then_some(tree).ok_or_else(|| file.damaged_leaves())
        });
        match tree {
            Ok(tree) => {
                if self.open.len() == OPEN_MAX {
                    let oldest = self.open.iter().enumerate().min_by_key(|(_, open)| open.asked);
                    let oldest = oldest.map_or(0, |(at, _)| at);
                    self.open.swap_remove(oldest);
                }
                self.open.push(Open { file, tree, asked: now });
                Some(self.open.len() - 1)
            }
            Err(error) => {
                self.give_up(root, &error);
                None
            }
        }
    }

    /// Nobody shall have this one any more.
    fn give_up(&mut self, root: &Digest, error: &FileError) {
        warning!("{error}; it is given to nobody any more: look at the disk");
        self.open.retain(|open| open.file.header.root != root.0);
        self.shelf.remove(&root.0);
        self.metrics.checkpoints_damaged.add(1);
    }
}

/// When the next chunk may leave, after one of `size` bytes now at `rate` bytes in a second. What was not used
/// before is lost, but for what one turn of the thread may be late.
fn pace(now: Instant, next: Instant, size: u64, rate: u64) -> Instant {
    const LATE: Duration = Duration::from_millis(5);
    let from = next.max(now.checked_sub(LATE).unwrap_or(now));
    from + Duration::from_nanos(size.saturating_mul(1_000_000_000) / rate.max(1))
}
