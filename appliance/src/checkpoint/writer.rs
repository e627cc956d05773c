//! The thread that makes checkpoints durable.
//!
//! Owns the thread and the memory of the image that it writes. Always true: one is written at a time, and one
//! that comes meanwhile is left out, so the memory is that of one image; one counts only when its base is
//! durable, too (rule CKP.3). Must not: run on a stage's core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tetrarch_consensus::{ConsensusId, Digest, Input, spec};
use tetrarch_dataplane::ring::{Consumer, Producer, ring};
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::storage::file::Probe;

use super::chunks::Chunks;
use super::companion::{Companion, Stop};
use super::file::CheckpointFile;
use super::shelf::Shelf;
use super::store::Store;
use super::transfer::{Bell, Handover, Install, State};
use super::{CheckpointSink, Position, Target};
use crate::log::Limiter;
use crate::metrics::Metrics;
use crate::payload::FramePayload;
use crate::stage::records::Watermark;
use crate::{info, warning};

/// How often the thread looks whether what it waits for has happened.
const TICK: Duration = Duration::from_millis(20);
/// A replica's turn to write comes after so long at the latest.
const TURN_MAX: Duration = Duration::from_secs(10);
/// And when nothing was executed for so long: then no disk has anything else to do.
const TURN_IDLE: Duration = Duration::from_millis(500);

/// When a replica writes, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Decisions from the taking of a checkpoint until this replica begins to write it.
    pub after: u64,
    /// What a checkpoint may stop execution for before operators are told.
    pub pause_max: Duration,
}

impl Pace {
    /// That of the member at `index` of `n`, which take checkpoints every `every` decisions: the
    /// members write one after the other, in the first half of what lies between two checkpoints.
    pub fn new((index, n): (usize, usize), every: u64, pause_max: Duration) -> Self {
        Self { after: every / 2 * index as u64 / n as u64, pause_max }
    }
}

struct Job {
    position: Position,
    image: Chunks,
    pause: Duration,
}

/// The execution stage's end.
struct Sink {
    jobs: Producer<Job>,
    buffers: Consumer<Chunks>,
    /// Memory of an image that was abandoned.
    spare: Option<Chunks>,
    handover: Handover,
    /// The longest that execution has waited for a piece of the copy that is being made.
    pause: Duration,
    metrics: Arc<Metrics>,
}

impl CheckpointSink for Sink {
    fn begin(&mut self) -> Option<Chunks> {
        if self.jobs.room() == 0 {
            self.leave_out();
            return None;
        }
        self.pause = Duration::ZERO;
        let mut image = self.spare.take().or_else(|| self.buffers.pop()).unwrap_or_default();
        image.clear();
        Some(image)
    }

    fn copy(&mut self, piece: &mut dyn FnMut()) {
        let start = Instant::now();
        piece();
        self.pause = self.pause.max(start.elapsed());
    }

    fn take(&mut self, position: Position, image: Chunks) {
        let pause = self.pause;
        let pause_ns = pause.as_nanos() as u64;
        self.metrics.checkpoint_pause_ns.set(pause_ns);
        let slowest = self.metrics.checkpoint_pause_max_ns.get().max(pause_ns);
        self.metrics.checkpoint_pause_max_ns.set(slowest);
        let pushed = self.jobs.push(Job { position, image, pause });
        debug_assert!(pushed.is_ok(), "the room was checked");
        // The thread looks by itself: to wake it is a system call, and a core makes none for this.
    }

    fn leave_out(&mut self) {
        self.metrics.checkpoints_skipped.add(1);
    }

    fn abandon(&mut self, image: Chunks) {
        self.spare = Some(image);
        self.leave_out();
    }

    fn install(&mut self, install: Install) {
        self.handover.install(install);
    }

    fn installed(&mut self) -> Option<(ConsensusId, State)> {
        self.handover.installed()
    }
}

/// The thread, while it runs.
pub struct Writer {
    _thread: Companion,
}

/// What the thread works with.
pub struct WriterParts {
    /// Where the checkpoints are.
    pub store: Store,
    /// Whose they are.
    pub owner: Owner,
    /// When they are written.
    pub pace: Pace,
    /// How far the log is durable.
    pub watermark: Watermark,
    /// Says when the log has failed, if there is one.
    pub probe: Option<Probe>,
    /// Where those go that count.
    pub shelf: Arc<Shelf>,
    /// To ordering.
    pub news: Producer<Input<FramePayload>>,
    /// Wakes it.
    pub bell: Bell,
    /// Where its numbers are published.
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Starts the thread. Returns what takes checkpoints, and hands states over.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        parts: WriterParts,
        handover: Handover,
    ) -> Result<(Self, Box<dyn CheckpointSink>)> {
        let (jobs_in, jobs) = ring(1);
        let (buffers_in, buffers) = ring(1);
        let metrics = Arc::clone(&parts.metrics);
        let short = Limiter::new(1, Duration::from_secs(60));
        let thread = Companion::start("checkpoints", move |stop| {
            Worker { parts, jobs, buffers: buffers_in, stop, short }.run();
        })?;
        let pause = Duration::ZERO;
        let (jobs, spare) = (jobs_in, None);
        let sink = Sink { jobs, buffers, spare, handover, pause, metrics };
        Ok((Self { _thread: thread }, Box::new(sink)))
    }
}

struct Worker {
    parts: WriterParts,
    jobs: Consumer<Job>,
    buffers: Producer<Chunks>,
    stop: Stop,
    /// How often is said that too few decisions are kept.
    short: Limiter,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.is_due() {
            if self.jobs.is_empty() {
                std::thread::park_timeout(TICK);
                continue;
            }
            self.work();
            // Only now there is room for the next one.
            if let Some(job) = self.jobs.pop() {
                let _ = self.buffers.push(job.image);
            }
        }
    }

    /// Writes the job that waits.
    fn work(&mut self) {
        let Some((position, pause)) = self.jobs.front().map(|job| (job.position, job.pause)) else {
            return;
        };
        if pause > self.parts.pace.pause_max {
            warning!(
                "checkpoint {}: taking it stopped execution for {} ms, more than log.checkpoint_pause_max_ms = {}: \
                 raise cluster.checkpoint_every so that this happens less often, or raise the limit",
                position.cid,
                pause.as_millis(),
                self.parts.pace.pause_max.as_millis()
            );
        }
        if !self.wait_for_turn(position) || !self.wait_for_base(position) {
            return;
        }
        let start = Instant::now();
        let Some(job) = self.jobs.front() else { return };
        let WriterParts { store, owner, metrics, .. } = &self.parts;
        match store.add(*owner, position, &job.image) {
            Ok(file) => {
                metrics.checkpoints.add(1);
                metrics.checkpoint_instance.set(position.cid.0);
                metrics.checkpoint_size.set(job.image.size() as u64);
                metrics.checkpoint_write_ns.set(start.elapsed().as_nanos() as u64);
                self.tell(file);
            }
            Err(error) => {
                metrics.checkpoints_failed.add(1);
                warning!(
                    "{error}; the log goes on growing until a checkpoint can be written: make room, or look at \
                     the disk"
                );
            }
        }
    }

    /// Lets the other members write first. `false`: there is no time left.
    fn wait_for_turn(&self, position: Position) -> bool {
        let until = position.cid.0.saturating_add(self.parts.pace.after);
        let start = Instant::now();
        let (mut executed, mut moved) = (0, start);
        while start.elapsed() < TURN_MAX && moved.elapsed() < TURN_IDLE {
            let now = self.parts.metrics.executed.get();
            if now >= until {
                break;
            }
            if now != executed {
                (executed, moved) = (now, Instant::now());
            }
            if self.stop.is_due() {
                return false;
            }
            std::thread::park_timeout(TICK);
        }
        !self.stop.is_due()
    }

    /// Waits until the base is durable, as it is by then as a rule: a checkpoint without one is of no use.
    /// `false`: there is no time left, or it never will be.
    fn wait_for_base(&self, position: Position) -> bool {
        spec!("CKP.3");
        while self.parts.watermark.get() < position.base {
            let failed = self.parts.probe.as_ref().is_some_and(|probe| probe.failure().is_some());
            if self.stop.is_due() || failed {
                return false;
            }
            std::thread::park_timeout(TICK);
        }
        true
    }

    /// This one counts: what is before two of them is not needed, and others may have it.
    fn tell(&mut self, file: CheckpointFile) {
        let Target { cid, size, root } = file.header.target();
        let durable = self.parts.store.is_durable();
        let before = self.parts.shelf.newest();
        self.parts.shelf.add(file);
        let oldest = self.parts.metrics.decisions_from.get();
        if let Some(before) = before.filter(|before| oldest > before.0 + 1)
            && self.short.pass(Instant::now()).is_some()
        {
            warning!(
                "the decisions that are kept for others begin with {oldest}, behind checkpoint {}: one that lacks \
                 those between has to wait for the next checkpoint; raise limits.decision_log_mib, or lower \
                 cluster.checkpoint_every",
                before
            );
        }
        let input = Input::Checkpointed { cid, size, root: Digest(root) };
        // A stage that does not take this any more has ended.
        let _ = self.parts.news.push(input);
        self.parts.bell.ring();
        info!("checkpoint {cid}: {}", if durable { "durable" } else { "written" });
    }
}
