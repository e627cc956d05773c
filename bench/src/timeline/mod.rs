//! A cluster through faults and recoveries: throughput over time, as in the thesis (figure 4.9).
//!
//! A durable cluster of real processes serves sessions of the map of lists while a script kills replicas, starts
//! them again, and changes who is a member. Always true: each answer was checked against what its session knows; how long nothing was answered
//! is taken from the answers themselves, not from buckets.

mod maplist;
mod script;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_client::{ClientConfig, ClientDriver};
use tetrarch_dataplane::types::Instant;

use crate::local::{LocalCluster, Shape};
use crate::report::svg::{Axis, Curve, Mark, Plot, Scale, Unit};
use crate::scrape::Numbers;
use maplist::MapListLoad;
pub use script::{Deed, Script, Step};

/// What to run.
#[derive(Clone, Debug)]
pub struct TimelineOptions {
    /// The `tetrarch` binary.
    pub tetrarch: PathBuf,
    /// The cluster.
    pub shape: Shape,
    /// Sessions, each with one request in flight.
    pub sessions: u32,
    /// What happens when.
    pub script: Script,
    /// The replicas' request timeout.
    pub request_timeout: Duration,
    /// Throughput is counted over so long.
    pub bucket: Duration,
    /// Decisions from one checkpoint to the next.
    pub checkpoint_every: u64,
    /// The replica whose own count of executed requests is shown, too.
    pub observed: u16,
}

/// Something that was done, and what followed.
#[derive(Clone, Debug, Serialize)]
pub struct Happened {
    /// Seconds from the start of the load.
    pub at: f64,
    /// What was done.
    pub what: String,
    /// To which replica.
    pub replica: u16,
    /// The longest time without any answer from then until the next event, seconds.
    pub longest_silence_s: f64,
    /// Of a replica that was started: seconds until it had executed what the others had when it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caught_up_s: Option<f64>,
    /// Answers per second from then, or from having caught up, until the next event.
    pub per_second: f64,
}

/// What a run showed.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineResult {
    /// `byzantine n=4`.
    pub cluster: String,
    /// Sessions.
    pub sessions: u32,
    /// The replicas' request timeout, ms.
    pub request_timeout_ms: u64,
    /// Length of a bucket, seconds.
    pub bucket_s: f64,
    /// Requests answered.
    pub answered: u64,
    /// Answers that did not fit what their session knew: lost or doubled writes.
    pub wrong: u64,
    /// The first one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_wrong: Option<String>,
    /// Answers per second before the first event.
    pub before: f64,
    /// End of each bucket in seconds, and answers per second in it.
    pub series: Vec<(f64, f64)>,
    /// Which replica `observed` is of.
    pub observed_replica: u16,
    /// Seconds, and requests per second that this replica executed since the point before.
    pub observed: Vec<(f64, f64)>,
    /// The events.
    pub events: Vec<Happened>,
}

/// What a replica said at some time.
#[derive(Clone, Debug)]
struct Sample {
    at: f64,
    /// By replica; none from those that did not answer.
    replicas: Vec<Option<Numbers>>,
}

/// Asks all replicas once a bucket, on a thread of its own: one that is down takes its time to say nothing.
struct Observer {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    fn start(cluster: &LocalCluster, bucket: Duration) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped, metrics) = (samples.clone(), stop.clone(), cluster.metrics());
        let begin = std::time::Instant::now();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let at = begin.elapsed().as_secs_f64();
                let replicas = metrics.iter().map(|address| Numbers::read(*address).ok()).collect();
                into.lock().unwrap_or_else(PoisonError::into_inner).push(Sample { at, replicas });
                thread::sleep(bucket);
            }
        });
        Self { samples, stop, thread: Some(thread) }
    }

    /// Whom most replicas take for the leader.
    fn leader(&self) -> Option<u16> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let told: Vec<u16> = samples
            .last()?
            .replicas
            .iter()
            .flatten()
            .map(|numbers| numbers.get("leader") as u16)
            .collect();
        told.iter().copied().max_by_key(|id| told.iter().filter(|other| *other == id).count())
    }

    fn finish(mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It panics never; if it did, its samples are still there.
            let _ = thread.join();
        }
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An event, before what followed is known.
struct Done {
    at: f64,
    what: String,
    replica: u16,
    started: bool,
    longest_silence: Duration,
}

/// A run in progress.
struct Run<'a> {
    options: &'a TimelineOptions,
    cluster: LocalCluster,
    observer: Observer,
    begin: Instant,
    last_answer: Instant,
    killed: Option<u16>,
    done: Vec<Done>,
    series: Vec<(f64, f64)>,
}

/// Runs the script; `watch` is told each event and, once a second, the throughput.
///
/// # Errors
/// The cluster does not start, a replica cannot be started again, or a request cannot be sent.
pub fn run(options: &TimelineOptions, watch: &mut dyn FnMut(&str)) -> Result<TimelineResult> {
    if options.observed >= options.shape.replicas {
        bail!("there is no replica {} to observe", options.observed);
    }
    let timeout_ms = options.request_timeout.as_millis().to_string();
    let every = options.checkpoint_every.to_string();
    let init = ["--service", "maplist", "--durable", "--request-timeout-ms", &timeout_ms];
    let init = init.into_iter().chain(["--checkpoint-every", &every]).map(String::from);
    let init: Vec<String> = init.collect();
    let mut cluster = LocalCluster::start_with(&options.tetrarch, options.shape, &init)?;
    for id in options.script.added() {
        if usize::from(id) != cluster.metrics().len() {
            bail!("add {id}: the next replica is {}", cluster.metrics().len());
        }
        cluster.prepare_next()?;
    }
    let mut config = ClientConfig::load(&cluster.path(), 0)?;
    config.sessions_max = config.sessions_max.max(options.sessions);
    let mut load = MapListLoad::new(ClientDriver::open(&config)?, options.sessions);
    let observer = Observer::start(&cluster, options.bucket);
    load.begin(config.connect_timeout)?;
    let begin = load.now();
    let mut run = Run {
        options,
        cluster,
        observer,
        begin,
        last_answer: begin,
        killed: None,
        done: Vec::new(),
        series: Vec::new(),
    };
    run.play(&mut load, watch)?;
    Ok(run.result(&load))
}

impl Run<'_> {
    fn play(&mut self, load: &mut MapListLoad, watch: &mut dyn FnMut(&str)) -> Result<()> {
        let mut steps = self.options.script.steps.iter().peekable();
        let (mut bucket_end, mut counted) = (self.begin + self.options.bucket, 0);
        loop {
            let any = load.turn()?;
            self.cluster.check_changes()?;
            let now = load.now();
            let at = now.since(self.begin).as_secs_f64();
            let silence = now.since(self.last_answer);
            if let Some(done) = self.done.last_mut() {
                done.longest_silence = done.longest_silence.max(silence);
            }
            if any {
                self.last_answer = now;
            }
            while now >= bucket_end {
                let end = bucket_end.since(self.begin).as_secs_f64();
                let rate = (load.answered - counted) as f64 / self.options.bucket.as_secs_f64();
                self.series.push((end, rate));
                watch(&format!("{end:6.1} s  {rate:9.0} /s"));
                counted = load.answered;
                bucket_end = bucket_end + self.options.bucket;
            }
            while let Some(step) = steps.next_if(|step| step.at <= at) {
                self.carry_out(step.deed, at, watch)?;
            }
            if at >= self.options.script.end {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, deed: Deed, at: f64, watch: &mut dyn FnMut(&str)) -> Result<()> {
        let (what, replica) = match deed {
            Deed::KillLeader => {
                let leader = self.observer.leader().context("no replica says who leads")?;
                ("killed the leader,", leader)
            }
            Deed::Kill(id) => ("killed", id),
            Deed::RestartKilled => {
                let killed = self.killed.context("restart killed: none was killed before")?;
                ("restarted", killed)
            }
            Deed::Restart(id) => ("restarted", id),
            Deed::Add(id) => ("added", id),
            Deed::Remove(id) => ("removed", id),
        };
        match deed {
            Deed::Restart(_) | Deed::RestartKilled => self.cluster.restart(replica)?,
            Deed::Add(_) => self.cluster.add(replica)?,
            Deed::Remove(_) => self.cluster.remove(replica)?,
            Deed::Kill(_) | Deed::KillLeader => {
                self.cluster.kill(replica)?;
                self.killed = Some(replica);
            }
        }
        let started = matches!(deed, Deed::Restart(_) | Deed::RestartKilled | Deed::Add(_));
        let what = format!("{what} replica {replica}");
        watch(&format!("{at:6.1} s  {what}"));
        self.done.push(Done { at, what, replica, started, longest_silence: Duration::ZERO });
        Ok(())
    }

    fn result(self, load: &MapListLoad) -> TimelineResult {
        let Self { options, observer, done, series, .. } = self;
        let samples = observer.finish();
        let first = done.first().map_or(options.script.end, |done| done.at);
        let events = done.iter().enumerate().map(|(number, event)| {
            let until = done.get(number + 1).map_or(options.script.end, |next| next.at);
            let caught_up = event.started.then(|| caught_up(&samples, event.replica, event.at));
            let caught_up = caught_up.flatten();
            let from = event.at + caught_up.unwrap_or(0.0).max(event.longest_silence.as_secs_f64());
            Happened {
                at: event.at,
                what: event.what.clone(),
                replica: event.replica,
                longest_silence_s: event.longest_silence.as_secs_f64(),
                caught_up_s: caught_up,
                per_second: mean(&series, from, until),
            }
        });
        TimelineResult {
            cluster: options.shape.name(),
            sessions: options.sessions,
            request_timeout_ms: options.request_timeout.as_millis() as u64,
            bucket_s: options.bucket.as_secs_f64(),
            answered: load.answered,
            wrong: load.wrong,
            first_wrong: load.first_wrong.clone(),
            // Links and pages are warm after a quarter of it.
            before: mean(&series, first / 4.0, first),
            events: events.collect(),
            observed_replica: options.observed,
            observed: executed_rates(&samples, options.observed),
            series,
        }
    }
}

/// Mean of the buckets that lie between two times; 0 if there is none.
fn mean(series: &[(f64, f64)], from: f64, until: f64) -> f64 {
    let bucket = series.first().map_or(0.0, |first| first.0);
    let inside = series.iter().filter(|(end, _)| *end - bucket >= from && *end <= until);
    let (sum, count) = inside.fold((0.0, 0), |(sum, count), (_, rate)| (sum + rate, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// Seconds after `from` at which `replica` had executed what all others had when they were asked before.
fn caught_up(samples: &[Sample], replica: u16, from: f64) -> Option<f64> {
    let executed = |numbers: &Numbers| numbers.get("executed");
    let pairs = samples.windows(2).skip_while(|pair| pair[0].at < from);
    let replica = usize::from(replica);
    for pair in pairs {
        let others = pair[0].replicas.iter().enumerate().filter(|(id, _)| *id != replica);
        let most = others.filter_map(|(_, numbers)| numbers.as_ref()).map(executed);
        let most = most.fold(0.0, f64::max);
        let own = pair[1].replicas.get(replica).and_then(Option::as_ref);
        if own.is_some_and(|own| executed(own) >= most && votes(own)) {
            return Some(pair[1].at - from);
        }
    }
    None
}

/// Does it take part, and not only learn?
fn votes(numbers: &Numbers) -> bool {
    numbers.get("mute") == 0.0 && numbers.get("joining") == 0.0
}

/// Requests per second that a replica executed between two samples of it.
fn executed_rates(samples: &[Sample], replica: u16) -> Vec<(f64, f64)> {
    let told: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|sample| {
            let numbers = sample.replicas.get(usize::from(replica))?.as_ref()?;
            Some((sample.at, numbers.get("requests_executed")))
        })
        .collect();
    let rate = |pair: &[(f64, f64)]| {
        let rate = (pair[1].1 - pair[0].1) / (pair[1].0 - pair[0].0);
        // A replica that started again counts anew.
        (pair[1].0, rate.max(0.0))
    };
    told.windows(2).map(rate).collect()
}

impl TimelineResult {
    /// Does it show what it has to (issue: outage of two request timeouts at most after a kill, no
    /// wrong answer, every restarted replica caught up)? Else: what is wrong.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.wrong > 0 {
            let first = self.first_wrong.as_deref().unwrap_or_default();
            complaints.push(format!("{} answers were wrong; the first: {first}", self.wrong));
        }
        let limit = 2.0 * self.request_timeout_ms as f64 / 1000.0;
        for event in &self.events {
            if event.longest_silence_s > limit {
                complaints.push(format!(
                    "{}: no answer for {:.2} s, more than two request timeouts ({limit:.2} s)",
                    event.what, event.longest_silence_s
                ));
            }
            let started = ["restarted", "added"].iter().any(|what| event.what.starts_with(what));
            if started && event.caught_up_s.is_none() {
                complaints.push(format!("{}: it did not catch up before the end", event.what));
            }
        }
        complaints
    }

    /// The figure.
    pub fn plot(&self) -> Plot {
        let seconds = |label| Axis { label, scale: Scale::Linear, unit: Unit::Count };
        let curve = |name: String, points: &[(f64, f64)], colour, dashed| Curve {
            name,
            points: points.to_vec(),
            colour,
            dashed,
            dots: false,
        };
        let marks = self.events.iter().map(|event| Mark { at: event.at, text: event.what.clone() });
        Plot {
            title: format!(
                "{}, map of lists, {} sessions: throughput through faults",
                self.cluster, self.sessions
            ),
            x: seconds("time (s)"),
            y: seconds("requests per second"),
            curves: vec![
                curve("answered to clients".into(), &self.series, 0, false),
                curve(
                    format!("executed by replica {}", self.observed_replica),
                    &self.observed,
                    1,
                    true,
                ),
            ],
            marks: marks.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, executed: &[Option<u32>]) -> Sample {
        let page = |count: &u32| {
            Numbers::parse(&format!(
                "tetrarch_executed{{replica=\"0\"}} {count}\n\
                 tetrarch_requests_executed_total{{replica=\"0\"}} {}\n",
                10 * count
            ))
        };
        let replicas = executed.iter().map(|count| count.as_ref().map(page)).collect();
        Sample { at, replicas }
    }

    #[test]
    fn a_replica_has_caught_up_when_it_has_what_the_others_had_before() {
        let samples = [
            sample(0.0, &[Some(10), Some(10)]),
            sample(1.0, &[Some(20), None]),
            sample(2.0, &[Some(30), Some(5)]),
            sample(3.0, &[Some(40), Some(29)]),
            sample(4.0, &[Some(50), Some(41)]),
            sample(5.0, &[Some(60), Some(60)]),
        ];
        assert_eq!(caught_up(&samples, 1, 1.0), Some(3.0));
        assert_eq!(caught_up(&samples[..4], 1, 1.0), None);
        let rates = executed_rates(&samples, 1);
        assert_eq!(rates, [(2.0, 0.0), (3.0, 240.0), (4.0, 120.0), (5.0, 190.0)]);
    }

    #[test]
    fn a_mean_takes_whole_buckets_only() {
        let series = [(1.0, 10.0), (2.0, 20.0), (3.0, 60.0)];
        assert_eq!(mean(&series, 0.5, 3.0), 40.0);
        assert_eq!(mean(&series, 0.0, 2.9), 15.0);
        assert_eq!(mean(&series, 2.5, 3.0), 0.0);
    }

    #[test]
    fn what_must_not_be_is_complained_of() {
        let event = |what: &str, silence, caught_up_s| Happened {
            at: 1.0,
            what: what.into(),
            replica: 0,
            longest_silence_s: silence,
            caught_up_s,
            per_second: 1.0,
        };
        let mut result = TimelineResult {
            cluster: String::new(),
            sessions: 1,
            request_timeout_ms: 500,
            bucket_s: 1.0,
            answered: 2,
            wrong: 0,
            first_wrong: None,
            before: 1.0,
            series: vec![(1.0, 2.0)],
            observed_replica: 1,
            observed: Vec::new(),
            events: vec![
                event("killed replica 0", 0.9, None),
                event("restarted replica 0", 0.0, Some(1.0)),
            ],
        };
        assert_eq!(result.complaints(), Vec::<String>::new());
        let svg = result.plot().document();
        assert!(svg.contains("killed replica 0") && svg.starts_with("<svg xmlns="), "{svg}");
        result.wrong = 1;
        result.events =
            vec![event("killed replica 0", 1.1, None), event("restarted replica 0", 0.0, None)];
        assert_eq!(result.complaints().len(), 3, "{:?}", result.complaints());
    }
}
