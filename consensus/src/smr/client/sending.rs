//! What is sent, and when it is sent again.
//!
//! Owns timers and retransmission. Always true: what is sent again because no answer came is signed
//! (rule CLI.4), and no peer can make the client send more than its own pauses allow. Must not:
//! complete operations.

use super::*;
use crate::batch::REQUEST_HEADER_SIZE;

impl<P: Payload> ClientCore<P> {
    /// Encodes a request. `None` when the pool is empty.
    pub(super) fn build(
        &mut self,
        session: u32,
        sequence: Sequence,
        read_only: bool,
        replier: Replier,
        operation: &[u8],
    ) -> Option<P> {
        crate::spec!("CLI.10");
        let ordered = &self.sessions[session as usize].ordered;
        let header = RequestHeader {
            client: ClientId::new(self.config.identity, session),
            sequence,
            view: self.follower.view().id().0,
            read_only,
            replier,
            unanswered: if read_only { 0 } else { ordered.unanswered() },
            operation_size: operation.len() as u32,
        };
        encode(&mut *self.pool, &header, operation)
    }

    /// Sends the request in `slot` for the first time, as far as `to` is concerned.
    pub(super) fn send(&mut self, slot: SlotIndex, to: To, actions: &mut Actions<ClientAction<P>>) {
        if to == To::All {
            self.slots.get_mut(slot).sent = self.now;
        }
        self.send_as_first(slot, to, actions);
    }

    /// Sends the request in `slot` the way it was sent first. Does not count as sending it again: it
    /// will be signed when its time comes.
    pub(super) fn send_as_first(
        &mut self,
        slot: SlotIndex,
        to: To,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        crate::spec!("CLI.4");
        // The link proves a read-only request: nobody but its receiver ever sees it.
        let signs = self.config.authentication == Authentication::Signature;
        let sign = signs && !self.slots.get(slot).read_only;
        self.transmit(slot, to, sign, actions);
    }

    /// Sends the request in `slot` again, to everybody and signed.
    pub(super) fn send_again(&mut self, slot: SlotIndex, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.4", "VAL.7");
        self.slots.get_mut(slot).sent = self.now;
        self.transmit(slot, To::All, true, actions);
        self.resent += 1;
    }

    fn transmit(
        &mut self,
        slot: SlotIndex,
        to: To,
        sign: bool,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        if self.slots.get(slot).view != self.follower.view().id() && !self.renew(slot) {
            return;
        }
        let entry = self.slots.get(slot);
        let Some(body) = entry.body.clone() else { return };
        let client = ClientId::new(self.config.identity, entry.session);
        actions.push(ClientAction::Send { to, client, body, sign });
    }

    /// Makes sure that the timer of `session` fires when its earliest deadline has come.
    pub(super) fn arm(&mut self, session: u32) {
        let Some(due) = self.due(session) else { return };
        let state = &mut self.sessions[session as usize];
        if state.armed.is_none_or(|armed| due < armed) {
            state.armed = Some(due);
            self.timers.push(Reverse((due, session)));
        }
    }

    /// When something of `session` has to be sent again.
    fn due(&self, session: u32) -> Option<Instant> {
        let state = &self.sessions[session as usize];
        let first = self.first_pause();
        let oldest_read = state.reads.iter().next();
        let read = oldest_read.map(|slot| self.slots.get(slot).sent + first);
        let fallback = (!state.fallback.is_empty()).then(|| state.fallback_tried + first);
        let missing = state.missing.map(|since| since + self.repliers.patience());
        let retry = state.overload.retry_at;
        [self.ordered_due(state), read, fallback, missing, retry].into_iter().flatten().min()
    }

    /// When the oldest ordered request has to be sent again: a pause after it was sent, or after it
    /// became the oldest.
    fn ordered_due(&self, state: &Session) -> Option<Instant> {
        let since = self.slots.get(state.ordered.front()?).sent.max(state.progress);
        let growth = 1 << state.attempts.min(PAUSE_GROWTH_MAX);
        Some(since + self.first_pause() * growth)
    }

    fn first_pause(&self) -> Duration {
        crate::spec!("TIME.6");
        let timeout = self.config.request_timeout;
        (2 * self.repliers.latency()).clamp(timeout / 2, timeout)
    }

    pub(super) fn on_deadline(&mut self, now: Instant, actions: &mut Actions<ClientAction<P>>) {
        self.now = self.now.max(now);
        let most_per_session = 3 * SESSION_WINDOW + 2 * RESEND_MAX;
        let room = |actions: &Actions<ClientAction<P>>| {
            actions.as_slice().len() + most_per_session <= ACTIONS_MAX
        };
        while room(actions) && (self.follow_one(actions) || self.catch_up_one(actions)) {}
        while room(actions) {
            let Some(&Reverse((when, session))) = self.timers.peek() else { return };
            if when > self.now {
                return;
            }
            self.timers.pop();
            let state = &mut self.sessions[session as usize];
            if state.armed == Some(when) {
                state.armed = None;
                self.on_session_deadline(session, actions);
                self.arm(session);
            }
        }
    }

    fn on_session_deadline(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        if self.ordered_due(&self.sessions[session as usize]).is_some_and(|due| due <= self.now) {
            self.resend(session, actions);
        }
        self.ask_for_missing(session, actions);
        self.retry(session, actions);
        self.order_overdue_reads(session, actions);
        self.order_fallback(session, actions);
    }

    /// Sends the oldest unanswered requests of `session` again.
    fn resend(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let pause = self.first_pause();
        let (mut at, mut sent) = (0, 0);
        while at < self.sessions[session as usize].ordered.len() && sent < RESEND_MAX {
            let slot = self.sessions[session as usize].ordered.at(at);
            at += 1;
            let Some(slot) = slot else { continue };
            let entry = self.slots.get(slot);
            if entry.ended.is_none() && entry.sent + pause <= self.now {
                self.send_again(slot, actions);
                sent += 1;
            }
        }
        let state = &mut self.sessions[session as usize];
        state.attempts = state.attempts.saturating_add(1);
    }

    /// Reads that were not answered in time have to be ordered.
    fn order_overdue_reads(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let pause = self.first_pause();
        while let Some(slot) = self.sessions[session as usize].reads.front() {
            if self.slots.get(slot).sent + pause > self.now {
                return;
            }
            self.fall_back(slot, actions);
        }
    }

    /// Has a read-only request ordered (rule CLI.3): at once, or when its session has a number free.
    pub(super) fn fall_back(&mut self, slot: SlotIndex, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.3");
        let entry = self.slots.get(slot);
        assert!(entry.read_only && entry.ended.is_none(), "only a read in flight can fall back");
        let (session, sequence) = (entry.session, entry.sequence);
        self.forget_kept(slot);
        self.slots.forget_voices(slot);
        // Everybody is asked for the whole result now: it has taken long enough.
        let entry = self.slots.get_mut(slot);
        (entry.replier, entry.certified) = (Replier::EVERYONE, None);
        let state = &mut self.sessions[session as usize];
        state.reads.end(sequence);
        state.fallback.push_back(slot);
        self.order_fallback(session, actions);
        self.arm(session);
    }

    /// Gives numbers to reads that have to be ordered, as far as the window goes.
    pub(super) fn order_fallback(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let client = ClientId::new(self.config.identity, session);
        let view = self.follower.view().id();
        // What finds no number or no memory has another try after a completion or a pause.
        self.sessions[session as usize].fallback_tried = self.now;
        loop {
            let state = &mut self.sessions[session as usize];
            let Some(&slot) = state.fallback.front() else { return };
            if !state.ordered.has_room(self.config.window) {
                return;
            }
            let sequence = state.ordered.next();
            let entry = self.slots.get_mut(slot);
            let old = entry.body.as_ref().expect("a request in flight has its body").bytes();
            let operation = &old[REQUEST_HEADER_SIZE..];
            let header = RequestHeader {
                client,
                sequence,
                view: view.0,
                read_only: false,
                replier: entry.replier,
                unanswered: state.ordered.unanswered(),
                operation_size: operation.len() as u32,
            };
            let body = encode(&mut *self.pool, &header, operation);
            let Some(body) = body else { return };
            (entry.sequence, entry.read_only, entry.body) = (sequence, false, Some(body));
            entry.view = view;
            if state.ordered.is_empty() {
                state.progress = self.now;
            }
            state.fallback.pop_front();
            state.ordered.push(slot);
            self.send(slot, To::All, actions);
        }
    }

    /// A link to a member was made (again). What it has not answered is sent to it once more, the
    /// way it was sent first: to this member it is the first time. No more often than requests are
    /// sent again anyway, or a member could keep the client busy by hanging up.
    pub(super) fn on_connected(&mut self, now: Instant, from: ReplicaId) {
        self.now = self.now.max(now);
        let Some(member) = self.follower.view().index_of(from) else { return };
        self.repliers.set_up(member, true);
        let pause = self.first_pause();
        if self.connected[member].is_some_and(|last| last + pause > self.now) {
            return;
        }
        self.connected[member] = Some(self.now);
        self.catch_up[member] = Some(0);
    }

    /// Sends the requests of one session over a new link. Says whether there may be more.
    fn catch_up_one(&mut self, actions: &mut Actions<ClientAction<P>>) -> bool {
        let Some(member) = self.catch_up.iter().position(Option::is_some) else { return false };
        let session = self.catch_up[member].expect("position found it");
        if session >= self.sessions.len() {
            self.catch_up[member] = None;
            return true;
        }
        self.catch_up[member] = Some(session + 1);
        let to = To::One(self.follower.view().members()[member]);
        for reads in [false, true] {
            for at in 0..SESSION_WINDOW {
                let state = &self.sessions[session];
                let window = if reads { &state.reads } else { &state.ordered };
                let Some(slot) = window.at(at) else { continue };
                if self.slots.voices(slot)[member].is_none() {
                    self.send(slot, to, actions);
                }
            }
        }
        true
    }
}

fn encode<P: Payload>(
    pool: &mut dyn PayloadPool<P>,
    header: &RequestHeader,
    operation: &[u8],
) -> Option<P> {
    pool.build(REQUEST_HEADER_SIZE + operation.len(), &mut |body| {
        header.write(body);
        body[REQUEST_HEADER_SIZE..].copy_from_slice(operation);
    })
}
