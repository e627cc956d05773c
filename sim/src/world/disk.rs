//! The disks of members that keep records, and what waits for them.
//!
//! Always true: what had to wait for more than was synced never left; a log that does not keep what it has to
//! is found when its member comes back. Must not: change a record.

use std::time::Duration;

use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Action, Actions, Input, Instant, Lsn, Protocol, Recipients, Record};

use super::journal::{Disk, Journal, Kind, Stored};
use super::member::{Host, Job, Pool};
use super::{Event, World};
use crate::byzantine::Msg;
use crate::checker::Property;
use crate::client::Reply;
use crate::disks;
use crate::trace::Log;

/// What members keep, and how well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Disks {
    /// Nothing.
    #[default]
    None,
    /// All records, and nobody is told of what is not synced.
    Honest,
    /// All records; what was not synced is told of, and lost in crashes. Finds out whether the checks
    /// would see that.
    Careless,
    /// As `Honest`. Besides, any disk may be full or fail with an error, and up to f lose, misplace and
    /// change what was written, or are put back to an older state.
    Faulty,
    /// As `Faulty`, and nobody looks at the digests of records. Finds out whether the checks would see that.
    Unchecked,
}

impl Disks {
    /// Do disks do more than stop?
    pub fn are_faulty(self) -> bool {
        matches!(self, Self::Faulty | Self::Unchecked)
    }
}

/// What waits for a sync.
#[expect(clippy::large_enum_variant, reason = "most are messages")]
pub(super) enum Held {
    Message(Recipients, Msg),
    Reply(Reply),
}

impl Host {
    /// Begins with the first record, which is durable before anything happens.
    pub(super) fn start_journal(&mut self, journal: Journal) {
        self.journal = journal;
        let mut actions = Actions::with_capacity(1);
        self.core.go_on_after(Lsn(0), &mut actions);
        for action in actions.drain() {
            if let Action::Persist { record, .. } = action {
                self.journal.push(encode(&record));
            }
        }
        self.journal.hand_over();
        self.journal.complete().expect("a new disk is good");
        self.core.step(Instant(0), Input::Durable(self.journal.last()), &mut actions);
    }
}

fn encode(record: &Record<SharedBytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let batch = record.encode(&mut bytes);
    bytes.extend_from_slice(batch);
    bytes
}

impl World {
    pub(super) fn append(
        &mut self,
        member: usize,
        host: usize,
        lsn: Lsn,
        record: &Record<SharedBytes>,
    ) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        journal.push(encode(record));
        if journal.last() != lsn {
            let text = format!("member {member} numbers its record {lsn}, not {}", journal.last());
            self.checker.fail(Property::Resources, text);
        }
        self.start_write(member, host);
    }

    fn start_write(&mut self, member: usize, host: usize) {
        let node = &mut self.nodes[member];
        let journal = &mut node.hosts[host].journal;
        if journal.writing || journal.unsynced() == 0 {
            return;
        }
        let Some(to) = journal.hand_over() else {
            let text = format!("member {member} has a record that fits no group");
            return self.checker.fail(Property::Resources, text);
        };
        if self.options.disks.are_faulty() && !self.calm {
            if node.bad_disk && self.rng.chance(30) {
                self.coverage.count("writes that a disk lied about");
                journal.inject(disks::lie(&mut self.rng));
            } else if self.rng.chance(4) {
                journal.inject(disks::fail(&mut self.rng));
            }
        }
        let takes = match self.rng.below(20) {
            0 => self.rng.duration(Duration::ZERO, self.options.timeout),
            _ => self.rng.duration(Duration::from_micros(50), Duration::from_millis(2)),
        };
        let life = self.nodes[member].life;
        self.push(self.now + takes, Event::Synced { member, host, life, to });
    }

    pub(super) fn on_synced(&mut self, member: usize, host: usize, to: Lsn) {
        self.coverage.count("syncs");
        if let Err(failure) = self.nodes[member].hosts[host].journal.complete() {
            return self.stop_for_log(member, &failure);
        }
        while let Some((_, held)) = {
            let journal = &mut self.nodes[member].hosts[host].journal;
            journal.held.pop_front_if(|(after, _)| *after <= to)
        } {
            self.tell(member, host, held);
        }
        self.step(member, host, Input::Durable(to));
        self.start_write(member, host);
    }

    /// The log has failed: the member stops, and somebody starts it again, with room on its disk.
    fn stop_for_log(&mut self, member: usize, failure: &str) {
        self.coverage.count("logs that failed");
        self.trace.line(self.now, Log::Short, || format!("{member}: stops: {failure}"));
        let back = self.rng.duration(Duration::ZERO, self.options.timeout * 4);
        self.crash_member(member, Some(back));
    }

    /// Tells the world something when everything up to `after` is synced.
    pub(super) fn tell_after(&mut self, member: usize, host: usize, after: Lsn, held: Held) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        if after.0 > journal.synced && self.options.disks != Disks::Careless {
            journal.held.push_back((after, held));
        } else {
            self.tell(member, host, held);
        }
    }

    fn tell(&mut self, member: usize, host: usize, held: Held) {
        match held {
            Held::Message(to, message) => self.egress(member, host, to, message),
            Held::Reply(reply) => self.reply(member, reply),
        }
    }

    /// What a crash leaves on the disk of `member`.
    pub(super) fn lose_power(&mut self, member: usize) {
        let node = &mut self.nodes[member];
        let Some(host) = node.hosts.first_mut().filter(|host| host.journal.is_kept()) else {
            return;
        };
        let journal = std::mem::take(&mut host.journal);
        (node.fetched, node.installing) = (host.incoming.take(), host.installing.take());
        if journal.unsynced() > 0 {
            self.coverage.count("crashes that lose records");
        }
        let mut stored = journal.lose_power(&mut self.rng);
        self.damage(stored.checkpoints());
        self.lose_chunks(member);
        if self.nodes[member].bad_disk && !self.calm {
            stored = self.spoil(member, stored);
        }
        self.nodes[member].disk = Some(stored);
    }

    /// What a bad disk does while its member is down.
    fn spoil(&mut self, member: usize, stored: Stored) -> Stored {
        let older = self.nodes[member].older_disk.take();
        match (self.rng.below(8), older) {
            (0, _) if stored.corrupt(&mut self.rng) => self.coverage.count("bytes of logs changed"),
            (1, _) => {
                self.coverage.count("stale reads of logs");
                stored.read_stale(&mut self.rng);
            }
            (2, None) => self.nodes[member].older_disk = Some(stored.copy()),
            (2 | 3, Some(older)) => {
                self.coverage.count("disks put back to an older state");
                (self.nodes[member].fetched, self.nodes[member].installing) = (None, None);
                return older;
            }
            (_, older) => self.nodes[member].older_disk = older,
        }
        stored
    }

    /// The log of a new disk.
    pub(super) fn new_journal(&self, member: usize, bad: bool) -> Journal {
        Journal::new(member, self.options.log_sizes(), if bad { Kind::Bad } else { Kind::Good })
    }

    /// Starts `member` with what is on its disk.
    pub(super) fn restore(&mut self, member: usize, stored: Stored) {
        let mut recovery = match stored.recover(member, self.options.log_sizes()) {
            Ok(recovery) => recovery,
            Err(error) => return self.cannot_use(member, &error),
        };
        if let Some(wrong) = recovery.wrong.take() {
            if !self.nodes[member].bad_disk {
                let text = format!("the log of member {member}: {wrong}");
                return self.checker.fail(Property::Durability, text);
            }
            self.coverage.count("logs that lack what was durable");
        }
        if recovery.found.records.is_empty() {
            return self.cannot_use(member, "it is empty");
        }
        self.coverage.count("restarts with memory");
        // Memory is not short before anything was received.
        let pool = Pool { starvation: 0, ..self.pool() };
        let config = self.config(member, false);
        let now = self.nodes[member].local(self.now);
        let host = Host::new(config, pool, now);
        self.nodes[member].hosts.push(host);
        if let Err(error) = self.replay(member, &mut recovery.found) {
            return self.cannot_use(member, &error);
        }
        let last = Lsn(recovery.found.dropped + recovery.found.records.len() as u64);
        self.trace.line(self.now, Log::Short, || {
            format!("{member}: is back with {} records", recovery.found.records.len())
        });
        let host = &mut self.nodes[member].hosts[0];
        host.view = host.core.view().clone();
        host.journal = recovery.go_on();
        self.nodes[member].hosts[0].incoming = self.nodes[member].fetched.take();
        let host = &mut self.nodes[member].hosts[0];
        let mut actions = Actions::with_capacity(0);
        host.core.go_on_after(last, &mut actions);
        let wanted = host.core.wanted();
        self.checker.wanted(wanted);
        for action in actions.drain().collect::<Vec<_>>() {
            self.perform(member, 0, action);
        }
        self.tell_checkpoints(member, 0);
        let life = self.nodes[member].life;
        self.push(self.now, Event::Wake { member, host: 0, life, at: Instant(0) });
    }

    /// Replays what was found, from the newest checkpoint on that can be used.
    fn replay(&mut self, member: usize, disk: &mut Disk) -> Result<(), String> {
        let first = self.begin(member, disk)?;
        let now = self.nodes[member].local(self.now);
        let mut actions = Actions::with_capacity(0);
        for (at, bytes) in disk.records.iter().enumerate().skip(first) {
            let core = &mut self.nodes[member].hosts[0].core;
            if let Err(error) = core.restore(now, bytes, &mut actions) {
                return Err(format!("record {}: {error}", disk.dropped + at as u64 + 1));
            }
            for action in actions.drain() {
                if let Action::Execute { context, batch, selection, view_answer, .. } = action {
                    self.note_delivery(member, &context, &batch, &selection);
                    let after = Lsn(disk.dropped + at as u64 + 1);
                    let checkpoint = None;
                    let job = Job { context, batch, selection, view_answer, after, checkpoint };
                    let _ = self.apply_view_answer(member, 0, &job);
                    let _ = self.apply(member, 0, &job);
                }
            }
        }
        Ok(())
    }

    /// The log of `member` is of no use: on a good disk that is a violation; from a bad one it is moved away.
    fn cannot_use(&mut self, member: usize, error: &str) {
        if !self.nodes[member].bad_disk {
            let text = format!("member {member} cannot use its log: {error}");
            return self.checker.fail(Property::Durability, text);
        }
        self.coverage.count("damaged logs that were noticed");
        self.trace.line(self.now, Log::Short, || format!("{member}: moves its log away: {error}"));
        self.checker.forget(member);
        self.nodes[member].hosts.clear();
        self.nodes[member].lost_disk = true;
        self.restart_without_memory(member);
    }

    /// Are those without memory, the faulty, and those that crash by plan fewer than f?
    fn a_disk_may_be_lost(&mut self) -> bool {
        let mut faulty = 0;
        for (member, node) in self.nodes.iter_mut().enumerate() {
            // What says that it has learned enough has to survive, too.
            let synced = |host: &Host| host.journal.unsynced() == 0;
            node.lost_disk &= !(node.is_correct() && node.hosts.iter().all(synced));
            let planned = self.options.crashes.iter().any(|crash| crash.member == member);
            faulty +=
                usize::from(node.adversary.is_some() || planned || node.lost_disk || node.bad_disk);
        }
        faulty < self.options.f
    }

    /// Everybody honest may lose power at once.
    pub(super) fn crash_any(&mut self) {
        let all = self.rng.chance(300);
        for member in 0..self.view.n() {
            let planned = self.options.crashes.iter().any(|crash| crash.member == member);
            let up = self.nodes[member].adversary.is_none() && !self.nodes[member].hosts.is_empty();
            if up && !planned && (all || self.rng.chance(400)) {
                let back = self.rng.duration(Duration::ZERO, self.options.timeout * 4);
                self.crash_member(member, Some(back));
                if self.rng.chance(200) && self.a_disk_may_be_lost() {
                    self.coverage.count("disks lost");
                    self.nodes[member].disk = None;
                    self.nodes[member].lost_disk = true;
                }
            }
        }
    }
}
