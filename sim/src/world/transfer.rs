//! What a node does for a transfer: keeps chunks, looks at the whole, installs it, and serves others.
//!
//! Always true: a correct member keeps nothing that is not in the image that correct members have, and an image is
//! durable before its core hears that it is whole. Must not: choose what is fetched; the core does.

use std::time::Duration;

use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{
    Action, ConsensusId, Digest, Input, Lsn, Message, Payload, Recipients, ReplicaId, TransferNote,
};

use super::checkpoint::Checkpoint;
use super::member::{Host, Job, Node};
use super::{Event, World};
use crate::checker::Property;
use crate::image::Image;
use crate::trace::Log;

/// Checkpoints that a node can still read although they are not kept any more.
const GIVEN_UP_MAX: usize = 4;

/// Something that waits for execution.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are batches")]
pub(super) enum Work {
    Batch(Job),
    /// The state is replaced by that of an image.
    Install {
        cid: ConsensusId,
        image: Image,
        after: Lsn,
    },
}

/// What a member has of an image that it fetches.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) cid: ConsensusId,
    root: Digest,
    pub(super) chunks: Vec<Option<Vec<u8>>>,
}

impl Incoming {
    /// All of it, as it was fetched.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let image = &checkpoint.image;
        let chunks = (0..).map_while(|index| image.chunk(index)).map(|it| Some(it.to_vec()));
        Self { cid: checkpoint.cid, root: image.root(), chunks: chunks.collect() }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.chunks.iter().all(Option::is_some)
    }

    /// Bit i of word i / 64: chunk i is here.
    fn have(&self) -> Box<[u64]> {
        let word = |chunks: &[Option<Vec<u8>>]| {
            let bits = chunks.iter().enumerate();
            bits.fold(0, |word, (at, chunk)| word | u64::from(chunk.is_some()) << at)
        };
        self.chunks.chunks(64).map(word).collect()
    }
}

impl Host {
    /// The image with this root that others may have.
    fn image(&self, cid: ConsensusId, root: Digest) -> Option<&Image> {
        let kept = self.journal.checkpoints.iter().chain(&self.given_up);
        let found = kept.filter(|it| it.cid == cid && !it.damaged);
        found.map(|it| &it.image).find(|image| image.root() == root)
    }

    /// A checkpoint is not kept any more; who fetches it may go on.
    pub(super) fn give_up(&mut self, checkpoint: Checkpoint) {
        self.given_up.push_back(checkpoint);
        if self.given_up.len() > GIVEN_UP_MAX {
            self.given_up.pop_front();
        }
    }
}

impl World {
    /// Does what a core wants for a transfer.
    pub(super) fn transfer(&mut self, member: usize, host: usize, action: Action<SharedBytes>) {
        match action {
            Action::SendChunk { to, cid, root, index } => {
                self.send_chunk(member, host, to, (cid, root, index));
            }
            Action::BeginTransfer { cid, size, root } => {
                self.begin_transfer(member, host, cid, size, root);
            }
            Action::StoreChunk { cid, index, payload, .. } => {
                self.store_chunk(member, host, cid, index, payload.bytes());
            }
            Action::EndTransfer { .. } => {
                self.coverage.count("transfers that were not needed any more");
                self.nodes[member].hosts[host].incoming = None;
            }
            Action::Install { base, cid } => self.install_image(member, host, base, cid),
            Action::Transfer(note) => self.note_transfer(member, note),
            _ => {}
        }
    }

    fn is_honest(&self, member: usize) -> bool {
        self.nodes[member].adversary.is_none()
    }

    fn send_chunk(
        &mut self,
        member: usize,
        host: usize,
        to: ReplicaId,
        (cid, root, index): (ConsensusId, Digest, u32),
    ) {
        let entry = &self.nodes[member].hosts[host];
        let view = entry.core.view().id();
        match entry.image(cid, root).and_then(|image| image.message(view, cid, index)) {
            Some(chunk) => {
                self.egress(member, host, Recipients::One(to), Message::Chunk(chunk));
            }
            None => self.coverage.count("chunks that are not there any more"),
        }
    }

    fn begin_transfer(
        &mut self,
        member: usize,
        host: usize,
        cid: ConsensusId,
        size: u64,
        root: Digest,
    ) {
        self.coverage.count("transfers begun");
        self.trace.line(self.now, Log::Short, || {
            format!("{member}: fetches the checkpoint at {cid}, {size} bytes, {root:?}")
        });
        let count = size.div_ceil(self.options.chunk_size as u64) as usize;
        let same = |it: &Incoming| (it.cid, it.root) == (cid, root);
        let entry = &mut self.nodes[member].hosts[host];
        let left = entry.incoming.take().filter(same);
        if left.is_some() {
            self.coverage.count("transfers resumed");
        }
        let incoming = left.unwrap_or(Incoming { cid, root, chunks: vec![None; count] });
        let input = Input::Resumed { cid, root, have: incoming.have() };
        self.nodes[member].hosts[host].incoming = Some(incoming);
        self.tell_soon(member, host, input);
        self.look_at_whole(member, host);
    }

    fn store_chunk(
        &mut self,
        member: usize,
        host: usize,
        cid: ConsensusId,
        index: u32,
        bytes: &[u8],
    ) {
        self.coverage.count("chunks stored");
        let genuine = self.images.get(&cid).and_then(|image| image.chunk(index));
        if self.is_honest(member) && genuine != Some(bytes) {
            let text = format!("member {member} keeps a false chunk {index} of {cid}");
            self.checker.fail(Property::Agreement, text);
        }
        let place = self.nodes[member].hosts[host].incoming.as_mut();
        let place = place.filter(|it| it.cid == cid);
        let Some(place) = place.and_then(|it| it.chunks.get_mut(index as usize)) else {
            let text =
                format!("member {member} stores chunk {index} of {cid}, which was not begun");
            return self.checker.fail(Property::Resources, text);
        };
        *place = Some(bytes.to_vec());
        self.tell_soon(member, host, Input::Stored { cid, index });
        self.look_at_whole(member, host);
    }

    /// Tells the core when all is there, or that it is not what it should be.
    fn look_at_whole(&mut self, member: usize, host: usize) {
        let Some(incoming) = &self.nodes[member].hosts[host].incoming else { return };
        if !incoming.is_whole() {
            return;
        }
        let (cid, root) = (incoming.cid, incoming.root);
        let bytes = incoming.chunks.iter().flatten().flatten().copied().collect();
        let image = Image::new(bytes, self.options.chunk_size);
        let state = Checkpoint::read(&image).filter(|_| image.root() == root);
        let input = match state {
            Some((ordered, ..)) => Input::TransferReady(Box::new(ordered)),
            None => Input::TransferFailed { cid },
        };
        self.tell_soon(member, host, input);
    }

    /// The core goes on from the image: execution will, behind what it has to do before.
    fn install_image(&mut self, member: usize, host: usize, base: Lsn, cid: ConsensusId) {
        let honest = self.is_honest(member);
        let entry = &mut self.nodes[member].hosts[host];
        let Some(incoming) = entry.incoming.take().filter(|it| it.cid == cid) else {
            let text = format!("member {member} installs {cid}, which it has not fetched");
            return self.checker.fail(Property::Order, text);
        };
        let bytes = incoming.chunks.into_iter().flatten().flatten().collect();
        let image = Image::new(bytes, self.options.chunk_size);
        let checkpoint =
            Checkpoint { base, cid, image: image.clone(), damaged: false, transferred: true };
        entry.installing = Some(checkpoint);
        entry.jobs.push_back(Work::Install { cid, image, after: base });
        let at = self.now + self.options.execution * entry.jobs.len() as u32;
        let life = self.nodes[member].life;
        self.push(at, Event::Executed { member, host, life });
        let takes = self.rng.duration(Duration::ZERO, self.options.timeout);
        self.push(self.now + takes, Event::Named { member, host, life });
        if honest {
            self.coverage.count("states installed");
            self.checker.skips(member, cid);
        }
        self.trace.line(self.now, Log::Short, || format!("{member}: installs state {cid}"));
    }

    /// The file of an image that was installed gets its name, when the record of it is durable.
    pub(super) fn on_named(&mut self, member: usize, host: usize) {
        let entry = &mut self.nodes[member].hosts[host];
        if entry.installing.as_ref().is_some_and(|it| it.base.0 > entry.journal.synced) {
            let life = self.nodes[member].life;
            let again = Event::Named { member, host, life };
            return self.push(self.now + Duration::from_millis(1), again);
        }
        if let Some(checkpoint) = self.nodes[member].hosts[host].installing.take() {
            self.add_checkpoint(member, host, checkpoint);
        }
    }

    /// Execution has come to an image that was installed.
    pub(super) fn replace_state(
        &mut self,
        member: usize,
        host: usize,
        cid: ConsensusId,
        image: &Image,
        after: Lsn,
    ) {
        // Only what was read before it was handed to the core is installed.
        let Some((_, service, replies)) = Checkpoint::read(image) else { return };
        let state = service.digest();
        let entry = &mut self.nodes[member].hosts[host];
        entry.install(service, replies);
        (entry.executed, entry.executed_after) = (cid, after.max(entry.executed_after));
        if self.is_honest(member) {
            self.checker.replaced(member, cid, state);
        }
        self.step(member, host, Input::Executed(cid));
    }

    /// A member says that it cannot catch up: not while enough honest ones keep what it lacks, or
    /// will once they decide it themselves.
    pub(super) fn check_behind(&mut self, member: usize, decided: ConsensusId) {
        let keeps = |(at, node): &(usize, &Node)| {
            let kept = |host: &Host| host.core.log_start() <= decided.next();
            *at != member && node.adversary.is_none() && node.hosts.iter().any(kept)
        };
        let keepers = self.nodes.iter().enumerate().filter(keeps).count();
        // With checkpoints, members give decisions up, and may have told of that before they got others.
        let kept = self.options.checkpoint_every == 0
            && self.options.changes.is_none()
            && self.nodes[member].is_reliable();
        let Some(host) = self.nodes[member].hosts.first() else { return };
        if kept && keepers >= host.core.view().quorums().one_correct() {
            let text = format!(
                "member {member} gives up after {decided}, though {keepers} honest members keep the \
                 next decision, or will"
            );
            self.checker.fail(Property::Liveness, text);
        }
    }

    fn note_transfer(&mut self, member: usize, note: TransferNote) {
        self.trace.line(self.now, Log::Short, || format!("{member}: {note:?}"));
        match note {
            TransferNote::SlowSource { .. } => self.coverage.count("slow sources"),
            TransferNote::Vanished { .. } => self.coverage.count("targets that vanished"),
            TransferNote::TooLarge { .. } => self.coverage.count("states that were too large"),
            TransferNote::Refused { cid } => {
                if self.is_honest(member) {
                    let text = format!("member {member} cannot go on from {cid}");
                    self.checker.fail(Property::Order, text);
                }
            }
        }
    }

    /// Chunks are not synced one by one: a crash loses some, unless all were there.
    pub(super) fn lose_chunks(&mut self, member: usize) {
        let fetched = self.nodes[member].fetched.as_mut().filter(|it| !it.is_whole());
        for chunk in fetched.into_iter().flat_map(|it| &mut it.chunks) {
            *chunk = chunk.take().filter(|_| self.rng.chance(800));
        }
    }

    /// The node answers its core a little later.
    fn tell_soon(&mut self, member: usize, host: usize, input: Input<SharedBytes>) {
        let takes = match self.rng.below(40) {
            0 => self.rng.duration(Duration::ZERO, self.options.timeout * 2),
            _ => self.rng.duration(Duration::from_micros(20), Duration::from_millis(2)),
        };
        // In order, as through a ring.
        let at = (self.now + takes).max(self.nodes[member].hosts[host].told_at);
        self.nodes[member].hosts[host].told_at = at;
        let life = self.nodes[member].life;
        self.push(at, Event::Told { member, host, life, input });
    }
}
