//! The demo's load: sessions that count, one request after the other.
//!
//! Owns the client and what every session has been told. Always true: the answer to a session's i-th
//! increment must be i, so each acknowledged write is checked by the next one. Must not: hide an
//! error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use tetrarch_client::{Bytes, ClientDriver, Completion, Mode, Outcome, Ticket};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_services::kv::command::Command;
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::wire::Reader;

/// The longest sleep: how late an order to stop is noticed.
const PARK: Duration = Duration::from_millis(5);

/// What happened in one part of the demo.
pub struct Tally {
    /// Requests answered.
    pub answered: u64,
    /// Latencies, us.
    pub latency: Histogram<u64>,
    /// How long it took.
    pub duration: Duration,
    /// The longest time without any answer.
    pub longest_gap: Duration,
}

/// What the end looked like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Increments that were acknowledged.
    pub acknowledged: u64,
    /// Increments that the store has.
    pub stored: u64,
    /// Sessions whose counter is not what they were told.
    pub wrong: u64,
    /// Requests that never had an answer.
    pub unanswered: u64,
}

/// A closed loop over all sessions.
pub struct Load {
    driver: ClientDriver,
    clock: SystemClock,
    completions: Vec<Completion>,
    /// Per session: what its counter must be by what it was told.
    counters: Vec<u64>,
    sent: HashMap<Ticket, Instant>,
    wrong: u64,
}

impl Load {
    /// `sessions` sessions over `driver`.
    pub fn new(driver: ClientDriver, sessions: u32) -> Self {
        Self {
            driver,
            clock: SystemClock::new(),
            completions: Vec::new(),
            counters: vec![0; sessions as usize],
            sent: HashMap::new(),
            wrong: 0,
        }
    }

    /// Waits until all replicas are connected.
    ///
    /// # Errors
    /// Not even enough of them are after `limit`.
    pub fn connect(&mut self, limit: Duration, stop: &AtomicBool) -> Result<()> {
        let interrupted = || stop.load(Ordering::Acquire);
        self.driver.connect_until(&self.clock, limit, |driver| {
            driver.connected() > driver.needed() || interrupted()
        })?;
        if interrupted() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Requests without an answer yet.
    pub fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// Keeps every session busy for `duration`.
    pub fn run(
        &mut self,
        duration: Duration,
        stop: &AtomicBool,
        mut progress: impl FnMut(&Tally),
    ) -> Tally {
        let began = Instant::now();
        let mut tally = Tally {
            answered: 0,
            // Three digits up to an hour: these bounds are valid.
            latency: Histogram::new_with_bounds(1, 3_600_000_000, 3)
                .expect("1 <= an hour, three digits"),
            duration: Duration::ZERO,
            longest_gap: Duration::ZERO,
        };
        let mut last = began;
        if self.sent.is_empty() {
            (0..self.counters.len() as u32).for_each(|session| self.count(session));
        }
        while began.elapsed() < duration && !stop.load(Ordering::Acquire) {
            self.poll();
            let now = Instant::now();
            let mut completions = std::mem::take(&mut self.completions);
            for completion in completions.drain(..) {
                let session = completion.session;
                if let Some(sent) = self.acknowledge(completion) {
                    let micros = now.duration_since(sent).as_micros();
                    tally.latency.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
                    tally.answered += 1;
                    tally.longest_gap = tally.longest_gap.max(now.duration_since(last));
                    last = now;
                }
                self.count(session);
            }
            self.completions = completions;
            tally.duration = began.elapsed();
            progress(&tally);
        }
        // A silence that lasts to the end is a gap too.
        tally.longest_gap = tally.longest_gap.max(last.elapsed());
        tally
    }

    /// Waits for what is in flight, without sending more.
    pub fn finish(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.sent.is_empty() && Instant::now() < end {
            self.poll();
            let mut completions = std::mem::take(&mut self.completions);
            for completion in completions.drain(..) {
                self.acknowledge(completion);
            }
            self.completions = completions;
        }
    }

    /// Reads every counter in order, and compares.
    pub fn check(&mut self, limit: Duration) -> Check {
        let unanswered = self.sent.len() as u64;
        let mut check = Check { unanswered, wrong: self.wrong, ..Check::default() };
        let end = Instant::now() + limit;
        let mut asked = HashMap::new();
        for session in 0..self.counters.len() as u32 {
            match self.submit(session, &Command::IncrBy { key: &key(session), delta: 0 }) {
                Some(ticket) => drop(asked.insert(ticket, session as usize)),
                None => check.wrong += 1,
            }
        }
        while !asked.is_empty() && Instant::now() < end {
            self.poll();
            for completion in self.completions.drain(..) {
                let Some(session) = asked.remove(&completion.ticket) else {
                    continue;
                };
                let expected = self.counters[session];
                let stored = integer(&completion.outcome).unwrap_or(0);
                check.acknowledged += expected;
                check.stored += stored;
                check.wrong += u64::from(stored != expected);
            }
        }
        check.wrong += asked.len() as u64;
        check
    }

    /// The next increment of a session.
    fn count(&mut self, session: u32) {
        let key = key(session);
        if let Some(ticket) = self.submit(session, &Command::IncrBy { key: &key, delta: 1 }) {
            self.sent.insert(ticket, Instant::now());
        } else {
            // One request a session is always within its window and the memory.
            self.wrong += 1;
        }
    }

    fn submit(&mut self, session: u32, command: &Command<'_>) -> Option<Ticket> {
        let mut operation = OperationWriter::new();
        operation.push(command);
        let now = self.clock.now();
        self.driver.submit(now, session, Mode::Ordered, operation.bytes()).ok()
    }

    /// Notes an answer; gives the time at which the request was sent.
    fn acknowledge(&mut self, completion: Completion) -> Option<Instant> {
        let sent = self.sent.remove(&completion.ticket)?;
        let counter = &mut self.counters[completion.session as usize];
        *counter += 1;
        if integer(&completion.outcome) != Some(*counter) {
            self.wrong += 1;
        }
        Some(sent)
    }

    fn poll(&mut self) {
        if !self.driver.poll(self.clock.now(), &mut self.completions) {
            self.driver.park(self.clock.now(), PARK);
        }
    }
}

fn key(session: u32) -> Vec<u8> {
    format!("counter:{session}").into_bytes()
}

/// The number that the store answered.
fn integer(outcome: &Outcome<Bytes>) -> Option<u64> {
    let Outcome::Done(result) = outcome else {
        return None;
    };
    match Reply::read(&mut Reader::new(result)) {
        Ok(Reply::Integer(value)) => u64::try_from(value).ok(),
        _ => None,
    }
}
