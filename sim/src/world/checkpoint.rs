//! The checkpoints of members.
//!
//! Always true: a checkpoint is what the member's state was at its instance, and counts only when it is
//! durable, and its base is; of two the newer one may turn out to be damaged, unless others sent it. Must not: know how others get
//! one.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::time::Duration;

use tetrarch_consensus::limits::DECISION_LOG_MAX;
use tetrarch_consensus::{ClientId, ConsensusId, Input, Instant, Lsn, Ordered, Sequence};

use super::journal::Disk;
use super::transfer::Incoming;
use super::{Event, World};
use crate::image::Image;
use crate::service::{Answer, KEYS, Service};

/// Replies that are kept, by session.
pub(super) type Kept = BTreeMap<ClientId, VecDeque<(Sequence, Answer)>>;

/// One checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    /// 0: the member keeps no records.
    pub(super) base: Lsn,
    pub(super) cid: ConsensusId,
    pub(super) image: Image,
    /// Does not hold when it is read.
    pub(super) damaged: bool,
    /// Others sent it.
    pub(super) transferred: bool,
}

impl Checkpoint {
    /// The image of all that is equal at all correct members.
    fn image(ordered: &Ordered, service: &Service, replies: &Kept, chunk_size: usize) -> Image {
        let mut part = Vec::new();
        ordered.encode(&mut part);
        let mut bytes = (part.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut part);
        let mut numbers: Vec<u64> = Vec::new();
        numbers.extend(service.registers().iter().flat_map(|(version, value)| [*version, *value]));
        for (client, kept) in replies {
            numbers.extend([client.0, kept.len() as u64]);
            let reply = |(sequence, answer): &(Sequence, Answer)| {
                [sequence.0, answer.version, answer.value]
            };
            numbers.extend(kept.iter().flat_map(reply));
        }
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        Image::new(bytes, chunk_size)
    }

    /// What is in an image; None if it is none of a state.
    pub(super) fn read(image: &Image) -> Option<(Ordered, Service, Kept)> {
        let (size, rest) = image.bytes().split_first_chunk()?;
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        let (ordered, rest) = rest.split_at_checked(size)?;
        let ordered = Ordered::decode(ordered).ok()?;
        let mut numbers = rest.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next();
        let mut registers = [(0, 0); KEYS];
        for register in &mut registers {
            *register = (next()?, next()?);
        }
        let mut replies = Kept::new();
        while let Some(client) = next() {
            let mut kept = VecDeque::new();
            for _ in 0..next()? {
                let (sequence, version, value) = (Sequence(next()?), next()?, next()?);
                kept.push_back((sequence, Answer { version, value }));
            }
            replies.insert(ClientId(client), kept);
        }
        Some((ordered, Service::from_registers(registers), replies))
    }
}

impl World {
    /// `member` has executed the instance of a checkpoint: it is written from now on, unless another one
    /// is.
    pub(super) fn start_checkpoint(
        &mut self,
        member: usize,
        host: usize,
        base: Lsn,
        ordered: &Ordered,
    ) {
        let honest = self.nodes[member].is_reliable();
        let entry = &mut self.nodes[member].hosts[host];
        let (service, replies) = entry.state();
        let cid = ordered.cid;
        let image = Checkpoint::image(ordered, &service, &replies, self.options.chunk_size);
        if honest {
            self.checker.checkpoint(member, cid, image.root().0);
            self.images.entry(cid).or_insert_with(|| image.clone());
        }
        if entry.journal.unfinished.is_some() {
            return self.coverage.count("checkpoints left out");
        }
        entry.journal.unfinished =
            Some(Checkpoint { base, cid, image, damaged: false, transferred: false });
        // Where memories are short, the disk keeps up with the checkpoints: else members may have none in common with
        // what the others still tell of, and stand one instance apart (docs/adr/0037).
        let slow = match self.options.decision_log_max < DECISION_LOG_MAX {
            true => Duration::from_micros(100),
            false => self.options.timeout * 2,
        };
        let takes = self.rng.duration(Duration::ZERO, slow);
        let life = self.nodes[member].life;
        self.push(self.now + takes, Event::Checkpointed { member, host, life });
    }

    /// A checkpoint is written. It gets its name when its base is durable.
    pub(super) fn on_checkpointed(&mut self, member: usize, host: usize) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        if journal.unfinished.as_ref().is_some_and(|it| it.base.0 > journal.synced) {
            let life = self.nodes[member].life;
            let again = Event::Checkpointed { member, host, life };
            return self.push(self.now + Duration::from_millis(1), again);
        }
        let Some(checkpoint) = journal.unfinished.take() else { return };
        self.coverage.count("checkpoints");
        self.add_checkpoint(member, host, checkpoint);
    }

    /// Another checkpoint has its name, and counts.
    pub(super) fn add_checkpoint(&mut self, member: usize, host: usize, checkpoint: Checkpoint) {
        let entry = &mut self.nodes[member].hosts[host];
        let journal = &mut entry.journal;
        // One that was being written when a state was installed may be older than that.
        let newer = journal.checkpoints.back().is_some_and(|newest| newest.cid > checkpoint.cid);
        let place = journal.checkpoints.len() - usize::from(newer);
        journal.checkpoints.insert(place, checkpoint);
        if journal.checkpoints.len() > 2
            && let Some(gone) = journal.checkpoints.pop_front()
        {
            journal.before = Some(gone.base);
            entry.give_up(gone);
        }
        self.tell_checkpoints(member, host);
        self.give_up_records(member, host);
    }

    /// Tells the core of the checkpoints that count and that it does not know.
    pub(super) fn tell_checkpoints(&mut self, member: usize, host: usize) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        let told = journal.told;
        let counts = |it: &&Checkpoint| it.cid > told;
        let offer = |it: &Checkpoint| (it.cid, it.image.size(), it.image.root());
        let news: Vec<_> = journal.checkpoints.iter().filter(counts).map(offer).collect();
        for (cid, size, root) in news {
            self.nodes[member].hosts[host].journal.told = cid;
            self.step(member, host, Input::Checkpointed { cid, size, root });
        }
    }

    /// Gives up the records before the base before the older checkpoint.
    fn give_up_records(&mut self, member: usize, host: usize) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        let Some(base) = journal.before else { return };
        if self.options.truncate && journal.drop_before(base) {
            self.coverage.count("times that records were given up");
        }
    }

    /// Begins with the newest checkpoint that is whole and has its base among the records. Returns the
    /// place of the first record behind it.
    ///
    /// # Errors
    /// There is none, or it does not fit.
    pub(super) fn begin(&mut self, member: usize, disk: &mut Disk) -> Result<usize, String> {
        let now = self.nodes[member].local(self.now);
        self.finish_installing(member, disk);
        while let Some(checkpoint) = disk.checkpoints.back() {
            let at = checkpoint.base.0.checked_sub(disk.dropped + 1);
            let at = at.map(|at| at as usize).filter(|at| *at < disk.records.len());
            if let Some(at) = at.filter(|_| !checkpoint.damaged) {
                self.coverage.count("restarts from a checkpoint");
                return self.begin_at(member, at, now, disk);
            }
            self.coverage.count("checkpoints passed over");
            disk.checkpoints.pop_back();
        }
        if disk.dropped > 0 {
            return Err("there is no checkpoint, and no records before it".into());
        }
        Ok(0)
    }

    /// What was transferred is a checkpoint if the record of it is there; else it is what is left of a transfer.
    fn finish_installing(&mut self, member: usize, disk: &mut Disk) {
        let Some(checkpoint) = self.nodes[member].installing.take() else { return };
        if checkpoint.base.0 <= disk.dropped + disk.records.len() as u64 {
            self.coverage.count("transfers finished by a restart");
            disk.checkpoints.push_back(checkpoint);
            if disk.checkpoints.len() > 2 {
                disk.checkpoints.pop_front();
            }
        } else {
            self.nodes[member].fetched = Some(Incoming::of(&checkpoint));
        }
    }

    fn begin_at(
        &mut self,
        member: usize,
        at: usize,
        now: Instant,
        disk: &Disk,
    ) -> Result<usize, String> {
        let checkpoint = disk.checkpoints.back().ok_or("there is no checkpoint")?;
        let fail = |what: &dyn Display| format!("cannot begin at {}: {what}", checkpoint.cid);
        let host = &mut self.nodes[member].hosts[0];
        for bytes in &disk.records[..at] {
            host.core.pass_over(bytes).map_err(|error| fail(&error))?;
        }
        let state = Checkpoint::read(&checkpoint.image);
        let (ordered, service, replies) = state.ok_or_else(|| fail(&"it is none"))?;
        let begun = host.core.begin_at(now, &ordered, &disk.records[at]);
        begun.map_err(|error| fail(&error))?;
        let state = service.digest();
        host.install(service, replies);
        host.executed = checkpoint.cid;
        self.checker.resumes(member, checkpoint.cid, state);
        Ok(at + 1)
    }

    /// What a crash does to the checkpoints of a member: the newest may be damaged. Not one that others sent: without
    /// it the records behind it are worth nothing.
    pub(super) fn damage(&mut self, checkpoints: &mut VecDeque<Checkpoint>) {
        if checkpoints.len() == 2 && !checkpoints[1].transferred && self.rng.chance(150) {
            self.coverage.count("checkpoints damaged");
            checkpoints[1].damaged = true;
        }
    }
}
