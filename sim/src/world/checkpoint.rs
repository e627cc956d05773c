//! The checkpoints of members that keep records.
//!
//! Always true: a checkpoint is what the member's state was at its instance, and counts only when it is
//! durable; of two the newer one may turn out to be damaged. Must not: give up records that an honest
//! member may still need from others: nobody transfers states yet (rule CKP.3).

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::time::Duration;

use tetrarch_consensus::{ClientId, ConsensusId, Instant, Lsn, Ordered, Sequence};

use super::journal::{Disk, Journal};
use super::{Event, World};
use crate::service::{Answer, Service};

/// Replies that are kept, by session.
pub(super) type Kept = BTreeMap<ClientId, VecDeque<(Sequence, Answer)>>;

/// One checkpoint.
#[derive(Clone)]
pub(super) struct Checkpoint {
    pub(super) base: Lsn,
    pub(super) cid: ConsensusId,
    /// The core's share, as on the disk.
    ordered: Vec<u8>,
    service: Service,
    replies: Kept,
    /// Does not hold when it is read.
    pub(super) damaged: bool,
}

impl Checkpoint {
    /// Of everything that is equal at all correct members.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.ordered);
        for (version, value) in self.service.registers() {
            hasher.update(&version.to_le_bytes());
            hasher.update(&value.to_le_bytes());
        }
        for (client, kept) in &self.replies {
            for (sequence, answer) in kept {
                for number in [client.0, sequence.0, answer.version, answer.value] {
                    hasher.update(&number.to_le_bytes());
                }
            }
        }
        *hasher.finalize().as_bytes()
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
        let entry = &mut self.nodes[member].hosts[host];
        let mut bytes = Vec::new();
        ordered.encode(&mut bytes);
        let (service, replies) = entry.state();
        let cid = ordered.cid;
        let checkpoint = Checkpoint { base, cid, ordered: bytes, service, replies, damaged: false };
        self.checker.checkpoint(member, cid, checkpoint.digest());
        if entry.journal.unfinished.is_some() {
            return self.coverage.count("checkpoints left out");
        }
        entry.journal.unfinished = Some(checkpoint);
        let takes = self.rng.duration(Duration::ZERO, self.options.timeout * 2);
        let life = self.nodes[member].life;
        self.push(self.now + takes, Event::Checkpointed { member, host, life });
    }

    /// A checkpoint is durable.
    pub(super) fn on_checkpointed(&mut self, member: usize, host: usize) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        let Some(checkpoint) = journal.unfinished.take() else { return };
        self.coverage.count("checkpoints");
        journal.checkpoints.push_back(checkpoint);
        if journal.checkpoints.len() > 2 {
            journal.before = journal.checkpoints.pop_front().map(|gone| gone.base);
        }
        self.give_up_records(member, host);
    }

    /// Gives up the records before the base before the older checkpoint, once nobody needs them.
    fn give_up_records(&mut self, member: usize, host: usize) {
        let journal = &self.nodes[member].hosts[host].journal;
        let (Some(older), Some(base)) = (journal.safe(), journal.before) else { return };
        let cid = older.cid;
        let honest = self.nodes.iter().filter(|node| node.is_reliable() && !node.lost_disk);
        let mut safe = honest.map(|node| match node.hosts.first() {
            Some(host) => host.journal.safe().map(|older| older.cid),
            None => None,
        });
        let unneeded = safe.all(|of| of.is_some_and(|of| of >= cid));
        let journal = &mut self.nodes[member].hosts[host].journal;
        if self.options.truncate && unneeded && journal.drop_before(base) {
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
        let ordered = Ordered::decode(&checkpoint.ordered);
        let ordered = ordered.map_err(|malformed| format!("{malformed:?}"))?;
        let begun = host.core.begin_at(now, &ordered, &disk.records[at]);
        begun.map_err(|error| fail(&error))?;
        host.install(checkpoint.service.clone(), checkpoint.replies.clone());
        host.executed = checkpoint.cid;
        let state = checkpoint.service.digest();
        self.checker.resumes(member, checkpoint.cid, state);
        Ok(at + 1)
    }

    /// What a crash does to the checkpoints of a member: the newest may be damaged.
    pub(super) fn damage(&mut self, checkpoints: &mut VecDeque<Checkpoint>) {
        if checkpoints.len() == 2 && self.rng.chance(150) {
            self.coverage.count("checkpoints damaged");
            checkpoints[1].damaged = true;
        }
    }
}

impl Journal {
    /// The older one of two checkpoints, when the newer one's base is synced.
    fn safe(&self) -> Option<&Checkpoint> {
        let [older, newer] = [self.checkpoints.front()?, self.checkpoints.get(1)?];
        (newer.base.0 <= self.synced).then_some(older)
    }
}
