//! Getting a checkpoint of others, when nobody keeps the decisions any more that this replica lacks.
//!
//! Owns which image is fetched, of whom, and what is under way; `install` takes it over, `serving` is the other side.
//! Always true: what is fetched is what one-correct members offer alike, and of each chunk the root was compared;
//! one transfer is under way at a time, and memory for it is a bit for each chunk. Must not: hash, or keep bytes.

mod chunks;
mod install;
mod manager;
mod serving;
mod sources;

use alloc::boxed::Box;
use core::time::Duration;

use self::chunks::Chunks;
pub use self::manager::{EqualShares, PreferMembers, SpareLeader, StateManager, StateSource};
pub(super) use self::serving::Serving;
use self::sources::Sources;
use crate::action::{Action, Evidence, Recipients, TransferNote};
use crate::checkpoint::Ordered;
use crate::config::Config;
use crate::limits::{CHUNK_PATH_MAX, CHUNKS_PER_FETCH_MAX, CHUNKS_PER_SOURCE_MAX, REPLICAS_MAX};
use crate::message::{Chunk, FetchChunks, FetchState, Message, Offer, StateOffer};
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::ignored::Ignored;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::{ConsensusId, Digest, Instant, ReplicaId};

/// Failures to learn decisions in a row after which a checkpoint is asked for, too.
const LAG_FAILURES: u32 = 3;

/// A pause after a failed transfer grows at most this many times twofold.
const PAUSES_MAX: u32 = 6;

/// How far a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The node makes room, and looks for what is left of an attempt before.
    Begun,
    /// Chunks are asked for.
    Fetching,
    /// All are stored; the node looks at the whole.
    Whole,
}

/// What is fetched.
struct Target {
    offer: Offer,
    phase: Phase,
    chunks: Chunks,
}

/// See the module.
pub(super) struct Transfer {
    manager: Box<dyn StateManager>,
    sources: Sources,
    target: Option<Target>,
    /// The image that was installed last: execution may not have come to it yet.
    installed: ConsensusId,
    /// When to look whether members are late.
    look_at: Option<Instant>,
    /// Not to begin before.
    pause_until: Instant,
    /// Transfers that failed in a row.
    failures: u32,
    /// The newest image that was too large, so that it is said once.
    too_large: ConsensusId,
}

impl Transfer {
    pub(super) fn new(config: &Config) -> Self {
        assert!(
            (1..=crate::limits::CHUNK_SIZE_MAX).contains(&config.chunk_size),
            "bytes of a chunk"
        );
        Self {
            manager: Box::new(EqualShares),
            sources: Sources::new(config.view.id(), config.view.n()),
            target: None,
            installed: ConsensusId(0),
            look_at: None,
            pause_until: Instant(0),
            failures: 0,
            too_large: ConsensusId(0),
        }
    }

    /// Another view begins: nothing was asked of its members.
    pub(super) fn enter_view(&mut self, config: &Config) {
        self.sources = Sources::new(config.view.id(), config.view.n());
        (self.target, self.look_at) = (None, None);
    }

    /// When to look after the transfer.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The instance of the image that was installed last; 0 when none was.
    pub(super) fn installed(&self) -> ConsensusId {
        self.installed
    }
}

impl<P: Payload> Replica<P> {
    /// The image that is being fetched: its instance, how many chunks it has and how many are still to be
    /// stored.
    pub fn transfer(&self) -> Option<(ConsensusId, u32, u32)> {
        let target = self.transfer.target.as_ref()?;
        Some((target.offer.cid, target.chunks.count(), target.chunks.left()))
    }

    /// Gets checkpoints as `manager` says from now on.
    pub fn set_state_manager(&mut self, manager: Box<dyn StateManager>) {
        self.transfer.manager = manager;
    }

    /// Does this replica need a checkpoint of others: because too few keep the decisions it lacks, or because
    /// those that say they do send nothing?
    fn needs_state(&self) -> bool {
        spec!("ST.1", "LAG.4");
        let next = self.window.start();
        let gone = || self.lag.members.iter().any(|member| member.log_start > next);
        self.is_behind() || (self.lag.failures >= LAG_FAILURES && self.lag.target >= next && gone())
    }

    /// Asks everybody for checkpoints, while this replica needs one.
    pub(super) fn ask_for_state(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("ST.1");
        if self.transfer.target.is_none() && !self.needs_state() {
            return;
        }
        let fetch = FetchState { view: self.config.view.id(), above: self.decided };
        self.send(Recipients::Others, Message::FetchState(fetch), actions);
    }

    pub(super) fn on_state_offer(
        &mut self,
        index: usize,
        offer: StateOffer,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.1", "VIEW.7");
        if self.transfer.target.is_none() && !self.needs_state() {
            return self.ignored.add(Ignored::NotNeeded);
        }
        self.transfer.sources.note_offer(index, offer);
        self.choose_target(actions);
        self.fetch_chunks(actions);
    }

    /// Begins a transfer, if there is none and there should be one; another one, if what is fetched cannot be
    /// had any more.
    fn choose_target(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("ST.1", "ST.3");
        let fetched = self.transfer.target.as_ref().map(|target| target.offer);
        match fetched {
            Some(target) if self.can_be_had(&target) => return,
            None if !self.may_begin_transfer() => return,
            _ => {}
        }
        let Some(offer) = self.newest_offer(actions).filter(|it| Some(*it) != fetched) else {
            return;
        };
        if let Some(Offer { cid, .. }) = fetched {
            actions.push(Action::Transfer(TransferNote::Vanished { cid }));
        }
        self.begin_transfer(offer, actions);
    }

    /// Is a checkpoint needed, and is the application done with the one before? The node has one place for them.
    fn may_begin_transfer(&self) -> bool {
        spec!("ST.4");
        let Transfer { installed, pause_until, .. } = &self.transfer;
        self.executed >= *installed && self.now >= *pause_until && self.needs_state()
    }

    /// Does somebody send it, or are there enough that one of them is correct, and were they not all asked in vain
    /// again and again?
    fn can_be_had(&self, target: &Offer) -> bool {
        let sources = &self.transfer.sources;
        let enough = sources.usable(target).count() >= self.quorums.one_correct();
        let hope = enough && sources.is_hopeful(target);
        hope || sources.fast(target).next().is_some()
    }

    fn newest_offer(&mut self, actions: &mut Actions<Action<P>>) -> Option<Offer> {
        spec!("ST.1");
        let one_correct =
            if self.config.checks.offer_quorum { self.quorums.one_correct() } else { 1 };
        let (decided, max) = (self.decided, self.config.state_size_max);
        let chunk_size = self.config.chunk_size as u64;
        let fits = |offer: &Offer| {
            offer.size <= max && offer.size.div_ceil(chunk_size) <= 1 << CHUNK_PATH_MAX
        };
        let mut too_large = None;
        let offer = self.transfer.sources.newest(one_correct, |offer| {
            let new = offer.cid > decided && offer.size > 0;
            if new && !fits(offer) {
                too_large = Some(*offer);
            }
            new && fits(offer)
        });
        if let Some(Offer { cid, size, .. }) = too_large.filter(|_| offer.is_none())
            && cid > self.transfer.too_large
        {
            self.transfer.too_large = cid;
            actions.push(Action::Transfer(TransferNote::TooLarge { cid, size }));
        }
        offer
    }

    fn begin_transfer(&mut self, offer: Offer, actions: &mut Actions<Action<P>>) {
        spec!("ST.1", "ST.4");
        let Offer { cid, size, root } = offer;
        let count = size.div_ceil(self.config.chunk_size as u64);
        let count = u32::try_from(count).expect("larger ones are not chosen");
        self.transfer.sources.begin();
        self.report_false_offers(&offer, actions);
        let chunks = Chunks::new(count);
        self.transfer.target = Some(Target { offer, phase: Phase::Begun, chunks });
        self.transfer.look_at = Some(self.now + self.patience());
        actions.push(Action::BeginTransfer { cid, size, root });
    }

    fn report_false_offers(&self, target: &Offer, actions: &mut Actions<Action<P>>) {
        if !self.config.checks.offer_quorum {
            return;
        }
        for (index, Offer { cid, root, .. }) in self.transfer.sources.contradicting(target) {
            let member = self.member(index);
            actions.push(Action::Report(Evidence::FalseOffer { member, cid, root }));
        }
    }

    /// The node has made room, and says what is left of an attempt before.
    pub(super) fn on_resumed(
        &mut self,
        cid: ConsensusId,
        root: Digest,
        have: &[u64],
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.4");
        let expected = |target: &&mut Target| {
            target.phase == Phase::Begun && (target.offer.cid, target.offer.root) == (cid, root)
        };
        if let Some(target) = self.transfer.target.as_mut().filter(expected) {
            target.chunks.resume(have);
            let whole = target.chunks.left() == 0;
            target.phase = if whole { Phase::Whole } else { Phase::Fetching };
            self.fetch_chunks(actions);
        }
    }

    /// Asks as many members for as many chunks as may be under way.
    fn fetch_chunks(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("ST.2", "ST.3");
        let fetching = |target: &&Target| target.phase == Phase::Fetching;
        let Some(offer) = self.transfer.target.as_ref().filter(fetching).map(|it| it.offer) else {
            return;
        };
        let mut shares = [(0, 0); REPLICAS_MAX];
        let count = self.share_out(&offer, &mut shares);
        if count > 0 {
            let mut any = true;
            while any {
                any = false;
                for &(index, most) in &shares[..count] {
                    any |= self.fetch_run(index, most, actions);
                }
            }
        } else if let Some(index) = self.transfer.sources.least_slow(&offer) {
            // One at a time, and little: it may never come.
            self.fetch_run(index, CHUNKS_PER_FETCH_MAX, actions);
        }
    }

    /// Writes who is asked and how much each may owe into `shares`, and returns how many these are. Where nobody gets a share,
    /// everybody gets the least: others may offer it soon.
    fn share_out(&mut self, offer: &Offer, shares: &mut [(usize, usize); REPLICAS_MAX]) -> usize {
        spec!("ST.6");
        let leader = self.leader();
        let Transfer { manager, sources, .. } = &mut self.transfer;
        let count = sources.fast(offer).count();
        let mut with_share = 0;
        for (at, index) in sources.fast(offer).enumerate() {
            let member = self.config.view.members()[index];
            let source = StateSource { member, leads: member == leader, sources: count };
            let share = manager.share(&source).min(CHUNKS_PER_SOURCE_MAX);
            shares[at] = (index, share);
            with_share += usize::from(share >= CHUNKS_PER_FETCH_MAX);
        }
        if with_share == 0 {
            shares[..count].iter_mut().for_each(|(_, share)| *share = CHUNKS_PER_FETCH_MAX);
        }
        count
    }

    /// Asks a member for a few chunks, unless it would owe more than `most` then.
    fn fetch_run(&mut self, index: usize, most: usize, actions: &mut Actions<Action<P>>) -> bool {
        let view = self.config.view.id();
        let Some(target) = &mut self.transfer.target else {
            return false;
        };
        let owed = target.chunks.owed_by(index);
        if owed + CHUNKS_PER_FETCH_MAX > most {
            return false;
        }
        let run = target.chunks.take_run(index, CHUNKS_PER_FETCH_MAX, self.now);
        let Some((first, count)) = run else {
            return false;
        };
        if owed == 0 {
            self.transfer.sources.note_asked(index, self.now);
        }
        let Offer { cid, root, .. } = target.offer;
        let fetch = FetchChunks { view, cid, root, first, count };
        let member = self.member(index);
        self.send(Recipients::One(member), Message::FetchChunks(fetch), actions);
        true
    }

    pub(super) fn on_chunk(
        &mut self,
        index: usize,
        chunk: Chunk<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.2", "ST.3", "VIEW.7");
        let expected =
            |target: &&mut Target| target.phase == Phase::Fetching && target.offer.cid == chunk.cid;
        let Some(target) = self.transfer.target.as_mut().filter(expected) else {
            return self.ignored.add(Ignored::NotNeeded);
        };
        let genuine = chunk.root == target.offer.root || !self.config.checks.chunk_roots;
        if !genuine {
            return self.catch_lying(index, chunk.cid, chunk.index, actions);
        }
        let Some(asked) = target.chunks.come(chunk.index) else {
            return self.ignored.add(Ignored::NotNeeded);
        };
        // What comes late of one that is slow is welcome, and does not make it fast.
        if asked == index {
            self.transfer.sources.note_chunk(index, self.now);
        }
        let Chunk { cid, index, leaf, .. } = chunk;
        actions.push(Action::StoreChunk { cid, index, leaf, payload: chunk.into_bytes() });
        self.fetch_chunks(actions);
    }

    /// A member has sent a chunk that is none of the image that it names. Its link is authenticated: it was
    /// this member, and not somebody else.
    fn catch_lying(
        &mut self,
        index: usize,
        cid: ConsensusId,
        chunk: u32,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.3");
        self.ignored.add(Ignored::Invalid);
        if !self.transfer.sources.note_lie(index) {
            return;
        }
        let member = self.member(index);
        actions.push(Action::Report(Evidence::FalseChunk { member, cid, index: chunk }));
        if let Some(target) = &mut self.transfer.target {
            target.chunks.give_back(index);
        }
        self.choose_target(actions);
        self.fetch_chunks(actions);
    }

    pub(super) fn on_stored(
        &mut self,
        cid: ConsensusId,
        index: u32,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.4");
        let fetching =
            |target: &&mut Target| target.phase == Phase::Fetching && target.offer.cid == cid;
        let Some(target) = self.transfer.target.as_mut().filter(fetching) else {
            return;
        };
        if target.chunks.store(index) && target.chunks.left() == 0 {
            target.phase = Phase::Whole;
        }
        self.fetch_chunks(actions);
    }

    /// A link was made again: what its member owes may be lost.
    pub(super) fn ask_again_of(&mut self, index: usize, actions: &mut Actions<Action<P>>) {
        spec!("ST.3");
        if let Some(target) = &mut self.transfer.target {
            target.chunks.give_back(index);
            self.fetch_chunks(actions);
        }
    }

    /// Looks who is late, and whether the transfer is still of use.
    pub(super) fn on_transfer_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("ST.3");
        self.transfer.look_at = Some(self.now + self.patience());
        self.give_up_late(actions);
        self.choose_target(actions);
        self.fetch_chunks(actions);
    }

    fn give_up_late(&mut self, actions: &mut Actions<Action<P>>) {
        let patience = self.chunk_patience();
        let Some(target) = &mut self.transfer.target else {
            return;
        };
        let cid = target.offer.cid;
        let hurry = !target.chunks.has_next();
        for (index, member) in self.config.view.members().iter().enumerate() {
            let sources = &mut self.transfer.sources;
            let late = |since| sources.is_late(index, since, hurry, self.now, patience);
            if target.chunks.owed_since(index).is_some_and(late) {
                target.chunks.give_back(index);
                sources.note_slow(index);
                let note = TransferNote::SlowSource { member: *member, cid };
                actions.push(Action::Transfer(note));
            }
        }
    }

    /// How long a chunk may take.
    fn chunk_patience(&self) -> Duration {
        spec!("TIME.6", "ST.3");
        (self.config.request_timeout / 2).max(self.patience())
    }

    /// After a delivery: what was learned otherwise need not be transferred.
    pub(super) fn end_useless_transfer(&mut self, actions: &mut Actions<Action<P>>) {
        let useless = |target: &Target| target.offer.cid <= self.decided;
        if self.transfer.target.as_ref().is_some_and(useless) {
            self.end_transfer(actions);
        }
    }

    pub(super) fn end_transfer(&mut self, actions: &mut Actions<Action<P>>) {
        if let Some(target) = self.transfer.target.take() {
            actions.push(Action::EndTransfer { cid: target.offer.cid });
        }
        self.transfer.look_at = None;
        self.transfer.sources.forget_offers(self.config.view.id());
    }

    /// The node could not keep the image.
    pub(super) fn on_transfer_failed(
        &mut self,
        cid: ConsensusId,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.4");
        if self.transfer.target.as_ref().is_some_and(|target| target.offer.cid == cid) {
            self.fail_transfer(actions);
        }
    }

    /// Ends the transfer, and does not begin another one for a while.
    fn fail_transfer(&mut self, actions: &mut Actions<Action<P>>) {
        let pause = self.config.request_timeout.saturating_mul(1 << self.transfer.failures);
        self.transfer.failures = (self.transfer.failures + 1).min(PAUSES_MAX);
        self.transfer.pause_until = self.now + pause;
        self.end_transfer(actions);
    }

    pub(super) fn on_transfer_ready(
        &mut self,
        ordered: Box<Ordered>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("ST.5");
        let expected =
            |target: &&Target| target.phase == Phase::Whole && target.offer.cid == ordered.cid;
        let Some(root) = self.transfer.target.as_ref().filter(expected).map(|it| it.offer.root)
        else {
            return;
        };
        if !self.install_state(&ordered, root, actions) {
            let cid = ordered.cid;
            actions.push(Action::Transfer(TransferNote::Refused { cid }));
            return self.fail_transfer(actions);
        }
        // The image is this replica's own from now on.
        self.transfer.target = None;
        self.transfer.look_at = None;
        self.transfer.failures = 0;
        self.transfer.sources.forget_offers(self.config.view.id());
        self.after_delivery(actions);
    }

    /// The id of the member at `index`.
    fn member(&self, index: usize) -> ReplicaId {
        self.config.view.members()[index]
    }
}
