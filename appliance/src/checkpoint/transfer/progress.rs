//! How far a transfer is, for people.
//!
//! Owns the numbers and when they are said: at the beginning, for each tenth that took a second or more, after ten
//! seconds at the latest, and at the end. Must not: count a chunk twice.

use std::time::{Duration, Instant};

use crate::checkpoint::Target;
use crate::info;
use crate::metrics::Metrics;

const MIB: f64 = (1 << 20) as f64;
/// The longest silence.
const SILENCE: Duration = Duration::from_secs(10);
/// And the shortest.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Progress {
    target: Target,
    start: Instant,
    /// Chunks there, and in all.
    chunks: (u64, u64),
    /// Chunks and bytes that came since the start.
    fetched: u64,
    bytes: u64,
    /// When it was said last, and how far it was.
    said: (Instant, u64),
    rate: f64,
}

impl Progress {
    /// A transfer of which so many chunks of all are there already.
    pub fn new(now: Instant, target: Target, (there, all): (u64, u64)) -> Self {
        info!(
            "checkpoint {}: fetching {:.1} MiB in {all} chunks, of which {there} are here from before",
            target.cid,
            target.size as f64 / MIB
        );
        let chunks = (there, all);
        Self { target, start: now, chunks, fetched: 0, bytes: 0, said: (now, there), rate: 0.0 }
    }

    /// A chunk of `size` bytes came.
    pub fn add(&mut self, now: Instant, size: usize) {
        self.chunks.0 += 1;
        self.fetched += 1;
        self.bytes += size as u64;
        let seconds = now.duration_since(self.start).as_secs_f64();
        self.rate = if seconds > 0.0 { self.bytes as f64 / MIB / seconds } else { 0.0 };
        let (there, all) = self.chunks;
        let tenth = (there - self.said.1) * 10 >= all;
        let silence = now.duration_since(self.said.0);
        if there < all && silence >= if tenth { PAUSE } else { SILENCE } {
            self.said = (now, there);
            info!(
                "checkpoint {}: {there} of {all} chunks are here, {:.0} MiB/s",
                self.target.cid, self.rate
            );
        }
    }

    /// All are there, and durable if they have to be.
    pub fn end(&mut self, now: Instant) {
        let seconds = now.duration_since(self.start).as_secs_f64();
        self.rate = if seconds > 0.0 { self.bytes as f64 / MIB / seconds } else { 0.0 };
        info!(
            "checkpoint {}: fetched {} chunks, {:.1} MiB, in {:.1} s, {:.0} MiB/s; installing it",
            self.target.cid,
            self.fetched,
            self.bytes as f64 / MIB,
            now.duration_since(self.start).as_secs_f64(),
            self.rate
        );
    }

    /// The numbers for everybody.
    pub fn publish(&self, metrics: &Metrics) {
        metrics.transfer_instance.set(self.target.cid.0);
        metrics.transfer_chunks.set(self.chunks.0);
        metrics.transfer_chunks_all.set(self.chunks.1);
        metrics.transfer_fetched.set(self.fetched);
        metrics.transfer_rate.set((self.rate * MIB) as u64);
    }

    /// There is no transfer.
    pub fn publish_none(metrics: &Metrics) {
        for gauge in [&metrics.transfer_instance, &metrics.transfer_chunks] {
            gauge.set(0);
        }
        metrics.transfer_chunks_all.set(0);
    }
}
