//! The ordering stage: the protocol core between its rings.
//!
//! Owns the core. Always true: the core steps only while everything that earlier steps wanted has
//! been handed on, so its actions are carried out in order and none is lost; requests are taken
//! before messages of peers, so that the message that ends an instance finds a full queue to
//! propose from. Must not: perform IO, or look into a message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tetrarch_consensus::limits::{ACTIONS_MAX, REQUESTS_PER_STEP_MAX};
use tetrarch_consensus::smr::{Replica, RestoreError};
use tetrarch_consensus::{
    Action, Actions, ConsensusId, Digest, Input, Instant as CoreInstant, Lsn, Ordered, Protocol,
    Request, ViewId, ViewRequest, spec,
};
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::types::Instant;

use super::bulletin::Herald;
use super::records::{Records, Watermark};
use super::{
    BUSY_MAX, Decided, Event, ORDERS_MAX, OrderingRings, Outbound, WORK_MAX, Wakers, Work, wake,
};
use crate::checkpoint::Target;
use crate::checkpoint::transfer::Order;
use crate::keyring::BadView;
use crate::metrics::Metrics;
use crate::payload::FramePayload;

/// Requests taken in one poll: a few bursts, so that a full ring becomes full batches, and few
/// enough that votes do not wait long.
const REQUESTS_PER_POLL: usize = 512;
/// Messages of peers taken in one poll.
const PEERS_PER_POLL: usize = 64;

/// See the module.
pub struct Ordering {
    core: Replica<FramePayload>,
    herald: Arc<Herald>,
    /// During a replay: what the View Manager asked for to make the view that the core is in, as far as known.
    replayed: Option<ViewRequest>,
    rings: OrderingRings,
    actions: Actions<Action<FramePayload>>,
    /// The log, if this replica keeps one.
    records: Option<Records>,
    /// The last record that was appended.
    appended: Lsn,
    /// The last one that something waits for. Those behind it are written with the next that is awaited: the record
    /// of a decision is not worth a sync of its own.
    awaited: Lsn,
    /// The log has failed: nothing happens any more.
    failed: bool,
    /// Whether execution was told to answer read-only requests.
    reads: bool,
    /// Wanted and not handed on yet, oldest first. The core waits while there is any.
    waiting: VecDeque<Action<FramePayload>>,
    /// What was decided when the core said that nobody can send the next decision.
    behind: Option<ConsensusId>,
    metrics: Arc<Metrics>,
    wakers: Wakers,
    /// Wakes the thread that fetches and serves checkpoints.
    orders_waker: Option<Waker>,
}

impl Ordering {
    /// The stage around `core`, which says through `herald` which view it is in.
    pub fn new(
        core: Replica<FramePayload>,
        rings: OrderingRings,
        metrics: Arc<Metrics>,
        herald: Arc<Herald>,
    ) -> Self {
        Self {
            core,
            herald,
            replayed: None,
            rings,
            actions: Actions::with_capacity(ACTIONS_MAX),
            records: None,
            appended: Lsn(0),
            awaited: Lsn(0),
            failed: false,
            reads: false,
            waiting: VecDeque::with_capacity(ACTIONS_MAX),
            behind: None,
            metrics,
            wakers: Wakers::default(),
            orders_waker: None,
        }
    }

    /// From now on wakes the thread that fetches and serves checkpoints.
    pub fn wake_transfer(&mut self, waker: Waker) {
        self.orders_waker = Some(waker);
    }

    /// From now on wakes other cores for what is left in its rings.
    pub fn wake_others(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    /// Replays a record. What has to be executed again is returned.
    ///
    /// # Errors
    /// It does not follow from those before.
    pub fn restore(
        &mut self,
        now: Instant,
        record: &[u8],
    ) -> Result<Option<Decided>, RestoreError> {
        self.core.restore(CoreInstant(now.0), record, &mut self.actions)?;
        let mut executes = None;
        for action in self.actions.drain() {
            if let Action::Execute { context, batch, selection, view_answer, .. } = action {
                executes = Some(Decided { context, batch, selection, view_answer });
            }
        }
        self.note_view();
        Ok(executes)
    }

    /// Remembers what was asked for to make the view that the core is in: at its end it knows the next one only.
    fn note_view(&mut self) {
        let here = self.core.view().id();
        if self.replayed.as_ref().is_none_or(|asked| asked.next.id() != here) {
            let ruling = self.core.signed_membership().filter(|asked| asked.next.id() == here);
            self.replayed = ruling.cloned().or(self.replayed.take());
        }
    }

    /// What was to be replayed was: tells the stages which view this replica is in. Returns it, and the place in it.
    ///
    /// # Errors
    /// Its keys cannot be used.
    pub fn settle(&mut self) -> Result<(ViewId, Option<usize>), BadView> {
        let asked = self.replayed.take();
        let later = asked.as_ref().map(|asked| asked.next.clone());
        let current = later.unwrap_or_else(|| self.herald.bulletin().current());
        debug_assert_eq!(current.id(), self.core.view().id(), "every view was noted");
        self.herald.begin(current, asked.as_ref())?;
        if let Some(next) = self.core.membership().filter(|_| self.core.is_between_views()) {
            self.herald.ended(next.clone());
        }
        self.show_view();
        self.publish();
        let view = self.core.view();
        Ok((view.id(), view.index_of(self.core.id())))
    }

    fn show_view(&self) {
        let view = self.core.view();
        self.metrics.view.set(u64::from(view.id().0));
        self.metrics.members.set(view.n() as u64);
        self.metrics.faults_tolerated.set(view.quorums().f() as u64);
    }

    /// From now on keeps records in `records`, behind those that were replayed. `lost`: there are none,
    /// and there were some.
    pub fn keep_records(&mut self, records: Records, lost: bool) -> Watermark {
        spec!("DUR.5");
        if lost {
            self.core.lose_memory();
        }
        let watermark = records.watermark();
        self.appended = watermark.get();
        self.core.go_on_after(self.appended, &mut self.actions);
        self.waiting.extend(self.actions.drain());
        self.records = Some(records);
        self.hand_on();
        self.awaited = self.appended;
        self.flush();
        self.publish();
        watermark
    }

    /// Passes over a record before the base of the checkpoint that is begun with.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn pass_over(&mut self, record: &[u8]) -> Result<(), RestoreError> {
        self.core.pass_over(record)
    }

    /// No checkpoint was begun with: forgets what was passed over.
    pub fn forget_passed_over(&mut self) {
        self.core.forget_passed_over();
    }

    /// Begins at a checkpoint, with the record that is its base.
    ///
    /// # Errors
    /// It is not its base.
    pub fn begin_at(
        &mut self,
        now: Instant,
        ordered: &Ordered,
        record: &[u8],
    ) -> Result<(), RestoreError> {
        self.core.begin_at(CoreInstant(now.0), ordered, record)?;
        let ruled = ordered.ruled.as_ref().map(|ruled| &ruled.request);
        self.replayed = ruled.filter(|asked| asked.next.id() == self.core.view().id()).cloned();
        Ok(())
    }

    /// From now on gives up records before the number that this holds.
    pub fn keep_records_from(&mut self, needed_from: Arc<AtomicU64>) {
        if let Some(records) = &mut self.records {
            records.keep_from(needed_from);
        }
    }

    /// Wakes `waker` when something has become durable.
    pub fn wake_when_durable(&mut self, waker: Waker) {
        if let Some(records) = &mut self.records {
            records.wake(waker);
        }
    }

    /// The core, for checkers and tests.
    pub fn core(&self) -> &Replica<FramePayload> {
        &self.core
    }

    /// One step and everything it wants. `false`: not all could be handed on.
    fn step(&mut self, now: Instant, input: Input<FramePayload>) -> bool {
        debug_assert!(self.waiting.is_empty(), "the core waits while actions do");
        self.core.step(CoreInstant(now.0), input, &mut self.actions);
        self.stepped()
    }

    /// The core made a step: everything it wants.
    fn stepped(&mut self) -> bool {
        if self.actions.is_empty() {
            return true;
        }
        self.waiting.extend(self.actions.drain());
        self.hand_on()
    }

    /// A step with a burst of requests.
    fn step_requests(&mut self, now: Instant) -> bool {
        debug_assert!(self.waiting.is_empty(), "the core waits while actions do");
        let trace = &self.metrics.trace;
        let at = CoreInstant(now.0);
        let requests = self.rings.requests.burst(REQUESTS_PER_STEP_MAX);
        if trace.is_due(now) {
            let mut sample = true;
            let requests = requests.inspect(|request| {
                if core::mem::take(&mut sample) {
                    let Request { client, sequence, .. } = request.get();
                    trace.begin(now, *client, *sequence);
                }
            });
            self.core.step_requests(at, requests, &mut self.actions);
        } else {
            self.core.step_requests(at, requests, &mut self.actions);
        }
        self.stepped()
    }

    /// Hands on what waits, in order. `false`: a ring is full, try again.
    fn hand_on(&mut self) -> bool {
        while let Some(action) = self.waiting.front() {
            if let Action::Persist { lsn, record } = action {
                // Only a core that was given a log makes records.
                let fits = self.records.as_mut().is_none_or(|log| log.append(*lsn, record));
                if !fits {
                    return false;
                }
                self.appended = *lsn;
                self.waiting.pop_front();
                continue;
            }
            let room = match action {
                Action::Send { .. } => self.rings.sends.room(),
                Action::Execute { .. }
                | Action::Checkpoint { .. }
                | Action::Install { .. }
                | Action::ViewEntered { .. }
                | Action::ResendReply { .. } => self.rings.work.room(),
                Action::BeginTransfer { .. }
                | Action::StoreChunk { .. }
                | Action::EndTransfer { .. } => self.rings.orders.room(),
                _ => 1,
            };
            if room == 0 {
                return false;
            }
            if let Some(action) = self.waiting.pop_front() {
                self.carry_out(action);
            }
        }
        true
    }

    /// Does what an action asks for; the ring it needs has room.
    fn carry_out(&mut self, action: Action<FramePayload>) {
        match action {
            Action::Send { to, message, after } => {
                self.wait_for(after);
                let pushed = self.rings.sends.push(Outbound { to, message, after });
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
            Action::Persist { .. } => debug_assert!(false, "records are appended in order"),
            Action::Execute { context, batch, selection, view_answer, after } => {
                self.wait_for(after);
                let decided = Decided { context, batch, selection, view_answer };
                self.work(Work::Execute { decided, after });
            }
            Action::Checkpoint { base, ordered } => {
                self.wait_for(base);
                self.work(Work::Checkpoint { base, ordered });
            }
            Action::ResendReply { client, sequence } => {
                self.work(Work::Resend { client, sequence });
            }
            // Gives way to decisions: the client asks again after a pause, told or not.
            Action::AnswerBusy { client, sequence } => {
                self.metrics.requests_busy.add(1);
                if self.rings.work.room() > WORK_MAX - BUSY_MAX {
                    self.work(Work::Busy { client, sequence });
                }
            }
            Action::Installed { regency, leader } => {
                self.tell(Event::Installed { regency, leader })
            }
            Action::Behind { decided, available } => {
                self.behind = Some(decided);
                self.tell(Event::Behind { decided, available });
            }
            Action::Report(evidence) => {
                self.metrics.evidence.add(1);
                self.tell(Event::Evidence(evidence));
            }
            Action::SendChunk { to, cid, root, index } => {
                // Gives way to what this replica fetches itself: who asked asks again.
                if self.rings.orders.room() > ORDERS_MAX / 2 {
                    let view = self.core.view().id();
                    self.order(Order::Send { to, view, cid, root, index });
                }
            }
            Action::BeginTransfer { cid, size, root: Digest(root) } => {
                self.order(Order::Begin(Target { cid, size, root }));
            }
            Action::StoreChunk { cid, index, leaf, payload } => {
                self.order(Order::Store { cid, index, leaf, payload });
            }
            Action::EndTransfer { cid } => self.order(Order::End(cid)),
            Action::Install { base, cid } => {
                let after = self.appended;
                self.wait_for(after);
                self.work(Work::Install { base, cid, after });
            }
            Action::Transfer(note) => self.tell(Event::Transfer(note)),
            Action::ViewEnded { next } => self.herald.ended(next.next),
            Action::ViewEntered { entered, leader, .. } => {
                let next = entered.next.view();
                let (view, own) = (next.id(), next.index_of(self.core.id()));
                match self.herald.entered(*entered) {
                    Ok(()) => self.tell(Event::Entered { view, leader }),
                    Err(bad) => self.tell(Event::BadView(bad)),
                }
                self.show_view();
                self.work(Work::Enter { view, own });
            }
            Action::Retired { view } => {
                self.metrics.retired.set(1);
                self.tell(Event::Retired { view });
            }
        }
    }

    /// Something waits until this is durable.
    fn wait_for(&mut self, lsn: Lsn) {
        self.awaited = self.awaited.max(lsn);
    }

    fn work(&mut self, work: Work) {
        let pushed = self.rings.work.push(work);
        debug_assert!(pushed.is_ok(), "the room was checked");
    }

    fn order(&mut self, order: Order) {
        let pushed = self.rings.orders.push(order);
        debug_assert!(pushed.is_ok(), "the room was checked");
        self.orders_waker.iter().for_each(Waker::wake);
    }

    /// Operators are told if they listen; the core does not wait for them.
    fn tell(&mut self, event: Event) {
        if self.rings.events.push(event).is_err() {
            self.metrics.events_lost.add(1);
        }
    }

    /// Feeds what the rings hold to the core. Ends early when its actions do not fit.
    fn take_inputs(&mut self, now: Instant) -> Progress {
        let mut progress = Progress::Idle;
        if let Some(lsn) = self.records.as_mut().and_then(Records::news) {
            progress = Progress::Worked;
            if !self.step(now, Input::Durable(lsn)) {
                return progress;
            }
        }
        while let Some(cid) = self.rings.executed.pop() {
            progress = Progress::Worked;
            if !self.step(now, Input::Executed(cid)) {
                return progress;
            }
        }
        while let Some(input) = self.rings.news.pop() {
            progress = Progress::Worked;
            if !self.step(now, input) {
                return progress;
            }
        }
        for _ in 0..REQUESTS_PER_POLL / REQUESTS_PER_STEP_MAX {
            if self.rings.requests.is_empty() {
                break;
            }
            progress = Progress::Worked;
            if !self.step_requests(now) {
                return progress;
            }
        }
        for _ in 0..PEERS_PER_POLL {
            let Some(input) = self.rings.peers.pop() else {
                break;
            };
            progress = Progress::Worked;
            if !self.step(now, input) {
                return progress;
            }
        }
        if self.core.next_deadline().is_some_and(|at| at.0 <= now.0) {
            progress = Progress::Worked;
            self.step(now, Input::Deadline);
        }
        progress
    }

    /// Hands what was appended to the disk. `false`: the log has failed.
    fn flush(&mut self) -> bool {
        spec!("DUR.5");
        let Some(records) = &mut self.records else {
            return true;
        };
        if self.awaited > records.durable() {
            records.flush();
        }
        records.give_up();
        if records.failure().is_some() && !self.failed {
            self.failed = true;
            self.tell(Event::LogFailed);
        }
        !self.failed
    }

    /// Tells execution when read-only requests may be answered, and when not.
    fn tell_reads(&mut self) {
        spec!("LAG.5");
        let may = self.core.may_answer_reads();
        if may != self.reads && self.rings.work.push(Work::Reads(may)).is_ok() {
            self.reads = may;
        }
    }

    fn wake(&self) {
        wake(&self.wakers.network, || !self.rings.sends.is_empty());
        wake(&self.wakers.execution, || !self.rings.work.is_empty());
    }

    fn publish(&self) {
        let (core, metrics) = (&self.core, &self.metrics);
        metrics.decided.set(core.decided().0);
        metrics.decisions_from.set(core.log_start().0);
        metrics.regency.set(u64::from(core.regency().0));
        metrics.wanted.set(u64::from(core.wanted().0));
        metrics.leader.set(u64::from(core.leader().0));
        metrics.stopped.set(u64::from(core.is_stopped()));
        metrics.mute.set(u64::from(core.is_mute()));
        metrics.joining.set(u64::from(core.is_joining()));
        metrics.between_views.set(u64::from(core.is_between_views()));
        metrics.pending.set(core.pending() as u64);
        metrics.requests_shed.set(core.shed());
        metrics.behind.set(u64::from(self.behind == Some(core.decided())));
        metrics.set_ignored(core.ignored());
        if let Some(records) = &self.records {
            records.publish(self.appended, metrics);
        }
    }
}

impl Stage for Ordering {
    fn name(&self) -> &'static str {
        "ordering"
    }

    fn poll(&mut self, now: Instant) -> Progress {
        if !self.flush() {
            return Progress::Idle;
        }
        let waiting = self.waiting.len();
        if !self.hand_on() {
            let moved = self.waiting.len() < waiting;
            self.wake();
            self.flush();
            return if moved { Progress::Worked } else { Progress::Idle };
        }
        let progress = self.take_inputs(now);
        self.tell_reads();
        if progress == Progress::Worked {
            self.publish();
        }
        self.wake();
        self.flush();
        if waiting > 0 { Progress::Worked } else { progress }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadline = self.core.next_deadline().filter(|_| !self.failed);
        deadline.map(|at| Instant(at.0))
    }

    fn waits_for_room(&self) -> bool {
        !self.waiting.is_empty() && !self.failed
    }
}
