//! Hot functions of the links: from a message to tagged bytes and back, without a transport.
//!
//! Owns two links joined by pipes that move messages from one to the other. Always true: what is
//! counted happens inside [`counted_links_tx`] or [`counted_links_rx`], sessions are up, bursts are full. Must
//! not: read a clock.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tetrarch_dataplane::arena::{Arena, ArenaSpec, FramePool, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::endpoint::{
    ConnEvent, ConnId, Endpoint, EndpointCounts, RawOutgoing, RawReceived, Waker,
};
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::types::{Digest, Instant, OpenError, PeerId};

use super::Case;

/// The cases: a turn is a burst of 64 messages, of 64 bytes, which share headers, or of 1024, which
/// do not.
pub(super) const CASES: &[Case] = &[
    Case { name: "links_tx_burst", what: "tag and queue 64 messages", run: small },
    Case { name: "links_rx_burst", what: "check and hand out 64 messages", run: small },
    Case { name: "links_tx_large", what: "the same, with messages of 1 KiB", run: large },
    Case { name: "links_rx_large", what: "the same, with messages of 1 KiB", run: large },
];

/// Inside which function a case is counted.
pub(super) fn counted(name: &str) -> Option<&'static str> {
    match name {
        "links_tx_burst" | "links_tx_large" => Some("counted_links_tx"),
        "links_rx_burst" | "links_rx_large" => Some("counted_links_rx"),
        _ => None,
    }
}

const NOW: Instant = Instant(1_000_000_000);

/// One end of a pipe: what one side transmits is what the other receives.
struct Pipe {
    out: Queue,
    into: Queue,
    /// Handed out before anything else.
    opened: Option<ConnEvent>,
    pool: FramePool,
}

type Queue = Arc<Mutex<VecDeque<RawOutgoing>>>;

const CONN: ConnId = ConnId(0);

impl Endpoint for Pipe {
    fn rx_burst(&mut self, into: &mut Burst<RawReceived>) -> usize {
        let mut queue = self.into.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.len().min(into.room());
        for RawOutgoing { conn, header, body } in queue.drain(..count) {
            let Some(body) = body.or_else(|| self.pool.copy_from(&[])) else { break };
            // There is room for as many as were taken.
            drop(into.push(RawReceived { conn, header, body }));
        }
        count
    }

    fn tx(&mut self, out: RawOutgoing) -> Result<(), RawOutgoing> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).push_back(out);
        Ok(())
    }

    fn events(&mut self) -> Option<ConnEvent> {
        self.opened.take()
    }

    fn close(&mut self, _: ConnId) {}

    fn set_dials(&mut self, _: &[(PeerId, SocketAddr)]) {}

    fn set_message_size_max(&mut self, _: ConnId, _: u32) {}

    fn body_size_max(&self) -> usize {
        self.pool.slot_size_max()
    }

    fn flush(&mut self, _: Instant) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, _: Duration) {}

    fn waker(&self) -> Waker {
        Waker::new(|| ())
    }

    fn counts(&self) -> EndpointCounts {
        EndpointCounts::default()
    }
}

struct World {
    sender: Links,
    receiver: Links,
    body: Frame,
    digest: Digest,
    received: Burst<Received>,
    /// Keeps its memory alive.
    _arena: Arena,
}

fn peer(index: u16) -> (PeerId, StaticSecret) {
    (PeerId::replica(index), StaticSecret::from_bytes(&[index as u8 + 1; 32]))
}

impl World {
    /// Two links with a session.
    fn new(size: usize) -> Result<Self, OpenError> {
        let class = |slot_size| SlotClass { slot_size, count: 256 };
        let classes = vec![class(512), class(5 * 1024)];
        let arena = Arena::heap(&ArenaSpec { classes })?;
        let (there, back) = (Queue::default(), Queue::default());
        let end = |out: &Queue, into: &Queue, outgoing| {
            let opened = Some(ConnEvent::Opened { conn: CONN, outgoing });
            Pipe { out: Arc::clone(out), into: Arc::clone(into), opened, pool: arena.pool() }
        };
        let links = |index, pipe| -> Result<Links, OpenError> {
            let known = [0, 1].map(peer).map(|(peer, secret)| (peer, secret.public()));
            let (peer, secret) = peer(index);
            let identity = Identity { peer, secret };
            let config = LinkConfig::default();
            let directory = Directory::new(known)?;
            Links::new(Box::new(pipe), identity, directory, 7, config, arena.pool())
        };
        let sender = links(0, end(&there, &back, Some(PeerId::replica(1))))?;
        let receiver = links(1, end(&back, &there, None))?;
        let bytes = vec![5; size];
        let body = arena.pool().copy_from(&bytes).expect("slots are free");
        let mut world = Self {
            sender,
            receiver,
            body,
            digest: body_digest(&bytes),
            received: Burst::with_capacity(BURST_MAX),
            _arena: arena,
        };
        for _ in 0..10 {
            world.sender.rx_burst(NOW, &mut world.received);
            world.receiver.rx_burst(NOW, &mut world.received);
        }
        assert!(world.sender.is_up(PeerId::replica(1)) && world.receiver.is_up(PeerId::replica(0)));
        Ok(world)
    }

    /// Sends a burst and receives it.
    fn burst(&mut self) {
        counted_links_tx(&mut self.sender, &self.body, &self.digest);
        assert_eq!(counted_links_rx(&mut self.receiver, &mut self.received), BURST_MAX);
        self.received.clear();
    }
}

fn small(turns: u64) {
    bursts(turns, 64);
}

fn large(turns: u64) {
    bursts(turns, 1024);
}

fn bursts(turns: u64, size: usize) {
    let mut world = World::new(size).expect("memory for a small arena");
    for _ in 0..turns {
        world.burst();
    }
}

/// Never inlined: profilers know it by its name.
#[inline(never)]
fn counted_links_tx(links: &mut Links, body: &Frame, digest: &Digest) {
    for _ in 0..BURST_MAX {
        links.tx(Outgoing {
            to: PeerId::replica(1),
            kind: 1,
            auth: 0,
            session: 0,
            proof_size: 0,
            body_digest: Some(*digest),
            frame: Some(body.clone()),
        });
    }
    links.flush(NOW);
}

/// Never inlined: profilers know it by its name.
#[inline(never)]
fn counted_links_rx(links: &mut Links, into: &mut Burst<Received>) -> usize {
    links.rx_burst(NOW, into)
}
