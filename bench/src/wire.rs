//! Two ends of one authenticated link over a real transport, for whoever measures the link alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tetrarch_dataplane::arena::{Arena, ArenaSpec, FramePool, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::endpoint::{Endpoint, Transport};
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::limits::BUNDLE_SIZE_MAX;
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::transport::choice::{self, TransportKind};
use tetrarch_dataplane::transport::memory::{MemoryTransport, Port, Switch, SwitchConfig};
use tetrarch_dataplane::transport::tcp::TcpConfig;
use tetrarch_dataplane::types::{Digest, PeerId};

/// The kind of a message on the link; any that the links do not keep for themselves.
const KIND: u8 = 1;

/// Slots of each side: more than are in flight at a time.
const SLOTS: u32 = 512;

/// Slots of each side for what carries several small messages.
const BUNDLES: u32 = 32;

/// A transport between the two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// A switch in this process.
    Memory,
    /// TCP over loopback, through epoll.
    Tcp,
    /// TCP over loopback, through io_uring.
    #[value(name = "io_uring")]
    IoUring,
}

impl Wire {
    /// All that this machine has.
    pub fn all() -> Vec<Wire> {
        let ring = choice::open(TransportKind::IoUring.into(), TcpConfig::default()).is_ok();
        [Self::Memory, Self::Tcp].into_iter().chain(ring.then_some(Self::IoUring)).collect()
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tcp => "tcp",
            Self::IoUring => "io_uring",
        }
    }
}

/// One end.
pub struct Side {
    links: Links,
    pool: FramePool,
    clock: SystemClock,
    received: Burst<Received>,
    /// Sleep in a turn in which nothing came.
    park: bool,
    other: PeerId,
}

/// Both ends of a link for messages of at most `size` bytes. They are connected while both are
/// turned: the first listens, the second dials.
///
/// # Errors
/// No loopback socket, or no memory.
pub fn pair(wire: Wire, size: usize, park: bool) -> Result<[Side; 2]> {
    let secrets = [StaticSecret::generate()?, StaticSecret::generate()?];
    let peers = [PeerId::replica(0), PeerId::replica(1)];
    let directory =
        Directory::new([(peers[0], secrets[0].public()), (peers[1], secrets[1].public())])?;
    let slot_size = u32::try_from(size.max(512)).context("the message is too long")?;
    let bundles = SlotClass { slot_size: slot_size.max(BUNDLE_SIZE_MAX as u32), count: BUNDLES };
    let spec = ArenaSpec { classes: vec![SlotClass { slot_size, count: SLOTS }, bundles] };
    let arenas = [Arena::heap(&spec)?, Arena::heap(&spec)?];
    let pools = [arenas[0].pool(), arenas[1].pool()];
    let ends = endpoints(wire, peers[0], &pools)?;
    let mut sides = ends.into_iter().zip(pools).zip(secrets).zip([0, 1]).map(
        |(((endpoint, pool), secret), own)| -> Result<Side> {
            let identity = Identity { peer: peers[own], secret };
            let config = LinkConfig::default();
            let links = Links::new(endpoint, identity, directory.clone(), 1, config, pool.clone())?;
            let received = Burst::with_capacity(64);
            let clock = SystemClock::new();
            Ok(Side { links, pool, clock, received, park, other: peers[1 - own] })
        },
    );
    match (sides.next(), sides.next()) {
        (Some(first), Some(second)) => Ok([first?, second?]),
        _ => bail!("a link has two ends"),
    }
}

fn endpoints(wire: Wire, first: PeerId, pools: &[FramePool; 2]) -> Result<Vec<Box<dyn Endpoint>>> {
    match wire {
        Wire::Memory => {
            let switch = Switch::new(SwitchConfig::default());
            let mut listening = MemoryTransport::new(&switch, Port(0), &[]);
            let mut dialling = MemoryTransport::new(&switch, Port(1), &[(first, Port(0))]);
            Ok(vec![listening.open(0, pools[0].clone())?, dialling.open(0, pools[1].clone())?])
        }
        Wire::Tcp => streams(TransportKind::Tcp, first, pools),
        Wire::IoUring => streams(TransportKind::IoUring, first, pools),
    }
}

fn streams(
    kind: TransportKind,
    first: PeerId,
    pools: &[FramePool; 2],
) -> Result<Vec<Box<dyn Endpoint>>> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = TcpConfig { listen: Some(any), ..TcpConfig::default() };
    let mut listening = choice::open(kind.into(), config)?;
    let address = listening.local_address.context("a listener has an address")?;
    let config = TcpConfig { dial: vec![(first, address)], ..TcpConfig::default() };
    let mut dialling = choice::open(kind.into(), config)?.transport;
    Ok(vec![listening.transport.open(0, pools[0].clone())?, dialling.open(0, pools[1].clone())?])
}

impl Side {
    /// Receives, sends what waits, and sleeps if nothing came and it may.
    pub fn turn(&mut self, limit: Duration) -> usize {
        let now = self.clock.now();
        let count = self.links.rx_burst(now, &mut self.received);
        while self.links.event().is_some() {}
        self.links.flush(now);
        if count == 0 && self.park {
            self.links.park(limit);
        }
        count
    }

    /// Is there a session with the other end?
    pub fn is_up(&self) -> bool {
        self.links.is_up(self.other)
    }

    /// The next message that came.
    pub fn take(&mut self) -> Option<Received> {
        self.received.pop_front()
    }

    /// Sends a new message.
    pub fn send(&mut self, body: &[u8]) -> bool {
        let Some(frame) = self.pool.copy_from(body) else { return false };
        self.queue(body_digest(body), frame) && self.flush()
    }

    /// Sends a message back.
    pub fn send_back(&mut self, received: Received) -> bool {
        self.queue(received.body_digest, received.frame) && self.flush()
    }

    /// Queues copies of one message without flushing; says how many.
    pub fn queue_burst(&mut self, body: &[u8], digest: Digest, count: usize) -> usize {
        (0..count)
            .take_while(|_| {
                self.pool.copy_from(body).is_some_and(|frame| self.queue(digest, frame))
            })
            .count()
    }

    /// Hands what is queued to the kernel.
    pub fn flush(&mut self) -> bool {
        self.links.flush(self.clock.now());
        true
    }

    fn queue(&mut self, body_digest: Digest, frame: Frame) -> bool {
        self.links.tx(Outgoing {
            to: self.other,
            kind: KIND,
            auth: 0,
            session: 0,
            proof_size: 0,
            body_digest: Some(body_digest),
            frame: Some(frame),
        })
    }
}
