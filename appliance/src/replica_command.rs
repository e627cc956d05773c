//! `tetrarch replica`: one replica as a process.
//!
//! Owns the process: signals, log, exit. Always true: it ends cleanly on SIGTERM and SIGINT, and at
//! once on the second. Must not: log at the pace of messages.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use tetrarch_client::cluster::{CLUSTER_FILE, Cluster};
use tetrarch_consensus::membership::Membership;
use tetrarch_consensus::{Evidence, ReplicaId, TransferNote, ViewId};

use crate::budget::Budget;
use crate::config::Plan;
use crate::log::Limiter;
use crate::recovery::Memory;
use crate::running::{Running, Start};
use crate::stage::Event;
use crate::stage::bulletin::Reader;
use crate::view::beginning::begin;
use crate::{info, log, machine, ports, warning};

/// How often a replica that waits to be named looks whether it is.
const LOOK: Duration = Duration::from_millis(200);

/// How often events are looked at.
const TICK: Duration = Duration::from_millis(20);

/// A flag that SIGTERM and SIGINT raise. The second signal ends the process at once.
///
/// # Errors
/// The system refuses a handler.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Raises `stop` when standard input ends: how a parent process stops its children, also when it
/// dies.
pub fn stop_on_end_of_input(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        while std::io::stdin().lock().read(&mut ignored).is_ok_and(|size| size > 0) {}
        stop.store(true, Ordering::Release);
    });
}

/// How a replica is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
    /// Forget that it ran before.
    pub fresh: bool,
    /// Wait until `cluster.toml` names it.
    pub join: bool,
    /// Stop when standard input ends.
    pub with_parent: bool,
}

/// Runs replica `id` of the cluster directory until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, in words.
pub fn run(directory: &Path, id: u16, how: How) -> Result<()> {
    run_with(directory, id, how, |_| {})
}

/// As [`run`], with a plan that the caller changes in a way that no file can say: for tests of real processes.
///
/// # Errors
/// As [`run`].
pub fn run_with(directory: &Path, id: u16, how: How, change: impl FnOnce(&mut Plan)) -> Result<()> {
    log::set_speaker(format!("replica {id}"));
    let stop = stop_on_signals()?;
    if how.with_parent {
        stop_on_end_of_input(&stop);
    }
    if how.join && !wait_until_listed(directory, id, &stop)? {
        return Ok(());
    }
    let mut plan = Plan::load(directory, id)?;
    change(&mut plan);
    plan.check_ports(directory, ports::PATIENCE)?;
    let fetches = plan.core.checkpoint_every > 0;
    let (data_dir, listed) = (plan.data_dir.clone(), plan.listed);
    let memory = Memory::look(&data_dir, plan.log.clone(), plan.checkpoints.clone(), how.fresh)?;
    let mut kept = begin(&mut plan, &memory, how.fresh)?;
    greet(&plan, &memory);
    let mut running = Running::start_with(Start::from(plan), &memory)?;
    let restarted = running.subject().restarted;
    if let Some(log) = &running.log {
        log.warnings.iter().for_each(|line| warning!("{line}"));
        log.lines.iter().for_each(|line| info!("{line}"));
        if log.lost {
            warning!(
                "the log is gone, so what this replica promised is lost: it learns from the others and does \
                 not vote until it is certain not to contradict itself"
            );
        }
    }
    greet_view(&running, listed);
    info!("{}", running.moved_by);
    let metrics = &running.subject().metrics;
    let (huge, all) = (metrics.frames_huge_size.get() >> 20, metrics.frames_size.get() >> 20);
    let transparent = machine::transparent_huge_size()
        .map_or("unknown".into(), |size| format!("{} MiB of the process", size >> 20));
    info!("frames: {huge} of {all} MiB in reserved huge pages; transparent ones: {transparent}");
    let mut reporter = Reporter::new(restarted, fetches);
    let mut views = Reader::new(&running.subject().views);
    while !stop.load(Ordering::Acquire) {
        reporter.report(&mut running);
        if let (Some(kept), Some(notice)) = (&mut kept, views.news())
            && notice.current.id() > kept.newest.id()
        {
            kept.newest = Membership::clone(&notice.current);
            if let Err(error) = kept.store(&data_dir) {
                warning!("{error}; without its log this replica would start in an earlier view");
            }
        }
        if running.has_failed() || running.failure().is_some() || running.has_retired() {
            break;
        }
        std::thread::sleep(TICK);
    }
    reporter.report(&mut running);
    let retired = running.has_retired();
    let status = running.subject().status();
    let failure = running.failure();
    running.stop()?;
    if let Some(failure) = failure {
        bail!("{failure}");
    }
    if !retired && !stop.load(Ordering::Acquire) {
        bail!("a thread ended by itself");
    }
    info!(
        "stopped: decided {}, executed {} requests, regency {}",
        status.decided, status.requests_executed, status.regency
    );
    Ok(())
}

/// Until `cluster.toml` names replica `id`. `false`: it was told to stop before.
fn wait_until_listed(directory: &Path, id: u16, stop: &AtomicBool) -> Result<bool> {
    let mut said = false;
    while !stop.load(Ordering::Acquire) {
        let cluster = Cluster::load(directory)?;
        if cluster.member(ReplicaId(id)).is_some() {
            return Ok(true);
        }
        if !std::mem::replace(&mut said, true) {
            info!(
                "waiting for a {CLUSTER_FILE} that names replica {id}: this one, of view {}, does not; let the View \
                 Manager add it (`tetrarch view add`)",
                cluster.view_id
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(false)
}

/// Says in which view the replica is, if that is not the one that everybody finds in `cluster.toml`.
fn greet_view(running: &Running, listed: ViewId) {
    let subject = running.subject();
    let notice = subject.views.notice();
    let view = notice.current.id();
    if subject.metrics.joining.get() != 0 {
        info!(
            "joins in view {view}: learns from its members what was decided before, and does not vote"
        );
    } else if view != listed {
        info!(
            "in view {view} ({}), as this replica remembers; {CLUSTER_FILE} here describes view {listed}",
            members(&notice.current)
        );
    }
    if let Some(next) = notice.next.filter(|next| next.member(ReplicaId(subject.id)).is_none()) {
        info!("no member of view {}: helps others until they have no need of it", next.id());
    }
}

fn members(membership: &Membership) -> String {
    let ids: Vec<_> = membership.members().iter().map(|it| it.id.to_string()).collect();
    format!("replicas {}, f = {}", ids.join(", "), membership.view().quorums().f())
}

fn greet(plan: &Plan, memory: &Memory) {
    let quorums = plan.core.view.quorums();
    info!(
        "cluster {:016x}: {} replicas, f = {}, {} model; service {}; timeout {} ms",
        plan.cluster.id,
        plan.cluster.members.len(),
        plan.cluster.f,
        tetrarch_client::cluster::model_name(quorums.model()),
        plan.service.name(),
        plan.core.request_timeout.as_millis()
    );
    let budget = Budget::with_workers(plan.sizes, plan.placement.ingress().workers);
    let log = plan.log.as_ref().map(|log| &log.config);
    info!("{}", budget.with_core(&plan.core).with_log(log));
    info!("placement: {}", plan.placement);
    info!("listening at {}, metrics and status at http://{}", plan.listen, plan.metrics);
    if matches!(memory, Memory::Volatile { restarted: true, .. }) {
        warning!(
            "restarted: durability = \"volatile\" keeps all state in memory, so what this replica knew is lost. \
             It learns from the others and does not vote until it is certain not to contradict \
             itself; if they no longer keep the decisions it misses, it will say so. If all replicas \
             of the cluster were stopped, start each with --fresh instead"
        );
    }
}

/// Turns events into log lines.
pub struct Reporter {
    restarted: bool,
    links: Limiter,
    evidence: Limiter,
    behind: Limiter,
    transfers: Limiter,
    /// Does the cluster take checkpoints?
    fetches: bool,
}

impl Reporter {
    /// A reporter for one replica. `fetches`: the cluster takes checkpoints.
    pub fn new(restarted: bool, fetches: bool) -> Self {
        Self {
            restarted,
            links: Limiter::new(20, Duration::from_secs(10)),
            evidence: Limiter::new(5, Duration::from_secs(10)),
            behind: Limiter::new(1, Duration::from_secs(60)),
            transfers: Limiter::new(10, Duration::from_secs(10)),
            fetches,
        }
    }

    /// Writes what happened since the last call.
    pub fn report(&mut self, running: &mut Running) {
        let now = Instant::now();
        while let Some(event) = running.events.take() {
            self.event(now, event);
        }
        if self.restarted && running.subject().caught_up() {
            self.restarted = false;
            info!("caught up: executes and votes like the others");
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Installed { regency, leader } => {
                info!("regency {regency}: replica {leader} leads");
            }
            Event::Entered { view, leader } => {
                info!("view {view} begins: replica {leader} leads");
            }
            Event::BadView(bad) => warning!("{bad}; this replica is of no use in it"),
            Event::Retired { view } => {
                info!(
                    "view {view} works without this replica, which ends here: it is not a member any more"
                );
            }
            Event::Behind { decided, available } => {
                if self.behind.pass(now).is_some() {
                    let how = match self.fetches {
                        true => "it fetches a checkpoint from them",
                        false => {
                            "and the cluster takes no checkpoints (cluster.checkpoint_every = 0): it stays out of \
                             their way"
                        }
                    };
                    warning!(
                        "behind: decided {decided}, the others keep decisions from {available} on only; {how}"
                    );
                }
            }
            Event::Transfer(note) => {
                if let Some(more) = self.transfers.pass(now) {
                    warning!("{}{}", Note(note), held_back(more));
                }
            }
            Event::Evidence(evidence) => {
                if let Some(more) = self.evidence.pass(now) {
                    warning!("misbehaviour: {}{}", Words(evidence), held_back(more));
                }
            }
            Event::LinkUp(peer) => self.link(now, format_args!("link with {peer} is up")),
            Event::LinkDown(peer) => self.link(now, format_args!("link with {peer} is down")),
            Event::Link(diagnosis) => warning!("{diagnosis}"),
            Event::LogFailed => {
                warning!(
                    "the log failed: this replica tells nobody anything that is not on its disk"
                );
            }
        }
    }

    fn link(&mut self, now: Instant, text: std::fmt::Arguments<'_>) {
        if let Some(more) = self.links.pass(now) {
            info!("{text}{}", held_back(more));
        }
    }
}

fn held_back(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" ({count} more such lines were held back)") }
}

/// A note about a transfer in words.
struct Note(TransferNote);

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            TransferNote::SlowSource { member, cid } => write!(
                f,
                "checkpoint {cid}: replica {member} did not send in time what it was asked for; the others are asked \
                 first from now on"
            ),
            TransferNote::Vanished { cid } => {
                write!(
                    f,
                    "checkpoint {cid}: too few replicas have it still; a newer one is fetched"
                )
            }
            TransferNote::TooLarge { cid, size } => write!(
                f,
                "checkpoint {cid}: its {size} bytes are more than transfer.state_max_gib allows, so this replica \
                 cannot catch up: raise it and start the replica again"
            ),
            TransferNote::Refused { cid } => write!(
                f,
                "checkpoint {cid}: this replica cannot go on from it, because its limits or its cluster.toml differ \
                 from those of the others: make them equal and start it again"
            ),
        }
    }
}

/// Evidence in words.
struct Words(Evidence);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Evidence::Equivocation { member, at, first, second } => write!(
                f,
                "replica {member} sent {first:?} and {second:?} for instance {} in epoch {}",
                at.cid, at.epoch
            ),
            Evidence::InvalidProposal { member, at } => {
                write!(f, "replica {member} proposed an impossible batch in instance {}", at.cid)
            }
            Evidence::HalfValidProof { client, at } => write!(
                f,
                "a request of session {client} in instance {} has a proof that convinces others only",
                at.cid
            ),
            Evidence::IncompleteProposal { member, client, at } => write!(
                f,
                "replica {member} was given up with a request of session {client} in instance {} \
                 whose body could not be had",
                at.cid
            ),
            Evidence::FalseChunk { member, cid, index } => {
                write!(f, "replica {member} sent a false chunk {index} of checkpoint {cid}")
            }
            Evidence::FalseOffer { member, cid, root } => write!(
                f,
                "replica {member} offers a checkpoint {cid} with root {root:?}, which is not that of the \
                 others; if it is not faulty, its configuration differs"
            ),
            Evidence::InvalidSynchronization { member, regency } => {
                write!(f, "replica {member} sent an invalid synchronisation for regency {regency}")
            }
        }
    }
}
