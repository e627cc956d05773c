//! The client's side of Mod-SMaRt (thesis Algorithm 1, rules CLI of `docs/PROTOCOL.md`): numbers
//! requests, sends them, and makes results of replies.
//!
//! Owns all sessions of one client identity. Always true: an operation is completed once, with an
//! answer that a certificate of members gave; ordered operations of a session are completed in the
//! order in which they were invoked; memory is bounded by sessions times windows. Must not: know
//! keys or links: who sent a reply was proved by the link it came over, and the driver hashes and
//! authenticates what is sent.
//!
//! A timer costs nothing while replies come: each session has one entry in the timer queue, which
//! is looked at when it fires.

mod ending;
mod follower;
mod following;
mod interface;
mod matching;
mod notices;
mod overload;
mod repliers;
mod results;
mod sending;
mod session;
mod slots;

#[cfg(test)]
mod tests;

pub use follower::Follower;
pub use interface::{
    Authentication, Busy, ClientAction, ClientConfig, ClientInput, Heard, Mode, Outcome, ReplyForm,
    To,
};
pub use matching::{Comparator, Extractor, Matching};
pub use notices::Notice;
pub use overload::BusyCounts;
pub use slots::Ticket;

use matching::Agreed;
use notices::Notices;
use repliers::Repliers;
use session::{Session, SlotIndex};
use slots::Slots;

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use crate::batch::{Replier, RequestHeader};
use crate::config::View;
use crate::limits::{ACTIONS_MAX, OPERATION_SIZE_MAX, SESSION_WINDOW};
use crate::message::reply::{REPLY_HEADER_SIZE, Reply, Status};
use crate::payload::{Payload, PayloadPool};
use crate::protocol::{Actions, Protocol};
use crate::types::{ClientId, Instant, ReplicaId, Sequence, ViewId};

/// Oldest unanswered requests of a session that are sent again together.
pub const RESEND_MAX: usize = 8;

/// Results larger than [`HELD_RESULT_SIZE`] that wait for those before them in their sessions, at
/// most. Replies that would add to them are ignored and asked for again when their turn comes: held
/// results must not use up the memory that the reply they wait for has to be received into.
pub const HELD_LARGE_MAX: usize = 4;

/// Bytes of a result that may wait in any number.
pub const HELD_RESULT_SIZE: usize = 4096;

/// The longest pause, as a power of two of the first one.
pub const PAUSE_GROWTH_MAX: u32 = 5;

/// The client core of one identity.
pub struct ClientCore<P> {
    config: ClientConfig,
    /// Who the members are now.
    follower: Follower,
    matching: Matching<P>,
    repliers: Repliers,
    /// Bytes of whole results that wait for a certificate.
    kept_size: usize,
    /// Spreads retries of sessions that were told Busy together.
    dice: u64,
    pool: Box<dyn PayloadPool<P> + Send>,
    sessions: Vec<Session>,
    slots: Slots<P>,
    /// (when, session); an entry counts only while it is the session's `armed`.
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    /// For each member: the next session whose requests are sent again over its new link.
    catch_up: Vec<Option<usize>>,
    /// For each member: when a catch-up began last.
    connected: Vec<Option<Instant>>,
    /// After a change of members: the next session whose requests are sent again to all.
    resend_from: Option<usize>,
    /// For each member: the latest membership it showed.
    views: Vec<ViewId>,
    outdated: ViewId,
    notices: Notices,
    /// Large results that wait for those before them.
    held_large: usize,
    /// Requests sent again.
    resent: u64,
    busy: BusyCounts,
    now: Instant,
}

impl<P: Payload> ClientCore<P> {
    /// A client without sessions in use. `pool` supplies the memory of requests.
    pub fn new(
        mut config: ClientConfig,
        matching: Matching<P>,
        pool: Box<dyn PayloadPool<P> + Send>,
    ) -> Self {
        assert!(config.incarnation >= 1, "incarnations count from 1");
        crate::spec!("CLI.5");
        config.window = config.window.clamp(1, SESSION_WINDOW);
        let (n, view) = (config.view.n(), config.view.id());
        let repliers = Repliers::new(n, config.request_timeout);
        let dice = u64::from(config.identity) << 32 | u64::from(config.incarnation);
        Self {
            follower: Follower::new(config.view.clone()),
            config,
            dice,
            matching,
            repliers,
            kept_size: 0,
            pool,
            sessions: Vec::new(),
            slots: Slots::new(n),
            timers: BinaryHeap::new(),
            catch_up: alloc::vec![None; n],
            connected: alloc::vec![None; n],
            resend_from: None,
            views: alloc::vec![view; n],
            outdated: view,
            notices: Notices::default(),
            held_large: 0,
            resent: 0,
            busy: BusyCounts::default(),
            now: Instant(0),
        }
    }

    /// Starts an operation: numbers it and sends it to all members (rule CLI.1).
    ///
    /// # Errors
    /// [`Busy`]: nothing was sent; says whether trying again can help.
    pub fn invoke(
        &mut self,
        now: Instant,
        session: u32,
        mode: Mode,
        operation: &[u8],
        actions: &mut Actions<ClientAction<P>>,
    ) -> Result<Ticket, Busy> {
        crate::spec!("CLI.1", "CLI.5", "SMR.3");
        self.now = self.now.max(now);
        if operation.len() > OPERATION_SIZE_MAX {
            return Err(Busy::OperationSize);
        }
        let window = self.config.window;
        let state = self.session_mut(session)?;
        // Reads that have to be ordered came before, and count until they are.
        let room = window.saturating_sub(state.fallback.len());
        let numbers = match mode {
            Mode::Ordered => &mut state.ordered,
            Mode::ReadOnly => &mut state.reads,
        };
        if !numbers.has_room(room) {
            return Err(Busy::Window);
        }
        if mode == Mode::Ordered && !numbers.has_room(state.overload.room(room)) {
            crate::spec!("CLI.9");
            return Err(Busy::Overload);
        }
        let (sequence, read_only) = (numbers.next(), mode == Mode::ReadOnly);
        let replier = self.choose_replier();
        let body = self.build(session, sequence, read_only, replier, operation);
        let body = body.ok_or(Busy::Memory)?;
        let view = self.follower.view().id();
        let slot = self.slots.insert(session, sequence, read_only, self.now, view, body);
        self.slots.get_mut(slot).replier = replier;
        let state = &mut self.sessions[session as usize];
        if read_only {
            state.reads.push(slot);
        } else {
            if state.ordered.is_empty() {
                state.progress = self.now;
            }
            state.ordered.push(slot);
        }
        self.send(slot, To::All, actions);
        self.arm(session);
        Ok(self.slots.ticket(slot))
    }

    /// Takes a reply that came over the link of `from`. Whatever is wrong with it, it is ignored.
    pub fn on_reply(
        &mut self,
        now: Instant,
        from: ReplicaId,
        reply: Reply<P>,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        crate::spec!("CLI.6");
        self.now = self.now.max(now);
        let Some(member) = self.follower.view().index_of(from) else { return };
        let header = reply.header;
        if header.client.identity() != self.config.identity {
            return;
        }
        if header.view != self.follower.view().id() {
            self.on_other_view(member, header.view, actions);
            return;
        }
        if header.status == Status::Notice {
            return self.on_notice(member, &reply, actions);
        }
        let Some(slot) = self.in_flight(header.client, header.sequence, header.read_only) else {
            return;
        };
        if self.slots.get(slot).ended.is_some() {
            return;
        }
        if header.status == Status::Outdated {
            // It names the view that it says is over.
            return;
        }
        if header.status == Status::Busy {
            return self.on_busy(slot, member, actions);
        }
        if header.digest && matches!(self.matching, Matching::Custom { .. }) {
            // Nobody was asked for it, and it cannot be compared.
            return;
        }
        if self.held_large >= HELD_LARGE_MAX && is_large(reply.result()) && !self.is_next(slot) {
            return;
        }
        let needed = self.follower.view().quorums().reply();
        let members = self.follower.view().members();
        let (digest, full) = (reply.digest, (!header.digest).then(|| reply.clone()));
        let voices = self.slots.voices_mut(slot);
        let agreed = self.matching.hear(voices, member, reply, needed, members, &mut *self.pool);
        match agreed {
            Agreed::Result(status, result) => {
                self.note_certificate(slot);
                self.note_service(slot, Some(member));
                self.end(slot, status, result, actions);
            }
            Agreed::Digest => self.on_certified(slot, digest, actions),
            Agreed::Nothing => {
                let voices = self.slots.voices(slot);
                if header.read_only && !self.matching.hopeful(voices, needed) {
                    self.fall_back(slot, actions);
                } else if let Some(reply) = full {
                    self.keep(slot, member, reply, actions);
                }
            }
        }
    }

    /// How far an operation is; `None` when it ended.
    pub fn heard(&self, ticket: Ticket) -> Option<Heard> {
        let voices = self.slots.voices(self.slots.find(ticket)?);
        let members = voices.iter().filter(|voice| voice.is_some()).count();
        let (of, needed) = (self.follower.view().n(), self.follower.view().quorums().reply());
        Some(Heard { members, of, needed })
    }

    /// Operations in flight.
    pub fn in_flight_count(&self) -> usize {
        self.slots.in_flight()
    }

    /// Requests that were sent again because no answer came, so far.
    pub fn resent_count(&self) -> u64 {
        self.resent
    }

    /// The view that this client is in.
    pub fn view(&self) -> &View {
        self.follower.view()
    }

    /// What this client was told at start.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    fn session_mut(&mut self, session: u32) -> Result<&mut Session, Busy> {
        if session >= self.config.sessions_max {
            return Err(Busy::Session);
        }
        let incarnation = self.config.incarnation;
        if self.sessions.len() <= session as usize {
            self.sessions.resize_with(session as usize + 1, || Session::new(incarnation));
        }
        Ok(&mut self.sessions[session as usize])
    }

    fn in_flight(&self, client: ClientId, number: Sequence, reads: bool) -> Option<SlotIndex> {
        let session = self.sessions.get(client.session() as usize)?;
        if reads { session.reads.get(number) } else { session.ordered.get(number) }
    }

    /// Would the operation in `slot` be completed as soon as it ends?
    fn is_next(&self, slot: SlotIndex) -> bool {
        let entry = self.slots.get(slot);
        entry.read_only || self.sessions[entry.session as usize].ordered.front() == Some(slot)
    }

    /// Members of a later membership do not answer requests of this one.
    fn on_other_view(
        &mut self,
        member: usize,
        view: ViewId,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        self.views[member] = self.views[member].max(view);
        // The latest membership that one correct member, at least, has reached.
        let one_correct = self.follower.view().quorums().one_correct();
        let reached = |view: ViewId| self.views.iter().filter(|&&other| other >= view).count();
        let latest = self.views.iter().copied().filter(|&view| reached(view) >= one_correct).max();
        if let Some(view) = latest.filter(|&view| view > self.outdated) {
            self.outdated = view;
            actions.push(ClientAction::Outdated { view });
        }
    }
}

fn is_large(result: &[u8]) -> bool {
    result.len() > HELD_RESULT_SIZE
}

impl<P: Payload> Protocol for ClientCore<P> {
    type Input = ClientInput<P>;
    type Action = ClientAction<P>;

    fn step(
        &mut self,
        now: Instant,
        input: ClientInput<P>,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        match input {
            ClientInput::Invoke { session, mode, operation, token } => {
                let result = self.invoke(now, session, mode, operation.bytes(), actions);
                actions.push(ClientAction::Invoked { token, result });
            }
            ClientInput::Reply { from, reply } => self.on_reply(now, from, reply, actions),
            ClientInput::News { from, news } => self.on_news(now, from, &news, actions),
            ClientInput::Deadline => self.on_deadline(now, actions),
            ClientInput::Connected(from) => self.on_connected(now, from),
            ClientInput::Disconnected(from) => self.on_disconnected(now, from),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.resend_from.is_some() || self.catch_up.iter().any(Option::is_some) {
            return Some(self.now);
        }
        self.timers.peek().map(|Reverse((when, _))| *when)
    }
}
