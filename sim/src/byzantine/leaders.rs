//! What only a leader can do wrong: what it proposes, and to whom.

use std::collections::BTreeMap;

use tetrarch_consensus::message::{Position, Propose};
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Batch, Digest, Message, Request, Sequence};

use super::{Behaviour, Msg, Outbox, Scene, bytes_of, requests_of};
use crate::client::request;
use crate::keys::Keyring;
use crate::service::Operation;

/// Proposals remembered, so that votes match them.
const REMEMBERED: usize = 16;

fn rebuild(timestamp_ns: u64, requests: &[Request<SharedBytes>]) -> Option<Batch<SharedBytes>> {
    let references: Vec<_> = requests.iter().take(512).collect();
    Batch::build(&mut HeapPool, timestamp_ns, &references)
}

/// Proposes one batch to some members and another one to the rest, and votes accordingly.
#[derive(Debug, Default)]
pub struct Equivocate {
    proposals: BTreeMap<Position, Split>,
}

#[derive(Debug)]
struct Split {
    original: Digest,
    other: Batch<SharedBytes>,
    side: u64,
    both: bool,
}

impl Equivocate {
    fn split(&mut self, scene: &mut Scene<'_>, propose: &Propose<SharedBytes>) {
        if self.proposals.contains_key(&propose.at) {
            return;
        }
        let mut requests = requests_of(&propose.batch);
        let mut time = propose.batch.timestamp_ns;
        match scene.rng.below(4) {
            0 if requests.len() > 1 => drop(requests.pop()),
            1 => requests.reverse(),
            2 => requests.extend(scene.dossier.request(scene.rng)),
            _ => time += 1,
        }
        let Some(other) = rebuild(time, &requests) else { return };
        let (original, side) = (propose.batch.digest, scene.rng.next());
        let both = scene.rng.chance(300);
        self.proposals.insert(propose.at, Split { original, other, side, both });
        while self.proposals.len() > REMEMBERED {
            self.proposals.pop_first();
        }
    }
}

impl Behaviour for Equivocate {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        if let Message::Propose(propose) = &message {
            self.split(scene, propose);
        }
        let at = match &message {
            Message::Propose(propose) => propose.at,
            Message::Write(vote) | Message::Accept(vote) => vote.at,
            _ => return out.push((to, message)),
        };
        let Some(split) = self.proposals.get(&at) else { return out.push((to, message)) };
        let other_side = split.side & (1 << to) != 0;
        let (original, digest) = (split.original, split.other.digest);
        let turned = match &message {
            Message::Propose(_) => {
                Some(Message::Propose(Propose { at, batch: split.other.clone() }))
            }
            Message::Write(vote) if vote.digest == original => {
                Some(Message::Write(tetrarch_consensus::message::Vote { at, digest }))
            }
            Message::Accept(vote) if vote.digest == original => {
                Some(Message::Accept(tetrarch_consensus::message::Vote { at, digest }))
            }
            _ => None,
        };
        match turned {
            Some(turned) if split.both => {
                out.push((to, if other_side { turned.clone() } else { message.clone() }));
                out.push((to, if other_side { message } else { turned }));
            }
            Some(turned) if other_side => out.push((to, turned)),
            _ => out.push((to, message)),
        }
    }
}

/// Proposes something else than its core wanted, the same to everybody, and votes for it.
#[derive(Debug)]
pub struct Rewrite {
    rewrite: fn(&mut Scene<'_>, &Batch<SharedBytes>) -> Option<Batch<SharedBytes>>,
    proposals: BTreeMap<Position, (Digest, Batch<SharedBytes>)>,
}

/// The client that [`Starve`] and its like have nothing to do with.
pub const STARVED: u32 = 0;

impl Rewrite {
    /// Times in the past and in the future.
    pub fn timestamp() -> Self {
        Self { rewrite: another_time, proposals: BTreeMap::new() }
    }

    /// Batches with requests that nobody has.
    pub fn unknown() -> Self {
        Self { rewrite: super::bodies::unknown_batch, proposals: BTreeMap::new() }
    }

    /// Batches that no correct leader could propose.
    pub fn impossible() -> Self {
        Self { rewrite: impossible_batch, proposals: BTreeMap::new() }
    }
}

impl Behaviour for Rewrite {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, mut message: Msg, out: &mut Outbox) {
        if let Message::Propose(propose) = &message
            && !self.proposals.contains_key(&propose.at)
            && let Some(batch) = (self.rewrite)(scene, &propose.batch)
        {
            self.proposals.insert(propose.at, (propose.batch.digest, batch));
            while self.proposals.len() > REMEMBERED {
                self.proposals.pop_first();
            }
        }
        match &mut message {
            Message::Propose(propose) => {
                if let Some((_, batch)) = self.proposals.get(&propose.at) {
                    propose.batch = batch.clone();
                }
            }
            Message::Write(vote) | Message::Accept(vote) => {
                if let Some((original, batch)) = self.proposals.get(&vote.at)
                    && *original == vote.digest
                {
                    vote.digest = batch.digest;
                }
            }
            _ => {}
        }
        out.push((to, message));
    }
}

/// Leaves the requests of the first client out of whatever it proposes.
#[derive(Debug)]
pub struct Starve(Rewrite);

impl Default for Starve {
    fn default() -> Self {
        Self(Rewrite { rewrite: without_one_client, proposals: BTreeMap::new() })
    }
}

impl Behaviour for Starve {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        // A batch of nothing would be evidence; saying nothing is none.
        let of_others = |propose: &Propose<SharedBytes>| {
            propose.batch.requests().any(|request| request.client.identity() != STARVED)
        };
        if !matches!(&message, Message::Propose(propose) if !of_others(propose)) {
            self.0.speak(scene, to, message, out);
        }
    }
}

fn without_one_client(_: &mut Scene<'_>, batch: &Batch<SharedBytes>) -> Option<Batch<SharedBytes>> {
    let mut requests = requests_of(batch);
    requests.retain(|request| request.client.identity() != STARVED);
    rebuild(batch.timestamp_ns, &requests)
}

fn another_time(scene: &mut Scene<'_>, batch: &Batch<SharedBytes>) -> Option<Batch<SharedBytes>> {
    let second = 1_000_000_000;
    let time = match scene.rng.below(7) {
        0 => 0,
        1 => u64::MAX,
        2 => scene.now.0 + 10 * second,
        3 => scene.now.0 + second + scene.rng.below(second / 5),
        4 => scene.now.0 + second - scene.rng.below(second / 5),
        5 => scene.now.0 - scene.rng.below(20 * second),
        _ => batch.timestamp_ns + 1,
    };
    rebuild(time, &requests_of(batch))
}

fn impossible_batch(
    scene: &mut Scene<'_>,
    batch: &Batch<SharedBytes>,
) -> Option<Batch<SharedBytes>> {
    let mut requests = requests_of(batch);
    match scene.rng.below(8) {
        0 => requests.clear(),
        1 => requests.extend(scene.dossier.request(scene.rng)),
        2 => {
            let twice = requests.clone();
            requests.extend(twice);
        }
        3 => {
            let old = scene.dossier.batch(scene.rng)?;
            requests.extend(requests_of(&old));
        }
        4 => requests = requests_of(&scene.dossier.batch(scene.rng)?),
        5 => {
            requests.extend(forged_next(scene));
        }
        6 => {
            // Of nothing, which fills what is left of a view, there is never more.
            while (1..300).contains(&requests.len()) {
                let more = requests.clone();
                requests.extend(more);
            }
        }
        _ => {
            requests.reverse();
            requests.truncate(1);
            requests.extend(forged_next(scene));
        }
    }
    rebuild(batch.timestamp_ns, &requests)
}

/// The next request of some client, invented.
pub fn forged_next(scene: &mut Scene<'_>) -> Option<Request<SharedBytes>> {
    let known = scene.dossier.request(scene.rng)?;
    let counter = known.sequence.counter().wrapping_add(scene.rng.below(3) as u32);
    let incarnation = known.sequence.incarnation() + u32::from(scene.rng.chance(200));
    let counter = if incarnation == known.sequence.incarnation() { counter } else { 1 };
    let sequence = Sequence::new(incarnation, counter);
    let operation = Operation::Put(0, 0xbad).encode();
    let signed = scene.rng.chance(500);
    Some(request(known.client, sequence, false, &operation, |_| scene.keyring.forge(signed)))
}

/// Proposes the right batch with proofs that are wrong for some members.
#[derive(Debug)]
pub struct SpoilProofs;

impl Behaviour for SpoilProofs {
    fn speak(&mut self, scene: &mut Scene<'_>, to: usize, message: Msg, out: &mut Outbox) {
        let Message::Propose(propose) = &message else { return out.push((to, message)) };
        let victims = if scene.rng.chance(500) { u64::MAX } else { scene.rng.next() };
        if victims & (1 << to) == 0 {
            return out.push((to, message));
        }
        let mut requests = requests_of(&propose.batch);
        let spoiled = scene.rng.index(requests.len());
        if let Some(request) = requests.get_mut(spoiled) {
            let mut bytes = bytes_of(&request.payload);
            let (_, proof) = bytes.split_at_mut(request.body_size as usize);
            match request.auth {
                tetrarch_consensus::message::proof::MAC_VECTOR => Keyring::spoil(proof, to),
                _ => Keyring::spoil(proof, 0),
            }
            request.payload = SharedBytes::from(&bytes[..]);
        }
        let at = propose.at;
        match rebuild(propose.batch.timestamp_ns, &requests) {
            Some(batch) => out.push((to, Message::Propose(Propose { at, batch }))),
            None => out.push((to, message)),
        }
    }
}
