//! What comes from the network before anybody is believed.
//!
//! Owns the targets for link headers, handshakes, links and messages.

use std::time::Duration;

use tetrarch_consensus::ViewRequest;
use tetrarch_consensus::batch::RequestHeader;
use tetrarch_consensus::message::codec;
use tetrarch_consensus::message::reply::{REPLY_HEADER_SIZE, ReplyHeader, Status};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::StaticSecret;
use tetrarch_dataplane::handshake::{Dialler, Directory, Identity, accept};
use tetrarch_dataplane::header::{Header, peek_size};
use tetrarch_dataplane::limits::BUNDLED_SIZE_MAX;
use tetrarch_dataplane::links::bundle::{PREFIX_SIZE, parse};
use tetrarch_dataplane::links::{CONTROL_KIND_MIN, LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::transport::memory::{Delivery, InFlight, Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::{Instant, PeerId};

const CLUSTER: u64 = 7;
/// Messages that [`links`] sends at most, and repetitions that it delivers.
const MESSAGES_MAX: usize = 64;

/// A link header that parses is written back to the same bytes, and a transport that looks at the
/// size alone sees the same one.
pub fn link_header(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        let bytes = header.to_bytes();
        assert_eq!(bytes[..], data[..bytes.len()]);
        assert_eq!(peek_size(&bytes), Ok(header.size));
        assert_eq!(header.payload_size() + bytes.len(), header.size as usize);
    }
}

/// The first byte is the number of messages. A bundle that parses is its messages and nothing else, and
/// each is one that may be there.
pub fn bundle(data: &[u8]) {
    let Some((count, bytes)) = data.split_first() else { return };
    let (mut messages, mut end) = (0, 0);
    let parsed = parse(bytes, usize::from(*count), |inner| {
        assert!(inner.kind < CONTROL_KIND_MIN && inner.payload.len() <= BUNDLED_SIZE_MAX);
        assert_eq!(inner.body().len() + usize::from(inner.proof_size), inner.payload.len());
        assert_eq!(inner.start, end + PREFIX_SIZE);
        end = inner.start + inner.payload.len();
        messages += 1;
    });
    if parsed.is_ok() {
        assert_eq!((messages, end), (*count, bytes.len()));
    }
}

fn secret(id: u16) -> StaticSecret {
    StaticSecret::from_bytes(&[id as u8 + 1; 32])
}

fn identity(id: u16) -> Identity {
    Identity { peer: PeerId::replica(id), secret: secret(id) }
}

fn directory() -> Directory {
    let peers = [0, 1].map(|id| (PeerId::replica(id), secret(id).public()));
    Directory::new(peers).expect("two names and two keys")
}

/// Either side of a handshake, against keys of our own. Nobody gets in who has no key.
pub fn handshake(data: &[u8]) {
    let directory = directory();
    assert!(accept(&identity(0), &directory, CLUSTER, data).is_err(), "a hello without its key");
    let (dialler, _) =
        Dialler::start(&identity(1), &directory, CLUSTER, PeerId::replica(0)).expect("listed");
    assert!(dialler.finish(data).is_err(), "a reply without the acceptor's key");
}

/// Two honest peers, and the input as the wire between them. For each message that is sent, four
/// bytes say what becomes of it: kind of fate, place (two bytes), mask. Whatever arrives was sent, is
/// unaltered, and comes in order, each message at most once a connection.
pub fn links(data: &[u8]) {
    play(data);
}

/// Returns how many messages arrived.
fn play(data: &[u8]) -> usize {
    let mut world = World::new();
    let mut fates = data.chunks_exact(4);
    let mut sent = 0;
    let mut kept: Vec<InFlight> = Vec::new();
    'run: for _ in 0..MESSAGES_MAX {
        world.turn();
        if world.links[1].is_up(PeerId::replica(0)) {
            // One, or some that share a header.
            for _ in 0..=sent % 4 {
                world.send(sent);
                sent += 1;
            }
            world.turn();
        }
        while let Some(mut message) = world.switch.take() {
            let Some(&[fate, low, high, mask]) = fates.next() else { break 'run };
            let place = usize::from(u16::from_le_bytes([low, high]));
            if kept.len() < MESSAGES_MAX {
                kept.push(message.clone());
            }
            match fate % 8 {
                0 => {}
                1 => message.flip(place, mask),
                2 => message = kept[place % kept.len()].clone(),
                3 => {
                    // The same connection sees it twice.
                    world.switch.deliver(message.clone());
                }
                4 => {
                    let at = place % message.header.len();
                    message.header[at] = mask;
                }
                5 => world.now = world.now + Duration::from_millis(place as u64),
                _ => {
                    world.switch.deliver(message);
                    continue;
                }
            }
            if fate % 8 != 0 {
                world.switch.deliver(message);
            }
        }
    }
    drop(kept);
    world.check(sent)
}

/// Replica 1 dials replica 0 over a switch that holds every message.
struct World {
    switch: Switch,
    links: [Links; 2],
    arenas: [Arena; 2],
    now: Instant,
    received: Burst<Received>,
    /// Numbers of the messages that replica 0 has received since its session came up.
    arrived: Vec<u32>,
}

impl World {
    fn new() -> Self {
        let config = SwitchConfig { delivery: Delivery::Held, ..SwitchConfig::default() };
        let switch = Switch::new(config);
        switch.dial(Port(1), Port(0), PeerId::replica(0));
        let arena = || {
            // The larger ones are for bundles.
            let class = |slot_size, count| SlotClass { slot_size, count };
            let classes = vec![class(512, 512), class(4096, 64)];
            Arena::heap(&ArenaSpec { classes }).expect("512 KiB")
        };
        let arenas = [arena(), arena()];
        let links = [0, 1].map(|id: u16| {
            let pool = arenas[usize::from(id)].pool();
            let endpoint = switch.attach(Port(id), pool.clone()).expect("each port once");
            let config = LinkConfig::default();
            Links::new(Box::new(endpoint), identity(id), directory(), CLUSTER, config, pool)
                .expect("room for bundles")
        });
        let (now, received) = (Instant(1_000_000_000), Burst::with_capacity(64));
        Self { switch, links, arenas, now, received, arrived: Vec::new() }
    }

    fn turn(&mut self) {
        for (id, links) in self.links.iter_mut().enumerate() {
            links.flush(self.now);
            links.rx_burst(self.now, &mut self.received);
            while let Some(message) = self.received.pop_front() {
                assert_eq!(id, 0, "replica 0 sends nothing of its own");
                assert_eq!(message.peer, PeerId::replica(1));
                let number = number_of(message.body());
                assert_eq!(message.body(), body(number), "altered");
                assert_eq!(message.session, u64::from(number));
                let in_order = self.arrived.last().is_none_or(|last| *last < number);
                assert!(in_order, "{number} after {:?}", self.arrived);
                self.arrived.push(number);
            }
            while links.event().is_some() {}
            while links.diagnosis().is_some() {}
            links.flush(self.now);
        }
    }

    fn send(&mut self, number: u32) {
        let body = body(number);
        let Some(frame) = self.arenas[1].pool().copy_from(&body) else { return };
        self.links[1].tx(Outgoing {
            to: PeerId::replica(0),
            kind: 1,
            auth: 0,
            session: u64::from(number),
            proof_size: 0,
            body_digest: None,
            frame: Some(frame),
        });
    }

    fn check(mut self, sent: u32) -> usize {
        self.turn();
        let count = self.arrived.len();
        assert!(count <= sent as usize);
        let Self { links, switch, arenas, received, .. } = self;
        drop((links, received));
        while switch.take().is_some() {}
        for arena in arenas {
            assert_eq!(arena.free_slots(), arena.total_slots(), "a slot leaked");
        }
        count
    }
}

fn body(number: u32) -> Vec<u8> {
    let size = 4 + number as usize * 13 % 300;
    let mut body = vec![number as u8; size];
    body[..4].copy_from_slice(&number.to_le_bytes());
    body
}

fn number_of(body: &[u8]) -> u32 {
    u32::from_le_bytes(*body.first_chunk().expect("every body has its number"))
}

/// The first byte is the kind. A message that parses is encoded to the same bytes.
pub fn message(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let Ok(message) = codec::decode(*kind, SharedBytes::from(body)) else { return };
    assert_eq!(message.kind(), *kind);
    let mut again = vec![0; codec::encoded_size(&message)];
    let size = codec::encode(&message, &mut again);
    assert_eq!(&again[..size], body);
}

/// A request body that parses is written back. The last bytes of `data` serve as its proof once.
pub fn request(data: &[u8]) {
    if let Ok(header) = RequestHeader::parse(data) {
        let mut again = data.to_vec();
        header.write(&mut again);
        assert_eq!(again, data);
    }
    let digest = tetrarch_consensus::Digest(body_digest(data));
    let proof_size = data.first().map_or(0, |byte| usize::from(*byte));
    let body_size = data.len().saturating_sub(proof_size);
    let payload = SharedBytes::from(data);
    if let Ok(request) = codec::decode_request(payload, body_size, digest, 1) {
        let view = request.view();
        assert_eq!((view.body.len(), view.proof.len()), (body_size, data.len() - body_size));
        assert_eq!(view.operation.len() + 32, body_size);
    }
}

/// A reply body that parses is written back, and so is a membership in it.
pub fn reply(data: &[u8]) {
    if let Ok(header) = ReplyHeader::parse(data) {
        let result = &data[REPLY_HEADER_SIZE..];
        if header.status == Status::Outdated
            && let Ok(told) = ViewRequest::decode(result)
        {
            let mut again = Vec::new();
            told.encode(&mut again);
            assert_eq!(again, result);
        }
        let mut again = data.to_vec();
        header.write(&mut again);
        assert_eq!(again, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_wire_delivers_and_a_hostile_one_does_not() {
        let all = play(&[7, 0, 0, 0].repeat(40));
        assert!(all >= 30, "{all} of about 38");
        assert_eq!(play(&[0, 0, 0, 0].repeat(40)), 0);
        assert_eq!(play(&[1, 100, 0, 1].repeat(40)), 0);
    }
}
