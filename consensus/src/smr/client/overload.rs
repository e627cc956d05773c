//! What a session does when the replicas have no room for its requests.
//!
//! Owns who said so, how much the session may have in flight, and when it tries again. Always true:
//! one request is always tried, so a session never starves by its own restraint; Busy of fewer than
//! one-correct members changes nothing. Must not: skip or end a request.

use super::*;

/// Busy answers to one session.
#[derive(Debug)]
pub(super) struct Overload {
    /// Members that said Busy since the last try: bit i is the member at place i.
    members: u64,
    /// Was that a certainty?
    certain: bool,
    /// Requests in flight at most.
    limit: usize,
    /// Requests that ended since the limit was moved.
    ended: usize,
    /// How often in a row a try was answered Busy.
    attempts: u32,
    /// When to try again.
    pub(super) retry_at: Option<Instant>,
}

impl Overload {
    pub(super) fn new() -> Self {
        Self {
            members: 0,
            certain: false,
            limit: SESSION_WINDOW,
            ended: 0,
            attempts: 0,
            retry_at: None,
        }
    }

    /// Requests that the session may have in flight at present, out of `window`.
    pub(super) fn room(&self, window: usize) -> usize {
        self.limit.min(window)
    }

    /// A member said Busy. Is it known now, and was it not before, that a correct one is?
    fn hear(&mut self, member: usize, one_correct: usize) -> bool {
        self.members |= 1 << member;
        let before = self.certain;
        self.certain = self.members.count_ones() as usize >= one_correct;
        self.certain && !before
    }

    /// Of `in_flight` requests, half is what there may be room for.
    fn shrink(&mut self, in_flight: usize) {
        self.limit = (in_flight.min(self.limit) / 2).max(1);
        self.ended = 0;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// A request ended: there is room again, and a little more after as many as are allowed.
    pub(super) fn grow(&mut self) {
        self.attempts = 0;
        self.ended += 1;
        if self.ended >= self.limit {
            self.limit = (self.limit + 1).min(SESSION_WINDOW);
            self.ended = 0;
        }
    }
}

impl<P: Payload> ClientCore<P> {
    /// `member` has no room for the ordered request in `slot`.
    pub(super) fn on_busy(&mut self, slot: SlotIndex, member: usize) {
        crate::spec!("CLI.9");
        let entry = self.slots.get(slot);
        if entry.read_only {
            // Others answer, or it is ordered after a pause.
            return;
        }
        let session = entry.session;
        let one_correct = self.config.view.quorums().one_correct();
        let state = &mut self.sessions[session as usize];
        if !state.overload.hear(member, one_correct) {
            return;
        }
        let in_flight = state.ordered.len();
        state.overload.shrink(in_flight);
        let pause = self.busy_pause(session);
        self.sessions[session as usize].overload.retry_at = Some(self.now + pause);
        self.arm(session);
    }

    /// Between half and all of a pause that doubles: sessions that were told Busy together must not
    /// come back together.
    fn busy_pause(&mut self, session: u32) -> Duration {
        let attempts = self.sessions[session as usize].overload.attempts.clamp(1, PAUSE_GROWTH_MAX);
        let most = self.config.request_timeout / 2;
        let pause = (self.repliers.patience() * (1 << (attempts - 1))).min(most);
        self.dice = mix(self.dice ^ u64::from(session));
        pause / 2 + (pause / 2).mul_f64((self.dice >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// Sends the oldest requests of `session` again, as many as it may have in flight. It may be the
    /// first time that replicas have room for them: they are proved the way they were first.
    pub(super) fn retry(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        let state = &mut self.sessions[session as usize];
        if state.overload.retry_at.is_none_or(|at| at > self.now) {
            return;
        }
        let overload = &mut state.overload;
        (overload.members, overload.certain, overload.retry_at) = (0, false, None);
        let (limit, window) = (state.overload.room(self.config.window), state.ordered.len());
        for at in 0..window.min(limit) {
            let Some(slot) = self.sessions[session as usize].ordered.at(at) else { continue };
            if self.slots.get(slot).ended.is_none() {
                self.send_as_first(slot, To::All, actions);
            }
        }
        if window > limit {
            // The others have their turn when these have ended.
            let pause = self.busy_pause(session);
            self.sessions[session as usize].overload.retry_at = Some(self.now + pause);
        }
    }
}

/// A step of splitmix64 (Steele, Lea, Flood, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
