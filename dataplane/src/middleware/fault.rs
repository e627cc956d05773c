//! An endpoint that harms what it transmits, for tests.
//!
//! Owns the messages it delays. Always true: the same seed and calls harm the same messages; what
//! is held is bounded. Must not: harm what is received (wrap the other side for that) or events.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::arena::FramePool;
use crate::burst::Burst;
use crate::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, RawOutgoing, RawReceived, Waker,
};
use crate::limits::HEADER_SIZE;
use crate::types::{Instant, PeerId};

/// How often each fault happens, in 1000 messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultConfig {
    /// Where the choices start. The same seed makes the same choices.
    pub seed: u64,
    /// Messages that vanish.
    pub drop_per_mille: u16,
    /// Messages that are sent twice.
    pub duplicate_per_mille: u16,
    /// Messages that have one bit flipped, anywhere after the fields that frame them: a stream
    /// transport would close the connection for those.
    pub corrupt_per_mille: u16,
    /// Messages that change places with the next one.
    pub reorder_per_mille: u16,
    /// Messages that wait.
    pub delay_per_mille: u16,
    /// The longest wait.
    pub delay_max: Duration,
    /// Messages that wait at a time; further ones are sent at once.
    pub held_max: usize,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Vanished.
    pub dropped: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// With a bit flipped.
    pub corrupted: u64,
    /// In another's place.
    pub reordered: u64,
    /// Waited.
    pub delayed: u64,
}

/// A seeded generator of choices (SplitMix64: one word of state, good enough to choose).
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn happens(&mut self, per_mille: u16) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

/// The first bit of a header that does not frame the message: after the sizes.
const FIRST_BIT: usize = 16 * 8;

/// Wraps an endpoint and harms what it transmits.
///
/// ```
/// # use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
/// # use tetrarch_dataplane::transport::memory::{Port, Switch, SwitchConfig};
/// use tetrarch_dataplane::middleware::fault::{Fault, FaultConfig};
///
/// # fn main() -> Result<(), tetrarch_dataplane::types::OpenError> {
/// # let spec = ArenaSpec { classes: vec![SlotClass { slot_size: 2048, count: 64 }] };
/// # let arena = Arena::heap(&spec)?;
/// # let endpoint = Switch::new(SwitchConfig::default()).attach(Port(0), arena.pool())?;
/// let config = FaultConfig { seed: 7, drop_per_mille: 100, ..FaultConfig::default() };
/// let lossy = Fault::new(Box::new(endpoint), config, arena.pool());
/// # drop(lossy);
/// # Ok(())
/// # }
/// ```
pub struct Fault {
    inner: Box<dyn Endpoint>,
    config: FaultConfig,
    choices: Choices,
    /// Corrupted bodies are copies: the original may be shared with other peers.
    pool: FramePool,
    delayed: VecDeque<(Instant, RawOutgoing)>,
    /// Goes after the next message.
    swapped: Option<RawOutgoing>,
    now: Instant,
    done: FaultCounts,
}

impl Fault {
    /// Harm what `inner` transmits. `pool` supplies slots for corrupted copies; when it is dry, only
    /// headers are corrupted.
    pub fn new(inner: Box<dyn Endpoint>, config: FaultConfig, pool: FramePool) -> Self {
        Self {
            inner,
            config,
            choices: Choices(config.seed),
            pool,
            delayed: VecDeque::with_capacity(config.held_max),
            swapped: None,
            now: Instant(0),
            done: FaultCounts::default(),
        }
    }

    /// What was done so far.
    pub fn done(&self) -> FaultCounts {
        self.done
    }

    fn flip_a_bit(&mut self, out: &mut RawOutgoing) {
        let bits = (out.size() * 8 - FIRST_BIT) as u64;
        let bit = FIRST_BIT + self.choices.below(bits) as usize;
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        if let Some(byte) = out.header.get_mut(at) {
            *byte ^= mask;
        } else if let Some(body) = &out.body
            && let Some(mut copy) = self.pool.alloc(body.size())
        {
            let bytes = &mut copy.bytes_mut()[..body.size()];
            bytes.copy_from_slice(body.bytes());
            bytes[at - HEADER_SIZE] ^= mask;
            out.body = Some(copy.freeze(body.size() as u32));
        } else {
            out.header[HEADER_SIZE - 1] ^= 1;
        }
        self.done.corrupted += 1;
    }

    /// Transmit what waited long enough, in the order it came.
    fn release(&mut self) {
        for _ in 0..self.delayed.len() {
            let Some((due, out)) = self.delayed.pop_front() else {
                return;
            };
            if due > self.now {
                self.delayed.push_back((due, out));
            } else if self.inner.tx(out).is_err() {
                self.done.dropped += 1;
            }
        }
    }
}

impl Endpoint for Fault {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        self.inner.rx_burst(into)
    }

    fn tx(&mut self, mut out: RawOutgoing) -> Result<(), RawOutgoing> {
        if self.choices.happens(self.config.drop_per_mille) {
            self.done.dropped += 1;
            return Ok(());
        }
        if self.choices.happens(self.config.corrupt_per_mille) {
            self.flip_a_bit(&mut out);
        }
        if self.choices.happens(self.config.duplicate_per_mille) {
            let RawOutgoing { conn, header, body } = &out;
            let copy = RawOutgoing { conn: *conn, header: *header, body: body.clone() };
            if self.inner.tx(copy).is_ok() {
                self.done.duplicated += 1;
            }
        }
        if self.choices.happens(self.config.delay_per_mille)
            && self.delayed.len() < self.config.held_max
        {
            let wait = self.choices.below(self.config.delay_max.as_nanos() as u64);
            self.delayed.push_back((self.now + Duration::from_nanos(wait), out));
            self.done.delayed += 1;
            return Ok(());
        }
        if self.swapped.is_none() && self.choices.happens(self.config.reorder_per_mille) {
            self.swapped = Some(out);
            self.done.reordered += 1;
            return Ok(());
        }
        let sent = self.inner.tx(out);
        if let Some(earlier) = self.swapped.take()
            && self.inner.tx(earlier).is_err()
        {
            self.done.dropped += 1;
        }
        sent
    }

    fn events(&mut self) -> Option<ConnEvent> {
        self.inner.events()
    }

    fn close(&mut self, conn: ConnId) {
        self.inner.close(conn);
    }

    fn set_dials(&mut self, dials: &[(PeerId, SocketAddr)]) {
        self.inner.set_dials(dials);
    }

    fn set_message_size_max(&mut self, conn: ConnId, size: u32) {
        self.inner.set_message_size_max(conn, size);
    }

    fn body_size_max(&self) -> usize {
        self.inner.body_size_max()
    }

    fn flush(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.release();
        self.inner.flush(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = self.delayed.iter().map(|(due, _)| *due).min();
        [due, self.inner.next_deadline()].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) {
        self.inner.park(limit);
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn counts(&self) -> EndpointCounts {
        self.inner.counts()
    }
}
