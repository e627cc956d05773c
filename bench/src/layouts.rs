//! One replica in several layouts: what further cores bring.
//!
//! A cluster of one replica (n = 1, f = 0) orders alone, so all of its work is that of one replica. The
//! requests are signed before the clock starts, and one thread that does little more than move them
//! keeps a fixed number in flight: it costs a tenth of what checking a signature costs. Each layout
//! carries out the same requests, in turns, so that what else the machine does hits all alike.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant as Wall};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_appliance::budget::Sizes;
use tetrarch_appliance::placement::Placement;
use tetrarch_appliance::running::{Running, Start};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_appliance::testing::{TestCluster, request_bytes};
use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::message::reply::{ReplyHeader, Status};
use tetrarch_consensus::message::{codec, kind, proof};
use tetrarch_consensus::{ClientId, Config, Digest, ReplicaId};
use tetrarch_dataplane::affinity::{self, CoreId};
use tetrarch_dataplane::arena::{ArenaSpec, FramePool, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::endpoint::Transport;
use tetrarch_dataplane::handshake::Identity;
use tetrarch_dataplane::limits::{BUNDLE_SIZE_MAX, BURST_MAX};
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::stage::IdlePolicy;
use tetrarch_dataplane::transport::choice::TransportChoice;
use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};
use tetrarch_dataplane::types::PeerId;

use crate::latency::{Latencies, LatencySummary};

/// Nobody may be silent for longer.
const SILENCE: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug)]
pub struct LayoutsOptions {
    /// Widths of the layouts: 1 is fused, more are spread over so many cores.
    pub widths: Vec<usize>,
    /// Requests in flight, each of a session of its own.
    pub sessions: u32,
    /// Requests of each session, in each round.
    pub requests: u32,
    /// Rounds; each measures all layouts once.
    pub rounds: u32,
    /// Requests one after the other, for the latency without load.
    pub unloaded: u32,
    /// What idle cores of the replica do.
    pub idle: IdlePolicy,
}

/// What one layout did.
#[derive(Clone, Debug, Serialize)]
pub struct LayoutResult {
    /// Its cores.
    pub width: usize,
    /// Where its stages were.
    pub placement: String,
    /// Signed requests per second, by round.
    pub per_second: Vec<f64>,
    /// Their median.
    pub median_per_second: f64,
    /// The median as a multiple of the first layout's, both of the same round.
    pub ratio: f64,
    /// Of one request at a time.
    pub unloaded: LatencySummary,
}

/// A signed request, ready to be sent.
struct Signed {
    session: u64,
    digest: [u8; 32],
    bytes: Vec<u8>,
}

/// Measures each layout in each round.
///
/// # Errors
/// The replica does not start, or does not answer.
pub fn run(options: &LayoutsOptions) -> Result<Vec<LayoutResult>> {
    let test = TestCluster::new(1, 0, 1);
    let requests = sign(&test, options);
    let mut results: Vec<LayoutResult> = Vec::new();
    let mut latencies: Vec<Latencies> = Vec::new();
    for round in 0..options.rounds {
        for (at, width) in options.widths.iter().enumerate() {
            let placement = placement(*width, options.idle);
            let measured = measure(&test, &requests, options, &placement)
                .with_context(|| format!("{width} cores"))?;
            if round == 0 {
                latencies.push(Latencies::default());
                results.push(LayoutResult {
                    width: *width,
                    placement: placement.to_string(),
                    per_second: Vec::new(),
                    median_per_second: 0.0,
                    ratio: 0.0,
                    unloaded: Latencies::default().summary(),
                });
            }
            results[at].per_second.push(measured.0);
            latencies[at].merge(&measured.1);
        }
    }
    let first = results.first().map(|result| result.per_second.clone()).unwrap_or_default();
    for (result, latencies) in results.iter_mut().zip(&latencies) {
        let ratios = result.per_second.iter().zip(&first).map(|(this, first)| this / first);
        result.ratio = median(ratios.collect());
        result.median_per_second = median(result.per_second.clone());
        result.unloaded = latencies.summary();
    }
    Ok(results)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// `width` cores, pinned if there are as many. The load runs on the last one.
fn placement(width: usize, idle: IdlePolicy) -> Placement {
    let mut placement = Placement::spread(idle, width);
    if let Ok(cpus) = affinity::allowed_cores()
        && cpus.len() >= width.max(2)
    {
        placement.pin(&cpus[..width]);
    }
    placement
}

/// By session, then in order; the requests of the unloaded phase come first and are of session 0.
fn sign(test: &TestCluster, options: &LayoutsOptions) -> Vec<Vec<Signed>> {
    let key = &test.client_keys[0].signing_key;
    let signed = |session: u32, counter: u32| {
        let client = ClientId::new(0, session);
        let mut bytes = request_bytes(client, counter, &[], false);
        let digest = body_digest(&bytes);
        let message = codec::request_to_sign(test.cluster.id, &Digest(digest));
        bytes.extend_from_slice(&key.sign(&message));
        Signed { session: client.0, digest, bytes }
    };
    let count = |session| options.requests + if session == 0 { options.unloaded } else { 0 };
    let requests = |session| (1..=count(session)).map(move |at| signed(session, at)).collect();
    (0..options.sessions).map(requests).collect()
}

fn measure(
    test: &TestCluster,
    requests: &[Vec<Signed>],
    options: &LayoutsOptions,
    placement: &Placement,
) -> Result<(f64, Latencies)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    let listen = listener.local_addr()?;
    drop(listener);
    let mut core = Config::new(ReplicaId(0), test.cluster.view());
    (core.clients_max, core.sessions_per_client_max) = (1, options.sessions);
    core.request_timeout = Duration::from_secs(60);
    let running = Running::start(Start {
        id: ReplicaId(0),
        cluster: test.cluster.clone(),
        keys: copy(&test.replica_keys[0]),
        other_keys: None,
        service: ServiceKind::Null.build([0; 2]),
        listen,
        transport: TransportChoice::default(),
        metrics: None,
        placement: placement.clone(),
        sizes: Sizes { frames_size: 64 << 20, ..Sizes::default() },
        core,
        half_open_max: 16,
    })?;
    let cpu = affinity::allowed_cores().ok().and_then(|cpus| cpus.last().copied());
    let load = || Load::connect(test, listen, cpu)?.run(requests, options.unloaded as usize);
    // A thread of its own: pinning it cannot be undone.
    let measured = thread::scope(|scope| scope.spawn(load).join());
    let stopped = running.stop();
    let measured = measured.map_err(|_| anyhow::anyhow!("the load failed"))??;
    stopped?;
    Ok(measured)
}

/// Private keys have no `Clone`, so that none are left behind by accident. These are thrown away.
fn copy(keys: &PrivateKeys) -> PrivateKeys {
    PrivateKeys { static_secret: keys.static_secret.clone(), signing_key: keys.signing_key.clone() }
}

struct Load {
    links: Links,
    pool: FramePool,
    clock: SystemClock,
    received: Burst<Received>,
}

impl Load {
    fn connect(test: &TestCluster, replica: SocketAddr, cpu: Option<CoreId>) -> Result<Self> {
        if let Some(cpu) = cpu {
            affinity::pin_current(cpu)?;
        }
        let dial = vec![(PeerId::replica(0), replica)];
        let config = TcpConfig { dial, tx_messages_max: 8192, ..TcpConfig::default() };
        let mut transport = TcpTransport::new(config)?;
        // Replies share headers: what carries them is larger than they are.
        let bundles = SlotClass { slot_size: BUNDLE_SIZE_MAX as u32, count: 1024 };
        let classes = vec![SlotClass { slot_size: 512, count: 16_384 }, bundles];
        let pool = transport.arena(&ArenaSpec { classes })?.pool();
        let endpoint = transport.open(0, pool.clone())?;
        let secret = test.client_keys[0].static_secret.clone();
        let identity = Identity { peer: PeerId::client(0), secret };
        let cluster: &Cluster = &test.cluster;
        let (directory, config) = (cluster.directory()?, LinkConfig::default());
        let links = Links::new(endpoint, identity, directory, cluster.id, config, pool.clone())?;
        let received = Burst::with_capacity(BURST_MAX);
        let mut load = Self { links, pool, clock: SystemClock::new(), received };
        let started = Wall::now();
        while !load.links.is_up(PeerId::replica(0)) {
            load.turn()?;
            if started.elapsed() > SILENCE {
                bail!("no link with the replica");
            }
        }
        Ok(load)
    }

    /// One at a time, then all sessions at once.
    fn run(mut self, requests: &[Vec<Signed>], unloaded: usize) -> Result<(f64, Latencies)> {
        let mut latencies = Latencies::default();
        for request in &requests[0][..unloaded] {
            let started = Wall::now();
            self.send(request)?;
            while self.answers()?.is_empty() {
                if started.elapsed() > SILENCE {
                    bail!("no answer");
                }
            }
            latencies.record(started.elapsed());
        }
        let mut next: Vec<usize> = vec![0; requests.len()];
        next[0] = unloaded;
        let mut waiting: usize = requests.iter().map(Vec::len).sum::<usize>() - unloaded;
        let (total, started) = (waiting, Wall::now());
        let mut heard = started;
        for session in 0..requests.len() {
            self.send_next(requests, &mut next, session)?;
        }
        while waiting > 0 {
            let answers = self.answers()?;
            if answers.is_empty() && heard.elapsed() > SILENCE {
                bail!("{waiting} of {total} requests without an answer");
            }
            if !answers.is_empty() {
                heard = Wall::now();
            }
            for session in answers {
                waiting -= 1;
                self.send_next(requests, &mut next, session)?;
            }
        }
        Ok((total as f64 / started.elapsed().as_secs_f64(), latencies))
    }

    fn send_next(
        &mut self,
        requests: &[Vec<Signed>],
        next: &mut [usize],
        session: usize,
    ) -> Result<()> {
        if let Some(request) = requests[session].get(next[session]) {
            next[session] += 1;
            self.send(request)?;
        }
        Ok(())
    }

    fn send(&mut self, request: &Signed) -> Result<()> {
        let frame = self.pool.copy_from(&request.bytes).context("no frame is free")?;
        let sent = self.links.tx(Outgoing {
            to: PeerId::replica(0),
            kind: kind::REQUEST,
            auth: proof::SIGNATURE,
            session: request.session,
            proof_size: 64,
            body_digest: Some(request.digest),
            frame: Some(frame),
        });
        if sent { Ok(()) } else { bail!("the link does not take a request") }
    }

    /// Sessions that were answered.
    fn answers(&mut self) -> Result<Vec<usize>> {
        if self.turn()? == 0 {
            self.links.park(Duration::from_millis(10));
        }
        let mut sessions = Vec::new();
        while let Some(message) = self.received.pop_front() {
            let header = ReplyHeader::parse(message.body()).ok().context("not a reply")?;
            if header.status != Status::Ok {
                bail!("a request was answered with {:?}", header.status);
            }
            sessions.push(header.client.session() as usize);
        }
        Ok(sessions)
    }

    fn turn(&mut self) -> Result<usize> {
        let now = self.clock.now();
        self.links.flush(now);
        let count = self.links.rx_burst(now, &mut self.received);
        while self.links.event().is_some() {}
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_carries_out_all_requests() {
        let options = LayoutsOptions {
            widths: vec![1, 2],
            // More than share one header.
            sessions: 64,
            requests: 5,
            rounds: 1,
            unloaded: 3,
            idle: IdlePolicy::Park,
        };
        let results = run(&options).expect("loopback is there");
        assert_eq!(results.iter().map(|result| result.width).collect::<Vec<_>>(), [1, 2]);
        for result in &results {
            assert!(result.median_per_second > 0.0 && result.unloaded.p50_us > 0.0);
            assert_eq!(result.per_second.len(), 1);
        }
        assert_eq!(results[0].ratio, 1.0, "the first is compared with itself");
    }
}
