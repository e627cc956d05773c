//! Time: when a leader is suspected, when a regency is given up, when to tell how far one is.
//!
//! Owns every deadline. Always true: a deadline that was handled lies in the future again. Must not:
//! judge what other members say.

use core::time::Duration;

use crate::action::{Action, Recipients};
use crate::message::Message;
use crate::payload::Payload;
use crate::protocol::Actions;
use crate::smr::replica::Replica;
use crate::spec;
use crate::types::Instant;

/// The timeout is at most two to this power times the configured one (rule TIME.5).
const GROWTH_MAX: u32 = 6;
/// A period of zero would be a loop.
const PERIOD_MIN: Duration = Duration::from_millis(1);
/// Strikes after which a leader is not believed any more.
const STRIKES: u8 = 2;

/// How long work waits for its first strike: time for a client to sign it (rule TIME.6) and for what it signs to
/// arrive. The leader has the whole timeout from then.
pub(super) fn first_strike(timeout: Duration) -> Duration {
    timeout / 4 * 3
}

/// See the module.
pub(super) struct Timers {
    /// When to tell the others how far this replica is.
    status_at: Instant,
    status_period: Duration,
    /// When to try again for memory.
    retry_at: Option<Instant>,
    /// Regencies installed since the last decision.
    growth: u32,
}

impl Timers {
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        spec!("TIME.6");
        let status_period = (timeout / 4).max(PERIOD_MIN);
        Self { status_at: now + status_period, status_period, retry_at: None, growth: 0 }
    }

    /// An instance was decided: the network is as fast as configured.
    pub(super) fn decided(&mut self) {
        spec!("TIME.5");
        self.growth = 0;
    }

    /// Another regency began without a decision.
    pub(super) fn installed(&mut self) {
        spec!("TIME.5");
        self.growth = (self.growth + 1).min(GROWTH_MAX);
    }

    /// There was no memory for a proposal.
    pub(super) fn retry(&mut self, now: Instant) {
        self.retry_at = Some(now + self.memory_pause());
    }

    fn memory_pause(&self) -> Duration {
        (self.status_period / 16).max(PERIOD_MIN)
    }
}

impl<P: Payload> Replica<P> {
    /// The timeout as it has grown.
    pub(super) fn timeout(&self) -> Duration {
        spec!("TIME.5");
        let configured = self.config.request_timeout.max(PERIOD_MIN);
        configured.saturating_mul(1 << self.timers.growth)
    }

    /// How long to wait for what was asked for, or for what may still be on its way.
    pub(super) fn patience(&self) -> Duration {
        spec!("TIME.6");
        (self.config.request_timeout / 32).max(PERIOD_MIN)
    }

    /// How long to wait for memory.
    pub(super) fn memory_pause(&self) -> Duration {
        self.timers.memory_pause()
    }

    /// When the next thing is due.
    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = self.timers.status_at;
        if let Some(retry_at) = self.timers.retry_at {
            deadline = deadline.min(retry_at);
        }
        if let Some(ask_at) = self.lag.ask_at {
            deadline = deadline.min(ask_at);
        }
        if let Some(ask_at) = self.ask_for_bodies_at() {
            deadline = deadline.min(ask_at);
        }
        if let Some(look_at) = self.transfer.look_at() {
            deadline = deadline.min(look_at);
        }
        if let Some(serve_at) = self.serving.deadline() {
            deadline = deadline.min(serve_at);
        }
        if self.stopped {
            deadline = deadline.min(self.synchronization.give_up_at);
        }
        if let Some(strike_at) = self.request_strike_at() {
            deadline = deadline.min(strike_at);
        }
        if let Some(strike_at) = self.instance_strike_at() {
            deadline = deadline.min(strike_at);
        }
        deadline
    }

    pub(super) fn on_deadline(&mut self, actions: &mut Actions<Action<P>>) {
        let now = self.now;
        if now >= self.timers.status_at {
            self.timers.status_at = now + self.timers.status_period;
            self.on_status_deadline(actions);
        }
        if self.timers.retry_at.is_some_and(|at| now >= at) {
            // `advance` tries again after every step.
            self.timers.retry_at = None;
        }
        if self.lag.ask_at.is_some_and(|at| now >= at) {
            self.on_fetch_deadline(actions);
        }
        if self.ask_for_bodies_at().is_some_and(|at| now >= at) {
            self.on_bodies_deadline(actions);
        }
        if self.transfer.look_at().is_some_and(|at| now >= at) {
            self.on_transfer_deadline(actions);
        }
        if self.serving.deadline().is_some_and(|at| now >= at) {
            self.serve(actions);
        }
        if self.stopped && now >= self.synchronization.give_up_at {
            spec!("TIME.4");
            self.synchronization.give_up_at = now + self.timeout();
            self.ask_for_next_regency(actions);
        }
        if self.instance_strike_at().is_some_and(|at| now >= at) {
            self.ask_for_next_regency(actions);
        }
        if self.request_strike_at().is_some_and(|at| now >= at) {
            self.on_request_strike(actions);
        }
        assert!(self.deadline() > now, "a handled deadline lies in the future again");
    }

    /// Is this replica in a position to suspect the leader?
    fn is_watching(&self) -> bool {
        spec!("TIME.1", "SYNC.3");
        !self.stopped
            && self.wanted == self.regency
            && !self.lag.is_mute()
            && self.window.lowest().decided.is_none()
            && !self.is_lagging()
            && !self.window.is_closed()
    }

    /// When the next strike for the oldest request falls.
    fn request_strike_at(&self) -> Option<Instant> {
        spec!("TIME.2", "TIME.3", "VAL.7");
        let work = self.requests.oldest().filter(|_| self.is_watching())?;
        let counts = work.strikes == 0 || (work.signed && work.strikes < STRIKES);
        let wait = if work.strikes == 0 { first_strike(self.timeout()) } else { self.timeout() };
        counts.then(|| work.since + wait)
    }

    /// When something written or bound has waited for both strikes.
    fn instance_strike_at(&self) -> Option<Instant> {
        spec!("TIME.1");
        let since = self.window.lowest().work_since.filter(|_| self.is_watching())?;
        Some(since + first_strike(self.timeout()) + self.timeout())
    }

    fn on_request_strike(&mut self, actions: &mut Actions<Action<P>>) {
        spec!("TIME.2", "TIME.3");
        let Some(work) = self.requests.oldest() else {
            return;
        };
        self.requests.strike(self.now);
        if work.strikes == 0 {
            let forwarded = self.overdue_requests();
            self.send(Recipients::Others, Message::Forwarded(forwarded), actions);
        } else {
            self.report_incomplete(actions);
            self.ask_for_next_regency(actions);
        }
    }
}
