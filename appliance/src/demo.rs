//! `tetrarch demo`: four replicas and a load in one process; the leader dies half way.
//!
//! Owns the show. Always true: it uses what a real cluster uses (TCP, keys, the client library); its
//! verdict is checked, not assumed: every session counts, so a lost or doubled write shows in the
//! next answer and in the final read. Must not: need a file, a free port of a certain number, or
//! more than half a minute.

mod load;
mod report;

use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_client::{ClientConfig, ClientDriver};
use tetrarch_consensus::{Config, FaultModel, ReplicaId};
use tetrarch_dataplane::stage::IdlePolicy;
use tetrarch_dataplane::transport::choice::TransportChoice;

use crate::budget::Sizes;
use crate::cli::DemoArgs;
use crate::init::generate;
use crate::placement::Placement;
use crate::replica_command::stop_on_signals;
use crate::running::{Running, Start};
use crate::service::ServiceKind;
use load::{Load, Tally};

const REPLICAS: usize = 4;
const FAULTS: usize = 1;
const MIB: usize = 1024 * 1024;

/// Little memory, so that it starts at once on a small machine.
const SIZES: Sizes =
    Sizes { frames_size: 16 * MIB, decision_log_size: 16 * MIB, reply_cache_size: 8 * MIB };

/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(500);

/// Runs the demo and prints its result. `false`: a write was lost, or nothing was ordered.
///
/// # Errors
/// It could not be started.
pub fn run(args: &DemoArgs) -> Result<bool> {
    let stop = stop_on_signals()?;
    let began = Instant::now();
    println!(
        "Tetrarch demo: {REPLICAS} replicas in this process, f = {FAULTS}: one of them may do \
         anything.\nTCP on loopback, real keys, a key-value store, {} sessions that count.\n",
        args.sessions
    );
    let (mut replicas, config) = start(args)?;
    let driver = ClientDriver::open(&config)?;
    let mut load = Load::new(driver, args.sessions);
    load.connect(config.connect_timeout, &stop)?;
    println!("  {:5.1} s  all links are up, replica 0 leads", began.elapsed().as_secs_f64());

    let half = Duration::from_millis(args.seconds * 500);
    let mut progress = Progress::new(began);
    let before = load.run(half, &stop, |tally| progress.show(tally));
    progress.end();
    let killed = kill_leader(&mut replicas)?;
    println!(
        "  {:5.1} s  killed the leader, replica {killed}, in the middle of {} requests",
        began.elapsed().as_secs_f64(),
        load.in_flight()
    );
    let after = load.run(half, &stop, |tally| progress.show(tally));
    progress.end();
    if stop.load(Ordering::Acquire) {
        bail!("interrupted");
    }
    load.finish(Duration::from_secs(10));
    let check = load.check(Duration::from_secs(10));
    let regency = replicas
        .iter()
        .flatten()
        .map(|replica| (replica.subject().status().regency, replica.subject().status().leader))
        .max()
        .unwrap_or_default();
    for replica in replicas.into_iter().flatten() {
        replica.stop()?;
    }
    let verdict = report::Verdict { before, after, check, killed, regency, args: args.clone() };
    print!("{verdict}");
    Ok(verdict.passed())
}

/// Starts the replicas; gives the configuration of their client.
fn start(args: &DemoArgs) -> Result<(Vec<Option<Running>>, ClientConfig)> {
    let ports = free_ports(REPLICAS)?;
    let addresses: Vec<String> = ports.iter().map(SocketAddr::to_string).collect();
    let (cluster, keys, client_keys) = generate(&addresses, FAULTS, FaultModel::Byzantine, 1)?;
    cluster.check("demo".as_ref())?;
    let mut replicas = Vec::with_capacity(REPLICAS);
    for ((id, keys), listen) in (0..).zip(keys).zip(&ports) {
        let start = replica(args, &cluster, ReplicaId(id), keys, *listen);
        let running = Running::start(start).with_context(|| format!("replica {id}"))?;
        replicas.push(Some(running));
    }
    let keys = client_keys.into_iter().next().context("the client has no keys")?;
    let mut config = ClientConfig::new(cluster, 0, keys);
    config.request_timeout = Duration::from_millis(args.request_timeout_ms);
    config.sessions_max = args.sessions;
    config.request_memory = 16 * MIB;
    config.reply_memory = 16 * MIB;
    Ok((replicas, config))
}

fn replica(
    args: &DemoArgs,
    cluster: &Cluster,
    id: ReplicaId,
    keys: PrivateKeys,
    listen: SocketAddr,
) -> Start {
    let mut core = Config::new(id, cluster.view());
    core.request_timeout = Duration::from_millis(args.request_timeout_ms);
    core.clients_max = 1;
    core.decision_log_size = SIZES.decision_log_size;
    Start {
        id,
        cluster: cluster.clone(),
        keys,
        other_keys: None,
        service: ServiceKind::Kv.build([0; 2]),
        listen,
        metrics: None,
        transport: TransportChoice::default(),
        placement: Placement::fused(IdlePolicy::Park),
        sizes: SIZES,
        core,
        half_open_max: 16,
    }
}

/// Loopback addresses that were free a moment ago.
pub fn free_ports(count: usize) -> Result<Vec<SocketAddr>> {
    let listen = || TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1");
    let listeners = (0..count).map(|_| listen()).collect::<Result<Vec<_>>>()?;
    // All at once, so that no two are the same; they are free again when this returns.
    listeners.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}

/// Ends the leader's threads: its connections close, as if its process had died.
fn kill_leader(replicas: &mut [Option<Running>]) -> Result<u16> {
    let statuses = replicas.iter().flatten().map(|replica| replica.subject().status());
    let leader = statuses.max_by_key(|status| status.regency).map_or(0, |status| status.leader);
    let place = replicas.get_mut(leader as usize).context("the leader is a replica")?;
    if let Some(replica) = place.take() {
        replica.stop()?;
    }
    Ok(leader as u16)
}

/// The line that changes while the load runs.
struct Progress {
    began: Instant,
    last: Instant,
    answered: u64,
    terminal: bool,
}

impl Progress {
    fn new(began: Instant) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { began, last: Instant::now(), answered: 0, terminal }
    }

    fn show(&mut self, tally: &Tally) {
        let passed = self.last.elapsed();
        if passed < PROGRESS {
            return;
        }
        let answered = tally.answered;
        let rate = answered.saturating_sub(self.answered) as f64 / passed.as_secs_f64();
        self.answered = answered;
        self.last = Instant::now();
        if self.terminal {
            let line = format!(
                "\r  {:5.1} s  {rate:8.0} requests/s   {answered:9} answered  ",
                self.began.elapsed().as_secs_f64()
            );
            // A terminal that is gone is no reason to stop.
            let _ = std::io::stdout().write_all(line.as_bytes());
            let _ = std::io::stdout().flush();
        }
    }

    fn end(&mut self) {
        if self.terminal {
            print!("\r{:60}\r", "");
        }
        self.answered = 0;
    }
}
