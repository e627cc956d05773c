//! Sending checkpoints of this replica to others.
//!
//! Owns which there are, which chunks members have asked for, and when the next one leaves. Always true: all
//! others together are sent no more than the configured rate, and take turns; of one member only a short list is
//! kept. Must not: read a chunk.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use crate::action::{Action, Recipients};
use crate::config::Config;
use crate::limits::{CHUNKS_PER_FETCH_MAX, CHUNKS_QUEUED_MAX, OFFERS_MAX};
use crate::message::{FetchChunks, FetchState, Message, Offer, StateOffer};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Instant};

/// Checkpoints that are kept (rule CKP.3).
const KEPT: usize = OFFERS_MAX - 1;

/// Chunks that leave at once when the node was late to ask.
const BURST: u32 = 4;

/// A chunk takes so long at least, whatever the rate: else there would be no end to a step.
const PAUSE_MIN: Duration = Duration::from_micros(1);

/// One that was kept, and is still being fetched.
#[derive(Clone, Copy, Debug)]
struct Held {
    offer: Offer,
    /// Who fetches it, and when it asked last.
    member: usize,
    asked: Instant,
}

/// What a member asks for.
#[derive(Debug)]
struct Queue {
    chunks: VecDeque<(Offer, u32)>,
    /// The last checkpoint it asked for, and when.
    last: Option<(Offer, Instant)>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::smr) struct Serving {
    /// The newest last.
    kept: VecDeque<Offer>,
    held: Vec<Held>,
    queues: Vec<Queue>,
    /// Chunks in all of them.
    waiting: usize,
    /// Whose turn it is.
    next: usize,
    /// When the next chunk may leave.
    free_at: Instant,
    /// How long one chunk takes.
    pause: Duration,
}

impl Serving {
    pub(in crate::smr) fn new(config: &Config) -> Self {
        let queue = |_| Queue { chunks: VecDeque::with_capacity(CHUNKS_QUEUED_MAX), last: None };
        let (size, rate) = (config.chunk_size as u64, config.chunk_rate.max(1));
        let pause = Duration::from_nanos(size.saturating_mul(1_000_000_000) / rate);
        Self {
            kept: VecDeque::with_capacity(KEPT + 1),
            held: Vec::with_capacity(config.view.quorums().one_correct()),
            queues: (0..config.view.n()).map(queue).collect(),
            waiting: 0,
            next: 0,
            free_at: Instant(0),
            pause: pause.max(PAUSE_MIN),
        }
    }

    /// Another view begins: its members have asked for nothing.
    pub(in crate::smr) fn enter_view(&mut self, config: &Config) {
        let kept = core::mem::take(&mut self.kept);
        *self = Self { kept, ..Self::new(config) };
    }

    /// When there is something to send.
    pub(in crate::smr) fn deadline(&self) -> Option<Instant> {
        (self.waiting > 0).then_some(self.free_at)
    }

    /// There is another checkpoint. The oldest goes, unless somebody is fetching it.
    fn add(&mut self, offer: Offer, now: Instant, in_use: Duration, held_max: usize) {
        let place = self.kept.iter().take_while(|kept| kept.cid < offer.cid).count();
        if self.kept.iter().any(|kept| kept.cid == offer.cid) {
            return;
        }
        self.kept.insert(place, offer);
        if self.kept.len() <= KEPT {
            return;
        }
        let Some(gone) = self.kept.pop_front() else {
            return;
        };
        self.held.retain(|held| held.asked + in_use > now);
        let fetching =
            |queue: &Queue| queue.last.filter(|(of, at)| *of == gone && *at + in_use > now);
        for (member, queue) in self.queues.iter().enumerate() {
            // One for each member: a faulty one alone cannot use up the room of the others.
            let other = self.held.iter().all(|held| held.member != member);
            if let Some((offer, asked)) = fetching(queue).filter(|_| other)
                && self.held.len() < held_max
            {
                self.held.push(Held { offer, member, asked });
            }
        }
    }

    /// The oldest of those that are kept.
    fn oldest(&self) -> Option<ConsensusId> {
        self.kept.front().map(|offer| offer.cid)
    }

    /// The newest of them.
    pub(in crate::smr) fn newest(&self) -> Option<ConsensusId> {
        self.kept.back().map(|offer| offer.cid)
    }

    /// The checkpoint that a member asks for, if there is one.
    fn find(&self, cid: ConsensusId, fetch: &FetchChunks) -> Option<Offer> {
        let is = |offer: &&Offer| offer.cid == cid && offer.root == fetch.root;
        let held = self.held.iter().map(|held| &held.offer);
        self.kept.iter().chain(held).find(is).copied()
    }

    /// All that the member at `index` may fetch above `above`.
    fn offers(&self, index: usize, above: ConsensusId, offer: &mut StateOffer) {
        let held = self.held.iter().filter(|held| held.member == index).map(|held| &held.offer);
        for one in self.kept.iter().rev().chain(held).filter(|one| one.cid > above) {
            offer.push(*one);
        }
    }

    /// Chunks of `offer` that the member at `index` asks for.
    fn enqueue(
        &mut self,
        index: usize,
        offer: Offer,
        first: u32,
        count: u32,
        now: Instant,
    ) -> bool {
        let queue = &mut self.queues[index];
        queue.last = Some((offer, now));
        for held in self.held.iter_mut().filter(|held| held.member == index && held.offer == offer)
        {
            held.asked = now;
        }
        // Who asks for another image needs nothing of the one before.
        let before = queue.chunks.len();
        queue.chunks.retain(|(of, _)| *of == offer);
        let mut all = true;
        for chunk in first..first + count {
            let asked = queue.chunks.iter().any(|(_, it)| *it == chunk);
            let fits = queue.chunks.len() < CHUNKS_QUEUED_MAX;
            if fits && !asked {
                queue.chunks.push_back((offer, chunk));
            }
            all &= fits && !asked;
        }
        self.waiting = self.waiting - before + queue.chunks.len();
        all
    }

    /// The next chunk that may leave now: to whom, of which checkpoint, and which.
    fn dequeue(&mut self, now: Instant) -> Option<(usize, Offer, u32)> {
        spec!("ST.4");
        if now < self.free_at {
            return None;
        }
        let n = self.queues.len();
        let turn = (0..n).map(|step| (self.next + step) % n);
        let index = turn.into_iter().find(|at| !self.queues[*at].chunks.is_empty())?;
        let (offer, chunk) = self.queues[index].chunks.pop_front()?;
        self.waiting -= 1;
        self.next = (index + 1) % n;
        let late = Instant(now.0.saturating_sub((self.pause * BURST).as_nanos() as u64));
        self.free_at = self.free_at.max(late) + self.pause;
        Some((index, offer, chunk))
    }
}

impl<P: Payload> Replica<P> {
    /// A checkpoint of this replica counts.
    pub(in crate::smr) fn on_checkpointed(&mut self, offer: Offer) {
        spec!("ST.1", "CKP.3");
        assert!(offer.cid <= self.decided && offer.size > 0, "a checkpoint is of what was decided");
        let (now, in_use) = (self.now, self.config.request_timeout);
        self.serving.add(offer, now, in_use, self.quorums.one_correct());
        if let Some(oldest) = self.serving.oldest() {
            self.log.keep_above(oldest);
        }
    }

    pub(in crate::smr) fn on_fetch_state(
        &mut self,
        index: usize,
        fetch: &FetchState,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.1", "LAG.7", "VIEW.7");
        self.help_out_of_standstill(fetch.above, actions);
        self.help(index, actions, |this, actions| this.send_offers(index, fetch.above, actions));
    }

    fn send_offers(&self, index: usize, above: ConsensusId, actions: &mut Actions<Action<P>>) {
        let mut offer = StateOffer::new(self.config.view.id());
        self.serving.offers(index, above, &mut offer);
        self.send(Recipients::One(self.member(index)), Message::StateOffer(offer), actions);
    }

    pub(in crate::smr) fn on_fetch_chunks(
        &mut self,
        index: usize,
        fetch: &FetchChunks,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.2", "ST.4", "VIEW.7");
        let Some(offer) = self.serving.find(fetch.cid, fetch) else {
            // It is gone: what is there instead?
            let none = ConsensusId(0);
            return self
                .help(index, actions, |this, actions| this.send_offers(index, none, actions));
        };
        let chunks = offer.size.div_ceil(self.config.chunk_size as u64);
        let end = u64::from(fetch.first) + u64::from(fetch.count);
        if fetch.count == 0 || fetch.count as usize > CHUNKS_PER_FETCH_MAX || end > chunks {
            return self.ignored.add(Ignored::Invalid);
        }
        if !self.serving.enqueue(index, offer, fetch.first, fetch.count, self.now) {
            self.ignored.add(Ignored::NotNeeded);
        }
        self.serve(actions);
    }

    /// Sends the chunks whose time has come.
    pub(in crate::smr) fn serve(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("ST.4");
        while let Some((index, Offer { cid, root, .. }, chunk)) = self.serving.dequeue(self.now) {
            let to = self.member(index);
            actions.push(Action::SendChunk { to, cid, root, index: chunk });
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::View;
    use crate::types::{Digest, ReplicaId, ViewId};
    use crate::{FaultModel, limits};

    fn serving() -> Serving {
        let members = (0..4).map(ReplicaId).collect();
        let view = View::new(ViewId(0), members, 1, FaultModel::Byzantine).expect("four for one");
        let mut config = Config::new(ReplicaId(0), view);
        (config.chunk_size, config.chunk_rate) = (1000, 1_000_000);
        Serving::new(&config)
    }

    fn offer(cid: u64) -> Offer {
        Offer { cid: ConsensusId(cid), size: 1 << 20, root: Digest([cid as u8; 32]) }
    }

    fn fetch(cid: u64) -> FetchChunks {
        let Offer { cid, root, .. } = offer(cid);
        FetchChunks { view: ViewId(0), cid, root, first: 0, count: 1 }
    }

    // rule: ST.4
    #[test]
    fn members_take_turns_and_get_no_more_than_the_rate_together() {
        let mut serving = serving();
        let start = Instant(1_000_000_000);
        assert_eq!(serving.deadline(), None);
        assert!(serving.enqueue(1, offer(4), 0, 4, start));
        assert!(serving.enqueue(3, offer(8), 10, 4, start));
        assert!(!serving.enqueue(3, offer(8), 13, 1, start), "asked for already");
        let mut sent = Vec::new();
        let mut now = start;
        while let Some(at) = serving.deadline() {
            now = now.max(at);
            while let Some((index, of, chunk)) = serving.dequeue(now) {
                sent.push((index, of.cid.0, chunk));
            }
        }
        let expected = (0..4).flat_map(|at| [(1, 4, at), (3, 8, 10 + at)]);
        assert_eq!(sent, expected.collect::<Vec<_>>());
        // A thousand bytes in a millisecond; a few at once to begin with.
        assert_eq!(now.since(start), Duration::from_millis(3));
        // Who asks for something else needs no more of that; a queue has an end.
        assert!(serving.enqueue(1, offer(4), 0, 4, now));
        assert!(serving.enqueue(1, offer(8), 0, 4, now));
        assert_eq!(serving.waiting, 4);
        let fits: Vec<_> = (1..5).map(|at| serving.enqueue(1, offer(8), 4 * at, 4, now)).collect();
        assert_eq!((fits, serving.waiting), (vec![true, true, true, false], CHUNKS_QUEUED_MAX));
    }

    // rule: ST.4
    #[test]
    fn a_checkpoint_stays_while_it_is_being_fetched() {
        let mut serving = serving();
        let (second, in_use) = (1_000_000_000, Duration::from_secs(1));
        let add = |serving: &mut Serving, cid, now| {
            serving.add(offer(cid), Instant(now), in_use, 2);
        };
        add(&mut serving, 4, second);
        add(&mut serving, 8, second);
        assert!(serving.enqueue(1, offer(4), 0, 1, Instant(second)));
        add(&mut serving, 12, second + 1);
        let offered = |serving: &Serving, index, above| {
            let mut all = StateOffer::new(ViewId(0));
            serving.offers(index, ConsensusId(above), &mut all);
            all.offers().iter().map(|it| it.cid.0).collect::<Vec<_>>()
        };
        assert_eq!(offered(&serving, 1, 0), [12, 8, 4], "it is being fetched");
        assert_eq!(offered(&serving, 2, 0), [12, 8], "by nobody else");
        assert_eq!(offered(&serving, 1, 8), [12]);
        assert!(serving.find(ConsensusId(4), &fetch(4)).is_some());
        assert!(serving.find(ConsensusId(8), &fetch(4)).is_none(), "another root");
        // It is asked for again and again, and then no more.
        for cid in [16, 20] {
            let now = cid * second / 16;
            assert!(serving.enqueue(1, offer(4), cid as u32, 1, Instant(now)));
            add(&mut serving, cid, now + 1);
        }
        assert_eq!(offered(&serving, 1, 0), [20, 16, 4]);
        add(&mut serving, 24, 4 * second);
        assert_eq!(offered(&serving, 1, 0), [24, 20]);
        add(&mut serving, 24, 4 * second);
        add(&mut serving, 22, 4 * second);
        assert_eq!(offered(&serving, 1, 0), [24, 22], "the newest two, whenever they are told");
        const { assert!(KEPT < limits::OFFERS_MAX) };
    }
}
