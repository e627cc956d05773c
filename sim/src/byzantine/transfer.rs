//! What can be done wrong with checkpoints that others fetch.
//!
//! Always true: what is sent here is well formed. Must not: break a link; only offering, sending and asking wrongly are
//! tried.

use tetrarch_consensus::message::{Chunk, FetchChunks, FetchState, Offer, StateOffer};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{ConsensusId, Digest, Message, ViewId};

use super::{Behaviour, Msg, Outbox, Scene};
use crate::image::Image;
use crate::rng::mix;

const VIEW: ViewId = ViewId(0);

/// Questions and answers out of turn at a time, at most.
const FLOOD: u64 = 24;

/// Sends chunks that are changed, of another place, of another checkpoint, twice, or not at all.
#[derive(Debug, Default)]
pub struct FalseChunks {
    last: Option<Chunk<SharedBytes>>,
}

impl Behaviour for FalseChunks {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let Message::Chunk(chunk) = message else { return out.push((to, message)) };
        let before = self.last.replace(chunk.clone());
        let Chunk { view, cid, index, size, .. } = chunk;
        let nodes = chunk.path().len();
        let mut bytes = [chunk.bytes(), chunk.path().as_flattened()].concat();
        let mut place = (cid, index, size);
        match scene.rng.below(9) {
            0 => {
                let at = scene.rng.index(bytes.len());
                bytes[at] ^= 1 << scene.rng.below(8);
            }
            1 => place.1 = index.wrapping_add(1),
            2 => place.2 = size + 1,
            3 => place.0 = ConsensusId(cid.0 + 1),
            4 => drop(bytes.pop()),
            5 => {
                if let Some(mut before) = before {
                    (before.cid, before.index) = (cid, index);
                    out.push((to, Message::Chunk(before)));
                }
                return;
            }
            6 => return,
            7 => out.extend((0..3).map(|_| (to, Message::Chunk(chunk.clone())))),
            _ => return out.push((to, Message::Chunk(chunk))),
        }
        if let Ok(changed) = Chunk::new(view, place, nodes, SharedBytes::from(&bytes[..])) {
            out.push((to, Message::Chunk(changed)));
        }
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        let Some(chunk) = &self.last else { return };
        for _ in 0..scene.rng.below(FLOOD) {
            let mut chunk = chunk.clone();
            chunk.index = scene.rng.below(40) as u32;
            let to = scene.other();
            out.push((to, Message::Chunk(chunk)));
        }
    }
}

/// Offers checkpoints that nobody has, serves them, and offers none of those it has.
#[derive(Debug, Default)]
pub struct FalseState {
    old: Option<StateOffer>,
}

impl FalseState {
    /// An image of nothing, the same for all faulty members.
    fn image(scene: &Scene<'_>, cid: ConsensusId) -> Image {
        let size = 2 * scene.chunk_size + 1 + (cid.0 % 70) as usize;
        let byte = |at| mix(cid.0 << 20 ^ at as u64) as u8;
        Image::new((0..size).map(byte).collect(), scene.chunk_size)
    }

    fn offer(scene: &mut Scene<'_>) -> Offer {
        let cid = match scene.rng.below(4) {
            0 => scene.instance(),
            _ => ConsensusId(scene.decided.0 / 64 * 64 + 4096),
        };
        let image = Self::image(scene, cid);
        let size = if scene.rng.chance(100) { u64::MAX } else { image.size() };
        Offer { cid, size, root: image.root() }
    }

    fn offers(&mut self, scene: &mut Scene<'_>, honest: Option<StateOffer>) -> StateOffer {
        let mut all = StateOffer::new(VIEW);
        match (scene.rng.below(5), honest, self.old) {
            (0, Some(honest), _) => {
                for offer in honest.offers() {
                    let root = Digest([scene.rng.next() as u8; 32]);
                    all.push(Offer { root, ..*offer });
                }
            }
            (1, Some(honest), _) => {
                for offer in honest.offers().iter().take(2) {
                    all.push(*offer);
                }
                all.push(Self::offer(scene));
            }
            (2, _, Some(old)) => all = old,
            (3, ..) => {}
            _ => {
                all.push(Self::offer(scene));
            }
        }
        all
    }
}

impl Behaviour for FalseState {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let Message::StateOffer(honest) = message else { return out.push((to, message)) };
        let lie = self.offers(scene, Some(honest));
        if scene.rng.chance(200) {
            self.old = Some(honest);
        }
        out.push((to, Message::StateOffer(lie)));
    }

    fn hear(&mut self, scene: &mut Scene<'_>, message: &Msg, out: &mut Outbox) {
        match message {
            Message::FetchChunks(fetch) => {
                let image = Self::image(scene, fetch.cid);
                if image.root() != fetch.root {
                    return;
                }
                let chunks = (0..fetch.count.min(8)).map(|at| fetch.first.wrapping_add(at));
                let chunks = chunks.filter_map(|index| image.message(VIEW, fetch.cid, index));
                let chunks: Vec<_> = chunks.map(Message::Chunk).collect();
                chunks.iter().for_each(|chunk| scene.to_all(chunk, out));
            }
            Message::FetchState(_) => {
                let lie = self.offers(scene, None);
                scene.to_all(&Message::StateOffer(lie), out);
            }
            _ => {}
        }
    }
}

/// Asks everybody for checkpoints and chunks, again and again, and sends what nobody asked for.
#[derive(Debug, Default)]
pub struct ChunkFlood {
    known: Option<Offer>,
}

impl Behaviour for ChunkFlood {
    fn hear(&mut self, _scene: &mut Scene<'_>, message: &Msg, _out: &mut Outbox) {
        if let Message::StateOffer(all) = message {
            self.known = all.offers().last().copied().or(self.known);
        }
    }

    fn act(&mut self, scene: &mut Scene<'_>, out: &mut Outbox) {
        let above = if scene.rng.chance(700) { ConsensusId(0) } else { scene.instance() };
        scene.to_all(&Message::FetchState(FetchState { view: VIEW, above }), out);
        for _ in 0..scene.rng.below(FLOOD) {
            let to = scene.other();
            out.push((to, nonsense_question(scene, self.known)));
        }
    }
}

/// Asks for chunks, of a checkpoint that there is if one is `known`.
pub fn nonsense_question(scene: &mut Scene<'_>, known: Option<Offer>) -> Msg {
    let (cid, root) = match known {
        Some(Offer { cid, root, .. }) if scene.rng.chance(900) => (cid, root),
        _ => (scene.instance(), scene.digest()),
    };
    let first = if scene.rng.chance(900) { scene.rng.below(40) as u32 } else { u32::MAX };
    let count = scene.rng.pick(&[1, 4, 4, 4, 0, 5, u32::MAX]);
    Message::FetchChunks(FetchChunks { view: VIEW, cid, root, first, count })
}
