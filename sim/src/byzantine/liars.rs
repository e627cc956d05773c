//! False claims, false accusations, false votes.

use tetrarch_consensus::message::{
    BatchBody, Decided, Fetch, FetchBatch, Position, Propose, ProposeSparse, Refuse, RefuseReason,
    Stop, Vote,
};
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{
    Batch, ConsensusId, Epoch, Message, Regency, ReplicaSet, Request, ViewId,
};

use super::leaders::forged_next;
use super::noise::status;
use super::{Behaviour, Msg, Outbox, Scene};

/// Longest list of forged requests.
const LIST: u64 = 4;

fn position(view: ViewId, cid: ConsensusId, regency: Regency) -> Position {
    Position { view, cid, epoch: Epoch(regency.0) }
}

fn list(requests: &[Request<SharedBytes>]) -> Option<Batch<SharedBytes>> {
    let references: Vec<_> = requests.iter().collect();
    Batch::build(&mut HeapPool, 0, &references)
}

/// Claims decisions and batches that are false, and passes on requests that nobody made.
#[derive(Debug)]
pub struct Forge;

impl Behaviour for Forge {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        match &mut message {
            Message::Decided(decided) if scene.rng.chance(700) => {
                if let Some(batch) = scene.dossier.batch(scene.rng) {
                    decided.digest = batch.digest;
                    decided.batch = decided.batch.is_some().then_some(batch);
                }
            }
            Message::BatchBody(body) if scene.rng.chance(700) => {
                if let Some(batch) = scene.dossier.batch(scene.rng) {
                    body.batch = batch;
                }
            }
            _ => {}
        }
        out.push((to, message));
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(3) {
            let (cid, regency) = (scene.instance(), scene.any_regency());
            let Some(batch) = scene.dossier.batch(scene.rng) else { continue };
            let claim = match scene.rng.below(3) {
                0 => Message::BatchBody(BatchBody { view: scene.view.id(), cid, batch }),
                _ => {
                    let (at, digest) = (position(scene.view.id(), cid, regency), batch.digest);
                    let batch = scene.rng.chance(500).then_some(batch);
                    Message::Decided(Decided { at, digest, batch })
                }
            };
            scene.to_all(&claim, out);
        }
        let mut requests = Vec::new();
        for _ in 0..scene.rng.below(LIST) {
            requests.extend(forged_next(scene));
        }
        if let Some(requests) = list(&requests) {
            let to = scene.other();
            let regency = scene.any_regency();
            let stop = Stop { view: scene.view.id(), regency, requests: requests.clone() };
            let forwarded = Message::Forwarded(requests);
            out.push((to, if scene.rng.chance(500) { Message::Stop(stop) } else { forwarded }));
        }
    }
}

/// Refuses every proposal and complains about every client.
#[derive(Debug)]
pub struct Complain;

impl Behaviour for Complain {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let withheld = matches!(message, Message::Write(_)) && scene.rng.chance(700);
        if !withheld {
            out.push((to, message));
        }
    }

    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let (at, digest, clients): (_, _, Vec<_>) = match message {
            Message::Propose(Propose { at, batch }) => {
                (*at, batch.digest, batch.requests().map(|view| view.client).collect())
            }
            Message::ProposeSparse(ProposeSparse { at, batch }) => {
                let clients = (0..batch.len()).map(|place| batch.identity(place).client);
                (*at, batch.digest, clients.collect())
            }
            _ => return,
        };
        if clients.is_empty() {
            return;
        }
        let reason = match scene.rng.chance(200) {
            true => RefuseReason::Clock,
            false => RefuseReason::Proof(scene.rng.pick(&clients)),
        };
        let refuse = Refuse { at, digest, reason };
        scene.to_all(&Message::Refuse(refuse), out);
    }
}

/// Wants another leader, always.
#[derive(Debug)]
pub struct StopSpam;

impl Behaviour for StopSpam {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        if let Message::Status(status) = &mut message {
            status.wanted = Regency(scene.regency.0.saturating_add(1));
        }
        out.push((to, message));
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        let mut requests = Vec::new();
        requests.extend(scene.dossier.request(scene.rng));
        let Some(requests) = list(&requests) else { return };
        let regency = match scene.rng.below(4) {
            0 => scene.any_regency(),
            _ => Regency(scene.regency.0.saturating_add(1 + scene.rng.below(3) as u32)),
        };
        scene.to_all(&Message::Stop(Stop { view: scene.view.id(), regency, requests }), out);
    }
}

/// Lies about how far it is, and asks for everything.
#[derive(Debug)]
pub struct StatusLiar;

impl Behaviour for StatusLiar {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        if let Message::Status(honest) = &mut message {
            match scene.rng.below(3) {
                0 => *honest = status(scene),
                1 => {
                    (honest.written, honest.accepted) = (ReplicaSet::EMPTY, ReplicaSet::EMPTY);
                    (honest.proposed, honest.learned) = (0, 0);
                }
                _ => honest.decided = scene.instance(),
            }
        }
        out.push((to, message));
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(4) {
            let view = scene.view.id();
            let (from, to) = (scene.instance(), scene.instance());
            let lie = match scene.rng.below(3) {
                0 => Message::Status(status(scene)),
                1 => {
                    let with_batches = scene.rng.chance(500);
                    Message::Fetch(Fetch { view, from, to, with_batches })
                }
                _ => {
                    let digest = scene.digest();
                    Message::FetchBatch(FetchBatch { view, cid: from, digest })
                }
            };
            let to = scene.other();
            out.push((to, lie));
        }
    }
}

/// Votes for everything it hears of, and for things that nobody proposed.
#[derive(Debug)]
pub struct DoubleVote;

impl Behaviour for DoubleVote {
    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let (at, digest) = match message {
            Message::Propose(propose) => (propose.at, propose.batch.digest),
            Message::ProposeSparse(propose) => (propose.at, propose.batch.digest),
            Message::Write(vote) | Message::Accept(vote) => (vote.at, vote.digest),
            _ => return,
        };
        if !scene.rng.chance(400) {
            return;
        }
        let digest = if scene.rng.chance(300) { scene.digest() } else { digest };
        for to in 0..scene.view.n() {
            if to != scene.me && scene.rng.chance(600) {
                let vote = Vote { at, digest };
                out.push((to, Message::Write(vote)));
                out.push((to, Message::Accept(vote)));
            }
        }
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(4) {
            let at = position(scene.view.id(), scene.instance(), scene.any_regency());
            let digest = scene.digest();
            let to = scene.other();
            let vote = Vote { at, digest };
            let write = scene.rng.chance(500);
            out.push((to, if write { Message::Write(vote) } else { Message::Accept(vote) }));
        }
    }
}
