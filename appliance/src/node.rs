//! A node: a replica's three stages, put together.
//!
//! Owns the composition, and nothing else does: production and simulator build the same node from
//! the same parts, and differ in the endpoint below the links. Always true: no clock, thread, file
//! or random number is used here; time comes with each turn. Must not: know where parts come from.

use std::sync::Arc;

use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::{
    Config, Instant as CoreInstant, ReplicaId, RequestValidator, StateMachine,
};
use tetrarch_dataplane::crypto::keys::KeyError;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::links::Links;
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::types::{Instant, PeerId};

use crate::metrics::Metrics;
use crate::payload::{FramePayload, FramePayloadPool};
use crate::proofs::Proofs;
use crate::reply_cache::ReplyCache;
use crate::stage::egress::Egress;
use crate::stage::execution::Execution;
use crate::stage::ingress::Ingress;
use crate::stage::network::Network;
use crate::stage::ordering::Ordering;
use crate::stage::{Events, rings};

/// What a node is made of.
pub struct Parts<'a> {
    /// What the core is told: who it is, the view, limits, the timeout.
    pub config: Config,
    /// Public keys of members and clients.
    pub cluster: &'a Cluster,
    /// This replica's private keys.
    pub keys: &'a PrivateKeys,
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

/// See the module.
pub struct Node {
    network: Box<Network>,
    ordering: Box<Ordering>,
    execution: Box<Execution>,
}

impl Node {
    /// Puts a node together. The second value is what it has to tell operators.
    ///
    /// # Errors
    /// A client's public key gives no secrecy.
    pub fn new(parts: Parts<'_>, now: Instant) -> Result<(Self, Events), BadClientKey> {
        let Parts { config, cluster, keys, links, pool, service, validator, metrics, .. } = parts;
        let (own, view) = (config.id, config.view.clone());
        let (network_rings, ordering_rings, execution_rings, events) = rings();
        let proofs = Proofs::new(cluster, own, keys)
            .map_err(|(client, source)| BadClientKey { client, source })?;
        let sessions_max = config.sessions_per_client_max;
        let ingress = Ingress::new(view.clone(), proofs, validator, sessions_max);
        let egress = Egress::new(own, view.clone(), keys.signing_key.clone(), pool.clone());
        let network = Network::new(
            own,
            view.clone(),
            links,
            ingress,
            egress,
            network_rings,
            pool.clone(),
            Arc::clone(&metrics),
        );
        let core_pool = Box::new(FramePayloadPool(pool.clone()));
        let core = Replica::new(config, core_pool, CoreInstant(now.0));
        let ordering = Ordering::new(core, ordering_rings, Arc::clone(&metrics));
        let cache = ReplyCache::new(parts.reply_cache_size, parts.reply_cache_session_size);
        let execution = Execution::new(service, cache, execution_rings, pool, view.id(), metrics);
        let node = Self {
            network: Box::new(network),
            ordering: Box::new(ordering),
            execution: Box::new(execution),
        };
        Ok((node, events))
    }

    /// One turn of all stages, fused. Call it again while it says that it worked.
    pub fn turn(&mut self, now: Instant) -> Progress {
        let network = self.network.poll(now);
        let ordering = self.ordering.poll(now);
        let execution = self.execution.poll(now);
        network.or(ordering).or(execution)
    }

    /// When to call [`Node::turn`] even if nothing arrives.
    pub fn next_deadline(&self) -> Option<Instant> {
        let stages: [&dyn Stage; 3] = [&*self.network, &*self.ordering, &*self.execution];
        stages.iter().filter_map(|stage| stage.next_deadline()).min()
    }

    /// Tells ordering and execution to wake the network stage for what they leave in its rings. For
    /// stages on different cores: on one core the network stage has its turn anyway.
    pub fn wake_across_cores(&mut self) {
        let waker = self.network.waker();
        self.ordering.wake_network(waker.clone());
        self.execution.wake_network(waker);
    }

    /// The stages, to be placed on cores: network, ordering, execution.
    pub fn into_stages(self) -> [Box<dyn Stage>; 3] {
        [self.network, self.ordering, self.execution]
    }

    /// Wakes a parked network stage.
    pub fn waker(&self) -> Waker {
        self.network.waker()
    }

    /// Is there a session with this peer?
    pub fn is_up(&self, peer: PeerId) -> bool {
        self.network.is_up(peer)
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
