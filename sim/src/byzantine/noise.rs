//! Silence, repetition and nonsense.

use tetrarch_consensus::message::{
    Fetch, FetchBatch, Position, Refuse, RefuseReason, Status, Stop, Vote,
};
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::{Batch, ClientId, Epoch, Message, Regency, ReplicaSet, ViewId};

use super::bodies::{nonsense_answer, nonsense_question};
use super::{Behaviour, Msg, Outbox, Scene};

/// Says nothing, or nothing that a leader has to say.
#[derive(Debug)]
pub struct Silent {
    leader_only: bool,
}

impl Silent {
    /// Never proposes and never synchronises.
    pub fn leader() -> Self {
        Self { leader_only: true }
    }

    /// Never says anything.
    pub fn always() -> Self {
        Self { leader_only: false }
    }
}

impl Behaviour for Silent {
    fn speak(&mut self, _scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let leading =
            matches!(message, Message::Propose(_) | Message::ProposeSparse(_) | Message::Sync(_));
        if self.leader_only && !leading {
            out.push((to, message));
        }
    }
}

/// Talks to some members only; which ones changes.
#[derive(Debug, Default)]
pub struct Selective {
    deaf: u64,
    kinds: u64,
}

impl Behaviour for Selective {
    fn speak(&mut self, _scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let withheld = self.kinds & (1 << message.kind()) != 0;
        if self.deaf & (1 << to) == 0 || !withheld {
            out.push((to, message));
        }
    }

    fn act(&mut self, scene: &mut Scene<'_>, _out: &mut Outbox) {
        if scene.rng.chance(400) {
            self.deaf = scene.rng.next();
            self.kinds = if scene.rng.chance(500) { u64::MAX } else { scene.rng.next() };
        }
    }
}

/// Sends old messages of anybody again, as its own.
#[derive(Debug)]
pub struct Replay;

impl Behaviour for Replay {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        scene.dossier.hear(&message);
        if scene.rng.chance(200)
            && let Some(old) = scene.dossier.message(scene.rng)
        {
            out.push((to, old));
        }
        out.push((to, message));
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(8) {
            if let Some(old) = scene.dossier.message(scene.rng) {
                let to = scene.other();
                out.push((to, old));
            }
        }
    }
}

/// Well-formed messages with nonsense in them.
#[derive(Debug)]
pub struct Garbage;

impl Behaviour for Garbage {
    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(8) {
            let to = scene.other();
            let message = nonsense(scene);
            out.push((to, message));
        }
    }
}

fn position(scene: &mut Scene<'_>) -> Position {
    let view = if scene.rng.chance(50) { ViewId(7) } else { scene.view.id() };
    Position { view, cid: scene.instance(), epoch: Epoch(scene.any_regency().0) }
}

/// One random message.
pub fn nonsense(scene: &mut Scene<'_>) -> Msg {
    let at = position(scene);
    let digest = scene.digest();
    match scene.rng.below(12) {
        0 => Message::Write(Vote { at, digest }),
        1 => Message::Accept(Vote { at, digest }),
        2 => {
            let client = ClientId(scene.rng.next());
            let known = scene.dossier.request(scene.rng).map_or(client, |request| request.client);
            let reason = match scene.rng.below(3) {
                0 => RefuseReason::Clock,
                1 => RefuseReason::Proof(client),
                _ => RefuseReason::Proof(known),
            };
            Message::Refuse(Refuse { at, digest, reason })
        }
        3 => stop(scene, at),
        4 => Message::Status(status(scene)),
        5 => {
            let (from, to) = (scene.instance(), scene.instance());
            let with_batches = scene.rng.chance(500);
            Message::Fetch(Fetch { view: at.view, from, to, with_batches })
        }
        6 => Message::FetchBatch(FetchBatch { view: at.view, cid: at.cid, digest }),
        7 => Message::Decided(tetrarch_consensus::message::Decided {
            at,
            digest,
            batch: scene.dossier.batch(scene.rng),
        }),
        8 => match scene.dossier.batch(scene.rng) {
            Some(batch) => Message::Propose(tetrarch_consensus::message::Propose { at, batch }),
            None => Message::Write(Vote { at, digest }),
        },
        9 => nonsense_question(scene),
        10 => nonsense_answer(scene).unwrap_or(Message::Write(Vote { at, digest })),
        _ => match scene.dossier.batch(scene.rng) {
            Some(batch) => Message::BatchBody(tetrarch_consensus::message::BatchBody {
                view: at.view,
                cid: at.cid,
                batch,
            }),
            None => Message::Accept(Vote { at, digest }),
        },
    }
}

fn stop(scene: &mut Scene<'_>, at: Position) -> Msg {
    let mut list = Vec::new();
    for _ in 0..scene.rng.below(3) {
        list.extend(scene.dossier.request(scene.rng));
    }
    let references: Vec<_> = list.iter().collect();
    match Batch::build(&mut HeapPool, 0, &references) {
        Some(requests) => {
            Message::Stop(Stop { view: at.view, regency: Regency(at.epoch.0), requests })
        }
        None => Message::Status(status(scene)),
    }
}

fn set(scene: &mut Scene<'_>) -> ReplicaSet {
    let mut set = ReplicaSet::EMPTY;
    for at in 0..64 {
        if scene.rng.chance(500) && (at < scene.view.n() || scene.rng.chance(20)) {
            set.insert(at);
        }
    }
    set
}

/// A random status.
pub fn status(scene: &mut Scene<'_>) -> Status {
    Status {
        view: scene.view.id(),
        regency: scene.any_regency(),
        wanted: scene.any_regency(),
        stopped: scene.rng.chance(300),
        decided: scene.instance(),
        log_start: scene.instance(),
        written: set(scene),
        accepted: set(scene),
        proposed: if scene.rng.chance(500) { u32::MAX } else { scene.rng.next() as u32 },
        learned: if scene.rng.chance(500) { 0 } else { scene.rng.next() as u32 },
    }
}
