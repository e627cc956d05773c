//! The disks of members that keep records, and what waits for them.
//!
//! Always true: a crash leaves a prefix of what was appended, with everything that was synced in it; what had
//! to wait for more never left. Must not: change a record.

use std::collections::VecDeque;
use std::time::Duration;

use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Action, Actions, Input, Instant, Lsn, Protocol, Recipients, Record};

use super::checkpoint::Checkpoint;
use super::member::{Host, Job, Pool};
use super::{Event, World};
use crate::byzantine::Msg;
use crate::checker::Property;
use crate::client::Reply;
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
}

/// What waits for a sync.
#[expect(clippy::large_enum_variant, reason = "most are messages")]
pub(super) enum Held {
    Message(Recipients, Msg),
    Reply(Reply),
}

/// One core's disk.
#[derive(Default)]
pub(super) struct Journal {
    /// How many records were given up, and those that come after them.
    pub(super) dropped: u64,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) synced: u64,
    writing: bool,
    held: VecDeque<(Lsn, Held)>,
    /// Those that are durable, the newest last, and one that is being written.
    pub(super) checkpoints: VecDeque<Checkpoint>,
    pub(super) unfinished: Option<Checkpoint>,
    /// The base of the last one that was given up.
    pub(super) before: Option<Lsn>,
}

/// What is on the disk of a member that is down.
pub(super) struct Disk {
    pub(super) dropped: u64,
    pub(super) records: Vec<Vec<u8>>,
    pub(super) checkpoints: VecDeque<Checkpoint>,
}

impl Journal {
    /// The last record that was appended.
    pub(super) fn last(&self) -> Lsn {
        Lsn(self.dropped + self.records.len() as u64)
    }
}

impl Host {
    /// Begins with the first record, which is durable before anything happens.
    pub(super) fn start_journal(&mut self) {
        let mut actions = Actions::with_capacity(1);
        self.core.go_on_after(Lsn(0), &mut actions);
        for action in actions.drain() {
            if let Action::Persist { record, .. } = action {
                self.journal.records.push(encode(&record));
            }
        }
        self.journal.synced = self.journal.last().0;
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
        journal.records.push(encode(record));
        if journal.last() != lsn {
            let text = format!("member {member} numbers its record {lsn}, not {}", journal.last());
            self.checker.fail(Property::Resources, text);
        }
        self.start_write(member, host);
    }

    fn start_write(&mut self, member: usize, host: usize) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        if journal.writing || journal.synced == journal.last().0 {
            return;
        }
        journal.writing = true;
        let to = journal.last();
        let takes = match self.rng.below(20) {
            0 => self.rng.duration(Duration::ZERO, self.options.timeout),
            _ => self.rng.duration(Duration::from_micros(50), Duration::from_millis(2)),
        };
        let life = self.nodes[member].life;
        self.push(self.now + takes, Event::Synced { member, host, life, to });
    }

    pub(super) fn on_synced(&mut self, member: usize, host: usize, to: Lsn) {
        self.coverage.count("syncs");
        let journal = &mut self.nodes[member].hosts[host].journal;
        journal.synced = to.0;
        journal.writing = false;
        while let Some((_, held)) = {
            let journal = &mut self.nodes[member].hosts[host].journal;
            journal.held.pop_front_if(|(after, _)| *after <= to)
        } {
            self.tell(member, host, held);
        }
        self.step(member, host, Input::Durable(to));
        self.start_write(member, host);
    }

    /// Tells the world something when everything up to `after` is synced.
    pub(super) fn tell_after(&mut self, member: usize, host: usize, after: Lsn, held: Held) {
        let journal = &mut self.nodes[member].hosts[host].journal;
        if after.0 > journal.synced && self.options.disks == Disks::Honest {
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
        let Some(host) = node.hosts.first_mut().filter(|host| host.keeps_records) else { return };
        let journal = std::mem::take(&mut host.journal);
        let Journal { dropped, mut records, synced, mut checkpoints, .. } = journal;
        let synced = synced.saturating_sub(dropped);
        let kept = self.rng.range(synced, records.len() as u64) as usize;
        if kept < records.len() {
            self.coverage.count("crashes that lose records");
        }
        records.truncate(kept);
        self.damage(&mut checkpoints);
        self.nodes[member].disk = Some(Disk { dropped, records, checkpoints });
    }

    /// Starts `member` with what is on its disk.
    pub(super) fn restore(&mut self, member: usize, mut disk: Disk) {
        self.coverage.count("restarts with memory");
        // Memory is not short before anything was received.
        let pool = Pool { starvation: 0, ..self.pool() };
        let config = self.config(member, false);
        let now = self.nodes[member].local(self.now);
        let mut host = Host::new(config, pool, now);
        host.keeps_records = true;
        self.nodes[member].hosts.push(host);
        let Some(first) = self.begin(member, &mut disk) else { return };
        let Disk { dropped, records, checkpoints } = disk;
        let mut actions = Actions::with_capacity(0);
        for (at, bytes) in records.iter().enumerate().skip(first) {
            let core = &mut self.nodes[member].hosts[0].core;
            if let Err(error) = core.restore(now, bytes, &mut actions) {
                let text = format!("member {member} cannot use its record {}: {error}", at + 1);
                return self.checker.fail(Property::Order, text);
            }
            for action in actions.drain() {
                if let Action::Execute { context, batch, selection } = action {
                    self.note_delivery(member, &context, &batch, &selection);
                    let after = Lsn(dropped + at as u64 + 1);
                    let checkpoint = None;
                    let job = Job { context, batch, selection, after, checkpoint };
                    let _ = self.apply(member, 0, &job);
                }
            }
        }
        self.trace.line(self.now, Log::Short, || {
            format!("{member}: is back with {} records", records.len())
        });
        let host = &mut self.nodes[member].hosts[0];
        let last = Lsn(dropped + records.len() as u64);
        host.journal =
            Journal { dropped, records, synced: last.0, checkpoints, ..Journal::default() };
        host.core.go_on_after(last, &mut actions);
        let wanted = host.core.wanted();
        self.checker.wanted(wanted);
        for action in actions.drain().collect::<Vec<_>>() {
            self.perform(member, 0, action);
        }
        let life = self.nodes[member].life;
        self.push(self.now, Event::Wake { member, host: 0, life, at: Instant(0) });
    }

    /// Are those without memory, the faulty, and those that crash by plan fewer than f?
    fn a_disk_may_be_lost(&mut self) -> bool {
        let mut faulty = 0;
        for (member, node) in self.nodes.iter_mut().enumerate() {
            // What says that it has learned enough has to survive, too.
            let synced = |host: &Host| host.journal.synced == host.journal.last().0;
            node.lost_disk &= !(node.is_correct() && node.hosts.iter().all(synced));
            let planned = self.options.crashes.iter().any(|crash| crash.member == member);
            faulty += usize::from(node.adversary.is_some() || planned || node.lost_disk);
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
