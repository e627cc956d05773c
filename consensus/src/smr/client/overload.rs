//! What a session does when the replicas have no room for its requests.
//!
//! Owns who said so, how much the session may have in flight, and what it sends again when. Always
//! true: one request is always tried, so a session never starves by its own restraint; Busy of fewer
//! than one-correct members changes nothing that others see. Must not: skip or end a request.
//!
//! As TCP does after a loss (Jacobson, *Congestion avoidance and control*, 1988): half as much in
//! flight, once a round; what may have been turned away is sent again from the oldest on, one for
//! each that ends; and a timer helps when nothing ends any more.

use super::*;

/// One more may be in flight after so many times as many as are allowed have ended: to try more than
/// there is room for costs the replicas, most where little may be in flight.
const GROWTH_ROUNDS: usize = 8;

/// Replicas do not tell a session Busy more often than every 64th part of the timeout. What is turned
/// away in silence after that shows within so many such parts.
const SILENCE: u32 = 4;

/// Busy answers to all sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BusyCounts {
    /// Members said Busy.
    pub heard: u64,
    /// Times that one-correct members had said so, and a session halved what it has in flight.
    pub believed: u64,
}

/// Busy answers to one session.
#[derive(Debug)]
pub(super) struct Overload {
    /// Members that said Busy since that was believed last: bit i is the member at place i.
    members: u64,
    /// Members that said Busy since the session was last at ease.
    told: u64,
    /// Is one of them correct?
    believed: bool,
    /// Requests in flight at most.
    limit: usize,
    /// Requests that ended since the limit was moved.
    ended: usize,
    /// How often in a row a pause went by without an end.
    attempts: u32,
    /// Requests from this number on may have been turned away since they were sent.
    again_from: Option<Sequence>,
    /// The last request of the round in which the limit was halved: it is not again before this ended.
    round: Option<Sequence>,
    /// When a member said Busy last.
    heard_at: Instant,
    /// Since when the session waits for an end, and when it looks whether one came.
    paused_at: Instant,
    pub(super) retry_at: Option<Instant>,
}

impl Overload {
    pub(super) fn new() -> Self {
        Self {
            members: 0,
            told: 0,
            believed: false,
            limit: SESSION_WINDOW,
            ended: 0,
            attempts: 0,
            again_from: None,
            round: None,
            heard_at: Instant(0),
            paused_at: Instant(0),
            retry_at: None,
        }
    }

    /// Requests that the session may have in flight at present, out of `window`.
    #[inline]
    pub(super) fn room(&self, window: usize) -> usize {
        self.limit.min(window)
    }

    /// A member said Busy. Is it known that a correct one is?
    fn hear(&mut self, member: usize, one_correct: usize) -> bool {
        self.members |= 1 << member;
        self.told |= 1 << member;
        let believed = self.members.count_ones() as usize >= one_correct;
        if believed {
            (self.members, self.believed) = (0, true);
        }
        believed
    }

    /// Nobody says Busy any more.
    fn be_at_ease(&mut self) {
        (self.members, self.told, self.believed) = (0, 0, false);
    }

    /// Of `in_flight` requests, half is what there may be room for. Says whether that is new: once in
    /// a round, which ends with the request that is `newest` now.
    fn shrink(&mut self, in_flight: usize, newest: Sequence) -> bool {
        if self.round.is_some() {
            return false;
        }
        self.limit = (in_flight.min(self.limit) / 2).max(1);
        self.ended = 0;
        self.round = Some(newest);
        true
    }

    /// A request ended: there is room again, and a little more after many. `oldest` is the one in
    /// flight now.
    fn grow(&mut self, oldest: Option<Sequence>) {
        self.attempts = 0;
        self.ended += 1;
        if self.ended >= GROWTH_ROUNDS * self.limit {
            self.limit = (self.limit + 1).min(SESSION_WINDOW);
            self.ended = 0;
        }
        if oldest.is_none_or(|oldest| self.round.is_none_or(|round| oldest > round)) {
            self.round = None;
        }
        if oldest.is_none() {
            self.again_from = None;
        }
    }
}

impl<P: Payload> ClientCore<P> {
    /// What replicas without room said, and what came of it, so far.
    pub fn busy_counts(&self) -> BusyCounts {
        self.busy
    }

    /// `member` has no room for the ordered request in `slot`.
    pub(super) fn on_busy(&mut self, slot: SlotIndex, member: usize) {
        crate::spec!("CLI.9");
        self.busy.heard += 1;
        let entry = self.slots.get(slot);
        if entry.read_only {
            // Others answer, or it is ordered after a pause.
            return;
        }
        let session = entry.session;
        let one_correct = self.config.view.quorums().one_correct();
        let now = self.now;
        let Session { ordered, overload, .. } = &mut self.sessions[session as usize];
        if overload.hear(member, one_correct) {
            if overload.shrink(ordered.len(), ordered.newest()) {
                self.busy.believed += 1;
            }
            overload.again_from = ordered.oldest();
        }
        overload.heard_at = now;
        if overload.retry_at.is_none() {
            self.pause(session);
        }
    }

    /// Looks after a pause whether anything has ended.
    fn pause(&mut self, session: u32) {
        let pause = self.busy_pause(session);
        let overload = &mut self.sessions[session as usize].overload;
        (overload.paused_at, overload.retry_at) = (self.now, Some(self.now + pause));
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

    /// Requests of `session` ended. What may have been turned away takes their place.
    #[inline]
    pub(super) fn go_on(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let Session { ordered, overload, .. } = &mut self.sessions[session as usize];
        overload.grow(ordered.oldest());
        match overload.again_from {
            Some(from) => self.try_again(session, from, actions),
            None if overload.told != 0 && !overload.believed => self.try_alone(session, actions),
            None => {}
        }
    }

    /// Sends the oldest request of `session` to the members that said Busy alone, which may lack it:
    /// whoever lies about that gets a request twice. (The leader may be the one that is behind.)
    fn try_alone(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        let Session { ordered, overload, .. } = &self.sessions[session as usize];
        let Some(slot) = ordered.front() else { return };
        let mut told = overload.told;
        while told != 0 {
            let member = self.config.view.members()[told.trailing_zeros() as usize];
            told &= told - 1;
            self.send_as_first(slot, To::One(member), actions);
        }
    }

    /// Sends requests of `session` again, from number `from` on and as far as it may have them in
    /// flight. For replicas it may be the first time: they are proved the way they were first.
    fn try_again(&mut self, session: u32, from: Sequence, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        let Session { ordered, overload, .. } = &self.sessions[session as usize];
        let limit = overload.room(self.config.window).min(ordered.len());
        let all = limit == ordered.len();
        let mut next = from;
        for at in ordered.place_of(from)..limit {
            let Session { ordered, .. } = &self.sessions[session as usize];
            next = ordered.number_at(at + 1);
            let Some(slot) = ordered.at(at) else { continue };
            if self.slots.get(slot).ended.is_none() {
                self.send_as_first(slot, To::All, actions);
            }
        }
        self.sessions[session as usize].overload.again_from = (!all).then_some(next);
    }

    /// The pause is over. When nothing has ended, everything that may be in flight is sent again.
    pub(super) fn retry(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        let Session { ordered, overload, progress, .. } = &mut self.sessions[session as usize];
        if overload.retry_at.is_none_or(|at| at > self.now) {
            return;
        }
        (overload.members, overload.round, overload.retry_at) = (0, None, None);
        let over = overload.heard_at + self.config.request_timeout / 64 * SILENCE <= self.now;
        let oldest = ordered.oldest();
        let ended = oldest.is_none() || *progress >= overload.paused_at;
        if ended && over && overload.again_from.is_none() {
            return overload.be_at_ease();
        }
        if let Some(oldest) = oldest.filter(|_| !ended) {
            overload.attempts = overload.attempts.saturating_add(1);
            match overload.believed {
                true => self.try_again(session, oldest, actions),
                false => self.try_alone(session, actions),
            }
        }
        self.pause(session);
    }
}

/// A step of splitmix64 (Steele, Lea, Flood, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
