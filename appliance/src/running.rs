//! A replica that runs: its node on threads, over TCP, with its admin endpoint.
//!
//! Owns the threads. Always true: every fault of starting up is found before the first thread
//! starts; stopping joins them all. Must not: be used by the simulator, which turns nodes itself.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_client::names::Names;
use tetrarch_consensus::batch::REQUEST_HEADER_SIZE;
use tetrarch_consensus::limits::{OPERATION_SIZE_MAX, REQUEST_PROOF_SIZE_MAX};
use tetrarch_consensus::{Config, ReplicaId};
use tetrarch_dataplane::affinity::{self, CoreId};
use tetrarch_dataplane::arena::{Arena, ArenaSpec};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::endpoint::{Transport, Waker};
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::limits::HEADER_SIZE;
use tetrarch_dataplane::links::{LinkConfig, Links};
use tetrarch_dataplane::stage::CoreReport;
use tetrarch_dataplane::storage::Owner;
use tetrarch_dataplane::transport::choice::{self, TransportChoice};
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_dataplane::types::{OpenError, PeerId};

use crate::admin::{self, Subject};
use crate::budget::{Budget, Sizes};
use crate::checkpoint::keeping::Keeping;
use crate::config::{Plan, REPLY_CACHE_SESSION_SIZE};
use crate::metrics::Metrics;
use crate::node::{Node, Parts};
use crate::placement::Placement;
use crate::recovery::{Memory, Recovered, keep_for_others, recover};
use crate::service::Service;
use crate::stage::Events;

const MIB: usize = 1024 * 1024;

/// What a replica is started with: a [`Plan`], or what a program says that embeds a replica.
pub struct Start {
    /// Which replica.
    pub id: ReplicaId,
    /// The public part of the cluster.
    pub cluster: Cluster,
    /// This replica's private keys.
    pub keys: PrivateKeys,
    /// Those before them, or those that a later view may name.
    pub other_keys: Option<PrivateKeys>,
    /// What it replicates, without any state yet.
    pub service: Service,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it serves metrics and status; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What moves the bytes.
    pub transport: TransportChoice,
    /// Where stages run.
    pub placement: Placement,
    /// What its memory is sized by.
    pub sizes: Sizes,
    /// What the core is told.
    pub core: Config,
    /// Connections that have not proved who they are, at a time.
    pub half_open_max: usize,
}

impl From<Plan> for Start {
    fn from(plan: Plan) -> Self {
        Self {
            id: plan.id,
            cluster: plan.cluster,
            keys: plan.keys,
            other_keys: plan.other_keys,
            service: plan.service.build(plan.service_seed),
            listen: plan.listen,
            metrics: Some(plan.metrics),
            transport: plan.transport,
            placement: plan.placement,
            sizes: plan.sizes,
            core: plan.core,
            half_open_max: plan.half_open_max,
        }
    }
}

/// A replica that runs.
pub struct Running {
    threads: Vec<JoinHandle<Result<CoreReport, OpenError>>>,
    admin: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    subject: Subject,
    /// What moves the bytes, and why if it is not the preferred transport: a line for people.
    pub moved_by: String,
    /// What it has to tell operators.
    pub events: Events,
    /// The log, if it keeps one.
    pub log: Option<Recovered>,
    /// Works with its checkpoints, if it takes any.
    checkpoints: Option<Keeping>,
}

impl Running {
    /// Reserves memory, opens sockets, starts the threads.
    ///
    /// # Errors
    /// Whatever keeps it from starting, in words.
    pub fn start(start: Start) -> Result<Self> {
        let restarted = start.core.restarted;
        Self::start_with(start, &Memory::Volatile { restarted, checkpoints: None })
    }

    /// As [`Running::start`], of a replica that keeps or has forgotten what `memory` says.
    ///
    /// # Errors
    /// Whatever keeps it from starting, in words; above all a log that cannot be used.
    pub fn start_with(mut start: Start, memory: &Memory) -> Result<Self> {
        start.core.restarted = matches!(memory, Memory::Volatile { restarted: true, .. });
        let Start { id, cluster, keys, service, placement, core, .. } = start;
        let ingress = placement.ingress();
        let budget = Budget::with_workers(start.sizes, ingress.workers);
        let dials = dials(id, &cluster);
        let dial = dials.as_deref().unwrap_or_default().to_vec();
        let tcp = tcp_config(dial, &cluster, start.listen, start.half_open_max, start.sizes);
        let chosen = choice::open(start.transport, tcp)?;
        let mut transport = chosen.transport;
        let moved_by =
            chosen.fallback.unwrap_or_else(|| format!("transport: {}", transport.name()));
        let arena = arena_near(placement.network_cpu(), &mut *transport, &budget.arena)?;
        let endpoint = transport.open(0, arena.pool())?;
        let identity = Identity { peer: PeerId::replica(id.0), secret: keys.static_secret.clone() };
        let directory = cluster.directory()?;
        let link_config = link_config(&budget, start.half_open_max);
        let pool = arena.pool();
        let mut links =
            Links::new(endpoint, identity, directory, cluster.id, link_config, pool.clone())?;
        let other = start.other_keys.as_ref().map(|keys| keys.static_secret.clone());
        links.set_secret(keys.static_secret.clone(), other);
        let metrics = Arc::new(Metrics::new());
        metrics.frames_huge_size.set(arena.huge_size() as u64);
        let mut restarted = core.restarted;
        let clock = SystemClock::new();
        let (service, validator) = service;
        let parts = Parts {
            config: core,
            cluster: &cluster,
            keys: &keys,
            other_keys: start.other_keys.as_ref(),
            links,
            pool,
            service,
            validator,
            reply_cache_size: start.sizes.reply_cache_size,
            reply_cache_session_size: REPLY_CACHE_SESSION_SIZE,
            metrics: Arc::clone(&metrics),
        };
        let (mut node, events) = Node::with_ingress(parts, ingress, clock.now())?;
        let owner = Owner { cluster: cluster.id, replica: id.0 };
        let (mut log, mut checkpoints) = (None, None);
        let counts = Arc::clone(&metrics);
        match memory {
            Memory::Volatile { checkpoints: None, .. } => {}
            Memory::Volatile { checkpoints: Some(plan), .. } => {
                checkpoints = keep_for_others(&mut node, owner, plan, counts)?;
            }
            Memory::Durable { log: plan, ran } => {
                let mut recovered = recover(&mut node, owner, plan, *ran, clock.now(), counts)?;
                restarted = recovered.lost;
                checkpoints = recovered.checkpoints.take();
                log = Some(recovered);
            }
        }
        node.settle()?;
        if node.core().view().id() == cluster.view_id {
            // Else they were those of former members.
            dials?;
        }
        let views = Arc::clone(node.herald().bulletin());
        let subject = Subject { id: id.0, cluster: cluster.id, views, restarted, metrics };
        let waker = node.waker();
        let warn = |name: &str| {
            crate::warning!("{name}: the host name of a member does not resolve; trying again");
        };
        let names = Names::new(waker.clone(), warn).context("the system refused a thread")?;
        node.look_up(Box::new(names));
        let stop = Arc::new(AtomicBool::new(false));
        let admin = match start.metrics {
            None => None,
            Some(address) => {
                let thread = admin::serve(address, subject.clone(), Arc::clone(&stop));
                Some(thread.with_context(|| format!("metrics = {address}: cannot serve"))?)
            }
        };
        let threads = spawn(id, &placement, node, clock, &stop)?;
        Ok(Self { threads, admin, stop, waker, subject, moved_by, events, log, checkpoints })
    }

    /// Is this replica in no later view, and not needed any more?
    pub fn has_retired(&self) -> bool {
        self.subject.metrics.retired.get() != 0
    }

    /// Status and numbers, live.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Why it cannot go on, if that is so: nothing more will be durable, or its state is gone.
    pub fn failure(&self) -> Option<String> {
        let log = self.log.as_ref().and_then(|log| log.probe.failure());
        let checkpoints = self.checkpoints.as_ref().and_then(|keeping| keeping.failure());
        log.map(|error| error.to_string()).or_else(|| checkpoints.map(str::to_owned))
    }

    /// Did a thread end by itself? It never should.
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops all threads and waits for them. What was not sent is lost, as at a crash.
    ///
    /// # Errors
    /// A thread could not be pinned, or panicked.
    pub fn stop(self) -> Result<Vec<CoreReport>> {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        let mut reports = Vec::with_capacity(self.threads.len());
        for thread in self.threads {
            thread.thread().unpark();
            match thread.join() {
                Ok(report) => reports.push(report?),
                Err(_) => bail!("a thread of replica {} panicked; see above", self.subject.id),
            }
        }
        if let Some(admin) = self.admin {
            admin.join().map_err(|_| anyhow!("the admin thread panicked; see above"))?;
        }
        Ok(reports)
    }
}

/// The memory of messages, on the memory node of the processor that will read and write it most:
/// pages lie where the thread runs that touches them first.
fn arena_near(
    cpu: Option<CoreId>,
    transport: &mut dyn Transport,
    spec: &ArenaSpec,
) -> Result<Arena, OpenError> {
    let Some(cpu) = cpu else { return transport.arena(spec) };
    // A thread of its own: pinning cannot be undone.
    let made = std::thread::scope(|scope| {
        let make = || {
            affinity::pin_current(cpu)?;
            transport.arena(spec)
        };
        scope.spawn(make).join()
    });
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

type Threads = Vec<JoinHandle<Result<CoreReport, OpenError>>>;

fn spawn(
    id: ReplicaId,
    placement: &Placement,
    node: Node,
    clock: SystemClock,
    stop: &Arc<AtomicBool>,
) -> Result<Threads> {
    let mut threads = Vec::new();
    for (core, pin) in placement.place(node) {
        let stop = Arc::clone(stop);
        let name = format!("r{id}-{}", core.name());
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || core.run(clock, &stop, pin))
            .context("the system refused a thread; raise the limit of processes (ulimit -u)")?;
        threads.push(thread);
    }
    Ok(threads)
}

/// A member dials those with lower ids: one connection for each pair.
fn dials(id: ReplicaId, cluster: &Cluster) -> Result<Vec<(PeerId, SocketAddr)>> {
    let mut dial = Vec::new();
    for member in cluster.members.iter().filter(|member| member.id < id) {
        let address = member.address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = address.with_context(|| {
            format!(
                "cluster.toml: replica {} address = {:?}: the host name does not resolve; correct \
                 it, or the name service of this machine",
                member.id, member.address
            )
        })?;
        dial.push((PeerId::replica(member.id.0), address));
    }
    Ok(dial)
}

fn tcp_config(
    dial: Vec<(PeerId, SocketAddr)>,
    cluster: &Cluster,
    listen: SocketAddr,
    unauthenticated_max: usize,
    sizes: Sizes,
) -> TcpConfig {
    let peers = cluster.members.len() + cluster.clients.len();
    // All queues together must not hold all frames: peers that do not read would stop the others.
    let tx_bytes_max = (sizes.frames_size / 2 / peers).clamp(2 * MIB, 16 * MIB);
    TcpConfig {
        listen: Some(listen),
        dial,
        connections_max: (2 * peers + 64).clamp(256, 32_768),
        unauthenticated_max,
        tx_bytes_max,
        ..TcpConfig::default()
    }
}

fn link_config(budget: &Budget, half_open_max: usize) -> LinkConfig {
    let slot = budget.arena.classes.iter().map(|class| class.slot_size).max().unwrap_or(0);
    let request = REQUEST_HEADER_SIZE + OPERATION_SIZE_MAX + REQUEST_PROOF_SIZE_MAX;
    LinkConfig {
        message_size_max_replica: HEADER_SIZE as u32 + slot,
        message_size_max_client: (HEADER_SIZE + request) as u32,
        half_open_max,
        ..LinkConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_dataplane::arena::SlotClass;
    use tetrarch_dataplane::endpoint::{Caps, Endpoint};
    use tetrarch_dataplane::frame::FramePool;

    /// Notes where its memory was made.
    struct Observer(Vec<Vec<CoreId>>);

    impl Transport for Observer {
        fn name(&self) -> &'static str {
            "observer"
        }

        fn caps(&self) -> Caps {
            unreachable!("only its memory is wanted")
        }

        fn arena(&mut self, spec: &ArenaSpec) -> Result<Arena, OpenError> {
            self.0.push(affinity::allowed_cores()?);
            Arena::heap(spec)
        }

        fn open(&mut self, _: usize, _: FramePool) -> Result<Box<dyn Endpoint>, OpenError> {
            unreachable!("only its memory is wanted")
        }
    }

    #[test]
    fn memory_is_made_on_the_processor_that_will_use_it() {
        let mut observer = Observer(Vec::new());
        let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 64, count: 8 }] };
        let all = affinity::allowed_cores().unwrap();
        let cpu = *all.last().unwrap();
        for cpu in [None, Some(cpu)] {
            assert_eq!(arena_near(cpu, &mut observer, &spec).unwrap().total_slots(), 8);
        }
        assert_eq!(observer.0, [all.clone(), vec![cpu]]);
        assert_eq!(affinity::allowed_cores().unwrap(), all, "this thread is as free as before");
        let error = arena_near(Some(CoreId(99_999)), &mut observer, &spec).unwrap_err();
        assert!(error.to_string().contains("no such core"), "{error}");
    }
}
