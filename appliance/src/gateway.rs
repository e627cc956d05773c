//! `tetrarch gateway redis`: the services' Redis gateway over the client library.
//!
//! Owns the process around it. Always true: it waits until a quorum of replicas is connected before
//! it says that it serves. Must not: keep data.

use anyhow::Result;
use tetrarch_client::{ClientConfig, ClientDriver};
use tetrarch_dataplane::clock::SystemClock;
use tetrarch_services::gateway::driver::{DriverCluster, DriverConfig};
use tetrarch_services::gateway::{self, GatewayConfig, ReadMode};

use crate::cli::{GatewayArgs, Reads};
use crate::replica_command::stop_on_signals;
use crate::{info, log, warning};

/// Redis connections at a time: each has a session of its own.
const CONNECTIONS_MAX: usize = 1024;

/// Serves Redis clients until told to stop.
///
/// # Errors
/// The cluster cannot be reached, or the address cannot be listened on.
pub fn run(args: &GatewayArgs) -> Result<()> {
    log::set_speaker("gateway".into());
    let stop = stop_on_signals()?;
    let config = ClientConfig::load(&args.directory, args.client)?;
    let mut driver = ClientDriver::open(&config)?;
    let clock = SystemClock::new();
    let connected = driver.connect(&clock, config.connect_timeout);
    while let Some(diagnosis) = driver.diagnosis() {
        warning!("{diagnosis}");
    }
    connected?;
    let model = tetrarch_client::cluster::model_name(config.cluster.model);
    let replicas = driver.cluster().members.len();
    info!(
        "cluster {:016x}: {} of {replicas} replicas are connected; serving Redis clients at {} as \
         client {}",
        config.cluster.id,
        driver.connected(),
        args.listen,
        args.client
    );
    let driver_config = DriverConfig {
        sessions: config.sessions_max,
        operation_timeout: config.operation_timeout,
        description: format!("tetrarch {:016x}, {model} model", config.cluster.id),
    };
    let mut cluster = DriverCluster::new(driver, clock, driver_config);
    let read_mode = match args.reads {
        Reads::Ordered => ReadMode::Ordered,
        Reads::ReadOnly => ReadMode::ReadOnly,
    };
    let max_connections = CONNECTIONS_MAX.min(config.sessions_max as usize);
    let gateway = GatewayConfig { read_mode, max_connections, ..GatewayConfig::new(args.listen) };
    gateway::run(&gateway, &mut cluster, &stop)?;
    info!("stopped");
    Ok(())
}
