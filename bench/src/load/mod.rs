//! Load on a cluster: closed loop (each completion starts the next request) or open loop (requests
//! start by the clock, whatever came back).
//!
//! Latency is counted from when a request *should* have started: in the open loop that is its place
//! in the schedule, so a cluster that stalls is charged for the requests that had to wait
//! (coordinated omission). One thread drives all sessions over one connection to each replica.
//!
//! In the open loop every request whose time comes while measuring is accounted for: it is answered
//! (then it is in the percentiles, even if the answer comes after the end), refused here because the
//! bounded queue before the sessions was full, or an error.

pub mod arrivals;
mod rates;
mod result;
mod series;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tetrarch_client::{
    Authentication, Busy, ClientConfig, ClientDriver, Completion, DriverCounts, Mode, Outcome,
    Ticket,
};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::transport::choice::TransportKind;
use tetrarch_dataplane::types::Instant;
use tetrarch_services::null::write_operation;

use crate::cpu::CpuMeter;
use crate::latency::Latencies;
use crate::memory::Memory;
use arrivals::{ArrivalCounts, Arrivals, Backlog};
pub use rates::run_rates;
pub use result::{LoadResult, OpenLoop, Resident, StageTime, Traffic};
pub use series::Second;
use series::{Series, Standing};

/// Sleep at most this long when there is nothing to do.
const PARK: Duration = Duration::from_millis(100);

/// Answers to what is in flight at the end are awaited this long.
const DRAIN: Duration = Duration::from_secs(20);

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
    /// The open loop; `None` is the closed loop.
    pub open_loop: Option<OpenOptions>,
    /// Ordered, or read-only.
    pub mode: Mode,
    /// Are all requests signed, or only those sent again?
    pub signed: bool,
    /// What moves the bytes here; `None`: as the client's file says.
    pub transport: Option<TransportKind>,
    /// Processes of the replicas, to report their processor time and memory.
    pub pids: Vec<u32>,
}

impl LoadOptions {
    /// One session of empty requests for three seconds, in a closed loop.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            client: 0,
            sessions: 1,
            outstanding: 1,
            request_size: 0,
            reply_size: 0,
            duration: Duration::from_secs(3),
            warm_up: Duration::from_secs(1),
            open_loop: None,
            mode: Mode::Ordered,
            signed: false,
            transport: None,
            pids: Vec::new(),
        }
    }
}

/// How the open loop offers requests.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OpenOptions {
    /// Requests per second.
    pub rate: f64,
    /// The same in percent of a measured saturation, for the report.
    pub percent: Option<f64>,
    /// Pauses between requests.
    pub arrivals: Arrivals,
    /// Seed of the pauses.
    pub seed: u64,
    /// Requests that wait for a session at most.
    pub queue: usize,
    /// An answer that comes later than this is counted as late.
    pub late: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            rate: 1000.0,
            percent: None,
            arrivals: Arrivals::Poisson,
            seed: 1,
            queue: 1 << 16,
            late: Duration::from_secs(1),
        }
    }
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
    if let Some(kind) = options.transport {
        config.transport = kind.into();
    }
    let driver = ClientDriver::open(&config)?;
    if let Some(line) = driver.fallback() {
        eprintln!("{line}");
    }
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

/// Counts while measuring.
#[derive(Clone, Copy, Default)]
struct Counts {
    answered: u64,
    errors: u64,
    late: u64,
    after_end: u64,
    arrivals: ArrivalCounts,
}

/// What became of a request that should start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    /// Its session has as much in flight as it may at present; others may have room.
    HeldBack,
    NoMemory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measuring,
    /// Measuring is over; answers are awaited.
    Draining,
}

struct Load<'a> {
    options: &'a LoadOptions,
    driver: ClientDriver,
    clock: SystemClock,
    operation: Vec<u8>,
    /// When each request in flight should have started, by the index of its ticket.
    started: Vec<Option<Instant>>,
    in_flight: usize,
    /// Sessions with room for another request, as often as they have room.
    idle: VecDeque<u32>,
    /// Those of them that hold back because the replicas are busy, until one of their requests ends.
    held_back: Vec<u32>,
    /// Open loop only.
    backlog: Option<Backlog>,
    completions: Vec<Completion>,
    latencies: Latencies,
    series: Option<Series>,
    counts: Counts,
    phase: Phase,
    measure_from: Instant,
}

impl<'a> Load<'a> {
    fn new(options: &'a LoadOptions, driver: ClientDriver, operation: Vec<u8>) -> Self {
        let rounds = 0..options.outstanding;
        let idle: VecDeque<_> = rounds.flat_map(|_| 0..options.sessions).collect();
        Self {
            options,
            driver,
            clock: SystemClock::new(),
            operation,
            started: vec![None; idle.len()],
            in_flight: 0,
            idle,
            held_back: vec![0; options.sessions as usize],
            backlog: None,
            completions: Vec::new(),
            latencies: Latencies::default(),
            series: None,
            counts: Counts::default(),
            phase: Phase::WarmUp,
            measure_from: Instant(0),
        }
    }

    /// Until enough replicas are connected, and all of them if that is quick.
    fn connect(&mut self, limit: Duration, all: usize) -> Result<()> {
        if let Err(error) = self.driver.connect(&self.clock, limit) {
            let why = self.driver.diagnosis().map(|found| format!(" ({found})"));
            bail!("{error}{}", why.unwrap_or_default());
        }
        let quick = Duration::from_secs(1).min(limit);
        self.driver.connect_until(&self.clock, quick, |driver| driver.connected() == all)?;
        Ok(())
    }

    fn run(mut self, watch: &mut dyn FnMut(Progress)) -> Result<LoadResult> {
        let begin = self.clock.now();
        self.measure_from = begin + self.options.warm_up;
        let end = self.measure_from + self.options.duration;
        self.backlog = self
            .options
            .open_loop
            .map(|open| Backlog::new(begin, open.rate, open.arrivals, open.seed, open.queue));
        let mut report = Report { at: begin, answered: 0 };
        let mut start = Start::note(&self);
        loop {
            let now = self.clock.now();
            if self.phase == Phase::WarmUp && now >= self.measure_from {
                start = self.start_measuring(now);
                report = Report { at: now, answered: 0 };
            }
            if now >= end {
                break;
            }
            self.submit_due(now)?;
            let worked = self.driver.poll(now, &mut self.completions);
            self.take_completions();
            if self.series.as_ref().is_some_and(|series| series.is_due(now)) {
                self.close_second(now);
            }
            if now.since(report.at) >= Duration::from_millis(500) {
                report.tell(now, &self, begin, end, watch);
            }
            if !worked {
                self.driver.park(now, self.idle_for(now));
            }
        }
        let mut result = self.measured(&start);
        self.drain()?;
        self.complete(&mut result, &start);
        Ok(result)
    }

    /// How long there is nothing to start, if no answer comes. While requests wait for a free session
    /// the time of further ones changes nothing, and waking for each would cost the replicas their cores.
    fn idle_for(&self, now: Instant) -> Duration {
        let next = self.backlog.as_ref().filter(|backlog| backlog.is_empty());
        next.map_or(PARK, |backlog| backlog.next_due().since(now)).min(PARK)
    }

    fn start_measuring(&mut self, now: Instant) -> Start {
        (self.phase, self.measure_from) = (Phase::Measuring, now);
        self.counts = Counts::default();
        self.counts.arrivals = self.arrivals();
        let memory = Memory::of(&self.options.pids);
        self.series = Some(Series::new(now, self.standing(), memory));
        Start::note(self)
    }

    fn arrivals(&self) -> ArrivalCounts {
        self.backlog.as_ref().map(Backlog::counts).unwrap_or_default()
    }

    fn standing(&self) -> Standing {
        Standing {
            answered: self.counts.answered,
            arrivals: self.backlog.as_ref().map(Backlog::counts),
            waiting: self.backlog.as_ref().map_or(0, Backlog::len),
            in_flight: self.in_flight,
        }
    }

    fn close_second(&mut self, now: Instant) {
        let standing = self.standing();
        if let Some(series) = &mut self.series {
            series.close(now, standing);
        }
    }

    /// Starts what should have been started by now.
    fn submit_due(&mut self, now: Instant) -> Result<()> {
        if self.backlog.is_none() {
            while let Some(session) = self.idle.pop_front() {
                if self.submit(now, now, session)? == Taken::NoMemory {
                    break;
                }
            }
            return Ok(());
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.admit(now);
        }
        self.submit_waiting(now)
    }

    /// Open loop: starts what waits, as far as there are free sessions.
    fn submit_waiting(&mut self, now: Instant) -> Result<()> {
        while let Some(due) = self.backlog.as_ref().and_then(Backlog::front) {
            let Some(session) = self.idle.pop_front() else { break };
            match self.submit(now, due, session)? {
                Taken::Yes => {}
                Taken::HeldBack => continue,
                Taken::NoMemory => break,
            }
            if let Some(backlog) = &mut self.backlog {
                backlog.sent();
            }
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.note_waiting();
        }
        Ok(())
    }

    /// Starts a request of an idle session, which is taken out of the list or put back.
    fn submit(&mut self, now: Instant, due: Instant, session: u32) -> Result<Taken> {
        match self.driver.submit(now, session, self.options.mode, &self.operation) {
            Ok(ticket) => {
                self.note_started(ticket, due);
                Ok(Taken::Yes)
            }
            Err(Busy::Window | Busy::Overload) => {
                self.held_back[session as usize] += 1;
                Ok(Taken::HeldBack)
            }
            Err(Busy::Memory) => {
                self.idle.push_back(session);
                Ok(Taken::NoMemory)
            }
            Err(error) => Err(error).context("the request was not taken"),
        }
    }

    fn note_started(&mut self, ticket: Ticket, due: Instant) {
        let index = ticket.index();
        if index >= self.started.len() {
            self.started.resize(index + 1, None);
        }
        self.started[index] = Some(due);
        self.in_flight += 1;
    }

    fn take_completions(&mut self) {
        let now = self.clock.now();
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            // One that held back has another try: there may be room for one more than before.
            self.idle.push_back(completion.session);
            let held_back = &mut self.held_back[completion.session as usize];
            if *held_back > 0 {
                *held_back -= 1;
                self.idle.push_back(completion.session);
            }
            let started = self.started.get_mut(completion.ticket.index());
            let Some(started) = started.and_then(Option::take) else { continue };
            self.in_flight -= 1;
            match completion.outcome {
                Outcome::Done(_) => self.on_answer(now, started),
                Outcome::Forgotten | Outcome::Refused => self.counts.errors += 1,
            }
        }
        self.completions = completions;
    }

    fn on_answer(&mut self, now: Instant, started: Instant) {
        let latency = now.since(started);
        match self.phase {
            Phase::WarmUp => self.counts.answered += 1,
            Phase::Measuring => {
                self.counts.answered += 1;
                if let Some(series) = &mut self.series {
                    series.record(latency);
                }
                self.record(latency, started);
            }
            // In the closed loop, what is answered now had less company than what was measured.
            Phase::Draining if self.backlog.is_some() => {
                self.counts.after_end += 1;
                self.record(latency, started);
            }
            Phase::Draining => {}
        }
    }

    fn record(&mut self, latency: Duration, started: Instant) {
        let Some(open) = &self.options.open_loop else { return self.latencies.record(latency) };
        // The open loop answers for the requests whose time came while measuring.
        if started >= self.measure_from {
            self.latencies.record(latency);
            self.counts.late += u64::from(latency > open.late);
        }
    }

    /// Waits for what is in flight, so that nothing that was lost is taken for slow. Nothing new
    /// becomes due.
    fn drain(&mut self) -> Result<()> {
        self.phase = Phase::Draining;
        let end = self.clock.now() + DRAIN;
        let waits = |load: &Self| load.backlog.as_ref().is_some_and(|all| !all.is_empty());
        while (self.in_flight > 0 || waits(self)) && self.clock.now() < end {
            let now = self.clock.now();
            self.submit_waiting(now)?;
            if !self.driver.poll(now, &mut self.completions) {
                self.driver.park(now, PARK);
            }
            self.take_completions();
        }
        let unanswered = self.in_flight + self.backlog.as_ref().map_or(0, Backlog::len);
        self.counts.errors += unanswered as u64;
        Ok(())
    }

    /// What can be said when measuring ends.
    fn measured(&mut self, start: &Start) -> LoadResult {
        let options = self.options;
        let seconds = self.clock.now().since(self.measure_from).as_secs_f64();
        let cpu = start.cpu.stop();
        let after = Memory::of(&options.pids).now();
        let memory = start.memory.iter().zip(after);
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
            seconds,
            requests: self.counts.answered,
            throughput: self.counts.answered as f64 / seconds,
            client_cpu: cpu.own,
            replica_cpu: cpu.others,
            machine_cpu: cpu.machine,
            replica_memory: memory
                .map(|(before_mib, after_mib)| Resident { before_mib: *before_mib, after_mib })
                .collect(),
            client_memory: Resident { before_mib: start.own_memory, after_mib: Memory::own() },
            series: self.series.take().map(Series::into_seconds).unwrap_or_default(),
            ..LoadResult::default()
        }
    }

    fn traffic(&self) -> Traffic {
        let (device, counts) = (self.driver.link_counts(), self.driver.counts());
        Traffic {
            requests: counts.completed,
            // Several may share a link header.
            messages_out: counts.sent,
            messages_in: counts.replies,
            bytes_out: device.tx_bytes,
            bytes_in: device.rx_bytes,
        }
    }

    /// What can be said when everything is answered, or never will be.
    fn complete(&self, result: &mut LoadResult, start: &Start) {
        let (counts, ended) = (self.counts, self.arrivals());
        result.errors = counts.errors;
        let now = self.driver.counts();
        result.retransmitted = now.resent - start.counts.resent;
        result.busy = now.busy - start.counts.busy;
        result.held_back = now.held_back - start.counts.held_back;
        result.client_traffic = self.traffic();
        result.latency = self.latencies.summary();
        result.latency_curve = self.latencies.curve();
        result.open_loop = self.options.open_loop.map(|open| OpenLoop {
            rate: open.rate,
            percent: open.percent,
            arrivals: open.arrivals,
            offered: ended.offered - counts.arrivals.offered,
            waited: ended.waited - counts.arrivals.waited,
            refused: ended.refused - counts.arrivals.refused,
            late: counts.late,
            late_ms: open.late.as_millis() as u64,
            after_end: counts.after_end,
        });
    }
}

/// What is compared with at the end.
struct Start {
    cpu: CpuMeter,
    memory: Vec<f64>,
    own_memory: f64,
    counts: DriverCounts,
}

impl Start {
    fn note(load: &Load<'_>) -> Self {
        let pids = &load.options.pids;
        Self {
            cpu: CpuMeter::start(pids),
            memory: Memory::of(pids).now(),
            own_memory: Memory::own(),
            counts: load.driver.counts(),
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
        let answered = load.counts.answered.saturating_sub(self.answered);
        watch(Progress {
            measuring: load.phase == Phase::Measuring,
            fraction: now.since(begin).as_secs_f64() / end.since(begin).as_secs_f64(),
            throughput: answered as f64 / seconds,
        });
        (self.at, self.answered) = (now, load.counts.answered);
    }
}
