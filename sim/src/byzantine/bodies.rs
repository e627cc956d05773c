//! What can be done wrong with bodies that proposals leave out.
//!
//! Always true: what is sent here is well formed, and names real identities or invented ones. Must
//! not: be what keeps a correct proposal from being completed; only asking wrongly, answering wrongly
//! and proposing wrongly are tried.

use tetrarch_consensus::batch::Selection;
use tetrarch_consensus::message::{Bodies, FetchBodies, Position, ProposeSparse};
use tetrarch_consensus::payload::{HeapPool, SharedBytes};
use tetrarch_consensus::{Batch, Digest, Message, Request, SparseBatch};

use super::leaders::forged_next;
use super::{Behaviour, Msg, Outbox, Scene, requests_of};

/// Questions that [`FetchFlood`] asks at a time, at most.
const FLOOD: u64 = 24;

/// The proposal of `batch` at `at` without some of its bodies; the whole one if that fails.
pub fn without(at: Position, batch: &Batch<SharedBytes>, omitted: &Selection) -> Option<Msg> {
    let some = (0..batch.len()).any(|place| omitted.contains(place));
    let sparse = some.then(|| SparseBatch::of(batch, omitted, &mut HeapPool)).flatten()?;
    Some(Message::ProposeSparse(ProposeSparse { at, batch: sparse }))
}

/// A faulty member's core proposes whole batches, for behaviours to change. What they made of a
/// proposal leaves here without some bodies, now and then other ones for each receiver.
pub fn thin_out(scene: &mut Scene<'_>, message: Msg) -> Msg {
    let Message::Propose(propose) = &message else { return message };
    let omitted = match scene.rng.below(4) {
        0 => return message,
        1 => some(scene),
        _ => Selection::ALL,
    };
    without(propose.at, &propose.batch, &omitted).unwrap_or(message)
}

fn some(scene: &mut Scene<'_>) -> Selection {
    let mut bytes = [0; Selection::SIZE];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&scene.rng.next().to_le_bytes());
    }
    Selection::from_bytes(&bytes)
}

/// The requests at the places in `which` as a list.
fn list(requests: &[Request<SharedBytes>]) -> Option<Batch<SharedBytes>> {
    let references: Vec<_> = requests.iter().collect();
    Batch::build(&mut HeapPool, 0, &references)
}

/// Answers with bodies that were not asked for, other ones under the same number, too many, too few,
/// in another order; and answers when nobody asked.
#[derive(Debug)]
pub struct WrongBodies;

impl WrongBodies {
    fn spoil(scene: &mut Scene<'_>, requests: &mut Vec<Request<SharedBytes>>) {
        match scene.rng.below(7) {
            0 => requests.reverse(),
            1 => requests.extend(scene.dossier.request(scene.rng)),
            2 => drop(requests.pop()),
            3 => {
                let twice = requests.clone();
                requests.extend(twice);
            }
            4 => requests.splice(0..0, forged_next(scene)).for_each(drop),
            5 => {
                // The right name with the body of another request of the same session.
                for request in requests.iter_mut() {
                    if let Some(other) = scene.dossier.rival(request) {
                        *request = other;
                    }
                }
            }
            _ => requests.clear(),
        }
        requests.truncate(512);
    }
}

impl Behaviour for WrongBodies {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        if let Message::Bodies(bodies) = &mut message
            && scene.rng.chance(700)
        {
            let mut requests = requests_of(&bodies.requests);
            Self::spoil(scene, &mut requests);
            if let Some(spoiled) = list(&requests) {
                bodies.requests = spoiled;
            }
        }
        out.push((to, message));
    }

    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let Message::ProposeSparse(propose) = message else { return };
        if !scene.rng.chance(300) {
            return;
        }
        let mut requests = Vec::new();
        for place in propose.batch.omitted() {
            let identity = propose.batch.identity(place);
            requests.extend(scene.dossier.known(&identity.digest));
        }
        Self::spoil(scene, &mut requests);
        let Some(requests) = list(&requests) else { return };
        let (at, digest) = (propose.at, propose.batch.digest);
        scene.to_all(&Message::Bodies(Bodies { at, digest, requests }), out);
    }
}

/// Asks everybody for bodies of everything, again and again.
#[derive(Debug)]
pub struct FetchFlood;

impl Behaviour for FetchFlood {
    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        let (at, digest) = match message {
            Message::ProposeSparse(propose) => (propose.at, propose.batch.digest),
            Message::Propose(propose) => (propose.at, propose.batch.digest),
            _ => return,
        };
        for _ in 0..scene.rng.below(4) {
            let which = if scene.rng.chance(700) { Selection::ALL } else { some(scene) };
            scene.to_all(&Message::FetchBodies(FetchBodies { at, digest, which }), out);
        }
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        for _ in 0..scene.rng.below(FLOOD) {
            let to = scene.other();
            let question = nonsense_question(scene);
            out.push((to, question));
        }
    }
}

fn position(scene: &mut Scene<'_>) -> Position {
    Position { view: scene.view.id(), cid: scene.instance(), epoch: scene.any_regency().epoch() }
}

/// Asks for something.
pub fn nonsense_question(scene: &mut Scene<'_>) -> Msg {
    let (at, digest) = (position(scene), scene.digest());
    Message::FetchBodies(FetchBodies { at, digest, which: some(scene) })
}

/// Answers something.
pub fn nonsense_answer(scene: &mut Scene<'_>) -> Option<Msg> {
    let (at, digest) = (position(scene), scene.digest());
    let requests = scene.dossier.batch(scene.rng)?;
    Some(Message::Bodies(Bodies { at, digest, requests }))
}

/// A batch with a request that nobody made, or of nothing else.
pub fn unknown_batch(
    scene: &mut Scene<'_>,
    batch: &Batch<SharedBytes>,
) -> Option<Batch<SharedBytes>> {
    let mut requests = requests_of(batch);
    requests.truncate(512);
    match scene.rng.below(3) {
        0 => requests.clear(),
        1 => drop(requests.pop()),
        _ => {}
    }
    let mut invented = forged_next(scene)?;
    if scene.rng.chance(500) {
        // Not even its author has a body for this.
        invented.digest = Digest([scene.rng.next() as u8; 32]);
    }
    requests.push(invented);
    let references: Vec<_> = requests.iter().collect();
    Batch::build(&mut HeapPool, batch.timestamp_ns, &references)
}
