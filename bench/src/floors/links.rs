//! What a message costs on an authenticated link.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::limits::{BURST_MAX, HEADER_SIZE};

use super::timing::best_ns;
use crate::ping::{self, PingOptions};
use crate::wire::{Side, Wire, pair};

/// Body sizes of the cost of messages; the costs between and beyond lie on the line through both.
const SIZES: [usize; 2] = [64, 1024];

/// A link over one transport.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct LinkFloor {
    /// Over which transport.
    pub wire: Wire,
    /// 64 bytes one way, both sides sleeping while they wait, microseconds in the median.
    pub one_way_us: f64,
    /// The same while both sides spin. Without two idle cores this is a matter of the scheduler.
    pub one_way_spinning_us: f64,
    /// Processor time of a message of no bytes in a burst of 64, nanoseconds: both sides together,
    /// with framing, tag, digest and the kernel.
    pub message_ns: f64,
    /// And of each of its bytes, header included.
    pub byte_ns: f64,
}

impl LinkFloor {
    /// Processor time of both sides for `messages` of `bytes` in all, nanoseconds.
    pub fn cost_ns(&self, messages: f64, bytes: f64) -> f64 {
        messages * self.message_ns + bytes * self.byte_ns
    }
}

/// Measures a link.
///
/// # Errors
/// No loopback socket, or a side that is silent.
pub fn link(wire: Wire, round_trips: u64) -> Result<LinkFloor> {
    let one_way = |park| -> Result<f64> {
        let options = PingOptions { wire, size: 64, count: round_trips, park };
        Ok(ping::run(options)?.round_trip.p50_us / 2.0)
    };
    let [small, large] = SIZES;
    let (small_ns, large_ns) = (message_ns(wire, small)?, message_ns(wire, large)?);
    let byte_ns = (large_ns - small_ns).max(0.0) / (large - small) as f64;
    Ok(LinkFloor {
        wire,
        one_way_us: one_way(true)?,
        one_way_spinning_us: one_way(false)?,
        message_ns: (small_ns - byte_ns * (small + HEADER_SIZE) as f64).max(0.0),
        byte_ns,
    })
}

/// Nanoseconds for a message of a burst. One thread turns both sides, so what passes is the
/// processor time of both.
fn message_ns(wire: Wire, size: usize) -> Result<f64> {
    let [mut to, mut from] = pair(wire, size, false)?;
    let begin = Instant::now();
    while !from.is_up() {
        from.turn(Duration::ZERO);
        to.turn(Duration::ZERO);
        if begin.elapsed() > Duration::from_secs(10) {
            bail!("the two ends of a {} link do not meet", wire.name());
        }
        std::thread::yield_now();
    }
    let body = vec![7u8; size];
    let digest = body_digest(&body);
    let mut lost = false;
    let ns = best_ns(|| lost |= !burst(&mut from, &mut to, &body, digest));
    if lost {
        bail!("a {} link loses messages of {size} bytes", wire.name());
    }
    Ok(ns / BURST_MAX as f64)
}

/// Sends a burst and receives it; `false` when not all arrives within ten seconds.
fn burst(from: &mut Side, to: &mut Side, body: &[u8], digest: [u8; 32]) -> bool {
    if from.queue_burst(body, digest, BURST_MAX) < BURST_MAX {
        return false;
    }
    from.flush();
    let begin = Instant::now();
    let mut arrived = 0;
    while arrived < BURST_MAX {
        if to.turn(Duration::ZERO) == 0 && begin.elapsed() > Duration::from_secs(10) {
            return false;
        }
        while to.take().is_some() {
            arrived += 1;
        }
        if arrived < BURST_MAX {
            from.turn(Duration::ZERO);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_costs_something_per_message_over_every_transport() {
        for wire in Wire::all() {
            let ns = message_ns(wire, 64).expect("loopback is there");
            assert!(ns > 0.0);
        }
        let floor = LinkFloor {
            wire: Wire::Tcp,
            one_way_us: 1.0,
            one_way_spinning_us: 1.0,
            message_ns: 10.0,
            byte_ns: 0.5,
        };
        assert_eq!(floor.cost_ns(3.0, 100.0), 80.0);
    }
}
