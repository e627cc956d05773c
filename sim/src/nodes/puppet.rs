//! A Byzantine member among real nodes: real links and keys, an honest core, and level 1's adversary
//! between the two.
//!
//! Always true: it signs with the faulty members' keys only; what it sends travels as bytes over real
//! links, so receivers see exactly what an attacker could send. Must not: know what honest nodes keep
//! to themselves.

use std::collections::VecDeque;
use std::time::Duration;

use tetrarch_appliance::proofs::Proofs;
use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::limits::ACTIONS_MAX;
use tetrarch_consensus::message::{codec, kind, proof};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::smr::Replica;
use tetrarch_consensus::{
    Action, Actions, ClientId, Config, Digest, Input, Message, Protocol, Recipients, ReplicaId,
    Request, Verified, View,
};
use tetrarch_dataplane::arena::FramePool;
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::links::{LinkEvent, Links, Outgoing, Received};
use tetrarch_dataplane::types::{Instant, PeerId};

use super::gossip::Gossip;
use crate::byzantine::leaders::STARVED;
use crate::byzantine::{Adversary, Dossier, Msg, Outbox, Scene};
use crate::keys::Keyring;
use crate::rng::Rng;

/// What a puppet is made of.
pub struct Strings {
    /// Its core's configuration.
    pub config: Config,
    /// Its sessions.
    pub links: Links,
    /// Its memory.
    pub pool: FramePool,
    /// What it can authenticate.
    pub proofs: Proofs,
    /// The faulty members' keys.
    pub keyring: Keyring,
    /// What it does.
    pub adversary: Adversary,
}

/// See the module.
pub struct Puppet {
    me: usize,
    id: ReplicaId,
    view: View,
    timeout: Duration,
    depth: usize,
    links: Links,
    pool: FramePool,
    proofs: Proofs,
    core: Replica<SharedBytes>,
    actions: Actions<Action<SharedBytes>>,
    inputs: VecDeque<Input<SharedBytes>>,
    adversary: Adversary,
    gossip: Gossip,
    dossier: Dossier,
    keyring: Keyring,
    rng: Rng,
    act_at: Instant,
    received: Burst<Received>,
}

fn core_time(now: Instant) -> tetrarch_consensus::Instant {
    tetrarch_consensus::Instant(now.0)
}

impl Puppet {
    /// A faulty member that starts now.
    pub fn new(strings: Strings, now: Instant) -> Self {
        let Strings { config, links, pool, proofs, keyring, mut adversary } = strings;
        let (id, view, timeout) = (config.id, config.view.clone(), config.request_timeout);
        let depth = config.depth;
        let rng = adversary.rng.fork(7);
        let me = view.index_of(id).expect("a puppet is a member");
        let starved = adversary.starves.then_some(STARVED);
        Self {
            me,
            gossip: Gossip::new(me, view.id(), starved),
            id,
            view,
            timeout,
            depth,
            links,
            pool,
            proofs,
            core: Replica::new(config, Box::new(HeapPool), core_time(now)),
            actions: Actions::with_capacity(ACTIONS_MAX),
            inputs: VecDeque::new(),
            adversary,
            dossier: Dossier::default(),
            keyring,
            rng,
            act_at: now,
            received: Burst::with_capacity(64),
        }
    }

    /// Becomes honest.
    pub fn retire(&mut self) {
        self.adversary.retire();
        self.gossip.retire();
    }

    /// Works on everything that has arrived or is due.
    pub fn turn(&mut self, now: Instant) {
        while self.links.rx_burst(now, &mut self.received) > 0 {
            while let Some(message) = self.received.pop_front() {
                self.take(now, message);
            }
        }
        while let Some(event) = self.links.event() {
            if let LinkEvent::Up(peer) = event
                && !peer.is_client()
            {
                self.inputs.push_back(Input::Connected(ReplicaId(peer.index() as u16)));
            }
        }
        if self.core.next_deadline().is_some_and(|due| due <= core_time(now)) {
            self.inputs.push_back(Input::Deadline);
        }
        if self.act_at <= now {
            let pause = self.rng.duration(self.timeout / 8, self.timeout / 2);
            self.act_at = now + pause;
            self.with_adversary(now, |adversary, scene, out| adversary.act(scene, out));
        }
        while let Some(input) = self.inputs.pop_front() {
            self.step(now, input);
        }
        self.links.flush(now);
    }

    /// When it wants a turn.
    pub fn next_deadline(&self) -> Option<Instant> {
        let core = self.core.next_deadline().map(|due| Instant(due.0));
        core.into_iter().chain(self.links.next_deadline()).chain([self.act_at]).min()
    }

    fn take(&mut self, now: Instant, received: Received) {
        let size = received.body_size();
        let payload = SharedBytes::from(received.frame.bytes());
        if received.peer.is_client() {
            let digest = Digest(received.body_digest);
            let request = codec::decode_request(payload, size, digest, received.auth);
            if let Ok(request) = request {
                self.on_request(request);
            }
            return;
        }
        let Ok(mut message) = codec::decode(received.kind, payload) else { return };
        let heard = message.clone();
        self.with_adversary(now, |adversary, scene, out| adversary.hear(scene, &heard, out));
        self.authenticate(&mut message);
        let from = ReplicaId(received.peer.index() as u16);
        self.inputs.push_back(Input::Peer { from, message: Verified::vouch(message) });
    }

    fn on_request(&mut self, request: Request<SharedBytes>) {
        if request.read_only {
            let reply = self.gossip.query(&request.view(), &mut self.rng);
            if let Some(reply) = reply {
                self.answer(request.client, &reply);
            }
        } else if self.proofs.holds(&request.view()) {
            if let Some(reply) = self.gossip.greet(&request.view(), &mut self.rng) {
                self.answer(request.client, &reply);
            }
            self.dossier.hear_request(&request);
            self.inputs.push_back(Input::Request(Verified::vouch(request)));
        }
    }

    fn answer(&mut self, client: ClientId, reply: &[u8]) {
        let peer = PeerId::client(client.identity());
        let Some(frame) = self.pool.copy_from(reply).filter(|_| self.links.is_up(peer)) else {
            return;
        };
        self.links.tx(Outgoing {
            to: peer,
            kind: kind::REPLY,
            auth: proof::NONE,
            session: client.0,
            proof_size: 0,
            body_digest: None,
            frame: Some(frame),
        });
    }

    /// Its core is honest: it has to know which requests it may believe.
    fn authenticate(&mut self, message: &mut Msg) {
        let batch = match message {
            Message::Forwarded(batch) => batch,
            Message::Propose(propose) => &mut propose.batch,
            Message::Stop(stop) => &mut stop.requests,
            Message::Bodies(bodies) => &mut bodies.requests,
            Message::ProposeSparse(propose) => {
                let mut authentic = Selection::NONE;
                for (place, view) in propose.batch.requests() {
                    if self.proofs.holds(&view) {
                        authentic.insert(place);
                    }
                }
                propose.batch.authentic = authentic;
                return;
            }
            _ => return,
        };
        let mut authentic = Selection::NONE;
        for (index, view) in batch.requests().enumerate() {
            if self.proofs.holds(&view) {
                authentic.insert(index);
            }
        }
        batch.authentic = authentic;
    }

    fn step(&mut self, now: Instant, input: Input<SharedBytes>) {
        self.core.step(core_time(now), input, &mut self.actions);
        let actions: Vec<_> = self.actions.drain().collect();
        for action in actions {
            match action {
                Action::Send { to, message, .. } => self.send(now, to, message),
                Action::Execute { context, batch, selection, .. } => {
                    let replies = self.gossip.execute(&batch, &selection, &mut self.rng);
                    replies.iter().for_each(|(client, reply)| self.answer(*client, reply));
                    self.inputs.push_back(Input::Executed(context.cid));
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, now: Instant, to: Recipients, mut message: Msg) {
        if let Message::StopData(signed) = &mut message
            && let Some(own) = self.keyring.sign_state(signed.state.clone())
        {
            **signed = own;
        }
        let receivers: Vec<usize> = match to {
            Recipients::One(id) if id == self.id => {
                let message = Verified::vouch(message);
                return self.inputs.push_back(Input::Peer { from: self.id, message });
            }
            Recipients::One(id) => self.view.index_of(id).into_iter().collect(),
            Recipients::Others => (0..self.view.n()).filter(|&at| at != self.me).collect(),
        };
        for receiver in receivers {
            let message = message.clone();
            self.with_adversary(now, |adversary, scene, out| {
                adversary.speak(scene, receiver, message, out);
            });
        }
    }

    fn with_adversary(
        &mut self,
        now: Instant,
        does: impl FnOnce(&mut Adversary, &mut Scene<'_>, &mut Outbox),
    ) {
        let mut out = Outbox::new();
        let mut scene = Scene {
            me: self.me,
            view: &self.view,
            now: core_time(now),
            timeout: self.timeout,
            regency: self.core.regency(),
            decided: self.core.decided(),
            rng: &mut self.rng,
            dossier: &mut self.dossier,
            keyring: &self.keyring,
            depth: self.depth,
            chunk_size: tetrarch_consensus::limits::CHUNK_SIZE_MAX,
        };
        does(&mut self.adversary, &mut scene, &mut out);
        for (to, message) in out {
            self.transmit(to, &message);
        }
    }

    fn transmit(&mut self, to: usize, message: &Msg) {
        let size = codec::encoded_size(message);
        let Some(mut frame) = self.pool.alloc(size) else { return };
        codec::encode(message, frame.bytes_mut());
        let frame = frame.freeze(size as u32);
        let peer = PeerId::replica(self.view.members()[to].0);
        // A member with a link can also send what no codec makes.
        let garbled = self.rng.chance(5);
        let kind = if garbled { self.rng.range(1, 20) as u8 } else { message.kind() };
        let out = Outgoing {
            to: peer,
            kind,
            auth: proof::NONE,
            session: 0,
            proof_size: codec::trailer_size(message.kind()) as u16,
            body_digest: None,
            frame: Some(frame),
        };
        if self.links.is_up(peer) {
            self.links.tx(out);
        }
    }
}
