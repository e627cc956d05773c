//! A real cluster behind the gateway: the client library's driver.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::Duration;

use tetrarch_client::{self as client, ClientDriver, Clock, Outcome, Ticket};
use tetrarch_consensus::Payload;

use super::cluster::{Cluster, Completion, Facts, Failure, Mode, Refusal};

/// How long a poll may be late when something is in flight, whatever the driver says: a driver that
/// has no memory for a reply at the moment looks again without an event.
const PATIENCE_MAX: Duration = Duration::from_millis(5);

/// What cannot be asked of a driver.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Sessions that may be used: no more than client and replicas allow.
    pub sessions: u32,
    /// Operations without an answer for this long are given up: the Redis client gets an error.
    pub operation_timeout: Duration,
    /// One line about the cluster for INFO.
    pub description: String,
}

struct Waiting {
    tag: u64,
    since_ns: u64,
}

/// See the module.
pub struct DriverCluster<C> {
    driver: ClientDriver,
    clock: C,
    config: DriverConfig,
    waiting: HashMap<Ticket, Waiting>,
    completions: Vec<client::Completion>,
    /// Sessions that had no room for an operation, since when. Redis clients that send on get an
    /// error after a while instead of waiting without end.
    busy_since: HashMap<u32, u64>,
    /// When old operations are looked for again.
    next_check_ns: u64,
    /// The last poll found something to do: there may be more.
    worked: bool,
    timeouts: u64,
}

impl<C: Clock> DriverCluster<C> {
    /// The cluster that `driver` is connected to.
    pub fn new(driver: ClientDriver, clock: C, config: DriverConfig) -> Self {
        Self {
            driver,
            clock,
            config,
            waiting: HashMap::new(),
            completions: Vec::new(),
            busy_since: HashMap::new(),
            next_check_ns: 0,
            worked: true,
            timeouts: 0,
        }
    }

    /// The driver, for its findings.
    pub fn driver(&mut self) -> &mut ClientDriver {
        &mut self.driver
    }

    /// Gives up what has waited too long. The driver goes on sending it, and its answer, if there
    /// ever is one, is dropped: later operations of the session are executed after it.
    fn give_up(&mut self, now_ns: u64, completions: &mut Vec<Completion>) {
        if now_ns < self.next_check_ns {
            return;
        }
        let timeout_ns = timeout_ns(&self.config);
        self.next_check_ns = now_ns.saturating_add(timeout_ns / 16);
        let connected = self.driver.connected() >= self.driver.needed();
        let failure = if connected { Failure::Timeout } else { Failure::Unavailable };
        let timeouts = &mut self.timeouts;
        self.waiting.retain(|_, waiting| {
            let keep = now_ns.saturating_sub(waiting.since_ns) < timeout_ns;
            if !keep {
                *timeouts += 1;
                completions.push(Completion { tag: waiting.tag, outcome: Err(failure) });
            }
            keep
        });
    }
}

impl<C: Clock> Cluster for DriverCluster<C> {
    fn sessions(&self) -> u32 {
        self.config.sessions
    }

    fn submit(
        &mut self,
        session: u32,
        mode: Mode,
        tag: u64,
        operation: &[u8],
    ) -> Result<(), Refusal> {
        let now = self.clock.now();
        let mode = match mode {
            Mode::Ordered => client::Mode::Ordered,
            Mode::ReadOnly => client::Mode::ReadOnly,
        };
        self.worked = true;
        match self.driver.submit(now, session, mode, operation) {
            Ok(ticket) => {
                self.busy_since.remove(&session);
                self.waiting.insert(ticket, Waiting { tag, since_ns: now.0 });
                Ok(())
            }
            // A window full of operations that were given up opens when the cluster is back.
            Err(client::Busy::Window | client::Busy::Memory | client::Busy::Overload) => {
                if self.driver.connected() < self.driver.needed() {
                    return Err(Refusal::Unavailable);
                }
                let since_ns = *self.busy_since.entry(session).or_insert(now.0);
                match now.0.saturating_sub(since_ns) < timeout_ns(&self.config) {
                    true => Err(Refusal::Busy),
                    false => Err(Refusal::Overloaded),
                }
            }
            Err(client::Busy::OperationSize) => Err(Refusal::TooLarge),
            Err(client::Busy::Session) => Err(Refusal::Unavailable),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let now = self.clock.now();
        self.worked = self.driver.poll(now, &mut self.completions);
        for done in self.completions.drain(..) {
            let Some(waiting) = self.waiting.remove(&done.ticket) else { continue };
            let outcome = match done.outcome {
                Outcome::Done(result) => Ok(result.bytes().to_vec()),
                Outcome::Forgotten => Err(Failure::Forgotten),
                Outcome::Refused => Err(Failure::Refused),
            };
            completions.push(Completion { tag: waiting.tag, outcome });
        }
        self.give_up(now.0, completions);
    }

    fn fd(&self) -> Option<RawFd> {
        self.driver.poll_fd()
    }

    fn patience(&self) -> Option<Duration> {
        if self.worked || self.driver.has_work() {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let due = self.driver.next_deadline().map(|due| due.since(now));
        let most = (!self.waiting.is_empty()).then_some(PATIENCE_MAX);
        [due, most].into_iter().flatten().min()
    }

    fn facts(&self) -> Facts {
        let counts = self.driver.counts();
        let more = [
            ("tetrarch_operations_submitted", counts.submitted),
            ("tetrarch_operations_completed", counts.completed),
            ("tetrarch_operations_sent_again", counts.resent),
            ("tetrarch_operations_timed_out", self.timeouts),
            ("tetrarch_views_followed", counts.followed),
            ("tetrarch_busy_answers", counts.busy),
            ("tetrarch_sessions_held_back", counts.held_back),
            ("tetrarch_operations_in_flight", self.waiting.len() as u64),
        ];
        Facts {
            description: self.config.description.clone(),
            replicas: self.driver.cluster().members.len(),
            replicas_connected: self.driver.connected(),
            faults_tolerated: self.driver.cluster().f,
            more: more.map(|(name, value)| (name.to_owned(), value.to_string())).to_vec(),
        }
    }
}

fn timeout_ns(config: &DriverConfig) -> u64 {
    u64::try_from(config.operation_timeout.as_nanos()).unwrap_or(u64::MAX)
}
