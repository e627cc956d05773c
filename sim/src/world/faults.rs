//! Faults of links and members, planned at the start; and the healing.
//!
//! Always true: what a fault takes down, its end brings up again. Must not: make anybody Byzantine.

use std::time::Duration;

use tetrarch_consensus::Instant;

use super::disk::Disks;
use super::{Event, Host, Node, World};
use crate::net::Veto;
use crate::swarm::Crash;
use crate::trace::Log;

/// Something that breaks, or is mended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The link between two members goes down.
    Hold(usize, usize),
    /// One reason for the link to be down ends.
    Release(usize, usize),
    /// Members in the mask cannot talk to the others.
    Split(u64),
    /// The end of a split.
    Join(u64),
    /// Everything from one member to another is lost, silently.
    Deaf(usize, usize, bool),
    Pause(usize),
    Continue(usize),
    Veto(Veto),
    Lift(Veto),
    Crash(Crash),
    Restart(usize),
    /// A crash of somebody, if f allows; and the next one.
    CrashSomebody,
}

impl World {
    pub(super) fn plan_faults(&mut self) {
        let mut rng = self.rng.fork(5);
        let n = self.view.n();
        let timeout = self.options.timeout;
        let mut plan = Vec::new();
        let mut each = |every: Duration, rng: &mut crate::rng::Rng, kind: u32| {
            for after in rng.moments(every, self.options.safety) {
                let length = match rng.below(4) {
                    0 => rng.duration(timeout, timeout * 8),
                    _ => rng.duration(Duration::ZERO, timeout),
                };
                plan.push((self.now + after, length, kind));
            }
        };
        each(self.options.reset_every, &mut rng, 0);
        each(self.options.partition_every, &mut rng, 1);
        each(self.options.pause_every, &mut rng, 2);
        each(self.options.veto_every, &mut rng, 3);
        for (at, length, kind) in plan {
            let (a, b) = (rng.index(n), rng.index(n));
            let mask = rng.mask(n);
            let (start, stop) = match (kind, rng.below(4)) {
                (0, _) if a != b => (Fault::Hold(a, b), Fault::Release(a, b)),
                (1, 0) if a != b => (Fault::Deaf(a, b, true), Fault::Deaf(a, b, false)),
                (1, 1) => (Fault::Split(1 << a), Fault::Join(1 << a)),
                (1, _) => (Fault::Split(mask), Fault::Join(mask)),
                (2, _) => (Fault::Pause(a), Fault::Continue(a)),
                (3, _) => {
                    let veto = draw_veto(&mut rng, n);
                    (Fault::Veto(veto), Fault::Lift(veto))
                }
                _ => continue,
            };
            self.push(at, Event::Fault(start));
            self.push(at + length, Event::Fault(stop));
        }
        self.next_crash();
        for crash in self.options.crashes.clone() {
            self.push(self.now + crash.at, Event::Fault(Fault::Crash(crash)));
        }
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        // What was planned and not begun is off once the world is healed; what was begun must end.
        let begins = matches!(
            fault,
            Fault::Hold(..)
                | Fault::Split(_)
                | Fault::Deaf(_, _, true)
                | Fault::Pause(_)
                | Fault::Veto(_)
                | Fault::CrashSomebody
        );
        if self.calm && begins {
            return;
        }
        self.trace.event(self.now, &[6]);
        self.trace.line(self.now, Log::Short, || format!("fault: {fault:?}"));
        match fault {
            Fault::Hold(a, b) => {
                self.coverage.count("link resets");
                self.net.hold(a, b);
            }
            Fault::Release(a, b) => self.release(a, b),
            Fault::Split(mask) => {
                self.coverage.count("partitions");
                self.each_across(mask, |world, a, b| world.net.hold(a, b));
            }
            Fault::Join(mask) => self.each_across(mask, World::release),
            Fault::Deaf(a, b, deaf) => self.net.set_deaf(a, b, deaf),
            Fault::Pause(member) => {
                self.coverage.count("pauses");
                self.nodes[member].paused = true;
            }
            Fault::Continue(member) => self.wake_up(member),
            Fault::Veto(veto) => {
                self.coverage.count("periods without some kinds of messages");
                self.net.veto(veto);
            }
            Fault::Lift(veto) => self.net.lift(veto),
            Fault::CrashSomebody => self.crash_somebody(),
            Fault::Crash(crash) => self.crash(crash),
            Fault::Restart(member) => self.restart(member),
        }
    }

    fn each_across(&mut self, mask: u64, mut act: impl FnMut(&mut World, usize, usize)) {
        for a in 0..self.view.n() {
            for b in a + 1..self.view.n() {
                if (mask >> a ^ mask >> b) & 1 == 1 {
                    act(self, a, b);
                }
            }
        }
    }

    fn release(&mut self, a: usize, b: usize) {
        if !self.net.release(a, b) {
            return;
        }
        for (member, peer) in [(a, b), (b, a)] {
            let at = self.now + self.rng.duration(Duration::ZERO, Duration::from_millis(2));
            let life = self.nodes[member].life;
            self.push(at, Event::Connected { member, peer, life });
        }
    }

    fn wake_up(&mut self, member: usize) {
        self.nodes[member].paused = false;
        let inbox = std::mem::take(&mut self.nodes[member].inbox);
        for event in inbox {
            self.push(self.now, event);
        }
    }

    fn crash(&mut self, crash: Crash) {
        // Records apart, a member crashes by plan once; with them it may be down already.
        if !self.nodes[crash.member].hosts.is_empty() {
            self.crash_member(crash.member, crash.back_after);
        }
    }

    pub(super) fn crash_member(&mut self, member: usize, back_after: Option<Duration>) {
        self.coverage.count("crashes");
        self.lose_power(member);
        for peer in (0..self.view.n()).filter(|&peer| peer != member) {
            self.net.hold(member, peer);
        }
        let node = &mut self.nodes[member];
        node.hosts.clear();
        node.life += 1;
        if let Some(after) = back_after {
            self.push(self.now + after, Event::Fault(Fault::Restart(member)));
        }
    }

    fn next_crash(&mut self) {
        if self.options.crash_every > Duration::ZERO {
            let pause = self.rng.long_tailed(self.options.crash_every);
            self.push(
                self.now + pause + Duration::from_nanos(1),
                Event::Fault(Fault::CrashSomebody),
            );
        }
    }

    fn crash_somebody(&mut self) {
        self.next_crash();
        if self.options.disks != Disks::None {
            return self.crash_any();
        }
        // A faulty member counts whether it is a member now or comes back later.
        let members = self.newest_members();
        let counts = |(at, node): &(usize, &Node)| {
            !node.is_correct() && (node.adversary.is_some() || members.contains(at))
        };
        let faulty = self.nodes.iter().enumerate().filter(counts).count();
        // Those that are to crash by plan count from the start.
        let up = |crash: &&Crash| self.nodes[crash.member].is_correct();
        let planned = self.options.crashes.iter().filter(up).count();
        if faulty + planned >= self.options.f {
            return;
        }
        let member = self.rng.index(self.view.n());
        let by_plan = self.options.crashes.iter().any(|crash| crash.member == member);
        if self.nodes[member].is_correct() && !by_plan {
            self.coverage.count("crashes in turn");
            let back = self.rng.duration(Duration::ZERO, self.options.timeout * 8);
            self.crash(Crash { member, at: Duration::ZERO, back_after: Some(back) });
        }
    }

    fn restart(&mut self, member: usize) {
        if !self.nodes[member].hosts.is_empty() {
            // It was started anew meanwhile, to join.
            return self.release_all(member);
        }
        self.checker.forget(member);
        if let Some(stored) = self.nodes[member].disk.take() {
            self.restore(member, stored);
        } else {
            self.restart_without_memory(member);
        }
        self.release_all(member);
    }

    fn release_all(&mut self, member: usize) {
        for peer in (0..self.view.n()).filter(|&peer| peer != member) {
            self.release(member, peer);
        }
    }

    pub(super) fn restart_without_memory(&mut self, member: usize) {
        self.coverage.count("restarts without memory");
        // It is told of the newest view by whoever starts it.
        if self.newest_members().contains(&member) {
            self.nodes[member].begins_in = self.newest_view().0 as usize;
        }
        let config = self.config(member, true);
        let now = self.nodes[member].local(self.now);
        let pool = self.pool();
        let mut host = Host::new(config, pool, now);
        if self.options.disks != Disks::None {
            host.start_journal(self.new_journal(member, self.nodes[member].bad_disk));
        }
        self.nodes[member].hosts.push(host);
        (self.nodes[member].fetched, self.nodes[member].installing) = (None, None);
        let life = self.nodes[member].life;
        self.push(self.now, Event::Wake { member, host: 0, life, at: Instant(0) });
    }

    /// From here on the network is good between all healed members.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.net.calm();
        self.trace.line(self.now, Log::Short, || "healed".into());
        let mut candidates: Vec<usize> =
            (0..self.view.n()).filter(|&at| self.nodes[at].is_correct()).collect();
        self.rng.shuffle(&mut candidates);
        let spare = self.options.f.saturating_sub(self.view.n() - candidates.len());
        for &member in candidates.iter().take(self.options.abandoned.min(spare)) {
            self.coverage.count("members left cut off");
            self.nodes[member].healed = false;
            for peer in (0..self.view.n()).filter(|&peer| peer != member) {
                self.net.hold(member, peer);
            }
        }
        for member in 0..self.view.n() {
            self.wake_up(member);
        }
        self.mend_now();
        if !self.options.villains_persist {
            for node in &mut self.nodes {
                if let Some(adversary) = &mut node.adversary {
                    adversary.retire();
                }
            }
        }
        for index in 0..self.clients.len() {
            self.clients[index].hurry(self.now);
            self.schedule_client(index);
        }
    }

    /// Faulty members are cut off.
    pub(super) fn silence_villains(&mut self) {
        self.trace.line(self.now, Log::Short, || "faulty members fall silent".into());
        for member in 0..self.view.n() {
            if self.nodes[member].adversary.is_some() {
                for peer in (0..self.view.n()).filter(|&peer| peer != member) {
                    self.net.hold(member, peer);
                }
            }
        }
    }

    /// Ends every fault that has begun: its end is in the queue.
    fn mend_now(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        let mut rest = queue.into_sorted_vec();
        rest.reverse();
        for scheduled in rest {
            let ends = matches!(
                scheduled.event,
                Event::Fault(
                    Fault::Release(..)
                        | Fault::Lift(_)
                        | Fault::Restart(_)
                        | Fault::Join(_)
                        | Fault::Deaf(_, _, false)
                        | Fault::Continue(_)
                )
            );
            match ends {
                true => self.push(self.now, scheduled.event),
                false => self.queue.push(scheduled),
            }
        }
    }
}

/// Mostly votes and what a change of leader needs: that is where halves matter.
fn draw_veto(rng: &mut crate::rng::Rng, n: usize) -> Veto {
    use tetrarch_consensus::message::kind;
    let kinds = match rng.below(6) {
        0 => 1 << kind::ACCEPT,
        1 => 1 << kind::WRITE | 1 << kind::ACCEPT,
        2 => 1 << kind::PROPOSE,
        3 => 1 << kind::SYNC | 1 << kind::STOPDATA,
        4 => 1 << kind::STATUS | 1 << kind::DECIDED,
        _ => rng.next(),
    };
    let side = |rng: &mut crate::rng::Rng| match rng.below(3) {
        0 => u64::MAX,
        1 => !(1 << rng.index(n)),
        _ => rng.mask(n),
    };
    Veto { kinds, from: side(rng), to: side(rng) }
}
