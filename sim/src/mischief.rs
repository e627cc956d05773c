//! Faulty clients.
//!
//! Always true: a faulty client has its own keys only; the checker is told which proofs it made. Must
//! not: wait for anybody.

use std::time::Duration;

use tetrarch_consensus::limits::ADMISSION_WINDOW;
use tetrarch_consensus::message::{Request, proof};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{ClientId, Digest, Sequence, ViewId};

use crate::client::{Reply, request_in};
use crate::keys::Keys;
use crate::rng::Rng;
use crate::service::Operation;
use crate::swarm::Mischief;

/// One transmission: to the members in `audience`.
#[derive(Clone, Debug)]
pub struct Shot {
    /// Members, as a mask.
    pub audience: u64,
    /// What.
    pub request: Request<SharedBytes>,
    /// Members that its proof convinces, as a mask.
    pub convinces: u64,
}

/// A faulty client.
#[derive(Debug)]
pub struct Rascal {
    identity: u32,
    mischief: Mischief,
    keys: Keys,
    rng: Rng,
    n: usize,
    counter: u32,
    answered: bool,
    tries: u32,
    view: ViewId,
}

impl Rascal {
    /// A client with a key of its own.
    pub fn new(identity: u32, mischief: Mischief, keys: Keys, rng: Rng, n: usize) -> Self {
        Self {
            identity,
            mischief,
            keys,
            rng,
            n,
            counter: 1,
            answered: false,
            tries: 0,
            view: ViewId(0),
        }
    }

    /// Pause until it acts again.
    pub fn pause(&mut self, timeout: Duration) -> Duration {
        self.rng.duration(timeout / 20, timeout / 2)
    }

    /// Makes its requests for `view` from now on.
    pub fn enter(&mut self, view: ViewId) {
        self.view = view;
    }

    /// Takes a reply.
    pub fn on_reply(&mut self, reply: &Reply) {
        if self.mischief == Mischief::Decoy {
            // It counts incarnations.
            let done = reply.sequence.incarnation();
            self.answered |= done >= self.counter;
            self.counter = self.counter.max(done);
        } else {
            self.answered |= reply.sequence == Sequence::new(1, self.counter);
        }
    }

    /// Acts, when the member at `leader` leads.
    pub fn act(&mut self, leader: usize, shots: &mut Vec<Shot>) {
        if self.answered {
            (self.answered, self.tries) = (false, 0);
            self.counter += 1;
        }
        self.tries += 1;
        match self.mischief {
            Mischief::HalfValid => self.half_valid(shots),
            Mischief::Colluding => {
                let spared = self.identity as usize % self.n;
                self.shoot(u64::MAX, !(1 << spared), false, self.counter, shots);
            }
            Mischief::SkipLeader => {
                let audience = self.rng.mask(self.n);
                let sign = self.rng.chance(500);
                self.shoot(audience, u64::MAX, sign, self.counter, shots);
            }
            Mischief::OneMember => {
                let audience = 1 << self.rng.index(self.n);
                let sign = self.rng.chance(500);
                self.shoot(audience, u64::MAX, sign, self.counter, shots);
            }
            Mischief::TwoBodies => {
                let audience = self.rng.mask(self.n);
                let sign = self.rng.chance(500);
                self.shoot(audience, u64::MAX, sign, self.counter, shots);
                self.shoot(!audience, u64::MAX, sign, self.counter, shots);
            }
            Mischief::Gaps => self.gaps(shots),
            Mischief::Invalid => self.invalid(shots),
            Mischief::Flood => self.flood(shots),
            Mischief::Decoy => self.decoy(leader, shots),
        }
    }

    /// For the others what comes next; for the leader what may come only later, or never, or instead.
    fn decoy(&mut self, leader: usize, shots: &mut Vec<Shot>) {
        let (client, leader) = (ClientId::new(self.identity, 0), 1 << leader);
        let next = Sequence::new(self.counter, 1);
        self.send(client, next, (!leader, u64::MAX, true), shots);
        for _ in 0..self.rng.range(1, 4) {
            let later = self.counter + self.rng.range(1, 5) as u32;
            let counter = self.rng.pick(&[1, 2, 2, 2]);
            let sign = self.rng.chance(700);
            self.send(client, Sequence::new(later, counter), (leader, u64::MAX, sign), shots);
        }
    }

    fn flood(&mut self, shots: &mut Vec<Shot>) {
        for _ in 0..self.rng.range(10, 60) {
            let ahead = match self.rng.below(4) {
                0 => 0,
                _ => self.rng.range(1, ADMISSION_WINDOW as u64 + 8) as u32,
            };
            let client = ClientId::new(self.identity, self.rng.below(2) as u32);
            let sequence = Sequence::new(1, self.counter + ahead);
            let sign = self.rng.chance(100);
            self.send(client, sequence, (u64::MAX, u64::MAX, sign), shots);
        }
    }

    fn half_valid(&mut self, shots: &mut Vec<Shot>) {
        let one = 1 << self.rng.index(self.n);
        let mask = match self.rng.below(5) {
            0 => one,
            1 => !one,
            2 => one | 1 << self.rng.index(self.n),
            _ => self.rng.mask(self.n),
        };
        let audience = if self.rng.chance(700) { u64::MAX } else { mask };
        let sign = self.tries > 6 && self.rng.chance(300);
        self.shoot(audience, mask, sign, self.counter, shots);
    }

    fn gaps(&mut self, shots: &mut Vec<Shot>) {
        let counter = match self.rng.below(6) {
            0 => self.counter + self.rng.range(1, 70) as u32,
            1 => self.rng.below(u64::from(self.counter)) as u32,
            2 => self.rng.next() as u32,
            _ => self.counter,
        };
        let sign = self.rng.chance(500);
        self.shoot(u64::MAX, u64::MAX, sign, counter, shots);
        if self.rng.chance(200) {
            let session = self.rng.next() as u32;
            let client = ClientId::new(self.identity, session);
            self.send(client, Sequence::new(1, 1), (u64::MAX, u64::MAX, true), shots);
        }
        if self.rng.chance(100) {
            let client = ClientId::new(self.identity, 1);
            let sequence = Sequence(self.rng.next());
            self.send(client, sequence, (u64::MAX, u64::MAX, true), shots);
        }
    }

    fn invalid(&mut self, shots: &mut Vec<Shot>) {
        let (client, sequence) = (ClientId::new(self.identity, 0), Sequence::new(1, self.counter));
        if self.rng.chance(300) {
            return self.shoot(u64::MAX, u64::MAX, true, self.counter, shots);
        }
        let nonsense = self.rng.next().to_le_bytes();
        let identity = self.identity;
        let request =
            request_in(self.view, client, sequence, false, &nonsense, |digest: &Digest| {
                (proof::SIGNATURE, self.keys.signature(identity, digest))
            });
        shots.push(Shot { audience: u64::MAX, request, convinces: u64::MAX });
    }

    fn shoot(
        &mut self,
        audience: u64,
        convinces: u64,
        sign: bool,
        counter: u32,
        shots: &mut Vec<Shot>,
    ) {
        let client = ClientId::new(self.identity, 0);
        self.send(client, Sequence::new(1, counter), (audience, convinces, sign), shots);
    }

    fn send(
        &mut self,
        client: ClientId,
        sequence: Sequence,
        (audience, convinces, sign): (u64, u64, bool),
        shots: &mut Vec<Shot>,
    ) {
        let value = match self.mischief {
            Mischief::TwoBodies => self.rng.below(2),
            _ => u64::from(self.identity),
        };
        let operation = Operation::Put(3 + self.rng.below(2) as u8 * 2, value).encode();
        let identity = self.identity;
        let request =
            request_in(self.view, client, sequence, false, &operation, |digest| match sign {
                true => (proof::SIGNATURE, self.keys.signature(identity, digest)),
                false => (proof::MAC_VECTOR, self.keys.mac_vector(identity, digest, convinces)),
            });
        let convinces = if sign { u64::MAX } else { convinces };
        shots.push(Shot { audience, request, convinces });
    }
}
