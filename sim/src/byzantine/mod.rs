//! Faulty members: an honest core whose mouth and ears somebody else controls.
//!
//! Owns the vocabulary of misbehaviour. Always true: an adversary sends under its own identity only,
//! signs with the faulty members' keys only, and knows only what faulty members heard; all faulty
//! members share what they know. Must not: look into correct members.

pub mod bodies;
pub mod leaders;
pub mod liars;
pub mod noise;
pub mod synchronizers;
pub mod transfer;

use std::collections::VecDeque;
use std::time::Duration;

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::message::SignedState;
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::{
    Batch, ConsensusId, Digest, Instant, Message, Payload, Regency, Request, SparseBatch, View,
};

use crate::keys::Keyring;
use crate::rng::Rng;
use crate::swarm::Strategy;

/// A message between members.
pub type Msg = Message<SharedBytes>;
/// Messages to send: receiver's index, message.
pub type Outbox = Vec<(usize, Msg)>;

/// What all faulty members together have heard.
#[derive(Debug, Default)]
pub struct Dossier {
    messages: VecDeque<Msg>,
    batches: VecDeque<Batch<SharedBytes>>,
    proposals: VecDeque<(ConsensusId, Batch<SharedBytes>)>,
    states: VecDeque<SignedState>,
    votes: VecDeque<(ConsensusId, Digest)>,
    requests: VecDeque<Request<SharedBytes>>,
    /// Highest regency heard of in a state or a proposal.
    pub regency: Regency,
}

fn keep<T>(list: &mut VecDeque<T>, limit: usize, item: T) {
    if list.len() == limit {
        list.pop_front();
    }
    list.push_back(item);
}

fn any<T: Clone>(list: &VecDeque<T>, rng: &mut Rng) -> Option<T> {
    list.get(rng.index(list.len())).cloned()
}

impl Dossier {
    /// Remembers a message that a faulty member heard or made.
    pub fn hear(&mut self, message: &Msg) {
        match message {
            Message::Propose(propose) => {
                keep(&mut self.batches, 48, propose.batch.clone());
                keep(&mut self.proposals, 16, (propose.at.cid, propose.batch.clone()));
                self.regency = self.regency.max(Regency(propose.at.epoch.0));
            }
            Message::ProposeSparse(propose) => {
                keep(&mut self.votes, 48, (propose.at.cid, propose.batch.digest));
                self.regency = self.regency.max(Regency(propose.at.epoch.0));
                if let Some(batch) = self.completed(&propose.batch) {
                    keep(&mut self.batches, 48, batch.clone());
                    keep(&mut self.proposals, 16, (propose.at.cid, batch));
                }
            }
            Message::Write(vote) | Message::Accept(vote) => {
                keep(&mut self.votes, 48, (vote.at.cid, vote.digest));
            }
            Message::Decided(decided) => {
                keep(&mut self.votes, 48, (decided.at.cid, decided.digest));
            }
            Message::StopData(signed) => {
                self.regency = self.regency.max(signed.state.regency);
                keep(&mut self.states, 96, SignedState::clone(signed));
            }
            Message::Sync(sync) => {
                for signed in &sync.states {
                    if !self.states.contains(signed) {
                        keep(&mut self.states, 96, signed.clone());
                    }
                }
            }
            _ => {}
        }
        keep(&mut self.messages, 256, message.clone());
    }

    /// Remembers a client's request.
    pub fn hear_request(&mut self, request: &Request<SharedBytes>) {
        keep(&mut self.requests, 48, request.clone());
    }

    /// The batch with the bodies that faulty members have heard of.
    fn completed(&self, sparse: &SparseBatch<SharedBytes>) -> Option<Batch<SharedBytes>> {
        let heard = |place| {
            let digest = sparse.identity(place).digest;
            self.requests.iter().find(|request| request.digest == digest)
        };
        let parts: Vec<_> =
            (0..sparse.len()).map(|at| sparse.omits(at).then(|| heard(at)).flatten()).collect();
        let sizes = sparse.omitted().map(|place| Some(parts[place]?.payload.bytes().len()));
        let size = sizes.sum::<Option<usize>>()?;
        let part = |place: usize| parts[place].unwrap_or(&self.requests[0]);
        sparse.complete(&mut HeapPool, (&Selection::NONE, size), part)
    }

    /// The request with this digest.
    pub fn known(&self, digest: &Digest) -> Option<Request<SharedBytes>> {
        self.requests.iter().find(|request| request.digest == *digest).cloned()
    }

    /// Another request with the number of this one.
    pub fn rival(&self, request: &Request<SharedBytes>) -> Option<Request<SharedBytes>> {
        let name = |it: &Request<SharedBytes>| (it.client, it.sequence);
        let rival =
            |it: &&Request<SharedBytes>| name(it) == name(request) && it.digest != request.digest;
        self.requests.iter().find(rival).cloned()
    }

    /// Some old message.
    pub fn message(&self, rng: &mut Rng) -> Option<Msg> {
        any(&self.messages, rng)
    }

    /// Some old proposal.
    pub fn batch(&self, rng: &mut Rng) -> Option<Batch<SharedBytes>> {
        any(&self.batches, rng)
    }

    /// What was proposed in an instance, as far as heard.
    pub fn proposal(&self, cid: ConsensusId) -> Option<Batch<SharedBytes>> {
        let found = self.proposals.iter().rev().find(|(at, _)| *at == cid);
        found.map(|(_, batch)| batch.clone())
    }

    /// Some state.
    pub fn state(&self, rng: &mut Rng) -> Option<SignedState> {
        any(&self.states, rng)
    }

    /// Some vote: instance and digest.
    pub fn vote(&self, rng: &mut Rng) -> Option<(ConsensusId, Digest)> {
        any(&self.votes, rng)
    }

    /// Some request.
    pub fn request(&self, rng: &mut Rng) -> Option<Request<SharedBytes>> {
        any(&self.requests, rng)
    }

    /// All states for one regency.
    pub fn states_for(&self, regency: Regency) -> Vec<SignedState> {
        self.states.iter().filter(|signed| signed.state.regency == regency).cloned().collect()
    }
}

/// What a behaviour sees when it acts.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The faulty member's index.
    pub me: usize,
    /// The membership.
    pub view: &'a View,
    /// Local time.
    pub now: Instant,
    /// Instances that may be open at once.
    pub depth: usize,
    /// Bytes of a chunk of a checkpoint.
    pub chunk_size: usize,
    /// The one timeout.
    pub timeout: Duration,
    /// Its own core's regency.
    pub regency: Regency,
    /// Its own core's last decision.
    pub decided: ConsensusId,
    /// Chance.
    pub rng: &'a mut Rng,
    /// What all faulty members know.
    pub dossier: &'a mut Dossier,
    /// The faulty members' keys.
    pub keyring: &'a Keyring,
}

impl Scene<'_> {
    /// Does its own core lead?
    pub fn leads(&self) -> bool {
        self.view.index_of(self.view.leader(self.regency)) == Some(self.me)
    }

    /// Some other member.
    pub fn other(&mut self) -> usize {
        let n = self.view.n();
        (self.me + 1 + self.rng.index(n - 1)) % n
    }

    /// A digest: one that somebody voted for, or nonsense.
    pub fn digest(&mut self) -> Digest {
        match self.dossier.vote(self.rng) {
            Some((_, digest)) if self.rng.chance(800) => digest,
            _ => Digest([self.rng.next() as u8; 32]),
        }
    }

    /// An instance near the current one, seldom far away.
    pub fn instance(&mut self) -> ConsensusId {
        let near = self.decided.0 + self.rng.below(4);
        match self.rng.below(20) {
            0 => ConsensusId(0),
            1 => ConsensusId(u64::MAX - self.rng.below(2)),
            2 => ConsensusId(self.rng.below(near + 1)),
            _ => ConsensusId(near),
        }
    }

    /// A regency near the current one, seldom far away.
    pub fn any_regency(&mut self) -> Regency {
        let near = self.regency.0.saturating_add(self.rng.below(3) as u32);
        match self.rng.below(20) {
            0 => Regency(u32::MAX - self.rng.below(2) as u32),
            1 => Regency(self.rng.below(u64::from(near) + 1) as u32),
            _ => Regency(near),
        }
    }

    /// Sends `message` to all others.
    pub fn to_all(&self, message: &Msg, out: &mut Outbox) {
        out.extend((0..self.view.n()).filter(|&at| at != self.me).map(|at| (at, message.clone())));
    }
}

/// One way to misbehave.
pub trait Behaviour: std::fmt::Debug {
    /// The member's core, or an earlier behaviour, sends `message` to the member at `to`.
    fn speak(&mut self, _scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        out.push((to, message));
    }

    /// The member hears `message`.
    fn hear(&mut self, _scene: &mut Scene<'_>, _message: &Msg, _out: &mut Outbox) {}

    /// Time passes: something can be done out of turn.
    fn act(&mut self, _scene: &mut Scene<'_>, _out: &mut Outbox) {}
}

/// Makes the behaviour of a strategy. Twins are two cores, not a behaviour.
pub fn behaviour(strategy: Strategy) -> Option<Box<dyn Behaviour>> {
    Some(match strategy {
        Strategy::Twins => return None,
        Strategy::Equivocate => Box::new(leaders::Equivocate::default()),
        Strategy::SilentLeader => Box::new(noise::Silent::leader()),
        Strategy::Mute => Box::new(noise::Silent::always()),
        Strategy::Selective => Box::new(noise::Selective::default()),
        Strategy::Replay => Box::new(noise::Replay),
        Strategy::Forge => Box::new(liars::Forge),
        Strategy::Garbage => Box::new(noise::Garbage),
        Strategy::StaleProof => Box::new(synchronizers::StaleProof),
        Strategy::LyingState => Box::new(synchronizers::LyingState),
        Strategy::SplitSync => Box::new(synchronizers::SplitSync),
        Strategy::Complain => Box::new(liars::Complain),
        Strategy::Timestamp => Box::new(leaders::Rewrite::timestamp()),
        Strategy::Impossible => Box::new(leaders::Rewrite::impossible()),
        Strategy::StopSpam => Box::new(liars::StopSpam),
        Strategy::StatusLiar => Box::new(liars::StatusLiar),
        Strategy::DoubleVote => Box::new(liars::DoubleVote),
        Strategy::SpoilProofs => Box::new(leaders::SpoilProofs),
        Strategy::UnknownBodies => Box::new(leaders::Rewrite::unknown()),
        Strategy::WrongBodies => Box::new(bodies::WrongBodies),
        Strategy::FetchFlood => Box::new(bodies::FetchFlood),
        Strategy::Starve => Box::new(leaders::Starve::default()),
        Strategy::Usurp => Box::new(synchronizers::Usurp::default()),
        Strategy::FalseChunks => Box::new(transfer::FalseChunks::default()),
        Strategy::FalseState => Box::new(transfer::FalseState::default()),
        Strategy::ChunkFlood => Box::new(transfer::ChunkFlood::default()),
    })
}

/// A faulty member: its behaviours, and when they are active.
#[derive(Debug)]
pub struct Adversary {
    behaviours: Vec<Box<dyn Behaviour>>,
    activity: u32,
    active: u64,
    /// Chance of its own.
    pub rng: Rng,
    /// With twins: the members that the first core talks to.
    pub audience: u64,
    /// Has it two cores?
    pub twins: bool,
    /// Does it say Busy to one client for ever?
    pub starves: bool,
}

impl Adversary {
    /// An adversary with these strategies, each active `activity` per mille of the time.
    pub fn new(strategies: &[Strategy], activity: u32, mut rng: Rng) -> Self {
        let behaviours: Vec<_> = strategies.iter().filter_map(|&s| behaviour(s)).collect();
        let twins = strategies.contains(&Strategy::Twins);
        let starves = strategies.contains(&Strategy::Starve);
        let audience = rng.next();
        Self { behaviours, activity, active: u64::MAX, rng, audience, twins, starves }
    }

    /// Becomes honest.
    pub fn retire(&mut self) {
        self.activity = 0;
        self.active = 0;
        self.audience = u64::MAX;
    }

    /// Chooses what is active next, and acts out of turn.
    pub fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        self.active = 0;
        for at in 0..self.behaviours.len() {
            self.active |= u64::from(scene.rng.chance(self.activity)) << at;
        }
        if self.activity > 0 && scene.rng.chance(300) {
            self.audience = scene.rng.next();
        }
        for (at, behaviour) in self.behaviours.iter_mut().enumerate() {
            if self.active & (1 << at) != 0 {
                behaviour.act(scene, out);
            }
        }
    }

    /// Passes what its core says through all behaviours.
    pub fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let mut now = vec![(to, message)];
        for (at, behaviour) in self.behaviours.iter_mut().enumerate() {
            if self.active & (1 << at) != 0 {
                let mut next = Vec::with_capacity(now.len());
                for (to, message) in now {
                    behaviour.speak(scene, to, message, &mut next);
                }
                now = next;
            }
        }
        for (to, message) in now {
            let message =
                if self.activity > 0 { bodies::thin_out(scene, message) } else { message };
            out.push((to, message));
        }
    }

    /// Lets all behaviours hear.
    pub fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        scene.dossier.hear(message);
        for (at, behaviour) in self.behaviours.iter_mut().enumerate() {
            if self.active & (1 << at) != 0 {
                behaviour.hear(scene, message, out);
            }
        }
    }
}

/// Copies the requests of a batch as values of their own.
pub fn requests_of(batch: &Batch<SharedBytes>) -> Vec<Request<SharedBytes>> {
    batch.requests().map(|view| batch.request(&view)).collect()
}

/// Bytes of a payload, for changing them.
pub fn bytes_of(payload: &SharedBytes) -> Vec<u8> {
    payload.bytes().to_vec()
}
