//! The disks of nodes: when writes are done, what fails, who goes down with whom.
//!
//! Always true: what a good disk was asked to keep is there when its node comes back, or the run fails. Must
//! not: reach into a node.

use std::time::Duration;

use super::faults::Fault;
use super::{Cluster, Event};
use crate::checker::Property;
use crate::disks;
use crate::trace::Log;
use crate::world::Disks;

impl Cluster {
    /// Lets the disk of a seat begin what its node wants written.
    pub(super) fn start_write(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let Some(log) = seat.log.as_mut().filter(|log| log.wants_write()) else { return };
        log.writing = true;
        if self.options.disks.are_faulty() && !self.calm {
            if seat.bad_disk && self.rng.chance(30) {
                self.coverage.count("writes that a disk lied about");
                log.inject(disks::lie(&mut self.rng));
            } else if self.rng.chance(4) {
                log.inject(disks::fail(&mut self.rng));
            }
        }
        let life = seat.life;
        let takes = match self.rng.below(20) {
            0 => self.rng.duration(Duration::ZERO, self.options.timeout / 2),
            _ => self.rng.duration(Duration::from_micros(50), Duration::from_millis(2)),
        };
        self.push(self.now + takes, Event::Synced(at, life));
    }

    /// A write is done.
    pub(super) fn on_synced(&mut self, at: usize, life: u32) {
        let seat = &mut self.seats[at];
        let Some(log) = seat.log.as_mut().filter(|_| seat.life == life) else { return };
        self.coverage.count("syncs");
        match log.complete() {
            Ok(()) => {
                self.start_write(at);
                self.turn_seat(at);
            }
            Err(failure) => {
                // Its process ends, and somebody starts it again, with room on its disk.
                self.coverage.count("logs that failed");
                let member = usize::from(self.seats[at].member);
                self.trace.line(self.at(), Log::Short, || format!("{member}: stops: {failure}"));
                self.crash_for_a_while(member);
            }
        }
    }

    pub(super) fn crash_for_a_while(&mut self, member: usize) {
        self.crash(member);
        let back = self.rng.duration(Duration::ZERO, self.options.timeout * 4);
        let back = if self.calm { Duration::ZERO } else { back };
        self.push(self.now + back, Event::Fault(Fault::Restart(member)));
    }

    /// Members of the mask go down at once, those that keep records.
    pub(super) fn crash_some(&mut self, mask: u64) {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            let member = usize::from(seat.member);
            let planned = self.options.crashes.iter().any(|crash| crash.member == member);
            if mask >> member & 1 == 0 || planned || seat.log.is_none() {
                continue;
            }
            self.crash_for_a_while(member);
            if self.rng.chance(150) && self.a_disk_may_be_lost() {
                self.coverage.count("disks lost");
                (self.seats[at].stored, self.seats[at].lost_disk) = (None, true);
            }
            let seat = &self.seats[at];
            if let Some(stored) = seat.stored.as_ref().filter(|_| seat.bad_disk)
                && self.rng.chance(200)
                && stored.corrupt(&mut self.rng)
            {
                self.coverage.count("bytes of logs changed");
            }
        }
    }

    /// Are the faulty, those that crash by plan, and those without memory fewer than f?
    fn a_disk_may_be_lost(&mut self) -> bool {
        let mut faulty = vec![false; self.options.n()];
        for seat in &mut self.seats {
            // What says that it has learned enough has to survive, too.
            let synced = seat.log.as_ref().is_some_and(|log| !log.is_behind());
            seat.lost_disk &= !(seat.is_correct() && synced);
            let member = usize::from(seat.member);
            let planned = self.options.crashes.iter().any(|crash| crash.member == member);
            faulty[member] |= !seat.honest || planned || seat.lost_disk || seat.bad_disk;
        }
        faulty.iter().filter(|faulty| **faulty).count() < self.options.f
    }

    /// Starts a member again, with what is on its disk.
    pub fn restart(&mut self, member: usize) {
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if usize::from(seat.member) != member || seat.is_up() {
                continue;
            }
            self.checker.forget(member);
            let with_memory = seat.stored.is_some();
            let what = if with_memory { "restarts with memory" } else { "restarts without memory" };
            self.coverage.count(what);
            let started = seat.start(&self.options, &self.test, &self.switch, self.now, true);
            let Err(wrong) = started else { continue };
            if !seat.bad_disk {
                self.checker.fail(Property::Durability, format!("member {member}: {wrong}"));
                return;
            }
            self.coverage.count("damaged logs that were noticed");
            (seat.stored, seat.lost_disk) = (None, true);
            let again = seat.start(&self.options, &self.test, &self.switch, self.now, true);
            again.expect("a new disk is good");
        }
    }
}

impl Disks {
    /// Are there any?
    pub(super) fn are_there(self) -> bool {
        self != Self::None
    }
}
