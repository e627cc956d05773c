//! Replicas in this process, for the examples: over TCP with threads, or over memory without.
//!
//! Owns how an example starts a cluster. Always true: keys are new at each start, ports are free ones.
//! Must not: be used by anything but examples.

use std::sync::Arc;

use anyhow::{Context, Result};
use tetrarch_appliance::budget::{Budget, Sizes};
use tetrarch_appliance::demo::free_ports;
use tetrarch_appliance::init::generate;
use tetrarch_appliance::metrics::Metrics;
use tetrarch_appliance::node::{Node, Parts};
use tetrarch_appliance::placement::Placement;
use tetrarch_appliance::running::{Running, Start};
use tetrarch_appliance::service::{Service, ServiceKind};
use tetrarch_client::ClientConfig;
use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::{Config, FaultModel, ReplicaId};
use tetrarch_dataplane::arena::Arena;
use tetrarch_dataplane::endpoint::Transport;
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::links::{LinkConfig, Links};
use tetrarch_dataplane::stage::IdlePolicy;
use tetrarch_dataplane::transport::choice::TransportChoice;
use tetrarch_dataplane::transport::memory::{MemoryTransport, Port, Switch};
use tetrarch_dataplane::types::{Instant, PeerId};

/// Where clients sit on a switch: behind all replicas.
const CLIENT_PORT: Port = Port(1000);

/// Four replicas of `kind` with threads of their own, over TCP on the loopback, and the configuration
/// of their client.
///
/// # Errors
/// No free port, or no memory.
pub fn tcp_replicas(kind: ServiceKind) -> Result<(Vec<Running>, ClientConfig)> {
    tcp_replicas_of(|| kind.build([0; 2]))
}

/// As [`tcp_replicas`], of a service of one's own.
///
/// # Errors
/// As there.
pub fn tcp_replicas_of(service: impl Fn() -> Service) -> Result<(Vec<Running>, ClientConfig)> {
    let (starts, config) = tcp_starts_of(service)?;
    let replicas = starts.into_iter().map(Running::start).collect::<Result<_>>()?;
    Ok((replicas, config))
}

/// What four replicas are started with, for a program that starts them one by one, or differently.
///
/// # Errors
/// No free port.
pub fn tcp_starts_of(service: impl Fn() -> Service) -> Result<(Vec<Start>, ClientConfig)> {
    let ports = free_ports(4)?;
    let addresses: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let (cluster, keys, client) = four(&addresses)?;
    let mut starts = Vec::new();
    for ((id, keys), listen) in (0..).map(ReplicaId).zip(keys).zip(ports) {
        starts.push(Start {
            id,
            cluster: cluster.clone(),
            keys,
            other_keys: None,
            service: service(),
            listen,
            metrics: None,
            transport: TransportChoice::default(),
            placement: Placement::fused(IdlePolicy::Park),
            sizes: small(),
            core: core(id, &cluster),
            half_open_max: 16,
        });
    }
    Ok((starts, ClientConfig::new(cluster, 0, client)))
}

/// Four nodes that the caller turns, over the memory transport, each with the memory it uses; and the
/// configuration of their client, whose transport is [`client_transport`].
///
/// # Errors
/// No memory.
pub fn memory_nodes(
    switch: &Switch,
    now: Instant,
    service: impl Fn() -> Service,
) -> Result<(Vec<(Node, Arena)>, ClientConfig)> {
    let addresses: Vec<String> = (0..4).map(|id| format!("memory:{id}")).collect();
    let (cluster, keys, client) = four(&addresses)?;
    let mut nodes = Vec::new();
    for (id, keys) in (0..).map(ReplicaId).zip(&keys) {
        // Of each pair, the member with the higher id dials.
        let mut transport = MemoryTransport::new(switch, Port(id.0), &ports(id.0));
        let arena = transport.arena(&Budget::new(small()).arena)?;
        let endpoint = transport.open(0, arena.pool())?;
        let secret = keys.static_secret.clone();
        let identity = Identity { peer: PeerId::replica(id.0), secret };
        let (directory, config) = (cluster.directory()?, LinkConfig::default());
        let links = Links::new(endpoint, identity, directory, cluster.id, config, arena.pool())?;
        let (service, validator) = service();
        let parts = Parts {
            config: core(id, &cluster),
            cluster: &cluster,
            keys,
            other_keys: None,
            links,
            pool: arena.pool(),
            service,
            validator,
            reply_cache_size: small().reply_cache_size,
            reply_cache_session_size: 1 << 16,
            metrics: Arc::new(Metrics::new()),
        };
        // What a node has to tell operators is not wanted here.
        let (node, _events) = Node::new(parts, now)?;
        nodes.push((node, arena));
    }
    Ok((nodes, ClientConfig::new(cluster, 0, client)))
}

/// The transport of the client of [`memory_nodes`].
pub fn client_transport(switch: &Switch) -> MemoryTransport {
    MemoryTransport::new(switch, CLIENT_PORT, &ports(4))
}

/// A small replica's memory.
fn small() -> Sizes {
    Sizes { frames_size: 16 << 20, reply_cache_size: 1 << 20, ..Sizes::default() }
}

/// A new cluster of four that tolerates one Byzantine fault, with one client.
fn four(addresses: &[String]) -> Result<(Cluster, Vec<PrivateKeys>, PrivateKeys)> {
    let (cluster, keys, clients) = generate(addresses, 1, FaultModel::Byzantine, 1)?;
    let client = clients.into_iter().next().context("one client was asked for")?;
    Ok((cluster, keys, client))
}

fn core(id: ReplicaId, cluster: &Cluster) -> Config {
    let mut config = Config::new(id, cluster.view());
    config.clients_max = 1;
    config
}

fn ports(below: u16) -> Vec<(PeerId, Port)> {
    (0..below).map(|id| (PeerId::replica(id), Port(id))).collect()
}
