//! The network between members and clients: delay, loss, duplication, reordering, resets, partitions.
//!
//! Always true: what was in flight when a link went down never arrives; after it came up both ends are
//! told. Must not: look into messages.

use std::time::Duration;

use tetrarch_consensus::Instant;

use crate::rng::Rng;
use crate::swarm::Options;

/// What becomes of one transmission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Arrival, if it arrives at all.
    pub first: Option<Instant>,
    /// Arrival of a duplicate.
    pub second: Option<Instant>,
}

/// Why a link is down. A link is up when nothing holds it down.
#[derive(Clone, Copy, Debug)]
struct Link {
    holds: u32,
    incarnation: u32,
    last: Instant,
    /// One direction loses everything, silently.
    deaf: bool,
}

/// What an adversarial network loses for a while: messages of some kinds, from some members to some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Veto {
    /// Kinds, as a mask of their numbers.
    pub kinds: u64,
    /// Senders, as a mask.
    pub from: u64,
    /// Receivers, as a mask.
    pub to: u64,
}

/// All links between members.
#[derive(Debug)]
pub struct Net {
    vetoes: Vec<Veto>,
    n: usize,
    links: Vec<Link>,
    delay: (Duration, Duration),
    loss: u32,
    duplicates: u32,
    reorder: u32,
    rng: Rng,
}

impl Net {
    /// The network of the safety phase.
    pub fn new(options: &Options, rng: Rng) -> Self {
        let n = options.n();
        let link = Link { holds: 0, incarnation: 0, last: Instant(0), deaf: false };
        Self {
            vetoes: Vec::new(),
            n,
            links: vec![link; n * n],
            delay: options.delay,
            loss: options.loss,
            duplicates: options.duplicates,
            reorder: options.reorder,
            rng,
        }
    }

    /// From now on: short delays, no loss. Links that are held down stay down.
    pub fn calm(&mut self) {
        self.delay = (Duration::from_micros(50), Duration::from_micros(300));
        (self.loss, self.duplicates, self.reorder) = (0, 0, 0);
        self.links.iter_mut().for_each(|link| link.deaf = false);
        self.vetoes.clear();
    }

    /// Loses what `veto` names, from now on.
    pub fn veto(&mut self, veto: Veto) {
        self.vetoes.push(veto);
    }

    /// Ends a veto.
    pub fn lift(&mut self, veto: Veto) {
        if let Some(at) = self.vetoes.iter().position(|other| *other == veto) {
            self.vetoes.swap_remove(at);
        }
    }

    fn is_vetoed(&self, from: usize, to: usize, kind: u8) -> bool {
        self.vetoes
            .iter()
            .any(|veto| (veto.kinds >> kind & veto.from >> from & veto.to >> to) & 1 == 1)
    }

    fn at(&self, from: usize, to: usize) -> usize {
        from * self.n + to
    }

    /// Is the link between `a` and `b` up?
    pub fn is_up(&self, a: usize, b: usize) -> bool {
        self.links[self.at(a, b)].holds == 0
    }

    /// Grows each time the link goes down: a message arrives only in the incarnation it was sent in.
    pub fn incarnation(&self, a: usize, b: usize) -> u32 {
        self.links[self.at(a, b)].incarnation
    }

    /// Takes the link down, or holds it down once more.
    pub fn hold(&mut self, a: usize, b: usize) {
        for at in [self.at(a, b), self.at(b, a)] {
            self.links[at].holds += 1;
            self.links[at].incarnation += 1;
        }
    }

    /// Undoes one `hold`; true when the link came up.
    pub fn release(&mut self, a: usize, b: usize) -> bool {
        for at in [self.at(a, b), self.at(b, a)] {
            self.links[at].holds = self.links[at].holds.saturating_sub(1);
        }
        self.is_up(a, b)
    }

    /// Lets everything from `from` to `to` get lost, or not any more.
    pub fn set_deaf(&mut self, from: usize, to: usize, deaf: bool) {
        let at = self.at(from, to);
        self.links[at].deaf = deaf;
    }

    /// Sends a message of this kind from member `from` to member `to`.
    pub fn route(&mut self, now: Instant, from: usize, to: usize, kind: u8) -> Route {
        let at = self.at(from, to);
        let down = self.links[at].holds > 0 || self.links[at].deaf;
        if down || self.is_vetoed(from, to, kind) || self.rng.chance(self.loss) {
            return Route { first: None, second: None };
        }
        let mut arrival = now + self.delay.0 + self.rng.long_tailed(self.delay.1);
        if !self.rng.chance(self.reorder) {
            arrival = arrival.max(self.links[at].last);
            self.links[at].last = arrival;
        }
        let twice = self.rng.chance(self.duplicates);
        let second = twice.then(|| arrival + self.rng.long_tailed(self.delay.1 * 8));
        Route { first: Some(arrival), second }
    }

    /// Sends something between a member and a client.
    pub fn route_client(&mut self, now: Instant) -> Route {
        if self.rng.chance(self.loss) {
            return Route { first: None, second: None };
        }
        let arrival = now + self.delay.0 + self.rng.long_tailed(self.delay.1);
        let twice = self.rng.chance(self.duplicates);
        let second = twice.then(|| arrival + self.rng.long_tailed(self.delay.1 * 8));
        Route { first: Some(arrival), second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::Wishes;

    #[test]
    fn a_link_is_up_only_when_nothing_holds_it_down() {
        let mut options = Options::draw(1, &Wishes { n: Some(4), ..Wishes::default() });
        options.loss = 0;
        let mut net = Net::new(&options, Rng::new(1));
        let before = net.incarnation(0, 1);
        net.hold(0, 1);
        net.hold(1, 0);
        assert_eq!(net.route(Instant(5), 0, 1, 1).first, None);
        assert!(!net.release(0, 1));
        assert!(net.release(0, 1));
        assert_ne!(net.incarnation(1, 0), before);
        assert!(net.route(Instant(5), 1, 0, 1).first.is_some());
        let veto = Veto { kinds: 1 << 6, from: 0b10, to: 0b01 };
        net.veto(veto);
        assert!(net.route(Instant(5), 1, 0, 6).first.is_none());
        assert!(net.route(Instant(5), 1, 0, 5).first.is_some());
        assert!(net.route(Instant(5), 0, 1, 6).first.is_some());
        net.lift(veto);
        assert!(net.route(Instant(5), 1, 0, 6).first.is_some());
    }
}
