//! Round trips over the real links: the floor under every protocol figure.
//!
//! Two threads, one connection, full authentication, the same idle policy as a replica.
//! A request needs five one-way hops (request, PROPOSE, WRITE, ACCEPT, reply), so five times half a
//! round trip is the least that an unloaded request can take on the same machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::latency::{Latencies, LatencySummary};
use crate::wire::{Side, Wire, pair};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct PingOptions {
    /// Over which transport.
    pub wire: Wire,
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
    /// Over which transport.
    pub wire: Wire,
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

/// Measures round trips between two threads of this process.
///
/// # Errors
/// When no loopback socket can be had, or the other side is silent for ten seconds.
pub fn run(options: PingOptions) -> Result<PingResult> {
    let [mut echo, mut ping] = pair(options.wire, options.size, options.park)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let echoing = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            echo.turn(Duration::from_millis(50));
            while let Some(received) = echo.take() {
                echo.send_back(received);
            }
        }
    });
    let measured = measure(&mut ping, options);
    stop.store(true, Ordering::Relaxed);
    if echoing.join().is_err() {
        bail!("the echoing side failed");
    }
    let round_trip = measured?.summary();
    let PingOptions { wire, size, count, park } = options;
    Ok(PingResult { wire, size, count, park, round_trip })
}

fn measure(ping: &mut Side, options: PingOptions) -> Result<Latencies> {
    let body = vec![7u8; options.size];
    let mut latencies = Latencies::default();
    let warm_up = options.count / 10;
    let silence = Duration::from_secs(10);
    let mut since = Instant::now();
    while !ping.is_up() {
        ping.turn(Duration::from_millis(10));
        if since.elapsed() > silence {
            bail!("no session with the echoing side after {} s", silence.as_secs());
        }
    }
    for number in 0..options.count + warm_up {
        since = Instant::now();
        if !ping.send(&body) {
            bail!("the link does not take message {number}");
        }
        while ping.take().is_none() {
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
        for wire in Wire::all() {
            let options = PingOptions { wire, size: 64, count: 50, park: true };
            let result = run(options).expect("loopback is there");
            assert_eq!(result.count, 50);
            assert!(result.round_trip.p50_us > 0.0);
            assert!(result.request_floor_us() > result.round_trip.p50_us);
        }
    }
}
