//! Load on a cluster: closed loop (each completion starts the next request) or open loop (requests
//! start by the clock, whatever came back).
//!
//! Latency is counted from when a request *should* have started: in the open loop that is its place
//! in the schedule, so a cluster that stalls is charged for the requests that had to wait
//! (coordinated omission). One thread drives all sessions over one connection to each replica.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_client::{
    Authentication, Busy, ClientConfig, ClientDriver, Completion, Mode, Outcome, Ticket,
};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::types::Instant;
use tetrarch_services::null::write_operation;

use crate::cpu::CpuMeter;
use crate::latency::{Latencies, LatencySummary};

/// Sleep at most this long when there is nothing to do.
const PARK: Duration = Duration::from_millis(100);

/// Requests that wait for their turn in the open loop at most: beyond it, the cluster is so far
/// behind the schedule that the run says nothing more.
const BACKLOG_MAX: usize = 1 << 20;

/// What to do.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Cluster directory.
    pub directory: PathBuf,
    /// Which client of the cluster to be.
    pub client: u32,
    /// Sessions.
    pub sessions: u32,
    /// Requests in flight per session.
    pub outstanding: u32,
    /// Bytes of each operation.
    pub request_size: usize,
    /// Bytes of each result.
    pub reply_size: u32,
    /// How long to measure.
    pub duration: Duration,
    /// How long to load before measuring.
    pub warm_up: Duration,
    /// Requests per second of the open loop; `None` is the closed loop.
    pub rate: Option<f64>,
    /// Ordered, or read-only.
    pub mode: Mode,
    /// Are all requests signed, or only those sent again?
    pub signed: bool,
    /// Processes of the replicas, to report their processor time.
    pub pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct LoadResult {
    /// Sessions.
    pub sessions: u32,
    /// Requests in flight per session.
    pub outstanding: u32,
    /// Bytes of each operation.
    pub request_size: usize,
    /// Bytes of each result.
    pub reply_size: u32,
    /// `ordered` or `read-only`.
    pub mode: &'static str,
    /// Were all requests signed?
    pub signed: bool,
    /// Requests per second asked for; none in the closed loop.
    pub rate: Option<f64>,
    /// Seconds measured.
    pub seconds: f64,
    /// Requests answered while measuring.
    pub requests: u64,
    /// Requests refused, forgotten, or never answered.
    pub errors: u64,
    /// Requests sent again.
    pub retransmitted: u64,
    /// Requests answered per second.
    pub throughput: f64,
    /// From the intended start to the result.
    pub latency: LatencySummary,
    /// Processor seconds of this process per second.
    pub client_cpu: f64,
    /// Processor seconds per second of each replica named by `pids`.
    pub replica_cpu: Vec<f64>,
}

/// A figure for whoever watches.
pub struct Progress {
    /// Measuring, or still warming up.
    pub measuring: bool,
    /// Of the whole run, 0 to 1.
    pub fraction: f64,
    /// Answers per second since the last report.
    pub throughput: f64,
}

/// Loads the cluster.
///
/// # Errors
/// A configuration that cannot be used, or a cluster that does not answer.
pub fn run(options: &LoadOptions, watch: &mut dyn FnMut(Progress)) -> Result<LoadResult> {
    let mut config = ClientConfig::load(&options.directory, options.client)?;
    config.sessions_max = config.sessions_max.max(options.sessions);
    if options.signed {
        config.authentication = Authentication::Signature;
    }
    let driver = ClientDriver::open(&config)?;
    let mut operation = vec![0; options.request_size];
    if !write_operation(&mut operation, options.reply_size) {
        bail!(
            "a request of {} bytes cannot ask for a reply; use 4 bytes or more",
            options.request_size
        );
    }
    let mut load = Load::new(options, driver, operation);
    load.connect(config.connect_timeout, config.cluster.members.len())?;
    load.run(watch)
}

struct Load<'a> {
    options: &'a LoadOptions,
    driver: ClientDriver,
    clock: SystemClock,
    operation: Vec<u8>,
    /// When each request in flight should have started.
    started: HashMap<Ticket, Instant>,
    /// Sessions with room for another request, as often as they have room.
    idle: VecDeque<u32>,
    /// Open loop: requests whose time has come and that found no idle session.
    backlog: VecDeque<Instant>,
    completions: Vec<Completion>,
    latencies: Latencies,
    answered: u64,
    errors: u64,
    measuring: bool,
}

impl<'a> Load<'a> {
    fn new(options: &'a LoadOptions, driver: ClientDriver, operation: Vec<u8>) -> Self {
        let rounds = 0..options.outstanding;
        let idle = rounds.flat_map(|_| 0..options.sessions).collect();
        Self {
            options,
            driver,
            clock: SystemClock::new(),
            operation,
            started: HashMap::with_capacity((options.sessions * options.outstanding) as usize),
            idle,
            backlog: VecDeque::new(),
            completions: Vec::new(),
            latencies: Latencies::default(),
            answered: 0,
            errors: 0,
            measuring: false,
        }
    }

    /// Until enough replicas are connected, and all of them if that is quick.
    fn connect(&mut self, limit: Duration, all: usize) -> Result<()> {
        let begin = self.clock.now();
        loop {
            let now = self.clock.now();
            if !self.driver.poll(now, &mut self.completions) {
                self.driver.park(now, Duration::from_millis(20));
            }
            let (connected, waited) = (self.driver.connected(), now.since(begin));
            let enough = connected >= self.driver.needed();
            if connected == all || (enough && waited > Duration::from_secs(1)) {
                return Ok(());
            }
            if waited > limit {
                let needed = self.driver.needed();
                let why = self.driver.diagnosis().map(|found| format!(" ({found})"));
                bail!(
                    "{connected} of {all} replicas are connected after {} s and {needed} are \
                     needed{}; is the cluster running?",
                    limit.as_secs(),
                    why.unwrap_or_default()
                );
            }
        }
    }

    fn run(mut self, watch: &mut dyn FnMut(Progress)) -> Result<LoadResult> {
        let begin = self.clock.now();
        let measure_from = begin + self.options.warm_up;
        let end = measure_from + self.options.duration;
        let mut next_due = begin;
        let mut report = Report { at: begin, answered: 0 };
        let mut cpu = CpuMeter::start(&self.options.pids);
        let mut retransmitted = 0;
        loop {
            let now = self.clock.now();
            if !self.measuring && now >= measure_from {
                self.measuring = true;
                (self.answered, self.errors) = (0, 0);
                report = Report { at: now, answered: 0 };
                cpu = CpuMeter::start(&self.options.pids);
                retransmitted = self.driver.counts().resent;
            }
            if now >= end {
                break;
            }
            self.submit_due(now, &mut next_due)?;
            let worked = self.driver.poll(now, &mut self.completions);
            self.take_completions();
            if now.since(report.at) >= Duration::from_millis(500) {
                report.tell(now, &self, begin, end, watch);
            }
            if !worked {
                let due = self.options.rate.map_or(PARK, |_| next_due.since(now).min(PARK));
                self.driver.park(now, due);
            }
        }
        let seconds = self.clock.now().since(measure_from).as_secs_f64();
        let (client_cpu, replica_cpu) = cpu.stop();
        retransmitted = self.driver.counts().resent - retransmitted;
        self.drain();
        Ok(self.result(seconds, client_cpu, replica_cpu, retransmitted))
    }

    /// Starts what should have been started by now.
    fn submit_due(&mut self, now: Instant, next_due: &mut Instant) -> Result<()> {
        match self.options.rate {
            None => {
                while let Some(session) = self.idle.pop_front() {
                    if !self.submit(now, now, session)? {
                        break;
                    }
                }
            }
            Some(rate) => {
                let pause = Duration::from_secs_f64(1.0 / rate);
                while *next_due <= now && self.backlog.len() < BACKLOG_MAX {
                    self.backlog.push_back(*next_due);
                    *next_due = *next_due + pause;
                }
                while let (Some(due), Some(session)) = (self.backlog.front(), self.idle.front()) {
                    let (due, session) = (*due, *session);
                    self.idle.pop_front();
                    if !self.submit(now, due, session)? {
                        break;
                    }
                    self.backlog.pop_front();
                }
            }
        }
        Ok(())
    }

    /// `false`: the client has no room at present; the session stays idle.
    fn submit(&mut self, now: Instant, due: Instant, session: u32) -> Result<bool> {
        match self.driver.submit(now, session, self.options.mode, &self.operation) {
            Ok(ticket) => {
                self.started.insert(ticket, due);
                Ok(true)
            }
            Err(Busy::Window | Busy::Memory) => {
                self.idle.push_back(session);
                Ok(false)
            }
            Err(error) => Err(error).context("the request was not taken"),
        }
    }

    fn take_completions(&mut self) {
        let now = self.clock.now();
        for completion in self.completions.drain(..) {
            self.idle.push_back(completion.session);
            let Some(started) = self.started.remove(&completion.ticket) else { continue };
            match completion.outcome {
                Outcome::Done(_) => {
                    self.answered += 1;
                    if self.measuring {
                        self.latencies.record(now.since(started));
                    }
                }
                Outcome::Forgotten | Outcome::Refused => self.errors += 1,
            }
        }
    }

    /// Waits for what is in flight, so that nothing that was lost is taken for slow.
    fn drain(&mut self) {
        let (answered, latencies) = (self.answered, self.latencies.clone());
        let end = self.clock.now() + Duration::from_secs(20);
        while !self.started.is_empty() && self.clock.now() < end {
            let now = self.clock.now();
            if !self.driver.poll(now, &mut self.completions) {
                self.driver.park(now, PARK);
            }
            self.take_completions();
        }
        self.errors += self.started.len() as u64;
        // Answers after the end are no part of the figures.
        (self.answered, self.latencies) = (answered, latencies);
    }

    fn result(
        &self,
        seconds: f64,
        client_cpu: f64,
        replica_cpu: Vec<f64>,
        retransmitted: u64,
    ) -> LoadResult {
        let options = self.options;
        LoadResult {
            sessions: options.sessions,
            outstanding: options.outstanding,
            request_size: options.request_size,
            reply_size: options.reply_size,
            mode: match options.mode {
                Mode::Ordered => "ordered",
                Mode::ReadOnly => "read-only",
            },
            signed: options.signed,
            rate: options.rate,
            seconds,
            requests: self.answered,
            errors: self.errors,
            retransmitted,
            throughput: self.answered as f64 / seconds,
            latency: self.latencies.summary(),
            client_cpu,
            replica_cpu,
        }
    }
}

struct Report {
    at: Instant,
    answered: u64,
}

impl Report {
    fn tell(
        &mut self,
        now: Instant,
        load: &Load<'_>,
        begin: Instant,
        end: Instant,
        watch: &mut dyn FnMut(Progress),
    ) {
        let seconds = now.since(self.at).as_secs_f64();
        let answered = load.answered.saturating_sub(self.answered);
        watch(Progress {
            measuring: load.measuring,
            fraction: now.since(begin).as_secs_f64() / end.since(begin).as_secs_f64(),
            throughput: answered as f64 / seconds,
        });
        (self.at, self.answered) = (now, load.answered);
    }
}
