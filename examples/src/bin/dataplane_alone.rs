//! The dataplane without consensus: two peers that know each other's keys, over TCP on the loopback.
//!
//! Shows what is below the protocol: arenas and frames, a transport, a handshake, and bursts of
//! authentic messages, echoed. Nothing here knows what a replica is.

use std::time::Duration;

use anyhow::{Result, ensure};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::endpoint::Transport;
use tetrarch_dataplane::frame::Frame;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::limits::BUNDLE_SIZE_MAX;
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::transport::tcp::{TcpConfig, TcpTransport};
use tetrarch_dataplane::types::PeerId;

/// Any number below the control kinds: the dataplane does not ask what a message means.
const KIND: u8 = 1;
const MESSAGES: u64 = 20_000;
const BODY_SIZE: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);

/// One side: its memory, its sessions, what it received.
struct Side {
    arena: Arena,
    links: Links,
    received: Burst<Received>,
}

impl Side {
    fn new(
        peer: PeerId,
        secret: StaticSecret,
        directory: &Directory,
        mut transport: TcpTransport,
    ) -> Result<Self> {
        // Small messages of a turn arrive together in a larger one: a bundle.
        let bundles = SlotClass { slot_size: BUNDLE_SIZE_MAX as u32, count: 256 };
        let classes = vec![SlotClass { slot_size: 512, count: 4096 }, bundles];
        let arena = transport.arena(&ArenaSpec { classes })?;
        let endpoint = transport.open(0, arena.pool())?;
        let (identity, config) = (Identity { peer, secret }, LinkConfig::default());
        let links = Links::new(endpoint, identity, directory.clone(), 42, config, arena.pool())?;
        Ok(Self { arena, links, received: Burst::with_capacity(64) })
    }

    /// Queues a message. `false`: nobody is connected, or the queue is full.
    fn send(&mut self, to: PeerId, session: u64, frame: Frame) -> bool {
        let (auth, proof_size, body_digest, frame) = (0, 0, None, Some(frame));
        self.links.tx(Outgoing { to, kind: KIND, auth, session, proof_size, body_digest, frame })
    }

    /// Queues a message of `BODY_SIZE` bytes that starts with `number`.
    fn send_number(&mut self, to: PeerId, number: u64) -> bool {
        let Some(mut frame) = self.arena.pool().alloc(BODY_SIZE) else { return false };
        let body = &mut frame.bytes_mut()[..BODY_SIZE];
        body.fill(0);
        body[..8].copy_from_slice(&number.to_le_bytes());
        self.send(to, number, frame.freeze(BODY_SIZE as u32))
    }
}

fn main() -> Result<()> {
    let (alice, bob) = (PeerId::replica(0), PeerId::replica(1));
    let secrets = [StaticSecret::generate()?, StaticSecret::generate()?];
    let directory = Directory::new([(alice, secrets[0].public()), (bob, secrets[1].public())])?;
    let [alice_secret, bob_secret] = secrets;

    let any = Some(([127, 0, 0, 1], 0).into());
    let listening = TcpTransport::new(TcpConfig { listen: any, ..TcpConfig::default() })?;
    let address = listening.local_address().expect("it listens");
    let dialling =
        TcpTransport::new(TcpConfig { dial: vec![(alice, address)], ..TcpConfig::default() })?;
    let mut a = Side::new(alice, alice_secret, &directory, listening)?;
    let mut b = Side::new(bob, bob_secret, &directory, dialling)?;

    // Bob sends numbers, Alice sends each back, Bob compares.
    let clock = SystemClock::new();
    let started = clock.now();
    let (mut sent, mut echoed) = (0, 0);
    while echoed < MESSAGES {
        let now = clock.now();
        ensure!(now.since(started) < PATIENCE, "{echoed} of {MESSAGES} echoes in {PATIENCE:?}");
        for side in [&mut a, &mut b] {
            side.links.rx_burst(now, &mut side.received);
            while let Some(event) = side.links.event() {
                println!("{}: {event:?}", side.links.local());
            }
        }
        while let Some(message) = a.received.pop_front() {
            a.send(message.peer, message.session, message.frame);
        }
        while let Some(message) = b.received.pop_front() {
            ensure!(message.session == echoed, "echo {} out of order", message.session);
            ensure!(message.body()[..8] == echoed.to_le_bytes(), "echo {echoed} was altered");
            echoed += 1;
        }
        let window = (echoed + 512).min(MESSAGES);
        while b.links.is_up(alice) && sent < window && b.send_number(alice, sent) {
            sent += 1;
        }
        a.links.flush(now);
        b.links.flush(now);
    }
    let took = clock.now().since(started);
    println!(
        "{MESSAGES} messages of {BODY_SIZE} bytes there and back in {took:?}: authenticated, in \
         order, unaltered; {} rejected",
        a.links.rejects().total() + b.links.rejects().total()
    );
    Ok(())
}
