//! Where the time of a request goes, from a few samples.
//!
//! Owns one sample at a time. Always true: a sample costs a stage one comparison a request while one
//! is on its way, and nothing else; stages that run on different cores may hold it, one after the
//! other. Must not: be waited for.
//!
//! The ordering stage begins a sample with a request that it takes in, execution finds the request in
//! a decided batch, and the network stage ends it when the reply was handed to the device. Times are
//! those of turns: what happens within one turn of one core has one time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tetrarch_consensus::{ClientId, Sequence};
use tetrarch_dataplane::types::Instant;

use crate::metrics::Number;

/// Pause between samples: many a second, and far fewer than requests.
const PAUSE: Duration = Duration::from_millis(5);

/// A sample that takes longer was refused or decided elsewhere, and is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// The low bits of the state; the rest counts samples, so that who is late cannot touch the next one.
const PHASE: u64 = 3;
const IDLE: u64 = 0;
const ORDERED: u64 = 1;
const EXECUTED: u64 = 2;

/// Which request a stage looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    state: u64,
    client: ClientId,
    sequence: Sequence,
}

impl Wanted {
    /// Is it this one?
    pub fn is(&self, client: ClientId, sequence: Sequence) -> bool {
        self.client == client && self.sequence == sequence
    }
}

/// See the module. Shared by the stages of a node.
#[derive(Debug, Default)]
pub struct Trace {
    state: AtomicU64,
    client: AtomicU64,
    sequence: AtomicU64,
    ordered_ns: AtomicU64,
    proposed_ns: AtomicU64,
    executed_ns: AtomicU64,
}

/// Sums over samples, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// Samples that came to their end.
    pub samples: &'a Number,
    /// From ordering to the proposal, by the leader's clock.
    pub waiting: &'a Number,
    /// From the proposal until executed.
    pub agreement: &'a Number,
    /// From there until the reply was handed to the device.
    pub reply: &'a Number,
}

impl Trace {
    /// Ordering: may a sample begin? Also gives up one that takes too long.
    pub fn is_due(&self, now: Instant) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let since = now.since(Instant(self.ordered_ns.load(Ordering::Relaxed)));
        if state & PHASE == IDLE {
            return since >= PAUSE;
        }
        if since >= PATIENCE {
            self.step(state, IDLE);
        }
        false
    }

    /// Ordering: this request is the sample.
    pub fn begin(&self, now: Instant, client: ClientId, sequence: Sequence) {
        let state = self.state.load(Ordering::Acquire);
        if state & PHASE == IDLE {
            self.client.store(client.0, Ordering::Relaxed);
            self.sequence.store(sequence.0, Ordering::Relaxed);
            self.ordered_ns.store(now.0, Ordering::Relaxed);
            self.step(state, ORDERED);
        }
    }

    /// Execution: which request to look for in the next batch, if any.
    pub fn wanted(&self) -> Option<Wanted> {
        let state = self.state.load(Ordering::Acquire);
        (state & PHASE == ORDERED).then(|| Wanted {
            state,
            client: ClientId(self.client.load(Ordering::Relaxed)),
            sequence: Sequence(self.sequence.load(Ordering::Relaxed)),
        })
    }

    /// Execution: it was in a batch that was proposed at `proposed_ns`.
    pub fn executed(&self, wanted: Wanted, proposed_ns: u64, now: Instant) {
        self.proposed_ns.store(proposed_ns, Ordering::Relaxed);
        self.executed_ns.store(now.0, Ordering::Relaxed);
        self.step(wanted.state, EXECUTED);
    }

    /// Network, before it transmits: is the sample's reply among what is sent now?
    pub fn replies(&self) -> bool {
        self.state.load(Ordering::Acquire) & PHASE == EXECUTED
    }

    /// Network, in the turn after: it was sent.
    pub fn sent(&self, now: Instant, sums: Sums<'_>) {
        let state = self.state.load(Ordering::Acquire);
        if state & PHASE != EXECUTED {
            return;
        }
        let ordered = self.ordered_ns.load(Ordering::Relaxed);
        let executed = self.executed_ns.load(Ordering::Relaxed).max(ordered);
        // The leader's clock may differ from this one's, and a turn has one time.
        let proposed = self.proposed_ns.load(Ordering::Relaxed).clamp(ordered, executed);
        sums.samples.add(1);
        sums.waiting.add(proposed - ordered);
        sums.agreement.add(executed - proposed);
        sums.reply.add(now.0.saturating_sub(executed));
        self.step(state, IDLE);
    }

    /// On to `phase`, unless somebody gave the sample up meanwhile.
    fn step(&self, state: u64, phase: u64) {
        let next = ((state | PHASE) + 1) | phase;
        // Who comes too late is told by nothing: the sample is gone.
        let _ = self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant((1000 + ms) * MS)
    }

    #[test]
    fn a_sample_is_followed_to_its_end() {
        let metrics = Metrics::new();
        let trace = &metrics.trace;
        let (client, sequence) = (ClientId(7), Sequence(9));
        assert!(trace.is_due(at(0)) && trace.wanted().is_none() && !trace.replies());
        trace.begin(at(0), client, sequence);
        assert!(!trace.is_due(at(1)), "one at a time");
        let wanted = trace.wanted().expect("execution looks for it");
        assert!(wanted.is(client, sequence) && !wanted.is(client, Sequence(8)));
        trace.executed(wanted, at(2).0, at(5));
        assert!(trace.replies() && trace.wanted().is_none());
        trace.sent(at(6), metrics.trace_sums());
        let found = [
            metrics.trace_samples.get(),
            metrics.trace_waiting_ns.get(),
            metrics.trace_agreement_ns.get(),
            metrics.trace_reply_ns.get(),
        ];
        assert_eq!(found, [1, 2 * MS, 3 * MS, MS]);
        assert!(!trace.is_due(at(4)) && trace.is_due(at(6)), "a pause after the last began");
    }

    #[test]
    fn who_is_late_does_not_touch_the_next_sample() {
        let trace = Trace::default();
        trace.begin(at(0), ClientId(1), Sequence(1));
        let late = trace.wanted().expect("a sample");
        assert!(!trace.is_due(at(3000)), "given up, and the next turn may begin another");
        assert!(trace.is_due(at(3000)));
        trace.begin(at(3000), ClientId(2), Sequence(2));
        trace.executed(late, 0, at(3001));
        let wanted = trace.wanted().expect("the second is still looked for");
        assert!(wanted.is(ClientId(2), Sequence(2)));
    }

    #[test]
    fn clocks_that_differ_give_no_negative_times() {
        let metrics = Metrics::new();
        let trace = &metrics.trace;
        trace.begin(at(10), ClientId(1), Sequence(1));
        let wanted = trace.wanted().expect("a sample");
        trace.executed(wanted, at(2).0, at(12));
        trace.sent(at(12), metrics.trace_sums());
        assert_eq!(metrics.trace_waiting_ns.get(), 0);
        assert_eq!(metrics.trace_agreement_ns.get(), 2 * MS);
    }
}
