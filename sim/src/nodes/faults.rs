//! Faults of links and members at level 2, and the healing; and the same by hand, for scenarios.
//!
//! Always true: what a fault takes down, its end brings up again. Must not: make anybody Byzantine.

use std::time::Duration;

use tetrarch_dataplane::transport::memory::Port;

use super::actors::{Person, Seat};
use super::{Cluster, Event, TWIN_PORT, Weather};
use crate::trace::Log;

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Cut(Port, Port),
    Heal(Port, Port),
    Pause(Port),
    Continue(Port),
    Crash(usize, Option<Duration>),
    Restart(usize),
    /// Members in the mask lose power.
    CrashSome(u64),
}

impl Cluster {
    pub(super) fn plan_faults(&mut self) {
        let n = self.options.n() as u64;
        let mut rng = self.rng.fork(9);
        let kinds =
            [self.options.reset_every, self.options.partition_every, self.options.pause_every];
        for (kind, every) in kinds.into_iter().enumerate() {
            for after in rng.moments(every, self.options.safety) {
                let at = self.now + after;
                let until = at + rng.duration(Duration::ZERO, self.options.timeout * 4);
                let (a, b) = (Port(rng.below(n) as u16), Port(rng.below(n) as u16));
                match kind {
                    0 if a != b => {
                        self.push(at, Event::Fault(Fault::Cut(a, b)));
                        self.push(until, Event::Fault(Fault::Heal(a, b)));
                    }
                    1 => {
                        for other in (0..n as u16).map(Port).filter(|other| *other != a) {
                            self.push(at, Event::Fault(Fault::Cut(a, other)));
                            self.push(until, Event::Fault(Fault::Heal(a, other)));
                        }
                    }
                    2 => {
                        self.push(at, Event::Fault(Fault::Pause(a)));
                        self.push(until, Event::Fault(Fault::Continue(a)));
                    }
                    _ => {}
                }
            }
        }
        if self.options.disks.are_there() {
            for after in rng.moments(self.options.crash_every, self.options.safety) {
                let mask = if rng.chance(300) { u64::MAX } else { rng.mask(n as usize) };
                self.push(self.now + after, Event::Fault(Fault::CrashSome(mask)));
            }
        }
        for crash in self.options.crashes.clone() {
            let fault = Fault::Crash(crash.member, crash.back_after);
            self.push(self.now + crash.at, Event::Fault(fault));
        }
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        let begins = matches!(fault, Fault::Cut(..) | Fault::Pause(_) | Fault::CrashSome(_));
        if self.calm && begins {
            return;
        }
        self.trace.line(self.at(), Log::Short, || format!("fault: {fault:?}"));
        match fault {
            Fault::Cut(a, b) => {
                self.coverage.count("links cut");
                self.cut_members(a.0, b.0, true);
            }
            Fault::Heal(a, b) => self.cut_members(a.0, b.0, false),
            Fault::Pause(port) => self.pause(port.0),
            Fault::Continue(port) => self.resume(port.0),
            Fault::Crash(member, back) => {
                self.crash(member);
                if let Some(after) = back {
                    self.push(self.now + after, Event::Fault(Fault::Restart(member)));
                }
            }
            Fault::Restart(member) => self.restart(member),
            Fault::CrashSome(mask) => self.crash_some(mask),
        }
    }

    fn cut_members(&mut self, a: u16, b: u16, cut: bool) {
        for (a, b) in [(a, b), (a + TWIN_PORT, b), (a, b + TWIN_PORT)] {
            if cut {
                self.switch.cut(Port(a), Port(b));
            } else {
                self.switch.heal(Port(a), Port(b));
            }
        }
    }

    /// Cuts a member off from all others, or lets it back.
    pub fn cut_off(&mut self, member: u16, cut: bool) {
        for other in (0..self.options.n() as u16).filter(|&other| other != member) {
            self.cut_members(member, other, cut);
        }
    }

    /// No turns for a member until `resume`: what SIGSTOP does.
    pub fn pause(&mut self, member: u16) {
        self.coverage.count("pauses");
        self.seats.iter_mut().filter(|seat| seat.member == member).for_each(|it| it.paused = true);
    }

    /// Ends a pause.
    pub fn resume(&mut self, member: u16) {
        self.seats.iter_mut().filter(|seat| seat.member == member).for_each(|it| it.paused = false);
        self.turn(Port(member));
    }

    /// Gives a member a turn this often only.
    pub fn slow(&mut self, member: u16, period: Duration) {
        self.seats
            .iter_mut()
            .filter(|seat| seat.member == member)
            .for_each(|it| it.period = period);
    }

    /// Ends a member as SIGKILL does.
    pub fn crash(&mut self, member: usize) {
        self.coverage.count("crashes");
        for seat in self.seats.iter_mut().filter(|seat| usize::from(seat.member) == member) {
            seat.stop(&mut self.rng);
        }
    }

    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.trace.line(self.at(), Log::Short, || "healed".into());
        self.weather = Weather {
            delay: (Duration::from_micros(50), Duration::from_micros(200)),
            ..Weather::default()
        };
        let pending: Vec<_> = self
            .events
            .iter()
            .filter_map(|(order, event)| match event {
                Event::Fault(
                    fault @ (Fault::Heal(..) | Fault::Continue(_) | Fault::Restart(_)),
                ) => Some((*order, *fault)),
                _ => None,
            })
            .collect();
        for (order, fault) in pending {
            self.events.remove(&order);
            self.on_fault(fault);
        }
        if !self.options.villains_persist {
            self.seats.iter_mut().for_each(Seat::retire);
        }
        self.people.iter_mut().for_each(Person::hurry);
    }
}
