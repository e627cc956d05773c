//! What members and clients with good links can do to a replica.
//!
//! Owns the target that puts arbitrary bytes behind the links: through ingress, into a protocol core
//! whose actions are carried out. The link is what makes a sender believed, so nothing here is about
//! keys; it is about rule CORE.3: no input makes the core fail an assertion.

use std::sync::OnceLock;
use std::time::Duration;

use tetrarch_appliance::payload::{FramePayload, FramePayloadPool};
use tetrarch_appliance::proofs::{Proofs, sign_state};
use tetrarch_appliance::stage::ingress::{Ingress, Verdict};
use tetrarch_client::Cluster;
use tetrarch_consensus::limits::ACTIONS_MAX;
use tetrarch_consensus::message::{codec, kind, proof};
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::{Action, Actions, Config, Input, Instant, Message, Protocol, Recipients};
use tetrarch_consensus::{Ordered, Payload, ReplicaId};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::links::Received;
use tetrarch_dataplane::types::PeerId;
use tetrarch_services::null::NullValidator;

use crate::files::{CLUSTER, cluster_text, keys};

/// The replica under attack. Not the first leader, so that proposals can be sent to it.
const OWN: ReplicaId = ReplicaId(1);
/// When it starts.
pub const START: Instant = Instant(1_700_000_000_000_000_000);
/// Inputs of one run at most.
const STEPS_MAX: usize = 96;
/// Bytes before each message of the input: what it is (see [`member`]), kind, size.
const PIECE_HEADER: usize = 4;

/// The input is a list of events. The first byte of each chooses: 0, 2, 3 a message of that member;
/// 1 a request of the client (the kind is then its kind of proof); 4 time passes until the next
/// deadline; 5 a link comes up. Then kind, size (2), and as many bytes.
pub fn member(data: &[u8]) {
    play(data);
}

/// As the target `member`; returns the last instance decided, and the installed regency.
pub fn play(data: &[u8]) -> (u64, u32) {
    let mut world = World::new();
    let mut rest = data;
    for _ in 0..STEPS_MAX {
        let Some((&[what, kind, low, high], after)) = rest.split_first_chunk::<PIECE_HEADER>()
        else {
            break;
        };
        let size = usize::from(u16::from_le_bytes([low, high])).min(after.len());
        let (body, after) = after.split_at(size);
        rest = after;
        match what % 6 {
            1 => world.request(kind, body),
            4 => {
                let due = world.core.next_deadline().map_or(world.now, |due| due.max(world.now));
                world.now = due;
                world.step(Input::Deadline);
            }
            5 => world.step(Input::Connected(ReplicaId(u16::from(kind) % 4))),
            id => world.message(ReplicaId(id.into()), kind, body),
        }
        world.now = world.now + Duration::from_millis(1);
    }
    let reached = (world.core.decided().0, world.core.regency().0);
    world.end();
    reached
}

struct World {
    arena: Arena,
    ingress: Ingress,
    core: Replica<FramePayload>,
    actions: Actions<Action<FramePayload>>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| {
            Cluster::parse(&cluster_text(), "cluster.toml".as_ref()).expect("a valid cluster")
        });
        let class = |slot_size, count| SlotClass { slot_size, count };
        let classes = vec![class(512, 192), class(8192, 24)];
        let arena = Arena::heap(&ArenaSpec { classes }).expect("a third of a MiB");
        let keys = keys(OWN.0 as u8 + 1);
        let proofs = Proofs::new(cluster, OWN, &keys).expect("keys that give secrecy");
        let ingress = Ingress::new(cluster.view(), proofs, Box::new(NullValidator), 4);
        let mut config = Config::new(OWN, cluster.view());
        config.clients_max = 1;
        config.sessions_per_client_max = 4;
        let core = Replica::new(config, Box::new(FramePayloadPool(arena.pool())), START);
        Self { arena, ingress, core, actions: Actions::with_capacity(256), now: START }
    }

    fn received(&self, peer: PeerId, kind: u8, auth: u8, bytes: &[u8]) -> Option<Received> {
        // A client's proof is what is behind its request: where that ends, the request says. The
        // link carries a member's trailer like a proof.
        let body_size = match bytes.get(24..28) {
            Some(size) if peer.is_client() => {
                32 + u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize
            }
            _ => bytes.len().saturating_sub(codec::trailer_size(kind)),
        };
        let body = &bytes[..body_size.min(bytes.len())];
        let session = if peer.is_client() { read_session(bytes) } else { 0 };
        Some(Received {
            peer,
            kind,
            auth,
            proof_size: (bytes.len() - body.len()) as u16,
            session,
            body_digest: body_digest(body),
            frame: self.arena.pool().copy_from(bytes)?,
        })
    }

    fn request(&mut self, auth: u8, bytes: &[u8]) {
        let from = PeerId::client(0);
        let Some(received) = self.received(from, kind::REQUEST, auth, bytes) else { return };
        let mut proved = None;
        if let Ok(Verdict::Signed) =
            self.ingress.check_client(received, |request| proved = Some(request))
        {
            self.ingress.check_signed(|request| proved = Some(request));
        }
        if let Some(request) = proved {
            self.step(Input::Request(request));
        }
    }

    fn message(&mut self, from: ReplicaId, kind: u8, body: &[u8]) {
        let peer = PeerId::replica(from.0);
        let Some(received) = self.received(peer, kind, proof::NONE, body) else { return };
        if let Ok(input) = self.ingress.check_member(from, received) {
            self.step(input);
        }
    }

    /// One step, and what it asks for. What the replica says to itself goes the way of a node.
    fn step(&mut self, input: Input<FramePayload>) {
        self.core.step(self.now, input, &mut self.actions);
        let actions: Vec<_> = self.actions.drain().collect();
        assert!(actions.len() <= ACTIONS_MAX, "rule CORE.2");
        for action in actions {
            match action {
                Action::Send { to, mut message, .. } => {
                    if let Message::StopData(signed) = &mut message {
                        sign_state(CLUSTER, signed, &keys(OWN.0 as u8 + 1).signing_key);
                    }
                    let mut bytes = vec![0; codec::encoded_size(&message)];
                    codec::encode(&message, &mut bytes);
                    if to == Recipients::One(OWN) {
                        self.message(OWN, message.kind(), &bytes);
                    } else {
                        let again = tetrarch_consensus::payload::SharedBytes::from(&bytes[..]);
                        let again = codec::decode(message.kind(), again);
                        assert!(again.is_ok(), "what a core sends can be read");
                    }
                }
                Action::Execute { context, batch, .. } => {
                    assert!(!batch.payload().bytes().is_empty());
                    self.step(Input::Executed(context.cid));
                }
                Action::BeginTransfer { cid, root, .. } => {
                    self.step(Input::Resumed { cid, root, have: Box::new([]) });
                }
                // An image of one chunk is whole with it.
                Action::StoreChunk { cid, index, payload, .. } => {
                    let ordered = Ordered::decode(payload.bytes());
                    self.step(Input::Stored { cid, index });
                    if let Ok(ordered) = ordered {
                        self.step(Input::TransferReady(Box::new(ordered)));
                    }
                }
                Action::Install { cid, .. } => self.step(Input::Executed(cid)),
                Action::AnswerBusy { .. }
                | Action::Persist { .. }
                | Action::Checkpoint { .. }
                | Action::ResendReply { .. }
                | Action::Installed { .. }
                | Action::Behind { .. }
                | Action::ViewEnded { .. }
                | Action::ViewEntered { .. }
                | Action::Retired { .. }
                | Action::SendChunk { .. }
                | Action::EndTransfer { .. }
                | Action::Transfer(_)
                | Action::Report(_) => {}
            }
        }
    }

    fn end(self) {
        let Self { arena, ingress, core, actions, .. } = self;
        drop((ingress, core, actions));
        assert_eq!(arena.free_slots(), arena.total_slots(), "a slot leaked");
    }
}

fn read_session(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |client| u64::from_le_bytes(*client))
}
