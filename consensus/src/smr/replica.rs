//! One member of the cluster as a state machine: its state, `step`, and the one flat dispatch.
//!
//! Always true: what `invariants.rs` says, after every step. Must not: decide anything about a
//! message beyond whom it concerns; the phases do, each in its own file: `normal` (PROPOSE, WRITE,
//! ACCEPT, decisions), `validity` (gamma, REFUSE), `synchronization` (STOP, STOPDATA, SYNC), `lag`
//! (STATUS and learning), `timers`.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::action::{Action, Evidence, Recipients};
use crate::batch::Batch;
use crate::checkpoint::Ordered;
use crate::config::{Config, FaultModel};
use crate::input::Input;
use crate::limits::{
    BATCH_REQUESTS_MAX, BATCH_SIZE_MAX, DEPTH_MAX, REQUESTS_PER_STEP_MAX, decisions_told,
};
use crate::message::{Message, Offer, Position, Request};
use crate::payload::{Payload, PayloadPool};
use crate::protocol::{Actions, Protocol};
use crate::quorum::Quorums;
use crate::smr::assembly::Proposal;
use crate::smr::bodies::{Answers, Lacking};
use crate::smr::complaints::Complaints;
use crate::smr::decision_log::DecisionLog;
use crate::smr::durability::Durability;
use crate::smr::helping::Helping;
use crate::smr::ignored::{Ignored, IgnoredCounts};
use crate::smr::out_of_context::OutOfContext;
use crate::smr::progress::Lag;
use crate::smr::requests::Requests;
use crate::smr::standstill::Standstill;
use crate::smr::synchronization::Synchronization;
use crate::smr::timers::Timers;
use crate::smr::transfer::{Serving, Transfer};
use crate::smr::views::Views;
use crate::spec;
use crate::types::{ConsensusId, Digest, Epoch, Instant, Regency, ReplicaId};
use crate::verified::Verified;
use crate::vp::assembly::Assembly;
use crate::vp::safe_value::Resume;
use crate::vp::window::Window;

/// An instance that was decided not long ago.
pub(super) struct Recent {
    pub(super) digest: Digest,
    /// What this replica wrote and accepted in it in the epoch that was current at the end.
    pub(super) epoch: Epoch,
    pub(super) wrote: Option<Digest>,
    pub(super) accepted: Option<Digest>,
}

/// A replica's protocol core.
pub struct Replica<P> {
    pub(super) config: Config,
    pub(super) quorums: Quorums,
    /// This replica's place in the view's sorted member list.
    pub(super) index: usize,
    pub(super) pool: Box<dyn PayloadPool<P> + Send>,
    pub(super) now: Instant,

    /// The installed regency (creg), and the one asked for (nreg).
    pub(super) regency: Regency,
    pub(super) wanted: Regency,
    /// `regency` is installed and its SYNC has not come.
    pub(super) stopped: bool,
    /// What the SYNC of `regency` said.
    pub(super) resume: Resume,
    pub(super) synchronization: Synchronization,

    /// The last instance decided and delivered, and what is still told of it and of those before it,
    /// the newest first: `decisions_told` of them.
    pub(super) decided: ConsensusId,
    pub(super) recent: VecDeque<Recent>,
    /// The last instance that was decided by claims.
    pub(super) claimed: ConsensusId,
    /// The application's time at instance `decided`, and at the highest one that was written.
    pub(super) timestamp_ns: u64,
    pub(super) speculative_time_ns: u64,
    /// The last instance that the application has executed.
    pub(super) executed: ConsensusId,
    pub(super) log: DecisionLog,
    /// The instances that are open: `decided + 1` and those above it, as many as the depth.
    pub(super) window: Window<P>,
    pub(super) later: OutOfContext<P>,

    pub(super) requests: Requests<P>,
    /// Requests of clients that there was no room for.
    pub(super) shed: u64,
    pub(super) complaints: Complaints,
    /// The highest instance whose proposal once waited for bodies.
    pub(super) incomplete_to: ConsensusId,
    pub(super) lacking: Lacking,
    pub(super) answers: Answers,
    pub(super) helping: Helping,
    pub(super) lag: Lag<P>,
    pub(super) transfer: Transfer,
    pub(super) serving: Serving,
    pub(super) standstill: Standstill,
    pub(super) timers: Timers,
    pub(super) durability: Durability,
    pub(super) views: Views,
    /// What the last checkpoint held.
    pub(super) last_ordered: Arc<Ordered>,
    /// Batches that were written in instances above those whose records were passed over so far.
    pub(super) earlier: Vec<(ConsensusId, Batch<P>)>,
    pub(super) ignored: IgnoredCounts,
    /// Reused lists of requests, and the request list without requests.
    pub(super) selected: Vec<Request<P>>,
    pub(super) no_requests: Batch<P>,
}

impl<P: Payload> Replica<P> {
    /// A replica that starts at `now` with nothing decided.
    ///
    /// # Panics
    /// When `config.id` is not a member of `config.view`, `config.depth` is not 1 to [`DEPTH_MAX`],
    /// `config.checkpoint_every` is less than twice the depth and not 0, `config.chunk_size` is not 1 to
    /// `CHUNK_SIZE_MAX`, `config.first` is neither the membership of `config.view` nor that of an earlier
    /// one, or `pool` is empty from the start.
    pub fn new(config: Config, mut pool: Box<dyn PayloadPool<P> + Send>, now: Instant) -> Self {
        let view = &config.view;
        let index = view.index_of(config.id).expect("a replica is a member of its view");
        let n = view.n();
        let none: [Request<P>; 0] = [];
        let no_requests =
            Batch::build(&mut *pool, 0, &none).expect("a pool that was just made has room");
        let per_digest = config.checks.votes_per_digest;
        let depth = config.depth;
        assert!((1..=DEPTH_MAX).contains(&depth), "the depth is 1 to DEPTH_MAX");
        let every = config.checkpoint_every;
        assert!(
            every == 0 || every >= decisions_told(depth) as u64,
            "checkpoints are farther apart"
        );
        let resume = Resume { start: ConsensusId(1), bound: Vec::new() };
        let joins = joins(&config);
        Self {
            quorums: view.quorums(),
            index,
            pool,
            now,
            regency: Regency(0),
            wanted: Regency(0),
            stopped: false,
            resume,
            synchronization: Synchronization::new(n),
            decided: ConsensusId(0),
            recent: VecDeque::with_capacity(decisions_told(depth) + 1),
            claimed: ConsensusId(0),
            timestamp_ns: 0,
            speculative_time_ns: 0,
            executed: ConsensusId(0),
            log: DecisionLog::new(
                config.decision_log_size.max(2 * config.batch_size_max.min(BATCH_SIZE_MAX)),
                config.decision_log_max.max(decisions_told(depth)),
            ),
            window: Window::new(view.id(), depth, per_digest),
            later: OutOfContext::new(n),
            requests: Requests::new(&config),
            shed: 0,
            complaints: Complaints::new(&config),
            incomplete_to: ConsensusId(0),
            lacking: Lacking::new(&config, now),
            answers: Answers::new(n),
            helping: Helping::new(n),
            lag: Lag::new(n, config.restarted, joins),
            transfer: Transfer::new(&config),
            serving: Serving::new(&config),
            standstill: Standstill::new(now),
            timers: Timers::new(now, config.request_timeout),
            durability: Durability::default(),
            views: Views::new(config.first.clone()),
            last_ordered: Arc::default(),
            earlier: Vec::new(),
            ignored: IgnoredCounts::default(),
            selected: Vec::with_capacity(BATCH_REQUESTS_MAX),
            no_requests,
            config,
        }
    }

    /// Bytes that [`Replica::new`] reserves for its tables, beside those of
    /// [`decision_log_size`](Config::decision_log_size). None of them grows later, but for sessions of
    /// more clients than one that have as many as they may.
    pub fn tables_size(config: &Config) -> usize {
        let fixed = DecisionLog::INDEX_SIZE
            + OutOfContext::<P>::reserved_size(config.view.n())
            + config.depth * Assembly::<P>::RESERVED_SIZE;
        Requests::<P>::reserved_size(config).saturating_add(fixed)
    }

    /// As a step with [`Input::Request`] for each of `requests`, in order, except that what follows from
    /// them follows from all together: a leader that waited for something to propose proposes them in
    /// one batch. The one input of which there are hundreds between two messages, so it has a way of its
    /// own.
    ///
    /// # Panics
    /// When there are more than [`REQUESTS_PER_STEP_MAX`].
    #[inline]
    pub fn step_requests(
        &mut self,
        now: Instant,
        requests: impl ExactSizeIterator<Item = Verified<Request<P>>>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("CORE.2");
        assert!(requests.len() <= REQUESTS_PER_STEP_MAX, "a step has so many actions at most");
        self.now = now.max(self.now);
        if self.on_requests(requests, actions) {
            self.advance(actions);
            self.check_invariants();
        }
    }

    /// What it was told at its start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Who this is.
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The installed regency.
    pub fn regency(&self) -> Regency {
        self.regency
    }

    /// The regency asked for; equal to `regency` when content.
    pub fn wanted(&self) -> Regency {
        self.wanted
    }

    /// Leader of the installed regency.
    pub fn leader(&self) -> ReplicaId {
        spec!("SMR.2");
        self.config.view.leader(self.regency)
    }

    /// Last instance decided, with its batch; 0 when none.
    pub fn decided(&self) -> ConsensusId {
        self.decided
    }

    /// Requests admitted and not yet decided.
    pub fn pending(&self) -> usize {
        self.requests.pending_count()
    }

    /// Requests of clients that there was no room for, so far (rule SMR.14).
    pub fn shed(&self) -> u64 {
        self.shed
    }

    /// Has a regency been installed whose SYNC has not come?
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Does this replica only learn, because it lost its memory (rule LAG.5)?
    pub fn is_mute(&self) -> bool {
        self.lag.is_mute()
    }

    /// May read-only requests be answered from the state of this replica? Not before one that lost
    /// its memory has executed what it may have helped to decide before (rule LAG.5), nor before one that came back
    /// with its records has executed what it voted for (rule DUR.3).
    pub fn may_answer_reads(&self) -> bool {
        spec!("LAG.5", "VIEW.5", "DUR.3");
        // One that is between views may not know of what others have executed in the next.
        let executed = self.lag.read_from().is_some_and(|from| self.executed >= from);
        executed && !self.window.is_closed()
    }

    /// Oldest decision this replica can still send to others; `decided + 1` when it keeps none.
    pub fn log_start(&self) -> ConsensusId {
        self.log.start().unwrap_or(self.decided.next())
    }

    /// Digest of the batch that instance `cid` decided, while the decision is kept.
    pub fn decision(&self, cid: ConsensusId) -> Option<Digest> {
        self.log.get(cid).map(|entry| entry.digest)
    }

    /// Messages of members that had no effect, by reason.
    pub fn ignored(&self) -> &IgnoredCounts {
        &self.ignored
    }

    pub(super) fn crash_only(&self) -> bool {
        self.quorums.model() == FaultModel::Crash
    }

    pub(super) fn is_leader(&self) -> bool {
        self.leader() == self.config.id
    }

    pub(super) fn send(
        &self,
        to: Recipients,
        message: Message<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        let after = self.after(&message);
        actions.push(Action::Send { to, message, after });
    }

    /// Reports a contradiction of the member at `index` once an instance.
    pub(super) fn report_contradiction(
        &mut self,
        index: usize,
        at: Position,
        first: Digest,
        second: Digest,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("VP.1");
        self.ignored.add(Ignored::Contradiction);
        let here = self.window.get(at.cid).map_or(self.window.start(), |instance| instance.at.cid);
        if self.window.at_mut(here).reported.insert(index) {
            let member = self.config.view.members()[index];
            actions.push(Action::Report(Evidence::Equivocation { member, at, first, second }));
        }
    }

    /// The one flat dispatch of what members say.
    fn on_message(
        &mut self,
        from: ReplicaId,
        message: Message<P>,
        actions: &mut Actions<Action<P>>,
    ) {
        spec!("CORE.3");
        let Some(index) = self.config.view.index_of(from) else {
            return self.on_outsider(from, &message, actions);
        };
        // The only message to itself that leaves the core is its state, which comes back signed.
        if index == self.index && !matches!(message, Message::StopData(_)) {
            return self.ignored.add(Ignored::NotMember);
        }
        match message {
            Message::Forwarded(requests) => self.on_request_list(index, &requests, actions),
            Message::Propose(it) => {
                self.on_propose(index, it.at, Proposal::Whole(it.batch), actions);
            }
            Message::ProposeSparse(it) => {
                self.on_propose(index, it.at, Proposal::Sparse(it.batch), actions);
            }
            Message::Write(vote) => self.on_write(index, vote, actions),
            Message::Accept(vote) => self.on_accept(index, vote, actions),
            Message::Refuse(refuse) => self.on_refuse(index, refuse, actions),
            Message::Stop(stop) => self.on_stop(index, &stop, actions),
            Message::StopData(state) => self.on_stop_data(index, *state, actions),
            Message::Sync(sync) => self.on_sync(index, sync, actions),
            Message::Status(status) => self.on_status(index, &status, actions),
            Message::Fetch(fetch) => self.on_fetch(index, &fetch, actions),
            Message::Decided(decided) => self.on_decided(index, decided, actions),
            Message::FetchBatch(fetch) => self.on_fetch_batch(index, &fetch, actions),
            Message::BatchBody(body) => self.on_batch_body(body),
            Message::FetchBodies(fetch) => self.on_fetch_bodies(index, &fetch, actions),
            Message::Bodies(bodies) => self.on_bodies(&bodies, actions),
            Message::FetchState(fetch) => self.on_fetch_state(index, &fetch, actions),
            Message::StateOffer(offer) => self.on_state_offer(index, offer, actions),
            Message::FetchChunks(fetch) => self.on_fetch_chunks(index, &fetch, actions),
            Message::Chunk(chunk) => self.on_chunk(index, chunk, actions),
        }
    }
}

/// Is the view to start in a later one than the first? Then this replica waits for it.
fn joins(config: &Config) -> bool {
    let Some(first) = &config.first else {
        return false;
    };
    let (first, view) = (first.view(), &config.view);
    assert!(first.id() < view.id() || first == view, "the first view comes first");
    first.id() < view.id()
}

impl<P: Payload> Protocol for Replica<P> {
    type Input = Input<P>;
    type Action = Action<P>;

    fn step(&mut self, now: Instant, input: Input<P>, actions: &mut Actions<Action<P>>) {
        spec!("CORE.1", "CORE.2");
        // A driver's clock must not go back; if it does, time stands still here.
        self.now = now.max(self.now);
        match input {
            Input::Request(request) => {
                return self.step_requests(now, core::iter::once(request), actions);
            }
            Input::Peer { from, message } => self.on_message(from, message.into_inner(), actions),
            Input::Deadline => self.on_deadline(actions),
            Input::Connected(member) => self.on_connected(member, actions),
            Input::Durable(lsn) => self.on_durable(lsn),
            Input::Executed(cid) => self.on_executed(cid),
            Input::Checkpointed { cid, size, root } => {
                self.on_checkpointed(Offer { cid, size, root });
            }
            Input::Resumed { cid, root, have } => self.on_resumed(cid, root, &have, actions),
            Input::Stored { cid, index } => self.on_stored(cid, index, actions),
            Input::TransferReady(ordered) => self.on_transfer_ready(ordered, actions),
            Input::TransferFailed { cid } => self.on_transfer_failed(cid, actions),
        }
        self.advance(actions);
        self.check_invariants();
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.deadline())
    }
}
