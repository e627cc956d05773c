//! A node: a replica's stages, put together.
//!
//! Owns the composition, and nothing else does: production and simulator build the same node from
//! the same parts, and differ in the endpoint below the links. Always true: no clock, thread, file
//! or random number is used here; time comes with each turn. Must not: know where parts come from.

use std::io::Read;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_client::names::Addresses;
use tetrarch_consensus::smr::{Replica, RestoreError};
use tetrarch_consensus::{
    Config, Instant as CoreInstant, ReplicaId, RequestValidator, StateMachine,
};
use tetrarch_dataplane::crypto::keys::KeyError;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::links::Links;
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::storage::Storage;
use tetrarch_dataplane::types::{Instant, PeerId};

use crate::checkpoint::CheckpointSink;
use crate::checkpoint::image::{self, ImageError};
use crate::checkpoint::transfer::Bell;
use crate::keyring::{BadView, Keyring};
use crate::metrics::{IngressCounts, Metrics};
use crate::payload::{FramePayload, FramePayloadPool};
use crate::proofs::Proofs;
use crate::reply_cache::ReplyCache;
use crate::stage::bulletin::{Herald, Reader};
use crate::stage::dispatch::IngressPlan;
use crate::stage::egress::Egress;
use crate::stage::execution::Execution;
use crate::stage::ingress::Ingress;
use crate::stage::linking::Linking;
use crate::stage::network::Network;
use crate::stage::ordering::Ordering;
use crate::stage::records::{Records, Watermark};
use crate::stage::room::Gauge;
use crate::stage::worker::Worker;
use crate::stage::{Background, Events, StageKind, Wakers, rings};

/// What a node is made of.
pub struct Parts<'a> {
    /// What the core is told: who it is, the view, limits, the timeout.
    pub config: Config,
    /// Public keys of members and clients.
    pub cluster: &'a Cluster,
    /// This replica's private keys.
    pub keys: &'a PrivateKeys,
    /// Those before them, or those that a later view may name.
    pub other_keys: Option<&'a PrivateKeys>,
    /// Sessions over the endpoint.
    pub links: Links,
    /// Frames: those that the endpoint receives into, so that one sum bounds the node.
    pub pool: FramePool,
    /// The application.
    pub service: Box<dyn StateMachine>,
    /// Which operations are commands of the application.
    pub validator: Box<dyn RequestValidator>,
    /// Bytes of kept replies, in all.
    pub reply_cache_size: usize,
    /// Bytes of kept replies of one session.
    pub reply_cache_session_size: usize,
    /// Where the node's numbers are published.
    pub metrics: Arc<Metrics>,
}

/// A node that cannot be built: a client's public key is useless.
#[derive(Debug, thiserror::Error)]
#[error("client {client} static_key: {source}; replace it in cluster.toml")]
pub struct BadClientKey {
    /// Whose key.
    pub client: u32,
    /// What is wrong with it.
    pub source: KeyError,
}

/// Why a checkpoint cannot be begun with.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Its image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its base.
    #[error("{0}")]
    Restore(RestoreError),
}

impl From<RestoreError> for BeginError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(error)
    }
}

/// See the module.
pub struct Node {
    network: Box<Network>,
    workers: Vec<Worker>,
    ordering: Box<Ordering>,
    execution: Box<Execution>,
    herald: Arc<Herald>,
    /// For threads that work with checkpoints, until they are started.
    background: Option<Background>,
    /// Whom they wake beside the network stage's core, when stages are on several.
    others: Arc<OnceLock<Wakers>>,
}

/// A node's stages, to be placed on cores.
pub struct Stages {
    /// Links, egress, and ingress if it is inline.
    pub network: Box<dyn Stage>,
    /// Ingress on other cores.
    pub workers: Vec<Box<dyn Stage>>,
    /// The core of the protocol.
    pub ordering: Box<dyn Stage>,
    /// The application.
    pub execution: Box<dyn Stage>,
}

impl Node {
    /// Puts a node together, with ingress as part of the network stage. The second value is what it
    /// has to tell operators.
    ///
    /// # Errors
    /// A client's public key gives no secrecy.
    pub fn new(parts: Parts<'_>, now: Instant) -> Result<(Self, Events), BadClientKey> {
        Self::with_ingress(parts, IngressPlan::default(), now)
    }

    /// As [`Node::new`], with ingress where `plan` says.
    ///
    /// # Errors
    /// A client's public key gives no secrecy.
    pub fn with_ingress(
        parts: Parts<'_>,
        plan: IngressPlan,
        now: Instant,
    ) -> Result<(Self, Events), BadClientKey> {
        let Parts { mut config, cluster, keys, links, pool, service, validator, metrics, .. } =
            parts;
        // Members that do not lead take twice as much (rule SMR.14), and frames are up to twice as large
        // as what is in them: requests that cannot be ordered yet take a quarter of them at most.
        config.pending_size_max = config.pending_size_max.min(pool.free_size() / 16);
        let (own, view) = (config.id, config.view.clone());
        let rings = rings(plan.workers);
        let keyring = Keyring::new(cluster, own, keys, parts.other_keys)
            .map_err(|(client, source)| BadClientKey { client, source })?;
        let herald =
            Herald::new(keyring, cluster.membership()).expect("a loaded cluster was checked");
        let (bulletin, herald) = (Arc::clone(herald.bulletin()), Arc::new(herald));
        let proofs = Proofs::with(bulletin.keys());
        let sessions_max = config.sessions_per_client_max;
        let ingress = Ingress::new(view.clone(), proofs, validator, sessions_max);
        let mut ingresses = ingress.split(1 + plan.workers).into_iter();
        let ingress = ingresses.next().expect("the network stage's own");
        let gauge = Gauge::new(pool.clone(), Arc::clone(&metrics));
        let (mut workers, mut counts) = (Vec::new(), Vec::new());
        for (ingress, rings) in ingresses.zip(rings.workers) {
            let count = Arc::new(IngressCounts::new());
            counts.push(Arc::clone(&count));
            let views = Reader::new(&bulletin);
            workers.push(Worker::new(views, ingress, rings, gauge.clone(), count));
        }
        let key = keys.signing_key.clone();
        let egress = Egress::new(own, view.clone(), cluster.id, key, pool.clone());
        let network = Network::new(
            own,
            Reader::new(&bulletin),
            (links, Linking::new(own, cluster)),
            ingress,
            plan.inline,
            counts,
            egress,
            rings.network,
            gauge,
            pool.clone(),
            Arc::clone(&metrics),
        );
        let core_pool = Box::new(FramePayloadPool(pool.clone()));
        let mut core = Replica::new(config, core_pool, CoreInstant(now.0));
        core.set_state_manager(service.state_manager());
        let ordering =
            Ordering::new(core, rings.ordering, Arc::clone(&metrics), Arc::clone(&herald));
        let place = (view.id(), view.index_of(own).expect("a replica is a member of its view"));
        let cache = ReplyCache::new(parts.reply_cache_size, parts.reply_cache_session_size);
        let execution = Execution::new(service, cache, rings.execution, pool, place, metrics);
        let node = Self {
            network: Box::new(network),
            workers,
            ordering: Box::new(ordering),
            execution: Box::new(execution),
            herald,
            background: Some(rings.background),
            others: Arc::new(OnceLock::new()),
        };
        Ok((node, rings.events))
    }

    /// Replays one record of the log, before the first turn: those of a log in order.
    ///
    /// # Errors
    /// It does not follow from those before it. The node must not be used then.
    pub fn restore(&mut self, now: Instant, record: &[u8]) -> Result<(), RestoreError> {
        if let Some(decided) = self.ordering.restore(now, record)? {
            self.execution.replay(&decided);
        }
        Ok(())
    }

    /// What was to be replayed was: from here on the node is in the view that the core came to. Before the first
    /// turn of a node that may have replayed something.
    ///
    /// # Errors
    /// The keys of that view cannot be used.
    pub fn settle(&mut self) -> Result<(), BadView> {
        let (view, own) = self.ordering.settle()?;
        self.execution.enter(view, own);
        Ok(())
    }

    /// Passes over a record of the log that comes before the base of the checkpoint which
    /// [`Node::begin_at`] will begin with.
    ///
    /// # Errors
    /// The bytes are no record.
    pub fn pass_over(&mut self, record: &[u8]) -> Result<(), RestoreError> {
        self.ordering.pass_over(record)
    }

    /// There was no such base: forgets what was passed over.
    pub fn forget_passed_over(&mut self) {
        self.ordering.forget_passed_over();
    }

    /// Begins at a checkpoint with the record that is its base, before any record was replayed. `image` is
    /// the checkpoint's, whole and verified.
    ///
    /// # Errors
    /// It is not of this node. The node must not be used then.
    pub fn begin_at<R: Read>(
        &mut self,
        now: Instant,
        mut image: image::Reader<R>,
        base: &[u8],
    ) -> Result<(), BeginError> {
        let ordered = image.ordered()?;
        self.ordering.begin_at(now, &ordered, base)?;
        self.execution.install(&ordered, image)?;
        Ok(())
    }

    /// The rings of the threads that work with checkpoints, once; and what wakes the stages for what is in them.
    pub fn take_background(&mut self) -> Option<(Background, Bell)> {
        let bell = Bell { network: self.network.waker(), others: Arc::clone(&self.others) };
        Some((self.background.take()?, bell))
    }

    /// From now on wakes the thread that fetches and serves checkpoints.
    pub fn wake_transfer(&mut self, waker: Waker) {
        self.ordering.wake_transfer(waker);
    }

    /// From now on hands checkpoints to `sink`, and gives up records before the number in `needed_from`.
    pub fn keep_checkpoints(&mut self, sink: Box<dyn CheckpointSink>, needed_from: Arc<AtomicU64>) {
        self.execution.keep_checkpoints(sink);
        self.ordering.keep_records_from(needed_from);
    }

    /// From now on keeps records in `storage`, behind those that were replayed. The first one that a
    /// log ever holds has to be durable before the first turn. `lost`: the log holds none, though this
    /// replica ran before.
    pub fn keep_records(&mut self, storage: Box<dyn Storage>, lost: bool) -> Watermark {
        let watermark = self.ordering.keep_records(Records::new(storage), lost);
        self.network.wait_for(watermark.clone());
        self.ordering.wake_when_durable(self.network.waker());
        watermark
    }

    /// One turn of all stages, fused. Call it again while it says that it worked.
    pub fn turn(&mut self, now: Instant) -> Progress {
        let network = self.network.poll(now);
        let poll = |progress: Progress, worker: &mut Worker| progress.or(worker.poll(now));
        let ingress = self.workers.iter_mut().fold(network, poll);
        let ordering = self.ordering.poll(now);
        let execution = self.execution.poll(now);
        ingress.or(ordering).or(execution)
    }

    /// When to call [`Node::turn`] even if nothing arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stages: [&dyn Stage; 3] = [&*self.network, &*self.ordering, &*self.execution];
        stages.iter().filter_map(|stage| stage.next_deadline()).min()
    }

    /// Tells each stage which cores to wake for what it leaves in their rings: `wakers` says it for
    /// the stages of each kind, and for ingress by the number of the worker.
    pub fn wake_across_cores(&mut self, wakers: impl Fn(StageKind, usize) -> Wakers) {
        self.network.wake_others(wakers(StageKind::Network, 0));
        for (at, worker) in self.workers.iter_mut().enumerate() {
            worker.wake_others(wakers(StageKind::Ingress, at));
        }
        self.ordering.wake_others(wakers(StageKind::Ordering, 0));
        // Said once: stages are placed once.
        let _ = self.others.set(wakers(StageKind::Network, 0));
        if let Some(ordering) = wakers(StageKind::Network, 0).ordering {
            let network = self.network.waker();
            self.ordering.wake_when_durable(Waker::new(move || {
                network.wake();
                ordering.wake();
            }));
        }
        self.execution.wake_others(wakers(StageKind::Execution, 0));
    }

    /// The stages, to be placed on cores.
    pub fn into_stages(self) -> Stages {
        let worker = |worker: Worker| Box::new(worker) as Box<dyn Stage>;
        Stages {
            network: self.network,
            workers: self.workers.into_iter().map(worker).collect(),
            ordering: self.ordering,
            execution: self.execution,
        }
    }

    /// Wakes a parked network stage.
    pub fn waker(&self) -> Waker {
        self.network.waker()
    }

    /// The memory of messages.
    pub fn pool(&self) -> &FramePool {
        self.network.pool()
    }

    /// Is there a session with this peer?
    pub fn is_up(&self, peer: PeerId) -> bool {
        self.network.is_up(peer)
    }

    /// What tells the stages of views, also when they are on other cores.
    pub fn herald(&self) -> Arc<Herald> {
        Arc::clone(&self.herald)
    }

    /// From now on addresses of members that views bring come from there.
    pub fn look_up(&mut self, addresses: Box<dyn Addresses>) {
        self.network.look_up(addresses);
    }

    /// Who this is.
    pub fn id(&self) -> ReplicaId {
        self.core().id()
    }

    /// The protocol core, for checkers and tests.
    pub fn core(&self) -> &Replica<FramePayload> {
        self.ordering.core()
    }

    /// The application, for checkers and tests.
    pub fn service(&self) -> &dyn StateMachine {
        self.execution.service()
    }
}
