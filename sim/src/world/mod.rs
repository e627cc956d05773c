//! The simulated world: one clock, one queue of events, one seed.
//!
//! Owns the run: members, clients, adversaries and the network, and the two phases. In the safety phase
//! everything goes wrong that the options allow; then a quorum of correct members is healed, the
//! network becomes good, and everything that correct clients want must get done. Always true: the same
//! options give the same run. Must not: read a clock or draw from anything but the seed.

mod checkpoint;
mod disk;
mod ending;
mod execution;
mod faults;
mod journal;
mod member;
mod people;
mod transfer;
mod views;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use tetrarch_consensus::config::{Check, Config};
use tetrarch_consensus::limits::BATCH_SIZE_MAX;
use tetrarch_consensus::message::Request;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::smr::client::Follower;
use tetrarch_consensus::{
    ClientId, ConsensusId, Input, Instant, Lsn, Regency, View, ViewId, ViewRequest,
};

use crate::byzantine::{Adversary, Dossier, Msg};
use crate::checker::{Checker, Property, Violation};
use crate::client::{Client, People, Reply};
use crate::coverage::Coverage;
use crate::image::Image;
use crate::keys::{Keyring, Keys};
use crate::mischief::Rascal;
use crate::net::Net;
use crate::rng::Rng;
use crate::swarm::Options;
use crate::trace::{Log, Trace};
pub use disk::Disks;
use faults::Fault;
use member::{Host, Node, Pool};
use views::Manager;

/// True time at the start: an ordinary date, ns since the UNIX epoch.
const START: Instant = Instant(1_700_000_000_000_000_000);

/// Events of one run at most: a run that needs more is a storm.
const EVENTS_MAX: u64 = 3_000_000;

/// Something that is going to happen.
#[derive(Clone, Debug)]
enum Event {
    Deliver { from: usize, to: usize, incarnation: u32, message: Msg },
    LoopBack { member: usize, host: usize, life: u32, message: Msg },
    Request { member: usize, request: Request<SharedBytes> },
    Reply { member: usize, reply: Reply },
    Wake { member: usize, host: usize, life: u32, at: Instant },
    Executed { member: usize, host: usize, life: u32 },
    Synced { member: usize, host: usize, life: u32, to: Lsn },
    Checkpointed { member: usize, host: usize, life: u32 },
    Named { member: usize, host: usize, life: u32 },
    Told { member: usize, host: usize, life: u32, input: Input<SharedBytes> },
    Connected { member: usize, peer: usize, life: u32 },
    Client { index: usize, at: Instant },
    Rascal { index: usize },
    Manager,
    News { member: usize, index: usize, news: Box<ViewRequest> },
    Adversary { member: usize },
    Fault(Fault),
}

struct Scheduled {
    at: Instant,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest event is the greatest; of two at one time, the one scheduled first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A run in progress.
pub struct World {
    options: Options,
    view: View,
    clock_skew_max: Duration,
    now: Instant,
    order: u64,
    queue: BinaryHeap<Scheduled>,
    nodes: Vec<Node>,
    manager: Manager,
    manager_rests: Instant,
    clients: Vec<Client>,
    client_wakes: Vec<Option<Instant>>,
    rascals: Vec<Rascal>,
    dossier: Dossier,
    /// The images of correct members.
    images: BTreeMap<ConsensusId, Image>,
    keys: Keys,
    keyring: Keyring,
    net: Net,
    rng: Rng,
    calm: bool,
    sent: u64,
    checker: Checker,
    coverage: Coverage,
    trace: Trace,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// Hash of everything that happened.
    pub hash: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Events.
    pub events: u64,
    /// What happened how often.
    pub coverage: Coverage,
}

/// Runs what `options` say.
pub fn run(options: &Options, log: Log) -> Outcome {
    let mut world = World::new(options.clone(), log);
    world.run();
    world.outcome()
}

impl World {
    fn new(options: Options, log: Log) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x776f_726c_6400);
        let view = View::new(ViewId(0), options.ids.clone(), options.f, options.model)
            .expect("the options hold a possible membership");
        let keys = Keys::new(options.seed, view.n());
        let villains = options.villains.iter().map(|villain| options.ids[villain.member]);
        let keyring = Keyring::new(keys, villains.collect());
        let honest =
            (0..view.n()).filter(|&at| !options.is_villain(at) && !options.has_bad_disk(at));
        let correct = honest.fold(0, |mask, at| mask | 1 << at);
        // Who enters a view too early leaves others behind, which breaks no safety.
        let unsafe_one = |check: &Check| *check != Check::Handover;
        let mutant = options.mutants.iter().any(unsafe_one) || options.disks == Disks::Unchecked;
        let checker = Checker::new(view.clone(), correct, options.clients.len() as u32, mutant);
        let net = Net::new(&options, rng.fork(1));
        let mut world = Self {
            view,
            clock_skew_max: Duration::from_secs(1),
            now: START,
            order: 0,
            queue: BinaryHeap::new(),
            nodes: Vec::new(),
            manager: Manager::new(),
            manager_rests: START,
            clients: Vec::new(),
            client_wakes: Vec::new(),
            rascals: Vec::new(),
            dossier: Dossier::default(),
            images: BTreeMap::new(),
            keys,
            keyring,
            net,
            calm: false,
            sent: 0,
            checker,
            coverage: Coverage::default(),
            trace: Trace::new(log, START),
            rng,
            options,
        };
        world.trace.line(START, Log::Short, || format!("{:#?}", world.options));
        world.populate();
        world
    }

    fn populate(&mut self) {
        for member in 0..self.view.n() {
            let skew = self.options.skew.as_nanos() as u64;
            let offset_ns = self.rng.range(0, 2 * skew) as i64 - skew as i64;
            let villain = self.options.villains.iter().find(|villain| villain.member == member);
            let adversary = villain.map(|villain| {
                Adversary::new(&villain.strategies, villain.activity, self.rng.fork(2))
            });
            let begins = self.options.changes.as_ref();
            let begins = begins.is_none_or(|it| it.views[0].members.contains(&member));
            let hosts = usize::from(begins)
                * (1 + usize::from(adversary.as_ref().is_some_and(|it| it.twins)));
            let mut node = Node {
                hosts: Vec::new(),
                adversary,
                disk: None,
                fetched: None,
                installing: None,
                bad_disk: self.options.has_bad_disk(member),
                older_disk: None,
                begins_in: 0,
                retired: false,
                lost_disk: false,
                offset_ns,
                life: 0,
                paused: false,
                inbox: VecDeque::new(),
                healed: true,
            };
            for _ in 0..hosts {
                let pool = self.pool();
                let mut host = Host::new(self.config(member, false), pool, node.local(self.now));
                if self.options.disks != Disks::None && node.adversary.is_none() {
                    host.start_journal(self.new_journal(member, node.bad_disk));
                }
                node.hosts.push(host);
            }
            if node.adversary.is_some() {
                self.push(self.now, Event::Adversary { member });
            }
            self.nodes.push(node);
        }
        self.connect_all();
        self.people();
        self.plan_faults();
    }

    fn config(&self, member: usize, restarted: bool) -> Config {
        let view = self.membership(self.nodes.get(member).map_or(0, |node| node.begins_in));
        let view = view.map_or_else(|| self.view.clone(), |it| it.view().clone());
        let mut config = Config::new(self.options.ids[member], view);
        config.first = self.membership(0).map(Box::new);
        config.pending_max = self.options.pending_max;
        config.request_timeout = self.options.timeout;
        config.depth = self.options.depth;
        config.checkpoint_every = self.options.checkpoint_every;
        config.decision_log_max = self.options.decision_log_max;
        config.chunk_size = self.options.chunk_size;
        config.chunk_rate = self.options.chunk_rate;
        config.state_size_max = 1 << 20;
        config.batch_requests_max = self.options.batch_requests_max;
        config.batch_size_max = self.options.batch_size_max;
        config.decision_log_size = 2 * self.options.batch_size_max;
        config.inline_body_max = match self.options.is_villain(member) {
            // Its core proposes whole batches; what leaves it is up to the adversary.
            true => BATCH_SIZE_MAX,
            false => self.options.inline_body_max,
        };
        config.sessions_per_client_max = 2;
        config.clients_max = 16;
        config.clock_skew_max = self.clock_skew_max;
        config.restarted = restarted;
        if !self.options.is_villain(member) {
            for &check in &self.options.mutants {
                config = config.without(check);
            }
        }
        config
    }

    fn pool(&mut self) -> Pool {
        Pool { starvation: self.options.starvation, rng: self.rng.fork(6), first: true }
    }

    fn connect_all(&mut self) {
        for member in 0..self.view.n() {
            for peer in (0..self.view.n()).filter(|&peer| peer != member) {
                let at = self.now + self.rng.duration(Duration::ZERO, Duration::from_millis(5));
                self.push(at, Event::Connected { member, peer, life: 0 });
            }
            let life = self.nodes[member].life;
            for host in 0..self.nodes[member].hosts.len() {
                // A first look at the core's deadline.
                self.push(self.now, Event::Wake { member, host, life, at: Instant(0) });
            }
        }
    }

    fn people(&mut self) {
        let first = self.membership(0).map_or_else(|| self.view.clone(), |it| it.view().clone());
        let people = People { ids: self.options.ids.clone(), follower: Follower::new(first) };
        if self.options.changes.is_some() {
            self.push(self.now, Event::Manager);
        }
        for (index, plan) in self.options.clients.clone().into_iter().enumerate() {
            let id = ClientId::new(index as u32, 0);
            let rng = self.rng.fork(3);
            let size = (people.clone(), self.options.timeout);
            self.clients.push(Client::new(id, plan, self.keys, rng, size, self.now));
            self.client_wakes.push(None);
            self.schedule_client(index);
        }
        for (index, mischief) in self.options.mischief.clone().into_iter().enumerate() {
            let identity = (self.clients.len() + index) as u32;
            let rng = self.rng.fork(4);
            self.rascals.push(Rascal::new(identity, mischief, self.keys, rng, self.view.n()));
            self.push(self.now, Event::Rascal { index });
        }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.queue.push(Scheduled { at, order: self.order, event });
    }

    fn run(&mut self) {
        let safety_end = START + self.options.safety;
        self.run_until(safety_end, |_| false);
        if self.failed() {
            return;
        }
        self.heal();
        if !self.catch_up() {
            return;
        }
        if !self.options.villains.is_empty() {
            // So far faulty members may have helped. Now they say nothing, and nobody may need them.
            self.silence_villains();
            self.poke();
            if !self.catch_up() {
                return;
            }
        }
        self.quiet();
        self.check_leaders();
        self.checker.finish();
    }

    /// The newest regency of a member that is up.
    fn newest_regency(&self) -> Regency {
        let hosts = self.nodes.iter().flat_map(|node| &node.hosts);
        hosts.map(|host| host.core.regency()).max().unwrap_or(Regency(0))
    }

    /// Where all members are correct and the network is good, clients depose nobody.
    fn check_leaders(&mut self) {
        let newest = self.newest_regency();
        if self.options.is_undisturbed() {
            self.coverage.count("runs disturbed by clients at most");
            if newest > Regency(0) {
                let text = format!("correct leaders lost their places up to {newest:?}");
                self.checker.fail(Property::Regency, text);
            }
        }
    }

    /// Runs until everything that was wanted is done; a violation if that takes too long.
    fn catch_up(&mut self) -> bool {
        let end = self.now + self.options.bound;
        let mut finished = false;
        while !finished && !self.failed() && self.now < end {
            let served = |world: &World| world.clients.iter().all(Client::is_done);
            if self.run_until(end, served) {
                let patience = end.min(self.now + self.options.timeout * 8);
                finished = self.run_until(patience, World::is_done);
                if !finished {
                    self.poke();
                }
            }
        }
        if !finished && !self.failed() {
            let text = self.what_is_missing();
            self.checker.fail(Property::Liveness, text);
        }
        !self.failed()
    }

    /// Runs until `end`, a violation or `done`, which is asked now and then; true when it was.
    fn run_until(&mut self, end: Instant, done: impl Fn(&World) -> bool) -> bool {
        let mut countdown = 0;
        loop {
            if self.failed() {
                return false;
            }
            if countdown == 0 {
                if done(self) {
                    return true;
                }
                countdown = 64;
            }
            countdown -= 1;
            let next = self.queue.peek().map(|scheduled| scheduled.at);
            if next.is_none_or(|at| at > end) {
                self.now = end;
                return done(self);
            }
            let Some(scheduled) = self.queue.pop() else { return done(self) };
            self.now = self.now.max(scheduled.at);
            if self.trace.events() > EVENTS_MAX {
                let text = format!("more than {EVENTS_MAX} events: a storm");
                self.checker.fail(Property::Resources, text);
            }
            self.dispatch(scheduled.event);
        }
    }

    fn failed(&self) -> bool {
        self.checker.first_violation().is_some()
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(member) = concerns(&event)
            && self.nodes[member].paused
        {
            self.nodes[member].inbox.push_back(event);
            return;
        }
        match event {
            Event::Deliver { from, to, incarnation, message } => {
                if self.net.incarnation(from, to) == incarnation {
                    self.on_deliver(from, to, message);
                }
            }
            Event::LoopBack { member, host, life, message } => {
                if self.nodes[member].life == life {
                    self.on_loop_back(member, host, message);
                }
            }
            Event::Request { member, request } => self.on_request(member, request),
            Event::Reply { member, reply } => self.on_reply(member, &reply),
            Event::Wake { member, host, life, at } => {
                if self.nodes[member].life == life {
                    match at {
                        Instant(0) => self.step(member, host, Input::Deadline),
                        _ => self.on_wake(member, host, at),
                    }
                }
            }
            Event::Executed { member, host, life } => {
                if self.nodes[member].life == life {
                    self.on_executed(member, host);
                }
            }
            Event::Synced { member, host, life, to } => {
                if self.nodes[member].life == life {
                    self.on_synced(member, host, to);
                }
            }
            Event::Checkpointed { member, host, life } => {
                if self.nodes[member].life == life {
                    self.on_checkpointed(member, host);
                }
            }
            Event::Named { member, host, life } => {
                if self.nodes[member].life == life {
                    self.on_named(member, host);
                }
            }
            Event::Told { member, host, life, input } => {
                if self.nodes[member].life == life {
                    self.step(member, host, input);
                }
            }
            Event::Connected { member, peer, life } => {
                if self.nodes[member].life == life && self.net.is_up(member, peer) {
                    self.on_connected(member, peer);
                }
            }
            Event::Client { index, at } => {
                if self.client_wakes[index] == Some(at) {
                    self.client_wakes[index] = None;
                    self.on_client(index);
                }
            }
            Event::Rascal { index } => self.on_rascal(index),
            Event::Manager if self.now < self.manager_rests && !self.calm => {
                self.push(self.manager_rests, Event::Manager);
            }
            Event::Manager => self.on_manager(),
            Event::News { member, index, news } => self.on_news(member, index, &news),
            Event::Adversary { member } => self.on_adversary(member),
            Event::Fault(fault) => self.on_fault(fault),
        }
    }

    fn on_connected(&mut self, member: usize, peer: usize) {
        self.trace.event(self.now, &[5, member as u64, peer as u64]);
        self.trace.line(self.now, Log::Full, || format!("{member}: connected to {peer}"));
        let id = self.options.ids[peer];
        for host in 0..self.nodes[member].hosts.len() {
            self.step(member, host, Input::Connected(id));
        }
    }

    fn on_adversary(&mut self, member: usize) {
        self.with_adversary(member, |adversary, scene, out| adversary.act(scene, out));
        let pause = self.options.timeout / 4;
        let pause = self.rng.duration(pause / 2, pause * 2);
        self.push(self.now + pause, Event::Adversary { member });
    }

    /// Members whose progress the liveness phase waits for.
    fn judged(&self) -> impl Iterator<Item = (usize, &Node)> {
        let nodes = self.nodes.iter().enumerate();
        let members = self.newest_members();
        nodes.filter(move |(at, node)| node.is_correct() && node.healed && members.contains(at))
    }

    /// Has everybody what they wanted, and are the healed members equally far? Some may be stopped
    /// while the others get on: a faulty leader withholds its SYNC from one, or one is alone in a
    /// regency that the others do not want any more.
    fn is_done(&self) -> bool {
        let decided = self.checker.decisions() as u64;
        let level = |host: &Host| host.core.decided().0 == decided && host.executed.0 == decided;
        self.clients.iter().all(Client::is_done)
            && self.views_are_level()
            && self.judged().all(|(_, node)| node.hosts.iter().all(level))
    }

    fn outcome(mut self) -> Outcome {
        let coverage = &mut self.coverage;
        coverage.add("instances decided", self.checker.decisions() as u64);
        coverage.add("requests executed", self.checker.executions() as u64);
        coverage.add("operations checked", self.checker.history.completed() as u64);
        coverage.add("messages sent", self.sent);
        Outcome {
            seed: self.options.seed,
            violation: self.checker.first_violation().cloned(),
            hash: self.trace.hash(),
            simulated: self.now.since(START),
            events: self.trace.events(),
            coverage: self.coverage,
        }
    }
}

/// The member that an event happens to, if it stands still while the member is paused.
fn concerns(event: &Event) -> Option<usize> {
    match event {
        Event::Deliver { to, .. } => Some(*to),
        Event::Request { member, .. }
        | Event::LoopBack { member, .. }
        | Event::Wake { member, .. }
        | Event::Executed { member, .. }
        | Event::Synced { member, .. }
        | Event::Checkpointed { member, .. }
        | Event::Named { member, .. }
        | Event::Told { member, .. }
        | Event::Connected { member, .. }
        | Event::Adversary { member } => Some(*member),
        Event::Reply { .. }
        | Event::Client { .. }
        | Event::Rascal { .. }
        | Event::Manager
        | Event::News { .. }
        | Event::Fault(_) => None,
    }
}
