//! Round trips over the real links: the floor under every protocol figure.
//!
//! Two threads, a TCP connection on loopback, full authentication, the same idle policy as a replica.
//! A request needs five one-way hops (request, PROPOSE, WRITE, ACCEPT, reply), so five times half a
//! round trip is the least that an unloaded request can take on the same machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as Wall};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_dataplane::arena::{Arena, ArenaSpec, FramePool, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};
use tetrarch_dataplane::types::{Digest, PeerId};

use crate::latency::{Latencies, LatencySummary};

/// The kind of a ping on the link; any that the links do not keep for themselves.
const KIND: u8 = 1;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct PingOptions {
    /// Bytes of each message, without the 96-byte header.
    pub size: usize,
    /// Round trips that count.
    pub count: u64,
    /// Sleep while waiting, or spin. Spinning wants two cores that nobody else uses.
    pub park: bool,
}

/// Result of [`run`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PingResult {
    /// Bytes of each message.
    pub size: usize,
    /// Round trips measured.
    pub count: u64,
    /// Did both sides sleep while waiting?
    pub park: bool,
    /// Round trips.
    pub round_trip: LatencySummary,
}

impl PingResult {
    /// Five one-way hops, microseconds: the floor of an unloaded request.
    pub fn request_floor_us(&self) -> f64 {
        self.round_trip.p50_us / 2.0 * 5.0
    }
}

struct Side {
    links: Links,
    pool: FramePool,
    clock: SystemClock,
    received: Burst<Received>,
    park: bool,
}

/// Measures round trips between two threads of this process.
///
/// # Errors
/// When no loopback socket can be had, or the other side is silent for ten seconds.
pub fn run(options: PingOptions) -> Result<PingResult> {
    let secrets = [StaticSecret::generate()?, StaticSecret::generate()?];
    let peers = [PeerId::replica(0), PeerId::replica(1)];
    let directory =
        Directory::new([(peers[0], secrets[0].public()), (peers[1], secrets[1].public())])?;
    let [first, second] = secrets;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listening = TcpConfig { listen: Some(any), ..TcpConfig::default() };
    let identity = Identity { peer: peers[0], secret: first };
    let (mut echo, address) = side(listening, identity, directory.clone(), options)?;
    let address = address.context("the listening side has an address")?;
    let dialling = TcpConfig { dial: vec![(peers[0], address)], ..TcpConfig::default() };
    let identity = Identity { peer: peers[1], secret: second };
    let (mut ping, _) = side(dialling, identity, directory, options)?;

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let echoing = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            echo.turn(Duration::from_millis(50));
            while let Some(received) = echo.received.pop_front() {
                echo.transmit(received.peer, received.header.body_digest, received.frame);
            }
        }
    });
    let measured = measure(&mut ping, peers[0], options);
    stop.store(true, Ordering::Relaxed);
    if echoing.join().is_err() {
        bail!("the echoing side failed");
    }
    let round_trip = measured?.summary();
    Ok(PingResult { size: options.size, count: options.count, park: options.park, round_trip })
}

fn side(
    config: TcpConfig,
    identity: Identity,
    directory: Directory,
    options: PingOptions,
) -> Result<(Side, Option<SocketAddr>)> {
    let slot = u32::try_from(options.size.max(512)).context("the message is too long")?;
    let arena =
        Arena::heap(&ArenaSpec { classes: vec![SlotClass { slot_size: slot, count: 256 }] })?;
    let mut transport = TcpTransport::new(config)?;
    let address = transport.local_address();
    let pool = arena.pool();
    let endpoint = Box::new(transport.open_endpoint(pool.clone())?);
    let links = Links::new(endpoint, identity, directory, 1, LinkConfig::default(), pool.clone());
    let received = Burst::with_capacity(64);
    let side = Side { links, pool, clock: SystemClock::new(), received, park: options.park };
    Ok((side, address))
}

impl Side {
    fn turn(&mut self, limit: Duration) {
        let now = self.clock.now();
        let count = self.links.rx_burst(now, &mut self.received);
        while self.links.event().is_some() {}
        self.links.flush(now);
        if count == 0 && self.park {
            self.links.park(limit);
        }
    }

    fn send(&mut self, to: PeerId, body: &[u8]) -> bool {
        let Some(frame) = self.pool.copy_from(body) else { return false };
        self.transmit(to, body_digest(body), frame)
    }

    fn transmit(&mut self, to: PeerId, body_digest: Digest, frame: Frame) -> bool {
        let frame = Some(frame);
        let outgoing =
            Outgoing { to, kind: KIND, auth: 0, session: 0, proof_size: 0, body_digest, frame };
        let sent = self.links.tx(outgoing);
        self.links.flush(self.clock.now());
        sent
    }
}

fn measure(ping: &mut Side, to: PeerId, options: PingOptions) -> Result<Latencies> {
    let body = vec![7u8; options.size];
    let mut latencies = Latencies::default();
    let warm_up = options.count / 10;
    let silence = Duration::from_secs(10);
    let mut since = Wall::now();
    while !ping.links.is_up(to) {
        ping.turn(Duration::from_millis(10));
        if since.elapsed() > silence {
            bail!("no session with the echoing side after {} s", silence.as_secs());
        }
    }
    for number in 0..options.count + warm_up {
        since = Wall::now();
        if !ping.send(to, &body) {
            bail!("the link does not take message {number}");
        }
        while ping.received.pop_front().is_none() {
            ping.turn(Duration::from_millis(50));
            if since.elapsed() > silence {
                bail!("no answer to message {number} for {} s", silence.as_secs());
            }
        }
        if number >= warm_up {
            latencies.record(since.elapsed());
        }
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_round_trips_are_measured() {
        let result =
            run(PingOptions { size: 64, count: 50, park: true }).expect("loopback is there");
        assert_eq!(result.count, 50);
        assert!(result.round_trip.p50_us > 0.0);
        assert!(result.request_floor_us() > result.round_trip.p50_us);
    }
}
