//! Level 2: whole nodes and clients, bytes and keys included, over a network in memory.
//!
//! Owns a cluster in one thread: real stages, wire, links, cryptography and client driver; the switch,
//! the clock and the application are the simulator's. Always true: what happens, and when, follows
//! from the options; keys are fresh at every run and must not matter. Must not: reach into a node but
//! through what it publishes.

pub mod actors;
mod disk;
mod faults;
pub mod gossip;
pub mod log;
pub mod machine;
pub mod puppet;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use tetrarch_appliance::testing::TestCluster;
use tetrarch_consensus::{ClientId, FaultModel};
use tetrarch_dataplane::transport::memory::{Delivery, InFlight, Port, Switch, SwitchConfig};
use tetrarch_dataplane::types::Instant;

use crate::checker::{Checker, Decided, Property};
use crate::coverage::Coverage;
use crate::rng::{Rng, mix};
use crate::swarm::{Options, Strategy};
use crate::trace::{Log, Trace};
use crate::world::{Disks, Outcome};
use actors::{Person, Seat};
use faults::Fault;

/// True time at the start.
const START: Instant = Instant(1_700_000_000_000_000_000);
/// Everybody gets a turn at least this often: connections open without a message.
const TICK: Duration = Duration::from_millis(4);
/// The first port of clients.
const CLIENT_PORT: u16 = 100;
/// The ports of second twins start here.
const TWIN_PORT: u16 = 50;

#[derive(Clone)]
enum Event {
    Tick,
    Deliver(Box<Delivered>),
    Turn(Port),
    Fault(Fault),
    Synced(usize, u32),
}

#[derive(Clone)]
struct Delivered {
    message: InFlight,
}

/// What goes wrong on the way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Shortest and mean extra one-way delay.
    pub delay: (Duration, Duration),
    /// Messages lost, per mille.
    pub loss: u32,
    /// Messages with one byte changed, per mille.
    pub flips: u32,
    /// Messages with their end cut off, per mille.
    pub truncations: u32,
    /// Messages delivered twice, per mille.
    pub duplicates: u32,
}

/// A cluster of real nodes and real clients.
pub struct Cluster {
    pub(crate) options: Options,
    pub(crate) now: Instant,
    order: u64,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    pub(crate) switch: Switch,
    test: TestCluster,
    pub(crate) seats: Vec<Seat>,
    pub(crate) people: Vec<Person>,
    last: BTreeMap<(u16, u16), Instant>,
    /// What goes wrong on the way.
    pub weather: Weather,
    rng: Rng,
    issued: BTreeSet<(u32, Vec<u8>)>,
    executed_once: BTreeSet<Vec<u8>>,
    pub(crate) checker: Checker,
    /// What happened how often.
    pub coverage: Coverage,
    trace: Trace,
    calm: bool,
}

/// Runs what `options` say, on real nodes.
pub fn run(options: &Options, log: Log) -> Outcome {
    let mut cluster = Cluster::new(options.clone(), log);
    cluster.plan_faults();
    cluster.run();
    cluster.outcome()
}

impl Cluster {
    /// A cluster that starts now. Byzantine members are twins or puppets; others crash.
    pub fn new(options: Options, log: Log) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x006e_6f64_6573);
        let n = options.n() as u16;
        let clients = options.clients.len() as u32;
        let test = TestCluster::with_model(n, options.f, clients, options.model);
        let switch = Switch::new(SwitchConfig {
            delivery: Delivery::Held,
            queue_max: 1024,
            redial: options.timeout / 8,
            ..SwitchConfig::default()
        });
        let honest =
            (0..options.n()).filter(|&at| !options.is_villain(at) && !options.has_bad_disk(at));
        let correct = honest.fold(0, |mask, at| mask | 1 << at);
        let mutant = options.disks == Disks::Unchecked;
        let checker = Checker::new(test.cluster.view(), correct, clients, mutant);
        let weather = Weather {
            delay: options.delay,
            loss: options.loss.min(100),
            flips: if rng.chance(500) { options.duplicates / 4 } else { 0 },
            truncations: if rng.chance(300) { 2 } else { 0 },
            duplicates: options.duplicates,
        };
        let mut cluster = Self {
            now: START,
            order: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            switch,
            test,
            seats: Vec::new(),
            people: Vec::new(),
            last: BTreeMap::new(),
            weather,
            rng,
            issued: BTreeSet::new(),
            executed_once: BTreeSet::new(),
            checker,
            coverage: Coverage::default(),
            trace: Trace::new(log, tetrarch_consensus::Instant(START.0)),
            calm: false,
            options,
        };
        cluster.trace.line(cluster.at(), Log::Short, || format!("{:#?}", cluster.options));
        cluster.populate();
        cluster
    }

    fn populate(&mut self) {
        let n = self.options.n() as u16;
        // Each member talks to one of two twins.
        let sides = self.rng.next();
        let twins = |options: &Options, member: u16| {
            let villain = options.villains.iter().find(|it| it.member == usize::from(member));
            villain.is_some_and(|villain| villain.strategies.contains(&Strategy::Twins))
        };
        let port_of = |options: &Options, member: u16, other: u16| {
            let twin = twins(options, member) && sides >> (other % 64) & 1 == 1;
            Port(if twin { TWIN_PORT + member } else { member })
        };
        for id in 0..n {
            let skew = self.options.skew.as_nanos() as u64;
            let offset = self.rng.range(0, 2 * skew) as i64 - skew as i64;
            let lower = (0..id).map(|to| (to, port_of(&self.options, to, id)));
            let lower: Vec<_> = lower.collect();
            let villain = self.options.villains.iter().find(|it| it.member == usize::from(id));
            if twins(&self.options, id) {
                let (first, second) =
                    lower.iter().copied().partition(|(to, _)| sides >> (to % 64) & 1 == 0);
                self.seats.push(Seat::new(id, Port(id), first, offset, false));
                self.seats.push(Seat::new(id, Port(TWIN_PORT + id), second, offset, false));
            } else {
                let seat = Seat::new(id, Port(id), lower, offset, true);
                self.seats.push(match villain {
                    Some(villain) => seat.for_villain(villain.clone(), self.rng.fork(3)),
                    None => seat,
                });
            }
        }
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            seat.bad_disk = self.options.has_bad_disk(usize::from(seat.member));
            let started = seat.start(&self.options, &self.test, &self.switch, self.now, false);
            started.expect("a new disk is good");
        }
        for index in 0..self.options.clients.len() {
            let port = CLIENT_PORT + index as u16;
            let dial = (0..n).map(|to| (to, port_of(&self.options, to, port))).collect();
            let rng = self.rng.fork(index as u64);
            let person =
                Person::new(index, Port(port), dial, &self.options, &self.test, &self.switch, rng);
            self.people.push(person);
        }
        self.push(self.now, Event::Tick);
    }

    pub(crate) fn at(&self) -> tetrarch_consensus::Instant {
        tetrarch_consensus::Instant(self.now.0)
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order)));
        self.events.insert(self.order, event);
    }

    fn run(&mut self) {
        self.run_for(self.options.safety, |_| false);
        if self.failed() {
            return;
        }
        self.heal();
        let end = self.now + self.options.bound / 4;
        let mut finished = false;
        while !finished && !self.failed() && self.now < end {
            let left = Duration::from_nanos(end.0 - self.now.0);
            if self.run_for(left, |cluster| cluster.people.iter().all(Person::is_done)) {
                let patience = left.min(self.options.timeout * 8);
                finished = self.run_for(patience, Cluster::is_level);
                if !finished {
                    self.people[0].ask_for_more();
                }
            }
        }
        if self.failed() {
            return;
        }
        if !finished {
            let text = self.what_is_missing();
            return self.checker.fail(Property::Liveness, text);
        }
        self.finish();
    }

    fn failed(&self) -> bool {
        self.checker.first_violation().is_some()
    }

    /// Runs for so long, or until `done`; true when it was.
    pub fn run_for(&mut self, time: Duration, done: impl Fn(&Cluster) -> bool) -> bool {
        let end = self.now + time;
        let mut countdown = 0u32;
        while !self.failed() {
            if countdown == 0 {
                if done(self) {
                    return true;
                }
                countdown = 32;
            }
            countdown -= 1;
            let Some(Reverse((at, _))) = self.queue.peek() else { break };
            if *at > end {
                break;
            }
            let Some(Reverse((at, order))) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            if let Some(event) = self.events.remove(&order) {
                self.dispatch(event);
            }
        }
        self.now = self.now.max(end.min(self.now + time));
        done(self)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Tick => {
                for at in 0..self.seats.len() {
                    self.turn_seat(at);
                }
                for at in 0..self.people.len() {
                    self.turn_person(at);
                }
                self.push(self.now + TICK, Event::Tick);
            }
            Event::Deliver(delivered) => {
                let to = delivered.message.to;
                if !self.switch.deliver(delivered.message) {
                    self.coverage.count("messages lost with their link");
                }
                self.turn(to);
            }
            Event::Turn(port) => self.turn(port),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Synced(at, life) => self.on_synced(at, life),
        }
    }

    fn turn(&mut self, port: Port) {
        if port.0 >= CLIENT_PORT {
            self.turn_person(usize::from(port.0 - CLIENT_PORT));
        } else if let Some(at) = self.seats.iter().position(|seat| seat.port == port) {
            self.turn_seat(at);
        }
    }

    fn turn_seat(&mut self, at: usize) {
        let now = self.now;
        let seat = &mut self.seats[at];
        if !seat.is_awake(now) {
            return;
        }
        if !seat.turn(now) {
            let text = format!("member {} works for ever without time passing", seat.member);
            self.checker.fail(Property::Resources, text);
        }
        self.read_journal(at);
        self.start_write(at);
        let seat = &mut self.seats[at];
        if let Some(due) = seat.next_turn(now) {
            let port = seat.port;
            self.push(due, Event::Turn(port));
        }
        self.collect();
    }

    fn turn_person(&mut self, at: usize) {
        let now = self.now;
        let person = &mut self.people[at];
        let mut news = person.turn(now);
        for (token, operation, bytes) in news.started.drain(..) {
            let id = ClientId::new(at as u32, 0);
            self.issued.insert((at as u32, bytes));
            self.checker.history.invoked(id, token, operation, tetrarch_consensus::Instant(now.0));
        }
        for (token, answer) in news.returned.drain(..) {
            let id = ClientId::new(at as u32, 0);
            self.coverage.count("operations returned");
            self.trace.event(self.at(), &[4, at as u64, token, answer.version, answer.value]);
            self.checker.history.returned(id, token, answer, tetrarch_consensus::Instant(now.0));
        }
        for text in news.wrong {
            self.checker.fail(Property::Linearizability, text);
        }
        let person = &mut self.people[at];
        if let Some(due) = person.next_turn(now) {
            let port = person.port;
            self.push(due, Event::Turn(port));
        }
        self.collect();
    }

    /// Takes what was sent out of the switch and decides its fate.
    fn collect(&mut self) {
        while let Some(mut message) = self.switch.take() {
            let words = [2, u64::from(message.from.0), u64::from(message.to.0)];
            self.trace.event(self.at(), &[words[0], words[1], words[2], message.size() as u64]);
            self.coverage.count("messages sent");
            let weather = self.weather;
            if self.rng.chance(weather.loss) {
                self.coverage.count("messages lost");
                continue;
            }
            if self.rng.chance(weather.flips) {
                self.coverage.count("bytes changed");
                let at = self.rng.index(message.size());
                message.flip(at, 1 << self.rng.below(8));
            }
            if self.rng.chance(weather.truncations)
                && let Some(body) = &message.body
                && body.size() > 0
            {
                self.coverage.count("messages truncated");
                message.body = body.slice(0, self.rng.index(body.size()));
            }
            let delay = weather.delay.0 + self.rng.long_tailed(weather.delay.1);
            let link = (message.from.0, message.to.0);
            let last = self.last.get(&link).copied().unwrap_or(START);
            // A byte stream keeps order.
            let arrival = (self.now + delay).max(last);
            self.last.insert(link, arrival);
            if self.rng.chance(weather.duplicates) {
                self.coverage.count("messages repeated");
                let message = message.clone();
                self.push(arrival, Event::Deliver(Box::new(Delivered { message })));
            }
            self.push(arrival, Event::Deliver(Box::new(Delivered { message })));
        }
    }

    fn read_journal(&mut self, at: usize) {
        let seat = &self.seats[at];
        if !seat.honest {
            while seat.journal.pop().is_some() {}
            return;
        }
        let member = usize::from(seat.member);
        while let Some(entry) = self.seats[at].journal.pop() {
            let clock = self.seats.iter().map(|seat| seat.local(self.now).0).max().unwrap_or(0);
            let digest = self.seats[at].decision(entry.context.cid);
            let first = self.checker.decisions() < entry.context.cid.0 as usize;
            for executed in &entry.executed {
                let identity = executed.client.identity();
                if self.issued.contains(&(identity, executed.bytes.clone())) {
                    self.checker.issued(executed.client, executed.sequence, executed.digest);
                }
                if first && !self.executed_once.insert(executed.bytes.clone()) {
                    let text = format!("{} {} runs again", executed.client, executed.sequence);
                    self.checker.fail(Property::ExactlyOnce, text);
                }
            }
            let list = entry.executed.iter();
            let executed = list.map(|it| (it.client, it.sequence, it.digest)).collect();
            let decided = Decided { context: entry.context, digest, executed };
            let skew = Duration::from_secs(1).as_nanos() as u64 + 10_000;
            self.checker.judge(member, decided, (clock, skew));
            let answers: Vec<_> = entry
                .executed
                .iter()
                .map(|it| (it.client, it.sequence, it.operation, it.answer))
                .collect();
            self.checker.executed(member, entry.context.cid, entry.state, &answers);
            self.trace.event(self.at(), &[1, member as u64, entry.context.cid.0, entry.state]);
            self.trace.line(self.at(), Log::Short, || {
                format!("{member}: executes cid={} {digest:?}", entry.context.cid)
            });
        }
    }

    /// Has everybody what they wanted, and are the correct members equally far?
    pub fn is_level(&self) -> bool {
        let decided = self.checker.decisions() as u64;
        let level = |seat: &Seat| seat.is_level(decided);
        self.people.iter().all(Person::is_done)
            && self.seats.iter().filter(|seat| seat.is_correct()).all(level)
    }

    pub(crate) fn what_is_missing(&self) -> String {
        let mut text = String::from("after the bound of a good network:");
        for (at, person) in self.people.iter().enumerate() {
            text += &format!(" client {at}: {};", person.describe());
        }
        for seat in &self.seats {
            text += &format!(" member {}: {};", seat.member, seat.describe());
        }
        text
    }

    /// Operations that clients got an answer to.
    pub fn returned(&self) -> u64 {
        self.people.iter().map(|person| u64::from(person.returned())).sum()
    }

    /// Instances that a member executed.
    pub fn executed(&self, member: u16) -> u64 {
        let seat = self.seats.iter().find(|seat| seat.member == member);
        seat.map_or(0, Seat::executed)
    }

    /// From now on clients want nothing new.
    pub fn stop_load(&mut self) {
        self.people.iter_mut().for_each(Person::stop);
    }

    /// # Panics
    /// With the first violation.
    pub fn assert_holds(&self) {
        if let Some(violation) = self.checker.first_violation() {
            panic!("{:?} violated: {}", violation.property, violation.text);
        }
    }

    /// The newest regency of a correct member.
    pub fn regency(&self) -> u32 {
        self.seats.iter().filter_map(Seat::regency).max().unwrap_or(0)
    }

    /// Compares what clients saw with what was executed, ends all, and counts frames.
    pub(crate) fn finish(&mut self) {
        self.checker.finish();
        for seat in &self.seats {
            seat.count(&mut self.coverage);
        }
        // Every frame back in its pool: what is on the way holds some.
        self.events.clear();
        while self.switch.take().is_some() {}
        for seat in &mut self.seats {
            seat.stop(&mut self.rng);
        }
        for person in &mut self.people {
            person.count(&mut self.coverage);
            if let Some(text) = person.leak() {
                self.checker.fail(Property::Resources, text);
            }
        }
        self.people.clear();
        for seat in &self.seats {
            if let Some(text) = seat.leak() {
                self.checker.fail(Property::Resources, text);
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let coverage = &mut self.coverage;
        coverage.add("instances decided", self.checker.decisions() as u64);
        coverage.add("requests executed", self.checker.executions() as u64);
        coverage.add("operations checked", self.checker.history.completed() as u64);
        for villain in &self.options.villains {
            let twins = villain.strategies.contains(&Strategy::Twins);
            coverage.count(if twins { "twins" } else { "puppets" });
        }
        coverage.add("crash-only runs", u64::from(self.options.model == FaultModel::Crash));
        Outcome {
            seed: self.options.seed,
            violation: self.checker.first_violation().cloned(),
            hash: mix(self.trace.hash()),
            simulated: Duration::from_nanos(self.now.0 - START.0),
            events: self.trace.events(),
            coverage: self.coverage,
        }
    }
}
