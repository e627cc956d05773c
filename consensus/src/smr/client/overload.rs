//! What a session does when the replicas have no room for its requests.
//!
//! Owns who said so, how much the session may have in flight, and what it sends again when. Always
//! true: one request is always tried, so a session never starves by its own restraint; Busy of fewer
//! than one-correct members changes nothing that others see. Must not: skip or end a request.
//!
//! As TCP does after a loss (Jacobson, *Congestion avoidance and control*, 1988): half as much in
//! flight, once a round; and a timer helps when nothing ends any more. What was turned away is sent
//! again, to those who said so, when there is room for it: when it is one of the next two. More is
//! tried after a time without Busy, not after a number of answers: what is turned away costs the
//! replicas as much as what they order, so the share of it must not grow with the load.

use super::*;

/// Replicas have room for so many requests of a session, its oldest ones (rule SMR.14).
const NEAR: usize = 2;

/// A session that has heard no Busy for this part of the timeout is at ease.
const EASE: u32 = 16;

/// A session at ease that was told Busy before may have this part more in flight, and one at least: it
/// comes from one to a full window in eighteen such times.
const GROWTH: usize = 4;

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
    /// How often in a row a pause went by without an end.
    attempts: u32,
    /// The last request that a member had no room for.
    turned_away: Sequence,
    /// The last request of the round in which the limit was halved: it is not again before this ended.
    round: Option<Sequence>,
    /// When more may be in flight, unless a member says Busy before.
    grow_at: Instant,
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
            attempts: 0,
            turned_away: Sequence::NONE,
            round: None,
            grow_at: Instant(0),
            paused_at: Instant(0),
            retry_at: None,
        }
    }

    /// Requests that the session may have in flight at present, out of `window`.
    #[inline]
    pub(super) fn room(&self, window: usize) -> usize {
        self.limit.min(window)
    }

    /// A member said Busy to `request`. Is it known that a correct one is?
    fn hear(&mut self, member: usize, request: Sequence, one_correct: usize) -> bool {
        self.turned_away = self.turned_away.max(request);
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

    /// Other members than before. How much there is room for is not forgotten.
    pub(super) fn enter_view(&mut self) {
        self.be_at_ease();
    }

    /// Of `in_flight` requests, half is what there may be room for. Says whether that is new: once in
    /// a round, which ends with the request that is `newest` now.
    fn shrink(&mut self, in_flight: usize, newest: Sequence) -> bool {
        if self.round.is_some() {
            return false;
        }
        self.limit = (in_flight.min(self.limit) / 2).max(1);
        self.round = Some(newest);
        true
    }

    /// A little more may be in flight. Says whether that is as much as ever.
    fn grow(&mut self) -> bool {
        self.limit = (self.limit + (self.limit / GROWTH).max(1)).min(SESSION_WINDOW);
        self.limit == SESSION_WINDOW
    }

    /// A request ended, and `oldest` is the oldest in flight now. Was it turned away, or one after it?
    fn advance(&mut self, oldest: Option<Sequence>) -> bool {
        self.attempts = 0;
        if self.round.is_some_and(|round| oldest.is_none_or(|oldest| oldest > round)) {
            self.round = None;
        }
        oldest.is_some_and(|oldest| oldest <= self.turned_away)
    }
}

impl<P: Payload> ClientCore<P> {
    /// What replicas without room said, and what came of it, so far.
    pub fn busy_counts(&self) -> BusyCounts {
        self.busy
    }

    /// `member` had no room for the ordered request in `slot`. If that is the oldest of its session by now,
    /// there is, so it is sent again; once, because what is oldest and turned away lacks more than that.
    pub(super) fn on_busy(
        &mut self,
        slot: SlotIndex,
        member: usize,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        crate::spec!("CLI.9");
        self.busy.heard += 1;
        let entry = self.slots.get_mut(slot);
        if entry.read_only {
            // Others answer, or it is ordered after a pause.
            return;
        }
        let (session, request) = (entry.session, entry.sequence);
        let at_once = self.sessions[session as usize].ordered.front() == Some(slot)
            && entry.tried_again & 1 << member == 0;
        match at_once {
            true => entry.tried_again |= 1 << member,
            false => entry.turned_away |= 1 << member,
        }
        let one_correct = self.follower.view().quorums().one_correct();
        let Session { ordered, overload, .. } = &mut self.sessions[session as usize];
        if overload.hear(member, request, one_correct)
            && overload.shrink(ordered.len(), ordered.newest())
        {
            self.busy.believed += 1;
        }
        overload.grow_at = self.now + self.config.request_timeout / EASE;
        if at_once {
            self.send_to_each(slot, 1 << member, actions);
        }
        let overload = &mut self.sessions[session as usize].overload;
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

    /// Requests of `session` ended. What was turned away is sent again once there is room for it.
    #[inline]
    pub(super) fn go_on(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        let Session { ordered, overload, .. } = &mut self.sessions[session as usize];
        if overload.advance(ordered.oldest()) {
            self.try_near(session, actions);
        }
    }

    /// Sends the oldest requests of `session` to those who turned them away. (The leader may be among
    /// them; whoever lies gets a request twice.)
    #[cold]
    fn try_near(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        for at in 0..NEAR {
            let Some(slot) = self.sessions[session as usize].ordered.at(at) else { continue };
            let members = core::mem::take(&mut self.slots.get_mut(slot).turned_away);
            if self.slots.get(slot).ended.is_none() {
                self.send_to_each(slot, members, actions);
            }
        }
    }

    /// Sends the request in `slot` to `members`: bit i is the member at place i.
    fn send_to_each(
        &mut self,
        slot: SlotIndex,
        mut members: u64,
        actions: &mut Actions<ClientAction<P>>,
    ) {
        while members != 0 {
            let member = self.follower.view().members()[members.trailing_zeros() as usize];
            members &= members - 1;
            self.send_as_first(slot, To::One(member), actions);
        }
    }

    /// The pause is over. When nothing has ended, the oldest request is sent again: to everybody if
    /// a correct member said Busy, since others may have turned it away in silence; else to who did.
    pub(super) fn retry(&mut self, session: u32, actions: &mut Actions<ClientAction<P>>) {
        crate::spec!("CLI.9");
        let Session { ordered, overload, progress, .. } = &mut self.sessions[session as usize];
        if overload.retry_at.is_none_or(|at| at > self.now) {
            return;
        }
        (overload.members, overload.round, overload.retry_at) = (0, None, None);
        match ordered.front().filter(|_| *progress < overload.paused_at) {
            Some(oldest) => {
                overload.attempts = overload.attempts.saturating_add(1);
                let (believed, told) = (overload.believed, overload.told);
                match believed {
                    true => self.send_as_first(oldest, To::All, actions),
                    false => self.send_to_each(oldest, told, actions),
                }
            }
            None if overload.grow_at <= self.now => {
                overload.be_at_ease();
                overload.grow_at = self.now + self.config.request_timeout / EASE;
                if overload.grow() {
                    return;
                }
            }
            None => {}
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
